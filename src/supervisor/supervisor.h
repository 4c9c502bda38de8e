/* The supervisor role: listening sockets, processes, restarts, the control socket. */
#ifndef SUPERVISOR_SUPERVISOR_H
#define SUPERVISOR_SUPERVISOR_H

#include "config/options.h"

/* Serves until SIGTERM, SIGINT or `muster stop`; returns the process's exit status: 0 after a clean stop, 1 when it
 * could not start or gave up (--exit-on-error). The log is already set up, what it says goes to standard error.
 * options are taken over; argc, argv: what they were loaded from, for a reload. */
int supervisor_main(struct options *options, int argc, char **argv);

#endif
