/* What is counted: Triton's rules, bucket edges, threads that count at the same time. */
#include "metrics/model_stats.h"

#include "base/clock.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>

#include <cmocka.h>

static struct model_stats *fresh(void) {
  struct model_stats *stats = model_stats_create();
  assert_non_null(stats);
  return stats;
}

static void test_success(void **state) {
  struct model_stats *stats = fresh();
  uint64_t before = (uint64_t)time(NULL) * 1000;
  model_stats_success(stats, 3, 5 * NS_PER_US, 2 * NS_PER_MS);
  model_stats_success(stats, 1, 7 * NS_PER_US, 4 * NS_PER_MS);
  assert_int_equal(stats->success.count, 2);
  assert_int_equal(stats->success.ns, 6 * NS_PER_MS);
  assert_int_equal(stats->queue.count, 2);
  assert_int_equal(stats->queue.ns, 12 * NS_PER_US);
  assert_int_equal(stats->inference_count, 4);
  assert_int_equal(stats->execution_count, 0);
  assert_true(stats->last_inference_ms >= before);
  assert_int_equal(stats->latency.sum, 6 * NS_PER_MS);
  assert_int_equal(stats->queue_time.counts[0], 2);
  model_stats_free(stats);
  model_stats_free(NULL);
}

static void test_failure(void **state) {
  struct model_stats *stats = fresh();
  model_stats_failure(stats, FAILURE_REJECTED, 10);
  model_stats_failure(stats, FAILURE_OTHER, 5);
  assert_int_equal(stats->fail.count, 2);
  assert_int_equal(stats->fail.ns, 15);
  assert_int_equal(stats->failures[FAILURE_REJECTED], 1);
  assert_int_equal(stats->failures[FAILURE_BACKEND], 0);
  assert_int_equal(stats->failures[FAILURE_OTHER], 1);
  assert_int_equal(stats->latency.sum, 0);
  model_stats_free(stats);
}

/* The compute time of a batch counts once for each request in it, and once for its size. */
static void test_batch(void **state) {
  struct model_stats *stats = fresh();
  const struct batch_times times = {.compute_input_ns = 10, .compute_infer_ns = 1000, .compute_output_ns = 7};
  model_stats_batch(stats, 8, 4, &times);
  model_stats_batch(stats, 8, 1, &times);
  model_stats_batch(stats, 1, 1, &times);
  assert_int_equal(stats->execution_count, 3);
  assert_int_equal(stats->inference_count, 0);
  assert_int_equal(stats->compute_infer.count, 6);
  assert_int_equal(stats->compute_infer.ns, 6000);
  assert_int_equal(stats->compute_input.ns, 60);
  assert_int_equal(stats->compute_output.ns, 42);
  struct stat_batch *eight = stats->batches[8];
  assert_non_null(eight);
  assert_int_equal(eight->compute_infer.count, 2);
  assert_int_equal(eight->compute_infer.ns, 2000);
  assert_int_equal(eight->compute_output.ns, 14);
  assert_null(stats->batches[2]);
  assert_int_equal(stats->batch_size.counts[0], 1);
  assert_int_equal(stats->batch_size.counts[3], 2);
  assert_int_equal(stats->batch_size.sum, 17);
  model_stats_free(stats);
}

static void test_large_batches_share_the_last_entry(void **state) {
  struct model_stats *stats = fresh();
  const struct batch_times times = {.compute_infer_ns = 1};
  const uint32_t rows[] = {BATCH_STATS_MAX, BATCH_STATS_MAX + 1, UINT32_MAX, BATCH_STATS_MAX - 1, 0};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) model_stats_batch(stats, rows[i], 1, &times);
  struct stat_batch *last = stats->batches[BATCH_STATS_MAX], *before = stats->batches[BATCH_STATS_MAX - 1];
  assert_int_equal(last->compute_infer.count, 3);
  assert_int_equal(before->compute_infer.count, 1);
  model_stats_free(stats);
}

static void check_bounds(const struct histogram_bounds *bounds) {
  assert_true(bounds->n > 0 && bounds->n <= HISTOGRAM_BUCKETS);
  for (size_t i = 1; i < bounds->n; i++) assert_true(bounds->upper[i] > bounds->upper[i - 1]);
}

/* A value on a bound belongs to that bucket, one more to the next; the last takes all that is larger. */
static void test_bucket_edges(void **state) {
  check_bounds(&histogram_times);
  check_bounds(&histogram_batch_sizes);
  for (size_t i = 0; i < histogram_times.n; i++) {
    struct model_stats *stats = fresh();
    model_stats_success(stats, 1, histogram_times.upper[i], histogram_times.upper[i] + 1);
    assert_int_equal(stats->queue_time.counts[i], 1);
    assert_int_equal(stats->latency.counts[i + 1], 1);
    model_stats_free(stats);
  }
  struct model_stats *stats = fresh();
  model_stats_success(stats, 1, 0, UINT64_MAX);
  assert_int_equal(stats->queue_time.counts[0], 1);
  assert_int_equal(stats->latency.counts[histogram_times.n], 1);
  model_stats_free(stats);
}

enum { THREADS = 4, ROUNDS = 20000 };

static void *count(void *argument) {
  struct model_stats *stats = argument;
  const struct batch_times times = {.compute_input_ns = 1, .compute_infer_ns = 2, .compute_output_ns = 3};
  for (uint32_t i = 0; i < ROUNDS; i++) {
    model_stats_batch(stats, i % 64, 2, &times);
    model_stats_success(stats, 2, i, 2 * (uint64_t)i);
    model_stats_failure(stats, (enum failure_reason)(i % FAILURE_COUNT), 1);
  }
  return NULL;
}

static void test_threads_lose_nothing(void **state) {
  struct model_stats *stats = fresh();
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, count, stats), 0);
  for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
  assert_int_equal(stats->success.count, THREADS * ROUNDS);
  assert_int_equal(stats->inference_count, 2 * THREADS * ROUNDS);
  assert_int_equal(stats->compute_infer.ns, 4 * THREADS * ROUNDS);
  assert_int_equal(stats->fail.count, THREADS * ROUNDS);
  uint64_t batches = 0, sizes = 0;
  for (size_t i = 0; i < 64; i++) {
    struct stat_batch *batch = stats->batches[i];
    batches += batch->compute_infer.count;
  }
  for (size_t i = 0; i <= histogram_batch_sizes.n; i++) sizes += stats->batch_size.counts[i];
  assert_int_equal(batches, THREADS * ROUNDS);
  assert_int_equal(sizes, THREADS * ROUNDS);
  model_stats_free(stats);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_success),      cmocka_unit_test(test_failure),
      cmocka_unit_test(test_batch),        cmocka_unit_test(test_large_batches_share_the_last_entry),
      cmocka_unit_test(test_bucket_edges), cmocka_unit_test(test_threads_lose_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
