#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "supervisor/gpus.h"
#include "supervisor/query.h"

static struct gpus gpus;

static int two_simulated(void **state) {
  memset(&gpus, 0, sizeof gpus);
  gpus_simulate(&gpus, 2);
  return 0;
}

static void simulated_ones_are_known(void **state) {
  assert_true(gpus.known && gpus.inventory.n_gpus == 2 && gpus.n_guards == 2);
  const struct gpu *gpu = &gpus.inventory.gpus[1];
  assert_string_equal(gpu->uuid, "GPU-simulated-1");
  assert_string_equal(gpu->name, "simulated GPU");
  assert_true(gpu->simulated && gpu->index == 1 && gpu->compute_major == 9 && gpu->compute_minor == 0);
  assert_true(gpu->memory_total == INT64_C(80) << 30 && gpu_is_usable(&gpus.inventory, 1));
  assert_true(gpus.inventory.readings[1].power_mw == GPU_UNKNOWN);
}

static void devices_are_found(void **state) {
  assert_int_equal(gpus_position(&gpus, "gpu:1"), 1);
  assert_int_equal(gpus_position(&gpus, "gpu:GPU-simulated-0"), 0);
  assert_int_equal(gpus_position(&gpus, "gpu:2"), GPU_UNKNOWN);
  assert_int_equal(gpus_position(&gpus, "cpu"), GPU_UNKNOWN);
  assert_null(gpus_obstacle(&gpus, "gpu:1"));
  assert_null(gpus_obstacle(&gpus, "cpu"));
}

static void it_only_gets_worse(void **state) {
  struct gpu_guard *guard = gpus_guard(&gpus, "GPU-simulated-1");
  char text[256];
  assert_true(gpu_guard_worsen(guard, GPU_FENCED, "Xid 95", 7));
  assert_false(gpu_guard_worsen(guard, GPU_DRAINED, "Xid 48", 8));
  assert_false(gpu_guard_worsen(guard, GPU_FENCED, "Xid 62", 8));
  assert_string_equal(guard->reason, "Xid 95");
  assert_ptr_equal(gpus_obstacle(&gpus, "gpu:1"), guard);
  assert_ptr_equal(gpus_obstacle(&gpus, "gpu:GPU-simulated-1"), guard);
  assert_null(gpus_obstacle(&gpus, "gpu:0"));
  assert_true(gpu_guard_worsen(guard, GPU_REMOVED, "Xid 79", 9));
  gpu_guard_describe(guard, text, sizeof text);
  assert_string_equal(text, "GPU 1 (GPU-simulated-1) is removed: Xid 79");
}

/* What is decided outlives the GPU's place in the inventory. */
static void a_decision_outlives_the_inventory(void **state) {
  static struct gpu_inventory smaller;
  smaller = gpus.inventory;
  smaller.n_gpus = 1;
  gpu_guard_worsen(gpus_guard(&gpus, "GPU-simulated-1"), GPU_REMOVED, "Xid 79", 9);
  gpus_take(&gpus, &smaller);
  assert_non_null(gpus_obstacle(&gpus, "gpu:GPU-simulated-1"));
  assert_non_null(gpus_guard_named(&gpus, "GPU-simulated-1"));
  assert_null(gpus_guard_named(&gpus, "1"));
  assert_ptr_equal(gpus_guard_named(&gpus, "0"), &gpus.guards[0]);
  json_t *json = gpus_json(&gpus);
  assert_int_equal(json_array_size(json), 2);
  const json_t *gone = json_array_get(json, 1);
  assert_false(json_is_true(json_object_get(gone, "healthy")));
  assert_string_equal(json_string_value(json_object_get(gone, "state")), "removed");
  json_decref(json);
}

/* Each that is lost before it could be asked is told apart from the others, and nobody after it has come back. */
static void lost_ones_without_a_name(void **state) {
  static struct gpu_inventory seen;
  seen = gpus.inventory;
  memset(&gpus, 0, sizeof gpus);
  seen.gpus[0].uuid[0] = seen.gpus[1].uuid[0] = '\0';
  seen.readings[0].lost = seen.readings[1].lost = true;
  gpus_take(&gpus, &seen);
  gpus_take(&gpus, &seen);
  assert_int_equal(gpus.n_guards, 2);
  assert_string_equal(gpus.guards[0].uuid, "unknown-0");
  assert_ptr_equal(gpus_guard_named(&gpus, "1"), &gpus.guards[1]);
  assert_int_equal(gpus.guards[1].index, 1);
  assert_false(gpu_is_usable(&gpus.inventory, 0));
  snprintf(seen.gpus[0].uuid, sizeof seen.gpus[0].uuid, "GPU-simulated-0");
  seen.readings[0].lost = seen.readings[1].lost = false; /* the other one is closed to this process */
  gpus_take(&gpus, &seen);
  assert_int_equal(gpus.n_guards, 1);
  assert_string_equal(gpus.guards[0].uuid, "GPU-simulated-0");
  assert_null(gpus_guard_named(&gpus, "1"));
}

/* GPUs that come and go under ever new names do not use the table up, unless all of them are fenced. */
static void guards_are_reused(void **state) {
  static struct gpu_inventory one;
  one = gpus.inventory;
  one.n_gpus = 1;
  gpu_guard_worsen(gpus_guard(&gpus, "GPU-simulated-1"), GPU_FENCED, "by hand", 1);
  for (int i = 0; i < 3 * GPU_GUARDS_MAX; i++) {
    snprintf(one.gpus[0].uuid, sizeof one.gpus[0].uuid, "MIG-%d", i);
    gpus_take(&gpus, &one);
    assert_non_null(gpus_guard_at(&gpus, 0));
  }
  assert_int_equal(gpus.n_guards, GPU_GUARDS_MAX);
  assert_non_null(gpus_obstacle(&gpus, "gpu:GPU-simulated-1"));
}

static void faults_that_come_back_are_slowed_down(void **state) {
  struct gpu_guard *guard = &gpus.guards[0];
  uint64_t now = 100 * NS_PER_S;
  assert_true(gpu_guard_fault(guard, now));
  assert_int_equal(guard->restart_delay_ns, 0);
  assert_false(gpu_guard_fault(guard, now + NS_PER_MS)); /* another report of the same one */
  static const uint64_t delays_ms[] = {100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000};
  for (size_t i = 0; i < sizeof delays_ms / sizeof *delays_ms; i++) {
    now += 2 * NS_PER_S;
    assert_true(gpu_guard_fault(guard, now));
    assert_int_equal(guard->restart_delay_ns, delays_ms[i] * NS_PER_MS);
  }
  assert_true(gpu_guard_fault(guard, now + 60 * NS_PER_S));
  assert_int_equal(guard->restart_delay_ns, 0);
}

static void xids_are_counted(void **state) {
  struct gpu_guard *guard = &gpus.guards[0];
  for (uint64_t xid = 1; xid <= 2 * GPU_XIDS_MAX; xid++) gpu_guard_count(guard, xid);
  gpu_guard_count(guard, 1);
  assert_int_equal(guard->n_xids, GPU_XIDS_MAX);
  assert_int_equal(guard->xids[0].count, 2);
  assert_int_equal(guard->xids[1].count, 1);
}

static void query_values_are_decoded(void **state) {
  char text[8];
  mu_error err;
  static const struct {
    const char *query, *value; /* NULL: refused */
  } rows[] = {
      {"", ""},
      {"gpu=0", "0"},
      {"a=1&gpu=2", "2"},
      {"gpus=3", ""},
      {"gpu=%30%3a1&x=y", "0:1"},
      {"gpu=", ""},
      {"gpu=1234567", "1234567"},
      {"gpu=12345678", NULL},
      {"gpu=%0", NULL},
      {"gpu=%zz", NULL},
      {"gpu=%00", NULL},
      {"gpu=%", NULL},
      {"xgpu=1", ""},
      {"gpu", ""},
      {"gpu=%2&", NULL},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    mu_status status = query_value(rows[i].query, "gpu", text, sizeof text, &err);
    if ((status == MU_OK) != (rows[i].value != NULL)) fail_msg("%s: status %d", rows[i].query, status);
    if (status == MU_OK) assert_string_equal(text, rows[i].value);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(simulated_ones_are_known, two_simulated),
      cmocka_unit_test_setup(devices_are_found, two_simulated),
      cmocka_unit_test_setup(it_only_gets_worse, two_simulated),
      cmocka_unit_test_setup(a_decision_outlives_the_inventory, two_simulated),
      cmocka_unit_test_setup(lost_ones_without_a_name, two_simulated),
      cmocka_unit_test_setup(guards_are_reused, two_simulated),
      cmocka_unit_test_setup(faults_that_come_back_are_slowed_down, two_simulated),
      cmocka_unit_test_setup(xids_are_counted, two_simulated),
      cmocka_unit_test(query_values_are_decoded),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
