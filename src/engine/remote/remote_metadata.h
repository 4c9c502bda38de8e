/*
 * What a backend says of its model: inputs and outputs, and how many rows it takes at once. Parsed from what a stranger
 * sends; pure. Owned by whoever parses it.
 */
#ifndef ENGINE_REMOTE_REMOTE_METADATA_H
#define ENGINE_REMOTE_REMOTE_METADATA_H

#include "base/arena.h"
#include "engine/remote/remote_settings.h"

struct remote_metadata {
  struct arena memory;
  const mu_tensor_info *inputs, *outputs;
  size_t n_inputs, n_outputs;
};

/* The answer to a request for metadata. MU_INTERNAL: it is none, or says what no model can be; MU_NO_MEMORY. */
MUST_CHECK mu_status remote_metadata_parse(enum remote_protocol protocol, const char *data, size_t size,
                                           struct remote_metadata *ret_metadata, mu_error *err);

/* As config.pbtxt declares it; copied. MU_INVALID: a type lacks; MU_NO_MEMORY. */
MUST_CHECK mu_status remote_metadata_declared(const mu_model_spec *spec, struct remote_metadata *ret_metadata,
                                              mu_error *err);

/* MU_INVALID: they are not the same, err says in what. The order of tensors says nothing. */
MUST_CHECK mu_status remote_metadata_compare(const struct remote_metadata *one, const struct remote_metadata *other,
                                             mu_error *err);

void remote_metadata_free(struct remote_metadata *metadata); /* accepts a zeroed one */

/* max_batch_size in the answer to a request for the configuration; 0: it says none. */
uint32_t remote_metadata_max_batch(enum remote_protocol protocol, const char *data, size_t size);

#endif
