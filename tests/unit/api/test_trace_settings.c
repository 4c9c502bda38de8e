/* v2/trace/setting: what changes, what is cleared, what is refused, and the answer. */
#include "api/trace_settings.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct trace_change parsed(const char *body) {
  struct trace_change change;
  mu_error err = {""};
  if (trace_change_parse(body, strlen(body), &change, &err) != MU_OK) fail_msg("%s: %s", body, err.message);
  return change;
}

static void test_changes(void **state) {
  struct trace_change c = parsed(
      "{\"trace_level\":[\"TIMESTAMPS\"],\"trace_rate\":\"5\",\"trace_count\":\"-1\","
      "\"log_frequency\":\"0\",\"trace_mode\":\"triton\"}");
  assert_int_equal(c.fields, TRACE_LEVEL | TRACE_RATE | TRACE_COUNT | TRACE_LOG_FREQUENCY);
  assert_int_equal(c.cleared, 0);
  assert_true(c.to.timestamps && c.to.rate == 5 && c.to.count == -1 && c.to.log_frequency == 0);
  c = parsed("{\"trace_rate\":4294967295,\"trace_count\":2147483647,\"trace_level\":\"OFF\"}");
  assert_int_equal(c.fields, TRACE_LEVEL | TRACE_RATE | TRACE_COUNT);
  assert_true(!c.to.timestamps && c.to.rate == UINT32_MAX && c.to.count == INT32_MAX);
  c = parsed("{\"trace_rate\":null,\"trace_level\":null,\"trace_count\":\"1\",\"trace_count\":null}");
  assert_int_equal(c.fields, 0);
  assert_int_equal(c.cleared, TRACE_LEVEL | TRACE_RATE | TRACE_COUNT);
  static const char *const nothing[] = {"", "  ", "{}", "{\"trace_mode\":null}"};
  for (size_t i = 0; i < sizeof nothing / sizeof *nothing; i++) {
    c = parsed(nothing[i]);
    assert_int_equal(c.fields | c.cleared, 0);
  }
}

static void test_refused(void **state) {
  static const struct {
    const char *body;
    mu_status status;
    const char *says;
  } cases[] = {
      {"{\"trace_file\":\"/etc/passwd\"}", MU_UNSUPPORTED,
       "trace file location can not be updated through network protocol"},
      {"{\"trace_file\":null}", MU_UNSUPPORTED, "trace file location"},
      {"{\"trace_file\":[1,{}]}", MU_UNSUPPORTED, "trace file location"},
      {"{\"trace_level\":[\"TENSORS\"]}", MU_UNSUPPORTED, "TENSORS is not supported"},
      {"{\"trace_level\":[\"OFF\",\"TIMESTAMPS\"]}", MU_INVALID, "Expect only one trace level 'OFF' is specified"},
      {"{\"trace_level\":[\"MAX\"]}", MU_INVALID, "OFF or TIMESTAMPS"},
      {"{\"trace_level\":true}", MU_INVALID, "is a string"},
      {"{\"trace_level\":[[]]}", MU_INVALID, "is a string"},
      {"{\"trace_level\":[\"OFF\",\"OFF\",\"OFF\",\"OFF\",\"OFF\"]}", MU_INVALID, "too many values"},
      {"{\"trace_rate\":\"\"}", MU_INVALID, "Unable to parse 'trace_rate', got: "},
      {"{\"trace_rate\":\"five\"}", MU_INVALID, "Unable to parse 'trace_rate', got: five"},
      {"{\"trace_rate\":1.5}", MU_INVALID, "Unable to parse 'trace_rate', got: 1.5"},
      {"{\"trace_rate\":\"-1\"}", MU_INVALID, "value is out of range [ 0, 4294967295 ], got: -1"},
      {"{\"trace_rate\":\"4294967296\"}", MU_INVALID, "value is out of range"},
      {"{\"trace_rate\":\"99999999999999999999999\"}", MU_INVALID, "value is out of range"},
      {"{\"trace_rate\":[\"1\",\"2\"]}", MU_INVALID, "only one value"},
      {"{\"trace_count\":\"-2\"}", MU_INVALID, "Unable to parse 'trace_count'. Expecting value >= -1, got:-2"},
      {"{\"trace_count\":\"2147483648\"}", MU_INVALID, "value is out of range [ -1, 2147483647 ]"},
      {"{\"log_frequency\":\"x\"}", MU_INVALID, "Unable to parse 'log_frequency', got: x"},
      {"{\"log_frequency\":\"11111111111111111111111111111111111111111111111111111111111111111\"}", MU_INVALID,
       "Unable to parse 'log_frequency'"},
      {"{\"trace_mode\":\"opentelemetry\"}", MU_UNSUPPORTED, "trace mode 'opentelemetry' is not supported"},
      {"{\"trace_what\":\"1\"}", MU_INVALID, "there is no trace setting 'trace_what'"},
      {"[]", MU_INVALID, "must be a JSON object"},
      {"{\"trace_rate\":\"1\"", MU_INVALID, "failed to parse the request JSON buffer"},
      {"{\"trace_rate\":nul}", MU_INVALID, "failed to parse the request JSON buffer"},
      {"{\"trace_level\":[\"OFF\"}", MU_INVALID, "failed to parse the request JSON buffer"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct trace_change change = {.fields = 99};
    mu_error err = {""};
    mu_status status = trace_change_parse(cases[i].body, strlen(cases[i].body), &change, &err);
    if (status != cases[i].status || strstr(err.message, cases[i].says) == NULL)
      fail_msg("%s: %d %s", cases[i].body, status, err.message);
    assert_int_equal(change.fields, 99);
  }
}

static void test_document(void **state) {
  const struct trace_settings settings = {.timestamps = true, .rate = 7, .count = -1, .log_frequency = 2};
  struct buffer out;
  buffer_init(&out, 1 << 10);
  assert_int_equal(document_trace_settings(&out, &settings, "/tmp/a \"trace\""), MU_OK);
  assert_string_equal(buffer_text(&out),
                      "{\"trace_level\":[\"TIMESTAMPS\"],\"trace_rate\":\"7\",\"trace_count\":\"-1\","
                      "\"log_frequency\":\"2\",\"trace_file\":\"/tmp/a \\\"trace\\\"\",\"trace_mode\":\"triton\"}");
  buffer_free(&out);
  buffer_init(&out, 10);
  assert_int_not_equal(document_trace_settings(&out, &settings, ""), MU_OK);
  buffer_free(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_changes), cmocka_unit_test(test_refused),
                                     cmocka_unit_test(test_document)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
