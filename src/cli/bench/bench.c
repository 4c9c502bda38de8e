/* muster bench: what a server does under load. */
#include "base/clock.h"
#include "cli/bench/load.h"
#include "cli/bench/payload.h"
#include "cli/bench/report.h"
#include "cli/command.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LEVELS_MAX = 64, LIST_MAX = 64, CONCURRENCY_MAX = 100000 };

struct bench_settings {
  const char *what; /* model or URL */
  const char *url;
  uint32_t levels[LEVELS_MAX];
  size_t n_levels;
  double duration_s, warmup_s, timeout_s;
  int64_t requests, rows, seed;
  const char *shapes[LIST_MAX], *files[LIST_MAX];
  size_t n_shapes, n_files;
};

/* ---- flags: one table -------------------------------------------------------------------------------------------- */

static bool read_number(const char *text, double least, double most, double *ret_value) {
  char *end;
  errno = 0;
  double value = strtod(text, &end);
  if (errno != 0 || end == text || *end != '\0' || !(value >= least && value <= most)) return false;
  *ret_value = value;
  return true;
}

static bool read_seconds(const char *text, void *field) { return read_number(text, 0, 86400, field); }

static bool read_count(const char *text, void *field) {
  double value;
  if (!read_number(text, 0, 1e15, &value) || value != (double)(int64_t)value) return false;
  *(int64_t *)field = (int64_t)value;
  return true;
}

static bool read_text(const char *text, void *field) {
  *(const char **)field = text;
  return text[0] != '\0';
}

/* "1,4,16" or perf_analyzer's "START:END:STEP" */
static bool read_levels(const char *text, void *field) {
  struct bench_settings *settings = (struct bench_settings *)((char *)field - offsetof(struct bench_settings, levels));
  unsigned start, last, step = 1;
  int used = 0;
  settings->n_levels = 0;
  int n = sscanf(text, "%u:%u:%u%n", &start, &last, &step, &used);
  if (n == 2) sscanf(text, "%u:%u%n", &start, &last, &used);
  if (n >= 2) {
    if ((size_t)used != strlen(text) || start == 0 || step == 0 || last < start || last > CONCURRENCY_MAX) return false;
    for (unsigned level = start; level <= last && settings->n_levels < LEVELS_MAX; level += step)
      settings->levels[settings->n_levels++] = level;
    return true;
  }
  for (const char *at = text;;) {
    char *end;
    unsigned long level = strtoul(at, &end, 10);
    if (end == at || level == 0 || level > CONCURRENCY_MAX || settings->n_levels == LEVELS_MAX) return false;
    settings->levels[settings->n_levels++] = (uint32_t)level;
    if (*end == '\0') return true;
    if (*end != ',') return false;
    at = end + 1;
  }
}

static bool read_shape(const char *text, void *field) {
  struct bench_settings *settings = (struct bench_settings *)((char *)field - offsetof(struct bench_settings, shapes));
  if (settings->n_shapes == LIST_MAX || strchr(text, ':') == NULL) return false;
  settings->shapes[settings->n_shapes++] = text;
  return true;
}

static bool read_file(const char *text, void *field) {
  struct bench_settings *settings = (struct bench_settings *)((char *)field - offsetof(struct bench_settings, files));
  if (settings->n_files == LIST_MAX || strchr(text, '=') == NULL) return false;
  settings->files[settings->n_files++] = text;
  return true;
}

static const struct flag {
  const char *name;
  bool (*read)(const char *text, void *field);
  size_t field;
  const char *wants; /* for the message when the value is wrong */
} flags[] = {
    {"--url", read_text, offsetof(struct bench_settings, url), "a URL"},
    {"--concurrency", read_levels, offsetof(struct bench_settings, levels), "numbers like 1,4,16 or 1:64:8"},
    {"--concurrency-range", read_levels, offsetof(struct bench_settings, levels), "numbers like 1,4,16 or 1:64:8"},
    {"--duration", read_seconds, offsetof(struct bench_settings, duration_s), "seconds"},
    {"--warmup", read_seconds, offsetof(struct bench_settings, warmup_s), "seconds"},
    {"--timeout", read_seconds, offsetof(struct bench_settings, timeout_s), "seconds"},
    {"--requests", read_count, offsetof(struct bench_settings, requests), "a whole number"},
    {"--rows", read_count, offsetof(struct bench_settings, rows), "a whole number"},
    {"-b", read_count, offsetof(struct bench_settings, rows), "a whole number"},
    {"--seed", read_count, offsetof(struct bench_settings, seed), "a whole number"},
    {"--shape", read_shape, offsetof(struct bench_settings, shapes), "NAME:2,3,4"},
    {"--input", read_file, offsetof(struct bench_settings, files), "NAME=FILE"},
};
enum { FLAGS = sizeof flags / sizeof *flags };

static const struct flag *find_flag(const char *name, size_t length) {
  for (size_t i = 0; i < FLAGS; i++)
    if (strlen(flags[i].name) == length && strncmp(flags[i].name, name, length) == 0) return &flags[i];
  return NULL;
}

static mu_status unknown_flag(const char *name, mu_error *err) {
  const char *names[FLAGS];
  for (size_t i = 0; i < FLAGS; i++) names[i] = flags[i].name;
  const char *near = nearest_word(name, names, FLAGS);
  return near != NULL ? mu_fail(err, MU_INVALID, "unknown flag '%s': did you mean '%s'?", name, near)
                      : mu_fail(err, MU_INVALID, "unknown flag '%s': see muster bench --help", name);
}

static mu_status read_arguments(int argc, char **argv, struct bench_settings *settings, mu_error *err) {
  for (int i = 0; i < argc; i++) {
    if (argv[i][0] != '-') {
      if (settings->what != NULL) return mu_fail(err, MU_INVALID, "one model or URL at a time: '%s'?", argv[i]);
      settings->what = argv[i];
      continue;
    }
    size_t length = strcspn(argv[i], "=");
    const struct flag *flag = find_flag(argv[i], length);
    if (flag == NULL) return unknown_flag(argv[i], err);
    const char *value = argv[i][length] == '=' ? argv[i] + length + 1 : i + 1 < argc ? argv[++i] : "";
    if (!flag->read(value, (char *)settings + flag->field))
      return mu_fail(err, MU_INVALID, "%s wants %s, not '%s'", flag->name, flag->wants, value);
  }
  if (settings->what == NULL) return mu_fail(err, MU_INVALID, "which model? muster bench MODEL, or a URL");
  return MU_OK;
}

/* ---- the sweep --------------------------------------------------------------------------------------------------- */

static void show_progress(void *context, double seconds, double rate) {
  const struct bench_level *level = context;
  fprintf(stderr, "\r\033[Kconcurrency %u: %.0f s, %.0f requests/s", level->concurrency, seconds, rate);
}

static mu_status run_level(const struct target *target, const struct buffer *request,
                           const struct bench_settings *settings, struct bench_level *level, mu_error *err) {
  uint64_t *before = calloc(TARGET_BATCH_MAX + 1, sizeof *before);
  if (before == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  struct load_options options = {.concurrency = level->concurrency,
                                 .warmup_ns = (uint64_t)(settings->warmup_s * 1e9),
                                 .duration_ns = (uint64_t)(settings->duration_s * 1e9),
                                 .requests = (uint64_t)settings->requests,
                                 .timeout_ns = (uint64_t)(settings->timeout_s * 1e9),
                                 .progress = isatty(STDERR_FILENO) ? show_progress : NULL,
                                 .context = level};
  mu_status status = target_batches(target, before, err);
  if (status == MU_OK) status = load_run(target, request, &options, &level->result, err);
  if (options.progress != NULL) fputs("\r\033[K", stderr);
  if (status == MU_OK) status = target_batches(target, level->batches, err);
  for (uint32_t i = 0; status == MU_OK && i <= TARGET_BATCH_MAX; i++) level->batches[i] -= before[i];
  free(before);
  return status;
}

static void flush(struct buffer *out) {
  fwrite(out->data, 1, out->size, stdout);
  fflush(stdout);
  buffer_clear(out);
}

static mu_status sweep(const struct target *target, const struct buffer *request, const struct bench_settings *settings,
                       bool json, struct buffer *out, uint64_t *ret_answered, mu_error *err) {
  struct bench_level *levels[LEVELS_MAX] = {0};
  size_t n = 0;
  mu_status status = MU_OK;
  if (!json) report_print_head(out);
  for (bool interrupted = false; status == MU_OK && n < settings->n_levels && !interrupted; n++) {
    levels[n] = calloc(1, sizeof **levels);
    if (levels[n] == NULL) {
      status = mu_fail(err, MU_NO_MEMORY, "no memory");
      break;
    }
    levels[n]->concurrency = settings->levels[n];
    levels[n]->rows = settings->rows;
    status = run_level(target, request, settings, levels[n], err);
    if (status != MU_OK) break;
    interrupted = levels[n]->result.interrupted;
    *ret_answered += levels[n]->result.answered;
    if (json) continue;
    report_print_level(levels[n], out);
    flush(out); /* each line as soon as it is known */
  }
  if (status == MU_OK && json) status = report_print_json(target, (const struct bench_level *const *)levels, n, out);
  for (size_t i = 0; i < LEVELS_MAX; i++) free(levels[i]);
  return status;
}

static int run(int argc, char **argv) {
  static const uint32_t default_levels[] = {1, 2, 4, 8, 16, 32, 64};
  struct bench_settings settings = {.url = "http://127.0.0.1:8000",
                                    .duration_s = 5,
                                    .warmup_s = 1,
                                    .timeout_s = 60,
                                    .rows = 1,
                                    .seed = 1,
                                    .n_levels = sizeof default_levels / sizeof *default_levels};
  memcpy(settings.levels, default_levels, sizeof default_levels);
  bool json = command_take_flag(&argc, argv, "--json");
  mu_error err;
  mu_status status = read_arguments(argc, argv, &settings, &err);
  if (status != MU_OK) return command_fail(&command_bench, COMMAND_USAGE, err.message);

  struct target target;
  struct buffer request, out;
  buffer_init(&request, SIZE_MAX / 2);
  buffer_init(&out, SIZE_MAX / 2);
  signal(SIGPIPE, SIG_IGN);
  status = target_find(settings.what, settings.url, &target, &err);
  struct payload_options payload = {.rows = settings.rows,
                                    .shapes = settings.shapes,
                                    .n_shapes = settings.n_shapes,
                                    .files = settings.files,
                                    .n_files = settings.n_files,
                                    .seed = (uint64_t)settings.seed};
  uint64_t answered = 0;
  if (status == MU_OK) status = payload_build(&target, &payload, &request, &err);
  if (status == MU_OK) status = sweep(&target, &request, &settings, json, &out, &answered, &err);
  buffer_free(&request);
  if (status != MU_OK) {
    buffer_free(&out);
    return command_fail(&command_bench, COMMAND_FAILED, err.message);
  }
  int exit_status = command_output(&command_bench, &out);
  return answered > 0 ? exit_status : COMMAND_FAILED; /* a server that answers nothing right has failed the test */
}

const struct command command_bench = {
    .name = "bench",
    .usage = "muster bench [flags] MODEL|URL",
    .summary = "Load a served model: throughput, percentiles, batch sizes, errors",
    .details =
        "A closed loop on kept-alive connections, for each concurrency in turn. MODEL is a name on --url; a URL is\n"
        "http://HOST:PORT[/v2/models/NAME[/versions/V]]. Inputs are random, by the model's metadata, or read from "
        "files.\n"
        "\n"
        "  --concurrency LIST   1,4,16 or START:END:STEP (default 1,2,4,8,16,32,64)\n"
        "  --duration SECONDS   measured time of each level (default 5)\n"
        "  --warmup SECONDS     before it, not measured (default 1)\n"
        "  --requests N         end a level after N answers instead of a time\n"
        "  --timeout SECONDS    of one request (default 60)\n"
        "  -b, --rows N         rows of one request, for a model that batches (default 1)\n"
        "  --shape NAME:2,3     varying dims of an input, behind the batch dimension; may repeat\n"
        "  --input NAME=FILE    raw bytes of an input instead of random ones; may repeat\n"
        "  --seed N             of the random inputs (default 1)\n"
        "  --url URL            the server (default http://127.0.0.1:8000)\n"
        "  --json               the whole result as JSON\n",
    .run = run,
};
