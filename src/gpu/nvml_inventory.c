/* What GPUs there are and how they are connected. */
#include <stdio.h>
#include <string.h>

#include "gpu/nvml_functions.h"

/* ---- one device
 * ------------------------------------------------------------------------------------------------------ */

/* Texts of NVML's are cut to what fits, and end in any case. */
static nvml_return read_texts(struct nvml *nvml, nvml_device device, struct gpu *gpu, struct gpu_reading *reading) {
  nvml_return result = NVML_CALL(nvml, uuid, device, gpu->uuid, sizeof gpu->uuid);
  if (result != NVML_SUCCESS) {
    gpu->uuid[0] = '\0';
    nvml_reading_failed(nvml, NVML_FN_uuid, result, reading);
    return result;
  }
  gpu->uuid[sizeof gpu->uuid - 1] = '\0';
  result = NVML_CALL(nvml, name, device, gpu->name, sizeof gpu->name);
  if (result != NVML_SUCCESS) {
    gpu->name[0] = '\0';
    nvml_reading_failed(nvml, NVML_FN_name, result, reading);
  }
  gpu->name[sizeof gpu->name - 1] = '\0';
  return NVML_SUCCESS;
}

static int64_t read_memory_total(struct nvml *nvml, nvml_device device) {
  struct nvml_memory_v2 memory = {.version = NVML_MEMORY_V2};
  struct nvml_memory_v1 older = {0};
  if (NVML_CALL(nvml, memory_v2, device, &memory) == NVML_SUCCESS) return (int64_t)memory.total;
  return NVML_CALL(nvml, memory_v1, device, &older) == NVML_SUCCESS ? (int64_t)older.total : GPU_UNKNOWN;
}

/* The node of the CPUs next to it. A GPU whose memory is a node of its own (Grace) says that one in numa_node, so it
 * comes second. */
static int32_t read_numa_node(struct nvml *nvml, nvml_device device) {
  enum { WORDS = 16, BITS = 8 * sizeof(unsigned long) };
  unsigned long nodes[WORDS] = {0};
  if (NVML_CALL(nvml, memory_affinity, device, WORDS, nodes, NVML_SCOPE_NODE) == NVML_SUCCESS)
    for (uint32_t i = 0; i < WORDS * BITS; i++)
      if (nodes[i / BITS] >> i % BITS & 1) return (int32_t)i;
  uint32_t node = 0;
  return NVML_CALL(nvml, numa_node, device, &node) == NVML_SUCCESS ? (int32_t)node : GPU_UNKNOWN;
}

static int32_t read_compute_mode(struct nvml *nvml, nvml_device device) {
  uint32_t mode = 0;
  if (NVML_CALL(nvml, compute_mode, device, &mode) != NVML_SUCCESS) return GPU_UNKNOWN;
  if (mode == NVML_COMPUTE_EXCLUSIVE_THREAD) return GPU_COMPUTE_EXCLUSIVE_PROCESS;
  return mode <= GPU_COMPUTE_EXCLUSIVE_PROCESS ? (int32_t)mode : GPU_UNKNOWN;
}

/* What MIG devices share with their parent. */
static void describe_board(struct nvml *nvml, nvml_device device, struct gpu *gpu) {
  struct nvml_pci pci = {.domain = 0};
  int major = 0, minor = 0;
  uint32_t persistence = 0;
  if (NVML_CALL(nvml, pci, device, &pci) == NVML_SUCCESS)
    snprintf(gpu->pci, sizeof gpu->pci, "%.*s", (int)sizeof pci.bus_id - 1, pci.bus_id);
  bool capable = NVML_CALL(nvml, capability, device, &major, &minor) == NVML_SUCCESS;
  gpu->compute_major = capable ? major : GPU_UNKNOWN;
  gpu->compute_minor = capable ? minor : GPU_UNKNOWN;
  gpu->compute_mode = read_compute_mode(nvml, device);
  gpu->numa_node = read_numa_node(nvml, device);
  bool said = NVML_CALL(nvml, persistence, device, &persistence) == NVML_SUCCESS;
  gpu->persistence = said ? persistence != 0 : GPU_UNKNOWN;
}

static void find_cores(struct nvml *nvml, struct gpu *gpu) {
  cpu_set_t cores;
  gpu_locality_cores(nvml->locality, gpu, &cores);
  (void)gpu_cores_print(&cores, gpu->cores, sizeof gpu->cores);
}

/* ---- all of them
 * ----------------------------------------------------------------------------------------------------- */

static uint32_t add(struct nvml *nvml, struct gpu_inventory *inventory, nvml_device device, const struct gpu *gpu,
                    const struct gpu_reading *reading) {
  uint32_t position = inventory->n_gpus++;
  inventory->gpus[position] = *gpu;
  inventory->readings[position] = *reading;
  nvml->known[position].device = device;
  memcpy(nvml->known[position].uuid, gpu->uuid, sizeof gpu->uuid);
  nvml->n_known = inventory->n_gpus;
  return position;
}

/* The numbers of MIG devices have holes. */
static void add_mig_devices(struct nvml *nvml, struct gpu_inventory *inventory, nvml_device parent,
                            const struct gpu *board) {
  uint32_t most = 0;
  if (NVML_CALL(nvml, mig_count, parent, &most) != NVML_SUCCESS) return;
  for (uint32_t i = 0; i < most; i++) {
    nvml_device device = NULL;
    if (NVML_CALL(nvml, mig_handle, parent, i, &device) != NVML_SUCCESS) continue;
    if (inventory->n_gpus == GPUS_MAX) {
      inventory->left_out++;
      continue;
    }
    struct gpu gpu = *board;
    struct gpu_reading reading;
    gpu_reading_clear(&reading);
    gpu.mig_index = (int32_t)i;
    gpu.mig_enabled = false;
    if (read_texts(nvml, device, &gpu, &reading) == NVML_SUCCESS) {
      gpu.memory_total = read_memory_total(nvml, device);
      if (reading.error[0] == '\0') nvml_read_device(nvml, device, true, &reading);
    }
    add(nvml, inventory, device, &gpu, &reading);
  }
}

static void add_gpu(struct nvml *nvml, struct gpu_inventory *inventory, uint32_t index) {
  nvml_device device = NULL;
  struct gpu gpu = {.index = (int32_t)index,
                    .mig_index = GPU_UNKNOWN,
                    .compute_major = GPU_UNKNOWN,
                    .compute_minor = GPU_UNKNOWN,
                    .compute_mode = GPU_UNKNOWN,
                    .numa_node = GPU_UNKNOWN,
                    .memory_total = GPU_UNKNOWN,
                    .persistence = GPU_UNKNOWN};
  struct gpu_reading reading;
  gpu_reading_clear(&reading);
  nvml_return result = NVML_CALL(nvml, handle, index, &device);
  if (result != NVML_SUCCESS) {
    device = NULL;
    if (nvml->boards[index].uuid[0] != '\0') gpu = nvml->boards[index];
    nvml_reading_failed(nvml, NVML_FN_handle, result, &reading);
  } else if (read_texts(nvml, device, &gpu, &reading) == NVML_SUCCESS) {
    uint32_t now = 0, pending = 0;
    describe_board(nvml, device, &gpu);
    find_cores(nvml, &gpu);
    gpu.memory_total = read_memory_total(nvml, device);
    gpu.mig_enabled = NVML_CALL(nvml, mig_mode, device, &now, &pending) == NVML_SUCCESS && now == 1;
    if (reading.error[0] == '\0') nvml_read_device(nvml, device, false, &reading);
  }
  if (gpu.uuid[0] != '\0') nvml->boards[index] = gpu;
  uint32_t position = add(nvml, inventory, device, &gpu, &reading);
  if (gpu.mig_enabled && !inventory->readings[position].lost) add_mig_devices(nvml, inventory, device, &gpu);
}

/* ---- how they are connected
 * ------------------------------------------------------------------------------------------ */

static enum gpu_link link_of_level(uint32_t level) {
  static const struct {
    uint32_t level;
    enum gpu_link link;
  } links[] = {{NVML_TOPOLOGY_INTERNAL, GPU_LINK_PCI_SINGLE}, {NVML_TOPOLOGY_SINGLE, GPU_LINK_PCI_SINGLE},
               {NVML_TOPOLOGY_MULTIPLE, GPU_LINK_PCI_MULTI},  {NVML_TOPOLOGY_HOSTBRIDGE, GPU_LINK_HOST},
               {NVML_TOPOLOGY_NODE, GPU_LINK_NODE},           {NVML_TOPOLOGY_SYSTEM, GPU_LINK_SYSTEM}};
  for (size_t i = 0; i < sizeof links / sizeof *links; i++)
    if (links[i].level == level) return links[i].link;
  return GPU_LINK_UNKNOWN;
}

static enum gpu_link read_link(struct nvml *nvml, const struct gpu_inventory *inventory, uint32_t i, uint32_t j) {
  nvml_device one = nvml->known[i].device, other = nvml->known[j].device;
  bool known = one != NULL && other != NULL && !inventory->readings[i].lost && !inventory->readings[j].lost;
  bool mig = inventory->gpus[i].mig_enabled || inventory->gpus[j].mig_enabled; /* has no NVLink */
  uint32_t status = 0, level = 0;
  if (!known) return GPU_LINK_UNKNOWN;
  if (!mig && NVML_CALL(nvml, p2p, one, other, NVML_P2P_NVLINK, &status) == NVML_SUCCESS && status == NVML_P2P_OK)
    return GPU_LINK_NVLINK;
  return NVML_CALL(nvml, ancestor, one, other, &level) == NVML_SUCCESS ? link_of_level(level) : GPU_LINK_UNKNOWN;
}

static void read_links(struct nvml *nvml, struct gpu_inventory *inventory) {
  uint32_t boards[GPUS_MAX] = {0}; /* of a MIG device: the position of its parent */
  for (uint32_t i = 0; i < inventory->n_gpus; i++)
    boards[i] = inventory->gpus[i].mig_index == GPU_UNKNOWN ? i : boards[i - 1];
  for (uint32_t i = 0; i < inventory->n_gpus; i++)
    for (uint32_t j = 0; j < i; j++) {
      enum gpu_link link = GPU_LINK_PCI_SINGLE; /* of one board */
      if (boards[i] == i && boards[j] == j)
        link = read_link(nvml, inventory, i, j);
      else if (boards[i] != boards[j])
        link = (enum gpu_link)inventory->links[boards[i]][boards[j]];
      inventory->links[i][j] = inventory->links[j][i] = (uint8_t)link;
    }
}

mu_status nvml_read_inventory(struct nvml *nvml, struct gpu_inventory *ret_inventory, mu_error *err) {
  struct gpu_inventory *inventory = ret_inventory;
  uint32_t n = 0;
  int cuda = 0;
  nvml_return result = NVML_CALL(nvml, count, &n);
  if (result != NVML_SUCCESS) return nvml_fail(nvml, NVML_FN_count, result, err);
  if (nvml->locality == NULL) {
    mu_status status = gpu_locality_create(NULL, &nvml->locality, err);
    if (status != MU_OK) return status;
  }
  char driver[GPU_NAME_SIZE] = "";
  result = NVML_CALL(nvml, driver, driver, sizeof driver);
  if (result != NVML_SUCCESS) return nvml_fail(nvml, NVML_FN_driver, result, err);
  memset(inventory, 0, sizeof *inventory);
  nvml->n_known = 0;
  snprintf(inventory->driver, sizeof inventory->driver, "%.*s", (int)sizeof driver - 1, driver);
  inventory->cuda = NVML_CALL(nvml, cuda, &cuda) == NVML_SUCCESS ? cuda : GPU_UNKNOWN;
  for (uint32_t i = 0; i < n; i++) {
    if (inventory->n_gpus < GPUS_MAX)
      add_gpu(nvml, inventory, i);
    else
      inventory->left_out++;
  }
  nvml_device devices[GPUS_MAX];
  for (uint32_t i = 0; i < inventory->n_gpus; i++) devices[i] = nvml->known[i].device;
  read_links(nvml, inventory);
  nvml_read_processes(nvml, devices, inventory);
  return MU_OK;
}
