/*
 * MPS: which GPUs have it, and their daemons' lives. A daemon is kept by a process of its own (the role `mps`), whose
 * end is the daemon's. What is decided for a GPU holds as long as a process runs there: one with and one without MPS
 * would take turns.
 */
#include <stdlib.h>
#include <unistd.h>

#include "gpu/mps.h"
#include "supervisor/state.h"

/* Between tries, once a daemon that has served cannot be started again. */
static const uint64_t retry_ns = 30 * NS_PER_S;

static void on_timer(uv_timer_t *timer);

const char *mps_state_name(enum mps_state state) {
  static const char *const names[] = {
      [MPS_UNDECIDED] = "undecided", [MPS_OFF] = "off",         [MPS_SIMULATED] = "simulated",
      [MPS_STARTING] = "starting",   [MPS_SERVING] = "serving", [MPS_BACKOFF] = "backoff",
  };
  return names[state];
}

void mps_say_inherited(void) {
  static const char *const names[] = {"CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
                                      "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const char *value = getenv(names[i]);
    if (value != NULL && value[0] != '\0')
      LOG_INFO("MPS: what the environment says holds, for GPU workers", LOG_STR("variable", names[i]),
               LOG_STR("value", value));
  }
}

static void set_timer(struct mps_gpu *mps, uint64_t after_ns) {
  uv_timer_start(&mps->timer, on_timer, (after_ns + NS_PER_MS - 1) / NS_PER_MS, 0);
}

static void set_state(struct mps_gpu *mps, enum mps_state state) {
  mps->state = state;
  mps->since_ns = clock_now_ns();
}

/* ---- finding ----------------------------------------------------------------------------------------------------- */

static struct mps_gpu *find(const struct supervisor *s, const char *uuid) {
  list_each (link, &s->mps) {
    struct mps_gpu *mps = list_item(link, struct mps_gpu, link);
    if (strcmp(mps->uuid, uuid) == 0) return mps;
  }
  return NULL;
}

struct mps_gpu *mps_of(const struct worker *worker) {
  const char *uuid = worker_plan_gpu(worker->group->device);
  return uuid != NULL ? find(worker->supervisor, uuid) : NULL;
}

static struct mps_gpu *add(struct supervisor *s, const char *uuid, const char *label) {
  struct mps_gpu *mps = calloc(1, sizeof *mps);
  if (mps == NULL) return NULL;
  mps->supervisor = s;
  mps->since_ns = clock_now_ns();
  snprintf(mps->uuid, sizeof mps->uuid, "%s", uuid);
  snprintf(mps->label, sizeof mps->label, "%s", label);
  uv_timer_init(net_loop_uv(s->loop), &mps->timer);
  mps->timer.data = mps;
  list_push_back(&s->mps, &mps->link);
  return mps;
}

/* NULL: it is not in the inventory any more. */
static const struct gpu *gpu_of(const struct mps_gpu *mps) {
  const struct gpu_inventory *inventory = &mps->supervisor->gpus.inventory;
  int32_t position = gpu_find(inventory, mps->uuid);
  return position != GPU_UNKNOWN ? &inventory->gpus[position] : NULL;
}

static bool is_there(const struct mps_gpu *mps, const struct worker *worker) {
  const char *uuid = worker_plan_gpu(worker->group->device);
  return uuid != NULL && strcmp(uuid, mps->uuid) == 0;
}

struct headcount {
  uint32_t planned;   /* places that are or may come to be filled */
  uint32_t processes; /* that run */
  uint32_t clients;   /* of them, with the daemon's environment */
  struct worker *any; /* one of the places; NULL: there is none */
};

/* Another generation, or version, is about to take its place. */
static bool is_outgoing(const struct served_model *model) {
  if (model->role != SERVED || model->outgoing) return model->role != COMING;
  list_each (link, &model->supervisor->models) {
    const struct served_model *other = list_item(link, struct served_model, link);
    if (other->role == COMING && other->version == model->version && strcmp(other->name, model->name) == 0) return true;
  }
  return false;
}

static struct headcount count(const struct mps_gpu *mps) {
  struct headcount result = {0};
  list_each (link, &mps->supervisor->workers) {
    struct worker *worker = list_item(link, struct worker, all);
    if (!is_there(mps, worker)) continue;
    result.any = worker;
    result.planned += !is_outgoing(worker->model) && worker->state != WORKER_FAILED;
    result.processes += worker->process != NULL;
    result.clients += worker->process != NULL && worker->under_mps;
  }
  return result;
}

/* ---- who waits --------------------------------------------------------------------------------------------------- */

/* Whoever waits for this GPU's MPS may start, as far as their number allows. */
static void wake(struct mps_gpu *mps) {
  const struct worker *any = count(mps).any;
  if (any != NULL) load_queue_next(mps->supervisor, any->device);
}

/* With --mps=on there is nobody who may start without. The next one who comes (by a reload) tries anew. */
static void fail_waiting(struct mps_gpu *mps, const char *why) {
  char reason[sizeof mps->error + 64];
  snprintf(reason, sizeof reason, "no MPS on %s, which --mps=on wants: %s", mps->label, why);
  list_each (link, &mps->supervisor->workers) {
    struct worker *worker = list_item(link, struct worker, all);
    if (is_there(mps, worker) && worker->state == WORKER_QUEUED) worker_fail(worker, reason);
  }
}

static void do_without(struct mps_gpu *mps, const char *why) {
  bool news = mps->state != MPS_OFF;
  if (mps->supervisor->options->mps == MPS_MODE_ON) {
    set_state(mps, MPS_UNDECIDED);
    fail_waiting(mps, why);
    return;
  }
  if (news) set_state(mps, MPS_OFF);
  snprintf(mps->error, sizeof mps->error, "%s", why);
  LOG_WARNING("processes share a GPU without MPS: they take turns", LOG_STR("gpu", mps->label),
              LOG_STR("because", why));
  if (news) wake(mps);
}

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
  set_state(mps, MPS_BACKOFF);
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
    set_state(mps, MPS_SERVING);
    mps->served = true;
    restart_policy_ready(&mps->policy, mps->since_ns);
    LOG_INFO("MPS daemon serves", LOG_STR("gpu", mps->label), LOG_STR("uuid", mps->uuid), LOG_INT("pid", mps->daemon),
             LOG_STR("folder", mps->folder));
    wake(mps);
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
    process_kill(mps->keeper, SIGKILL);
}

static void on_lost(void *context, const mu_error *err) {}

static const struct control_link_events link_events = {on_message, on_lost};

static void on_ended(void *context, int code, int status) {
  struct mps_gpu *mps = context;
  struct supervisor *s = mps->supervisor;
  uint64_t delay;
  if (mps->keeper_link != NULL) control_link_read(mps->keeper_link);
  const struct death death = death_judge(&(struct death_facts){.code = code, .status = status, .wish_cause = ""});
  control_link_free(mps->keeper_link);
  process_free(mps->keeper);
  mps->keeper_link = NULL;
  mps->keeper = NULL;
  if (s->phase >= PHASE_STOPPING) {
    supervisor_check(s);
    return;
  }
  char why[sizeof death.why + 64];
  snprintf(why, sizeof why, "the keeper of the MPS daemon %s", death.why);
  lose_daemon(mps, why);
  if (mps->state != MPS_BACKOFF) return;
  if (!restart_policy_death(&mps->policy, clock_now_ns(), true, &delay)) {
    mps->policy = (struct restart_policy){0};
    delay = retry_ns;
    if (!mps->served) {
      snprintf(why, sizeof why, "%s", mps->error);
      do_without(mps, why);
      return;
    }
  }
  set_timer(mps, delay);
}

static mu_status send_start(struct mps_gpu *mps, mu_error *err) {
  const struct options *options = mps->supervisor->options;
  const struct control_mps_start message = {
      .binary = options->mps_control_binary,
      .uuid = mps->uuid,
      .timeout_ns = (uint64_t)options->mps_timeout_ns,
  };
  mu_status status = mps->keeper_link != NULL
                         ? control_link_send(mps->keeper_link, CONTROL_MPS_START, &message, NULL, 0)
                         : MU_NO_MEMORY;
  return status == MU_OK ? MU_OK : mu_fail(err, status, "cannot speak to the keeper (%s)", status_name(status));
}

static mu_status spawn(struct mps_gpu *mps, mu_error *err) {
  const struct supervisor *s = mps->supervisor;
  char title[sizeof mps->label + 32];
  snprintf(title, sizeof title, "muster: mps %s", mps->label);
  const struct process_spec spec = {.title = title, .role = "mps", .log = log_current(), .log_format = s->log_format};
  int control;
  mu_status status = process_spawn(s->loop, &spec, on_ended, mps, &mps->keeper, &control, err);
  if (status != MU_OK) return status;
  mps->keeper_link = control_link_create(s->loop, control, &link_events, mps);
  if (mps->keeper_link == NULL) close(control);
  status = send_start(mps, err);
  if (status != MU_OK) process_kill(mps->keeper, SIGKILL);
  mps->folder[0] = '\0';
  return MU_OK;
}

static void start(struct mps_gpu *mps) {
  mu_error err = {{0}};
  mps->due = mps->settling = false;
  set_state(mps, MPS_STARTING);
  if (spawn(mps, &err) == MU_OK) return;
  snprintf(mps->error, sizeof mps->error, "%s", err.message);
  set_state(mps, MPS_BACKOFF);
  set_timer(mps, retry_ns);
}

/* ---- deciding ---------------------------------------------------------------------------------------------------- */

/* Why there cannot be MPS; "": there can. */
static void find_obstacle(const struct mps_gpu *mps, uint32_t planned, char *text, size_t size) {
  const struct supervisor *s = mps->supervisor;
  const struct gpu *gpu = gpu_of(mps);
  mps_find_obstacle(gpu, s->gpus.inventory.cuda, planned, s->options->mps_control_binary, text, size);
}

static void decide(struct mps_gpu *mps) {
  const struct headcount headcount = count(mps);
  char obstacle[sizeof mps->error];
  if (headcount.any == NULL) return;
  if (mps->supervisor->options->mps == MPS_MODE_AUTO && headcount.planned < 2) {
    mps->error[0] = '\0';
    set_state(mps, MPS_OFF);
    wake(mps);
    return;
  }
  find_obstacle(mps, headcount.planned, obstacle, sizeof obstacle);
  if (obstacle[0] != '\0')
    do_without(mps, obstacle);
  else
    start(mps);
}

static void on_timer(uv_timer_t *timer) {
  struct mps_gpu *mps = timer->data;
  if (mps->supervisor->phase >= PHASE_STOPPING) return;
  if (mps->state == MPS_UNDECIDED) {
    decide(mps);
  } else if (mps->state == MPS_BACKOFF) {
    mps->due = count(mps).clients > 0;
    if (mps->due) return;
    mps->restarts++;
    start(mps);
  }
}

/* ---- admission --------------------------------------------------------------------------------------------------- */

/* It was decided that one process does without. Others have come: it is thought over where nobody runs there, else said
 * that it stays so. */
static void reconsider(struct mps_gpu *mps) {
  const struct headcount headcount = count(mps);
  if (headcount.planned < 2 || mps->error[0] != '\0') return;
  if (headcount.processes == 0)
    set_state(mps, MPS_UNDECIDED);
  else
    do_without(mps, "a worker that was started there alone runs without it");
}

/* A reason to wait; NULL: none. */
static const char *find_wait(const struct mps_gpu *mps) {
  switch (mps->state) {
    case MPS_UNDECIDED:
      return "waits for what becomes of MPS on its GPU";
    case MPS_STARTING:
      return "waits for the MPS daemon of its GPU";
    case MPS_BACKOFF:
      return "waits for the MPS daemon of its GPU, which is started again";
    case MPS_SERVING:
      return mps->settling ? "waits until all MPS clients of its GPU have left, after a fault" : NULL;
    default:
      return NULL;
  }
}

static bool is_outside(const struct worker *worker) {
  const struct supervisor *s = worker->supervisor;
  return worker_plan_gpu(worker->group->device) == NULL || s->options->mps == MPS_MODE_OFF || mps_inherited() != NULL;
}

bool mps_holds(const struct worker *worker) {
  const struct mps_gpu *mps = is_outside(worker) ? NULL : mps_of(worker);
  return mps != NULL && find_wait(mps) != NULL;
}

/* As many processes as the GPU takes run there: a generation that replaces another has to wait for its end. */
static bool is_full(const struct mps_gpu *mps) {
  const struct gpu *gpu = gpu_of(mps);
  return mps->state == MPS_SERVING && gpu != NULL &&
         count(mps).clients >= mps_client_limit(gpu, mps->supervisor->gpus.inventory.cuda);
}

static bool hold(struct worker *worker, const char *why) {
  worker->state = WORKER_QUEUED;
  worker->turn = ++worker->supervisor->last_turn;
  snprintf(worker->reason, sizeof worker->reason, "%s", why);
  served_model_update(worker->supervisor, worker->model);
  return false;
}

static void look_anew(struct mps_gpu *mps) {
  const struct gpu *gpu = gpu_of(mps);
  bool on = mps->supervisor->options->mps == MPS_MODE_ON;
  if (gpu != NULL && gpu->simulated) {
    if (on && mps->state != MPS_SIMULATED)
      LOG_INFO("MPS on a simulated GPU: workers overlap, there is no daemon and no membership to be checked",
               LOG_STR("gpu", mps->label));
    enum mps_state state = on ? MPS_SIMULATED : MPS_OFF;
    if (state != mps->state) set_state(mps, state);
    return;
  }
  if (mps->state == MPS_OFF) reconsider(mps);
  /* not before all that are about to come are there to be counted */
  if (mps->state == MPS_UNDECIDED) set_timer(mps, 0);
}

bool mps_admit(struct worker *worker) {
  if (is_outside(worker)) return true;
  struct mps_gpu *mps = mps_of(worker);
  if (mps == NULL) mps = add(worker->supervisor, worker_plan_gpu(worker->group->device), worker->group->label);
  if (mps == NULL) {
    worker_fail(worker, "no memory for the MPS of its GPU");
    return false;
  }
  if (mps->state <= MPS_SIMULATED) look_anew(mps);
  const char *wait = find_wait(mps);
  if (wait != NULL) return hold(worker, wait);
  if (!is_full(mps)) return true;
  worker_fail(worker, "its GPU has as many MPS clients as it takes");
  return false;
}

void mps_worker_ended(struct worker *worker) {
  struct mps_gpu *mps = mps_of(worker);
  if (mps == NULL || count(mps).clients > 0) return;
  mps->settling = false; /* the caller looks who is next */
  if (mps->due) set_timer(mps, 0);
}

void mps_settle(struct supervisor *s, int32_t index) {
  list_each (link, &s->mps) {
    struct mps_gpu *mps = list_item(link, struct mps_gpu, link);
    const struct gpu *gpu = gpu_of(mps);
    if (gpu != NULL && gpu->index == index && mps->state == MPS_SERVING && count(mps).clients > 0) mps->settling = true;
  }
}

/* ---- stop -------------------------------------------------------------------------------------------------------- */

void mps_stop(struct supervisor *s, bool now) {
  list_each (link, &s->mps) {
    struct mps_gpu *mps = list_item(link, struct mps_gpu, link);
    uv_timer_stop(&mps->timer);
    if (mps->keeper_link == NULL) continue;
    if (!now && control_link_send(mps->keeper_link, CONTROL_STOP, NULL, NULL, 0) == MU_OK) continue;
    control_link_free(mps->keeper_link);
    mps->keeper_link = NULL;
  }
}

bool mps_gone(const struct supervisor *s) {
  list_each (link, &s->mps)
    if (list_item(link, struct mps_gpu, link)->keeper != NULL) return false;
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
    bool runs = mps->keeper != NULL && mps->keeper_link != NULL;
    state->mps[state->n_mps++] = (struct handover_mps){
        .uuid = mps->uuid,
        .label = mps->label,
        .folder = mps->folder,
        .state = mps->state,
        .pid = runs ? process_pid(mps->keeper) : 0,
        .pidfd = runs ? process_pidfd(mps->keeper) : -1,
        .control = runs ? control_link_socket(mps->keeper_link) : -1,
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
  struct mps_gpu *mps = add(s, from->uuid, from->label);
  if (mps == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the MPS of a GPU");
  snprintf(mps->folder, sizeof mps->folder, "%s", from->folder);
  mps->state = (enum mps_state)from->state;
  mps->daemon = from->daemon;
  mps->served = from->served;
  mps->settling = from->settling;
  mps->restarts = from->restarts;
  mps->since_ns = from->since_ns;
  mps->asked = from->asked;
  if (mps->state == MPS_UNDECIDED || mps->state == MPS_BACKOFF) set_timer(mps, NS_PER_MS);
  if (from->pid == 0) return MU_OK;
  mu_status status = process_adopt(s->loop, from->pid, from->pidfd, on_ended, mps, &mps->keeper, err);
  if (status != MU_OK) return status;
  mps->keeper_link = control_link_create(s->loop, from->control, &link_events, mps);
  return mps->keeper_link != NULL ? MU_OK : mu_fail(err, MU_NO_MEMORY, "no memory to speak to the keeper of MPS");
}
