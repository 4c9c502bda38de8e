/*
 * Workers and their GPUs: which cores they run on, what becomes of them when their GPU has a fault or serves nobody,
 * and when it serves again.
 */
#include "supervisor/worker_gpus.h"

#include <stdio.h>

#include "engine/sim/sim.h"
#include "engine/sim/sim_gpu.h"

/* ---- at its start ------------------------------------------------------------------------------------------------ */

/* Of the CPU, next to its GPU; "": it runs anywhere. */
const char *worker_near_cores(const struct worker *worker) {
  const struct gpus *gpus = &worker->supervisor->gpus;
  int32_t position = gpus_position(gpus, worker->group->device);
  return position != GPU_UNKNOWN ? gpus->inventory.gpus[position].cores : "";
}

/* The GPU that a worker of the sim engine shares with others there. It begins anew with an upgrade, which starts all
 * workers anew. */
mu_status worker_sim_gpu(struct worker *worker, int *ret_fd, mu_error *err) {
  int *gpu = &worker->supervisor->sim_gpus[worker->device];
  mu_status status = *gpu > 0 ? MU_OK : sim_gpu_create(gpu, err);
  if (status == MU_OK) *ret_fd = *gpu;
  return status;
}

bool worker_has_sim_gpu(const struct worker *worker) {
  return strcmp(worker->model->plan.engine, engine_sim.name) == 0 && strncmp(worker->group->device, "gpu:", 4) == 0;
}

/* ---- at its end -------------------------------------------------------------------------------------------------- */

/* Until its GPU serves again there is no process in its place. */
void worker_rest(struct worker *worker, const struct gpu_guard *obstacle) {
  char reason[sizeof worker->reason];
  gpu_guard_describe(obstacle, reason, sizeof reason);
  uv_timer_stop(&worker->timer);
  worker->state = WORKER_FENCED;
  worker_set_reason(worker, reason);
  LOG_WARNING("worker rests until its GPU serves again", LOG_STR("model", worker->model->name),
              LOG_INT("version", worker->model->version), LOG_STR("device", worker->group->label),
              LOG_STR("reason", reason));
  mps_worker_rests(worker);
  worker_update_model(worker);
}

/* A fault of the GPU says nothing about the worker: only how often it comes decides when the next one is started. */
void worker_after_gpu_fault(struct worker *worker, const char *why) {
  struct gpus *gpus = &worker->supervisor->gpus;
  int32_t position = gpus_position(gpus, worker->group->device);
  const struct gpu_guard *guard = position != GPU_UNKNOWN ? gpus_guard_at(gpus, (uint32_t)position) : NULL;
  worker->policy.ready = false;
  worker->policy.delay_ns = guard != NULL ? guard->restart_delay_ns : 0;
  worker->state = WORKER_BACKOFF;
  worker_set_reason(worker, why);
  worker_set_timer(worker, worker->policy.delay_ns);
  worker_log_end(worker);
  worker_update_model(worker);
}

/* ---- when something changes -------------------------------------------------------------------------------------- */

/* Its GPU serves nobody from now on. */
static void make_way(struct worker *worker, const struct gpu_guard *obstacle) {
  static const uint64_t haste_ns = 10 * NS_PER_S;
  if (worker->state == WORKER_STOPPING || worker->state == WORKER_FENCED || worker->state == WORKER_FAILED) return;
  if (!child_runs(&worker->child))
    worker_rest(worker, obstacle);
  else if (obstacle->condition != GPU_REMOVED && worker_can_retire(worker))
    worker_retire(worker, obstacle->condition == GPU_DRAINED ? worker_attach_ns(worker) : haste_ns);
  else if (obstacle->condition == GPU_REMOVED || worker->state != WORKER_RETIRING)
    worker_condemn(worker, DEATH_GPU, obstacle->reason);
}

void workers_obey_gpus(struct supervisor *s) {
  if (s->phase >= PHASE_STOPPING) return;
  list_each (link, &s->workers) {
    struct worker *worker = list_item(link, struct worker, all);
    const struct gpu_guard *obstacle = gpus_obstacle(&s->gpus, worker->group->device);
    if (obstacle != NULL)
      make_way(worker, obstacle);
    else if (worker->state == WORKER_FENCED && worker->model->role != LEFT)
      worker_start(worker);
  }
}

uint32_t workers_restart_on_gpu(struct supervisor *s, int32_t index, const char *cause) {
  uint32_t n = 0;
  list_each (link, &s->workers) {
    struct worker *worker = list_item(link, struct worker, all);
    int32_t position = gpus_position(&s->gpus, worker->group->device);
    if (position == GPU_UNKNOWN || s->gpus.inventory.gpus[position].index != index || !child_runs(&worker->child))
      continue;
    worker_condemn(worker, DEATH_GPU, cause);
    n++;
  }
  return n;
}

uint32_t workers_restart_under_mps(struct supervisor *s, const char *uuid, const char *cause) {
  uint32_t n = 0;
  list_each (link, &s->workers) {
    struct worker *worker = list_item(link, struct worker, all);
    const char *gpu = worker_plan_gpu(worker->group->device);
    if (gpu == NULL || strcmp(gpu, uuid) != 0 || !child_runs(&worker->child) || !worker->under_mps) continue;
    worker_condemn(worker, DEATH_GPU, cause);
    n++;
  }
  return n;
}
