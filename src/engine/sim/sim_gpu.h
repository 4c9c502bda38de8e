/*
 * A simulated GPU: a gpu_model in memory that the worker processes on it share, and the memory that each has taken of
 * it. The supervisor makes the file for each simulated GPU and gives its descriptor to the workers there.
 *
 * A process may be killed at any moment. Nobody holds the lock while waiting; the lock is robust, and what it guards is
 * written beside what holds and then put into its place at once, so whoever comes next finds the one state or the
 * other. A process holds another robust lock as long as it lives: that one without an owner is how the others see,
 * whenever they look, that its memory is free and its kernels are gone.
 *
 * sim_gpu_create: supervisor, tests. All else: the worker. A sim_gpu is opened and closed by the same thread, and the
 * process counts as dead when that thread ends; sim_gpu_run and sim_gpu_wake: any thread.
 */
#ifndef ENGINE_SIM_SIM_GPU_H
#define ENGINE_SIM_SIM_GPU_H

#include <stdatomic.h>

#include "base/status.h"

/* Where a worker finds the descriptor: a parameter of mu_model_spec. */
#define SIM_GPU_PARAMETER "muster.sim_gpu"

/* An idle GPU, as a memfd (CLOEXEC) that cannot change its size. MU_NO_MEMORY, MU_IO. */
MUST_CHECK mu_status sim_gpu_create(int *ret_fd, mu_error *err);

struct sim_gpu;

/* What a process is on its GPU. */
struct sim_gpu_claim {
  const char *device;     /* for messages */
  uint64_t memory, total; /* bytes that it takes, of so many */
  bool mps;               /* overlaps with other processes that say so, instead of taking turns */
  double cap;             /* the most of all SMs that it may use: above 0, at most 1 */
};

/* Joins the GPU of a file (the descriptor stays the caller's). MU_NO_MEMORY: the GPU has not so much left, or this
 * process; MU_INVALID: that is no simulated GPU; MU_UNAVAILABLE: GPU_PROCESSES_MAX are there; MU_IO. */
MUST_CHECK mu_status sim_gpu_open(int fd, const struct sim_gpu_claim *claim, struct sim_gpu **ret_gpu, mu_error *err);
void sim_gpu_close(struct sim_gpu *gpu); /* accepts NULL */

/* A kernel that alone uses share of the SMs for ns; returns when it is done. MU_CANCELED: stop was set, and
 * sim_gpu_wake called; MU_UNAVAILABLE: GPU_KERNELS_MAX are running; MU_IO. */
MUST_CHECK mu_status sim_gpu_run(struct sim_gpu *gpu, double share, double ns, const atomic_bool *stop, mu_error *err);
/* How many kernels are there now; 0 where the lock cannot be had. */
uint32_t sim_gpu_kernels(struct sim_gpu *gpu);
/* Whoever waits in sim_gpu_run looks at its stop. */
void sim_gpu_wake(struct sim_gpu *gpu);

#endif
