/*
 * The process of `muster launch`: starts servers that muster did not write, waits until each is ready, starts them
 * again when they end, and ends all of their processes with itself. It is a child subreaper: what a service leaves
 * behind or turns into a daemon becomes its child and is counted as that service. Single-threaded, on one loop.
 */
#ifndef LAUNCH_LAUNCH_H
#define LAUNCH_LAUNCH_H

#include "launch/plan.h"

struct launch;

/* The state folder's files. */
#define LAUNCH_SOCKET_NAME "control.sock"
#define LAUNCH_STATE_NAME "state.json"

struct launch_report {
  /* Once, when every service is ready, or has been given up: all says which. summary: text for people. */
  void (*settled)(void *context, bool all, const char *summary);
  void *context;
};

/*
 * Makes the state folder (0700) where it is not there yet, takes it over, ends what an earlier launch with this folder
 * left behind, looks at all ports. Nothing is started yet. plan is borrowed. MU_EXISTS: another launch has the folder
 * (the message names its process), or a port is in use; MU_INVALID; MU_IO; MU_NO_MEMORY.
 */
MUST_CHECK mu_status launch_create(struct plan *plan, const char *state_folder, const struct launch_report *report,
                                   struct launch **ret_launch, mu_error *err);

/* Until SIGTERM, SIGINT, SIGHUP or a stop by the control socket, or until no service runs or will be started again.
 * true: that was not because services failed. */
bool launch_run(struct launch *launch);

void launch_free(struct launch *launch); /* accepts NULL */

#endif
