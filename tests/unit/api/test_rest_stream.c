#include "api/rest_stream.h"

#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { MOST = 64 };

static struct stream_options parsed(const char *query) {
  struct stream_options options;
  mu_error err;
  if (rest_stream_options(query, MOST, &options, &err) != MU_OK) fail_msg("%s: %s", query, err.message);
  return options;
}

static void test_defaults(void **state) {
  static const char *const queries[] = {"", "&", "order=finished", "&&order=finished&"};
  for (size_t i = 0; i < sizeof queries / sizeof *queries; i++) {
    struct stream_options options = parsed(queries[i]);
    assert_int_equal(options.max_in_flight, MOST);
    assert_true(!options.ordered && options.deadline_ns == 0 && !options.drop_late && !options.keep_newest);
  }
}

static void test_all_keys(void **state) {
  struct stream_options options = parsed("drop=late&deadline_ms=40&order=request&keep=newest&max_in_flight=64");
  assert_true(options.ordered && options.drop_late && options.keep_newest);
  assert_true(options.deadline_ns == 40 * NS_PER_MS);
  assert_int_equal(options.max_in_flight, 64);
}

static void test_wrong_queries(void **state) {
  static const struct {
    const char *query, *part;
  } cases[] = {
      {"speed=9", "does not know 'speed'"},
      {"order", "not ''"},
      {"order=", "not ''"},
      {"order=Request", "not 'Request'"},
      {"=request", "does not know ''"},
      {"order=request&order=request", "twice"},
      {"max_in_flight=0", "1 to 64"},
      {"max_in_flight=65", "1 to 64"},
      {"max_in_flight=-1", "1 to 64"},
      {"max_in_flight= 1", "1 to 64"},
      {"max_in_flight=1x", "1 to 64"},
      {"max_in_flight=99999999999999999999999999999999999999999", "1 to 64"},
      {"deadline_ms=86400001", "86400000"},
      {"deadline_ms=0.5", "86400000"},
      {"drop=late", "needs deadline_ms"},
      {"drop=all&deadline_ms=1", "not 'all'"},
      {"keep=oldest", "not 'oldest'"},
      {"ordering=request", "does not know 'ordering'"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct stream_options options;
    mu_error err = {""};
    assert_int_equal(rest_stream_options(cases[i].query, MOST, &options, &err), MU_INVALID);
    if (strstr(err.message, cases[i].part) == NULL) fail_msg("%s: '%s'", cases[i].query, err.message);
  }
}

static void test_models(void **state) {
  static const struct {
    const char *json, *model;
    int64_t version;
  } cases[] = {
      {"{\"model_name\":\"m\"}", "m", -1},
      {"{\"inputs\":[{\"data\":[1,[2]]}],\"model_version\":\"12\",\"model_name\":\"a\\u002db\"}", "a-b", 12},
      {"{\"model_name\":\"m\",\"model_version\":3}", "m", 3},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char model[256];
    int64_t version;
    mu_error err;
    assert_int_equal(rest_stream_model(cases[i].json, strlen(cases[i].json), model, &version, &err), MU_OK);
    assert_string_equal(model, cases[i].model);
    assert_int_equal(version, cases[i].version);
  }
}

static void test_no_models(void **state) {
  static const struct {
    const char *json, *part;
  } cases[] = {
      {"{}", "no \"model_name\""},
      {"[]", "no \"model_name\""},
      {"{\"a\":", "not valid"},
      {"{\"model_name\":1}", "must be a string"},
      {"{\"model_name\":\"\"}", "cannot be the name"},
      {"{\"model_name\":\"a/b\"}", "cannot be the name"},
      {"{\"model_name\":\"a\\u0000b\"}", "cannot be the name"},
      {"{\"model_name\":\"m\",\"model_version\":0}", "positive number"},
      {"{\"model_name\":\"m\",\"model_version\":\"\"}", "positive number"},
      {"{\"model_name\":\"m\",\"model_version\":\"1x\"}", "positive number"},
      {"{\"model_name\":\"m\",\"model_version\":\"9999999999999999999\"}", "positive number"},
      {"{\"model_name\":\"m\",\"model_version\":null}", "positive number"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char model[256];
    int64_t version;
    mu_error err = {""};
    assert_int_equal(rest_stream_model(cases[i].json, strlen(cases[i].json), model, &version, &err), MU_INVALID);
    if (strstr(err.message, cases[i].part) == NULL) fail_msg("%s: '%s'", cases[i].json, err.message);
  }
  char longer[400] = "{\"model_name\":\"";
  memset(longer + strlen(longer), 'm', 300);
  strcat(longer, "\"}");
  char model[256];
  int64_t version;
  assert_int_equal(rest_stream_model(longer, strlen(longer), model, &version, NULL), MU_INVALID);
}

static void test_ids(void **state) {
  static const struct {
    const char *json, *id;
  } cases[] = {
      {"{\"id\":\"7\"}", "7"},
      {"{\"inputs\":[],\"id\":\"\\u00fc\"}", "\xc3\xbc"},
      {"{\"id\":7}", ""},
      {"{\"a\":1}", ""},
      {"{\"id\":\"7\", broken", "7"},
      {"{broken,\"id\":\"7\"}", ""},
      {"{\"id\":\"unfinished", ""},
      {"", ""},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char id[REQUEST_ID_MAX + 1] = "untouched";
    rest_stream_id(cases[i].json, strlen(cases[i].json), id);
    assert_string_equal(id, cases[i].id);
  }
}

static void test_what_is_said_instead(void **state) {
  struct buffer out;
  buffer_init(&out, 1024);
  rest_stream_error(&out, "a\"", "it's \"wrong\"", 400);
  assert_string_equal(buffer_text(&out), "{\"id\":\"a\\\"\",\"error\":\"it's \\\"wrong\\\"\",\"status\":400}");
  buffer_clear(&out);
  rest_stream_error(&out, "", "e", 503);
  assert_string_equal(buffer_text(&out), "{\"error\":\"e\",\"status\":503}");
  buffer_clear(&out);
  rest_stream_dropped(&out, "7", "late");
  assert_string_equal(buffer_text(&out), "{\"id\":\"7\",\"dropped\":\"late\"}");
  buffer_free(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_defaults),
      cmocka_unit_test(test_all_keys),
      cmocka_unit_test(test_wrong_queries),
      cmocka_unit_test(test_models),
      cmocka_unit_test(test_no_models),
      cmocka_unit_test(test_ids),
      cmocka_unit_test(test_what_is_said_instead),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
