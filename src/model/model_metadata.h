/*
 * What a model is once it has been loaded: its tensors as the engine declares them and as clients see them, and
 * whether its requests may be batched. Made in the worker that loaded the model (model_metadata_create), sent to the
 * gateway (control/), immutable after that.
 */
#ifndef MODEL_MODEL_METADATA_H
#define MODEL_MODEL_METADATA_H

#include "model/model_config.h"

struct model_tensor {
  /* The engine's view: what it declares, or config.pbtxt's `reshape`. With max_batch > 0 dims[0] is the batch (-1). */
  mu_tensor_info info;
  /* The client's view: the same unless config.pbtxt reshapes or narrows it; batch dimension included when batched. */
  uint32_t rank;
  int64_t dims[MU_MAX_RANK];
  bool reshaped; /* the two views differ in more than narrowing: shapes go through model_tensor_to_engine/_to_client */
  /* false: config.pbtxt leaves this output (or optional input) out, so clients cannot name it and documents do not list
   * it. It keeps its place, so that an index into inputs or outputs is always the engine's own. */
  bool served;
};

struct model_metadata {
  struct model_tensor *inputs, *outputs; /* all of the engine's, in its order, the ones not served included */
  uint32_t n_inputs, n_outputs;
  uint32_t max_batch;     /* rows that may run together; 0: the model does not batch (no batch dimension) */
  const char *batch_note; /* "" or why a model without an explicit setting is not batched */
  const char *runtime;    /* mu_model_info.runtime */
  const char *platform;   /* "onnxruntime_onnx" */
  struct arena memory;    /* of all of the above */
};

/*
 * Holds config against what the engine loaded. max_batch: as config says; without config or max_batch_size:
 * default_max_batch when every input and output has the same symbolic first dimension (the caller then runs the
 * self-check and may call model_metadata_disable_batching), else 0 with a batch_note.
 * MU_INVALID: config names a tensor the model has not or misses one that it needs, another dtype, dims that do not fit
 * (the message says both), a warm-up that does not match. MU_UNSUPPORTED: more than MODEL_TENSORS_MAX inputs or
 * outputs, names that are not UTF-8. MU_NO_MEMORY.
 */
MUST_CHECK mu_status model_metadata_create(const struct model_config *config, const mu_model_info *info,
                                           const char *platform, uint32_t default_max_batch,
                                           struct model_metadata **ret_metadata, mu_error *err);
void model_metadata_free(struct model_metadata *metadata); /* accepts NULL */

/* max_batch = 0 and why. */
MUST_CHECK mu_status model_metadata_disable_batching(struct model_metadata *metadata, const char *note);

/* Index of a served tensor by name of length len (need not be terminated); -1 when there is none. */
int model_metadata_find_input(const struct model_metadata *metadata, const char *name, size_t len);
int model_metadata_find_output(const struct model_metadata *metadata, const char *name, size_t len);

/*
 * The shape of one request's tensor in the other view, the batch dimension included in both. ret_dims has room for
 * MU_MAX_RANK. False when dims do not fit the view that they come from (rank, a fixed dimension, a negative one).
 */
bool model_tensor_to_engine(const struct model_tensor *tensor, const int64_t *dims, uint32_t rank, int64_t *ret_dims,
                            uint32_t *ret_rank);
bool model_tensor_to_client(const struct model_tensor *tensor, const int64_t *dims, uint32_t rank, int64_t *ret_dims,
                            uint32_t *ret_rank);

/* The form it travels in between processes: appended to out / read back from bytes that are not trusted
 * (MU_INVALID when they do not add up). */
MUST_CHECK mu_status model_metadata_encode(const struct model_metadata *metadata, struct buffer *out);
MUST_CHECK mu_status model_metadata_decode(const void *bytes, size_t size, struct model_metadata **ret_metadata);

#endif
