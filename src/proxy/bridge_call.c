/* The calls of a WebSocket: from their beginning to the frames that the client gets, each when its turn comes. */
#include "proxy/bridge.h"

#include "base/clock.h"
#include "proto/grpc/grpc_headers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the way out ------------------------------------------------------------------------------------------------- */

void bridge_call_drop(struct bridge_call *call) {
  struct passage *passage = call->passage;
  call->passage = NULL;
  if (passage != NULL) passage_cancel(passage);
  list_remove(&call->link);
  call->bridge->n_calls--;
  buffer_free(&call->answer);
  buffer_free(&call->out);
  free(call);
}

/* A frame of the client's: at once, or when its turn comes. */
static void put_frame(struct bridge_call *call, enum websocket_opcode opcode, const void *data, size_t size) {
  uint8_t head[WEBSOCKET_HEAD_MAX];
  struct bridge *b = call->bridge;
  size_t n = websocket_write_head(head, opcode, size, NULL);
  if (b->query.any_order || b->query.streaming || b->calls.next == &call->link) {
    struct iovec parts[] = {{head, n}, {(void *)(uintptr_t)data, size}};
    if (b->exchange != NULL)
      exchange_reply_part(b->exchange, &(struct reply_part){.body = parts, .n_body = size > 0 ? 2 : 1});
    return;
  }
  buffer_append(&call->out, head, n);
  buffer_append(&call->out, data, size);
}

/* Those whose turn has come. */
static void send_ready(struct bridge *b) {
  while (b->exchange != NULL && !list_empty(&b->calls)) {
    struct bridge_call *first = list_item(b->calls.next, struct bridge_call, link);
    if (first->out.failed) {
      bridge_close(b, WEBSOCKET_INTERNAL, "no memory for an answer");
      return;
    }
    if (first->out.size > 0) {
      struct buffer out = first->out;
      buffer_init(&first->out, SIZE_MAX / 2);
      bridge_send(b, out.data, out.size);
      buffer_free(&out);
    }
    if (b->exchange != NULL && !first->over && first->paused && exchange_unsent(b->exchange) <= EXCHANGE_LOW_WATER) {
      first->paused = false; /* above that, `writable` comes */
      passage_resume(first->passage);
    }
    if (b->exchange == NULL || !first->over) return;
    bridge_call_drop(first);
  }
}

static void say_error(struct bridge_call *call, int code, const char *text) {
  struct buffer json;
  buffer_init(&json, 8192);
  buffer_puts(&json, "{\"error\":\"");
  exchange_append_escaped(&json, text);
  buffer_print(&json, "\",\"code\":%d", code);
  if (!call->bridge->query.streaming) buffer_print(&json, ",\"message\":%llu", (unsigned long long)call->number);
  buffer_puts(&json, "}");
  if (!json.failed) put_frame(call, WEBSOCKET_TEXT, json.data, json.size);
  if (json.failed) bridge_close(call->bridge, WEBSOCKET_INTERNAL, "no memory for an answer");
  buffer_free(&json);
}

static void finish_message(struct bridge_call *call) {
  struct bridge *b = call->bridge;
  call->over = true;
  if (b->query.streaming)
    bridge_close(b, call->grpc_status == GRPC_OK ? WEBSOCKET_NORMAL : WEBSOCKET_INTERNAL, "the call has ended");
  else if (b->query.any_order)
    bridge_call_drop(call);
  else
    send_ready(b);
  bridge_settle(b);
}

/* ---- the call's answer ------------------------------------------------------------------------------------------- */

/* grpc-message: %XX is a byte. */
static void decode_text(const char *from, char *to, size_t room) {
  size_t n = 0;
  for (; *from != '\0' && n + 1 < room; from++) {
    unsigned byte;
    if (*from == '%' && sscanf(from, "%%%2x", &byte) == 1) {
      to[n++] = (char)byte;
      from += from[1] != '\0' ? from[2] != '\0' ? 2 : 1 : 0;
    } else {
      to[n++] = *from;
    }
  }
  to[n] = '\0';
}

static void take_status(struct bridge_call *call, struct client_lines lines) {
  const char *status = client_line(lines, "grpc-status"), *text = client_line(lines, "grpc-message");
  if (status != NULL) call->grpc_status = atoi(status);
  if (text != NULL) decode_text(text, call->grpc_message, sizeof call->grpc_message);
}

static void on_head(void *owner, int status, struct client_lines lines, uint64_t content_length) {
  struct bridge_call *call = owner;
  call->http_status = status;
  take_status(call, lines);
}

/* The call cannot go on. */
static void break_off(struct bridge_call *call, int code, const char *why) {
  struct passage *passage = call->passage;
  call->passage = NULL;
  call->grpc_status = code;
  passage_cancel(passage);
  say_error(call, code, why);
  finish_message(call);
}

static void on_body(void *owner, const uint8_t *data, size_t size) {
  struct bridge_call *call = owner;
  struct bridge *b = call->bridge;
  for (;;) {
    enum grpc_frame_event event;
    const uint8_t *piece;
    size_t n;
    mu_error err;
    mu_status status = grpc_frame_next(&call->framer, false, &data, &size, &event, &piece, &n, &err);
    if (status != MU_OK) {
      break_off(call, GRPC_INTERNAL, err.message);
      return;
    }
    if (event == GRPC_FRAME_MORE) break;
    if (event == GRPC_FRAME_DATA) buffer_append(&call->answer, piece, n);
    if (event == GRPC_FRAME_DATA && bridge_holds_too_much(b)) {
      break_off(call, GRPC_RESOURCE_EXHAUSTED, bridge_too_much);
      return;
    }
    if (event != GRPC_FRAME_END) continue;
    if (call->answer.failed) {
      break_off(call, GRPC_RESOURCE_EXHAUSTED, "no memory for an answer");
      return;
    }
    put_frame(call, WEBSOCKET_BINARY, call->answer.data, call->answer.size);
    bridge_forget_bytes(&call->answer);
    if (b->exchange == NULL) return; /* settle ends it all */
  }
  if (b->exchange == NULL) return; /* it went before: settle ends it all */
  if (call->passage != NULL && !call->paused &&
      (call->out.size > UNSENT_MAX || exchange_unsent(b->exchange) > UNSENT_MAX)) {
    call->paused = true;
    passage_pause(call->passage);
  }
}

static void on_end(void *owner, struct client_lines trailers) {
  struct bridge_call *call = owner;
  mu_error err;
  call->passage = NULL;
  take_status(call, trailers);
  bool whole = grpc_frame_finish(&call->framer, &err) == MU_OK;
  if (call->grpc_status == GRPC_OK && whole) {
    finish_message(call);
    return;
  }
  char text[64];
  snprintf(text, sizeof text, "the backend answers with HTTP status %d", call->http_status);
  if (call->grpc_status == GRPC_OK) { /* part of a message is none, whatever the backend thinks of it */
    call->grpc_status = GRPC_INTERNAL;
    say_error(call, GRPC_INTERNAL, err.message);
  } else if (call->grpc_status < 0) {
    call->grpc_status = GRPC_INTERNAL;
    say_error(call, GRPC_INTERNAL, text);
  } else {
    say_error(call, call->grpc_status, call->grpc_message);
  }
  finish_message(call);
}

static void on_failed(void *owner, enum passage_failure failure, const char *why) {
  struct bridge_call *call = owner;
  call->passage = NULL;
  call->grpc_status = passage_failure_codes[failure].grpc;
  say_error(call, call->grpc_status, why);
  finish_message(call);
}

static void on_room(void *owner) { bridge_settle(((struct bridge_call *)owner)->bridge); }

static const struct passage_sink sink = {
    .head = on_head, .body = on_body, .end = on_end, .failed = on_failed, .room = on_room};

/* ---- the beginning ----------------------------------------------------------------------------------------------- */

struct bridge_call *bridge_call_open(struct bridge *b) {
  struct proxy *proxy = b->proxy;
  struct bridge_call *call = calloc(1, sizeof *call);
  if (call == NULL) return NULL;
  uint64_t deadline = (uint64_t)proxy->settings->ws_deadline_ns;
  const struct passage_request request = {.grpc = true,
                                          .method = "POST",
                                          .path = b->query.method,
                                          .query = "",
                                          .lines = {b->lines, b->lines_size},
                                          .content_length = UINT64_MAX,
                                          .deadline_ns = b->query.streaming ? TIME_NEVER : clock_now_ns() + deadline};
  *call = (struct bridge_call){.bridge = b, .number = b->n_begun, .grpc_status = -1};
  call->framer.limit = MESSAGE_MAX;
  buffer_init(&call->answer, MESSAGE_MAX);
  buffer_init(&call->out, SIZE_MAX / 2);
  call->passage = passage_create(proxy->grpc, &request, &sink, call);
  if (call->passage == NULL) {
    free(call);
    return NULL;
  }
  list_push_back(&b->calls, &call->link);
  b->n_calls++;
  return call;
}
