/* What a sweep measured, as a table for people or JSON for programs. */
#ifndef CLI_BENCH_REPORT_H
#define CLI_BENCH_REPORT_H

#include "cli/bench/load.h"

struct bench_level {
  uint32_t concurrency;
  int64_t rows; /* of one request */
  struct load_result result;
  uint64_t batches[TARGET_BATCH_MAX + 1]; /* executed while it ran, by rows; from the server's statistics */
};

mu_status report_print_head(struct buffer *out);
mu_status report_print_level(const struct bench_level *level, struct buffer *out);
mu_status report_print_json(const struct target *target, const struct bench_level *const *levels, size_t n,
                            struct buffer *out);

#endif
