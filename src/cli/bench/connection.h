/*
 * One connection to the target, with at most one request on its way: sockets and bytes, no policy. The load says when
 * to send; the connection says what became of it. One thread.
 */
#ifndef CLI_BENCH_CONNECTION_H
#define CLI_BENCH_CONNECTION_H

#include "cli/bench/failures.h"
#include "cli/bench/reply.h"

#include <sys/socket.h>

/* What all connections of a run share. */
struct connection_wire {
  int epoll;
  struct sockaddr_storage address;
  socklen_t address_size;
  const char *request;
  size_t request_size;
  uint64_t reply_bytes; /* > 0: no HTTP, but so many bytes come back */
  bool keep_bodies;     /* collect whole bodies, not only what explains an error */
  struct reply_cache cache;
  char *chunk; /* of CONNECTION_CHUNK bytes: what is read goes through here */
};

enum { CONNECTION_CHUNK = 256 * 1024, CONNECTION_ERROR_MAX = 4096 };

enum connection_outcome {
  CONNECTION_WAITS,    /* nothing to say yet */
  CONNECTION_ANSWERED, /* a whole reply, in `reply` and `body`; ready for the next request */
  CONNECTION_FAILED,   /* `failure` says why; closed */
  CONNECTION_LOST,     /* the peer closed it while nothing was asked; no request suffered */
};

struct connection {
  int fd; /* -1: closed; the next request opens it */
  enum { CONNECTION_IDLE, CONNECTION_CONNECTING, CONNECTION_BUSY } state;
  size_t sent; /* of the request */
  struct reply reply;
  struct buffer body; /* what was kept of the reply's */
  struct failure failure;
  /* the load's own */
  uint64_t intended_ns, started_ns;
  bool measured;
  uint32_t next_idle;
};

void connection_init(struct connection *connection);
void connection_free(struct connection *connection);

/* Sends the request, connecting first where there is no connection. The state must be CONNECTION_IDLE. */
enum connection_outcome connection_send(struct connection *connection, struct connection_wire *wire);

/* What epoll reported (edge-triggered; the data pointer is the connection). */
enum connection_outcome connection_event(struct connection *connection, struct connection_wire *wire, uint32_t events);

/* Gives the request up, whatever its state: FAILED with this failure. */
enum connection_outcome connection_fail(struct connection *connection, enum failure_kind kind, const char *what);

#endif
