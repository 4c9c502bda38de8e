#include "loaded_model.h"

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

static struct loaded_model open_model(const char *path) {
  mu_model_spec spec = model_spec(path);
  return model_open("auto", &spec);
}

static mu_status run(const struct loaded_model *m, const mu_input *in, size_t n_in, mu_output *out, size_t n_out,
                     mu_error *err) {
  return m->engine->run(m->instance, in, n_in, out, n_out, err);
}

/* ---- what the model says of itself ------------------------------------------------------------------------------- */

static void test_info_of_a_varying_model(void **state) {
  struct loaded_model m = open_model(TEST_MODEL("mlp"));
  assert_int_equal(m.info->n_inputs, 1);
  assert_int_equal(m.info->n_outputs, 1);
  const mu_tensor_info *in = &m.info->inputs[0];
  assert_string_equal(in->name, "x");
  assert_int_equal(in->dtype, MU_FP32);
  assert_int_equal(in->rank, 2);
  assert_int_equal(in->dims[0], -1);
  assert_string_equal(in->symbols[0], "N");
  assert_int_equal(in->dims[1], 16);
  assert_null(in->symbols[1]);
  assert_false(in->optional);
  assert_string_equal(m.info->outputs[0].symbols[0], "N");
  assert_false(m.info->rows_independent);
  assert_ptr_equal(strstr(m.info->runtime, "onnxruntime 1."), m.info->runtime);
  assert_non_null(strstr(m.info->runtime, "CPUExecutionProvider"));
  model_close(&m);
}

static void test_info_names_every_dtype(void **state) {
  struct loaded_model m = open_model(TEST_MODEL("dtypes"));
  assert_int_equal(m.info->n_inputs, MU_DTYPE_COUNT - 1);
  for (size_t i = 0; i < m.info->n_inputs; i++) {
    assert_int_equal(m.info->inputs[i].dtype, i + 1); /* the script lists them in the order of mu_dtype */
    assert_int_equal(m.info->outputs[i].dtype, i + 1);
  }
  model_close(&m);
}

/* ---- runs -------------------------------------------------------------------------------------------------------- */

/* Two elements of `size` bytes that differ from each other; small enough to be a valid BOOL, and no NaN. */
static void fill_elements(uint8_t *data, size_t size, mu_dtype dtype) {
  for (size_t i = 0; i < size; i++) data[i] = dtype == MU_BOOL ? (uint8_t)(i & 1) : (uint8_t)(17 * i + 3);
}

static const char wire[] = "\x05\0\0\0a\0b\xff\n\x00\0\0\0"; /* "a\0b\xff\n" and "" */

static void test_every_dtype_comes_back(void **state) {
  struct loaded_model m = open_model(TEST_MODEL("dtypes"));
  uint8_t data[MU_DTYPE_COUNT][16];
  mu_input in[MU_DTYPE_COUNT];
  mu_output out[MU_DTYPE_COUNT];
  size_t n = m.info->n_inputs;
  for (uint32_t i = 0; i < n; i++) {
    mu_dtype dtype = m.info->inputs[i].dtype;
    size_t size = dtype == MU_BYTES ? sizeof wire - 1 : 2 * mu_dtype_size(dtype);
    fill_elements(data[i], size, dtype);
    if (dtype == MU_BYTES) memcpy(data[i], wire, size);
    in[i] = (mu_input){i, {.dtype = dtype, .rank = 2, .dims = {1, 2}, .data = data[i], .size = size}};
    out[i] = (mu_output){.index = i};
  }
  mu_error err;
  for (int round = 0; round < 3; round++) { /* results of the engine's own memory, again and again */
    for (size_t i = 0; i < n; i++) out[i].tensor.data = NULL;
    assert_int_equal(run(&m, in, n, out, n, &err), MU_OK);
    for (size_t i = 0; i < n; i++) {
      assert_int_equal(out[i].tensor.dtype, in[i].tensor.dtype);
      assert_int_equal(out[i].tensor.rank, 2);
      assert_int_equal(out[i].tensor.dims[0], 1);
      assert_int_equal(out[i].tensor.dims[1], 2);
      assert_int_equal(out[i].tensor.size, in[i].tensor.size);
      assert_memory_equal(out[i].tensor.data, data[i], out[i].tensor.size);
    }
  }
  model_close(&m);
}

static void test_outputs_are_written_in_place(void **state) {
  struct loaded_model m = open_model(TEST_MODEL("dtypes"));
  mu_error err;
  for (uint32_t i = 0; i < m.info->n_inputs; i++) {
    mu_dtype dtype = m.info->inputs[i].dtype;
    if (dtype == MU_BYTES) continue;
    uint8_t data[MU_DTYPE_COUNT][64], result[64];
    mu_input in[MU_DTYPE_COUNT];
    for (uint32_t k = 0; k < m.info->n_inputs; k++) { /* the model wants them all */
      mu_dtype each = m.info->inputs[k].dtype;
      size_t size = each == MU_BYTES ? 24 : 6 * mu_dtype_size(each);
      fill_elements(data[k], size, each);
      if (each == MU_BYTES) memset(data[k], 0, size);
      in[k] = (mu_input){k, {.dtype = each, .rank = 2, .dims = {3, 2}, .data = data[k], .size = size}};
    }
    mu_output out = {i, {.dtype = dtype, .rank = 2, .dims = {3, 2}, .data = result, .size = in[i].tensor.size}};
    memset(result, 0xa5, sizeof result);
    assert_int_equal(run(&m, in, m.info->n_inputs, &out, 1, &err), MU_OK);
    assert_ptr_equal(out.tensor.data, result);
    assert_memory_equal(result, data[i], in[i].tensor.size);
    assert_int_equal(result[in[i].tensor.size], 0xa5); /* not a byte further */
  }
  model_close(&m);
}

static void test_two_inputs_by_index(void **state) {
  struct loaded_model m = open_model(TEST_MODEL("add"));
  float a[8] = {1, 2, 3, 4, 5, 6, 7, 8}, b[8] = {10, 20, 30, 40, 50, 60, 70, 80};
  mu_input in[2] = {{1, {MU_FP32, 2, {2, 4}, b, sizeof b}}, {0, {MU_FP32, 2, {2, 4}, a, sizeof a}}};
  mu_output out = {.index = 0};
  mu_error err;
  assert_int_equal(run(&m, in, 2, &out, 1, &err), MU_OK);
  assert_int_equal(out.tensor.size, sizeof a);
  for (int i = 0; i < 8; i++) assert_true(((float *)out.tensor.data)[i] == a[i] + b[i]);
  model_close(&m);
}

/* Random texts, with every byte and of every length, come back in the same wire form. */
static void test_random_texts_come_back(void **state) {
  struct loaded_model m = open_model(TEST_MODEL("string_identity"));
  srand(7);
  uint8_t *data = malloc(1 << 16);
  assert_non_null(data);
  mu_error err;
  for (int round = 0; round < 50; round++) {
    int64_t rows = rand() % 5, columns = rand() % 7;
    size_t size = 0;
    for (int64_t i = 0; i < rows * columns; i++) {
      uint32_t length = (uint32_t)(rand() % 3 == 0 ? 0 : rand() % 300);
      memcpy(data + size, &length, sizeof length);
      size += sizeof length;
      for (uint32_t k = 0; k < length; k++) data[size++] = (uint8_t)rand();
    }
    mu_input in = {0, {MU_BYTES, 2, {rows, columns}, data, size}};
    mu_output out = {.index = 0};
    assert_int_equal(run(&m, &in, 1, &out, 1, &err), MU_OK);
    assert_int_equal(out.tensor.dims[0], rows);
    assert_int_equal(out.tensor.dims[1], columns);
    assert_int_equal(out.tensor.size, size);
    if (size > 0) assert_memory_equal(out.tensor.data, data, size);
  }
  free(data);
  model_close(&m);
}

static void test_output_shape_depends_on_values(void **state) {
  struct loaded_model m = open_model(TEST_MODEL("nonzero"));
  float x[8] = {0, 1, 0, 0, 0, 0, 0, 2};
  mu_input in = {0, {MU_FP32, 2, {2, 4}, x, sizeof x}};
  mu_output out = {.index = 0};
  mu_error err;
  assert_int_equal(run(&m, &in, 1, &out, 1, &err), MU_OK);
  const int64_t where[] = {0, 1, 1, 3};
  assert_int_equal(out.tensor.dims[1], 2);
  assert_int_equal(out.tensor.size, sizeof where);
  assert_memory_equal(out.tensor.data, where, sizeof where);
  memset(x, 0, sizeof x);
  out.tensor.data = NULL;
  assert_int_equal(run(&m, &in, 1, &out, 1, &err), MU_OK);
  assert_int_equal(out.tensor.dims[1], 0);
  assert_int_equal(out.tensor.size, 0);
  model_close(&m);
}

static void test_no_rows(void **state) {
  struct loaded_model m = open_model(TEST_MODEL("identity"));
  mu_input in = {0, {MU_FP32, 2, {0, 16}, NULL, 0}};
  mu_output out = {.index = 0};
  mu_error err;
  assert_int_equal(run(&m, &in, 1, &out, 1, &err), MU_OK);
  assert_int_equal(out.tensor.size, 0);
  model_close(&m);
}

/* ---- what may be wrong with a run -------------------------------------------------------------------------------- */

static void test_a_wrong_run_harms_no_other(void **state) {
  struct loaded_model m = open_model(TEST_MODEL("add"));
  float a[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  const mu_tensor good = {MU_FP32, 2, {2, 4}, a, sizeof a};
  mu_tensor wrong_dims = good, wrong_rank = good, wrong_type = good;
  wrong_dims.dims[0] = 1, wrong_dims.dims[1] = 8;
  wrong_rank.rank = 1, wrong_rank.dims[0] = 8;
  wrong_type.dtype = MU_INT32;
  const struct {
    mu_input in[2];
    size_t n_in;
    uint32_t output;
  } cases[] = {
      {{{0, good}, {1, wrong_dims}}, 2, 0}, {{{0, good}, {1, wrong_rank}}, 2, 0},
      {{{0, wrong_type}, {1, good}}, 2, 0}, {{{0, good}}, 1, 0}, /* one is missing */
      {{{0, good}, {0, good}}, 2, 0},                            /* one twice, the other missing */
      {{{0, good}, {2, good}}, 2, 0},                            /* no such input */
      {{{0, good}, {1, good}}, 2, 1},                            /* no such output */
  };
  mu_error err;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    mu_output out = {.index = cases[i].output};
    memset(&err, 0, sizeof err);
    mu_status status = run(&m, cases[i].in, cases[i].n_in, &out, 1, &err);
    if (status != MU_INVALID) fail_msg("case %zu: status %d: %s", i, status, err.message);
    const mu_input in[2] = {{0, good}, {1, good}};
    out = (mu_output){.index = 0};
    assert_int_equal(run(&m, in, 2, &out, 1, &err), MU_OK);
  }
  model_close(&m);
}

static void test_memory_for_another_shape_is_refused(void **state) {
  struct loaded_model m = open_model(TEST_MODEL("wrong_shape"));
  float x[8] = {1, 2, 3, 4, 5, 6, 7, 8}, y[8] = {0};
  mu_input in = {0, {MU_FP32, 2, {1, 8}, x, sizeof x}};
  mu_output out = {0, {MU_FP32, 2, {1, 8}, y, sizeof y}};
  mu_error err;
  assert_int_not_equal(run(&m, &in, 1, &out, 1, &err), MU_OK);
  out = (mu_output){.index = 0};
  assert_int_equal(run(&m, &in, 1, &out, 1, &err), MU_OK);
  assert_int_equal(out.tensor.dims[1], 4);
  assert_true(((float *)out.tensor.data)[3] == 7);
  out = (mu_output){0, {MU_FP32, 2, {1, 4}, y, 4 * sizeof y[0]}};
  assert_int_equal(run(&m, &in, 1, &out, 1, &err), MU_OK);
  assert_true(y[3] == 7 && y[4] == 0);
  model_close(&m);
}

static void test_values_the_model_refuses(void **state) {
  struct loaded_model m = open_model(TEST_MODEL("embedding"));
  int64_t ids[2] = {19, 20}; /* the table has 20 rows */
  mu_input in = {0, {MU_INT64, 2, {1, 2}, ids, sizeof ids}};
  mu_output out = {.index = 0};
  mu_error err;
  mu_status status = run(&m, &in, 1, &out, 1, &err);
  assert_true(status == MU_INVALID || status == MU_INTERNAL);
  ids[1] = 0;
  assert_int_equal(run(&m, &in, 1, &out, 1, &err), MU_OK);
  model_close(&m);
}

static void test_broken_texts(void **state) {
  struct loaded_model m = open_model(TEST_MODEL("string_identity"));
  static const struct {
    const char *data;
    size_t size;
    int64_t elements;
  } cases[] = {
      {"", 0, 1},            /* nothing there */
      {"\x01\0\0", 3, 1},    /* half a length */
      {"\x02\0\0\0a", 5, 1}, /* shorter than its length */
      {"\xff\xff\xff\xff"
       "a",
       5, 1},                            /* much shorter */
      {"\x01\0\0\0a", 5, 2},             /* one missing */
      {"\x01\0\0\0ab", 6, 1},            /* one byte more */
      {"\x01\0\0\0a\0\0\0\0", 9, 1},     /* one element more */
      {"\0\0\0\0", 4, INT64_C(1) << 40}, /* a shape that nobody could pay for */
      {"\0\0\0\0", 4, INT64_MAX},
  };
  mu_error err;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    uint8_t *exact = malloc(cases[i].size + 1); /* so that a sanitizer sees a read past the end */
    assert_non_null(exact);
    uint8_t *data = exact + 1;
    memcpy(data, cases[i].data, cases[i].size);
    mu_input in = {0, {MU_BYTES, 2, {1, cases[i].elements}, data, cases[i].size}};
    mu_output out = {.index = 0};
    assert_int_equal(run(&m, &in, 1, &out, 1, &err), MU_INVALID);
    free(exact);
  }
  model_close(&m);
}

/* ---- several at a time ------------------------------------------------------------------------------------------- */

struct runner {
  const mu_engine *engine;
  mu_engine_instance *instance;
  float start;
  int failures;
};

static void *run_many(void *argument) {
  struct runner *runner = argument;
  float x[3 * 16];
  for (int round = 0; round < 300; round++) {
    int64_t rows = 1 + round % 3;
    for (int i = 0; i < 3 * 16; i++) x[i] = runner->start + (float)(round + i);
    mu_input in = {0, {MU_FP32, 2, {rows, 16}, x, (size_t)rows * 64}};
    mu_output out = {.index = 0};
    mu_error err;
    bool good = runner->engine->run(runner->instance, &in, 1, &out, 1, &err) == MU_OK &&
                out.tensor.size == in.tensor.size && memcmp(out.tensor.data, x, out.tensor.size) == 0;
    runner->failures += !good;
  }
  return NULL;
}

static void test_instances_run_at_the_same_time(void **state) {
  struct loaded_model m = open_model(TEST_MODEL("identity"));
  struct runner runners[2] = {{m.engine, m.instance, 1000, 0}, {m.engine, NULL, -1000, 0}};
  mu_error err;
  assert_int_equal(m.engine->instance_create(m.model, &runners[1].instance, &err), MU_OK);
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&threads[i], NULL, run_many, &runners[i]), 0);
  for (int i = 0; i < 2; i++) {
    pthread_join(threads[i], NULL);
    assert_int_equal(runners[i].failures, 0);
  }
  m.engine->instance_free(runners[1].instance);
  model_close(&m);
}

static void *run_long(void *argument) {
  struct loaded_model *m = argument;
  int64_t steps = INT64_C(1) << 40; /* days, if nobody stops it */
  mu_input in = {0, {MU_INT64, 1, {1}, &steps, sizeof steps}};
  mu_output out = {.index = 0};
  mu_error err;
  return (void *)(intptr_t)run(m, &in, 1, &out, 1, &err);
}

static void test_stop_ends_a_run(void **state) {
  struct loaded_model m = open_model(TEST_MODEL("slow"));
  pthread_t thread;
  void *result;
  assert_int_equal(pthread_create(&thread, NULL, run_long, &m), 0);
  struct timespec moment = {.tv_nsec = 1000000};
  do { /* a stop before the run has begun is forgotten: so until it has ended */
    m.engine->stop(m.instance);
    nanosleep(&moment, NULL);
  } while (pthread_tryjoin_np(thread, &result) != 0);
  assert_int_equal((intptr_t)result, MU_CANCELED);

  int64_t steps = 5; /* and the instance goes on */
  mu_input in = {0, {MU_INT64, 1, {1}, &steps, sizeof steps}};
  mu_output out = {.index = 0};
  mu_error err;
  assert_int_equal(run(&m, &in, 1, &out, 1, &err), MU_OK);
  assert_true(*(float *)out.tensor.data == 5);
  model_close(&m);
}

/* ---- what may be wrong with a load ------------------------------------------------------------------------------- */

static void check_refusal(const mu_model_spec *spec, mu_status expected, const char *word) {
  mu_error err = {{0}};
  mu_status status = load_status("onnxruntime", spec, &err);
  if (status != expected || strstr(err.message, word) == NULL) {
    fail_msg("expected %d and \"%s\", got %d: %s", expected, word, status, err.message);
  }
}

static void test_files_that_cannot_be_loaded(void **state) {
  char folder[] = "/tmp/muster-test-XXXXXX";
  assert_non_null(mkdtemp(folder));
  char path[64];
  snprintf(path, sizeof path, "%s/broken.onnx", folder);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs("this is no model", file);
  fclose(file);
  mu_model_spec spec = model_spec(path);
  check_refusal(&spec, MU_INVALID, "broken.onnx");
  assert_int_equal(truncate(path, 0), 0);
  mu_error err;
  assert_int_not_equal(load_status("onnxruntime", &spec, &err), MU_OK);
  assert_int_equal(unlink(path), 0);
  check_refusal(&spec, MU_NOT_FOUND, "broken.onnx");
  spec.path = folder;
  assert_int_not_equal(load_status("onnxruntime", &spec, &err), MU_OK);
  spec.path = NULL;
  check_refusal(&spec, MU_INVALID, "no file");
  assert_int_equal(rmdir(folder), 0);
}

static void test_tensors_that_cannot_be_served(void **state) {
  mu_model_spec spec = model_spec(TEST_MODEL("sequence"));
  check_refusal(&spec, MU_UNSUPPORTED, "\"parts\" is a sequence");
  spec = model_spec(TEST_MODEL("float8"));
  check_refusal(&spec, MU_UNSUPPORTED, "FLOAT8E4M3FN");
}

static void test_no_library(void **state) {
  mu_parameter parameters[] = {{"muster.onnxruntime_library", "/nowhere/libonnxruntime.so"}};
  mu_model_spec spec = model_spec(TEST_MODEL("identity"));
  spec.parameters = parameters;
  spec.n_parameters = 1;
  check_refusal(&spec, MU_NOT_FOUND, "/nowhere/libonnxruntime.so");
  check_refusal(&spec, MU_NOT_FOUND, "--onnxruntime-library");
  parameters[0].value = "libc.so.6"; /* a library, but another one */
  check_refusal(&spec, MU_UNSUPPORTED, "no ONNX Runtime");
}

static void test_parameters(void **state) {
  static const struct {
    const char *key, *value;
    mu_status status;
  } cases[] = {
      {"inter_op_thread_count", "2", MU_OK},
      {"inter_op_thread_count", "many", MU_INVALID},
      {"inter_op_thread_count", "-1", MU_INVALID},
      {"execution_mode", "1", MU_OK},
      {"execution_mode", "2", MU_INVALID},
      {"enable_mem_arena", "0", MU_OK},
      {"enable_mem_pattern", "1", MU_OK},
      {"session.disable_prepacking", "1", MU_OK},
      {"memory.enable_memory_arena_shrinkage", "cpu:0", MU_OK},
      {"something of the owner", "x", MU_OK},
  };
  mu_error err;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    const mu_parameter parameter = {cases[i].key, cases[i].value};
    mu_model_spec spec = model_spec(TEST_MODEL("mlp"));
    spec.parameters = &parameter;
    spec.n_parameters = 1;
    assert_int_equal(load_status("onnxruntime", &spec, &err), cases[i].status);
  }
  static const int levels[] = {-1, 0, 1, 2, 99};
  mu_model_spec spec = model_spec(TEST_MODEL("mlp"));
  for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
    spec.graph_optimization = levels[i];
    assert_int_equal(load_status("onnxruntime", &spec, &err), MU_OK);
  }
  spec.graph_optimization = 3;
  assert_int_equal(load_status("onnxruntime", &spec, &err), MU_INVALID);
}

/* The CPU build of the library knows no CUDA, the GPU build finds no such GPU: never a session on the CPU. */
static void test_a_gpu_that_is_not_there(void **state) {
  static const char *const devices[] = {"gpu:999", "gpu:GPU-00000000-0000-0000-0000-000000000000"};
  mu_error err = {{0}};
  for (size_t i = 0; i < sizeof devices / sizeof devices[0]; i++) {
    mu_model_spec spec = model_spec(TEST_MODEL("identity"));
    spec.device = devices[i];
    assert_int_not_equal(load_status("onnxruntime", &spec, &err), MU_OK);
    assert_true(strstr(err.message, "gpu:999") != NULL || strstr(err.message, "GPU-0000") != NULL);
  }
  static const char *const nonsense[] = {"gpu", "gpu:", "tpu:0", "", "gpu:12345678901234567890"};
  for (size_t i = 0; i < sizeof nonsense / sizeof nonsense[0]; i++) {
    mu_model_spec spec = model_spec(TEST_MODEL("identity"));
    spec.device = nonsense[i];
    check_refusal(&spec, MU_INVALID, "device");
  }
}

static void test_gpus_are_found_by_uuid(void **state) {
  mu_error err = {{0}};
  mu_model_spec spec = model_spec(TEST_MODEL("identity"));
  spec.device = "gpu:GPU-b";
  setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-bb", 1);
  check_refusal(&spec, MU_INVALID, "GPU-a,GPU-bb");
  setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b", 1);
  assert_int_not_equal(load_status("onnxruntime", &spec, &err), MU_OK);
  assert_null(strstr(err.message, "not visible"));
  unsetenv("CUDA_VISIBLE_DEVICES");
}

static void test_engines_by_name(void **state) {
  const struct engine_entry *entry = NULL;
  mu_error err;
  assert_int_equal(engine_find("onnxruntime", NULL, &entry, &err), MU_OK);
  assert_string_equal(entry->engine->name, "onnxruntime");
  assert_string_equal(entry->platform, "onnxruntime_onnx");
  assert_int_equal(engine_find("sim", "x.onnx", &entry, &err), MU_OK);
  assert_string_equal(entry->engine->name, "sim");
  assert_int_equal(engine_find("auto", "a/b.onnx", &entry, &err), MU_OK);
  assert_string_equal(entry->engine->name, "onnxruntime");
  assert_int_equal(engine_find("auto", ".onnx", &entry, &err), MU_UNSUPPORTED);
  assert_int_equal(engine_find("auto", "model.pt", &entry, &err), MU_UNSUPPORTED);
  assert_int_equal(engine_find("auto", NULL, &entry, &err), MU_UNSUPPORTED);
  assert_int_equal(engine_find("onxruntime", NULL, &entry, &err), MU_INVALID);
  assert_non_null(strstr(err.message, "onnxruntime, sim"));
}

int main(void) {
  log_setup("test", LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_info_of_a_varying_model),
      cmocka_unit_test(test_info_names_every_dtype),
      cmocka_unit_test(test_every_dtype_comes_back),
      cmocka_unit_test(test_outputs_are_written_in_place),
      cmocka_unit_test(test_two_inputs_by_index),
      cmocka_unit_test(test_random_texts_come_back),
      cmocka_unit_test(test_output_shape_depends_on_values),
      cmocka_unit_test(test_no_rows),
      cmocka_unit_test(test_a_wrong_run_harms_no_other),
      cmocka_unit_test(test_memory_for_another_shape_is_refused),
      cmocka_unit_test(test_values_the_model_refuses),
      cmocka_unit_test(test_broken_texts),
      cmocka_unit_test(test_instances_run_at_the_same_time),
      cmocka_unit_test(test_stop_ends_a_run),
      cmocka_unit_test(test_files_that_cannot_be_loaded),
      cmocka_unit_test(test_tensors_that_cannot_be_served),
      cmocka_unit_test(test_no_library),
      cmocka_unit_test(test_parameters),
      cmocka_unit_test(test_a_gpu_that_is_not_there),
      cmocka_unit_test(test_gpus_are_found_by_uuid),
      cmocka_unit_test(test_engines_by_name),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
