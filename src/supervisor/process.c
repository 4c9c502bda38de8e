#include "supervisor/process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/message.h"

enum { CHILD_CONTROL_FD = 3, EXEC_FAILED = 127 };

static const char log_variable[] = "MUSTER_ROLE_LOG";

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

/* ---- environment ------------------------------------------------------------------------------------------------- */

/* This process's environment with log_variable as spec says; one block, given back with free. NULL without memory. */
static char **child_environment(const struct process_spec *spec) {
  size_t n = 0, kept = 0, name = sizeof log_variable - 1;
  enum { ENTRY_SIZE = sizeof log_variable + 64 };
  const struct log_settings *log = &spec->log;
  while (environ[n] != NULL) n++;
  char **environment = malloc((n + 2) * sizeof *environment + ENTRY_SIZE);
  if (environment == NULL) return NULL;
  for (size_t i = 0; i < n; i++)
    if (strncmp(environ[i], log_variable, name) != 0 || environ[i][name] != '=') environment[kept++] = environ[i];
  char *entry = (char *)(environment + n + 2);
  snprintf(entry, ENTRY_SIZE, "%s=%d:%d:%d:%" PRIu32 ":%d:%d", log_variable, log->error, log->warning, log->info,
           log->verbose_level, log->iso8601, (int)spec->log_format);
  environment[kept++] = entry;
  environment[kept] = NULL;
  return environment;
}

/* ---- the child --------------------------------------------------------------------------------------------------- */

static bool child_fds(int control) {
  /* out of the way first, so that nothing that follows lands on it */
  int high = fcntl(control, F_DUPFD_CLOEXEC, CHILD_CONTROL_FD + 1);
  int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (high < 0 || nothing < 0) return false;
  if (nothing == STDIN_FILENO) /* dup2 on itself would leave CLOEXEC set */
    return fcntl(nothing, F_SETFD, 0) == 0 && dup2(high, CHILD_CONTROL_FD) >= 0;
  return dup2(nothing, STDIN_FILENO) >= 0 && dup2(high, CHILD_CONTROL_FD) >= 0;
}

static void child_signals(void) {
  static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
  for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++) signal(ignored[i], SIG_IGN);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

__attribute__((noreturn)) static void child_run(const struct process_spec *spec, int control, pid_t supervisor,
                                                char **environment) {
  child_signals();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != supervisor) _exit(EXEC_FAILED); /* it died before prctl */
  if (child_fds(control)) {
    /* What the supervisor itself was given by a careless parent ends here. Where the kernel is too old for this it goes
     * on to the child, as it would without muster. */
    (void)close_range(CHILD_CONTROL_FD + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    char *const arguments[] = {(char *)spec->title, (char *)"--role", (char *)spec->role, NULL};
    execve("/proc/self/exe", arguments, environment);
  }
  LOG_ERROR("cannot start a process", LOG_STR("process", spec->title), LOG_STR("error", strerror(errno)));
  _exit(EXEC_FAILED);
}

/* ---- the supervisor ---------------------------------------------------------------------------------------------- */

static void on_pidfd(uv_poll_t *poll, int status, int events) {
  struct process *process = poll->data;
  siginfo_t info = {.si_pid = 0};
  if (waitid(P_PIDFD, (id_t)process->pidfd, &info, WEXITED | WNOHANG) != 0 || info.si_pid == 0) return;
  uv_poll_stop(&process->poll);
  process->ended(process->context, info.si_code, info.si_status);
}

/* Forks with all signals blocked: a handler of the supervisor must not run in the child. */
static pid_t fork_child(const struct process_spec *spec, int control, char **environment) {
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  pid_t supervisor = getpid(), pid = fork();
  if (pid == 0) child_run(spec, control, supervisor, environment);
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

/* Forks and watches. Whatever fails, no child stays behind. */
static mu_status start(struct net_loop *loop, const struct process_spec *spec, int control, struct process *process,
                       mu_error *err) {
  char **environment = child_environment(spec);
  if (environment == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory to start a process");
  process->pid = fork_child(spec, control, environment);
  int error = errno;
  free(environment);
  if (process->pid < 0) return mu_fail(err, MU_IO, "cannot start a process: %s", strerror(error));
  mu_status status = watch(loop, process, pidfd_open(process->pid, 0), err);
  if (status != MU_OK) {
    kill(process->pid, SIGKILL);
    waitpid(process->pid, NULL, 0);
  }
  return status;
}

mu_status process_spawn(struct net_loop *loop, const struct process_spec *spec, process_ended *ended, void *context,
                        struct process **ret_process, int *ret_control, mu_error *err) {
  int sockets[2];
  mu_status status = control_socket_pair(sockets, err);
  if (status != MU_OK) return status;
  struct process *process = calloc(1, sizeof *process);
  if (process == NULL) {
    status = mu_fail(err, MU_NO_MEMORY, "no memory to start a process");
  } else {
    *process = (struct process){.ended = ended, .context = context};
    status = start(loop, spec, sockets[1], process, err);
  }
  close(sockets[1]);
  if (status != MU_OK) {
    close(sockets[0]);
    free(process);
    return status;
  }
  *ret_process = process;
  *ret_control = sockets[0];
  return MU_OK;
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
