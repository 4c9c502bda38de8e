#include "engine/sim/sim_element.h"

#include <stdlib.h>
#include <string.h>

#define NUMBER_READER(name, type)              \
  static double name(const uint8_t *element) { \
    type value;                                \
    memcpy(&value, element, sizeof value);     \
    return (double)value;                      \
  }

NUMBER_READER(read_u8, uint8_t)
NUMBER_READER(read_u16, uint16_t)
NUMBER_READER(read_u32, uint32_t)
NUMBER_READER(read_u64, uint64_t)
NUMBER_READER(read_i8, int8_t)
NUMBER_READER(read_i16, int16_t)
NUMBER_READER(read_i32, int32_t)
NUMBER_READER(read_i64, int64_t)
NUMBER_READER(read_f32, float)
NUMBER_READER(read_f64, double)

static double (*const readers[MU_DTYPE_COUNT])(const uint8_t *element) = {
    [MU_BOOL] = read_u8,    [MU_UINT8] = read_u8, [MU_UINT16] = read_u16, [MU_UINT32] = read_u32,
    [MU_UINT64] = read_u64, [MU_INT8] = read_i8,  [MU_INT16] = read_i16,  [MU_INT32] = read_i32,
    [MU_INT64] = read_i64,  [MU_FP32] = read_f32, [MU_FP64] = read_f64,
};

/* BYTES have no stride: walks all elements, looking at each per_row-th. */
static bool any_row_begins_text(const mu_tensor *tensor, uint64_t per_row, const char *text) {
  const uint8_t *data = tensor->data;
  size_t at = 0, wanted = strlen(text);
  uint32_t length = 0;
  for (uint64_t i = 0; tensor->size - at >= sizeof length; i++) {
    memcpy(&length, data + at, sizeof length);
    at += sizeof length;
    if (length > tensor->size - at) return false;
    if (i % per_row == 0 && length == wanted && memcmp(data + at, text, wanted) == 0) return true;
    at += length;
  }
  return false;
}

bool sim_any_row_begins(const mu_tensor *tensor, const char *value) {
  uint64_t elements = 0, bytes = 0;
  if (value == NULL || shape_size(tensor->dtype, tensor->dims, tensor->rank, &elements, &bytes) != MU_OK) return false;
  if (elements == 0 || bytes > tensor->size) return false;
  uint64_t rows = tensor->rank > 0 ? (uint64_t)tensor->dims[0] : 1, per_row = elements / rows;
  if (tensor->dtype == MU_BYTES) return any_row_begins_text(tensor, per_row, value);
  char *end;
  double wanted = strtod(value, &end);
  if (end == value || *end != '\0' || readers[tensor->dtype] == NULL) return false;
  uint64_t stride = per_row * mu_dtype_size(tensor->dtype);
  for (uint64_t row = 0; row < rows; row++) {
    if (readers[tensor->dtype]((const uint8_t *)tensor->data + row * stride) == wanted) return true;
  }
  return false;
}
