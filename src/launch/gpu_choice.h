/* --gpus of a group: names of GPUs against what the machine has. Pure. */
#ifndef LAUNCH_GPU_CHOICE_H
#define LAUNCH_GPU_CHOICE_H

#include "base/arena.h"
#include "launch/plan.h"

/*
 * Fills gpus, n_gpus and no_gpus of group from its settings, memory from arena. With an inventory a GPU that is not
 * there, cannot be used, or is named twice (in whatever spelling) is MU_INVALID; without one only what can be seen in
 * the text is checked, and *ret_unchecked says so. MU_NO_MEMORY.
 */
MUST_CHECK mu_status gpu_choice(struct plan_group *group, const struct gpu_inventory *inventory, struct arena *memory,
                                bool *ret_unchecked, mu_error *err);

#endif
