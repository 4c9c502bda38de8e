/* What all connections have in common, and the choice of their protocol by the first bytes. */
#include "net/connection.h"

#include "net/http1_connection.h"
#include "net/http2_connection.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { UNCOUNTED = 16 * 1024 /* bytes of copied replies of a connection that are not worth counting */ };

/* RFC 9113 section 3.4. */
static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
enum { PREFACE_SIZE = sizeof preface - 1 };

/* Any connection, whatever it turns out to be. */
union any_connection {
  struct connection base;
  struct http1_connection http1;
  struct http2_connection http2;
};

/* ---- opening and closing ----------------------------------------------------------------------------------------- */

static const struct connection_kind unknown_kind;

mu_status connection_open(struct http_server *server, int fd) {
  struct connection *c = calloc(1, sizeof(union any_connection));
  if (c == NULL || uv_poll_init(net_loop_uv(server->loop), &c->poll, fd) != 0) {
    free(c);
    close(fd);
    return MU_NO_MEMORY;
  }
  c->poll.data = c;
  c->server = server;
  c->kind = &unknown_kind;
  c->fd = fd;
  c->waiting = c->write_waiting = WAIT_NONE;
  list_init(&c->ready);
  list_init(&c->wait.link);
  list_init(&c->write_wait.link);
  list_push_back(&server->connections, &c->link);
  http_server_attach(server);
  connection_settle(c);
  return MU_OK;
}

static void on_closed(uv_handle_t *handle) {
  struct connection *c = handle->data;
  struct http_server *server = c->server;
  c->kind->free_memory(c);
  free(c);
  http_server_detach(server);
}

void connection_close(struct connection *c) {
  if (c->closed) return;
  c->closed = true;
  list_remove(&c->link);
  list_remove(&c->ready);
  deadline_clear(&c->wait);
  deadline_clear(&c->write_wait);
  uv_close((uv_handle_t *)&c->poll, on_closed);
  close(c->fd);
  c->kind->end(c);
  connection_forget(c, c->copied);
  http_server_connection_closed(c->server);
}

void connection_wake(struct connection *c) {
  if (!c->closed && list_empty(&c->ready)) list_push_back(&c->server->ready, &c->ready);
}

void connection_settle(struct connection *c) {
  if (c->closed) return;
  c->kind->settle(c);
  list_remove(&c->ready);
}

void connection_drain(struct connection *c) {
  c->kind->drain(c);
  connection_wake(c);
}

void connection_give(struct connection *c) {
  struct http_server *server = c->server;
  if (c->closed || c->peer_closed || server->give == NULL) return;
  mu_status status = server->give(server->drained_context, c->fd);
  if (status == MU_OK)
    connection_close(c);
  else if (status != MU_UNAVAILABLE)
    http_server_keep_all(server);
}

/* ---- waiting and polling ----------------------------------------------------------------------------------------- */

void connection_wait(struct connection *c, enum wait wait) {
  c->waiting = wait;
  if (wait == WAIT_NONE)
    deadline_clear(&c->wait);
  else
    deadline_start(&c->server->waits[wait], &c->wait, c->server->now_ns);
}

void connection_write_wait(struct connection *c, enum wait wait) {
  c->write_waiting = wait;
  if (wait == WAIT_NONE)
    deadline_clear(&c->write_wait);
  else
    deadline_start(&c->server->waits[wait], &c->write_wait, c->server->now_ns);
  if (wait == WAIT_SLOW) http_server_arm_fine(c->server);
}

void connection_expire(enum wait wait, struct deadline *item) {
  bool writes = wait == WAIT_STALL || wait == WAIT_SLOW;
  struct connection *c =
      writes ? list_item(item, struct connection, write_wait) : list_item(item, struct connection, wait);
  if (writes)
    c->write_waiting = WAIT_NONE;
  else
    c->waiting = WAIT_NONE;
  c->kind->expire(c, wait);
  connection_settle(c);
}

static void on_poll(uv_poll_t *poll, int status, int events) {
  struct connection *c = poll->data;
  c->server->now_ns = clock_now_ns();
  if (status < 0)
    connection_close(c);
  else
    c->kind->ready(c, events);
  connection_settle(c);
}

/* Where nothing is read, the end of the client is still watched for. Once seen it would be reported for ever. */
void connection_poll(struct connection *c, bool wants_read) {
  int events = (wants_read ? UV_READABLE : 0) | (c->blocked || c->again ? UV_WRITABLE : 0) |
               (c->peer_closed || c->half_closed ? 0 : UV_DISCONNECT);
  if (events == c->polled) return;
  c->polled = events;
  if (events == 0)
    uv_poll_stop(&c->poll);
  else if (uv_poll_start(&c->poll, events, on_poll) != 0)
    connection_close(c);
}

/* ---- memory of replies ------------------------------------------------------------------------------------------- */

static size_t beyond(size_t size, size_t bound) { return size > bound ? size - bound : 0; }

mu_status connection_charge(struct connection *c, size_t size) {
  const struct http_server *server = c->server;
  if (size > server->limits.copied_reply_bytes || c->copied > server->limits.copied_reply_bytes - size)
    return MU_TOO_LARGE;
  size_t count = beyond(c->copied + size, UNCOUNTED);
  if (server->service.hold != NULL && count > c->counted) {
    if (!server->service.hold(server->context, count - c->counted)) return MU_UNAVAILABLE;
    c->counted = count;
  }
  c->copied += size;
  return MU_OK;
}

void connection_forget(struct connection *c, size_t size) {
  const struct http_server *server = c->server;
  c->copied -= size;
  size_t count = beyond(c->copied, UNCOUNTED), less = beyond(c->counted, count);
  c->counted -= less;
  if (less > 0) server->service.let_go(server->context, less);
}

/* ---- a connection that has not said what it is ------------------------------------------------------------------- */

/* From now on it is of this kind; what was recognized as the beginning of a preface are its first bytes. */
static void become(struct connection *c, const struct connection_kind *kind) {
  mu_status status = kind->start(c);
  c->kind = kind;
  if (status != MU_OK)
    connection_close(c);
  else if (c->recognized > 0)
    kind->feed(c, (const uint8_t *)preface, c->recognized);
}

static void unknown_feed(struct connection *c, const uint8_t *data, size_t size) {
  size_t same = 0;
  while (same < size && c->recognized + same < PREFACE_SIZE && data[same] == (uint8_t)preface[c->recognized + same])
    same++;
  bool two = c->recognized + same == PREFACE_SIZE && c->server->limits.streams > 0;
  if (two || (same < size && c->recognized + same < PREFACE_SIZE) || c->server->limits.streams == 0) {
    become(c, two ? &http2_kind : &http1_kind);
    if (!c->closed) c->kind->feed(c, data, size);
  } else {
    c->recognized += (uint32_t)same; /* all of it */
  }
}

/* One read: its kind goes on with the next one when the socket says that there is more. */
static void unknown_ready(struct connection *c, int events) {
  if (events & UV_READABLE) {
    ssize_t size = read(c->fd, c->server->read_buffer, READ_SIZE);
    if (size > 0) {
      unknown_feed(c, c->server->read_buffer, (size_t)size);
      return;
    }
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
  }
  if (events & (UV_READABLE | UV_DISCONNECT)) connection_close(c);
}

static void unknown_settle(struct connection *c) {
  const struct http_server *server = c->server;
  bool at_start = c->recognized == 0;
  if (at_start) connection_give(c);
  if (c->closed) return;
  enum wait wait = !at_start ? WAIT_HEAD : server->draining && !server->patient ? WAIT_FIRST : WAIT_IDLE;
  if (wait != c->waiting) connection_wait(c, wait);
  connection_poll(c, server->give == NULL || !at_start);
}

/* A beginning of a preface that does not go on is as good as one of a request line. */
static void unknown_expire(struct connection *c, enum wait wait) {
  if (wait != WAIT_HEAD) {
    connection_close(c);
    return;
  }
  become(c, &http1_kind);
  if (!c->closed) c->kind->expire(c, wait);
}

/* Whatever has arrived is taken: a request of HTTP/1.1 is answered then, and its connection is not closed as idle. */
static void unknown_drain(struct connection *c) { unknown_ready(c, UV_READABLE); }

static void unknown_end(struct connection *c) {}

static const struct connection_kind unknown_kind = {.feed = unknown_feed,
                                                    .ready = unknown_ready,
                                                    .settle = unknown_settle,
                                                    .expire = unknown_expire,
                                                    .drain = unknown_drain,
                                                    .end = unknown_end,
                                                    .free_memory = unknown_end};
