#include "engine/onnxruntime/element_type.h"

#include <stdlib.h>

/* By ONNXTensorElementDataType. Numbers where the name is newer than the header may be. */
static const struct {
  const char *name;
  mu_dtype dtype;
} types[] = {
    [ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED] = {"UNDEFINED", MU_DTYPE_INVALID},
    [ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT] = {"FLOAT", MU_FP32},
    [ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8] = {"UINT8", MU_UINT8},
    [ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8] = {"INT8", MU_INT8},
    [ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16] = {"UINT16", MU_UINT16},
    [ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16] = {"INT16", MU_INT16},
    [ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32] = {"INT32", MU_INT32},
    [ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64] = {"INT64", MU_INT64},
    [ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING] = {"STRING", MU_BYTES},
    [ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL] = {"BOOL", MU_BOOL},
    [ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16] = {"FLOAT16", MU_FP16},
    [ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE] = {"DOUBLE", MU_FP64},
    [ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32] = {"UINT32", MU_UINT32},
    [ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64] = {"UINT64", MU_UINT64},
    [ONNX_TENSOR_ELEMENT_DATA_TYPE_COMPLEX64] = {"COMPLEX64", MU_DTYPE_INVALID},
    [ONNX_TENSOR_ELEMENT_DATA_TYPE_COMPLEX128] = {"COMPLEX128", MU_DTYPE_INVALID},
    [ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16] = {"BFLOAT16", MU_BF16},
    [17] = {"FLOAT8E4M3FN", MU_DTYPE_INVALID},
    [18] = {"FLOAT8E4M3FNUZ", MU_DTYPE_INVALID},
    [19] = {"FLOAT8E5M2", MU_DTYPE_INVALID},
    [20] = {"FLOAT8E5M2FNUZ", MU_DTYPE_INVALID},
    [21] = {"UINT4", MU_DTYPE_INVALID},
    [22] = {"INT4", MU_DTYPE_INVALID},
    [23] = {"FLOAT4E2M1", MU_DTYPE_INVALID},
    [24] = {"UINT2", MU_DTYPE_INVALID},
    [25] = {"INT2", MU_DTYPE_INVALID},
    [26] = {"FLOAT8E8M0", MU_DTYPE_INVALID},
};
enum { N_TYPES = sizeof types / sizeof types[0] };

mu_dtype element_type_to_dtype(ONNXTensorElementDataType type) {
  return (size_t)type < N_TYPES ? types[type].dtype : MU_DTYPE_INVALID;
}

const char *element_type_name(ONNXTensorElementDataType type) {
  return (size_t)type < N_TYPES ? types[type].name : "of a newer ONNX";
}

ONNXTensorElementDataType element_type_of_dtype(mu_dtype dtype) {
  for (size_t i = 1; i < N_TYPES; i++) {
    if (types[i].dtype == dtype) return (ONNXTensorElementDataType)i;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

mu_status string_tensor_fill(const struct ort_library *library, OrtValue *value, uint64_t n, const uint8_t *data,
                             size_t size, const char *name, mu_error *err) {
  size_t at = 0;
  for (uint64_t i = 0; i < n; i++) {
    uint32_t length;
    if (size - at < sizeof length) {
      return mu_fail(err, MU_INVALID, "input \"%s\": element %llu of %llu is missing", name, (unsigned long long)i,
                     (unsigned long long)n);
    }
    memcpy(&length, data + at, sizeof length);
    at += sizeof length;
    if (size - at < length) {
      return mu_fail(err, MU_INVALID, "input \"%s\": element %llu is longer than what is left of the data", name,
                     (unsigned long long)i);
    }
    char *element = NULL;
    OrtStatus *failed = library->api->GetResizedStringTensorElementBuffer(value, i, length, &element);
    if (failed != NULL) return ort_result(library, failed, name, err);
    memcpy(element, data + at, length);
    at += length;
  }
  if (at != size) return mu_fail(err, MU_INVALID, "input \"%s\": bytes after the last element", name);
  return MU_OK;
}

/* In wire stand n free lengths' room, then the text of all elements, `offsets` telling where each begins. Moving an
 * element down to its place never passes the start of the next one, so one buffer is enough. */
static void interleave_lengths(char *wire, const size_t *offsets, uint64_t n, size_t text_size) {
  const char *text = wire + n * sizeof(uint32_t);
  char *to = wire;
  for (uint64_t i = 0; i < n; i++) {
    size_t end = i + 1 < n ? offsets[i + 1] : text_size;
    uint32_t length = (uint32_t)(end - offsets[i]);
    memmove(to + sizeof length, text + offsets[i], length);
    memcpy(to, &length, sizeof length);
    to += sizeof length + length;
  }
}

static mu_status read_text(const struct ort_library *library, const OrtValue *value, uint64_t n, size_t text_size,
                           struct buffer *wire, mu_error *err) {
  size_t *offsets = malloc((size_t)n * sizeof *offsets);
  if (offsets == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the strings of an output");
  char *text = wire->data + n * sizeof(uint32_t);
  OrtStatus *failed = library->api->GetStringTensorContent(value, text, text_size, offsets, (size_t)n);
  mu_status status = ort_result(library, failed, "cannot read a string output", err);
  if (status == MU_OK) interleave_lengths(wire->data, offsets, n, text_size);
  free(offsets);
  return status;
}

mu_status string_tensor_read(const struct ort_library *library, const OrtValue *value, uint64_t n, struct buffer *wire,
                             mu_error *err) {
  size_t text_size = 0;
  OrtStatus *failed = library->api->GetStringTensorDataLength(value, &text_size);
  mu_status status = ort_result(library, failed, "cannot read a string output", err);
  if (status != MU_OK) return status;
  buffer_clear(wire);
  uint64_t size;
  if (__builtin_mul_overflow(n, (uint64_t)sizeof(uint32_t), &size) || __builtin_add_overflow(size, text_size, &size)) {
    return mu_fail(err, MU_TOO_LARGE, "a string output is too large");
  }
  status = buffer_reserve(wire, (size_t)size);
  if (status != MU_OK) return mu_fail(err, status, "no memory for the strings of an output");
  if (n > 0) status = read_text(library, value, n, text_size, wire, err);
  if (status == MU_OK) wire->size = (size_t)size;
  return status;
}
