/*
 * What is known of how long a batch of n rows runs: measured means at a few sizes (every size up to 4, then two for
 * each doubling), straight lines in between. Pure numbers; a zeroed curve knows nothing.
 */
#ifndef SCHED_CURVE_H
#define SCHED_CURVE_H

#include <stdbool.h>
#include <stdint.h>

enum { CURVE_POINTS = 48 };

struct curve_point {
  float rows, ns;  /* moving means */
  float fast_ns;   /* what the undisturbed ones take: follows low measurements quickly, high ones slowly */
  float idle_ns;   /* and how long the instance then waits for the next rows: the same, at most fast_ns */
  uint32_t n;      /* measurements in them, as far as they still count */
  uint32_t learnt; /* curve.batches at the last one */
};

struct curve {
  uint64_t known; /* bit i: points[i] holds something */
  uint32_t batches;
  float slow_ns; /* moving 99th percentile over all sizes */
  struct curve_point points[CURVE_POINTS];
};

/* A batch of rows ran for ns. */
void curve_learn(struct curve *curve, uint32_t rows, uint64_t ns);

/* After a batch of rows the instance was idle for ns; 0: more were waiting. */
void curve_learn_idle(struct curve *curve, uint32_t rows, uint64_t ns);

/* Something of at most rows was measured. */
bool curve_measured(const struct curve *curve, uint32_t rows);

/* What was measured of about that size; NULL: nothing. */
const struct curve_point *curve_at(const struct curve *curve, uint32_t rows);
uint32_t curve_point_rows(uint32_t i); /* the most rows that points[i] stands for */

/* Measured often enough to be compared with others; all of those as bits. */
bool curve_trusts(const struct curve_point *point);
uint64_t curve_trusted(const struct curve *curve);

/* Expected time of a batch of rows (at least 1); 0 when nothing is known. Outside of what was measured a batch is taken
 * to gain half of what it could: enough to make trying worthwhile, after which there is a measurement. */
double curve_ns(const struct curve *curve, double rows);

#endif
