/* The process of a service: its log, its environment, its start. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "control/child.h"
#include "launch/state.h"

enum { EXEC_FAILED = 127 };

/* ---- its log ----------------------------------------------------------------------------------------------------- */

static int open_log(const struct launched *service) {
  return open(service->log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
}

/* What cannot be written there has been logged anyhow. */
void service_mark_log(const struct launched *service, const char *format, ...) {
  char text[1024], stamp[32];
  struct tm utc;
  time_t now = time(NULL);
  va_list args;
  int fd = open_log(service);
  if (fd < 0) return;
  gmtime_r(&now, &utc);
  strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%SZ", &utc);
  int n = snprintf(text, sizeof text, "--- %s muster: ", stamp);
  va_start(args, format);
  vsnprintf(text + n, sizeof text - (size_t)n - 1, format, args);
  va_end(args);
  size_t size = strlen(text);
  text[size++] = '\n';
  if (write(fd, text, size) < 0) LOG_VERBOSE("cannot write to a service's log", LOG_STR("error", strerror(errno)));
  close(fd);
}

/* ---- the child --------------------------------------------------------------------------------------------------- */

struct exec_plan {
  const struct launched *service;
  int log;
};

static void say_and_exit(const char *path) {
  const char *const parts[] = {"muster: cannot run ", path, ": ", strerror(errno), "\n"};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
    if (write(STDERR_FILENO, parts[i], strlen(parts[i])) < 0) break;
  _exit(EXEC_FAILED);
}

static void run_child(const void *context, pid_t parent) {
  static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGCHLD};
  const struct exec_plan *plan = context;
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) signal(signals[i], SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  setsid(); /* a session is a process group too, and Ctrl-C in the launcher's terminal is the launcher's */
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(EXEC_FAILED); /* it died before prctl */
  int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (nothing < 0 || dup2(nothing, 0) < 0 || dup2(plan->log, 1) < 0 || dup2(plan->log, 2) < 0) _exit(EXEC_FAILED);
  (void)close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
  (void)setrlimit(RLIMIT_NOFILE, &plan->service->launch->descriptors); /* more is no program's usual place */
  execve(plan->service->plan.path, plan->service->plan.argv, plan->service->environment);
  say_and_exit(plan->service->plan.path);
}

/* The launcher's environment with the service's own variables over it; one block, given back with free. */
static char **make_environment(const struct launched *service, const struct mps_variables *mps) {
  const char *launch_id = service->launch->id;
  size_t n = 0, kept = 0, added = 0, planned = 0, size = sizeof LAUNCH_VARIABLE + strlen(launch_id) + 1;
  while (environ[n] != NULL) n++;
  while (service->plan.environment[planned] != NULL) planned++;
  size_t pointers = n + 2 * (mps->n + planned) + 2;
  char **environment = malloc(pointers * sizeof *environment + size + sizeof mps->text);
  if (environment == NULL) return NULL;
  char *id = (char *)(environment + pointers), *texts = id + size, **more = environment + n + mps->n + planned + 2;
  memcpy(texts, mps->text, mps->n * sizeof mps->text[0]);
  for (size_t i = 0; i < mps->n; i++) more[added++] = texts + i * MPS_VARIABLE_SIZE;
  for (size_t i = 0; i < planned; i++) more[added++] = service->plan.environment[i];
  snprintf(id, size, "%s=%s", LAUNCH_VARIABLE, launch_id);
  for (size_t i = 0; i < n; i++) {
    size_t name = strcspn(environ[i], "=") + 1;
    bool replaced = strncmp(environ[i], id, name) == 0 || child_drops_variable(environ[i]);
    for (size_t k = 0; !replaced && k < added; k++) replaced = strncmp(environ[i], more[k], name) == 0;
    if (!replaced) environment[kept++] = environ[i];
  }
  /* of several with one name the last one counts: --env over what muster says itself */
  for (size_t k = 0; k < added; k++) {
    size_t name = strcspn(more[k], "=") + 1;
    bool again = false;
    for (size_t later = k + 1; !again && later < added; later++) again = strncmp(more[k], more[later], name) == 0;
    if (!again) environment[kept++] = more[k];
  }
  environment[kept++] = id;
  environment[kept] = NULL;
  return environment;
}

mu_status service_start_process(struct launched *service, process_ended *ended, mu_error *err) {
  struct mps_variables mps;
  launch_mps_prepare(service, &mps);
  free(service->environment);
  service->environment = make_environment(service, &mps);
  if (service->environment == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for a service");
  mu_status status = service->plan.port != 0 ? port_check_free(service->plan.port, err) : MU_OK;
  if (status != MU_OK) return status;
  struct exec_plan plan = {.service = service, .log = open_log(service)};
  if (plan.log < 0) return mu_fail(err, MU_IO, "cannot open the log %.300s: %s", service->log_path, strerror(errno));
  status = process_start(service->launch->loop, run_child, &plan, ended, service, &service->process, err);
  close(plan.log);
  if (status == MU_OK) service->session = process_pid(service->process);
  return status;
}
