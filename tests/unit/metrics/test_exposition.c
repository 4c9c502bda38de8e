/* The page for Prometheus: names, labels, escapes, and the rules of the text format for every line. */
#include "metrics/exposition.h"

#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static const struct exposition_server server = {.connections_open = 3,
                                                .connections_total = 5,
                                                .requests_total = 9,
                                                .memory_used_bytes = UINT64_C(1) << 40,
                                                .memory_limit_bytes = UINT64_MAX,
                                                .worker_deaths_total = 1,
                                                .ready = true};

static struct buffer page_of(const struct exposition_model *models, size_t n) {
  struct buffer out;
  buffer_init(&out, 1 << 20);
  assert_int_equal(exposition_print(&out, &server, models, n), MU_OK);
  assert_non_null(buffer_text(&out));
  return out;
}

static void has(const struct buffer *page, const char *line) {
  if (strstr(page->data, line) == NULL) fail_msg("no '%s' in\n%s", line, page->data);
}

static struct model_stats *busy(void) {
  struct model_stats *stats = model_stats_create();
  assert_non_null(stats);
  const struct batch_times times = {1500, 2 * NS_PER_MS, 999};
  model_stats_batch(stats, 4, 2, &times);
  model_stats_success(stats, 3, 150 * NS_PER_US, 3 * NS_PER_MS);
  model_stats_success(stats, 1, 50 * NS_PER_US, 120 * NS_PER_S);
  model_stats_failure(stats, FAILURE_CANCELED, 1);
  stats->pending = 7;
  stats->retries = 2;
  return stats;
}

static void test_values(void **state) {
  struct model_stats *stats = busy();
  const struct exposition_model model = {
      .name = "magika", .version = 2, .stats = stats, .ready = true, .instances_ready = 4};
  struct buffer page = page_of(&model, 1);
  static const char *const lines[] = {
      "# TYPE nv_inference_request_success counter\nnv_inference_request_success{model=\"magika\",version=\"2\"} 2\n",
      "\nnv_inference_request_failure{model=\"magika\",version=\"2\",reason=\"CANCELED\"} 1\n",
      "\nnv_inference_request_failure{model=\"magika\",version=\"2\",reason=\"REJECTED\"} 0\n",
      "\nnv_inference_count{model=\"magika\",version=\"2\"} 4\n",
      "\nnv_inference_exec_count{model=\"magika\",version=\"2\"} 1\n",
      "\nnv_inference_request_duration_us{model=\"magika\",version=\"2\"} 120003000\n",
      "\nnv_inference_queue_duration_us{model=\"magika\",version=\"2\"} 200\n",
      "\nnv_inference_compute_input_duration_us{model=\"magika\",version=\"2\"} 3\n",
      "\nnv_inference_compute_infer_duration_us{model=\"magika\",version=\"2\"} 4000\n",
      "\nnv_inference_compute_output_duration_us{model=\"magika\",version=\"2\"} 1\n",
      "\nnv_inference_pending_request_count{model=\"magika\",version=\"2\"} 7\n",
      "\nmuster_request_duration_seconds_bucket{model=\"magika\",version=\"2\",le=\"0.002\"} 0\n",
      "\nmuster_request_duration_seconds_bucket{model=\"magika\",version=\"2\",le=\"0.003\"} 1\n",
      "\nmuster_request_duration_seconds_bucket{model=\"magika\",version=\"2\",le=\"60\"} 1\n",
      "\nmuster_request_duration_seconds_bucket{model=\"magika\",version=\"2\",le=\"+Inf\"} 2\n",
      "\nmuster_request_duration_seconds_count{model=\"magika\",version=\"2\"} 2\n",
      "\nmuster_queue_duration_seconds_bucket{model=\"magika\",version=\"2\",le=\"0.0001\"} 1\n",
      "\nmuster_batch_size_bucket{model=\"magika\",version=\"2\",le=\"2\"} 0\n",
      "\nmuster_batch_size_bucket{model=\"magika\",version=\"2\",le=\"4\"} 1\n",
      "\nmuster_batch_size_sum{model=\"magika\",version=\"2\"} 4\n",
      "\nmuster_requests_retried_total{model=\"magika\",version=\"2\"} 2\n",
      "\nmuster_model_ready{model=\"magika\",version=\"2\"} 1\n",
      "\nmuster_model_instances_ready{model=\"magika\",version=\"2\"} 4\n",
      "\nmuster_server_ready 1\n",
      "\nmuster_connections_open 3\n",
      "\nmuster_memory_used_bytes 1099511627776\n",
      "\nmuster_memory_limit_bytes 18446744073709551615\n",
      "\nmuster_worker_deaths_total 1\n"};
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) has(&page, lines[i]);
  buffer_free(&page);
  model_stats_free(stats);
}

static void test_pending_is_never_negative(void **state) {
  struct model_stats *stats = model_stats_create();
  assert_non_null(stats);
  stats->pending = -1;
  const struct exposition_model model = {.name = "m", .version = 1, .stats = stats};
  struct buffer page = page_of(&model, 1);
  has(&page, "\nnv_inference_pending_request_count{model=\"m\",version=\"1\"} 0\n");
  buffer_free(&page);
  model_stats_free(stats);
}

static void test_labels_are_escaped(void **state) {
  struct model_stats *stats = busy();
  const struct exposition_model model = {.name = "a\"b\\c\nd} 1 caf\xc3\xa9", .version = 1, .stats = stats};
  struct buffer page = page_of(&model, 1);
  has(&page, "\nnv_inference_count{model=\"a\\\"b\\\\c\\nd} 1 caf\xc3\xa9\",version=\"1\"} 4\n");
  buffer_free(&page);
  model_stats_free(stats);
}

/* name, or name and {labels}; then a blank and the number; returns the length of the name. */
static size_t check_sample(const char *line, size_t size) {
  size_t name = strspn(line, "abcdefghijklmnopqrstuvwxyz_");
  assert_true(name > 0);
  const char *at = line + name;
  if (*at == '{') {
    bool quoted = false;
    for (at++; quoted || *at != '}'; at++) {
      assert_true(at < line + size);
      if (quoted && *at == '\\')
        at++;
      else if (*at == '"')
        quoted = !quoted;
    }
    at++;
  }
  assert_int_equal(*at, ' ');
  char *end;
  strtod(at + 1, &end);
  assert_ptr_equal(end, line + size);
  return name;
}

static double last_number(const char *line, size_t size) {
  while (line[size - 1] != ' ') size--;
  return strtod(line + size, NULL);
}

/* Each metric once: HELP, TYPE, then its samples and no others; buckets never fall. */
static void test_format(void **state) {
  struct model_stats *one = busy(), *other = busy();
  const struct exposition_model models[] = {{.name = "a", .version = 1, .stats = one},
                                            {.name = "a", .version = 2, .stats = other},
                                            {.name = "x\"\\\n", .version = 1, .stats = other}};
  struct buffer page = page_of(models, 3);
  char current[128] = "", type[32] = "";
  double bucket = 0;
  assert_int_equal(page.data[page.size - 1], '\n');
  for (const char *line = page.data; *line != '\0';) {
    size_t size = strcspn(line, "\n");
    if (strncmp(line, "# HELP ", 7) == 0) {
      snprintf(current, sizeof current, "%.*s", (int)strcspn(line + 7, " "), line + 7);
      char again[140];
      snprintf(again, sizeof again, "# HELP %s ", current);
      assert_null(strstr(line + 1, again));
    } else if (strncmp(line, "# TYPE ", 7) == 0) {
      char name[128];
      assert_int_equal(sscanf(line, "# TYPE %127s %31s", name, type), 2);
      assert_string_equal(name, current);
    } else {
      size_t name = check_sample(line, size);
      size_t base = strlen(current);
      assert_true(name >= base && memcmp(line, current, base) == 0);
      assert_true(name == base || strcmp(type, "histogram") == 0);
      double value = last_number(line, size);
      if (strncmp(line + base, "_bucket", 7) == 0) {
        assert_true(value >= bucket);
        bucket = value;
      } else {
        bucket = 0;
      }
    }
    line += size + 1;
  }
  buffer_free(&page);
  model_stats_free(one);
  model_stats_free(other);
}

static struct model_stats *summarized(void) {
  struct model_stats *stats = model_stats_create();
  assert_non_null(stats);
  assert_int_equal(model_stats_summarize(stats), MU_OK);
  const struct batch_times times = {10 * NS_PER_US, 2 * NS_PER_MS, 20 * NS_PER_US};
  model_stats_batch(stats, 4, 3, &times);
  model_stats_success(stats, 3, 150 * NS_PER_US, 3 * NS_PER_MS);
  model_stats_success(stats, 1, 150 * NS_PER_US, 700 * NS_PER_MS);
  return stats;
}

static struct buffer page_with(const struct metrics_config *config, const struct machine *machine,
                               const struct model_stats *stats) {
  const struct exposition_model model = {.name = "m", .version = 1, .stats = stats};
  const struct exposition_server with = {.config = config, .machine = machine, .now_ns = clock_now_ns()};
  struct buffer out;
  buffer_init(&out, 1 << 20);
  assert_int_equal(exposition_print(&out, &with, &model, 1), MU_OK);
  assert_non_null(buffer_text(&out));
  return out;
}

static double number_after(const struct buffer *page, const char *start) {
  const char *at = strstr(page->data, start);
  if (at == NULL) fail_msg("no '%s' in\n%s", start, page->data);
  return strtod(at + strlen(start), NULL);
}

/* Triton's summaries: quantiles of late, sum and count of all time. */
static void test_summaries(void **state) {
  struct model_stats *stats = summarized();
  struct metrics_config config;
  metrics_config_init(&config);
  config.summary_latencies = true;
  struct buffer page = page_with(&config, NULL, stats);
  has(&page, "# TYPE nv_inference_request_summary_us summary\n");
  has(&page,
      "\nnv_inference_request_summary_us_sum{model=\"m\",version=\"1\"} 703000\n"
      "nv_inference_request_summary_us_count{model=\"m\",version=\"1\"} 2\n");
  has(&page, "\nnv_inference_compute_infer_summary_us_count{model=\"m\",version=\"1\"} 3\n");
  static const struct {
    const char *series;
    double us;
  } quantiles[] = {
      {"request_summary_us{model=\"m\",version=\"1\",quantile=\"0.5\"} ", 3000},
      {"request_summary_us{model=\"m\",version=\"1\",quantile=\"0.999\"} ", 700000},
      {"queue_summary_us{model=\"m\",version=\"1\",quantile=\"0.9\"} ", 150},
      {"compute_input_summary_us{model=\"m\",version=\"1\",quantile=\"0.95\"} ", 10},
      {"compute_infer_summary_us{model=\"m\",version=\"1\",quantile=\"0.99\"} ", 2000},
      {"compute_output_summary_us{model=\"m\",version=\"1\",quantile=\"0.5\"} ", 20},
  };
  for (size_t i = 0; i < sizeof quantiles / sizeof *quantiles; i++) {
    double got = number_after(&page, quantiles[i].series), wanted = quantiles[i].us;
    if (got < wanted * 0.99 || got > wanted * 1.01) fail_msg("%s%f", quantiles[i].series, got);
  }
  buffer_free(&page);
  model_stats_free(stats);
}

static void test_empty_summary_is_nan(void **state) {
  struct model_stats *stats = model_stats_create();
  assert_non_null(stats);
  assert_int_equal(model_stats_summarize(stats), MU_OK);
  struct metrics_config config;
  metrics_config_init(&config);
  config.summary_latencies = true;
  struct buffer page = page_with(&config, NULL, stats);
  has(&page, "\nnv_inference_queue_summary_us{model=\"m\",version=\"1\",quantile=\"0.5\"} NaN\n");
  buffer_free(&page);
  model_stats_free(stats);
}

static void test_what_is_wanted(void **state) {
  struct model_stats *stats = summarized();
  struct metrics_config config;
  metrics_config_init(&config);
  struct buffer page = page_with(&config, NULL, stats);
  assert_null(strstr(page.data, "summary_us"));
  assert_null(strstr(page.data, "first_response"));
  assert_null(strstr(page.data, "nv_cpu"));
  assert_null(strstr(page.data, "nv_model_load_duration_secs{")); /* it was not loaded */
  buffer_free(&page);
  config.counter_latencies = false;
  config.histogram_latencies = true;
  stats->load_ns = UINT64_C(2500) * NS_PER_MS;
  const struct machine machine = {.read = true, .cpu_utilization = 0.25, .memory_total = 4096, .memory_used = 1024};
  page = page_with(&config, &machine, stats);
  assert_null(strstr(page.data, "_duration_us"));
  has(&page,
      "\nnv_inference_first_response_histogram_ms_bucket{model=\"m\",version=\"1\",le=\"100\"} 1\n"
      "nv_inference_first_response_histogram_ms_bucket{model=\"m\",version=\"1\",le=\"500\"} 1\n"
      "nv_inference_first_response_histogram_ms_bucket{model=\"m\",version=\"1\",le=\"2000\"} 2\n"
      "nv_inference_first_response_histogram_ms_bucket{model=\"m\",version=\"1\",le=\"5000\"} 2\n"
      "nv_inference_first_response_histogram_ms_bucket{model=\"m\",version=\"1\",le=\"+Inf\"} 2\n"
      "nv_inference_first_response_histogram_ms_sum{model=\"m\",version=\"1\"} 703\n"
      "nv_inference_first_response_histogram_ms_count{model=\"m\",version=\"1\"} 2\n");
  has(&page, "\nnv_model_load_duration_secs{model=\"m\",version=\"1\"} 2.5\n");
  has(&page, "\nnv_cpu_utilization 0.25\n");
  has(&page, "\nnv_cpu_memory_total_bytes 4096\n");
  has(&page, "\nnv_cpu_memory_used_bytes 1024\n");
  buffer_free(&page);
  const struct machine unread = {.read = false};
  page = page_with(&config, &unread, stats);
  assert_null(strstr(page.data, "nv_cpu"));
  buffer_free(&page);
  model_stats_free(stats);
}

static void test_no_models(void **state) {
  struct buffer page = page_of(NULL, 0);
  has(&page, "# TYPE muster_request_duration_seconds histogram\n# HELP");
  has(&page, "\nmuster_connections_total 5\n");
  buffer_free(&page);
}

static void test_no_room(void **state) {
  struct buffer small;
  buffer_init(&small, 200);
  assert_int_not_equal(exposition_print(&small, &server, NULL, 0), MU_OK);
  buffer_free(&small);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_values),
      cmocka_unit_test(test_pending_is_never_negative),
      cmocka_unit_test(test_labels_are_escaped),
      cmocka_unit_test(test_format),
      cmocka_unit_test(test_summaries),
      cmocka_unit_test(test_empty_summary_is_nan),
      cmocka_unit_test(test_what_is_wanted),
      cmocka_unit_test(test_no_models),
      cmocka_unit_test(test_no_room),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
