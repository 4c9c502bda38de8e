/*
 * Which workers a model version gets: how many processes on which devices, how many instances and threads each, which
 * engine; from its options, its configuration and the GPUs that the server may use. Pure.
 */
#ifndef SUPERVISOR_WORKER_PLAN_H
#define SUPERVISOR_WORKER_PLAN_H

#include "config/options.h"
#include "gpu/placement.h"
#include "model/model_config.h"

enum {
  PLAN_DEVICES_MAX = PLACEMENT_SHARES_MAX,
  PLAN_DEVICE_NAME = GPU_UUID_SIZE + 8,
  PLAN_GPU_TOKENS = 2,
  PLAN_MPS_TOKENS = 1 << 20, /* no bound but that of the instances */
  PLAN_REMOTE_TOKENS = 1 << 20
};

/* On one device: so many processes, each with so many instances. */
struct worker_group {
  char device[PLAN_DEVICE_NAME];  /* "cpu", "gpu:UUID", "remote": what it is */
  char label[GPU_LABEL_SIZE + 4]; /* "cpu", "gpu:0": what people call it */
  uint32_t processes;             /* at least 1 */
  uint32_t instances;             /* in one process */
};

struct worker_plan {
  const char *engine; /* a name of engine/engine.h; not copied */
  uint32_t threads;   /* of one run */
  bool overlap;       /* processes on one GPU run there at the same time */
  struct worker_group groups[PLAN_DEVICES_MAX];
  uint32_t n_groups; /* at least 1 */
};

/* What the server has to plan with. */
struct plan_ground {
  uint32_t cores;                        /* that it may use */
  const struct gpu_inventory *inventory; /* of the machine */
  const struct gpu_set *gpus;            /* that it may use */
};

/*
 * options: of this model, nothing unset (options_for_model). path: the model file; NULL for an engine that needs none.
 * library: of ONNX Runtime, as the options say. MU_INVALID: a number out of range, no such engine; MU_UNSUPPORTED: no
 * engine takes that file, or not on that device; MU_NOT_FOUND: a GPU that is not there.
 */
MUST_CHECK mu_status worker_plan_make(const struct model_options *options, const struct model_config *config,
                                      const char *path, const char *library, const struct plan_ground *ground,
                                      struct worker_plan *ret_plan, mu_error *err);

/* Whether the plan depends on which GPUs the machine has. */
bool worker_plan_wants_gpus(const struct model_options *options, const struct model_config *config, const char *path,
                            const char *library);

/* The UUID of a device "gpu:UUID"; NULL: it is no GPU. */
const char *worker_plan_gpu(const char *device);

/* Processes, on all devices. */
size_t worker_plan_processes(const struct worker_plan *plan);

/* What a process of the model takes on a GPU, as far as its files and settings say: the model file with what lies in
 * its folder, and what the engine takes for what runs. */
struct placement_memory worker_plan_memory(const struct model_options *options, const struct model_config *config,
                                           const char *engine, int64_t file_bytes);

/* What runs at once on the device of a group of the plan, in tokens, and how many of them one batch takes. cpu_slots:
 * of the options. */
struct device_tokens {
  uint32_t device, batch;
};
struct device_tokens worker_plan_tokens(const struct worker_plan *plan, const struct worker_group *group,
                                        uint32_t cores, int64_t cpu_slots);

#endif
