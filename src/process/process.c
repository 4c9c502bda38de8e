#include "process/process.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

struct process {
  uv_poll_t poll;
  int pidfd;
  pid_t pid;
  process_ended *ended;
  void *context;
};

pid_t process_pid(const struct process *process) { return process->pid; }
int process_pidfd(const struct process *process) { return process->pidfd; }

void process_kill(struct process *process, int signal) {
  /* Fails only when the process is gone already, which is what was wanted. */
  (void)pidfd_send_signal(process->pidfd, signal, NULL, 0);
}

static void on_pidfd(uv_poll_t *poll, int status, int events) {
  struct process *process = poll->data;
  siginfo_t info = {.si_pid = 0};
  if (waitid(P_PIDFD, (id_t)process->pidfd, &info, WEXITED | WNOHANG) != 0 || info.si_pid == 0) return;
  uv_poll_stop(&process->poll);
  process->ended(process->context, info.si_code, info.si_status);
}

/* Forks with all signals blocked: a handler of the parent must not run in the child. */
static pid_t fork_child(process_body *body, const void *body_context) {
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  pid_t parent = getpid(), pid = fork();
  if (pid == 0) {
    body(body_context, parent);
    abort(); /* it does not return */
  }
  int error = errno;
  sigprocmask(SIG_SETMASK, &before, NULL);
  errno = error;
  return pid;
}

static mu_status watch(struct net_loop *loop, struct process *process, int pidfd, mu_error *err) {
  process->pidfd = pidfd;
  if (process->pidfd < 0) return mu_fail(err, MU_IO, "cannot watch process %d: %s", process->pid, strerror(errno));
  int status = uv_poll_init(net_loop_uv(loop), &process->poll, process->pidfd);
  if (status != 0) {
    close(process->pidfd);
    return mu_fail(err, MU_IO, "cannot watch process %d: %s", process->pid, uv_strerror(status));
  }
  process->poll.data = process;
  uv_poll_start(&process->poll, UV_READABLE, on_pidfd);
  return MU_OK;
}

static mu_status start(struct net_loop *loop, process_body *body, const void *body_context, struct process *process,
                       mu_error *err) {
  process->pid = fork_child(body, body_context);
  if (process->pid < 0) return mu_fail(err, MU_IO, "cannot start a process: %s", strerror(errno));
  mu_status status = watch(loop, process, pidfd_open(process->pid, 0), err);
  if (status != MU_OK) {
    kill(process->pid, SIGKILL);
    waitpid(process->pid, NULL, 0);
  }
  return status;
}

mu_status process_start(struct net_loop *loop, process_body *body, const void *body_context, process_ended *ended,
                        void *context, struct process **ret_process, mu_error *err) {
  struct process *process = calloc(1, sizeof *process);
  if (process == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory to start a process");
  *process = (struct process){.ended = ended, .context = context};
  mu_status status = start(loop, body, body_context, process, err);
  if (status == MU_OK)
    *ret_process = process;
  else
    free(process);
  return status;
}

mu_status process_adopt(struct net_loop *loop, pid_t pid, int pidfd, process_ended *ended, void *context,
                        struct process **ret_process, mu_error *err) {
  struct process *process = calloc(1, sizeof *process);
  if (process == NULL) {
    close(pidfd);
    return mu_fail(err, MU_NO_MEMORY, "no memory to watch a process");
  }
  *process = (struct process){.pid = pid, .ended = ended, .context = context};
  mu_status status = watch(loop, process, pidfd, err);
  if (status == MU_OK)
    *ret_process = process;
  else
    free(process);
  return status;
}

static void on_closed(uv_handle_t *handle) { free(handle->data); }

void process_free(struct process *process) {
  if (process == NULL) return;
  uv_close((uv_handle_t *)&process->poll, on_closed);
  close(process->pidfd);
}
