/*
 * Tensors in shared memory of the client (Triton's shared memory extension): what every protocol has to check of the
 * parameters shared_memory_region, shared_memory_byte_size and shared_memory_offset. Pure: whether there is such a
 * region is for the gateway to say.
 */
#ifndef API_INFER_SHARED_MEMORY_H
#define API_INFER_SHARED_MEMORY_H

#include "model/model.h"
#include "request/request.h"

/* The parameters of one tensor, as a message gave them. */
struct shared_memory_parameters {
  bool has_region, has_byte_size, has_offset;
  const char *region; /* region_size bytes, not terminated */
  size_t region_size;
  uint64_t byte_size, offset;
};

/* Was any of them given? */
static inline bool shared_memory_given(const struct shared_memory_parameters *parameters) {
  return parameters->has_region || parameters->has_byte_size || parameters->has_offset;
}

/* An input that infer_input_add has made: its data is in shared memory. byte_size must be what its shape takes; of
 * BYTES it is the size in wire form. MU_INVALID, MU_NO_MEMORY. */
MUST_CHECK mu_status infer_input_share(const struct model *model, const struct shared_memory_parameters *parameters,
                                       struct request *request, struct request_input *input, mu_error *err);

/* An output that infer_output_add has made, its classification set: the result goes to shared memory, `binary` is off.
 * MU_INVALID, MU_NO_MEMORY. */
MUST_CHECK mu_status infer_output_share(const struct model *model, const struct shared_memory_parameters *parameters,
                                        struct request *request, struct request_output *output, mu_error *err);

/* Whether the result of an output fits the room that its client has given it. MU_INVALID. */
MUST_CHECK mu_status infer_output_fits(const struct model *model, const struct request *request,
                                       const struct request_output *output, uint64_t size, mu_error *err);

#endif
