/*
 * Triton's trace extension: GET and POST v2/trace/setting and v2/models/M/trace/setting. Pure. A change names fields;
 * those that it does not name stay, those that it clears follow what stands above (a model the global settings, the
 * global settings those of the start).
 */
#ifndef API_TRACE_SETTINGS_H
#define API_TRACE_SETTINGS_H

#include "base/buffer.h"
#include "config/trace_config.h"

struct trace_change {
  unsigned fields;  /* enum trace_field, together: have the values of `to` from now on */
  unsigned cleared; /* enum trace_field */
  struct trace_settings to;
};

/* One setting by its name, with its values as strings (trace_level may have several, the others have one; none clears
 * it). As gRPC's TraceSetting has them. MU_INVALID; MU_UNSUPPORTED: trace_file, TENSORS, another mode. */
MUST_CHECK mu_status trace_change_set(struct trace_change *change, const char *name, const char *const *values,
                                      size_t n, mu_error *err);

/* A request's body, which may be empty: strings (numbers are taken too), an array of them for trace_level, null to
 * clear. As trace_change_set. */
MUST_CHECK mu_status trace_change_parse(const char *body, size_t size, struct trace_change *ret_change, mu_error *err);

/* The answer: all settings. MU_NO_MEMORY, MU_TOO_LARGE. */
MUST_CHECK mu_status document_trace_settings(struct buffer *out, const struct trace_settings *settings,
                                             const char *file);

#endif
