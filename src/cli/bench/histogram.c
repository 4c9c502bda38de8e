#include "cli/bench/histogram.h"

#include <inttypes.h>
#include <math.h>

enum { HALF_BITS = HISTOGRAM_SUB_BITS - 1, HALF = 1 << HALF_BITS };

static uint32_t bucket_of(uint64_t ns) {
  if (ns >> HISTOGRAM_TOP_BITS != 0) ns = (UINT64_C(1) << HISTOGRAM_TOP_BITS) - 1;
  uint32_t shift = 63 - (uint32_t)__builtin_clzll(ns | HALF) - HALF_BITS;
  return (shift << HALF_BITS) + (uint32_t)(ns >> shift);
}

static uint32_t shift_of(uint32_t bucket) { return bucket < HALF ? 0 : (bucket >> HALF_BITS) - 1; }
static uint64_t bucket_start(uint32_t bucket) {
  uint32_t shift = shift_of(bucket);
  return (uint64_t)(bucket - (shift << HALF_BITS)) << shift;
}
static uint64_t bucket_end(uint32_t bucket) { return bucket_start(bucket) + (UINT64_C(1) << shift_of(bucket)) - 1; }

void histogram_record(struct histogram *histogram, uint64_t ns) {
  histogram->counts[bucket_of(ns)]++;
  histogram->n++;
  histogram->sum += ns;
  if (ns > histogram->max) histogram->max = ns;
}

void histogram_merge(struct histogram *into, const struct histogram *from) {
  for (uint32_t i = 0; i < HISTOGRAM_COUNTS; i++) into->counts[i] += from->counts[i];
  into->n += from->n;
  into->sum += from->sum;
  if (from->max > into->max) into->max = from->max;
}

/* No sample is larger than the largest, whatever the width of its bucket. */
static uint64_t value_of(const struct histogram *histogram, uint32_t bucket) {
  uint64_t end = bucket_end(bucket);
  return end < histogram->max ? end : histogram->max;
}

uint64_t histogram_percentile(const struct histogram *histogram, double percent) {
  uint64_t rank = (uint64_t)ceil(percent / 100 * (double)histogram->n), seen = 0;
  if (rank == 0) rank = 1;
  for (uint32_t i = 0; i < HISTOGRAM_COUNTS; i++) {
    seen += histogram->counts[i];
    if (seen >= rank) return value_of(histogram, i);
  }
  return histogram->max;
}

double histogram_mean(const struct histogram *histogram) {
  return histogram->n > 0 ? (double)histogram->sum / (double)histogram->n : 0;
}

static double deviation(const struct histogram *histogram) {
  double mean = histogram_mean(histogram), squares = 0;
  for (uint32_t i = 0; i < HISTOGRAM_COUNTS; i++) {
    if (histogram->counts[i] == 0) continue;
    double middle = ((double)bucket_start(i) + (double)bucket_end(i)) / 2;
    squares += (double)histogram->counts[i] * (middle - mean) * (middle - mean);
  }
  return histogram->n > 0 ? sqrt(squares / (double)histogram->n) : 0;
}

mu_status histogram_print(const struct histogram *histogram, struct buffer *out) {
  enum { STEPS_PER_HALF = 5 }; /* lines for each halving of what is left to 100 % */
  buffer_puts(out, "       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
  uint64_t seen = 0;
  double wanted = 0; /* the share of samples that the next line stands for */
  for (uint32_t i = 0; i < HISTOGRAM_COUNTS && seen < histogram->n; i++) {
    seen += histogram->counts[i];
    if (histogram->counts[i] == 0) continue;
    double share = (double)seen / (double)histogram->n, value = (double)value_of(histogram, i) / 1e3;
    for (; seen < histogram->n && wanted <= share;
         wanted += 1 / (STEPS_PER_HALF * exp2(floor(log2(1 / (1 - wanted))) + 1)))
      buffer_print(out, "%12.3f %2.12f %10" PRIu64 " %14.2f\n", value, wanted, seen, 1 / (1 - wanted));
  }
  if (histogram->n > 0)
    buffer_print(out, "%12.3f %2.12f %10" PRIu64 " %14s\n", (double)histogram->max / 1e3, 1.0, seen, "inf");
  buffer_print(out, "#[Mean    = %12.3f, StdDeviation   = %12.3f]\n", histogram_mean(histogram) / 1e3,
               deviation(histogram) / 1e3);
  buffer_print(out, "#[Max     = %12.3f, Total count    = %12" PRIu64 "]\n", (double)histogram->max / 1e3,
               histogram->n);
  buffer_print(out, "#[Buckets = %12d, SubBuckets     = %12d]\n", HISTOGRAM_TOP_BITS - HISTOGRAM_SUB_BITS + 1,
               2 * HALF);
  return out->failed ? MU_NO_MEMORY : MU_OK;
}
