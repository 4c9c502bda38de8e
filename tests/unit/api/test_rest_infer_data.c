/* Binary data, raw bodies, and requests damaged at random. */
#include "infer_attempt.h"

static void test_bytes_that_do_not_add_up(void **state) {
  struct sample_model s;
  sample_init(&s, 0);
  sample_input(&s, "x", MU_BYTES, DIMS(-1));
  static const struct {
    int64_t elements;
    const char *bytes;
    size_t size;
    const char *error; /* NULL: fine */
  } cases[] = {
      {2, "\1\0\0\0a\0\0\0\0", 9, NULL},
      {0, "", 0, NULL},
      {1, "\4\0\0\0\0\xff\0\1", 8, NULL},
      {1, "\2\0\0\0a", 5, "input 'x': element 0 of BYTES has a length of 2, but only 1 bytes are left"},
      {1, "\xff\xff\xff\xff", 4, "input 'x': element 0 of BYTES has a length of 4294967295, but only 0 bytes are left"},
      {1, "\0\0\0\0\0", 5, "input 'x': element 1 of BYTES has a length of 0, but only 0 bytes are left"},
      {1, "\0\0\0\0\0\0\0\0", 8, "input 'x': its shape has 1 elements, its data 2"},
      {2, "\4\0\0\0\0\0\0\0", 8, "its shape has 2 elements, its data 1"},
      {0, "\0\0\0\0", 4, "its shape has 0 elements, its data 1"},
      {2, "\0\0\0\0", 4, "binary_data_size 4 is too small for the 2 elements of [2]"},
      {INT64_MAX, "\0\0\0\0", 4, "too small for the 9223372036854775807 elements"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char json[256];
    struct attempt a;
    snprintf(json, sizeof json,
             "{\"inputs\":[{\"name\":\"x\",\"shape\":[%lld],\"datatype\":\"BYTES\",\"parameters\":{\"binary_data_"
             "size\":%zu}}]}",
             (long long)cases[i].elements, cases[i].size);
    attempt_run(&a, &s.model, json, strlen(json), cases[i].bytes, cases[i].size);
    if (cases[i].error == NULL ? a.status != MU_OK
                               : a.status != MU_INVALID || strstr(a.err.message, cases[i].error) == NULL)
      fail_msg("case %zu: %d '%s'", i, a.status, a.err.message);
    attempt_free(&a);
  }
}

static void test_booleans_are_0_or_1(void **state) {
  struct sample_model s;
  sample_init(&s, 0);
  sample_input(&s, "x", MU_BOOL, DIMS(3));
  static const char json[] =
      "{\"inputs\":[{\"name\":\"x\",\"shape\":[3],\"datatype\":\"BOOL\",\"parameters\":{\"binary_data_size\":3}}]}";
  struct attempt a;
  attempt_run(&a, &s.model, json, sizeof json - 1, "\1\0\1", 3);
  assert_int_equal(a.status, MU_OK);
  attempt_free(&a);
  attempt_run(&a, &s.model, json, sizeof json - 1, "\1\0\2", 3);
  assert_int_equal(a.status, MU_INVALID);
  assert_non_null(strstr(a.err.message, "input 'x': a byte of BOOL is neither 0 nor 1"));
  attempt_free(&a);
}

/* ---- raw bodies -------------------------------------------------------------------------------------------------- */

static void test_raw_bodies(void **state) {
  static const struct {
    uint32_t max_batch;
    mu_dtype dtype;
    uint32_t rank;
    int64_t dims[3];
    uint64_t body;
    const char *shape; /* NULL: refused with error */
    const char *error;
  } cases[] = {
      {0, MU_FP32, 1, {4}, 16, "[4]", NULL},
      {8, MU_FP32, 2, {-1, 4}, 16, "[1,4]", NULL},
      {8, MU_FP32, 2, {-1, -1}, 20, "[1,5]", NULL},
      {0, MU_INT16, 2, {-1, 3}, 12, "[2,3]", NULL},
      {0, MU_INT16, 2, {-1, 3}, 0, "[0,3]", NULL},
      {8, MU_BYTES, 2, {-1, 1}, 10, "[1,1]", NULL},
      {0, MU_BYTES, 1, {-1}, 0, "[1]", NULL},
      {0, MU_FP32, 1, {4}, 12, NULL, "the body has 12 bytes, input 'x' takes 16 (shape [4] as FP32)"},
      {0, MU_INT16, 2, {-1, 3}, 13, NULL, "the body has 13 bytes, input 'x' takes 12"},
      {8, MU_FP32, 2, {-1, 4}, 32, NULL, "the body has 32 bytes, input 'x' takes 16"},
      {0, MU_FP32, 2, {-1, -1}, 16, NULL, "does not say the shape of input 'x', which is [-1,-1]"},
      {0, MU_BYTES, 1, {2}, 16, NULL, "is one element; input 'x' has shape [2]"},
      {0, MU_BYTES, 1, {1}, UINT64_C(4294967296), NULL, "at most 4294967295 bytes"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct sample_model s;
    sample_init(&s, cases[i].max_batch);
    sample_input(&s, "x", cases[i].dtype, cases[i].rank, cases[i].dims);
    sample_output(&s, "y", MU_FP32, DIMS(-1));
    struct request request = {0};
    mu_error err = {""};
    const mu_status status = rest_infer_raw(&s.model, cases[i].body, &request, &err);
    if (cases[i].shape == NULL) {
      if (status == MU_OK || strstr(err.message, cases[i].error) == NULL) fail_msg("case %zu: '%s'", i, err.message);
    } else {
      if (status != MU_OK) fail_msg("case %zu: '%s'", i, err.message);
      char shape[64];
      assert_string_equal(shape_text(request.inputs[0].dims, request.inputs[0].rank, shape, sizeof shape),
                          cases[i].shape);
      assert_int_equal(request.rows, 1);
      assert_int_equal(request.binary_bytes, cases[i].body);
      assert_int_equal(request.inputs[0].source, INPUT_BINARY);
      assert_int_equal(request.inputs[0].source_size, cases[i].body);
      assert_true(request.n_outputs == 1 && request.outputs[0].binary);
    }
    request_free(&request);
  }
}

static void test_raw_needs_one_input(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct request request = {0};
  mu_error err;
  assert_int_equal(rest_infer_raw(&s.model, 16, &request, &err), MU_INVALID);
  assert_non_null(strstr(err.message, "needs a model with one input; model 'sample' has 2"));
  s.inputs[1].served = false; /* what clients cannot name does not count */
  assert_int_equal(rest_infer_raw(&s.model, 16, &request, &err), MU_OK);
  request_free(&request);
}

static void test_raw_bytes_get_their_length(void **state) {
  struct sample_model s;
  sample_init(&s, 0);
  sample_input(&s, "x", MU_BYTES, DIMS(1));
  struct request request = {0};
  mu_error err;
  assert_int_equal(rest_infer_raw(&s.model, 3, &request, &err), MU_OK);
  struct request_input *input = &request.inputs[0];
  uint8_t data[7];
  assert_int_equal(input->size, sizeof data);
  input->data = data;
  const uint64_t start = rest_infer_binary_start(input);
  assert_int_equal(start, 4);
  memcpy(data + start, "a\0b", 3);
  assert_memory_equal(data, "\3\0\0\0a\0b", 7);
  assert_int_equal(rest_infer_check_binary(&s.model, &request, &err), MU_OK);
  request_free(&request);
}

/* ---- random damage ----------------------------------------------------------------------------------------------- */

/* Good requests with bytes changed, cut out, doubled: every outcome is a status, no byte is read or written outside. */
static void test_mutations(void **state) {
  struct sample_model s;
  make_batched(&s);
  sample_input(&s, "text", MU_BYTES, DIMS(-1, 2))->info.optional = true;
  sample_input(&s, "real", MU_FP16, DIMS(-1, 1))->info.optional = true;
  static const char *const seeds[] = {
      "{\"id\":\"1\",\"inputs\":[{\"name\":\"bytes\",\"shape\":[2,4],\"datatype\":\"INT32\",\"data\":[[1,2,3,4],[5,6,7,"
      "8]]},{\"name\":"
      "\"text\",\"datatype\":\"BYTES\",\"shape\":[2,2],\"data\":[\"a\",\"\\u00e9\\ud83d\\ude00\",\"\",\"\xc3\xa9\"]}],"
      "\"outputs\":[{\"name\":\"scores\"}]}",
      "{\"inputs\":[{\"name\":\"bytes\",\"shape\":[1,4],\"datatype\":\"INT32\",\"parameters\":{\"binary_data_size\":16}"
      "},{\"name\":"
      "\"text\",\"shape\":[1,2],\"datatype\":\"BYTES\",\"parameters\":{\"binary_data_size\":12}}],\"parameters\":{"
      "\"binary_data_output\":true}}",
      "{\"inputs\":[{\"data\":[0.5,-1e-3],\"name\":\"real\",\"shape\":[2,1],\"datatype\":\"FP16\"},{\"name\":\"bytes\","
      "\"shape\":[2,4],"
      "\"datatype\":\"INT32\",\"data\":[0,0,0,0,0,0,0,0]}],\"parameters\":{\"priority\":1,\"sequence_id\":0}}",
  };
  static const char alphabet[] = "[]{}:,\"\\u0019eE+-. \ntruefalsn\xc3\xa9\xff";
  static const char binary[28] = "\1\0\0\0\2\0\0\0\3\0\0\0\4\0\0\0\1\0\0\0a\3\0\0\0b\0c";
  uint64_t seed = 7;
  size_t accepted = 0;
  for (int round = 0; round < 30000; round++) {
    char json[1024];
    size_t size = strlen(seeds[(size_t)round % 3]);
    memcpy(json, seeds[(size_t)round % 3], size);
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    for (uint64_t damage = seed >> 62; damage-- > 0;) {
      seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
      const size_t at = (seed >> 20) % size, length = 1 + (seed >> 50) % 4;
      if ((seed >> 60) % 4 == 0 && at + length < size) { /* cut out */
        memmove(json + at, json + at + length, size - at - length);
        size -= length;
      } else if ((seed >> 60) % 4 == 1) { /* doubled */
        memmove(json + at + length, json + at, size - at);
        size += length;
      } else {
        json[at] = (seed >> 60) % 4 == 2 ? alphabet[(seed >> 33) % (sizeof alphabet - 1)] : (char)(seed >> 40);
      }
    }
    struct attempt a;
    attempt_run(&a, &s.model, json, size, binary, (size_t)round % 3 == 1 ? 28 : 0);
    accepted += a.status == MU_OK;
    assert_int_equal(a.status == MU_OK, a.err.message[0] == '\0');
    attempt_free(&a);
  }
  assert_true(accepted > 1000); /* the undamaged ones at least */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_bytes_that_do_not_add_up),
      cmocka_unit_test(test_booleans_are_0_or_1),
      cmocka_unit_test(test_raw_bodies),
      cmocka_unit_test(test_raw_needs_one_input),
      cmocka_unit_test(test_raw_bytes_get_their_length),
      cmocka_unit_test(test_mutations),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
