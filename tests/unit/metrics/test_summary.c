/* Quantiles of the last minute: within a hundredth of the exact ones, forgotten when they are old, exact in number when
 * many threads observe. */
#include "metrics/summary.h"

#include "base/clock.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

static struct stat_summary *create(void) {
  struct stat_summary *summary = summary_create();
  assert_non_null(summary);
  return summary;
}

static double quantile(const struct stat_summary *summary, uint64_t now, double q) {
  double ns;
  summary_read(summary, now, &q, 1, &ns);
  return ns;
}

static void is_near(double got, double wanted) {
  double most = wanted / 100 > 64 ? wanted / 100 : 64;
  if (!(fabs(got - wanted) <= most)) fail_msg("%f is not near %f", got, wanted);
}

static void test_empty(void **state) {
  struct stat_summary *summary = create();
  assert_true(isnan(quantile(summary, 0, 0.5)));
  assert_true(isnan(quantile(summary, UINT64_MAX / 2, 0.5)));
  summary_free(summary);
  summary_free(NULL);
}

/* 1 µs to 10 s, each quantile against the exact one. */
static void test_quantiles_are_near(void **state) {
  static const uint64_t steps[] = {1, 1000, 10 * NS_PER_US, NS_PER_MS};
  static const double quantiles[] = {0, 0.01, 0.5, 0.9, 0.95, 0.99, 0.999, 1};
  enum { N = 10000 };
  for (size_t s = 0; s < sizeof steps / sizeof *steps; s++) {
    struct stat_summary *summary = create();
    for (uint64_t i = 1; i <= N; i++) summary_observe(summary, NS_PER_S, i * steps[s], 1);
    for (size_t i = 0; i < sizeof quantiles / sizeof *quantiles; i++) {
      double rank = fmax(ceil(quantiles[i] * N), 1);
      is_near(quantile(summary, NS_PER_S, quantiles[i]), rank * (double)steps[s]);
    }
    summary_free(summary);
  }
}

static void test_extremes(void **state) {
  struct stat_summary *summary = create();
  summary_observe(summary, 0, 0, 1);
  assert_true(quantile(summary, 0, 0.5) <= 64);
  summary_observe(summary, 0, UINT64_MAX, 3); /* counts as the longest that there is a place for */
  assert_true(quantile(summary, 0, 0.5) > 3600.0 * (double)NS_PER_S);
  assert_true(quantile(summary, 0, 0.25) <= 64);
  summary_free(summary);
}

static void test_the_old_is_forgotten(void **state) {
  struct stat_summary *summary = create();
  const uint64_t slice = SUMMARY_SLICE_S * NS_PER_S;
  summary_observe(summary, 0, NS_PER_MS, 10);
  summary_observe(summary, 3 * slice, NS_PER_S, 10);
  is_near(quantile(summary, 4 * slice, 0.5), (double)NS_PER_MS); /* both are young enough */
  is_near(quantile(summary, 4 * slice, 0.51), (double)NS_PER_S);
  is_near(quantile(summary, 5 * slice, 0.1), (double)NS_PER_S); /* the first one no more */
  assert_true(isnan(quantile(summary, 8 * slice, 0.5)));
  summary_observe(summary, 600 * slice, 2 * NS_PER_S, 1); /* and nothing of it comes back */
  is_near(quantile(summary, 600 * slice, 0), 2.0 * (double)NS_PER_S);
  summary_free(summary);
}

enum { THREADS = 4, EACH = 20000 };

/* Through many slices, so that they meet where one begins. */
static void *observe_all(void *context) {
  for (uint64_t i = 0; i < EACH; i++)
    summary_observe(context, i * 50 * NS_PER_S / EACH, i % 2 == 0 ? NS_PER_MS : NS_PER_S, 1);
  return NULL;
}

static void test_threads(void **state) {
  struct stat_summary *summary = create();
  pthread_t threads[THREADS];
  for (size_t i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, observe_all, summary), 0);
  for (size_t i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  /* none is lost: exactly half of them are short */
  is_near(quantile(summary, 50 * NS_PER_S, 0.5), (double)NS_PER_MS);
  is_near(quantile(summary, 50 * NS_PER_S, 0.5 + 1.0 / (THREADS * EACH)), (double)NS_PER_S);
  summary_free(summary);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_empty),    cmocka_unit_test(test_quantiles_are_near),
      cmocka_unit_test(test_extremes), cmocka_unit_test(test_the_old_is_forgotten),
      cmocka_unit_test(test_threads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
