/* The life of a connection: polling, reading, waiting, closing. */
#include "net/http1_connection.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
  READS_PER_TURN = 8,      /* then the loop's other connections have their turn */
  DIRECT_LEAST = 16 * 1024 /* bytes of a body for which a read of their own is worth it */
};

#define LINGER_MOST_NS (30 * NS_PER_S)

/* ---- opening and closing ----------------------------------------------------------------------------------------- */

static void on_closed(uv_handle_t *handle) {
  struct http1_connection *c = handle->data;
  struct http_server *server = c->server;
  http1_codec_free(c->codec);
  content_decoder_free(c->decoder);
  buffer_free(&c->undecoded);
  buffer_free(&c->held);
  free(c);
  http_server_detach(server);
}

void http1_connection_close(struct http1_connection *c) {
  if (c->closed) return;
  c->closed = true;
  c->current = NULL;
  list_remove(&c->link);
  list_remove(&c->ready);
  deadline_clear(&c->wait);
  deadline_clear(&c->write_wait);
  uv_close((uv_handle_t *)&c->poll, on_closed);
  close(c->fd);
  if (c->incoming != NULL) http1_exchange_release(c->incoming);
  c->incoming = NULL;
  for (struct list *link; (link = list_pop_front(&c->exchanges)) != NULL;) {
    struct http1_exchange *x = list_item(link, struct http1_exchange, link);
    http1_exchange_end(x);
    http1_exchange_release(x);
  }
  http1_reply_forget(c, c->copied);
  http_server_connection_closed(c->server);
}

void http1_connection_wake(struct http1_connection *c) {
  if (!c->closed && list_empty(&c->ready)) list_push_back(&c->server->ready, &c->ready);
}

/* ---- waiting ----------------------------------------------------------------------------------------------------- */

static enum wait next_wait(const struct http1_connection *c) {
  if (c->input == INPUT_LINGER) return WAIT_LINGER;
  if (c->input == INPUT_CLOSED || c->paused) return WAIT_NONE;
  if (c->in_message) return WAIT_BODY;
  if (c->stalled) return WAIT_NONE;
  if (http1_codec_busy(c->codec)) return WAIT_HEAD;
  if (c->n_exchanges > 0) return WAIT_NONE;
  return c->server->draining && !c->server->patient ? WAIT_FIRST : WAIT_IDLE;
}

static void start_wait(struct http1_connection *c, enum wait kind) {
  c->waiting = kind;
  c->wait_requests = c->requests;
  c->received_at_wait = c->received;
  deadline_start(&c->server->waits[kind], &c->wait, c->server->now_ns);
}

static void update_wait(struct http1_connection *c) {
  enum wait kind = next_wait(c);
  if (kind == c->waiting && c->wait_requests == c->requests) return;
  if (kind != WAIT_NONE) {
    start_wait(c, kind);
    return;
  }
  c->waiting = WAIT_NONE;
  deadline_clear(&c->wait);
}

static void expire_head(struct http1_connection *c) {
  http1_request_refuse(c, 408, "the request's head took too long");
}

/* Each stretch must have brought its share; only bytes since its start count, so that a fast beginning does not buy an
 * endless rest. */
static void expire_body(struct http1_connection *c) {
  double seconds = (double)c->server->waits[WAIT_BODY].duration_ns / (double)NS_PER_S;
  if ((double)(c->received - c->received_at_wait) >= seconds * (double)c->server->limits.body_min_rate)
    start_wait(c, WAIT_BODY);
  else
    http1_request_refuse(c, 408, "the request's body comes too slowly");
}

/* The same for answers. Enough was taken: what is left gets another stretch, as soon as it is found to be left. */
static void expire_answer(struct http1_connection *c) {
  double seconds = (double)c->server->waits[WAIT_STALL].duration_ns / (double)NS_PER_S;
  uint64_t taken = c->sent - c->sent_at_wait;
  if (taken == 0 || (double)taken < seconds * (double)c->server->limits.body_min_rate) http1_connection_close(c);
}

static void (*const on_expired[WAIT_COUNT])(struct http1_connection *c) = {
    [WAIT_IDLE] = http1_connection_close,
    [WAIT_FIRST] = http1_connection_close,
    [WAIT_HEAD] = expire_head,
    [WAIT_BODY] = expire_body,
    [WAIT_LINGER] = http1_connection_close,
    [WAIT_STALL] = expire_answer,
    [WAIT_SLOW] = http1_reply_copy,
};

void http1_connection_expire(struct http_server *server, enum wait wait, struct deadline *item) {
  bool writes = wait == WAIT_STALL || wait == WAIT_SLOW;
  struct http1_connection *c =
      writes ? list_item(item, struct http1_connection, write_wait) : list_item(item, struct http1_connection, wait);
  if (writes)
    c->write_waiting = WAIT_NONE;
  else
    c->waiting = WAIT_NONE;
  on_expired[wait](c);
  http1_connection_settle(c);
}

/* ---- polling ----------------------------------------------------------------------------------------------------- */

/* Between two requests, as far as reading goes. */
static bool is_between(const struct http1_connection *c) {
  return c->input == INPUT_OPEN && !c->in_message && c->held.size == 0 && !c->stalled && !http1_codec_busy(c->codec);
}

/* What comes after the requests that are in hand is the next process's to read. */
static bool is_handed_over(const struct http1_connection *c) { return c->server->give != NULL && is_between(c); }

static bool wants_read(const struct http1_connection *c) {
  if (c->closed || c->peer_closed || is_handed_over(c)) return false;
  return c->input == INPUT_LINGER || (c->input == INPUT_OPEN && !c->paused && !c->stalled);
}

static void on_poll(uv_poll_t *poll, int status, int events);

/* Where nothing is read, the end of the client is still watched for. Once seen it would be reported for ever. */
static void update_poll(struct http1_connection *c) {
  int events =
      (wants_read(c) ? UV_READABLE : 0) | (c->blocked ? UV_WRITABLE : 0) | (c->peer_closed ? 0 : UV_DISCONNECT);
  if (events == c->polled) return;
  c->polled = events;
  if (events == 0)
    uv_poll_stop(&c->poll);
  else if (uv_poll_start(&c->poll, events, on_poll) != 0)
    http1_connection_close(c);
}

/* The last answer is out. What the client still sends is read and thrown away for a while: closing on unread bytes
 * resets the connection, and a reset takes from the client what it has not read of the answer (RFC 9112 section 9.6).
 */
static void finish(struct http1_connection *c) {
  if (c->peer_closed || shutdown(c->fd, SHUT_WR) != 0) {
    http1_connection_close(c);
    return;
  }
  c->input = INPUT_LINGER;
  c->linger_until_ns = time_add(c->server->now_ns, LINGER_MOST_NS);
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
  c->peer_closed = true;
  c->input = INPUT_CLOSED;
  c->current = NULL;
  c->finishing = true;
  while (!c->closed && has_unanswered(c)) {
    struct http1_exchange *last = list_item(c->exchanges.prev, struct http1_exchange, link);
    list_remove(&last->link);
    c->n_exchanges--;
    http1_reply_forget(c, last->charged);
    http1_exchange_end(last);
    http1_exchange_release(last);
  }
}

/* Where the next bytes go: into the service's own memory, if much of a body is to come and it has a place for it, with
 * the read buffer behind it where that place is short; else into the read buffer. */
static size_t choose_target(struct http1_connection *c, struct iovec target[2]) {
  struct http_server *server = c->server;
  struct http1_exchange *x = c->current;
  uint64_t left = x != NULL && c->decoder == NULL ? http1_codec_body_left(c->codec) : 0;
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
  for (size_t i = 0; size > 0 && !c->closed; i++) {
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
    ssize_t size = readv(c->fd, target, (int)n);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0 && errno == EAGAIN) return;
    if (size < 0) http1_connection_close(c);
    if (size == 0) see_end(c);
    if (size <= 0) return;
    if (c->input == INPUT_LINGER) {
      if (c->server->now_ns > c->linger_until_ns)
        http1_connection_close(c);
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
  if (idle && c->requests > 0) http1_connection_close(c);
}

void http1_connection_give(struct http1_connection *c) {
  struct http_server *server = c->server;
  if (c->closed || c->peer_closed || c->finishing || c->n_exchanges > 0 || !is_handed_over(c)) return;
  mu_status status = server->give(server->drained_context, c->fd);
  if (status == MU_OK)
    http1_connection_close(c);
  else if (status != MU_UNAVAILABLE)
    http_server_keep_all(server);
}

void http1_connection_settle(struct http1_connection *c) {
  if (c->drain_due && !c->closed) leave_if_idle(c);
  do {
    if (c->closed) return;
    http1_reply_continue(c);
    http1_reply_flush(c);
  } while (http1_request_replay(c));
  if (c->closed) return;
  if (c->finishing && list_empty(&c->exchanges) && c->input != INPUT_LINGER) finish(c);
  if (c->closed) return;
  http1_connection_give(c);
  if (c->closed) return;
  list_remove(&c->ready);
  update_wait(c);
  update_poll(c);
}

static void on_poll(uv_poll_t *poll, int status, int events) {
  struct http1_connection *c = poll->data;
  c->server->now_ns = clock_now_ns();
  if (status < 0) {
    http1_connection_close(c);
    return;
  }
  if (events & UV_READABLE)
    read_some(c);
  else if (events & UV_DISCONNECT)
    see_end(c);
  http1_connection_settle(c);
}

mu_status http1_connection_open(struct http_server *server, int fd) {
  struct http1_connection *c = calloc(1, sizeof *c);
  if (c == NULL) goto fail;
  c->codec = http1_codec_create(false, &http1_request_events, c, server->limits.head_bytes);
  if (c->codec == NULL || uv_poll_init(net_loop_uv(server->loop), &c->poll, fd) != 0) goto fail;
  c->poll.data = c;
  c->server = server;
  c->fd = fd;
  c->waiting = c->write_waiting = WAIT_NONE;
  buffer_init(&c->held, 2 * READ_SIZE);
  buffer_init(&c->undecoded, 2 * READ_SIZE);
  list_init(&c->ready);
  list_init(&c->exchanges);
  list_init(&c->wait.link);
  list_init(&c->write_wait.link);
  list_push_back(&server->connections, &c->link);
  http_server_attach(server);
  http1_connection_settle(c);
  return MU_OK;

fail:
  if (c != NULL) http1_codec_free(c->codec);
  free(c);
  close(fd);
  return MU_NO_MEMORY;
}

void http1_connection_drain(struct http1_connection *c) {
  c->drain_due = true;
  http1_connection_wake(c);
}
