#include "cli/bench/report.h"

#include "proto/json/json_reader.h"

#include <inttypes.h>

/* Columns of the table, keys of the JSON: one list. Values in the unit of the title. */
static double per_second(const struct bench_level *level) {
  const struct load_result *result = &level->result;
  return result->seconds > 0 ? (double)result->answered / result->seconds : 0;
}
static double inferences(const struct bench_level *level) { return per_second(level) * (double)level->rows; }
static double percentile_us(const struct bench_level *level, double percent) {
  return (double)latencies_percentile(&level->result.latencies, percent) / 1e3;
}
static double p50(const struct bench_level *level) { return percentile_us(level, 50); }
static double p90(const struct bench_level *level) { return percentile_us(level, 90); }
static double p99(const struct bench_level *level) { return percentile_us(level, 99); }
static double p999(const struct bench_level *level) { return percentile_us(level, 99.9); }
static double mean_us(const struct bench_level *level) {
  const struct latencies *latencies = &level->result.latencies;
  return latencies->n > 0 ? (double)latencies->sum / (double)latencies->n / 1e3 : 0;
}
static double max_us(const struct bench_level *level) { return (double)level->result.latencies.max / 1e3; }
static double errors(const struct bench_level *level) { return (double)level->result.failed; }
static double mean_batch(const struct bench_level *level) {
  uint64_t rows = 0, batches = 0;
  for (uint32_t i = 1; i <= TARGET_BATCH_MAX; i++) {
    rows += i * level->batches[i];
    batches += level->batches[i];
  }
  return batches > 0 ? (double)rows / (double)batches : 0;
}

static const struct {
  const char *title, *key;
  double (*value)(const struct bench_level *);
  int decimals;
} columns[] = {
    {"requests/s", "requests_per_second", per_second, 1},
    {"inferences/s", "inferences_per_second", inferences, 1},
    {"mean us", "mean_us", mean_us, 1},
    {"p50 us", "p50_us", p50, 1},
    {"p90 us", "p90_us", p90, 1},
    {"p99 us", "p99_us", p99, 1},
    {"p99.9 us", "p99_9_us", p999, 1},
    {"max us", "max_us", max_us, 1},
    {"batch", "mean_batch", mean_batch, 2},
    {"errors", "errors", errors, 0},
};
enum { COLUMNS = sizeof columns / sizeof *columns, COLUMN_WIDTH = 12 };

mu_status report_print_head(struct buffer *out) {
  buffer_print(out, "%*s", COLUMN_WIDTH, "concurrency");
  for (size_t i = 0; i < COLUMNS; i++) buffer_print(out, " %*s", COLUMN_WIDTH, columns[i].title);
  return buffer_putc(out, '\n');
}

mu_status report_print_level(const struct bench_level *level, struct buffer *out) {
  buffer_print(out, "%*u", COLUMN_WIDTH, level->concurrency);
  for (size_t i = 0; i < COLUMNS; i++)
    buffer_print(out, " %*.*f", COLUMN_WIDTH, columns[i].decimals, columns[i].value(level));
  buffer_puts(out, "\n");
  for (uint32_t i = 0; i < level->result.n_errors; i++)
    buffer_print(out, "%*s %" PRIu64 " x %s\n", COLUMN_WIDTH, "", level->result.errors[i].count,
                 level->result.errors[i].what);
  return out->failed ? MU_NO_MEMORY : MU_OK;
}

static void print_level_json(const struct bench_level *level, struct buffer *out) {
  buffer_print(out, "{\"concurrency\":%u,\"rows\":%" PRId64 ",\"seconds\":%.6f,\"requests\":%" PRIu64,
               level->concurrency, level->rows, level->result.seconds, level->result.answered);
  for (size_t i = 0; i < COLUMNS; i++)
    buffer_print(out, ",\"%s\":%.*f", columns[i].key, columns[i].decimals, columns[i].value(level));
  buffer_puts(out, ",\"batches\":{");
  const char *separator = "";
  for (uint32_t i = 1; i <= TARGET_BATCH_MAX; i++) {
    if (level->batches[i] == 0) continue;
    buffer_print(out, "%s\"%u\":%" PRIu64, separator, i, level->batches[i]);
    separator = ",";
  }
  buffer_puts(out, "},\"error_kinds\":[");
  for (uint32_t i = 0; i < level->result.n_errors; i++) {
    buffer_puts(out, i == 0 ? "{\"what\":" : ",{\"what\":");
    json_write_string(out, level->result.errors[i].what, strlen(level->result.errors[i].what));
    buffer_print(out, ",\"count\":%" PRIu64 "}", level->result.errors[i].count);
  }
  buffer_puts(out, "]}");
}

mu_status report_print_json(const struct target *target, const struct bench_level *const *levels, size_t n,
                            struct buffer *out) {
  buffer_puts(out, "{\"model\":");
  json_write_string(out, target->model, strlen(target->model));
  buffer_print(out, ",\"server\":\"%s:%s\",\"levels\":[", target->host, target->port);
  for (size_t i = 0; i < n; i++) {
    if (i > 0) buffer_putc(out, ',');
    print_level_json(levels[i], out);
  }
  buffer_puts(out, "]}\n");
  return out->failed ? MU_NO_MEMORY : MU_OK;
}
