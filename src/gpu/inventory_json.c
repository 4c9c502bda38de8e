#include "gpu/inventory_json.h"

#include <stdlib.h>
#include <string.h>

enum figure_type { FIGURE_BOOL, FIGURE_INT32, FIGURE_INT64, FIGURE_TEXT };

/* A member of a struct, by its own name in JSON. Numbers are 0 or more; unknown ones are null. */
struct figure {
  const char *name;
  enum figure_type type;
  size_t offset, size;
};
#define FIGURE(kind, type, member) \
  { #member, type, offsetof(struct kind, member), sizeof(((struct kind *)0)->member) }
#define N_FIGURES(figures) (sizeof(figures) / sizeof(struct figure))

static const struct figure gpu_figures[] = {
    FIGURE(gpu, FIGURE_INT32, index),
    FIGURE(gpu, FIGURE_INT32, mig_index),
    FIGURE(gpu, FIGURE_TEXT, uuid),
    FIGURE(gpu, FIGURE_TEXT, name),
    FIGURE(gpu, FIGURE_TEXT, pci),
    FIGURE(gpu, FIGURE_BOOL, mig_enabled),
    FIGURE(gpu, FIGURE_BOOL, simulated),
    FIGURE(gpu, FIGURE_INT32, compute_major),
    FIGURE(gpu, FIGURE_INT32, compute_minor),
    FIGURE(gpu, FIGURE_INT32, compute_mode),
    FIGURE(gpu, FIGURE_INT32, numa_node),
    FIGURE(gpu, FIGURE_INT64, memory_total),
    FIGURE(gpu, FIGURE_INT32, persistence),
    FIGURE(gpu, FIGURE_TEXT, cores),
};

static const struct figure reading_figures[] = {
    FIGURE(gpu_reading, FIGURE_BOOL, lost),
    FIGURE(gpu_reading, FIGURE_TEXT, error),
    FIGURE(gpu_reading, FIGURE_INT64, memory_used),
    FIGURE(gpu_reading, FIGURE_INT64, memory_free),
    FIGURE(gpu_reading, FIGURE_INT32, gpu_utilization),
    FIGURE(gpu_reading, FIGURE_INT32, memory_utilization),
    FIGURE(gpu_reading, FIGURE_INT32, temperature),
    FIGURE(gpu_reading, FIGURE_INT64, power_mw),
    FIGURE(gpu_reading, FIGURE_INT64, power_limit_mw),
    FIGURE(gpu_reading, FIGURE_INT64, energy_mj),
    FIGURE(gpu_reading, FIGURE_INT32, sm_clock_mhz),
    FIGURE(gpu_reading, FIGURE_INT32, sm_clock_max_mhz),
    FIGURE(gpu_reading, FIGURE_INT32, memory_clock_mhz),
    FIGURE(gpu_reading, FIGURE_INT64, throttle_reasons),
    FIGURE(gpu_reading, FIGURE_INT64, ecc_corrected),
    FIGURE(gpu_reading, FIGURE_INT64, ecc_uncorrected),
    FIGURE(gpu_reading, FIGURE_INT32, recovery_action),
};

static const struct figure process_figures[] = {
    FIGURE(gpu_process, FIGURE_INT32, pid),
    FIGURE(gpu_process, FIGURE_INT32, gpu), /* checked further below */
    FIGURE(gpu_process, FIGURE_INT64, memory_used),
};

static const struct figure machine_figures[] = {
    FIGURE(gpu_inventory, FIGURE_TEXT, driver),
    FIGURE(gpu_inventory, FIGURE_INT32, cuda),
    FIGURE(gpu_inventory, FIGURE_TEXT, error),
};

/* ---- to JSON
 * --------------------------------------------------------------------------------------------------------- */

/* What is no UTF-8 would be no JSON. */
static json_t *text_to_json(const char *text, size_t size) {
  char clean[GPU_CORES_SIZE]; /* the longest text */
  json_t *json = json_string(text);
  if (json != NULL) return json;
  for (size_t i = 0; i < size; i++) clean[i] = (char)((unsigned char)text[i] < 0x80 ? text[i] : '?');
  clean[size - 1] = '\0';
  return json_string(clean);
}

static json_t *figure_to_json(const struct figure *figure, const void *from) {
  const char *at = (const char *)from + figure->offset;
  int32_t i32;
  int64_t value = GPU_UNKNOWN;
  switch (figure->type) {
    case FIGURE_BOOL:
      return json_boolean(*at != 0);
    case FIGURE_TEXT:
      return text_to_json(at, figure->size);
    case FIGURE_INT32:
      memcpy(&i32, at, sizeof i32), value = i32;
      break;
    case FIGURE_INT64:
      memcpy(&value, at, sizeof value);
      break;
  }
  return value == GPU_UNKNOWN ? json_null() : json_integer(value);
}

/* Adds members to object; false without memory. */
static bool put_figures(json_t *object, const struct figure *figures, size_t n, const void *from) {
  bool complete = object != NULL;
  for (size_t i = 0; complete && i < n; i++)
    complete = json_object_set_new(object, figures[i].name, figure_to_json(&figures[i], from)) == 0;
  return complete;
}

static json_t *gpu_to_json(const struct gpu_inventory *inventory, uint32_t position) {
  json_t *object = json_object(), *reading = json_object(), *links = json_array();
  bool complete = put_figures(object, gpu_figures, N_FIGURES(gpu_figures), &inventory->gpus[position]) &&
                  put_figures(reading, reading_figures, N_FIGURES(reading_figures), &inventory->readings[position]) &&
                  links != NULL;
  for (uint32_t i = 0; complete && i < inventory->n_gpus; i++)
    complete =
        json_array_append_new(links, json_string(gpu_link_name((enum gpu_link)inventory->links[position][i]))) == 0;
  complete =
      complete && json_object_set(object, "reading", reading) == 0 && json_object_set(object, "links", links) == 0;
  json_decref(reading);
  json_decref(links);
  if (complete) return object;
  json_decref(object);
  return NULL;
}

json_t *gpu_inventory_to_json(const struct gpu_inventory *inventory) {
  json_t *root = json_object(), *gpus = json_array(), *processes = json_array();
  bool complete =
      put_figures(root, machine_figures, N_FIGURES(machine_figures), inventory) && gpus != NULL && processes != NULL;
  for (uint32_t i = 0; complete && i < inventory->n_gpus; i++)
    complete = json_array_append_new(gpus, gpu_to_json(inventory, i)) == 0;
  for (uint32_t i = 0; complete && i < inventory->n_processes; i++) {
    json_t *process = json_object();
    complete = put_figures(process, process_figures, N_FIGURES(process_figures), &inventory->processes[i]) &&
               json_array_append(processes, process) == 0;
    json_decref(process);
  }
  complete = complete && json_object_set(root, "gpus", gpus) == 0 && json_object_set(root, "processes", processes) == 0;
  json_decref(gpus);
  json_decref(processes);
  if (complete) return root;
  json_decref(root);
  return NULL;
}

/* ---- from JSON
 * ------------------------------------------------------------------------------------------------------- */

static mu_status take_number(const struct figure *figure, const json_t *value, char *at) {
  int64_t most = figure->type == FIGURE_INT32 ? INT32_MAX : INT64_MAX, number = GPU_UNKNOWN;
  if (!json_is_null(value)) {
    if (!json_is_integer(value)) return MU_INVALID;
    number = json_integer_value(value);
    if (number < 0 || number > most) return MU_INVALID;
  }
  int32_t i32 = (int32_t)number;
  memcpy(at, figure->type == FIGURE_INT32 ? (void *)&i32 : (void *)&number, figure->size);
  return MU_OK;
}

static mu_status take_figure(const struct figure *figure, const json_t *value, char *at) {
  if (value == NULL) return MU_INVALID;
  if (figure->type == FIGURE_BOOL) {
    *at = json_is_true(value);
    return json_is_boolean(value) ? MU_OK : MU_INVALID;
  }
  if (figure->type != FIGURE_TEXT) return take_number(figure, value, at);
  if (!json_is_string(value) || json_string_length(value) >= figure->size) return MU_INVALID;
  if (strlen(json_string_value(value)) != json_string_length(value)) return MU_INVALID;
  memcpy(at, json_string_value(value), json_string_length(value) + 1);
  return MU_OK;
}

static mu_status take_figures(const json_t *object, const struct figure *figures, size_t n, void *into, mu_error *err) {
  for (size_t i = 0; i < n; i++)
    if (take_figure(&figures[i], json_object_get(object, figures[i].name), (char *)into + figures[i].offset) != MU_OK)
      return mu_fail(err, MU_INVALID, "GPU inventory: %s is missing, or not what it has to be", figures[i].name);
  return MU_OK;
}

static mu_status take_links(const json_t *links, uint32_t n, uint8_t into[GPUS_MAX], mu_error *err) {
  if (!json_is_array(links) || json_array_size(links) != n)
    return mu_fail(err, MU_INVALID, "GPU inventory: links is not an array of %u names", (unsigned)n);
  for (uint32_t i = 0; i < n; i++) {
    const char *name = json_string_value(json_array_get(links, i));
    enum gpu_link link = GPU_LINK_SELF;
    while (name != NULL && link <= GPU_LINK_UNKNOWN && strcmp(gpu_link_name(link), name) != 0) link++;
    if (name == NULL || link > GPU_LINK_UNKNOWN)
      return mu_fail(err, MU_INVALID, "GPU inventory: links has something that is no link");
    into[i] = (uint8_t)link;
  }
  return MU_OK;
}

static mu_status take_gpu(const json_t *object, uint32_t n, uint32_t position, struct gpu_inventory *inventory,
                          mu_error *err) {
  struct gpu *gpu = &inventory->gpus[position];
  mu_status status = take_figures(object, gpu_figures, N_FIGURES(gpu_figures), gpu, err);
  if (status == MU_OK && gpu->index == GPU_UNKNOWN) status = mu_fail(err, MU_INVALID, "GPU inventory: index is null");
  if (status == MU_OK)
    status = take_figures(json_object_get(object, "reading"), reading_figures, N_FIGURES(reading_figures),
                          &inventory->readings[position], err);
  if (status == MU_OK) status = take_links(json_object_get(object, "links"), n, inventory->links[position], err);
  return status;
}

static mu_status take_inventory(const json_t *json, struct gpu_inventory *inventory, mu_error *err) {
  const json_t *gpus = json_object_get(json, "gpus"), *processes = json_object_get(json, "processes");
  if (!json_is_array(gpus) || json_array_size(gpus) > GPUS_MAX)
    return mu_fail(err, MU_INVALID, "GPU inventory: gpus is not an array of at most %d", GPUS_MAX);
  if (!json_is_array(processes) || json_array_size(processes) > GPU_PROCESSES_MAX)
    return mu_fail(err, MU_INVALID, "GPU inventory: processes is not an array of at most %d", GPU_PROCESSES_MAX);
  inventory->n_gpus = (uint32_t)json_array_size(gpus);
  inventory->n_processes = (uint32_t)json_array_size(processes);
  mu_status status = take_figures(json, machine_figures, N_FIGURES(machine_figures), inventory, err);
  for (uint32_t i = 0; status == MU_OK && i < inventory->n_gpus; i++)
    status = take_gpu(json_array_get(gpus, i), inventory->n_gpus, i, inventory, err);
  for (uint32_t i = 0; status == MU_OK && i < inventory->n_processes; i++) {
    struct gpu_process *process = &inventory->processes[i];
    status = take_figures(json_array_get(processes, i), process_figures, N_FIGURES(process_figures), process, err);
    if (status == MU_OK && process->gpu >= inventory->n_gpus)
      status = mu_fail(err, MU_INVALID, "GPU inventory: a process is on a GPU that is not there");
  }
  return status;
}

mu_status gpu_inventory_from_json(const json_t *json, struct gpu_inventory *ret_inventory, mu_error *err) {
  struct gpu_inventory *inventory = calloc(1, sizeof *inventory); /* too large for a stack */
  if (inventory == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the GPU inventory");
  mu_status status = take_inventory(json, inventory, err);
  if (status == MU_OK) *ret_inventory = *inventory;
  free(inventory);
  return status;
}
