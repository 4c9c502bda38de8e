/*
 * A set of backends that serve the same: who is healthy (active checks and what requests say), who gets the next
 * request, and who waits until one is there. Everything on the proxy's loop.
 */
#ifndef PROXY_CLUSTER_H
#define PROXY_CLUSTER_H

#include "backend/backend_pool.h"
#include "net/client.h"
#include "proxy/settings.h"

struct check;

struct cluster {
  const struct proxy_settings *settings; /* borrowed, as the list */
  const struct backend_list *list;
  struct client *client;
  enum proxy_check check;
  bool http; /* PROXY_CHECK_AUTO: by HTTP */
  struct backend_pool pool;
  struct client_host **http1, **http2; /* one of each for a backend */
  struct check *checks;
  uv_timer_t timer;
  size_t n_open; /* handles */
  bool closing;
  struct list waiting; /* passages; passage.c */
  void (*wake)(struct cluster *cluster);
  uint64_t retained; /* bytes that passages keep for another attempt */
  double retry_tokens;
  uint64_t requests, retries, failures; /* failures: that the proxy answered with an error of its own */
};

/* Begins to check. list: resolved, borrowed. wake: called when a backend has become healthy. */
MUST_CHECK mu_status cluster_init(struct cluster *cluster, const struct proxy_settings *settings,
                                  const struct backend_list *list, bool http, struct client *client,
                                  struct net_loop *loop, mu_error *err);
/* Ends the checks and connections; handles close with the loop's next turn. Accepts a zeroed one. */
void cluster_close(struct cluster *cluster);
void cluster_free(struct cluster *cluster); /* after the loop */

/* A request to backend index is over. */
void cluster_end(struct cluster *cluster, size_t index, enum backend_outcome outcome, const char *why);

#endif
