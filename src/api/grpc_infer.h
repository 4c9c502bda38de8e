/*
 * Inference over gRPC: the Open Inference Protocol's ModelInferRequest and ModelInferResponse with Triton's extensions,
 * to and from one struct request. The twin of api/rest_infer.h. Pure; the caller brings the bytes and the memory.
 * Messages are read where they lie and written by hand: a tensor's bytes are never part of a decoded message.
 *
 * protobuf's rules hold: fields in any order, the last of a singular one counts, repeated ones add up, unknown ones
 * (and known ones of another wire type) are passed over. Strings must be UTF-8, without NUL.
 */
#ifndef API_GRPC_INFER_H
#define API_GRPC_INFER_H

#include "api/grpc_scan.h"
#include "api/rest_infer.h" /* struct infer_result, rest_infer_check_binary */
#include "model/model.h"
#include "request/request.h"

#include <sys/uio.h>

/* ---- requests ---------------------------------------------------------------------------------------------------- */

/* Whom a request is for, before its model is known. */
struct grpc_infer_target {
  char model[256];             /* model_name */
  int64_t version;             /* model_version; -1 where it is empty */
  char id[REQUEST_ID_MAX + 1]; /* for the answer of a stream that refuses it */
};

/*
 * Reads it from a message or its head. id is filled as far as it could be read, also on failure, and model too.
 * MU_INVALID: no protobuf, no model_name or one that cannot be a model's, a version that is no positive number.
 */
MUST_CHECK mu_status grpc_infer_find_target(const char *message, size_t size, struct grpc_infer_target *ret_target,
                                            mu_error *err);

/*
 * Fills request (an empty one, but for received_ns) and checks all of it against the model: what rest_infer_parse
 * checks.
 *
 * message: with rest == NULL a whole message; raw contents in it are INPUT_BINARY, with source_at as an offset into
 * message. With rest, the head of one whose first raw contents begin now: source_at is then the number of the raw
 * contents, and grpc_infer_raw_input finds their input. Typed `contents` are INPUT_TYPED: source_at and source_size are
 * the input's own message inside of message (or head), which must stay until grpc_infer_read_contents.
 *
 * An input takes its data from raw contents, all in order of the request's inputs, or from typed contents; not both in
 * one request. FP16 and BF16 have raw contents only. Beside either, inputs may be in shared memory of the client
 * (INPUT_SHARED), for which there are no raw contents.
 *
 * Sizes: an input's size in the arena follows from its shape, and raw contents of another size are refused. Only BYTES
 * says its size by its data. So with rest, sizes are known unless two or more inputs are BYTES: of one, the size is the
 * message's less that of all others (or it is the first). Where the arithmetic does not come out, because the message
 * has unknown fields behind its contents or numbers longer than they need be, or where an input is missing that may
 * still come behind the contents, sizes are not known either: then
 * request->binary_bytes is UINT64_MAX, sizes of BYTES are 0, and the message must be collected (grpc_scan_stage).
 *
 * Errors: MU_INVALID with a sentence that names the input and both values; MU_UNAVAILABLE: the model has no metadata
 * yet; MU_UNSUPPORTED: sequences; MU_NO_MEMORY.
 */
MUST_CHECK mu_status grpc_infer_parse(const struct model *model, const char *message, size_t size,
                                      const struct grpc_infer_rest *rest, struct request *request, mu_error *err);

static inline bool grpc_infer_sizes_known(const struct request *request) { return request->binary_bytes != UINT64_MAX; }

/*
 * With rest: the input that raw contents number k belong to, whose memory they fill exactly. *ret_input is NULL where
 * the size of BYTES came out otherwise than it had been reckoned (unknown fields behind the contents): then go on as
 * after GRPC_SCAN_LATE. MU_INVALID: more contents than inputs, or of another size than that input's.
 */
MUST_CHECK mu_status grpc_infer_raw_input(const struct model *model, struct request *request, uint32_t k, uint64_t size,
                                          struct request_input **ret_input, mu_error *err);

/* With rest, at the end of the message: MU_INVALID when there were fewer raw contents than inputs. */
MUST_CHECK mu_status grpc_infer_raw_end(const struct model *model, const struct request *request, uint32_t n_raw,
                                        mu_error *err);

/* After the inputs' memory has been reserved: copies what lies in message of a request that was parsed without rest,
 * INPUT_BINARY, to its place. */
void grpc_infer_copy_raw(const char *message, struct request *request);

/* After the inputs' memory has been reserved: converts the typed contents of all INPUT_TYPED inputs into it. message as
 * given to grpc_infer_parse. MU_INVALID: a value that the input's type cannot hold. */
MUST_CHECK mu_status grpc_infer_read_contents(const struct model *model, const char *message, struct request *request,
                                              mu_error *err);

/* What only the bytes can tell is checked by rest_infer_check_binary once all have arrived. */

/* ---- replies ----------------------------------------------------------------------------------------------------- */

enum grpc_reply_kind {
  GRPC_REPLY_UNARY,  /* ModelInferResponse */
  GRPC_REPLY_STREAM, /* ModelStreamInferResponse; with Triton's parameter triton_final_response, which is true */
};

/* Entries that grpc_infer_render may need for so many outputs. */
#define GRPC_INFER_IOV_MAX(n_outputs) (2 * (n_outputs) + 1)

/*
 * The reply as one gRPC message, its 5 bytes of prefix (uncompressed) included: iov[0] to iov[n - 1], *ret_size bytes
 * together. head: an empty buffer, for all that is not tensor data (and for the data of classified outputs); it must
 * stay as it is while iov is in use. The other entries point into the results' own memory, which *ret_borrows says
 * there are. Of an output in shared memory there is its description, and raw contents that are empty: clients count on
 * one for each output. iov has room for GRPC_INFER_IOV_MAX(request->n_outputs).
 * MU_TOO_LARGE: more than 2 GiB - 1, which no client of protobuf can read; MU_UNSUPPORTED, MU_INTERNAL, MU_NO_MEMORY.
 */
MUST_CHECK mu_status grpc_infer_render(const struct model *model, const struct request *request,
                                       const struct infer_result *results, uint32_t n_results,
                                       enum grpc_reply_kind kind, struct buffer *head, struct iovec *iov,
                                       uint32_t *ret_n_iov, uint64_t *ret_size, bool *ret_borrows, mu_error *err);

/* ModelStreamInferResponse for a request that failed, as one gRPC message with its prefix: error_message, and the
 * request's id so that the client knows which one. Appended. MU_NO_MEMORY, MU_TOO_LARGE. */
MUST_CHECK mu_status grpc_infer_render_error(const char *id, const char *message, struct buffer *out);

#endif
