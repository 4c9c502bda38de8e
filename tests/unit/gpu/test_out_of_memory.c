/* An inventory to JSON and back without memory: whole or not at all. */
#include "failing_allocator.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gpu/inventory_json.h"

static struct gpu_inventory inventory = {
    .gpus = {{.uuid = "GPU-0", .name = "caf\xe9", .mig_index = GPU_UNKNOWN}, {.uuid = "GPU-1", .cores = "0-7"}},
    .n_gpus = 2,
    .links = {{GPU_LINK_SELF, GPU_LINK_NVLINK}, {GPU_LINK_NVLINK, GPU_LINK_SELF}},
    .processes = {{.pid = 7, .gpu = 1}},
    .n_processes = 1,
    .driver = "550.54.15",
};

static mu_status both_ways(void *context) {
  static struct gpu_inventory again;
  mu_error err;
  json_t *json = gpu_inventory_to_json(&inventory);
  if (json == NULL) return MU_NO_MEMORY;
  again.n_gpus = 7;
  mu_status status = gpu_inventory_from_json(json, &again, &err);
  allocations_work();
  assert_int_equal(again.n_gpus, status == MU_OK ? 2 : 7);
  json_decref(json);
  json = gpu_inventory_to_json(&inventory);
  assert_non_null(json);
  assert_int_equal(gpu_inventory_from_json(json, &again, &err), MU_OK);
  assert_string_equal(again.gpus[0].name, "caf?");
  json_decref(json);
  return status;
}

static void test_json(void **state) { fail_each_allocation("inventory as JSON", both_ways, NULL); }

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_json)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
