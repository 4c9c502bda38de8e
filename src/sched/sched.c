#include "sched/sched.h"

#include <assert.h>
#include <stdlib.h>

#include "sched/state.h"

enum { DEFAULT_KEYS = 256, DEFAULT_ATTEMPTS = 8, FIRST_BATCH_JOBS = 64 };

static void *allocate_cleared(void *context, size_t size) { return calloc(1, size); }

void *sched_allocate(const struct sched_params *params, size_t size) {
  return params->allocate(params->allocate_context, size);
}

/* ---- the scheduler ----------------------------------------------------------------------------------------------- */

struct sched *sched_create(const struct sched_params *given) {
  struct sched_params params = given != NULL ? *given : (struct sched_params){0};
  if (params.keys_per_model == 0) params.keys_per_model = DEFAULT_KEYS;
  if (params.max_attempts == 0) params.max_attempts = DEFAULT_ATTEMPTS;
  if (params.allocate == NULL) params.allocate = allocate_cleared;
  struct sched *sched = sched_allocate(&params, sizeof *sched);
  if (sched == NULL) return NULL;
  sched->params = params;
  struct list *lists[] = {&sched->devices,   &sched->models,     &sched->offering,
                          &sched->unsettled, &sched->going_back, &sched->removed};
  for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) list_init(lists[i]);
  return sched;
}

static void model_free(struct sched_model *model) {
  while (!list_empty(&model->instances)) instance_free(list_item(model->instances.next, struct sched_instance, link));
  keys_free(model);
  list_remove(&model->link);
  list_remove(&model->offering);
  heap_clear(&model->open);
  heap_clear(&model->ready);
  free(model);
}

void sched_free(struct sched *sched) {
  if (sched == NULL) return;
  assert(sched->n_jobs == 0);
  list_each (link, &sched->models) model_free(list_item(link, struct sched_model, link));
  list_each (link, &sched->removed) model_free(list_item(link, struct sched_model, link));
  list_each (link, &sched->devices) {
    struct sched_device *device = list_item(link, struct sched_device, link);
    heap_clear(&device->contenders);
    free(device);
  }
  heap_clear(&sched->job_timers);
  heap_clear(&sched->batch_timers);
  heap_clear(&sched->hold_timers);
  free(sched);
}

struct sched_device *sched_add_device(struct sched *sched, uint32_t tokens) {
  assert(tokens > 0);
  struct sched_device *device = sched_allocate(&sched->params, sizeof *device);
  if (device == NULL) return NULL;
  device->sched = sched;
  device->tokens = device->free_tokens = tokens;
  list_init(&device->unsettled);
  list_push_back(&sched->devices, &device->link);
  return device;
}

/* ---- models ------------------------------------------------------------------------------------------------------ */

static bool params_agree(const struct sched_model_params *params) {
  if (params->n_preferred > SCHED_PREFERRED_MAX || params->priority_levels > SCHED_PRIORITY_MAX) return false;
  uint32_t least = 1;
  for (uint32_t i = 0; i < params->n_preferred; i++) {
    if (params->preferred[i] < least || params->preferred[i] > params->max_batch) return false;
    least = params->preferred[i] + 1;
  }
  if (params->priority_levels == 0) return true;
  return params->default_priority_level >= 1 && params->default_priority_level <= params->priority_levels;
}

struct sched_model *sched_add_model(struct sched *sched, const struct sched_model_params *params) {
  if (!params_agree(params)) return NULL;
  struct sched_model *model = sched_allocate(&sched->params, sizeof *model);
  if (model == NULL) return NULL;
  model->sched = sched;
  model->params = *params;
  if (model->params.tokens == 0) model->params.tokens = 1;
  model->max_rows = params->max_batch > 1 ? params->max_batch : 1;
  model->n_levels = params->priority_levels > 0 ? params->priority_levels : 1;
  struct list *lists[] = {&model->offering,   &model->shares, &model->instances,
                          &model->contending, &model->alone,  &model->unused};
  for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) list_init(lists[i]);
  list_push_back(&sched->models, &model->link);
  return model;
}

void *sched_model_owner(const struct sched_model *model) { return model->params.owner; }

void sched_remove_model(struct sched *sched, struct sched_model *model, uint64_t now_ns) {
  if (model->removed) return;
  model->removed = true;
  queue_drop_all(model, BACK_REMOVED);
  list_remove(&model->link);
  list_push_back(&sched->removed, &model->link);
}

/* Only sched_next does this, so that what an owner was just handed stays valid until it asks for more. */
static void free_removed(struct sched *sched) {
  list_each (link, &sched->removed) {
    struct sched_model *model = list_item(link, struct sched_model, link);
    if (model->n_instances == 0 && model->going_back == 0) model_free(model);
  }
}

void sched_model_drop_waiting(struct sched_model *model) { queue_drop_all(model, BACK_UNSERVED); }

void sched_model_stop_batching(struct sched_model *model) {
  model->max_rows = 1;
  for (uint32_t i = 0; i < model->n_buckets; i++)
    for (struct sched_key *key = model->buckets[i]; key != NULL; key = key->next)
      if (key->hold_at != 0) hold_end(key);
  model_offer(model);
}

void sched_model_look(const struct sched_model *model, struct sched_model_view *ret_view) {
  *ret_view = (struct sched_model_view){
      .waiting = model->waiting,
      .waiting_bytes = model->waiting_bytes,
      .in_flight = model->jobs_in_flight,
      .instances = model->n_working,
      .keys = model->n_keys,
  };
}

/* ---- instances --------------------------------------------------------------------------------------------------- */

static struct sched_share *share_find(struct sched_model *model, const struct sched_device *device) {
  list_each (link, &model->shares) {
    struct sched_share *share = list_item(link, struct sched_share, link);
    if (share->device == device) return share;
  }
  return NULL;
}

static struct sched_share *share_get(struct sched_model *model, struct sched_device *device) {
  const struct sched_params *params = &model->sched->params;
  struct sched_share *share = share_find(model, device);
  if (share != NULL) return share;
  if (!heap_reserve(&device->contenders, device->n_shares + 1, params)) return NULL;
  share = sched_allocate(params, sizeof *share);
  if (share == NULL) return NULL;
  share->model = model;
  share->device = device;
  share->measured = share->speed = 1;
  share->last_batch = share->last_measured = model->batches;
  list_init(&share->contending);
  list_push_back(&model->shares, &share->link);
  device->n_shares++;
  return share;
}

static void share_release(struct sched_share *share) {
  if (share->n_instances > 0) return;
  share->device->n_shares--;
  list_remove(&share->link);
  heap_clear(&share->parked);
  free(share);
}

static bool add_batches(struct sched_instance *instance) {
  const struct sched_params *params = &instance->model->sched->params;
  uint32_t capacity = instance->model->max_rows < FIRST_BATCH_JOBS ? instance->model->max_rows : FIRST_BATCH_JOBS;
  for (uint32_t i = 0; i < instance->depth; i++) {
    struct batch *batch = sched_allocate(params, sizeof *batch);
    if (batch == NULL) return false;
    list_push_back(&instance->spare, &batch->shown.link);
    batch->capacity = capacity;
    batch->shown.jobs = sched_allocate(params, capacity * sizeof(struct sched_job *));
    if (batch->shown.jobs == NULL) return false;
  }
  return true;
}

static void free_batches(struct list *batches) {
  list_each (link, batches) {
    struct batch *batch = list_item(link, struct batch, shown.link);
    free(batch->shown.jobs);
    free(batch);
  }
}

static struct process *process_create(const struct sched_params *params) {
  struct process *process = sched_allocate(params, sizeof *process);
  if (process != NULL) list_init(&process->instances);
  return process;
}

static void process_release(struct process *process) {
  if (process->n_instances == 0) free(process);
}

/* of: the one that it shares a process with; NULL: none. */
static struct sched_instance *add_instance(struct sched_model *model, struct sched_device *device, uint32_t depth,
                                           double speed, void *owner, const struct sched_instance *of) {
  assert(depth > 0 && speed > 0 && !model->removed);
  struct sched *sched = model->sched;
  struct process *process = of != NULL ? of->process : process_create(&sched->params);
  if (process == NULL) return NULL;
  struct sched_share *share = share_get(model, device);
  if (share == NULL) goto fail_process;
  struct sched_instance *instance = sched_allocate(&sched->params, sizeof *instance);
  if (instance == NULL) goto fail_share;
  instance->process = process;
  instance->model = model;
  instance->share = share;
  instance->depth = depth;
  instance->speed = speed;
  instance->owner = owner;
  list_init(&instance->spare);
  list_init(&instance->flying);
  if (!add_batches(instance)) goto fail_instance;
  if (!heap_reserve(&sched->batch_timers, sched->n_instances + 1, &sched->params) ||
      !heap_reserve(&model->open, model->n_instances + 1, &sched->params) ||
      !heap_reserve(&share->parked, share->n_instances + 1, &sched->params))
    goto fail_instance;
  list_push_back(&model->instances, &instance->link);
  list_push_back(&process->instances, &instance->in_process);
  process->n_instances++;
  sched->n_instances++;
  model->n_instances++;
  model->n_working++;
  share->n_instances++;
  instance_place(instance);
  model_choose_apart(model);
  return instance;

fail_instance:
  free_batches(&instance->spare);
  free(instance);
fail_share:
  share_release(share);
fail_process:
  process_release(process);
  return NULL;
}

struct sched_instance *sched_add_instance(struct sched *sched, struct sched_model *model, struct sched_device *device,
                                          uint32_t depth, double speed, void *owner, uint64_t now_ns) {
  return add_instance(model, device, depth, speed, owner, NULL);
}

struct sched_instance *sched_add_sibling(struct sched *sched, struct sched_instance *of, void *owner, uint64_t now_ns) {
  return add_instance(of->model, of->share->device, of->depth, of->speed, owner, of);
}

void *sched_instance_owner(const struct sched_instance *instance) { return instance->owner; }

void instance_end(struct sched_instance *instance) {
  if (instance->retired) return;
  instance->retired = true;
  instance->model->n_working--;
  instance_place(instance); /* out of heaps and counts */
  model_choose_apart(instance->model);
}

void instance_free(struct sched_instance *instance) {
  assert(list_empty(&instance->flying));
  instance_end(instance);
  instance->model->sched->n_instances--;
  instance->model->n_instances--;
  instance->share->n_instances--;
  share_release(instance->share);
  list_remove(&instance->link);
  list_remove(&instance->in_process);
  instance->process->n_instances--;
  process_release(instance->process);
  free_batches(&instance->spare);
  free(instance);
}

bool sched_instance_retire(struct sched *sched, struct sched_instance *instance, uint64_t now_ns) {
  instance_end(instance);
  if (instance->outstanding > 0) return false;
  instance_free(instance);
  return true;
}

/* ---- jobs -------------------------------------------------------------------------------------------------------- */

static uint64_t queue_timeout(const struct sched_job *job) {
  const struct sched_queue_policy *policy = &job->key->model->params.policies[job->level];
  uint64_t timeout = policy->default_timeout_ns > 0 ? policy->default_timeout_ns : TIME_NEVER;
  if (policy->allow_timeout_override && job->timeout_ns > 0 && job->timeout_ns < timeout) timeout = job->timeout_ns;
  return timeout;
}

/* A job that is no use after its deadline waits no longer than it can still be done: alone, as nobody knows what will
 * share its batch. Where nothing else is there to do it is tried all the same: otherwise one slow run would have all
 * later ones dropped, and nothing would ever be measured again. */
static void in_time(struct sched_job *job) {
  const struct sched_model *model = job->key->model;
  if (model->batches_in_flight == 0 && job->key->rows == 0) return;
  uint64_t run_ns = sched_key_batch_ns(job->key, job->rows);
  uint64_t start_ns = job->deadline_ns > run_ns ? job->deadline_ns - run_ns : 0;
  if (start_ns < job->queue_until_ns) job->queue_until_ns = start_ns;
}

mu_status sched_submit(struct sched *sched, struct sched_job *job, uint64_t now_ns, mu_error *err) {
  mu_status status = queue_admit(job, err);
  if (status != MU_OK) return status;
  if (!heap_reserve(&sched->job_timers, sched->n_jobs + 1, &sched->params))
    return mu_fail(err, MU_NO_MEMORY, "no memory for one more request in the queue");
  job->submitted_ns = now_ns;
  job->dispatched_ns = 0;
  job->position = ++sched->positions;
  job->queue_until_ns = time_add(now_ns, queue_timeout(job));
  if (job->drop_late) in_time(job);
  job->timer_at = 0;
  job->batch = NULL;
  job->attempts = 0;
  job->delayed = job->solo = job->suspect = job->canceled = false;
  sched->n_jobs++;
  key_use(job->key);
  if (hold_learns(job->key->model)) wait_arrived(&job->key->wait, job->rows, now_ns);
  queue_push(job);
  deadline_set(job);
  return MU_OK;
}

bool sched_withdraw(struct sched *sched, struct sched_job *job) {
  if (job->state != JOB_WAITING && job->state != JOB_ALONE) return false;
  queue_take(job);
  job_leave(job);
  return true;
}

bool sched_cancel(struct sched *sched, struct sched_job *job, uint64_t now_ns) {
  switch ((enum job_state)job->state) {
    case JOB_OWNERS:
      break;
    case JOB_WAITING:
    case JOB_ALONE:
      queue_take(job);
      job_leave(job);
      return true;
    case JOB_GOING_BACK:
      job_take_back(job);
      return true;
    case JOB_IN_FLIGHT:
      if (!job->canceled) job->batch->live--;
      heap_remove(&sched->job_timers, &job->timer_at);
      job->canceled = true;
      return false;
    case JOB_LATE:
      job->canceled = true;
      return false;
  }
  assert(!"a job that the scheduler does not have");
  return true;
}

/* ---- decisions --------------------------------------------------------------------------------------------------- */

bool sched_next(struct sched *sched, uint64_t now_ns, struct sched_decision *ret_decision) {
  if (!list_empty(&sched->removed)) free_removed(sched);
  if (deadline_next(sched, now_ns, ret_decision)) return true;
  struct batch *batch = dispatch_next(sched, now_ns);
  if (batch == NULL) return false;
  *ret_decision = (struct sched_decision){.action = SCHED_RUN, .batch = &batch->shown};
  return true;
}

uint64_t sched_wake_ns(const struct sched *sched) {
  if (!list_empty(&sched->going_back) || !list_empty(&sched->offering) || !list_empty(&sched->unsettled)) return 0;
  const struct heap *timers[] = {&sched->job_timers, &sched->batch_timers, &sched->hold_timers};
  uint64_t wake = TIME_NEVER;
  for (size_t i = 0; i < sizeof timers / sizeof *timers; i++)
    if (heap_top_key(timers[i]) < wake) wake = heap_top_key(timers[i]);
  return wake;
}
