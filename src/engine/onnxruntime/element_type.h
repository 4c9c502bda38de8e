/*
 * ONNX Runtime's element types beside muster's, and BYTES tensors in and out of its string tensors. Pure, any thread.
 */
#ifndef ENGINE_ONNXRUNTIME_ELEMENT_TYPE_H
#define ENGINE_ONNXRUNTIME_ELEMENT_TYPE_H

#include "base/buffer.h"
#include "engine/onnxruntime/library.h"

/* MU_DTYPE_INVALID for a type that muster does not carry. */
mu_dtype element_type_to_dtype(ONNXTensorElementDataType type);
ONNXTensorElementDataType element_type_of_dtype(mu_dtype dtype);
/* "FLOAT8E4M3FN"; for messages, also of types that muster does not carry. */
const char *element_type_name(ONNXTensorElementDataType type);

/*
 * Fills the string tensor `value` of n elements from the wire form (u32 length, bytes, …) in data. Every byte of data
 * is read once (it may be shared memory that its writer changes meanwhile). MU_INVALID: not exactly n elements.
 */
MUST_CHECK mu_status string_tensor_fill(const struct ort_library *library, OrtValue *value, uint64_t n,
                                        const uint8_t *data, size_t size, const char *name, mu_error *err);

/* The wire form of the string tensor `value` of n elements, in place of what wire held. MU_NO_MEMORY, MU_TOO_LARGE. */
MUST_CHECK mu_status string_tensor_read(const struct ort_library *library, const OrtValue *value, uint64_t n,
                                        struct buffer *wire, mu_error *err);

#endif
