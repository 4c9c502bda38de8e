#include "engine/onnxruntime/session.h"

#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

#define SESSION_PREFIX "session."

static OrtStatus *set_inter_op(const OrtApi *api, OrtSessionOptions *o, long n) {
  return api->SetInterOpNumThreads(o, (int)n);
}
static OrtStatus *set_mode(const OrtApi *api, OrtSessionOptions *o, long parallel) {
  return api->SetSessionExecutionMode(o, parallel ? ORT_PARALLEL : ORT_SEQUENTIAL);
}
static OrtStatus *set_arena(const OrtApi *api, OrtSessionOptions *o, long on) {
  return on ? api->EnableCpuMemArena(o) : api->DisableCpuMemArena(o);
}
static OrtStatus *set_pattern(const OrtApi *api, OrtSessionOptions *o, long on) {
  return on ? api->EnableMemPattern(o) : api->DisableMemPattern(o);
}

/*
 * Names and values as Triton's ONNX Runtime backend has them; its intra_op_thread_count is not here, because the
 * supervisor, which deals out the cores, has made it spec->threads already. Two defaults differ from ONNX Runtime's
 * own: one thread across nodes, because a worker has its share of the cores and no more; and no memory patterns,
 * because they are remembered for every shape ever seen, without bound, and the shapes of a batching server vary.
 */
static const struct {
  const char *key;
  long fallback, min, max;
  OrtStatus *(*apply)(const OrtApi *api, OrtSessionOptions *options, long value);
} settings[] = {
    {"inter_op_thread_count", 1, 0, 1024, set_inter_op},
    {"execution_mode", 0, 0, 1, set_mode},
    {"enable_mem_arena", 1, 0, 1, set_arena},
    {"enable_mem_pattern", 0, 0, 1, set_pattern},
};

static mu_status read_number(const mu_model_spec *spec, const char *key, long fallback, long min, long max,
                             long *ret_value, mu_error *err) {
  const char *text = engine_parameter(spec, key);
  if (text == NULL) {
    *ret_value = fallback;
    return MU_OK;
  }
  char *end;
  long value = strtol(text, &end, 10);
  if (end == text || *end != '\0' || value < min || value > max) {
    return mu_fail(err, MU_INVALID, "parameter %s = \"%s\": must be a number from %ld to %ld", key, text, min, max);
  }
  *ret_value = value;
  return MU_OK;
}

static mu_status apply_settings(const struct ort_library *library, const mu_model_spec *spec,
                                OrtSessionOptions *options, mu_error *err) {
  for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
    long value = 0;
    mu_status status =
        read_number(spec, settings[i].key, settings[i].fallback, settings[i].min, settings[i].max, &value, err);
    if (status != MU_OK) return status;
    status = ort_result(library, settings[i].apply(library->api, options, value), settings[i].key, err);
    if (status != MU_OK) return status;
  }
  return ort_result(library, library->api->SetIntraOpNumThreads(options, spec->threads), "threads", err);
}

static const struct {
  int level;
  GraphOptimizationLevel ort;
} graph_levels[] = {
    {-1, ORT_ENABLE_ALL}, {0, ORT_DISABLE_ALL}, {1, ORT_ENABLE_BASIC}, {2, ORT_ENABLE_EXTENDED}, {99, ORT_ENABLE_ALL}};

static mu_status apply_graph_level(const struct ort_library *library, const mu_model_spec *spec,
                                   OrtSessionOptions *options, mu_error *err) {
  for (size_t i = 0; i < sizeof graph_levels / sizeof graph_levels[0]; i++) {
    if (graph_levels[i].level != spec->graph_optimization) continue;
    OrtStatus *failed = library->api->SetSessionGraphOptimizationLevel(options, graph_levels[i].ort);
    return ort_result(library, failed, "graph optimization", err);
  }
  return mu_fail(err, MU_INVALID, "there is no graph optimization level %d", spec->graph_optimization);
}

/* ONNX Runtime's own keys, passed through; before them muster's: threads that wait sleep, they do not spin. */
static mu_status apply_entries(const struct ort_library *library, const mu_model_spec *spec, OrtSessionOptions *options,
                               mu_error *err) {
  static const mu_parameter own[] = {{"session.intra_op.allow_spinning", "0"},
                                     {"session.inter_op.allow_spinning", "0"}};
  const size_t n_own = sizeof own / sizeof own[0];
  for (size_t i = 0; i < n_own + spec->n_parameters; i++) {
    const mu_parameter *p = i < n_own ? &own[i] : &spec->parameters[i - n_own];
    if (strncmp(p->key, SESSION_PREFIX, sizeof SESSION_PREFIX - 1) != 0) continue;
    mu_status status = ort_result(library, library->api->AddSessionConfigEntry(options, p->key, p->value), p->key, err);
    if (status != MU_OK) return status;
  }
  return MU_OK;
}

mu_status ort_session_options_create(const struct ort_library *library, const mu_model_spec *spec,
                                     OrtSessionOptions **ret_options, struct provider_choice *ret_choice,
                                     mu_error *err) {
  OrtSessionOptions *options = NULL;
  struct provider_choice choice = {0};
  mu_status status = ort_result(library, library->api->CreateSessionOptions(&options), "session options", err);
  if (status == MU_OK) status = apply_settings(library, spec, options, err);
  if (status == MU_OK) status = apply_graph_level(library, spec, options, err);
  if (status == MU_OK) status = apply_entries(library, spec, options, err);
  if (status == MU_OK) status = ort_provider_append(library, spec, options, &choice, err);
  if (status != MU_OK) {
    library->api->ReleaseSessionOptions(options);
    return status;
  }
  *ret_options = options;
  *ret_choice = choice;
  return MU_OK;
}

mu_status ort_run_options_create(const struct ort_library *library, const char *shrinkage, OrtRunOptions **ret_options,
                                 mu_error *err) {
  const OrtApi *api = library->api;
  OrtRunOptions *options = NULL;
  mu_status status = ort_result(library, api->CreateRunOptions(&options), "run options", err);
  /* What goes wrong in a run is returned, and often it is the client's mistake: not a line of the log each time. */
  if (status == MU_OK) {
    status = ort_result(library, api->RunOptionsSetRunLogSeverityLevel(options, ORT_LOGGING_LEVEL_FATAL), "log", err);
  }
  if (status == MU_OK && shrinkage != NULL) {
    OrtStatus *failed = api->AddRunConfigEntry(options, SESSION_SHRINKAGE_PARAMETER, shrinkage);
    status = ort_result(library, failed, SESSION_SHRINKAGE_PARAMETER, err);
  }
  if (status != MU_OK) {
    api->ReleaseRunOptions(options);
    return status;
  }
  *ret_options = options;
  return MU_OK;
}
