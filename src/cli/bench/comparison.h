/*
 * What was measured, row by row (a concurrency or a rate), and how two targets compare: their rounds alternate in one
 * run, each round of one stands beside its neighbour of the other, and the spread of those pairs says how far the
 * machine's noise goes. Pure.
 */
#ifndef CLI_BENCH_COMPARISON_H
#define CLI_BENCH_COMPARISON_H

#include "cli/bench/load.h"
#include "cli/bench/settings.h"

struct bench_round {
  double per_second, p50_us, p99_us;
};

/* One target in one row. */
struct bench_side {
  const struct target *target;
  struct cpu_watch watch;
  struct load_result result; /* of all rounds */
  struct bench_round rounds[SETTINGS_ROUNDS_MAX];
  size_t n_rounds;
  bool has_batches;
  uint64_t batches[TARGET_BATCH_MAX + 1]; /* executed meanwhile, by rows; from the server's statistics */
};

struct bench_row {
  double level; /* concurrency, or rate where open */
  bool open;
  int64_t inferences; /* in one request */
  struct bench_side *sides[2];
  size_t n_sides;
};

double load_result_per_second(const struct load_result *result);

/* Adds what one round found to the side. */
void bench_side_add(struct bench_side *side, const struct load_result *round);

/* First against second target over the rounds. */
struct spread {
  double median, least, most;
};
struct comparison {
  struct spread per_second, p50, p99; /* ratios first/second */
  struct spread p50_more_us;          /* p50 of the first minus that of the second */
};
/* Of a row with two sides. Rounds in which either has no answer are left out; all 0 when none is left. */
struct comparison bench_row_compare(const struct bench_row *row);

#endif
