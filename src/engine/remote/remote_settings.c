#include "engine/remote/remote_settings.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

enum kind { TEXT, SECONDS, BYTES, PROTOCOL };

/* docs/engine-remote.md describes each. */
static const struct row {
  const char *key;
  enum kind kind;
  size_t offset;
  double fallback, min, max; /* of numbers: seconds, MiB */
} rows[] = {
    {"remote.backends", TEXT, offsetof(struct remote_settings, backends), 0, 0, 0},
    {"remote.model", TEXT, offsetof(struct remote_settings, model), 0, 0, 0},
    {"remote.version", TEXT, offsetof(struct remote_settings, version), 0, 0, 0},
    {"remote.protocol", PROTOCOL, offsetof(struct remote_settings, protocol), 0, 0, 0},
    {"remote.timeout", SECONDS, offsetof(struct remote_settings, timeout_ns), 30, 0.001, 86400},
    {"remote.wait", SECONDS, offsetof(struct remote_settings, wait_ns), 5, 0, 86400},
    {"remote.health_interval", SECONDS, offsetof(struct remote_settings, interval_ns), 1, 0.05, 3600},
    {"remote.max_reply_mib", BYTES, offsetof(struct remote_settings, max_reply), 256, 1, 1 << 14},
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

static const char *const protocols[] = {[REMOTE_HTTP] = "http", [REMOTE_GRPC] = "grpc"};

static void store(const struct row *row, double number, struct remote_settings *settings) {
  const double scale = row->kind == SECONDS ? (double)NS_PER_S : (double)(1 << 20);
  *(uint64_t *)(void *)((char *)settings + row->offset) = (uint64_t)(number * scale);
}

/* Seconds may say so, or be milliseconds: "2", "2s", "200ms". */
static mu_status read_number(const struct row *row, const char *text, struct remote_settings *settings, mu_error *err) {
  char *end;
  double number = strtod(text, &end);
  bool good = end != text;
  if (row->kind == SECONDS && strcmp(end, "ms") == 0)
    number /= 1000;
  else
    good = good && (*end == '\0' || (row->kind == SECONDS && strcmp(end, "s") == 0));
  if (!good || !isfinite(number) || number < row->min || number > row->max)
    return mu_fail(err, MU_INVALID, "parameter %s = \"%.64s\": must be a number from %g to %g%s", row->key, text,
                   row->min, row->max, row->kind == SECONDS ? " (seconds; \"200ms\" is one, too)" : "");
  store(row, number, settings);
  return MU_OK;
}

static mu_status read_protocol(const char *text, struct remote_settings *settings, mu_error *err) {
  for (size_t i = 0; i < sizeof protocols / sizeof *protocols; i++) {
    if (strcmp(text, protocols[i]) != 0) continue;
    settings->protocol = (enum remote_protocol)i;
    return MU_OK;
  }
  return mu_fail(err, MU_INVALID, "parameter remote.protocol = \"%.64s\": must be http or grpc", text);
}

static mu_status read_row(const struct row *row, const char *text, struct remote_settings *settings, mu_error *err) {
  if (row->kind == PROTOCOL) return read_protocol(text, settings, err);
  if (row->kind != TEXT) return read_number(row, text, settings, err);
  if (*text == '\0') return mu_fail(err, MU_INVALID, "parameter %s is empty", row->key);
  *(const char **)(void *)((char *)settings + row->offset) = text;
  return MU_OK;
}

mu_status remote_settings_read(const mu_parameter *parameters, size_t n, struct remote_settings *ret_settings,
                               mu_error *err) {
  struct remote_settings settings = {.protocol = REMOTE_HTTP};
  for (size_t i = 0; i < N_ROWS; i++)
    if (rows[i].kind == SECONDS || rows[i].kind == BYTES) store(&rows[i], rows[i].fallback, &settings);
  for (size_t i = 0; i < n; i++) {
    if (strncmp(parameters[i].key, "remote.", 7) != 0) continue;
    size_t row = 0;
    while (row < N_ROWS && strcmp(rows[row].key, parameters[i].key) != 0) row++;
    if (row == N_ROWS) return mu_fail(err, MU_INVALID, "the remote engine has no parameter %.128s", parameters[i].key);
    mu_status status = read_row(&rows[row], parameters[i].value, &settings, err);
    if (status != MU_OK) return status;
  }
  if (settings.backends == NULL)
    return mu_fail(err, MU_INVALID, "the remote engine needs the parameter remote.backends (\"host:8000,host:8001\")");
  *ret_settings = settings;
  return MU_OK;
}
