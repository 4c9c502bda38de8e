/*
 * One HTTP/1.1 connection. Private to net/, in three files: http1_connection.c (its life, reading, waiting),
 * http1_request.c (bytes to exchanges), http1_reply.c (answers to bytes).
 *
 * A connection is torn down at any point by http1_connection_close: it marks the connection closed, ends its exchanges
 * and leaves the memory to the loop's closing phase, so that whoever is further up the stack can still look at
 * `closed`. Code that has called the service, or anything that writes, looks.
 */
#ifndef NET_HTTP1_CONNECTION_H
#define NET_HTTP1_CONNECTION_H

#include "net/peer.h"
#include "net/server_state.h"
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
};

/* What becomes of the bytes that come in. */
enum input {
  INPUT_OPEN,   /* parsed */
  INPUT_CLOSED, /* left unread: an answer is the last one, or the stream is broken */
  INPUT_LINGER, /* thrown away until the client has closed */
};

struct http1_connection {
  struct http_server *server;
  struct list link, ready;
  uv_poll_t poll;
  int fd;
  int polled;            /* what poll is armed for */
  enum peer_place place; /* asked for when somebody first wants to know */
  bool closed;

  /* in */
  enum input input;
  struct http1_codec *codec;
  struct http1_exchange *incoming; /* its head is being read */
  struct http1_exchange *current;  /* its body is being read and wanted */
  bool in_message;                 /* between head and end */
  bool paused;                     /* by the service */
  bool stalled;                    /* parsing stopped; `held` and the codec have what is next */
  bool peer_closed;
  bool drain_due;     /* the server drains, and the connection has not looked whether it is idle */
  struct buffer held; /* read but not parsed: READ_SIZE at most */
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
  size_t copied;  /* bytes of bodies in memory of the connection */
  size_t counted; /* of them by the service (service.hold) */
  bool sending;   /* in the middle of its queue: `done` of one answer may bring the next one */
  bool blocked;   /* the socket takes no more */
  bool finishing; /* nothing comes after what is in the queue */

  /* waits */
  enum wait waiting, write_waiting;
  struct deadline wait, write_wait;
  uint64_t wait_requests;              /* `requests` when wait began */
  uint64_t received, received_at_wait; /* bytes, for the rate of a body */
  uint64_t sent, sent_at_wait;         /* the same for answers */
  uint64_t crowded_ns;                 /* since when a slow answer finds no room for its copy; 0: it does not */
  uint64_t linger_until_ns;
};

/* ---- http1_connection.c ------------------------------------------------------------------------------------------ */

/* Takes fd over, also when it fails. */
MUST_CHECK mu_status http1_connection_open(struct http_server *server, int fd);
void http1_connection_close(struct http1_connection *connection); /* at once; may be called again */
/* Something can go on: the connection is looked after before the loop waits again. */
void http1_connection_wake(struct http1_connection *connection);
/* Parses what is held, writes what can be written, sets waits and polling. Behind everything that happens to it. */
void http1_connection_settle(struct http1_connection *connection);
/* The wait of this kind is over. */
void http1_connection_expire(struct http_server *server, enum wait wait, struct deadline *item);
/* The server hands over: the connection is given away if it is idle, or as soon as it is. */
void http1_connection_give(struct http1_connection *connection);
/* The server begins to drain: soon the connection closes if it is idle. */
void http1_connection_drain(struct http1_connection *connection);

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
/* Bytes of copied bodies are no longer in memory. */
void http1_reply_forget(struct http1_connection *connection, size_t size);
/* There is not even memory for an exchange to answer: says 503 where nothing else is to be said before, and ends. */
void http1_reply_no_memory(struct http1_connection *connection);
/* The service is told that its exchange is gone, or that an answer's memory is no longer needed. */
void http1_exchange_end(struct http1_exchange *exchange);

#endif
