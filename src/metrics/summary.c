#include "metrics/summary.h"

#include "base/clock.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum {
  UNIT_BITS = 6,                      /* values are counted in units of 64 ns */
  LINEAR = 128,                       /* units up to here have a bucket each */
  STEPS = LINEAR / 2,                 /* buckets of an octave above */
  OCTAVES = 30,                       /* the last bucket also has what is longer: 2.4 hours */
  BUCKETS = LINEAR + OCTAVES * STEPS, /* */
  SLICES = SUMMARY_SLICES_READ + 1,   /* one more: who is late counts in what nobody reads */
  LINEAR_BITS = 7,
};
_Static_assert(LINEAR == 1 << LINEAR_BITS, "LINEAR_BITS says where the octaves begin");

struct slice {
  _Atomic uint64_t number; /* of its stretch of time, counted from 1; 0: never used */
  _Atomic uint32_t counts[BUCKETS];
};

struct stat_summary {
  pthread_mutex_t turning; /* held by who begins a slice */
  struct slice slices[SLICES];
};

struct stat_summary *summary_create(void) {
  struct stat_summary *summary = calloc(1, sizeof *summary);
  if (summary != NULL) pthread_mutex_init(&summary->turning, NULL);
  return summary;
}

void summary_free(struct stat_summary *summary) {
  if (summary == NULL) return;
  pthread_mutex_destroy(&summary->turning);
  free(summary);
}

/* ---- buckets ----------------------------------------------------------------------------------------------------- */

static size_t bucket_of(uint64_t duration_ns) {
  uint64_t units = duration_ns >> UNIT_BITS;
  if (units < LINEAR) return (size_t)units;
  unsigned octave = 63 - (unsigned)__builtin_clzll(units) - LINEAR_BITS; /* 0: LINEAR up to twice that */
  if (octave >= OCTAVES) return BUCKETS - 1;
  return LINEAR + octave * STEPS + (size_t)(units >> (octave + 1)) - STEPS;
}

/* The middle of the bucket. */
static double value_of(size_t bucket) {
  double unit = (double)(1 << UNIT_BITS);
  if (bucket < LINEAR) return ((double)bucket + 0.5) * unit;
  size_t octave = (bucket - LINEAR) / STEPS, step = (bucket - LINEAR) % STEPS;
  return ldexp((double)(STEPS + step) + 0.5, (int)octave + 1) * unit;
}

/* ---- slices ------------------------------------------------------------------------------------------------------ */

static uint64_t slice_number(uint64_t now_ns) { return now_ns / (SUMMARY_SLICE_S * NS_PER_S) + 1; }

/* Empties the slice for a new stretch of time. Nobody reads it meanwhile, and who would still write what was in it is a
 * minute late. */
static void begin_slice(struct stat_summary *summary, struct slice *slice, uint64_t number) {
  pthread_mutex_lock(&summary->turning);
  if (atomic_load_explicit(&slice->number, memory_order_relaxed) < number) {
    for (size_t i = 0; i < BUCKETS; i++) atomic_store_explicit(&slice->counts[i], 0, memory_order_relaxed);
    atomic_store_explicit(&slice->number, number, memory_order_release);
  }
  pthread_mutex_unlock(&summary->turning);
}

void summary_observe(struct stat_summary *summary, uint64_t now_ns, uint64_t duration_ns, uint32_t times) {
  uint64_t number = slice_number(now_ns);
  struct slice *slice = &summary->slices[number % SLICES];
  if (atomic_load_explicit(&slice->number, memory_order_acquire) < number) begin_slice(summary, slice, number);
  atomic_fetch_add_explicit(&slice->counts[bucket_of(duration_ns)], times, memory_order_relaxed);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* All slices that are young enough, as one; returns how many observations. */
static uint64_t merge(const struct stat_summary *summary, uint64_t now_ns, uint64_t counts[BUCKETS]) {
  uint64_t total = 0, last = slice_number(now_ns);
  for (size_t i = 0; i < BUCKETS; i++) counts[i] = 0;
  for (size_t s = 0; s < SLICES; s++) {
    const struct slice *slice = &summary->slices[s];
    uint64_t number = atomic_load_explicit(&slice->number, memory_order_acquire);
    if (number == 0 || number + SUMMARY_SLICES_READ <= last) continue;
    for (size_t i = 0; i < BUCKETS; i++) {
      uint32_t count = atomic_load_explicit(&slice->counts[i], memory_order_relaxed);
      counts[i] += count;
      total += count;
    }
  }
  return total;
}

/* The value that stands at a rank, counted from 1. */
static double value_at(const uint64_t counts[BUCKETS], uint64_t rank) {
  uint64_t before = 0;
  size_t i = 0;
  for (; i < BUCKETS - 1; i++) {
    before += counts[i];
    if (before >= rank) break;
  }
  return value_of(i);
}

void summary_read(const struct stat_summary *summary, uint64_t now_ns, const double *quantiles, size_t n,
                  double *ret_ns) {
  uint64_t counts[BUCKETS];
  uint64_t total = merge(summary, now_ns, counts);
  for (size_t i = 0; i < n; i++) {
    double rank = ceil(quantiles[i] * (double)total);
    ret_ns[i] = total > 0 ? value_at(counts, rank < 1 ? 1 : (uint64_t)rank) : NAN;
  }
}
