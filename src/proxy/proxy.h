/*
 * `muster proxy`: one endpoint in front of servers that others wrote (docs/proxy.md). One process, one loop: listeners,
 * passages to the backends, checks, pages. Nothing that passes through is decoded.
 */
#ifndef PROXY_PROXY_H
#define PROXY_PROXY_H

#include "net/http_server.h"
#include "proxy/cluster.h"

enum proxy_port { PROXY_GRPC, PROXY_HTTP, PROXY_WS, PROXY_PORTS };

struct proxy {
  const struct proxy_settings *settings;
  struct net_loop *loop;
  struct client *client;
  struct cluster clusters[2];
  struct cluster *grpc, *http; /* the same one where there is one list; NULL: no backends for it */
  struct http_server *servers[PROXY_PORTS];
  uint16_t ports[PROXY_PORTS]; /* where they listen; 0: off */
  struct list bridges;         /* open sockets: bridge.c */
  uint64_t held;               /* bytes of messages and answers that they hold */
  uv_signal_t signals[3];
  uv_timer_t drain_timer, ping_timer;
  uint32_t n_draining;
  bool leaving;
  uint64_t calls_grpc, calls_http, sockets, messages;
};

/* What proxy_run does, in parts: begins to listen and to check; *proxy is to be stopped in any case. settings are
 * borrowed. MU_NO_MEMORY, MU_IO, and what listen_tcp says. */
MUST_CHECK mu_status proxy_start(struct proxy *proxy, const struct proxy_settings *settings, mu_error *err);
void proxy_stop(struct proxy *proxy);

/* Runs until SIGINT or SIGTERM and the end of what is in flight then. Returns the exit status. */
int proxy_run(const struct proxy_settings *settings);

/* --opaque (opaque.c): writes an HAProxy configuration, checks it, and runs haproxy with it in the foreground. argc,
 * argv: what settings was loaded from, for SIGHUP, which loads it anew. As proxy_run. */
int proxy_run_opaque(const struct proxy_settings *settings, int argc, char **argv);
/* The configuration; n_listeners sockets are descriptors PROXY_LISTENER_FD and the following. */
enum { PROXY_LISTENER_FD = 10 };
void proxy_write_haproxy(struct buffer *out, const struct proxy_settings *settings, size_t n_listeners);

/* ---- what an exchange becomes; exchange.user is a struct proxy_handler * ------------------------------------------
 */

struct proxy_handler {
  void (*body)(struct exchange *exchange, const uint8_t *data, size_t size);
  void (*end)(struct exchange *exchange);
  void (*gone)(struct exchange *exchange);
  void (*writable)(struct exchange *exchange);
};

/* relay.c: passed on as it is. */
void relay_begin(struct proxy *proxy, struct exchange *exchange, bool grpc);
/* bridge.c: /ws. */
void bridge_begin(struct proxy *proxy, struct exchange *exchange);
/* Asks every silent socket for a sign of life. */
void bridges_ping(struct proxy *proxy);
/* At the end, when every exchange is gone: their memory. */
void bridges_forget(struct proxy *proxy);
/* Tells every socket that the proxy leaves. */
void bridges_leave(struct proxy *proxy);
/* pages.c: is it for the proxy itself? true: answered. */
bool pages_answer(struct proxy *proxy, struct exchange *exchange, bool grpc);

/* Ends a gRPC answer (begun: with trailers) with a status. */
void proxy_grpc_error(struct exchange *exchange, bool begun, int code, const char *message);

#endif
