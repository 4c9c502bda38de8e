#include "proxy/bridge_query.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static const struct row {
  const char *text, *fallback, *method; /* method NULL: refused */
  bool streaming, any_order;
} rows[] = {
    {"method=/a.B/C", NULL, "/a.B/C", false, false},
    {"method=%2Fa.B%2fC&mode=stream&order=any", NULL, "/a.B/C", true, true},
    {"x=1&order=request&mode=unary&method=/a/b", NULL, "/a/b", false, false},
    {"", "/a/b", "/a/b", false, false},
    {"mode=stream", "/a/b", "/a/b", true, false},
    {"method=/c/d", "/a/b", "/c/d", false, false},
    {"method=/c/d&method=/e/f", NULL, "/c/d", false, false},
    {"methods=/c/d", "/a/b", "/a/b", false, false},
    {"", NULL, NULL, false, false},
    {"method=", "/a/b", NULL, false, false},
    {"method=a/b", NULL, NULL, false, false},
    {"method=/a", NULL, NULL, false, false},
    {"method=//b", NULL, NULL, false, false},
    {"method=/a/", NULL, NULL, false, false},
    {"method=/a/b%3Fc", NULL, NULL, false, false},
    {"method=/a/b%", NULL, NULL, false, false},
    {"method=/a/b%2", NULL, NULL, false, false},
    {"method=/a/b%zz", NULL, NULL, false, false},
    {"method=/a/b%00", NULL, NULL, false, false},
    {"method=/a/b%0d%0ax", NULL, NULL, false, false},
    {"method=/a/b&mode=", NULL, NULL, false, false},
    {"method=/a/b&mode=both", NULL, NULL, false, false},
    {"method=/a/b&mode=unaryunaryunaryunary", NULL, NULL, false, false},
    {"method=/a/b&order=none", NULL, NULL, false, false},
};

static void test_table(void **state) {
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    const struct row *row = &rows[i];
    struct bridge_query query;
    mu_error err;
    mu_status status = bridge_query_read(row->text, row->fallback, &query, &err);
    if ((status == MU_OK) != (row->method != NULL)) fail_msg("\"%s\": %d", row->text, status);
    if (status != MU_OK) {
      assert_int_equal(status, MU_INVALID);
      continue;
    }
    assert_string_equal(query.method, row->method);
    assert_int_equal(query.streaming, row->streaming);
    assert_int_equal(query.any_order, row->any_order);
  }
}

static void test_long_method(void **state) {
  char text[BRIDGE_METHOD_MAX + 16] = "method=/a/";
  struct bridge_query query;
  mu_error err;
  size_t head = strlen("method=");
  memset(text + 10, 'b', BRIDGE_METHOD_MAX - 1 - 3);
  assert_int_equal(bridge_query_read(text, NULL, &query, &err), MU_OK);
  assert_int_equal(strlen(query.method), BRIDGE_METHOD_MAX - 1);
  text[head + BRIDGE_METHOD_MAX - 1] = 'b'; /* one too many */
  assert_int_equal(bridge_query_read(text, NULL, &query, &err), MU_INVALID);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_table), cmocka_unit_test(test_long_method)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
