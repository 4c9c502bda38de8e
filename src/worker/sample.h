/*
 * Invented inputs for a model: for its warm-up, and for the check that rows of a batch leave each other alone. Owned by
 * whoever creates it; one thread at a time.
 */
#ifndef WORKER_SAMPLE_H
#define WORKER_SAMPLE_H

#include "base/status.h"

struct sample_plan {
  bool batched;    /* the first dimension is the batch */
  int64_t rows;    /* of the batch */
  int64_t varying; /* what other varying dimensions are */
  uint32_t range; /* 0: zeros (and empty texts); else random: whole numbers below range, others around zero, each row of
                     another magnitude than its neighbours */
  uint64_t seed;
};

struct sample {
  mu_input *inputs; /* all of the model, in order */
  size_t n;
  void *memory; /* of their data; NULL in a sample made by sample_row */
};

/* MU_TOO_LARGE: it would need more than a worker should spend on an invented input; MU_NO_MEMORY. */
MUST_CHECK mu_status sample_create(const mu_tensor_info *infos, size_t n, const struct sample_plan *plan,
                                   struct sample *ret_sample, mu_error *err);

/* Row `row` of a batched sample as a batch of one, over the memory of `batch`. MU_NO_MEMORY. */
MUST_CHECK mu_status sample_row(const struct sample *batch, int64_t row, struct sample *ret_row, mu_error *err);

void sample_free(struct sample *sample); /* accepts a zeroed one */

/* Writes n elements for row `row` of plan, those of one input, to data; *random is the generator's state. Returns the
 * bytes written. For inputs whose shape is configured rather than invented. */
size_t sample_fill(mu_dtype dtype, const struct sample_plan *plan, int64_t row, uint64_t n, uint64_t *random,
                   uint8_t *data);

/* Bytes of one element that sample_fill writes. */
size_t sample_element_size(mu_dtype dtype, const struct sample_plan *plan);

#endif
