/*
 * How many workers load at once on each device. Loading is disk, memory and, on a GPU, a driver that takes one context
 * after the other: past a few at once all only get slower, and what they need meanwhile adds up. First come, first
 * served; a device does not wait for another one.
 */
#include "supervisor/state.h"

enum { AT_ONCE_ON_GPU = 4, AT_ONCE_ON_CPU = 16 };

static uint32_t at_once(const struct supervisor *s, const struct worker *worker) {
  if (s->options->load_parallel > 0) return (uint32_t)s->options->load_parallel;
  if (worker_plan_gpu(worker->group->device) != NULL) return AT_ONCE_ON_GPU;
  return 2 * s->cores > AT_ONCE_ON_CPU ? 2 * s->cores : AT_ONCE_ON_CPU;
}

static bool loads(const struct worker *worker) {
  return child_runs(&worker->child) &&
         (worker->state == WORKER_STARTING || worker->state == WORKER_LOADING || worker->state == WORKER_WARMING);
}

static bool has_room(const struct worker *worker) {
  const struct supervisor *s = worker->supervisor;
  uint32_t n = 0;
  list_each (link, &s->workers) {
    const struct worker *other = list_item(link, struct worker, all);
    n += other->device == worker->device && loads(other);
  }
  return n < at_once(s, worker);
}

bool load_queue_admit(struct worker *worker) {
  if (has_room(worker)) return true;
  worker->state = WORKER_QUEUED;
  worker->turn = ++worker->supervisor->last_turn;
  snprintf(worker->reason, sizeof worker->reason, "waits for its turn: %u workers load at once on %s (--load-parallel)",
           at_once(worker->supervisor, worker), worker->group->label);
  return false;
}

static struct worker *next(const struct supervisor *s, uint32_t device) {
  struct worker *first = NULL;
  list_each (link, &s->workers) {
    struct worker *worker = list_item(link, struct worker, all);
    if (worker->state != WORKER_QUEUED || worker->device != device || mps_holds(worker)) continue;
    if (first == NULL || worker->turn < first->turn) first = worker;
  }
  return first;
}

void load_queue_next(struct supervisor *s, uint32_t device) {
  struct worker *worker;
  while (s->phase < PHASE_STOPPING && (worker = next(s, device)) != NULL && has_room(worker)) {
    worker->reason[0] = '\0';
    worker_start(worker);
  }
}
