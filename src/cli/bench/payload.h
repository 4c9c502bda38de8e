/*
 * What is sent: the body of an infer request (JSON part, binary tensors; random or from files, shapes by the metadata),
 * or a body that is ready; and around it the bytes of the HTTP request.
 */
#ifndef CLI_BENCH_PAYLOAD_H
#define CLI_BENCH_PAYLOAD_H

#include "base/buffer.h"
#include "cli/bench/target.h"

struct payload_options {
  int64_t rows;              /* of the batch dimension (first, varying) */
  const char *const *shapes; /* "NAME:2,3,4": dims after the batch dimension, where they vary */
  size_t n_shapes;
  const char *const *files; /* "NAME=PATH": see tensor_file.h */
  size_t n_files;
  const char *const *headers; /* "Name: value", further ones */
  size_t n_headers;
  uint64_t seed;
};

struct payload {
  const char *method;
  struct buffer headers; /* lines with their ends */
  struct buffer body;
  size_t json_size; /* of an infer request's body: its first part */
  int64_t rows;     /* inferences in one request, as far as is known */
};

/* payload_free is due whatever these return. The first makes the infer request of the target's model, the second takes
 * a ready body (NULL: none) and `bytes` random ones instead where that is not 0. MU_INVALID: a varying dim without a
 * shape, a file that does not fit, a header that is none; MU_IO; MU_TOO_LARGE; MU_NO_MEMORY. */
MUST_CHECK mu_status payload_infer(const struct target *target, const struct payload_options *options,
                                   struct payload *payload, mu_error *err);
MUST_CHECK mu_status payload_ready(const char *method, const char *body_path, uint64_t bytes,
                                   const struct payload_options *options, struct payload *payload, mu_error *err);
void payload_free(struct payload *payload);

/* The bytes for one target: a complete HTTP/1.1 request, or the body alone where the target has no path. */
MUST_CHECK mu_status payload_print(const struct payload *payload, const struct target *target, struct buffer *out,
                                   mu_error *err);

#endif
