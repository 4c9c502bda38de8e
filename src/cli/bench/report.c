#include "cli/bench/report.h"

#include "proto/json/json_reader.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

enum { COLUMN_WIDTH = 12 };

/* ---- columns of the table, keys of the JSON: one list. NAN: not known -------------------------------------------- */

static double per_second(const struct bench_row *row, const struct bench_side *side) {
  return load_result_per_second(&side->result);
}
static double inferences(const struct bench_row *row, const struct bench_side *side) {
  return side->target->model[0] != '\0' ? per_second(row, side) * (double)row->inferences : NAN;
}
static double percentile_us(const struct bench_side *side, double percent) {
  return (double)histogram_percentile(&side->result.latencies, percent) / 1e3;
}
static double mean_us(const struct bench_row *row, const struct bench_side *side) {
  return histogram_mean(&side->result.latencies) / 1e3;
}
static double p50(const struct bench_row *row, const struct bench_side *side) { return percentile_us(side, 50); }
static double p90(const struct bench_row *row, const struct bench_side *side) { return percentile_us(side, 90); }
static double p95(const struct bench_row *row, const struct bench_side *side) { return percentile_us(side, 95); }
static double p99(const struct bench_row *row, const struct bench_side *side) { return percentile_us(side, 99); }
static double p999(const struct bench_row *row, const struct bench_side *side) { return percentile_us(side, 99.9); }
static double max_us(const struct bench_row *row, const struct bench_side *side) {
  return (double)side->result.latencies.max / 1e3;
}
static double errors(const struct bench_row *row, const struct bench_side *side) { return (double)side->result.failed; }
static double not_sent(const struct bench_row *row, const struct bench_side *side) {
  return row->open ? (double)side->result.not_sent : NAN;
}
static double delay_p99(const struct bench_row *row, const struct bench_side *side) {
  return row->open ? (double)histogram_percentile(&side->result.delays, 99) / 1e3 : NAN;
}
static double offered(const struct bench_row *row, const struct bench_side *side) {
  return side->result.seconds > 0 ? (double)side->result.offered / side->result.seconds : 0;
}
static double mean_batch(const struct bench_row *row, const struct bench_side *side) {
  uint64_t rows = 0, batches = 0;
  for (uint32_t i = 1; i <= TARGET_BATCH_MAX; i++) {
    rows += i * side->batches[i];
    batches += side->batches[i];
  }
  return batches > 0 ? (double)rows / (double)batches : NAN;
}
static double cpu_us(const struct bench_side *side, uint64_t ns) {
  return side->result.finished > 0 ? (double)ns / 1e3 / (double)side->result.finished : 0;
}

static const struct {
  const char *title, *key; /* title NULL: in the JSON alone */
  double (*value)(const struct bench_row *, const struct bench_side *);
  int decimals;
  bool open; /* for the open loop alone */
} columns[] = {
    {"offered/s", "offered_per_second", offered, 1, true},
    {"requests/s", "requests_per_second", per_second, 1, false},
    {"inferences/s", "inferences_per_second", inferences, 1, false},
    {"mean us", "mean_us", mean_us, 1, false},
    {"p50 us", "p50_us", p50, 1, false},
    {"p90 us", "p90_us", p90, 1, false},
    {"p95 us", "p95_us", p95, 1, false},
    {"p99 us", "p99_us", p99, 1, false},
    {"p99.9 us", "p99_9_us", p999, 1, false},
    {"max us", "max_us", max_us, 1, false},
    {"batch", "mean_batch", mean_batch, 2, false},
    {"errors", "errors", errors, 0, false},
    {"not sent", "not_sent", not_sent, 0, true},
    {NULL, "send_delay_p99_us", delay_p99, 1, true},
};
enum { COLUMNS = sizeof columns / sizeof *columns };

/* ---- text -------------------------------------------------------------------------------------------------------- */

mu_status report_print_head(const struct bench_row *row, struct buffer *out) {
  for (size_t k = 0; row->n_sides > 1 && k < row->n_sides; k++)
    buffer_print(out, "%c = %s://%s:%s%s\n", "AB"[k], row -> sides[k] -> target -> tcp ? "tcp" : "http",
                 row->sides[k]->target->host, row->sides[k]->target->port,
                 row->sides[k]->target->tcp ? "" : row->sides[k]->target->path);
  buffer_print(out, "%*s", COLUMN_WIDTH, row->open ? "rate" : "concurrency");
  for (size_t i = 0; i < COLUMNS; i++)
    if (columns[i].title != NULL && (row->open || !columns[i].open))
      buffer_print(out, " %*s", COLUMN_WIDTH, columns[i].title);
  return buffer_putc(out, '\n');
}

static void print_side(const struct bench_row *row, const struct bench_side *side, const char *name,
                       struct buffer *out) {
  char level[32];
  snprintf(level, sizeof level, "%s%g", name, row->level);
  buffer_print(out, "%*s", COLUMN_WIDTH, level);
  for (size_t i = 0; i < COLUMNS; i++) {
    if (columns[i].title == NULL || (!row->open && columns[i].open)) continue;
    double value = columns[i].value(row, side);
    if (isnan(value))
      buffer_print(out, " %*s", COLUMN_WIDTH, "-");
    else
      buffer_print(out, " %*.*f", COLUMN_WIDTH, columns[i].decimals, value);
  }
  buffer_puts(out, "\n");
  for (size_t i = 0; i < side->watch.n; i++) {
    const struct cpu_process *process = &side->watch.processes[i];
    uint64_t user_ns = cpu_process_user_ns(process);
    buffer_print(out, "%*s%s", i == 0 ? COLUMN_WIDTH : 0, "", i == 0 ? " CPU us/request: " : ", ");
    buffer_print(out, "%s %.2f (user %.2f, kernel %.2f)%s", process->label, cpu_us(side, process->used_ns),
                 cpu_us(side, user_ns), cpu_us(side, process->used_ns - user_ns),
                 process->gone ? " until it ended" : "");
  }
  if (side->watch.n > 0) buffer_puts(out, "\n");
  for (uint32_t i = 0; i < side->result.failures.n; i++) {
    const struct failure *failure = &side->result.failures.rows[i];
    buffer_print(out, "%*s %" PRIu64 " x %s", COLUMN_WIDTH, "", failure->count, failure_kind_name(failure->kind));
    if (failure->http_status != 0) buffer_print(out, " %d", failure->http_status);
    buffer_print(out, ", first: %s\n", failure->what);
  }
  if (side->result.unfinished > 0)
    buffer_print(out, "%*s interrupted: %" PRIu64 " requests without a reply yet\n", COLUMN_WIDTH, "",
                 side->result.unfinished);
}

static void print_spread(const char *name, const struct spread *spread, int decimals, struct buffer *out) {
  buffer_print(out, "  %s %.*f (%.*f … %.*f)", name, decimals, spread->median, decimals, spread->least, decimals,
               spread->most);
}

mu_status report_print_row(const struct bench_row *row, struct buffer *out) {
  for (size_t k = 0; k < row->n_sides; k++)
    print_side(row, row->sides[k], row->n_sides == 1 ? "" : k == 0 ? "A " : "B ", out);
  if (row->n_sides > 1 && row->sides[1]->n_rounds > 0) {
    struct comparison comparison = bench_row_compare(row);
    buffer_print(out, "%*s", COLUMN_WIDTH, "A/B");
    buffer_print(out, " median (least … most) of %zu rounds:", row->sides[1]->n_rounds);
    print_spread("requests/s", &comparison.per_second, 3, out);
    print_spread("p50", &comparison.p50, 3, out);
    print_spread("p99", &comparison.p99, 3, out);
    print_spread("p50 us A-B", &comparison.p50_more_us, 1, out);
    buffer_puts(out, "\n");
  }
  return out->failed ? MU_NO_MEMORY : MU_OK;
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static void print_text(const char *key, const char *text, struct buffer *out) {
  buffer_print(out, "\"%s\":", key);
  json_write_string(out, text, strlen(text));
}

static void print_counts(const struct bench_side *side, struct buffer *out) {
  const char *separator = "";
  buffer_puts(out, ",\"batches\":{");
  for (uint32_t i = 1; i <= TARGET_BATCH_MAX; i++) {
    if (side->batches[i] == 0) continue;
    buffer_print(out, "%s\"%u\":%" PRIu64, separator, i, side->batches[i]);
    separator = ",";
  }
  buffer_puts(out, "},\"cpu_us_per_request\":{");
  for (size_t i = 0; i < side->watch.n; i++) {
    const struct cpu_process *process = &side->watch.processes[i];
    double used = cpu_us(side, process->used_ns), user = cpu_us(side, cpu_process_user_ns(process));
    if (i > 0) buffer_putc(out, ',');
    json_write_string(out, process->label, strlen(process->label));
    buffer_print(out, ":{\"total\":%.3f,\"user\":%.3f,\"kernel\":%.3f,\"pid\":%d,\"gone\":%s}", used, user, used - user,
                 process->pid, process->gone ? "true" : "false");
  }
  buffer_puts(out, "},\"error_kinds\":[");
  for (uint32_t i = 0; i < side->result.failures.n; i++) {
    const struct failure *failure = &side->result.failures.rows[i];
    buffer_print(out, "%s{\"kind\":\"%s\",\"http_status\":%d,\"count\":%" PRIu64 ",", i == 0 ? "" : ",",
                 failure_kind_name(failure->kind), failure->http_status, failure->count);
    print_text("what", failure->what, out);
    buffer_putc(out, '}');
  }
  buffer_putc(out, ']');
}

static void print_side_json(const struct bench_row *row, const struct bench_side *side, struct buffer *out) {
  const struct load_result *result = &side->result;
  buffer_print(out,
               "\"%s\":%g,\"rows\":%" PRId64 ",\"seconds\":%.6f,\"requests\":%" PRIu64 ",\"offered\":%" PRIu64
               ",\"sent\":%" PRIu64 ",\"answered\":%" PRIu64 ",\"failed\":%" PRIu64 ",\"unfinished\":%" PRIu64,
               row->open ? "rate" : "concurrency", row->level, row->inferences, result->seconds, result->answered,
               result->offered, result->sent, result->answered, result->failed, result->unfinished);
  for (size_t i = 0; i < COLUMNS; i++) {
    double value = columns[i].value(row, side);
    if (isnan(value))
      buffer_print(out, ",\"%s\":null", columns[i].key);
    else
      buffer_print(out, ",\"%s\":%.*f", columns[i].key, columns[i].decimals, value);
  }
  print_counts(side, out);
}

static void print_spread_json(const char *key, const struct spread *spread, struct buffer *out) {
  buffer_print(out, "\"%s\":{\"median\":%.4f,\"min\":%.4f,\"max\":%.4f}", key, spread->median, spread->least,
               spread->most);
}

static void print_row_json(const struct bench_row *row, struct buffer *out) {
  buffer_putc(out, '{');
  print_side_json(row, row->sides[0], out);
  if (row->n_sides > 1) {
    struct comparison comparison = bench_row_compare(row);
    buffer_puts(out, ",\"compare\":{");
    print_side_json(row, row->sides[1], out);
    buffer_print(out, "},\"ratio\":{\"rounds\":%zu,", row->sides[1]->n_rounds);
    print_spread_json("requests_per_second", &comparison.per_second, out);
    buffer_putc(out, ',');
    print_spread_json("p50", &comparison.p50, out);
    buffer_putc(out, ',');
    print_spread_json("p99", &comparison.p99, out);
    buffer_putc(out, ',');
    print_spread_json("p50_more_us", &comparison.p50_more_us, out);
    buffer_putc(out, '}');
  }
  buffer_putc(out, '}');
}

static void print_target(const char *key, const struct target *target, struct buffer *out) {
  char address[300];
  snprintf(address, sizeof address, "%s:%s", target->host, target->port);
  print_text(key, address, out);
}

mu_status report_print_json(const struct bench_row *const *rows, size_t n, struct buffer *out) {
  buffer_putc(out, '{');
  if (n > 0) {
    print_text("model", rows[0]->sides[0]->target->model, out);
    buffer_putc(out, ',');
    print_target("server", rows[0]->sides[0]->target, out);
    if (rows[0]->n_sides > 1) {
      buffer_putc(out, ',');
      print_target("compare", rows[0]->sides[1]->target, out);
    }
    buffer_putc(out, ',');
  }
  buffer_puts(out, "\"levels\":[");
  for (size_t i = 0; i < n; i++) {
    if (i > 0) buffer_putc(out, ',');
    print_row_json(rows[i], out);
  }
  buffer_puts(out, "]}\n");
  return out->failed ? MU_NO_MEMORY : MU_OK;
}
