/* The learned batch-latency curve. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
/* cmocka needs the above */
#include <cmocka.h>

#include "sched/curve.h"
#include "simulation.h"

static void learn(struct curve *curve, uint32_t rows, uint64_t ns, int times) {
  for (int i = 0; i < times; i++) curve_learn(curve, rows, ns);
}

static void test_nothing_known(void **state) {
  struct curve curve = {0};
  assert_true(curve_ns(&curve, 1) == 0);
  assert_true(curve_ns(&curve, 1e6) == 0);
  assert_false(curve_measured(&curve, 64));
}

static void test_straight_lines_between_measurements(void **state) {
  struct curve curve = {0};
  learn(&curve, 1, 1610, 4);
  learn(&curve, 32, 4310, 4);
  learn(&curve, 64, 7900, 4);
  for (double n = 1; n <= 64; n += .5) {
    double expected = latency_of_issue(n) / 1000;
    assert_true(fabs(curve_ns(&curve, n) - expected) < .002 * expected);
  }
  assert_true(curve_ns(&curve, 96) > 11000 && curve_ns(&curve, 96) < 12000); /* on with the last slope */
  assert_true(curve_measured(&curve, 1));
}

static void test_one_point_promises_something_but_not_all(void **state) {
  struct curve curve = {0};
  learn(&curve, 8, 8000, 2);
  assert_true(curve_ns(&curve, 8) == 8000);
  assert_true(curve_ns(&curve, 16) > 8000 && curve_ns(&curve, 16) < 16000);
  assert_true(curve_ns(&curve, 1) > 1000 && curve_ns(&curve, 1) < 8000);
  assert_false(curve_measured(&curve, 1));
}

static void test_idle_time(void **state) {
  struct curve curve = {0};
  curve_learn_idle(&curve, 8, 500); /* of a size that is not known: nothing to add it to */
  assert_null(curve_at(&curve, 8));
  learn(&curve, 8, 8000, 2);
  assert_true(curve_at(&curve, 8)->idle_ns == 0);
  for (int i = 0; i < 40; i++) curve_learn_idle(&curve, 8, 500);
  assert_true(fabs(curve_at(&curve, 8)->idle_ns - 500) < 5);
  for (int i = 0; i < 40; i++) curve_learn_idle(&curve, 8, 1000000000); /* a pause of the clients' */
  assert_true(curve_at(&curve, 8)->idle_ns <= curve_at(&curve, 8)->fast_ns);
  for (int i = 0; i < 10; i++) curve_learn_idle(&curve, 8, 0);
  assert_true(curve_at(&curve, 8)->idle_ns < 10);
}

static void test_the_first_run_is_soon_forgotten(void **state) {
  struct curve curve = {0};
  curve_learn(&curve, 1, 1000000000);
  assert_true(curve_ns(&curve, 1) == 1e9);
  curve_learn(&curve, 2, 2000);
  assert_true(curve_ns(&curve, 1) < 2000);
  assert_true(curve.slow_ns == 2000);
}

static void test_a_wild_measurement_is_cut_and_a_lasting_change_is_followed(void **state) {
  struct curve curve = {0};
  learn(&curve, 4, 1000, 20);
  curve_learn(&curve, 4, 1000000);
  assert_true(curve_ns(&curve, 4) < 1500);
  learn(&curve, 4, 5000, 80);
  assert_true(curve_ns(&curve, 4) > 4800);
}

static void test_fewer_rows_are_never_slower(void **state) {
  struct curve curve = {0};
  learn(&curve, 4, 3000, 4);
  learn(&curve, 8, 2000, 4);
  assert_true(curve_ns(&curve, 4) <= 2000 || curve_ns(&curve, 6) <= 2000);
  assert_true(curve_ns(&curve, 16) >= curve_ns(&curve, 8));
}

static void test_what_is_not_measured_any_more_is_forgotten(void **state) {
  struct curve curve = {0};
  learn(&curve, 1, 1000, 4);
  learn(&curve, 64, 64000, 5000);
  assert_false(curve_measured(&curve, 32));
  assert_true(curve_measured(&curve, 64));
}

static void test_the_99th_percentile(void **state) {
  struct curve curve = {0};
  uint64_t random = 7;
  for (int i = 0; i < 20000; i++) curve_learn(&curve, 1, 1000 + random_below(&random, 1001));
  assert_true(curve.slow_ns > 1900 && curve.slow_ns < 2100);
  for (int i = 0; i < 20000; i++) curve_learn(&curve, 1, random_below(&random, 100) < 5 ? 10000 : 1000);
  assert_true(curve.slow_ns > 5000); /* one in twenty is slow */
}

static void test_any_number_of_rows(void **state) {
  struct curve curve = {0};
  for (uint32_t rows = 1; rows != 0; rows = rows < UINT32_MAX / 2 ? rows * 2 : rows < UINT32_MAX ? UINT32_MAX : 0) {
    curve_learn(&curve, rows, 1000);
    curve_learn(&curve, rows, 1000);
    assert_true(curve_ns(&curve, rows) > 0);
  }
  learn(&curve, 0, 1000, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_nothing_known),
      cmocka_unit_test(test_straight_lines_between_measurements),
      cmocka_unit_test(test_one_point_promises_something_but_not_all),
      cmocka_unit_test(test_idle_time),
      cmocka_unit_test(test_the_first_run_is_soon_forgotten),
      cmocka_unit_test(test_a_wild_measurement_is_cut_and_a_lasting_change_is_followed),
      cmocka_unit_test(test_fewer_rows_are_never_slower),
      cmocka_unit_test(test_what_is_not_measured_any_more_is_forgotten),
      cmocka_unit_test(test_the_99th_percentile),
      cmocka_unit_test(test_any_number_of_rows),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
