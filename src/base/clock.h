/* Time. Everything in muster counts nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

enum { NS_PER_US = 1000, NS_PER_MS = 1000000 };
#define NS_PER_S UINT64_C(1000000000)
#define TIME_NEVER UINT64_MAX /* a deadline or wake-up that does not come */

/* Now, in nanoseconds of CLOCK_MONOTONIC. Any thread. */
uint64_t clock_now_ns(void);

/* a + b, held at TIME_NEVER instead of wrapping. */
static inline uint64_t time_add(uint64_t a, uint64_t b) { return a > TIME_NEVER - b ? TIME_NEVER : a + b; }

#endif
