/*
 * The Open Inference Protocol's JSON as messages of a stream (docs/websocket.md): what the query of the stream's
 * address asks for, which model a message is for, and what is said instead of a reply. Pure.
 */
#ifndef API_REST_STREAM_H
#define API_REST_STREAM_H

#include "base/buffer.h"
#include "request/request.h"

struct stream_options {
  uint32_t max_in_flight; /* messages without an answer; reading pauses at it */
  bool ordered;           /* answers in the order of the messages, else as they are there */
  uint64_t deadline_ns;   /* of each message, from its first byte; 0: as for any request */
  bool drop_late;         /* one that cannot be in time costs no run */
  bool keep_newest;       /* one that still waits when another one comes is dropped */
};

/* "order=request&deadline_ms=40": order (finished, request), max_in_flight, deadline_ms, drop (late), keep (newest).
 * most_in_flight: the server's limit, and the default. MU_INVALID: unknown or doubled keys, wrong values, drop=late
 * without a deadline; the message says what is allowed. */
MUST_CHECK mu_status rest_stream_options(const char *query, uint32_t most_in_flight, struct stream_options *ret_options,
                                         mu_error *err);

/* "model_name" and "model_version" of a message's JSON; version is -1 where there is none. model: room for 256 bytes.
 * MU_INVALID: no name, or one that cannot be one. */
MUST_CHECK mu_status rest_stream_model(const char *json, size_t size, char *ret_model, int64_t *ret_version,
                                       mu_error *err);

/* The "id" of a message that is wrong otherwise, as far as it can be read; "" without one. id: REQUEST_ID_MAX + 1
 * bytes.
 */
void rest_stream_id(const char *json, size_t size, char *ret_id);

/* {"id":…,"error":…,"status":…} and {"id":…,"dropped":…}; without id where it is "". */
void rest_stream_error(struct buffer *out, const char *id, const char *error, int http_status);
void rest_stream_dropped(struct buffer *out, const char *id, const char *why);

#endif
