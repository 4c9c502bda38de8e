#include "cli/bench/connection.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <unistd.h>

void connection_init(struct connection *connection) {
  *connection = (struct connection){.fd = -1};
  reply_init(&connection->reply);
  buffer_init(&connection->body, SIZE_MAX / 2);
}

static void disconnect(struct connection *connection) {
  if (connection->fd >= 0) close(connection->fd); /* leaves the epoll set by that */
  connection->fd = -1;
  connection->state = CONNECTION_IDLE;
}

void connection_free(struct connection *connection) {
  disconnect(connection);
  reply_free(&connection->reply);
  buffer_free(&connection->body);
}

enum connection_outcome connection_fail(struct connection *connection, enum failure_kind kind, const char *what) {
  connection->failure = failure_make(kind, 0, what, strlen(what));
  disconnect(connection);
  return CONNECTION_FAILED;
}

/* ---- sending ----------------------------------------------------------------------------------------------------- */

static enum connection_outcome write_request(struct connection *connection, const struct connection_wire *wire) {
  while (connection->sent < wire->request_size) {
    ssize_t n = send(connection->fd, wire->request + connection->sent, wire->request_size - connection->sent,
                     MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) {
      connection->sent += (size_t)n;
    } else if (errno == EAGAIN) {
      return CONNECTION_WAITS;
    } else if (errno == EPIPE || errno == ECONNRESET) { /* a reply that says why may have come before that */
      connection->sent = wire->request_size;
      return CONNECTION_WAITS;
    } else if (errno != EINTR) {
      return connection_fail(connection, FAILURE_CONNECTION, strerror(errno));
    }
  }
  return CONNECTION_WAITS;
}

static enum connection_outcome open_connection(struct connection *connection, const struct connection_wire *wire) {
  const struct sockaddr *address = (const struct sockaddr *)&wire->address;
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = connection};
  connection->fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (connection->fd < 0) return connection_fail(connection, FAILURE_CONNECTION, strerror(errno));
  setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
  if ((connect(connection->fd, address, wire->address_size) != 0 && errno != EINPROGRESS) ||
      epoll_ctl(wire->epoll, EPOLL_CTL_ADD, connection->fd, &event) != 0)
    return connection_fail(connection, FAILURE_CONNECTION, strerror(errno));
  connection->state = CONNECTION_CONNECTING;
  return CONNECTION_WAITS;
}

enum connection_outcome connection_send(struct connection *connection, struct connection_wire *wire) {
  connection->sent = 0;
  reply_begin(&connection->reply, wire->reply_bytes);
  buffer_clear(&connection->body);
  if (connection->fd < 0) return open_connection(connection, wire);
  connection->state = CONNECTION_BUSY;
  return write_request(connection, wire);
}

/* ---- receiving --------------------------------------------------------------------------------------------------- */

static bool keep_body(struct connection *connection, const struct connection_wire *wire, const char *data,
                      size_t size) {
  bool error = connection->reply.head.status >= 300;
  if (size == 0 || (!wire->keep_bodies && !error)) return true;
  if (!wire->keep_bodies && connection->body.size + size > CONNECTION_ERROR_MAX) return true;
  return buffer_append(&connection->body, data, size) == MU_OK;
}

static enum connection_outcome complete(struct connection *connection, const struct connection_wire *wire, bool ends) {
  connection->state = CONNECTION_IDLE;
  if (ends || !connection->reply.head.keep_alive || connection->sent < wire->request_size) disconnect(connection);
  return CONNECTION_ANSWERED;
}

static enum connection_outcome take(struct connection *connection, struct connection_wire *wire, size_t size,
                                    bool ends) {
  for (size_t at = 0, used; at < size; at += used) {
    const char *body;
    size_t body_size;
    mu_error err;
    if (connection->reply.state == REPLY_DONE)
      return connection_fail(connection, FAILURE_WRONG_REPLY, "more bytes than the reply has");
    if (reply_feed(&connection->reply, &wire->cache, wire->chunk + at, size - at, &used, &body, &body_size, &err) !=
        MU_OK)
      return connection_fail(connection, FAILURE_WRONG_REPLY, err.message);
    if (!keep_body(connection, wire, body, body_size))
      return connection_fail(connection, FAILURE_WRONG_REPLY, "no memory to keep the reply");
  }
  return connection->reply.state == REPLY_DONE ? complete(connection, wire, ends) : CONNECTION_WAITS;
}

static enum connection_outcome end_of_stream(struct connection *connection, const struct connection_wire *wire) {
  if (reply_finish(&connection->reply)) return complete(connection, wire, true);
  bool begun = connection->reply.state != REPLY_HEAD || connection->reply.text.size > 0;
  return connection_fail(connection, FAILURE_CONNECTION,
                         begun ? "the server closed the connection in the middle of a reply"
                               : "the server closed the connection without a reply");
}

static enum connection_outcome read_reply(struct connection *connection, struct connection_wire *wire, bool ends) {
  for (;;) {
    ssize_t n = recv(connection->fd, wire->chunk, CONNECTION_CHUNK, MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return CONNECTION_WAITS;
    if (n < 0) return connection_fail(connection, FAILURE_CONNECTION, strerror(errno));
    if (n == 0) return end_of_stream(connection, wire);
    enum connection_outcome outcome = take(connection, wire, (size_t)n, ends);
    if (outcome != CONNECTION_WAITS || (n < CONNECTION_CHUNK && !ends)) return outcome; /* short: there is no more */
  }
}

static enum connection_outcome connected(struct connection *connection, const struct connection_wire *wire) {
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &size);
  if (error != 0) return connection_fail(connection, FAILURE_CONNECTION, strerror(error));
  connection->state = CONNECTION_BUSY;
  return write_request(connection, wire);
}

enum connection_outcome connection_event(struct connection *connection, struct connection_wire *wire, uint32_t events) {
  bool ends = (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
  enum connection_outcome outcome = CONNECTION_WAITS;
  if (connection->state == CONNECTION_IDLE) {
    if (!ends && (events & EPOLLIN) == 0) return CONNECTION_WAITS; /* room to write: nothing is to be written */
    if (!ends && recv(connection->fd, wire->chunk, 1, MSG_DONTWAIT | MSG_PEEK) < 0) return CONNECTION_WAITS;
    disconnect(connection); /* bytes that nobody asked for, or the end */
    return CONNECTION_LOST;
  }
  if (connection->state == CONNECTION_CONNECTING) {
    if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) == 0) return CONNECTION_WAITS;
    outcome = connected(connection, wire);
  } else if (connection->sent < wire->request_size) {
    outcome = write_request(connection, wire);
  }
  if (outcome != CONNECTION_WAITS || (!ends && (events & EPOLLIN) == 0)) return outcome;
  return read_reply(connection, wire, ends);
}
