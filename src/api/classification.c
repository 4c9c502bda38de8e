#include "api/classification.h"

#include "proto/json/json_number.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

/* Compares every type exactly, 64-bit integers included. */
_Static_assert(LDBL_MANT_DIG >= 64, "long double must hold every 64-bit integer");

struct candidate {
  long double value;
  uint64_t index;
};

#define ELEMENT(name, ctype, convert)                    \
  static long double element_##name(const uint8_t *at) { \
    ctype value;                                         \
    memcpy(&value, at, sizeof value);                    \
    return (long double)convert(value);                  \
  }
ELEMENT(u8, uint8_t, )
ELEMENT(u16, uint16_t, )
ELEMENT(u32, uint32_t, )
ELEMENT(u64, uint64_t, )
ELEMENT(i8, int8_t, )
ELEMENT(i16, int16_t, )
ELEMENT(i32, int32_t, )
ELEMENT(i64, int64_t, )
ELEMENT(fp16, uint16_t, json_fp16_value)
ELEMENT(bf16, uint16_t, json_bf16_value)
ELEMENT(float, float, )
ELEMENT(double, double, )

/* How a type's elements are read, and their value printed: as Triton does it, floating ones with six decimals. */
static const struct {
  long double (*element)(const uint8_t *at);
  int decimals;
} types[MU_DTYPE_COUNT] = {
    [MU_BOOL] = {element_u8, 0},     [MU_UINT8] = {element_u8, 0},   [MU_UINT16] = {element_u16, 0},
    [MU_UINT32] = {element_u32, 0},  [MU_UINT64] = {element_u64, 0}, [MU_INT8] = {element_i8, 0},
    [MU_INT16] = {element_i16, 0},   [MU_INT32] = {element_i32, 0},  [MU_INT64] = {element_i64, 0},
    [MU_FP16] = {element_fp16, 6},   [MU_BF16] = {element_bf16, 6},  [MU_FP32] = {element_float, 6},
    [MU_FP64] = {element_double, 6},
};

static bool better(const struct candidate *a, const struct candidate *b) {
  if (isnan(a->value) || isnan(b->value)) {
    if (!isnan(a->value) || !isnan(b->value)) return isnan(b->value);
  } else if (a->value != b->value) {
    return a->value > b->value;
  }
  return a->index < b->index;
}

/* heap[0] is the worst of all: moves what stands there down to its place. */
static void sift_down(struct candidate *heap, uint64_t n) {
  const struct candidate moved = heap[0];
  uint64_t at = 0;
  for (uint64_t child; (child = 2 * at + 1) < n; at = child) {
    if (child + 1 < n && better(&heap[child], &heap[child + 1])) child++;
    if (better(&heap[child], &moved)) break;
    heap[at] = heap[child];
  }
  heap[at] = moved;
}

static void push(struct candidate *heap, uint64_t n, const struct candidate *added) {
  uint64_t at = n;
  for (; at > 0 && better(&heap[(at - 1) / 2], added); at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
  heap[at] = *added;
}

/* The k best of n elements, best first: a heap of k with the worst on top, then sorted in place. */
static void choose(const uint8_t *data, mu_dtype dtype, uint64_t n, struct candidate *best, uint64_t k) {
  const size_t size = mu_dtype_size(dtype);
  for (uint64_t i = 0; i < n; i++) {
    const struct candidate candidate = {types[dtype].element(data + i * size), i};
    if (i < k) {
      push(best, i, &candidate);
    } else if (better(&candidate, &best[0])) {
      best[0] = candidate;
      sift_down(best, k);
    }
  }
  for (uint64_t last = k; last-- > 1;) {
    const struct candidate worst = best[0];
    best[0] = best[last];
    sift_down(best, last);
    best[last] = worst;
  }
}

static const char *find_label(const struct model_tensor_config *config, uint64_t index) {
  const char *label =
      config != NULL && config->labels != NULL && index < config->n_labels ? config->labels[index] : NULL;
  return label != NULL && *label != '\0' ? label : NULL;
}

static mu_status write_class(const struct candidate *candidate, int decimals, const char *label, struct buffer *out) {
  const size_t start = out->size;
  mu_status status = buffer_append(out, &(uint32_t){0}, sizeof(uint32_t));
  if (status == MU_OK)
    status = buffer_print(out, "%.*Lf:%llu", decimals, candidate->value, (unsigned long long)candidate->index);
  if (status == MU_OK && label != NULL) status = buffer_putc(out, ':');
  if (status == MU_OK && label != NULL) status = buffer_puts(out, label);
  if (status != MU_OK) return status;
  const uint32_t length = (uint32_t)(out->size - start - sizeof length);
  memcpy(out->data + start, &length, sizeof length);
  return MU_OK;
}

static const struct model_tensor_config *find_config(const struct model *model, const char *name) {
  for (uint32_t i = 0; i < model->config->n_outputs; i++)
    if (strcmp(model->config->outputs[i].name, name) == 0) return &model->config->outputs[i];
  return NULL;
}

mu_status classification_write(const struct model *model, uint32_t index, const mu_tensor *tensor, uint64_t rows,
                               uint32_t count, struct buffer *out, uint64_t *ret_classes, mu_error *err) {
  const char *name = model->metadata->outputs[index].info.name;
  const size_t size = mu_dtype_size(tensor->dtype);
  if (size == 0)
    return mu_fail(err, MU_UNSUPPORTED, "output '%.100s': a classification needs numbers, the output is %s", name,
                   mu_dtype_name(tensor->dtype));
  if (rows == 0 || tensor->size % (rows * size) != 0)
    return mu_fail(err, MU_INTERNAL, "output '%.100s': %zu bytes are not %llu rows", name, tensor->size,
                   (unsigned long long)rows);
  const uint64_t n = tensor->size / size / rows, k = count < n ? count : n;
  struct candidate *best = calloc(k > 0 ? k : 1, sizeof *best);
  if (best == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for %llu classes", (unsigned long long)k);
  const struct model_tensor_config *config = find_config(model, name);
  mu_status status = MU_OK;
  for (uint64_t row = 0; row < rows && status == MU_OK; row++) {
    choose((const uint8_t *)tensor->data + row * n * size, tensor->dtype, n, best, k);
    for (uint64_t i = 0; i < k && status == MU_OK; i++)
      status = write_class(&best[i], types[tensor->dtype].decimals, find_label(config, best[i].index), out);
  }
  free(best);
  if (status != MU_OK) return mu_fail(err, status, "output '%.100s': no room for its classification", name);
  *ret_classes = k;
  return MU_OK;
}
