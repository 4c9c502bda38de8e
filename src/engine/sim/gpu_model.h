/*
 * A GPU that is only computed: which kernels run on it, how fast each, and when it will be done. Pure: time goes in as
 * a number, nothing is waited for. docs/engine-sim.md derives the rules.
 *
 *   - A kernel (one run of a model) alone uses a share of the GPU's SMs and takes its time.
 *   - Kernels of one context overlap. Where they want more than all SMs, each slows down in proportion; so it does
 *     before, where those of one process want more than the process may have (MPS's active thread percentage).
 *   - Contexts take turns: the one whose kernel came first has the GPU until that kernel is done. A process without
 *     MPS is a context of its own; all processes under MPS share one.
 *   - Changing between contexts costs: while more than one wants the GPU, all goes at GPU_SWITCHED_SPEED.
 *
 * Owned by the caller, who also serialises. A gpu_model is plain memory: it may be copied, and all zeros is an idle
 * GPU.
 */
#ifndef ENGINE_SIM_GPU_MODEL_H
#define ENGINE_SIM_GPU_MODEL_H

#include <stdbool.h>
#include <stdint.h>

enum { GPU_KERNELS_MAX = 256, GPU_PROCESSES_MAX = 128 };

/* 7 clients of a GPU that needed 0.088 s each took 0.685 s by turns: 7 x 0.088 / 0.685. */
#define GPU_SWITCHED_SPEED 0.9

struct gpu_kernel {
  uint64_t ticket;  /* gpu_model_add's */
  uint32_t process; /* below GPU_PROCESSES_MAX */
  uint32_t context;
  double share;   /* of all SMs, that it uses alone: above 0, at most 1 */
  double cap;     /* the most that its process may use; 1: all */
  double left_ns; /* how long it still takes alone */
};

struct gpu_model {
  uint64_t now_ns;
  uint64_t last_ticket;
  uint32_t n_kernels;
  struct gpu_kernel kernels[GPU_KERNELS_MAX]; /* in the order in which they came */
};

/* How fast each kernel advances now: 1 as if it were alone, 0 not at all. */
void gpu_model_rates(const struct gpu_model *gpu, double ret_rates[GPU_KERNELS_MAX]);

/* Lets time pass until now_ns; kernels that are done by then leave, each at its moment. Time before the model's does
 * nothing. */
void gpu_model_advance(struct gpu_model *gpu, uint64_t now_ns);

/* A kernel begins now (the ticket in it is ignored); returns its ticket, 0 where there is no room. */
uint64_t gpu_model_add(struct gpu_model *gpu, const struct gpu_kernel *kernel);

bool gpu_model_has(const struct gpu_model *gpu, uint64_t ticket);

/* When the kernel will be done if no other begins; the model's time where it is not there. What begins later never
 * makes it earlier. */
uint64_t gpu_model_end(const struct gpu_model *gpu, uint64_t ticket);

/* Kernels leave before they are done; true: there were some. */
bool gpu_model_remove(struct gpu_model *gpu, uint64_t ticket);
bool gpu_model_remove_process(struct gpu_model *gpu, uint32_t process);

#endif
