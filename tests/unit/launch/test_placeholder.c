#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include "launch/placeholder.h"

static const struct placeholder values[] = {{"port", "50051", NULL}, {"index", "3", NULL}, {"uuid", NULL, "no GPU"}};

static mu_status expand(const char *text, char *ret_text, size_t size, mu_error *err) {
  struct buffer out;
  buffer_init(&out, 4096);
  mu_status status = placeholder_expand(text, values, 3, &out, err);
  if (status == MU_OK) {
    const char *whole = buffer_text(&out);
    assert_non_null(whole);
    assert_true(strlen(whole) < size);
    strcpy(ret_text, whole);
  }
  buffer_free(&out);
  return status;
}

static void words_become_values(void **state) {
  static const char *const pairs[][2] = {
      {"", ""},
      {"plain", "plain"},
      {"{port}", "50051"},
      {"--port={port}/{index}!", "--port=50051/3!"},
      {"{port}{port}", "5005150051"},
      {"{{port}}", "{port}"},
      {"{{{port}}}", "{{port}}"},
      {"{\"a\":{\"b\":1}}", "{\"a\":{\"b\":1}}"},
      {"{}", "{}"},
      {"{", "{"},
      {"{{", "{{"},
      {"{port", "{port"},
      {"{Port} {1} { port}", "{Port} {1} { port}"},
      {"${HOME}", "${HOME}"},
      {"}{index}{", "}3{"},
  };
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    char text[256];
    mu_error err;
    assert_int_equal(expand(pairs[i][0], text, sizeof text, &err), MU_OK);
    assert_string_equal(text, pairs[i][1]);
  }
}

static void unknown_ones_are_refused(void **state) {
  char text[256];
  mu_error err;
  assert_int_equal(expand("a {foo} b", text, sizeof text, &err), MU_INVALID);
  assert_string_equal(err.message,
                      "unknown placeholder {foo}: there are {port}, {index}, {uuid}; {{foo}} is the text itself");
  assert_int_equal(expand("{uuid}", text, sizeof text, &err), MU_INVALID);
  assert_string_equal(err.message, "{uuid} has no value: no GPU");
}

static void too_long_is_an_error(void **state) {
  struct buffer out;
  mu_error err;
  buffer_init(&out, 6);
  assert_int_equal(placeholder_expand("{port}{port}", values, 3, &out, &err), MU_NO_MEMORY);
  buffer_free(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(words_become_values), cmocka_unit_test(unknown_ones_are_refused),
                                     cmocka_unit_test(too_long_is_an_error)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
