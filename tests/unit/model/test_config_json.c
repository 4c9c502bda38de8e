/* JSON of a ModelConfig: the same struct as from the text format, and errors that name the place. */
#include "model/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct model_config *parse(const char *text) {
  struct model_config *config = NULL;
  mu_error err = {""};
  if (model_config_parse(text, strlen(text), "config", "m", &config, &err) != MU_OK)
    fail_msg("%s: %s", text, err.message);
  return config;
}

static void every_form(void **state) {
  struct model_config *config = parse(
      "\n {\"name\": \"m\", \"backend\": \"onnxruntime\", \"max_batch_size\": 8,\n"
      " \"input\": [{\"name\": \"x\", \"data_type\": \"TYPE_FP32\", \"dims\": [\"4\", 1],"
      "  \"reshape\": {\"shape\": [4]}, \"optional\": true}],\n"
      " \"output\": [{\"name\": \"y\", \"dataType\": 11, \"dims\": [2], \"label_filename\": \"l\\u00e4bels.txt\"}],\n"
      " \"version_policy\": {\"specific\": {\"versions\": [\"3\", 1]}},\n"
      " \"instanceGroup\": [{\"kind\": \"KIND_CPU\", \"count\": 2}],\n"
      " \"dynamic_batching\": {\"preferred_batch_size\": [2, 4], \"max_queue_delay_microseconds\": \"100\","
      "  \"priority_levels\": 2, \"default_priority_level\": 1,"
      "  \"priority_queue_policy\": {\"2\": {\"timeout_action\": \"DELAY\", \"max_queue_size\": 7}}},\n"
      " \"parameters\": {\"a\": {\"string_value\": \"1\"}, \"b\": {\"string_value\": \"\"}},\n"
      " \"optimization\": {\"graph\": {\"level\": -1}, \"execution_accelerators\": {\"gpu_execution_accelerator\":"
      "  [{\"name\": \"cuda\", \"parameters\": {\"k\": \"v\"}}]}},\n"
      " \"model_warmup\": [{\"name\": \"w\", \"batch_size\": 1, \"inputs\": {\"x\": {\"data_type\": \"TYPE_FP32\","
      "  \"dims\": [4], \"zero_data\": true}}}]}");
  assert_true(config->has_max_batch_size && config->max_batch_size == 8);
  assert_int_equal(config->n_inputs, 1);
  assert_true(config->inputs[0].dims[0] == 4 && config->inputs[0].dims[1] == 1);
  assert_true(config->inputs[0].has_reshape && config->inputs[0].optional);
  assert_int_equal(config->outputs[0].dtype, MU_FP32);
  assert_string_equal(config->outputs[0].label_filename,
                      "l\xc3\xa4"
                      "bels.txt");
  assert_true(config->version_policy == VERSION_SPECIFIC && config->n_versions == 2);
  assert_true(config->instance_groups[0].kind == INSTANCE_CPU && config->instance_groups[0].count == 2);
  assert_true(config->has_max_queue_delay && config->max_queue_delay_us == 100);
  assert_int_equal(config->priority_queue_policies[0].level, 2);
  assert_true(config->priority_queue_policies[0].policy.delay);
  assert_string_equal(model_config_parameter(config, "a"), "1");
  assert_string_equal(model_config_parameter(config, "b"), "");
  assert_true(config->has_graph_level && config->graph_level == -1);
  assert_string_equal(config->gpu_accelerators[0].parameters[0].value, "v");
  assert_string_equal(config->warmups[0].inputs[0].name, "x");
  assert_int_equal(config->n_warnings, 0);
  model_config_free(config);
}

/* Clients send back what they were given, where every field is written. */
static void defaults_are_as_good_as_nothing(void **state) {
  struct model_config *config = parse(
      "{\"name\": \"\", \"platform\": null, \"runtime\": \"\", \"batch_input\": [], \"sequence_batching\": null,"
      " \"input\": [], \"metric_tags\": {}, \"cc_model_filenames\": {}, \"default_model_filename\": \"\","
      " \"optimization\": {\"eager_batching\": false, \"gather_kernel_buffer_threshold\": 0},"
      " \"output\": [{\"name\": \"y\", \"data_type\": \"TYPE_FP32\", \"dims\": [1], \"label_filename\": \"\"}],"
      " \"dynamic_batching\": {\"max_queue_delay_microseconds\": 0}}");
  assert_int_equal(config->n_warnings, 0);
  assert_int_equal(config->n_inputs, 0);
  assert_string_equal(config->name, "m");
  assert_null(config->outputs[0].label_filename);
  assert_true(config->has_dynamic_batching && !config->has_max_queue_delay);
  model_config_free(config);
}

static void printed_and_read_again(void **state) {
  static char name[] = "m";
  struct model_config *config = parse(
      "{\"max_batch_size\": 4, \"dynamic_batching\": {}, \"parameters\": {\"a\":"
      " {\"string_value\": \"b\"}}}");
  const struct model model = {.name = name, .version = 1, .config = config};
  json_t *document = model_config_json(&model);
  char *text = json_dumps(document, 0);
  struct model_config *again = parse(text);
  const struct model other = {.name = name, .version = 1, .config = again};
  json_t *second = model_config_json(&other);
  assert_true(json_equal(document, second));
  json_decref(document);
  json_decref(second);
  free(text);
  model_config_free(config);
  model_config_free(again);
}

static void what_is_wrong_has_its_place(void **state) {
  static const struct {
    const char *text;
    mu_status status;
    const char *error;
  } cases[] = {
      {"{", MU_INVALID, "config: byte 1"},
      {"{}x", MU_INVALID, "config: byte 2"},
      {"{\"max_batch_size\": 1,}", MU_INVALID, "config: byte"},
      {"{\"max_batch\": 1}", MU_INVALID, "config:1:15: ModelConfig has no field 'max_batch'"},
      {"{\n\n  \"backend\": 5}", MU_INVALID, "config:3:14: backend must be a string"},
      {"{\"max_batch_size\": \"x\"}", MU_INVALID, "max_batch_size must be an integer"},
      {"{\"max_batch_size\": \"-\"}", MU_INVALID, "max_batch_size must be an integer"},
      {"{\"max_batch_size\": \"99999999999999999999\"}", MU_INVALID, "max_batch_size must be an integer"},
      {"{\"max_batch_size\": 1.5}", MU_INVALID, "max_batch_size must be an integer"},
      {"{\"max_batch_size\": -1}", MU_INVALID, "max_batch_size must be an integer"},
      {"{\"max_batch_size\": {}}", MU_INVALID, "max_batch_size must be an integer"},
      {"{\"max_batch_size\": [1]}", MU_INVALID, "takes one value, not a list"},
      {"{\"max_batch_size\": 1, \"max_batch_size\": 2}", MU_INVALID, "max_batch_size is written twice"},
      {"{\"maxBatchSize\": 1, \"max_batch_size\": 2}", MU_INVALID, "max_batch_size is written twice"},
      {"{\"input\": [[]]}", MU_INVALID, "config:1:12: neither null nor an array can stand here"},
      {"{\"input\": [null]}", MU_INVALID, "neither null nor an array can stand here"},
      {"{\"parameters\": {\"a\": null}}", MU_INVALID, "neither null nor an array can stand here"},
      {"{\"parameters\": [1]}", MU_INVALID, "parameters must be a message"},
      {"{\"input\": [{\"name\": \"x\", \"data_type\": \"TYPE_FP23\", \"dims\": [1]}]}", MU_INVALID,
       "did you mean TYPE_FP32"},
      {"{\"sequence_batching\": {}}", MU_UNSUPPORTED, "sequence_batching is not supported"},
      {"{\"name\": \"other\"}", MU_INVALID, "the name is 'other'"},
      {"{\"default_model_filename\": \"/etc/passwd\"}", MU_INVALID, "below the model's folder"},
      {"{\"backend\": \"a\\u0000b\"}", MU_INVALID, "NUL"},
      {"{\"max_batch_size\\u0000x\": 1}", MU_INVALID, "NUL"},
      {"{\"backend\": \"\xff\"}", MU_INVALID, "byte"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct model_config *config = NULL;
    mu_error err = {""};
    mu_status status = model_config_parse(cases[i].text, strlen(cases[i].text), "config", "m", &config, &err);
    if (status != cases[i].status || strstr(err.message, cases[i].error) == NULL)
      fail_msg("%s: %d '%s'", cases[i].text, status, err.message);
    assert_null(config);
  }
}

static void deep_and_large(void **state) {
  static char text[MODEL_CONFIG_TEXT_MAX + 2];
  struct model_config *config = NULL;
  mu_error err = {""};
  size_t n = 0;
  for (int i = 0; i < 200; i++) n += (size_t)sprintf(text + n, "{\"input\":[");
  assert_int_equal(model_config_parse(text, n, "config", "m", &config, &err), MU_INVALID);
  memset(text, ' ', sizeof text);
  text[0] = '{';
  assert_int_equal(model_config_parse(text, sizeof text, "config", "m", &config, &err), MU_INVALID);
  n = (size_t)sprintf(text, "{\"version_policy\":{\"specific\":{\"versions\":[1");
  while (n < MODEL_CONFIG_TEXT_MAX - 10) n += (size_t)sprintf(text + n, ",1");
  n += (size_t)sprintf(text + n, "]}}}");
  mu_status status = model_config_parse(text, n, "config", "m", &config, &err);
  assert_true(status == MU_OK || status == MU_INVALID);
  model_config_free(config);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_form),
      cmocka_unit_test(defaults_are_as_good_as_nothing),
      cmocka_unit_test(printed_and_read_again),
      cmocka_unit_test(what_is_wrong_has_its_place),
      cmocka_unit_test(deep_and_large),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
