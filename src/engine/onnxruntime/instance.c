#include <stdlib.h>
#include <string.h>

#include "engine/onnxruntime/element_type.h"
#include "engine/onnxruntime/model.h"

static uint8_t no_bytes[1]; /* what a tensor without elements points at: ONNX Runtime wants an address */

/* ---- life -------------------------------------------------------------------------------------------------------- */

static mu_status allocate_scratch(mu_engine_instance *instance, mu_error *err) {
  const mu_model_info *info = &instance->model->info;
  size_t n_in = info->n_inputs > 0 ? info->n_inputs : 1, n_out = info->n_outputs > 0 ? info->n_outputs : 1;
  instance->input_names = calloc(n_in, sizeof *instance->input_names);
  instance->inputs = calloc(n_in, sizeof *instance->inputs);
  instance->given = calloc(n_in, sizeof *instance->given);
  instance->output_names = calloc(n_out, sizeof *instance->output_names);
  instance->outputs = calloc(n_out, sizeof *instance->outputs);
  instance->strings = calloc(n_out, sizeof *instance->strings);
  if (instance->input_names == NULL || instance->inputs == NULL || instance->given == NULL ||
      instance->output_names == NULL || instance->outputs == NULL || instance->strings == NULL) {
    return mu_fail(err, MU_NO_MEMORY, "no memory");
  }
  /* The wire form counts in 32 bits; so an element that fits the buffer fits its length. */
  for (size_t i = 0; i < info->n_outputs; i++) buffer_init(&instance->strings[i], UINT32_MAX);
  return MU_OK;
}

mu_status ort_instance_create(mu_engine_model *model, mu_engine_instance **ret_instance, mu_error *err) {
  const struct ort_library *library = &model->library;
  mu_engine_instance *instance = calloc(1, sizeof *instance);
  if (instance == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  instance->model = model;
  instance->session = model->session;
  mu_status status = allocate_scratch(instance, err);
  if (status == MU_OK) status = ort_run_options_create(library, model->shrinkage, &instance->options, err);
  if (status == MU_OK && model->session_each) {
    instance->session = NULL;
    OrtStatus *failed = library->api->CreateSession(library->env, model->path, model->options, &instance->session);
    status = ort_result(library, failed, "cannot create the session of an instance", err);
  }
  if (status != MU_OK) {
    ort_instance_free(instance);
    return status;
  }
  *ret_instance = instance;
  return MU_OK;
}

static void release_values(const mu_engine_instance *instance, OrtValue **values, size_t n) {
  for (size_t i = 0; values != NULL && i < n; i++) {
    instance->model->library.api->ReleaseValue(values[i]);
    values[i] = NULL;
  }
}

void ort_instance_free(mu_engine_instance *instance) {
  if (instance == NULL) return;
  const OrtApi *api = instance->model->library.api;
  const mu_model_info *info = &instance->model->info;
  release_values(instance, instance->inputs, info->n_inputs);
  release_values(instance, instance->outputs, info->n_outputs);
  for (size_t i = 0; instance->strings != NULL && i < info->n_outputs; i++) buffer_free(&instance->strings[i]);
  if (instance->session != instance->model->session) api->ReleaseSession(instance->session);
  api->ReleaseRunOptions(instance->options);
  free(instance->input_names);
  free(instance->inputs);
  free(instance->given);
  free(instance->output_names);
  free(instance->outputs);
  free(instance->strings);
  free(instance);
}

/* ---- a run ------------------------------------------------------------------------------------------------------- */

/* A tensor over the caller's memory: nothing is copied, ONNX Runtime does not write to inputs. */
static OrtStatus *wrap(const mu_engine_instance *instance, const mu_tensor *tensor, OrtValue **ret_value) {
  const mu_engine_model *model = instance->model;
  void *data = tensor->data != NULL ? tensor->data : no_bytes;
  return model->library.api->CreateTensorWithDataAsOrtValue(model->cpu, data, tensor->size, tensor->dims, tensor->rank,
                                                            element_type_of_dtype(tensor->dtype), ret_value);
}

static mu_status bind_strings(mu_engine_instance *instance, const mu_tensor *tensor, const char *name,
                              OrtValue **ret_value, mu_error *err) {
  mu_engine_model *model = instance->model;
  uint64_t elements = 0;
  if (shape_size(MU_BYTES, tensor->dims, tensor->rank, &elements, NULL) != MU_OK ||
      elements > tensor->size / sizeof(uint32_t)) { /* each element costs memory: no more of them than bytes can hold */
    return mu_fail(err, MU_INVALID, "input \"%s\" has fewer elements than its shape says", name);
  }
  OrtStatus *failed = model->library.api->CreateTensorAsOrtValue(model->allocator, tensor->dims, tensor->rank,
                                                                 ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING, ret_value);
  if (failed != NULL) return ort_result(&model->library, failed, name, err);
  return string_tensor_fill(&model->library, *ret_value, elements, tensor->data, tensor->size, name, err);
}

/* ONNX Runtime does not look whether inputs are missing: the first node that reads one fails, or worse. */
static mu_status check_inputs(mu_engine_instance *instance, const mu_input *inputs, size_t n, mu_error *err) {
  const mu_model_info *info = &instance->model->info;
  memset(instance->given, 0, info->n_inputs * sizeof *instance->given);
  for (size_t i = 0; i < n; i++) {
    if (inputs[i].index >= info->n_inputs) return mu_fail(err, MU_INVALID, "there is no input %u", inputs[i].index);
    if (instance->given[inputs[i].index]) {
      return mu_fail(err, MU_INVALID, "input \"%s\" is given twice", info->inputs[inputs[i].index].name);
    }
    instance->given[inputs[i].index] = true;
  }
  for (size_t i = 0; i < info->n_inputs; i++) {
    if (!instance->given[i]) return mu_fail(err, MU_INVALID, "input \"%s\" is missing", info->inputs[i].name);
  }
  return MU_OK;
}

static mu_status bind_inputs(mu_engine_instance *instance, const mu_input *inputs, size_t n, mu_error *err) {
  const struct ort_library *library = &instance->model->library;
  mu_status status = check_inputs(instance, inputs, n, err);
  for (size_t i = 0; status == MU_OK && i < n; i++) {
    const mu_tensor *tensor = &inputs[i].tensor;
    const char *name = instance->model->info.inputs[inputs[i].index].name;
    instance->input_names[i] = name;
    if (tensor->dtype == MU_BYTES) {
      status = bind_strings(instance, tensor, name, &instance->inputs[i], err);
    } else {
      status = ort_result(library, wrap(instance, tensor, &instance->inputs[i]), name, err);
    }
  }
  return status;
}

/* Strings have no fixed size, so they are never written in place. */
static bool in_place(const mu_output *output) {
  return output->tensor.data != NULL && output->tensor.dtype != MU_BYTES;
}

static mu_status bind_outputs(mu_engine_instance *instance, const mu_output *outputs, size_t n, mu_error *err) {
  const mu_model_info *info = &instance->model->info;
  if (n > info->n_outputs) return mu_fail(err, MU_INVALID, "%zu outputs of a model that has %zu", n, info->n_outputs);
  for (size_t i = 0; i < n; i++) {
    if (outputs[i].index >= info->n_outputs) return mu_fail(err, MU_INVALID, "there is no output %u", outputs[i].index);
    const char *name = info->outputs[outputs[i].index].name;
    instance->output_names[i] = name;
    if (!in_place(&outputs[i])) continue;
    OrtStatus *failed = wrap(instance, &outputs[i].tensor, &instance->outputs[i]);
    mu_status status = ort_result(&instance->model->library, failed, name, err);
    if (status != MU_OK) return status;
  }
  return MU_OK;
}

static mu_status read_shape(const struct ort_library *library, const OrtValue *value, mu_tensor *tensor,
                            mu_error *err) {
  const OrtApi *api = library->api;
  OrtTensorTypeAndShapeInfo *shape = NULL;
  ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  size_t rank = 0;
  OrtStatus *failed = api->GetTensorTypeAndShape(value, &shape);
  if (failed == NULL) failed = api->GetTensorElementType(shape, &element);
  if (failed == NULL) failed = api->GetDimensionsCount(shape, &rank);
  if (failed == NULL && rank <= MU_MAX_RANK) failed = api->GetDimensions(shape, tensor->dims, rank);
  api->ReleaseTensorTypeAndShapeInfo(shape);
  mu_status status = ort_result(library, failed, "cannot read an output", err);
  if (status != MU_OK) return status;
  if (rank > MU_MAX_RANK) return mu_fail(err, MU_UNSUPPORTED, "an output has %zu dimensions", rank);
  tensor->rank = (uint32_t)rank;
  tensor->dtype = element_type_to_dtype(element);
  return MU_OK;
}

/* What ONNX Runtime allocated, as a view for the caller. */
static mu_status view_output(mu_engine_instance *instance, size_t i, mu_tensor *tensor, mu_error *err) {
  const struct ort_library *library = &instance->model->library;
  OrtValue *value = instance->outputs[i];
  uint64_t elements = 0, bytes = 0;
  mu_tensor seen = {.dtype = MU_DTYPE_INVALID};
  mu_status status = read_shape(library, value, &seen, err);
  if (status != MU_OK) return status;
  if (shape_size(seen.dtype, seen.dims, seen.rank, &elements, &bytes) != MU_OK) {
    return mu_fail(err, MU_INTERNAL, "output \"%s\" has an impossible shape", instance->output_names[i]);
  }
  if (seen.dtype == MU_BYTES) {
    status = string_tensor_read(library, value, elements, &instance->strings[i], err);
    seen.data = instance->strings[i].data;
    seen.size = instance->strings[i].size;
  } else {
    status = ort_result(library, library->api->GetTensorMutableData(value, &seen.data), "cannot read an output", err);
    seen.size = (size_t)bytes;
  }
  if (status == MU_OK) *tensor = seen;
  return status;
}

static mu_status run_session(mu_engine_instance *instance, size_t n_inputs, size_t n_outputs, mu_error *err) {
  const struct ort_library *library = &instance->model->library;
  const OrtApi *api = library->api;
  atomic_store(&instance->stopped, false);
  OrtStatus *failed = api->RunOptionsUnsetTerminate(instance->options);
  if (failed == NULL) {
    failed =
        api->Run(instance->session, instance->options, instance->input_names, (const OrtValue *const *)instance->inputs,
                 n_inputs, instance->output_names, n_outputs, instance->outputs);
  }
  mu_status status = ort_result(library, failed, "the model failed", err);
  if (status != MU_OK && status != MU_IO && atomic_load(&instance->stopped)) {
    return mu_fail(err, MU_CANCELED, "the run was told to stop");
  }
  return status;
}

mu_status ort_instance_run(mu_engine_instance *instance, const mu_input *inputs, size_t n_inputs, mu_output *outputs,
                           size_t n_outputs, mu_error *err) {
  release_values(instance, instance->outputs, instance->model->info.n_outputs);
  mu_status status = bind_inputs(instance, inputs, n_inputs, err);
  if (status == MU_OK) status = bind_outputs(instance, outputs, n_outputs, err);
  if (status == MU_OK) status = run_session(instance, n_inputs, n_outputs, err);
  release_values(instance, instance->inputs, instance->model->info.n_inputs);
  for (size_t i = 0; status == MU_OK && i < n_outputs; i++) {
    if (!in_place(&outputs[i])) status = view_output(instance, i, &outputs[i].tensor, err);
  }
  return status;
}

void ort_instance_stop(mu_engine_instance *instance) {
  atomic_store(&instance->stopped, true);
  /* It sets a flag that the run looks at between nodes; there is nothing that could fail, and nobody to tell. */
  instance->model->library.api->ReleaseStatus(instance->model->library.api->RunOptionsSetTerminate(instance->options));
}
