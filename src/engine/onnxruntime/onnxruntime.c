#include "engine/onnxruntime/onnxruntime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/onnxruntime/model.h"

static void model_free(mu_engine_model *model) {
  if (model == NULL) return;
  const OrtApi *api = model->library.api;
  if (api != NULL) {
    api->ReleaseMemoryInfo(model->cpu);
    api->ReleaseSession(model->session);
    api->ReleaseSessionOptions(model->options);
  }
  ort_library_close(&model->library);
  arena_free(&model->memory);
  free(model);
}

static mu_status copy_spec(mu_engine_model *model, const mu_model_spec *spec, mu_error *err) {
  const char *shrinkage = engine_parameter(spec, SESSION_SHRINKAGE_PARAMETER);
  model->path = arena_copy(&model->memory, spec->path, strlen(spec->path));
  if (shrinkage != NULL) model->shrinkage = arena_copy(&model->memory, shrinkage, strlen(shrinkage));
  if (model->path == NULL || (shrinkage != NULL && model->shrinkage == NULL)) {
    return mu_fail(err, MU_NO_MEMORY, "no memory");
  }
  return MU_OK;
}

static mu_status create_session(mu_engine_model *model, const mu_model_spec *spec, mu_error *err) {
  const struct ort_library *library = &model->library;
  const OrtApi *api = library->api;
  struct provider_choice choice = {0};
  mu_status status = ort_session_options_create(library, spec, &model->options, &choice, err);
  if (status != MU_OK) return status;
  model->session_each = choice.session_each;
  OrtStatus *failed = api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &model->cpu);
  if (failed == NULL) failed = api->GetAllocatorWithDefaultOptions(&model->allocator);
  status = ort_result(library, failed, "cannot start ONNX Runtime", err);
  if (status != MU_OK) return status;
  char what[320];
  snprintf(what, sizeof what, "cannot load %s", spec->path);
  status =
      ort_result(library, api->CreateSession(library->env, spec->path, model->options, &model->session), what, err);
  return status == MU_OK ? ort_model_info_read(model, choice.name, err) : status;
}

static mu_status model_load(const mu_model_spec *spec, mu_engine_model **ret_model, mu_error *err) {
  if (spec->path == NULL || spec->path[0] == '\0') {
    return mu_fail(err, MU_INVALID, "model \"%s\" has no file", spec->name);
  }
  mu_engine_model *model = calloc(1, sizeof *model);
  if (model == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  mu_status status = ort_library_open(&model->library, engine_parameter(spec, ONNXRUNTIME_LIBRARY_PARAMETER), err);
  if (status == MU_OK) status = copy_spec(model, spec, err);
  if (status == MU_OK) status = create_session(model, spec, err);
  if (status != MU_OK) {
    model_free(model);
    return status;
  }
  *ret_model = model;
  return MU_OK;
}

static const mu_model_info *model_info(const mu_engine_model *model) { return &model->info; }

const mu_engine engine_onnxruntime = {
    .api_version = MU_ENGINE_API_VERSION,
    .name = "onnxruntime",
    .model_load = model_load,
    .model_free = model_free,
    .model_info = model_info,
    .instance_create = ort_instance_create,
    .instance_free = ort_instance_free,
    .run = ort_instance_run,
    .stop = ort_instance_stop,
};
