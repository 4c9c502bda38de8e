/*
 * Quantiles of durations over the last minute, for Prometheus summaries: log-linear buckets (a value is known to within
 * a hundredth of it, or 64 ns), in slices of time that are thrown away as they grow old. Memory is bounded whatever is
 * observed. Any thread observes, with relaxed atomics; once in a slice one of them takes a lock to begin the next one.
 */
#ifndef METRICS_SUMMARY_H
#define METRICS_SUMMARY_H

#include "base/status.h"

struct stat_summary;

enum { SUMMARY_SLICE_S = 12, SUMMARY_SLICES_READ = 5 }; /* what is read covers 48 to 60 seconds */

struct stat_summary *summary_create(void);       /* NULL without memory */
void summary_free(struct stat_summary *summary); /* accepts NULL */

/* times durations of that many nanoseconds ended at now_ns (clock_now_ns). */
void summary_observe(struct stat_summary *summary, uint64_t now_ns, uint64_t duration_ns, uint32_t times);

/* For each of n quantiles (0 to 1) the duration in nanoseconds that this share of the observations did not exceed; NaN
 * where there were none lately. */
void summary_read(const struct stat_summary *summary, uint64_t now_ns, const double *quantiles, size_t n,
                  double *ret_ns);

#endif
