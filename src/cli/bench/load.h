/*
 * Load on one target for a warm-up and then a measured window, by one thread.
 *
 * Closed loop: `connections` of them, each with one request on its way; a latency counts from the moment of sending.
 * Open loop: requests fall due by a schedule that knows nothing of the server, and a latency counts from then, not from
 * when a connection was free at last (no coordinated omission). What fell due in the window and was not sent within it,
 * because all connections were busy, is told as not_sent.
 *
 * A request belongs to the window when it fell due (closed loop: was sent) in it; its reply is waited for beyond the
 * end. So sent = answered + failed + unfinished, and offered = sent + not_sent.
 */
#ifndef CLI_BENCH_LOAD_H
#define CLI_BENCH_LOAD_H

#include "cli/bench/cpu.h"
#include "cli/bench/failures.h"
#include "cli/bench/histogram.h"
#include "cli/bench/schedule.h"
#include "cli/bench/target.h"

struct load_options {
  uint32_t connections;
  double rate; /* 0: closed loop */
  enum arrivals arrivals;
  uint64_t seed;
  uint64_t warmup_ns, duration_ns;
  uint64_t requests;        /* 0: by time; else the window ends with so many requests */
  uint64_t timeout_ns;      /* of one request: it then counts as a failure and its connection is made anew */
  uint64_t reply_bytes;     /* of a bare TCP target; 0: as many as are sent */
  bool check;               /* a reply other than the reference is a failure */
  struct buffer *reference; /* NULL: wanted by nobody; empty: takes the body of the first good reply */
  struct cpu_watch *watch;  /* runs over the window; NULL: none */
  /* Called about once a second of the window, where it is not NULL. */
  void (*progress)(void *context, double seconds, double rate);
  void *context;
};

struct load_result {
  struct histogram latencies;                  /* of good replies */
  struct histogram delays;                     /* open loop: from falling due to being sent */
  uint64_t offered, not_sent;                  /* open loop; in the closed loop offered = sent */
  uint64_t sent, answered, failed, unfinished; /* unfinished: only where it was interrupted */
  uint64_t finished;                           /* replies and failures within the window, whenever they were sent */
  double seconds;                              /* of the window */
  struct failures failures;
  bool interrupted; /* SIGINT ended it early, or came before; what was measured counts */
};

/* Adds what another run of the same kind found. */
void load_result_add(struct load_result *into, const struct load_result *from);

/* MU_UNAVAILABLE: no connection can be made; MU_NO_MEMORY; MU_IO. */
MUST_CHECK mu_status load_run(const struct target *target, const struct buffer *request,
                              const struct load_options *options, struct load_result *ret_result, mu_error *err);

#endif
