#include "engine/sim/sim_settings.h"

#include <math.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { HOUR_MS = 3600 * 1000 };

/* docs/engine-sim.md describes each. max 0: a text. */
static const struct {
  const char *key;
  size_t offset;
  double fallback, max;
} rows[] = {
    {"sim.load_ms", offsetof(struct sim_settings, load_ms), 0, HOUR_MS},
    {"sim.base_ms", offsetof(struct sim_settings, base_ms), 0, HOUR_MS},
    {"sim.per_item_ms", offsetof(struct sim_settings, per_item_ms), 0, HOUR_MS},
    {"sim.jitter_ms", offsetof(struct sim_settings, jitter_ms), 0, HOUR_MS},
    {"sim.seed", offsetof(struct sim_settings, seed), 1, 1e15},
    {"sim.fail_rate", offsetof(struct sim_settings, fail_rate), 0, 1},
    {"sim.crash_rate", offsetof(struct sim_settings, crash_rate), 0, 1},
    {"sim.output_size", offsetof(struct sim_settings, output_size), 1, 1 << 30},
    {"sim.load_fail", offsetof(struct sim_settings, load_fail), 0, 1},
    {"sim.load_crash", offsetof(struct sim_settings, load_crash), 0, 1},
    {"sim.fail_on", offsetof(struct sim_settings, fail_on), 0, 0},
    {"sim.crash_on", offsetof(struct sim_settings, crash_on), 0, 0},
    {"sim.hang_on", offsetof(struct sim_settings, hang_on), 0, 0},
    {"sim.crash_by", offsetof(struct sim_settings, crash_by), 0, 0},
    {"sim.memory_on", offsetof(struct sim_settings, memory_on), 0, 0},
    {"sim.memory_mib", offsetof(struct sim_settings, memory_mib), 0, 1 << 20},
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

static const struct {
  const char *name;
  int signal;
} crashes[] = {
    {"abort", SIGABRT}, {"segv", SIGSEGV}, {"bus", SIGBUS}, {"ill", SIGILL}, {"fpe", SIGFPE}, {"exit", 0},
};

static mu_status find_crash(const char *name, int *ret_signal, mu_error *err) {
  for (size_t i = 0; i < sizeof crashes / sizeof crashes[0]; i++) {
    if (name != NULL && strcmp(crashes[i].name, name) != 0) continue;
    *ret_signal = crashes[i].signal;
    return MU_OK;
  }
  return mu_fail(err, MU_INVALID, "parameter sim.crash_by = \"%s\": must be abort, segv, bus, ill, fpe or exit", name);
}

static mu_status read_row(size_t row, const mu_parameter *parameter, struct sim_settings *settings, mu_error *err) {
  void *field = (char *)settings + rows[row].offset;
  if (rows[row].max == 0) {
    *(const char **)field = parameter->value;
    return MU_OK;
  }
  char *end;
  double value = strtod(parameter->value, &end);
  if (end == parameter->value || *end != '\0' || !isfinite(value) || value < 0 || value > rows[row].max) {
    return mu_fail(err, MU_INVALID, "parameter %s = \"%s\": must be a number from 0 to %.0f", parameter->key,
                   parameter->value, rows[row].max);
  }
  *(double *)field = value;
  return MU_OK;
}

mu_status sim_settings_read(const mu_model_spec *spec, struct sim_settings *ret_settings, mu_error *err) {
  struct sim_settings settings = {0};
  for (size_t row = 0; row < N_ROWS; row++) {
    if (rows[row].max != 0) *(double *)(void *)((char *)&settings + rows[row].offset) = rows[row].fallback;
  }
  for (size_t i = 0; i < spec->n_parameters; i++) {
    if (strncmp(spec->parameters[i].key, "sim.", 4) != 0) continue;
    size_t row = 0;
    while (row < N_ROWS && strcmp(rows[row].key, spec->parameters[i].key) != 0) row++;
    if (row == N_ROWS) {
      return mu_fail(err, MU_INVALID, "the sim engine has no parameter %s", spec->parameters[i].key);
    }
    mu_status status = read_row(row, &spec->parameters[i], &settings, err);
    if (status != MU_OK) return status;
  }
  mu_status status = find_crash(settings.crash_by, &settings.crash_signal, err);
  if (status == MU_OK) *ret_settings = settings;
  return status;
}
