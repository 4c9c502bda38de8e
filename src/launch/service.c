/* One service: its process, whether it is ready, when it is started again, its end. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/state.h"

enum { RAN_MS = 1000 };

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
  service_mark_log(service, "%s", service->reason);
  if (!wants_restart(service, failed) || gpu_watch_fault(service)[0] != '\0') {
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

void service_end_facts(struct launched *service, int code, int status) {
  service->facts.code = code;
  service->facts.status = status;
  service->facts.out_of_memory = oom_watch_poll(&service->launch->oom);
}

/*
 * All of its processes have ended, and not because somebody asked for it. Who is killed from outside is not to blame,
 * and is started again at once; but not for ever, when what kills it comes again as soon as it is ready.
 */
static void died(struct launched *service) {
  static const uint64_t excused_after_ns = 10 * NS_PER_S;
  bool failed = service->facts.code != CLD_EXITED || service->facts.status != 0;
  struct death death = death_judge(&service->facts);
  if (service->facts.wish == DEATH_TIMEOUT)
    come_down(service, service->wish_cause, true, true);
  else
    come_down(service, death.why, failed, death.blamed || clock_now_ns() - service->policy.ready_ns < excused_after_ns);
}

void service_is_empty(struct launched *service) {
  enum stop_goal goal = service->goal;
  bool stopping = service->state == SERVICE_STOPPING;
  service->session = 0;
  service->adopted = 0;
  service->n_terminating = 0;
  service->daemonised = false;
  if (!stopping || goal == STOP_JUDGE) {
    died(service);
    return;
  }
  struct launch *launch = service->launch;
  LOG_INFO("service stopped", LOG_STR("service", service->plan.id));
  service_mark_log(service, "stopped");
  if (goal == STOP_REMOVE) {
    service_free(service);
    launch_changed(launch);
    return;
  }
  snprintf(service->reason, sizeof service->reason, "%s", goal == STOP_START ? "" : "stopped on request");
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

void service_kill(struct launched *service) {
  if (service->state != SERVICE_STOPPING || service->killing) return;
  service->killing = true;
  service->n_terminating = 0;
  uv_timer_start(&service->timer, on_unkillable, UNKILLABLE_MS, 0);
  members_look_soon(service->launch);
}

static void on_terminate_timeout(uv_timer_t *timer) { service_kill(timer->data); }

static void on_stop_timeout(uv_timer_t *timer) {
  struct launched *service = timer->data;
  LOG_WARNING("service did not end on SIGTERM: killed", LOG_STR("service", service->plan.id));
  if (launch_mps_terminate(service))
    uv_timer_start(&service->timer, on_terminate_timeout, TERMINATE_MS, 0);
  else
    service_kill(service);
}

void service_stop_with_others(struct launched *service, enum stop_goal goal) {
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
  service->signal_due = true;
  uv_timer_start(&service->timer, on_stop_timeout, (uint64_t)service->group->settings->stop_timeout_ns / NS_PER_MS, 0);
  members_look_soon(service->launch);
}

void service_stop(struct launched *service, enum stop_goal goal) {
  struct launch *launch = service->launch;
  service_stop_with_others(service, goal);
  members_signal_due(launch, SIGTERM);
}

void service_restart(struct launched *service) {
  gpu_watch_forgive(service);
  launch_mps_service_restart(service);
  service->policy = (struct restart_policy){0};
  service_stop(service, STOP_START);
}

void service_fail(struct launched *service, const char *why) {
  snprintf(service->reason, sizeof service->reason, "%s", why);
  service->mps_held = false;
  service_mark_log(service, "%s", why);
  LOG_WARNING("service cannot start", LOG_STR("service", service->plan.id), LOG_STR("reason", why));
  enter(service, SERVICE_FAILED);
}

bool service_condemn(struct launched *service, const char *cause) {
  if (service->session == 0 || service->state == SERVICE_STOPPING || service->state == SERVICE_FAILED) return false;
  snprintf(service->wish_cause, sizeof service->wish_cause, "%s", cause);
  service->facts.wish = DEATH_TIMEOUT;
  service->facts.wish_cause = service->wish_cause;
  service_stop_with_others(service, STOP_JUDGE);
  return true;
}

void service_lose_daemon(struct launched *service) {
  if (service->session == 0 || service->state == SERVICE_STOPPING || service->state == SERVICE_FAILED) return;
  if (wants_restart(service, true)) {
    service->restarts++;
    service_stop_with_others(service, STOP_START);
    return;
  }
  (void)service_condemn(service, "the MPS daemon of its GPU has ended");
}

static void on_ended(void *context, int code, int status) {
  struct launched *service = context;
  process_free(service->process);
  service->process = NULL;
  service_end_facts(service, code, status);
  service->empty_looks = 0;
  members_look_soon(service->launch); /* one look for all that end together */
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

static void start(struct launched *service) {
  mu_error err;
  service->facts = (struct death_facts){.wish = DEATH_UNASKED};
  service->killing = false;
  service->empty_looks = 0;
  service->goal = STOP_JUDGE;
  service->policy.ready = false;
  enter(service, SERVICE_STARTING);
  mu_status status = service_start_process(service, on_ended, &err);
  if (status == MU_OK) {
    LOG_INFO("service started", LOG_STR("service", service->plan.id), LOG_INT("pid", process_pid(service->process)),
             LOG_INT("port", service->plan.port));
    service_mark_log(service, "started pid %d: %s", (int)process_pid(service->process), service->plan.path);
    uv_timer_start(&service->timer, on_ready_timeout, (uint64_t)service->group->settings->ready_timeout_ns / NS_PER_MS,
                   0);
    status = ask_ready(service, &err);
  }
  if (service->process != NULL && status != MU_OK) {
    LOG_WARNING("cannot ask whether a service is ready", LOG_STR("service", service->plan.id),
                LOG_STR("error", err.message));
    service_stop(service, STOP_JUDGE);
  } else if (status != MU_OK) {
    /* whoever has its port may leave again, so that is never the last word */
    if (status == MU_EXISTS) service->policy.early_deaths = 0;
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
      if (next == NULL && service->state == SERVICE_WAITING && gpu_watch_admit(service) && launch_mps_admit(service))
        next = service;
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
