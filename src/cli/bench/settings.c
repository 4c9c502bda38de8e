#include "cli/bench/settings.h"

#include "config/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CONNECTIONS_MAX = 100000 };

/* ---- values ------------------------------------------------------------------------------------------------------ */

static bool read_number(const char *text, double least, double most, const char **ret_end, double *ret_value) {
  char *end;
  errno = 0;
  double value = strtod(text, &end);
  if (errno != 0 || end == text || !(value >= least && value <= most)) return false;
  *ret_end = end;
  *ret_value = value;
  return true;
}

/* "10", and as other tools write it "10s", "500ms", "2m", "1h". */
static bool read_seconds(const char *text, void *field) {
  static const struct {
    const char *unit;
    double seconds;
  } units[] = {{"", 1}, {"s", 1}, {"ms", 1e-3}, {"us", 1e-6}, {"m", 60}, {"h", 3600}};
  enum { DAY_S = 86400 };
  const char *unit;
  double value;
  if (!read_number(text, 0, 1e12, &unit, &value)) return false;
  for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
    if (strcmp(unit, units[i].unit) != 0) continue;
    *(double *)field = value * units[i].seconds;
    return value * units[i].seconds <= DAY_S;
  }
  return false;
}

static bool read_count(const char *text, void *field) {
  const char *end;
  double value;
  if (!read_number(text, 0, 1e15, &end, &value) || *end != '\0' || value != floor(value)) return false;
  *(int64_t *)field = (int64_t)value;
  return true;
}

static bool read_text(const char *text, void *field) {
  *(const char **)field = text;
  return text[0] != '\0';
}

static bool read_switch(const char *text, void *field) { return *(bool *)field = true; }

static bool append_number(struct number_list *list, double value) {
  if (list->n == SETTINGS_LIST_MAX) return false;
  list->items[list->n++] = value;
  return true;
}

/* "1,4,16" or perf_analyzer's "START:END[:STEP]" */
static bool read_numbers(const char *text, double least, double most, struct number_list *list) {
  double value[3] = {0, 0, 1};
  const char *end;
  list->n = 0;
  if (strchr(text, ':') != NULL) {
    for (int i = 0; i < 3; i++, text = end + 1) {
      if (!read_number(text, least, most, &end, &value[i])) return false;
      if (*end == '\0' && i > 0) break;
      if (*end != ':' || i == 2) return false;
    }
    if (value[1] < value[0]) return false;
    for (int i = 0; value[0] + i * value[2] <= value[1]; i++)
      if (!append_number(list, value[0] + i * value[2])) return false;
    return true;
  }
  for (;; text = end + 1) {
    if (!read_number(text, least, most, &end, &value[0]) || !append_number(list, value[0])) return false;
    if (*end == '\0') return true;
    if (*end != ',') return false;
  }
}

static bool read_concurrency(const char *text, void *field) {
  struct number_list *list = field;
  if (!read_numbers(text, 1, CONNECTIONS_MAX, list)) return false;
  for (size_t i = 0; i < list->n; i++)
    if (list->items[i] != floor(list->items[i])) return false;
  return true;
}

static bool read_rate(const char *text, void *field) { return read_numbers(text, 1e-3, 1e8, field); }

static bool read_connections(const char *text, void *field) {
  return read_count(text, field) && *(int64_t *)field >= 1 && *(int64_t *)field <= CONNECTIONS_MAX;
}

static bool read_fps(const char *text, void *field) {
  const char *end;
  return read_number(text, 0.01, 1e4, &end, field) && *end == '\0';
}

static bool read_rows(const char *text, void *field) { return read_count(text, field) && *(int64_t *)field >= 1; }

static bool read_rounds(const char *text, void *field) {
  return read_count(text, field) && *(int64_t *)field >= 1 && *(int64_t *)field <= SETTINGS_ROUNDS_MAX;
}

static bool read_arrivals(const char *text, void *field) {
  struct bench_settings *settings =
      (struct bench_settings *)((char *)field - offsetof(struct bench_settings, arrivals));
  settings->arrivals_said = true;
  settings->arrivals = strcmp(text, "constant") == 0 ? ARRIVALS_CONSTANT : ARRIVALS_POISSON;
  return strcmp(text, "constant") == 0 || strcmp(text, "poisson") == 0;
}

static bool append_text(struct text_list *list, const char *text) {
  if (list->n == SETTINGS_LIST_MAX) return false;
  list->items[list->n++] = text;
  return true;
}
static bool read_shape(const char *text, void *field) { return strchr(text, ':') != NULL && append_text(field, text); }
static bool read_file(const char *text, void *field) { return strchr(text, '=') != NULL && append_text(field, text); }
static bool read_header(const char *text, void *field) { return strchr(text, ':') != NULL && append_text(field, text); }

static bool read_pids(const char *text, void *field) {
  struct pid_list *list = field;
  for (;;) {
    char *end;
    errno = 0;
    long pid = strtol(text, &end, 10);
    if (errno != 0 || end == text || pid < 1 || pid > INT32_MAX || list->n == SETTINGS_LIST_MAX) return false;
    list->items[list->n++] = (int)pid;
    if (*end == '\0') return true;
    if (*end != ',') return false;
    text = end + 1;
  }
}

/* ---- flags: one table -------------------------------------------------------------------------------------------- */

/* Also as perf_analyzer, wrk, hey and vegeta call them. wants NULL: a switch without a value. */
#define AT(field) offsetof(struct bench_settings, field)
static const struct flag {
  const char *name;
  bool (*read)(const char *text, void *field);
  size_t field;
  const char *wants; /* for the message when the value is wrong */
} flags[] = {
    {"--url", read_text, AT(url), "a URL"},
    {"-u", read_text, AT(url), "a URL"},
    {"--compare", read_text, AT(compare), "a URL"},
    {"--rounds", read_rounds, AT(rounds), "a number from 1 to 1000"},
    {"--concurrency", read_concurrency, AT(concurrency), "up to 64 numbers like 1,4,16 or 1:64:8"},
    {"--concurrency-range", read_concurrency, AT(concurrency), "up to 64 numbers like 1,4,16 or 1:64:8"},
    {"-c", read_concurrency, AT(concurrency), "up to 64 numbers like 1,4,16 or 1:64:8"},
    {"--rate", read_rate, AT(rate), "up to 64 requests a second like 100,200 or 100:1000:100"},
    {"--request-rate", read_rate, AT(rate), "up to 64 requests a second like 100,200 or 100:1000:100"},
    {"--request-rate-range", read_rate, AT(rate), "up to 64 requests a second like 100,200 or 100:1000:100"},
    {"--arrivals", read_arrivals, AT(arrivals), "poisson or constant"},
    {"--request-distribution", read_arrivals, AT(arrivals), "poisson or constant"},
    {"--connections", read_connections, AT(connections), "a number from 1 to 100000"},
    {"--max-connections", read_connections, AT(connections), "a number from 1 to 100000"},
    {"--seconds", read_seconds, AT(duration_s), "a time like 5, 5s or 500ms"},
    {"--duration", read_seconds, AT(duration_s), "a time like 5, 5s or 500ms"},
    {"-d", read_seconds, AT(duration_s), "a time like 5, 5s or 500ms"},
    {"-z", read_seconds, AT(duration_s), "a time like 5, 5s or 500ms"},
    {"--warm-up", read_seconds, AT(warmup_s), "a time like 1, 1s or 500ms"},
    {"--warmup", read_seconds, AT(warmup_s), "a time like 1, 1s or 500ms"},
    {"--timeout", read_seconds, AT(timeout_s), "a time like 60, 60s or 500ms"},
    {"--requests", read_count, AT(requests), "a whole number"},
    {"--request-count", read_count, AT(requests), "a whole number"},
    {"-n", read_count, AT(requests), "a whole number"},
    {"--rows", read_rows, AT(rows), "a whole number from 1 on"},
    {"-b", read_rows, AT(rows), "a whole number from 1 on"},
    {"--seed", read_count, AT(seed), "a whole number"},
    {"--random-seed", read_count, AT(seed), "a whole number"},
    {"--shape", read_shape, AT(shapes), "NAME:2,3,4"},
    {"--input", read_file, AT(files), "NAME=FILE"},
    {"--body", read_text, AT(body), "a file"},
    {"--header", read_header, AT(headers), "'Name: value'"},
    {"--body-header", read_header, AT(headers), "'Name: value'"},
    {"-H", read_header, AT(headers), "'Name: value'"},
    {"--raw", read_text, AT(raw), "'METHOD /PATH'"},
    {"--bytes", read_count, AT(bytes), "a whole number"},
    {"--reply-bytes", read_count, AT(reply_bytes), "a whole number"},
    {"--check", read_switch, AT(check), NULL},
    {"--save-reply", read_text, AT(save_reply), "a file"},
    {"--histogram", read_text, AT(histogram), "a file"},
    {"--server-pid", read_pids, AT(pids), "process numbers like 12,34"},
    {"--compare-pid", read_pids, AT(compare_pids), "process numbers like 12,34"},
    {"--control-socket", read_text, AT(control_socket), "a path"},
    {"--compare-control-socket", read_text, AT(compare_socket), "a path"},
    {"--json", read_switch, AT(json), NULL},
    {"--streams", read_connections, AT(streams), "a number from 1 to 100000"},
    {"--fps", read_fps, AT(fps), "frames a second, 0.01 to 10000"},
    {"--deadline", read_seconds, AT(deadline_s), "a time like 100ms"},
    {"--echo", read_text, AT(echo), "[HOST:]PORT"},
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
      const char **place = settings->what == NULL ? &settings->what : &settings->compare;
      if (*place != NULL) return mu_fail(err, MU_INVALID, "one model or URL, or two to compare: '%s'?", argv[i]);
      *place = argv[i];
      continue;
    }
    size_t length = strcspn(argv[i], "=");
    const struct flag *flag = find_flag(argv[i], length);
    if (flag == NULL) return unknown_flag(argv[i], err);
    bool joined = argv[i][length] == '=';
    if (flag->wants == NULL && joined) return mu_fail(err, MU_INVALID, "%s takes no value", flag->name);
    const char *value = joined ? argv[i] + length + 1 : flag->wants == NULL ? "" : i + 1 < argc ? argv[++i] : "";
    if (!flag->read(value, (char *)settings + flag->field))
      return mu_fail(err, MU_INVALID, "%s wants %s, not '%s'", flag->name, flag->wants, value);
  }
  return MU_OK;
}

/* ---- what does not go together ----------------------------------------------------------------------------------- */

static mu_status check(const struct bench_settings *settings, bool connections_said, mu_error *err) {
  const struct {
    bool wrong;
    const char *why;
  } rules[] = {
      {settings->what == NULL, "which model? muster bench MODEL, or a URL"},
      {settings->rate.n > 0 && settings->concurrency.n > 0,
       "--rate is an open loop and --concurrency a closed one: choose one (--connections bounds an open loop)"},
      {settings->rate.n == 0 && settings->arrivals_said, "--arrivals belongs to an open loop: say its --rate"},
      {settings->rate.n == 0 && connections_said,
       "--connections belongs to an open loop (--rate); a closed one has as many as its --concurrency"},
      {settings->requests == 0 && settings->duration_s <= 0, "--seconds 0 measures nothing"},
      {settings->timeout_s <= 0, "--timeout 0 lets no request be answered"},
      {settings->compare == NULL && (settings->compare_pids.n > 0 || settings->compare_socket != NULL),
       "--compare-pid and --compare-control-socket belong to --compare"},
      {settings->compare == NULL && settings->rounds > 0, "--rounds belongs to --compare"},
      {settings->streams == 0 && (settings->fps > 0 || settings->deadline_s > 0),
       "--fps and --deadline belong to --streams"},
      {settings->streams > 0 && (settings->compare != NULL || settings->raw != NULL || settings->body != NULL ||
                                 settings->bytes > 0 || settings->rate.n > 0 || settings->concurrency.n > 0),
       "--streams sends frames of one model at --fps: no --compare, --raw, --body, --bytes, --rate or --concurrency"},
      {settings->streams > 0 && settings->deadline_s > 0 && settings->deadline_s < 1e-3,
       "--deadline is a millisecond or more"},
      {settings->body != NULL && settings->files.n > 0, "--body is the whole request: --input has no place in it"},
      {settings->body != NULL && settings->bytes > 0, "--body or --bytes, not both"},
      {settings->files.n > 0 && settings->raw != NULL, "--input belongs to a model, --raw has none: use --body"},
      {settings->compare != NULL && strstr(settings->compare, "://") == NULL, "--compare wants a URL"},
  };
  for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
    if (rules[i].wrong) return mu_fail(err, MU_INVALID, "%s", rules[i].why);
  return MU_OK;
}

mu_status settings_read(int argc, char **argv, struct bench_settings *ret_settings, mu_error *err) {
  enum { CONNECTIONS = 256, COMPARE_ROUNDS = 6, FPS = 25, DEADLINE_MS = 200 };
  struct bench_settings settings = {
      .url = "http://127.0.0.1:8000", .duration_s = 5, .warmup_s = 1, .timeout_s = 60, .rows = 1, .seed = 1};
  mu_status status = read_arguments(argc, argv, &settings, err);
  if (status == MU_OK && settings.echo == NULL) status = check(&settings, settings.connections > 0, err);
  if (status != MU_OK) return status;
  if (settings.fps == 0) settings.fps = FPS;
  if (settings.deadline_s == 0) settings.deadline_s = DEADLINE_MS / 1e3;
  if (settings.connections == 0) settings.connections = CONNECTIONS;
  if (settings.rounds == 0) settings.rounds = settings.compare != NULL ? COMPARE_ROUNDS : 1;
  bool levels_said = settings.rate.n > 0 || settings.concurrency.n > 0;
  for (double level = 1; !levels_said && level <= 64; level *= 2) append_number(&settings.concurrency, level);
  *ret_settings = settings;
  return MU_OK;
}
