/* Inventories for tests. */
#ifndef SAMPLE_GPUS_H
#define SAMPLE_GPUS_H

#include <stdio.h>
#include <string.h>

#include "gpu/inventory.h"

#define SAMPLE_GIB (INT64_C(1) << 30)

static inline struct gpu *sample_add(struct gpu_inventory *inventory, const char *uuid, const char *name, int32_t index,
                                     int64_t memory) {
  uint32_t at = inventory->n_gpus++;
  struct gpu *gpu = &inventory->gpus[at];
  memset(gpu, 0, sizeof *gpu);
  snprintf(gpu->uuid, sizeof gpu->uuid, "%s", uuid);
  snprintf(gpu->name, sizeof gpu->name, "%s", name);
  gpu->index = index;
  gpu->mig_index = GPU_UNKNOWN;
  gpu->compute_major = 9;
  gpu->memory_total = memory;
  inventory->readings[at] = (struct gpu_reading){.memory_used = 0, .memory_free = memory};
  return gpu;
}

/* n alike: "GPU-aaaa0000", "GPU-aaaa0001" … */
static inline void sample_alike(struct gpu_inventory *inventory, uint32_t n, int64_t memory) {
  memset(inventory, 0, sizeof *inventory);
  for (uint32_t i = 0; i < n; i++) {
    char uuid[GPU_UUID_SIZE];
    snprintf(uuid, sizeof uuid, "GPU-aaaa%04u", i);
    sample_add(inventory, uuid, "NVIDIA H200", (int32_t)i, memory);
  }
}

#endif
