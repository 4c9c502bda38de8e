/* What bridge.c (a WebSocket) and bridge_call.c (its calls, and what they answer) share. Private to them; the proxy's
 * one loop. */
#ifndef PROXY_BRIDGE_H
#define PROXY_BRIDGE_H

#include "proto/grpc/grpc_message.h"
#include "proto/websocket/websocket_codec.h"
#include "proxy/bridge_query.h"
#include "proxy/passage.h"
#include "proxy/proxy.h"

enum {
  MESSAGE_MAX = 64 * 1024 * 1024,
  UNSENT_MAX = 1024 * 1024, /* bytes of answers that the client does not take */
  REST_MAX = 1024 * 1024,   /* read but not parsed: one read of the transport */
  HELD_EACH = 1024 * 1024,  /* bytes of messages and answers that a socket may hold whatever the others do */
  UNANSWERED_PINGS_MAX = 2
};

struct bridge {
  const struct proxy_handler *handler; /* first: exchange.user */
  struct proxy *proxy;
  struct exchange *exchange; /* NULL: gone or ended */
  struct list link;          /* proxy.bridges */
  struct websocket_codec codec;
  struct buffer rest;
  struct bridge_query query;
  char lines[160]; /* of each call */
  size_t lines_size;
  struct list calls; /* in the order of their beginning */
  uint32_t n_calls;
  uint64_t n_begun;
  struct buffer incoming; /* the message that is being received, behind room for its prefix */
  bool text, paused, finishing, heard, posted;
  uint64_t held; /* as last counted: its part of proxy.held */
  bool said_all; /* mode=stream: the client has ended its side */
  uint32_t pings;
  struct net_post post;
};

/* A call: of one message, or in mode=stream of all. */
struct bridge_call {
  struct bridge *bridge;
  struct list link;
  struct passage *passage;
  uint64_t number;
  struct grpc_framer framer;
  struct buffer answer; /* the message of gRPC that is being received */
  struct buffer out;    /* frames that wait for their turn */
  int http_status, grpc_status;
  char grpc_message[256];
  bool over, paused;
};

/* ---- bridge.c ---------------------------------------------------------------------------------------------------- */

/* To the client; nothing when it is gone. */
void bridge_send(struct bridge *b, const void *bytes, size_t size);
/* With a close frame: the end. The bridge is there until the loop's next turn. */
void bridge_close(struct bridge *b, uint16_t code, const char *reason);
/* Something has ended, or there is room: what can go on goes on in the loop's next turn. */
void bridge_settle(struct bridge *b);
/* Whether it has to give way, so that all sockets stay within settings.ws_buffer: who holds little never does. */
bool bridge_holds_too_much(struct bridge *b);
extern const char bridge_too_much[]; /* what is said then */
/* Memory for the next message of the usual size is kept. */
void bridge_forget_bytes(struct buffer *buffer);

/* ---- bridge_call.c ----------------------------------------------------------------------------------------------- */

/* Behind all others of the bridge; not started. NULL without memory. */
struct bridge_call *bridge_call_open(struct bridge *b);
/* Ends it without a word and frees it. */
void bridge_call_drop(struct bridge_call *call);

#endif
