/*
 * What systemd hears of this server, by the protocol of sd_notify(3): datagrams of NAME=VALUE lines to the socket that
 * NOTIFY_SOCKET names. The protocol is documented and stable and all of it that is needed are a few lines, so there is
 * no libsystemd in the binary. Nothing is said where NOTIFY_SOCKET is not set.
 *
 *   READY=1                  the start is over: ready, or serving what can be served (state "degraded")
 *   RELOADING=1 … READY=1    around a reload and an upgrade
 *   STOPPING=1               draining has begun
 *   STATUS=                  a line for `systemctl status`, when it changes
 *   WATCHDOG=1               where WATCHDOG_USEC is set: the supervisor's loop turns
 *   EXTEND_TIMEOUT_USEC=     while starting, reloading and stopping take their time
 *
 * An upgrade keeps the process number and the environment, so the new binary goes on with what the one before began.
 * The supervisor's process and loop only. Children do not get the variables.
 */
#ifndef SUPERVISOR_SERVICE_MANAGER_H
#define SUPERVISOR_SERVICE_MANAGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/status.h"

enum { SERVICE_STATUS_MAX = 160 };

/* How the server stands. */
struct service_state {
  bool started, reloading, stopping;
  char status[SERVICE_STATUS_MAX]; /* one line */
};

struct service_manager {
  int fd;               /* -1: there is nobody to tell */
  const char *path;     /* of the socket, in the environment */
  bool watched;         /* by a watchdog */
  uint64_t interval_ms; /* between two looks */
  bool failed;          /* and that has been logged */
  struct service_state told;
  uv_timer_t timer;
};

/* By the environment. false: nobody is to be told, the timer is not started. */
bool service_manager_open(struct service_manager *manager);
void service_manager_close(struct service_manager *manager);

/* Tells what has changed since what was told last. tick: also what is to be said again and again. Never blocks: what
 * finds no room is told with the next call. */
void service_manager_tell(struct service_manager *manager, const struct service_state *state, bool tick);

/* The same state in words, from counts. */
void service_state_describe(struct service_state *state, const char *name, size_t ready, size_t models,
                            size_t workers_ready, size_t workers);

/* MU_INVALID: not what systemd calls a socket. ret_size: of the address. Exported for the tests. */
struct sockaddr_un;
MUST_CHECK mu_status service_manager_address(const char *path, struct sockaddr_un *ret_address, size_t *ret_size);

#endif
