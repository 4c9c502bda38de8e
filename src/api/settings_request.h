/* The body of a POST that changes settings: log_settings.c and trace_settings.c say which there are. Pure. */
#ifndef API_SETTINGS_REQUEST_H
#define API_SETTINGS_REQUEST_H

#include "base/status.h"
#include "proto/json/json_reader.h"

/* Reads the value of one member, or says why it cannot be set. A value that is no JSON is found by the caller. */
typedef mu_status settings_read_member(struct json_reader *reader, const struct json_text *key, void *context,
                                       mu_error *err);

/* An empty body has no members. what: "log". The member's errors; MU_INVALID: no JSON object. */
MUST_CHECK mu_status settings_request_parse(const char *what, const char *body, size_t size,
                                            settings_read_member *read_member, void *context, mu_error *err);

#endif
