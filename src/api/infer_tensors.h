/*
 * What every protocol has to check of an inference request's tensors against its model. Clients speak of shapes in
 * their own view (config.pbtxt `dims`), the request holds the engine's (after `reshape`). Pure.
 */
#ifndef API_INFER_TENSORS_H
#define API_INFER_TENSORS_H

#include "model/model.h"
#include "request/request.h"

/*
 * Adds input `index` of the model with the client's dims (none below 0) to the request, in order of the model's inputs,
 * with everything filled but its source; size stays 0 for BYTES. *ret_input is valid until the next call.
 * MU_INVALID: the shape does not fit, too many rows or not as many as in other inputs, an input twice; MU_NO_MEMORY.
 */
MUST_CHECK mu_status infer_input_add(const struct model *model, uint32_t index, const int64_t *dims, uint32_t rank,
                                     struct request *request, struct request_input **ret_input, mu_error *err);

/* Fails with MU_INVALID: the model has no such input (or output), and these it has. name: what the client wrote. */
mu_status infer_unknown_tensor(const struct model *model, bool input, const char *name, size_t size, mu_error *err);

/* When all inputs are there: MU_INVALID when one is missing that is not optional; sums up input_bytes. */
MUST_CHECK mu_status infer_inputs_complete(const struct model *model, struct request *request, mu_error *err);

/* MU_INVALID when the output has been asked for already; MU_NO_MEMORY. */
MUST_CHECK mu_status infer_output_add(const struct model *model, uint32_t index, struct request *request,
                                      struct request_output **ret_output, mu_error *err);

/* All outputs that the model serves. MU_NO_MEMORY. */
MUST_CHECK mu_status infer_output_add_all(const struct model *model, bool binary, struct request *request,
                                          mu_error *err);

/* A produced output's shape as the client sees it, into dims[MU_MAX_RANK]. MU_INTERNAL: it cannot be reshaped so. */
MUST_CHECK mu_status infer_output_shape(const struct model *model, uint32_t index, const mu_tensor *tensor,
                                        int64_t *dims, uint32_t *ret_rank, mu_error *err);

#endif
