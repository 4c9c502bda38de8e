/*
 * How many rows of a key are enough for one batch. Where more rows cost more than their full time, as on a CPU whose
 * cache is full, a larger batch answers later and fewer. So the curve is asked for the most rows that give nearly the
 * best throughput; what waits beyond goes next. A size is given up for smaller ones only when it was measured often, or
 * for long.
 *
 * What a size costs is its run and the time that the instance is idle after it: where all clients are in one batch, it
 * waits for all of them to be answered and to ask again, while of two batches in turn one runs meanwhile.
 *
 * A key that nothing is known of begins with batches of a few rows, which double when a size is known: were the first
 * ones as large as they can be, a model of which large batches run for a second would learn for a minute.
 *
 * Sizes that are not measured, or not lately, are tried when enough waits, the smaller first. The first tries are free,
 * so that the choice is made soon. Later ones pay for all who wait and all who come meanwhile, and a small share of the
 * running time pays it back, so that they stay below what a 99th percentile shows; a try that does better is free.
 * Sizes that cannot be the best (even if they took no longer than the next smaller size known) are not tried. Pure
 * numbers; zero is a start.
 */
#ifndef SCHED_ENOUGH_H
#define SCHED_ENOUGH_H

#include "sched/curve.h"

struct enough {
  uint32_t rows;  /* beyond which larger batches do not pay; 0: not found yet */
  uint32_t grown; /* how far batches may go until that is found; 0: a start */
  float row_ns;   /* time of a row at the best size; 0: unknown */
  uint32_t reach; /* with a larger size that is worth a try */
  uint32_t tries; /* so far */
  uint32_t tried; /* rows of the last one, until it has run */
  float debt_ns;  /* what tries cost and was not earned back yet */
  uint32_t age;   /* batches since the curve was last looked at */
};

/* A batch of rows ran for ns, and the curve has learned it. */
void enough_learn(struct enough *enough, uint32_t rows, uint64_t ns);

/* The most rows worth waiting for: enough, and now and then twice that for a try, since nobody comes to a queue of more
 * than enough where all clients wait for their answers. */
uint32_t enough_limit(const struct enough *enough, uint32_t max_rows);

/* Rows for a batch now, at most max_rows: that is enough, or a size to be tried. waiting: rows there, at least 1. */
uint32_t enough_choose(struct enough *enough, const struct curve *curve, uint32_t waiting, uint32_t max_rows);

#endif
