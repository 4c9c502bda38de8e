/*
 * What a backend answers to an inference, read as it arrives. Pure: bytes in, tensors into their places. A backend is
 * not trusted: whatever it sends ends in results that fit the model or in an error that says what is wrong, and no more
 * memory is taken than the reply may have. One thread at a time.
 */
#ifndef ENGINE_REMOTE_REMOTE_REPLY_H
#define ENGINE_REMOTE_REMOTE_REPLY_H

#include "base/buffer.h"
#include "engine/remote/remote_body.h"
#include "engine/remote/remote_results.h"

/* A tensor whose bytes follow the JSON. */
struct remote_part {
  uint8_t *place; /* NULL: passed over */
  uint64_t size;
};

struct remote_reply {
  struct remote_results *results;
  enum remote_protocol protocol;
  struct buffer text; /* HTTP: the JSON; gRPC: the message with its prefix */
  uint64_t head_size; /* HTTP: of the JSON; UINT64_MAX: all of the body is */
  bool head_read;
  struct remote_part parts[REMOTE_TENSORS_MAX];
  size_t n_parts, part;
  uint64_t at; /* in the part */
};

/* results is borrowed, and its limit is that of the reply. */
void remote_reply_init(struct remote_reply *reply, struct remote_results *results, enum remote_protocol protocol);
void remote_reply_free(struct remote_reply *reply); /* accepts a zeroed one */

/* A reply begins; results have been started. head_size: HTTP: what Inference-Header-Content-Length says; negative: the
 * reply has no such header. MU_TOO_LARGE. */
MUST_CHECK mu_status remote_reply_start(struct remote_reply *reply, int64_t head_size, mu_error *err);

/* The next bytes of the body. MU_INTERNAL: they are not what they should be; MU_TOO_LARGE; MU_NO_MEMORY. */
MUST_CHECK mu_status remote_reply_take(struct remote_reply *reply, const char *data, size_t size, mu_error *err);

/* The body is over: gives the outputs to the caller of the run. MU_INTERNAL, MU_NO_MEMORY. */
MUST_CHECK mu_status remote_reply_finish(struct remote_reply *reply, mu_error *err);

/* REST, for the file that reads that: the JSON is complete. */
MUST_CHECK mu_status remote_reply_read_json(struct remote_reply *reply, mu_error *err);
/* gRPC: the message, without its prefix. */
MUST_CHECK mu_status remote_reply_read_message(struct remote_reply *reply, const char *data, size_t size,
                                               mu_error *err);

#endif
