/* One service: its process, whether it is ready, when it is started again, its end. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "launch/state.h"

enum { EXEC_FAILED = 127, UNKILLABLE_MS = 10000, RAN_MS = 1000 };

const char *service_state_name(enum service_state state) {
  static const char *const names[] = {
      [SERVICE_WAITING] = "waiting",   [SERVICE_STARTING] = "starting", [SERVICE_READY] = "ready",
      [SERVICE_STOPPING] = "stopping", [SERVICE_BACKOFF] = "backoff",   [SERVICE_STOPPED] = "stopped",
      [SERVICE_FAILED] = "failed",
  };
  return names[state];
}

static void enter(struct launched *service, enum service_state state) {
  uv_timer_stop(&service->timer);
  service->state = state;
  service->since_ns = clock_now_ns();
  launch_changed(service->launch);
}

/* ---- its log ----------------------------------------------------------------------------------------------------- */

static int open_log(const struct launched *service) {
  return open(service->log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
}

/* A line of the launcher's among the service's own; what cannot be written there has been logged anyhow. */
static void mark_log(const struct launched *service, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void mark_log(const struct launched *service, const char *format, ...) {
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

struct child {
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
  const struct child *child = context;
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) signal(signals[i], SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  setsid(); /* a session is a process group too, and Ctrl-C in the launcher's terminal is the launcher's */
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(EXEC_FAILED); /* it died before prctl */
  int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (nothing < 0 || dup2(nothing, 0) < 0 || dup2(child->log, 1) < 0 || dup2(child->log, 2) < 0) _exit(EXEC_FAILED);
  (void)close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
  execve(child->service->plan.path, child->service->plan.argv, child->service->environment);
  say_and_exit(child->service->plan.path);
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
    bool replaced = strncmp(environ[i], id, name) == 0;
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

/* ---- its end ----------------------------------------------------------------------------------------------------- */

static void stop_probe(struct launched *service) {
  probe_stop(service->probe);
  service->probe = NULL;
}

static void on_backoff_over(uv_timer_t *timer) {
  struct launched *service = timer->data;
  enter(service, SERVICE_WAITING);
}

/* Will it be started again when it has ended like this? */
static bool wants_restart(const struct launched *service, bool failed) {
  int64_t restart = service->group->settings->restart;
  return restart == LAUNCH_RESTART_ALWAYS || (restart == LAUNCH_RESTART_ON_FAILURE && failed);
}

/* It is down, and nobody asked for it; why: for people. */
static void come_down(struct launched *service, const char *why, bool failed, bool blamed) {
  bool was_ready = service->policy.ready;
  uint64_t delay_ns = 0;
  stop_probe(service);
  snprintf(service->reason, sizeof service->reason, "%.300s%s", why, was_ready ? "" : ", before it was ready");
  mark_log(service, "%s", service->reason);
  if (!wants_restart(service, failed)) {
    enter(service, failed ? SERVICE_FAILED : SERVICE_STOPPED);
  } else if (!restart_policy_death(&service->policy, clock_now_ns(), blamed, &delay_ns)) {
    size_t used = strlen(service->reason);
    snprintf(service->reason + used, sizeof service->reason - used, "; given up after %d times in a row, see %.120s",
             RESTART_EARLY_DEATHS_MAX, service->log_path);
    enter(service, SERVICE_FAILED);
  } else {
    service->restarts++;
    enter(service, SERVICE_BACKOFF);
    uv_timer_start(&service->timer, on_backoff_over, delay_ns / NS_PER_MS, 0);
  }
  if (failed || service->state == SERVICE_FAILED)
    LOG_WARNING("service ended", LOG_STR("service", service->plan.id), LOG_STR("reason", service->reason),
                LOG_STR("state", service_state_name(service->state)));
  else
    LOG_INFO("service ended", LOG_STR("service", service->plan.id), LOG_STR("reason", service->reason),
             LOG_STR("state", service_state_name(service->state)));
}

/* All of its processes have ended, and not because somebody asked for it. */
static void died(struct launched *service) {
  bool failed = service->facts.code != CLD_EXITED || service->facts.status != 0;
  struct death death = death_judge(&service->facts);
  if (service->facts.wish == DEATH_TIMEOUT)
    come_down(service, service->wish_cause, true, true);
  else
    come_down(service, death.why, failed, death.blamed);
}

void service_is_empty(struct launched *service) {
  enum stop_goal goal = service->goal;
  bool stopping = service->state == SERVICE_STOPPING;
  service->session = 0;
  service->adopted = 0;
  service->daemonised = false;
  if (!stopping || goal == STOP_JUDGE) {
    died(service);
    return;
  }
  struct launch *launch = service->launch;
  LOG_INFO("service stopped", LOG_STR("service", service->plan.id));
  mark_log(service, "stopped");
  if (goal == STOP_REMOVE) {
    service_free(service);
    launch_changed(launch);
    return;
  }
  snprintf(service->reason, sizeof service->reason, "stopped on request");
  enter(service, goal == STOP_START ? SERVICE_WAITING : SERVICE_STOPPED);
}

/* SIGKILL did not end it: it hangs in the kernel, and nobody can do more. */
static void on_unkillable(uv_timer_t *timer) {
  struct launched *service = timer->data;
  LOG_ERROR("processes of a service cannot be killed: they hang in the kernel", LOG_STR("service", service->plan.id),
            LOG_INT("processes", service->members));
  process_free(service->process);
  service->process = NULL;
  snprintf(service->reason, sizeof service->reason, "its processes cannot be killed: they hang in the kernel");
  if (service->goal == STOP_REMOVE) service->goal = STOP_STAY;
  enter(service, SERVICE_FAILED);
}

static void on_stop_timeout(uv_timer_t *timer) {
  struct launched *service = timer->data;
  LOG_WARNING("service did not end on SIGTERM: killed", LOG_STR("service", service->plan.id));
  service->killing = true;
  uv_timer_start(&service->timer, on_unkillable, UNKILLABLE_MS, 0);
  members_look(service->launch);
}

void service_stop(struct launched *service, enum stop_goal goal) {
  if (service->state == SERVICE_STOPPING) {
    service->goal = goal;
    return;
  }
  bool runs = service->process != NULL || service->session != 0;
  stop_probe(service);
  service->goal = goal;
  service->killing = false;
  service->empty_looks = 0;
  if (goal != STOP_JUDGE) service->facts.wish = DEATH_STOPPED;
  enter(service, SERVICE_STOPPING);
  if (!runs) {
    service_is_empty(service);
    return;
  }
  members_signal(service, SIGTERM);
  uv_timer_start(&service->timer, on_stop_timeout, (uint64_t)service->group->settings->stop_timeout_ns / NS_PER_MS, 0);
  members_look_soon(service->launch);
}

void service_restart(struct launched *service) {
  launch_mps_service_restart(service);
  service->policy = (struct restart_policy){0};
  service_stop(service, STOP_START);
}

void service_fail(struct launched *service, const char *why) {
  snprintf(service->reason, sizeof service->reason, "%s", why);
  service->mps_held = false;
  mark_log(service, "%s", why);
  LOG_WARNING("service cannot start", LOG_STR("service", service->plan.id), LOG_STR("reason", why));
  enter(service, SERVICE_FAILED);
}

void service_lose_daemon(struct launched *service) {
  if (service->session == 0 || service->state == SERVICE_STOPPING || service->state == SERVICE_FAILED) return;
  if (wants_restart(service, true)) {
    service->restarts++;
    service_stop(service, STOP_START);
    return;
  }
  snprintf(service->wish_cause, sizeof service->wish_cause, "the MPS daemon of its GPU has ended");
  service->facts.wish = DEATH_TIMEOUT;
  service->facts.wish_cause = service->wish_cause;
  service_stop(service, STOP_JUDGE);
}

static void on_ended(void *context, int code, int status) {
  struct launched *service = context;
  process_free(service->process);
  service->process = NULL;
  service->facts.code = code;
  service->facts.status = status;
  service->empty_looks = 0;
  members_look(service->launch);
}

/* ---- its start --------------------------------------------------------------------------------------------------- */

static void on_ready(void *context) {
  struct launched *service = context;
  stop_probe(service);
  restart_policy_ready(&service->policy, clock_now_ns());
  service->reason[0] = '\0';
  enter(service, SERVICE_READY);
  launch_mps_service_ready(service);
  LOG_INFO("service ready", LOG_STR("service", service->plan.id), LOG_INT("port", service->plan.port));
}

/* Nothing is asked of it; what ends at once shall not count as having been ready all the same. */
static void on_ran(uv_timer_t *timer) { on_ready(timer->data); }

static void on_ready_timeout(uv_timer_t *timer) {
  struct launched *service = timer->data;
  snprintf(service->wish_cause, sizeof service->wish_cause, "not ready within %" PRIu64 " ms (%.100s)",
           (uint64_t)service->group->settings->ready_timeout_ns / NS_PER_MS, probe_last(service->probe));
  service->facts.wish = DEATH_TIMEOUT;
  service->facts.wish_cause = service->wish_cause;
  service_stop(service, STOP_JUDGE);
}

/* Its process runs now: what says that it is ready? */
static mu_status ask_ready(struct launched *service, mu_error *err) {
  if (service->group->ready == READY_NONE) {
    uv_timer_start(&service->timer, on_ran, RAN_MS, 0);
    return MU_OK;
  }
  service->probe_spec = (struct probe_spec){.kind = service->group->ready,
                                            .port = service->plan.port,
                                            .argument = service->plan.ready_argument,
                                            .environment = service->environment};
  return probe_start(service->launch->probes, &service->probe_spec, on_ready, service, &service->probe, err);
}

static mu_status start_process(struct launched *service, mu_error *err) {
  struct mps_variables mps;
  launch_mps_prepare(service, &mps);
  free(service->environment);
  service->environment = make_environment(service, &mps);
  if (service->environment == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for a service");
  mu_status status = service->plan.port != 0 ? port_check_free(service->plan.port, err) : MU_OK;
  if (status != MU_OK) return status;
  struct child child = {.service = service, .log = open_log(service)};
  if (child.log < 0) return mu_fail(err, MU_IO, "cannot open the log %.300s: %s", service->log_path, strerror(errno));
  status = process_start(service->launch->loop, run_child, &child, on_ended, service, &service->process, err);
  close(child.log);
  if (status == MU_OK) service->session = process_pid(service->process);
  return status;
}

static void start(struct launched *service) {
  mu_error err;
  service->facts = (struct death_facts){.wish = DEATH_UNASKED};
  service->killing = false;
  service->empty_looks = 0;
  service->goal = STOP_JUDGE;
  enter(service, SERVICE_STARTING);
  mu_status status = start_process(service, &err);
  if (status == MU_OK) {
    LOG_INFO("service started", LOG_STR("service", service->plan.id), LOG_INT("pid", process_pid(service->process)),
             LOG_INT("port", service->plan.port));
    mark_log(service, "started pid %d: %s", (int)process_pid(service->process), service->plan.path);
    uv_timer_start(&service->timer, on_ready_timeout, (uint64_t)service->group->settings->ready_timeout_ns / NS_PER_MS,
                   0);
    status = ask_ready(service, &err);
  }
  if (service->process != NULL && status != MU_OK) {
    LOG_WARNING("cannot ask whether a service is ready", LOG_STR("service", service->plan.id),
                LOG_STR("error", err.message));
    service_stop(service, STOP_JUDGE);
  } else if (status != MU_OK) {
    come_down(service, err.message, true, true);
  }
}

void services_schedule(struct launch *launch) {
  int64_t most = launch->plan->settings->parallel, starting = 0;
  if (launch->stopping) return;
  list_each (link, &launch->services) starting += list_item(link, struct launched, link)->state == SERVICE_STARTING;
  for (;;) {
    struct launched *next = NULL; /* start may change the list: looked for anew each time */
    list_each (link, &launch->services) {
      struct launched *service = list_item(link, struct launched, link);
      if (next == NULL && service->state == SERVICE_WAITING && launch_mps_admit(service)) next = service;
    }
    if (next == NULL || (most > 0 && starting >= most)) return;
    starting++;
    start(next);
  }
}

/* ---- making one -------------------------------------------------------------------------------------------------- */

mu_status service_add(struct launch *launch, struct plan_group *group, uint32_t index, mu_error *err) {
  struct launched *service = calloc(1, sizeof *service);
  if (service == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for a service");
  *service = (struct launched){.launch = launch, .group = group, .index = index, .since_ns = clock_now_ns()};
  mu_status status = plan_service(launch->plan, group, index, &service->plan, err);
  if (status != MU_OK) {
    free(service);
    return status;
  }
  int n = snprintf(service->log_path, sizeof service->log_path, "%s/%s-%u.log", launch->log_folder, group->name, index);
  if (n < 0 || (size_t)n >= sizeof service->log_path) service->log_path[sizeof service->log_path - 1] = '\0';
  uv_timer_init(net_loop_uv(launch->loop), &service->timer);
  service->timer.data = service;
  /* behind those of its group, or at the end */
  struct list *at = &launch->services;
  list_each (link, &launch->services)
    if (list_item(link, struct launched, link)->group > group && at == &launch->services) at = link;
  list_insert_before(at, &service->link);
  return MU_OK;
}

static void on_closed(uv_handle_t *handle) { free(handle->data); }

void service_free(struct launched *service) {
  list_remove(&service->link);
  probe_stop(service->probe);
  process_free(service->process);
  plan_service_free(&service->plan);
  free(service->environment);
  uv_close((uv_handle_t *)&service->timer, on_closed);
}
