/*
 * Short questions to a backend: is the model ready there, what is it. Each is one call of a transfer, and blocks until
 * it is answered or `ns` have passed; the transfer's owner calls.
 */
#ifndef ENGINE_REMOTE_REMOTE_ASK_H
#define ENGINE_REMOTE_REMOTE_ASK_H

#include "engine/remote/remote_metadata.h"
#include "engine/remote/remote_transfer.h"

struct remote_asker {
  struct remote_transfer *transfer;
  const struct remote_settings *settings; /* model is set */
  uint64_t ns;
};

/* The outcome is REMOTE_ANSWERED when it is ready. */
void remote_ask_ready(const struct remote_asker *asker, const struct remote_address *address,
                      struct remote_outcome *ret_outcome);

/* *ret_metadata is set when the outcome is REMOTE_ANSWERED. */
void remote_ask_metadata(const struct remote_asker *asker, const struct remote_address *address,
                         struct remote_metadata *ret_metadata, struct remote_outcome *ret_outcome);

/* max_batch_size of its configuration; 0: it does not say, whatever the reason. MU_NO_MEMORY: nobody could ask. */
MUST_CHECK mu_status remote_ask_max_batch(const struct remote_asker *asker, const struct remote_address *address,
                                          uint32_t *ret_rows, mu_error *err);

/* "/v2/models/NAME/versions/V" and what is behind it, for HTTP; MU_TOO_LARGE. */
MUST_CHECK mu_status remote_path(const struct remote_settings *settings, const char *tail, char *path, size_t size,
                                 mu_error *err);

#endif
