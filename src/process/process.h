/*
 * A child process that its parent watches through its pidfd on the parent's loop. What it does between fork and exec is
 * the caller's: control/child.c starts muster's own roles with it, launch/service.c other people's programs.
 */
#ifndef PROCESS_PROCESS_H
#define PROCESS_PROCESS_H

#include <sys/types.h>

#include "net/loop.h"

struct process;

/* Called once, when the process has ended and is reaped; code and status as waitid's si_code and si_status. */
typedef void process_ended(void *context, int code, int status);

/* Runs in the child, with all signals blocked, and never returns. Only what is safe after fork. It says itself whether
 * the child dies with its parent: parent is whom it has to find with getppid after PR_SET_PDEATHSIG. */
typedef void process_body(const void *body_context, pid_t parent);

/* Forks and watches; whatever fails, no child stays behind. MU_IO, MU_NO_MEMORY. */
MUST_CHECK mu_status process_start(struct net_loop *loop, process_body *body, const void *body_context,
                                   process_ended *ended, void *context, struct process **ret_process, mu_error *err);

/* Watches a child that is there already; takes pidfd over, also when it fails. As process_start. */
MUST_CHECK mu_status process_adopt(struct net_loop *loop, pid_t pid, int pidfd, process_ended *ended, void *context,
                                   struct process **ret_process, mu_error *err);

pid_t process_pid(const struct process *process);
int process_pidfd(const struct process *process);

/* Harmless when the process has ended. */
void process_kill(struct process *process, int signal);

/* Only lets go of it, the process is not touched; the memory goes with the loop's next turn. Accepts NULL. */
void process_free(struct process *process);

#endif
