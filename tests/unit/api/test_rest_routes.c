/* Paths and methods: what is served, what is refused and as what. */
#include "api/rest_routes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void test_served(void **state) {
  static const struct {
    const char *method, *path;
    enum endpoint endpoint;
    const char *model;
    int64_t version;
  } cases[] = {
      {"GET", "/v2", ENDPOINT_SERVER_METADATA, "", -1},
      {"GET", "/v2/", ENDPOINT_SERVER_METADATA, "", -1},
      {"HEAD", "/v2", ENDPOINT_SERVER_METADATA, "", -1},
      {"GET", "/v2/health/live", ENDPOINT_SERVER_LIVE, "", -1},
      {"HEAD", "/v2/health/ready/", ENDPOINT_SERVER_READY, "", -1},
      {"GET", "/v2/models/magika", ENDPOINT_MODEL_METADATA, "magika", -1},
      {"GET", "/v2/models/magika/versions/7", ENDPOINT_MODEL_METADATA, "magika", 7},
      {"GET", "/v2/models/magika/ready", ENDPOINT_MODEL_READY, "magika", -1},
      {"GET", "/v2/models/magika/versions/1/ready", ENDPOINT_MODEL_READY, "magika", 1},
      {"GET", "/v2/models/magika/config", ENDPOINT_MODEL_CONFIG, "magika", -1},
      {"GET", "/v2/models/magika/versions/1/config", ENDPOINT_MODEL_CONFIG, "magika", 1},
      {"GET", "/v2/models/stats", ENDPOINT_MODEL_STATS, "", -1},
      {"GET", "/v2/models/magika/stats", ENDPOINT_MODEL_STATS, "magika", -1},
      {"GET", "/v2/models/magika/versions/1/stats", ENDPOINT_MODEL_STATS, "magika", 1},
      {"POST", "/v2/models/magika/infer", ENDPOINT_MODEL_INFER, "magika", -1},
      {"POST", "/v2/models/magika/infer/", ENDPOINT_MODEL_INFER, "magika", -1},
      {"POST", "/v2/models/magika/versions/9223372036854775807/infer", ENDPOINT_MODEL_INFER, "magika", INT64_MAX},
      {"POST", "/v2/models/stats/infer", ENDPOINT_MODEL_INFER, "stats", -1},
      {"POST", "/v2/models/a%20b%2B%c3%a9/infer", ENDPOINT_MODEL_INFER, "a b+\xc3\xa9", -1},
      {"POST", "/v2/models/versions/versions/2/infer", ENDPOINT_MODEL_INFER, "versions", 2},
      {"POST", "/v2/repository/index", ENDPOINT_REPOSITORY_INDEX, "", -1},
      {"GET", "/v2/systemsharedmemory/status", ENDPOINT_REGION_STATUS, "", -1},
      {"GET", "/v2/systemsharedmemory/region/r/status", ENDPOINT_REGION_STATUS, "", -1},
      {"POST", "/v2/systemsharedmemory/region/r/register", ENDPOINT_REGION_REGISTER, "", -1},
      {"POST", "/v2/systemsharedmemory/region/r/unregister", ENDPOINT_REGION_UNREGISTER, "", -1},
      {"POST", "/v2/systemsharedmemory/unregister", ENDPOINT_REGION_UNREGISTER, "", -1},
      {"GET", "/v2/cudasharedmemory/status", ENDPOINT_CUDA_REGION_STATUS, "", -1},
      {"GET", "/v2/cudasharedmemory/region/r/status", ENDPOINT_CUDA_REGION_STATUS, "", -1},
      {"POST", "/v2/cudasharedmemory/region/r/register", ENDPOINT_CUDA_REGION_REGISTER, "", -1},
      {"POST", "/v2/cudasharedmemory/region/r/unregister", ENDPOINT_CUDA_REGION_UNREGISTER, "", -1},
      {"POST", "/v2/cudasharedmemory/unregister", ENDPOINT_CUDA_REGION_UNREGISTER, "", -1},
      {"GET", "/v2/trace/setting", ENDPOINT_TRACE_SETTING, "", -1},
      {"POST", "/v2/models/a/trace/setting", ENDPOINT_TRACE_SETTING, "a", -1},
      {"GET", "/v2/logging", ENDPOINT_LOGGING, "", -1},
      {"POST", "/v2/logging", ENDPOINT_LOGGING, "", -1},
      {"POST", "/v2/repository/models/a%20b/load", ENDPOINT_MODEL_LOAD, "a b", -1},
      {"POST", "/v2/repository/models/magika/unload", ENDPOINT_MODEL_UNLOAD, "magika", -1},
      {"GET", "/health", ENDPOINT_HEALTH, "", -1},
      {"GET", "/stats", ENDPOINT_STATS, "", -1},
      {"GET", "/stream-demo", ENDPOINT_STREAM_DEMO, "", -1},
      {"GET", "/v2/stream", ENDPOINT_STREAM, "", -1},
      {"GET", "/v2/models/m/stream", ENDPOINT_STREAM, "m", -1},
      {"HEAD", "/metrics", ENDPOINT_METRICS, "", -1},
  };
  uint32_t seen = 0;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct route route;
    mu_error err = {""};
    if (route_find(cases[i].method, cases[i].path, &route, &err) != MU_OK)
      fail_msg("%s %s: %s", cases[i].method, cases[i].path, err.message);
    assert_int_equal(route.endpoint, cases[i].endpoint);
    assert_string_equal(route.model, cases[i].model);
    assert_int_equal(route.version, cases[i].version);
    assert_null(route.allow);
    seen |= 1u << route.endpoint;
  }
  assert_int_equal(seen, (1u << ENDPOINT_COUNT) - 2); /* all but ENDPOINT_NONE */
}

static void test_refused(void **state) {
  static const struct {
    const char *method, *path;
    mu_status status;
    const char *allow, *error;
  } cases[] = {
      {"GET", "/", MU_NOT_FOUND, NULL, "there is nothing at /"},
      {"GET", "", MU_NOT_FOUND, NULL, ""},
      {"GET", "*", MU_NOT_FOUND, NULL, ""},
      {"GET", "v2", MU_NOT_FOUND, NULL, ""},
      {"GET", "//v2", MU_NOT_FOUND, NULL, ""},
      {"GET", "/v2//", MU_NOT_FOUND, NULL, ""},
      {"GET", "/v3", MU_NOT_FOUND, NULL, ""},
      {"GET", "/v2/models", MU_NOT_FOUND, NULL, ""},
      {"GET", "/v2/models/", MU_NOT_FOUND, NULL, ""},
      {"GET", "/v2/models//infer", MU_NOT_FOUND, NULL, ""},
      {"POST", "/v2/models/a/b/infer", MU_NOT_FOUND, NULL, ""},
      {"POST", "/v2/models/a/infer/x", MU_NOT_FOUND, NULL, ""},
      {"POST", "/V2/models/a/infer", MU_NOT_FOUND, NULL, ""},
      {"GET", "/v2/models/a/versions/infer", MU_INVALID, NULL, "version 'infer'"},
      {"GET", "/v2/models/{model}/nothing", MU_NOT_FOUND, NULL, ""},
      {"GET", "/v2/models/a/infer", MU_UNSUPPORTED, "POST", "the path takes POST, not GET"},
      {"POST", "/v2", MU_UNSUPPORTED, "GET, HEAD", "the path takes GET, HEAD, not POST"},
      {"DELETE", "/v2/models/a", MU_UNSUPPORTED, "GET, HEAD", ""},
      {"get", "/v2", MU_UNSUPPORTED, "GET, HEAD", ""},
      {"", "/v2", MU_UNSUPPORTED, "GET, HEAD", ""},
      {"PUT", "/v2/logging", MU_UNSUPPORTED, "GET, HEAD, POST", ""},
      {"POST", "/v2/models/a/generate", MU_UNSUPPORTED, NULL, "muster does not serve the generate extension"},
      {"GET", "/v2/repository/models/a/load", MU_UNSUPPORTED, "POST", "the path takes POST, not GET"},
      {"POST", "/v2/repository/models/a%2fb/load", MU_INVALID, NULL, "cannot be the name of a model"},
      {"POST", "/v2/repository/models/%2e%2e/load", MU_INVALID, NULL, "cannot be the name of a model"},
      {"POST", "/v2/repository/models/../unload", MU_INVALID, NULL, "cannot be the name of a model"},
      {"POST", "/v2/repository/models/a%00b/unload", MU_INVALID, NULL, "cannot be the name of a model"},
      {"POST", "/v2/repository/models//etc/load", MU_NOT_FOUND, NULL, ""},
      {"POST", "/v2/systemsharedmemory/register", MU_NOT_FOUND, NULL, ""},
      {"POST", "/v2/systemsharedmemory/region/a/b/register", MU_NOT_FOUND, NULL, ""},
      {"POST", "/v2/systemsharedmemory/region//register", MU_NOT_FOUND, NULL, ""},
      {"POST", "/v2/systemsharedmemory/region/a%00b/register", MU_INVALID, NULL, "at most 255 bytes, none of them 0"},
      {"GET", "/v2/systemsharedmemory/region/a/register", MU_UNSUPPORTED, "POST", ""},
      {"POST", "/v2/cudasharedmemory/status", MU_UNSUPPORTED, "GET, HEAD", ""},
      {"POST", "/v2/models/a%2/infer", MU_INVALID, NULL, "two hexadecimal digits"},
      {"POST", "/v2/models/a%/infer", MU_INVALID, NULL, "two hexadecimal digits"},
      {"POST", "/v2/models/a%zz/infer", MU_INVALID, NULL, "two hexadecimal digits"},
      {"POST", "/v2/models/a%00b/infer", MU_INVALID, NULL, "cannot be the name of a model"},
      {"POST", "/v2/models/a%2fb/infer", MU_INVALID, NULL, "cannot be the name of a model"},
      {"POST", "/v2/models/../infer", MU_INVALID, NULL, "cannot be the name of a model"},
      {"POST", "/v2/models/%2e%2e/infer", MU_INVALID, NULL, "cannot be the name of a model"},
      {"GET", "/v2/models/a/versions/0", MU_INVALID, NULL, "version '0' is not a positive number"},
      {"GET", "/v2/models/a/versions/-1", MU_INVALID, NULL, "version '-1'"},
      {"GET", "/v2/models/a/versions/1x", MU_INVALID, NULL, "version '1x'"},
      {"GET", "/v2/models/a/versions/9223372036854775808", MU_INVALID, NULL, "is not a positive number"},
      {"GET", "/v2/models/a/versions/18446744073709551617", MU_INVALID, NULL, "is not a positive number"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct route route;
    mu_error err = {""};
    const mu_status status = route_find(cases[i].method, cases[i].path, &route, &err);
    if (status != cases[i].status || strstr(err.message, cases[i].error) == NULL)
      fail_msg("%s %s: %d '%s'", cases[i].method, cases[i].path, status, err.message);
    assert_int_equal(route.endpoint, ENDPOINT_NONE);
    if (cases[i].allow == NULL)
      assert_null(route.allow);
    else
      assert_string_equal(route.allow, cases[i].allow);
  }
}

/* What --admin is asked about: whatever changes the server, and nothing else. */
static void test_guarded(void **state) {
  static const struct {
    const char *method, *path;
    bool guarded;
  } cases[] = {
      {"POST", "/v2/repository/models/a/load", true},
      {"POST", "/v2/repository/models/a/unload", true},
      {"POST", "/v2/repository/index", false},
      {"POST", "/v2/models/a/infer", false},
      {"GET", "/v2/models/a/config", false},
      {"GET", "/nothing", false},
      {"POST", "/v2/systemsharedmemory/region/r/register", true},
      {"POST", "/v2/logging", true},
      {"GET", "/v2/logging", false},
      {"POST", "/v2/trace/setting", true},
      {"GET", "/v2/trace/setting", false},
      {"POST", "/v2/models/a/trace/setting", true},
      {"HEAD", "/v2/models/a/trace/setting", false},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct route route = {.guarded = !cases[i].guarded};
    const mu_status status = route_find(cases[i].method, cases[i].path, &route, NULL);
    assert_true(status == MU_OK || status == MU_NOT_FOUND);
    assert_true(route.guarded == cases[i].guarded);
  }
}

static void test_long_names(void **state) {
  char path[2000];
  struct route route;
  mu_error err;
  snprintf(path, sizeof path, "/v2/models/%0255d/infer", 1);
  assert_int_equal(route_find("POST", path, &route, &err), MU_OK);
  assert_int_equal(strlen(route.model), 255);
  snprintf(path, sizeof path, "/v2/models/%0256d/infer", 1);
  assert_int_equal(route_find("POST", path, &route, &err), MU_INVALID);
  snprintf(path, sizeof path, "/v2/models/%01500d/infer", 1);
  assert_int_equal(route_find("POST", path, &route, &err), MU_INVALID);
  char *at = path + sprintf(path, "/v2/models/"); /* 255 bytes, each as an escape */
  for (int i = 0; i < 255; i++) at += sprintf(at, "%%41");
  strcpy(at, "/infer");
  assert_int_equal(route_find("POST", path, &route, &err), MU_OK);
  assert_int_equal(strlen(route.model), 255);
}

static void test_regions(void **state) {
  char path[2000];
  struct route route;
  mu_error err;
  assert_int_equal(route_find("GET", "/v2/systemsharedmemory/status", &route, &err), MU_OK);
  assert_string_equal(route.region, "");
  assert_int_equal(route_find("GET", "/v2/systemsharedmemory/region/a%2Fb%20c/status", &route, &err), MU_OK);
  assert_string_equal(route.region, "a/b c");
  snprintf(path, sizeof path, "/v2/systemsharedmemory/region/%0255d/register", 1);
  assert_int_equal(route_find("POST", path, &route, &err), MU_OK);
  assert_int_equal(strlen(route.region), 255);
  snprintf(path, sizeof path, "/v2/systemsharedmemory/region/%0256d/register", 1);
  assert_int_equal(route_find("POST", path, &route, &err), MU_INVALID);
}

static void test_status_codes(void **state) {
  static const struct {
    mu_status status;
    int code;
  } cases[] = {
      {MU_OK, 200},          {MU_INVALID, 400},  {MU_NOT_FOUND, 404}, {MU_UNAVAILABLE, 503},
      {MU_UNSUPPORTED, 501}, {MU_INTERNAL, 500}, {MU_NO_MEMORY, 503}, {MU_TIMEOUT, 503},
      {MU_CANCELED, 499},    {MU_EXISTS, 409},   {MU_IO, 500},        {MU_TOO_LARGE, 413},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    assert_int_equal(http_status_of(cases[i].status), cases[i].code);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_served),       cmocka_unit_test(test_refused),      cmocka_unit_test(test_long_names),
      cmocka_unit_test(test_regions),      cmocka_unit_test(test_status_codes), cmocka_unit_test(test_served),
      cmocka_unit_test(test_refused),      cmocka_unit_test(test_guarded),      cmocka_unit_test(test_long_names),
      cmocka_unit_test(test_status_codes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
