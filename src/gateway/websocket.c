#include "gateway/websocket.h"

#include "base/log.h"
#include "gateway/stream.h"
#include "proto/websocket/handshake.h"
#include "proto/websocket/websocket_codec.h"

#include <stdlib.h>

enum {
  LENGTH_BYTES = 4,        /* in front of the JSON of a binary message, little-endian */
  REST_MAX = 1024 * 1024,  /* bytes read but not parsed: one read of the transport */
  UNANSWERED_PINGS_MAX = 2 /* in a row, then the client is taken for dead */
};

struct websocket {
  const struct exchange_handler *handler; /* first: exchange.user */
  struct stream stream;                   /* stream.exchange is NULL once the connection is over */
  struct list link;                       /* gateway_loop.websockets */
  struct websocket_codec codec;
  struct buffer rest; /* read but not parsed, since reading pauses */
  struct route route; /* of the address: model "" where the messages name theirs */

  /* the message that is being read */
  bool text;
  uint64_t size;    /* UINT64_MAX: in fragments, nobody knows */
  uint64_t read_at; /* bytes of it so far */
  uint8_t length[LENGTH_BYTES];

  bool heard; /* anything, since the last ping was due */
  uint32_t pings;
  uint16_t goodbye; /* code to close with when all is answered */
  const char *goodbye_text;
};

static struct websocket *websocket_of(struct stream *stream) { return list_item(stream, struct websocket, stream); }

/* ---- the way out ------------------------------------------------------------------------------------------------- */

static void send_copy(struct websocket *ws, const uint8_t *bytes, size_t size) {
  struct iovec part = {(void *)(uintptr_t)bytes, size};
  exchange_reply_part(ws->stream.exchange, &(struct reply_part){.body = &part, .n_body = 1});
}

/* What is in flight is cancelled; the client gets the code, then the end of the connection. */
static void close_with(struct websocket *ws, uint16_t code, const char *reason) {
  uint8_t frame[WEBSOCKET_CLOSE_FRAME_MAX];
  if (ws->stream.exchange == NULL) return;
  LOG_VERBOSE("stream closed", LOG_INT("request", ws->stream.exchange->serial), LOG_INT("code", code),
              LOG_STR("reason", reason));
  send_copy(ws, frame, websocket_write_close(frame, code, reason));
  struct exchange *exchange = ws->stream.exchange;
  if (exchange == NULL) return; /* it could not be written */
  stream_gone(&ws->stream);
  exchange_reply_end(exchange, NULL, 0);
}

static void put_length(uint8_t to[LENGTH_BYTES], uint32_t value) {
  for (int i = 0; i < LENGTH_BYTES; i++) to[i] = (uint8_t)(value >> 8 * i);
}

/* Text is answered with text unless there is binary data in the reply. */
static size_t frame_reply(const struct call *call, uint32_t n_iov, uint64_t size, uint8_t head[STREAM_HEAD_MAX]) {
  bool binary = n_iov > 1 || call->stream_tag != WEBSOCKET_TEXT;
  if (!binary) return websocket_write_head(head, WEBSOCKET_TEXT, size, NULL);
  size_t at = websocket_write_head(head, WEBSOCKET_BINARY, size + LENGTH_BYTES, NULL);
  put_length(head + at, (uint32_t)call->iov[1].iov_len);
  return at + LENGTH_BYTES;
}

static void frame_error(const struct call *call, mu_status status, const char *message, struct buffer *out) {
  uint8_t head[WEBSOCKET_HEAD_MAX];
  struct buffer text;
  buffer_init(&text, SIZE_MAX);
  if (message == stream_dropped_late || message == stream_dropped_older)
    rest_stream_dropped(&text, call->request.id, message);
  else
    rest_stream_error(&text, call->request.id, message, http_status_of(status));
  buffer_append(out, head, websocket_write_head(head, WEBSOCKET_TEXT, text.size, NULL));
  buffer_append(out, text.data, text.size);
  out->failed |= text.failed;
  buffer_free(&text);
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

static bool goes_on(struct websocket *ws) { return stream_reads(&ws->stream); }

/* Text: all of it is JSON. Binary: the JSON's length comes first. */
static void start_message(struct websocket *ws, struct call *call, uint64_t text_size) {
  uint64_t before = ws->text ? 0 : LENGTH_BYTES;
  call->message_size = ws->size == UINT64_MAX ? UINT64_MAX : ws->size - before;
  call->text_size = text_size;
  call->raw = !ws->text && text_size == 0;
  if (call->raw) call->text_size = call->message_size;
  call->request.binary_default = !ws->text;
  stream_message_start(&ws->stream);
}

static bool on_begin(void *context, bool text, uint64_t size, bool whole) {
  struct websocket *ws = context;
  ws->text = text;
  ws->size = whole ? size : UINT64_MAX;
  ws->read_at = 0;
  struct call *call = stream_message_begin(&ws->stream);
  if (call == NULL) {
    close_with(ws, WEBSOCKET_INTERNAL, "no memory for a message");
    return false;
  }
  call->format = &format_rest;
  call->route = ws->route;
  call->stream_tag = text ? WEBSOCKET_TEXT : WEBSOCKET_BINARY;
  if (text) start_message(ws, call, ws->size);
  return goes_on(ws);
}

/* Bytes of the JSON's length; returns how many of data belong to it. */
static size_t take_length(struct websocket *ws, const uint8_t *data, size_t size) {
  size_t n = 0;
  for (; n < size && ws->read_at < LENGTH_BYTES; n++) ws->length[ws->read_at++] = data[n];
  struct call *call = stream_receiving(&ws->stream);
  if (ws->read_at < LENGTH_BYTES || call == NULL) return n;
  uint32_t length = 0;
  for (int i = 0; i < LENGTH_BYTES; i++) length |= (uint32_t)ws->length[i] << 8 * i;
  uint64_t most = ws->size == UINT64_MAX ? ws->codec.message_limit : ws->size - LENGTH_BYTES;
  mu_error err;
  if (length > most) {
    mu_fail(&err, MU_INVALID, "the message says that its JSON has %u bytes; %llu are left", length,
            (unsigned long long)most);
    stream_message_fail(&ws->stream, MU_INVALID, err.message);
    return n;
  }
  start_message(ws, call, length);
  return n;
}

static uint8_t *place(void *context, size_t *ret_size) {
  struct websocket *ws = context;
  struct call *call = stream_receiving(&ws->stream);
  uint8_t *data;
  bool direct = (ws->text || ws->read_at >= LENGTH_BYTES) && call != NULL && inference_window(call, &data, ret_size);
  return direct ? data : NULL;
}

static bool on_data(void *context, const uint8_t *data, size_t size) {
  struct websocket *ws = context;
  size_t used = !ws->text && ws->read_at < LENGTH_BYTES ? take_length(ws, data, size) : 0;
  ws->read_at += size - used;
  stream_message_body(&ws->stream, data + used, size - used);
  return goes_on(ws);
}

static bool on_end(void *context) {
  struct websocket *ws = context;
  if (!ws->text && ws->read_at < LENGTH_BYTES)
    stream_message_fail(&ws->stream, MU_INVALID, "a binary message begins with the length of its JSON in 4 bytes");
  stream_message_end(&ws->stream);
  return goes_on(ws);
}

static bool on_ping(void *context, const uint8_t *data, size_t size) {
  struct websocket *ws = context;
  uint8_t frame[WEBSOCKET_PONG_FRAME_MAX];
  send_copy(ws, frame, websocket_write_pong(frame, data, size));
  return goes_on(ws);
}

static bool on_pong(void *context, const uint8_t *data, size_t size) { return goes_on(context); }

/* Its own code goes back; without one a plain close frame. */
static bool on_close(void *context, uint16_t code, const uint8_t *reason, size_t size) {
  struct websocket *ws = context;
  close_with(ws, code == WEBSOCKET_NO_CODE ? WEBSOCKET_NORMAL : code, "");
  return false;
}

/* ---- the way in -------------------------------------------------------------------------------------------------- */

static const struct websocket_events events = {.begin = on_begin,
                                               .place = place,
                                               .data = on_data,
                                               .end = on_end,
                                               .ping = on_ping,
                                               .pong = on_pong,
                                               .close = on_close};

/* Parses what it may; returns how much that was. */
static size_t parse(struct websocket *ws, const uint8_t *data, size_t size) {
  size_t used = 0;
  uint16_t code;
  mu_error err;
  if (!goes_on(ws)) return 0;
  if (websocket_feed(&ws->codec, data, size, &used, &code, &err) != MU_OK) close_with(ws, code, err.message);
  return used;
}

static void on_body(struct exchange *exchange, const uint8_t *data, size_t size) {
  struct websocket *ws = exchange->user;
  ws->heard = true;
  ws->pings = 0;
  size_t used = ws->rest.size == 0 ? parse(ws, data, size) : 0;
  if (ws->stream.exchange != NULL && used < size && buffer_append(&ws->rest, data + used, size - used) != MU_OK)
    close_with(ws, WEBSOCKET_INTERNAL, "no memory for a message");
  stream_settle(&ws->stream);
}

/* An event may still be due without a further byte, so the codec is fed once even with nothing. */
static void resumed(struct stream *stream) {
  struct websocket *ws = websocket_of(stream);
  for (;;) {
    size_t used = parse(ws, (const uint8_t *)ws->rest.data, ws->rest.size);
    bool over = used == ws->rest.size;
    buffer_consume(&ws->rest, used);
    if (over || !goes_on(ws)) break;
  }
  if (ws->rest.size == 0) buffer_free(&ws->rest);
}

static void on_end_of_file(struct exchange *exchange) {
  struct websocket *ws = exchange->user;
  stream_gone(&ws->stream); /* without a close frame: nobody reads any more */
  exchange_reply_end(exchange, NULL, 0);
}

static void on_gone(struct exchange *exchange) {
  struct websocket *ws = exchange->user;
  stream_gone(&ws->stream);
}

static void on_writable(struct exchange *exchange) {
  struct websocket *ws = exchange->user;
  stream_writable(&ws->stream);
}

static void finished(struct stream *stream) {
  struct websocket *ws = websocket_of(stream);
  close_with(ws, ws->goodbye, ws->goodbye_text);
}

/* ---- signs of life ----------------------------------------------------------------------------------------------- */

/* Whoever is not read from cannot be heard; that one is bounded by its answers, which come or do not. */
static void ask(struct websocket *ws) {
  uint8_t frame[WEBSOCKET_HEAD_MAX];
  if (ws->stream.exchange == NULL || ws->heard || !goes_on(ws)) {
    ws->heard = false;
    return;
  }
  if (ws->pings++ == UNANSWERED_PINGS_MAX)
    close_with(ws, WEBSOCKET_INTERNAL, "no answer to pings");
  else
    send_copy(ws, frame, websocket_write_head(frame, WEBSOCKET_PING, 0, NULL));
}

static void on_ping_timer(uv_timer_t *timer) {
  struct gateway_loop *loop = timer->data;
  list_each (link, &loop->websockets) ask(list_item(link, struct websocket, link));
}

/* The timer runs while there are streams. */
static void enlist(struct websocket *ws) {
  struct gateway_loop *loop = ws->stream.loop;
  uint64_t interval_ms = (uint64_t)loop->core->options->websocket_ping_ns / NS_PER_MS;
  if (list_empty(&loop->websockets)) {
    loop->ping_timer.data = loop;
    uv_timer_start(&loop->ping_timer, on_ping_timer, interval_ms, interval_ms);
  }
  list_push_back(&loop->websockets, &ws->link);
}

static void release(struct stream *stream) {
  struct websocket *ws = websocket_of(stream);
  struct gateway_loop *loop = stream->loop;
  list_remove(&ws->link);
  if (list_empty(&loop->websockets)) uv_timer_stop(&loop->ping_timer);
  buffer_free(&ws->rest);
  free(ws);
}

static void leave(struct stream *stream) {
  struct websocket *ws = websocket_of(stream);
  ws->goodbye = WEBSOCKET_GOING_AWAY;
  ws->goodbye_text = "the server is going away";
  stream_finish(stream);
}

/* ---- the beginning ----------------------------------------------------------------------------------------------- */

static const struct stream_framing framing = {.head = frame_reply,
                                              .error = frame_error,
                                              .resumed = resumed,
                                              .finished = finished,
                                              .release = release,
                                              .leave = leave};

/* 426: which protocol it takes, and which version of that. */
static void refuse_upgrade(struct call *call, const char *message) {
  static const struct header headers[] = {{"Upgrade", "websocket"}, {"Sec-WebSocket-Version", "13"}};
  struct exchange *exchange = call->exchange;
  call->exchange = NULL;
  rest_stream_error(&call->reply, "", message, 426);
  struct iovec body = {call->reply.data, call->reply.size};
  exchange_reply(exchange, &(struct reply){.status = 426,
                                           .content_type = "application/json",
                                           .headers = headers,
                                           .n_headers = sizeof headers / sizeof *headers,
                                           .body = &body,
                                           .n_body = !call->reply.failed});
}

static void refuse(struct call *call, int http_status, const char *message) {
  if (http_status == 426)
    refuse_upgrade(call, message);
  else
    call_reply_error(call, http_status, message);
}

/* The model of the address has to be there; whether it takes requests is asked for each message. */
static mu_status check_model(struct call *call, mu_error *err) {
  if (call->route.model[0] == '\0') return MU_OK;
  return inference_hold_model(call, err);
}

/* MU_OK: *ret_accept is to be sent. */
static mu_status shake_hands(struct call *call, struct stream_options *ret_options,
                             char ret_accept[WEBSOCKET_ACCEPT_SIZE], int *ret_http_status, mu_error *err) {
  const struct exchange *exchange = call->exchange;
  const struct options *options = call->loop->core->options;
  const struct websocket_offer offer = {.method = exchange->method,
                                        .upgrade = exchange->headers[HEADER_UPGRADE],
                                        .connection = exchange->headers[HEADER_CONNECTION],
                                        .key = exchange->headers[HEADER_SEC_WEBSOCKET_KEY],
                                        .version = exchange->headers[HEADER_SEC_WEBSOCKET_VERSION],
                                        .host = exchange->headers[HEADER_HOST],
                                        .origin = exchange->headers[HEADER_ORIGIN]};
  mu_status status = websocket_accept(&offer, options->websocket_origins.items, options->websocket_origins.n,
                                      ret_accept, ret_http_status, err);
  if (status != MU_OK) return status;
  status = rest_stream_options(exchange->query, (uint32_t)options->stream_max_in_flight, ret_options, err);
  if (status == MU_OK) status = check_model(call, err);
  if (status == MU_OK && call->loop->ending)
    status = mu_fail(err, MU_UNAVAILABLE, "the server is going away: connect again");
  if (status != MU_OK) *ret_http_status = http_status_of(status);
  return status;
}

void websocket_begin(struct call *call) {
  static const struct exchange_handler handler = {
      .body = on_body, .end = on_end_of_file, .gone = on_gone, .writable = on_writable};
  struct gateway_loop *loop = call->loop;
  struct exchange *exchange = call->exchange;
  struct stream_options options;
  char accept[WEBSOCKET_ACCEPT_SIZE];
  int http_status;
  mu_error err;
  struct websocket *ws = NULL;
  mu_status status = shake_hands(call, &options, accept, &http_status, &err);
  if (status == MU_OK && (ws = calloc(1, sizeof *ws)) == NULL) {
    http_status = http_status_of(MU_NO_MEMORY);
    mu_fail(&err, MU_NO_MEMORY, "no memory for a stream");
  }
  if (ws == NULL) {
    refuse(call, http_status, err.message);
    call_free(call);
    return;
  }
  ws->handler = &handler;
  ws->route = call->route;
  call_free(call);
  list_init(&ws->link);
  buffer_init(&ws->rest, REST_MAX);
  websocket_codec_init(&ws->codec, false, (uint64_t)loop->core->options->body_limit, &events, ws);
  exchange->user = ws;
  stream_init(&ws->stream, loop, exchange, &framing, &options);
  enlist(ws);
  const struct header headers[] = {{"Upgrade", "websocket"}, {"Sec-WebSocket-Accept", accept}};
  exchange_reply_begin(exchange, &(struct reply){.status = 101, .headers = headers, .n_headers = 2});
}
