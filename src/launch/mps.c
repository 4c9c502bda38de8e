#include "launch/mps.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gpu/mps.h"
#include "launch/mps_daemon.h"

/* Between tries, once a daemon that has served cannot be started again. */
static const uint64_t retry_ns = 30 * NS_PER_S;
enum { END_TIMEOUTS = 4 }; /* a keeper that has not ended after so many commands' time is left to the kernel */

static void start(struct mps_daemon *mps);

static uint64_t timeout_ns(const struct launch *launch) { return (uint64_t)launch->plan->settings->mps_timeout_ns; }

/* ---- finding ----------------------------------------------------------------------------------------------------- */

static bool is_outside(const struct launched *service) {
  return service->plan.gpu == NULL || service->group->settings->mps == MPS_MODE_OFF || mps_inherited() != NULL;
}

static const char *key(const struct plan_gpu *gpu) { return gpu->uuid[0] != '\0' ? gpu->uuid : gpu->name; }

static void on_timer(uv_timer_t *timer);

/* NULL without memory. */
static struct mps_daemon *of_gpu(struct launch *launch, const struct plan_gpu *gpu) {
  list_each (link, &launch->mps) {
    struct mps_daemon *mps = list_item(link, struct mps_daemon, link);
    if (strcmp(key(mps->gpu), key(gpu)) == 0) return mps;
  }
  struct mps_daemon *mps = calloc(1, sizeof *mps);
  if (mps == NULL) return NULL;
  mps->launch = launch;
  mps->gpu = gpu;
  uv_timer_init(net_loop_uv(launch->loop), &mps->timer);
  mps->timer.data = mps;
  list_push_back(&launch->mps, &mps->link);
  return mps;
}

/* ---- the keeper -------------------------------------------------------------------------------------------------- */

static void do_without(struct mps_daemon *mps, const char *why) {
  mps->state = DAEMON_OFF;
  snprintf(mps->error, sizeof mps->error, "%.500s", why);
  LOG_WARNING("services share a GPU without MPS: they take turns", LOG_STR("gpu", mps->gpu->name),
              LOG_STR("because", mps->error));
  launch_changed(mps->launch);
}

static void forget_servers(struct mps_daemon *mps) {
  json_decref(mps->servers);
  mps->servers = NULL;
  mps->daemon = 0;
}

/* The daemon has gone, or goes: its clients cannot go on. */
static void lose_daemon(struct mps_daemon *mps, const char *why) {
  forget_servers(mps);
  if (mps->state != DAEMON_SERVING && mps->state != DAEMON_STARTING) return;
  mps->state = DAEMON_BACKOFF;
  snprintf(mps->error, sizeof mps->error, "%.500s", why);
  LOG_ERROR("no MPS daemon, its services are started again after it", LOG_STR("gpu", mps->gpu->name),
            LOG_INT("services", launch_mps_count(mps, NULL, true)), LOG_STR("error", mps->error));
  list_each (link, &mps->launch->services) {
    struct launched *service = list_item(link, struct launched, link);
    if (service->mps == mps && service->under_mps) service_lose_daemon(service);
  }
  members_signal_due(mps->launch, SIGTERM);
}

static void on_report(struct mps_daemon *mps, const struct control_packet *packet) {
  const struct control_mps_report *report = &packet->mps_report;
  snprintf(mps->folder, sizeof mps->folder, "%s", report->folder);
  if (report->daemon == 0) {
    lose_daemon(mps, report->error);
    return;
  }
  json_decref(mps->servers);
  mps->servers = report->answering ? json_loadb(report->servers.data, report->servers.size, 0, NULL) : NULL;
  mps->daemon = report->daemon;
  snprintf(mps->error, sizeof mps->error, "%s", report->error);
  if (mps->servers == NULL) return;
  if (mps->state == DAEMON_STARTING) {
    mps->state = DAEMON_SERVING;
    mps->served = true;
    restart_policy_ready(&mps->policy, clock_now_ns());
    LOG_INFO("MPS daemon serves", LOG_STR("gpu", mps->gpu->name), LOG_STR("uuid", mps->gpu->uuid),
             LOG_INT("pid", mps->daemon), LOG_STR("folder", mps->folder));
    launch_changed(mps->launch);
  }
  launch_mps_check_clients(mps, report->serial);
}

static void on_message(void *context, struct control_packet *packet) {
  struct mps_daemon *mps = context;
  if (packet->type == CONTROL_MPS_REPORT)
    on_report(mps, packet);
  else if (packet->type == CONTROL_MPS_TERMINATED)
    launch_mps_terminated(mps, packet->mps_terminate.client);
  else
    child_kill(&mps->keeper);
}

static void on_ended(void *context, int code, int status) {
  struct mps_daemon *mps = context;
  uint64_t delay_ns;
  char why[sizeof mps->error];
  const struct death death = death_judge(&(struct death_facts){.code = code, .status = status, .wish_cause = ""});
  forget_servers(mps);
  launch_changed(mps->launch);
  if (mps->ending) {
    uv_timer_stop(&mps->timer);
    return;
  }
  snprintf(why, sizeof why, "the keeper of the MPS daemon %.400s", death.why);
  lose_daemon(mps, why);
  if (!restart_policy_death(&mps->policy, clock_now_ns(), true, &delay_ns)) {
    mps->policy = (struct restart_policy){0};
    delay_ns = retry_ns;
    if (!mps->served) {
      snprintf(why, sizeof why, "%s", mps->error);
      do_without(mps, why);
      return;
    }
  }
  uv_timer_start(&mps->timer, on_timer, delay_ns / NS_PER_MS, 0);
}

static const struct child_events child_events = {.message = on_message, .ended = on_ended};

static mu_status spawn(struct mps_daemon *mps, mu_error *err) {
  struct launch *launch = mps->launch;
  char title[sizeof mps->gpu->name + 32];
  int output = launch_open_output(launch);
  if (output < 0) return mu_fail(err, MU_IO, "cannot open the log of the launch: %s", strerror(errno));
  snprintf(title, sizeof title, "muster: mps gpu:%s", mps->gpu->name);
  const struct child_spec spec = {.title = title, .role = "mps", .log = log_current(), .output = output};
  mu_status status = child_start(&mps->keeper, launch->loop, &spec, &child_events, mps, err);
  if (output > 0) close(output);
  if (status != MU_OK) return status;
  const struct control_mps_start message = {
      .binary = launch->plan->settings->mps_control_binary, .uuid = mps->gpu->uuid, .timeout_ns = timeout_ns(launch)};
  if (child_send(&mps->keeper, CONTROL_MPS_START, &message, NULL, 0) != MU_OK)
    child_kill(&mps->keeper); /* on_ended tries again */
  mps->folder[0] = '\0';      /* the keeper tidies up */
  return MU_OK;
}

static void start(struct mps_daemon *mps) {
  mu_error err;
  mps->due = false;
  mps->state = DAEMON_STARTING;
  launch_changed(mps->launch);
  if (spawn(mps, &err) == MU_OK) return;
  LOG_ERROR("cannot start the keeper of an MPS daemon", LOG_STR("gpu", mps->gpu->name), LOG_STR("error", err.message));
  snprintf(mps->error, sizeof mps->error, "%.500s", err.message);
  mps->state = DAEMON_BACKOFF;
  uv_timer_start(&mps->timer, on_timer, retry_ns / NS_PER_MS, 0);
}

static void start_again(struct mps_daemon *mps) {
  mps->due = launch_mps_count(mps, NULL, true) > 0;
  if (mps->due) return;
  mps->restarts++;
  start(mps);
}

static void on_timer(uv_timer_t *timer) {
  struct mps_daemon *mps = timer->data;
  if (mps->state == DAEMON_BACKOFF && !mps->launch->stopping) start_again(mps);
}

void launch_mps_settle(struct launch *launch, int32_t index) {
  list_each (link, &launch->mps) {
    struct mps_daemon *mps = list_item(link, struct mps_daemon, link);
    if (mps->gpu->device != NULL && mps->gpu->device->index == index && mps->state == DAEMON_SERVING)
      mps->settling = launch_mps_count(mps, NULL, true) > 0;
  }
}

void launch_mps_turn(struct launch *launch) {
  list_each (link, &launch->mps) {
    struct mps_daemon *mps = list_item(link, struct mps_daemon, link);
    mps->settling = mps->settling && launch_mps_count(mps, NULL, true) > 0;
    if (mps->state == DAEMON_BACKOFF && mps->due && !launch->stopping) start_again(mps);
  }
}

/* ---- who may start ----------------------------------------------------------------------------------------------- */

static void decide(struct mps_daemon *mps) {
  const struct plan *plan = mps->launch->plan;
  char why[GPU_TEXT_SIZE];
  mps->error[0] = '\0';
  if (!launch_mps_plan_wanted(plan, mps->gpu) && launch_mps_plan_count(plan, mps->gpu) < 2) {
    mps->state = DAEMON_OFF;
    return;
  }
  launch_mps_plan_obstacle(plan, mps->gpu, why, sizeof why);
  if (why[0] != '\0')
    do_without(mps, why);
  else
    start(mps);
}

/* A reason to wait; NULL: none. */
static const char *find_wait(const struct mps_daemon *mps) {
  if (mps->state == DAEMON_STARTING) return "waits for the MPS daemon of its GPU";
  if (mps->settling) return "waits until all MPS clients of its GPU have left, after a fault";
  return mps->state == DAEMON_BACKOFF ? "waits for the MPS daemon of its GPU, which is started again" : NULL;
}

/* Others have come to one that was alone. */
static void reconsider(struct mps_daemon *mps) {
  if (mps->error[0] != '\0' || launch_mps_plan_count(mps->launch->plan, mps->gpu) < 2) return;
  if (launch_mps_count(mps, NULL, false) == 0)
    mps->state = DAEMON_UNDECIDED;
  else
    do_without(mps, "a service that was started there alone runs without it");
}

bool launch_mps_admit(struct launched *service) {
  struct launch *launch = service->launch;
  if (is_outside(service)) return true;
  if (service->mps == NULL) service->mps = of_gpu(launch, service->plan.gpu);
  struct mps_daemon *mps = service->mps;
  if (mps == NULL) {
    service_fail(service, "no memory for the MPS of its GPU");
    return false;
  }
  if (mps->state == DAEMON_OFF) reconsider(mps);
  if (mps->state == DAEMON_UNDECIDED) decide(mps);
  const char *wait = find_wait(mps);
  if (wait != NULL) {
    snprintf(service->reason, sizeof service->reason, "%s", wait);
    service->mps_held = true;
    return false;
  }
  if (mps->state == DAEMON_OFF && service->group->settings->mps == MPS_MODE_ON) {
    char why[LAUNCH_REASON_MAX];
    snprintf(why, sizeof why, "no MPS on its GPU, which --mps=on wants: %.400s", mps->error);
    service_fail(service, why);
    return false;
  }
  bool full = mps->state == DAEMON_SERVING &&
              launch_mps_count(mps, service, true) >= mps_client_limit(mps->gpu->device, launch->plan->cuda);
  if (full) service_fail(service, "its GPU has as many MPS clients as it takes");
  return !full;
}

void launch_mps_service_restart(struct launched *service) {
  struct mps_daemon *mps = service->mps;
  if (mps != NULL && mps->state == DAEMON_OFF && launch_mps_count(mps, service, false) == 0)
    mps->state = DAEMON_UNDECIDED;
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

static void on_end_timeout(uv_timer_t *timer) {
  struct mps_daemon *mps = timer->data;
  LOG_ERROR("the keeper of an MPS daemon does not end", LOG_INT("pid", child_pid(&mps->keeper)));
  child_forget(&mps->keeper);
  forget_servers(mps);
  launch_changed(mps->launch);
}

uint64_t launch_mps_end_ns(const struct launch *launch) {
  return list_empty(&launch->mps) ? 0 : END_TIMEOUTS * timeout_ns(launch);
}

bool launch_mps_end(struct launch *launch) {
  bool gone = true;
  list_each (link, &launch->mps) {
    struct mps_daemon *mps = list_item(link, struct mps_daemon, link);
    if (!child_runs(&mps->keeper)) {
      uv_timer_stop(&mps->timer);
      continue;
    }
    gone = false;
    if (mps->ending) continue;
    mps->ending = true;
    uv_timer_start(&mps->timer, on_end_timeout, launch_mps_end_ns(launch) / NS_PER_MS, 0);
    child_stop(&mps->keeper);
  }
  return gone;
}

void launch_mps_free(struct launch *launch) {
  for (struct list *link; (link = list_pop_front(&launch->mps)) != NULL;) {
    struct mps_daemon *mps = list_item(link, struct mps_daemon, link);
    json_decref(mps->servers);
    free(mps);
  }
}

bool launch_mps_keeps(const struct launch *launch, pid_t pid) {
  list_each (link, &launch->mps) {
    const struct mps_daemon *mps = list_item(link, struct mps_daemon, link);
    if (child_runs(&mps->keeper) && child_pid(&mps->keeper) == pid) return true;
  }
  return false;
}
