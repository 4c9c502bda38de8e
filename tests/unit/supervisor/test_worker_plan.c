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

/* Nothing asked for. */
static const struct model_options unset = {
    .name = "m", .processes = 1, .instances = 0, .threads = 0, .engine = "auto", .device = "auto"};

static mu_status plan(const struct model_options *options, const char *text, uint32_t cores,
                      struct worker_plan *ret_plan, mu_error *err) {
  struct model_config *config;
  if (model_config_parse(text, strlen(text), "config.pbtxt", "m", &config, err) != MU_OK) fail_msg("%s", err->message);
  mu_status status = worker_plan_make(options, config, "/models/m/1/model.onnx", cores, ret_plan, err);
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

static void assert_group(const struct worker_plan *p, uint32_t index, const char *device, uint32_t instances) {
  assert_true(index < p->n_groups);
  assert_string_equal(p->groups[index].device, device);
  assert_int_equal(p->groups[index].instances, instances);
}

static void by_default_one_instance_takes_all_cores(void **state) {
  struct worker_plan p = planned(&unset, "", 8);
  assert_string_equal(p.engine, "onnxruntime");
  assert_int_equal(p.processes, 1);
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
  assert_int_equal(p.processes, 3);
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
  assert_int_equal(p.n_groups, 3);
  assert_group(&p, 0, "gpu:0", 3); /* the last group names none: the first GPU */
  assert_group(&p, 1, "gpu:3", 2);
  assert_group(&p, 2, "cpu", 1);
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

static void a_long_device_name_is_refused(void **state) {
  struct model_options own = unset;
  own.device = "gpu:0123456789012345678901234567890123456789012345678901234567890123456789";
  refused(&own, "", MU_INVALID, "too long");
}

static void tokens_are_cores_or_slots(void **state) {
  static const struct {
    struct worker_plan plan; /* of one group */
    uint32_t cores;
    int64_t slots;
    uint32_t of_device, of_batch;
  } rows[] = {
      {{.threads = 2, .groups = {{"cpu", 1}}}, 8, 0, 8, 2},
      {{.threads = 16, .groups = {{"cpu", 1}}}, 8, 0, 8, 8},
      {{.threads = 1, .groups = {{"cpu", 1}}}, 1, 0, 1, 1},
      {{.threads = 4, .groups = {{"cpu", 1}}}, 8, 3, 3, 1},
      {{.processes = 4, .threads = 4, .groups = {{"gpu:0", 2}}}, 8, 3, PLAN_GPU_TOKENS, 1},
      {{.processes = 4, .threads = 4, .overlap = true, .groups = {{"gpu:0", 2}}}, 8, 3, 8, 1},
      {{.processes = 1, .threads = 4, .overlap = true, .groups = {{"gpu:0", 1}}}, 8, 3, PLAN_GPU_TOKENS, 1},
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
      cmocka_unit_test(a_long_device_name_is_refused),
      cmocka_unit_test(tokens_are_cores_or_slots),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
