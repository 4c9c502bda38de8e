#include "sched/state.h"

/* Why a batch came to nothing. */
enum end {
  END_ERROR, /* the engine said so: one of its jobs is wrong, the others are not */
  END_DEATH, /* its process ended for a reason of somebody else's */
  END_CRASH, /* its process ended by itself: this batch may be why, or one beside it */
};

/* A batch whose processes die that often for reasons of somebody else's (a GPU that fails under it) may have the reason
 * in it after all: from then on its jobs run one by one, so that it costs the others no more attempts. */
enum { DEATHS_TOGETHER = 3 };

/* One job of such a batch: back to the queue, or back to its owner. */
static void requeue(struct sched_job *job, enum end end) {
  const struct sched_model *model = job->key->model;
  job->batch = NULL;
  bool guilty = end == END_CRASH && job->suspect; /* it was alone in the whole process */
  if (job->attempts < UINT16_MAX) job->attempts++;
  if (job->canceled) {
    job_send_back(job, BACK_CANCELED);
  } else if (job->state == JOB_LATE) {
    job_send_back(job, BACK_DEADLINE);
  } else if (model->removed) {
    job_send_back(job, BACK_REMOVED);
  } else if (guilty) {
    job_send_back(job, BACK_BLAMED);
  } else if (job->attempts > model->sched->params.max_attempts) {
    job_send_back(job, BACK_ATTEMPTS);
  } else {
    job->solo = job->solo || end != END_DEATH || job->attempts >= DEATHS_TOGETHER;
    job->suspect = job->suspect || end == END_CRASH;
    job->queue_until_ns = TIME_NEVER; /* its time in the queue was over when it was dispatched */
    queue_push(job);
    deadline_set(job);
  }
}

static void requeue_all(struct batch *batch, enum end end) {
  for (uint32_t i = 0; i < batch->shown.n_jobs; i++) requeue(batch->shown.jobs[i], end);
}

static void lose_batches(struct sched_instance *instance, enum end end, uint64_t now_ns) {
  while (!list_empty(&instance->flying)) {
    struct batch *batch = list_item(instance->flying.next, struct batch, shown.link);
    batch_end(batch, now_ns);
    requeue_all(batch, end);
    list_push_front(&instance->spare, &batch->shown.link);
  }
}

void sched_instance_lost(struct sched *sched, struct sched_instance *instance, bool blamed, uint64_t now_ns) {
  struct sched_model *model = instance->model;
  struct process *process = instance->process;
  list_each (link, &process->instances) instance_end(list_item(link, struct sched_instance, in_process));
  list_each (link, &process->instances)
    lose_batches(list_item(link, struct sched_instance, in_process), blamed ? END_CRASH : END_DEATH, now_ns);
  for (uint32_t n = process->n_instances; n > 0; n--) /* the process goes with the last one */
    instance_free(list_item(process->instances.next, struct sched_instance, in_process));
  model_offer(model);
}

bool sched_batch_failed(struct sched *sched, struct sched_batch *shown, uint64_t now_ns) {
  struct batch *batch = (struct batch *)shown;
  bool single = shown->n_jobs == 1;
  batch_end(batch, now_ns);
  if (single)
    job_leave(shown->jobs[0]);
  else
    requeue_all(batch, END_ERROR);
  batch_recycle(batch);
  return single;
}
