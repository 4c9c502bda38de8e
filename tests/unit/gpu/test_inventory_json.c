#include "gpu/inventory_json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static mu_error error;

/* Two GPUs and a process; every figure differs, some are unknown. */
static struct gpu_inventory *new_inventory(void) {
  struct gpu_inventory *inventory = calloc(1, sizeof *inventory);
  assert_non_null(inventory);
  inventory->n_gpus = 2;
  for (int32_t i = 0; i < 2; i++) {
    inventory->gpus[i] = (struct gpu){.uuid = "GPU-0",
                                      .name = "NVIDIA \"H200\"",
                                      .pci = "0:1",
                                      .index = i,
                                      .mig_index = i - 1,
                                      .mig_enabled = i == 0,
                                      .simulated = i == 1,
                                      .compute_major = 9,
                                      .compute_minor = 0,
                                      .compute_mode = i == 0 ? GPU_UNKNOWN : GPU_COMPUTE_EXCLUSIVE_PROCESS,
                                      .numa_node = i - 1,
                                      .memory_total = INT64_C(150754820096) + i,
                                      .persistence = i,
                                      .cores = "0-7,16"};
    inventory->readings[i] = (struct gpu_reading){.lost = i == 1,
                                                  .error = "it is \\ lost",
                                                  .memory_used = i - 1,
                                                  .memory_free = INT64_MAX,
                                                  .gpu_utilization = 1,
                                                  .memory_utilization = 2,
                                                  .temperature = 3,
                                                  .power_mw = 4,
                                                  .power_limit_mw = 5,
                                                  .energy_mj = 6,
                                                  .sm_clock_mhz = 7,
                                                  .sm_clock_max_mhz = 8,
                                                  .memory_clock_mhz = 9,
                                                  .throttle_reasons = 10,
                                                  .ecc_corrected = 11,
                                                  .ecc_uncorrected = 12,
                                                  .recovery_action = 13};
  }
  inventory->links[0][1] = GPU_LINK_NVLINK;
  inventory->links[1][0] = GPU_LINK_UNKNOWN;
  inventory->processes[0] = (struct gpu_process){.pid = 4711, .gpu = 1, .memory_used = GPU_UNKNOWN};
  inventory->n_processes = 1;
  strcpy(inventory->driver, "550.54.15");
  inventory->cuda = 12040;
  return inventory;
}

static void test_both_ways(void **state) {
  struct gpu_inventory *inventory = new_inventory(), *again = calloc(1, sizeof *again);
  json_t *json = gpu_inventory_to_json(inventory);
  assert_non_null(json);
  char *text = json_dumps(json, 0);
  json_decref(json);
  json = json_loads(text, 0, NULL);
  free(text);
  if (gpu_inventory_from_json(json, again, &error) != MU_OK) fail_msg("%s", error.message);
  assert_memory_equal(inventory, again, sizeof *inventory);
  json_t *gpu = json_array_get(json_object_get(json, "gpus"), 0);
  assert_true(json_is_null(json_object_get(gpu, "compute_mode")));
  assert_string_equal(json_string_value(json_array_get(json_object_get(gpu, "links"), 1)), "NV");
  json_decref(json);
  free(inventory);
  free(again);
}

static void test_no_utf8(void **state) {
  struct gpu_inventory *inventory = new_inventory();
  strcpy(inventory->gpus[0].name, "caf\xe9");
  json_t *json = gpu_inventory_to_json(inventory);
  const json_t *gpu = json_array_get(json_object_get(json, "gpus"), 0);
  assert_string_equal(json_string_value(json_object_get(gpu, "name")), "caf?");
  json_decref(json);
  free(inventory);
}

/* Puts value (JSON text; NULL: nothing) in place of a member; path: "gpus.0.reading.error". */
static void replace(json_t *json, const char *path, const char *value) {
  char copy[64], *rest = copy;
  snprintf(copy, sizeof copy, "%s", path);
  for (char *dot; (dot = strchr(rest, '.')) != NULL; rest = dot + 1) {
    *dot = '\0';
    json = json_is_array(json) ? json_array_get(json, (size_t)atoi(rest)) : json_object_get(json, rest);
  }
  json_t *new = value != NULL ? json_loads(value, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL) : NULL;
  if (json_is_array(json))
    assert_int_equal(json_array_set_new(json, (size_t)atoi(rest), new), 0);
  else if (new != NULL)
    assert_int_equal(json_object_set_new(json, rest, new), 0);
  else
    assert_int_equal(json_object_del(json, rest), 0);
}

static void test_refused(void **state) {
  char long_text[300], many[2 * GPU_PROCESSES_MAX + 16] = "[0";
  memset(long_text, 'x', sizeof long_text);
  long_text[0] = long_text[sizeof long_text - 2] = '"';
  long_text[sizeof long_text - 1] = '\0';
  for (int i = 0; i < GPU_PROCESSES_MAX; i++) strcat(many, ",0");
  strcat(many, "]");
  const struct {
    const char *path, *value;
  } rows[] = {
      {"gpus", "{}"},
      {"gpus", many},
      {"gpus", NULL},
      {"gpus.0", "7"},
      {"gpus.0.uuid", long_text},
      {"gpus.0.uuid", "\"GPU\\u0000\""},
      {"gpus.0.cores", "0"},
      {"gpus.0.uuid", "null"},
      {"gpus.0.index", "null"},
      {"gpus.0.index", "-1"},
      {"gpus.0.index", "2147483648"},
      {"gpus.0.index", "1.5"},
      {"gpus.0.index", NULL},
      {"gpus.0.mig_enabled", "1"},
      {"gpus.0.memory_total", "9223372036854775808.0"},
      {"gpus.0.reading", NULL},
      {"gpus.0.reading.error", long_text},
      {"gpus.0.reading.lost", "null"},
      {"gpus.0.reading.power_mw", "\"4\""},
      {"gpus.0.links", "[\"X\"]"},
      {"gpus.0.links.1", "\"NV4\""},
      {"gpus.0.links.1", "3"},
      {"processes", many},
      {"processes", "null"},
      {"processes.0.gpu", "2"},
      {"processes.0.gpu", "null"},
      {"processes.0.pid", "\"1\""},
      {"driver", "7"},
      {"cuda", "12.4"},
      {"error", NULL},
  };
  struct gpu_inventory *inventory = new_inventory();
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    json_t *json = gpu_inventory_to_json(inventory);
    struct gpu_inventory *again = calloc(1, sizeof *again);
    again->cuda = 7;
    replace(json, rows[i].path, rows[i].value);
    error.message[0] = '\0';
    if (gpu_inventory_from_json(json, again, &error) != MU_INVALID) fail_msg("%s", rows[i].path);
    assert_non_null(strstr(error.message, "GPU inventory: "));
    assert_int_equal(again->cuda, 7);
    json_decref(json);
    free(again);
  }
  assert_int_equal(gpu_inventory_from_json(NULL, inventory, &error), MU_INVALID);
  free(inventory);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_both_ways),
      cmocka_unit_test(test_no_utf8),
      cmocka_unit_test(test_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
