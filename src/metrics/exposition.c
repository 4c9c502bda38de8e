#include "metrics/exposition.h"

#include "base/clock.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

struct metric;

/* What the lines of one metric are printed from. */
struct page {
  struct buffer *out;
  const struct exposition_server *server;
  const struct metrics_config *config;
  const struct exposition_model *models;
  size_t n_models;
};

enum metric_type { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM, METRIC_SUMMARY };
static const char *const type_names[] = {"counter", "gauge", "histogram", "summary"};

struct metric {
  const char *name;
  enum metric_type type;
  void (*print)(const struct page *page, const struct metric *metric);
  size_t offset;                           /* of the figure, in the struct that print reads */
  const struct histogram_bounds *bounds;   /* of a histogram */
  enum summary_figure summary;             /* of a summary */
  bool (*wanted)(const struct page *page); /* NULL: always on the page */
  bool (*wanted_figure)(const struct page *page, const struct metric *metric); /* the same, by the metric */
  const char *help;
};

/* ---- lines ------------------------------------------------------------------------------------------------------- */

/* A label's value: backslash, quote and newline are escaped (the text format has no other escapes). */
static void print_label(struct buffer *out, const char *value) {
  for (; *value != '\0'; value++) {
    if (*value == '\n')
      buffer_puts(out, "\\n");
    else if (*value == '"' || *value == '\\')
      buffer_print(out, "\\%c", *value);
    else
      buffer_putc(out, *value);
  }
}

/* `name_suffix{model="…",version="…"`: the caller closes the braces. */
static void print_series(struct buffer *out, const char *name, const char *suffix,
                         const struct exposition_model *model) {
  buffer_print(out, "%s%s{model=\"", name, suffix);
  print_label(out, model->name);
  buffer_print(out, "\",version=\"%" PRId64 "\"", model->version);
}

static void print_model_value(const struct page *page, const struct metric *metric,
                              const struct exposition_model *model, uint64_t value) {
  print_series(page->out, metric->name, "", model);
  buffer_print(page->out, "} %" PRIu64 "\n", value);
}

static uint64_t load(const _Atomic uint64_t *figure) { return atomic_load_explicit(figure, memory_order_relaxed); }

static const _Atomic uint64_t *figure_of(const struct exposition_model *model, size_t offset) {
  return (const _Atomic uint64_t *)(const void *)((const char *)model->stats + offset);
}

/* ---- one function for each kind of figure ------------------------------------------------------------------------ */

static void print_server_number(const struct page *page, const struct metric *metric) {
  const char *figure = (const char *)page->server + metric->offset;
  buffer_print(page->out, "%s %" PRIu64 "\n", metric->name, *(const uint64_t *)(const void *)figure);
}

static void print_server_ready(const struct page *page, const struct metric *metric) {
  buffer_print(page->out, "%s %d\n", metric->name, page->server->ready ? 1 : 0);
}

static void print_count(const struct page *page, const struct metric *metric) {
  for (size_t i = 0; i < page->n_models; i++)
    print_model_value(page, metric, &page->models[i], load(figure_of(&page->models[i], metric->offset)));
}

static void print_microseconds(const struct page *page, const struct metric *metric) {
  for (size_t i = 0; i < page->n_models; i++)
    print_model_value(page, metric, &page->models[i], load(figure_of(&page->models[i], metric->offset)) / NS_PER_US);
}

/* Requests join and leave the figure in threads of their own, so that for a moment it can be below zero. */
static void print_pending(const struct page *page, const struct metric *metric) {
  for (size_t i = 0; i < page->n_models; i++) {
    int64_t pending = atomic_load_explicit(&page->models[i].stats->pending, memory_order_relaxed);
    print_model_value(page, metric, &page->models[i], pending > 0 ? (uint64_t)pending : 0);
  }
}

static void print_failures(const struct page *page, const struct metric *metric) {
  static const char *const reasons[FAILURE_COUNT] = {[FAILURE_REJECTED] = "REJECTED",
                                                     [FAILURE_CANCELED] = "CANCELED",
                                                     [FAILURE_BACKEND] = "BACKEND",
                                                     [FAILURE_OTHER] = "OTHER"};
  for (size_t i = 0; i < page->n_models; i++)
    for (size_t reason = 0; reason < FAILURE_COUNT; reason++) {
      print_series(page->out, metric->name, "", &page->models[i]);
      buffer_print(page->out, ",reason=\"%s\"} %" PRIu64 "\n", reasons[reason],
                   load(&page->models[i].stats->failures[reason]));
    }
}

static void print_ready(const struct page *page, const struct metric *metric) {
  for (size_t i = 0; i < page->n_models; i++)
    print_model_value(page, metric, &page->models[i], page->models[i].ready ? 1 : 0);
}

static void print_instances(const struct page *page, const struct metric *metric) {
  for (size_t i = 0; i < page->n_models; i++)
    print_model_value(page, metric, &page->models[i], page->models[i].instances_ready);
}

/* Buckets are cumulative and _count is the last of them, added up here: read at different moments they could differ. */
static void print_histogram(struct buffer *out, const char *name, const struct exposition_model *model,
                            const struct stat_histogram *histogram, const struct histogram_bounds *bounds,
                            double divisor) {
  uint64_t count = 0;
  for (size_t i = 0; i < bounds->n; i++) {
    count += load(&histogram->counts[i]);
    print_series(out, name, "_bucket", model);
    buffer_print(out, ",le=\"%.9g\"} %" PRIu64 "\n", (double)bounds->upper[i] / divisor, count);
  }
  count += load(&histogram->counts[bounds->n]);
  print_series(out, name, "_bucket", model);
  buffer_print(out, ",le=\"+Inf\"} %" PRIu64 "\n", count);
  print_series(out, name, "_sum", model);
  buffer_print(out, "} %.17g\n", (double)load(&histogram->sum) / divisor);
  print_series(out, name, "_count", model);
  buffer_print(out, "} %" PRIu64 "\n", count);
}

static const struct stat_histogram *histogram_of(const struct exposition_model *model, size_t offset) {
  return (const struct stat_histogram *)(const void *)((const char *)model->stats + offset);
}

static void print_times(const struct page *page, const struct metric *metric) {
  for (size_t i = 0; i < page->n_models; i++)
    print_histogram(page->out, metric->name, &page->models[i], histogram_of(&page->models[i], metric->offset),
                    metric->bounds, (double)NS_PER_S);
}

static void print_sizes(const struct page *page, const struct metric *metric) {
  for (size_t i = 0; i < page->n_models; i++)
    print_histogram(page->out, metric->name, &page->models[i], histogram_of(&page->models[i], metric->offset),
                    metric->bounds, 1);
}

/* Of first responses: a request has one response, so these are buckets of the latencies, which have the same bounds and
 * more. */
static void print_first_responses(const struct page *page, const struct metric *metric) {
  static const uint64_t bounds_ms[] = {100, 500, 2000, 5000};
  for (size_t m = 0; m < page->n_models; m++) {
    const struct exposition_model *model = &page->models[m];
    const struct stat_histogram *latency = &model->stats->latency;
    uint64_t count = 0;
    size_t i = 0;
    for (size_t k = 0; k < sizeof bounds_ms / sizeof *bounds_ms; k++) {
      for (; i < histogram_times.n && histogram_times.upper[i] <= bounds_ms[k] * NS_PER_MS; i++)
        count += load(&latency->counts[i]);
      print_series(page->out, metric->name, "_bucket", model);
      buffer_print(page->out, ",le=\"%" PRIu64 "\"} %" PRIu64 "\n", bounds_ms[k], count);
    }
    for (; i <= histogram_times.n; i++) count += load(&latency->counts[i]);
    print_series(page->out, metric->name, "_bucket", model);
    buffer_print(page->out, ",le=\"+Inf\"} %" PRIu64 "\n", count);
    print_series(page->out, metric->name, "_sum", model);
    buffer_print(page->out, "} %.17g\n", (double)load(&latency->sum) / (double)NS_PER_MS);
    print_series(page->out, metric->name, "_count", model);
    buffer_print(page->out, "} %" PRIu64 "\n", count);
  }
}

static void print_quantiles(const struct page *page, const struct metric *metric,
                            const struct exposition_model *model) {
  const struct stat_summary *summary = model_stats_summary(model->stats, metric->summary);
  double ns[METRICS_QUANTILES_MAX];
  const struct metrics_config *config = page->config;
  if (summary == NULL) return;
  summary_read(summary, page->server->now_ns, config->quantiles, config->n_quantiles, ns);
  for (size_t i = 0; i < config->n_quantiles; i++) {
    print_series(page->out, metric->name, "", model);
    buffer_print(page->out, ",quantile=\"%.9g\"} ", config->quantiles[i]);
    if (isnan(ns[i]))
      buffer_puts(page->out, "NaN\n");
    else
      buffer_print(page->out, "%.9g\n", ns[i] / (double)NS_PER_US);
  }
}

/* Quantiles are of the last minute; sum and count are of all time, as the counters beside them. */
static void print_summary(const struct page *page, const struct metric *metric) {
  for (size_t i = 0; i < page->n_models; i++) {
    const struct exposition_model *model = &page->models[i];
    const struct stat_duration *all = (const struct stat_duration *)(const void *)figure_of(model, metric->offset);
    print_quantiles(page, metric, model);
    print_series(page->out, metric->name, "_sum", model);
    buffer_print(page->out, "} %" PRIu64 "\n", load(&all->ns) / NS_PER_US);
    print_series(page->out, metric->name, "_count", model);
    buffer_print(page->out, "} %" PRIu64 "\n", load(&all->count));
  }
}

/* One that has not been loaded has no such time. */
static void print_load_time(const struct page *page, const struct metric *metric) {
  for (size_t i = 0; i < page->n_models; i++) {
    uint64_t ns = load(&page->models[i].stats->load_ns);
    if (ns == 0) continue;
    print_series(page->out, metric->name, "", &page->models[i]);
    buffer_print(page->out, "} %.9g\n", (double)ns / (double)NS_PER_S);
  }
}

static void print_machine_ratio(const struct page *page, const struct metric *metric) {
  const char *figure = (const char *)page->server->machine + metric->offset;
  buffer_print(page->out, "%s %.6g\n", metric->name, *(const double *)(const void *)figure);
}

static void print_machine_bytes(const struct page *page, const struct metric *metric) {
  const char *figure = (const char *)page->server->machine + metric->offset;
  buffer_print(page->out, "%s %" PRIu64 "\n", metric->name, *(const uint64_t *)(const void *)figure);
}

static bool wants_counters(const struct page *page) { return page->config->counter_latencies; }
static bool wants_histograms(const struct page *page) { return page->config->histogram_latencies; }
static bool wants_summaries(const struct page *page) { return page->config->summary_latencies; }
static bool knows_machine(const struct page *page) {
  return page->server->machine != NULL && page->server->machine->read;
}

/* ---- GPUs -------------------------------------------------------------------------------------------------------- */

static void print_gpu_series(const struct page *page, const struct metric *metric, const struct exposition_gpu *gpu) {
  buffer_print(page->out, "%s{gpu_uuid=\"", metric->name);
  print_label(page->out, gpu->uuid);
  buffer_putc(page->out, '"');
}

static double gpu_figure(const struct exposition_gpu *gpu, const struct metric *metric) {
  return *(const double *)(const void *)((const char *)gpu + metric->offset);
}

static void print_gpu(const struct page *page, const struct metric *metric) {
  for (size_t i = 0; i < page->server->n_gpus; i++) {
    const struct exposition_gpu *gpu = &page->server->gpus[i];
    double value = gpu_figure(gpu, metric);
    if (isnan(value)) continue;
    print_gpu_series(page, metric, gpu);
    buffer_print(page->out, "} %.15g\n", value);
  }
}

static void print_gpu_flag(const struct page *page, const struct metric *metric) {
  for (size_t i = 0; i < page->server->n_gpus; i++) {
    const struct exposition_gpu *gpu = &page->server->gpus[i];
    print_gpu_series(page, metric, gpu);
    buffer_print(page->out, "} %d\n", *(const bool *)(const void *)((const char *)gpu + metric->offset) ? 1 : 0);
  }
}

static void print_gpu_xids(const struct page *page, const struct metric *metric) {
  for (size_t i = 0; i < page->server->n_gpus; i++) {
    const struct exposition_gpu *gpu = &page->server->gpus[i];
    const char *xid;
    json_t *count;
    json_object_foreach((json_t *)(uintptr_t)gpu->xids, xid, count) {
      print_gpu_series(page, metric, gpu);
      buffer_print(page->out, ",xid=\"%s\"} %" JSON_INTEGER_FORMAT "\n", xid, json_integer_value(count));
    }
  }
}

static void print_fleet_state(const struct page *page, const struct metric *metric) {
  const char *state = json_string_value(json_object_get(page->server->fleet, "state"));
  buffer_print(page->out, "%s %d\n", metric->name, state != NULL && strcmp(state, "not answering") == 0 ? 0 : 1);
}

static void print_fleet_stalls(const struct page *page, const struct metric *metric) {
  buffer_print(page->out, "%s %" JSON_INTEGER_FORMAT "\n", metric->name,
               json_integer_value(json_object_get(page->server->fleet, "stalls")));
}

static void print_fleet_restarts(const struct page *page, const struct metric *metric) {
  buffer_print(page->out, "%s %" JSON_INTEGER_FORMAT "\n", metric->name,
               json_integer_value(json_object_get(page->server->fleet, "restarts")));
}

static bool has_gpus(const struct page *page) { return page->server->n_gpus > 0; }
static bool has_fleet(const struct page *page) { return page->server->fleet != NULL; }

/* One of them at least says it. */
static bool is_known_of_gpus(const struct page *page, const struct metric *metric) {
  for (size_t i = 0; i < page->server->n_gpus; i++)
    if (!isnan(gpu_figure(&page->server->gpus[i], metric))) return true;
  return false;
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

#define STAT(member) .offset = offsetof(struct model_stats, member)
#define SERVER(member) .offset = offsetof(struct exposition_server, member)
#define MACHINE(member) .offset = offsetof(struct machine, member), .wanted = knows_machine
#define GPU(member) .offset = offsetof(struct exposition_gpu, member), .wanted_figure = is_known_of_gpus
#define GPU_FLAG(member) .offset = offsetof(struct exposition_gpu, member), .wanted = has_gpus
#define SUMMARY(figure, member) .summary = (figure), STAT(member), .wanted = wants_summaries

static const struct metric metrics[] = {
    /* Triton's names, units and labels */
    {"nv_inference_request_success", METRIC_COUNTER, print_count, STAT(success.count),
     .help = "Requests answered with success"},
    {"nv_inference_request_failure", METRIC_COUNTER, print_failures,
     .help = "Requests not answered with success, by reason"},
    {"nv_inference_count", METRIC_COUNTER, print_count, STAT(inference_count),
     .help = "Inferences answered; a request of n rows counts n"},
    {"nv_inference_exec_count", METRIC_COUNTER, print_count, STAT(execution_count), .help = "Batches executed"},
    {"nv_inference_request_duration_us", METRIC_COUNTER, print_microseconds, STAT(success.ns), .wanted = wants_counters,
     .help = "Time of answered requests from first byte to reply, in microseconds"},
    {"nv_inference_queue_duration_us", METRIC_COUNTER, print_microseconds, STAT(queue.ns), .wanted = wants_counters,
     .help = "Time that answered requests waited, in microseconds"},
    {"nv_inference_compute_input_duration_us", METRIC_COUNTER, print_microseconds, STAT(compute_input.ns),
     .wanted = wants_counters, .help = "Time spent preparing inputs, over requests, in microseconds"},
    {"nv_inference_compute_infer_duration_us", METRIC_COUNTER, print_microseconds, STAT(compute_infer.ns),
     .wanted = wants_counters, .help = "Time spent in the engine, over requests, in microseconds"},
    {"nv_inference_compute_output_duration_us", METRIC_COUNTER, print_microseconds, STAT(compute_output.ns),
     .wanted = wants_counters, .help = "Time spent on outputs, over requests, in microseconds"},
    {"nv_inference_pending_request_count", METRIC_GAUGE, print_pending,
     .help = "Requests accepted and not yet executing"},
    {"nv_model_load_duration_secs", METRIC_GAUGE, print_load_time,
     .help = "Time from the start of a model's first worker until it was warm, in seconds"},
    {"nv_inference_first_response_histogram_ms", METRIC_HISTOGRAM, print_first_responses, .wanted = wants_histograms,
     .help = "Time of answered requests from first byte to first response, in milliseconds"},
    {"nv_inference_request_summary_us", METRIC_SUMMARY, print_summary, SUMMARY(SUMMARY_REQUEST, success),
     .help = "Time of answered requests from first byte to reply, in microseconds"},
    {"nv_inference_queue_summary_us", METRIC_SUMMARY, print_summary, SUMMARY(SUMMARY_QUEUE, queue),
     .help = "Time that answered requests waited, in microseconds"},
    {"nv_inference_compute_input_summary_us", METRIC_SUMMARY, print_summary,
     SUMMARY(SUMMARY_COMPUTE_INPUT, compute_input),
     .help = "Time spent preparing inputs, over requests, in microseconds"},
    {"nv_inference_compute_infer_summary_us", METRIC_SUMMARY, print_summary,
     SUMMARY(SUMMARY_COMPUTE_INFER, compute_infer), .help = "Time spent in the engine, over requests, in microseconds"},
    {"nv_inference_compute_output_summary_us", METRIC_SUMMARY, print_summary,
     SUMMARY(SUMMARY_COMPUTE_OUTPUT, compute_output), .help = "Time spent on outputs, over requests, in microseconds"},
    {"nv_cpu_utilization", METRIC_GAUGE, print_machine_ratio, MACHINE(cpu_utilization),
     .help = "Share of the machine's CPU time that was used since the reading before, 0 to 1"},
    {"nv_cpu_memory_total_bytes", METRIC_GAUGE, print_machine_bytes, MACHINE(memory_total),
     .help = "Memory of the machine"},
    {"nv_cpu_memory_used_bytes", METRIC_GAUGE, print_machine_bytes, MACHINE(memory_used),
     .help = "Memory of the machine that is not available"},
    {"nv_gpu_utilization", METRIC_GAUGE, print_gpu, GPU(utilization),
     .help = "Share of time in which the GPU was busy, 0 to 1"},
    {"nv_gpu_memory_total_bytes", METRIC_GAUGE, print_gpu, GPU(memory_total), .help = "Memory of the GPU"},
    {"nv_gpu_memory_used_bytes", METRIC_GAUGE, print_gpu, GPU(memory_used), .help = "Memory of the GPU in use"},
    {"nv_gpu_power_usage", METRIC_GAUGE, print_gpu, GPU(power), .help = "Power that the GPU draws, in watts"},
    {"nv_gpu_power_limit", METRIC_GAUGE, print_gpu, GPU(power_limit),
     .help = "Most power that the GPU may draw, in watts"},
    {"nv_energy_consumption", METRIC_COUNTER, print_gpu, GPU(energy),
     .help = "Energy that the GPU has used since the server started, in joules"},
    /* muster's own, in base units */
    {"muster_gpu_temperature_celsius", METRIC_GAUGE, print_gpu, GPU(temperature), .help = "Temperature of the GPU"},
    {"muster_gpu_sm_clock_hertz", METRIC_GAUGE, print_gpu, GPU(sm_clock), .help = "Clock of the GPU's multiprocessors"},
    {"muster_gpu_memory_clock_hertz", METRIC_GAUGE, print_gpu, GPU(memory_clock), .help = "Clock of the GPU's memory"},
    {"muster_gpu_throttled", METRIC_GAUGE, print_gpu, GPU(throttled),
     .help = "1 while power or heat slow the GPU down"},
    {"muster_gpu_speed_ratio", METRIC_GAUGE, print_gpu, GPU(speed),
     .help = "Speed of the GPU beside the fastest that serves the same models, as their batches show, 0 to 1"},
    {"muster_gpu_fenced", METRIC_GAUGE, print_gpu_flag, GPU_FLAG(fenced),
     .help = "1 while no worker runs on the GPU, because of a fault or by hand"},
    {"muster_gpu_lost", METRIC_GAUGE, print_gpu_flag, GPU_FLAG(lost), .help = "1 if the GPU does not answer any more"},
    {"muster_gpu_xid_total", METRIC_COUNTER, print_gpu_xids, .wanted = has_gpus,
     .help = "Faults that the driver has reported, by Xid"},
    {"muster_fleet_answering", METRIC_GAUGE, print_fleet_state, .wanted = has_fleet,
     .help = "0 while nothing is to be had from NVML"},
    {"muster_fleet_stalls_total", METRIC_COUNTER, print_fleet_stalls, .wanted = has_fleet,
     .help = "Times that NVML did not answer, or its process ended"},
    {"muster_fleet_restarts_total", METRIC_COUNTER, print_fleet_restarts, .wanted = has_fleet,
     .help = "Times that the process that asks NVML was started again"},
    {"muster_request_duration_seconds", METRIC_HISTOGRAM, print_times, STAT(latency), .bounds = &histogram_times,
     .help = "Time of answered requests from first byte to reply"},
    {"muster_queue_duration_seconds", METRIC_HISTOGRAM, print_times, STAT(queue_time), .bounds = &histogram_times,
     .help = "Time that answered requests waited"},
    {"muster_batch_size", METRIC_HISTOGRAM, print_sizes, STAT(batch_size), .bounds = &histogram_batch_sizes,
     .help = "Rows in executed batches"},
    {"muster_requests_retried_total", METRIC_COUNTER, print_count, STAT(retries),
     .help = "Requests put back in the queue because their worker died"},
    {"muster_model_ready", METRIC_GAUGE, print_ready, .help = "1 if the model version answers requests"},
    {"muster_model_instances_ready", METRIC_GAUGE, print_instances, .help = "Instances that take batches"},
    {"muster_server_ready", METRIC_GAUGE, print_server_ready, .help = "1 if the server is ready"},
    {"muster_connections_open", METRIC_GAUGE, print_server_number, SERVER(connections_open),
     .help = "Client connections open now"},
    {"muster_connections_total", METRIC_COUNTER, print_server_number, SERVER(connections_total),
     .help = "Client connections accepted"},
    {"muster_http_requests_total", METRIC_COUNTER, print_server_number, SERVER(requests_total),
     .help = "HTTP requests of any kind"},
    {"muster_memory_used_bytes", METRIC_GAUGE, print_server_number, SERVER(memory_used_bytes),
     .help = "Memory in use for tensors and bodies on their way"},
    {"muster_memory_limit_bytes", METRIC_GAUGE, print_server_number, SERVER(memory_limit_bytes),
     .help = "Most memory for tensors and bodies on their way"},
    {"muster_worker_deaths_total", METRIC_COUNTER, print_server_number, SERVER(worker_deaths_total),
     .help = "Worker processes that died"},
    {"muster_traces_written_total", METRIC_COUNTER, print_server_number, SERVER(traces_written),
     .help = "Traces of requests written to a file"},
    {"muster_traces_dropped_total", METRIC_COUNTER, print_server_number, SERVER(traces_dropped),
     .help = "Traces of requests that could not be written, or not in time"},
};

mu_status exposition_print(struct buffer *out, const struct exposition_server *server,
                           const struct exposition_model *models, size_t n_models) {
  struct metrics_config defaults;
  metrics_config_init(&defaults);
  const struct page page = {.out = out,
                            .server = server,
                            .config = server->config != NULL ? server->config : &defaults,
                            .models = models,
                            .n_models = n_models};
  for (size_t i = 0; i < sizeof metrics / sizeof *metrics; i++) {
    if (metrics[i].wanted != NULL && !metrics[i].wanted(&page)) continue;
    if (metrics[i].wanted_figure != NULL && !metrics[i].wanted_figure(&page, &metrics[i])) continue;
    buffer_print(out, "# HELP %s %s\n# TYPE %s %s\n", metrics[i].name, metrics[i].help, metrics[i].name,
                 type_names[metrics[i].type]);
    metrics[i].print(&page, &metrics[i]);
  }
  return out->failed ? MU_NO_MEMORY : MU_OK;
}
