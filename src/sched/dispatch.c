/*
 * Who runs next. An instance with room is in one of two heaps: its model's `open` ones while there is no work for it,
 * or its share's `parked` ones, which contend for the device. A submit or an ended batch moves an instance from open to
 * parked; when it is its turn and the work has gone meanwhile, it moves back. So each event touches a few heap places,
 * whatever the number of models, instances and devices.
 *
 * Turns on a device are start-time fair queuing: the share with the least virtual time goes first, pays for its batch
 * at once with the expected time and is corrected by the measured one; one that joins starts where the last turn was,
 * so idling earns nothing. If the first in turn needs more tokens than are free, the others wait too: otherwise a model
 * with few tokens would keep one with many from ever finding enough.
 */
#include "sched/speed.h"
#include "sched/state.h"

static const uint64_t BUSY_BIT = UINT64_C(1) << 63;
enum { LOAD_BITS = 31, LOAD_UNIT = 256 }; /* outstanding rows are compared in 1/256 */

static uint64_t score(const struct sched_instance *instance) {
  uint64_t busy = instance->outstanding > 0 ? BUSY_BIT : 0;
  if (instance->model->params.choice == SCHED_ROUND_ROBIN) return busy | instance->last_used;
  double load = ((double)instance->rows + 1) * LOAD_UNIT, speed = speed_of(instance);
  if (instance->share->due) load = 0;
  if (speed != 1) load /= speed;
  double most = (double)((UINT64_C(1) << LOAD_BITS) - 1);
  return busy | (uint64_t)(load < most ? load : most) << 32 | (uint32_t)instance->last_used;
}

/* ---- what an instance could do ----------------------------------------------------------------------------------- */

enum work { WORK_NONE, WORK_ALONE, WORK_BATCH };

/* The next solo job is one that may have killed a process. */
static bool suspect_next(const struct sched_model *model) {
  return !list_empty(&model->alone) && list_item(model->alone.next, struct sched_job, link)->suspect;
}

/* Full, leaving, or kept free of other work for the sake of a solo job; the one set apart is not meant. */
static bool closed(const struct sched_instance *instance) {
  const struct sched_model *model = instance->model;
  if (instance->retired || instance->exclusive || instance->outstanding >= instance->depth) return true;
  if (instance->process->exclusive) return true;
  return model->apart_whole && model->apart != instance && model->apart->process == instance->process;
}

static enum work alone_for(const struct sched_instance *instance) {
  bool suspect = suspect_next(instance->model);
  uint32_t beside = suspect ? instance->process->outstanding : instance->outstanding;
  return beside == 0 ? WORK_ALONE : WORK_NONE;
}

static enum work work_for(const struct sched_instance *instance) {
  const struct sched_model *model = instance->model;
  if (model->removed || closed(instance)) return WORK_NONE;
  if (model->params.preserve_ordering && model->batches_in_flight > 0) return WORK_NONE;
  bool idle = instance->outstanding == 0, alone = !list_empty(&model->alone);
  if (model->apart == instance) return alone ? alone_for(instance) : WORK_NONE;
  if (model->apart != NULL && model->alone_next && model->params.preserve_ordering) return WORK_NONE;
  if (model->apart == NULL && alone && (model->alone_next || model->ready.n == 0)) return alone_for(instance);
  if (model->ready.n == 0) return WORK_NONE;
  /* Behind a batch that still runs only one that cannot grow any more: waiting costs the others nothing. */
  if (!idle && !hold_full(heap_item(heap_top(&model->ready), struct sched_key, ready_at))) return WORK_NONE;
  return WORK_BATCH;
}

static uint32_t tokens_of(const struct sched_share *share) {
  uint32_t wanted = share->model->params.tokens;
  return wanted < share->device->tokens ? wanted : share->device->tokens;
}

uint32_t dispatch_startable(const struct sched_share *share) {
  uint32_t fit = share->device->free_tokens / tokens_of(share);
  return share->n_idle < fit ? share->n_idle : fit;
}

uint32_t dispatch_parallel(const struct sched_model *model) {
  uint32_t n = 0;
  list_each (link, &model->shares) n += dispatch_startable(list_item(link, struct sched_share, link));
  return n;
}

/* ---- heaps ------------------------------------------------------------------------------------------------------- */

void device_unsettle(struct sched_device *device) {
  if (list_empty(&device->unsettled)) list_push_back(&device->sched->unsettled, &device->unsettled);
}

void model_offer(struct sched_model *model) {
  if (model->apart != NULL && model->apart->at == 0) instance_place(model->apart);
  if (model->open.n > 0 && list_empty(&model->offering)) list_push_back(&model->sched->offering, &model->offering);
}

void model_withdraw(struct sched_model *model) {
  list_each (link, &model->contending) device_unsettle(list_item(link, struct sched_share, contending)->device);
}

static void take_out(struct sched_instance *instance) {
  if (instance->at == 0) return;
  struct sched_share *share = instance->share;
  heap_remove(instance->heap, &instance->at);
  if (instance->heap != &share->parked) return;
  device_unsettle(share->device); /* it may have been in the way of others */
  if (share->parked.n > 0) return;
  heap_remove(&share->device->contenders, &share->at);
  list_remove(&share->contending);
}

static void count_idle(struct sched_instance *instance) {
  bool idle = !closed(instance) && instance->outstanding == 0 && instance->model->apart != instance;
  if (idle == instance->idle) return;
  instance->idle = idle;
  uint32_t change = idle ? 1 : UINT32_MAX; /* -1 */
  instance->share->n_idle += change;
  instance->model->n_idle += change;
}

static void park(struct sched_instance *instance) {
  struct sched_share *share = instance->share;
  struct sched_device *device = share->device;
  instance->heap = &share->parked;
  heap_put(&share->parked, &instance->at, score(instance));
  if (share->at == 0) {
    if (share->used_ns < device->turn_ns) share->used_ns = device->turn_ns;
    heap_put(&device->contenders, &share->at, share->used_ns);
    list_push_back(&share->model->contending, &share->contending);
  }
  device_unsettle(device);
}

void instance_place(struct sched_instance *instance) {
  take_out(instance);
  count_idle(instance);
  struct sched_model *model = instance->model;
  if (work_for(instance) != WORK_NONE) {
    park(instance);
  } else if (!closed(instance) && model->apart != instance) {
    instance->heap = &model->open;
    heap_put(&model->open, &instance->at, score(instance));
  }
}

void process_place(struct process *process) {
  list_each (link, &process->instances) instance_place(list_item(link, struct sched_instance, in_process));
}

/* ---- the instance, or the process, set apart for solo jobs ------------------------------------------------------- */

/* The instance that a solo job has to wait for least: for a suspect it is the whole process that has to be idle. NULL:
 * with it set apart there would be none left for the others. */
static struct sched_instance *choose_apart(const struct sched_model *model, bool suspect) {
  struct sched_instance *best = NULL, *first = NULL;
  bool others = false;
  list_each (link, &model->instances) {
    struct sched_instance *instance = list_item(link, struct sched_instance, link);
    if (instance->retired) continue;
    if (first == NULL) first = instance;
    others = others || (suspect ? instance->process != first->process : instance != first);
    uint32_t now = suspect ? instance->process->outstanding : 0,
             least = suspect && best ? best->process->outstanding : 0;
    if (best == NULL || now < least || (now == least && score(instance) < score(best))) best = instance;
  }
  return others ? best : NULL;
}

/* Another solo job may be the next one, too: an error needs an instance, a suspect a process. */
void model_choose_apart(struct sched_model *model) {
  struct sched_instance *before = model->apart;
  bool suspect = suspect_next(model), whole = model->apart_whole;
  model->apart = list_empty(&model->alone) ? NULL : choose_apart(model, suspect);
  if (before != NULL && model->apart != NULL && !before->retired) model->apart = before;
  model->apart_whole = model->apart != NULL && suspect;
  if (list_empty(&model->alone)) model->alone_next = false;
  if (before != NULL && before == model->apart && whole == model->apart_whole) return;
  if (before != NULL) process_place(before->process);
  if (model->apart != NULL && model->apart != before) process_place(model->apart->process);
  model_offer(model); /* solo jobs may be for any instance now, or for none */
}

/* ---- turns ------------------------------------------------------------------------------------------------------- */

static struct batch *start(struct sched_instance *instance, struct sched_key *key, struct sched_job *alone,
                           uint32_t max_rows, uint64_t now_ns) {
  struct sched_share *share = instance->share;
  struct sched_device *device = share->device;
  if (instance->outstanding == 0) device->free_tokens -= tokens_of(share);
  instance->last_used = ++device->sched->dispatches;
  speed_used(share);
  device->turn_ns = share->used_ns;
  struct batch *batch = batch_start(instance, key, alone, max_rows, now_ns);
  batch->weight = tokens_of(share) * (batch->shown.jobs[0]->level > 0 ? batch->shown.jobs[0]->level : 1);
  dispatch_charge(share, (int64_t)batch->charged_ns * batch->weight);
  if (instance->process->exclusive)
    process_place(instance->process);
  else
    instance_place(instance);
  return batch;
}

void dispatch_charge(struct sched_share *share, int64_t ns) {
  uint64_t least = share->device->turn_ns;
  uint64_t used = share->used_ns + (uint64_t)ns;
  share->used_ns = (ns < 0 && (used > share->used_ns || used < least)) ? least : used;
  if (share->at != 0) heap_put(&share->device->contenders, &share->at, share->used_ns);
}

void dispatch_release(struct sched_instance *instance) {
  instance->share->device->free_tokens += tokens_of(instance->share);
}

/* By score, but where solo jobs and the others want the same tokens, they take turns. */
static struct sched_instance *first_parked(const struct sched_share *share) {
  struct sched_instance *apart = share->model->apart;
  if (share->model->alone_next && apart != NULL && apart->share == share && apart->at != 0) return apart;
  return heap_item(heap_top(&share->parked), struct sched_instance, at);
}

/* NULL: every key that could go is held for more rows. */
static struct batch *start_batch(struct sched_instance *instance, uint64_t now_ns) {
  struct sched_key *key = heap_item(heap_top(&instance->model->ready), struct sched_key, ready_at);
  uint32_t rows = hold_limit(key, instance->share->speed, now_ns);
  return rows > 0 ? start(instance, key, NULL, rows, now_ns) : NULL;
}

static struct batch *start_alone(struct sched_instance *instance, uint64_t now_ns) {
  struct sched_job *job = list_item(instance->model->alone.next, struct sched_job, link);
  return start(instance, job->key, job, 0, now_ns);
}

static struct batch *device_next(struct sched_device *device, uint64_t now_ns) {
  for (uint32_t *top; (top = heap_top(&device->contenders)) != NULL;) {
    struct sched_share *share = heap_item(top, struct sched_share, at);
    struct sched_instance *instance = first_parked(share);
    enum work work = work_for(instance);
    if (work == WORK_NONE) {
      instance_place(instance);
      continue;
    }
    if (instance->outstanding == 0 && tokens_of(share) > device->free_tokens) return NULL;
    struct batch *batch = work == WORK_ALONE ? start_alone(instance, now_ns) : start_batch(instance, now_ns);
    model_withdraw(share->model); /* what started or is held now is nothing for the others any more */
    if (batch != NULL) return batch;
  }
  return NULL;
}

/* Parks the model's best open instance if there is work for it. */
static bool offer(struct sched_model *model) {
  uint32_t *top = heap_top(&model->open);
  if (top == NULL) return false;
  struct sched_instance *instance = heap_item(top, struct sched_instance, at);
  if (work_for(instance) == WORK_NONE) return false;
  instance_place(instance);
  return true;
}

struct batch *dispatch_next(struct sched *sched, uint64_t now_ns) {
  for (;;) {
    list_each (link, &sched->offering)
      if (!offer(list_item(link, struct sched_model, offering))) list_remove(link);
    if (list_empty(&sched->unsettled)) return NULL;
    struct sched_device *device = list_item(sched->unsettled.next, struct sched_device, unsettled);
    struct batch *batch = device_next(device, now_ns);
    if (batch != NULL) return batch;
    list_remove(&device->unsettled);
  }
}
