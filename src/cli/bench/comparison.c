#include "cli/bench/comparison.h"

#include <stdlib.h>

double load_result_per_second(const struct load_result *result) {
  return result->seconds > 0 ? (double)result->answered / result->seconds : 0;
}

void bench_side_add(struct bench_side *side, const struct load_result *round) {
  load_result_add(&side->result, round);
  if (side->n_rounds == SETTINGS_ROUNDS_MAX) return;
  side->rounds[side->n_rounds++] =
      (struct bench_round){.per_second = load_result_per_second(round),
                           .p50_us = (double)histogram_percentile(&round->latencies, 50) / 1e3,
                           .p99_us = (double)histogram_percentile(&round->latencies, 99) / 1e3};
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static struct spread spread_of(double *values, size_t n) {
  if (n == 0) return (struct spread){0};
  qsort(values, n, sizeof *values, by_value);
  return (struct spread){
      .median = (values[(n - 1) / 2] + values[n / 2]) / 2, .least = values[0], .most = values[n - 1]};
}

struct comparison bench_row_compare(const struct bench_row *row) {
  static double rate[SETTINGS_ROUNDS_MAX], p50[SETTINGS_ROUNDS_MAX], p99[SETTINGS_ROUNDS_MAX],
      more[SETTINGS_ROUNDS_MAX];
  const struct bench_side *first = row->sides[0], *second = row->sides[1];
  size_t n = 0;
  for (size_t i = 0; i < first->n_rounds && i < second->n_rounds; i++) {
    const struct bench_round *a = &first->rounds[i], *b = &second->rounds[i];
    if (a->per_second <= 0 || b->per_second <= 0 || b->p50_us <= 0 || b->p99_us <= 0) continue;
    rate[n] = a->per_second / b->per_second;
    p50[n] = a->p50_us / b->p50_us;
    p99[n] = a->p99_us / b->p99_us;
    more[n++] = a->p50_us - b->p50_us;
  }
  return (struct comparison){.per_second = spread_of(rate, n),
                             .p50 = spread_of(p50, n),
                             .p99 = spread_of(p99, n),
                             .p50_more_us = spread_of(more, n)};
}
