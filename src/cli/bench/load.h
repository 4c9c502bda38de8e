/*
 * A closed loop: `concurrency` connections, each with one request in flight, for a warm-up and then a measured time.
 * One thread, on libuv; the same bytes for every request.
 */
#ifndef CLI_BENCH_LOAD_H
#define CLI_BENCH_LOAD_H

#include "base/buffer.h"
#include "cli/bench/latencies.h"
#include "cli/bench/target.h"

struct load_options {
  uint32_t concurrency;
  uint64_t warmup_ns, duration_ns;
  uint64_t requests;   /* 0: by time; else the measured part ends after so many answers */
  uint64_t timeout_ns; /* of one request: it then counts as an error and its connection is made anew */
  /* Called about once a second of the measured part, where it is not NULL. */
  void (*progress)(void *context, double seconds, double rate);
  void *context;
};

enum { LOAD_ERROR_KINDS = 16 };

struct load_error {
  char what[160]; /* "503 the queue of model 'x' is full …", "connection refused" */
  uint64_t count;
};

struct load_result {
  struct latencies latencies; /* of answers with 200 in the measured part */
  uint64_t answered, failed;
  double seconds;                             /* really measured */
  struct load_error errors[LOAD_ERROR_KINDS]; /* the last one collects all further kinds */
  uint32_t n_errors;
  bool interrupted; /* SIGINT ended it early; what was measured counts */
};

/* MU_UNAVAILABLE: no connection could be made at all; MU_NO_MEMORY. */
MUST_CHECK mu_status load_run(const struct target *target, const struct buffer *request,
                              const struct load_options *options, struct load_result *ret_result, mu_error *err);

#endif
