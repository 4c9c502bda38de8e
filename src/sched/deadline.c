#include "sched/state.h"

static const struct {
  mu_status status;
  const char *why;
} reasons[] = {
    [BACK_DEADLINE] = {MU_TIMEOUT, "The request's deadline passed before its answer was there."},
    [BACK_QUEUE_TIMEOUT] = {MU_TIMEOUT, "The request waited in the queue for longer than its queue policy allows."},
    [BACK_CANCELED] = {MU_CANCELED, "The client left before the request was done."},
    [BACK_BLAMED] = {MU_INTERNAL, "The worker died while it ran this request alone; the request is not tried again."},
    [BACK_ATTEMPTS] = {MU_INTERNAL, "The request failed together with its worker too many times."},
    [BACK_REMOVED] = {MU_UNAVAILABLE, "The model was unloaded while the request was waiting."},
    [BACK_UNSERVED] = {MU_UNAVAILABLE, "The model's workers failed for good while the request was waiting."},
};

static bool in_flight(const struct sched_job *job) { return job->state == JOB_IN_FLIGHT || job->state == JOB_LATE; }

void deadline_set(struct sched_job *job) {
  struct heap *timers = &job->key->model->sched->job_timers;
  uint64_t at = job->deadline_ns;
  if (!in_flight(job) && job->queue_until_ns < at) at = job->queue_until_ns;
  if (at == TIME_NEVER)
    heap_remove(timers, &job->timer_at);
  else
    heap_put(timers, &job->timer_at, at);
}

void job_leave(struct sched_job *job) {
  struct sched *sched = job->key->model->sched;
  heap_remove(&sched->job_timers, &job->timer_at);
  sched->n_jobs--;
  job->state = JOB_OWNERS;
  key_release(job->key);
}

void job_send_back(struct sched_job *job, enum reason reason) {
  struct sched_model *model = job->key->model;
  heap_remove(&model->sched->job_timers, &job->timer_at);
  job->state = JOB_GOING_BACK;
  job->reason = (uint8_t)reason;
  list_push_back(&model->sched->going_back, &job->link);
  model->going_back++;
}

void job_take_back(struct sched_job *job) {
  list_remove(&job->link);
  job->key->model->going_back--;
  job_leave(job);
}

/* true: there is a decision. */
static bool job_expired(struct sched *sched, struct sched_job *job, uint64_t now_ns,
                        struct sched_decision *ret_decision) {
  if (in_flight(job)) {
    heap_remove(&sched->job_timers, &job->timer_at);
    job->state = JOB_LATE;
    job->batch->live--;
    *ret_decision =
        (struct sched_decision){SCHED_LATE, job->batch, job, reasons[BACK_DEADLINE].status, reasons[BACK_DEADLINE].why};
    return true;
  }
  bool dead = job->deadline_ns <= now_ns || job->drop_late;
  if (!dead && job->key->model->params.policies[job->level].delay) {
    job->queue_until_ns = TIME_NEVER;
    deadline_set(job);
    queue_delay(job);
    return false;
  }
  queue_take(job);
  job_send_back(job, dead ? BACK_DEADLINE : BACK_QUEUE_TIMEOUT);
  return false;
}

static bool go_back(struct sched *sched, struct sched_decision *ret_decision) {
  if (list_empty(&sched->going_back)) return false;
  struct sched_job *job = list_item(sched->going_back.next, struct sched_job, link);
  job_take_back(job);
  *ret_decision = (struct sched_decision){SCHED_DROP, NULL, job, reasons[job->reason].status, reasons[job->reason].why};
  return true;
}

bool deadline_next(struct sched *sched, uint64_t now_ns, struct sched_decision *ret_decision) {
  while (heap_top(&sched->job_timers) != NULL && heap_top_key(&sched->job_timers) <= now_ns) {
    struct sched_job *job = heap_item(heap_top(&sched->job_timers), struct sched_job, timer_at);
    if (job_expired(sched, job, now_ns, ret_decision)) return true;
  }
  if (go_back(sched, ret_decision)) return true;
  if (heap_top(&sched->batch_timers) != NULL && heap_top_key(&sched->batch_timers) <= now_ns) {
    struct batch *batch = heap_item(heap_top(&sched->batch_timers), struct batch, timer_at);
    heap_remove(&sched->batch_timers, &batch->timer_at);
    *ret_decision = (struct sched_decision){.action = SCHED_HUNG, .batch = &batch->shown};
    return true;
  }
  while (heap_top(&sched->hold_timers) != NULL && heap_top_key(&sched->hold_timers) <= now_ns)
    hold_end(heap_item(heap_top(&sched->hold_timers), struct sched_key, hold_at));
  return false;
}
