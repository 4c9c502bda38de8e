#include <stdio.h>
#include <string.h>

#include "engine/onnxruntime/element_type.h"
#include "engine/onnxruntime/model.h"

/* By ONNXType. */
static const char *const kinds[] = {"of unknown type", "a tensor",        "a sequence",       "a map",
                                    "opaque",          "a sparse tensor", "an optional value"};

/* Inputs and outputs are asked for with functions of the same form. */
struct side {
  const char *word;
  OrtStatus *(*count)(const OrtSession *session, size_t *n);
  OrtStatus *(*name)(const OrtSession *session, size_t i, OrtAllocator *allocator, char **name);
  OrtStatus *(*type)(const OrtSession *session, size_t i, OrtTypeInfo **type);
};

static mu_status read_name(mu_engine_model *model, const struct side *side, size_t i, mu_tensor_info *info,
                           mu_error *err) {
  const struct ort_library *library = &model->library;
  char *name = NULL;
  OrtStatus *failed = side->name(model->session, i, model->allocator, &name);
  mu_status status = ort_result(library, failed, "cannot read the model's tensors", err);
  if (status != MU_OK) return status;
  info->name = arena_copy(&model->memory, name, strlen(name));
  status = ort_result(library, library->api->AllocatorFree(model->allocator, name), "cannot free a name", err);
  if (status == MU_OK && info->name == NULL) status = mu_fail(err, MU_NO_MEMORY, "no memory");
  return status;
}

static mu_status read_dims(mu_engine_model *model, const OrtTensorTypeAndShapeInfo *shape, mu_tensor_info *info,
                           mu_error *err) {
  const struct ort_library *library = &model->library;
  const char *symbols[MU_MAX_RANK] = {NULL};
  OrtStatus *failed = library->api->GetDimensions(shape, info->dims, info->rank);
  if (failed == NULL) failed = library->api->GetSymbolicDimensions(shape, symbols, info->rank);
  mu_status status = ort_result(library, failed, "cannot read the model's shapes", err);
  for (uint32_t d = 0; status == MU_OK && d < info->rank; d++) {
    if (info->dims[d] >= 0) continue;
    const char *symbol = symbols[d] != NULL ? symbols[d] : "";
    info->symbols[d] = arena_copy(&model->memory, symbol, strlen(symbol));
    if (info->symbols[d] == NULL) status = mu_fail(err, MU_NO_MEMORY, "no memory");
  }
  return status;
}

static mu_status read_tensor(mu_engine_model *model, const struct side *side, const OrtTypeInfo *type,
                             mu_tensor_info *info, mu_error *err) {
  const struct ort_library *library = &model->library;
  const OrtApi *api = library->api;
  enum ONNXType kind = ONNX_TYPE_UNKNOWN;
  const OrtTensorTypeAndShapeInfo *shape = NULL;
  ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  size_t rank = 0;
  mu_status status = ort_result(library, api->GetOnnxTypeFromTypeInfo(type, &kind), info->name, err);
  if (status != MU_OK) return status;
  if (kind != ONNX_TYPE_TENSOR) {
    const char *word = (size_t)kind < sizeof kinds / sizeof kinds[0] ? kinds[kind] : kinds[0];
    return mu_fail(err, MU_UNSUPPORTED, "%s \"%s\" is %s; only tensors can be served", side->word, info->name, word);
  }
  OrtStatus *failed = api->CastTypeInfoToTensorInfo(type, &shape);
  if (failed == NULL) failed = api->GetTensorElementType(shape, &element);
  if (failed == NULL) failed = api->GetDimensionsCount(shape, &rank);
  status = ort_result(library, failed, info->name, err);
  if (status != MU_OK) return status;
  info->dtype = element_type_to_dtype(element);
  if (info->dtype == MU_DTYPE_INVALID) {
    return mu_fail(err, MU_UNSUPPORTED, "%s \"%s\" has elements of type %s, which the protocol cannot carry",
                   side->word, info->name, element_type_name(element));
  }
  if (rank > MU_MAX_RANK) {
    return mu_fail(err, MU_UNSUPPORTED, "%s \"%s\" has %zu dimensions; muster carries %d", side->word, info->name, rank,
                   MU_MAX_RANK);
  }
  info->rank = (uint32_t)rank;
  return read_dims(model, shape, info, err);
}

static mu_status read_side(mu_engine_model *model, const struct side *side, const mu_tensor_info **ret_infos,
                           size_t *ret_n, mu_error *err) {
  const struct ort_library *library = &model->library;
  size_t n = 0;
  mu_status status = ort_result(library, side->count(model->session, &n), "cannot read the model's tensors", err);
  if (status != MU_OK) return status;
  mu_tensor_info *infos = arena_alloc(&model->memory, n > 0 ? n : 1, sizeof *infos);
  if (infos == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  for (size_t i = 0; status == MU_OK && i < n; i++) {
    status = read_name(model, side, i, &infos[i], err);
    if (status != MU_OK) break;
    OrtTypeInfo *type = NULL;
    status = ort_result(library, side->type(model->session, i, &type), infos[i].name, err);
    if (status == MU_OK) status = read_tensor(model, side, type, &infos[i], err);
    library->api->ReleaseTypeInfo(type);
  }
  *ret_infos = infos;
  *ret_n = n;
  return status;
}

mu_status ort_model_info_read(mu_engine_model *model, const char *provider, mu_error *err) {
  const OrtApi *api = model->library.api;
  const struct side inputs = {"input", api->SessionGetInputCount, api->SessionGetInputName,
                              api->SessionGetInputTypeInfo};
  const struct side outputs = {"output", api->SessionGetOutputCount, api->SessionGetOutputName,
                               api->SessionGetOutputTypeInfo};
  mu_status status = read_side(model, &inputs, &model->info.inputs, &model->info.n_inputs, err);
  if (status == MU_OK) status = read_side(model, &outputs, &model->info.outputs, &model->info.n_outputs, err);
  if (status != MU_OK) return status;
  char runtime[128];
  int n = snprintf(runtime, sizeof runtime, "onnxruntime %s %s", model->library.version, provider);
  size_t length = n < (int)sizeof runtime ? (size_t)n : sizeof runtime - 1;
  model->info.runtime = arena_copy(&model->memory, runtime, length);
  return model->info.runtime != NULL ? MU_OK : mu_fail(err, MU_NO_MEMORY, "no memory");
}
