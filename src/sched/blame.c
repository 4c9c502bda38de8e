#include "sched/state.h"

/* One job of a batch that came to nothing: back to the queue, or back to its owner. killed: its worker died of it. */
static void requeue(struct sched_job *job, bool killed, bool solo) {
  const struct sched_model *model = job->key->model;
  job->batch = NULL;
  bool guilty = killed && job->solo; /* it was alone */
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
    job->solo = job->solo || solo;
    job->queue_until_ns = TIME_NEVER; /* its time in the queue was over when it was dispatched */
    queue_push(job);
    deadline_set(job);
  }
}

static void requeue_all(struct batch *batch, bool killed, bool solo) {
  for (uint32_t i = 0; i < batch->shown.n_jobs; i++) requeue(batch->shown.jobs[i], killed, solo);
}

void sched_instance_lost(struct sched *sched, struct sched_instance *instance, bool blamed, uint64_t now_ns) {
  struct sched_model *model = instance->model;
  instance_end(instance);
  while (!list_empty(&instance->flying)) {
    struct batch *batch = list_item(instance->flying.next, struct batch, shown.link);
    batch_end(batch, now_ns);
    requeue_all(batch, blamed, blamed);
    list_push_front(&instance->spare, &batch->shown.link);
  }
  instance_free(instance);
  model_offer(model);
}

bool sched_batch_failed(struct sched *sched, struct sched_batch *shown, uint64_t now_ns) {
  struct batch *batch = (struct batch *)shown;
  bool single = shown->n_jobs == 1;
  batch_end(batch, now_ns);
  if (single)
    job_leave(shown->jobs[0]);
  else
    requeue_all(batch, false, true);
  batch_recycle(batch);
  return single;
}
