#include <stdio.h>
#include <string.h>

#include "gpu/mps.h"
#include "launch/mps.h"

static bool is_same(const struct plan_gpu *a, const struct plan_gpu *b) {
  return a->uuid[0] != '\0' ? strcmp(a->uuid, b->uuid) == 0 : strcmp(a->name, b->name) == 0;
}

uint32_t launch_mps_plan_count(const struct plan *plan, const struct plan_gpu *gpu) {
  uint32_t n = 0;
  for (size_t i = 0; i < plan->n_groups; i++) {
    const struct plan_group *group = &plan->groups[i];
    if (group->settings->mps == MPS_MODE_OFF) continue;
    for (uint32_t k = 0; k < group->n_gpus; k++) /* in turn: the first ones have what does not divide */
      if (is_same(&group->gpus[k], gpu)) n += group->count / group->n_gpus + (k < group->count % group->n_gpus);
  }
  return n;
}

bool launch_mps_plan_wanted(const struct plan *plan, const struct plan_gpu *gpu) {
  for (size_t i = 0; i < plan->n_groups; i++) {
    const struct plan_group *group = &plan->groups[i];
    for (uint32_t k = 0; group->settings->mps == MPS_MODE_ON && k < group->n_gpus; k++)
      if (is_same(&group->gpus[k], gpu)) return true;
  }
  return false;
}

void launch_mps_plan_obstacle(const struct plan *plan, const struct plan_gpu *gpu, char *text, size_t size) {
  if (gpu->device == NULL)
    snprintf(text, size, "NVML is not there to say what that GPU can");
  else
    mps_find_obstacle(gpu->device, plan->cuda, launch_mps_plan_count(plan, gpu), plan->settings->mps_control_binary,
                      text, size);
}

mu_status launch_mps_plan_check(const struct plan *plan, mu_error *err) {
  char why[GPU_TEXT_SIZE];
  for (size_t i = 0; i < plan->n_groups; i++) {
    const struct plan_group *group = &plan->groups[i];
    if (group->settings->mps != MPS_MODE_ON) continue;
    if (group->n_gpus == 0) return mu_fail(err, MU_INVALID, "%s: --mps=on needs --gpus: which they are", group->name);
    for (uint32_t k = 0; mps_inherited() == NULL && k < group->n_gpus; k++) {
      launch_mps_plan_obstacle(plan, &group->gpus[k], why, sizeof why);
      if (why[0] != '\0')
        return mu_fail(err, MU_INVALID, "%s: no MPS on GPU %s, which --mps=on wants: %s", group->name,
                       group->gpus[k].name, why);
    }
  }
  return MU_OK;
}
