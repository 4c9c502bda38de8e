/*
 * Prometheus text exposition (version 0.0.4) of everything counted, from one table of metrics. Read-only on the stats;
 * any thread of the gateway.
 */
#ifndef METRICS_EXPOSITION_H
#define METRICS_EXPOSITION_H

#include "base/buffer.h"
#include "metrics/machine.h"
#include "metrics/metrics_config.h"
#include "metrics/model_stats.h"

/* One series of labels: a model version. */
struct exposition_model {
  const char *name;
  int64_t version;
  const struct model_stats *stats;
  bool ready;
  uint32_t instances_ready; /* instances that can take a batch now */
};

/* What belongs to the whole server. */
struct exposition_server {
  uint64_t connections_open;
  uint64_t connections_total;
  uint64_t requests_total;     /* HTTP requests of any kind */
  uint64_t memory_used_bytes;  /* arenas in use */
  uint64_t memory_limit_bytes; /* --memory-budget */
  uint64_t worker_deaths_total;
  uint64_t traces_written, traces_dropped;
  bool ready;
  const struct metrics_config *config; /* NULL: the defaults */
  const struct machine *machine;       /* NULL: nothing about it is on the page */
  uint64_t now_ns;                     /* summaries are of the minute before */
};

/* Appends the whole page to out. Label values are escaped. MU_NO_MEMORY: it did not fit into out. */
MUST_CHECK mu_status exposition_print(struct buffer *out, const struct exposition_server *server,
                                      const struct exposition_model *models, size_t n_models);

#endif
