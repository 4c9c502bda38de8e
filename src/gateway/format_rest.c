/* The Open Inference Protocol's JSON, with Triton's binary tensors behind it: api/rest_infer, fed piece by piece. */
#include "api/rest_stream.h"
#include "gateway/call.h"

#include <string.h>

enum { DIRECT_READ_BYTES = 16 * 1024 /* what is left of a tensor from here on is read by the kernel into its place */ };

/* ---- text -------------------------------------------------------------------------------------------------------- */

/* The message of a stream whose address names no model. */
static mu_status find_named_model(struct call *call, const char *text, mu_error *err) {
  if (call->raw) return mu_fail(err, MU_INVALID, "a message without JSON needs a stream whose address names the model");
  mu_status status = rest_stream_model(text, (size_t)call->text_size, call->route.model, &call->route.version, err);
  return status == MU_OK ? inference_find_model(call, err) : status;
}

static mu_status parse_text(struct call *call, const char *text, uint64_t binary_bytes, mu_error *err) {
  mu_status status = call->model == NULL ? find_named_model(call, text, err) : MU_OK;
  if (status != MU_OK) return status;
  const struct model *model = &call->model->model;
  return call->raw ? rest_infer_raw(model, binary_bytes, &call->request, err)
                   : rest_infer_parse(model, text, (size_t)call->text_size, binary_bytes, &call->request, err);
}

/* The JSON part is complete: call->text_size bytes at text. rest: bytes behind it that are here already. binary_bytes:
 * all that there will be, UINT64_MAX while nobody can say. */
static mu_status text_complete(struct call *call, const char *text, const uint8_t *rest, size_t rest_size,
                               uint64_t binary_bytes, mu_error *err) {
  mu_status status = parse_text(call, text, binary_bytes, err);
  if (status == MU_OK) return inference_reserve(call, text, rest, rest_size, err);
  /* the id may stand behind what is wrong */
  if (call->request.id[0] == '\0') rest_stream_id(text, (size_t)call->text_size, call->request.id);
  return status;
}

/* Bytes after the JSON part; UINT64_MAX while nobody can say. */
static uint64_t binary_size(const struct call *call) {
  return call->message_size == UINT64_MAX ? UINT64_MAX : call->message_size - call->text_size;
}

static mu_status take_text(struct call *call, const uint8_t *data, size_t size, mu_error *err) {
  if (call->raw && call->message_size != UINT64_MAX) { /* the size alone describes it */
    call->text_size = 0;
    return text_complete(call, "", data, size, call->message_size, err);
  }
  uint64_t missing = call->text_size - call->text.size;
  size_t part = size < missing ? size : (size_t)missing;
  const char *text = (const char *)data; /* parsed in place where one read brought all of it */
  if (call->text.size > 0 || part < missing) {
    mu_status status = inference_stage(call, data, part, err);
    if (status != MU_OK || part < missing) return status;
    text = call->text.data;
  }
  return text_complete(call, text, data + part, size - part, binary_size(call), err);
}

/* The end of a body that is empty, or whose length nobody had said: its text is what has been staged. */
static mu_status take_end(struct call *call, mu_error *err) {
  if (!call->raw && call->text_size != UINT64_MAX && call->text_size > call->text.size)
    return mu_fail(err, MU_INVALID, "the body ends before its Inference-Header-Content-Length of %llu bytes",
                   (unsigned long long)call->text_size);
  size_t size = call->text.size;
  call->text_size = call->raw ? 0 : size;
  call->rest_staged = true;
  const char *text = call->text.data != NULL ? call->text.data : "";
  return call->raw ? text_complete(call, text, (const uint8_t *)text, size, size, err)
                   : text_complete(call, text, NULL, 0, 0, err);
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

/* Inputs whose bytes follow the JSON part, in their order there. */
static void order_binary_inputs(struct call *call) {
  const struct request *request = &call->request;
  call->n_order = 0;
  for (uint32_t i = 0; i < request->n_inputs; i++) {
    if (request->inputs[i].source != INPUT_BINARY) continue;
    uint32_t at = call->n_order++;
    for (; at > 0 && request->inputs[call->order[at - 1]].source_at > request->inputs[i].source_at; at--)
      call->order[at] = call->order[at - 1];
    call->order[at] = i;
  }
}

/* The input whose bytes come next, or NULL when all have come. */
static struct request_input *next_input(struct call *call) {
  while (call->filling < call->n_order) {
    struct request_input *input = &call->request.inputs[call->order[call->filling]];
    if (call->filling_at < input->size) return input;
    call->filling++;
    call->filling_at = 0;
  }
  return NULL;
}

/* The JSON's numbers are converted; then come the tensors. */
static mu_status fill(struct call *call, const char *text, mu_error *err) {
  order_binary_inputs(call);
  /* only a raw body, which is one input, does not begin at the input's beginning */
  if (call->n_order > 0) call->filling_at = rest_infer_binary_start(&call->request.inputs[call->order[0]]);
  return rest_infer_read_json(&call->model->model, text, (size_t)call->text_size, &call->request, err);
}

static mu_status feed_tensors(struct call *call, const uint8_t *data, size_t size, mu_error *err) {
  call->binary_at += size;
  while (size > 0) {
    struct request_input *input = next_input(call);
    if (input == NULL)
      return mu_fail(err, MU_INVALID, "the body goes on after the %llu bytes that its inputs claim",
                     (unsigned long long)call->request.binary_bytes);
    uint64_t left = input->size - call->filling_at;
    size_t part = size < left ? size : (size_t)left;
    uint8_t *place = input->data + call->filling_at;
    if (place != data) memcpy(place, data, part); /* a direct read has put it there already */
    call->filling_at += part;
    data += part;
    size -= part;
  }
  return MU_OK;
}

static bool window(struct call *call, uint8_t **ret_data, size_t *ret_size) {
  struct request_input *input = next_input(call);
  if (input == NULL || input->size - call->filling_at < DIRECT_READ_BYTES) return false;
  *ret_data = input->data + call->filling_at;
  *ret_size = (size_t)(input->size - call->filling_at);
  return true;
}

static mu_status complete(struct call *call, mu_error *err) {
  if (call->binary_at != call->request.binary_bytes)
    return mu_fail(err, MU_INVALID, "the body ends after %llu of the %llu bytes that its inputs claim",
                   (unsigned long long)call->binary_at, (unsigned long long)call->request.binary_bytes);
  return rest_infer_check_binary(&call->model->model, &call->request, err);
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

static mu_status render(struct call *call, uint32_t *ret_n_iov, bool *ret_borrows, mu_error *err) {
  uint32_t n_binary = 0;
  mu_status status = inference_reserve_iov(call, call->n_results + 2, err);
  if (status == MU_OK)
    status = rest_infer_render(&call->model->model, &call->request, call->results, call->n_results, &call->reply,
                               call->iov + 2, &n_binary, err);
  if (status != MU_OK) return status;
  call->iov[1] = (struct iovec){call->reply.data, call->reply.size};
  *ret_n_iov = n_binary + 1;
  *ret_borrows = n_binary > 0;
  return MU_OK;
}

const struct format format_rest = {.text = take_text,
                                   .text_end = take_end,
                                   .fill = fill,
                                   .tensors = feed_tensors,
                                   .window = window,
                                   .complete = complete,
                                   .render = render};
