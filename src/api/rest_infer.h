/*
 * Inference over REST: the Open Inference Protocol's JSON with Triton's binary tensor extension, to and from one
 * struct request. Pure; the caller brings the bytes and the memory.
 */
#ifndef API_REST_INFER_H
#define API_REST_INFER_H

#include "model/model.h"
#include "request/request.h"

#include <sys/uio.h>

#define BINARY_SIZE_UNKNOWN UINT64_MAX /* a body whose length nobody has said */

/*
 * Reads the JSON part of a request (the whole body, or the first Inference-Header-Content-Length bytes) and checks all
 * of it against the model: names, dtypes, shapes (also rows against max_batch), element counts of JSON and binary data,
 * missing and doubled inputs, unknown outputs, parameters. request is an empty one (received_ns may be set).
 * binary_size: bytes after the JSON part, which must be exactly what the inputs claim; with BINARY_SIZE_UNKNOWN the
 * caller holds the bytes against request->binary_bytes when they have come. The text of INPUT_JSON inputs is measured
 * but not converted. Whether the regions of request->shares exist is not looked at.
 *
 * Errors: MU_INVALID with a sentence that names the input and both values; MU_UNAVAILABLE: the model has no metadata
 * yet; MU_NO_MEMORY. Parameters that would need what is not built (sequence_id …) are
 * MU_UNSUPPORTED; parameters that nobody knows are passed over, as Triton does.
 */
MUST_CHECK mu_status rest_infer_parse(const struct model *model, const char *json, size_t json_size,
                                      uint64_t binary_size, struct request *request, mu_error *err);

/*
 * A body without JSON (header length 0): all of it is the data of the model's single input, one row where the model
 * batches. The shape is worked out from the size (one varying dimension at most). BYTES: the body is the one element,
 * without its length: see rest_infer_binary_start. All outputs answer in binary.
 */
MUST_CHECK mu_status rest_infer_raw(const struct model *model, uint64_t body_size, struct request *request,
                                    mu_error *err);

/* Once data is set: where in it the source_size bytes of an INPUT_BINARY input begin. 0, but for a raw body of BYTES,
 * whose element gets its length written before it here. */
uint64_t rest_infer_binary_start(struct request_input *input);

/* After the inputs' memory has been reserved (data is set): converts the JSON data of all INPUT_JSON inputs into it.
 * json as given to rest_infer_parse. MU_INVALID: a value that the input's type cannot hold. */
MUST_CHECK mu_status rest_infer_read_json(const struct model *model, const char *json, size_t json_size,
                                          struct request *request, mu_error *err);

/* After all binary data has arrived, or was copied from shared memory: what only the bytes can tell. BYTES inputs: the
 * element lengths add up to the size and to the shape's count; BOOL bytes are 0 or 1. */
MUST_CHECK mu_status rest_infer_check_binary(const struct model *model, const struct request *request, mu_error *err);

/* One produced output, this request's rows only. */
struct infer_result {
  uint32_t index;   /* into the model's outputs */
  mu_tensor tensor; /* dims with this request's rows */
};

/*
 * The reply. json: the text (appended; alone in the buffer its size is the Inference-Header-Content-Length, which is
 * sent when n_binary is not 0); binary: one iovec for each binary output, in order of the request, with room for
 * n_outputs of the request; of an output in shared memory there is only its description. They point into the results'
 * own memory; those of classified outputs, which have none, into json's memory behind its size: json must stay as it is
 * while they are in use. Errors: MU_UNSUPPORTED (JSON cannot carry the value), MU_INTERNAL, MU_TOO_LARGE, MU_NO_MEMORY.
 */
MUST_CHECK mu_status rest_infer_render(const struct model *model, const struct request *request,
                                       const struct infer_result *results, uint32_t n_results, struct buffer *json,
                                       struct iovec *binary, uint32_t *ret_n_binary, mu_error *err);

#endif
