#include "fake_machine.h"

#include "base/clock.h"
#include "gpu/locality.h"

static struct gpu_inventory inventory;
static mu_error error;

/* Two GPUs next to each other on NVLink, one alone on the other node; the second is in MIG mode. */
#define H200(n, node)                                                                                               \
  "'uuid': 'GPU-" n "', 'name': 'NVIDIA H200', 'pci': '00000000:" n                                                 \
  "1:00.0', 'compute_capability': [9, 0], "                                                                         \
  "'compute_mode': 0, 'persistence': 1, 'numa_node': " node                                                         \
  ", 'memory': {'total': 150000, 'used': 50000}, "                                                                  \
  "'utilization': [70, 30], 'temperature': 55, 'power_mw': 400000, 'power_limit_mw': 700000, 'energy_mj': 123456, " \
  "'sm_clock': 1500, 'sm_clock_max': 1980, 'memory_clock': 3201, 'throttle_reasons': 4, 'ecc': [3, 1], "            \
  "'recovery_action': 0"
#define THREE "{'driver': '550.54.15', 'cuda': 12040, 'nvlink': [[0, 1]], 'gpus': ["

static const char three[] =
    THREE "{" H200("0", "0") ", 'processes': [{'pid': 10, 'memory': 1000}, {'pid': 11}]}, {" H200("1", "0") "}, {" H200(
        "2", "1") "}]}";

static void read_inventory(struct nvml *nvml) {
  if (nvml_read_inventory(nvml, &inventory, &error) != MU_OK) fail_msg("%s", error.message);
}

static void test_all_figures(void **state) {
  set_scenario(three);
  struct nvml *nvml = open_fake(FAKE_NVML_LIBRARY);
  read_inventory(nvml);
  assert_string_equal(inventory.driver, "550.54.15");
  assert_int_equal(inventory.cuda, 12040);
  assert_string_equal(inventory.error, "");
  assert_int_equal(inventory.n_gpus, 3);
  const struct gpu *gpu = &inventory.gpus[2];
  assert_string_equal(gpu->uuid, "GPU-2");
  assert_string_equal(gpu->name, "NVIDIA H200");
  assert_string_equal(gpu->pci, "00000000:21:00.0");
  assert_int_equal(gpu->index, 2);
  assert_int_equal(gpu->mig_index, GPU_UNKNOWN);
  assert_false(gpu->mig_enabled || gpu->simulated);
  assert_int_equal(gpu->compute_major * 10 + gpu->compute_minor, 90);
  assert_int_equal(gpu->compute_mode, GPU_COMPUTE_DEFAULT);
  assert_int_equal(gpu->numa_node, 1);
  assert_int_equal(gpu->memory_total, 150000);
  assert_int_equal(gpu->persistence, 1);
  const struct gpu_reading *reading = &inventory.readings[2];
  assert_string_equal(reading->error, "");
  assert_false(reading->lost);
  assert_int_equal(reading->memory_used, 50000);
  assert_int_equal(reading->memory_free, 100000);
  assert_int_equal(reading->gpu_utilization, 70);
  assert_int_equal(reading->memory_utilization, 30);
  assert_int_equal(reading->temperature, 55);
  assert_int_equal(reading->power_mw, 400000);
  assert_int_equal(reading->power_limit_mw, 700000);
  assert_int_equal(reading->energy_mj, 123456);
  assert_int_equal(reading->sm_clock_mhz, 1500);
  assert_int_equal(reading->sm_clock_max_mhz, 1980);
  assert_int_equal(reading->memory_clock_mhz, 3201);
  assert_int_equal(reading->throttle_reasons, 4);
  assert_int_equal(reading->ecc_corrected, 3);
  assert_int_equal(reading->ecc_uncorrected, 1);
  assert_int_equal(reading->recovery_action, 0);
  assert_int_equal(inventory.n_processes, 2);
  assert_int_equal(inventory.processes[0].pid, 10);
  assert_int_equal(inventory.processes[0].memory_used, 1000);
  assert_int_equal(inventory.processes[1].memory_used, GPU_UNKNOWN);
  nvml_close(nvml);
}

static void test_links(void **state) {
  uint32_t islands[GPUS_MAX];
  set_scenario(three);
  struct nvml *nvml = open_fake(FAKE_NVML_LIBRARY);
  read_inventory(nvml);
  assert_int_equal(inventory.links[0][0], GPU_LINK_SELF);
  assert_int_equal(inventory.links[0][1], GPU_LINK_NVLINK);
  assert_int_equal(inventory.links[1][0], GPU_LINK_NVLINK);
  assert_int_equal(inventory.links[2][0], GPU_LINK_SYSTEM);
  gpu_islands(&inventory, islands);
  assert_int_equal(islands[1], 0);
  assert_int_equal(islands[2], 2);
  set_scenario(
      "{'driver': '1', 'topology': [[0, 10, 20, 30], [10, 0, 99, 40], [20, 99, 0, 0], [30, 40, 0, 0]], "
      "'gpus': [{'uuid': 'GPU-0', 'name': 'A'}, {'uuid': 'GPU-1', 'name': 'A'}, {'uuid': 'GPU-2', 'name': 'A'}, "
      "{'uuid': 'GPU-3', 'name': 'A'}]}");
  read_inventory(nvml);
  assert_int_equal(inventory.links[0][1], GPU_LINK_PCI_SINGLE);
  assert_int_equal(inventory.links[0][2], GPU_LINK_PCI_MULTI);
  assert_int_equal(inventory.links[0][3], GPU_LINK_HOST);
  assert_int_equal(inventory.links[1][2], GPU_LINK_UNKNOWN);
  assert_int_equal(inventory.links[1][3], GPU_LINK_NODE);
  assert_int_equal(inventory.links[2][3], GPU_LINK_PCI_SINGLE); /* one board */
  nvml_close(nvml);
}

/* MIG devices stand behind their parent, have memory and processes of their own, and no NVLink. */
static void test_mig(void **state) {
  set_scenario(THREE "{" H200("0", "0") "}, {" H200(
      "1", "0") ", 'mig': [{'uuid': 'MIG-a', 'name': 'NVIDIA H200 MIG "
                "3g.71gb', 'memory': {'total': 70000, 'used': 5}}, null, {'uuid': 'MIG-b', 'name': 'NVIDIA H200 "
                "MIG 1g.18gb', 'processes': [{'pid': 12, 'memory': 7}]}]}, {" H200("2", "1") "}]}");
  struct nvml *nvml = open_fake(FAKE_NVML_LIBRARY);
  read_inventory(nvml);
  assert_int_equal(inventory.n_gpus, 5);
  assert_true(inventory.gpus[1].mig_enabled);
  assert_false(gpu_is_usable(&inventory, 1));
  const struct gpu *mig = &inventory.gpus[3];
  assert_string_equal(mig->uuid, "MIG-b");
  assert_string_equal(mig->pci, "00000000:11:00.0");
  assert_int_equal(mig->index, 1);
  assert_int_equal(mig->mig_index, 2);
  assert_int_equal(mig->memory_total, GPU_UNKNOWN);
  assert_int_equal(mig->compute_major, 9);
  assert_true(gpu_is_usable(&inventory, 3));
  assert_int_equal(inventory.gpus[2].memory_total, 70000);
  assert_int_equal(inventory.readings[2].memory_used, 5);
  assert_int_equal(inventory.readings[2].temperature, GPU_UNKNOWN);
  assert_string_equal(inventory.readings[3].error, "");
  assert_int_equal(inventory.n_processes, 1);
  assert_int_equal(inventory.processes[0].gpu, 3);
  assert_int_equal(inventory.links[0][1], GPU_LINK_NODE);
  assert_int_equal(inventory.links[0][3], GPU_LINK_NODE);
  assert_int_equal(inventory.links[4][2], GPU_LINK_SYSTEM);
  assert_int_equal(inventory.links[2][3], GPU_LINK_PCI_SINGLE);
  assert_int_equal(gpu_find(&inventory, "1:2"), 3);
  nvml_close(nvml);
}

/* Whatever a driver does not give is unknown, never zero. */
static void test_bare_driver(void **state) {
  set_scenario("{'driver': '470.1', 'gpus': [{'uuid': 'GPU-0', 'name': 'Tesla'}]}");
  struct nvml *nvml = open_fake(FAKE_NVML_LIBRARY);
  read_inventory(nvml);
  const struct gpu_reading *reading = &inventory.readings[0];
  assert_int_equal(inventory.cuda, GPU_UNKNOWN);
  assert_int_equal(inventory.gpus[0].memory_total, GPU_UNKNOWN);
  assert_int_equal(inventory.gpus[0].compute_major, GPU_UNKNOWN);
  assert_int_equal(inventory.gpus[0].numa_node, GPU_UNKNOWN);
  assert_int_equal(inventory.gpus[0].persistence, GPU_UNKNOWN);
  assert_string_equal(inventory.gpus[0].pci, "");
  assert_int_equal(reading->memory_used, GPU_UNKNOWN);
  assert_int_equal(reading->throttle_reasons, GPU_UNKNOWN);
  assert_int_equal(reading->recovery_action, GPU_UNKNOWN);
  assert_string_equal(reading->error, "");
  nvml_close(nvml);
}

static void test_old_library(void **state) {
  struct nvml_event event;
  set_scenario(three);
  struct nvml *nvml = open_fake(FAKE_NVML_OLD_LIBRARY);
  read_inventory(nvml);
  assert_int_equal(inventory.n_gpus, 3);
  assert_int_equal(inventory.gpus[0].memory_total, 150000); /* by the call before _v2 */
  assert_int_equal(inventory.readings[0].memory_used, 50000);
  assert_int_equal(inventory.readings[0].throttle_reasons, 4); /* by its older name */
  assert_int_equal(inventory.readings[0].energy_mj, GPU_UNKNOWN);
  assert_string_equal(inventory.readings[0].error, "");
  assert_int_equal(inventory.links[0][1], GPU_LINK_UNKNOWN);
  assert_int_equal(inventory.n_processes, 0);
  assert_int_equal(nvml_wait_event(nvml, 0, &event, &error), MU_TIMEOUT);
  nvml_close(nvml);
}

/* One GPU is lost while we look: the others go on, and it is still known by its UUID. */
static void test_lost(void **state) {
  set_scenario(three);
  struct nvml *nvml = open_fake(FAKE_NVML_LIBRARY);
  read_inventory(nvml);
  set_scenario(THREE "{" H200("0", "0") ", 'lost': true}, {" H200("1", "0") ", 'lost': 16}, {" H200(
      "2", "1") ", 'errors': {'nvmlDeviceGetTemperature': 999}}]}");
  assert_int_equal(nvml_read_readings(nvml, &inventory, &error), MU_OK);
  for (int again = 0; again < 2; again++) {
    assert_int_equal(inventory.n_gpus, 3);
    assert_string_equal(inventory.gpus[0].uuid, "GPU-0");
    assert_true(inventory.readings[0].lost && inventory.readings[1].lost);
    assert_int_equal(inventory.readings[0].memory_used, GPU_UNKNOWN);
    assert_non_null(strstr(inventory.readings[0].error, "GPU is lost"));
    assert_non_null(strstr(inventory.readings[1].error, "GPU requires reset"));
    assert_false(gpu_is_usable(&inventory, 0));
    assert_false(inventory.readings[2].lost);
    assert_int_equal(inventory.readings[2].temperature, GPU_UNKNOWN);
    assert_int_equal(inventory.readings[2].power_mw, 400000);
    assert_non_null(strstr(inventory.readings[2].error, "nvmlDeviceGetTemperature: Unknown Error"));
    assert_int_equal(inventory.n_processes, 0);
    read_inventory(nvml);
  }
  assert_int_equal(inventory.links[0][1], GPU_LINK_UNKNOWN);
  set_scenario(three); /* after a reset */
  read_inventory(nvml);
  assert_false(inventory.readings[0].lost);
  assert_string_equal(inventory.readings[0].error, "");
  nvml_close(nvml);
}

/* Lost before anybody looked: not known by name, and still not passed over. */
static void test_lost_from_the_beginning(void **state) {
  set_scenario(THREE "{'lost': true}, {" H200("1", "0") "}]}");
  struct nvml *nvml = open_fake(FAKE_NVML_LIBRARY);
  read_inventory(nvml);
  assert_int_equal(inventory.n_gpus, 2);
  assert_string_equal(inventory.gpus[0].uuid, "");
  assert_true(inventory.readings[0].lost);
  assert_int_equal(nvml_read_readings(nvml, &inventory, &error), MU_OK);
  assert_true(inventory.readings[0].lost);
  nvml_close(nvml);
}

static void test_cannot_open(void **state) {
  static const struct {
    const char *library, *scenario, *message;
    mu_status status;
  } rows[] = {
      {"/nowhere/libnvidia-ml.so.1", "{}", "/nowhere/libnvidia-ml.so.1", MU_NOT_FOUND},
      {"libc.so.6", "{}", "libc.so.6 lacks nvmlInitWithFlags", MU_UNSUPPORTED},
      {FAKE_NVML_LIBRARY, "{'errors': {'nvmlInitWithFlags': 9}}", "Driver Not Loaded", MU_UNSUPPORTED},
      {FAKE_NVML_LIBRARY, "{'errors': {'nvmlInitWithFlags': 18}}", "version mismatch", MU_UNSUPPORTED},
      {FAKE_NVML_LIBRARY, "{'errors': {'nvmlInitWithFlags': 4}}", "Insufficient Permissions", MU_IO},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct nvml *nvml = (struct nvml *)&error;
    set_scenario(rows[i].scenario);
    assert_int_equal(nvml_open(rows[i].library, &nvml, &error), rows[i].status);
    if (strstr(error.message, rows[i].message) == NULL) fail_msg("%s", error.message);
    assert_ptr_equal(nvml, &error);
  }
  setenv("MUSTER_NVML_LIBRARY", "/from/the/environment.so", 1);
  struct nvml *nvml;
  assert_int_equal(nvml_open("", &nvml, &error), MU_NOT_FOUND);
  assert_non_null(strstr(error.message, "/from/the/environment.so"));
  unsetenv("MUSTER_NVML_LIBRARY");
}

static void test_driver_goes_away(void **state) {
  set_scenario(three);
  struct nvml *nvml = open_fake(FAKE_NVML_LIBRARY);
  read_inventory(nvml);
  set_scenario("{'driver': '1', 'errors': {'nvmlDeviceGetCount_v2': 1}}");
  inventory.n_gpus = 77;
  assert_int_equal(nvml_read_inventory(nvml, &inventory, &error), MU_IO);
  assert_non_null(strstr(error.message, "nvmlDeviceGetCount_v2: Uninitialized"));
  assert_int_equal(inventory.n_gpus, 77);
  inventory.n_gpus = 3;
  assert_int_equal(nvml_read_readings(nvml, &inventory, &error), MU_IO);
  nvml_close(nvml);
}

static void test_events(void **state) {
  struct nvml_event event = {.xid = 7};
  set_scenario(three);
  struct nvml *nvml = open_fake(FAKE_NVML_LIBRARY);
  assert_int_equal(nvml_wait_event(nvml, 1, &event, &error), MU_TIMEOUT);
  assert_int_equal(event.xid, 7);
  set_scenario(
      "{'driver': '1', 'events': [{'gpu': 2, 'xid': 79}, {'gpu': 9, 'xid': 1}, {'gpu': 0, 'ecc': true}], 'gpus': "
      "[{'uuid': 'GPU-0'}, {'uuid': 'GPU-1'}, {'lost': true}]}");
  assert_int_equal(nvml_wait_event(nvml, NS_PER_S, &event, &error), MU_OK);
  assert_string_equal(event.uuid, "GPU-2"); /* though it does not say so any more */
  assert_int_equal(event.xid, 79);
  assert_int_equal(nvml_wait_event(nvml, NS_PER_S, &event, &error), MU_OK);
  assert_string_equal(event.uuid, "GPU-0");
  assert_int_equal(event.xid, 0);
  assert_int_equal(nvml_wait_event(nvml, 0, &event, &error), MU_TIMEOUT);
  set_scenario("{'driver': '1', 'errors': {'nvmlEventSetWait_v2': 15}}");
  assert_int_equal(nvml_wait_event(nvml, NS_PER_S, &event, &error), MU_IO);
  nvml_close(nvml);

  set_scenario("{'driver': '1', 'gpus': [{'uuid': 'GPU-0', 'name': 'A', 'events': false}]}");
  nvml = open_fake(FAKE_NVML_LIBRARY);
  assert_int_equal(nvml_wait_event(nvml, NS_PER_S, &event, &error), MU_UNSUPPORTED);
  nvml_close(nvml);
}

static void test_cores(void **state) {
  cpu_set_t own, cores;
  set_scenario(three);
  struct nvml *nvml = open_fake(FAKE_NVML_LIBRARY);
  read_inventory(nvml);
  assert_int_equal(sched_getaffinity(0, sizeof own, &own), 0);
  assert_int_equal(gpu_cores_parse(inventory.gpus[0].cores, &cores), MU_OK);
  CPU_AND(&cores, &cores, &own);
  assert_true(CPU_COUNT(&cores) > 0);
  nvml_close(nvml);
}

/* More processes than the first guess has room for, and than an inventory holds. */
static void test_many_processes(void **state) {
  static char text[64 * 1024];
  char *at = text + sprintf(text, THREE "{" H200("0", "0") ", 'processes': [");
  for (int i = 1; i <= GPU_PROCESSES_MAX + 44; i++)
    at += sprintf(at, "%s{'pid': %d, 'memory': 1}", i == 1 ? "" : ", ", i);
  sprintf(at, "]}]}");
  set_scenario(text);
  struct nvml *nvml = open_fake(FAKE_NVML_LIBRARY);
  read_inventory(nvml);
  assert_int_equal(inventory.n_processes, GPU_PROCESSES_MAX);
  assert_int_equal(inventory.processes[GPU_PROCESSES_MAX - 1].pid, GPU_PROCESSES_MAX);
  nvml_close(nvml);
}

static void test_call_names(void **state) {
  _Atomic int32_t slot = 5;
  set_scenario(three);
  nvml_watch_calls(&slot);
  assert_int_equal(slot, -1);
  struct nvml *nvml = open_fake(FAKE_NVML_LIBRARY);
  read_inventory(nvml);
  nvml_close(nvml);
  nvml_watch_calls(NULL);
  assert_int_equal(slot, -1);
  assert_string_equal(nvml_call_name(0), "nvmlInitWithFlags");
  assert_string_equal(nvml_call_name(-1), "");
  assert_string_equal(nvml_call_name(1000), "");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_all_figures),
      cmocka_unit_test(test_links),
      cmocka_unit_test(test_mig),
      cmocka_unit_test(test_bare_driver),
      cmocka_unit_test(test_old_library),
      cmocka_unit_test(test_lost),
      cmocka_unit_test(test_lost_from_the_beginning),
      cmocka_unit_test(test_cannot_open),
      cmocka_unit_test(test_driver_goes_away),
      cmocka_unit_test(test_events),
      cmocka_unit_test(test_cores),
      cmocka_unit_test(test_many_processes),
      cmocka_unit_test(test_call_names),
  };
  return cmocka_run_group_tests(tests, create_scenario, remove_scenario);
}
