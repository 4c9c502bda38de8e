#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "channel/channel.h"
#include "supervisor/worker_plan.h"

/* The machine: alike GPUs, "GPU-0" … */
static struct gpu_inventory gpus;
static struct gpu_set all;

static int four_gpus(void **state) {
  for (uint32_t i = 0; i < 4; i++) {
    struct gpu *gpu = &gpus.gpus[gpus.n_gpus++];
    *gpu = (struct gpu){.name = "NVIDIA T4", .index = (int32_t)i, .mig_index = GPU_UNKNOWN, .memory_total = 1};
    snprintf(gpu->uuid, sizeof gpu->uuid, "GPU-%u", i);
  }
  const struct gpu_wish wish = {.gpus = "all", .gpu_ids = ""};
  return gpu_set_choose(&gpus, &wish, &all, NULL) == MU_OK ? 0 : -1;
}

/* Nothing asked for. */
static const struct model_options unset = {
    .name = "m", .processes = 1, .instances = 0, .threads = 0, .engine = "auto", .device = "auto"};

static mu_status plan(const struct model_options *options, const char *text, uint32_t cores,
                      struct worker_plan *ret_plan, mu_error *err) {
  struct model_config *config;
  if (model_config_parse(text, strlen(text), "config.pbtxt", "m", &config, err) != MU_OK) fail_msg("%s", err->message);
  const struct plan_ground ground = {cores, &gpus, &all};
  mu_status status = worker_plan_make(options, config, "/models/m/1/model.onnx", "/no/library", &ground, ret_plan, err);
  model_config_free(config);
  return status;
}

static struct worker_plan planned(const struct model_options *options, const char *text, uint32_t cores) {
  struct worker_plan result = {.n_groups = 0};
  mu_error err = {{0}};
  if (plan(options, text, cores, &result, &err) != MU_OK) fail_msg("%s: %s", text, err.message);
  return result;
}

static void refused(const struct model_options *options, const char *text, mu_status expected, const char *words) {
  struct worker_plan result;
  mu_error err = {{0}};
  assert_int_equal(plan(options, text, 8, &result, &err), expected);
  if (strstr(err.message, words) == NULL) fail_msg("\"%s\" is not in: %s", words, err.message);
}

static void assert_group(const struct worker_plan *p, uint32_t index, const char *label, uint32_t instances) {
  assert_true(index < p->n_groups);
  assert_string_equal(p->groups[index].label, label);
  assert_int_equal(p->groups[index].instances, instances);
}

static void by_default_one_instance_takes_all_cores(void **state) {
  struct worker_plan p = planned(&unset, "", 8);
  assert_string_equal(p.engine, "onnxruntime");
  assert_int_equal(p.groups[0].processes, 1);
  assert_int_equal(p.threads, 8);
  assert_int_equal(p.n_groups, 1);
  assert_group(&p, 0, "cpu", 1);
}

static void instances_of_the_configuration_share_the_cores(void **state) {
  struct worker_plan p = planned(&unset, "instance_group [{count: 3 kind: KIND_CPU}, {count: 1}]", 8);
  assert_int_equal(p.n_groups, 1);
  assert_group(&p, 0, "cpu", 4);
  assert_int_equal(p.threads, 2);
  assert_int_equal(planned(&unset, "instance_group {count: 30 kind: KIND_CPU}", 8).threads, 1);
}

static void options_outdo_the_configuration(void **state) {
  struct model_options own = unset;
  own.instances = 2;
  own.processes = 3;
  own.threads = 5;
  struct worker_plan p = planned(
      &own, "instance_group {count: 7} parameters {key: \"intra_op_thread_count\" value: {string_value: \"1\"}}", 8);
  assert_group(&p, 0, "cpu", 2);
  assert_int_equal(p.groups[0].processes, 3);
  assert_int_equal(p.threads, 5);
}

static void threads_are_read_from_the_configuration(void **state) {
  static const char text[] = "parameters {key: \"intra_op_thread_count\" value: {string_value: \"3\"}}";
  assert_int_equal(planned(&unset, text, 8).threads, 3);
  static const char zero[] = "parameters {key: \"intra_op_thread_count\" value: {string_value: \"0\"}}";
  assert_int_equal(planned(&unset, zero, 8).threads, 8);
  static const char *const wrong[] = {"", "-1", "2x", "x", "99999", "99999999999999999999"};
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    char long_text[256];
    snprintf(long_text, sizeof long_text, "parameters {key: \"intra_op_thread_count\" value: {string_value: \"%s\"}}",
             wrong[i]);
    refused(&unset, long_text, MU_INVALID, "intra_op_thread_count");
  }
}

static void gpus_are_devices_of_their_own(void **state) {
  struct worker_plan p =
      planned(&unset, "instance_group [{count: 2 kind: KIND_GPU gpus: [0, 3]}, {kind: KIND_CPU}, {kind: KIND_GPU}]", 8);
  assert_int_equal(p.n_groups, 5);
  assert_group(&p, 0, "gpu:0", 3); /* the last group names none: every GPU */
  assert_group(&p, 1, "gpu:3", 3);
  assert_group(&p, 2, "cpu", 1);
  assert_group(&p, 3, "gpu:1", 1);
  assert_group(&p, 4, "gpu:2", 1);
  assert_string_equal(p.groups[1].device, "gpu:GPU-3");
  assert_string_equal(worker_plan_gpu(p.groups[1].device), "GPU-3");
  assert_null(worker_plan_gpu(p.groups[2].device));
  assert_int_equal(worker_plan_processes(&p), 5);
}

static void a_device_that_is_asked_for_takes_all(void **state) {
  struct model_options own = unset;
  own.device = "gpu:1";
  struct worker_plan p = planned(&own, "instance_group [{count: 2 kind: KIND_GPU gpus: [0, 3]}, {kind: KIND_CPU}]", 8);
  assert_int_equal(p.n_groups, 1);
  assert_group(&p, 0, "gpu:1", 5);
}

static void engines_come_from_options_then_configuration_then_file(void **state) {
  static const char sim[] =
      "backend: \"sim\" max_batch_size: 4 input {name: \"x\" data_type: TYPE_FP32 dims: [4]} "
      "output {name: \"y\" data_type: TYPE_FP32 dims: [4]}";
  assert_string_equal(planned(&unset, sim, 4).engine, "sim");
  assert_string_equal(planned(&unset, "platform: \"onnxruntime_onnx\"", 4).engine, "onnxruntime");
  struct model_options own = unset;
  own.engine = "sim";
  assert_string_equal(planned(&own, "backend: \"onnxruntime\"", 4).engine, "sim");
  own.engine = "warp";
  refused(&own, "", MU_INVALID, "warp");
}

static void too_many_instances_are_refused(void **state) {
  struct model_options own = unset;
  own.instances = CHANNEL_LANES_MAX;
  struct worker_plan p = planned(&own, "", 8);
  assert_group(&p, 0, "cpu", CHANNEL_LANES_MAX);
  own.instances++;
  refused(&own, "", MU_INVALID, "1 to 64");
  refused(&unset, "instance_group {count: 65}", MU_INVALID, "1 to 64");
  refused(&unset, "instance_group [{count: 60}, {count: 5}]", MU_INVALID, "1 to 64");
  refused(&unset, "instance_group [{count: 2147483647}, {count: 2147483647}]", MU_INVALID, "1 to 64");
}

static void gpus_may_have_more_processes_than_the_cpu(void **state) {
  struct model_options own = unset;
  own.processes = 2;
  own.processes_per_gpu = 6;
  struct worker_plan p = planned(&own, "instance_group [{kind: KIND_CPU}, {kind: KIND_GPU gpus: [1]}]", 8);
  assert_group(&p, 0, "cpu", 1);
  assert_int_equal(p.groups[0].processes, 2);
  assert_int_equal(p.groups[1].processes, 6);
  assert_int_equal(worker_plan_processes(&p), 8);
}

static void gpus_that_are_not_there_are_refused(void **state) {
  struct model_options own = unset;
  refused(&own, "instance_group {kind: KIND_GPU gpus: [0, 4]}", MU_NOT_FOUND, "there is no GPU 4");
  own.device = "gpu:7";
  refused(&own, "", MU_NOT_FOUND, "there is no GPU 7");
  own.device = "gpu:0123456789012345678901234567890123456789012345678901234567890123456789";
  refused(&own, "", MU_NOT_FOUND, "there is no GPU");
}

static void plans_say_whether_they_need_gpus(void **state) {
  static const struct {
    const char *device, *text;
    bool wants;
  } rows[] = {
      {"auto", "", false},
      {"auto", "instance_group {kind: KIND_GPU}", true},
      {"cpu", "instance_group {kind: KIND_GPU}", false},
      {"gpu:0", "", true},
      {"auto", "instance_group {gpus: [0]}", true},
      {"auto", "instance_group {kind: KIND_AUTO}", false},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct model_options own = unset;
    struct model_config *config;
    own.device = rows[i].device;
    assert_int_equal(model_config_parse(rows[i].text, strlen(rows[i].text), "config.pbtxt", "m", &config, NULL), MU_OK);
    assert_int_equal(worker_plan_wants_gpus(&own, config, "/m.onnx", "/no/library"), rows[i].wants);
    model_config_free(config);
  }
}

static struct placement_memory memory_of(const struct model_options *options, const char *text, const char *engine) {
  struct model_config *config;
  assert_int_equal(model_config_parse(text, strlen(text), "config.pbtxt", "m", &config, NULL), MU_OK);
  struct placement_memory memory = worker_plan_memory(options, config, engine, 1 << 20);
  model_config_free(config);
  return memory;
}

static void memory_is_estimated_by_files_and_settings(void **state) {
  struct placement_memory memory = memory_of(&unset, "", "onnxruntime");
  assert_int_equal(memory.weights, 1 << 20);
  assert_int_equal(placement_memory_sum(&memory), (500 + 1 + 512) << 20);
  memory = memory_of(&unset, "parameters {key: \"gpu_mem_limit\" value: {string_value: \"3145728\"}}", "onnxruntime");
  assert_int_equal(memory.arena, 2 << 20);
  static const char sim[] =
      "backend: \"sim\" max_batch_size: 4 input {name: \"x\" data_type: TYPE_FP32 dims: [4]} "
      "output {name: \"y\" data_type: TYPE_FP32 dims: [4]} "
      "parameters {key: \"sim.gpu_memory_mib\" value: {string_value: \"100\"}}";
  memory = memory_of(&unset, sim, "sim");
  assert_int_equal(placement_memory_sum(&memory), 600 << 20);
  struct model_options own = unset;
  own.gpu_memory = 77;
  memory = memory_of(&own, "", "onnxruntime");
  assert_int_equal(placement_memory_sum(&memory), 77);
}

static void tokens_are_cores_or_slots(void **state) {
  static const struct {
    struct worker_plan plan; /* of one group */
    uint32_t cores;
    int64_t slots;
    uint32_t of_device, of_batch;
  } rows[] = {
      {{.threads = 2, .groups = {{.device = "cpu", .processes = 1, .instances = 1}}}, 8, 0, 8, 2},
      {{.threads = 16, .groups = {{.device = "cpu", .processes = 1, .instances = 1}}}, 8, 0, 8, 8},
      {{.threads = 1, .groups = {{.device = "cpu", .processes = 1, .instances = 1}}}, 1, 0, 1, 1},
      {{.threads = 4, .groups = {{.device = "cpu", .processes = 1, .instances = 1}}}, 8, 3, 3, 1},
      {{.threads = 4, .groups = {{.device = "gpu:GPU-0", .processes = 4, .instances = 2}}}, 8, 3, PLAN_GPU_TOKENS, 1},
      {{.threads = 4, .overlap = true, .groups = {{.device = "gpu:GPU-0", .processes = 4, .instances = 2}}},
       8,
       3,
       8,
       1},
      {{.threads = 4, .overlap = true, .groups = {{.device = "gpu:GPU-0", .processes = 1, .instances = 1}}},
       8,
       3,
       PLAN_GPU_TOKENS,
       1},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct device_tokens tokens =
        worker_plan_tokens(&rows[i].plan, &rows[i].plan.groups[0], rows[i].cores, rows[i].slots);
    assert_int_equal(tokens.device, rows[i].of_device);
    assert_int_equal(tokens.batch, rows[i].of_batch);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(by_default_one_instance_takes_all_cores),
      cmocka_unit_test(instances_of_the_configuration_share_the_cores),
      cmocka_unit_test(options_outdo_the_configuration),
      cmocka_unit_test(threads_are_read_from_the_configuration),
      cmocka_unit_test(gpus_are_devices_of_their_own),
      cmocka_unit_test(a_device_that_is_asked_for_takes_all),
      cmocka_unit_test(engines_come_from_options_then_configuration_then_file),
      cmocka_unit_test(too_many_instances_are_refused),
      cmocka_unit_test(gpus_may_have_more_processes_than_the_cpu),
      cmocka_unit_test(gpus_that_are_not_there_are_refused),
      cmocka_unit_test(plans_say_whether_they_need_gpus),
      cmocka_unit_test(memory_is_estimated_by_files_and_settings),
      cmocka_unit_test(tokens_are_cores_or_slots),
  };
  return cmocka_run_group_tests(tests, four_gpus, NULL);
}
