/*
 * ModelStreamInfer: every message of the call is an inference of its own (stream.c), and its answer a message with the
 * results or with what was wrong; the call itself fails only where its bytes are no messages. Answers come in the order
 * of the requests, as from Triton for models that answer once.
 */
#include "api/grpc_infer.h"
#include "gateway/grpc.h"
#include "gateway/stream.h"

#include <stdlib.h>

enum { IN_FLIGHT_MAX = 256 }; /* messages of one call */

struct grpc_stream {
  const struct exchange_handler *handler; /* first */
  struct stream stream;
  struct grpc_inbox inbox;
  struct buffer kept;   /* bytes behind a message after which reading paused: those of one call of `body` at most */
  uint64_t deadline_ns; /* of the call; 0: none */
  bool ended;           /* the client has said its last */
};

static struct grpc_stream *owner_of(struct stream *stream) { return list_item(stream, struct grpc_stream, stream); }

/* ---- the end ----------------------------------------------------------------------------------------------------- */

/* The call ends with a status; what is in flight is cancelled. */
static void end_call(struct grpc_stream *s, enum grpc_code code, const char *message) {
  if (s->stream.exchange == NULL) return;
  grpc_reply_end(s->stream.exchange, code, message);
  stream_gone(&s->stream);
}

static void finished(struct stream *stream) {
  struct grpc_stream *s = owner_of(stream);
  if (s->ended && s->kept.size == 0)
    end_call(s, GRPC_OK, "");
  else /* it was told to leave */
    end_call(s, GRPC_UNAVAILABLE, grpc_going_away);
}

static void release(struct stream *stream) {
  struct grpc_stream *s = owner_of(stream);
  grpc_inbox_free(&s->inbox);
  buffer_free(&s->kept);
  free(s);
}

/* ---- messages in ------------------------------------------------------------------------------------------------- */

static bool message_begin(void *context, uint64_t size) {
  struct grpc_stream *s = context;
  struct call *call = stream_message_begin(&s->stream);
  if (call == NULL) {
    end_call(s, grpc_code_of(MU_NO_MEMORY), "no memory for a message");
    return false;
  }
  call->format = &format_protobuf_stream;
  call->route.model[0] = '\0'; /* the message names it */
  call->message_size = size;
  call->text_size = UINT64_MAX;
  call->deadline_ns = s->deadline_ns;
  stream_message_start(&s->stream);
  return s->stream.exchange != NULL;
}

static bool message_data(void *context, const uint8_t *data, size_t size) {
  struct grpc_stream *s = context;
  stream_message_body(&s->stream, data, size);
  return s->stream.exchange != NULL;
}

static bool message_end(void *context) {
  struct grpc_stream *s = context;
  stream_message_end(&s->stream);
  return s->stream.exchange != NULL && stream_reads(&s->stream);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static const struct grpc_inbox_events inbox_events = {message_begin, message_data, message_end};

/* Feeds bytes; what is left when reading pauses is kept. */
static void feed(struct grpc_stream *s, const uint8_t *data, size_t size) {
  mu_error err;
  mu_status status = grpc_inbox_feed(&s->inbox, &data, &size, &s->stream.loop->scratch, &inbox_events, s, &err);
  if (status == MU_OK && size > 0 && s->stream.exchange != NULL) {
    status = buffer_append(&s->kept, data, size);
    if (status != MU_OK) mu_fail(&err, status, "no memory for the messages of the call");
  }
  if (status != MU_OK) end_call(s, grpc_code_of(status), err.message);
}

static void finish_if_ended(struct grpc_stream *s) {
  mu_error err;
  if (!s->ended || s->kept.size > 0 || s->stream.exchange == NULL) return;
  mu_status status = grpc_inbox_finish(&s->inbox, &err);
  if (status == MU_OK)
    stream_finish(&s->stream);
  else
    end_call(s, grpc_code_of(status), err.message);
}

static void resumed(struct stream *stream) {
  struct grpc_stream *s = owner_of(stream);
  struct buffer kept = s->kept; /* feed may keep some of it anew */
  buffer_init(&s->kept, SIZE_MAX / 2);
  if (kept.size > 0) feed(s, (const uint8_t *)kept.data, kept.size);
  buffer_free(&kept);
  finish_if_ended(s);
}

static void on_body(struct exchange *exchange, const uint8_t *data, size_t size) {
  struct grpc_stream *s = exchange->user;
  if (s->kept.size == 0 && stream_reads(&s->stream))
    feed(s, data, size);
  else if (buffer_append(&s->kept, data, size) != MU_OK)
    end_call(s, grpc_code_of(MU_NO_MEMORY), "no memory for the messages of the call");
  stream_settle(&s->stream);
}

static void on_end(struct exchange *exchange) {
  struct grpc_stream *s = exchange->user;
  s->ended = true;
  finish_if_ended(s);
}

static void on_gone(struct exchange *exchange) {
  struct grpc_stream *s = exchange->user;
  stream_gone(&s->stream);
}

static void on_writable(struct exchange *exchange) {
  struct grpc_stream *s = exchange->user;
  stream_writable(&s->stream);
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

/* A rendered reply has its prefix already. */
static size_t head(const struct call *call, uint32_t n_iov, uint64_t size, uint8_t prefix[STREAM_HEAD_MAX]) {
  return 0;
}

static void error(const struct call *call, mu_status status, const char *message, struct buffer *out) {
  mu_status rendered = grpc_infer_render_error(call->request.id, message, out);
  (void)rendered; /* `out` has failed then, which its owner sees */
}

void grpc_stream_infer_begin(struct call *call) {
  static const struct exchange_handler handler = {on_body, on_end, on_gone, NULL, on_writable};
  static const struct stream_framing framing = {head, error, resumed, finished, release, stream_finish};
  static const struct stream_options options = {.max_in_flight = IN_FLIGHT_MAX, .ordered = true};
  struct exchange *exchange = call->exchange;
  if (call->loop->ending) { /* it would hear of the end no more */
    grpc_reply_error(call, GRPC_UNAVAILABLE, grpc_going_away);
    return;
  }
  struct grpc_stream *s = calloc(1, sizeof *s);
  if (s == NULL) {
    grpc_reply_error(call, grpc_code_of(MU_NO_MEMORY), "no memory for the call");
    return;
  }
  s->handler = &handler;
  s->inbox = call->inbox;
  s->deadline_ns = call->deadline_ns;
  buffer_init(&s->kept, SIZE_MAX / 2);
  exchange->user = s;
  stream_init(&s->stream, call->loop, exchange, &framing, &options);
  exchange_unbounded_body(exchange);
  exchange_reply_begin(exchange, &grpc_head);
}
