/*
 * MPS: which GPUs have it, and who may start there. What is decided for a GPU holds as long as a process runs there:
 * one with and one without MPS would take turns. When nobody is left, the daemon goes: a GPU that is to be reset must
 * not be in use.
 */
#include "supervisor/mps.h"

#include <stdlib.h>

#include "gpu/mps.h"

static void on_timer(uv_timer_t *timer);

const char *mps_state_name(enum mps_state state) {
  static const char *const names[] = {
      [MPS_UNDECIDED] = "undecided", [MPS_OFF] = "off",         [MPS_SIMULATED] = "simulated",
      [MPS_STARTING] = "starting",   [MPS_SERVING] = "serving", [MPS_BACKOFF] = "backoff",
      [MPS_ENDING] = "ending",
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

void mps_set_timer(struct mps_gpu *mps, uint64_t after_ns) {
  uv_timer_start(&mps->timer, on_timer, (after_ns + NS_PER_MS - 1) / NS_PER_MS, 0);
}

void mps_set_state(struct mps_gpu *mps, enum mps_state state) {
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

struct mps_gpu *mps_add(struct supervisor *s, const char *uuid, const char *label) {
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

/* Runs, or is to run without anybody's doing. */
static bool is_alive(const struct worker *worker) {
  bool waits = worker->state == WORKER_STARTING || worker->state == WORKER_QUEUED || worker->state == WORKER_BACKOFF;
  return child_runs(&worker->child) || (waits && worker->model->role != LEFT);
}

/* Another generation, or version, is about to take its place. */
static bool is_outgoing(const struct served_model *model) {
  if (model->role != SERVED || model->outgoing) return model->role != COMING;
  list_each (link, &model->supervisor->models) {
    const struct served_model *other = list_item(link, struct served_model, link);
    if (other->role == COMING && other->version == model->version && strcmp(other->name, model->name) == 0) return true;
  }
  return false;
}

struct mps_headcount mps_headcount(const struct mps_gpu *mps) {
  struct mps_headcount result = {0};
  list_each (link, &mps->supervisor->workers) {
    struct worker *worker = list_item(link, struct worker, all);
    if (!is_there(mps, worker)) continue;
    result.any = worker;
    result.planned += !is_outgoing(worker->model) && worker->state != WORKER_FAILED;
    result.alive += is_alive(worker);
    result.processes += child_runs(&worker->child);
    result.clients += child_runs(&worker->child) && worker->under_mps;
  }
  return result;
}

/* ---- who waits --------------------------------------------------------------------------------------------------- */

/* Whoever waits for this GPU's MPS may start, as far as their number allows. */
void mps_wake(struct mps_gpu *mps) {
  const struct worker *any = mps_headcount(mps).any;
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

void mps_do_without(struct mps_gpu *mps, const char *why) {
  bool news = mps->state != MPS_OFF;
  snprintf(mps->error, sizeof mps->error, "%s", why);
  if (mps->supervisor->options->mps == MPS_MODE_ON) {
    mps_set_state(mps, MPS_UNDECIDED);
    fail_waiting(mps, why);
    return;
  }
  if (news) mps_set_state(mps, MPS_OFF);
  LOG_WARNING("processes share a GPU without MPS: they take turns", LOG_STR("gpu", mps->label),
              LOG_STR("because", why));
  if (news) mps_wake(mps);
}

/* ---- deciding ---------------------------------------------------------------------------------------------------- */

/* Why there cannot be MPS; "": there can. */
static void find_obstacle(const struct mps_gpu *mps, uint32_t planned, char *text, size_t size) {
  const struct supervisor *s = mps->supervisor;
  const struct gpu *gpu = gpu_of(mps);
  mps_find_obstacle(gpu, s->gpus.inventory.cuda, planned, s->options->mps_control_binary, text, size);
}

static void decide(struct mps_gpu *mps) {
  const struct mps_headcount headcount = mps_headcount(mps);
  char obstacle[sizeof mps->error];
  if (headcount.alive == 0) return;
  if (mps->supervisor->options->mps == MPS_MODE_AUTO && headcount.planned < 2) {
    mps->error[0] = '\0';
    mps_set_state(mps, MPS_OFF);
    mps_wake(mps);
    return;
  }
  find_obstacle(mps, headcount.planned, obstacle, sizeof obstacle);
  if (obstacle[0] != '\0')
    mps_do_without(mps, obstacle);
  else
    mps_start_daemon(mps);
}

/* Nobody runs there, or is about to: whoever comes next finds it undecided. */
static void give_up_idle(struct mps_gpu *mps) {
  if (mps_headcount(mps).alive > 0) return;
  if (mps->state == MPS_SERVING) {
    mps_end_daemon(mps);
  } else {
    mps->error[0] = '\0';
    mps_set_state(mps, MPS_UNDECIDED);
  }
}

static void start_again(struct mps_gpu *mps) {
  mps->due = mps_headcount(mps).clients > 0;
  if (mps->due) return;
  mps->restarts++;
  mps_start_daemon(mps);
}

static void on_timer(uv_timer_t *timer) {
  struct mps_gpu *mps = timer->data;
  if (mps->supervisor->phase >= PHASE_STOPPING) return;
  if (mps->state == MPS_UNDECIDED) {
    decide(mps);
    return;
  }
  if (mps->state == MPS_SERVING || mps->state == MPS_OFF || mps->state == MPS_BACKOFF) give_up_idle(mps);
  if (mps->state == MPS_BACKOFF) start_again(mps);
}

/* ---- admission --------------------------------------------------------------------------------------------------- */

/* It was decided that one process does without. Others have come: it is thought over where nobody runs there, else said
 * that it stays so. */
static void reconsider(struct mps_gpu *mps) {
  const struct mps_headcount headcount = mps_headcount(mps);
  if (headcount.planned < 2 || mps->error[0] != '\0') return;
  if (headcount.processes == 0)
    mps_set_state(mps, MPS_UNDECIDED);
  else
    mps_do_without(mps, "a worker that was started there alone runs without it");
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
    case MPS_ENDING:
      return "waits for the end of the MPS daemon that was there before";
    default:
      return NULL;
  }
}

static bool is_outside(const struct worker *worker) {
  const struct supervisor *s = worker->supervisor;
  return worker_plan_gpu(worker->group->device) == NULL || s->options->mps == MPS_MODE_OFF || mps_inherited() != NULL;
}

/* As many processes as the GPU takes run there: a generation that replaces another waits for its end. */
static bool is_full(const struct mps_gpu *mps) {
  const struct gpu *gpu = gpu_of(mps);
  return mps->state == MPS_SERVING && gpu != NULL &&
         mps_headcount(mps).clients >= mps_client_limit(gpu, mps->supervisor->gpus.inventory.cuda);
}

bool mps_holds(const struct worker *worker) {
  const struct mps_gpu *mps = is_outside(worker) ? NULL : mps_of(worker);
  return mps != NULL && (find_wait(mps) != NULL || is_full(mps));
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
    if (state != mps->state) mps_set_state(mps, state);
    return;
  }
  if (mps->state == MPS_OFF) reconsider(mps);
  /* not before all that are about to come are there to be counted */
  if (mps->state == MPS_UNDECIDED) mps_set_timer(mps, 0);
}

bool mps_admit(struct worker *worker) {
  worker->crowded_out = false;
  if (is_outside(worker)) return true;
  struct mps_gpu *mps = mps_of(worker);
  if (mps == NULL) mps = mps_add(worker->supervisor, worker_plan_gpu(worker->group->device), worker->group->label);
  if (mps == NULL) {
    worker_fail(worker, "no memory for the MPS of its GPU");
    return false;
  }
  if (mps->state <= MPS_SIMULATED) look_anew(mps);
  const char *wait = find_wait(mps);
  if (wait != NULL) return hold(worker, wait);
  if (!is_full(mps)) return true;
  worker->crowded_out = true;
  return hold(worker, "waits until an MPS client of its GPU has left: there are as many as it takes");
}

void mps_worker_ended(struct worker *worker) {
  struct mps_gpu *mps = mps_of(worker);
  if (mps == NULL || mps_headcount(mps).clients > 0) return;
  mps->settling = false; /* the caller looks who is next */
  if (mps->due) mps_set_timer(mps, 0);
  mps_worker_rests(worker);
}

void mps_worker_rests(const struct worker *worker) {
  struct mps_gpu *mps = mps_of(worker);
  if (mps != NULL && (mps->state == MPS_SERVING || mps->state == MPS_OFF)) mps_set_timer(mps, 0);
}

void mps_settle(struct supervisor *s, const char *uuid) {
  struct mps_gpu *mps = find(s, uuid);
  if (mps != NULL && mps->state == MPS_SERVING && mps_headcount(mps).clients > 0) mps->settling = true;
}
