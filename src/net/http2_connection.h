/*
 * One HTTP/2 connection (RFC 9113) on an nghttp2 session. Private to net/, in three files: http2_connection.c (its
 * life, reading, waiting, end), http2_request.c (frames to exchanges), http2_reply.c (answers to frames to bytes).
 *
 * nghttp2 keeps the protocol; what it does not bound is bounded here: frames that bring nothing (`credit`), answers
 * that wait (as in HTTP/1.1), what a stream may send ahead (its window) and a connection all together (`granted`).
 *
 * nghttp2 must not be entered twice, so whatever the service does from inside a callback only leaves frames with it
 * (nghttp2_submit_*); bytes are made in settle.
 */
#ifndef NET_HTTP2_CONNECTION_H
#define NET_HTTP2_CONNECTION_H

#include "net/connection.h"
#include "net/reply_queue.h"
#include "net/transport.h"

#include <nghttp2/nghttp2.h>

enum {
  HTTP2_OUTBOUND_MOST = 4096, /* frames of nghttp2's own that wait: nobody who reads lets so many come together */

  STREAM_WINDOW = 65535,               /* what each stream may send ahead: the protocol's initial value */
  STREAM_WINDOW_MOST = 1024 * 1024,    /* of one whose body is large and wanted */
  GRANTED_MOST = 16 * 1024 * 1024,     /* what windows together may be larger than their initial value */
  CONNECTION_WINDOW = 16 * 1024 * 1024 /* given back at once: it is the streams' windows that bound */
};

struct http2_exchange {
  struct exchange base;
  struct http2_connection *connection;
  struct list link;                    /* in the connection's, or among the server's spare ones */
  struct list resumed, sending, above; /* in the connection's lists of these names */
  int32_t stream_id;                   /* 0: nghttp2 knows the stream no more */

  /* the request */
  struct buffer text;                                              /* the strings of base */
  struct buffer lines;                                             /* limits.verbatim */
  size_t method_at, path_at, authority_at, value_at[HEADER_COUNT]; /* where in text, plus 1; 0: not sent */
  uint64_t header_bytes;
  bool expects;       /* Expect: 100-continue */
  bool begun;         /* the service knows it and must be told when it goes */
  bool answered;      /* by exchange_reply or exchange_reply_end, or nobody is left to answer */
  bool request_ended; /* the client has sent all */
  bool end_told;      /* the service knows that */
  bool paused;
  bool unbounded;
  struct buffer held;  /* bytes of the body that wait for the service: its window at most */
  size_t held_charged; /* of them by the connection: many streams can hold much together */
  bool decode_due;     /* more may come out of the decoder, even of nothing */
  struct content_decoder *decoder;
  uint64_t body_bytes;               /* decoded */
  uint64_t received, received_check; /* of the body as sent; when its rate was looked at */
  bool checked;                      /* it was there at the beginning of this stretch */
  uint32_t granted;                  /* by which its window is larger */
  bool body_wanted;                  /* false: what comes is thrown away */

  /* the answer */
  bool streaming;     /* in parts */
  bool headers_due;   /* a begun reply's head is not with nghttp2 yet: the end may come with it */
  bool deferred;      /* nghttp2 waits for more of it */
  bool body_unwanted; /* HEAD */
  struct buffer head; /* names and values of the head, each terminated */
  size_t n_head;
  struct buffer trailers;
  size_t n_trailers;
  struct reply_queue body;       /* not made into frames yet */
  size_t charged;                /* of its own bytes there */
  uint64_t framed, framed_check; /* bytes made into frames */
  bool checked_answer;           /* it was there at the beginning of this stretch */
};

enum http2_going {
  GOING_NOT,
  GOING_SAID,  /* the client knows that it should open no more streams */
  GOING_FINAL, /* streams that it opens are not looked at; those that are there are finished */
};

struct http2_connection {
  struct connection base;
  nghttp2_session *session;
  struct list exchanges; /* all */
  struct list resumed;   /* exchanges that the service wants to hear of again */
  struct list sending;   /* exchanges with an answer that is not all made into frames */
  struct list above; /* exchanges with more unsent than EXCHANGE_LOW_WATER, or whose service has not heard of less */
  uint32_t n_exchanges;
  uint32_t n_bodies;    /* exchanges whose request is not all there */
  uint64_t streamed;    /* bytes of parts that wait */
  uint64_t requests;    /* begun ones */
  uint64_t block_bytes; /* of the header block that is being read, as RFC 9113 section 6.5.2 counts them */
  uint64_t granted;     /* sum of the streams' */

  bool in_head;   /* between a HEADERS frame and the end of its block */
  bool dead;      /* nothing more is read or understood; what waits is written, then the end */
  bool lingering; /* all is written: reads and throws away until the client has closed */
  enum http2_going going;
  bool idle_going; /* nothing was in flight when it was told to go */
  uint64_t requests_at_going;
  double credit; /* frames that bring nothing and may still come */
  uint64_t credit_ns;
  uint64_t fed,
      understood; /* bytes; the difference are frames of unknown types, which nghttp2 passes over in silence */

  struct reply_queue out; /* frames */
  size_t out_charged;     /* bytes copied into it that count against the connection's bound */
  bool sending_now;       /* in the middle of writing: `done` of an answer may bring the next one */

  uint64_t wait_requests;
  uint64_t sent, sent_at_wait; /* bytes of answers, for their rate */
  uint64_t crowded_ns;         /* since when a slow answer finds no room for its copy; 0: it does not */
  uint64_t linger_until_ns;
};

static inline struct http2_connection *http2_of(struct connection *connection) {
  return list_item(connection, struct http2_connection, base);
}

/* ---- http2_connection.c ------------------------------------------------------------------------------------------ */

/* Ends the connection with this error code (GOAWAY), as soon as that is written. */
void http2_connection_fail(struct http2_connection *connection, uint32_t error_code);
/* A ping of ours was answered. */
void http2_connection_pinged(struct http2_connection *connection, const uint8_t *opaque);

/* ---- http2_request.c --------------------------------------------------------------------------------------------- */

/* A server session with its callbacks and first frames. MU_NO_MEMORY. */
MUST_CHECK mu_status http2_session_create(struct http2_connection *connection);
/* Tells services that have resumed what has been held back for them; false when there was nothing. */
bool http2_request_replay(struct http2_connection *connection);
/* Its request cannot be taken: the service is told, the client gets an error. */
void http2_request_refuse(struct http2_exchange *exchange, int status, const char *text);
void http2_exchange_free(struct http2_exchange *exchange);
/* The exchange ends: the service is told that it is gone, memory is given back. */
void http2_exchange_end(struct http2_exchange *exchange);

/* ---- http2_reply.c ----------------------------------------------------------------------------------------------- */

extern const struct transport http2_transport;

/* Sends the heads of replies in parts that were begun in this turn. */
void http2_reply_continue(struct http2_exchange *exchange);
/* Makes frames and writes as much as the socket takes. */
void http2_reply_flush(struct http2_connection *connection);
/* Copies what is borrowed into memory of the connection; as http1_reply_copy. */
void http2_reply_copy(struct http2_connection *connection);
/* For nghttp2. */
int http2_reply_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head, size_t length,
                          nghttp2_data_source *source, void *context);
int http2_reply_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *context);

#endif
