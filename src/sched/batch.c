#include <assert.h>
#include <stdlib.h>

#include "sched/speed.h"
#include "sched/state.h"

static const uint64_t UNKNOWN_RUN_NS = NS_PER_MS;          /* a turn's price before anything was measured */
static const uint64_t FIRST_EXECUTION_NS = 600 * NS_PER_S; /* default for the first run of a shape */
static const uint64_t MAX_EXECUTION_NS = 60 * NS_PER_S;    /* default for later ones: this … */
static const uint64_t MAX_EXECUTION_TIMES_SLOW = 100;      /* … or so many times the learned p99 */

static uint64_t max_execution_ns(const struct sched_key *key, const struct sched_instance *instance) {
  const struct sched_model_params *params = &key->model->params;
  if (key->runs == 0) return params->first_execution_ns > 0 ? params->first_execution_ns : FIRST_EXECUTION_NS;
  if (params->max_execution_ns > 0) return params->max_execution_ns;
  uint64_t slow = (uint64_t)speed_expected_ns(instance, key->curve.slow_ns) * MAX_EXECUTION_TIMES_SLOW;
  return slow > MAX_EXECUTION_NS ? slow : MAX_EXECUTION_NS;
}

/* The batch is the first of its instance: from now on its time counts. */
static void run(struct batch *batch, uint64_t now_ns) {
  batch->started_ns = now_ns;
  struct sched *sched = batch->shown.instance->model->sched;
  heap_put(&sched->batch_timers, &batch->timer_at,
           time_add(now_ns, max_execution_ns(batch->shown.key, batch->shown.instance)));
}

static void take_alone(struct batch *batch, struct sched_job *job) {
  queue_take(job);
  batch->shown.jobs[0] = job;
  batch->shown.n_jobs = 1;
  batch->shown.rows = job->rows;
}

struct batch *batch_start(struct sched_instance *instance, struct sched_key *key, struct sched_job *alone,
                          uint32_t max_rows, uint64_t now_ns) {
  struct sched_model *model = instance->model;
  struct list *link = list_pop_front(&instance->spare);
  assert(link != NULL);
  struct batch *batch = list_item(link, struct batch, shown.link);
  if (alone != NULL)
    take_alone(batch, alone);
  else
    queue_form(key, max_rows, batch);
  struct sched_batch *shown = &batch->shown;
  shown->id = ++model->sched->batch_ids;
  shown->instance = instance;
  shown->key = key;
  shown->live = shown->n_jobs;
  shown->dispatched_ns = now_ns;
  shown->owner = NULL;
  shown->run_started_ns = shown->run_ended_ns = 0;
  for (uint32_t i = 0; i < shown->n_jobs; i++) {
    struct sched_job *job = shown->jobs[i];
    job->state = JOB_IN_FLIGHT;
    job->batch = shown;
    job->dispatched_ns = now_ns;
    deadline_set(job);
  }
  double expected = speed_expected_ns(instance, curve_ns(&key->curve, shown->rows > 0 ? shown->rows : 1));
  batch->charged_ns = expected > 0 ? (uint64_t)expected : UNKNOWN_RUN_NS;
  batch->started_ns = TIME_NEVER;
  instance->exclusive = alone != NULL;
  instance->process->exclusive = alone != NULL && alone->suspect;
  instance->process->outstanding++;
  instance->rows += shown->rows;
  list_push_back(&instance->flying, &shown->link);
  if (instance->outstanding++ == 0) {
    model->n_busy++;
    instance->share->n_busy++;
    run(batch, now_ns);
  }
  model->rows_in_flight += shown->rows;
  model->jobs_in_flight += shown->n_jobs;
  model->batches_in_flight++;
  /* Where they are in each other's way, solo jobs and the others take turns. */
  model->alone_next = alone == NULL && !list_empty(&model->alone);
  return batch;
}

uint64_t batch_end(struct batch *batch, uint64_t now_ns) {
  struct sched_instance *instance = batch->shown.instance;
  struct sched_model *model = instance->model;
  bool first = batch->started_ns != TIME_NEVER;
  uint64_t ran = first ? now_ns - batch->started_ns : 0;
  heap_remove(&model->sched->batch_timers, &batch->timer_at);
  list_remove(&batch->shown.link);
  instance->rows -= batch->shown.rows;
  instance->exclusive = false;
  instance->process->outstanding--;
  if (instance->process->exclusive) {
    instance->process->exclusive = false;
    process_place(instance->process);
  }
  if (--instance->outstanding == 0) {
    model->n_busy--;
    instance->share->n_busy--;
    dispatch_release(instance);
  } else if (first) {
    run(list_item(instance->flying.next, struct batch, shown.link), now_ns);
  }
  dispatch_charge(instance->share, ((int64_t)ran - (int64_t)batch->charged_ns) * batch->weight);
  device_unsettle(instance->share->device);
  model->jobs_in_flight -= batch->shown.n_jobs;
  model->rows_in_flight -= batch->shown.rows;
  model->batches_in_flight--;
  return ran;
}

void batch_recycle(struct batch *batch) {
  struct sched_instance *instance = batch->shown.instance;
  struct sched_model *model = instance->model;
  list_push_front(&instance->spare, &batch->shown.link);
  if (instance->retired && instance->outstanding == 0)
    instance_free(instance);
  else
    instance_place(instance);
  model_offer(model);
}

/* The instance was idle between its last batch and this one: that belongs to the last one's size. */
static void learn_idle(struct batch *batch) {
  struct sched_instance *instance = batch->shown.instance;
  const struct sched_batch *shown = &batch->shown;
  if (instance->last_key == shown->key && shown->run_started_ns >= instance->last_ended_ns)
    curve_learn_idle(&shown->key->curve, instance->last_rows, shown->run_started_ns - instance->last_ended_ns);
  instance->last_key = shown->key;
  instance->last_rows = shown->rows;
  instance->last_ended_ns = shown->run_ended_ns;
}

/* ran: as it looks from here. */
static void learn(struct batch *batch, uint64_t ran, uint64_t now_ns) {
  struct sched_key *key = batch->shown.key;
  struct sched_batch *shown = &batch->shown;
  if (ran == 0) return;
  if (shown->run_started_ns < shown->dispatched_ns || shown->run_ended_ns <= shown->run_started_ns ||
      shown->run_ended_ns > now_ns) {
    shown->run_started_ns = now_ns - ran;
    shown->run_ended_ns = now_ns;
  }
  uint64_t run_ns = shown->run_ended_ns - shown->run_started_ns;
  speed_learn(shown->instance, key, shown->rows, run_ns);
  uint64_t scaled = (uint64_t)speed_scaled_ns(shown->instance, (double)run_ns);
  curve_learn(&key->curve, shown->rows, scaled);
  if (!hold_learns(key->model)) return;
  learn_idle(batch);
  enough_learn(&key->enough, shown->rows, scaled);
  wait_completed(&key->wait, shown->rows, key->rows > 0, now_ns, ran, key->model->params.max_learned_wait_ns);
}

void sched_batch_done(struct sched *sched, struct sched_batch *shown, uint64_t now_ns) {
  struct batch *batch = (struct batch *)shown;
  shown->key->runs++; /* the one behind it on the instance starts in batch_end, and is not the first of its shape */
  uint64_t ran = batch_end(batch, now_ns);
  learn(batch, ran, now_ns);
  for (uint32_t i = 0; i < shown->n_jobs; i++) job_leave(shown->jobs[i]);
  batch_recycle(batch);
}
