/*
 * How many rows a batch should have. Usually as many as there are; but where more rows cost more than their full time,
 * as on a CPU whose cache is full, a larger batch answers later and fewer.
 *
 * One size is held on to, since a mixture makes some wait for long: a larger one takes its place when it is better, a
 * smaller one only when that can be no chance, by how often both were measured and how much measurements vary. Another
 * size is tried while it could be better with the benefit of the doubt; a size that nobody has measured is taken to be
 * as good as it can be. The first tries are free, so that the choice is made soon. Later ones have a price, what they
 * took longer, and a small share of the running time pays it back.
 *
 * A key that nothing is known of begins with batches of a few rows, which double when a size is known: were the first
 * ones as large as they can be, a model of which large batches run for a second would learn for a minute. Pure numbers;
 * zero is a start.
 */
#ifndef SCHED_ENOUGH_H
#define SCHED_ENOUGH_H

#include "sched/curve.h"

struct enough {
  uint32_t rows;   /* that are enough; 0: nothing measured yet */
  uint32_t point;  /* of the curve: the size at hand. rows is twice that while nobody knows of larger ones */
  uint32_t looked; /* curve->batches when that was chosen */
  uint32_t tried;  /* rows of the last try, until it has run */
  float debt_ns;   /* what tries cost and was not earned back yet */
};

/* A batch of rows ran for ns, and the curve has learned it. */
void enough_learn(struct enough *enough, const struct curve *curve, uint32_t rows, uint64_t ns);

/* The most rows worth waiting for, at most max_rows: enough, and now and then twice that for a try, since nobody comes
 * to a queue of more than enough where all clients wait for their answers. */
uint32_t enough_limit(const struct enough *enough, const struct curve *curve, uint32_t max_rows);

/* Rows for a batch now, where so many wait (at least 1): at most that and max_rows. */
uint32_t enough_choose(struct enough *enough, const struct curve *curve, uint32_t waiting, uint32_t max_rows);

#endif
