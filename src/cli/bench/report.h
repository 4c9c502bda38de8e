/* What was measured, as a table for people or JSON for programs. */
#ifndef CLI_BENCH_REPORT_H
#define CLI_BENCH_REPORT_H

#include "cli/bench/comparison.h"

mu_status report_print_head(const struct bench_row *row, struct buffer *out);
mu_status report_print_row(const struct bench_row *row, struct buffer *out);
mu_status report_print_json(const struct bench_row *const *rows, size_t n, struct buffer *out);

#endif
