/* The latency histogram of `muster bench`, against sorted samples. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
/* cmocka needs the above */
#include <cmocka.h>

#include "cli/bench/histogram.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { SAMPLES = 100000 };

static struct histogram histogram, other;
static uint64_t samples[SAMPLES];

static int by_value(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

static uint64_t next_random(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * UINT64_C(2685821657736338717);
}

/* The definition: the smallest sample that so many percent of all do not exceed. */
static uint64_t exact_percentile(double percent) {
  size_t rank = (size_t)ceil(percent / 100 * SAMPLES);
  return samples[rank > 0 ? rank - 1 : 0];
}

static void assert_percentiles_are_right(void) {
  static const double percents[] = {0, 1, 10, 25, 50, 75, 90, 95, 99, 99.9, 99.99, 99.999, 100};
  memset(&histogram, 0, sizeof histogram);
  double sum = 0;
  for (size_t i = 0; i < SAMPLES; i++) {
    histogram_record(&histogram, samples[i]);
    sum += (double)samples[i];
  }
  qsort(samples, SAMPLES, sizeof *samples, by_value);
  for (size_t i = 0; i < sizeof percents / sizeof *percents; i++) {
    double exact = (double)exact_percentile(percents[i]), got = (double)histogram_percentile(&histogram, percents[i]);
    assert_true(got >= exact && got <= exact * 1.001);
  }
  assert_true(fabs(histogram_mean(&histogram) - sum / SAMPLES) <= 1e-9 * sum / SAMPLES);
  assert_int_equal(histogram_percentile(&histogram, 100), samples[SAMPLES - 1]);
}

static void test_percentiles_have_three_digits(void **state) {
  uint64_t random = 1;
  for (int bits = 8; bits <= 46; bits++) { /* uniform up to 2^bits: from nanoseconds to a day */
    for (size_t i = 0; i < SAMPLES; i++) samples[i] = next_random(&random) >> (64 - bits);
    assert_percentiles_are_right();
  }
  for (size_t i = 0; i < SAMPLES; i++) /* log-uniform: every power of two */
    samples[i] = next_random(&random) >> (18 + next_random(&random) % 46);
  assert_percentiles_are_right();
}

static void test_small_values_are_exact(void **state) {
  for (uint64_t ns = 0; ns < 2048; ns++) {
    memset(&histogram, 0, sizeof histogram);
    histogram_record(&histogram, ns);
    histogram_record(&histogram, 1 << 20);
    assert_int_equal(histogram_percentile(&histogram, 50), ns);
  }
}

/* At each edge between two buckets. */
static void test_edges(void **state) {
  for (int bit = 10; bit < HISTOGRAM_TOP_BITS; bit++)
    for (int64_t step = -2; step <= 2; step++) {
      uint64_t ns = (UINT64_C(1) << bit) + (uint64_t)step;
      memset(&histogram, 0, sizeof histogram);
      histogram_record(&histogram, ns);
      histogram_record(&histogram, UINT64_MAX / 4);
      uint64_t got = histogram_percentile(&histogram, 50);
      assert_true(got >= ns && got - ns <= ns / 1000);
    }
}

static void test_nothing_and_too_long(void **state) {
  memset(&histogram, 0, sizeof histogram);
  assert_int_equal(histogram_percentile(&histogram, 99), 0);
  assert_true(histogram_mean(&histogram) == 0);
  histogram_record(&histogram, UINT64_C(1) << 50); /* 13 days: counted, and its maximum is kept */
  assert_int_equal(histogram.n, 1);
  assert_int_equal(histogram.max, UINT64_C(1) << 50);
}

static void test_merged_is_recorded_together(void **state) {
  memset(&histogram, 0, sizeof histogram);
  memset(&other, 0, sizeof other);
  static struct histogram both;
  uint64_t random = 7;
  for (int i = 0; i < 1000; i++) {
    uint64_t ns = next_random(&random) >> 40;
    histogram_record(i % 3 == 0 ? &histogram : &other, ns);
    histogram_record(&both, ns);
  }
  histogram_merge(&histogram, &other);
  assert_memory_equal(&histogram, &both, sizeof both);
}

static void test_text_format(void **state) {
  struct buffer text;
  buffer_init(&text, 1 << 20);
  memset(&histogram, 0, sizeof histogram);
  for (uint64_t us = 1; us <= 1000; us++) histogram_record(&histogram, us * 1000);
  assert_int_equal(histogram_print(&histogram, &text), MU_OK);
  const char *all = buffer_text(&text);
  assert_memory_equal(all, "       Value     Percentile TotalCount 1/(1-Percentile)\n\n", 57);
  double value, share, last_value = 0, last_share = -1, inverse;
  unsigned long long count, last_count = 0;
  const char *line = all + 57;
  int lines = 0;
  while (sscanf(line, "%lf %lf %llu %lf", &value, &share, &count, &inverse) == 4) {
    assert_true(value >= last_value && share >= last_share && count >= last_count);
    assert_true((double)count >= share * 1000 - 1e-6); /* so many samples do not exceed the value */
    assert_true(share == 1 || fabs(inverse - 1 / (1 - share)) < .01);
    last_value = value, last_share = share, last_count = count, lines++;
    line = strchr(line, '\n') + 1;
  }
  assert_true(last_share == 1 && last_value == 1000 && last_count == 1000);
  assert_in_range(lines, 40, 80);
  assert_non_null(strstr(line, "#[Mean    =      500.500, StdDeviation   =      288.6"));
  assert_non_null(strstr(line, "#[Max     =     1000.000, Total count    =         1000]"));
  buffer_free(&text);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_percentiles_have_three_digits),
      cmocka_unit_test(test_small_values_are_exact),
      cmocka_unit_test(test_edges),
      cmocka_unit_test(test_nothing_and_too_long),
      cmocka_unit_test(test_merged_is_recorded_together),
      cmocka_unit_test(test_text_format),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
