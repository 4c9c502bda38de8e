/*
 * Prometheus text exposition (version 0.0.4) of everything counted, from one table of metrics. Read-only on the stats;
 * any thread of the gateway.
 */
#ifndef METRICS_EXPOSITION_H
#define METRICS_EXPOSITION_H

#include <jansson.h>

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

/* A GPU. NAN: not known, and then not on the page. */
struct exposition_gpu {
  const char *uuid;
  const json_t *xids; /* {"79": how often} */
  bool fenced;        /* no worker runs there */
  bool lost;
  double utilization;               /* 0 to 1 */
  double memory_total, memory_used; /* bytes */
  double power, power_limit;        /* watts */
  double energy;                    /* joules since the server first saw it */
  double temperature;               /* degrees Celsius */
  double sm_clock, memory_clock;    /* hertz */
  double throttled;                 /* 0 or 1 */
  double speed;                     /* beside the fastest, as batches show; set where something serves there */
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
  const struct exposition_gpu *gpus;
  size_t n_gpus;
  const json_t *fleet; /* {"state", "restarts", "stalls"} of the process that asks the GPUs; NULL: not on the page */
  uint64_t now_ns;     /* summaries are of the minute before */
};

/* Appends the whole page to out. Label values are escaped. MU_NO_MEMORY: it did not fit into out. */
MUST_CHECK mu_status exposition_print(struct buffer *out, const struct exposition_server *server,
                                      const struct exposition_model *models, size_t n_models);

#endif
