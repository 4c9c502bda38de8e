/*
 * When an open loop sends: times that depend on nothing but the rate and the seed, never on the server. Pure.
 */
#ifndef CLI_BENCH_SCHEDULE_H
#define CLI_BENCH_SCHEDULE_H

#include <stdint.h>

enum arrivals { ARRIVALS_POISSON, ARRIVALS_CONSTANT };

struct schedule {
  enum arrivals arrivals;
  double rate; /* a second */
  uint64_t start_ns, n, random;
  double at_s; /* of the latest arrival, from the start */
};

void schedule_init(struct schedule *schedule, enum arrivals arrivals, double rate, uint64_t seed, uint64_t start_ns);

/* The time of the next arrival; each call goes one further. Constant: i/rate after the start, from i = 0. Poisson:
 * exponential gaps, the first one before the first arrival. */
uint64_t schedule_next(struct schedule *schedule);

#endif
