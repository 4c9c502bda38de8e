/* Figures and their page without memory: a batch size that is not counted, a page that says that it is not whole. */
#include "metrics/exposition.h"

#include "failing_allocator.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static mu_status count_and_print(void *context) {
  struct model_stats *stats = model_stats_create();
  if (stats == NULL) return MU_NO_MEMORY;
  struct metrics_config config;
  metrics_config_init(&config);
  config.summary_latencies = true;
  bool summarized = model_stats_summarize(stats) == MU_OK; /* without, sums and counts are still there */
  struct batch_times times = {1, 2, 3};
  for (uint32_t rows = 1; rows < 20; rows++) model_stats_batch(stats, rows, rows, &times);
  model_stats_success(stats, 4, 5, 6);
  struct exposition_model model = {.name = "a \"model\"", .version = 3, .stats = stats, .ready = true};
  struct exposition_server server = {.ready = true, .config = &config};
  struct buffer out;
  buffer_init(&out, 1 << 20);
  mu_status status = exposition_print(&out, &server, &model, 1);
  allocations_work();
  assert_int_equal(stats->execution_count, 19); /* counted, whatever was lost of the sizes */
  model_stats_batch(stats, 1, 1, &times);
  buffer_clear(&out);
  assert_int_equal(exposition_print(&out, &server, &model, 1), MU_OK);
  buffer_free(&out);
  model_stats_free(stats);
  return summarized ? status : MU_NO_MEMORY;
}

static void test_page(void **state) { fail_each_allocation("exposition", count_and_print, NULL); }

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_page)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
