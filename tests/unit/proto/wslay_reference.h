/*
 * What libwslay, the reference, makes of a client's bytes, in a form to compare with: the unit tests and the fuzz
 * target of the codec hold theirs against it.
 */
#ifndef TEST_WSLAY_REFERENCE_H
#define TEST_WSLAY_REFERENCE_H

#include "base/buffer.h"

#include <stdlib.h>
#include <wslay/wslay.h>

struct wslay_reference {
  const uint8_t *data;
  size_t left;
  struct buffer *transcript; /* "T"/"B"/"P"/"p" size ":" bytes, for each whole message, ping, pong */
};

static ssize_t wslay_reference_recv(wslay_event_context_ptr ctx, uint8_t *buf, size_t size, int flags, void *user) {
  struct wslay_reference *r = user;
  if (r->left == 0) {
    wslay_event_set_error(ctx, WSLAY_ERR_WOULDBLOCK);
    return -1;
  }
  size_t n = size < r->left ? size : r->left;
  memcpy(buf, r->data, n);
  r->data += n;
  r->left -= n;
  return (ssize_t)n;
}

static ssize_t wslay_reference_send(wslay_event_context_ptr ctx, const uint8_t *data, size_t size, int flags,
                                    void *user) {
  return (ssize_t)size;
}

static void wslay_reference_message(wslay_event_context_ptr ctx, const struct wslay_event_on_msg_recv_arg *arg,
                                    void *user) {
  struct wslay_reference *r = user;
  char kind = arg->opcode == WSLAY_TEXT_FRAME     ? 'T'
              : arg->opcode == WSLAY_BINARY_FRAME ? 'B'
              : arg->opcode == WSLAY_PING         ? 'P'
              : arg->opcode == WSLAY_PONG         ? 'p'
                                                  : 0;
  if (kind == 0) return;
  buffer_print(r->transcript, "%c%zu:", kind, arg->msg_length);
  buffer_append(r->transcript, arg->msg, arg->msg_length);
}

/* Returns the code that the server would close with: its own or the client's; 0: the connection goes on. */
static inline uint16_t wslay_reference_run(const uint8_t *data, size_t size, struct buffer *transcript) {
  struct wslay_reference r = {.data = data, .left = size, .transcript = transcript};
  static const struct wslay_event_callbacks callbacks = {.recv_callback = wslay_reference_recv,
                                                         .send_callback = wslay_reference_send,
                                                         .on_msg_recv_callback = wslay_reference_message};
  wslay_event_context_ptr ctx;
  if (wslay_event_context_server_init(&ctx, &callbacks, &r) != 0) abort();
  wslay_event_config_set_max_recv_msg_length(ctx, 1 << 20);
  wslay_event_recv(ctx);
  wslay_event_send(ctx);
  uint16_t code = wslay_event_get_close_sent(ctx) ? wslay_event_get_status_code_sent(ctx) : 0;
  /* what is wrong with a frame's head is closed without a code */
  if (code == WSLAY_CODE_NO_STATUS_RCVD && !wslay_event_get_close_received(ctx)) code = WSLAY_CODE_PROTOCOL_ERROR;
  wslay_event_context_free(ctx);
  return code;
}

#endif
