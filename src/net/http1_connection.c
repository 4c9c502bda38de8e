/* The life of a connection: polling, reading, waiting, closing. */
#include "net/http1_connection.h"
#include "net/http_message.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
  READS_PER_TURN = 8,      /* then the loop's other connections have their turn */
  DIRECT_LEAST = 16 * 1024 /* bytes of a body for which a read of their own is worth it */
};

/* ---- opening and closing ----------------------------------------------------------------------------------------- */

static mu_status start(struct connection *connection) {
  struct http1_connection *c = http1_of(connection);
  buffer_init(&c->held, 2 * READ_SIZE);
  buffer_init(&c->undecoded, 2 * READ_SIZE);
  list_init(&c->exchanges);
  c->codec = http1_codec_create(false, &http1_request_events, c, c->base.server->limits.head_bytes);
  if (c->codec != NULL) return MU_OK;
  http1_reply_no_memory(c);
  return MU_NO_MEMORY;
}

static void free_memory(struct connection *connection) {
  struct http1_connection *c = http1_of(connection);
  http1_codec_free(c->codec);
  content_decoder_free(c->decoder);
  buffer_free(&c->undecoded);
  buffer_free(&c->held);
}

static void end(struct connection *connection) {
  struct http1_connection *c = http1_of(connection);
  c->current = NULL;
  if (c->incoming != NULL) http1_exchange_release(c->incoming);
  c->incoming = NULL;
  for (struct list *link; (link = list_pop_front(&c->exchanges)) != NULL;) {
    struct http1_exchange *x = list_item(link, struct http1_exchange, link);
    http1_exchange_end(x);
    http1_exchange_release(x);
  }
}

/* ---- waiting ----------------------------------------------------------------------------------------------------- */

static enum wait next_wait(const struct http1_connection *c) {
  if (c->input == INPUT_LINGER) return WAIT_LINGER;
  if (c->input == INPUT_CLOSED || c->paused || c->raw) return WAIT_NONE;
  bool bound = c->current == NULL || !(c->current->streaming || c->current->unbounded);
  if (c->in_message) return bound ? WAIT_BODY : WAIT_NONE;
  if (c->stalled) return WAIT_NONE;
  if (http1_codec_busy(c->codec)) return WAIT_HEAD;
  if (c->n_exchanges > 0) return WAIT_NONE;
  return c->base.server->draining && !c->base.server->patient ? WAIT_FIRST : WAIT_IDLE;
}

static void start_wait(struct http1_connection *c, enum wait kind) {
  c->wait_requests = c->requests;
  c->received_at_wait = c->received;
  connection_wait(&c->base, kind);
}

static void update_wait(struct http1_connection *c) {
  enum wait kind = next_wait(c);
  if (kind != c->base.waiting || (kind != WAIT_NONE && c->wait_requests != c->requests)) start_wait(c, kind);
}

static void expire_head(struct http1_connection *c) {
  http1_request_refuse(c, 408, "the request's head took too long");
}

/* Each stretch must have brought its share; only bytes since its start count, so that a fast beginning does not buy an
 * endless rest. */
static void expire_body(struct http1_connection *c) {
  double seconds = (double)c->base.server->waits[WAIT_BODY].duration_ns / (double)NS_PER_S;
  if ((double)(c->received - c->received_at_wait) >= seconds * (double)c->base.server->limits.body_min_rate)
    start_wait(c, WAIT_BODY);
  else
    http1_request_refuse(c, 408, "the request's body comes too slowly");
}

/* The same for answers. Enough was taken: what is left gets another stretch, as soon as it is found to be left. */
static void expire_answer(struct http1_connection *c) {
  double seconds = (double)c->base.server->waits[WAIT_STALL].duration_ns / (double)NS_PER_S;
  uint64_t taken = c->sent - c->sent_at_wait;
  if (taken == 0 || (double)taken < seconds * (double)c->base.server->limits.body_min_rate) connection_close(&c->base);
}

static void close_it(struct http1_connection *c) { connection_close(&c->base); }

static void (*const on_expired[WAIT_COUNT])(struct http1_connection *c) = {
    [WAIT_IDLE] = close_it,   [WAIT_FIRST] = close_it,      [WAIT_HEAD] = expire_head,      [WAIT_BODY] = expire_body,
    [WAIT_LINGER] = close_it, [WAIT_STALL] = expire_answer, [WAIT_SLOW] = http1_reply_copy,
};

static void expire(struct connection *connection, enum wait wait) { on_expired[wait](http1_of(connection)); }

/* ---- polling ----------------------------------------------------------------------------------------------------- */

/* Between two requests, as far as reading goes. */
static bool is_between(const struct http1_connection *c) {
  return c->input == INPUT_OPEN && !c->raw && !c->in_message && c->held.size == 0 && !c->stalled &&
         !http1_codec_busy(c->codec);
}

/* What comes after the requests that are in hand is the next process's to read. */
static bool is_handed_over(const struct http1_connection *c) { return c->base.server->give != NULL && is_between(c); }

static bool wants_read(const struct http1_connection *c) {
  if (c->base.closed || c->base.peer_closed || is_handed_over(c)) return false;
  return c->input == INPUT_LINGER || (c->input == INPUT_OPEN && !c->paused && !c->stalled);
}

/* The last answer is out. What the client still sends is read and thrown away for a while: closing on unread bytes
 * resets the connection, and a reset takes from the client what it has not read of the answer (RFC 9112 section 9.6).
 */
static void finish(struct http1_connection *c) {
  if (c->base.peer_closed || shutdown(c->base.fd, SHUT_WR) != 0) {
    connection_close(&c->base);
    return;
  }
  c->input = INPUT_LINGER;
  c->linger_until_ns = time_add(c->base.server->now_ns, LINGER_MOST_NS);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static bool has_unanswered(const struct http1_connection *c) {
  for (const struct list *link = c->exchanges.next; link != &c->exchanges; link = link->next)
    if (!list_item(link, const struct http1_exchange, link)->answered) return true;
  return false;
}

/* The client sends no more, which for one of ours means that it has left. Answers that are there already are still
 * sent as far as nothing is missing before them. */
static void see_end(struct http1_connection *c) {
  c->base.peer_closed = true;
  if (c->raw && c->current != NULL) return; /* the exchange is told, and may have something to say */
  c->input = INPUT_CLOSED;
  c->current = NULL;
  c->finishing = true;
  while (!c->base.closed && has_unanswered(c)) {
    struct http1_exchange *last = list_item(c->exchanges.prev, struct http1_exchange, link);
    list_remove(&last->link);
    c->n_exchanges--;
    connection_forget(&c->base, last->charged + last->parts_charged);
    last->charged = last->parts_charged = 0;
    http1_exchange_end(last);
    http1_exchange_release(last);
  }
}

/* Where the next bytes go: into the service's own memory, if much of a body is to come and it has a place for it, with
 * the read buffer behind it where that place is short; else into the read buffer. */
static size_t choose_target(struct http1_connection *c, struct iovec target[2]) {
  struct http_server *server = c->base.server;
  struct http1_exchange *x = c->current;
  uint64_t left = x != NULL && c->decoder == NULL && !c->raw ? http1_codec_body_left(c->codec) : 0;
  size_t n = 0, room = 0;
  uint8_t *place = NULL;
  if (c->input == INPUT_OPEN && left >= DIRECT_LEAST && server->service.window != NULL &&
      server->service.window(server->context, &x->base, &place, &room)) {
    if (room > left) room = (size_t)left;
    target[n++] = (struct iovec){.iov_base = place, .iov_len = room};
    if (room >= DIRECT_LEAST) return n;
  }
  target[n++] = (struct iovec){.iov_base = server->read_buffer, .iov_len = READ_SIZE};
  return n;
}

static void take_bytes(struct http1_connection *c, const struct iovec *target, size_t size) {
  c->received += size;
  for (size_t i = 0; size > 0 && !c->base.closed; i++) {
    size_t part = size < target[i].iov_len ? size : target[i].iov_len;
    if (c->input == INPUT_OPEN) http1_request_feed(c, target[i].iov_base, part);
    size -= part;
  }
}

static void read_some(struct http1_connection *c) {
  for (int i = 0; i < READS_PER_TURN && wants_read(c); i++) {
    struct iovec target[2];
    size_t n = choose_target(c, target);
    if (!wants_read(c)) return; /* the service has answered or paused instead */
    size_t room = target[0].iov_len + (n > 1 ? target[1].iov_len : 0);
    ssize_t size = readv(c->base.fd, target, (int)n);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0 && errno == EAGAIN) return;
    if (size < 0) connection_close(&c->base);
    if (size == 0) see_end(c);
    if (size <= 0) return;
    if (c->input == INPUT_LINGER) {
      if (c->base.server->now_ns > c->linger_until_ns)
        connection_close(&c->base);
      else
        start_wait(c, WAIT_LINGER);
    }
    take_bytes(c, target, (size_t)size);
    if ((size_t)size < room) return;
  }
}

/* A request that has arrived is answered; a connection that has had its answers and has none to come is closed. */
static void leave_if_idle(struct http1_connection *c) {
  c->drain_due = false;
  read_some(c);
  bool idle = c->n_exchanges == 0 && !c->in_message && !http1_codec_busy(c->codec);
  if (idle && c->requests > 0) connection_close(&c->base);
}

static void settle(struct connection *connection) {
  struct http1_connection *c = http1_of(connection);
  if (c->drain_due) leave_if_idle(c);
  c->base.again = false;
  do {
    if (c->base.closed) return;
    http1_reply_continue(c);
    http1_reply_flush(c);
    if (!c->base.again && http1_parts_ask(c)) http1_reply_flush(c);
  } while (!c->base.closed && http1_request_replay(c));
  if (c->base.closed) return;
  if (c->finishing && list_empty(&c->exchanges) && c->input != INPUT_LINGER) finish(c);
  if (c->base.closed) return;
  if (!c->finishing && c->n_exchanges == 0 && is_handed_over(c)) connection_give(&c->base);
  if (c->base.closed) return;
  update_wait(c);
  connection_poll(&c->base, wants_read(c));
}

static void ready(struct connection *connection, int events) {
  struct http1_connection *c = http1_of(connection);
  if (events & UV_READABLE)
    read_some(c);
  else if ((events & UV_DISCONNECT) && c->raw)
    c->base.half_closed = true; /* what came before the end is read once the service goes on */
  else if (events & UV_DISCONNECT)
    see_end(c);
}

static void drain(struct connection *connection) { http1_of(connection)->drain_due = true; }

static void feed(struct connection *connection, const uint8_t *data, size_t size) {
  struct http1_connection *c = http1_of(connection);
  c->received += size;
  http1_request_feed(c, data, size);
}

const struct connection_kind http1_kind = {.start = start,
                                           .feed = feed,
                                           .ready = ready,
                                           .settle = settle,
                                           .expire = expire,
                                           .drain = drain,
                                           .end = end,
                                           .free_memory = free_memory};
