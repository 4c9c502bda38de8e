#include "gateway/gpus.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "gateway/core.h"
#include "gpu/inventory_json.h"

/* ---- from the supervisor ----------------------------------------------------------------------------------------- */

static mu_status read_inventory(const struct control_bytes *bytes, struct gpu_inventory **ret_inventory,
                                mu_error *err) {
  if (bytes->size == 0) return MU_OK;
  json_t *json = json_loadb(bytes->data, bytes->size, 0, NULL);
  struct gpu_inventory *inventory = calloc(1, sizeof *inventory);
  mu_status status = inventory == NULL ? mu_fail(err, MU_NO_MEMORY, "no memory for the GPUs")
                     : json == NULL    ? mu_fail(err, MU_INVALID, "the GPUs are no JSON")
                                       : gpu_inventory_from_json(json, inventory, err);
  json_decref(json);
  if (status == MU_OK)
    *ret_inventory = inventory;
  else
    free(inventory);
  return status;
}

void gateway_gpus_take(struct core *core, const struct control_gpus *message) {
  struct gateway_gpus taken = {NULL, NULL};
  mu_error err = {{0}};
  mu_status status = read_inventory(&message->inventory, &taken.inventory, &err);
  if (status == MU_OK) taken.state = json_loadb(message->state.data, message->state.size, 0, NULL);
  if (status == MU_OK && taken.state == NULL)
    mu_fail(&err, MU_INVALID, "their state is no JSON, or there is no memory for it");
  if (taken.state == NULL) {
    LOG_ERROR("what the supervisor says of the GPUs cannot be read", LOG_STR("error", err.message));
    free(taken.inventory);
    return;
  }
  pthread_mutex_lock(&core->lock);
  struct gateway_gpus before = core->gpus;
  core->gpus = taken;
  pthread_mutex_unlock(&core->lock);
  json_decref(before.state);
  free(before.inventory);
}

/* ---- metrics ----------------------------------------------------------------------------------------------------- */

static double figure(int64_t value, double unit) { return value == GPU_UNKNOWN ? NAN : (double)value * unit; }

/* What slows a GPU down: power, heat, the board. Not what somebody has set, nor that it idles. */
static double throttled(int64_t reasons) {
  enum { SW_POWER = 0x4, HW_SLOWDOWN = 0x8, SW_THERMAL = 0x20, HW_THERMAL = 0x40, HW_POWER_BRAKE = 0x80 };
  static const int64_t bits = SW_POWER | HW_SLOWDOWN | SW_THERMAL | HW_THERMAL | HW_POWER_BRAKE;
  return reasons == GPU_UNKNOWN ? NAN : (reasons & bits) != 0;
}

static void expose_reading(const struct gpu_inventory *inventory, uint32_t position, int64_t energy_start_mj,
                           struct exposition_gpu *gpu) {
  const struct gpu_reading *reading = &inventory->readings[position];
  bool energy = reading->energy_mj != GPU_UNKNOWN && energy_start_mj != GPU_UNKNOWN;
  gpu->memory_total = figure(inventory->gpus[position].memory_total, 1);
  gpu->lost = reading->lost;
  if (reading->lost) return;
  gpu->utilization = figure(reading->gpu_utilization, 0.01);
  gpu->memory_used = figure(reading->memory_used, 1);
  gpu->power = figure(reading->power_mw, 1e-3);
  gpu->power_limit = figure(reading->power_limit_mw, 1e-3);
  gpu->energy = energy ? (double)(reading->energy_mj - energy_start_mj) * 1e-3 : NAN;
  gpu->temperature = figure(reading->temperature, 1);
  gpu->sm_clock = figure(reading->sm_clock_mhz, 1e6);
  gpu->memory_clock = figure(reading->memory_clock_mhz, 1e6);
  gpu->throttled = throttled(reading->throttle_reasons);
}

static void expose(const struct gateway_gpus *gpus, const json_t *state, struct exposition_gpu *gpu) {
  const char *name = json_string_value(json_object_get(state, "state"));
  const json_t *energy = json_object_get(state, "energy_start_mj");
  *gpu = (struct exposition_gpu){.uuid = json_string_value(json_object_get(state, "uuid")),
                                 .xids = json_object_get(state, "xids"),
                                 .fenced = name == NULL || strcmp(name, "serving") != 0,
                                 .lost = json_is_false(json_object_get(state, "present")),
                                 .utilization = NAN,
                                 .memory_total = NAN,
                                 .memory_used = NAN,
                                 .power = NAN,
                                 .power_limit = NAN,
                                 .energy = NAN,
                                 .temperature = NAN,
                                 .sm_clock = NAN,
                                 .memory_clock = NAN,
                                 .throttled = NAN,
                                 .speed = NAN};
  if (gpu->uuid == NULL) gpu->uuid = "";
  int32_t position = gpus->inventory != NULL ? gpu_find(gpus->inventory, gpu->uuid) : GPU_UNKNOWN;
  if (position != GPU_UNKNOWN)
    expose_reading(gpus->inventory, (uint32_t)position, energy != NULL ? json_integer_value(energy) : GPU_UNKNOWN, gpu);
}

struct exposition_gpu *gateway_gpus_expose(const struct gateway_gpus *gpus, size_t *ret_n) {
  const json_t *states = json_object_get(gpus->state, "gpus");
  size_t n = json_array_size(states);
  struct exposition_gpu *exposed = calloc(n + 1, sizeof *exposed);
  for (size_t i = 0; exposed != NULL && i < n; i++) expose(gpus, json_array_get(states, i), &exposed[i]);
  *ret_n = n;
  return exposed;
}
