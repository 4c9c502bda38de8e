/* ModelInferRequests by hand, in wire form, and what a caller does with them. */
#ifndef TESTS_API_GRPC_REQUEST_H
#define TESTS_API_GRPC_REQUEST_H

#include "api/grpc_infer.h"
#include "proto/protobuf/wire.h"

#include "infer_attempt.h"

static inline struct buffer wire_new(void) {
  struct buffer b;
  buffer_init(&b, 1 << 24);
  return b;
}

/* A message inside of a message; takes `inner` with it. */
static inline void wire_message(struct buffer *out, uint32_t number, struct buffer *inner) {
  pb_put_bytes(out, number, inner->data, inner->size);
  buffer_free(inner);
}

static inline void wire_text(struct buffer *out, uint32_t number, const char *text) {
  pb_put_bytes(out, number, text, strlen(text));
}

static inline void wire_number(struct buffer *out, uint32_t number, uint64_t value) {
  pb_put_tag(out, number, PB_VARINT);
  pb_put_varint(out, value);
}

/* InferInputTensor without contents. */
static inline struct buffer wire_input(const char *name, const char *datatype, uint32_t rank, const int64_t *dims) {
  struct buffer input = wire_new(), shape = wire_new();
  wire_text(&input, 1, name);
  wire_text(&input, 2, datatype);
  for (uint32_t i = 0; i < rank; i++) pb_put_varint(&shape, (uint64_t)dims[i]);
  wire_message(&input, 3, &shape);
  return input;
}

static inline void wire_add_input(struct buffer *out, const char *name, const char *datatype, uint32_t rank,
                                  const int64_t *dims) {
  struct buffer input = wire_input(name, datatype, rank, dims);
  wire_message(out, 5, &input);
}

/* Both ways that a call reads a message. Every piece of memory has exactly its size. */
static inline void grpc_attempt_whole(struct attempt *a, const struct model *model, const void *message, size_t size) {
  memset(a, 0, sizeof *a);
  char *copy = malloc(size > 0 ? size : 1);
  assert_non_null(copy);
  if (size > 0) memcpy(copy, message, size);
  a->status = grpc_infer_parse(model, copy, size, NULL, &a->request, &a->err);
  if (a->status == MU_OK) {
    attempt_memory(a);
    for (uint32_t i = 0; i < a->request.n_inputs; i++) {
      const struct request_input *input = &a->request.inputs[i];
      assert_true(input->source_at + input->source_size <= size);
      if (input->source == INPUT_BINARY) assert_int_equal(input->source_size, input->size);
    }
    grpc_infer_copy_raw(copy, &a->request);
    a->status = grpc_infer_read_contents(model, copy, &a->request, &a->err);
  }
  if (a->status == MU_OK) a->status = rest_infer_check_binary(model, &a->request, &a->err);
  free(copy);
}

#endif
