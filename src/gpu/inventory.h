/*
 * The GPUs of a machine as NVML shows them: what they are (struct gpu), what they do now (struct gpu_reading), how they
 * are connected. Plain data, copied by value; every figure that a driver does not give says so and is never a zero that
 * looks like one.
 *
 * Made by gpu/nvml_inventory.c in the role `fleet` (and by `muster gpus` where no server runs), travels as JSON
 * (inventory_json.h), read by the supervisor (placement), the gateway (metrics) and the commands.
 */
#ifndef GPU_INVENTORY_H
#define GPU_INVENTORY_H

#include <stdbool.h>
#include <stdint.h>

enum {
  GPUS_MAX = 128, /* whole GPUs and MIG devices together: 16 GPUs with 7 each */
  GPU_UUID_SIZE = 96,
  GPU_NAME_SIZE = 96,
  GPU_PCI_SIZE = 32,
  GPU_PROCESSES_MAX = 1024, /* of all GPUs together: 16 with the 60 that MPS takes */
  GPU_TEXT_SIZE = 256,
  GPU_CORES_SIZE = 1024,
};

#define GPU_UNKNOWN (-1) /* in a signed field: the driver does not say */

enum gpu_compute_mode { GPU_COMPUTE_DEFAULT, GPU_COMPUTE_PROHIBITED = 2, GPU_COMPUTE_EXCLUSIVE_PROCESS = 3 };

/* How two GPUs reach each other, nearest first. */
enum gpu_link {
  GPU_LINK_SELF,
  GPU_LINK_NVLINK,     /* directly or over NVSwitch */
  GPU_LINK_PCI_SINGLE, /* one PCIe switch (NVML 10) */
  GPU_LINK_PCI_MULTI,  /* several PCIe switches, no host bridge (20) */
  GPU_LINK_HOST,       /* the same host bridge (30) */
  GPU_LINK_NODE,       /* the same NUMA node (40) */
  GPU_LINK_SYSTEM,     /* across NUMA nodes (50) */
  GPU_LINK_UNKNOWN,
};

/* A whole GPU, or a MIG device of one. */
struct gpu {
  char uuid[GPU_UUID_SIZE]; /* "GPU-…", "MIG-…": what everything is keyed on, indices move */
  char name[GPU_NAME_SIZE]; /* "NVIDIA H200" */
  char pci[GPU_PCI_SIZE];   /* "00000000:3B:00.0"; a MIG device's is its parent's */
  int32_t index;            /* NVML's (PCI order); of a MIG device: its parent's */
  int32_t mig_index;        /* GPU_UNKNOWN: a whole GPU */
  bool mig_enabled;         /* a parent: CUDA cannot use it as a whole, only its MIG devices */
  bool simulated;           /* --simulate-gpus: only the sim engine runs there */
  int32_t compute_major, compute_minor;
  int32_t compute_mode; /* enum gpu_compute_mode, or GPU_UNKNOWN */
  int32_t numa_node;    /* GPU_UNKNOWN: none, or not known */
  int64_t memory_total; /* bytes */
  int32_t persistence;  /* 0, 1, GPU_UNKNOWN */
  /* CPU cores next to it that muster may use, "0-7,16-23" (gpu/locality.h); "": not known. A worker on it runs there.
   */
  char cores[GPU_CORES_SIZE];
};

struct gpu_reading {
  bool lost;                  /* NVML says GPU_IS_LOST or RESET_REQUIRED: nothing below is known */
  char error[GPU_TEXT_SIZE];  /* why it could not be read; "" : it could */
  int64_t memory_used;        /* bytes, with what the driver reserves; GPU_UNKNOWN … */
  int64_t memory_free;        /* … as all below */
  int32_t gpu_utilization;    /* percent */
  int32_t memory_utilization; /* percent of time in which memory was read or written */
  int32_t temperature;        /* degrees Celsius */
  int64_t power_mw, power_limit_mw;
  int64_t energy_mj; /* since the driver was loaded, millijoules */
  int32_t sm_clock_mhz, sm_clock_max_mhz, memory_clock_mhz;
  int64_t throttle_reasons; /* NVML's bits of the clocks' event reasons */
  int64_t ecc_corrected, ecc_uncorrected;
  int32_t recovery_action; /* field 230: 0 none, 1 reset, 2 reboot, 3 drain, 4 drain and reset */
};

struct gpu_process {
  int32_t pid;
  uint32_t gpu; /* position in gpu_inventory.gpus */
  int64_t memory_used;
};

struct gpu_inventory {
  struct gpu gpus[GPUS_MAX]; /* whole GPUs in NVML's order, the MIG devices of one right behind it */
  struct gpu_reading readings[GPUS_MAX];
  uint32_t n_gpus;
  uint32_t left_out;                 /* GPUs and MIG devices past GPUS_MAX; not in JSON, who has read them says it */
  uint8_t links[GPUS_MAX][GPUS_MAX]; /* enum gpu_link */
  struct gpu_process processes[GPU_PROCESSES_MAX];
  uint32_t n_processes;
  char driver[GPU_NAME_SIZE]; /* version of the driver; "" : no NVML */
  int32_t cuda;               /* highest CUDA that the driver supports, 12040 is 12.4; GPU_UNKNOWN */
  char error[GPU_TEXT_SIZE];  /* why there is no NVML; "" : there is */
};

/* Nothing is known. */
void gpu_reading_clear(struct gpu_reading *reading);

/* Is text a UUID, or the beginning of one ("GPU-…", "MIG-…")? */
bool gpu_is_uuid(const char *text);

/* Position of the GPU that text names: an NVML index ("0"), "INDEX:MIG" ("0:1"), a UUID or the unambiguous beginning of
 * one; GPU_UNKNOWN when none or several. */
int32_t gpu_find(const struct gpu_inventory *inventory, const char *text);

/* Do the UUIDs of several GPUs begin so? gpu_find finds none of them then. */
bool gpu_is_ambiguous(const struct gpu_inventory *inventory, const char *text);

/* Has it a name that a process may get in CUDA_VISIBLE_DEVICES: whole without MIG, or a MIG device; not lost; NVML says
 * its UUID (it may be closed to this process, as in a container). */
bool gpu_is_usable(const struct gpu_inventory *inventory, uint32_t position);

/* Groups of GPUs that are connected by NVLink: ret_islands[i] is the smallest position in the island of i. */
void gpu_islands(const struct gpu_inventory *inventory, uint32_t ret_islands[GPUS_MAX]);

const char *gpu_link_name(enum gpu_link link); /* "NV", "PIX", "PXB", "PHB", "NODE", "SYS", as nvidia-smi topo -m */

#endif
