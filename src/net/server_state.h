/*
 * The inside of an http_server, shared by http_server.c (listeners, timers, drain) and the connections of its
 * transports. Private to net/. Everything belongs to the loop's thread but the counters, which any thread may read.
 */
#ifndef NET_SERVER_STATE_H
#define NET_SERVER_STATE_H

#include "net/content_coding.h"
#include "net/deadlines.h"
#include "net/http_server.h"

#include <stdatomic.h>
#include <time.h>

enum { READ_SIZE = 64 * 1024 }; /* of the buffers for reading and inflating, one of each for a server */

/* What a connection may be waiting for. The first ones are looked at every COARSE_NS, WAIT_SLOW to the millisecond. */
enum wait {
  WAIT_IDLE,   /* for the next request */
  WAIT_FIRST,  /* draining: for the request of a client that has only just connected */
  WAIT_HEAD,   /* for the rest of a head */
  WAIT_BODY,   /* for enough of a body */
  WAIT_LINGER, /* for a client to see the last answer and close */
  WAIT_STALL,  /* for a client to take enough of an answer */
  WAIT_SLOW,   /* for a client to take an answer whose memory is borrowed */
  WAIT_COUNT,
  WAIT_NONE = WAIT_COUNT
};

#define COARSE_NS (100 * (uint64_t)NS_PER_MS)

struct http_server {
  struct net_loop *loop;
  struct service service;
  void *context;
  struct http_limits limits;
  struct list listeners;
  struct list connections;
  struct list ready; /* connections that have something to do before the loop waits again */
  struct deadlines waits[WAIT_COUNT];
  uint64_t now_ns; /* when the current callback of the loop began */

  uv_prepare_t turn;
  uv_timer_t coarse, fine;
  size_t n_handles; /* open ones, connections and listeners too: the server is freed after the last */
  bool closed;
  bool accept_held;       /* no descriptors or no room: the backlog waits */
  bool held;              /* by http_server_hold */
  bool draining, drained; /* drained: said so */
  bool patient;           /* draining: idle connections may stay as long as at other times */
  mu_status (*give)(void *context,
                    int fd); /* draining: to somebody who takes idle connections; NULL: there is nobody */
  void (*on_drained)(void *context);
  void *drained_context; /* of give, too */

  struct list spare, spare2; /* exchanges of HTTP/1.1 and of HTTP/2 kept for reuse */
  size_t n_spare, n_spare2;
  struct content_encoder *encoders[CODING_COUNT]; /* made when first needed */
  struct buffer encoded;                          /* the reply being compressed */
  uint8_t *read_buffer, *decoded;
  uint64_t next_serial;
  time_t date_second; /* that `date` says */
  char date[40];      /* the header's value */
  _Atomic uint64_t connections_open, connections_total, requests_total;
};

/* For connections. */
void http_server_attach(struct http_server *server);            /* one more handle holds the server */
void http_server_detach(struct http_server *server);            /* one less; may free the server */
void http_server_connection_closed(struct http_server *server); /* there is room for another one */
void http_server_keep_all(struct http_server *server);          /* nobody takes connections any more */
void http_server_arm_fine(struct http_server *server);          /* after something was put into WAIT_SLOW */

/* Relaxed: the counters are read for people. */
static inline void counter_add(_Atomic uint64_t *counter, uint64_t n) {
  atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

#endif
