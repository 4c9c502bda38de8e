/*
 * Is a service ready? Asked again and again, never by waiting some time: a TCP connection, a GET, a Check of
 * grpc.health.v1, or a command. The asking is libcurl's, on the loop; whoever starts a probe owns it. One thread.
 */
#ifndef LAUNCH_PROBE_H
#define LAUNCH_PROBE_H

#include "launch/plan.h"
#include "net/loop.h"

struct probe_pool; /* libcurl's side of a loop */
struct probe;

/* MU_NO_MEMORY, MU_IO. */
MUST_CHECK mu_status probe_pool_create(struct net_loop *loop, struct probe_pool **ret_pool, mu_error *err);
void probe_pool_free(struct probe_pool *pool); /* after its probes; accepts NULL */

struct probe_spec {
  enum ready_kind kind; /* not READY_NONE */
  uint16_t port;
  const char *argument; /* path or command */
  char **environment;   /* of a command */
};

/* ready(context) is called once, from the loop. spec and what it points at are borrowed until probe_stop. MU_NO_MEMORY,
 * MU_IO. */
MUST_CHECK mu_status probe_start(struct probe_pool *pool, const struct probe_spec *spec, void (*ready)(void *context),
                                 void *context, struct probe **ret_probe, mu_error *err);

/* Asks no more; a command that runs is killed. Also after ready. Accepts NULL. */
void probe_stop(struct probe *probe);

/* What the last answer was, for messages: "connection refused", "HTTP 503"; never NULL. */
const char *probe_last(const struct probe *probe);

/* Process number of the command that runs now; 0: none. */
pid_t probe_pid(const struct probe *probe);

#endif
