/* raw_input_contents of a ModelInferRequest against its inputs. For grpc_infer's own files. */
#ifndef API_GRPC_INFER_RAW_H
#define API_GRPC_INFER_RAW_H

#include "api/grpc_infer.h"

/* Those that lie in a message: at and size of the first MODEL_TENSORS_MAX. */
struct grpc_raw {
  uint32_t n;
  size_t at[MODEL_TENSORS_MAX], size[MODEL_TENSORS_MAX];
};

/* The request's INPUT_BINARY inputs, n_inputs of them, have source_at 0 to n_inputs - 1. Both give them their sizes and
 * sum up binary_bytes; _place also where they lie in the message, where _reckon leaves source_at. */
MUST_CHECK mu_status grpc_raw_place(const struct model *model, const struct grpc_raw *raw, uint32_t n_inputs,
                                    struct request *request, mu_error *err);
MUST_CHECK mu_status grpc_raw_reckon(const struct model *model, const struct grpc_infer_rest *rest,
                                     struct request *request, mu_error *err);

#endif
