/*
 * What workers.c and worker_gpus.c have of each other; for these two only. All on the supervisor's one loop.
 */
#ifndef SUPERVISOR_WORKER_GPUS_H
#define SUPERVISOR_WORKER_GPUS_H

#include "supervisor/state.h"

/* ---- worker_gpus.c ----------------------------------------------------------------------------------------------- */

/* Of the CPU, next to its GPU; "": it runs anywhere. */
const char *worker_near_cores(const struct worker *worker);
/* Whether it shares a simulated GPU with others there; and that, which belongs to the supervisor. MU_NO_MEMORY, MU_IO.
 */
bool worker_has_sim_gpu(const struct worker *worker);
MUST_CHECK mu_status worker_sim_gpu(struct worker *worker, int *ret_fd, mu_error *err);
/* There is no process in its place until its GPU serves again. */
void worker_rest(struct worker *worker, const struct gpu_guard *obstacle);
/* It was killed for a fault of its GPU. */
void worker_after_gpu_fault(struct worker *worker, const char *why);

/* ---- workers.c --------------------------------------------------------------------------------------------------- */

/* Kills it for a reason that its end is then judged by; the first reason counts. */
void worker_condemn(struct worker *worker, enum death_wish wish, const char *cause);
/* The gateway lets go of it first, within this time; only where it can: it is ready, and a gateway has it. */
void worker_retire(struct worker *worker, uint64_t within_ns);
bool worker_can_retire(const struct worker *worker);
/* How long what it runs may take. */
uint64_t worker_attach_ns(const struct worker *worker);
void worker_set_timer(struct worker *worker, uint64_t after_ns);
void worker_set_reason(struct worker *worker, const char *reason);
/* Its model's state may be another one now. */
void worker_update_model(struct worker *worker);
/* Its process has ended, and state, reason and delay say what follows. */
void worker_log_end(const struct worker *worker);

#endif
