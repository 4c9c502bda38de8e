/*
 * Latencies of a run as counts in buckets whose width grows with the value (the idea of HdrHistogram): percentiles of
 * any number of samples in fixed memory, each within 1/128 of the true value. Nanoseconds. One thread.
 */
#ifndef CLI_BENCH_LATENCIES_H
#define CLI_BENCH_LATENCIES_H

#include <stdint.h>

enum { LATENCY_SUB_BITS = 7, LATENCY_BUCKETS = (64 - LATENCY_SUB_BITS + 1) << LATENCY_SUB_BITS };

struct latencies {
  uint64_t counts[LATENCY_BUCKETS];
  uint64_t n, sum, max;
};

void latencies_add(struct latencies *latencies, uint64_t ns);

/* The value that `percent` (0 to 100) of the samples do not exceed; 0 without samples. */
uint64_t latencies_percentile(const struct latencies *latencies, double percent);

#endif
