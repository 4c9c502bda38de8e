/*
 * One request and its one reply, whatever protocol carried them. A transport (net/http1_connection.c now; HTTP/2
 * later) makes an exchange for each request and calls the service; the service answers once with exchange_reply.
 * Everything happens on the loop that owns the connection.
 *
 * Order of calls for an exchange: begin, then body any number of times (already inflated, bounded by the body limit),
 * then end. `gone` may come at any time after begin, when the client has left or broke the protocol: the service must
 * let go of the exchange at once (nothing of it may be used afterwards). After exchange_reply the service may not use
 * the exchange either; the rest of a body that it did not want is discarded by the transport.
 */
#ifndef NET_EXCHANGE_H
#define NET_EXCHANGE_H

#include "base/buffer.h"
#include "base/status.h"

#include <sys/uio.h>

struct exchange;
struct net_loop;
struct transport;

/* Request headers that anybody looks at; all others are parsed and dropped. Names in exchange.c. */
enum header_id {
  HEADER_ACCEPT,
  HEADER_ACCEPT_ENCODING,
  HEADER_CONTENT_ENCODING,
  HEADER_CONTENT_TYPE,
  HEADER_HOST,
  HEADER_INFERENCE_HEADER_CONTENT_LENGTH,
  HEADER_REQUEST_ID, /* X-Request-Id */
  HEADER_ENDPOINT_LOAD_METRICS_FORMAT,
  HEADER_COUNT
};

struct header {
  const char *name; /* lower case */
  const char *value;
};

/* What to answer. All memory is borrowed until `done` is called, or for the call where there is no `done`. */
struct reply {
  int status;                   /* HTTP status code */
  const char *content_type;     /* NULL: none */
  const struct header *headers; /* further ones */
  size_t n_headers;
  const struct iovec *body;
  size_t n_body;
  bool compressible; /* may be sent as gzip or deflate when the client accepts it (bodies of 512 bytes to 1 MiB) */
  bool unshared;     /* the body's memory is this reply's alone: a slow client may keep it, nothing is copied for it */
  /* Called exactly once, when the body's memory is no longer needed: it was written, was copied because the client is
   * slow (20 ms), waits for its turn in a pipeline or was compressed, or the connection ended. May be called before
   * exchange_reply returns. With NULL the body is copied before exchange_reply returns, where it is not written at
   * once. */
  void (*done)(void *owner);
  void *owner;
};

/* What a server does with exchanges. One table for a server; `context` is passed through. */
struct service {
  void (*begin)(void *context, struct exchange *exchange);
  void (*body)(void *context, struct exchange *exchange, const uint8_t *data, size_t size);
  void (*end)(void *context, struct exchange *exchange);
  void (*gone)(void *context, struct exchange *exchange);
  /* Optional: where the next bytes of the body should be put by the kernel itself. true with *ret_data and *ret_size
   * (>= 1) when the service has a place; the next call of `body` is then for exactly this memory, as much of it as was
   * filled (if the connection lives). Asked before each read while 16 KiB or more of the body are to come; never for a
   * chunked or compressed body. What has come along with the head, the end of a body, and what lies behind a place of
   * less than 16 KiB reach `body` in other memory. exchange_reply and exchange_pause may be called from it. */
  bool (*window)(void *context, struct exchange *exchange, uint8_t **ret_data, size_t *ret_size);
  /* Optional, both or none: who counts the memory in which copied replies wait for their clients. hold takes so many
   * bytes more, or says false: then a slow client's reply stays borrowed for CROWDED_MOST_NS at most, and the
   * connection is cut if there is still no room. Small replies of a connection (16 KiB in all) are not counted. */
  bool (*hold)(void *context, uint64_t bytes);
  void (*let_go)(void *context, uint64_t bytes);
};

/* The parts below are filled by the transport before begin; strings live as long as the exchange. */
struct exchange {
  struct net_loop *loop;
  const char *method;                /* "GET" */
  const char *path;                  /* as sent, without the query; percent-escapes untouched */
  const char *query;                 /* "" when none */
  const char *headers[HEADER_COUNT]; /* NULL where not sent; of a repeated one the first */
  uint64_t content_length;           /* of the body as sent; UINT64_MAX when not known (chunked) */
  bool encoded;                      /* the body is compressed: content_length is not what `body` will bring */
  uint64_t received_ns;              /* first byte of the head */
  uint64_t serial;                   /* unique in the process: the request id of the log where the client gave none */
  void *user;                        /* the service's */
  const struct transport *transport; /* who made the exchange; for exchange.c only */
};

/* Answers. Takes what reply says. Never fails towards the caller: a connection that cannot be written is closed and
 * `done` is called. */
void exchange_reply(struct exchange *exchange, const struct reply *reply);

/* The body is not read further until exchange_resume: the service has no room for it now. May be called from begin,
 * body and window; bytes already read are held back by the transport, and so is `end`. exchange_resume calls nothing by
 * itself: the service hears of the next bytes before the loop waits again. A client that leaves is noticed. */
void exchange_pause(struct exchange *exchange);
void exchange_resume(struct exchange *exchange);

/* Does the client sit on this machine: is the other end of its connection a loopback address or a Unix socket? One who
 * speaks through a proxy is where the proxy is. */
bool exchange_peer_is_local(const struct exchange *exchange);

/* JSON text as the whole answer, copied; {"error": text} for error replies (text is escaped). */
void exchange_reply_json(struct exchange *exchange, int status, const char *json, size_t size);
void exchange_reply_error(struct exchange *exchange, int status, const char *text);

#endif
