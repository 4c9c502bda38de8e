#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/top/view.h"

/* Two looks at a server, a second apart, as texts; the second one is compared with the first. */

static const char status_text[] =
    "{\"state\":\"ready\",\"pid\":100,\"uptime_s\":3723.5,\"version\":\"0.1.0\","
    "\"gateway\":{\"pid\":101,\"state\":\"ready\",\"restarts\":1},\"upgrade\":{\"state\":\"none\"},"
    "\"models\":[{\"name\":\"ocr\",\"version\":1,\"state\":\"READY\",\"reason\":\"\"},"
    "{\"name\":\"b\\u0007d\\\"\",\"version\":2,\"state\":\"UNAVAILABLE\",\"reason\":\"no such file\"}],"
    "\"workers\":[{\"worker\":1,\"pid\":102,\"model\":\"ocr\",\"version\":1,\"device\":\"gpu:0\",\"state\":\"ready\","
    "\"restarts\":0,\"reason\":\"\"},"
    "{\"worker\":2,\"pid\":null,\"model\":\"ocr\",\"version\":1,\"device\":\"gpu:1\",\"state\":\"backoff\","
    "\"restarts\":4,\"reason\":\"killed by signal 11\"}],"
    "\"gpus\":[{\"uuid\":\"GPU-a\",\"index\":0,\"mig_index\":-1,\"name\":\"NVIDIA "
    "H200\",\"state\":\"serving\",\"reason\":\"\"},"
    "{\"uuid\":\"GPU-b\",\"index\":1,\"mig_index\":-1,\"name\":\"NVIDIA H200\",\"state\":\"fenced\",\"reason\":\"Xid "
    "95\"}]}";

static const char metrics_before[] =
    "nv_inference_request_success{model=\"ocr\",version=\"1\"} 100\n"
    "nv_inference_count{model=\"ocr\",version=\"1\"} 100\n"
    "nv_inference_exec_count{model=\"ocr\",version=\"1\"} 50\n"
    "muster_request_duration_seconds_bucket{model=\"ocr\",version=\"1\",le=\"0.01\"} 100\n"
    "muster_request_duration_seconds_bucket{model=\"ocr\",version=\"1\",le=\"0.02\"} 100\n"
    "muster_request_duration_seconds_bucket{model=\"ocr\",version=\"1\",le=\"+Inf\"} 100\n";

static const char metrics_after[] =
    "# HELP nv_inference_request_success Requests\n"
    "nv_inference_request_success{model=\"ocr\",version=\"1\"} 300\n"
    "nv_inference_request_success{model=\"ocr\",version=\"9\"} 7777\n"
    "nv_inference_request_failure{model=\"ocr\",version=\"1\",reason=\"REJECTED\"} 3\n"
    "nv_inference_request_failure{model=\"ocr\",version=\"1\",reason=\"OTHER\"} 2\n"
    "nv_inference_count{model=\"ocr\",version=\"1\"} 500\n"
    "nv_inference_exec_count{model=\"ocr\",version=\"1\"} 100\n"
    "nv_inference_pending_request_count{model=\"ocr\",version=\"1\"} 12\n"
    "nv_inference_pending_request_count{model=\"b?d\\\"\",version=\"2\"} 0\n"
    "muster_request_duration_seconds_bucket{model=\"ocr\",version=\"1\",le=\"0.01\"} 200\n"
    "muster_request_duration_seconds_bucket{model=\"ocr\",version=\"1\",le=\"0.02\"} 300\n"
    "muster_request_duration_seconds_bucket{model=\"ocr\",version=\"1\",le=\"+Inf\"} 300\n"
    "nv_gpu_utilization{gpu_uuid=\"GPU-a\"} 0.75\n"
    "nv_gpu_memory_used_bytes{gpu_uuid=\"GPU-a\"} 1073741824\n"
    "nv_gpu_memory_total_bytes{gpu_uuid=\"GPU-a\"} 150754820096\n"
    "nv_gpu_power_usage{gpu_uuid=\"GPU-a\"} 312.4\n"
    "muster_connections_open 5\n"
    "this is no metric\n"
    "nor{this=\"is\n";

static const char health_text[] =
    "{\"backends\":[{\"address\":\"ocr/1\",\"total_requests\":%d},"
    "{\"address\":\"nonsense\",\"total_requests\":1}]}";

static void read_sample(struct top_sample *sample, const char *metrics, uint64_t at_ns, int requests) {
  *sample = (struct top_sample){.reached = false};
  json_t *status = json_loads(status_text, 0, NULL);
  char text[256];
  snprintf(text, sizeof text, health_text, requests);
  json_t *health = json_loads(text, 0, NULL);
  assert_non_null(status);
  assert_non_null(health);
  assert_int_equal(top_read_status(sample, status), MU_OK);
  top_read_metrics(sample, metrics);
  top_read_health(sample, health);
  sample->at_ns = at_ns;
  json_decref(status);
  json_decref(health);
}

static struct top_sample sample;

static int set_up(void **state) {
  struct top_sample before;
  read_sample(&before, metrics_before, 1 * NS_PER_S, 100);
  read_sample(&sample, metrics_after, 2 * NS_PER_S, 300);
  before.workers[0].usage.cpu_ns = 0;
  sample.workers[0].usage.cpu_ns = 3 * (int64_t)NS_PER_S / 2;
  sample.workers[0].usage.memory = 300 << 20;
  top_compare(&before, &sample);
  top_sample_free(&before);
  return 0;
}

static int tear_down(void **state) {
  top_sample_free(&sample);
  return 0;
}

static struct top_page page;

static const struct top_line *find(const char *beginning) {
  for (size_t i = 0; i < page.n; i++)
    if (strncmp(page.lines[i].text, beginning, strlen(beginning)) == 0) return &page.lines[i];
  fail_msg("no line begins with '%s'", beginning);
  return NULL;
}

static void assert_line(const char *text) { assert_string_equal(find(text)->text, text); }

static void render(struct top_screen *screen) { assert_int_equal(top_render(&sample, screen, &page), MU_OK); }

static void everything_is_a_line(void **state) {
  struct top_screen screen = {.width = 80, .interval = 1};
  render(&screen);
  assert_line("muster 0.1.0  ready  up 1h 2m  pid 100  cpu -  mem -  every 1 s");
  assert_line("gateway ready  pid 101  restarts 1  cpu -  mem -  tensors -/-  conn 5");
  assert_line("all models: 200 requests/s  waiting 12  failures 5.0/s  batches 50.0/s of 8.0 ro");
  assert_line("GPU   NAME                            STATE     UTIL   USED     OF  WATT WORKERS");
  assert_line("0     NVIDIA H200                     serving    75%   1.0G   140G   312       1");
  assert_line("1     NVIDIA H200                     fenced       -      -      -     -       1");
  assert_line("      Xid 95");
  assert_line("MODEL            VER STATE    WAIT  REQ/S FAIL/S BATCH/S  MEAN P50ms P95ms P99ms");
  assert_line("ocr                1 READY      12    200    5.0    50.0   8.0  10.0  19.0  19.8");
  assert_line("b?d\"               2 UNAVAIL     0      -      -       -     -     -     -     -");
  assert_line("  no such file");
  assert_line("  latency from buckets; exact with --metrics-config summary_latencies=true");
  assert_line("WORKER     PID MODEL              DEVICE   STATE      REQ/S   CPU   MEM RESTARTS");
  assert_line("     1     102 ocr                gpu:0    ready        200  150%  300M        0");
  assert_line("     2       - ocr                gpu:1    backoff        -     -     -        4");
  assert_line("       killed by signal 11");
  top_page_free(&page);
}

static void no_line_is_wider_than_the_screen(void **state) {
  for (int width = 0; width < 130; width += 3)
    for (int height = 1; height < 30; height += 4) {
      struct top_screen screen = {.width = width, .height = height, .interval = 1};
      top_move(&sample, &screen, 1);
      render(&screen);
      for (size_t i = 0; i < page.n; i++) assert_true((int)strlen(page.lines[i].text) <= width);
      if (height > 5) assert_int_equal(page.n, height);
    }
  top_page_free(&page);
}

static void what_is_selected_is_on_the_screen(void **state) {
  struct top_screen screen = {.width = 80, .height = 9, .interval = 1};
  static const char *const order[] = {"GPU-a", "GPU-b", "1", "2", "2"};
  for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
    top_move(&sample, &screen, 1);
    assert_string_equal(screen.selected.id, order[i]);
    render(&screen);
    size_t selected = 0;
    for (size_t k = 0; k < page.n; k++) selected += page.lines[k].selected;
    assert_int_equal(selected, 1);
  }
  assert_int_equal(top_selected_worker(&sample, &screen)->number, 2);
  assert_null(top_selected_gpu(&sample, &screen));
  for (int i = 0; i < 9; i++) top_move(&sample, &screen, -1);
  assert_string_equal(top_selected_gpu(&sample, &screen)->uuid, "GPU-a");
  render(&screen);
  assert_true(find("0     NVIDIA")->selected);
  find("GPU   NAME"); /* the heading is seen again, too */
  top_page_free(&page);
}

static void workers_are_sorted(void **state) {
  struct top_screen screen = {.width = 80, .sort = TOP_BY_CPU, .interval = 1};
  sample.workers[1].usage.cpu = 2;
  top_move(&sample, &screen, 3);
  assert_string_equal(screen.selected.id, "2"); /* the order on the screen is that of the keys */
  sample.workers[1].usage.cpu = NAN;
  screen.selected.kind = TOP_NOTHING;
  top_move(&sample, &screen, 3);
  assert_string_equal(screen.selected.id, "1");
}

static void what_began_anew_has_no_rate(void **state) {
  struct top_sample later;
  read_sample(&later, metrics_before, 3 * NS_PER_S, 5); /* counters are smaller than before */
  top_compare(&sample, &later);
  assert_true(isnan(later.models[0].request_rate));
  assert_true(isnan(later.workers[0].request_rate));
  later.supervisor.pid = 999; /* another server */
  top_compare(&sample, &later);
  assert_true(isnan(later.seconds));
  top_compare(NULL, &later);
  assert_true(isnan(later.models[0].request_rate));
  top_sample_free(&later);
}

static void exact_quantiles_count_more_than_buckets(void **state) {
  top_read_metrics(&sample,
                   "nv_inference_request_summary_us{model=\"ocr\",version=\"1\",quantile=\"0.5\"} 1500\n"
                   "nv_inference_request_summary_us{model=\"ocr\",version=\"1\",quantile=\"0.99\"} NaN\n");
  top_compare(NULL, &sample);
  struct top_screen screen = {.width = 80, .interval = 1};
  render(&screen);
  assert_non_null(strstr(find("ocr  ")->text, " 1.50     -     -"));
  assert_line("  latency of the last minute");
  top_page_free(&page);
}

static void no_server_no_metrics(void **state) {
  struct top_sample nothing = {.error = "no server is running at /x"};
  struct top_screen screen = {.width = 80, .height = 24, .interval = 2};
  top_move(&nothing, &screen, 1);
  assert_int_equal(top_render(&nothing, &screen, &page), MU_OK);
  assert_line("no server, trying again every 2 s");
  assert_line("no server is running at /x");
  snprintf(sample.metrics_error, sizeof sample.metrics_error, "the server has no port for that");
  render(&screen);
  assert_line("no figures of requests: the server has no port for that");
  top_page_free(&page);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(everything_is_a_line, set_up, tear_down),
      cmocka_unit_test_setup_teardown(no_line_is_wider_than_the_screen, set_up, tear_down),
      cmocka_unit_test_setup_teardown(what_is_selected_is_on_the_screen, set_up, tear_down),
      cmocka_unit_test_setup_teardown(workers_are_sorted, set_up, tear_down),
      cmocka_unit_test_setup_teardown(what_began_anew_has_no_rate, set_up, tear_down),
      cmocka_unit_test_setup_teardown(exact_quantiles_count_more_than_buckets, set_up, tear_down),
      cmocka_unit_test_setup_teardown(no_server_no_metrics, set_up, tear_down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
