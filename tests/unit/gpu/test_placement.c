#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include "gpu/placement.h"
#include "sample_gpus.h"

static struct gpu_inventory gpus;
static struct gpu_set set;

static const struct placement_engine ort = {"onnxruntime", false, false}, cuda = {"onnxruntime", false, true},
                                     sim = {"sim", true, false};

static void take_all(void) {
  static const struct gpu_wish wish = {.gpus = "all", .gpu_ids = ""};
  mu_error err;
  assert_int_equal(gpu_set_choose(&gpus, &wish, &set, &err), MU_OK);
}

static void alike(uint32_t n) {
  sample_alike(&gpus, n, 8 * SAMPLE_GIB);
  take_all();
}

/* "cpu*2 0*1": devices and instances. */
static void placed(const struct placement_wish *wish, const char *expected) {
  struct placement_share shares[PLACEMENT_SHARES_MAX];
  uint32_t n = 0;
  mu_error err = {{0}};
  char text[512] = "";
  if (placement_choose(&gpus, &set, wish, shares, &n, &err) != MU_OK) fail_msg("%s: %s", expected, err.message);
  for (uint32_t i = 0; i < n; i++) {
    char device[16] = "cpu";
    if (shares[i].gpu != GPU_UNKNOWN) snprintf(device, sizeof device, "%d", shares[i].gpu);
    snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s*%lld", i > 0 ? " " : "", device,
             (long long)shares[i].instances);
  }
  assert_string_equal(text, expected);
}

static void refused(const struct placement_wish *wish, mu_status expected, const char *words) {
  struct placement_share shares[PLACEMENT_SHARES_MAX];
  uint32_t n = 77;
  mu_error err = {{0}};
  assert_int_equal(placement_choose(&gpus, &set, wish, shares, &n, &err), expected);
  assert_int_equal(n, 77);
  if (strstr(err.message, words) == NULL) fail_msg("\"%s\" is not in: %s", words, err.message);
}

/* ---- devices ----------------------------------------------------------------------------------------------------- */

static const int32_t one[] = {1}, two[] = {0, 2}, far_off[] = {9}, negative[] = {-1};

#define GROUPS(...) \
  (const struct placement_group[]) { __VA_ARGS__ }

static void groups_say_where_instances_go(void **state) {
  alike(3);
  const struct {
    struct placement_wish wish;
    const char *expected;
  } cases[] = {
      {{"auto", NULL, 0, ort}, "cpu*1"},
      {{"auto", NULL, 0, cuda}, "0*1 1*1 2*1"},
      {{"auto", NULL, 0, sim}, "cpu*1"}, /* real GPUs: it would only hold them */
      {{"auto", GROUPS({PLACEMENT_AUTO, 2, NULL, 0}), 1, ort}, "cpu*2"},
      {{"auto", GROUPS({PLACEMENT_AUTO, 2, NULL, 0}), 1, cuda}, "0*2 1*2 2*2"},
      {{"auto", GROUPS({PLACEMENT_AUTO, 2, one, 1}), 1, ort}, "1*2"},
      {{"auto", GROUPS({PLACEMENT_CPU, 4, NULL, 0}), 1, cuda}, "cpu*4"},
      {{"auto", GROUPS({PLACEMENT_GPU, 1, NULL, 0}), 1, sim}, "0*1 1*1 2*1"},
      {{"auto", GROUPS({PLACEMENT_GPU, 2, two, 2}), 1, ort}, "0*2 2*2"},
      {{"auto", GROUPS({PLACEMENT_GPU, 2, two, 2}, {PLACEMENT_CPU, 1, NULL, 0}, {PLACEMENT_GPU, 1, NULL, 0}), 3, ort},
       "0*3 2*3 cpu*1 1*1"},
      {{"cpu", GROUPS({PLACEMENT_GPU, 2, two, 2}), 1, ort}, "cpu*4"},
      {{"gpu:1", NULL, 0, ort}, "1*1"},
      {{"gpu:GPU-aaaa0002", NULL, 0, ort}, "2*1"},
      {{"gpu:GPU-aaaa0002", GROUPS({PLACEMENT_GPU, 2, two, 2}, {PLACEMENT_CPU, 1, NULL, 0}), 2, ort}, "2*5"},
      {{"gpu", GROUPS({PLACEMENT_CPU, 2, NULL, 0}), 1, ort}, "0*2 1*2 2*2"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) placed(&cases[i].wish, cases[i].expected);
}

static void wrong_devices_are_refused(void **state) {
  alike(3);
  const struct {
    struct placement_wish wish;
    mu_status status;
    const char *words;
  } cases[] = {
      {{"auto", GROUPS({PLACEMENT_GPU, 1, far_off, 1}), 1, ort}, MU_NOT_FOUND, "there is no GPU 9 that the server may"},
      {{"auto", GROUPS({PLACEMENT_GPU, 1, negative, 1}), 1, ort}, MU_INVALID, "\"-1\" is neither"},
      {{"gpu:3", NULL, 0, ort}, MU_NOT_FOUND, "it may use: 0 (NVIDIA H200, GPU-aaaa0000)"},
      {{"gpu:GPU-zzzz", NULL, 0, ort}, MU_NOT_FOUND, "GPU-zzzz"},
      {{"gpu:", NULL, 0, ort}, MU_INVALID, "there is no device \"gpu:\""},
      {{"gpu:x", NULL, 0, ort}, MU_INVALID, "\"x\" is neither"},
      {{"tpu", NULL, 0, ort}, MU_INVALID, "there is no device \"tpu\""},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) refused(&cases[i].wish, cases[i].status, cases[i].words);
}

static void without_gpus_only_the_cpu_is_left(void **state) {
  memset(&gpus, 0, sizeof gpus);
  snprintf(gpus.error, sizeof gpus.error, "libnvidia-ml.so.1 cannot be opened");
  take_all();
  const struct placement_wish automatic = {"auto", NULL, 0, cuda},
                              kind = {"auto", GROUPS({PLACEMENT_GPU, 1, NULL, 0}), 1, ort},
                              index = {"gpu:0", NULL, 0, ort};
  placed(&automatic, "cpu*1");
  refused(&kind, MU_NOT_FOUND, "libnvidia-ml.so.1 cannot be opened");
  refused(&kind, MU_NOT_FOUND, "--simulate-gpus");
  refused(&kind, MU_NOT_FOUND, "KIND_CPU");
  refused(&index, MU_NOT_FOUND, "it is to run on GPU 0");
}

static void only_sim_runs_on_simulated_gpus(void **state) {
  alike(2);
  gpus.gpus[0].simulated = gpus.gpus[1].simulated = true;
  const struct placement_wish simulated = {"auto", NULL, 0, sim}, automatic = {"auto", NULL, 0, cuda},
                              real = {"auto", GROUPS({PLACEMENT_GPU, 1, NULL, 0}), 1, ort};
  placed(&simulated, "0*1 1*1");
  placed(&automatic, "cpu*1");
  refused(&real, MU_UNSUPPORTED, "engine onnxruntime cannot run on a simulated GPU");
}

static void what_needs_no_gpu_is_known_before_they_are(void **state) {
  const struct {
    struct placement_wish wish;
    bool needs;
  } cases[] = {
      {{"auto", NULL, 0, ort}, false},
      {{"auto", NULL, 0, sim}, false},
      {{"auto", NULL, 0, cuda}, true},
      {{"cpu", GROUPS({PLACEMENT_GPU, 1, NULL, 0}), 1, cuda}, false},
      {{"gpu:0", NULL, 0, ort}, true},
      {{"auto", GROUPS({PLACEMENT_CPU, 1, NULL, 0}), 1, cuda}, false},
      {{"auto", GROUPS({PLACEMENT_AUTO, 1, NULL, 0}), 1, ort}, false},
      {{"auto", GROUPS({PLACEMENT_AUTO, 1, NULL, 0}), 1, cuda}, true},
      {{"auto", GROUPS({PLACEMENT_AUTO, 1, one, 1}), 1, ort}, true},
      {{"auto", GROUPS({PLACEMENT_CPU, 1, NULL, 0}, {PLACEMENT_GPU, 1, NULL, 0}), 2, ort}, true},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    assert_int_equal(placement_needs_gpus(&cases[i].wish), cases[i].needs);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

#define MIB(n) (INT64_C(n) << 20)

static const struct placement_memory unet = {PLACEMENT_CONTEXT_BYTES, MIB(1210), MIB(2048), GPU_UNKNOWN, 0};

static void what_does_not_fit_shows_its_sum(void **state) {
  alike(2);
  struct placement_room rooms[GPUS_MAX];
  const struct placement_share shares[] = {{GPU_UNKNOWN, 1}, {0, 1}, {1, 1}};
  mu_error err = {{0}};
  gpus.readings[1].memory_used = MIB(614);
  placement_look(&gpus, NULL, 0, rooms);
  assert_int_equal(placement_take(&gpus, shares, 3, 3, &unet, "unet", rooms, &err), MU_TOO_LARGE);
  assert_string_equal(err.message,
                      "3 processes of unet need 3 x (500 MiB context + 1,210 MiB weights + 2,048 MiB arena, estimated) "
                      "= 11.0 GiB; GPU 0 has 8,192 MiB, of which 0 MiB are used by others and 0 MiB by other models of "
                      "this server");
  assert_int_equal(rooms[0].taken, 0);
  assert_int_equal(placement_take(&gpus, shares, 3, 2, &unet, "unet", rooms, &err), MU_OK);
  assert_int_equal(rooms[0].taken, MIB(7516));
  assert_int_equal(rooms[1].processes, 2);
  /* GPU 0 has room for this one, GPU 1 has not: nothing is taken. */
  const struct placement_memory small = {0, 0, 0, MIB(100), 0};
  assert_int_equal(placement_take(&gpus, shares, 3, 1, &small, "small", rooms, &err), MU_TOO_LARGE);
  assert_string_equal(err.message,
                      "1 process of small needs 1 x (100 MiB, measured) = 100 MiB; GPU 1 has 8,192 MiB, of which "
                      "614 MiB are used by others and 7,516 MiB by other models of this server");
  assert_int_equal(rooms[0].taken, MIB(7516));
}

static void what_the_operator_says_outdoes_measurements(void **state) {
  const struct placement_memory memory = {MIB(500), MIB(1), MIB(1), MIB(700), MIB(4096)};
  char text[PLACEMENT_MEMORY_TEXT];
  assert_int_equal(placement_memory_sum(&memory), MIB(4096));
  placement_print_memory(&memory, text);
  assert_string_equal(text, "4,096 MiB, as --gpu-memory says");
}

static void own_processes_are_not_others(void **state) {
  alike(2);
  gpus.readings[0].memory_used = MIB(3000);
  gpus.readings[1].memory_used = MIB(500);
  gpus.processes[0] = (struct gpu_process){100, 0, MIB(1000)};
  gpus.processes[1] = (struct gpu_process){200, 0, MIB(1500)};
  gpus.processes[2] = (struct gpu_process){100, 1, GPU_UNKNOWN};
  gpus.processes[3] = (struct gpu_process){300, 1, MIB(900)};
  gpus.n_processes = 4;
  static const int32_t pids[] = {100, 300};
  struct placement_room rooms[GPUS_MAX];
  placement_look(&gpus, pids, 2, rooms);
  assert_int_equal(rooms[0].others, MIB(2000));
  assert_int_equal(rooms[1].others, 0); /* never less than nothing, whatever the driver says */
}

static void a_gpu_of_unknown_size_takes_all(void **state) {
  alike(1);
  gpus.gpus[0].memory_total = GPU_UNKNOWN;
  struct placement_room rooms[GPUS_MAX];
  const struct placement_share share = {0, 1};
  mu_error err;
  placement_look(&gpus, NULL, 0, rooms);
  assert_int_equal(placement_take(&gpus, &share, 1, 1000, &unet, "unet", rooms, &err), MU_OK);
}

static void bytes_are_printed_for_people(void **state) {
  static const struct {
    int64_t bytes;
    const char *text;
  } cases[] = {{0, "0 MiB"},
               {1, "1 MiB"},
               {MIB(999), "999 MiB"},
               {MIB(1000), "1,000 MiB"},
               {MIB(10239), "10,239 MiB"},
               {MIB(10240), "10.0 GiB"},
               {MIB(144384), "141.0 GiB"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char text[PLACEMENT_BYTES_TEXT];
    placement_print_bytes(cases[i].bytes, text);
    assert_string_equal(text, cases[i].text);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(groups_say_where_instances_go),
      cmocka_unit_test(wrong_devices_are_refused),
      cmocka_unit_test(without_gpus_only_the_cpu_is_left),
      cmocka_unit_test(only_sim_runs_on_simulated_gpus),
      cmocka_unit_test(what_needs_no_gpu_is_known_before_they_are),
      cmocka_unit_test(what_does_not_fit_shows_its_sum),
      cmocka_unit_test(what_the_operator_says_outdoes_measurements),
      cmocka_unit_test(own_processes_are_not_others),
      cmocka_unit_test(a_gpu_of_unknown_size_takes_all),
      cmocka_unit_test(bytes_are_printed_for_people),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
