#include "control/role.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "control/message.h"

enum { CHILD_CONTROL_FD = 3, EXEC_FAILED = 127 };

static const char log_variable[] = "MUSTER_ROLE_LOG";

/* What the child needs between fork and exec. */
struct role_start {
  const struct process_spec *spec;
  int control;
  char **environment;
};

/* ---- environment ------------------------------------------------------------------------------------------------- */

static bool is_variable(const char *entry, const char *name, size_t length) {
  return strncmp(entry, name, length) == 0 && entry[length] == '=';
}

bool role_drops_variable(const char *entry) {
  static const char *const names[] = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (is_variable(entry, names[i], strlen(names[i]))) return true;
  return false;
}

/* Does the child get another value for it? */
static bool is_replaced(const char *entry, const struct process_spec *spec) {
  if (is_variable(entry, log_variable, sizeof log_variable - 1) || role_drops_variable(entry)) return true;
  for (const char *const *own = spec->environment; own != NULL && *own != NULL; own++)
    if (is_variable(entry, *own, strcspn(*own, "="))) return true;
  return false;
}

/* This process's environment with log_variable and others as spec says, without what is systemd's and its own; one
 * block, given back with free. NULL without memory. */
static char **child_environment(const struct process_spec *spec) {
  size_t n = 0, n_own = 0, kept = 0;
  enum { ENTRY_SIZE = sizeof log_variable + 64 };
  const struct log_settings *log = &spec->log;
  while (environ[n] != NULL) n++;
  while (spec->environment != NULL && spec->environment[n_own] != NULL) n_own++;
  char **environment = malloc((n + n_own + 2) * sizeof *environment + ENTRY_SIZE);
  if (environment == NULL) return NULL;
  for (size_t i = 0; i < n; i++)
    if (!is_replaced(environ[i], spec)) environment[kept++] = environ[i];
  for (size_t i = 0; i < n_own; i++) environment[kept++] = (char *)spec->environment[i];
  char *entry = (char *)(environment + n + n_own + 2);
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

static void child_run(const void *context, pid_t parent) {
  const struct role_start *start = context;
  child_signals();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(EXEC_FAILED); /* it died before prctl */
  if (start->spec->output > 0 &&
      (dup2(start->spec->output, STDOUT_FILENO) < 0 || dup2(start->spec->output, STDERR_FILENO) < 0))
    _exit(EXEC_FAILED);
  if (child_fds(start->control)) {
    /* What this process itself was given by a careless parent ends here. Where the kernel is too old for this it goes
     * on to the child, as it would without muster. */
    (void)close_range(CHILD_CONTROL_FD + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    char *const arguments[] = {(char *)start->spec->title, (char *)"--role", (char *)start->spec->role, NULL};
    execve("/proc/self/exe", arguments, start->environment);
  }
  LOG_ERROR("cannot start a process", LOG_STR("process", start->spec->title), LOG_STR("error", strerror(errno)));
  _exit(EXEC_FAILED);
}

/* ---- the parent -------------------------------------------------------------------------------------------------- */

mu_status process_spawn(struct net_loop *loop, const struct process_spec *spec, process_ended *ended, void *context,
                        struct process **ret_process, int *ret_control, mu_error *err) {
  int sockets[2];
  mu_status status = control_socket_pair(sockets, err);
  if (status != MU_OK) return status;
  struct role_start role = {.spec = spec, .control = sockets[1], .environment = child_environment(spec)};
  status = role.environment != NULL ? process_start(loop, child_run, &role, ended, context, ret_process, err)
                                    : mu_fail(err, MU_NO_MEMORY, "no memory to start a process");
  free(role.environment);
  close(sockets[1]);
  if (status == MU_OK)
    *ret_control = sockets[0];
  else
    close(sockets[0]);
  return status;
}
