/*
 * A tensor out of a file, as the binary form of the protocol sends it. By the end of the name: .npy (its shape and type
 * must fit the model's), .json (an array, nested or flat), anything else raw bytes.
 */
#ifndef CLI_BENCH_TENSOR_FILE_H
#define CLI_BENCH_TENSOR_FILE_H

#include "base/buffer.h"
#include "cli/bench/target.h"

/* The whole file, appended to out. MU_IO, MU_TOO_LARGE. */
MUST_CHECK mu_status file_append(const char *path, struct buffer *out, mu_error *err);

/* dims: in, what the input takes (-1 where it is not known yet); out, those of the tensor. Appends its bytes to out.
 * MU_INVALID: it does not fit the input; a raw file cannot say dims that are -1. MU_IO; MU_TOO_LARGE; MU_NO_MEMORY. */
MUST_CHECK mu_status tensor_file_append(const char *path, const struct target_input *input, int64_t *dims,
                                        struct buffer *out, mu_error *err);

#endif
