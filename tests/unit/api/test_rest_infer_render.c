/* Replies: what clients get for what the engine produced. */
#include "api/infer_shared_memory.h"
#include "api/rest_infer.h"

#include "sample_model.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static mu_tensor tensor_of(mu_dtype dtype, const void *data, size_t size, uint32_t rank, const int64_t *dims) {
  mu_tensor tensor = {.dtype = dtype, .rank = rank, .data = (void *)(uintptr_t)data, .size = size};
  memcpy(tensor.dims, dims, rank * sizeof *dims);
  return tensor;
}

struct reply {
  struct request request;
  struct buffer json;
  struct iovec binary[SAMPLE_TENSORS];
  uint32_t n_binary;
  mu_error err;
  mu_status status;
};

static void reply_init(struct reply *r, uint32_t rows) {
  memset(r, 0, sizeof *r);
  buffer_init(&r->json, 1 << 20);
  r->request.rows = rows;
}

static struct request_output *ask(struct reply *r, uint32_t index) {
  struct request_output *output = request_add_output(&r->request);
  assert_non_null(output);
  output->index = index;
  return output;
}

static void render(struct reply *r, const struct model *model, const struct infer_result *results, uint32_t n) {
  r->err.message[0] = '\0';
  r->status = rest_infer_render(model, &r->request, results, n, &r->json, r->binary, &r->n_binary, &r->err);
}

/* The text is exactly this. */
static void expect_text(struct reply *r, const char *text) {
  if (r->status != MU_OK) fail_msg("%d: %s", r->status, r->err.message);
  assert_int_equal(r->json.size, strlen(text));
  if (memcmp(r->json.data, text, r->json.size) != 0) fail_msg("%.*s", (int)r->json.size, r->json.data);
  json_t *parsed = json_loadb(r->json.data, r->json.size, JSON_ALLOW_NUL, NULL);
  assert_non_null(parsed);
  json_decref(parsed);
}

static void reply_free(struct reply *r) {
  buffer_free(&r->json);
  request_free(&r->request);
}

static void make_model(struct sample_model *s, uint32_t max_batch) {
  sample_init(s, max_batch);
  sample_output(s, "scores", MU_FP32, DIMS(-1, 3));
  sample_output(s, "n\"ame", MU_BYTES, DIMS(-1, 1));
  sample_output(s, "flags", MU_BOOL, DIMS(-1));
}

static void share(struct reply *r, struct request_output *output, const char *name, uint64_t offset,
                  uint64_t byte_size) {
  struct request_share *made = request_add_share(&r->request);
  assert_non_null(made);
  strcpy(made->name, name);
  made->offset = offset;
  made->byte_size = byte_size;
  output->share = r->request.n_shares;
}

static void test_json_reply(void **state) {
  struct sample_model s;
  make_model(&s, 4);
  static const float scores[] = {0.5f, -1, 0.1f, 2, 3e-9f, 1e20f};
  const struct infer_result results[] = {
      {2, tensor_of(MU_BOOL, "\1\0", 2, DIMS(2))},
      {0, tensor_of(MU_FP32, scores, sizeof scores, DIMS(2, 3))},
      {1, tensor_of(MU_BYTES, "\2\0\0\0a\0\0\0\0\0", 10, DIMS(2, 1))},
  };
  struct reply r;
  reply_init(&r, 2);
  strcpy(r.request.id, "a\"b");
  ask(&r, 1);
  ask(&r, 0);
  ask(&r, 2);
  render(&r, &s.model, results, 3);
  expect_text(&r,
              "{\"id\":\"a\\\"b\",\"model_name\":\"sample\",\"model_version\":\"3\",\"outputs\":["
              "{\"name\":\"n\\\"ame\",\"datatype\":\"BYTES\",\"shape\":[2,1],\"data\":[\"a\\u0000\",\"\"]},"
              "{\"name\":\"scores\",\"datatype\":\"FP32\",\"shape\":[2,3],\"data\":[0.5,-1.0,0.1,2.0,3e-9,1e20]},"
              "{\"name\":\"flags\",\"datatype\":\"BOOL\",\"shape\":[2],\"data\":[true,false]}]}");
  assert_int_equal(r.n_binary, 0);
  reply_free(&r);
}

static void test_binary_reply(void **state) {
  struct sample_model s;
  make_model(&s, 0);
  static const float scores[] = {1, 2, 3};
  static const char names[] = "\3\0\0\0\0\xff\n";
  const struct infer_result results[] = {
      {0, tensor_of(MU_FP32, scores, sizeof scores, DIMS(1, 3))},
      {1, tensor_of(MU_BYTES, names, 7, DIMS(1, 1))},
      {2, tensor_of(MU_BOOL, NULL, 0, DIMS(0))},
  };
  struct reply r;
  reply_init(&r, 1);
  ask(&r, 1)->binary = true;
  ask(&r, 2)->binary = true;
  ask(&r, 0)->binary = true;
  render(&r, &s.model, results, 3);
  expect_text(&r,
              "{\"model_name\":\"sample\",\"model_version\":\"3\",\"outputs\":["
              "{\"name\":\"n\\\"ame\",\"datatype\":\"BYTES\",\"shape\":[1,1],\"parameters\":{\"binary_data_size\":7}},"
              "{\"name\":\"flags\",\"datatype\":\"BOOL\",\"shape\":[0],\"parameters\":{\"binary_data_size\":0}},"
              "{\"name\":\"scores\",\"datatype\":\"FP32\",\"shape\":[1,3],\"parameters\":{\"binary_data_size\":12}}]}");
  /* the results' own memory, in the order of the request */
  assert_int_equal(r.n_binary, 3);
  assert_ptr_equal(r.binary[0].iov_base, names);
  assert_int_equal(r.binary[0].iov_len, 7);
  assert_int_equal(r.binary[1].iov_len, 0);
  assert_ptr_equal(r.binary[2].iov_base, scores);
  assert_int_equal(r.binary[2].iov_len, 12);
  reply_free(&r);
}

static void test_classified_reply(void **state) {
  struct sample_model s;
  make_model(&s, 4);
  static const char *const labels[] = {"cat", "", "d\xc3\xb6g"};
  s.output_configs[0].labels = labels;
  s.output_configs[0].n_labels = 3;
  static const float scores[] = {0.25f, 0.5f, 0.75f, 9, 8, 7};
  const struct infer_result results[] = {
      {0, tensor_of(MU_FP32, scores, sizeof scores, DIMS(2, 3))},
      {2, tensor_of(MU_BOOL, "\0\1", 2, DIMS(2))},
  };
  struct reply r;
  reply_init(&r, 2);
  ask(&r, 0)->classification = 2;
  render(&r, &s.model, results, 2);
  expect_text(
      &r,
      "{\"model_name\":\"sample\",\"model_version\":\"3\",\"outputs\":[{\"name\":\"scores\",\"datatype\":\"BYTES\","
      "\"shape\":[2,2],\"data\":[\"0.750000:2:d\xc3\xb6g\",\"0.500000:1\",\"9.000000:0:cat\",\"8.000000:1\"]}]}");
  reply_free(&r);

  /* both forms of it in one reply, and a plain binary output between two binary classifications' places */
  reply_init(&r, 2);
  struct request_output *first = ask(&r, 2);
  first->classification = 5; /* more than there are */
  first->binary = true;
  ask(&r, 0)->binary = true;
  render(&r, &s.model, results, 2);
  expect_text(
      &r,
      "{\"model_name\":\"sample\",\"model_version\":\"3\",\"outputs\":[{\"name\":\"flags\",\"datatype\":\"BYTES\","
      "\"shape\":[2,1],\"parameters\":{\"binary_data_size\":14}},{\"name\":\"scores\",\"datatype\":\"FP32\",\"shape\":["
      "2,3],"
      "\"parameters\":{\"binary_data_size\":24}}]}");
  assert_int_equal(r.n_binary, 2);
  assert_int_equal(r.binary[0].iov_len, 14);
  assert_memory_equal(r.binary[0].iov_base, "\3\0\0\0000:0\3\0\0\0001:0", 14);
  assert_ptr_equal(r.binary[0].iov_base, r.json.data + r.json.size);
  assert_ptr_equal(r.binary[1].iov_base, scores);
  reply_free(&r);
}

/* Many of them make the buffer move while the reply is written. */
static void test_large_binary_classifications(void **state) {
  enum { CLASSES = 500 };
  struct sample_model s;
  sample_init(&s, 0);
  sample_output(&s, "a", MU_INT32, DIMS(-1));
  sample_output(&s, "b", MU_INT32, DIMS(-1));
  static int32_t values[CLASSES];
  for (int i = 0; i < CLASSES; i++) values[i] = i;
  const struct infer_result results[] = {
      {0, tensor_of(MU_INT32, values, sizeof values, DIMS(CLASSES))},
      {1, tensor_of(MU_INT32, values, sizeof values, DIMS(CLASSES))},
  };
  struct reply r;
  reply_init(&r, 1);
  for (uint32_t i = 0; i < 2; i++) {
    struct request_output *output = ask(&r, i);
    output->binary = true;
    output->classification = i == 0 ? CLASSES : 1;
  }
  render(&r, &s.model, results, 2);
  assert_int_equal(r.status, MU_OK);
  assert_int_equal(r.n_binary, 2);
  const uint8_t *at = r.binary[0].iov_base;
  for (int i = CLASSES - 1; i >= 0; i--) {
    char text[32];
    const uint32_t length = (uint32_t)snprintf(text, sizeof text, "%d:%d", i, i);
    assert_memory_equal(at, &length, 4);
    assert_memory_equal(at + 4, text, length);
    at += 4 + length;
  }
  assert_ptr_equal(at, (uint8_t *)r.binary[0].iov_base + r.binary[0].iov_len);
  assert_memory_equal(r.binary[1].iov_base, "\7\0\0\000499:499", 11);
  reply_free(&r);
}

static void test_reshaped_output(void **state) {
  struct sample_model s;
  sample_init(&s, 4);
  struct model_tensor *y = sample_output(&s, "y", MU_UINT8, DIMS(-1, 2, 2)); /* the engine's */
  y->rank = 2;                                                               /* the client's: [-1,4] */
  y->dims[1] = 4;
  y->reshaped = true;
  struct infer_result result = {0, tensor_of(MU_UINT8, "\1\2\3\4\5\6\7\10", 8, DIMS(2, 2, 2))};
  struct reply r;
  reply_init(&r, 2);
  ask(&r, 0);
  render(&r, &s.model, &result, 1);
  expect_text(&r,
              "{\"model_name\":\"sample\",\"model_version\":\"3\",\"outputs\":[{\"name\":\"y\",\"datatype\":\"UINT8\","
              "\"shape\":[2,4],"
              "\"data\":[1,2,3,4,5,6,7,8]}]}");
  buffer_clear(&r.json);
  result.tensor.dims[2] = 1;
  result.tensor.size = 4;
  render(&r, &s.model, &result, 1);
  assert_int_equal(r.status, MU_INTERNAL);
  assert_string_equal(r.err.message, "output 'y': the model produced [2,2,1], which cannot be reshaped to [-1,4]");
  reply_free(&r);
}

static void test_failures(void **state) {
  struct sample_model s;
  make_model(&s, 4);
  static const float nan[] = {1, (float)__builtin_nan(""), 2};
  static const struct {
    uint32_t ask;
    uint32_t classification;
    struct infer_result result;
    mu_status status;
    const char *error;
  } cases[] = {
      {0,
       0,
       {0, {MU_FP32, 2, {1, 3}, (void *)(uintptr_t)nan, 12}},
       MU_UNSUPPORTED,
       "output 'scores': element 1 is not a finite number, which JSON cannot carry: ask for binary data"},
      {1, 0, {1, {MU_BYTES, 2, {1, 1}, (void *)(uintptr_t) "\1\0\0\0\xff", 5}}, MU_UNSUPPORTED, "is not valid UTF-8"},
      {1, 0, {1, {MU_BYTES, 2, {1, 1}, (void *)(uintptr_t) "\2\0\0\0a", 5}}, MU_INTERNAL, "run past"},
      {0, 0, {0, {MU_FP32, 2, {1, 3}, (void *)(uintptr_t)nan, 8}}, MU_INTERNAL, "8 bytes are not shape [1,3] as FP32"},
      {0, 0, {0, {MU_FP32, 2, {-1, 3}, (void *)(uintptr_t)nan, 12}}, MU_INTERNAL, "are not shape [-1,3]"},
      {0, 0, {1, {MU_BYTES, 1, {0}, NULL, 0}}, MU_INTERNAL, "output 'scores' was not produced"},
      {1, 1, {1, {MU_BYTES, 2, {1, 1}, (void *)(uintptr_t) "\0\0\0\0", 4}}, MU_UNSUPPORTED, "needs numbers"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct reply r;
    reply_init(&r, 1);
    ask(&r, cases[i].ask)->classification = cases[i].classification;
    render(&r, &s.model, &cases[i].result, 1);
    if (r.status != cases[i].status || strstr(r.err.message, cases[i].error) == NULL)
      fail_msg("case %zu: %d '%s'", i, r.status, r.err.message);
    reply_free(&r);
  }
}

/* Whatever the limit, a reply that does not fit is refused and nothing is written past it. */
static void test_every_limit(void **state) {
  struct sample_model s;
  make_model(&s, 4);
  static const float scores[] = {1, 2, 3};
  const struct infer_result results[] = {
      {0, tensor_of(MU_FP32, scores, sizeof scores, DIMS(1, 3))},
      {2, tensor_of(MU_BOOL, "\1", 1, DIMS(1))},
  };
  size_t fitted = 0;
  for (size_t limit = 0; limit < 1024; limit++) {
    struct reply r;
    reply_init(&r, 1);
    buffer_init(&r.json, limit);
    ask(&r, 0)->binary = true;
    struct request_output *classes = ask(&r, 2);
    classes->binary = true;
    classes->classification = 1;
    ask(&r, 1);
    if (limit % 3 == 0) share(&r, &r.request.outputs[0], "r\1\1", 1, 4);
    r.request.n_outputs = limit % 2 == 0 ? 2 : 1;
    render(&r, &s.model, results, 2);
    assert_true(r.status == MU_OK || r.status == MU_TOO_LARGE);
    assert_true(r.json.size <= limit);
    fitted += r.status == MU_OK;
    reply_free(&r);
  }
  assert_true(fitted > 0 && fitted < 1024);
}

static void test_shared_memory(void **state) {
  struct sample_model s;
  make_model(&s, 4);
  static const float scores[] = {1, 2, 3};
  const struct infer_result results[] = {
      {0, tensor_of(MU_FP32, scores, sizeof scores, DIMS(1, 3))},
      {1, tensor_of(MU_BYTES, "\1\0\0\0a", 5, DIMS(1, 1))},
      {2, tensor_of(MU_BOOL, "\1", 1, DIMS(1))},
  };
  struct reply r;
  mu_error err;
  reply_init(&r, 1);
  share(&r, ask(&r, 1), "r\"1", 0, 100);
  share(&r, ask(&r, 0), "s", INT64_MAX, 12);
  ask(&r, 2)->binary = true;
  render(&r, &s.model, results, 3);
  expect_text(&r,
              "{\"model_name\":\"sample\",\"model_version\":\"3\",\"outputs\":["
              "{\"name\":\"n\\\"ame\",\"datatype\":\"BYTES\",\"shape\":[1,1]},"
              "{\"name\":\"scores\",\"datatype\":\"FP32\",\"shape\":[1,3]},"
              "{\"name\":\"flags\",\"datatype\":\"BOOL\",\"shape\":[1],\"parameters\":{\"binary_data_size\":1}}]}");
  assert_int_equal(r.n_binary, 1);
  assert_int_equal(r.binary[0].iov_len, 1);
  assert_int_equal(infer_output_fits(&s.model, &r.request, &r.request.outputs[1], 12, &err), MU_OK);
  assert_int_equal(infer_output_fits(&s.model, &r.request, &r.request.outputs[1], 13, &err), MU_INVALID);
  assert_string_equal(err.message,
                      "shared memory size specified with the request for output 'scores' (12 bytes) should "
                      "be at least 13 bytes to hold the results");
  reply_free(&r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_json_reply),       cmocka_unit_test(test_binary_reply),
      cmocka_unit_test(test_classified_reply), cmocka_unit_test(test_large_binary_classifications),
      cmocka_unit_test(test_reshaped_output),  cmocka_unit_test(test_failures),
      cmocka_unit_test(test_every_limit),      cmocka_unit_test(test_shared_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
