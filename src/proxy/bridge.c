/*
 * WebSocket clients in front of gRPC (docs/proxy.md): each binary message is one message of a method, each answer a
 * binary message. Nothing is decoded. mode=unary: a call for each message, answers in the order of the messages or,
 * order=any, as they come. mode=stream: one call for the life of the socket; an empty text message ends the client's
 * side of it, as methods that answer at the end want it.
 *
 * Whatever writes may find the connection broken, so `gone` can come inside of any call here; therefore a bridge is
 * freed only between two turns of the loop (post), nowhere else.
 */
#include "base/clock.h"
#include "base/log.h"
#include "proto/grpc/grpc_headers.h"
#include "proto/grpc/grpc_message.h"
#include "proto/websocket/handshake.h"
#include "proto/websocket/websocket_codec.h"
#include "proxy/bridge_query.h"
#include "proxy/passage.h"
#include "proxy/proxy.h"

#include <stdio.h>
#include <stdlib.h>

enum {
  MESSAGE_MAX = 64 * 1024 * 1024,
  UNSENT_MAX = 1024 * 1024, /* bytes of answers that the client does not take */
  REST_MAX = 1024 * 1024,   /* read but not parsed: one read of the transport */
  HELD_EACH = 1024 * 1024,  /* bytes of messages and answers that a socket may hold whatever the others do */
  UNANSWERED_PINGS_MAX = 2
};

struct bridge {
  const struct proxy_handler *handler; /* first: exchange.user */
  struct proxy *proxy;
  struct exchange *exchange; /* NULL: gone or ended */
  struct list link;          /* proxy.bridges */
  struct websocket_codec codec;
  struct buffer rest;
  struct bridge_query query;
  char lines[160]; /* of each call */
  size_t lines_size;
  struct list messages; /* in the order of their beginning */
  uint32_t n_messages;
  uint64_t n_begun;
  struct message *receiving;
  struct buffer incoming; /* the message that is being received, behind room for its prefix */
  bool text, paused, finishing, heard, posted;
  uint64_t held; /* as last counted: its part of proxy.held */
  bool said_all; /* mode=stream: the client has ended its side */
  uint32_t pings;
  struct net_post post;
};

/* A call: of one message, or in mode=stream of all. */
struct message {
  struct bridge *bridge;
  struct list link;
  struct passage *passage;
  uint64_t number;
  struct grpc_framer framer;
  struct buffer answer; /* the message of gRPC that is being received */
  struct buffer out;    /* frames that wait for their turn */
  int http_status, grpc_status;
  char grpc_message[256];
  bool over, paused;
};

static const char too_much[] = "too much is under way on all sockets";

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static void recount(struct bridge *b) {
  uint64_t held = b->incoming.size + b->rest.size + (b->exchange != NULL ? exchange_unsent(b->exchange) : 0);
  list_each (link, &b->messages) {
    const struct message *m = list_item(link, struct message, link);
    held += m->answer.size + m->out.size + (m->passage != NULL ? passage_waiting(m->passage) : 0);
  }
  b->proxy->held += held - b->held;
  b->held = held;
}

/* Whether it has to give way: who holds little never does. */
static bool holds_too_much(struct bridge *b) {
  recount(b);
  return b->held > HELD_EACH && b->proxy->held > (uint64_t)b->proxy->settings->ws_buffer;
}

/* Memory for the next one of the usual size is kept. */
static void forget(struct buffer *buffer) {
  if (buffer->capacity > UNSENT_MAX)
    buffer_free(buffer);
  else
    buffer_clear(buffer);
}

/* ---- the way out ------------------------------------------------------------------------------------------------- */

static void settle(struct bridge *b);

static void send_copy(struct bridge *b, const void *bytes, size_t size) {
  struct iovec part = {(void *)(uintptr_t)bytes, size};
  if (b->exchange != NULL) exchange_reply_part(b->exchange, &(struct reply_part){.body = &part, .n_body = 1});
}

static void drop(struct message *m) {
  struct passage *passage = m->passage;
  m->passage = NULL;
  if (passage != NULL) passage_cancel(passage);
  list_remove(&m->link);
  m->bridge->n_messages--;
  buffer_free(&m->answer);
  buffer_free(&m->out);
  free(m);
}

static void close_with(struct bridge *b, uint16_t code, const char *reason) {
  uint8_t frame[WEBSOCKET_CLOSE_FRAME_MAX];
  if (b->exchange == NULL) return;
  send_copy(b, frame, websocket_write_close(frame, code, reason));
  struct exchange *exchange = b->exchange;
  b->exchange = NULL;
  if (exchange != NULL) exchange_reply_end(exchange, NULL, 0);
  settle(b);
}

/* A frame of the client's: at once, or when its turn comes. */
static void put_frame(struct message *m, enum websocket_opcode opcode, const void *data, size_t size) {
  uint8_t head[WEBSOCKET_HEAD_MAX];
  struct bridge *b = m->bridge;
  size_t n = websocket_write_head(head, opcode, size, NULL);
  if (b->query.any_order || b->query.streaming || b->messages.next == &m->link) {
    struct iovec parts[] = {{head, n}, {(void *)(uintptr_t)data, size}};
    if (b->exchange != NULL)
      exchange_reply_part(b->exchange, &(struct reply_part){.body = parts, .n_body = size > 0 ? 2 : 1});
    return;
  }
  buffer_append(&m->out, head, n);
  buffer_append(&m->out, data, size);
}

/* Those whose turn has come. */
static void send_ready(struct bridge *b) {
  while (b->exchange != NULL && !list_empty(&b->messages)) {
    struct message *first = list_item(b->messages.next, struct message, link);
    if (first->out.failed) {
      close_with(b, WEBSOCKET_INTERNAL, "no memory for an answer");
      return;
    }
    if (first->out.size > 0) {
      struct buffer out = first->out;
      buffer_init(&first->out, SIZE_MAX / 2);
      send_copy(b, out.data, out.size);
      buffer_free(&out);
    }
    if (b->exchange != NULL && !first->over && first->paused && exchange_unsent(b->exchange) <= EXCHANGE_LOW_WATER) {
      first->paused = false; /* above that, `writable` comes */
      passage_resume(first->passage);
    }
    if (b->exchange == NULL || !first->over) return;
    drop(first);
  }
}

static void say_error(struct message *m, int code, const char *text) {
  struct buffer json;
  buffer_init(&json, 8192);
  buffer_puts(&json, "{\"error\":\"");
  exchange_append_escaped(&json, text);
  buffer_print(&json, "\",\"code\":%d", code);
  if (!m->bridge->query.streaming) buffer_print(&json, ",\"message\":%llu", (unsigned long long)m->number);
  buffer_puts(&json, "}");
  if (!json.failed) put_frame(m, WEBSOCKET_TEXT, json.data, json.size);
  if (json.failed) close_with(m->bridge, WEBSOCKET_INTERNAL, "no memory for an answer");
  buffer_free(&json);
}

static void finish_message(struct message *m) {
  struct bridge *b = m->bridge;
  m->over = true;
  if (b->query.streaming)
    close_with(b, m->grpc_status == GRPC_OK ? WEBSOCKET_NORMAL : WEBSOCKET_INTERNAL, "the call has ended");
  else if (b->query.any_order)
    drop(m);
  else
    send_ready(b);
  settle(b);
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

static void take_status(struct message *m, struct client_lines lines) {
  const char *status = client_line(lines, "grpc-status"), *text = client_line(lines, "grpc-message");
  if (status != NULL) m->grpc_status = atoi(status);
  if (text != NULL) decode_text(text, m->grpc_message, sizeof m->grpc_message);
}

static void on_head(void *owner, int status, struct client_lines lines, uint64_t content_length) {
  struct message *m = owner;
  m->http_status = status;
  take_status(m, lines);
}

/* The call cannot go on. */
static void break_off(struct message *m, int code, const char *why) {
  struct passage *passage = m->passage;
  m->passage = NULL;
  m->grpc_status = code;
  passage_cancel(passage);
  say_error(m, code, why);
  finish_message(m);
}

static void on_body(void *owner, const uint8_t *data, size_t size) {
  struct message *m = owner;
  struct bridge *b = m->bridge;
  for (;;) {
    enum grpc_frame_event event;
    const uint8_t *piece;
    size_t n;
    mu_error err;
    mu_status status = grpc_frame_next(&m->framer, false, &data, &size, &event, &piece, &n, &err);
    if (status != MU_OK) {
      break_off(m, GRPC_INTERNAL, err.message);
      return;
    }
    if (event == GRPC_FRAME_MORE) break;
    if (event == GRPC_FRAME_DATA) buffer_append(&m->answer, piece, n);
    if (event == GRPC_FRAME_DATA && holds_too_much(b)) {
      break_off(m, GRPC_RESOURCE_EXHAUSTED, too_much);
      return;
    }
    if (event != GRPC_FRAME_END) continue;
    if (m->answer.failed) {
      break_off(m, GRPC_RESOURCE_EXHAUSTED, "no memory for an answer");
      return;
    }
    put_frame(m, WEBSOCKET_BINARY, m->answer.data, m->answer.size);
    forget(&m->answer);
    if (b->exchange == NULL) return; /* settle ends it all */
  }
  if (b->exchange == NULL) return; /* it went before: settle ends it all */
  if (m->passage != NULL && !m->paused && (m->out.size > UNSENT_MAX || exchange_unsent(b->exchange) > UNSENT_MAX)) {
    m->paused = true;
    passage_pause(m->passage);
  }
}

static void on_end(void *owner, struct client_lines trailers) {
  struct message *m = owner;
  mu_error err;
  m->passage = NULL;
  take_status(m, trailers);
  bool whole = grpc_frame_finish(&m->framer, &err) == MU_OK;
  if (m->grpc_status == GRPC_OK && whole) {
    finish_message(m);
    return;
  }
  char text[64];
  snprintf(text, sizeof text, "the backend answers with HTTP status %d", m->http_status);
  if (m->grpc_status == GRPC_OK) { /* part of a message is none, whatever the backend thinks of it */
    m->grpc_status = GRPC_INTERNAL;
    say_error(m, GRPC_INTERNAL, err.message);
  } else if (m->grpc_status < 0) {
    m->grpc_status = GRPC_INTERNAL;
    say_error(m, GRPC_INTERNAL, text);
  } else {
    say_error(m, m->grpc_status, m->grpc_message);
  }
  finish_message(m);
}

static void on_failed(void *owner, enum passage_failure failure, const char *why) {
  struct message *m = owner;
  m->passage = NULL;
  m->grpc_status = passage_failure_codes[failure].grpc;
  say_error(m, m->grpc_status, why);
  finish_message(m);
}

static void on_room(void *owner) { settle(((struct message *)owner)->bridge); }

static const struct passage_sink sink = {
    .head = on_head, .body = on_body, .end = on_end, .failed = on_failed, .room = on_room};

/* ---- messages of the client -------------------------------------------------------------------------------------- */

static bool goes_on(const struct bridge *b) {
  if (b->exchange == NULL || b->finishing) return false;
  if (exchange_unsent(b->exchange) > UNSENT_MAX) return false;
  if (!b->query.streaming && b->n_messages >= (uint32_t)b->proxy->settings->ws_in_flight) return false;
  const struct message *last = list_empty(&b->messages) ? NULL : list_item(b->messages.prev, struct message, link);
  return last == NULL || last->passage == NULL || passage_room(last->passage);
}

static struct message *open_call(struct bridge *b) {
  struct proxy *proxy = b->proxy;
  struct message *m = calloc(1, sizeof *m);
  if (m == NULL) return NULL;
  uint64_t deadline = (uint64_t)proxy->settings->ws_deadline_ns;
  const struct passage_request request = {.grpc = true,
                                          .method = "POST",
                                          .path = b->query.method,
                                          .query = "",
                                          .lines = {b->lines, b->lines_size},
                                          .content_length = UINT64_MAX,
                                          .deadline_ns = b->query.streaming ? TIME_NEVER : clock_now_ns() + deadline};
  *m = (struct message){.bridge = b, .number = b->n_begun, .grpc_status = -1};
  m->framer.limit = MESSAGE_MAX;
  buffer_init(&m->answer, MESSAGE_MAX);
  buffer_init(&m->out, SIZE_MAX / 2);
  m->passage = passage_create(proxy->grpc, &request, &sink, m);
  if (m->passage == NULL) {
    free(m);
    return NULL;
  }
  list_push_back(&b->messages, &m->link);
  b->n_messages++;
  return m;
}

/* The call that the message belongs to; NULL: it has ended, or the socket has for want of memory. */
static struct message *call_of_message(struct bridge *b) {
  struct message *m = b->query.streaming && !list_empty(&b->messages)
                          ? list_item(b->messages.next, struct message, link)
                          : open_call(b);
  if (m == NULL) close_with(b, WEBSOCKET_INTERNAL, "no memory for a message");
  return m != NULL && m->passage != NULL ? m : NULL;
}

static void send_message(struct bridge *b) {
  grpc_prefix_write((uint8_t *)b->incoming.data, false, (uint32_t)(b->incoming.size - GRPC_PREFIX_SIZE));
  struct message *m = call_of_message(b);
  if (m == NULL) return;
  bool first = b->n_begun++ == 0 || !b->query.streaming;
  b->proxy->messages++;
  passage_data(m->passage, (const uint8_t *)b->incoming.data, b->incoming.size);
  if (!b->query.streaming) passage_finish(m->passage);
  if (first) passage_start(m->passage);
}

/* The client's side of the one call ends; there may have been no message at all. */
static void end_client_side(struct bridge *b) {
  bool first = list_empty(&b->messages);
  struct message *m = call_of_message(b);
  b->said_all = true;
  if (m == NULL) return;
  passage_finish(m->passage);
  if (first) passage_start(m->passage);
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
  if (holds_too_much(b)) close_with(b, WEBSOCKET_TRY_AGAIN, too_much);
  return b->exchange != NULL;
}

static bool on_message(void *context) {
  struct bridge *b = context;
  if (b->said_all)
    close_with(b, WEBSOCKET_PROTOCOL_ERROR, "a message behind the one that ended the client's side");
  else if (b->text && b->query.streaming && b->incoming.size == GRPC_PREFIX_SIZE)
    end_client_side(b);
  else if (b->text)
    close_with(b, 1003, "messages are binary: one of the method's each");
  else if (b->incoming.failed)
    close_with(b, WEBSOCKET_INTERNAL, "no memory for a message");
  else
    send_message(b);
  forget(&b->incoming);
  return goes_on(b);
}

static bool on_ping(void *context, const uint8_t *data, size_t size) {
  struct bridge *b = context;
  uint8_t frame[WEBSOCKET_PONG_FRAME_MAX];
  send_copy(b, frame, websocket_write_pong(frame, data, size));
  return goes_on(b);
}

static bool on_pong(void *context, const uint8_t *data, size_t size) { return goes_on(context); }

static bool on_close(void *context, uint16_t code, const uint8_t *reason, size_t size) {
  close_with(context, code == WEBSOCKET_NO_CODE ? WEBSOCKET_NORMAL : code, "");
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
  if (websocket_feed(&b->codec, data, size, &used, &code, &err) != MU_OK) close_with(b, code, err.message);
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
  while (!list_empty(&b->messages)) drop(list_item(b->messages.next, struct message, link));
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
  if (b->finishing && b->n_messages == 0) {
    close_with(b, WEBSOCKET_GOING_AWAY, "the proxy is going away");
    return;
  }
  if (!b->paused || !goes_on(b)) return;
  parse_rest(b);
  if (!goes_on(b)) return;
  b->paused = false;
  exchange_resume(b->exchange);
}

static void settle(struct bridge *b) {
  recount(b);
  bool due = b->exchange == NULL || (b->finishing && b->n_messages == 0) || (b->paused && goes_on(b));
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
    close_with(b, WEBSOCKET_INTERNAL, "no memory for a message");
  if (b->exchange != NULL && !b->paused && !goes_on(b)) {
    b->paused = true;
    exchange_pause(b->exchange);
  }
  settle(b);
}

static void client_end(struct exchange *exchange) {
  struct bridge *b = exchange->user;
  b->exchange = NULL; /* without a close frame: nobody reads any more */
  exchange_reply_end(exchange, NULL, 0);
  settle(b);
}

static void client_gone(struct exchange *exchange) {
  struct bridge *b = exchange->user;
  b->exchange = NULL;
  settle(b);
}

static void client_writable(struct exchange *exchange) {
  struct bridge *b = exchange->user;
  list_each (link, &b->messages) {
    struct message *m = list_item(link, struct message, link);
    if (!m->paused || m->passage == NULL) continue;
    m->paused = false;
    passage_resume(m->passage);
  }
  settle(b);
}

/* ---- signs of life ----------------------------------------------------------------------------------------------- */

static void ask(struct bridge *b) {
  uint8_t frame[WEBSOCKET_HEAD_MAX];
  if (b->exchange == NULL || b->heard || !goes_on(b))
    b->heard = false;
  else if (b->pings++ == UNANSWERED_PINGS_MAX)
    close_with(b, WEBSOCKET_INTERNAL, "no answer to pings");
  else
    send_copy(b, frame, websocket_write_head(frame, WEBSOCKET_PING, 0, NULL));
}

void bridges_ping(struct proxy *proxy) {
  list_each (link, &proxy->bridges) ask(list_item(link, struct bridge, link));
}

void bridges_leave(struct proxy *proxy) {
  list_each (link, &proxy->bridges) {
    struct bridge *b = list_item(link, struct bridge, link);
    b->finishing = true;
    if (b->query.streaming)
      close_with(b, WEBSOCKET_GOING_AWAY, "the proxy is going away");
    else
      settle(b);
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
  list_init(&b->messages);
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
