/* Two targets beside each other, rounds and failures added up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
/* cmocka needs the above */
#include <cmocka.h>

#include "cli/bench/comparison.h"

#include <math.h>

static struct bench_side first, second;
static struct load_result round_result;

/* A round of one second with n answers of ns each. */
static void add_round(struct bench_side *side, uint64_t n, uint64_t ns) {
  memset(&round_result, 0, sizeof round_result);
  for (uint64_t i = 0; i < n; i++) histogram_record(&round_result.latencies, ns);
  round_result.sent = round_result.offered = round_result.answered = n;
  round_result.seconds = 1;
  bench_side_add(side, &round_result);
}

static struct comparison compare(void) {
  const struct bench_row row = {.sides = {&first, &second}, .n_sides = 2};
  return bench_row_compare(&row);
}

static void clear(void) {
  memset(&first, 0, sizeof first);
  memset(&second, 0, sizeof second);
}

static void assert_spread(const struct spread *spread, double least, double median, double most) {
  assert_true(fabs(spread->least - least) < .002 * fabs(least) + 1e-9);
  assert_true(fabs(spread->median - median) < .002 * fabs(median) + 1e-9);
  assert_true(fabs(spread->most - most) < .002 * fabs(most) + 1e-9);
}

/* Each round of one stands beside the round of the other at that time: a machine that halves its speed for both changes
 * no ratio. */
static void test_rounds_are_paired(void **state) {
  clear();
  for (uint64_t slow = 1; slow <= 8; slow *= 2) {
    add_round(&first, 800 / slow, 1000 * slow);
    add_round(&second, 1600 / slow, 500 * slow);
  }
  struct comparison comparison = compare();
  assert_spread(&comparison.per_second, .5, .5, .5);
  assert_spread(&comparison.p50, 2, 2, 2);
  assert_spread(&comparison.p99, 2, 2, 2);
  assert_spread(&comparison.p50_more_us, .5, 1.5, 4);
  assert_true(fabs(load_result_per_second(&first.result) - 1500 / 4.) < 1e-9); /* of all rounds together */
}

static void test_spread(void **state) {
  static const uint64_t answers[] = {100, 300, 200};
  clear();
  for (size_t i = 0; i < 3; i++) {
    add_round(&first, answers[i], 1000);
    add_round(&second, 100, 1000);
  }
  struct comparison comparison = compare();
  assert_spread(&comparison.per_second, 1, 2, 3);
}

static void test_rounds_without_answers_say_nothing(void **state) {
  clear();
  add_round(&first, 0, 0);
  add_round(&second, 100, 1000);
  struct comparison comparison = compare();
  assert_spread(&comparison.per_second, 0, 0, 0);
  add_round(&first, 100, 1000);
  add_round(&second, 100, 1000);
  add_round(&first, 700, 1000); /* its neighbour did not come any more */
  comparison = compare();
  assert_spread(&comparison.per_second, 1, 1, 1);
}

static void test_failures_by_kind(void **state) {
  struct failures failures = {0};
  static const char words[] = "busy\r\n\x1b[2J";
  struct failure failure = failure_make(FAILURE_STATUS, 503, words, sizeof words - 1);
  assert_string_equal(failure.what, "busy   [2J"); /* nothing that steers a terminal */
  failures_add(&failures, &failure);
  failure = failure_make(FAILURE_STATUS, 503, "later", 5);
  failures_add(&failures, &failure);
  failure = failure_make(FAILURE_TIMEOUT, 0, NULL, 0);
  failures_add(&failures, &failure);
  assert_int_equal(failures.n, 2);
  assert_int_equal(failures.rows[0].count, 2);
  assert_string_equal(failures.rows[0].what, "busy   [2J"); /* the first one's */
  for (int status = 200; status < 300; status++) {          /* more kinds than there are rows: none is lost */
    failure = failure_make(FAILURE_STATUS, status, "", 0);
    failures_add(&failures, &failure);
  }
  uint64_t sum = 0;
  for (uint32_t i = 0; i < failures.n; i++) sum += failures.rows[i].count;
  assert_int_equal(sum, 103);
  assert_int_equal(failures.n, FAILURES_MAX);
  char endless[1000];
  memset(endless, 'a', sizeof endless);
  failure = failure_make(FAILURE_STATUS, 500, endless, sizeof endless);
  assert_int_equal(strlen(failure.what), sizeof failure.what - 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_rounds_are_paired),
      cmocka_unit_test(test_spread),
      cmocka_unit_test(test_rounds_without_answers_say_nothing),
      cmocka_unit_test(test_failures_by_kind),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
