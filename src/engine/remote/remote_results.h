/*
 * Where the outputs of a run go while a backend's reply is read, and what they must be: every tensor that a backend
 * announces is held against what the model declares and what was asked for before a byte of it is stored. Nothing
 * reaches the caller's outputs before the whole reply is known to be good, so that another backend can be asked with
 * the same ones. One thread at a time.
 */
#ifndef ENGINE_REMOTE_REMOTE_RESULTS_H
#define ENGINE_REMOTE_REMOTE_RESULTS_H

#include "base/buffer.h"
#include "base/status.h"

/* What a reply says of a tensor, as far as it could be read. */
struct remote_tensor {
  const char *name; /* not terminated */
  size_t name_size;
  mu_dtype dtype; /* MU_DTYPE_INVALID: of a name that is none */
  uint32_t rank;
  int64_t dims[MU_MAX_RANK];
};

struct remote_slot {
  bool filled;
  mu_tensor tensor;  /* as announced; data: where it stands */
  struct buffer own; /* for what has no place of the caller's */
};

struct remote_results {
  const mu_model_info *info;
  struct remote_slot *slots; /* info->n_outputs of them: by position in outputs */
  uint64_t limit;            /* bytes of all outputs of a reply */
  uint64_t total;            /* of this reply */
  mu_output *outputs;        /* of the run; borrowed */
  size_t n_outputs;
};

/* info is borrowed. MU_NO_MEMORY. */
MUST_CHECK mu_status remote_results_create(struct remote_results *results, const mu_model_info *info, uint64_t limit,
                                           mu_error *err);
void remote_results_free(struct remote_results *results); /* accepts a zeroed one */

/* A reply begins. MU_INVALID: outputs that the model has not. */
MUST_CHECK mu_status remote_results_start(struct remote_results *results, mu_output *outputs, size_t n_outputs,
                                          mu_error *err);

/*
 * A tensor of `size` bytes is announced; *ret_place: where they have to be written, or NULL when nobody wants them.
 * MU_INTERNAL: it is not what the model declares, its bytes do not fit its shape, it comes twice; MU_TOO_LARGE: past
 * limit; MU_NO_MEMORY.
 */
MUST_CHECK mu_status remote_results_place(struct remote_results *results, const struct remote_tensor *tensor,
                                          uint64_t size, uint8_t **ret_place, mu_error *err);
/* The same for a tensor whose bytes stand at data until the next run: they are copied only into a place of the
 * caller's.
 */
MUST_CHECK mu_status remote_results_take(struct remote_results *results, const struct remote_tensor *tensor,
                                         const void *data, uint64_t size, mu_error *err);

/* All bytes are there: gives the outputs to the caller. MU_INTERNAL: one lacks, or BYTES that do not add up. */
MUST_CHECK mu_status remote_results_finish(struct remote_results *results, mu_error *err);

#endif
