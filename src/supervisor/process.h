/*
 * A child process in a role of this binary: started by fork and exec of /proc/self/exe, watched through its pidfd.
 *
 * In the child: fd 3 is its end of the control socket, every other fd but 0 to 2 is closed by exec; standard input is
 * /dev/null; SIGINT, SIGTERM and SIGHUP are ignored (the terminal and systemd send them to the whole group, but only
 * the supervisor acts on them), SIGPIPE stays ignored; it is killed when the supervisor dies.
 */
#ifndef SUPERVISOR_PROCESS_H
#define SUPERVISOR_PROCESS_H

#include <sys/types.h>

#include "base/log.h"
#include "net/loop.h"

struct process;

struct process_spec {
  const char *title; /* argv[0]: "muster: worker magika/1 cpu" */
  const char *role;  /* "worker" */
  struct log_settings log;
  enum log_format log_format; /* text or JSON */
};

/* Called once, when the process has ended and is reaped; code and status as waitid's si_code and si_status. */
typedef void process_ended(void *context, int code, int status);

/* *ret_control: the supervisor's end of the control socket, the caller's. MU_IO, MU_NO_MEMORY. */
MUST_CHECK mu_status process_spawn(struct net_loop *loop, const struct process_spec *spec, process_ended *ended,
                                   void *context, struct process **ret_process, int *ret_control, mu_error *err);

/* Watches a child that is there already; takes pidfd over, also when it fails. As process_spawn. */
MUST_CHECK mu_status process_adopt(struct net_loop *loop, pid_t pid, int pidfd, process_ended *ended, void *context,
                                   struct process **ret_process, mu_error *err);

pid_t process_pid(const struct process *process);
int process_pidfd(const struct process *process);

/* Harmless when the process has ended. */
void process_kill(struct process *process, int signal);

/* Only lets go of it, the process is not touched; the memory goes with the loop's next turn. Accepts NULL. */
void process_free(struct process *process);

#endif
