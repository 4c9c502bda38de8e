/*
 * Status codes as words, and the size arithmetic that hostile numbers need. Any thread, any process.
 */
#ifndef BASE_STATUS_H
#define BASE_STATUS_H

#include <muster/muster.h>

#define MUST_CHECK __attribute__((warn_unused_result))

/* "INVALID", "NOT_FOUND", …; never NULL. */
const char *status_name(mu_status status);

/* Elements and bytes of a shape, every step checked for overflow. A dimension below 0 is MU_INVALID.
 * For MU_BYTES *ret_bytes is 0. Nothing is written on failure. Either ret may be NULL. */
MUST_CHECK mu_status shape_size(mu_dtype dtype, const int64_t *dims, uint32_t rank, uint64_t *ret_elements,
                                uint64_t *ret_bytes);

/* "[2,3,-1]" into text (always terminated, cut off with "…" when it does not fit); returns text. */
const char *shape_text(const int64_t *dims, uint32_t rank, char *text, size_t size);

#endif
