#include "cli/bench/latencies.h"

#include <math.h>

/* Values below 2^7 have a bucket each; above, every power of two is split into 2^7 buckets. */
static uint32_t bucket_of(uint64_t ns) {
  if (ns >> LATENCY_SUB_BITS == 0) return (uint32_t)ns;
  uint32_t shift = 63 - (uint32_t)__builtin_clzll(ns) - LATENCY_SUB_BITS;
  return ((shift + 1) << LATENCY_SUB_BITS) + (uint32_t)((ns >> shift) - (UINT64_C(1) << LATENCY_SUB_BITS));
}

/* The largest value of a bucket. */
static uint64_t bucket_end(uint32_t bucket) {
  uint32_t power = bucket >> LATENCY_SUB_BITS, sub = bucket & ((1u << LATENCY_SUB_BITS) - 1);
  if (power == 0) return sub;
  uint64_t step = UINT64_C(1) << (power - 1);
  return ((UINT64_C(1) << LATENCY_SUB_BITS) + sub) * step + (step - 1);
}

void latencies_add(struct latencies *latencies, uint64_t ns) {
  latencies->counts[bucket_of(ns)]++;
  latencies->n++;
  latencies->sum += ns;
  if (ns > latencies->max) latencies->max = ns;
}

uint64_t latencies_percentile(const struct latencies *latencies, double percent) {
  uint64_t rank = (uint64_t)ceil(percent / 100 * (double)latencies->n), seen = 0;
  for (uint32_t i = 0; i < LATENCY_BUCKETS && latencies->n > 0; i++) {
    seen += latencies->counts[i];
    if (seen < rank || seen == 0) continue;
    uint64_t end = bucket_end(i);
    return end < latencies->max ? end : latencies->max;
  }
  return latencies->max;
}
