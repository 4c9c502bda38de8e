/*
 * The bare peer that servers are compared with (`muster bench --echo`): sends back what it gets, as soon as it gets it.
 * One thread; no protocol.
 */
#ifndef CLI_BENCH_ECHO_H
#define CLI_BENCH_ECHO_H

#include "base/status.h"

/* where: "[HOST:]PORT", port 0: any. Prints "HOST:PORT" when it listens; returns only on a failure, MU_INVALID or
 * MU_IO. */
MUST_CHECK mu_status echo_serve(const char *where, mu_error *err);

#endif
