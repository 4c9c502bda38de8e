#include "worker/sample.h"

#include <stdlib.h>
#include <string.h>

enum { SAMPLE_MAX = 256 << 20 }; /* bytes of one sample */
enum { TEXT_LENGTH = 8 };        /* of an invented text: all alike, so that rows of BYTES have a stride too */

/* ---- elements ---------------------------------------------------------------------------------------------------- */

/* splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t draw(uint64_t *random) {
  uint64_t z = *random += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

static uint64_t draw_whole(uint64_t *random, uint32_t range, int64_t row) {
  uint32_t own = range >> (row % 3); /* neighbours differ in how large their largest number is */
  return draw(random) % (own < 2 ? 2 : own);
}

static double draw_real(uint64_t *random, int64_t row) {
  static const double magnitudes[] = {1, 10, 0.1, 100};
  double unit = (double)(draw(random) >> 11) * 0x1p-52 - 1;
  return unit * magnitudes[row % 4];
}

/* Rounded towards zero; what is below the smallest normal number becomes zero. */
static uint16_t half_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  uint32_t sign = bits >> 16 & 0x8000;
  int exponent = (int)(bits >> 23 & 0xff) - 127 + 15;
  if (exponent <= 0) return (uint16_t)sign;
  return (uint16_t)(sign | (uint32_t)exponent << 10 | (bits >> 13 & 0x3ff));
}

static void put_bool(uint64_t *random, uint32_t range, int64_t row, uint8_t *to) { *to = draw(random) & 1; }

/* Whole numbers are below 2^32 and stored little-endian: the first bytes are the number in every width. */
#define PUT_WHOLE(width)                                                                     \
  static void put_whole##width(uint64_t *random, uint32_t range, int64_t row, uint8_t *to) { \
    uint64_t value = draw_whole(random, range, row);                                         \
    memcpy(to, &value, width / 8);                                                           \
  }
PUT_WHOLE(8)
PUT_WHOLE(16)
PUT_WHOLE(32)
PUT_WHOLE(64)

static void put_fp16(uint64_t *random, uint32_t range, int64_t row, uint8_t *to) {
  uint16_t value = half_of((float)draw_real(random, row));
  memcpy(to, &value, sizeof value);
}
static void put_bf16(uint64_t *random, uint32_t range, int64_t row, uint8_t *to) {
  float value = (float)draw_real(random, row);
  memcpy(to, (uint8_t *)&value + 2, 2); /* the upper half of an FP32 */
}
static void put_fp32(uint64_t *random, uint32_t range, int64_t row, uint8_t *to) {
  float value = (float)draw_real(random, row);
  memcpy(to, &value, sizeof value);
}
static void put_fp64(uint64_t *random, uint32_t range, int64_t row, uint8_t *to) {
  double value = draw_real(random, row);
  memcpy(to, &value, sizeof value);
}
static void put_text(uint64_t *random, uint32_t range, int64_t row, uint8_t *to) {
  uint32_t length = TEXT_LENGTH;
  memcpy(to, &length, sizeof length);
  for (uint32_t i = 0; i < length; i++) to[sizeof length + i] = (uint8_t)('a' + draw(random) % 26);
}

static void (*const puts_element[MU_DTYPE_COUNT])(uint64_t *random, uint32_t range, int64_t row, uint8_t *to) = {
    [MU_BOOL] = put_bool,      [MU_UINT8] = put_whole8, [MU_UINT16] = put_whole16, [MU_UINT32] = put_whole32,
    [MU_UINT64] = put_whole64, [MU_INT8] = put_whole8,  [MU_INT16] = put_whole16,  [MU_INT32] = put_whole32,
    [MU_INT64] = put_whole64,  [MU_FP16] = put_fp16,    [MU_FP32] = put_fp32,      [MU_FP64] = put_fp64,
    [MU_BYTES] = put_text,     [MU_BF16] = put_bf16,
};

size_t sample_element_size(mu_dtype dtype, const struct sample_plan *plan) {
  if (dtype != MU_BYTES) return mu_dtype_size(dtype);
  return sizeof(uint32_t) + (plan->range > 0 ? TEXT_LENGTH : 0);
}

size_t sample_fill(mu_dtype dtype, const struct sample_plan *plan, int64_t row, uint64_t n, uint64_t *random,
                   uint8_t *data) {
  size_t size = sample_element_size(dtype, plan);
  if (plan->range == 0) {
    memset(data, 0, n * size);
  } else {
    for (uint64_t i = 0; i < n; i++) puts_element[dtype](random, plan->range, row, data + i * size);
  }
  return n * size;
}

/* ---- samples ----------------------------------------------------------------------------------------------------- */

static mu_status shape_input(const mu_tensor_info *info, const struct sample_plan *plan, mu_tensor *ret_tensor,
                             mu_error *err) {
  mu_tensor tensor = {.dtype = info->dtype, .rank = info->rank};
  for (uint32_t d = 0; d < info->rank; d++) {
    int64_t free_size = d == 0 && plan->batched ? plan->rows : plan->varying;
    tensor.dims[d] = info->dims[d] >= 0 ? info->dims[d] : free_size;
  }
  uint64_t elements = 0;
  if (shape_size(tensor.dtype, tensor.dims, tensor.rank, &elements, NULL) != MU_OK || elements > SAMPLE_MAX) {
    return mu_fail(err, MU_TOO_LARGE, "an invented input \"%s\" would be too large", info->name);
  }
  tensor.size = elements * sample_element_size(tensor.dtype, plan);
  *ret_tensor = tensor;
  return MU_OK;
}

static void fill_input(mu_tensor *tensor, const struct sample_plan *plan, uint64_t *random) {
  int64_t rows = plan->batched ? plan->rows : 1;
  uint64_t elements = tensor->size / sample_element_size(tensor->dtype, plan);
  uint8_t *to = tensor->data;
  for (int64_t row = 0; row < rows; row++) {
    to += sample_fill(tensor->dtype, plan, row, elements / (uint64_t)rows, random, to);
  }
}

mu_status sample_create(const mu_tensor_info *infos, size_t n, const struct sample_plan *plan,
                        struct sample *ret_sample, mu_error *err) {
  size_t size = 0;
  mu_input *inputs = calloc(n > 0 ? n : 1, sizeof *inputs);
  if (inputs == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  mu_status status = MU_OK;
  for (size_t i = 0; status == MU_OK && i < n; i++) {
    inputs[i].index = (uint32_t)i;
    status = shape_input(&infos[i], plan, &inputs[i].tensor, err);
    size += (inputs[i].tensor.size + 63) / 64 * 64; /* each begins where any type is aligned */
    if (status == MU_OK && size > SAMPLE_MAX) {
      status = mu_fail(err, MU_TOO_LARGE, "invented inputs would take %zu bytes", size);
    }
  }
  uint8_t *memory = status == MU_OK ? aligned_alloc(64, size > 0 ? size : 64) : NULL;
  if (status == MU_OK && memory == NULL) status = mu_fail(err, MU_NO_MEMORY, "no memory for an invented input");
  if (status != MU_OK) {
    free(inputs);
    return status;
  }
  uint64_t random = plan->seed;
  uint8_t *at = memory;
  for (size_t i = 0; i < n; i++) {
    inputs[i].tensor.data = at;
    fill_input(&inputs[i].tensor, plan, &random);
    at += (inputs[i].tensor.size + 63) / 64 * 64;
  }
  *ret_sample = (struct sample){inputs, n, memory};
  return MU_OK;
}

mu_status sample_row(const struct sample *batch, int64_t row, struct sample *ret_row, mu_error *err) {
  mu_input *inputs = calloc(batch->n > 0 ? batch->n : 1, sizeof *inputs);
  if (inputs == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  for (size_t i = 0; i < batch->n; i++) {
    inputs[i] = batch->inputs[i];
    mu_tensor *tensor = &inputs[i].tensor;
    tensor->size /= (size_t)tensor->dims[0];
    tensor->dims[0] = 1;
    tensor->data = (uint8_t *)tensor->data + (size_t)row * tensor->size;
  }
  *ret_row = (struct sample){inputs, batch->n, NULL};
  return MU_OK;
}

void sample_free(struct sample *sample) {
  free(sample->inputs);
  free(sample->memory);
  *sample = (struct sample){0};
}
