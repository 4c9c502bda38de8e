/* What a configuration and a loaded model make together, and the form in which it travels. */
#include "model/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { TENSORS_MAX = 3 };

/* A model as an engine would describe it. */
struct declared {
  mu_tensor_info inputs[TENSORS_MAX], outputs[TENSORS_MAX];
  mu_model_info info;
};

/* "name FP32 N,3,-1 ?": name, type, dimensions (a word is a varying one's name), and whether it is optional. */
static void declare(mu_tensor_info *info, const char *text) {
  char copy[128], *rest = NULL;
  snprintf(copy, sizeof copy, "%s", text);
  *info = (mu_tensor_info){.name = strdup(strtok_r(copy, " ", &rest))};
  const char *dtype = strtok_r(NULL, " ", &rest);
  info->dtype = mu_dtype_parse(dtype, strlen(dtype));
  char *dims = strtok_r(NULL, " ", &rest), *each = NULL;
  info->optional = strtok_r(NULL, " ", &rest) != NULL;
  for (char *dim = strtok_r(dims, ",", &each); dim != NULL; dim = strtok_r(NULL, ",", &each)) {
    bool named = dim[0] >= 'A';
    info->dims[info->rank] = named ? -1 : atoll(dim);
    if (named && strcmp(dim, "SCALAR") == 0) return;
    info->symbols[info->rank++] = named ? strdup(dim) : NULL;
  }
}

static struct declared *declare_model(const char *const *inputs, const char *const *outputs) {
  struct declared *d = calloc(1, sizeof *d);
  assert_non_null(d);
  for (; d->info.n_inputs < TENSORS_MAX && inputs[d->info.n_inputs] != NULL; d->info.n_inputs++)
    declare(&d->inputs[d->info.n_inputs], inputs[d->info.n_inputs]);
  for (; d->info.n_outputs < TENSORS_MAX && outputs[d->info.n_outputs] != NULL; d->info.n_outputs++)
    declare(&d->outputs[d->info.n_outputs], outputs[d->info.n_outputs]);
  d->info.inputs = d->inputs;
  d->info.outputs = d->outputs;
  d->info.runtime = "engine 1.0";
  return d;
}
#define TENSORS(...) ((const char *const[TENSORS_MAX + 1]){__VA_ARGS__})

static void undeclare(struct declared *d) {
  for (int i = 0; i < 2 * TENSORS_MAX; i++) {
    mu_tensor_info *info = i < TENSORS_MAX ? &d->inputs[i] : &d->outputs[i - TENSORS_MAX];
    for (uint32_t j = 0; j < info->rank; j++) free(info->symbols[j]);
    free(info->name);
  }
  free(d);
}

static mu_status create(struct declared *d, const char *text, uint32_t default_max_batch,
                        struct model_metadata **ret_metadata, mu_error *err) {
  struct model_config *config = NULL;
  if (model_config_parse(text, strlen(text), "c", "m", &config, err) != MU_OK) fail_msg("%s", err->message);
  mu_status status = model_metadata_create(config, &d->info, "onnxruntime_onnx", default_max_batch, ret_metadata, err);
  model_config_free(config); /* the metadata must not hold on to it */
  undeclare(d);
  return status;
}

static struct model_metadata *make(struct declared *d, const char *text, uint32_t default_max_batch) {
  struct model_metadata *metadata = NULL;
  mu_error err = {{0}};
  if (create(d, text, default_max_batch, &metadata, &err) != MU_OK) fail_msg("%s: %s", text, err.message);
  return metadata;
}

static void assert_fails(struct declared *d, const char *text, mu_status wanted, const char *expected) {
  struct model_metadata *metadata = NULL;
  mu_error err = {{0}};
  mu_status status = create(d, text, 8, &metadata, &err);
  if (status != wanted) fail_msg("%s: status %d: %s", text, status, err.message);
  assert_null(metadata);
  if (strcmp(err.message, expected) != 0) fail_msg("\"%s\" is not \"%s\"", err.message, expected);
}

static void assert_shape(const int64_t *dims, uint32_t rank, const char *expected) {
  char text[128];
  assert_string_equal(shape_text(dims, rank, text, sizeof text), expected);
}

static void test_automatic_batching(void **state) {
  static const struct {
    const char *inputs[2], *outputs[2], *config;
    uint32_t max_batch;
    const char *note;
  } cases[] = {
      {{"x FP32 N,3", "m INT64 N"}, {"y FP32 N,10"}, "", 8, ""},
      {{"x FP32 -1,3"}, {"y FP32 -1,10"}, "", 8, ""},
      {{"x FP32 N,3"}, {"y FP32 N,10"}, "input { name: 'x' dims: 3 } output { name: 'y' }", 8, ""},
      {{"x FP32 N,3"}, {"y FP32 -1,10"}, "", 8, ""}, /* a missing name contradicts nothing: the self-check decides */
      {{"x FP32 unk__1,3"}, {"y FP32 unk__2,10"}, "", 8, ""}, /* nor does one that an exporter made up */
      {{"x FP32 N,3"}, {"y FP32 boxes,10"}, "", 0, "the first dimension of 'x' is 'N', that of output 'y' is 'boxes'"},
      {{"x FP32 -1,3"},
       {"y FP32 N", "z FP32 M"},
       "",
       0,
       "the first dimension of 'y' is 'N', that of output 'z' is 'M'"},
      {{"x FP32 N,3", "z FP32 M,3"},
       {"y FP32 N"},
       "",
       0,
       "the first dimension of 'x' is 'N', that of input 'z' is 'M'"},
      {{"x FP32 1,3"}, {"y FP32 N,10"}, "", 0, "input 'x' [1,3] has no varying first dimension"},
      {{"x FP32 N,3"}, {"y FP32 SCALAR"}, "", 0, "output 'y' [] has no varying first dimension"},
      {{"x FP32 N,3"}, {"y FP32 N,N"}, "", 0, "output 'y' has the first dimension 'N' twice"},
      {{"x FP32 -1,-1"}, {"y FP32 -1,-1"}, "", 8, ""},
      {{0}, {"y FP32 N"}, "", 0, "the model has no input"},
      {{"x FP32 N,3"},
       {"y FP32 N"},
       "input { name: 'x' dims: [ -1, 3 ] }",
       0,
       "the configuration gives all dimensions of input 'x' and no max_batch_size"},
      {{"x FP32 N,3"}, {"y FP32 N"}, "max_batch_size: 0", 0, ""},
      {{"x FP32 N,3"}, {"y FP32 N"}, "max_batch_size: 4", 4, ""},
      {{"x FP32 N,3"}, {"y FP32 M"}, "max_batch_size: 4", 4, ""},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct declared *d = declare_model(TENSORS(cases[i].inputs[0], cases[i].inputs[1]),
                                       TENSORS(cases[i].outputs[0], cases[i].outputs[1]));
    struct model_metadata *metadata = make(d, cases[i].config, 8);
    assert_int_equal(metadata->max_batch, cases[i].max_batch);
    assert_string_equal(metadata->batch_note, cases[i].note);
    model_metadata_free(metadata);
  }
  struct model_metadata *metadata = make(declare_model(TENSORS("x FP32 N"), TENSORS("y FP32 N")), "", 0);
  assert_int_equal(metadata->max_batch, 0);
  assert_string_equal(metadata->batch_note, "batching is switched off");
  model_metadata_free(metadata);
  model_metadata_free(NULL);
}

static void test_without_config(void **state) {
  struct model_metadata *metadata =
      make(declare_model(TENSORS("x FP32 N,3,H", "o BYTES N ?"), TENSORS("y INT64 N")), "", 8);
  assert_string_equal(metadata->runtime, "engine 1.0");
  assert_string_equal(metadata->platform, "onnxruntime_onnx");
  assert_true(metadata->n_inputs == 2 && metadata->n_outputs == 1);
  const struct model_tensor *x = &metadata->inputs[0];
  assert_shape(x->dims, x->rank, "[-1,3,-1]");
  assert_shape(x->info.dims, x->info.rank, "[-1,3,-1]");
  assert_string_equal(x->info.symbols[2], "H");
  assert_true(x->served && !x->reshaped && !x->info.optional);
  assert_true(metadata->inputs[1].info.optional && metadata->inputs[1].served);
  assert_int_equal(model_metadata_find_input(metadata, "xy", 1), 0);
  assert_int_equal(model_metadata_find_input(metadata, "o", 1), 1);
  assert_int_equal(model_metadata_find_input(metadata, "y", 1), -1);
  assert_int_equal(model_metadata_find_input(metadata, "", 0), -1);
  assert_int_equal(model_metadata_find_output(metadata, "y", 1), 0);

  assert_int_equal(model_metadata_disable_batching(metadata, "rows influence one another"), MU_OK);
  assert_int_equal(metadata->max_batch, 0);
  assert_string_equal(metadata->batch_note, "rows influence one another");
  model_metadata_free(metadata);
}

static void test_narrowing_and_reshape(void **state) {
  struct model_metadata *metadata =
      make(declare_model(TENSORS("x FP32 N,H,W", "z FP32 N,2,C,3"), TENSORS("y FP32 N,1,K")),
           "max_batch_size: 4\n"
           "input { name: 'z' dims: [ 1, 2, -1, 3, 1 ] reshape { shape: [ 2, -1, 3 ] } }\n"
           "input { name: 'x' dims: [ 224, -1 ] }\n"
           "output { name: 'y' dims: [ -1 ] reshape { shape: [ 1, -1 ] } }",
           8);
  const struct model_tensor *x = &metadata->inputs[0], *z = &metadata->inputs[1], *y = &metadata->outputs[0];
  assert_shape(x->dims, x->rank, "[-1,224,-1]");
  assert_shape(x->info.dims, x->info.rank, "[-1,-1,-1]");
  assert_shape(z->dims, z->rank, "[-1,1,2,-1,3,1]");
  assert_shape(z->info.dims, z->info.rank, "[-1,2,-1,3]");
  assert_true(!x->reshaped && z->reshaped && y->reshaped);

  int64_t dims[MU_MAX_RANK] = {0};
  uint32_t rank = 0;
  assert_true(model_tensor_to_engine(z, (const int64_t[]){5, 1, 2, 7, 3, 1}, 6, dims, &rank));
  assert_shape(dims, rank, "[5,2,7,3]");
  assert_true(model_tensor_to_client(y, (const int64_t[]){5, 1, 9}, 3, dims, &rank));
  assert_shape(dims, rank, "[5,9]");
  assert_true(model_tensor_to_engine(x, (const int64_t[]){0, 224, 1}, 3, dims, &rank));
  assert_shape(dims, rank, "[0,224,1]");
  assert_false(model_tensor_to_engine(x, (const int64_t[]){1, 223, 1}, 3, dims, &rank));
  assert_false(model_tensor_to_engine(x, (const int64_t[]){1, 224}, 2, dims, &rank));
  assert_false(model_tensor_to_engine(x, (const int64_t[]){1, 224, -1}, 3, dims, &rank));
  assert_false(model_tensor_to_client(y, (const int64_t[]){5, 2, 9}, 3, dims, &rank));
  assert_shape(dims, rank, "[0,224,1]");
  model_metadata_free(metadata);
}

static void test_fewer_tensors(void **state) {
  struct model_metadata *metadata =
      make(declare_model(TENSORS("o FP32 N ?", "x FP32 N"), TENSORS("a FP32 N", "b FP32 7", "c FP32 N")),
           "max_batch_size: 4 input { name: 'x' } output { name: 'c' } output { name: 'a' }", 8);
  assert_true(metadata->n_inputs == 2 && metadata->n_outputs == 3); /* b does not batch, but nobody can ask for it */
  assert_int_equal(model_metadata_find_input(metadata, "o", 1), -1);
  assert_int_equal(model_metadata_find_input(metadata, "x", 1), 1);
  assert_int_equal(model_metadata_find_output(metadata, "b", 1), -1);
  assert_int_equal(model_metadata_find_output(metadata, "c", 1), 2);
  struct model model = {.name = "m", .version = 3, .metadata = metadata};
  json_t *json = model_metadata_json(&model, (const int64_t[]){1, 3}, 2);
  char *text = json_dumps(json, JSON_COMPACT);
  assert_string_equal(text,
                      "{\"name\":\"m\",\"versions\":[\"1\",\"3\"],\"platform\":\"onnxruntime_onnx\","
                      "\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[-1]}],"
                      "\"outputs\":[{\"name\":\"a\",\"datatype\":\"FP32\",\"shape\":[-1]},"
                      "{\"name\":\"c\",\"datatype\":\"FP32\",\"shape\":[-1]}]}");
  free(text);
  json_decref(json);
  model_metadata_free(metadata);
}

static void test_contradictions(void **state) {
  static const struct {
    const char *config, *expected;
  } cases[] = {
      {"input { name: 'q' }", "c:1: the model has no input 'q'; it has 'x', 'o'"},
      {"\noutput { name: 'x' }", "c:2: the model has no output 'x'; it has 'y', 'f'"},
      {"input { name: 'o' }", "c: the model needs input 'x', which is not described"},
      {"input { name: 'x' data_type: TYPE_INT32 }", "c:1: input 'x' is TYPE_INT32 here, but TYPE_FP32 in the model"},
      {"output { name: 'y' data_type: TYPE_FP32 }", "c:1: output 'y' is TYPE_FP32 here, but TYPE_STRING in the model"},
      {"input { name: 'x' optional: true }", "c:1: input 'x' is optional here, but the model needs it"},
      {"max_batch_size: 4 output { name: 'y' } input { name: 'x' dims: [ -1, 3 ] }",
       "c:1: input 'x': dims [-1,3], but the model expects [3] behind the batch dimension"},
      {"max_batch_size: 4 output { name: 'y' } input { name: 'x' dims: 4 }",
       "c:1: input 'x': dims [4], but the model expects [3] behind the batch dimension"},
      {"max_batch_size: 4 output { name: 'y' } input { name: 'x' dims: -1 }",
       "c:1: input 'x': dims [-1], but the model expects [3] behind the batch dimension"},
      {"max_batch_size: 0 input { name: 'x' dims: 3 }", "c:1: input 'x': dims [3], but the model expects [-1,3]"},
      {"max_batch_size: 4 output { name: 'y' } input { name: 'x' dims: 6 reshape { shape: [ 2, 3 ] } }",
       "c:1: input 'x': reshape [2,3], but the model expects [3] behind the batch dimension"},
      {"max_batch_size: 4",
       "c: max_batch_size is 4, but output 'f' [2] of the model has no varying first dimension for "
       "the batch"},
      {"model_warmup { name: 'w' inputs { key: 'q' value { data_type: TYPE_FP32 dims: 3 zero_data: true } } }",
       "c: model_warmup 'w': the model has no input 'q'"},
      {"model_warmup { name: 'w' inputs { key: 'x' value { data_type: TYPE_INT8 dims: 3 zero_data: true } } }",
       "c: model_warmup 'w': input 'x' is TYPE_INT8 here, but TYPE_FP32 in the model"},
      {"model_warmup { name: 'w' inputs { key: 'x' value { data_type: TYPE_FP32 dims: 3 zero_data: true } } }",
       "c: model_warmup 'w': dims [3] of input 'x' do not fit [-1,3]"},
      {"model_warmup { name: 'w' inputs { key: 'o' value { data_type: TYPE_FP32 dims: [] zero_data: true } } }",
       "c: model_warmup 'w': dims [] of input 'o' do not fit [-1]"},
      {"model_warmup { name: 'w' inputs { key: 'o' value { data_type: TYPE_FP32 dims: 9 zero_data: true } } }",
       "c: model_warmup 'w' does not give input 'x'"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    assert_fails(declare_model(TENSORS("x FP32 N,3", "o FP32 N ?"), TENSORS("y BYTES N", "f FP32 2")), cases[i].config,
                 MU_INVALID, cases[i].expected);
  model_metadata_free(
      make(declare_model(TENSORS("x FP32 N,3"), TENSORS("y FP32 N")),
           "model_warmup { inputs { key: 'x' value { data_type: TYPE_FP32 dims: 3 zero_data: true } } }", 8));
}

static void test_models_that_cannot_be_described(void **state) {
  assert_fails(declare_model(TENSORS("a\xff FP32 N"), TENSORS("y FP32 N")), "", MU_UNSUPPORTED,
               "the model has an input whose name is not valid UTF-8");
  assert_fails(declare_model(TENSORS("a FP32 N"), TENSORS("y FP32 A\xff")), "", MU_UNSUPPORTED,
               "output 'y' has a dimension whose name is not valid UTF-8");
  struct declared *d = declare_model(TENSORS("a FP32 N"), TENSORS("y FP32 N"));
  d->info.n_outputs = MODEL_TENSORS_MAX + 1; /* refused before any of them is looked at */
  assert_fails(d, "", MU_UNSUPPORTED, "the model has 65 outputs, more than 64");
}

/* A note that is cut within a character must still be one that the other process accepts. */
static void test_long_names(void **state) {
  for (int shift = 0; shift < 2; shift++) {
    struct declared *d = declare_model(TENSORS("a FP32 N"), TENSORS("y FP32 N"));
    char *name = calloc(1, 701);
    assert_non_null(name);
    memset(name, 'n', (size_t)shift);
    for (int i = shift; i + 2 <= 700; i += 2) memcpy(name + i, "\xc3\xa9", 2);
    free(d->inputs[0].name);
    d->inputs[0].name = name;
    d->inputs[0].dims[0] = 7;
    struct model_metadata *metadata = make(d, "", 8), *back = NULL;
    assert_true(strlen(metadata->batch_note) > 500);
    struct buffer bytes;
    buffer_init(&bytes, 1 << 20);
    assert_int_equal(model_metadata_encode(metadata, &bytes), MU_OK);
    assert_int_equal(model_metadata_decode(bytes.data, bytes.size, &back), MU_OK);
    model_metadata_free(back);
    model_metadata_free(metadata);
    buffer_free(&bytes);
  }
}

static void test_config_json(void **state) {
  static const char text[] = "input { name: 'z' dims: [ 6 ] reshape { shape: [ 2, 3 ] } format: FORMAT_NCHW }";
  struct model_metadata *metadata =
      make(declare_model(TENSORS("z FP32 N,2,3"), TENSORS("y BYTES N,4", "w FP32 N")), text, 8);
  struct model_config *config = NULL;
  assert_int_equal(model_config_parse(text, strlen(text), "c", "m", &config, NULL), MU_OK);
  struct model model = {.name = "m", .config = config, .metadata = metadata};
  json_t *json = model_config_json(&model);
  assert_int_equal(json_integer_value(json_object_get(json, "max_batch_size")), 8);
  assert_non_null(json_object_get(json, "dynamic_batching"));
  assert_string_equal(json_string_value(json_object_get(json, "default_model_filename")), "model.onnx");
  char *input = json_dumps(json_object_get(json, "input"), JSON_COMPACT);
  char *output = json_dumps(json_array_get(json_object_get(json, "output"), 0), JSON_COMPACT);
  assert_string_equal(input,
                      "[{\"name\":\"z\",\"data_type\":\"TYPE_FP32\",\"format\":\"FORMAT_NCHW\",\"dims\":[6],"
                      "\"reshape\":{\"shape\":[2,3]},\"is_shape_tensor\":false,\"allow_ragged_batch\":false,"
                      "\"optional\":false,\"is_non_linear_format_io\":false}]");
  assert_string_equal(output,
                      "{\"name\":\"y\",\"data_type\":\"TYPE_STRING\",\"dims\":[4],\"label_filename\":\"\","
                      "\"is_shape_tensor\":false,\"is_non_linear_format_io\":false}");
  free(input);
  free(output);
  json_decref(json);

  assert_int_equal(model_metadata_disable_batching(metadata, ""), MU_OK);
  json = model_config_json(&model);
  assert_int_equal(json_integer_value(json_object_get(json, "max_batch_size")), 0);
  assert_null(json_object_get(json, "dynamic_batching"));
  assert_int_equal(json_array_size(json_object_get(json_array_get(json_object_get(json, "output"), 0), "dims")), 2);
  json_decref(json);
  model_config_free(config);
  model_metadata_free(metadata);
}

static void test_not_loaded(void **state) {
  struct model model = {.name = "m"};
  json_t *json = model_metadata_json(&model, NULL, 0);
  assert_int_equal(json_array_size(json_object_get(json, "versions")), 0);
  assert_int_equal(json_array_size(json_object_get(json, "inputs")), 0);
  json_decref(json);
  assert_string_equal(model_state_name(MODEL_LOADING), "LOADING");
  assert_string_equal(model_state_name(MODEL_UNAVAILABLE), "UNAVAILABLE");
}

/* ---- the form it travels in -------------------------------------------------------------------------------------- */

static struct model_metadata *sample(void) {
  return make(declare_model(TENSORS("x FP32 N,H,6", "o BYTES N ?"), TENSORS("y FP32 N,1,K", "b INT8 N")),
              "max_batch_size: 4 input { name: 'x' dims: [ -1, 6 ] reshape { shape: [ -1, 6 ] } }"
              "output { name: 'y' dims: [ -1 ] reshape { shape: [ 1, -1 ] } }",
              8);
}

static void test_round_trip(void **state) {
  struct model_metadata *metadata = sample(), *back = NULL;
  struct buffer bytes, again;
  buffer_init(&bytes, 1 << 20);
  buffer_init(&again, 1 << 20);
  assert_int_equal(model_metadata_encode(metadata, &bytes), MU_OK);
  assert_int_equal(model_metadata_decode(bytes.data, bytes.size, &back), MU_OK);
  assert_int_equal(back->max_batch, 4);
  assert_string_equal(back->runtime, "engine 1.0");
  assert_string_equal(back->inputs[0].info.symbols[1], "H");
  assert_true(back->inputs[0].reshaped && !back->inputs[1].served && back->inputs[1].info.optional);
  assert_true(!back->outputs[1].served && back->outputs[1].info.dtype == MU_INT8);
  assert_shape(back->outputs[0].dims, back->outputs[0].rank, "[-1,-1]");
  assert_int_equal(model_metadata_encode(back, &again), MU_OK);
  assert_int_equal(again.size, bytes.size);
  assert_memory_equal(again.data, bytes.data, bytes.size);
  model_metadata_free(back);

  struct buffer small;
  buffer_init(&small, bytes.size - 1);
  assert_int_equal(model_metadata_encode(metadata, &small), MU_TOO_LARGE);
  buffer_free(&small);
  buffer_free(&again);
  buffer_free(&bytes);
  model_metadata_free(metadata);
}

static void test_short_and_long(void **state) {
  struct model_metadata *metadata = sample(), *back = NULL;
  struct buffer bytes;
  buffer_init(&bytes, 1 << 20);
  assert_int_equal(model_metadata_encode(metadata, &bytes), MU_OK);
  for (size_t size = 0; size < bytes.size; size++) {
    char *exact = malloc(size + 1);
    assert_non_null(exact);
    memcpy(exact + 1, bytes.data, size);
    assert_int_equal(model_metadata_decode(exact + 1, size, &back), MU_INVALID);
    free(exact);
  }
  assert_int_equal(buffer_putc(&bytes, 0), MU_OK);
  assert_int_equal(model_metadata_decode(bytes.data, bytes.size, &back), MU_INVALID);
  assert_null(back);
  buffer_free(&bytes);
  model_metadata_free(metadata);
}

/* What passes for metadata after a mutation keeps the promises that its users build on. */
static void assert_sound(const struct model_metadata *metadata) {
  assert_true(metadata->n_inputs <= MODEL_TENSORS_MAX && metadata->n_outputs <= MODEL_TENSORS_MAX);
  for (uint32_t i = 0; i < metadata->n_inputs + metadata->n_outputs; i++) {
    const struct model_tensor *tensor =
        i < metadata->n_inputs ? &metadata->inputs[i] : &metadata->outputs[i - metadata->n_inputs];
    assert_true(tensor->rank <= MU_MAX_RANK && tensor->info.rank <= MU_MAX_RANK && tensor->info.name[0] != '\0');
    assert_true(tensor->info.dtype > MU_DTYPE_INVALID && tensor->info.dtype < MU_DTYPE_COUNT);
    int64_t dims[MU_MAX_RANK], mapped[MU_MAX_RANK];
    uint32_t rank = 0;
    for (uint32_t d = 0; d < tensor->rank; d++) dims[d] = tensor->dims[d] < 0 ? 1 : tensor->dims[d];
    assert_true(model_tensor_to_engine(tensor, dims, tensor->rank, mapped, &rank));
    assert_int_equal(rank, tensor->info.rank);
  }
  struct model model = {.name = "m", .metadata = (struct model_metadata *)metadata};
  json_t *json = model_metadata_json(&model, NULL, 0);
  assert_non_null(json);
  json_decref(json);
}

static void test_mutations(void **state) {
  struct model_metadata *metadata = sample();
  struct buffer bytes;
  buffer_init(&bytes, 1 << 20);
  assert_int_equal(model_metadata_encode(metadata, &bytes), MU_OK);
  srand(3);
  int accepted = 0;
  for (int round = 0; round < 30000; round++) {
    char *copy = malloc(bytes.size);
    assert_non_null(copy);
    memcpy(copy, bytes.data, bytes.size);
    for (int n = rand() % 3; n >= 0; n--) {
      static const unsigned char likely[] = {0, 1, 2, 16, 17, 64, 65, 0x7f, 0x80, 0xff};
      copy[(size_t)rand() % bytes.size] = (char)(rand() % 2 ? likely[rand() % 10] : rand());
    }
    struct model_metadata *back = NULL;
    mu_status status = model_metadata_decode(copy, bytes.size, &back);
    free(copy);
    assert_true(status == MU_OK || status == MU_INVALID);
    if (status == MU_OK) {
      assert_sound(back);
      accepted++;
    }
    model_metadata_free(back);
  }
  assert_true(accepted > 0);
  buffer_free(&bytes);
  model_metadata_free(metadata);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_automatic_batching),
      cmocka_unit_test(test_without_config),
      cmocka_unit_test(test_narrowing_and_reshape),
      cmocka_unit_test(test_fewer_tensors),
      cmocka_unit_test(test_contradictions),
      cmocka_unit_test(test_models_that_cannot_be_described),
      cmocka_unit_test(test_long_names),
      cmocka_unit_test(test_config_json),
      cmocka_unit_test(test_not_loaded),
      cmocka_unit_test(test_round_trip),
      cmocka_unit_test(test_short_and_long),
      cmocka_unit_test(test_mutations),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
