/*
 * ModelInferRequest and ModelInferResponse: api/grpc_infer, fed piece by piece.
 *
 * A message that is here as a whole is read where it lies. One that comes in pieces goes through the scanner: its head
 * is collected, its raw contents go straight into the input arena. What the scanner cannot serve so (sizes that only
 * the bytes tell, fields behind the contents) and what is inflated is collected as a whole.
 */
#include "api/grpc_infer.h"
#include "gateway/call.h"

#include <string.h>

/* ---- text: the head, or the whole message ------------------------------------------------------------------------ */

/* Whom the message is for. */
static mu_status find_target(struct call *call, const char *text, size_t size, mu_error *err) {
  struct grpc_infer_target target;
  mu_status status = grpc_infer_find_target(text, size, &target, err);
  memcpy(call->request.id, target.id, sizeof call->request.id); /* an error is told with it */
  memcpy(call->route.model, target.model, sizeof call->route.model);
  call->route.version = target.version;
  return status;
}

/* Everything else that it says, once the target is known. rest: as for grpc_infer_parse. */
static mu_status parse(struct call *call, const char *text, size_t size, const struct grpc_infer_rest *rest,
                       mu_error *err) {
  struct request *request = &call->request;
  mu_status status = call->model == NULL ? inference_find_model(call, err) : MU_OK;
  if (status == MU_OK) status = grpc_infer_parse(&call->model->model, text, size, rest, request, err);
  request->deadline_ns = call->deadline_ns;
  return status;
}

/* All of the message is here, at text. */
static mu_status whole(struct call *call, const char *text, size_t size, mu_error *err) {
  call->text_size = size;
  call->rest_staged = true; /* there is none */
  mu_status status = call->model == NULL ? find_target(call, text, size, err) : MU_OK;
  if (status == MU_OK) status = parse(call, text, size, NULL, err);
  return status == MU_OK ? inference_reserve(call, text, NULL, 0, err) : status;
}

static mu_status take_text(struct call *call, const uint8_t *data, size_t size, mu_error *err);

/* What the scanner handed out, and all that is to come, is collected as a whole. filled: what inputs hold of it. */
static mu_status collect(struct call *call, const struct request *filled, const uint8_t *data, size_t size,
                         mu_error *err) {
  uint64_t received_ns = call->request.received_ns;
  mu_status status = inference_count_text(call, filled != NULL ? filled->input_bytes : 0, err);
  if (status == MU_OK) status = grpc_scan_stage(&call->scan, filled, err);
  if (status != MU_OK) return status;
  core_drop_inputs(call->loop->core, call);
  call_release_regions(call);
  request_clear(&call->request);
  call->request.received_ns = received_ns;
  call->stage = CALL_TEXT;
  return take_text(call, data, size, err);
}

/* Raw contents begin: the head says where they belong, if anything can say that before they are here. */
static mu_status head_complete(struct call *call, const uint8_t *data, size_t size, mu_error *err) {
  struct grpc_scan *scan = &call->scan;
  const struct grpc_infer_rest rest = grpc_scan_rest(scan);
  if (find_target(call, call->text.data, call->text.size, NULL) != MU_OK) /* its name may come behind the contents */
    return collect(call, NULL, data, size, err);
  mu_status status = parse(call, call->text.data, call->text.size, &rest, err);
  if (status != MU_OK) return status;
  if (grpc_infer_sizes_known(&call->request)) {
    call->text_size = call->text.size;
    return inference_reserve(call, call->text.data, data, size, err);
  }
  return collect(call, NULL, data, size, err);
}

static mu_status take_text(struct call *call, const uint8_t *data, size_t size, mu_error *err) {
  if (call->message_size == UINT64_MAX) return inference_stage(call, data, size, err); /* being inflated */
  struct grpc_scan *scan = &call->scan;
  if (!call->scanning && size == call->message_size) return whole(call, (const char *)data, size, err);
  if (!call->scanning) grpc_scan_begin(scan, &call->text, call->message_size);
  call->scanning = true;
  while (size > 0) {
    enum grpc_scan_event event;
    mu_status status = grpc_scan_feed(scan, &data, &size, &event, err);
    if (status == MU_OK) status = inference_count_text(call, 0, err); /* raw contents are none of it */
    if (status != MU_OK) return status;
    if (event == GRPC_SCAN_RAW) return head_complete(call, data, size, err);
  }
  return MU_OK;
}

/* A message in pieces that brought no raw contents, or that had to be collected, lies as a whole in the text now. */
static mu_status take_end(struct call *call, mu_error *err) {
  call->scanning = false;
  return whole(call, call->text.data != NULL ? call->text.data : "", call->text.size, err);
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

/* The raw contents that begin now belong to call.filling. *ret_known false: nobody can say that any more. */
static mu_status begin_raw(struct call *call, bool *ret_known, mu_error *err) {
  struct request_input *input;
  mu_status status =
      grpc_infer_raw_input(&call->model->model, &call->request, call->scan.n_raw - 1, call->scan.raw_size, &input, err);
  *ret_known = status == MU_OK && input != NULL;
  if (!*ret_known) return status;
  call->filling = (uint32_t)(input - call->request.inputs);
  call->filling_at = 0;
  return MU_OK;
}

static mu_status feed_tensors(struct call *call, const uint8_t *data, size_t size, mu_error *err) {
  struct grpc_scan *scan = &call->scan;
  mu_status status = MU_OK;
  while (status == MU_OK && size > 0) {
    if (scan->raw_left > 0) {
      size_t part = size < scan->raw_left ? size : (size_t)scan->raw_left;
      memcpy(call->request.inputs[call->filling].data + call->filling_at, data, part);
      grpc_scan_advance(scan, part);
      call->filling_at += part;
      data += part;
      size -= part;
      continue;
    }
    enum grpc_scan_event event;
    bool known = true;
    status = grpc_scan_feed(scan, &data, &size, &event, err);
    if (status == MU_OK && event == GRPC_SCAN_RAW) status = begin_raw(call, &known, err);
    if (status == MU_OK && (event == GRPC_SCAN_LATE || !known)) return collect(call, &call->request, data, size, err);
  }
  return status;
}

/* Do raw contents go into memory as they come? Not of a message that is here as a whole, nor of one that has none. */
static bool in_pieces(const struct call *call) { return call->scanning && !call->scan.staged && call->scan.n_raw > 0; }

/* A message that is here as a whole gives all of its tensors; one in pieces the typed contents of its head. */
static mu_status fill(struct call *call, const char *text, mu_error *err) {
  bool pieces = in_pieces(call);
  if (!pieces) grpc_infer_copy_raw(text, &call->request);
  mu_status status = grpc_infer_read_contents(&call->model->model, text, &call->request, err);
  if (status != MU_OK || !pieces) return status;
  bool known;
  status = begin_raw(call, &known, err);
  return status == MU_OK && !known ? collect(call, &call->request, NULL, 0, err) : status;
}

static mu_status take_tensors(struct call *call, const uint8_t *data, size_t size, mu_error *err) {
  if (call->stage == CALL_TEXT) return take_text(call, data, size, err); /* `fill` found that it has to be collected */
  return feed_tensors(call, data, size, err);
}

static mu_status complete(struct call *call, mu_error *err) {
  const struct model *model = &call->model->model;
  mu_status status = MU_OK;
  if (in_pieces(call)) status = grpc_infer_raw_end(model, &call->request, call->scan.n_raw, err);
  return status == MU_OK ? rest_infer_check_binary(model, &call->request, err) : status;
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

static mu_status render_as(struct call *call, enum grpc_reply_kind kind, uint32_t *ret_n_iov, bool *ret_borrows,
                           mu_error *err) {
  uint64_t size;
  mu_status status = inference_reserve_iov(call, 1 + GRPC_INFER_IOV_MAX(call->request.n_outputs), err);
  if (status != MU_OK) return status;
  return grpc_infer_render(&call->model->model, &call->request, call->results, call->n_results, kind, &call->reply,
                           call->iov + 1, ret_n_iov, &size, ret_borrows, err);
}

static mu_status render_unary(struct call *call, uint32_t *ret_n_iov, bool *ret_borrows, mu_error *err) {
  return render_as(call, GRPC_REPLY_UNARY, ret_n_iov, ret_borrows, err);
}

static mu_status render_stream(struct call *call, uint32_t *ret_n_iov, bool *ret_borrows, mu_error *err) {
  return render_as(call, GRPC_REPLY_STREAM, ret_n_iov, ret_borrows, err);
}

#define PROTOBUF(render_one)                                                                            \
  {                                                                                                     \
    .text = take_text, .text_end = take_end, .fill = fill, .tensors = take_tensors, .keeps_text = true, \
    .complete = complete, .render = (render_one)                                                        \
  }
const struct format format_protobuf = PROTOBUF(render_unary);
const struct format format_protobuf_stream = PROTOBUF(render_stream);
