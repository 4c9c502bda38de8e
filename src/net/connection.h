/*
 * What every connection has whatever it speaks: a socket that is polled, its place in the server's lists, what it waits
 * for. Private to net/. A connection begins without a protocol; its client's first bytes decide (HTTP/2 opens with a
 * fixed preface, all else is HTTP/1.1), and from then on its `kind` says what happens to it. The kinds are the first
 * member and the table; their memory is one block that is large enough for any of them.
 *
 * A connection is torn down at any point by connection_close: it marks the connection closed, ends its exchanges and
 * leaves the memory to the loop's closing phase, so that whoever is further up the stack can still look at `closed`.
 * Code that has called the service, or anything that writes, looks.
 */
#ifndef NET_CONNECTION_H
#define NET_CONNECTION_H

#include "net/peer.h"
#include "net/server_state.h"

struct connection {
  struct http_server *server;
  const struct connection_kind *kind;
  struct list link, ready;
  uv_poll_t poll;
  int fd;
  int polled; /* what poll is armed for */
  bool closed;
  bool peer_closed;      /* the client sends no more */
  bool half_closed;      /* it does, and what it has sent before is still to be read */
  bool blocked;          /* the socket takes no more */
  bool again;            /* there is more to do: the loop comes back, after the other connections */
  enum peer_place place; /* asked for when somebody first wants to know */
  uint32_t recognized;   /* bytes of the HTTP/2 preface, while that is all that has come */

  enum wait waiting, write_waiting;
  struct deadline wait, write_wait;

  size_t copied;  /* bytes of replies in memory of the connection */
  size_t counted; /* of them by the service (service.hold) */
};

struct connection_kind {
  /* The connection is of this kind now: fills what lies behind struct connection (zeroed). */
  mu_status (*start)(struct connection *connection);
  /* Bytes that were read before the protocol was known. */
  void (*feed)(struct connection *connection, const uint8_t *data, size_t size);
  /* The socket can be read or written, or its client has left; settle follows. */
  void (*ready)(struct connection *connection, int events);
  /* Does what can be done now, writes what can be written, sets waits and polling. Behind everything that happens. */
  void (*settle)(struct connection *connection);
  /* The wait of this kind is over; settle follows. */
  void (*expire)(struct connection *connection, enum wait wait);
  /* The server begins to drain; settle follows before the loop waits. */
  void (*drain)(struct connection *connection);
  void (*end)(struct connection *connection);         /* it closes: its exchanges end */
  void (*free_memory)(struct connection *connection); /* what it allocated; also after a start that failed */
};

extern const struct connection_kind http1_kind, http2_kind;

/* Takes fd over, also when it fails. */
MUST_CHECK mu_status connection_open(struct http_server *server, int fd);
void connection_close(struct connection *connection); /* at once; may be called again */
/* Something can go on: the connection is looked after before the loop waits again. */
void connection_wake(struct connection *connection);
void connection_settle(struct connection *connection);
/* The wait of this kind is over for whom item belongs to. */
void connection_expire(enum wait wait, struct deadline *item);
void connection_drain(struct connection *connection);

/* ---- for the kinds ----------------------------------------------------------------------------------------------- */

/* Begins to wait for this; WAIT_NONE ends it. */
void connection_wait(struct connection *connection, enum wait wait);
/* The same for what the client takes: WAIT_STALL, WAIT_SLOW, WAIT_NONE. */
void connection_write_wait(struct connection *connection, enum wait wait);
/* Arms the socket for reading, if wanted, for writing while it is blocked, and for the end of the client. */
void connection_poll(struct connection *connection, bool wants_read);
/* Offers it to the process that the server hands over to; it must be between two requests. */
void connection_give(struct connection *connection);

/* Room for size bytes more of copied replies. MU_TOO_LARGE: past the connection's bound; MU_UNAVAILABLE: not now. */
MUST_CHECK mu_status connection_charge(struct connection *connection, size_t size);
/* Bytes of copied replies are no longer in memory. */
void connection_forget(struct connection *connection, size_t size);

#endif
