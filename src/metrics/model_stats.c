#include "metrics/model_stats.h"

#include "base/clock.h"

#include <stdlib.h>
#include <time.h>

#define US(n) (UINT64_C(n) * NS_PER_US)
#define MS(n) (UINT64_C(n) * NS_PER_MS)
#define S(n) (UINT64_C(n) * NS_PER_S)

/* Four steps a decade: a percentile read off them is within a factor of 1.7 wherever it lies. */
const struct histogram_bounds histogram_times = {
    24, {US(100), US(200), US(300), US(500), MS(1), MS(2), MS(3), MS(5), MS(10), MS(20), MS(30), MS(50),
         MS(100), MS(200), MS(300), MS(500), S(1),  S(2),  S(3),  S(5),  S(10),  S(20),  S(30),  S(60)}};
const struct histogram_bounds histogram_batch_sizes = {14,
                                                       {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192}};

/* The figures are read one by one and only ever grow: no order between them is promised. */
static void add(_Atomic uint64_t *to, uint64_t n) { atomic_fetch_add_explicit(to, n, memory_order_relaxed); }

static void add_duration(struct stat_duration *to, uint64_t count, uint64_t ns) {
  add(&to->count, count);
  add(&to->ns, ns);
}

static void observe(struct stat_histogram *histogram, const struct histogram_bounds *bounds, uint64_t value) {
  size_t i = 0;
  while (i < bounds->n && value > bounds->upper[i]) i++;
  add(&histogram->counts[i], 1);
  add(&histogram->sum, value);
}

struct model_stats *model_stats_create(void) {
  return calloc(1, sizeof(struct model_stats));
}

void model_stats_free(struct model_stats *stats) {
  if (stats == NULL) return;
  for (size_t i = 0; i <= BATCH_STATS_MAX; i++) free(atomic_load(&stats->batches[i]));
  for (size_t i = 0; i < SUMMARY_COUNT; i++) summary_free(stats->summaries[i]);
  free(stats);
}

mu_status model_stats_summarize(struct model_stats *stats) {
  for (size_t i = 0; i < SUMMARY_COUNT; i++) {
    stats->summaries[i] = summary_create();
    if (stats->summaries[i] != NULL) continue;
    while (i-- > 0) {
      summary_free(stats->summaries[i]);
      stats->summaries[i] = NULL;
    }
    return MU_NO_MEMORY;
  }
  return MU_OK;
}

static bool summarizes(const struct model_stats *stats) { return stats->summaries[0] != NULL; }

/* The entry for batches of so many rows; NULL without memory. */
static struct stat_batch *batch_entry(struct model_stats *stats, uint32_t rows) {
  struct stat_batch *_Atomic *place = &stats->batches[rows < BATCH_STATS_MAX ? rows : BATCH_STATS_MAX];
  struct stat_batch *entry = atomic_load_explicit(place, memory_order_acquire);
  if (entry != NULL) return entry;
  struct stat_batch *fresh = calloc(1, sizeof *fresh);
  if (fresh == NULL) return NULL;
  if (atomic_compare_exchange_strong(place, &entry, fresh)) return fresh;
  free(fresh); /* another thread was first; entry is what it put there */
  return entry;
}

static void summarize_batch(struct model_stats *stats, uint32_t requests, const struct batch_times *times) {
  uint64_t now = clock_now_ns();
  summary_observe(stats->summaries[SUMMARY_COMPUTE_INPUT], now, times->compute_input_ns, requests);
  summary_observe(stats->summaries[SUMMARY_COMPUTE_INFER], now, times->compute_infer_ns, requests);
  summary_observe(stats->summaries[SUMMARY_COMPUTE_OUTPUT], now, times->compute_output_ns, requests);
}

void model_stats_batch(struct model_stats *stats, uint32_t rows, uint32_t requests, const struct batch_times *times) {
  add(&stats->execution_count, 1);
  add_duration(&stats->compute_input, requests, requests * times->compute_input_ns);
  add_duration(&stats->compute_infer, requests, requests * times->compute_infer_ns);
  add_duration(&stats->compute_output, requests, requests * times->compute_output_ns);
  observe(&stats->batch_size, &histogram_batch_sizes, rows);
  if (summarizes(stats)) summarize_batch(stats, requests, times);
  struct stat_batch *batch = batch_entry(stats, rows);
  if (batch == NULL) return; /* the totals above are complete, only the split by size lacks this batch */
  add_duration(&batch->compute_input, 1, times->compute_input_ns);
  add_duration(&batch->compute_infer, 1, times->compute_infer_ns);
  add_duration(&batch->compute_output, 1, times->compute_output_ns);
}

static uint64_t wall_clock_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / NS_PER_MS;
}

void model_stats_success(struct model_stats *stats, uint32_t rows, uint64_t queue_ns, uint64_t total_ns) {
  add_duration(&stats->success, 1, total_ns);
  add_duration(&stats->queue, 1, queue_ns);
  add(&stats->inference_count, rows);
  observe(&stats->latency, &histogram_times, total_ns);
  observe(&stats->queue_time, &histogram_times, queue_ns);
  if (summarizes(stats)) {
    uint64_t now = clock_now_ns();
    summary_observe(stats->summaries[SUMMARY_REQUEST], now, total_ns, 1);
    summary_observe(stats->summaries[SUMMARY_QUEUE], now, queue_ns, 1);
  }
  atomic_store_explicit(&stats->last_inference_ms, wall_clock_ms(), memory_order_relaxed);
}

void model_stats_failure(struct model_stats *stats, enum failure_reason reason, uint64_t total_ns) {
  add_duration(&stats->fail, 1, total_ns);
  add(&stats->failures[reason], 1);
}
