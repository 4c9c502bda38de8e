/*
 * The inside of net/client.h: connections and what the two protocols do with them. Private to net/, in three files:
 * client.c (hosts, sockets, requests' beginnings and ends), client_http1.c, client_http2.c.
 *
 * Nothing is written and no connection is torn down inside of a caller's turn: what has something to do is `dirty`, and
 * is looked after by the loop's next idle phase, which comes before the loop waits.
 */
#ifndef NET_CLIENT_CONNECTION_H
#define NET_CLIENT_CONNECTION_H

#include "net/client.h"

#include <nghttp2/nghttp2.h>

enum { CLIENT_HEAD_MOST = 64 * 1024, CLIENT_READ_SIZE = 64 * 1024, CLIENT_OUT_MOST = 256 * 1024 };

struct client {
  struct net_loop *loop;
  uv_idle_t idle;
  struct list dirty; /* connections */
  size_t n_handles;  /* open ones: the memory goes with the last */
  bool freed;
  uint8_t read_buffer[CLIENT_READ_SIZE];
};

struct client_host {
  struct client *client;
  const struct client_kind *kind;
  char *name;
  struct sockaddr_storage address;
  socklen_t address_size;
  uint64_t connect_timeout_ns;
  struct list connections;
};

struct client_connection {
  struct client_host *host; /* NULL: closed */
  struct client *client;
  struct list link, dirty;
  uv_poll_t poll;
  uv_timer_t timer; /* connecting; a question that is not answered */
  int n_open;       /* handles */
  int fd, polled;
  bool connecting, blocked, asked;
  bool leaving; /* takes no further request */
  bool broken;  /* ends in the next idle phase */
  enum client_failure failure;
  char why[160];
  struct list requests;
  struct buffer out; /* bytes to be written */
  size_t out_at;
  bool heard; /* anything at all */

  nghttp2_session *session; /* HTTP/2 */

  struct http1_codec *codec; /* HTTP/1.1 */
  bool used;                 /* it had a request before the present one */
  bool chunked, sending;     /* the request's body; sending: it is not all out */
  bool no_body;              /* HEAD */
  bool close_after;          /* behind the answer */
  bool stopped;              /* reading, as its request is paused */
  struct buffer held;        /* read while paused */
};

struct client_kind {
  /* A connection that takes a request at once; NULL: a new one is needed. */
  struct client_connection *(*find)(struct client_host *host);
  mu_status (*open)(struct client_connection *connection);
  mu_status (*start)(struct client_connection *connection, struct client_request *request,
                     const struct client_head *head, mu_error *err);
  /* Makes bytes into connection->out. */
  void (*fill)(struct client_connection *connection);
  /* May be NULL: what is due before anything is written. */
  void (*turn)(struct client_connection *connection);
  /* Bytes have come. size 0: the end of file. */
  void (*feed)(struct client_connection *connection, const uint8_t *data, size_t size);
  void (*more)(struct client_request *request);
  void (*resume)(struct client_request *request);
  void (*cancel)(struct client_connection *connection, struct client_request *request); /* which is off its list */
  void (*ask)(struct client_connection *connection);
  void (*close)(struct client_connection *connection); /* frees what is the kind's */
};

extern const struct client_kind client_http1_kind, client_http2_kind;

/* It has something to do. */
void client_connection_touch(struct client_connection *connection);
/* It ends in the next idle phase; its requests fail so. The first reason stays. */
void client_connection_break(struct client_connection *connection, enum client_failure failure, const char *why);
/* The question is answered. */
void client_connection_answered(struct client_connection *connection);

/* A request leaves its connection. */
void client_request_leave(struct client_request *request);
void client_request_end(struct client_request *request, struct client_lines trailers);
void client_request_fail(struct client_request *request, enum client_failure failure, const char *why);
/* Appends to request->lines. MU_TOO_LARGE, MU_NO_MEMORY. */
mu_status client_keep_line(struct client_request *request, const char *name, size_t name_size, const char *value,
                           size_t size);

#endif
