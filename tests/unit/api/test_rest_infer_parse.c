/* Inference requests in, good ones and all the ways in which they can be bad. */
#include "infer_attempt.h"

static void test_smallest_request(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct attempt a;
  run_ok(&a, &s.model,
         "{\"inputs\":[{\"name\":\"bytes\",\"shape\":[2,4],\"datatype\":\"INT32\",\"data\":[1,2,3,4,5,6,7,-8]}]}");
  const struct request *r = &a.request;
  assert_string_equal(r->id, "");
  assert_int_equal(r->rows, 2);
  assert_int_equal(r->n_inputs, 1);
  assert_int_equal(r->inputs[0].index, 0);
  assert_int_equal(r->inputs[0].dtype, MU_INT32);
  assert_int_equal(r->inputs[0].rank, 2);
  assert_true(r->inputs[0].dims[0] == 2 && r->inputs[0].dims[1] == 4);
  assert_int_equal(r->inputs[0].elements, 8);
  assert_int_equal(r->inputs[0].size, 32);
  assert_int_equal(r->input_bytes, 32);
  assert_int_equal(r->binary_bytes, 0);
  assert_memory_equal(r->inputs[0].data, ((int32_t[]){1, 2, 3, 4, 5, 6, 7, -8}), 32);
  /* no outputs named: all that are served, in JSON */
  assert_int_equal(r->n_outputs, 2);
  assert_true(r->outputs[0].index == 0 && r->outputs[1].index == 1);
  assert_false(r->outputs[0].binary || r->outputs[1].binary);
  attempt_free(&a);
}

/* As tritonclient.http writes it: binary in and out, parameters last. */
static void test_binary_request(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct attempt a;
  static const char json[] =
      "{\"id\":\"r-1\",\"inputs\":[{\"name\":\"mask\",\"shape\":[1,3],\"datatype\":\"BOOL\",\"parameters\":{\"binary_"
      "data_size\":3}},"
      "{\"name\":\"bytes\",\"shape\":[1,4],\"datatype\":\"INT32\",\"parameters\":{\"binary_data_size\":16}}],"
      "\"outputs\":[{\"name\":\"labels\",\"parameters\":{\"classification\":0,\"binary_data\":false}},{\"name\":"
      "\"scores\","
      "\"parameters\":{\"classification\":3}}],\"parameters\":{\"priority\":2,\"timeout\":5000,\"binary_data_output\":"
      "true,"
      "\"custom\":[{\"a\":1}],\"sequence_id\":0,\"sequence_start\":false,\"sequence_end\":false}}";
  attempt_run(&a, &s.model, json, sizeof json - 1, "\1\0\1\1\0\0\0\2\0\0\0\3\0\0\0\4\0\0\0", 19);
  if (a.status != MU_OK) fail_msg("%s", a.err.message);
  const struct request *r = &a.request;
  assert_string_equal(r->id, "r-1");
  assert_int_equal(r->priority, 2);
  assert_int_equal(r->timeout_us, 5000);
  assert_int_equal(r->rows, 1);
  assert_int_equal(r->binary_bytes, 19);
  assert_int_equal(r->n_inputs, 2);
  /* in the model's order, each with its place in the body */
  assert_int_equal(r->inputs[0].index, 0);
  assert_int_equal(r->inputs[0].source_at, 3);
  assert_memory_equal(r->inputs[0].data, ((int32_t[]){1, 2, 3, 4}), 16);
  assert_int_equal(r->inputs[1].index, 1);
  assert_int_equal(r->inputs[1].source_at, 0);
  assert_memory_equal(r->inputs[1].data, "\1\0\1", 3);
  assert_int_equal(r->n_outputs, 2);
  assert_int_equal(r->outputs[0].index, 1);
  assert_false(r->outputs[0].binary);
  assert_int_equal(r->outputs[0].classification, 0);
  assert_int_equal(r->outputs[1].index, 0);
  assert_true(r->outputs[1].binary); /* the request's default */
  assert_int_equal(r->outputs[1].classification, 3);
  attempt_free(&a);
}

static void test_any_order_of_keys(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct attempt a;
  run_ok(&a, &s.model,
         " { \"outputs\" : [ ] , \"extra\":{\"inputs\":[]}, \"inputs\" : [ { \"data\" : [ [ 1 , 2 , 3 , 4 ] ] , "
         "\"extra\" : null ,"
         " \"datatype\" : \"INT32\" , \"shape\" : [ 1 , 4 ] , \"n\\u0061me\" : \"b\\u0079tes\" } ] , \"id\" : "
         "\"\\u00e9\\n\" } ");
  assert_string_equal(a.request.id, "\xc3\xa9\n");
  assert_memory_equal(a.request.inputs[0].data, ((int32_t[]){1, 2, 3, 4}), 16);
  assert_int_equal(a.request.n_outputs, 2);
  attempt_free(&a);
}

static void test_every_type(void **state) {
  static const struct {
    mu_dtype dtype;
    const char *data;  /* JSON, 2 elements */
    const char *bytes; /* the same, binary */
    size_t size;
  } cases[] = {
      {MU_BOOL, "[true,false]", "\1\0", 2},
      {MU_UINT8, "[255,0]", "\xff\0", 2},
      {MU_UINT16, "[65535,1]", "\xff\xff\1\0", 4},
      {MU_UINT32, "[4294967295,1]", "\xff\xff\xff\xff\1\0\0\0", 8},
      {MU_UINT64, "[18446744073709551615,1]", "\xff\xff\xff\xff\xff\xff\xff\xff\1\0\0\0\0\0\0\0", 16},
      {MU_INT8, "[-1,1]", "\xff\1", 2},
      {MU_INT16, "[-1,1]", "\xff\xff\1\0", 4},
      {MU_INT32, "[-1,1]", "\xff\xff\xff\xff\1\0\0\0", 8},
      {MU_INT64, "[-1,1]", "\xff\xff\xff\xff\xff\xff\xff\xff\1\0\0\0\0\0\0\0", 16},
      {MU_FP16, "[1,-2]", "\0\x3c\0\xc0", 4},
      {MU_BF16, "[1,-2]", "\x80\x3f\0\xc0", 4},
      {MU_FP32, "[1,-2]", "\0\0\x80\x3f\0\0\0\xc0", 8},
      {MU_FP64, "[1,-2]", "\0\0\0\0\0\0\xf0\x3f\0\0\0\0\0\0\0\xc0", 16},
      {MU_BYTES, "[\"a\\u0000\\u00e9\",\"\"]", "\4\0\0\0a\0\xc3\xa9\0\0\0\0", 12},
  };
  uint32_t seen = 0;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct sample_model s;
    sample_init(&s, 0);
    sample_input(&s, "x", cases[i].dtype, DIMS(2));
    sample_output(&s, "y", cases[i].dtype, DIMS(2));
    char json[512];
    struct attempt a;
    snprintf(json, sizeof json, "{\"inputs\":[{\"name\":\"x\",\"shape\":[2],\"datatype\":\"%s\",\"data\":%s}]}",
             mu_dtype_name(cases[i].dtype), cases[i].data);
    run_ok(&a, &s.model, json);
    assert_int_equal(a.request.inputs[0].size, cases[i].size);
    assert_memory_equal(a.request.inputs[0].data, cases[i].bytes, cases[i].size);
    attempt_free(&a);
    snprintf(
        json, sizeof json,
        "{\"inputs\":[{\"name\":\"x\",\"shape\":[2],\"datatype\":\"%s\",\"parameters\":{\"binary_data_size\":%zu}}]}",
        mu_dtype_name(cases[i].dtype), cases[i].size);
    attempt_run(&a, &s.model, json, strlen(json), cases[i].bytes, cases[i].size);
    if (a.status != MU_OK) fail_msg("%s: %s", json, a.err.message);
    assert_memory_equal(a.request.inputs[0].data, cases[i].bytes, cases[i].size);
    attempt_free(&a);
    seen |= 1u << cases[i].dtype;
  }
  assert_int_equal(seen, (1u << MU_DTYPE_COUNT) - 2);
}

static const struct {
  const char *json;
  size_t binary_size;
  mu_status status;
  const char *error;
} bad_requests[] = {
    /* not JSON, or not a request */
    {"", 0, MU_INVALID, "an inference request must be a JSON object"},
    {"x", 0, MU_INVALID, "the request's JSON is wrong at byte 0: expected a value"},
    {"{", 0, MU_INVALID, "the text ends inside an object"},
    {"[]", 0, MU_INVALID, "an inference request must be a JSON object"},
    {"null", 0, MU_INVALID, "an inference request must be a JSON object"},
    {"{}", 0, MU_INVALID, "the request has no \"inputs\""},
    {"{\"inputs\":{}}", 0, MU_INVALID, "\"inputs\" must be an array"},
    {"{\"inputs\":[]}", 0, MU_INVALID, "input 'bytes' of model 'sample' is missing"},
    {"{\"inputs\":[5]}", 0, MU_INVALID, "input must be a JSON object"},
    {"{\"inputs\":[" GOOD "]} x", 0, MU_INVALID, "something follows the JSON text"},
    {"{\"inputs\":[" GOOD "],\"inputs\":[]}", 0, MU_INVALID, "an inference request has \"inputs\" twice"},
    {"{\"id\":\"a\",\"\\u0069d\":\"b\"}", 0, MU_INVALID, "has \"id\" twice"},
    {"{\"id\":5}", 0, MU_INVALID, "expected a string, found a number"},
    {"{\"id\":\"a\\u0000b\"}", 0, MU_INVALID, "\"id\" has a NUL character"},
    /* inputs */
    {"{\"inputs\":[{}]}", 0, MU_INVALID, "inputs[0] has no \"name\""},
    {"{\"inputs\":[" GOOD ",{\"shape\":[1]}]}", 0, MU_INVALID, "inputs[1] has no \"name\""},
    {"{\"inputs\":[{\"name\":\"byte\"}]}", 0, MU_INVALID, "model 'sample' has no input 'byte'; it has 'bytes', 'mask'"},
    {"{\"inputs\":[{\"name\":5}]}", 0, MU_INVALID, "expected a string, found a number"},
    {"{\"inputs\":[" GOOD "," GOOD "]}", 0, MU_INVALID, "input 'bytes' is given twice"},
    {"{\"inputs\":[{\"name\":\"bytes\",\"name\":\"mask\"}]}", 0, MU_INVALID, "input has \"name\" twice"},
    {"{\"inputs\":[{\"name\":\"bytes\",\"shape\":[1,4],\"data\":[1,2,3,4]}]}", 0, MU_INVALID,
     "input 'bytes' has no \"datatype\"; the model takes INT32"},
    {"{\"inputs\":[{\"name\":\"bytes\",\"datatype\":\"FP32\"}]}", 0, MU_INVALID,
     "input 'bytes': datatype FP32 is not the INT32 that the model takes"},
    {"{\"inputs\":[{\"name\":\"bytes\",\"datatype\":\"int32\"}]}", 0, MU_INVALID, "datatype int32 is not the INT32"},
    {INPUT("\"data\":[1,2,3,4]"), 0, MU_INVALID, "input 'bytes' has no \"shape\""},
    {INPUT("\"shape\":4,\"data\":[1]"), 0, MU_INVALID, "input 'bytes': \"shape\" must be an array"},
    {INPUT("\"shape\":[1,-4],\"data\":[1]"), 0, MU_INVALID, "input 'bytes': a dimension of its shape is -4"},
    {INPUT("\"shape\":[1.0,4],\"data\":[1]"), 0, MU_INVALID, "expected an integer of 64 bits"},
    {INPUT("\"shape\":[\"1\"],\"data\":[1]"), 0, MU_INVALID, "expected a number, found a string"},
    {INPUT("\"shape\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,4],\"data\":[1]"), 0, MU_INVALID, "more than 16 dimensions"},
    {INPUT("\"shape\":[4],\"data\":[1,2,3,4]"), 0, MU_INVALID,
     "input 'bytes': shape [4] does not fit the model's [-1,4]"},
    {INPUT("\"shape\":[1,5],\"data\":[1,2,3,4,5]"), 0, MU_INVALID, "shape [1,5] does not fit the model's [-1,4]"},
    {INPUT("\"shape\":[],\"data\":[]"), 0, MU_INVALID, "shape [] does not fit the model's [-1,4]"},
    {INPUT("\"shape\":[9,4],\"data\":[1]"), 0, MU_INVALID,
     "input 'bytes': shape [9,4] has 9 rows, the model takes 1 to 8 (max_batch_size)"},
    {INPUT("\"shape\":[0,4],\"data\":[]"), 0, MU_INVALID, "has 0 rows, the model takes 1 to 8"},
    {INPUT("\"shape\":[9223372036854775807,4],\"data\":[1]"), 0, MU_INVALID, "the model takes 1 to 8"},
    {"{\"inputs\":[" GOOD ",{\"name\":\"mask\",\"datatype\":\"BOOL\",\"shape\":[2,1],\"data\":[1,1]}]}", 0, MU_INVALID,
     "input 'mask' has 2 rows, input 'bytes' has 1"},
    {"{\"inputs\":[{\"name\":\"mask\",\"datatype\":\"BOOL\",\"shape\":[1,9223372036854775807],\"data\":[1]}]}", 0,
     MU_INVALID, "has 9223372036854775807 elements, \"data\" has 1"},
    /* data */
    {INPUT("\"shape\":[1,4]"), 0, MU_INVALID, "input 'bytes' has neither \"data\" nor a binary_data_size"},
    {INPUT("\"shape\":[1,4],\"data\":[1,2,3,4],\"parameters\":{\"binary_data_size\":16}"), 16, MU_INVALID,
     "input 'bytes' has both \"data\" and a binary_data_size"},
    {INPUT("\"shape\":[1,4],\"data\":[1,2,3]"), 0, MU_INVALID,
     "input 'bytes': shape [1,4] has 4 elements, \"data\" has 3"},
    {INPUT("\"shape\":[1,4],\"data\":[[1,2],[3,4]]"), 0, MU_INVALID,
     "input 'bytes': \"data\" is nested as [2,2], its shape is [1,4]"},
    {INPUT("\"shape\":[1,4],\"data\":[[1,2,3,[4]]]"), 0, MU_INVALID, "mixes arrays and values"},
    {INPUT("\"shape\":[1,4],\"data\":5"), 0, MU_INVALID, "tensor data must be an array"},
    {INPUT("\"shape\":[1,4],\"data\":[1,2,3,2147483648]"), 0, MU_INVALID,
     "element 3: 2147483648 is out of the range of INT32"},
    {INPUT("\"shape\":[1,4],\"data\":[1,2,3.5,4]"), 0, MU_INVALID,
     "element 2: 3.5 is no integer, as is needed for INT32"},
    {INPUT("\"shape\":[1,4],\"data\":[1,2,\"3\",4]"), 0, MU_INVALID, ": element 2 of INT32 must be a number"},
    {INPUT("\"shape\":[1,4],\"data\":[1,2,NaN,4]"), 0, MU_INVALID, "expected a value"},
    /* binary data */
    {INPUT("\"shape\":[1,4],\"parameters\":{\"binary_data_size\":15}"), 15, MU_INVALID,
     "input 'bytes': binary_data_size 15 is not the 16 bytes of shape [1,4] as INT32"},
    {INPUT("\"shape\":[1,4],\"parameters\":{\"binary_data_size\":-16}"), 16, MU_INVALID,
     "parameter \"binary_data_size\": byte"},
    {INPUT("\"shape\":[1,4],\"parameters\":{\"binary_data_size\":\"16\"}"), 16, MU_INVALID, "expected a number"},
    {INPUT("\"shape\":[1,4],\"parameters\":{\"binary_data_size\":16}"), 15, MU_INVALID,
     "15 bytes follow the JSON part, its inputs claim 16"},
    {INPUT("\"shape\":[1,4],\"parameters\":{\"binary_data_size\":16}"), 17, MU_INVALID,
     "17 bytes follow the JSON part"},
    {INPUT("\"shape\":[1,4],\"data\":[1,2,3,4]"), 1, MU_INVALID, "1 bytes follow the JSON part, its inputs claim 0"},
    {INPUT("\"shape\":[1,4],\"parameters\":{\"binary_data_size\":16,\"binary_data_size\":16}"), 16, MU_INVALID,
     "has \"binary_data_size\" twice"},
    {INPUT("\"parameters\":[]"), 0, MU_INVALID, "an input's \"parameters\" must be a JSON object"},
/* shared memory */
#define SHARED(rest) "\"shape\":[1,4],\"parameters\":{\"shared_memory_region\":\"r\"" rest "}"
    {INPUT(SHARED("")), 0, MU_INVALID, "input 'bytes': parameter \"shared_memory_region\" needs a"},
    {INPUT("\"shape\":[1,4],\"parameters\":{\"shared_memory_byte_size\":16}"), 0, MU_INVALID,
     "input 'bytes': parameter \"shared_memory_byte_size\" needs a \"shared_memory_region\""},
    {INPUT("\"shape\":[1,4],\"parameters\":{\"shared_memory_offset\":0}"), 0, MU_INVALID,
     "input 'bytes': parameter \"shared_memory_offset\" needs a \"shared_memory_region\""},
    {INPUT("\"shape\":[1,4],\"parameters\":{\"shared_memory_region\":\"\",\"shared_memory_byte_size\":16}"), 0,
     MU_INVALID, "cannot be the name of a region"},
    {INPUT("\"shape\":[1,4],\"parameters\":{\"shared_memory_region\":\"\\u0000\",\"shared_memory_byte_size\":16}"), 0,
     MU_INVALID, "cannot be the name of a region"},
    {INPUT("\"shape\":[1,4],\"parameters\":{\"shared_memory_region\":null,\"shared_memory_byte_size\":16}"), 0,
     MU_INVALID, "wrong at byte"},
    {INPUT(SHARED(",\"shared_memory_byte_size\":17")), 0, MU_INVALID,
     "input 'bytes': shared_memory_byte_size 17 is not the 16 bytes of 4 x INT32"},
    {INPUT(SHARED(",\"shared_memory_byte_size\":18446744073709551616")), 0, MU_INVALID,
     "parameter \"shared_memory_byte_size\""},
    {INPUT(SHARED(",\"shared_memory_byte_size\":16,\"shared_memory_offset\":-1")), 0, MU_INVALID,
     "parameter \"shared_memory_offset\""},
    {INPUT(SHARED(",\"shared_memory_byte_size\":16,\"binary_data_size\":16")), 16, MU_INVALID,
     "input 'bytes' has both a binary_data_size and a shared_memory_region"},
    {INPUT("\"data\":[1,2,3,4]," SHARED(",\"shared_memory_byte_size\":16")), 0, MU_INVALID,
     "input 'bytes' has both \"data\" and a shared_memory_region"},
    {INPUT(SHARED(",\"shared_memory_byte_size\":16")), 16, MU_INVALID, "16 bytes follow the JSON part"},
    /* outputs */
    {OUTPUTS("{}"), 0, MU_INVALID, "\"outputs\" must be an array"},
    {OUTPUTS("[{}]"), 0, MU_INVALID, "outputs[0] has no \"name\""},
    {OUTPUTS("[{\"name\":\"score\"}]"), 0, MU_INVALID,
     "model 'sample' has no output 'score'; it has 'scores', 'labels'"},
    {OUTPUTS("[{\"name\":\"hidden\"}]"), 0, MU_INVALID, "has no output 'hidden'"},
    {OUTPUTS("[{\"name\":\"scores\"},{\"name\":\"scores\"}]"), 0, MU_INVALID, "output 'scores' is asked for twice"},
    {OUTPUTS("[{\"name\":\"labels\",\"parameters\":{\"classification\":1}}]"), 0, MU_INVALID,
     "output 'labels': a classification needs numbers"},
    {OUTPUTS("[{\"name\":\"scores\",\"parameters\":{\"classification\":-1}}]"), 0, MU_INVALID,
     "parameter \"classification\""},
    {OUTPUTS("[{\"name\":\"scores\",\"parameters\":{\"binary_data\":1}}]"), 0, MU_INVALID, "expected a boolean"},
    {OUTPUTS("[{\"name\":\"scores\",\"parameters\":{\"shared_memory_byte_size\":1}}]"), 0, MU_INVALID,
     "output 'scores': parameter \"shared_memory_byte_size\" needs a \"shared_memory_region\""},
    {OUTPUTS("[{\"name\":\"scores\",\"parameters\":{\"shared_memory_region\":\"r\"}}]"), 0, MU_INVALID,
     "output 'scores': parameter \"shared_memory_region\" needs a"},
    {OUTPUTS("[{\"name\":\"scores\",\"parameters\":{\"shared_memory_region\":\"r\",\"classification\":1,"
             "\"shared_memory_byte_size\":1}}]"),
     0, MU_INVALID, "output 'scores': shared memory cannot be used together with a classification"},
    /* parameters */
    {PARAMETERS("5"), 0, MU_INVALID, "\"parameters\" must be a JSON object"},
    {PARAMETERS("{\"priority\":-1}"), 0, MU_INVALID, "parameter \"priority\""},
    {PARAMETERS("{\"timeout\":\"1\"}"), 0, MU_INVALID, "parameter \"timeout\": byte"},
    {PARAMETERS("{\"binary_data_output\":1}"), 0, MU_INVALID, "parameter \"binary_data_output\""},
    {PARAMETERS("{\"sequence_id\":5}"), 0, MU_UNSUPPORTED,
     "parameter \"sequence_id\": muster does not serve sequences"},
    {PARAMETERS("{\"sequence_id\":\"s\"}"), 0, MU_UNSUPPORTED, "sequence_id"},
    {PARAMETERS("{\"sequence_start\":true}"), 0, MU_UNSUPPORTED, "sequence_start"},
    {PARAMETERS("{\"sequence_end\":true}"), 0, MU_UNSUPPORTED, "sequence_end"},
    {PARAMETERS("{\"sequence_id\":{}}"), 0, MU_INVALID, "expected a number, found an object"},
};

static void test_bad_requests(void **state) {
  struct sample_model s;
  make_batched(&s);
  static const uint8_t binary[64];
  for (size_t i = 0; i < sizeof bad_requests / sizeof *bad_requests; i++) {
    struct attempt a;
    attempt_run(&a, &s.model, bad_requests[i].json, strlen(bad_requests[i].json), binary, bad_requests[i].binary_size);
    if (a.status != bad_requests[i].status || strstr(a.err.message, bad_requests[i].error) == NULL)
      fail_msg("%s: %d '%s'", bad_requests[i].json, a.status, a.err.message);
    attempt_free(&a);
  }
}

static void test_id_length(void **state) {
  struct sample_model s;
  make_batched(&s);
  char json[1024];
  struct attempt a;
  snprintf(json, sizeof json, "{\"id\":\"%0*d\",\"inputs\":[" GOOD "]}", REQUEST_ID_MAX, 1);
  run_ok(&a, &s.model, json);
  assert_int_equal(strlen(a.request.id), REQUEST_ID_MAX);
  attempt_free(&a);
  snprintf(json, sizeof json, "{\"id\":\"%0*d\",\"inputs\":[" GOOD "]}", REQUEST_ID_MAX + 1, 1);
  run(&a, &s.model, json);
  assert_int_equal(a.status, MU_INVALID);
  assert_non_null(strstr(a.err.message, "\"id\" has 257 bytes, at most 256 are taken"));
  attempt_free(&a);
}

/* Messages quote what the client wrote, but never without bound. */
static void test_long_names(void **state) {
  struct sample_model s;
  make_batched(&s);
  char json[20000];
  struct attempt a;
  snprintf(json, sizeof json, "{\"inputs\":[{\"name\":\"%010000d\"}]}", 1);
  run(&a, &s.model, json);
  assert_int_equal(a.status, MU_INVALID);
  assert_true(strlen(a.err.message) < 400);
  attempt_free(&a);
  snprintf(json, sizeof json, "{\"inputs\":[{\"name\":\"bytes\",\"datatype\":\"%010000d\"}]}", 1);
  run(&a, &s.model, json);
  assert_int_equal(a.status, MU_INVALID);
  attempt_free(&a);
}

static void test_deep_nesting(void **state) {
  struct sample_model s;
  make_batched(&s);
  char *json = malloc(20100);
  assert_non_null(json);
  static const char *const places[] = {"{\"x\":", "{\"inputs\":", "{\"inputs\":[{\"data\":", "{\"parameters\":{\"x\":"};
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    const size_t start = strlen(places[i]);
    memcpy(json, places[i], start);
    memset(json + start, '[', 10000);
    struct attempt a;
    attempt_run(&a, &s.model, json, start + 10000, NULL, 0);
    assert_int_equal(a.status, MU_INVALID);
    attempt_free(&a);
  }
  free(json);
}

static void test_unbatched_model(void **state) {
  struct sample_model s;
  sample_init(&s, 0);
  sample_input(&s, "x", MU_FP32, DIMS(-1, 2));
  sample_output(&s, "y", MU_FP32, DIMS(-1));
  struct attempt a;
  run_ok(&a, &s.model,
         "{\"inputs\":[{\"name\":\"x\",\"shape\":[5,2],\"datatype\":\"FP32\",\"data\":[0,1,2,3,4,5,6,7,8,9]}]}");
  assert_int_equal(a.request.rows, 1);
  attempt_free(&a);
  run_ok(&a, &s.model, "{\"inputs\":[{\"name\":\"x\",\"shape\":[0,2],\"datatype\":\"FP32\",\"data\":[]}]}");
  assert_int_equal(a.request.inputs[0].elements, 0);
  assert_int_equal(a.request.inputs[0].size, 0);
  attempt_free(&a);
  run(&a, &s.model,
      "{\"inputs\":[{\"name\":\"x\",\"shape\":[4611686018427387904,2],\"datatype\":\"FP32\",\"parameters\":"
      "{\"binary_data_size\":0}}]}");
  assert_int_equal(a.status, MU_INVALID);
  assert_non_null(strstr(a.err.message, "more bytes than 63 bits can count"));
  attempt_free(&a);
}

static void test_reshaped_input(void **state) {
  struct sample_model s;
  sample_init(&s, 4);
  struct model_tensor *x = sample_input(&s, "x", MU_UINT8, DIMS(-1, 2, 3)); /* the engine's */
  x->rank = 2;                                                              /* the client's: [-1,6] */
  x->dims[1] = 6;
  x->reshaped = true;
  struct attempt a;
  run_ok(&a, &s.model,
         "{\"inputs\":[{\"name\":\"x\",\"shape\":[2,6],\"datatype\":\"UINT8\",\"data\":"
         "[[1,2,3,4,5,6],[7,8,9,10,11,12]]}]}");
  const struct request_input *input = &a.request.inputs[0];
  assert_int_equal(input->rank, 3);
  assert_true(input->dims[0] == 2 && input->dims[1] == 2 && input->dims[2] == 3);
  assert_memory_equal(input->data, "\1\2\3\4\5\6\7\10\11\12\13\14", 12);
  attempt_free(&a);
  run(&a, &s.model, "{\"inputs\":[{\"name\":\"x\",\"shape\":[1,2,3],\"datatype\":\"UINT8\",\"data\":[1,2,3,4,5,6]}]}");
  assert_non_null(strstr(a.err.message, "shape [1,2,3] does not fit the model's [-1,6]"));
  attempt_free(&a);
}

static void test_unknown_binary_size(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct request request = {0};
  mu_error err;
  static const char json[] = INPUT("\"shape\":[1,4],\"parameters\":{\"binary_data_size\":16}");
  assert_int_equal(rest_infer_parse(&s.model, json, sizeof json - 1, BINARY_SIZE_UNKNOWN, &request, &err), MU_OK);
  assert_int_equal(request.binary_bytes, 16);
  request_free(&request);
}

static void test_model_without_metadata(void **state) {
  struct sample_model s;
  make_batched(&s);
  s.model.metadata = NULL;
  struct request request = {0};
  mu_error err;
  assert_int_equal(rest_infer_parse(&s.model, "{}", 2, 0, &request, &err), MU_UNAVAILABLE);
  assert_int_equal(rest_infer_raw(&s.model, 4, &request, &err), MU_UNAVAILABLE);
}

/* A second request in the same memory allocates nothing and sees nothing of the first. */
static void test_request_is_reused(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct request request = {0};
  mu_error err;
  static const char first[] =
      "{\"id\":\"x\",\"inputs\":[" GOOD "],\"parameters\":{\"priority\":3,\"binary_data_output\":true}}";
  static const char second[] = "{\"inputs\":[" GOOD "]}";
  assert_int_equal(rest_infer_parse(&s.model, first, sizeof first - 1, 0, &request, &err), MU_OK);
  const struct request_input *inputs = request.inputs;
  request_clear(&request);
  assert_int_equal(rest_infer_parse(&s.model, second, sizeof second - 1, 0, &request, &err), MU_OK);
  assert_ptr_equal(request.inputs, inputs);
  assert_string_equal(request.id, "");
  assert_int_equal(request.priority, 0);
  assert_false(request.outputs[0].binary);
  request_free(&request);
}

static void test_shared_memory(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct request request = {0};
  mu_error err;
  static const char json[] =
      "{\"inputs\":[{\"name\":\"bytes\",\"datatype\":\"INT32\",\"shape\":[2,4],\"parameters\":{"
      "\"shared_memory_byte_size\":32,\"shared_memory_region\":\"a\\u0020b\",\"shared_memory_offset\":"
      "18446744073709551615}}],"
      "\"outputs\":[{\"name\":\"labels\",\"parameters\":{\"shared_memory_byte_size\":7,\"binary_data\":true,"
      "\"shared_memory_region\":\"c\"}},{\"name\":\"scores\"}],\"parameters\":{\"binary_data_output\":true}}";
  assert_int_equal(rest_infer_parse(&s.model, json, sizeof json - 1, 0, &request, &err), MU_OK);
  assert_int_equal(request.binary_bytes, 0);
  assert_int_equal(request.input_bytes, 32);
  assert_int_equal(request.n_shares, 2);
  assert_int_equal(request.inputs[0].source, INPUT_SHARED);
  const struct request_share *in = &request.shares[request.inputs[0].share - 1];
  assert_string_equal(in->name, "a b");
  assert_true(in->offset == UINT64_MAX && in->byte_size == 32 && !in->output && in->region == NULL);
  const struct request_share *out = &request.shares[request.outputs[0].share - 1];
  assert_string_equal(out->name, "c");
  assert_true(out->offset == 0 && out->byte_size == 7 && out->output);
  assert_false(request.outputs[0].binary); /* nothing of it is in the reply */
  assert_true(request.outputs[1].binary && request.outputs[1].share == 0);
  /* what the gateway copies is checked as any other bytes */
  request_clear(&request);
  assert_int_equal(request.n_shares, 0);
  static const char mask[] = "{\"inputs\":[" GOOD
                             ",{\"name\":\"mask\",\"datatype\":\"BOOL\",\"shape\":[1,3],\"parameters\":{"
                             "\"shared_memory_byte_size\":3,\"shared_memory_region\":\"r\"}}]}";
  assert_int_equal(rest_infer_parse(&s.model, mask, sizeof mask - 1, 0, &request, &err), MU_OK);
  request.inputs[0].data = (uint8_t[16]){0};
  request.inputs[1].data = (uint8_t[]){0, 1, 2};
  assert_int_equal(rest_infer_check_binary(&s.model, &request, &err), MU_INVALID);
  assert_non_null(strstr(err.message, "input 'mask': a byte of BOOL"));
  request_free(&request);
}

static void test_region_names(void **state) {
  struct sample_model s;
  make_batched(&s);
  char json[2000];
  for (int size = 254; size <= 257; size++)
    for (int escaped = 0; escaped < 2; escaped++) {
      struct request request = {0};
      mu_error err;
      snprintf(
          json, sizeof json,
          INPUT("\"shape\":[1,4],\"parameters\":{\"shared_memory_byte_size\":16,\"shared_memory_region\":\"%s%0*d\"}"),
          escaped ? "\\u0041" : "A", size - 1, 0);
      const mu_status status = rest_infer_parse(&s.model, json, strlen(json), 0, &request, &err);
      assert_int_equal(status, size <= REQUEST_REGION_MAX ? MU_OK : MU_INVALID);
      if (status == MU_OK) assert_int_equal(strlen(request.shares[0].name), size);
      request_free(&request);
    }
}

static void test_shared_bytes(void **state) {
  struct sample_model s;
  sample_init(&s, 4);
  sample_input(&s, "text", MU_BYTES, DIMS(-1, 1));
  sample_output(&s, "y", MU_FP32, DIMS(-1));
  for (int size = 0; size < 12; size++) {
    struct request request = {0};
    mu_error err;
    char json[300];
    snprintf(json, sizeof json,
             "{\"inputs\":[{\"name\":\"text\",\"datatype\":\"BYTES\",\"shape\":[2,1],\"parameters\":{"
             "\"shared_memory_byte_size\":%d,\"shared_memory_region\":\"r\"}}]}",
             size);
    assert_int_equal(rest_infer_parse(&s.model, json, strlen(json), 0, &request, &err), size < 8 ? MU_INVALID : MU_OK);
    if (size >= 8) assert_int_equal(request.inputs[0].size, size);
    request_free(&request);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_smallest_request),    cmocka_unit_test(test_binary_request),
      cmocka_unit_test(test_any_order_of_keys),   cmocka_unit_test(test_every_type),
      cmocka_unit_test(test_bad_requests),        cmocka_unit_test(test_id_length),
      cmocka_unit_test(test_long_names),          cmocka_unit_test(test_deep_nesting),
      cmocka_unit_test(test_unbatched_model),     cmocka_unit_test(test_reshaped_input),
      cmocka_unit_test(test_unknown_binary_size), cmocka_unit_test(test_model_without_metadata),
      cmocka_unit_test(test_request_is_reused),   cmocka_unit_test(test_shared_memory),
      cmocka_unit_test(test_region_names),        cmocka_unit_test(test_shared_bytes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
