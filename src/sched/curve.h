/*
 * What is known of how long a batch of n rows runs: measured means at a few sizes (every size up to 4, then two for
 * each doubling), straight lines in between. Pure numbers; a zeroed curve knows nothing.
 *
 * A machine is not as fast at all times: neighbours, clients and clocks make all sizes slower for a while, by more than
 * sizes differ. So what the sizes have in common, the pace, is followed for itself and fast, by each batch's time
 * against the mean of its size; the means are of times at pace 1. Sizes measured at different times can be compared
 * then, and all means move with the machine, also of sizes that nobody runs.
 */
#ifndef SCHED_CURVE_H
#define SCHED_CURVE_H

#include <stdbool.h>
#include <stdint.h>

enum { CURVE_POINTS = 48 };

struct curve_point {
  float rows, ns;  /* moving means; ns at pace 1 */
  uint32_t n;      /* measurements in them, as far as they still count */
  uint32_t learnt; /* curve.batches at the last one */
};

struct curve {
  uint64_t known; /* bit i: points[i] holds something */
  uint32_t batches;
  float pace;     /* of late, times are so many times those of the points */
  float variance; /* of the measurements around their point, as shares of it */
  float slow_ns;  /* moving 99th percentile over all sizes */
  struct curve_point points[CURVE_POINTS];
};

/* A batch of rows ran for ns. */
void curve_learn(struct curve *curve, uint32_t rows, uint64_t ns);

/* Something of at most rows was measured. */
bool curve_measured(const struct curve *curve, uint32_t rows);

uint32_t curve_point_of(uint32_t rows); /* the point that stands for a size */
uint32_t curve_point_rows(uint32_t i);  /* the most rows that points[i] stands for */

/* Measured often enough to be compared with others. */
bool curve_trusts(const struct curve *curve, uint32_t i);

/* Variance of a point's mean, as a share of it: large for few measurements and for old ones. */
float curve_variance(const struct curve *curve, uint32_t i);

/* Expected time of a batch of rows (at least 1); 0 when nothing is known. Outside of what was measured a batch is taken
 * to gain half of what it could: enough to make trying worthwhile, after which there is a measurement. */
double curve_ns(const struct curve *curve, double rows);

#endif
