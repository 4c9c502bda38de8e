/* The life of an HTTP/2 connection: reading, waiting, going away. */
#include "net/http2_connection.h"

#include "net/http_message.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READS_PER_TURN = 8 }; /* then the loop's other connections have their turn */

/* Frames that bring nothing (settings, pings, window updates, empty data …). */
#define CREDIT_MOST 2000
#define CREDIT_PER_S 100

static const uint8_t going_ping[8] = "draining";

/* ---- going away -------------------------------------------------------------------------------------------------- */

void http2_connection_fail(struct http2_connection *c, uint32_t error_code) {
  if (nghttp2_session_terminate_session(c->session, error_code) != 0) connection_close(&c->base);
  c->dead = true;
}

/* A client may open streams until it has heard that it should not, so it is told first, and the last stream that is
 * looked at is named when it has (RFC 9113 section 6.8): the answer to a ping says so. */
static void go(struct http2_connection *c) {
  if (c->going != GOING_NOT || c->dead) return;
  c->going = GOING_SAID;
  c->idle_going = list_empty(&c->exchanges);
  c->requests_at_going = c->requests;
  if (nghttp2_submit_shutdown_notice(c->session) != 0 ||
      nghttp2_submit_ping(c->session, NGHTTP2_FLAG_NONE, going_ping) != 0)
    connection_close(&c->base);
}

static void go_finally(struct http2_connection *c) {
  if (c->going != GOING_SAID || c->dead) return;
  c->going = GOING_FINAL;
  int32_t last = nghttp2_session_get_last_proc_stream_id(c->session);
  if (nghttp2_submit_goaway(c->session, NGHTTP2_FLAG_NONE, last, NGHTTP2_NO_ERROR, NULL, 0) != 0)
    connection_close(&c->base);
}

void http2_connection_pinged(struct http2_connection *c, const uint8_t *opaque) {
  if (memcmp(opaque, going_ping, sizeof going_ping) == 0) go_finally(c);
}

/* It goes, and nothing has been in flight since it was told so: of what its client has not read yet, a reset could take
 * nothing but our good-bye. */
static bool has_been_idle(const struct http2_connection *c) {
  return c->going == GOING_FINAL && c->idle_going && c->requests == c->requests_at_going;
}

/* What has come already is not what a reset is sent for. */
static void close_idle(struct http2_connection *c) {
  for (int i = 0; i < READS_PER_TURN; i++)
    if (read(c->base.fd, c->base.server->read_buffer, READ_SIZE) <= 0) break;
  connection_close(&c->base);
}

/* All that there was to say is written. What the client still sends is read and thrown away for a while, as a reset
 * would take from it what it has not read. */
static void finish(struct http2_connection *c) {
  c->dead = true;
  if (has_been_idle(c)) {
    close_idle(c);
    return;
  }
  while (!c->base.closed && !list_empty(&c->exchanges))
    http2_exchange_end(list_item(c->exchanges.next, struct http2_exchange, link));
  if (c->base.closed) return;
  if (c->base.peer_closed || shutdown(c->base.fd, SHUT_WR) != 0) {
    connection_close(&c->base);
    return;
  }
  c->lingering = true;
  c->linger_until_ns = time_add(c->base.server->now_ns, LINGER_MOST_NS);
}

static bool is_finished(const struct http2_connection *c) {
  if (c->lingering || c->out.n > 0) return false;
  return c->base.peer_closed ||
         (!nghttp2_session_want_read(c->session) && (c->dead || !nghttp2_session_want_write(c->session)));
}

/* ---- waiting ----------------------------------------------------------------------------------------------------- */

static enum wait next_wait(const struct http2_connection *c) {
  if (c->lingering) return WAIT_LINGER;
  if (c->dead) return WAIT_NONE;
  if (c->in_head) return WAIT_HEAD;
  if (c->going == GOING_SAID) return WAIT_FIRST;
  if (c->n_bodies > 0) return WAIT_BODY;
  return c->n_exchanges > 0 ? WAIT_NONE : WAIT_IDLE;
}

static void start_wait(struct http2_connection *c, enum wait kind) {
  c->wait_requests = c->requests;
  connection_wait(&c->base, kind);
  if (kind != WAIT_BODY) return;
  list_each (link, &c->exchanges) {
    struct http2_exchange *x = list_item(link, struct http2_exchange, link);
    x->checked = true;
    x->received_check = x->received;
  }
}

static void update_wait(struct http2_connection *c) {
  enum wait kind = next_wait(c);
  bool anew = (kind == WAIT_HEAD || kind == WAIT_IDLE) && c->wait_requests != c->requests;
  if (kind != c->base.waiting || anew) start_wait(c, kind);
}

/* The share of a stretch, in bytes. */
static double share(const struct http2_connection *c, enum wait wait) {
  const struct http_server *server = c->base.server;
  return (double)server->waits[wait].duration_ns / (double)NS_PER_S * (double)server->limits.body_min_rate;
}

static bool is_body_due(const struct http2_exchange *x) {
  return x->begun && x->body_wanted && !x->request_ended && !x->paused && !x->streaming && !x->unbounded;
}

/* As in HTTP/1.1, for each stream that was there for the whole stretch; and it must have brought something. */
static void expire_body(struct http2_connection *c) {
  double least = share(c, WAIT_BODY);
  list_each (link, &c->exchanges) {
    struct http2_exchange *x = list_item(link, struct http2_exchange, link);
    if (x->checked && is_body_due(x) && (double)(x->received - x->received_check) < least)
      http2_request_refuse(x, 408, "the request's body comes too slowly");
    if (c->base.closed) return;
  }
  start_wait(c, WAIT_BODY);
}

/* A client that takes too little is cut. One that takes enough, but nothing of a stream whose window it keeps closed,
 * loses that stream. */
static void expire_answer(struct http2_connection *c) {
  double least = share(c, WAIT_STALL);
  uint64_t taken = c->sent - c->sent_at_wait;
  bool closed = c->base.blocked || nghttp2_session_get_remote_window_size(c->session) <= 0;
  if (closed && (taken == 0 || (double)taken < least)) {
    connection_close(&c->base);
    return;
  }
  list_each (link, &c->sending) {
    struct http2_exchange *x = list_item(link, struct http2_exchange, sending);
    uint64_t framed = x->framed - x->framed_check;
    bool starves = nghttp2_session_get_stream_remote_window_size(c->session, x->stream_id) <= 0;
    if (x->checked_answer && starves && (framed == 0 || (double)framed < least) &&
        nghttp2_submit_rst_stream(c->session, NGHTTP2_FLAG_NONE, x->stream_id, NGHTTP2_CANCEL) != 0) {
      connection_close(&c->base);
      return;
    }
    x->checked_answer = true;
    x->framed_check = x->framed;
  }
}

static void expire_head(struct http2_connection *c) { http2_connection_fail(c, NGHTTP2_ENHANCE_YOUR_CALM); }

static void close_it(struct http2_connection *c) { connection_close(&c->base); }

static void (*const on_expired[WAIT_COUNT])(struct http2_connection *c) = {
    [WAIT_IDLE] = go,         [WAIT_FIRST] = go_finally,    [WAIT_HEAD] = expire_head,      [WAIT_BODY] = expire_body,
    [WAIT_LINGER] = close_it, [WAIT_STALL] = expire_answer, [WAIT_SLOW] = http2_reply_copy,
};

static void expire(struct connection *connection, enum wait wait) { on_expired[wait](http2_of(connection)); }

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static void refill_credit(struct http2_connection *c) {
  uint64_t now = c->base.server->now_ns;
  c->credit += (double)(now - c->credit_ns) / (double)NS_PER_S * CREDIT_PER_S;
  if (c->credit > CREDIT_MOST) c->credit = CREDIT_MOST;
  c->credit_ns = now;
}

/* Frames of unknown types cost as if they were empty; a frame that is cut by a read is made good by the next one. */
static void take_credit(struct http2_connection *c, size_t size) {
  c->fed += size;
  if (c->fed > c->understood) {
    c->credit -= (double)(c->fed - c->understood) / 9;
    c->understood = c->fed;
  }
  if (c->credit < 0 && !c->dead) http2_connection_fail(c, NGHTTP2_ENHANCE_YOUR_CALM);
}

static void feed(struct connection *connection, const uint8_t *data, size_t size) {
  struct http2_connection *c = http2_of(connection);
  if (c->dead) return;
  refill_credit(c);
  ssize_t used = nghttp2_session_mem_recv(c->session, data, size);
  if (c->base.closed) return;
  take_credit(c, size);
  if (used < 0 ||
      nghttp2_session_get_outbound_queue_size(c->session) > HTTP2_OUTBOUND_MOST + c->base.server->limits.streams)
    connection_close(connection);
}

/* The client has left. Answers that are there are still written as far as they are made into frames. */
static void see_end(struct http2_connection *c) {
  if (c->lingering) { /* that is what it waited for */
    connection_close(&c->base);
    return;
  }
  c->base.peer_closed = c->dead = true;
  list_each (link, &c->exchanges) {
    struct http2_exchange *x = list_item(link, struct http2_exchange, link);
    if (!x->answered) http2_exchange_end(x);
    if (c->base.closed) return;
  }
}

static bool wants_read(const struct http2_connection *c) {
  return !c->base.closed && !c->base.peer_closed && (!c->dead || c->lingering);
}

static void read_some(struct http2_connection *c) {
  struct http_server *server = c->base.server;
  for (int i = 0; i < READS_PER_TURN && wants_read(c); i++) {
    ssize_t size = read(c->base.fd, server->read_buffer, READ_SIZE);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0 && errno == EAGAIN) return;
    if (size < 0) connection_close(&c->base);
    if (size == 0) see_end(c);
    if (size <= 0) return;
    if (!c->lingering)
      feed(&c->base, server->read_buffer, (size_t)size);
    else if (server->now_ns > c->linger_until_ns)
      connection_close(&c->base);
    else
      start_wait(c, WAIT_LINGER);
    if (size < READ_SIZE) return;
  }
}

static void ready(struct connection *connection, int events) {
  struct http2_connection *c = http2_of(connection);
  if (events & UV_READABLE)
    read_some(c);
  else if (events & UV_DISCONNECT)
    see_end(c);
}

static void settle(struct connection *connection) {
  struct http2_connection *c = http2_of(connection);
  if (connection->server->draining) go(c);
  do {
    if (connection->closed) return;
    http2_reply_flush(c);
  } while (http2_request_replay(c));
  if (!connection->closed && is_finished(c)) finish(c);
  if (connection->closed) return;
  update_wait(c);
  connection_poll(connection, wants_read(c));
}

/* ---- opening and closing ----------------------------------------------------------------------------------------- */

static mu_status start(struct connection *connection) {
  struct http2_connection *c = http2_of(connection);
  list_init(&c->exchanges);
  list_init(&c->resumed);
  list_init(&c->sending);
  list_init(&c->above);
  reply_queue_init(&c->out);
  c->credit = CREDIT_MOST;
  c->understood = 24; /* the preface */
  c->credit_ns = connection->server->now_ns;
  return http2_session_create(c);
}

static void end(struct connection *connection) {
  struct http2_connection *c = http2_of(connection);
  while (!list_empty(&c->exchanges)) http2_exchange_end(list_item(c->exchanges.next, struct http2_exchange, link));
  reply_queue_clear(&c->out);
}

static void free_memory(struct connection *connection) {
  struct http2_connection *c = http2_of(connection);
  nghttp2_session_del(c->session);
  reply_queue_free(&c->out);
}

static void drain(struct connection *connection) {}

const struct connection_kind http2_kind = {.start = start,
                                           .feed = feed,
                                           .ready = ready,
                                           .settle = settle,
                                           .expire = expire,
                                           .drain = drain,
                                           .end = end,
                                           .free_memory = free_memory};
