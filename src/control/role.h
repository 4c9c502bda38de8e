/*
 * A child process in a role of this binary: started by fork and exec of /proc/self/exe.
 *
 * In the child: fd 3 is its end of the control socket, every other fd but 0 to 2 is closed by exec; standard input is
 * /dev/null; SIGINT, SIGTERM and SIGHUP are ignored (the terminal and systemd send them to the whole group, but only
 * the supervisor acts on them), SIGPIPE stays ignored; it is killed when its parent dies.
 * The parent is the supervisor, or `muster launch` (roles `mps` and `fleet`).
 */
#ifndef CONTROL_ROLE_H
#define CONTROL_ROLE_H

#include "base/log.h"
#include "process/process.h"

struct process_spec {
  const char *title; /* argv[0]: "muster: worker magika/1 cpu" */
  const char *role;  /* "worker" */
  struct log_settings log;
  enum log_format log_format;     /* text or JSON */
  int output;                     /* its standard error, and output; 0: this process's */
  const char *const *environment; /* "NAME=VALUE" … NULL: instead of what this process has; NULL: nothing */
};

/* *ret_control: the parent's end of the control socket, the caller's. MU_IO, MU_NO_MEMORY. */
MUST_CHECK mu_status process_spawn(struct net_loop *loop, const struct process_spec *spec, process_ended *ended,
                                   void *context, struct process **ret_process, int *ret_control, mu_error *err);

/* Is "NAME=VALUE" a variable that is between systemd and its main process alone? Roles do not get it. */
bool role_drops_variable(const char *entry);

#endif
