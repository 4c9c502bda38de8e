/*
 * WebSocket clients in front of gRPC (docs/proxy.md): each binary message is one message of a method, each answer a
 * binary message. Nothing is decoded. mode=unary: a call for each message, answers in the order of the messages or,
 * order=any, as they come. mode=stream: one call for the life of the socket; an empty text message ends the client's
 * side of it, as methods that answer at the end want it.
 *
 * Whatever writes may find the connection broken, so `gone` can come inside of any call here; therefore a bridge is
 * freed only between two turns of the loop (post), nowhere else.
 */
#include "proxy/bridge.h"

#include "proto/grpc/grpc_message.h"
#include "proto/websocket/handshake.h"

#include <stdlib.h>
#include <string.h>

const char bridge_too_much[] = "too much is under way on all sockets";

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static void recount(struct bridge *b) {
  uint64_t held = b->incoming.size + b->rest.size + (b->exchange != NULL ? exchange_unsent(b->exchange) : 0);
  list_each (link, &b->calls) {
    const struct bridge_call *call = list_item(link, struct bridge_call, link);
    held += call->answer.size + call->out.size + (call->passage != NULL ? passage_waiting(call->passage) : 0);
  }
  b->proxy->held += held - b->held;
  b->held = held;
}

bool bridge_holds_too_much(struct bridge *b) {
  recount(b);
  return b->held > HELD_EACH && b->proxy->held > (uint64_t)b->proxy->settings->ws_buffer;
}

void bridge_forget_bytes(struct buffer *buffer) {
  if (buffer->capacity > UNSENT_MAX)
    buffer_free(buffer);
  else
    buffer_clear(buffer);
}

/* ---- the way out ------------------------------------------------------------------------------------------------- */

void bridge_send(struct bridge *b, const void *bytes, size_t size) {
  struct iovec part = {(void *)(uintptr_t)bytes, size};
  if (b->exchange != NULL) exchange_reply_part(b->exchange, &(struct reply_part){.body = &part, .n_body = 1});
}

void bridge_close(struct bridge *b, uint16_t code, const char *reason) {
  uint8_t frame[WEBSOCKET_CLOSE_FRAME_MAX];
  if (b->exchange == NULL) return;
  bridge_send(b, frame, websocket_write_close(frame, code, reason));
  struct exchange *exchange = b->exchange;
  b->exchange = NULL;
  if (exchange != NULL) exchange_reply_end(exchange, NULL, 0);
  bridge_settle(b);
}

/* ---- messages of the client -------------------------------------------------------------------------------------- */

static bool goes_on(const struct bridge *b) {
  if (b->exchange == NULL || b->finishing) return false;
  if (exchange_unsent(b->exchange) > UNSENT_MAX) return false;
  if (!b->query.streaming && b->n_calls >= (uint32_t)b->proxy->settings->ws_in_flight) return false;
  const struct bridge_call *last = list_empty(&b->calls) ? NULL : list_item(b->calls.prev, struct bridge_call, link);
  return last == NULL || last->passage == NULL || passage_room(last->passage);
}

/* The call that the message belongs to; NULL: it has ended, or the socket has for want of memory. */
static struct bridge_call *call_of_message(struct bridge *b) {
  struct bridge_call *call = b->query.streaming && !list_empty(&b->calls)
                                 ? list_item(b->calls.next, struct bridge_call, link)
                                 : bridge_call_open(b);
  if (call == NULL) bridge_close(b, WEBSOCKET_INTERNAL, "no memory for a message");
  return call != NULL && call->passage != NULL ? call : NULL;
}

static void send_message(struct bridge *b) {
  grpc_prefix_write((uint8_t *)b->incoming.data, false, (uint32_t)(b->incoming.size - GRPC_PREFIX_SIZE));
  struct bridge_call *call = call_of_message(b);
  if (call == NULL) return;
  bool first = b->n_begun++ == 0 || !b->query.streaming;
  b->proxy->messages++;
  passage_data(call->passage, (const uint8_t *)b->incoming.data, b->incoming.size);
  if (!b->query.streaming) passage_finish(call->passage);
  if (first) passage_start(call->passage);
}

/* The client's side of the one call ends; there may have been no message at all. */
static void end_client_side(struct bridge *b) {
  bool first = list_empty(&b->calls);
  struct bridge_call *call = call_of_message(b);
  b->said_all = true;
  if (call == NULL) return;
  passage_finish(call->passage);
  if (first) passage_start(call->passage);
}

static bool on_begin(void *context, bool text, uint64_t size, bool whole) {
  static const uint8_t prefix[GRPC_PREFIX_SIZE];
  struct bridge *b = context;
  b->text = text;
  buffer_clear(&b->incoming);
  buffer_append(&b->incoming, prefix, sizeof prefix);
  if (whole) buffer_reserve(&b->incoming, size);
  return b->exchange != NULL;
}

static bool on_data(void *context, const uint8_t *data, size_t size) {
  struct bridge *b = context;
  buffer_append(&b->incoming, data, size);
  if (bridge_holds_too_much(b)) bridge_close(b, WEBSOCKET_TRY_AGAIN, bridge_too_much);
  return b->exchange != NULL;
}

static bool on_message(void *context) {
  struct bridge *b = context;
  if (b->said_all)
    bridge_close(b, WEBSOCKET_PROTOCOL_ERROR, "a message behind the one that ended the client's side");
  else if (b->text && b->query.streaming && b->incoming.size == GRPC_PREFIX_SIZE)
    end_client_side(b);
  else if (b->text)
    bridge_close(b, 1003, "messages are binary: one of the method's each");
  else if (b->incoming.failed)
    bridge_close(b, WEBSOCKET_INTERNAL, "no memory for a message");
  else
    send_message(b);
  bridge_forget_bytes(&b->incoming);
  return goes_on(b);
}

static bool on_ping(void *context, const uint8_t *data, size_t size) {
  struct bridge *b = context;
  uint8_t frame[WEBSOCKET_PONG_FRAME_MAX];
  bridge_send(b, frame, websocket_write_pong(frame, data, size));
  return goes_on(b);
}

static bool on_pong(void *context, const uint8_t *data, size_t size) { return goes_on(context); }

static bool on_close(void *context, uint16_t code, const uint8_t *reason, size_t size) {
  bridge_close(context, code == WEBSOCKET_NO_CODE ? WEBSOCKET_NORMAL : code, "");
  return false;
}

static const struct websocket_events ws_events = {
    .begin = on_begin, .data = on_data, .end = on_message, .ping = on_ping, .pong = on_pong, .close = on_close};

/* Parses what it may; returns how much that was. */
static size_t parse(struct bridge *b, const uint8_t *data, size_t size) {
  size_t used = 0;
  uint16_t code;
  mu_error err;
  if (!goes_on(b)) return 0;
  if (websocket_feed(&b->codec, data, size, &used, &code, &err) != MU_OK) bridge_close(b, code, err.message);
  return used;
}

/* ---- between two turns ------------------------------------------------------------------------------------------- */

/* An event may still be due without a further byte, so the codec is fed once even with nothing. */
static void parse_rest(struct bridge *b) {
  for (;;) {
    size_t used = parse(b, (const uint8_t *)b->rest.data, b->rest.size);
    bool over = used == b->rest.size;
    buffer_consume(&b->rest, used);
    if (over || !goes_on(b)) break;
  }
  if (b->rest.size == 0) buffer_free(&b->rest);
}

static void release(struct bridge *b) {
  while (!list_empty(&b->calls)) bridge_call_drop(list_item(b->calls.next, struct bridge_call, link));
  list_remove(&b->link);
  buffer_free(&b->rest);
  buffer_free(&b->incoming);
  b->proxy->held -= b->held;
  free(b);
}

void bridges_forget(struct proxy *proxy) {
  while (!list_empty(&proxy->bridges)) release(list_item(proxy->bridges.next, struct bridge, link));
}

static void run_posted(struct net_post *post) {
  struct bridge *b = list_item(post, struct bridge, post);
  b->posted = false;
  if (b->exchange == NULL) {
    release(b);
    return;
  }
  if (b->finishing && b->n_calls == 0) {
    bridge_close(b, WEBSOCKET_GOING_AWAY, "the proxy is going away");
    return;
  }
  if (!b->paused || !goes_on(b)) return;
  parse_rest(b);
  if (!goes_on(b)) return;
  b->paused = false;
  exchange_resume(b->exchange);
}

void bridge_settle(struct bridge *b) {
  recount(b);
  bool due = b->exchange == NULL || (b->finishing && b->n_calls == 0) || (b->paused && goes_on(b));
  if (!due || b->posted) return;
  b->posted = true;
  b->post.run = run_posted;
  net_loop_post(b->proxy->loop, &b->post);
}

/* ---- the exchange ------------------------------------------------------------------------------------------------ */

static void client_body(struct exchange *exchange, const uint8_t *data, size_t size) {
  struct bridge *b = exchange->user;
  b->heard = true;
  b->pings = 0;
  size_t used = b->rest.size == 0 ? parse(b, data, size) : 0;
  if (b->exchange != NULL && used < size && buffer_append(&b->rest, data + used, size - used) != MU_OK)
    bridge_close(b, WEBSOCKET_INTERNAL, "no memory for a message");
  if (b->exchange != NULL && !b->paused && !goes_on(b)) {
    b->paused = true;
    exchange_pause(b->exchange);
  }
  bridge_settle(b);
}

static void client_end(struct exchange *exchange) {
  struct bridge *b = exchange->user;
  b->exchange = NULL; /* without a close frame: nobody reads any more */
  exchange_reply_end(exchange, NULL, 0);
  bridge_settle(b);
}

static void client_gone(struct exchange *exchange) {
  struct bridge *b = exchange->user;
  b->exchange = NULL;
  bridge_settle(b);
}

static void client_writable(struct exchange *exchange) {
  struct bridge *b = exchange->user;
  list_each (link, &b->calls) {
    struct bridge_call *call = list_item(link, struct bridge_call, link);
    if (!call->paused || call->passage == NULL) continue;
    call->paused = false;
    passage_resume(call->passage);
  }
  bridge_settle(b);
}

/* ---- signs of life ----------------------------------------------------------------------------------------------- */

static void ask(struct bridge *b) {
  uint8_t frame[WEBSOCKET_HEAD_MAX];
  if (b->exchange == NULL || b->heard || !goes_on(b))
    b->heard = false;
  else if (b->pings++ == UNANSWERED_PINGS_MAX)
    bridge_close(b, WEBSOCKET_INTERNAL, "no answer to pings");
  else
    bridge_send(b, frame, websocket_write_head(frame, WEBSOCKET_PING, 0, NULL));
}

void bridges_ping(struct proxy *proxy) {
  list_each (link, &proxy->bridges) ask(list_item(link, struct bridge, link));
}

void bridges_leave(struct proxy *proxy) {
  list_each (link, &proxy->bridges) {
    struct bridge *b = list_item(link, struct bridge, link);
    b->finishing = true;
    if (b->query.streaming)
      bridge_close(b, WEBSOCKET_GOING_AWAY, "the proxy is going away");
    else
      bridge_settle(b);
  }
}

/* ---- the beginning ----------------------------------------------------------------------------------------------- */

static void put_line(struct bridge *b, const char *name, const char *value) {
  size_t name_size = strlen(name) + 1, size = strlen(value) + 1;
  if (b->lines_size + name_size + size > sizeof b->lines) return;
  memcpy(b->lines + b->lines_size, name, name_size);
  memcpy(b->lines + b->lines_size + name_size, value, size);
  b->lines_size += name_size + size;
}

static void refuse(struct exchange *exchange, int http_status, const char *message) {
  static const struct header headers[] = {{"Upgrade", "websocket"}, {"Sec-WebSocket-Version", "13"}};
  if (http_status == 426)
    exchange_reply(exchange, &(struct reply){.status = 426, .headers = headers, .n_headers = 2});
  else
    exchange_reply_error(exchange, http_status, message);
}

void bridge_begin(struct proxy *proxy, struct exchange *exchange) {
  static const struct proxy_handler handler = {
      .body = client_body, .end = client_end, .gone = client_gone, .writable = client_writable};
  const struct proxy_settings *settings = proxy->settings;
  const struct websocket_offer offer = {.method = exchange->method,
                                        .upgrade = exchange->headers[HEADER_UPGRADE],
                                        .connection = exchange->headers[HEADER_CONNECTION],
                                        .key = exchange->headers[HEADER_SEC_WEBSOCKET_KEY],
                                        .version = exchange->headers[HEADER_SEC_WEBSOCKET_VERSION],
                                        .host = exchange->headers[HEADER_HOST],
                                        .origin = exchange->headers[HEADER_ORIGIN]};
  char accept[WEBSOCKET_ACCEPT_SIZE];
  int http_status = 400;
  mu_error err;
  struct bridge *b = calloc(1, sizeof *b);
  if (b == NULL) {
    exchange_reply_error(exchange, 503, "no memory for a stream");
    return;
  }
  b->proxy = proxy;
  mu_status status = websocket_accept(&offer, settings->ws_origins, settings->n_ws_origins, accept, &http_status, &err);
  if (status == MU_OK) {
    http_status = 400;
    status = bridge_query_read(exchange->query, settings->ws_method, &b->query, &err);
  }
  if (status == MU_OK && (proxy->grpc == NULL || proxy->leaving)) {
    http_status = 503;
    status = mu_fail(&err, MU_UNAVAILABLE, proxy->leaving ? "the proxy is going away" : "no backends for gRPC");
  }
  if (status != MU_OK) {
    refuse(exchange, http_status, err.message);
    free(b);
    return;
  }
  b->handler = &handler;
  b->exchange = exchange;
  list_init(&b->calls);
  list_push_back(&proxy->bridges, &b->link);
  buffer_init(&b->rest, REST_MAX);
  buffer_init(&b->incoming, (size_t)MESSAGE_MAX + GRPC_PREFIX_SIZE);
  websocket_codec_init(&b->codec, false, MESSAGE_MAX, &ws_events, b);
  put_line(b, "content-type", "application/grpc");
  put_line(b, "user-agent", "muster-proxy/" MUSTER_VERSION);
  if (exchange->headers[HEADER_REQUEST_ID] != NULL) put_line(b, "x-request-id", exchange->headers[HEADER_REQUEST_ID]);
  exchange->user = b;
  proxy->sockets++;
  const struct header headers[] = {{"Upgrade", "websocket"}, {"Sec-WebSocket-Accept", accept}};
  exchange_reply_begin(exchange, &(struct reply){.status = 101, .headers = headers, .n_headers = 2});
}
