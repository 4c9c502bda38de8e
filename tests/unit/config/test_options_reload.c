/* Which settings may differ when a server goes on with others. */
#include "config/option_table.h"
#include "config/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define ARGS(...) ((char *[]){__VA_ARGS__, NULL})

static mu_error error;

static struct options *loaded(char **args) {
  struct options *options;
  int n = 0;
  while (args[n] != NULL) n++;
  if (options_load(n, args, (char *[]){NULL}, &options, &error) != MU_OK) fail_msg("%s", error.message);
  return options;
}

static mu_status check(char **now, char **then) {
  struct options *a = loaded(now), *b = loaded(then);
  error.message[0] = '\0';
  mu_status status = options_check_reload(a, b, &error);
  options_free(a);
  options_free(b);
  return status;
}

static void assert_says(const char *text) {
  if (strstr(error.message, text) == NULL) fail_msg("'%s' lacks '%s'", error.message, text);
}

static void test_the_same_settings(void **state) {
  assert_int_equal(check(ARGS("m.onnx", "--http-port=9000"), ARGS("m.onnx", "--http-port", "9000")), MU_OK);
}

static void test_settings_that_change(void **state) {
  assert_int_equal(check(ARGS("m.onnx", "--log-verbose=0"),
                         ARGS("n.onnx", "o.onnx", "--log-verbose=1", "--load-timeout=3s", "--instances=2",
                              "--max-queue-size=1", "--default-request-timeout=1s", "--no-strict-readiness",
                              "--exit-timeout-secs=1", "--drain-delay=1s", "--engine=sim")),
                   MU_OK);
}

static void test_settings_that_need_a_restart_are_named_with_both_values(void **state) {
  assert_int_equal(
      check(ARGS("m.onnx", "--http-port=9000"), ARGS("m.onnx", "--http-port=9001", "--body-limit=1MiB", "--threads=3")),
      MU_UNSUPPORTED);
  assert_says("http-port is 9000 and would be 9001 (from --http-port)");
  assert_says("body-limit is 64MiB and would be 1MiB");
  assert_says("restart");
  assert_null(strstr(error.message, "threads"));
}

/* A listener's address that follows --address is one that changes with it. */
static void test_an_address_that_follows(void **state) {
  assert_int_equal(check(ARGS("m.onnx"), ARGS("m.onnx", "--address=127.0.0.1")), MU_UNSUPPORTED);
  assert_says("http-address is 0.0.0.0 and would be 127.0.0.1");
}

/* What the listeners, the loops and the memory of a gateway are made of stays as it is. */
static void test_what_a_start_decides(void **state) {
  static const char *const fixed[] = {"http-port",    "metrics-address", "control-socket", "gateway-threads",
                                      "input-arena",  "output-arena",    "memory-budget",  "body-limit",
                                      "idle-timeout", "cpu-slots",       "log-format",     "max-connections"};
  for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
    assert_false(option_find(fixed[i], strlen(fixed[i]), false)->reloadable);
  size_t n;
  for (const struct model_row *row = model_rows(&n), *end = row + n; row < end; row++)
    assert_true(option_find(row->name, strlen(row->name), false)->reloadable);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_the_same_settings),
      cmocka_unit_test(test_settings_that_change),
      cmocka_unit_test(test_settings_that_need_a_restart_are_named_with_both_values),
      cmocka_unit_test(test_an_address_that_follows),
      cmocka_unit_test(test_what_a_start_decides),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
