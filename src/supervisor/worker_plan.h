/*
 * Which workers a model version gets: how many processes on which devices, how many instances and threads each, which
 * engine; from its options and its configuration. Pure.
 */
#ifndef SUPERVISOR_WORKER_PLAN_H
#define SUPERVISOR_WORKER_PLAN_H

#include "config/options.h"
#include "model/model_config.h"

enum { PLAN_DEVICES_MAX = 64, PLAN_DEVICE_NAME = 64, PLAN_GPU_TOKENS = 2, PLAN_REMOTE_TOKENS = 1 << 20 };

/* On one device: `processes` of the plan, each with so many instances. */
struct worker_group {
  char device[PLAN_DEVICE_NAME]; /* "cpu", "gpu:0", "remote" */
  uint32_t instances;            /* in one process */
};

struct worker_plan {
  const char *engine; /* a name of engine/engine.h; not copied */
  uint32_t processes; /* on each device */
  uint32_t threads;   /* of one run */
  bool overlap;       /* processes on one GPU run there at the same time */
  struct worker_group groups[PLAN_DEVICES_MAX];
  uint32_t n_groups; /* at least 1 */
};

/*
 * options: of this model, nothing unset (options_for_model). path: the model file; NULL for an engine that needs none.
 * cores: that the server may use. MU_INVALID: a number out of range, no such engine; MU_UNSUPPORTED: no engine takes
 * that file.
 */
MUST_CHECK mu_status worker_plan_make(const struct model_options *options, const struct model_config *config,
                                      const char *path, uint32_t cores, struct worker_plan *ret_plan, mu_error *err);

/* Whether the plan depends on which GPUs the machine has. */
bool worker_plan_wants_gpus(const struct model_options *options, const struct model_config *config);

/* What runs at once on the device of a group of the plan, in tokens, and how many of them one batch takes. cpu_slots:
 * of the options. */
struct device_tokens {
  uint32_t device, batch;
};
struct device_tokens worker_plan_tokens(const struct worker_plan *plan, const struct worker_group *group,
                                        uint32_t cores, int64_t cpu_slots);

#endif
