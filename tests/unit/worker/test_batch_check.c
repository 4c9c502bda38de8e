#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/log.h"
#include "engine/engine.h"
#include "worker/batch_check.h"
#include "worker/sample.h"

/* What the check says of a model of tests/models. */
static const char *verdict(const char *file, uint32_t max_batch) {
  static char note[BATCH_NOTE_MAX];
  const mu_model_spec spec = {
      .name = "test", .path = file, .device = "cpu", .threads = 1, .instances = 1, .graph_optimization = -1};
  const struct engine_entry *entry = NULL;
  mu_engine_model *model = NULL;
  mu_engine_instance *instance = NULL;
  mu_error err = {{0}};
  assert_int_equal(engine_find("auto", file, &entry, &err), MU_OK);
  if (entry->engine->model_load(&spec, &model, &err) != MU_OK) fail_msg("%s", err.message);
  assert_int_equal(entry->engine->instance_create(model, &instance, &err), MU_OK);
  const mu_model_info *info = entry->engine->model_info(model);
  assert_int_equal(batch_check(entry->engine, instance, info, max_batch, note, &err), MU_OK);
  entry->engine->instance_free(instance);
  entry->engine->model_free(model);
  return note;
}

#define VERDICT(name) verdict(TEST_SOURCE_DIR "/tests/models/" name ".onnx", 32)

static void test_independent_rows_pass(void **state) {
  assert_string_equal(VERDICT("identity"), "");
  assert_string_equal(VERDICT("add"), "");
  assert_string_equal(VERDICT("mlp"), "");
  assert_string_equal(VERDICT("dtypes"), "");          /* all types, BYTES among them */
  assert_string_equal(VERDICT("string_identity"), ""); /* another varying dimension */
  assert_string_equal(VERDICT("embedding"), "");       /* refuses large whole numbers */
  assert_string_equal(VERDICT("wrong_shape"), "");     /* wrong about a length, not about the batch */
  assert_string_equal(verdict(TEST_SOURCE_DIR "/tests/models/mlp.onnx", 2), "");
}

static void test_dynamic_quantisation_is_seen(void **state) {
  const char *note = VERDICT("quantized_mlp");
  assert_non_null(strstr(note, "\"y\" of row"));
  assert_non_null(strstr(note, "beside others"));
  assert_string_not_equal(verdict(TEST_SOURCE_DIR "/tests/models/quantized_mlp.onnx", 2), "");
}

static void test_mixed_rows_are_seen(void **state) { assert_non_null(strstr(VERDICT("mixed"), "beside others")); }

static void test_another_first_dimension_is_seen(void **state) {
  assert_string_equal(VERDICT("not_batched"), "output \"y\" has shape [1,4] for a batch of 4");
  assert_non_null(strstr(VERDICT("nonzero"), "for a batch of 4"));
}

/* ---- engines that are made for the check ------------------------------------------------------------------------- */

static char name[] = "x";
static const mu_tensor_info tensor = {.name = name, .dtype = MU_FP32, .rank = 2, .dims = {-1, 4}};
static const mu_model_info info = {.inputs = &tensor, .n_inputs = 1, .outputs = &tensor, .n_outputs = 1};

static mu_status answer;
static float results[64];

static mu_status run_fake(mu_engine_instance *instance, const mu_input *inputs, size_t n_inputs, mu_output *outputs,
                          size_t n_outputs, mu_error *err) {
  if (answer != MU_OK) return mu_fail(err, answer, "told so");
  outputs[0].tensor = inputs[0].tensor;
  outputs[0].tensor.data = results;
  return MU_OK;
}

static const mu_engine fake = {.api_version = MU_ENGINE_API_VERSION, .name = "fake", .run = run_fake};

static void test_what_says_nothing_is_not_batched(void **state) {
  char note[BATCH_NOTE_MAX];
  mu_error err = {{0}};
  answer = MU_INVALID;
  assert_int_equal(batch_check(&fake, NULL, &info, 8, note, &err), MU_OK);
  assert_non_null(strstr(note, "told so"));
  answer = MU_OK;
  for (size_t i = 0; i < 64; i++) results[i] = __builtin_nanf("");
  assert_int_equal(batch_check(&fake, NULL, &info, 8, note, &err), MU_OK);
  assert_non_null(strstr(note, "no invented input"));
  for (size_t i = 0; i < 64; i++) results[i] = 1;
  assert_int_equal(batch_check(&fake, NULL, &info, 8, note, &err), MU_OK);
  assert_string_equal(note, "");
}

static void test_a_lost_device_is_an_error(void **state) {
  char note[BATCH_NOTE_MAX];
  mu_error err = {{0}};
  answer = MU_IO;
  assert_int_equal(batch_check(&fake, NULL, &info, 8, note, &err), MU_IO);
  assert_string_equal(err.message, "told so");
}

/* ---- samples ----------------------------------------------------------------------------------------------------- */

static void test_rows_of_a_sample(void **state) {
  const mu_tensor_info infos[] = {{.name = name, .dtype = MU_FP32, .rank = 3, .dims = {-1, -1, 2}},
                                  {.name = name, .dtype = MU_BYTES, .rank = 1, .dims = {-1}},
                                  {.name = name, .dtype = MU_INT8, .rank = 1, .dims = {-1}}};
  const struct sample_plan plan = {.batched = true, .rows = 3, .varying = 5, .range = 16, .seed = 4};
  struct sample batch = {0}, again = {0};
  mu_error err;
  assert_int_equal(sample_create(infos, 3, &plan, &batch, &err), MU_OK);
  assert_int_equal(sample_create(infos, 3, &plan, &again, &err), MU_OK);
  assert_int_equal(batch.inputs[0].tensor.dims[1], 5);
  assert_int_equal(batch.inputs[0].tensor.size, 3 * 5 * 2 * 4);
  for (int64_t row = 0; row < 3; row++) {
    struct sample alone = {0};
    assert_int_equal(sample_row(&batch, row, &alone, &err), MU_OK);
    for (size_t i = 0; i < 3; i++) {
      const mu_tensor *one = &alone.inputs[i].tensor, *all = &again.inputs[i].tensor;
      assert_int_equal(one->dims[0], 1);
      assert_int_equal(one->size * 3, all->size);
      assert_memory_equal(one->data, (uint8_t *)all->data + (size_t)row * one->size, one->size);
    }
    assert_in_range(*(int8_t *)alone.inputs[2].tensor.data, 0, 15);
    sample_free(&alone);
  }
  sample_free(&batch);
  sample_free(&again);
}

static void test_samples_are_bounded(void **state) {
  const mu_tensor_info huge[] = {{.name = name, .dtype = MU_FP64, .rank = 2, .dims = {-1, INT64_C(1) << 40}},
                                 {.name = name, .dtype = MU_UINT8, .rank = 2, .dims = {INT64_MAX, INT64_MAX}}};
  const struct sample_plan plan = {.rows = 1, .varying = 1};
  struct sample sample = {0};
  mu_error err;
  assert_int_equal(sample_create(huge, 1, &plan, &sample, &err), MU_TOO_LARGE);
  assert_int_equal(sample_create(huge + 1, 1, &plan, &sample, &err), MU_TOO_LARGE);
  assert_null(sample.inputs);
}

int main(void) {
  log_setup("test", LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_independent_rows_pass),
      cmocka_unit_test(test_dynamic_quantisation_is_seen),
      cmocka_unit_test(test_mixed_rows_are_seen),
      cmocka_unit_test(test_another_first_dimension_is_seen),
      cmocka_unit_test(test_what_says_nothing_is_not_batched),
      cmocka_unit_test(test_a_lost_device_is_an_error),
      cmocka_unit_test(test_rows_of_a_sample),
      cmocka_unit_test(test_samples_are_bounded),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
