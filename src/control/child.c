#include "control/child.h"

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
struct exec_plan {
  const struct child_spec *spec;
  int control;
  char **environment;
};

/* ---- environment ------------------------------------------------------------------------------------------------- */

static bool is_variable(const char *entry, const char *name, size_t length) {
  return strncmp(entry, name, length) == 0 && entry[length] == '=';
}

bool child_drops_variable(const char *entry) {
  static const char *const names[] = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (is_variable(entry, names[i], strlen(names[i]))) return true;
  return false;
}

/* Does the child get another value for it? */
static bool is_replaced(const char *entry, const struct child_spec *spec) {
  if (is_variable(entry, log_variable, sizeof log_variable - 1) || child_drops_variable(entry)) return true;
  for (const char *const *own = spec->environment; own != NULL && *own != NULL; own++)
    if (is_variable(entry, *own, strcspn(*own, "="))) return true;
  return false;
}

/* This process's environment with log_variable and others as spec says, without what is systemd's and its own; one
 * block, given back with free. NULL without memory. */
static char **child_environment(const struct child_spec *spec) {
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
  const struct exec_plan *plan = context;
  child_signals();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(EXEC_FAILED); /* it died before prctl */
  if (plan->spec->output > 0 &&
      (dup2(plan->spec->output, STDOUT_FILENO) < 0 || dup2(plan->spec->output, STDERR_FILENO) < 0))
    _exit(EXEC_FAILED);
  if (child_fds(plan->control)) {
    /* What this process itself was given by a careless parent ends here. Where the kernel is too old for this it goes
     * on to the child, as it would without muster. */
    (void)close_range(CHILD_CONTROL_FD + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    char *const arguments[] = {(char *)plan->spec->title, (char *)"--role", (char *)plan->spec->role, NULL};
    execve("/proc/self/exe", arguments, plan->environment);
  }
  LOG_ERROR("cannot start a process", LOG_STR("process", plan->spec->title), LOG_STR("error", strerror(errno)));
  _exit(EXEC_FAILED);
}

/* ---- the parent -------------------------------------------------------------------------------------------------- */

static void on_message(void *context, struct control_packet *packet) {
  const struct child *child = context;
  child->events->message(child->context, packet);
}

static void on_lost(void *context, const mu_error *err) {
  const struct child *child = context;
  if (child->events->lost != NULL) child->events->lost(child->context, err);
}

static const struct control_link_events link_events = {on_message, on_lost};

static void on_ended(void *context, int code, int status) {
  struct child *child = context;
  const struct child_events *events = child->events;
  void *keeper = child->context;
  if (child->link != NULL) control_link_read(child->link);
  child_forget(child);
  events->ended(keeper, code, status);
}

/* Takes control over, also when it fails. */
static mu_status connect_child(struct child *child, struct net_loop *loop, int control,
                               const struct child_events *events, void *context, mu_error *err) {
  *child = (struct child){.events = events, .context = context};
  if (control < 0) return MU_OK;
  child->link = control_link_create(loop, control, &link_events, child);
  if (child->link != NULL) return MU_OK;
  close(control);
  *child = (struct child){0};
  return mu_fail(err, MU_NO_MEMORY, "no memory to speak to a process");
}

static mu_status exec_child(struct child *child, struct net_loop *loop, const struct child_spec *spec, int control,
                            mu_error *err) {
  struct exec_plan plan = {.spec = spec, .control = control, .environment = child_environment(spec)};
  mu_status status = plan.environment != NULL
                         ? process_start(loop, child_run, &plan, on_ended, child, &child->process, err)
                         : mu_fail(err, MU_NO_MEMORY, "no memory to start a process");
  free(plan.environment);
  return status;
}

mu_status child_start(struct child *child, struct net_loop *loop, const struct child_spec *spec,
                      const struct child_events *events, void *context, mu_error *err) {
  int sockets[2];
  mu_status status = control_socket_pair(sockets, err);
  if (status != MU_OK) return status;
  status = connect_child(child, loop, sockets[0], events, context, err);
  if (status == MU_OK) {
    status = exec_child(child, loop, spec, sockets[1], err);
    if (status != MU_OK) child_forget(child);
  }
  close(sockets[1]);
  return status;
}

mu_status child_adopt(struct child *child, struct net_loop *loop, pid_t pid, int pidfd, int control,
                      const struct child_events *events, void *context, mu_error *err) {
  mu_status status = connect_child(child, loop, control, events, context, err);
  if (status != MU_OK) {
    close(pidfd);
    return status;
  }
  status = process_adopt(loop, pid, pidfd, on_ended, child, &child->process, err);
  if (status != MU_OK) child_forget(child);
  return status;
}

mu_status child_send(struct child *child, enum control_type type, const void *message, const int *fds, size_t n_fds) {
  return child->link != NULL ? control_link_send(child->link, type, message, fds, n_fds) : MU_CANCELED;
}

bool child_flushed(const struct child *child) {
  return !child_runs(child) || (child->link != NULL && control_link_flushed(child->link));
}

struct child_handle child_give(const struct child *child) {
  if (!child_runs(child) || child->link == NULL) return (struct child_handle){0, -1, -1};
  return (struct child_handle){child_pid(child), process_pidfd(child->process), control_link_socket(child->link)};
}

void child_stop(struct child *child) {
  if (child_send(child, CONTROL_STOP, NULL, NULL, 0) != MU_OK) child_hang_up(child);
}

void child_hang_up(struct child *child) {
  control_link_free(child->link);
  child->link = NULL;
}

void child_kill(struct child *child) {
  if (child->process != NULL) process_kill(child->process, SIGKILL);
}

void child_forget(struct child *child) {
  control_link_free(child->link);
  process_free(child->process);
  *child = (struct child){0};
}
