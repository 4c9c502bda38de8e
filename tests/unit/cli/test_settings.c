/* The flags of `muster bench`. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
/* cmocka needs the above */
#include <cmocka.h>

#include "cli/bench/settings.h"

#include <stdio.h>
#include <string.h>

static struct bench_settings settings;
static mu_error err;

/* Arguments separated by single spaces. */
static mu_status read_line(const char *line) {
  static char copy[1024];
  char *argv[64], *rest = copy;
  int argc = 0;
  snprintf(copy, sizeof copy, "%s", line);
  for (char *word; (word = strsep(&rest, " ")) != NULL;) argv[argc++] = word;
  argv[argc] = NULL;
  return settings_read(argc, argv, &settings, &err);
}

static void test_defaults(void **state) {
  assert_int_equal(read_line("m"), MU_OK);
  assert_string_equal(settings.what, "m");
  assert_int_equal(settings.concurrency.n, 7);
  assert_true(settings.concurrency.items[0] == 1 && settings.concurrency.items[6] == 64);
  assert_int_equal(settings.rate.n, 0);
  assert_int_equal(settings.rounds, 1);
  assert_true(settings.duration_s == 5 && settings.warmup_s == 1 && settings.timeout_s == 60);
  assert_int_equal(read_line("http://a:1/v2/models/m http://b:2"), MU_OK);
  assert_string_equal(settings.compare, "http://b:2");
  assert_int_equal(settings.rounds, 6);
}

static void test_lists(void **state) {
  assert_int_equal(read_line("m --concurrency 1,4,16"), MU_OK);
  assert_true(settings.concurrency.n == 3 && settings.concurrency.items[2] == 16);
  assert_int_equal(read_line("m --concurrency-range=2:9:3"), MU_OK);
  assert_true(settings.concurrency.n == 3 && settings.concurrency.items[2] == 8);
  assert_int_equal(read_line("m -c 3:4"), MU_OK);
  assert_int_equal(settings.concurrency.n, 2);
  assert_int_equal(read_line("m --rate 0.5,1e4"), MU_OK);
  assert_true(settings.rate.n == 2 && settings.rate.items[0] == 0.5 && settings.rate.items[1] == 10000);
  assert_int_equal(settings.concurrency.n, 0);
  assert_int_equal(settings.connections, 256);
  assert_int_equal(read_line("m --server-pid 12,34 --server-pid 56"), MU_OK);
  assert_true(settings.pids.n == 3 && settings.pids.items[2] == 56);
}

static void test_times(void **state) {
  static const struct {
    const char *line;
    double seconds;
  } times[] = {{"m --seconds 2", 2},    {"m --duration=2.5", 2.5}, {"m -d 500ms", .5},        {"m -z 10s", 10},
               {"m --seconds 2m", 120}, {"m --seconds 1h", 3600},  {"m --seconds 10us", 1e-5}};
  for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
    assert_int_equal(read_line(times[i].line), MU_OK);
    assert_true(settings.duration_s > times[i].seconds * .999 && settings.duration_s < times[i].seconds * 1.001);
  }
}

static void test_mistakes(void **state) {
  static const struct {
    const char *line, *says;
  } wrong[] = {
      {"--json", "which model"},
      {"m a b", "two to compare"},
      {"m a", "--compare wants a URL"},
      {"m --concurency 4", "did you mean '--concurrency'"},
      {"m --nonsense 4", "see muster bench --help"},
      {"m --concurrency", "--concurrency wants"},
      {"m --concurrency 0", "--concurrency wants"},
      {"m --concurrency 1.5", "--concurrency wants"},
      {"m --concurrency 4,", "--concurrency wants"},
      {"m --concurrency 9:1", "--concurrency wants"},
      {"m --concurrency 1:2:3:4", "--concurrency wants"},
      {"m --concurrency 1:5:0", "--concurrency wants"},
      {"m --concurrency 1:100", "--concurrency wants"},
      {"m --concurrency 100001", "--concurrency wants"},
      {"m --rate 0", "--rate wants"},
      {"m --rate -5", "--rate wants"},
      {"m --rate nan", "--rate wants"},
      {"m --rate 5 --arrivals uniform", "--arrivals wants poisson or constant"},
      {"m --arrivals constant", "say its --rate"},
      {"m --rate 5 --concurrency 2", "choose one"},
      {"m --connections 5", "belongs to an open loop"},
      {"m --rate 5 --connections 0", "--connections wants"},
      {"m --seconds 5x", "--seconds wants"},
      {"m --seconds -1", "--seconds wants"},
      {"m --seconds 100h", "--seconds wants"},
      {"m --seconds 0", "measures nothing"},
      {"m --timeout 0", "lets no request be answered"},
      {"m --requests 1.5", "--requests wants"},
      {"m -b 0", "-b wants"},
      {"m --input x", "--input wants NAME=FILE"},
      {"m --shape x", "--shape wants"},
      {"m --header x", "--header wants"},
      {"m --check=yes", "takes no value"},
      {"m --server-pid 0", "--server-pid wants"},
      {"m --server-pid 1,x", "--server-pid wants"},
      {"m --rounds 4", "belongs to --compare"},
      {"m --compare-pid 4", "belong to --compare"},
      {"m --body f --input x=f", "--input has no place"},
      {"m --body f --bytes 3", "not both"},
      {"http://a:1 --raw GET/ --input x=f", "--raw has none"},
  };
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    assert_int_equal(read_line(wrong[i].line), MU_INVALID);
    if (strstr(err.message, wrong[i].says) == NULL) fail_msg("%s: %s", wrong[i].line, err.message);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_defaults),
      cmocka_unit_test(test_lists),
      cmocka_unit_test(test_times),
      cmocka_unit_test(test_mistakes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
