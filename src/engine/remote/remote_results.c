#include "engine/remote/remote_results.h"

#include <stdlib.h>
#include <string.h>

mu_status remote_results_create(struct remote_results *results, const mu_model_info *info, uint64_t limit,
                                mu_error *err) {
  *results = (struct remote_results){.info = info, .limit = limit};
  results->slots = calloc(info->n_outputs > 0 ? info->n_outputs : 1, sizeof *results->slots);
  if (results->slots == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  for (size_t i = 0; i < info->n_outputs; i++) buffer_init(&results->slots[i].own, limit);
  return MU_OK;
}

void remote_results_free(struct remote_results *results) {
  for (size_t i = 0; results->slots != NULL && i < results->info->n_outputs; i++) buffer_free(&results->slots[i].own);
  free(results->slots);
  *results = (struct remote_results){0};
}

mu_status remote_results_start(struct remote_results *results, mu_output *outputs, size_t n_outputs, mu_error *err) {
  if (n_outputs > results->info->n_outputs)
    return mu_fail(err, MU_INVALID, "%zu outputs of a model that has %zu", n_outputs, results->info->n_outputs);
  for (size_t i = 0; i < n_outputs; i++) {
    if (outputs[i].index >= results->info->n_outputs)
      return mu_fail(err, MU_INVALID, "there is no output %u", outputs[i].index);
    results->slots[i].filled = false;
  }
  results->outputs = outputs;
  results->n_outputs = n_outputs;
  results->total = 0;
  return MU_OK;
}

static const mu_tensor_info *info_of(const struct remote_results *results, size_t i) {
  return &results->info->outputs[results->outputs[i].index];
}

/* The position among the outputs asked for; n_outputs: nobody asked for it. */
static size_t find(const struct remote_results *results, const struct remote_tensor *tensor) {
  size_t i = 0;
  for (; i < results->n_outputs; i++) {
    const char *name = info_of(results, i)->name;
    if (strlen(name) == tensor->name_size && memcmp(name, tensor->name, tensor->name_size) == 0) break;
  }
  return i;
}

static mu_status check(const mu_tensor_info *info, const struct remote_tensor *tensor, uint64_t size, mu_error *err) {
  char announced[128], declared[128];
  if (tensor->dtype != info->dtype)
    return mu_fail(err, MU_INTERNAL, "its output \"%.64s\" is %s, the model's is %s", info->name,
                   mu_dtype_name(tensor->dtype), mu_dtype_name(info->dtype));
  bool fits = tensor->rank == info->rank;
  for (uint32_t d = 0; fits && d < info->rank; d++) fits = info->dims[d] < 0 || info->dims[d] == tensor->dims[d];
  uint64_t elements, bytes;
  if (!fits || shape_size(tensor->dtype, tensor->dims, tensor->rank, &elements, &bytes) != MU_OK)
    return mu_fail(err, MU_INTERNAL, "its output \"%.64s\" has the shape %s, the model's has %s", info->name,
                   shape_text(tensor->dims, tensor->rank, announced, sizeof announced),
                   shape_text(info->dims, info->rank, declared, sizeof declared));
  bool enough = info->dtype == MU_BYTES ? size / sizeof(uint32_t) >= elements : size == bytes;
  if (enough) return MU_OK;
  return mu_fail(err, MU_INTERNAL, "its output \"%.64s\" has %llu bytes, which is not what %s of shape %s takes",
                 info->name, (unsigned long long)size, mu_dtype_name(info->dtype),
                 shape_text(tensor->dims, tensor->rank, announced, sizeof announced));
}

/* A place of the caller's is for exactly one shape; anything else gets memory of ours. */
static uint8_t *offered_place(const mu_tensor *offered, const mu_tensor *tensor) {
  bool fits = offered->data != NULL && offered->dtype == tensor->dtype && offered->rank == tensor->rank &&
              tensor->size <= offered->size;
  for (uint32_t d = 0; fits && d < tensor->rank; d++) fits = offered->dims[d] == tensor->dims[d];
  return fits ? offered->data : NULL;
}

/* *ret_slot: NULL when nobody wants it. */
static mu_status announce(struct remote_results *results, const struct remote_tensor *tensor, uint64_t size,
                          struct remote_slot **ret_slot, uint8_t **ret_offered, mu_error *err) {
  if (size > results->limit - results->total)
    return mu_fail(err, MU_TOO_LARGE, "its reply has more than %llu bytes (remote.max_reply_mib)",
                   (unsigned long long)results->limit);
  results->total += size;
  size_t i = find(results, tensor);
  *ret_slot = NULL;
  if (i == results->n_outputs) return MU_OK;
  const mu_tensor_info *info = info_of(results, i);
  struct remote_slot *slot = &results->slots[i];
  if (slot->filled) return mu_fail(err, MU_INTERNAL, "its reply has the output \"%.64s\" twice", info->name);
  mu_status status = check(info, tensor, size, err);
  if (status != MU_OK) return status;
  slot->tensor = (mu_tensor){.dtype = tensor->dtype, .rank = tensor->rank, .size = size};
  memcpy(slot->tensor.dims, tensor->dims, sizeof slot->tensor.dims);
  *ret_offered = offered_place(&results->outputs[i].tensor, &slot->tensor);
  *ret_slot = slot;
  return MU_OK;
}

mu_status remote_results_place(struct remote_results *results, const struct remote_tensor *tensor, uint64_t size,
                               uint8_t **ret_place, mu_error *err) {
  struct remote_slot *slot;
  uint8_t *place;
  *ret_place = NULL;
  mu_status status = announce(results, tensor, size, &slot, &place, err);
  if (status != MU_OK || slot == NULL) return status;
  if (place == NULL) {
    buffer_clear(&slot->own);
    status = buffer_reserve(&slot->own, size > 0 ? size : 1);
    if (status != MU_OK) return mu_fail(err, status, "no memory for an output of %llu bytes", (unsigned long long)size);
    place = (uint8_t *)slot->own.data;
  }
  slot->tensor.data = *ret_place = place;
  slot->filled = true;
  return MU_OK;
}

mu_status remote_results_take(struct remote_results *results, const struct remote_tensor *tensor, const void *data,
                              uint64_t size, mu_error *err) {
  struct remote_slot *slot;
  uint8_t *place;
  mu_status status = announce(results, tensor, size, &slot, &place, err);
  if (status != MU_OK || slot == NULL) return status;
  if (place != NULL && size > 0) memcpy(place, data, size);
  slot->tensor.data = place != NULL ? place : (void *)(uintptr_t)data;
  slot->filled = true;
  return MU_OK;
}

/* A length before each element, as many elements as the shape says, and nothing behind them. */
static bool texts_add_up(const mu_tensor *tensor) {
  const uint8_t *data = tensor->data;
  uint64_t elements, left = tensor->size;
  if (shape_size(tensor->dtype, tensor->dims, tensor->rank, &elements, NULL) != MU_OK) return false;
  for (uint64_t i = 0; i < elements; i++) {
    uint32_t length;
    if (left < sizeof length) return false;
    memcpy(&length, data, sizeof length); /* little-endian, as every machine that muster runs on */
    if (left - sizeof length < length) return false;
    data += sizeof length + length;
    left -= sizeof length + length;
  }
  return left == 0;
}

mu_status remote_results_finish(struct remote_results *results, mu_error *err) {
  for (size_t i = 0; i < results->n_outputs; i++) {
    const struct remote_slot *slot = &results->slots[i];
    const char *name = info_of(results, i)->name;
    if (!slot->filled) return mu_fail(err, MU_INTERNAL, "its reply lacks the output \"%.64s\"", name);
    if (slot->tensor.dtype == MU_BYTES && !texts_add_up(&slot->tensor))
      return mu_fail(err, MU_INTERNAL, "the texts of its output \"%.64s\" do not add up", name);
  }
  for (size_t i = 0; i < results->n_outputs; i++) results->outputs[i].tensor = results->slots[i].tensor;
  return MU_OK;
}
