/* The supervisor role: listening sockets, processes, restarts, the control socket. */
#ifndef SUPERVISOR_SUPERVISOR_H
#define SUPERVISOR_SUPERVISOR_H

#include "config/options.h"

/* Serves until SIGTERM, SIGINT or `muster stop`; returns the process's exit status: 0 after a clean stop, 1 when it
 * could not start or gave up (--exit-on-error). The log is already set up, what it says goes to standard error.
 * options are taken over; argc, argv: what they were loaded from. state: of upgrade_take_state; -1: none. */
int supervisor_main(struct options *options, int argc, char **argv, int state);

/* The descriptor of the state that a supervisor of another version, in this very process, has left; -1: none;
 * UPGRADE_NO_STATE: what is there is none. To be called before the environment is read: what it says is no setting. */
enum { UPGRADE_NO_STATE = -2 };
int upgrade_take_state(void);

/* The settings that the supervisor before this one had, which serve on where they cannot be read anew: a file may break
 * between the check and the change. As options_load. MU_INVALID, MU_UNSUPPORTED, MU_IO, MU_NO_MEMORY. */
MUST_CHECK mu_status upgrade_former_options(int state, struct options **ret_options);

/* Whether this binary could go on with the state behind fd. MU_INVALID, MU_UNSUPPORTED, MU_IO, MU_NO_MEMORY. */
MUST_CHECK mu_status upgrade_check_state(int fd, mu_error *err);

#endif
