/*
 * One HTTP/1.1 connection. Private to net/, in four files: http1_connection.c (its life, reading, waiting),
 * http1_request.c (bytes to exchanges), http1_reply.c (answers to bytes), http1_parts.c (answers in parts, and what
 * follows a 101).
 */
#ifndef NET_HTTP1_CONNECTION_H
#define NET_HTTP1_CONNECTION_H

#include "net/connection.h"
#include "net/reply_queue.h"
#include "net/transport.h"
#include "proto/http1/http1_codec.h"

enum {
  INLINE_IOVECS = 8,
  HTTP1_DRAIN_BYTES = 64 * 1024 /* of a body that nobody wants: cheaper to read than a new connection */
};

struct http1_exchange {
  struct exchange base;
  struct http1_connection *connection;
  struct list link; /* in the connection's, or among the server's spare ones */

  struct buffer text;            /* the strings of base */
  struct buffer lines;           /* limits.verbatim */
  size_t value_at[HEADER_COUNT]; /* where in text, plus 1; 0: not sent */
  bool begun;                    /* the service knows it and must be told when it goes */
  bool answered;                 /* by exchange_reply, or nobody is left to answer */
  bool body_unwanted;            /* HEAD: the answer's body is not sent */
  bool keep_alive;               /* the connection goes on after it */
  bool asked_to_keep;            /* by Connection: keep-alive */
  bool wants_continue;           /* the client waits for 100 Continue before it sends the body */

  /* the answer: `out` first, then `body` */
  struct buffer out;                              /* interim answer, head, copied body */
  size_t out_at;                                  /* written so far */
  struct iovec *body, inline_body[INLINE_IOVECS]; /* borrowed memory; what is written is taken off the front */
  size_t n_body, body_at, body_capacity;
  bool unshared;
  void (*done)(void *owner);
  void *owner;
  size_t charged; /* bytes of out that count against the connection's bound */

  /* an answer in parts: `parts` behind `out` */
  bool streaming;
  bool chunked;
  bool is_1_0;    /* its client does not know chunks */
  bool unbounded; /* exchange_unbounded_body */
  bool above;     /* unsent was above EXCHANGE_LOW_WATER, and the service has not heard of less */
  struct reply_queue parts;
  size_t parts_charged; /* as charged */
};

/* What becomes of the bytes that come in. */
enum input {
  INPUT_OPEN,   /* parsed */
  INPUT_CLOSED, /* left unread: an answer is the last one, or the stream is broken */
  INPUT_LINGER, /* thrown away until the client has closed */
};

struct http1_connection {
  struct connection base;

  /* in */
  enum input input;
  struct http1_codec *codec;
  struct http1_exchange *incoming; /* its head is being read */
  struct http1_exchange *current;  /* its body is being read and wanted */
  bool in_message;                 /* between head and end */
  bool paused;                     /* by the service */
  bool stalled;                    /* parsing stopped; `held` and the codec have what is next */
  bool raw;                        /* behind a 101: all bytes are the current exchange's */
  bool end_told;                   /* raw: the exchange knows that the client sends no more */
  bool drain_due;                  /* the server drains, and the connection has not looked whether it is idle */
  struct buffer held;              /* read but not parsed: READ_SIZE at most */
  struct content_decoder *decoder;
  struct buffer undecoded; /* part of a compressed body that came ahead of a pause */
  bool decode_due;         /* more may come out of the decoder, even of nothing */
  uint64_t body_bytes;     /* of the current message, decoded; or of what is thrown away of it */
  int failure_status;      /* noticed inside an event of the codec, answered behind it */
  const char *failure_text;
  uint64_t head_ns;
  uint64_t requests; /* begun heads: tells one message's waits from the next one's */

  /* out */
  struct list exchanges; /* in the order of their requests; the first ones answered are being written */
  uint32_t n_exchanges;
  bool sending;   /* in the middle of its queue: `done` of one answer may bring the next one */
  bool finishing; /* nothing comes after what is in the queue */

  /* waits */
  uint64_t wait_requests;              /* `requests` when wait began */
  uint64_t received, received_at_wait; /* bytes, for the rate of a body */
  uint64_t sent, sent_at_wait;         /* the same for answers */
  uint64_t crowded_ns;                 /* since when a slow answer finds no room for its copy; 0: it does not */
  uint64_t linger_until_ns;
};

static inline struct http1_connection *http1_of(struct connection *connection) {
  return list_item(connection, struct http1_connection, base);
}

/* ---- http1_request.c --------------------------------------------------------------------------------------------- */

extern const struct http1_events http1_request_events;

/* Parses; what cannot be parsed now is held. */
void http1_request_feed(struct http1_connection *connection, const uint8_t *data, size_t size);
/* Goes on with what is held, if that is possible now; false when nothing was to be done. */
bool http1_request_replay(struct http1_connection *connection);
/* The request being read cannot be taken: its service is told, the client gets an error, the connection ends. */
void http1_request_refuse(struct http1_connection *connection, int status, const char *text);
void http1_exchange_free(struct http1_exchange *exchange);
/* Gives an exchange back; it is in no list any more. */
void http1_exchange_release(struct http1_exchange *exchange);

/* ---- http1_reply.c ----------------------------------------------------------------------------------------------- */

extern const struct transport http1_transport;

/* Asks for the body of the current request if its client waits to be asked. */
void http1_reply_continue(struct http1_connection *connection);
/* Writes as much as the socket takes. */
void http1_reply_flush(struct http1_connection *connection);
/* Copies all borrowed bodies into memory of the connection, as far as there is room for them. Closes it when one cannot
 * be copied, or has found no room for too long. */
void http1_reply_copy(struct http1_connection *connection);
/* There is not even memory for an exchange to answer: says 503 where nothing else is to be said before, and ends. */
void http1_reply_no_memory(struct http1_connection *connection);
/* The head of an answer in parts into x->out. false: without memory. */
bool http1_reply_write_head(struct http1_exchange *exchange, const struct reply *head);
/* The rest of a body whose answer is there is not wanted. */
void http1_reply_abandon_body(struct http1_exchange *exchange);
/* The service is told that its exchange is gone, or that an answer's memory is no longer needed. */
void http1_exchange_end(struct http1_exchange *exchange);

/* ---- http1_parts.c ----------------------------------------------------------------------------------------------- */

void http1_parts_begin(struct exchange *exchange, const struct reply *head);
void http1_parts_add(struct exchange *exchange, const struct reply_part *part);
void http1_parts_end(struct exchange *exchange, const struct header *trailers, size_t n_trailers);
void http1_parts_abort(struct exchange *exchange);
uint64_t http1_parts_unsent(const struct exchange *exchange);
/* size bytes of its parts are written. */
void http1_parts_advance(struct http1_exchange *exchange, size_t size);
/* Services whose parts have left are asked for more; false: there were none. */
bool http1_parts_ask(struct http1_connection *connection);
/* Bytes behind a 101: to the exchange, or held. */
void http1_raw_feed(struct http1_connection *connection, const uint8_t *data, size_t size);
/* What is held, and the end; false when nothing was to be done. */
bool http1_raw_replay(struct http1_connection *connection);

#endif
