#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "config/options.h"
#include "worker/warmup.h"

#define MODELS TEST_SOURCE_DIR "/tests/models/"

static struct buffer encoded_options;

/* A start message for model file (NULL: none) with this configuration. */
static struct control_worker_start start_of(const char *engine, const char *file, const char *config) {
  return (struct control_worker_start){
      .name = "test",
      .version = 1,
      .path = file != NULL ? file : "",
      .folder = "",
      .config = {config, strlen(config)},
      .options = {encoded_options.data, encoded_options.size},
      .engine = engine,
      .device = "cpu",
      .threads = 1,
      .instances = 2,
      .max_batch = 16,
  };
}

static struct worker_model load(const struct control_worker_start *start) {
  struct worker_model model = {0};
  mu_error err = {{0}};
  if (worker_model_load(start, NULL, &model, &err) != MU_OK) fail_msg("%s", err.message);
  return model;
}

static void check_refusal(const struct control_worker_start *start, mu_status expected, const char *word) {
  struct worker_model model = {0};
  mu_error err = {{0}};
  mu_status status = worker_model_load(start, NULL, &model, &err);
  if (status != expected || strstr(err.message, word) == NULL) {
    fail_msg("expected %d and \"%s\", got %d: %s", expected, word, status, err.message);
  }
  assert_null(model.engine);
}

/* ---- batching ---------------------------------------------------------------------------------------------------- */

static void check_batching(const char *file, const char *config, uint32_t max_batch, const char *note) {
  struct control_worker_start start = start_of("auto", file, config);
  struct worker_model model = load(&start);
  assert_int_equal(model.n_instances, 2);
  assert_int_equal(model.metadata->max_batch, max_batch);
  if (strstr(model.metadata->batch_note, note) == NULL) fail_msg("%s", model.metadata->batch_note);
  if (max_batch > 0) assert_string_equal(model.metadata->batch_note, "");
  worker_model_free(&model);
}

static void test_who_is_batched(void **state) {
  check_batching(MODELS "mlp.onnx", "", 16, "");
  check_batching(MODELS "quantized_mlp.onnx", "", 0, "beside others");
  check_batching(MODELS "not_batched.onnx", "", 0, "for a batch of");
  check_batching(MODELS "fixed.onnx", "", 0, "x");
  /* who says so is obeyed */
  check_batching(MODELS "quantized_mlp.onnx", "max_batch_size: 4", 4, "");
  check_batching(MODELS "mlp.onnx", "max_batch_size: 0", 0, "");
}

/* ---- what the engine gets ---------------------------------------------------------------------------------------- */

static void test_parameters_reach_the_engine(void **state) {
  struct control_worker_start start =
      start_of("auto", MODELS "mlp.onnx", "parameters { key: \"execution_mode\" value { string_value: \"7\" } }");
  check_refusal(&start, MU_INVALID, "execution_mode");
  start.config = (struct control_bytes){"optimization { graph { level: 1 } }", 35};
  struct worker_model model = load(&start);
  worker_model_free(&model);
}

static void test_own_parameters_are_reserved(void **state) {
  struct control_worker_start start =
      start_of("auto", MODELS "mlp.onnx",
               "parameters { key: \"muster.onnxruntime_library\" value { string_value: \"/tmp/x.so\" } }");
  check_refusal(&start, MU_INVALID, "muster.onnxruntime_library");
}

static void test_accelerators(void **state) {
  static const char tensorrt[] =
      "optimization { execution_accelerators { gpu_execution_accelerator { name: \"tensorrt\" "
      "parameters { key: \"precision_mode\" value: \"FP16\" } } } }";
  struct control_worker_start start = start_of("auto", MODELS "mlp.onnx", tensorrt);
  struct worker_model model = load(&start); /* it is for GPUs: on a CPU it does not apply */
  worker_model_free(&model);
  start.device = "gpu:999";
  check_refusal(&start, MU_UNSUPPORTED, "gpu:999");
}

static void test_numbers_from_the_supervisor(void **state) {
  struct control_worker_start start = start_of("auto", MODELS "mlp.onnx", "");
  start.instances = 0;
  check_refusal(&start, MU_INVALID, "instances");
  start.instances = 65;
  check_refusal(&start, MU_INVALID, "instances");
  start.instances = 1;
  start.threads = 0;
  check_refusal(&start, MU_INVALID, "threads");
  start.threads = 1;
  start.engine = "none";
  check_refusal(&start, MU_INVALID, "none");
  start.engine = "auto";
  start.options.size--;
  check_refusal(&start, MU_INVALID, "options");
}

static const char sim_config[] =
    "backend: \"sim\" max_batch_size: 8 "
    "input { name: \"in\" data_type: TYPE_FP32 dims: [ 4 ] } "
    "output { name: \"out\" data_type: TYPE_FP32 dims: [ 4 ] } ";

static void test_sim_gets_its_tensors_from_the_configuration(void **state) {
  struct control_worker_start start = start_of("sim", NULL, sim_config);
  struct worker_model model = load(&start);
  assert_int_equal(model.metadata->max_batch, 8);
  assert_int_equal(model.info->inputs[0].rank, 2);
  assert_int_equal(model.info->inputs[0].dims[0], -1);
  assert_int_equal(model.info->inputs[0].dims[1], 4);
  assert_string_equal(model.metadata->platform, "sim");
  worker_model_free(&model);
}

/* ---- warm-up ----------------------------------------------------------------------------------------------------- */

static mu_status warm(const char *engine, const char *file, const char *config, const char *folder, char *note,
                      mu_error *err) {
  struct control_worker_start start = start_of(engine, file, config);
  struct worker_model model = load(&start);
  mu_status status = warmup_run(&model, folder, note, err);
  worker_model_free(&model);
  return status;
}

static void test_an_invented_warmup_may_be_refused(void **state) {
  char note[WARMUP_NOTE_MAX], config[512];
  mu_error err = {{0}};
  assert_int_equal(warm("auto", MODELS "mlp.onnx", "", "", note, &err), MU_OK);
  assert_string_equal(note, "");
  assert_int_equal(warm("auto", MODELS "string_identity.onnx", "", "", note, &err), MU_OK);
  assert_string_equal(note, "");
  snprintf(config, sizeof config, "%s parameters { key: \"sim.fail_on\" value { string_value: \"0\" } }", sim_config);
  assert_int_equal(warm("sim", NULL, config, "", note, &err), MU_OK);
  assert_non_null(strstr(note, "sim.fail_on"));
}

#define WARMUP(dims, fill)                                                                                     \
  "model_warmup { name: \"first\" batch_size: 3 inputs { key: \"in\" value { data_type: TYPE_FP32 dims: " dims \
  " " fill " } } } "

static void test_a_configured_warmup_must_succeed(void **state) {
  char note[WARMUP_NOTE_MAX], config[1024];
  mu_error err = {{0}};
  static const char *const fills[] = {"zero_data: true", "random_data: true"};
  for (size_t i = 0; i < 2; i++) {
    snprintf(config, sizeof config,
             "%s model_warmup { name: \"first\" batch_size: 3 count: 2 inputs { key: \"in\" "
             "value { data_type: TYPE_FP32 dims: [ 4 ] %s } } }",
             sim_config, fills[i]);
    assert_int_equal(warm("sim", NULL, config, "", note, &err), MU_OK);
  }
  snprintf(config, sizeof config, "%s %s parameters { key: \"sim.fail_on\" value { string_value: \"0\" } }", sim_config,
           WARMUP("[ 4 ]", "zero_data: true"));
  assert_int_equal(warm("sim", NULL, config, "", note, &err), MU_INVALID);
  assert_non_null(strstr(err.message, "first"));
}

static void test_warmup_files(void **state) {
  char folder[] = "/tmp/muster-test-XXXXXX", path[96], config[1024], note[WARMUP_NOTE_MAX];
  mu_error err = {{0}};
  assert_non_null(mkdtemp(folder));
  snprintf(path, sizeof path, "%s/warmup", folder);
  assert_int_equal(mkdir(path, 0700), 0);
  /* sim fails on the value in the file: so what it got is what the file holds, in every row */
  snprintf(config, sizeof config, "%s %s parameters { key: \"sim.fail_on\" value { string_value: \"5\" } }", sim_config,
           WARMUP("[ 4 ]", "input_data_file: \"row\""));
  assert_int_equal(warm("sim", NULL, config, folder, note, &err), MU_NOT_FOUND);
  assert_non_null(strstr(err.message, "warmup/row"));
  snprintf(path, sizeof path, "%s/warmup/row", folder);
  static const struct {
    float row[5];
    size_t size;
    mu_status status;
  } cases[] = {{{4, 5, 6, 7}, 16, MU_OK},
               {{5, 0, 0, 0}, 16, MU_INVALID},
               {{4, 0, 0, 0, 5}, 20, MU_OK}, /* what is behind the input is not read, as for Triton */
               {{0}, 12, MU_INVALID},
               {{0}, 0, MU_INVALID}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fwrite(cases[i].row, 1, cases[i].size, file);
    fclose(file);
    assert_int_equal(warm("sim", NULL, config, folder, note, &err), cases[i].status);
  }
  unlink(path);
  /* neither a folder nor a pipe, which would never let go, is a file */
  assert_int_equal(mkfifo(path, 0600), 0);
  assert_int_equal(warm("sim", NULL, config, folder, note, &err), MU_INVALID);
  assert_non_null(strstr(err.message, "not a regular file"));
  unlink(path);
  assert_int_equal(mkdir(path, 0700), 0);
  assert_int_equal(warm("sim", NULL, config, folder, note, &err), MU_INVALID);
  rmdir(path);
  snprintf(path, sizeof path, "%s/warmup", folder);
  rmdir(path);
  rmdir(folder);
}

/* Texts in a file: as many as the dims say, each behind its length. */
static void test_warmup_files_of_texts(void **state) {
  char folder[] = "/tmp/muster-test-XXXXXX", path[96], note[WARMUP_NOTE_MAX];
  static const char config[] =
      "max_batch_size: 4 model_warmup { name: \"texts\" batch_size: 2 inputs { key: \"in\" value { data_type: "
      "TYPE_STRING dims: [ 2 ] input_data_file: \"texts\" } } } input { name: \"in\" data_type: TYPE_STRING dims: [ 2 "
      "] } output { name: \"out\" data_type: TYPE_STRING dims: [ 2 ] }";
  static const struct {
    const char *bytes;
    size_t size;
    mu_status status;
  } cases[] = {
      {"\3\0\0\0abc\0\0\0\0", 11, MU_OK},
      {"\3\0\0\0abc", 7, MU_INVALID},                  /* one */
      {"\0\0\0\0\0\0\0\0\0\0\0\0", 12, MU_INVALID},    /* three */
      {"\3\0\0\0abc\1\0\0\0", 11, MU_INVALID},         /* ends in an element */
      {"\3\0\0\0abc\377\377\377\377", 11, MU_INVALID}, /* its length is nonsense */
      {"\3\0\0\0abc\0\0", 9, MU_INVALID},              /* ends in a length */
      {"", 0, MU_INVALID},
  };
  mu_error err = {{0}};
  assert_non_null(mkdtemp(folder));
  snprintf(path, sizeof path, "%s/warmup", folder);
  assert_int_equal(mkdir(path, 0700), 0);
  snprintf(path, sizeof path, "%s/warmup/texts", folder);
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fwrite(cases[i].bytes, 1, cases[i].size, file);
    fclose(file);
    mu_status status = warm("sim", NULL, config, folder, note, &err);
    if (status != cases[i].status) fail_msg("case %zu: %d %s", i, status, err.message);
  }
  unlink(path);
  snprintf(path, sizeof path, "%s/warmup", folder);
  rmdir(path);
  rmdir(folder);
}

/* As Triton: without a batch size it is passed over, even if it could not run; zero_data counts whatever it says; and
 * all samples run. */
static void test_which_warmups_run(void **state) {
  char note[WARMUP_NOTE_MAX], config[2048];
  mu_error err = {{0}};
  static const char skipped[] =
      "model_warmup { name: \"skipped\" inputs { key: \"in\" value { data_type: TYPE_FP32 dims: "
      "[ 4 ] input_data_file: \"nowhere\" } } } ";
  snprintf(config, sizeof config, "%s %s", sim_config, skipped);
  assert_int_equal(warm("sim", NULL, config, "/nonexistent", note, &err), MU_OK);
  snprintf(config, sizeof config, "%s %s %s", sim_config, skipped, WARMUP("[ 4 ]", "zero_data: false"));
  assert_int_equal(warm("sim", NULL, config, "/nonexistent", note, &err), MU_OK);
  snprintf(config, sizeof config,
           "%s %s model_warmup { name: \"second\" batch_size: 1 inputs { key: \"in\" value { "
           "data_type: TYPE_FP32 dims: [ 4 ] input_data_file: \"nowhere\" } } }",
           sim_config, WARMUP("[ 4 ]", "random_data: true"));
  assert_int_equal(warm("sim", NULL, config, "/nonexistent", note, &err), MU_NOT_FOUND);
}

static int encode_options(void **state) {
  struct options *options = NULL;
  buffer_init(&encoded_options, 1 << 20);
  if (options_create(&options) != MU_OK) return -1;
  mu_status status = options_encode(options, &encoded_options);
  options_free(options);
  return status == MU_OK ? 0 : -1;
}

static int forget_options(void **state) {
  buffer_free(&encoded_options);
  return 0;
}

int main(void) {
  log_setup("test", LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_who_is_batched),
      cmocka_unit_test(test_parameters_reach_the_engine),
      cmocka_unit_test(test_own_parameters_are_reserved),
      cmocka_unit_test(test_accelerators),
      cmocka_unit_test(test_numbers_from_the_supervisor),
      cmocka_unit_test(test_sim_gets_its_tensors_from_the_configuration),
      cmocka_unit_test(test_an_invented_warmup_may_be_refused),
      cmocka_unit_test(test_a_configured_warmup_must_succeed),
      cmocka_unit_test(test_warmup_files),
      cmocka_unit_test(test_warmup_files_of_texts),
      cmocka_unit_test(test_which_warmups_run),
  };
  return cmocka_run_group_tests(tests, encode_options, forget_options);
}
