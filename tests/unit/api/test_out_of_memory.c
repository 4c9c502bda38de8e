/* Requests read, replies rendered, documents written, without memory for them. */
#include "api/grpc_documents.h"
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

#include "grpc_request.h"

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
  char reason[] = "why \"not\" \xff";
  s.model.reason = reason;
  struct backend_view views[] = {{.address = "m/0", .model = "m", .device = "cpu", .gpu_id = -1, .healthy = true},
                                 {.address = "m/1",
                                  .model = "m",
                                  .device = "gpu:0",
                                  .gpu_id = 0,
                                  .gpu_uuid = "GPU-a",
                                  .gpu_name = "H",
                                  .speed = 1}};
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
      document_health(&out, views, 2, NULL, &healthy),
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

/* A ModelInferRequest with inputs of all kinds; raw contents of "mask" when staged. */
static struct buffer grpc_message(bool raw) {
  static const int32_t numbers[] = {1, 2, 3, 4, 5, 6, 7, 8};
  struct buffer m = wire_new(), input = wire_input("bytes", "INT32", DIMS(2, 4)), contents = wire_new();
  wire_text(&m, 1, "sample");
  wire_text(&m, 3, "an id");
  for (int i = 0; i < 8; i++) wire_number(&contents, 2, (uint64_t)i);
  if (!raw) wire_message(&input, 5, &contents);
  wire_message(&m, 5, &input);
  for (int i = 0; i < 2; i++) {
    struct buffer output = wire_new(), entry = wire_new(), value = wire_new();
    wire_text(&output, 1, i == 0 ? "scores" : "labels");
    if (i == 0) {
      wire_text(&entry, 1, "classification");
      wire_number(&value, 2, 2);
      wire_message(&entry, 2, &value);
      wire_message(&output, 2, &entry);
    }
    buffer_free(&entry);
    wire_message(&m, 6, &output);
  }
  if (raw) pb_put_bytes(&m, 7, numbers, sizeof numbers);
  if (raw) wire_text(&m, 3, "a late id");
  buffer_free(&contents);
  return m;
}

/* Reads it piece by piece and whole, and answers it. */
static mu_status grpc_call(const struct sample_model *s, const struct buffer *m, struct request *request,
                           struct buffer *head, struct buffer *reply, mu_error *err) {
  static uint8_t labels[] = {1, 0, 0, 0, 'a', 1, 0, 0, 0, 'b'};
  static float scores[] = {1, 2, 3, 6, 5, 4};
  struct grpc_scan scan;
  enum grpc_scan_event event = GRPC_SCAN_RAW;
  static uint8_t data[64];
  grpc_scan_begin(&scan, head, m->size);
  const uint8_t *at = (const uint8_t *)m->data;
  size_t left = m->size;
  while (event != GRPC_SCAN_END) {
    mu_status status = grpc_scan_feed(&scan, &at, &left, &event, err);
    if (status == MU_OK && event == GRPC_SCAN_RAW) {
      const struct grpc_infer_rest rest = grpc_scan_rest(&scan);
      status = grpc_infer_parse(&s->model, head->data, head->size, &rest, request, err);
      if (status != MU_OK) return status;
      request->inputs[0].data = data;
      at += scan.raw_left;
      left -= scan.raw_left;
      grpc_scan_advance(&scan, scan.raw_left);
    }
    if (status == MU_OK && event == GRPC_SCAN_LATE) {
      status = grpc_scan_stage(&scan, request, err);
      request_clear(request);
    }
    if (status != MU_OK) return status;
  }
  mu_status status = grpc_infer_parse(&s->model, head->data, head->size, NULL, request, err);
  if (status != MU_OK) return status;
  request->inputs[0].data = data;
  grpc_infer_copy_raw(head->data, request);
  status = grpc_infer_read_contents(&s->model, head->data, request, err);
  if (status != MU_OK) return status;
  mu_tensor one = {MU_FP32, 2, {2, 3}, scores, sizeof scores}, other = {MU_BYTES, 2, {2, 1}, labels, sizeof labels};
  const struct infer_result results[] = {{0, one}, {1, other}};
  struct iovec iov[GRPC_INFER_IOV_MAX(2)];
  uint32_t n_iov;
  uint64_t size;
  bool borrows;
  return grpc_infer_render(&s->model, request, results, 2, GRPC_REPLY_STREAM, reply, iov, &n_iov, &size, &borrows, err);
}

static mu_status grpc_infer(void *context) {
  static struct sample_model s;
  make_batched(&s);
  allocations_work();
  struct buffer m = grpc_message(context != NULL), head, reply;
  struct request request;
  memset(&request, 0, sizeof request);
  mu_error err = {""};
  buffer_init(&head, 1 << 20);
  buffer_init(&reply, 1 << 20);
  allocations_fail();
  const mu_status status = grpc_call(&s, &m, &request, &head, &reply, &err);
  allocations_work();
  if (status != MU_OK) assert_true(err.message[0] != '\0');
  request_clear(&request);
  buffer_clear(&head);
  buffer_clear(&reply);
  assert_int_equal(grpc_call(&s, &m, &request, &head, &reply, &err), MU_OK);
  request_free(&request);
  buffer_free(&head);
  buffer_free(&reply);
  buffer_free(&m);
  return status;
}

/* Every reply that is no inference; each into an empty buffer, so that each allocates. */
static mu_status grpc_documents(void *context) {
  static struct sample_model s;
  make_batched(&s);
  allocations_work();
  s.model.stats = model_stats_create();
  assert_non_null(s.model.stats);
  mu_error err = {""};
  assert_int_equal(model_config_parse("", 0, "config.pbtxt", "sample", &s.model.config, &err), MU_OK);
  char reason[] = "why \"not\" \xff";
  s.model.reason = reason;
  const struct model *models[] = {&s.model};
  const struct grpc_region region = {.name = "r", .key = "/k"};
  const struct grpc_setting setting = {.key = "k", .kind = GRPC_VALUE_TEXT, .text = "v"};
  struct buffer out;
  buffer_init(&out, 1 << 20);
  mu_status worst = MU_OK;
  for (int i = 0; i < 12; i++) {
    allocations_fail();
    const mu_status status = i == 0    ? grpc_reply_flag(&out, true, &err)
                             : i == 1  ? grpc_reply_empty(&out, &err)
                             : i == 2  ? grpc_reply_health(&out, GRPC_SERVING, &err)
                             : i == 3  ? grpc_reply_server_metadata(&out, &err)
                             : i == 4  ? grpc_reply_model_metadata(&out, &s.model, (const int64_t[]){1, 3}, 2, &err)
                             : i == 5  ? grpc_reply_model_config(&out, &s.model, &err)
                             : i == 6  ? grpc_reply_statistics(&out, models, 1, &err)
                             : i == 7  ? grpc_reply_repository_index(&out, models, 1, false, &err)
                             : i == 8  ? grpc_reply_system_regions(&out, &region, 1, &err)
                             : i == 9  ? grpc_reply_cuda_regions(&out, &region, 1, &err)
                             : i == 10 ? grpc_reply_log_settings(&out, &setting, 1, &err)
                                       : grpc_reply_reflection(&out, "\x3a\0", 2, &err);
    allocations_work();
    if (status != MU_OK) {
      assert_true(err.message[0] != '\0');
      worst = status;
    }
    buffer_free(&out);
  }
  assert_int_equal(grpc_reply_statistics(&out, models, 1, &err), MU_OK);
  model_stats_free(s.model.stats);
  model_config_free(s.model.config);
  buffer_free(&out);
  return worst;
}

static mu_status grpc_requests(void *context) {
  static const char message[] = "\x12\1m\x1a\x0b\x0a\1a\x12\6\x1a\4text\x1a\x0b\x0a\1b\x12\6\x1a\4text";
  struct grpc_request request;
  mu_error err = {""};
  const mu_status status = grpc_request_read(GRPC_REPOSITORY_MODEL_LOAD, message, sizeof message - 1, &request, &err);
  if (status == MU_OK) assert_int_equal(request.n_settings, 2);
  if (status != MU_OK) assert_true(err.message[0] != '\0');
  grpc_request_free(&request);
  return status;
}

static void test_grpc_infer(void **state) {
  fail_each_allocation("gRPC request and reply", grpc_infer, NULL);
  fail_each_allocation("gRPC request that is staged", grpc_infer, "staged");
}
static void test_grpc_documents(void **state) { fail_each_allocation("gRPC documents", grpc_documents, NULL); }
static void test_grpc_requests(void **state) { fail_each_allocation("gRPC requests", grpc_requests, NULL); }

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
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_infer),         cmocka_unit_test(test_documents),
                                     cmocka_unit_test(test_grpc_infer),    cmocka_unit_test(test_grpc_documents),
                                     cmocka_unit_test(test_grpc_requests), cmocka_unit_test(test_load)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
