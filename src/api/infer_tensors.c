#include "api/infer_tensors.h"

#include <stdio.h>
#include <string.h>

enum { SHAPE_TEXT_MAX = 160, QUOTE_MAX = 100 };

mu_status infer_unknown_tensor(const struct model *model, bool input, const char *name, size_t size, mu_error *err) {
  const struct model_metadata *metadata = model->metadata;
  const struct model_tensor *tensors = input ? metadata->inputs : metadata->outputs;
  const uint32_t n = input ? metadata->n_inputs : metadata->n_outputs;
  char names[256] = "none";
  size_t at = 0;
  for (uint32_t i = 0; i < n && at < sizeof names; i++)
    if (tensors[i].served)
      at += (size_t)snprintf(names + at, sizeof names - at, "%s'%.64s'", at == 0 ? "" : ", ", tensors[i].info.name);
  return mu_fail(err, MU_INVALID, "model '%.100s' has no %s '%.*s'; it has %s", model->name, input ? "input" : "output",
                 (int)(size < QUOTE_MAX ? size : QUOTE_MAX), name, names);
}

/* ---- inputs ------------------------------------------------------------------------------------------------------ */

/* The engine's dims into the input, where the client's fit the model. */
static mu_status take_shape(const struct model *model, const struct model_tensor *tensor, const int64_t *dims,
                            uint32_t rank, struct request_input *input, mu_error *err) {
  char found[SHAPE_TEXT_MAX], wanted[SHAPE_TEXT_MAX];
  if (!model_tensor_to_engine(tensor, dims, rank, input->dims, &input->rank))
    return mu_fail(err, MU_INVALID, "input '%.100s': shape %s does not fit the model's %s", tensor->info.name,
                   shape_text(dims, rank, found, sizeof found),
                   shape_text(tensor->dims, tensor->rank, wanted, sizeof wanted));
  const uint32_t most = model->metadata->max_batch;
  if (most > 0 && (dims[0] < 1 || dims[0] > (int64_t)most))
    return mu_fail(err, MU_INVALID, "input '%.100s': shape %s has %lld rows, the model takes 1 to %u (max_batch_size)",
                   tensor->info.name, shape_text(dims, rank, found, sizeof found), (long long)dims[0], most);
  if (shape_size(input->dtype, input->dims, input->rank, &input->elements, &input->size) != MU_OK)
    return mu_fail(err, MU_INVALID, "input '%.100s': shape %s has more bytes than 63 bits can count", tensor->info.name,
                   shape_text(dims, rank, found, sizeof found));
  return MU_OK;
}

static mu_status check_rows(const struct model *model, const char *name, uint32_t rows, struct request *request,
                            mu_error *err) {
  if (request->n_inputs > 0 && rows != request->rows) {
    const char *other = model->metadata->inputs[request->inputs[0].index].info.name;
    return mu_fail(err, MU_INVALID, "input '%.100s' has %u rows, input '%.100s' has %u", name, rows, other,
                   request->rows);
  }
  request->rows = rows;
  return MU_OK;
}

/* Keeps the inputs in order of the model's. */
static mu_status insert_input(const struct request_input *input, const char *name, struct request *request,
                              struct request_input **ret_input, mu_error *err) {
  for (uint32_t i = 0; i < request->n_inputs; i++)
    if (request->inputs[i].index == input->index)
      return mu_fail(err, MU_INVALID, "input '%.100s' is given twice", name);
  struct request_input *place = request_add_input(request);
  if (place == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the request");
  for (; place > request->inputs && place[-1].index > input->index; place--) *place = place[-1];
  *place = *input;
  *ret_input = place;
  return MU_OK;
}

mu_status infer_input_add(const struct model *model, uint32_t index, const int64_t *dims, uint32_t rank,
                          struct request *request, struct request_input **ret_input, mu_error *err) {
  const struct model_tensor *tensor = &model->metadata->inputs[index];
  struct request_input input = {.index = index, .dtype = tensor->info.dtype};
  mu_status status = take_shape(model, tensor, dims, rank, &input, err);
  if (status != MU_OK) return status;
  const uint32_t rows = model->metadata->max_batch > 0 ? (uint32_t)dims[0] : 1;
  status = check_rows(model, tensor->info.name, rows, request, err);
  return status == MU_OK ? insert_input(&input, tensor->info.name, request, ret_input, err) : status;
}

mu_status infer_inputs_complete(const struct model *model, struct request *request, mu_error *err) {
  const struct model_metadata *metadata = model->metadata;
  uint32_t given = 0;
  for (uint32_t i = 0; i < metadata->n_inputs; i++) {
    if (given < request->n_inputs && request->inputs[given].index == i)
      given++;
    else if (!metadata->inputs[i].info.optional)
      return mu_fail(err, MU_INVALID, "input '%.100s' of model '%.100s' is missing", metadata->inputs[i].info.name,
                     model->name);
  }
  if (request->n_inputs == 0) request->rows = 1;
  request->input_bytes = 0;
  for (uint32_t i = 0; i < request->n_inputs; i++)
    if (__builtin_add_overflow(request->input_bytes, request->inputs[i].size, &request->input_bytes))
      return mu_fail(err, MU_INVALID, "the inputs have more bytes than 64 bits can count");
  return MU_OK;
}

/* ---- outputs ----------------------------------------------------------------------------------------------------- */

mu_status infer_output_add(const struct model *model, uint32_t index, struct request *request,
                           struct request_output **ret_output, mu_error *err) {
  for (uint32_t i = 0; i < request->n_outputs; i++)
    if (request->outputs[i].index == index)
      return mu_fail(err, MU_INVALID, "output '%.100s' is asked for twice", model->metadata->outputs[index].info.name);
  struct request_output *output = request_add_output(request);
  if (output == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the request");
  output->index = index;
  *ret_output = output;
  return MU_OK;
}

mu_status infer_output_add_all(const struct model *model, bool binary, struct request *request, mu_error *err) {
  for (uint32_t i = 0; i < model->metadata->n_outputs; i++) {
    if (!model->metadata->outputs[i].served) continue;
    struct request_output *output;
    const mu_status status = infer_output_add(model, i, request, &output, err);
    if (status != MU_OK) return status;
    output->binary = binary;
  }
  return MU_OK;
}

mu_status infer_output_shape(const struct model *model, uint32_t index, const mu_tensor *tensor, int64_t *dims,
                             uint32_t *ret_rank, mu_error *err) {
  const struct model_tensor *output = &model->metadata->outputs[index];
  if (!output->reshaped) { /* what was produced counts, also where the model had declared something else */
    memcpy(dims, tensor->dims, tensor->rank * sizeof *dims);
    *ret_rank = tensor->rank;
    return MU_OK;
  }
  if (model_tensor_to_client(output, tensor->dims, tensor->rank, dims, ret_rank)) return MU_OK;
  char found[SHAPE_TEXT_MAX], wanted[SHAPE_TEXT_MAX];
  return mu_fail(err, MU_INTERNAL, "output '%.100s': the model produced %s, which cannot be reshaped to %s",
                 output->info.name, shape_text(tensor->dims, tensor->rank, found, sizeof found),
                 shape_text(output->dims, output->rank, wanted, sizeof wanted));
}
