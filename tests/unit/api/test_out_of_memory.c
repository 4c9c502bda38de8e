/* Requests read, replies rendered, documents written, without memory for them. */
#include "api/rest_documents.h"
#include "api/rest_repository.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "failing_allocator.h"

#include "infer_attempt.h"

static const char json[] =
    "{\"id\":\"a long enough \\u0069d\",\"parameters\":{\"timeout\":5,\"priority\":1},"
    "\"inputs\":[{\"name\":\"bytes\",\"datatype\":\"INT32\",\"shape\":[2,4],\"data\":[1,2,3,4,5,6,7,8]},"
    "{\"name\":\"mask\",\"datatype\":\"BOOL\",\"shape\":[2,3],\"parameters\":{\"binary_data_size\":6}}],"
    "\"outputs\":[{\"name\":\"scores\",\"parameters\":{\"classification\":2}},"
    "{\"name\":\"labels\",\"parameters\":{\"binary_data\":true}}]}";

static mu_status parse_and_render(void *context) {
  static struct sample_model s;
  make_batched(&s);
  static uint8_t data[2][64], labels[] = {1, 0, 0, 0, 'a', 1, 0, 0, 0, 'b'};
  static float scores[] = {1, 2, 3, 6, 5, 4};
  struct request request;
  memset(&request, 0, sizeof request);
  mu_error err = {""};
  struct buffer reply;
  buffer_init(&reply, 1 << 20);
  mu_status status = rest_infer_parse(&s.model, json, sizeof json - 1, 6, &request, &err);
  if (status == MU_OK) {
    assert_int_equal(request.n_inputs, 2);
    assert_int_equal(request.n_outputs, 2);
    for (int i = 0; i < 2; i++) request.inputs[i].data = data[i];
    status = rest_infer_read_json(&s.model, json, sizeof json - 1, &request, &err);
  }
  if (status == MU_OK) {
    mu_tensor one = {MU_FP32, 2, {2, 3}, scores, sizeof scores}, other = {MU_BYTES, 2, {2, 1}, labels, sizeof labels};
    const struct infer_result results[] = {{0, one}, {1, other}};
    struct iovec binary[2];
    uint32_t n_binary = 0;
    status = rest_infer_render(&s.model, &request, results, 2, &reply, binary, &n_binary, &err);
    if (status == MU_OK) assert_int_equal(n_binary, 1);
  }
  if (status != MU_OK) assert_true(err.message[0] != '\0');
  request_clear(&request); /* as the gateway does between two requests: */
  allocations_work();
  assert_int_equal(rest_infer_parse(&s.model, json, sizeof json - 1, 6, &request, &err), MU_OK);
  assert_int_equal(request.n_inputs, 2);
  request_free(&request);
  buffer_free(&reply);
  return status;
}

static mu_status documents(void *context) {
  static struct sample_model s;
  make_batched(&s);
  allocations_work();
  s.model.stats = model_stats_create();
  assert_non_null(s.model.stats);
  const struct batch_times times = {1, 2, 3};
  model_stats_batch(s.model.stats, 3, 1, &times);
  model_stats_batch(s.model.stats, 4, 1, &times);
  mu_error err = {""};
  assert_int_equal(model_config_parse("", 0, "config.pbtxt", "sample", &s.model.config, &err), MU_OK);
  char reason[] = "why \"not\"";
  s.model.reason = reason;
  struct backend_view views[] = {{.address = "m/0", .model = "m", .device = "cpu", .gpu_id = -1, .healthy = true},
                                 {.address = "m/1", .model = "m", .device = "gpu:0", .gpu_id = 0}};
  const struct model *models[] = {&s.model, &s.model};
  struct buffer out;
  bool healthy;
  buffer_init(&out, 1 << 20);
  allocations_fail();
  mu_status status[] = {
      document_server_metadata(&out),
      document_model_metadata(&out, &s.model, (const int64_t[]){1, 3}, 2),
      document_model_config(&out, &s.model),
      document_statistics(&out, models, 2),
      document_repository_index(&out, models, 2, "{\"ready\":true}", 14, &err),
      document_health(&out, views, 2, &healthy),
      document_stats(&out, views, 2, models, 2),
  };
  allocations_work();
  mu_status worst = MU_OK;
  for (size_t i = 0; i < sizeof status / sizeof *status; i++)
    if (status[i] != MU_OK) worst = status[i];
  buffer_clear(&out);
  assert_int_equal(document_statistics(&out, models, 2), MU_OK);
  model_stats_free(s.model.stats);
  model_config_free(s.model.config);
  buffer_free(&out);
  return worst;
}

static mu_status parse_load(void *context) {
  static const char body[] =
      "{\"parameters\": {\"config\": \"{\\\"a\\\": 1}\", \"f\\u0069le:1/model.onnx\": \"AA\\/A\"}}";
  struct model_parameter parameters[MODEL_PARAMETERS_MAX];
  struct arena memory = {0};
  size_t n = 0;
  mu_error err = {""};
  mu_status status = rest_repository_parse(body, sizeof body - 1, &memory, parameters, &n, &err);
  if (status != MU_OK) assert_true(err.message[0] != '\0');
  if (status == MU_OK) assert_int_equal(n, 2);
  arena_free(&memory);
  return status;
}

static void test_load(void **state) { fail_each_allocation("a request to load a model", parse_load, NULL); }
static void test_infer(void **state) { fail_each_allocation("inference request and reply", parse_and_render, NULL); }
static void test_documents(void **state) { fail_each_allocation("documents", documents, NULL); }

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_infer), cmocka_unit_test(test_documents),
                                     cmocka_unit_test(test_load)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
