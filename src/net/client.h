/*
 * The client side: requests to servers that others wrote, over HTTP/1.1 (kept connections, one request at a time on
 * each) or HTTP/2 without TLS (prior knowledge; all requests on one connection). Messages pass through as they are:
 * heads as lines, bodies as bytes, trailers. Everything of a struct client belongs to its loop's thread.
 *
 * A struct client_request (zeroed) is embedded by its owner, who fills `events` and calls client_start. Bodies are
 * pulled: the client asks `read` when the server takes more. `failed` or `end` is the last event; client_cancel ends it
 * without one. No event comes from inside of client_start, client_more, client_resume or client_cancel, so an owner may
 * call them anywhere, also from its events; and it may free itself in its last event.
 */
#ifndef NET_CLIENT_H
#define NET_CLIENT_H

#include "base/buffer.h"
#include "base/list.h"
#include "net/loop.h"

#include <sys/socket.h>

struct client;
struct client_host;
struct client_connection;
struct client_request;

enum client_protocol { CLIENT_HTTP1, CLIENT_HTTP2 };

enum client_failure {
  CLIENT_REFUSED, /* there was no connection: nobody has seen the request */
  CLIENT_UNSEEN,  /* the server says that it has not looked at it */
  CLIENT_STALE,   /* a kept connection ended as the request was sent: most probably unseen */
  CLIENT_BROKEN,  /* connection or stream broke off */
  /* These say nothing of the server: */
  CLIENT_UNSENDABLE, /* the request's head is larger than HTTP/2 lets us send, to anybody */
  CLIENT_UNREADABLE, /* the answer's head or trailers are larger than CLIENT_HEAD_MOST */
  CLIENT_NO_MEMORY,  /* here; says nothing of the server either */
};

/* Headers and trailers: name, value, name, value …, each terminated, names in lower case. */
struct client_lines {
  const char *text;
  size_t size;
};

struct client_events {
  /* Copies up to `most` bytes of the request's body; 0 without *ret_end: later, after client_more. */
  size_t (*read)(struct client_request *request, uint8_t *to, size_t most, bool *ret_end);
  /* content_length UINT64_MAX: not known. ended: neither body nor trailers follow; `end` does. */
  void (*head)(struct client_request *request, int status, struct client_lines lines, uint64_t content_length);
  void (*body)(struct client_request *request, const uint8_t *data, size_t size);
  void (*end)(struct client_request *request, struct client_lines trailers);
  void (*failed)(struct client_request *request, enum client_failure failure, const char *why);
};

struct client_request {
  const struct client_events *events;
  /* private */
  struct list link; /* in the connection's or the host's waiting list */
  struct client_connection *connection;
  int32_t stream_id;
  int status;
  size_t owed;             /* bytes read while paused: HTTP/2's window is given back by client_resume */
  bool paused, deferred;   /* deferred: its body waits for client_more */
  bool read_ended;         /* `read` has said so */
  bool headed;             /* `head` has come */
  bool unseen;             /* HTTP/2: not one frame of it has been made */
  mu_status refused;       /* why its answer is not read: MU_TOO_LARGE, MU_NO_MEMORY */
  struct buffer lines;     /* of the head that is being received, or trailers */
  uint64_t content_length; /* of the answer */
};

/* All borrowed for the call. */
struct client_head {
  const char *method;
  const char *path, *query; /* query "" for none */
  const char *authority;    /* NULL: the host's name */
  struct client_lines lines;
  uint64_t content_length; /* of the body; UINT64_MAX: not known, 0: none */
};

/* NULL without memory. */
struct client *client_create(struct net_loop *loop);
/* Closes everything without an event; every host is freed before. Memory goes with the loop's next turns. */
void client_free(struct client *client); /* accepts NULL */

/* name and address are copied. NULL without memory. */
struct client_host *client_host_create(struct client *client, enum client_protocol protocol, const char *name,
                                       const struct sockaddr *address, socklen_t address_size,
                                       uint64_t connect_timeout_ns);
void client_host_free(struct client_host *host); /* accepts NULL; its requests are forgotten */

/* Something speaks for it that the server hangs: connections with requests are asked whether anybody is there (PING),
 * and those that do not answer within patience_ns fail. HTTP/1.1 has no such question: nothing happens there. */
void client_host_doubt(struct client_host *host, uint64_t patience_ns);

/* MU_NO_MEMORY; MU_INVALID: a head that cannot be sent. No event comes then. */
MUST_CHECK mu_status client_start(struct client_host *host, struct client_request *request,
                                  const struct client_head *head, mu_error *err);
/* `read` has something again. */
void client_more(struct client_request *request);
/* Between these two little more of the answer comes (HTTP/2: its window; HTTP/1.1: what has been read already). */
void client_pause(struct client_request *request);
void client_resume(struct client_request *request);
/* No further event; the server is told. Harmless after the last event. */
void client_cancel(struct client_request *request);

/* The value of a header, NULL: not there. name in lower case. */
const char *client_line(struct client_lines lines, const char *name);
/* The next of them, from *at = 0 on; false: no more. */
bool client_next_line(struct client_lines lines, size_t *at, const char **ret_name, const char **ret_value);

#endif
