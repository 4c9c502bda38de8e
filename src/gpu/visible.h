/*
 * Which of the machine's GPUs the server may use, from what the operator and the scheduler of the cluster said: --gpus,
 * GPU_IDS, CUDA_VISIBLE_DEVICES. Pure.
 *
 * What is said must be true: an index that is not there, a GPU named twice, a mix of indices and UUIDs is an error that
 * names what there is. Indices of CUDA_VISIBLE_DEVICES count in CUDA's order, which is NVML's only where all GPUs are
 * alike or CUDA_DEVICE_ORDER=PCI_BUS_ID says so; elsewhere they are refused. Worker processes get UUIDs in any case.
 */
#ifndef GPU_VISIBLE_H
#define GPU_VISIBLE_H

#include "base/status.h"
#include "gpu/inventory.h"

struct gpu_wish {
  const char *gpus;                 /* --gpus: "auto" (the two below decide), "all", "none", "0,2-3", "0:1", UUIDs */
  const char *gpu_ids;              /* indices into CUDA_VISIBLE_DEVICES, "0,1"; "" : all of it */
  const char *cuda_visible_devices; /* NULL: not set. Set and empty hides all GPUs, as CUDA has it */
  const char *cuda_device_order;    /* NULL: not set */
};

/* A choice out of an inventory: by position there. */
struct gpu_set {
  uint32_t positions[GPUS_MAX];
  int32_t
      ordinals[GPUS_MAX]; /* what `gpus` of an instance_group and --device=gpu:INDEX call it; GPU_UNKNOWN: nothing */
  uint32_t n;
  bool by_index;            /* the ordinals are NVML's indices */
  bool unordered;           /* the ordinals would depend on CUDA's order of unlike GPUs: they name none */
  char note[GPU_TEXT_SIZE]; /* n is 0: why */
};

/* Ordinals: the place in CUDA_VISIBLE_DEVICES where that decides, else NVML's index (MIG devices have none then).
 * MU_INVALID. A machine without GPUs is no error unless --gpus names some: the note says why there is none. */
MUST_CHECK mu_status gpu_set_choose(const struct gpu_inventory *inventory, const struct gpu_wish *wish,
                                    struct gpu_set *ret_set, mu_error *err);

/* Position of the member that text names: an ordinal, or a UUID or the beginning of one. MU_NOT_FOUND: the message
 * names what there is; MU_INVALID. */
MUST_CHECK mu_status gpu_set_find(const struct gpu_inventory *inventory, const struct gpu_set *set, const char *text,
                                  uint32_t *ret_position, mu_error *err);

/* "0 (NVIDIA H200, GPU-…), 1 (…)", as much as fits. */
void gpu_set_describe(const struct gpu_inventory *inventory, const struct gpu_set *set, char *text, size_t size);

/* What people call it: NVML's index, "0", or "0:1" of a MIG device. */
enum { GPU_LABEL_SIZE = 24 };
void gpu_label(const struct gpu *gpu, char label[GPU_LABEL_SIZE]);

#endif
