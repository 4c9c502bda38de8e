#include "api/infer_view.h"

#include "api/classification.h"
#include "api/infer_tensors.h"

mu_status infer_find_result(const struct model *model, const struct request *request, uint32_t position,
                            const struct infer_result *results, uint32_t n_results,
                            const struct infer_result **ret_result, mu_error *err) {
  const uint32_t index = request->outputs[position].index;
  for (uint32_t i = 0; i < n_results; i++) {
    const struct infer_result *result = &results[(position + i) % n_results]; /* mostly in the request's order */
    if (result->index != index) continue;
    *ret_result = result;
    return MU_OK;
  }
  return mu_fail(err, MU_INTERNAL, "output '%.100s' was not produced", model->metadata->outputs[index].info.name);
}

mu_status infer_view_tensor(const struct model *model, const struct infer_result *result, struct infer_view *ret_view,
                            mu_error *err) {
  struct infer_view view = {.name = model->metadata->outputs[result->index].info.name, .tensor = result->tensor};
  mu_tensor *tensor = &view.tensor;
  const mu_status status = infer_output_shape(model, result->index, &result->tensor, tensor->dims, &tensor->rank, err);
  if (status != MU_OK) return status;
  uint64_t bytes;
  if (shape_size(tensor->dtype, tensor->dims, tensor->rank, &view.elements, &bytes) == MU_OK &&
      (tensor->dtype == MU_BYTES || bytes == tensor->size)) {
    *ret_view = view;
    return MU_OK;
  }
  char shape[160];
  return mu_fail(err, MU_INTERNAL, "output '%.100s': %zu bytes are not shape %s as %s", view.name, tensor->size,
                 shape_text(tensor->dims, tensor->rank, shape, sizeof shape), mu_dtype_name(tensor->dtype));
}

mu_status infer_view_classes(const struct model *model, const struct request *request, uint32_t count,
                             const struct infer_result *result, struct buffer *classes, struct infer_view *ret_view,
                             mu_error *err) {
  const bool batched = model->metadata->max_batch > 0;
  const uint64_t rows = batched ? request->rows : 1;
  const size_t before = classes->size;
  uint64_t n_classes;
  const mu_status status =
      classification_write(model, result->index, &result->tensor, rows, count, classes, &n_classes, err);
  if (status != MU_OK) return status;
  struct infer_view view = {.name = model->metadata->outputs[result->index].info.name,
                            .tensor = {.dtype = MU_BYTES, .rank = batched ? 2 : 1},
                            .elements = rows * n_classes};
  view.tensor.dims[0] = (int64_t)rows;
  view.tensor.dims[batched] = (int64_t)n_classes;
  view.tensor.size = classes->size - before;
  view.tensor.data = view.tensor.size > 0 ? classes->data + before : NULL;
  *ret_view = view;
  return MU_OK;
}
