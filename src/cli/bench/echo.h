/*
 * The bare peer that servers are compared with (`muster bench --echo`): sends back what it gets. One thread; no
 * protocol.
 */
#ifndef CLI_BENCH_ECHO_H
#define CLI_BENCH_ECHO_H

#include "base/status.h"

/* where: "[HOST:]PORT", port 0: any. least: bytes that have to be there before any is sent back, as a server does that
 * needs the whole request for its answer; 0: they go back as they come. Prints "HOST:PORT" when it listens; returns
 * only on a failure, MU_INVALID or MU_IO. */
MUST_CHECK mu_status echo_serve(const char *where, size_t least, mu_error *err);

#endif
