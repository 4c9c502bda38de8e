/* v2/logging: what changes, what is refused, and the answer. */
#include "api/log_settings.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static const struct log_settings begin = {.error = true, .warning = true, .info = true};

static struct log_settings changed(const char *body) {
  struct log_change change;
  mu_error err = {""};
  if (log_change_parse(body, strlen(body), &change, &err) != MU_OK) fail_msg("%s: %s", body, err.message);
  struct log_settings settings = begin;
  log_change_apply(&change, &settings);
  return settings;
}

static void test_only_what_is_named_changes(void **state) {
  struct log_settings s = changed("{\"log_info\":false}");
  assert_true(s.error && s.warning && !s.info && s.verbose_level == 0 && !s.iso8601);
  s = changed("{\"log_verbose_level\":7,\"log_error\":false,\"log_format\":\"ISO8601\"}");
  assert_true(!s.error && s.warning && s.info && s.verbose_level == 7 && s.iso8601);
  s = changed("{\"log_warning\":false,\"log_warning\":true,\"log_format\":\"default\"}");
  assert_true(s.warning && !s.iso8601);
  static const char *const nothing[] = {"", " ", "{}",
                                        "{\"log_file\":null,\"log_info\":null,\"log_verbose_level\":null,"
                                        "\"log_format\":null}"};
  for (size_t i = 0; i < sizeof nothing / sizeof *nothing; i++) {
    s = changed(nothing[i]);
    assert_memory_equal(&s, &begin, sizeof s);
  }
}

static void test_refused(void **state) {
  static const struct {
    const char *body;
    mu_status status;
    const char *says;
  } cases[] = {
      {"{\"log_file\":\"/etc/passwd\"}", MU_UNSUPPORTED,
       "log file location can not be updated through network protocol"},
      {"{\"log_file\":\"\"}", MU_UNSUPPORTED, "log file location"},
      {"{\"log_info\":1}", MU_INVALID, "log_info is true or false"},
      {"{\"log_error\":\"true\"}", MU_INVALID, "log_error is true or false"},
      {"{\"log_verbose_level\":-1}", MU_INVALID, "log_verbose_level is a whole number"},
      {"{\"log_verbose_level\":4294967296}", MU_INVALID, "log_verbose_level is a whole number"},
      {"{\"log_verbose_level\":\"1\"}", MU_INVALID, "log_verbose_level is a whole number"},
      {"{\"log_verbose_level\":1.5}", MU_INVALID, "log_verbose_level is a whole number"},
      {"{\"log_format\":\"json\"}", MU_INVALID, "invalid argument for log_format, got: json"},
      {"{\"log_format\":true}", MU_INVALID, "log_format is a string"},
      {"{\"log_colour\":true}", MU_INVALID, "there is no log setting 'log_colour'"},
      {"[]", MU_INVALID, "must be a JSON object"},
      {"{\"log_info\":true", MU_INVALID, "failed to parse the request JSON buffer"},
      {"{\"log_info\":true}}", MU_INVALID, "failed to parse the request JSON buffer"},
      {"{\"log_info\":nul}", MU_INVALID, "failed to parse the request JSON buffer"},
      {"{\"log_info\" true}", MU_INVALID, "failed to parse the request JSON buffer"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct log_change change = {.fields = 99};
    mu_error err = {""};
    assert_int_equal(log_change_parse(cases[i].body, strlen(cases[i].body), &change, &err), cases[i].status);
    if (strstr(err.message, cases[i].says) == NULL) fail_msg("%s: %s", cases[i].body, err.message);
    assert_int_equal(change.fields, 99);
  }
}

static void test_document(void **state) {
  struct log_settings settings = {.error = true, .info = true, .verbose_level = 3, .iso8601 = true};
  struct buffer out;
  buffer_init(&out, 1 << 10);
  assert_int_equal(document_log_settings(&out, &settings), MU_OK);
  assert_string_equal(buffer_text(&out),
                      "{\"log_file\":\"\",\"log_info\":true,\"log_warning\":false,\"log_error\":true,"
                      "\"log_verbose_level\":3,\"log_format\":\"ISO8601\"}");
  buffer_free(&out);
  buffer_init(&out, 10);
  assert_int_not_equal(document_log_settings(&out, &settings), MU_OK);
  buffer_free(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_only_what_is_named_changes), cmocka_unit_test(test_refused),
                                     cmocka_unit_test(test_document)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
