/*
 * Which backend gets the next request, and which get none: pure, with the time given. Whoever embeds it sends requests
 * and checks, and says what became of them. One thread at a time.
 *
 * A backend is out (unhealthy) from the beginning until its first good check; again when it refuses a connection, by
 * `failures_out` failed requests in a row, or by `checks_out` failed checks in a row. It comes back by a good check and
 * by nothing else, so that it is found without a request that happens to succeed. Checks of one that is out begin
 * check_first_ns apart, then each wait is twice the one before, up to check_most_ns.
 */
#ifndef BACKEND_BACKEND_POOL_H
#define BACKEND_BACKEND_POOL_H

#include "base/status.h"

#define BACKEND_NONE SIZE_MAX

enum backend_state { BACKEND_UNHEALTHY, BACKEND_HEALTHY };

/* What became of a request or a check. */
enum backend_outcome {
  BACKEND_OK,       /* it answered, be it with an error of its own */
  BACKEND_FAILED,   /* it broke off, answered that it cannot, or not in time */
  BACKEND_REFUSED,  /* no connection: nobody is there */
  BACKEND_NO_RESULT /* the client left, the check was given up: says nothing of the backend */
};

struct backend {
  enum backend_state state;
  bool draining; /* gets no new request, whatever its state */
  uint32_t outstanding;
  uint64_t total_requests, error_count;
  /* private */
  uint32_t failures, check_failures; /* in a row */
  bool checking;
  uint64_t check_at_ns, check_wait_ns;
};

struct backend_pool_settings {
  uint32_t failures_out, checks_out;
  uint64_t check_interval_ns;             /* while healthy */
  uint64_t check_first_ns, check_most_ns; /* while not */
};

/* 3 requests, 2 checks; every 2 s, 100 ms to 1 s. */
extern const struct backend_pool_settings backend_pool_defaults;

struct backend_pool {
  struct backend_pool_settings settings;
  struct backend *items;
  size_t n, n_healthy; /* draining ones count by their state */
  size_t turn;         /* private: where the search for the least begins */
};

/* All are unhealthy, their checks due at now_ns. MU_NO_MEMORY. */
MUST_CHECK mu_status backend_pool_init(struct backend_pool *pool, size_t n,
                                       const struct backend_pool_settings *settings, uint64_t now_ns, mu_error *err);
void backend_pool_free(struct backend_pool *pool); /* accepts a zeroed one */

/* The healthy backend with the least outstanding work, ties in turn; not one of those in tried[]. BACKEND_NONE. */
size_t backend_pool_choose(struct backend_pool *pool, const size_t *tried, size_t n_tried);

/* A request goes to it. */
void backend_pool_begin(struct backend_pool *pool, size_t index);
/* It is over. true: the backend is out now and was not before (somebody may want to log it). */
bool backend_pool_end(struct backend_pool *pool, size_t index, enum backend_outcome outcome, uint64_t now_ns);

void backend_pool_drain(struct backend_pool *pool, size_t index, bool draining);

/* A backend whose check is due, which is then being checked: backend_pool_checked says how it ended. BACKEND_NONE. */
size_t backend_pool_check(struct backend_pool *pool, uint64_t now_ns);
/* true: its state has changed. */
bool backend_pool_checked(struct backend_pool *pool, size_t index, enum backend_outcome outcome, uint64_t now_ns);
/* When backend_pool_check has something next; TIME_NEVER while all are being checked. */
uint64_t backend_pool_next_check(const struct backend_pool *pool);

#endif
