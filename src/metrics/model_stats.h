/*
 * What is counted of one served model version: the figures behind Triton's statistics extension, nv_inference_* and
 * muster_* metrics. Owned by the gateway's model entry; written by any of its loops through the functions below
 * (relaxed atomics), read by whoever renders. Times in nanoseconds.
 */
#ifndef METRICS_MODEL_STATS_H
#define METRICS_MODEL_STATS_H

#include "base/status.h"
#include "metrics/summary.h"

#include <stdatomic.h>

/* A duration as Triton reports it: how often, and the sum. */
struct stat_duration {
  _Atomic uint64_t count;
  _Atomic uint64_t ns;
};

/* A Prometheus histogram with fixed upper bounds. counts[i]: values above bounds[i - 1], up to and with bounds[i]; not
 * cumulative; counts[n] has those above the last bound (+Inf). */
enum { HISTOGRAM_BUCKETS = 24 };
struct histogram_bounds {
  size_t n;
  uint64_t upper[HISTOGRAM_BUCKETS]; /* ascending; nanoseconds, or rows for batch sizes */
};
extern const struct histogram_bounds histogram_times;
extern const struct histogram_bounds histogram_batch_sizes;
struct stat_histogram {
  _Atomic uint64_t counts[HISTOGRAM_BUCKETS + 1];
  _Atomic uint64_t sum; /* nanoseconds, or rows */
};

enum { BATCH_STATS_MAX = 1024 }; /* batch sizes above are counted under the last entry */
struct stat_batch {
  struct stat_duration compute_input, compute_infer, compute_output;
};

/* Why a request failed; the `reason` label of nv_inference_request_failure. */
enum failure_reason { FAILURE_REJECTED, FAILURE_CANCELED, FAILURE_BACKEND, FAILURE_OTHER, FAILURE_COUNT };

/* The durations that --metrics-config summary_latencies=true has quantiles of. */
enum summary_figure {
  SUMMARY_REQUEST,
  SUMMARY_QUEUE,
  SUMMARY_COMPUTE_INPUT,
  SUMMARY_COMPUTE_INFER,
  SUMMARY_COMPUTE_OUTPUT,
  SUMMARY_COUNT
};

struct model_stats {
  struct stat_duration success, fail, queue, compute_input, compute_infer, compute_output;
  _Atomic uint64_t failures[FAILURE_COUNT];
  _Atomic uint64_t inference_count;   /* rows answered */
  _Atomic uint64_t execution_count;   /* batches executed */
  _Atomic uint64_t last_inference_ms; /* wall clock, milliseconds since 1970 */
  _Atomic int64_t pending;            /* accepted and not yet executing */
  _Atomic uint64_t retries;           /* requests put back because their worker died */
  _Atomic uint64_t load_ns;           /* what its first worker took to be ready; 0: none was */
  struct stat_histogram latency, queue_time, batch_size;
  /* By rows in the batch; made at its first use, by whichever thread comes first, and then left where it is. NULL: no
   * such batch yet. */
  struct stat_batch *_Atomic batches[BATCH_STATS_MAX + 1];
  struct stat_summary *summaries[SUMMARY_COUNT]; /* all or none; model_stats_summarize */
};

/* NULL without memory. */
struct model_stats *model_stats_create(void);
void model_stats_free(struct model_stats *stats); /* accepts NULL */

/* Quantiles are wanted as well; before anything is counted. MU_NO_MEMORY: there are none. */
MUST_CHECK mu_status model_stats_summarize(struct model_stats *stats);
/* NULL: not wanted. */
static inline const struct stat_summary *model_stats_summary(const struct model_stats *stats,
                                                             enum summary_figure figure) {
  return stats->summaries[figure];
}

/* What one executed batch took, as the worker measured it. `rows` in the batch, `requests` in it (those that still get
 * an answer). As Triton counts: each request took as long as its batch, so the compute durations grow by it once for
 * each; the figures by batch size once for the batch. */
struct batch_times {
  uint64_t compute_input_ns, compute_infer_ns, compute_output_ns;
};
void model_stats_batch(struct model_stats *stats, uint32_t rows, uint32_t requests, const struct batch_times *times);

/* One request answered with success: queue_ns from acceptance to dispatch, total_ns from its first byte to the reply.
 * Adds to inference_count; the times enter the histograms. */
void model_stats_success(struct model_stats *stats, uint32_t rows, uint64_t queue_ns, uint64_t total_ns);
/* One request answered with an error, or never. Its time enters `fail` only: percentiles are those of answers. */
void model_stats_failure(struct model_stats *stats, enum failure_reason reason, uint64_t total_ns);

#endif
