/*
 * The MPS daemons' lives. A daemon is kept by a process of its own (the role `mps`), whose end is the daemon's: so
 * there is one kind of death.
 */
#include <stdlib.h>
#include <unistd.h>

#include "gpu/mps.h"
#include "supervisor/mps.h"

/* Between tries, once a daemon that has served cannot be started again. */
static const uint64_t retry_ns = 30 * NS_PER_S;

/* ---- the keeper -------------------------------------------------------------------------------------------------- */

static void forget_servers(struct mps_gpu *mps) {
  json_decref(mps->servers);
  mps->servers = NULL;
  mps->answering = false;
  mps->daemon = 0;
}

/* The daemon has gone, or goes: its clients cannot go on. */
static void lose_daemon(struct mps_gpu *mps, const char *why) {
  char cause[sizeof mps->error];
  forget_servers(mps);
  if (mps->state != MPS_SERVING && mps->state != MPS_STARTING) return;
  snprintf(mps->error, sizeof mps->error, "%s", why);
  snprintf(cause, sizeof cause, "%.*s", (int)sizeof cause - 1, why);
  mps_set_state(mps, MPS_BACKOFF);
  uint32_t n = workers_restart_under_mps(mps->supervisor, mps->uuid, cause);
  LOG_ERROR("no MPS daemon, its clients are started again after it", LOG_STR("gpu", mps->label), LOG_INT("workers", n),
            LOG_STR("error", why));
}

static void on_report(struct mps_gpu *mps, const struct control_packet *packet) {
  const struct control_mps_report *report = &packet->mps_report;
  snprintf(mps->folder, sizeof mps->folder, "%s", report->folder);
  if (report->daemon == 0) {
    lose_daemon(mps, report->error);
    return;
  }
  json_t *servers = report->answering ? json_loadb(report->servers.data, report->servers.size, 0, NULL) : NULL;
  json_decref(mps->servers);
  mps->servers = servers;
  mps->answering = servers != NULL;
  mps->daemon = report->daemon;
  mps->percentage = report->percentage;
  snprintf(mps->error, sizeof mps->error, "%s", report->error);
  if (mps->answering && mps->state == MPS_STARTING) {
    mps_set_state(mps, MPS_SERVING);
    mps->served = true;
    restart_policy_ready(&mps->policy, mps->since_ns);
    LOG_INFO("MPS daemon serves", LOG_STR("gpu", mps->label), LOG_STR("uuid", mps->uuid), LOG_INT("pid", mps->daemon),
             LOG_STR("folder", mps->folder));
    mps_wake(mps);
  }
  if (mps->answering) mps_check_clients(mps, report->serial);
}

static void on_message(void *context, struct control_packet *packet) {
  struct mps_gpu *mps = context;
  if (packet->type == CONTROL_MPS_REPORT)
    on_report(mps, packet);
  else if (packet->type == CONTROL_MPS_TERMINATED)
    mps_terminated(mps, packet->mps_terminate.client);
  else
    child_kill(&mps->keeper);
}

static void become_undecided(struct mps_gpu *mps) {
  mps->served = false;
  mps->error[0] = mps->folder[0] = '\0';
  mps->policy = (struct restart_policy){0};
  mps_set_state(mps, MPS_UNDECIDED);
  mps_set_timer(mps, 0); /* somebody may have come meanwhile */
}

static void on_ended(void *context, int code, int status) {
  struct mps_gpu *mps = context;
  struct supervisor *s = mps->supervisor;
  uint64_t delay;
  const struct death death = death_judge(&(struct death_facts){.code = code, .status = status, .wish_cause = ""});
  if (s->phase >= PHASE_STOPPING) {
    supervisor_check(s);
    return;
  }
  if (mps->state == MPS_ENDING) {
    become_undecided(mps);
    return;
  }
  char why[sizeof death.why + 64];
  snprintf(why, sizeof why, "the keeper of the MPS daemon %s", death.why);
  lose_daemon(mps, why);
  if (mps->state != MPS_BACKOFF) return;
  if (!restart_policy_death(&mps->policy, clock_now_ns(), true, &delay)) {
    mps->policy = (struct restart_policy){0};
    delay = retry_ns;
    if (!mps->served || s->options->mps == MPS_MODE_AUTO) {
      snprintf(why, sizeof why, "%s", mps->error);
      mps_do_without(mps, why);
      return;
    }
  }
  mps_set_timer(mps, delay);
}

static const struct child_events child_events = {.message = on_message, .ended = on_ended};

static mu_status send_start(struct mps_gpu *mps, mu_error *err) {
  const struct options *options = mps->supervisor->options;
  const struct control_mps_start message = {
      .binary = options->mps_control_binary,
      .uuid = mps->uuid,
      .timeout_ns = (uint64_t)options->mps_timeout_ns,
  };
  mu_status status = child_send(&mps->keeper, CONTROL_MPS_START, &message, NULL, 0);
  return status == MU_OK ? MU_OK : mu_fail(err, status, "cannot speak to the keeper (%s)", status_name(status));
}

static mu_status spawn(struct mps_gpu *mps, mu_error *err) {
  const struct supervisor *s = mps->supervisor;
  char title[sizeof mps->label + 32];
  snprintf(title, sizeof title, "muster: mps %s", mps->label);
  const struct child_spec spec = {.title = title, .role = "mps", .log = log_current(), .log_format = s->log_format};
  mu_status status = child_start(&mps->keeper, s->loop, &spec, &child_events, mps, err);
  if (status != MU_OK) return status;
  status = send_start(mps, err);
  if (status != MU_OK) {
    LOG_ERROR("the keeper of an MPS daemon is killed", LOG_STR("gpu", mps->label), LOG_STR("error", err->message));
    child_kill(&mps->keeper); /* on_ended tries again */
  }
  mps->folder[0] = '\0';
  return MU_OK;
}

void mps_start_daemon(struct mps_gpu *mps) {
  mu_error err = {{0}};
  mps->due = mps->settling = false;
  mps_set_state(mps, MPS_STARTING);
  if (spawn(mps, &err) == MU_OK) return;
  LOG_ERROR("cannot start the keeper of an MPS daemon", LOG_STR("gpu", mps->label), LOG_STR("error", err.message));
  snprintf(mps->error, sizeof mps->error, "%s", err.message);
  mps_set_state(mps, MPS_BACKOFF);
  mps_set_timer(mps, retry_ns);
}

void mps_end_daemon(struct mps_gpu *mps) {
  LOG_INFO("no worker is left on the GPU: its MPS daemon ends", LOG_STR("gpu", mps->label), LOG_STR("uuid", mps->uuid),
           LOG_INT("pid", mps->daemon));
  mps_set_state(mps, MPS_ENDING);
  child_stop(&mps->keeper);
}

/* ---- all -------------------------------------------------------------------------------------------------------- */

void mps_tell(struct supervisor *s, enum control_type type, const void *message) {
  list_each (link, &s->mps) {
    struct mps_gpu *mps = list_item(link, struct mps_gpu, link);
    mu_status status = child_send(&mps->keeper, type, message, NULL, 0);
    if (status != MU_OK && status != MU_CANCELED)
      LOG_WARNING("the keeper of an MPS daemon is not told", LOG_STR("gpu", mps->label),
                  LOG_STR("message", control_type_name(type)), LOG_STR("error", status_name(status)));
  }
}

void mps_stop(struct supervisor *s, bool now) {
  list_each (link, &s->mps) {
    struct mps_gpu *mps = list_item(link, struct mps_gpu, link);
    uv_timer_stop(&mps->timer);
    if (now)
      child_hang_up(&mps->keeper);
    else
      child_stop(&mps->keeper);
  }
}

bool mps_gone(const struct supervisor *s) {
  list_each (link, &s->mps)
    if (child_runs(&list_item(link, struct mps_gpu, link)->keeper)) return false;
  return true;
}

/* The loop is closed already: links and processes lie in its memory no more. */
void mps_free(struct supervisor *s) {
  for (struct list *link; (link = list_pop_front(&s->mps)) != NULL;) {
    struct mps_gpu *mps = list_item(link, struct mps_gpu, link);
    json_decref(mps->servers);
    free(mps);
  }
}

/* ---- upgrade ----------------------------------------------------------------------------------------------------- */

size_t mps_count(const struct supervisor *s) {
  size_t n = 0;
  list_each (link, &s->mps) n++;
  return n;
}

void mps_give(const struct supervisor *s, struct handover *state) {
  list_each (link, &s->mps) {
    const struct mps_gpu *mps = list_item(link, struct mps_gpu, link);
    const struct child_handle keeper = child_give(&mps->keeper);
    state->mps[state->n_mps++] = (struct handover_mps){
        .uuid = mps->uuid,
        .label = mps->label,
        .folder = mps->folder,
        .error = mps->error,
        .state = mps->state,
        .pid = keeper.pid,
        .pidfd = keeper.pidfd,
        .control = keeper.control,
        .daemon = mps->daemon,
        .served = mps->served,
        .settling = mps->settling,
        .restarts = mps->restarts,
        .since_ns = mps->since_ns,
        .asked = mps->asked,
    };
  }
}

mu_status mps_take(struct supervisor *s, const struct handover_mps *from, mu_error *err) {
  struct mps_gpu *mps = mps_add(s, from->uuid, from->label);
  if (mps == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the MPS of a GPU");
  snprintf(mps->folder, sizeof mps->folder, "%s", from->folder);
  snprintf(mps->error, sizeof mps->error, "%s", from->error);
  mps->state = (enum mps_state)from->state;
  mps->daemon = from->daemon;
  mps->served = from->served;
  mps->settling = from->settling;
  mps->restarts = from->restarts;
  mps->since_ns = from->since_ns;
  mps->asked = from->asked;
  mps_set_timer(mps, NS_PER_MS);
  if (from->pid == 0) return MU_OK;
  return child_adopt(&mps->keeper, s->loop, from->pid, from->pidfd, from->control, &child_events, mps, err);
}
