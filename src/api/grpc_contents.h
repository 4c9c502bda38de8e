/* Typed tensor data of a ModelInferRequest: InferTensorContents, element by element. For grpc_infer's own files. */
#ifndef API_GRPC_CONTENTS_H
#define API_GRPC_CONTENTS_H

#include "proto/protobuf/wire.h"

/*
 * All elements of an InferInputTensor's contents in order of the message, packed or not, from however many pieces. An
 * element of a field of numbers is in value, of bytes_contents in bytes and size; number is its field's.
 */
struct grpc_contents {
  struct pb_reader tensor, contents, packed;
  uint32_t packed_number;
};

void grpc_contents_begin(struct grpc_contents *walk, const char *tensor, size_t size);

/* False at the end, or where the bytes are no protobuf, of which grpc_contents_finish then tells. */
bool grpc_contents_next(struct grpc_contents *walk, struct pb_field *element);
MUST_CHECK mu_status grpc_contents_finish(const struct grpc_contents *walk, const char *what, mu_error *err);

/* The field of InferTensorContents that carries a type; NULL for those that only raw contents carry. */
const char *grpc_contents_field(mu_dtype dtype, uint32_t *ret_number);
const char *grpc_contents_field_name(uint32_t number); /* 1 to 8 */

/* One element into its place, `size` bytes for a number. False: the type cannot hold it. */
bool grpc_contents_store(mu_dtype dtype, const struct pb_field *element, uint8_t *place);

#endif
