/* Documents: the exact field names that clients and probes rely on. */
#include "api/rest_documents.h"

#include "sample_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void start(struct buffer *out) { buffer_init(out, 1 << 20); }

static void expect(struct buffer *out, const char *text) {
  assert_string_equal(buffer_text(out), text);
  buffer_free(out);
}

static void test_server_metadata(void **state) {
  struct buffer out;
  start(&out);
  assert_int_equal(document_server_metadata(&out), MU_OK);
  expect(&out, "{\"name\":\"muster\",\"version\":\"" MUSTER_VERSION
               "\",\"extensions\":[\"classification\",\"model_repository\",\"model_repository(unload_dependents)\","
               "\"schedule_policy\",\"model_configuration\",\"binary_tensor_data\",\"parameters\",\"statistics\","
               "\"system_shared_memory\",\"trace\",\"logging\"]}");
}

static void test_model_metadata(void **state) {
  struct sample_model s;
  sample_init(&s, 4);
  sample_input(&s, "x", MU_INT32, DIMS(-1, 4));
  sample_output(&s, "y", MU_FP32, DIMS(-1));
  struct buffer out;
  start(&out);
  assert_int_equal(document_model_metadata(&out, &s.model, (const int64_t[]){1, 3}, 2), MU_OK);
  json_t *document = json_loadb(out.data, out.size, 0, NULL);
  assert_non_null(document);
  assert_string_equal(json_string_value(json_object_get(document, "name")), "sample");
  json_t *versions = json_object_get(document, "versions");
  assert_int_equal(json_array_size(versions), 2);
  assert_string_equal(json_string_value(json_array_get(versions, 1)), "3");
  json_t *input = json_array_get(json_object_get(document, "inputs"), 0);
  assert_string_equal(json_string_value(json_object_get(input, "datatype")), "INT32");
  assert_int_equal(json_integer_value(json_array_get(json_object_get(input, "shape"), 0)), -1);
  json_decref(document);
  buffer_free(&out);
}

static void test_statistics(void **state) {
  struct sample_model s;
  sample_init(&s, 4);
  s.model.stats = model_stats_create();
  assert_non_null(s.model.stats);
  const struct batch_times times = {.compute_input_ns = 1, .compute_infer_ns = 20, .compute_output_ns = 3};
  model_stats_batch(s.model.stats, 3, 1, &times);
  model_stats_success(s.model.stats, 3, 5, 100);
  model_stats_failure(s.model.stats, FAILURE_OTHER, 7);
  s.model.stats->last_inference_ms = 1700000000123;
  struct buffer out;
  start(&out);
  const struct model *models[] = {&s.model};
  assert_int_equal(document_statistics(&out, models, 1), MU_OK);
  expect(
      &out,
      "{\"model_stats\":[{\"name\":\"sample\",\"version\":\"3\",\"last_inference\":1700000000123,\"inference_count\":3,"
      "\"execution_count\":1,\"inference_stats\":{\"success\":{\"count\":1,\"ns\":100},\"fail\":{\"count\":1,\"ns\":7},"
      "\"queue\":{\"count\":1,\"ns\":5},\"compute_input\":{\"count\":1,\"ns\":1},\"compute_infer\":{\"count\":1,\"ns\":"
      "20},"
      "\"compute_output\":{\"count\":1,\"ns\":3},\"cache_hit\":{\"count\":0,\"ns\":0},\"cache_miss\":{\"count\":0,"
      "\"ns\":0}},"
      "\"response_stats\":{},\"batch_stats\":[{\"batch_size\":3,\"compute_input\":{\"count\":1,\"ns\":1},\"compute_"
      "infer\":"
      "{\"count\":1,\"ns\":20},\"compute_output\":{\"count\":1,\"ns\":3}}],\"memory_usage\":[]}]}");
  start(&out);
  assert_int_equal(document_statistics(&out, NULL, 0), MU_OK);
  expect(&out, "{\"model_stats\":[]}");
  model_stats_free(s.model.stats);
}

static void test_regions(void **state) {
  struct buffer out;
  start(&out);
  assert_int_equal(document_regions(&out, NULL, 0), MU_OK);
  expect(&out, "[]");
  const struct region_view views[] = {{"a\"b", "/k", 0, 64}, {"\xff", "k", 1, UINT64_MAX}};
  start(&out);
  assert_int_equal(document_regions(&out, views, 2), MU_OK);
  expect(&out,
         "[{\"name\":\"a\\\"b\",\"key\":\"/k\",\"offset\":0,\"byte_size\":64},"
         "{\"name\":\"\xef\xbf\xbd\",\"key\":\"k\",\"offset\":1,\"byte_size\":18446744073709551615}]");
}

static void test_region_register(void **state) {
  static const struct {
    const char *body, *error; /* "": good */
  } cases[] = {
      {"{\"key\":\"/k\\u0041\",\"byte_size\":7}", ""},
      {" {\"byte_size\":7,\"x\":[{}],\"offset\":0,\"key\":\"/kA\"} ", ""},
      {"", "must be a JSON object"},
      {"[]", "must be a JSON object"},
      {"{}", "Shared memory register request has no 'key' field"},
      {"{\"key\":\"k\"}", "Shared memory register request has no 'byte_size' field"},
      {"{\"key\":7,\"byte_size\":1}", "wrong at byte"},
      {"{\"key\":\"k\",\"byte_size\":-1}", "wrong at byte"},
      {"{\"key\":\"k\",\"byte_size\":1,\"offset\":18446744073709551616}", "wrong at byte"},
      {"{\"key\":\"k\",\"byte_size\":1} x", "wrong at byte"},
      {"{\"key\":\"k\\u0000\",\"byte_size\":1}", "NUL"},
      {"{\"key\":\"0123456789\",\"byte_size\":1}", "10 bytes, too many"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char key[10];
    uint64_t offset = 99, byte_size = 99;
    mu_error err = {""};
    const mu_status status =
        document_region_register(cases[i].body, strlen(cases[i].body), key, sizeof key, &offset, &byte_size, &err);
    if ((status == MU_OK) != (cases[i].error[0] == '\0') || strstr(err.message, cases[i].error) == NULL)
      fail_msg("%s: %s", cases[i].body, err.message);
    if (status != MU_OK) {
      assert_int_equal(offset, 99);
      continue;
    }
    assert_string_equal(key, "/kA");
    assert_int_equal(offset, 0);
    assert_int_equal(byte_size, 7);
  }
}

static void test_repository_index(void **state) {
  struct sample_model ready, broken;
  sample_init(&ready, 0);
  sample_init(&broken, 0);
  ready.model.reason = (char *)(uintptr_t) "";
  broken.model.name = (char *)(uintptr_t) "bad \xff name"; /* a file may be called so */
  broken.model.version = 0;
  broken.model.state = MODEL_UNAVAILABLE;
  broken.model.reason = (char *)(uintptr_t) "config.pbtxt:3: \"x\"\xc3";
  const struct model *models[] = {&ready.model, &broken.model};
#define READY_ENTRY "{\"name\":\"sample\",\"version\":\"3\",\"state\":\"READY\",\"reason\":\"\"}"
#define BROKEN_ENTRY                                               \
  "{\"name\":\"bad \xef\xbf\xbd name\",\"state\":\"UNAVAILABLE\"," \
  "\"reason\":\"config.pbtxt:3: \\\"x\\\"\xef\xbf\xbd\"}"
  static const struct {
    const char *body, *text; /* NULL: refused with error */
    const char *error;
  } cases[] = {
      {"", "[" READY_ENTRY "," BROKEN_ENTRY "]", NULL},
      {" \r\n", "[" READY_ENTRY "," BROKEN_ENTRY "]", NULL},
      {"{}", "[" READY_ENTRY "," BROKEN_ENTRY "]", NULL},
      {"{\"ready\":false,\"other\":[1]}", "[" READY_ENTRY "," BROKEN_ENTRY "]", NULL},
      {"{\"ready\":true}", "[" READY_ENTRY "]", NULL},
      {"[]", NULL, "must be a JSON object"},
      {"{\"ready\":1}", NULL, "byte 9: expected a boolean, found a number"},
      {"{\"ready\":true", NULL, "the text ends inside an object"},
      {"{} {}", NULL, "something follows"},
      {"x", NULL, "byte 0: expected a value"},
      {"]", NULL, "must be a JSON object"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct buffer out;
    start(&out);
    mu_error err = {""};
    const mu_status status = document_repository_index(&out, models, 2, cases[i].body, strlen(cases[i].body), &err);
    if (cases[i].text != NULL) {
      assert_int_equal(status, MU_OK);
      assert_string_equal(buffer_text(&out), cases[i].text);
    } else if (status != MU_INVALID || strstr(err.message, cases[i].error) == NULL) {
      fail_msg("%s: %d '%s'", cases[i].body, status, err.message);
    }
    buffer_free(&out);
  }
}

static const struct backend_view backends[] = {
    {.address = "sample/0",
     .model = "sample",
     .device = "cpu",
     .gpu_id = -1,
     .healthy = true,
     .total_requests = 10,
     .total_batches = 4,
     .error_count = 1,
     .rows = 12,
     .queue_depth = 2},
    {.address = "sample/1",
     .model = "sample",
     .device = "gpu:1",
     .gpu_id = 1,
     .gpu_uuid = "GPU-b",
     .gpu_name = "NVIDIA H200",
     .speed = 0.25,
     .in_flight = 1,
     .healthy = false,
     .total_requests = 5,
     .total_batches = 5,
     .rows = 5,
     .queue_depth = 1},
    {.address = "other/0",
     .model = "other",
     .device = "gpu:1",
     .gpu_id = 1,
     .gpu_uuid = "GPU-b",
     .gpu_name = "NVIDIA H200",
     .speed = 0.75,
     .error_count = 2,
     .healthy = false,
     .total_requests = 1,
     .total_batches = 1,
     .rows = 3,
     .queue_depth = 0},
    {.address = "other/1", .model = "other", .device = "gpu:1:0", .gpu_id = 1, .gpu_uuid = "MIG-c", .healthy = true},
};

static void test_health(void **state) {
  struct buffer out;
  bool healthy = false;
  start(&out);
  assert_int_equal(document_health(&out, backends, 2, NULL, &healthy), MU_OK);
  assert_true(healthy);
  expect(&out,
         "{\"healthy\":true,\"total_backends\":2,\"healthy_count\":1,\"backends\":[{\"address\":\"sample/"
         "0\",\"healthy\":true,"
         "\"total_requests\":10,\"error_count\":1},{\"address\":\"sample/1\",\"healthy\":false,\"total_requests\":5,"
         "\"error_count\":0}]}");
  start(&out);
  assert_int_equal(document_health(&out, backends + 1, 1, NULL, &healthy), MU_OK);
  assert_false(healthy);
  buffer_free(&out);
  start(&out);
  healthy = true;
  assert_int_equal(document_health(&out, NULL, 0, NULL, &healthy), MU_OK);
  assert_false(healthy);
  expect(&out, "{\"healthy\":false,\"total_backends\":0,\"healthy_count\":0,\"backends\":[]}");
}

static void test_stats(void **state) {
  struct sample_model a, b, c;
  sample_init(&a, 0);
  sample_init(&b, 0); /* another version of the same name */
  sample_init(&c, 0);
  c.model.name = (char *)(uintptr_t) "loading";
  c.model.state = MODEL_LOADING;
  const struct model *models[] = {&c.model, &a.model, &b.model};
  struct buffer out;
  start(&out);
  assert_int_equal(document_stats(&out, backends, 4, models, 3), MU_OK);
  expect(&out,
         "{\"total_requests\":16,\"total_batches\":10,\"avg_batch_size\":2.0,\"queue_depth\":3,\"models\":[\"sample\"],"
         "\"per_gpu_stats\":[{\"gpu_id\":-1,\"current_queue_depth\":2,\"total_requests\":10,\"total_batches\":4,"
         "\"avg_batch_size\":3.0,\"in_flight\":0,\"error_count\":1,\"workers\":1},"
         "{\"gpu_id\":1,\"current_queue_depth\":1,\"total_requests\":6,\"total_batches\":6,"
         "\"avg_batch_size\":1.3333333333333333,\"in_flight\":1,\"error_count\":2,\"workers\":2,"
         "\"device\":\"gpu:1\",\"uuid\":\"GPU-b\",\"name\":\"NVIDIA H200\",\"speed_ratio\":0.5},"
         "{\"gpu_id\":1,\"current_queue_depth\":0,\"total_requests\":0,\"total_batches\":0,\"avg_batch_size\":0.0,"
         "\"in_flight\":0,\"error_count\":0,\"workers\":1,\"device\":\"gpu:1:0\",\"uuid\":\"MIG-c\"}]}");
  start(&out);
  assert_int_equal(document_stats(&out, NULL, 0, NULL, 0), MU_OK);
  expect(&out,
         "{\"total_requests\":0,\"total_batches\":0,\"avg_batch_size\":0.0,\"queue_depth\":0,\"models\":[],\"per_gpu_"
         "stats\":[]}");
}

/* In whatever order workers have come. */
static void test_stats_are_in_order_of_the_gpus(void **state) {
  const struct backend_view mixed[] = {
      {.address = "m/3", .model = "m", .device = "gpu:3", .gpu_id = 3, .gpu_uuid = "D"},
      {.address = "m/0", .model = "m", .device = "gpu:0", .gpu_id = 0, .gpu_uuid = "A"},
      {.address = "m/1", .model = "m", .device = "gpu:1", .gpu_id = 1, .gpu_uuid = "B"},
      {.address = "c/0", .model = "c", .device = "cpu", .gpu_id = -1},
  };
  static const char *const wanted[] = {"\"gpu_id\":-1,", "\"gpu_id\":0,", "\"gpu_id\":1,", "\"gpu_id\":3,"};
  struct buffer out;
  start(&out);
  assert_int_equal(document_stats(&out, mixed, 4, NULL, 0), MU_OK);
  const char *at = buffer_text(&out);
  for (size_t i = 0; at != NULL && i < 4; i++) at = strstr(at, wanted[i]);
  assert_non_null(at);
  buffer_free(&out);
}

static void test_no_room(void **state) {
  struct buffer out;
  buffer_init(&out, 10);
  assert_int_equal(document_server_metadata(&out), MU_TOO_LARGE);
  buffer_free(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_server_metadata),
      cmocka_unit_test(test_model_metadata),
      cmocka_unit_test(test_statistics),
      cmocka_unit_test(test_regions),
      cmocka_unit_test(test_region_register),
      cmocka_unit_test(test_repository_index),
      cmocka_unit_test(test_health),
      cmocka_unit_test(test_stats),
      cmocka_unit_test(test_stats_are_in_order_of_the_gpus),
      cmocka_unit_test(test_no_room),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
