/*
 * What `muster top` shows: one look at a server, from the document of `muster status`, the page of metrics, /health and
 * /proc. Plain data; unknown figures are NAN (rates, times) or TOP_UNKNOWN. Reading texts is pure (sample_read.c),
 * getting them is not (sample_take.c).
 */
#ifndef CLI_TOP_SAMPLE_H
#define CLI_TOP_SAMPLE_H

#include <jansson.h>

#include "base/buffer.h"
#include "base/status.h"

#define TOP_UNKNOWN (-1)

enum {
  TOP_NAME_SIZE = 128,
  TOP_TEXT_SIZE = 256,
  TOP_BUCKETS_MAX = 40,
  TOP_QUANTILES = 3, /* p50, p95, p99 */
};

extern const double top_quantiles[TOP_QUANTILES];

/* Of a process, out of /proc. */
struct top_usage {
  int64_t pid; /* TOP_UNKNOWN: there is none */
  int64_t cpu_ns, memory;
  double cpu; /* processors in use since the sample before: 1.5 */
};

struct top_model {
  char name[TOP_NAME_SIZE], state[32], reason[TOP_TEXT_SIZE];
  int64_t version;
  bool counted; /* the metrics have it */
  int64_t requests, failures, rows, batches, waiting;
  double buckets[TOP_BUCKETS_MAX][2]; /* upper bound in seconds (INFINITY), requests up to there */
  uint32_t n_buckets;
  double exact[TOP_QUANTILES]; /* seconds, of the last minute, where the server has summaries */
  /* since the sample before */
  double request_rate, failure_rate, batch_rate, mean_batch;
  double latency[TOP_QUANTILES]; /* seconds: exact, or interpolated in the buckets */
};

struct top_worker {
  int64_t number, version, restarts;
  char model[TOP_NAME_SIZE], device[64], state[32], reason[TOP_TEXT_SIZE];
  struct top_usage usage;
  int64_t requests;
  double request_rate;
};

struct top_gpu {
  char uuid[96], name[96], state[32], reason[TOP_TEXT_SIZE];
  int64_t index, mig_index;
  double utilization, memory_used, memory_total, power; /* 0 to 1, bytes, watts */
};

struct top_sample {
  bool reached;              /* the server answered; else error, and nothing else */
  char error[TOP_TEXT_SIZE]; /* why not */
  uint64_t at_ns;
  double seconds; /* since the sample that it was compared with; NAN: none */
  char state[32], version[64], gateway_state[32], upgrade[32];
  double uptime;
  int64_t gateway_restarts, connections, memory_used, memory_limit;
  struct top_usage supervisor, gateway;
  char metrics_error[TOP_TEXT_SIZE]; /* why there are no figures of requests; "" : there are */
  bool exact_latency;                /* the server has summaries */
  struct top_model *models;
  struct top_worker *workers;
  struct top_gpu *gpus;
  size_t n_models, n_workers, n_gpus;
};

/* An empty one is all zeroes. */
void top_sample_free(struct top_sample *sample);

/* ---- sample_read.c ----------------------------------------------------------------------------------------------- */

/* The document of the control socket. MU_NO_MEMORY. */
MUST_CHECK mu_status top_read_status(struct top_sample *sample, const json_t *status);
/* The page of Prometheus metrics, into what the status has named. Lines that it does not know are passed over. */
void top_read_metrics(struct top_sample *sample, const char *text);
/* The document /health: requests of each worker. */
void top_read_health(struct top_sample *sample, const json_t *health);
/* CPU time and memory of the processes; proc: "/proc". */
void top_read_processes(struct top_sample *sample, const char *proc);
/* Rates of sample since before, which was earlier; NULL: none. What has begun anew in between has no rate. */
void top_compare(const struct top_sample *before, struct top_sample *sample);

/* ---- sample_take.c ----------------------------------------------------------------------------------------------- */

struct options;
/* Never fails: sample says why there is nothing. Takes a few seconds at most. */
void top_take(const struct options *options, struct top_sample *ret_sample);
/* POSTs to the control socket; text gets what the server said, for people. true: done. */
bool top_ask(const struct options *options, const char *target, char text[TOP_TEXT_SIZE]);

#endif
