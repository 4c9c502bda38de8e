/*
 * Services as clients of their GPU's MPS daemon: what they are started with, whether they have become clients, how
 * their work is ended before they are killed, and what people see.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "gpu/mps.h"
#include "launch/mps_daemon.h"

uint32_t launch_mps_count(const struct mps_daemon *mps, const struct launched *without, bool clients) {
  uint32_t n = 0;
  list_each (link, &mps->launch->services) {
    const struct launched *service = list_item(link, struct launched, link);
    bool runs = service->process != NULL || service->session != 0;
    n += service->mps == mps && service != without && runs && (service->under_mps || !clients);
  }
  return n;
}

/* ---- the environment --------------------------------------------------------------------------------------------- */

static void add(struct mps_variables *variables, const char *name, const char *value, const char *part) {
  snprintf(variables->text[variables->n++], MPS_VARIABLE_SIZE, "%s=%s%s", name, value, part);
}

void launch_mps_prepare(struct launched *service, struct mps_variables *ret_variables) {
  static const char threads[] = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE";
  const struct mps_daemon *mps = service->mps;
  int64_t percent = service->group->settings->mps_active_threads;
  char number[24];
  ret_variables->n = 0;
  if (service->mps_held) service->reason[0] = '\0';
  service->mps_held = false;
  service->mps_asked = 0;
  service->mps_member = MPS_NOT_KNOWN;
  service->under_mps = mps != NULL && mps->state == DAEMON_SERVING;
  if (!service->under_mps) return;
  add(ret_variables, "CUDA_MPS_PIPE_DIRECTORY", mps->folder, "/pipe");
  add(ret_variables, "CUDA_MPS_LOG_DIRECTORY", mps->folder, "/log");
  if (percent == 0 || getenv(threads) != NULL) return; /* what a batch system has set holds */
  snprintf(number, sizeof number, "%" PRId64, percent);
  add(ret_variables, threads, number, "");
}

/* ---- membership -------------------------------------------------------------------------------------------------- */

void launch_mps_service_ready(struct launched *service) {
  struct mps_daemon *mps = service->mps;
  if (!service->under_mps || !child_runs(&mps->keeper)) return;
  service->mps_asked = ++mps->asked;
  const struct control_mps_query message = {mps->asked};
  if (child_send(&mps->keeper, CONTROL_MPS_QUERY, &message, NULL, 0) != MU_OK)
    LOG_WARNING("the keeper of an MPS daemon cannot be asked", LOG_STR("gpu", mps->gpu->name));
}

static bool is_to_be_checked(const struct mps_daemon *mps, const struct launched *service, uint64_t serial) {
  return service->mps == mps && service->under_mps && service->state == SERVICE_READY && service->mps_asked != 0 &&
         service->mps_asked <= serial && service->mps_member != MPS_CLIENT;
}

static void find_client(void *context, struct launched *service, pid_t pid) {
  const struct mps_daemon *mps = context;
  if (service->mps == mps && mps_has_client(mps->servers, pid)) service->mps_seen = true;
}

static void judge_client(struct mps_daemon *mps, struct launched *service) {
  bool news = service->mps_member == MPS_NOT_KNOWN, found = service->mps_seen;
  service->mps_member = found ? MPS_CLIENT : MPS_NO_CLIENT;
  if (found) service->reason[0] = '\0';
  if (found && !news) LOG_INFO("service has become an MPS client", LOG_STR("service", service->plan.id));
  if (!found && news) {
    snprintf(service->reason, sizeof service->reason,
             "it runs without MPS, or does not use its GPU: the daemon of GPU %.100s (process %d) knows none of its "
             "processes",
             mps->gpu->name, (int)mps->daemon);
    LOG_WARNING("service is no MPS client", LOG_STR("service", service->plan.id), LOG_STR("reason", service->reason));
  }
  if (found || news) launch_changed(mps->launch);
}

/* A program may make its CUDA context long after it is ready, so one that is none is looked for in every report. */
void launch_mps_check_clients(struct mps_daemon *mps, uint64_t serial) {
  bool any = false;
  list_each (link, &mps->launch->services) {
    struct launched *service = list_item(link, struct launched, link);
    service->mps_seen = false;
    any = any || is_to_be_checked(mps, service, serial);
  }
  if (any) members_visit(mps->launch, find_client, mps);
  list_each (link, &mps->launch->services) {
    struct launched *service = list_item(link, struct launched, link);
    if (is_to_be_checked(mps, service, serial)) judge_client(mps, service);
  }
}

/* ---- ending a client's work -------------------------------------------------------------------------------------- */

static void send_terminate(void *context, struct launched *service, pid_t pid) {
  struct launched *wanted = context;
  struct mps_daemon *mps = wanted->mps;
  if (service != wanted || wanted->n_terminating == MPS_TERMINATE_MAX || !mps_has_client(mps->servers, pid)) return;
  const struct control_mps_terminate message = {pid};
  if (child_send(&mps->keeper, CONTROL_MPS_TERMINATE, &message, NULL, 0) == MU_OK)
    wanted->terminating[wanted->n_terminating++] = pid;
}

bool launch_mps_terminate(struct launched *service) {
  const struct mps_daemon *mps = service->under_mps ? service->mps : NULL;
  service->n_terminating = 0;
  if (mps == NULL || mps->state != DAEMON_SERVING || launch_mps_count(mps, service, true) == 0) return false;
  members_visit(service->launch, send_terminate, service);
  return service->n_terminating > 0;
}

void launch_mps_terminated(struct mps_daemon *mps, pid_t client) {
  list_each (link, &mps->launch->services) {
    struct launched *service = list_item(link, struct launched, link);
    uint32_t kept = 0;
    if (service->mps != mps || service->n_terminating == 0) continue;
    for (uint32_t i = 0; i < service->n_terminating; i++)
      if (service->terminating[i] != client) service->terminating[kept++] = service->terminating[i];
    service->n_terminating = kept;
    if (kept == 0) service_kill(service);
  }
}

/* ---- what people see --------------------------------------------------------------------------------------------- */

static const char *state_name(enum daemon_state state) {
  static const char *const names[] = {[DAEMON_UNDECIDED] = "undecided",
                                      [DAEMON_OFF] = "off",
                                      [DAEMON_STARTING] = "starting",
                                      [DAEMON_SERVING] = "serving",
                                      [DAEMON_BACKOFF] = "backoff"};
  return names[state];
}

json_t *launch_mps_json(const struct launch *launch) {
  json_t *gpus = json_array();
  list_each (link, &launch->mps) {
    const struct mps_daemon *mps = list_item(link, struct mps_daemon, link);
    json_array_append_new(
        gpus, json_pack("{s:s, s:s, s:s, s:i, s:o, s:o, s:o, s:o}", "gpu", mps->gpu->name, "uuid", mps->gpu->uuid,
                        "state", state_name(mps->state), "restarts", (int)mps->restarts, "folder",
                        launch_text_json(mps->folder), "error", launch_text_json(mps->error), "daemon",
                        mps->daemon != 0 ? json_integer(mps->daemon) : json_null(), "servers",
                        mps->servers != NULL ? json_incref(mps->servers) : json_array()));
  }
  return gpus;
}

json_t *launch_mps_service_json(const struct launched *service) {
  if (!service->under_mps || service->mps_member == MPS_NOT_KNOWN) return json_null();
  return json_boolean(service->mps_member == MPS_CLIENT);
}
