/* Parameters behind the question mark of a target: NAME=VALUE&NAME=VALUE, percent-encoded. Pure. */
#ifndef SUPERVISOR_QUERY_H
#define SUPERVISOR_QUERY_H

#include "base/status.h"

/* The value of `name`, decoded, into text; "" where it is not given. MU_INVALID: it does not fit, has a NUL character,
 * or is no percent-encoding. */
MUST_CHECK mu_status query_value(const char *query, const char *name, char *text, size_t size, mu_error *err);

#endif
