/*
 * Triton's logging extension: GET and POST v2/logging. Pure. What a client may change is a set of fields; those that it
 * does not name stay.
 */
#ifndef API_LOG_SETTINGS_H
#define API_LOG_SETTINGS_H

#include "base/buffer.h"
#include "base/log.h"
#include "base/status.h"

enum log_change_field {
  LOG_CHANGE_ERROR = 1,
  LOG_CHANGE_WARNING = 2,
  LOG_CHANGE_INFO = 4,
  LOG_CHANGE_VERBOSE_LEVEL = 8,
  LOG_CHANGE_FORMAT = 16,
};
struct log_change {
  unsigned fields; /* enum log_change_field, together */
  struct log_settings to;
};

/* Why log_file cannot be set, in Triton's words: MU_UNSUPPORTED, whatever the protocol. */
extern const char log_file_refusal[];

/* "default" or "ISO8601" into the change. MU_INVALID. */
MUST_CHECK mu_status log_change_set_format(struct log_change *change, const char *text, size_t size, mu_error *err);
const char *log_format_text(const struct log_settings *settings);

/* A request's body, which may be empty: log_info, log_warning, log_error, log_verbose_level, log_format; null leaves a
 * field as it is. MU_INVALID: no such setting, or not a value for it; MU_UNSUPPORTED: log_file. */
MUST_CHECK mu_status log_change_parse(const char *body, size_t size, struct log_change *ret_change, mu_error *err);

void log_change_apply(const struct log_change *change, struct log_settings *settings);

/* The answer: all settings. MU_NO_MEMORY, MU_TOO_LARGE. */
MUST_CHECK mu_status document_log_settings(struct buffer *out, const struct log_settings *settings);

#endif
