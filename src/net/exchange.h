/*
 * One request and its one reply, whatever protocol carried them. A transport (HTTP/1.1 or HTTP/2) makes an exchange for
 * each request and calls the service; the service answers once, with exchange_reply or in parts. Everything happens on
 * the loop that owns the connection.
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
  HEADER_TE,
  HEADER_GRPC_TIMEOUT,
  HEADER_GRPC_ENCODING,
  HEADER_GRPC_ACCEPT_ENCODING,
  HEADER_UPGRADE,
  HEADER_CONNECTION, /* of a repeated one only the first: enough for Upgrade, which is all it is here for */
  HEADER_ORIGIN,
  HEADER_SEC_WEBSOCKET_KEY,
  HEADER_SEC_WEBSOCKET_VERSION,
  HEADER_SEC_WEBSOCKET_PROTOCOL,
  HEADER_SEC_WEBSOCKET_EXTENSIONS,
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
  uint64_t head_length; /* HEAD, where the body is not at hand: the length that is told of it; 0: that of the body */
  bool compressible;    /* may be sent as gzip or deflate when the client accepts it (bodies of 512 bytes to 1 MiB) */
  bool unshared; /* the body's memory is this reply's alone: a slow client may keep it, nothing is copied for it */
  /* Called exactly once, when the body's memory is no longer needed: it was written, was copied because the client is
   * slow (20 ms), waits for its turn in a pipeline or was compressed, or the connection ended. May be called before
   * exchange_reply returns. With NULL the body is copied before exchange_reply returns, where it is not written at
   * once. */
  void (*done)(void *owner);
  void *owner;
  /* HTTP/2: HEADERS behind the body (also behind no body). HTTP/1.1 drops them. Copied. */
  const struct header *trailers;
  size_t n_trailers;
};

/* Some more of the body of a reply in parts; memory as in struct reply. */
struct reply_part {
  const struct iovec *body;
  size_t n_body;
  bool unshared;
  void (*done)(void *owner);
  void *owner;
};

/* Bytes of parts that wait, below which a service that held back is asked for more (service.writable). */
enum { EXCHANGE_LOW_WATER = 64 * 1024 };

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
  /* Optional: exchange_unsent has fallen to EXCHANGE_LOW_WATER or less after it was above. Called before the loop
   * waits, so once for everything that a turn has written. The exchange may be ended from it. */
  void (*writable)(void *context, struct exchange *exchange);
};

/* The parts below are filled by the transport before begin; strings live as long as the exchange. */
struct exchange {
  struct net_loop *loop;
  const char *method;                /* "GET" */
  const char *path;                  /* as sent, without the query; percent-escapes untouched */
  const char *query;                 /* "" when none */
  const char *headers[HEADER_COUNT]; /* NULL where not sent; of a repeated one the first */
  const char *lines;       /* limits.verbatim: all headers, name, value, name …, each terminated, names in */
  size_t lines_size;       /* lower case */
  uint64_t content_length; /* of the body as sent; UINT64_MAX when not known (chunked) */
  bool encoded;            /* the body is compressed: content_length is not what `body` will bring */
  bool multiplexed;        /* HTTP/2: many share a connection, and trailers of replies reach the client */
  uint64_t received_ns;    /* first byte of the head */
  uint64_t serial;         /* unique in the process: the request id of the log where the client gave none */
  void *user;              /* the service's */
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

/* For begin: the body of this exchange is a stream that may become as long as it likes and as slow; neither the limit
 * of a body's bytes nor its least rate holds for it. */
void exchange_unbounded_body(struct exchange *exchange);

/*
 * A reply in parts: begin, any number of parts, end, instead of exchange_reply. begin may come while the request's body
 * is still on its way; `body` and `end` then go on being called. After exchange_reply_end, as after `gone`, the
 * exchange may not be used. Nothing is compressed. No idle limit holds while a begun reply is open, only that for a
 * client that does not take what waits for it. HTTP/2: HEADERS, DATA, trailing HEADERS; begin and end in one turn
 * without a part and without trailers are one HEADERS frame. Where the reply ends before its request,
 * RST_STREAM(NO_ERROR) follows. HTTP/1.1: chunked (HTTP/1.0: until the connection ends), without trailers. With status
 * 101 the connection's bytes are the exchange's from then on, both ways and as they are: what comes goes to `body`, the
 * client's end of file is `end`, exchange_reply_end writes what waits and closes. `Connection: Upgrade` is written by
 * the transport.
 */
void exchange_reply_begin(struct exchange *exchange, const struct reply *head); /* its body and trailers are ignored */
void exchange_reply_part(struct exchange *exchange, const struct reply_part *part);
void exchange_reply_end(struct exchange *exchange, const struct header *trailers, size_t n_trailers);
/* Instead of exchange_reply_end: the answer breaks off, and its client can tell (HTTP/1.1: the connection closes
 * without the last chunk; HTTP/2: RST_STREAM). */
void exchange_abort(struct exchange *exchange);
/* Bytes of parts that wait for their client, copied and borrowed ones. More of them in a connection than
 * limits.copied_reply_bytes, and the connection is cut: a service holds back before that. */
uint64_t exchange_unsent(const struct exchange *exchange);
/* Does the client sit on this machine: is the other end of its connection a loopback address or a Unix socket? One who
 * speaks through a proxy is where the proxy is. */
bool exchange_peer_is_local(const struct exchange *exchange);

/* JSON text as the whole answer, copied; {"error": text} for error replies (text is escaped). */
void exchange_reply_json(struct exchange *exchange, int status, const char *json, size_t size);
void exchange_reply_error(struct exchange *exchange, int status, const char *text);
/* The inside of a JSON string; text may quote what a client sent, so any byte can be in it. */
void exchange_append_escaped(struct buffer *json, const char *text);

#endif
