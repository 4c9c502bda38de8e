/*
 * Latencies of a run as counts in log-linear buckets (an HDR histogram): percentiles of any number of samples in fixed
 * memory, each exact to 3 significant digits. Nanoseconds up to 39 hours; what is longer counts as that. One thread.
 */
#ifndef CLI_BENCH_HISTOGRAM_H
#define CLI_BENCH_HISTOGRAM_H

#include "base/buffer.h"

#include <stdint.h>

/* Values below 2^SUB_BITS have a bucket each; above, every power of two is split into 2^(SUB_BITS-1) of them, which
 * makes a bucket narrower than a thousandth of its values. */
enum {
  HISTOGRAM_SUB_BITS = 11,
  HISTOGRAM_TOP_BITS = 47,
  HISTOGRAM_COUNTS = (HISTOGRAM_TOP_BITS - HISTOGRAM_SUB_BITS + 2) << (HISTOGRAM_SUB_BITS - 1)
};

struct histogram {
  uint64_t counts[HISTOGRAM_COUNTS];
  uint64_t n, sum, max;
};

void histogram_record(struct histogram *histogram, uint64_t ns);

/* Everything that `from` holds, into `into`. */
void histogram_merge(struct histogram *into, const struct histogram *from);

/* The value that `percent` (0 to 100) of the samples do not exceed; 0 without samples. */
uint64_t histogram_percentile(const struct histogram *histogram, double percent);

/* 0 without samples. */
double histogram_mean(const struct histogram *histogram);

/* The percentile distribution in the text format of HdrHistogram (.hgrm), values in microseconds: what its plotters
 * read. */
mu_status histogram_print(const struct histogram *histogram, struct buffer *out);

#endif
