/*
 * --metrics-config SETTING=VALUE, as tritonserver has it: which kinds of figures about times are on the page. Plain
 * data; parsed when settings are read (to refuse what is wrong) and by the gateway.
 */
#ifndef METRICS_METRICS_CONFIG_H
#define METRICS_METRICS_CONFIG_H

#include "base/status.h"

enum { METRICS_QUANTILES_MAX = 16 };

struct metrics_config {
  bool counter_latencies;   /* nv_inference_…_duration_us */
  bool histogram_latencies; /* nv_inference_first_response_histogram_ms */
  bool summary_latencies;   /* nv_inference_…_summary_us */
  double quantiles[METRICS_QUANTILES_MAX];
  size_t n_quantiles;
};

/* tritonserver's defaults: counters only; 0.5, 0.9, 0.95, 0.99 and 0.999 for summaries. */
void metrics_config_init(struct metrics_config *config);

/* One SETTING=VALUE on top of what there is. MU_INVALID: unknown setting, or a value that it does not take. */
MUST_CHECK mu_status metrics_config_set(struct metrics_config *config, const char *text, mu_error *err);

#endif
