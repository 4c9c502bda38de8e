/* The inputs' data of an inference request, once the request itself is understood. */
#include "api/infer_tensors.h"
#include "api/rest_infer.h"
#include "proto/json/json_reader.h"

enum { BYTES_PREFIX = 4 }; /* the length before each element of BYTES */

/* ---- raw bodies -------------------------------------------------------------------------------------------------- */

/* The model's only input. */
static mu_status only_input(const struct model *model, uint32_t *ret_index, mu_error *err) {
  uint32_t served = 0;
  for (uint32_t i = 0; i < model->metadata->n_inputs; i++) {
    if (!model->metadata->inputs[i].served) continue;
    if (served++ == 0) *ret_index = i;
  }
  if (served == 1) return MU_OK;
  return mu_fail(err, MU_INVALID, "a body without a JSON part needs a model with one input; model '%.100s' has %u",
                 model->name, served);
}

/* The client's dims for a body of that size; what varies is worked out. */
static mu_status raw_dims(const struct model *model, const struct model_tensor *tensor, uint64_t body_size,
                          int64_t *dims, mu_error *err) {
  const size_t size = mu_dtype_size(tensor->info.dtype);
  int varying = -1;
  for (uint32_t i = 0; i < tensor->rank; i++) {
    dims[i] = tensor->dims[i] < 0 ? 1 : tensor->dims[i]; /* one row, where the first is the batch */
    if (tensor->dims[i] >= 0 || (i == 0 && model->metadata->max_batch > 0) || size == 0) continue;
    if (varying >= 0) {
      char text[160];
      return mu_fail(err, MU_INVALID,
                     "a body without a JSON part does not say the shape of input '%.100s', which is %s",
                     tensor->info.name, shape_text(tensor->dims, tensor->rank, text, sizeof text));
    }
    varying = (int)i;
  }
  uint64_t bytes;
  if (varying >= 0 && shape_size(tensor->info.dtype, dims, tensor->rank, NULL, &bytes) == MU_OK && bytes > 0)
    dims[varying] = (int64_t)(body_size / bytes);
  return MU_OK;
}

mu_status rest_infer_raw(const struct model *model, uint64_t body_size, struct request *request, mu_error *err) {
  const struct model_metadata *metadata = model->metadata;
  if (metadata == NULL) return mu_fail(err, MU_UNAVAILABLE, "model '%.100s' is not ready", model->name);
  uint32_t index = 0;
  mu_status status = only_input(model, &index, err);
  if (status != MU_OK) return status;
  const struct model_tensor *tensor = &metadata->inputs[index];
  int64_t dims[MU_MAX_RANK];
  struct request_input *input = NULL;
  status = raw_dims(model, tensor, body_size, dims, err);
  if (status == MU_OK) status = infer_input_add(model, index, dims, tensor->rank, request, &input, err);
  if (status != MU_OK) return status;
  char text[160];
  shape_text(dims, tensor->rank, text, sizeof text);
  if (input->dtype == MU_BYTES) {
    if (input->elements != 1)
      return mu_fail(err, MU_INVALID, "a body without a JSON part is one element; input '%.100s' has shape %s",
                     tensor->info.name, text);
    if (body_size > UINT32_MAX) return mu_fail(err, MU_TOO_LARGE, "an element of BYTES has at most 4294967295 bytes");
    input->size = BYTES_PREFIX + body_size;
  } else if (input->size != body_size) {
    return mu_fail(err, MU_INVALID, "the body has %llu bytes, input '%.100s' takes %llu (shape %s as %s)",
                   (unsigned long long)body_size, tensor->info.name, (unsigned long long)input->size, text,
                   mu_dtype_name(input->dtype));
  }
  input->source = INPUT_BINARY;
  input->source_size = body_size;
  request->binary_bytes = body_size;
  request->binary_default = true;
  status = infer_inputs_complete(model, request, err);
  return status == MU_OK ? infer_output_add_all(model, true, request, err) : status;
}

uint64_t rest_infer_binary_start(struct request_input *input) {
  if (input->size == input->source_size) return 0;
  memcpy(input->data, &(uint32_t){(uint32_t)input->source_size}, BYTES_PREFIX);
  return BYTES_PREFIX;
}

/* ---- JSON data --------------------------------------------------------------------------------------------------- */

/* err, which says what is wrong with an input's data, begins with the input's name. */
static mu_status name_input(const struct model *model, const struct request_input *input, mu_status status,
                            mu_error *err) {
  if (err == NULL) return status;
  const mu_error what = *err;
  return mu_fail(err, status, "input '%.100s': %s", model->metadata->inputs[input->index].info.name, what.message);
}

mu_status rest_infer_read_json(const struct model *model, const char *json, size_t json_size, struct request *request,
                               mu_error *err) {
  for (uint32_t i = 0; i < request->n_inputs; i++) {
    const struct request_input *input = &request->inputs[i];
    if (input->source != INPUT_JSON) continue;
    struct json_reader reader;
    json_reader_init_at(&reader, json, input->source_at, input->source_size);
    uint64_t size; /* what the measured text makes of it is input->size: as many elements, and the same strings */
    const mu_status status = json_read_tensor(&reader, input->dtype, NULL, 0, input->data, input->size, &size, err);
    if (status != MU_OK) return name_input(model, input, status, err);
  }
  return MU_OK;
}

/* ---- binary data ------------------------------------------------------------------------------------------------- */

static mu_status check_bytes(const struct request_input *input, mu_error *err) {
  uint64_t at = 0, n = 0;
  for (; at < input->size; n++) {
    const uint64_t left = input->size - at;
    uint32_t length = 0;
    if (left >= BYTES_PREFIX) memcpy(&length, input->data + at, BYTES_PREFIX);
    if (left < BYTES_PREFIX || left - BYTES_PREFIX < length)
      return mu_fail(err, MU_INVALID, "element %llu of BYTES has a length of %u, but only %llu bytes are left",
                     (unsigned long long)n, length,
                     (unsigned long long)(left < BYTES_PREFIX ? 0 : left - BYTES_PREFIX));
    at += BYTES_PREFIX + (uint64_t)length;
  }
  if (n == input->elements) return MU_OK;
  return mu_fail(err, MU_INVALID, "its shape has %llu elements, its data %llu", (unsigned long long)input->elements,
                 (unsigned long long)n);
}

static mu_status check_booleans(const struct request_input *input, mu_error *err) {
  uint8_t all = 0;
  for (uint64_t i = 0; i < input->size; i++) all |= input->data[i];
  if (all <= 1) return MU_OK;
  return mu_fail(err, MU_INVALID, "a byte of BOOL is neither 0 nor 1");
}

mu_status rest_infer_check_binary(const struct model *model, const struct request *request, mu_error *err) {
  static mu_status (*const checks[MU_DTYPE_COUNT])(const struct request_input *input, mu_error *err) = {
      [MU_BYTES] = check_bytes,
      [MU_BOOL] = check_booleans,
  };
  for (uint32_t i = 0; i < request->n_inputs; i++) {
    const struct request_input *input = &request->inputs[i];
    if (input->source == INPUT_JSON || checks[input->dtype] == NULL) continue;
    const mu_status status = checks[input->dtype](input, err);
    if (status != MU_OK) return name_input(model, input, status, err);
  }
  return MU_OK;
}
