/* When an open loop sends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
/* cmocka needs the above */
#include <cmocka.h>

#include "cli/bench/schedule.h"

#include <math.h>
#include <stdlib.h>

enum { START = 5000, ARRIVALS = 200000 };

static void test_constant(void **state) {
  struct schedule schedule;
  schedule_init(&schedule, ARRIVALS_CONSTANT, 3, 1, START);
  for (uint64_t i = 0; i < 3000000; i++) { /* 11 days: without drift */
    uint64_t at = schedule_next(&schedule);
    assert_true(llabs((long long)(at - START) - (long long)(i * 1000000000 / 3)) <= 1);
  }
}

/* Exponential gaps: mean 1/rate, deviation the same, e^-1 of them longer than the mean. */
static void test_poisson(void **state) {
  struct schedule schedule;
  schedule_init(&schedule, ARRIVALS_POISSON, 1000, 1, START);
  double sum = 0, squares = 0;
  uint64_t last = START, longer = 0;
  for (int i = 0; i < ARRIVALS; i++) {
    uint64_t at = schedule_next(&schedule);
    assert_true(at >= last);
    double gap = (double)(at - last) / 1e6; /* in means */
    sum += gap;
    squares += gap * gap;
    longer += gap > 1;
    last = at;
  }
  double mean = sum / ARRIVALS;
  assert_true(fabs(mean - 1) < .01);
  assert_true(fabs(squares / ARRIVALS - mean * mean - 1) < .03);
  assert_true(fabs((double)longer / ARRIVALS - exp(-1)) < .01);
}

static void test_the_seed_decides(void **state) {
  struct schedule a, b, c;
  schedule_init(&a, ARRIVALS_POISSON, 100, 7, 0);
  schedule_init(&b, ARRIVALS_POISSON, 100, 7, 0);
  schedule_init(&c, ARRIVALS_POISSON, 100, 8, 0);
  int same = 0;
  for (int i = 0; i < 1000; i++) {
    uint64_t at = schedule_next(&a);
    assert_true(at == schedule_next(&b));
    same += at == schedule_next(&c);
  }
  assert_true(same < 5);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_constant),
      cmocka_unit_test(test_poisson),
      cmocka_unit_test(test_the_seed_decides),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
