/*
 * The bytes of the infer request that a load consists of: HTTP head, JSON part, binary tensors. Inputs are random
 * (seeded) or read from files, shapes come from the metadata.
 */
#ifndef CLI_BENCH_PAYLOAD_H
#define CLI_BENCH_PAYLOAD_H

#include "base/buffer.h"
#include "cli/bench/target.h"

struct payload_options {
  int64_t rows;              /* of the batch dimension (first, varying) */
  const char *const *shapes; /* "NAME:2,3,4": dims after the batch dimension, where they vary */
  size_t n_shapes;
  const char *const *files; /* "NAME=PATH": raw bytes of the tensor, as the protocol sends them */
  size_t n_files;
  uint64_t seed;
};

/* A complete HTTP/1.1 request into out. MU_INVALID: a varying dim without a shape, a file of another size; MU_IO. */
MUST_CHECK mu_status payload_build(const struct target *target, const struct payload_options *options,
                                   struct buffer *out, mu_error *err);

#endif
