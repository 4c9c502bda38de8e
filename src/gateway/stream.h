/*
 * Many inferences on one exchange: each message that the client sends is a call of its own; its answer goes out when it
 * is there, or in the order of the messages. Who owns the exchange says how messages are framed (WebSocket:
 * websocket.c; gRPC's ModelStreamInfer) and embeds a struct stream. Everything on the loop of the connection.
 *
 *   bytes -> the owner's reader -> stream_message_begin, _start, _body, _end -> inference.c -> carrier_stream
 *         -> stream_framing.head or .error -> exchange_reply_part
 *
 * Bounded: `max_in_flight` messages without an answer, one of them being received or waiting for input memory, and
 * STREAM_UNSENT_MAX bytes of answers that the client does not take; past any of them reading pauses (stream_reads says
 * false, and `resumed` follows). A message that has begun has to come at the least rate of a request's body, or it is
 * refused, as its memory is not there for others meanwhile; the stream goes on.
 *
 * Whatever writes may find the connection broken, so `gone` can come inside of any call here; therefore a stream ends
 * only between two turns of the loop: the owner frees itself in `release`, nowhere else.
 */
#ifndef GATEWAY_STREAM_H
#define GATEWAY_STREAM_H

#include "api/rest_stream.h"
#include "gateway/call.h"

struct stream;

enum {
  STREAM_HEAD_MAX = CALL_HEAD_MAX,
  STREAM_UNSENT_MAX = 1024 * 1024, /* bytes of answers; what is behind it is read once they are EXCHANGE_LOW_WATER */
};

/* What differs between the protocols. */
struct stream_framing {
  /* What stands in front of the reply of `size` bytes (call.iov[1 … n_iov]) into head; returns how many bytes. */
  size_t (*head)(const struct call *call, uint32_t n_iov, uint64_t size, uint8_t head[STREAM_HEAD_MAX]);
  /* A whole message, framed, that says what has become of the call instead of a reply. */
  void (*error)(const struct call *call, mu_status status, const char *message, struct buffer *out);
  /* Reading goes on: the reader is fed with what it has kept, as long as stream_reads; the exchange's bytes follow. */
  void (*resumed)(struct stream *stream);
  /* After stream_finish, once everything is answered: the owner says goodbye and ends the exchange. */
  void (*finished)(struct stream *stream);
  /* The exchange is gone or ended, and nothing of the stream is in use any more. */
  void (*release)(struct stream *stream);
  /* The loop ends: what is in flight is to be finished, nothing new to be begun (stream_finish). */
  void (*leave)(struct stream *stream);
};

/* Why a message was dropped instead of answered: `message` of stream_framing.error with MU_TIMEOUT and MU_CANCELED. */
extern const char stream_dropped_late[], stream_dropped_older[];

struct stream {
  struct gateway_loop *loop;
  struct exchange *exchange; /* NULL: gone or ended */
  const struct stream_framing *framing;
  struct stream_options options;
  /* private */
  struct list link;     /* gateway_loop.streams */
  struct list messages; /* struct stream_message: without an answer, in the order of their beginning */
  struct list spare;
  uint32_t n_messages, n_spare;
  uint32_t n_sending;               /* messages whose bytes the transport borrows */
  uint32_t n_waiting;               /* calls that wait for input memory */
  struct stream_message *receiving; /* NULL: none, or it has been answered already */
  uint64_t received;                /* bytes of the message that is being received, since its rate was looked at */
  bool looked_at;                   /* it was there then, and reading has not paused since */
  bool in_message, paused, finishing, posted;
  struct net_post post;
};

/* exchange: its reply has begun. The rest of the stream need not be initialized. */
void stream_init(struct stream *stream, struct gateway_loop *loop, struct exchange *exchange,
                 const struct stream_framing *framing, const struct stream_options *options);

/* May the reader go on? Asked after each message and each piece of one. */
bool stream_reads(const struct stream *stream);
/* Behind everything that has come from the exchange: reading pauses where it must. */
void stream_settle(struct stream *stream);

/* A message begins, after the one before has ended. NULL without memory: the owner ends the stream. It sets the call's
 * format, route (model
 * "" where the text names it), message_size and text_size, then calls stream_message_start. */
struct call *stream_message_begin(struct stream *stream);
void stream_message_start(struct stream *stream);
void stream_message_body(struct stream *stream, const uint8_t *data, size_t size);
void stream_message_end(struct stream *stream);
/* The message cannot be read: it is answered so. */
void stream_message_fail(struct stream *stream, mu_status status, const char *message);
/* The call that is being received; NULL: the rest of its message is to be thrown away. */
struct call *stream_receiving(const struct stream *stream);

/* No message begins any more (the client has said its last, or the server ends): `finished` follows. */
void stream_finish(struct stream *stream);
/* The owner has ended the exchange, or it is gone: what is in flight is cancelled, `release` follows. */
void stream_gone(struct stream *stream);
/* The loop ends, because the server stops or another gateway takes over: every stream leaves. */
void streams_finish(struct gateway_loop *loop);
/* service.writable */
void stream_writable(struct stream *stream);

extern const struct carrier carrier_stream;

#endif
