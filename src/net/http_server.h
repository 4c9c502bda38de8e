/*
 * Listening sockets and the connections that come from them: sockets <-> exchanges. HTTP/1.1 and HTTP/2 on TCP and on
 * Unix sockets; the first bytes of a connection say which. One http_server for a set of listeners with one service on
 * one loop; several loops listen on one port through SO_REUSEPORT sockets of their own.
 */
#ifndef NET_HTTP_SERVER_H
#define NET_HTTP_SERVER_H

#include "net/exchange.h"
#include "net/loop.h"

struct http_server;

/* Connections of several servers together; any thread. */
struct connection_room {
  _Atomic uint32_t open;
  uint32_t most;
};

struct http_limits {
  uint64_t body_bytes;      /* largest body, inflated: 413 */
  uint64_t head_bytes;      /* request line and headers: 431 */
  uint32_t pipeline;        /* requests of an HTTP/1.1 connection that are not answered yet; reading stops at it (16) */
  uint32_t streams;         /* the same for HTTP/2, which says it to its client (1024); 0: no HTTP/2 */
  uint64_t idle_timeout_ns; /* keep-alive without a request; a stretch in which a client takes its answer */
  uint64_t head_timeout_ns; /* from the first byte to the end of the head: 408 */
  uint64_t body_min_rate;   /* bytes a second that a body must bring in every stretch of body_grace_ns: 408; and
                             * that a client must take of its answer in every stretch of idle_timeout_ns, or is cut */
  uint64_t body_grace_ns;   /* at least 0.1 s; time in which the service has paused the body does not count */
  uint64_t slow_reply_ns;   /* 20 ms: an unwritten reply is copied then */
  uint64_t copied_reply_bytes;  /* of a connection; past it the connection is cut. Not less than the largest reply */
  uint32_t connections;         /* open at once; further ones are not accepted until one closes */
  bool verbatim;                /* for who passes requests on: exchange.lines, and bodies stay compressed */
  struct connection_room *room; /* borrowed: the bound that this server shares with others; NULL: none */
};

/* service, limits are copied; context is borrowed. NULL without memory. */
struct http_server *http_server_create(struct net_loop *loop, const struct service *service, void *context,
                                       const struct http_limits *limits);

/* Takes over a listening socket (TCP or Unix), non-blocking, CLOEXEC, also when it fails. MU_IO, MU_NO_MEMORY. */
MUST_CHECK mu_status http_server_listen(struct http_server *server, int fd, mu_error *err);

/* Drain: closes the listeners after taking what is already in their backlog, says `Connection: close` on every further
 * answer, closes idle connections; calls drained(context) once no connection is left. */
void http_server_drain(struct http_server *server, void (*drained)(void *context), void *context);

/* Between these two nothing is accepted: connections wait in the backlog. hold: before listening. */
void http_server_hold(struct http_server *server);
void http_server_open(struct http_server *server);

/*
 * Hands over to another process that has the same listening sockets: closes its own descriptors of them, which leaves
 * the backlog to the other one, and gives every connection away as soon as it is between two requests with nothing
 * unwritten. What the client sends next waits in the socket; it notices nothing. Calls drained(context) once no
 * connection is left.
 *   give: sends the descriptor, which stays the server's. MU_OK: sent; MU_UNAVAILABLE: not now, tried again soon; else:
 *   nobody is there to take it. From then on connections stay until their client speaks (the answer says
 *   `Connection: close`) or has been idle for too long.
 * http_server_drain may follow and hurries it.
 */
void http_server_hand_over(struct http_server *server, mu_status (*give)(void *context, int fd),
                           void (*drained)(void *context), void *context);

/* A connection given away by another process. Takes fd over, also when it fails. MU_NO_MEMORY. */
MUST_CHECK mu_status http_server_adopt(struct http_server *server, int fd);

/* Closes everything at once; `gone` is called for open exchanges. Memory goes with the loop's next turn. */
void http_server_free(struct http_server *server); /* accepts NULL */

struct http_server_counts {
  uint64_t connections_open, connections_total, requests_total;
};
/* Any thread. */
void http_server_count(const struct http_server *server, struct http_server_counts *ret_counts);

/*
 * Opens a listening socket. TCP: address "127.0.0.1", "::", "localhost"; port 0 picks one. reuse_port for the sockets
 * of further loops on the same port. MU_EXISTS when the port is in use by anybody (probed without SO_REUSEPORT under a
 * lock); the message names address and port. MU_INVALID: bad address; MU_NO_MEMORY. *ret_port is the port bound.
 */
MUST_CHECK mu_status listen_tcp(const char *address, uint16_t port, uint32_t n_sockets, int *ret_fds,
                                uint16_t *ret_port, mu_error *err);
/* Unix socket with mode 0600; a stale file that nobody listens on is replaced, a live one is MU_EXISTS. */
MUST_CHECK mu_status listen_unix(const char *path, int *ret_fd, mu_error *err);

#endif
