#include "cli/bench/schedule.h"

#include <math.h>

void schedule_init(struct schedule *schedule, enum arrivals arrivals, double rate, uint64_t seed, uint64_t start_ns) {
  *schedule = (struct schedule){.arrivals = arrivals, .rate = rate, .start_ns = start_ns, .random = seed};
}

/* splitmix64: any seed is as good as any other, also 0 and neighbours. */
static uint64_t next_random(uint64_t *state) {
  uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return z ^ z >> 31;
}

uint64_t schedule_next(struct schedule *schedule) {
  if (schedule->arrivals == ARRIVALS_CONSTANT) {
    schedule->at_s = (double)schedule->n++ / schedule->rate; /* from n: a sum of gaps would drift */
  } else {
    double uniform = ((double)(next_random(&schedule->random) >> 11) + 1) / 9007199254740992.0; /* (0, 1] */
    schedule->at_s -= log(uniform) / schedule->rate;
    schedule->n++;
  }
  return schedule->start_ns + (uint64_t)(schedule->at_s * 1e9);
}
