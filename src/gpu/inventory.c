#include "gpu/inventory.h"

#include <stdlib.h>
#include <string.h>

bool gpu_is_uuid(const char *text) { return strncmp(text, "GPU-", 4) == 0 || strncmp(text, "MIG-", 4) == 0; }

static int32_t find_index(const struct gpu_inventory *inventory, long index, long mig_index) {
  for (uint32_t i = 0; i < inventory->n_gpus; i++)
    if (inventory->gpus[i].index == index && inventory->gpus[i].mig_index == mig_index) return (int32_t)i;
  return GPU_UNKNOWN;
}

static int32_t find_uuid(const struct gpu_inventory *inventory, const char *text) {
  int32_t found = GPU_UNKNOWN;
  for (uint32_t i = 0; i < inventory->n_gpus; i++) {
    const char *uuid = inventory->gpus[i].uuid;
    if (strcmp(uuid, text) == 0) return (int32_t)i;
    if (strncmp(uuid, text, strlen(text)) != 0) continue;
    if (found != GPU_UNKNOWN) return GPU_UNKNOWN; /* the beginning of several */
    found = (int32_t)i;
  }
  return found;
}

int32_t gpu_find(const struct gpu_inventory *inventory, const char *text) {
  if (text[0] == '\0') return GPU_UNKNOWN;
  if (text[0] < '0' || text[0] > '9') return find_uuid(inventory, text);
  char *end;
  long index = strtol(text, &end, 10), mig_index = GPU_UNKNOWN;
  if (*end == ':' && end[1] >= '0' && end[1] <= '9') mig_index = strtol(end + 1, &end, 10);
  return *end == '\0' ? find_index(inventory, index, mig_index) : GPU_UNKNOWN;
}

bool gpu_is_ambiguous(const struct gpu_inventory *inventory, const char *text) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < inventory->n_gpus; i++) {
    if (strcmp(inventory->gpus[i].uuid, text) == 0) return false;
    n += strncmp(inventory->gpus[i].uuid, text, strlen(text)) == 0;
  }
  return n > 1;
}

bool gpu_is_usable(const struct gpu_inventory *inventory, uint32_t position) {
  const struct gpu *gpu = &inventory->gpus[position];
  return position < inventory->n_gpus && !gpu->mig_enabled && gpu->compute_mode != GPU_COMPUTE_PROHIBITED &&
         !inventory->readings[position].lost && gpu_is_uuid(gpu->uuid);
}

/* NVLink is not always transitive, but what it connects stays one group for fencing and placement. */
void gpu_islands(const struct gpu_inventory *inventory, uint32_t ret_islands[GPUS_MAX]) {
  for (uint32_t i = 0; i < inventory->n_gpus; i++) ret_islands[i] = i;
  for (bool changed = true; changed;) {
    changed = false;
    for (uint32_t i = 0; i < inventory->n_gpus; i++)
      for (uint32_t j = 0; j < inventory->n_gpus; j++)
        if (inventory->links[i][j] == GPU_LINK_NVLINK && ret_islands[j] < ret_islands[i]) {
          ret_islands[i] = ret_islands[j];
          changed = true;
        }
  }
}

const char *gpu_link_name(enum gpu_link link) {
  static const char *const names[] = {
      [GPU_LINK_SELF] = "X",   [GPU_LINK_NVLINK] = "NV", [GPU_LINK_PCI_SINGLE] = "PIX", [GPU_LINK_PCI_MULTI] = "PXB",
      [GPU_LINK_HOST] = "PHB", [GPU_LINK_NODE] = "NODE", [GPU_LINK_SYSTEM] = "SYS",     [GPU_LINK_UNKNOWN] = "?",
  };
  return (unsigned)link < sizeof names / sizeof *names ? names[link] : "?";
}

void gpu_reading_clear(struct gpu_reading *reading) {
  *reading = (struct gpu_reading){.memory_used = GPU_UNKNOWN,
                                  .memory_free = GPU_UNKNOWN,
                                  .gpu_utilization = GPU_UNKNOWN,
                                  .memory_utilization = GPU_UNKNOWN,
                                  .temperature = GPU_UNKNOWN,
                                  .power_mw = GPU_UNKNOWN,
                                  .power_limit_mw = GPU_UNKNOWN,
                                  .energy_mj = GPU_UNKNOWN,
                                  .sm_clock_mhz = GPU_UNKNOWN,
                                  .sm_clock_max_mhz = GPU_UNKNOWN,
                                  .memory_clock_mhz = GPU_UNKNOWN,
                                  .throttle_reasons = GPU_UNKNOWN,
                                  .ecc_corrected = GPU_UNKNOWN,
                                  .ecc_uncorrected = GPU_UNKNOWN,
                                  .recovery_action = GPU_UNKNOWN};
}
