#include "engine/sim/sim_settings.h"

#include <math.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

enum { HOUR_MS = 3600 * 1000, TEBIBYTE_MIB = 1 << 20 };

#define UNSET (-1.0)

/* docs/engine-sim.md describes each. max 0: a text. */
static const struct {
  const char *key;
  size_t offset;
  double fallback, max;
  bool of_gpu; /* only for a model on a GPU */
} rows[] = {
    {"sim.load_ms", offsetof(struct sim_settings, load_ms), 0, HOUR_MS, false},
    {"sim.base_ms", offsetof(struct sim_settings, base_ms), 0, HOUR_MS, false},
    {"sim.per_item_ms", offsetof(struct sim_settings, per_item_ms), 0, HOUR_MS, false},
    {"sim.jitter_ms", offsetof(struct sim_settings, jitter_ms), 0, HOUR_MS, false},
    {"sim.seed", offsetof(struct sim_settings, seed), 1, 1e15, false},
    {"sim.fail_rate", offsetof(struct sim_settings, fail_rate), 0, 1, false},
    {"sim.crash_rate", offsetof(struct sim_settings, crash_rate), 0, 1, false},
    {"sim.output_size", offsetof(struct sim_settings, output_size), 1, 1 << 30, false},
    {"sim.load_fail", offsetof(struct sim_settings, load_fail), 0, 1, false},
    {"sim.load_crash", offsetof(struct sim_settings, load_crash), 0, 1, false},
    {"sim.fail_on", offsetof(struct sim_settings, fail_on), 0, 0, false},
    {"sim.crash_on", offsetof(struct sim_settings, crash_on), 0, 0, false},
    {"sim.hang_on", offsetof(struct sim_settings, hang_on), 0, 0, false},
    {"sim.crash_by", offsetof(struct sim_settings, crash_by), 0, 0, false},
    {"sim.device_lost_on", offsetof(struct sim_settings, device_lost_on), 0, 0, false},
    {"sim.memory_on", offsetof(struct sim_settings, memory_on), 0, 0, false},
    {"sim.memory_mib", offsetof(struct sim_settings, memory_mib), 0, 1 << 20, false},
    {"sim.profile", offsetof(struct sim_settings, profile), 0, 0, true},
    {"sim.sharing", offsetof(struct sim_settings, sharing), 0, 0, true},
    {"sim.gpu_ms", offsetof(struct sim_settings, gpu_ms), 0, HOUR_MS, true},
    {"sim.gpu_per_item_ms", offsetof(struct sim_settings, gpu_per_item_ms), 0, HOUR_MS, true},
    {"sim.gpu_work_ms", offsetof(struct sim_settings, gpu_work_ms), UNSET, HOUR_MS, true},
    {"sim.gpu_work_per_item_ms", offsetof(struct sim_settings, gpu_work_per_item_ms), UNSET, HOUR_MS, true},
    {"sim.gpu_memory_mib", offsetof(struct sim_settings, gpu_memory_mib), 500, TEBIBYTE_MIB, true},
    {"sim.gpu_total_mib", offsetof(struct sim_settings, gpu_total_mib), 80 * 1024, TEBIBYTE_MIB, true},
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

/* Fitted to public measurements: docs/engine-sim.md has the derivation; bench/sharing.py has them too. */
static const struct {
  const char *name;
  double base_ms, jitter_ms;                /* not on the GPU */
  double gpu_ms, gpu_per_item_ms;           /* there, alone */
  double gpu_work_ms, gpu_work_per_item_ms; /* of all SMs */
} profiles[] = {
    {"none", 0, 0, 0, 0, 0, 0},
    {"saturating", 0.5, 0, 10.96, 2.245, 6.2, 2.62},
    {"seed", 6.4, 6, 7.14, 0.685, 0, 1.575},
};
enum { N_PROFILES = sizeof profiles / sizeof profiles[0] };

static const char speed_key[] = "sim.gpu_speed";

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

/* A number from 0 to max. */
static mu_status read_number(const mu_parameter *parameter, double max, double *ret_value, mu_error *err) {
  char *end;
  double value = strtod(parameter->value, &end);
  if (end == parameter->value || *end != '\0' || !isfinite(value) || value < 0 || value > max) {
    return mu_fail(err, MU_INVALID, "parameter %s = \"%s\": must be a number from 0 to %.0f", parameter->key,
                   parameter->value, max);
  }
  *ret_value = value;
  return MU_OK;
}

static mu_status refuse_without_gpu(const mu_parameter *parameter, const char *device, mu_error *err) {
  return mu_fail(err, MU_INVALID, "parameter %s is for a model on a GPU: this one is on %s", parameter->key, device);
}

static mu_status read_row(size_t row, const mu_parameter *parameter, const char *device, struct sim_settings *settings,
                          mu_error *err) {
  void *field = (char *)settings + rows[row].offset;
  if (rows[row].of_gpu && !settings->on_gpu) return refuse_without_gpu(parameter, device, err);
  if (rows[row].max > 0) return read_number(parameter, rows[row].max, field, err);
  *(const char **)field = parameter->value;
  return MU_OK;
}

/* ---- the GPU ----------------------------------------------------------------------------------------------------- */

/* Does "0", "GPU-simulated-0" name the device "gpu:0", "gpu:GPU-simulated-0"? By number or as a whole. */
static bool names_device(const char *name, const char *device) {
  const char *own = device + strlen("gpu:"), *number = strrchr(own, '-');
  return strcmp(name, own) == 0 || (number != NULL && strcmp(name, number + 1) == 0);
}

/* "sim.gpu_speed": of all GPUs; "sim.gpu_speed.0": of that one, which counts more, wherever it stands. */
static mu_status read_speed(const mu_parameter *parameter, const char *device, bool *of_device,
                            struct sim_settings *settings, mu_error *err) {
  enum { FASTEST = 1000 };
  const char *name = parameter->key + strlen(speed_key);
  double speed = 0;
  if (!settings->on_gpu) return refuse_without_gpu(parameter, device, err);
  mu_status status = read_number(parameter, FASTEST, &speed, err);
  if (status == MU_OK && speed <= 0)
    status = mu_fail(err, MU_INVALID, "parameter %s = \"%s\": must be above 0", parameter->key, parameter->value);
  if (status != MU_OK) return status;
  bool special = *name == '.';
  if (special ? !names_device(name + 1, device) : *of_device) return MU_OK;
  *of_device = special;
  settings->gpu_speed = speed;
  return MU_OK;
}

/* The profile that the model names; without one, and without times of its own, a model on a GPU is "saturating". */
static mu_status choose_profile(const mu_model_spec *spec, struct sim_settings *settings, mu_error *err) {
  static const char *const times[] = {"sim.base_ms",         "sim.per_item_ms", "sim.jitter_ms",           "sim.gpu_ms",
                                      "sim.gpu_per_item_ms", "sim.gpu_work_ms", "sim.gpu_work_per_item_ms"};
  const char *name = engine_parameter(spec, "sim.profile");
  bool own_times = false;
  for (size_t i = 0; i < sizeof times / sizeof times[0]; i++)
    own_times = own_times || engine_parameter(spec, times[i]) != NULL;
  if (!settings->on_gpu || (name == NULL && own_times)) return MU_OK;
  if (name == NULL) name = "saturating";
  for (size_t i = 0; i < N_PROFILES; i++) {
    if (strcmp(profiles[i].name, name) != 0) continue;
    settings->base_ms = profiles[i].base_ms;
    settings->jitter_ms = profiles[i].jitter_ms;
    settings->gpu_ms = profiles[i].gpu_ms;
    settings->gpu_per_item_ms = profiles[i].gpu_per_item_ms;
    settings->gpu_work_ms = profiles[i].gpu_work_ms;
    settings->gpu_work_per_item_ms = profiles[i].gpu_work_per_item_ms;
    return MU_OK;
  }
  return mu_fail(err, MU_INVALID, "parameter sim.profile = \"%s\": must be saturating, seed or none", name);
}

/* What nobody said of the work: the whole GPU for the whole time. */
static void complete_work(struct sim_settings *settings) {
  bool unset = settings->gpu_work_ms < 0 && settings->gpu_work_per_item_ms < 0;
  if (settings->gpu_work_ms < 0) settings->gpu_work_ms = unset ? settings->gpu_ms : 0;
  if (settings->gpu_work_per_item_ms < 0) settings->gpu_work_per_item_ms = unset ? settings->gpu_per_item_ms : 0;
}

/* As CUDA does: a process with a pipe directory is a client of MPS, with the share that the environment says. */
static mu_status choose_sharing(struct sim_settings *settings, mu_error *err) {
  const char *pipes = getenv("CUDA_MPS_PIPE_DIRECTORY"), *percentage = getenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE");
  const char *sharing = settings->sharing;
  if (sharing == NULL) sharing = pipes != NULL && pipes[0] != '\0' ? "mps" : "timeslice";
  settings->mps = strcmp(sharing, "mps") == 0;
  settings->sm_share = 1;
  if (!settings->mps && strcmp(sharing, "timeslice") != 0)
    return mu_fail(err, MU_INVALID, "parameter sim.sharing = \"%s\": must be mps or timeslice", sharing);
  if (!settings->mps || percentage == NULL || percentage[0] == '\0') return MU_OK;
  const mu_parameter parameter = {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", percentage};
  double percent = 0;
  mu_status status = read_number(&parameter, 100, &percent, err);
  if (status == MU_OK && percent <= 0)
    status = mu_fail(err, MU_INVALID, "%s = \"%s\": must be above 0", parameter.key, percentage);
  if (status == MU_OK) settings->sm_share = percent / 100;
  return status;
}

/* ---- all of them ------------------------------------------------------------------------------------------------- */

static mu_status read_parameter(const mu_parameter *parameter, const char *device, bool *of_device,
                                struct sim_settings *settings, mu_error *err) {
  size_t row = 0, length = strlen(speed_key);
  char after = strncmp(parameter->key, speed_key, length) == 0 ? parameter->key[length] : 'x';
  if (after == '\0' || after == '.') return read_speed(parameter, device, of_device, settings, err);
  while (row < N_ROWS && strcmp(rows[row].key, parameter->key) != 0) row++;
  if (row == N_ROWS) return mu_fail(err, MU_INVALID, "the sim engine has no parameter %s", parameter->key);
  return read_row(row, parameter, device, settings, err);
}

mu_status sim_settings_read(const mu_model_spec *spec, struct sim_settings *ret_settings, mu_error *err) {
  struct sim_settings settings = {.gpu_speed = 1, .on_gpu = strncmp(spec->device, "gpu:", 4) == 0};
  bool of_device = false; /* the speed is that of this very GPU */
  for (size_t row = 0; row < N_ROWS; row++) {
    if (rows[row].max != 0) *(double *)(void *)((char *)&settings + rows[row].offset) = rows[row].fallback;
  }
  mu_status status = choose_profile(spec, &settings, err);
  for (size_t i = 0; status == MU_OK && i < spec->n_parameters; i++) {
    if (strncmp(spec->parameters[i].key, "sim.", 4) != 0) continue;
    status = read_parameter(&spec->parameters[i], spec->device, &of_device, &settings, err);
  }
  if (status == MU_OK) status = find_crash(settings.crash_by, &settings.crash_signal, err);
  if (status == MU_OK) status = choose_sharing(&settings, err);
  if (status != MU_OK) return status;
  complete_work(&settings);
  *ret_settings = settings;
  return MU_OK;
}
