/*
 * What GPUs the machine has, asked of NVML by a process of its own: a call on a lost GPU may never return, and the
 * launcher must not hang with it.
 */
#ifndef LAUNCH_GPU_READ_H
#define LAUNCH_GPU_READ_H

#include "base/status.h"
#include "gpu/inventory.h"

/* Where NVML is not there or does not answer the inventory's `error` says why, and it has no GPUs. MU_IO,
 * MU_NO_MEMORY. */
MUST_CHECK mu_status gpu_read(struct gpu_inventory *ret_inventory, mu_error *err);

#endif
