#include "loaded_model.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/sim/sim_settings.h"

static char input_name[] = "in", output_name[] = "out", other_name[] = "other", symbol[] = "batch";

static const mu_tensor_info inputs[] = {
    {.name = input_name, .dtype = MU_INT32, .rank = 2, .dims = {-1, 3}, .symbols = {symbol}},
};
static const mu_tensor_info outputs[] = {
    {.name = output_name, .dtype = MU_INT32, .rank = 2, .dims = {-1, 3}, .symbols = {symbol}},
    {.name = other_name, .dtype = MU_FP32, .rank = 3, .dims = {-1, 2, -1}, .symbols = {symbol}},
};
static const mu_tensor_info texts[] = {{.name = input_name, .dtype = MU_BYTES, .rank = 2, .dims = {-1, 2}}};

static mu_model_spec sim_spec(const mu_parameter *parameters, size_t n) {
  mu_model_spec spec = model_spec(NULL);
  spec.inputs = inputs;
  spec.n_inputs = 1;
  spec.outputs = outputs;
  spec.n_outputs = 2;
  spec.parameters = parameters;
  spec.n_parameters = n;
  return spec;
}

static int32_t numbers[] = {1, 2, 3, 4, 5, 6};

static mu_input two_rows(void) { return (mu_input){0, {MU_INT32, 2, {2, 3}, numbers, sizeof numbers}}; }

static void test_echoes_and_clears(void **state) {
  const mu_parameter parameters[] = {{"sim.output_size", "5"}};
  mu_model_spec spec = sim_spec(parameters, 1);
  struct loaded_model m = model_open("sim", &spec);
  assert_true(m.info->rows_independent);
  assert_string_equal(m.info->inputs[0].name, "in");
  assert_string_equal(m.info->inputs[0].symbols[0], "batch");
  mu_input in = two_rows();
  mu_output out[] = {{.index = 1}, {.index = 0}};
  mu_error err;
  assert_int_equal(m.engine->run(m.instance, &in, 1, out, 2, &err), MU_OK);
  assert_int_equal(out[1].tensor.size, sizeof numbers);
  assert_memory_equal(out[1].tensor.data, numbers, sizeof numbers);
  assert_int_equal(out[0].tensor.dtype, MU_FP32);
  assert_int_equal(out[0].tensor.dims[0], 2);
  assert_int_equal(out[0].tensor.dims[1], 2);
  assert_int_equal(out[0].tensor.dims[2], 5);
  assert_int_equal(out[0].tensor.size, 2 * 2 * 5 * 4);
  assert_true(((float *)out[0].tensor.data)[19] == 0);

  int32_t place[6] = {0}; /* and into the caller's memory */
  mu_output known = {0, {MU_INT32, 2, {2, 3}, place, sizeof place}};
  assert_int_equal(m.engine->run(m.instance, &in, 1, &known, 1, &err), MU_OK);
  assert_ptr_equal(known.tensor.data, place);
  assert_memory_equal(place, numbers, sizeof place);
  known.tensor.dims[0] = 1;
  assert_int_equal(m.engine->run(m.instance, &in, 1, &known, 1, &err), MU_INVALID);
  known.index = 2;
  assert_int_equal(m.engine->run(m.instance, &in, 1, &known, 1, &err), MU_INVALID);
  model_close(&m);
}

static void test_text_is_echoed(void **state) {
  mu_model_spec spec = sim_spec(NULL, 0);
  spec.inputs = spec.outputs = texts;
  spec.n_outputs = 1;
  const mu_parameter parameters[] = {{"sim.fail_on", "no"}};
  spec.parameters = parameters;
  spec.n_parameters = 1;
  struct loaded_model m = model_open("sim", &spec);
  static char yes[] = "\x02\0\0\0xx\x02\0\0\0no\x01\0\0\0a\0\0\0\0"; /* "no" is not the first of its row */
  static char no[] = "\x02\0\0\0xx\x02\0\0\0no\x02\0\0\0no\0\0\0\0";
  mu_input in = {0, {MU_BYTES, 2, {2, 2}, yes, sizeof yes - 1}};
  mu_output out = {.index = 0};
  mu_error err;
  assert_int_equal(m.engine->run(m.instance, &in, 1, &out, 1, &err), MU_OK);
  assert_int_equal(out.tensor.size, sizeof yes - 1);
  assert_memory_equal(out.tensor.data, yes, sizeof yes - 1);
  in.tensor.data = no;
  in.tensor.size = sizeof no - 1;
  out.tensor.data = NULL;
  assert_int_equal(m.engine->run(m.instance, &in, 1, &out, 1, &err), MU_INVALID);
  model_close(&m);
}

static void test_waits_as_told(void **state) {
  const mu_parameter parameters[] = {{"sim.base_ms", "3"}, {"sim.per_item_ms", "2.5"}};
  mu_model_spec spec = sim_spec(parameters, 2);
  struct loaded_model m = model_open("sim", &spec);
  mu_input in = two_rows();
  mu_output out = {.index = 0};
  mu_error err;
  uint64_t start = clock_now_ns();
  assert_int_equal(m.engine->run(m.instance, &in, 1, &out, 1, &err), MU_OK);
  assert_true(clock_now_ns() - start >= 8 * NS_PER_MS);
  model_close(&m);
}

static void test_fails_as_told(void **state) {
  const mu_parameter on_four[] = {{"sim.fail_on", "4"}}; /* the first number of the second row */
  mu_model_spec spec = sim_spec(on_four, 1);
  struct loaded_model m = model_open("sim", &spec);
  mu_input in = two_rows();
  mu_output out = {.index = 0};
  mu_error err;
  assert_int_equal(m.engine->run(m.instance, &in, 1, &out, 1, &err), MU_INVALID);
  in.tensor.dims[0] = 1;
  in.tensor.size /= 2;
  out.tensor.data = NULL;
  assert_int_equal(m.engine->run(m.instance, &in, 1, &out, 1, &err), MU_OK);
  model_close(&m);
}

static int count_failures(const char *rate, const char *seed) {
  const mu_parameter parameters[] = {{"sim.fail_rate", rate}, {"sim.seed", seed}};
  mu_model_spec spec = sim_spec(parameters, 2);
  struct loaded_model m = model_open("sim", &spec);
  mu_input in = two_rows();
  int failures = 0;
  for (int i = 0; i < 1000; i++) {
    mu_output out = {.index = 0};
    mu_error err;
    failures += m.engine->run(m.instance, &in, 1, &out, 1, &err) == MU_INTERNAL;
  }
  model_close(&m);
  return failures;
}

static void test_failures_come_at_their_rate(void **state) {
  assert_int_equal(count_failures("0", "3"), 0);
  assert_int_equal(count_failures("1", "3"), 1000);
  int failures = count_failures("0.25", "3");
  assert_in_range(failures, 190, 310);
  assert_int_equal(count_failures("0.25", "3"), failures); /* the seed decides */
}

/* How a process ends that runs once with these parameters. */
static int child_status(const mu_parameter *parameters, size_t n) {
  pid_t child = fork();
  if (child == 0) {
    mu_model_spec spec = sim_spec(parameters, n);
    struct loaded_model m = model_open("sim", &spec);
    mu_input in = two_rows();
    mu_output out = {.index = 0};
    mu_error err;
    _exit(m.engine->run(m.instance, &in, 1, &out, 1, &err) == MU_OK ? 0 : 1);
  }
  int status = 0;
  assert_int_equal(waitpid(child, &status, 0), child);
  return status;
}

static void test_crashes_as_told(void **state) {
  const mu_parameter no[] = {{"sim.crash_on", "2"}}, yes[] = {{"sim.crash_on", "4"}},
                     rate[] = {{"sim.crash_rate", "1"}};
  assert_int_equal(child_status(no, 1), 0);
  assert_int_equal(WTERMSIG(child_status(yes, 1)), SIGABRT);
  assert_int_equal(WTERMSIG(child_status(rate, 1)), SIGABRT);
  static const struct {
    const char *by;
    int signal;
  } ways[] = {{"abort", SIGABRT}, {"segv", SIGSEGV}, {"bus", SIGBUS}, {"ill", SIGILL}, {"fpe", SIGFPE}};
  mu_parameter by[] = {{"sim.crash_on", "4"}, {"sim.crash_by", "exit"}};
  assert_int_equal(WEXITSTATUS(child_status(by, 2)), 3);
  for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
    by[1].value = ways[i].by;
    int status = child_status(by, 2);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), ways[i].signal);
  }
}

static void test_uses_memory_as_told(void **state) {
  mu_parameter parameters[] = {{"sim.memory_on", "4"}, {"sim.memory_mib", "3"}};
  static const struct {
    const char *mib;
    mu_status status;
  } cases[] = {{"3", MU_OK}, {"0", MU_NO_MEMORY}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    parameters[1].value = cases[i].mib;
    mu_model_spec spec = sim_spec(parameters, 2);
    struct loaded_model m = model_open("sim", &spec);
    mu_input in = two_rows();
    mu_output out = {.index = 0};
    mu_error err;
    assert_int_equal(m.engine->run(m.instance, &in, 1, &out, 1, &err), cases[i].status);
    model_close(&m);
  }
}

static void *run_for_an_hour(void *argument) {
  struct loaded_model *m = argument;
  mu_input in = two_rows();
  mu_output out = {.index = 0};
  mu_error err;
  return (void *)(intptr_t)m->engine->run(m->instance, &in, 1, &out, 1, &err);
}

static void test_stop_ends_the_wait(void **state) {
  const mu_parameter parameters[] = {{"sim.base_ms", "3600000"}};
  mu_model_spec spec = sim_spec(parameters, 1);
  struct loaded_model m = model_open("sim", &spec);
  pthread_t thread;
  void *result;
  assert_int_equal(pthread_create(&thread, NULL, run_for_an_hour, &m), 0);
  do { /* a stop before the run has begun is forgotten */
    m.engine->stop(m.instance);
    sched_yield();
  } while (pthread_tryjoin_np(thread, &result) != 0);
  assert_int_equal((intptr_t)result, MU_CANCELED);
  model_close(&m);
}

static void test_wrong_settings(void **state) {
  static const mu_parameter wrong[] = {
      {"sim.base_ms", "-1"},     {"sim.base_ms", "fast"}, {"sim.base_ms", "1x"},
      {"sim.base_ms", ""},       {"sim.base_ms", "inf"},  {"sim.fail_rate", "1.5"},
      {"sim.crash_rate", "nan"}, {"sim.based_ms", "1"},   {"sim.crash_by", "bug"},
      {"sim.profile", "seed"},   {"sim.gpu_ms", "1"},     {"sim.gpu_speed", "1"}, /* there is no GPU */
  };
  mu_error err;
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    mu_model_spec spec = sim_spec(&wrong[i], 1);
    memset(&err, 0, sizeof err);
    assert_int_equal(load_status("sim", &spec, &err), MU_INVALID);
    assert_non_null(strstr(err.message, wrong[i].key));
  }
  mu_model_spec spec = sim_spec(NULL, 0);
  spec.n_inputs = 0;
  assert_int_equal(load_status("sim", &spec, &err), MU_INVALID);
  const mu_parameter fail[] = {{"sim.load_fail", "1"}};
  spec = sim_spec(fail, 1);
  assert_int_equal(load_status("sim", &spec, &err), MU_INTERNAL);
}

static struct sim_settings settings_on(const char *device, const mu_parameter *parameters, size_t n) {
  mu_model_spec spec = sim_spec(parameters, n);
  spec.device = device;
  struct sim_settings settings = {0};
  mu_error err = {{0}};
  if (sim_settings_read(&spec, &settings, &err) != MU_OK) fail_msg("%s", err.message);
  return settings;
}

static void test_wrong_settings_of_a_gpu(void **state) {
  static const mu_parameter wrong[] = {
      {"sim.profile", "fast"},   {"sim.sharing", "mig"},    {"sim.gpu_speed", "0"},      {"sim.gpu_speed.1", "x"},
      {"sim.gpu_speeds", "1"},   {"sim.gpu_ms", "-1"},      {"sim.gpu_memory_mib", "x"}, {"sim.gpu_speed", "1001"},
      {"sim.gpu_work_ms", "-1"}, {"sim.gpu_speed.0", "-1"},
  };
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    mu_model_spec spec = sim_spec(&wrong[i], 1);
    spec.device = "gpu:0";
    struct sim_settings settings;
    mu_error err = {{0}};
    assert_int_equal(sim_settings_read(&spec, &settings, &err), MU_INVALID);
    assert_non_null(strstr(err.message, wrong[i].key));
  }
}

static void test_a_gpu_has_a_profile(void **state) {
  struct sim_settings settings = settings_on("cpu", NULL, 0);
  assert_true(!settings.on_gpu && settings.gpu_ms == 0 && settings.base_ms == 0);
  settings = settings_on("gpu:0", NULL, 0);
  assert_true(settings.on_gpu && settings.gpu_ms > 10 && settings.gpu_work_ms < settings.gpu_ms);
  const mu_parameter own[] = {{"sim.base_ms", "2"}}; /* who says what a run takes has said all */
  settings = settings_on("gpu:0", own, 1);
  assert_true(settings.base_ms == 2 && settings.gpu_ms == 0 && settings.gpu_work_ms == 0);
  const mu_parameter gpu[] = {{"sim.gpu_ms", "3"}, {"sim.gpu_per_item_ms", "1"}};
  settings = settings_on("gpu:0", gpu, 2); /* of the work nothing: it is that of the whole GPU */
  assert_true(settings.gpu_work_ms == 3 && settings.gpu_work_per_item_ms == 1);
  const mu_parameter changed[] = {{"sim.gpu_ms", "3"}, {"sim.profile", "seed"}};
  settings = settings_on("gpu:0", changed, 2);
  assert_true(settings.gpu_ms == 3 && settings.gpu_work_per_item_ms > 1 && settings.jitter_ms > 0);
  const mu_parameter none[] = {{"sim.profile", "none"}};
  settings = settings_on("gpu:0", none, 1);
  assert_true(settings.gpu_ms == 0 && settings.base_ms == 0 && settings.gpu_work_ms == 0);
}

static void test_each_gpu_has_its_speed(void **state) {
  const mu_parameter speeds[] = {{"sim.gpu_speed.1", "0.5"}, {"sim.gpu_speed", "2"}, {"sim.gpu_speed.GPU-a", "3"}};
  assert_true(settings_on("gpu:0", speeds, 3).gpu_speed == 2);
  assert_true(settings_on("gpu:1", speeds, 3).gpu_speed == 0.5);
  assert_true(settings_on("gpu:11", speeds, 3).gpu_speed == 2);
  assert_true(settings_on("gpu:GPU-simulated-1", speeds, 3).gpu_speed == 0.5);
  assert_true(settings_on("gpu:GPU-a", speeds, 3).gpu_speed == 3);
  assert_true(settings_on("gpu:1", speeds + 1, 2).gpu_speed == 2);
  assert_true(settings_on("gpu:1", NULL, 0).gpu_speed == 1);
}

static void test_mps_comes_with_the_environment(void **state) {
  const mu_parameter by_turns[] = {{"sim.sharing", "timeslice"}}, mps[] = {{"sim.sharing", "mps"}};
  struct sim_settings settings = settings_on("gpu:0", NULL, 0);
  assert_true(!settings.mps && settings.sm_share == 1);
  assert_true(settings_on("gpu:0", mps, 1).mps);
  setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "40", 1);
  settings = settings_on("gpu:0", NULL, 0); /* only clients of MPS have one */
  assert_true(!settings.mps && settings.sm_share == 1);
  setenv("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps", 1);
  settings = settings_on("gpu:0", NULL, 0);
  assert_true(settings.mps && settings.sm_share == 0.4);
  assert_false(settings_on("gpu:0", by_turns, 1).mps);
  static const char *const wrong[] = {"0", "101", "x"};
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", wrong[i], 1);
    mu_model_spec spec = sim_spec(NULL, 0);
    spec.device = "gpu:0";
    mu_error err = {{0}};
    assert_int_equal(sim_settings_read(&spec, &settings, &err), MU_INVALID);
    assert_non_null(strstr(err.message, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"));
  }
  unsetenv("CUDA_MPS_PIPE_DIRECTORY");
  unsetenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_echoes_and_clears),
      cmocka_unit_test(test_text_is_echoed),
      cmocka_unit_test(test_waits_as_told),
      cmocka_unit_test(test_fails_as_told),
      cmocka_unit_test(test_failures_come_at_their_rate),
      cmocka_unit_test(test_crashes_as_told),
      cmocka_unit_test(test_uses_memory_as_told),
      cmocka_unit_test(test_stop_ends_the_wait),
      cmocka_unit_test(test_wrong_settings),
      cmocka_unit_test(test_wrong_settings_of_a_gpu),
      cmocka_unit_test(test_a_gpu_has_a_profile),
      cmocka_unit_test(test_each_gpu_has_its_speed),
      cmocka_unit_test(test_mps_comes_with_the_environment),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
