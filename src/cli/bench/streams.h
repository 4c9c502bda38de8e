/*
 * Live streams: WebSockets on which frames are due at a fixed rate, whether the server keeps up or not, as from
 * cameras. One thread. All streams send the same message; answers are matched by their order (order=request).
 */
#ifndef CLI_BENCH_STREAMS_H
#define CLI_BENCH_STREAMS_H

#include "cli/bench/histogram.h"
#include "cli/bench/target.h"

struct streams_options {
  uint32_t streams;
  double fps;           /* of each */
  uint64_t deadline_ns; /* from when a frame is due to its answer */
  uint64_t warmup_ns, duration_ns;
  const struct buffer *message; /* of the model's binary stream layout: docs/websocket.md */
};

struct streams_result {
  struct histogram latencies; /* of the answered frames, from when they were due */
  uint64_t due;               /* frames; each is in one of the following */
  uint64_t in_time, late;     /* answered */
  uint64_t dropped;           /* by the server, as too late */
  uint64_t unsent;            /* the connection was still busy with the frame before, or too many were on their way */
  uint64_t failed;            /* answered with an error */
  uint64_t open;              /* without an answer at the end */
  char error[256];            /* the first one */
};

/* MU_IO, MU_UNAVAILABLE: no connection, or one that ended. The result is large: on the heap. */
MUST_CHECK mu_status streams_run(const struct target *target, const struct streams_options *options,
                                 struct streams_result *ret_result, mu_error *err);

#endif
