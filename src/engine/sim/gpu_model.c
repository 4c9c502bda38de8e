#include "engine/sim/gpu_model.h"

#include <math.h>
#include <string.h>

/* What of the SMs a process takes that wants so much; without a cap the GPU is divided by what is wanted. */
static double allowed(double wanted, double cap) { return cap < 1 ? fmin(wanted, cap) : wanted; }

void gpu_model_rates(const struct gpu_model *gpu, double ret_rates[GPU_KERNELS_MAX]) {
  if (gpu->n_kernels == 0) return;
  double wanted[GPU_PROCESSES_MAX] = {0}, sum = 0;
  uint32_t active = gpu->kernels[0].context;
  bool switched = false;
  for (uint32_t i = 0; i < gpu->n_kernels; i++) {
    const struct gpu_kernel *kernel = &gpu->kernels[i];
    if (kernel->context == active)
      wanted[kernel->process] += kernel->share;
    else
      switched = true;
  }
  /* A process counts with what it may use, once: with the first of its kernels. */
  bool counted[GPU_PROCESSES_MAX] = {false};
  for (uint32_t i = 0; i < gpu->n_kernels; i++) {
    const struct gpu_kernel *kernel = &gpu->kernels[i];
    if (kernel->context != active || counted[kernel->process]) continue;
    counted[kernel->process] = true;
    sum += allowed(wanted[kernel->process], kernel->cap);
  }
  double speed = (sum > 1 ? 1 / sum : 1) * (switched ? GPU_SWITCHED_SPEED : 1);
  for (uint32_t i = 0; i < gpu->n_kernels; i++) {
    const struct gpu_kernel *kernel = &gpu->kernels[i];
    double all = wanted[kernel->process];
    ret_rates[i] = kernel->context == active ? allowed(all, kernel->cap) / all * speed : 0;
  }
}

/* Lets time pass until the next kernel is done, or until_ns. */
static void step(struct gpu_model *gpu, uint64_t until_ns) {
  double rates[GPU_KERNELS_MAX], next = INFINITY;
  gpu_model_rates(gpu, rates);
  for (uint32_t i = 0; i < gpu->n_kernels; i++)
    if (rates[i] > 0) next = fmin(next, gpu->kernels[i].left_ns / rates[i]);
  /* Whole nanoseconds, rounded up: the kernel that ends the step is done with it. */
  uint64_t ns = until_ns - gpu->now_ns;
  if (next < (double)ns) ns = (uint64_t)ceil(next);
  gpu->now_ns += ns;
  uint32_t kept = 0;
  for (uint32_t i = 0; i < gpu->n_kernels; i++) {
    gpu->kernels[i].left_ns -= rates[i] * (double)ns;
    if (gpu->kernels[i].left_ns > 0) gpu->kernels[kept++] = gpu->kernels[i];
  }
  gpu->n_kernels = kept;
}

void gpu_model_advance(struct gpu_model *gpu, uint64_t now_ns) {
  while (gpu->n_kernels > 0 && gpu->now_ns < now_ns) step(gpu, now_ns);
  if (gpu->now_ns < now_ns) gpu->now_ns = now_ns;
}

uint64_t gpu_model_add(struct gpu_model *gpu, const struct gpu_kernel *kernel) {
  if (gpu->n_kernels == GPU_KERNELS_MAX) return 0;
  struct gpu_kernel *added = &gpu->kernels[gpu->n_kernels++];
  *added = *kernel;
  added->ticket = ++gpu->last_ticket;
  return added->ticket;
}

bool gpu_model_has(const struct gpu_model *gpu, uint64_t ticket) {
  for (uint32_t i = 0; i < gpu->n_kernels; i++)
    if (gpu->kernels[i].ticket == ticket) return true;
  return false;
}

uint64_t gpu_model_end(const struct gpu_model *gpu, uint64_t ticket) {
  struct gpu_model ahead = *gpu;
  while (gpu_model_has(&ahead, ticket)) step(&ahead, UINT64_MAX);
  return ahead.now_ns;
}

enum { NO_TICKET = 0 };
static const uint32_t no_process = UINT32_MAX;

static bool remove_kernels(struct gpu_model *gpu, uint64_t ticket, uint32_t process) {
  uint32_t kept = 0, before = gpu->n_kernels;
  for (uint32_t i = 0; i < before; i++)
    if (gpu->kernels[i].ticket != ticket && gpu->kernels[i].process != process) gpu->kernels[kept++] = gpu->kernels[i];
  gpu->n_kernels = kept;
  return kept < before;
}

bool gpu_model_remove(struct gpu_model *gpu, uint64_t ticket) { return remove_kernels(gpu, ticket, no_process); }

bool gpu_model_remove_process(struct gpu_model *gpu, uint32_t process) {
  return remove_kernels(gpu, NO_TICKET, process);
}
