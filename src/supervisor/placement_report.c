#include "supervisor/placement_report.h"

#include <stdlib.h>

#include "supervisor/gpu_room.h"

static json_t *bytes_json(int64_t bytes) {
  return bytes != GPU_UNKNOWN ? json_integer((json_int_t)bytes) : json_null();
}

static json_t *gpu_json(const struct gpu *gpu, const struct placement_room *room) {
  char label[GPU_LABEL_SIZE];
  gpu_label(gpu, label);
  int64_t left = room->total != GPU_UNKNOWN ? room->total - room->others - room->taken : GPU_UNKNOWN;
  return json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:i}", "gpu", label, "uuid", gpu->uuid, "name", gpu->name,
                   "memory_bytes", bytes_json(room->total), "used_by_others_bytes", bytes_json(room->others),
                   "planned_bytes", bytes_json(room->taken), "left_bytes", bytes_json(left), "processes",
                   (int)room->processes);
}

static json_t *gpus_report(const struct gpus *gpus, const struct gpu_set *set,
                           const struct placement_room rooms[GPUS_MAX]) {
  json_t *array = json_array();
  for (uint32_t i = 0; i < set->n; i++)
    json_array_append_new(array, gpu_json(&gpus->inventory.gpus[set->positions[i]], &rooms[set->positions[i]]));
  return array;
}

static json_t *devices_json(const struct worker_plan *plan) {
  json_t *devices = json_array();
  for (uint32_t i = 0; i < plan->n_groups; i++) {
    const struct worker_group *group = &plan->groups[i];
    const char *gpu = worker_plan_gpu(group->device);
    json_array_append_new(devices, json_pack("{s:s, s:o, s:i, s:i}", "device", group->label, "gpu",
                                             gpu != NULL ? json_string(gpu) : json_null(), "processes",
                                             (int)group->processes, "instances", (int)group->instances));
  }
  return devices;
}

static bool uses_gpus(const struct worker_plan *plan) {
  for (uint32_t i = 0; i < plan->n_groups; i++)
    if (worker_plan_gpu(plan->groups[i].device) != NULL) return true;
  return false;
}

static json_t *model_json(const struct served_model *model) {
  char memory[PLACEMENT_MEMORY_TEXT];
  bool placed = model->plan.n_groups > 0, on_gpu = placed && uses_gpus(&model->plan);
  placement_print_memory(&model->gpu_memory, memory);
  return json_pack("{s:s, s:I, s:s, s:i, s:b, s:s, s:o, s:o, s:o}", "model", model->name, "version",
                   (json_int_t)model->version, "engine", placed ? model->plan.engine : "", "threads",
                   (int)model->plan.threads, "served", model->planned, "reason", model->reason, "process_bytes",
                   on_gpu ? bytes_json(placement_memory_sum(&model->gpu_memory)) : json_null(), "memory",
                   on_gpu ? json_string(memory) : json_null(), "devices", devices_json(&model->plan));
}

static json_t *report_json(const struct gpus *gpus, const struct gpu_set *set, const struct list *models,
                           const struct placement_room rooms[GPUS_MAX]) {
  json_t *array = json_array();
  bool served = true;
  list_each (link, models) {
    const struct served_model *model = list_item(link, struct served_model, link);
    json_array_append_new(array, model_json(model));
    served = served && model->planned;
  }
  return json_pack("{s:o, s:o, s:s, s:b}", "gpus", gpus_report(gpus, set, rooms), "models", array, "note", set->note,
                   "served", served);
}

mu_status placement_report(const struct options *options, const struct gpu_inventory *inventory, json_t **ret_report,
                           mu_error *err) {
  struct gpus *gpus = calloc(1, sizeof *gpus);
  if (gpus == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the plan");
  gpus_take(gpus, inventory);
  struct gpu_measurements measured = {.n = 0};
  struct placement_room rooms[GPUS_MAX];
  struct gpu_set set = {.n = 0};
  struct list models;
  list_init(&models);
  const struct planning planning = {
      .cores = uv_available_parallelism(), .gpus = gpus, .measured = &measured, .mps = options->mps == MPS_MODE_ON};
  mu_status status = wanted_gpus(options, gpus, &set, err);
  if (status == MU_OK && options->measurements[0] != '\0')
    status = gpu_measurements_read(&measured, options->measurements, err);
  if (status == MU_OK) status = wanted_models_find(options, &planning, NULL, &models, err);
  if (status == MU_OK) {
    /* Once more, for the rooms: whoever does not fit is left out already, so nothing changes. */
    gpu_room_check(&planning, &models, false, rooms);
    *ret_report = report_json(gpus, &set, &models, rooms);
    if (*ret_report == NULL) status = mu_fail(err, MU_NO_MEMORY, "no memory for the plan");
  }
  served_models_free(&models);
  gpu_measurements_free(&measured);
  free(gpus);
  return status;
}

void placement_simulate(const struct options *options, struct gpu_inventory *ret_inventory) {
  static struct gpus gpus; /* large, and a command has one thread */
  gpus_simulate(&gpus, (uint32_t)options->simulate_gpus);
  *ret_inventory = gpus.inventory;
}
