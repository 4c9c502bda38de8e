/* A ModelInferResponse, written by hand: tensors' bytes stay where the model wrote them. */
#include "api/grpc_infer.h"
#include "api/infer_view.h"
#include "base/decimal.h"
#include "proto/grpc/grpc_message.h"
#include "proto/protobuf/wire.h"

#include <limits.h>

/* Field numbers of the protocol. */
enum { NAME = 1, VERSION = 2, ID = 3, PARAMETERS = 4, OUTPUTS = 5, RAW = 6 };
enum { OUTPUT_NAME = 1, OUTPUT_DATATYPE = 2, OUTPUT_SHAPE = 3, OUTPUT_PARAMETERS = 4 };
enum { ENTRY_KEY = 1, ENTRY_VALUE = 2, VALUE_BOOL = 1, VALUE_INT64 = 2, VALUE_STRING = 3 };
enum { STREAM_ERROR = 1, STREAM_RESPONSE = 2 };

/* What an output's description takes, but for its own name and shape: with the name of a region it is the longest. */
enum { OUTPUT_ROOM = 256 + REQUEST_REGION_MAX };

/* Room before the response for what is known last: gRPC's prefix, and the tag and length of a stream's response. */
enum { STREAM_START_MAX = 1 + 5, START_MAX = GRPC_PREFIX_SIZE + STREAM_START_MAX };

struct render {
  const struct model *model;
  const struct request *request;
  struct buffer *head;
  struct buffer classes; /* BYTES that classifications made, one output after the other */
  struct iovec *iov;
  mu_error *err;
};

static mu_status no_room(mu_status status, mu_error *err) { return mu_fail(err, status, "no room for the reply"); }

/* Room for so many more bytes of the head: what is then appended cannot fail. */
static mu_status reserve(const struct render *r, size_t size) {
  const mu_status status = buffer_reserve(r->head, size);
  return status == MU_OK ? MU_OK : no_room(status, r->err);
}

/* ---- the head ---------------------------------------------------------------------------------------------------- */

/* An entry of a map of parameters. What is 0 or "" is written too, as protobuf has it in a oneof. */
static void write_number(struct buffer *head, uint32_t map, const char *key, uint32_t kind, uint64_t value) {
  const size_t entry = pb_open(head, map);
  pb_put_text_field(head, ENTRY_KEY, key);
  const size_t inner = pb_open(head, ENTRY_VALUE);
  pb_put_tag(head, kind, PB_VARINT);
  pb_put_varint(head, value);
  pb_close(head, inner);
  pb_close(head, entry);
}

static void write_text(struct buffer *head, uint32_t map, const char *key, const char *value) {
  const size_t entry = pb_open(head, map);
  pb_put_text_field(head, ENTRY_KEY, key);
  const size_t inner = pb_open(head, ENTRY_VALUE);
  pb_put_bytes(head, VALUE_STRING, value, strlen(value));
  pb_close(head, inner);
  pb_close(head, entry);
}

static mu_status write_start(const struct render *r, enum grpc_reply_kind kind) {
  char version[DECIMAL_MOST + 1];
  const mu_status status = reserve(r, 128 + strlen(r->model->name) + strlen(r->request->id));
  if (status != MU_OK) return status;
  *decimal_put(version, (uint64_t)r->model->version) = '\0';
  buffer_append(r->head, (char[START_MAX]){0}, START_MAX);
  pb_put_text_field(r->head, NAME, r->model->name);
  pb_put_text_field(r->head, VERSION, version);
  pb_put_text_field(r->head, ID, r->request->id);
  if (kind == GRPC_REPLY_STREAM) write_number(r->head, PARAMETERS, "triton_final_response", VALUE_BOOL, true);
  return MU_OK;
}

/* Where the result has been put. */
static void write_share(struct buffer *head, const struct request_share *share, uint64_t size) {
  write_text(head, OUTPUT_PARAMETERS, "shared_memory_region", share->name);
  if (share->offset > 0) write_number(head, OUTPUT_PARAMETERS, "shared_memory_offset", VALUE_INT64, share->offset);
  write_number(head, OUTPUT_PARAMETERS, "shared_memory_byte_size", VALUE_INT64, size);
}

static mu_status write_output(const struct render *r, const struct infer_view *view, uint32_t share) {
  const mu_tensor *tensor = &view->tensor;
  struct buffer *head = r->head;
  const mu_status status = reserve(r, OUTPUT_ROOM + strlen(view->name) + PB_VARINT_MAX * tensor->rank);
  if (status != MU_OK) return status;
  const size_t output = pb_open(head, OUTPUTS);
  pb_put_bytes(head, OUTPUT_NAME, view->name, strlen(view->name));
  pb_put_text_field(head, OUTPUT_DATATYPE, mu_dtype_name(tensor->dtype));
  const size_t shape = tensor->rank > 0 ? pb_open(head, OUTPUT_SHAPE) : 0;
  for (uint32_t i = 0; i < tensor->rank; i++) pb_put_varint(head, (uint64_t)tensor->dims[i]);
  if (shape > 0) pb_close(head, shape);
  if (share > 0) write_share(head, &r->request->shares[share - 1], tensor->size);
  pb_close(head, output);
  return MU_OK;
}

/* Writes the outputs' descriptions; their data is noted in iov[2 i + 1], of a classified one only its size. */
static mu_status write_outputs(struct render *r, const struct infer_result *results, uint32_t n_results) {
  for (uint32_t i = 0; i < r->request->n_outputs; i++) {
    const uint32_t count = r->request->outputs[i].classification;
    const struct infer_result *result;
    struct infer_view view;
    mu_status status = infer_find_result(r->model, r->request, i, results, n_results, &result, r->err);
    if (status == MU_OK)
      status = count > 0 ? infer_view_classes(r->model, r->request, count, result, &r->classes, &view, r->err)
                         : infer_view_tensor(r->model, result, &view, r->err);
    const uint32_t share = r->request->outputs[i].share;
    if (status == MU_OK) status = write_output(r, &view, share);
    if (status != MU_OK) return status;
    r->iov[2 * i + 1] =
        share > 0 ? (struct iovec){0} : (struct iovec){count > 0 ? NULL : view.tensor.data, view.tensor.size};
  }
  return MU_OK;
}

/* ---- the data ---------------------------------------------------------------------------------------------------- */

/*
 * Writes each output's tag and length; the data goes between, where it lies. Entries of text hold an offset into the
 * head until that stays where it is. Never writes an entry that has not been read: two of them come for each output.
 */
static mu_status write_raw(struct render *r, uint32_t *ret_n, uint64_t *ret_borrowed) {
  size_t text_from = 0, classes_from = 0;
  uint32_t n = 0;
  uint64_t borrowed = 0;
  for (uint32_t i = 0; i < r->request->n_outputs; i++) {
    const struct iovec data = r->iov[2 * i + 1];
    const bool classified = r->request->outputs[i].classification > 0;
    const mu_status status = reserve(r, 1 + PB_VARINT_MAX + (classified ? data.iov_len : 0));
    if (status != MU_OK) return status;
    pb_put_length(r->head, RAW, data.iov_len);
    if (classified) {
      buffer_append(r->head, r->classes.data + classes_from, data.iov_len);
      classes_from += data.iov_len;
      continue;
    }
    if (data.iov_len == 0) continue;
    r->iov[n++] = (struct iovec){(void *)text_from, r->head->size - text_from};  // NOLINT(performance-no-int-to-ptr)
    r->iov[n++] = data;
    text_from = r->head->size;
    borrowed += data.iov_len;
    if (borrowed > INT32_MAX) break; /* finish() refuses it */
  }
  if (r->head->size > text_from)
    r->iov[n++] = (struct iovec){(void *)text_from, r->head->size - text_from};  // NOLINT(performance-no-int-to-ptr)
  *ret_n = n;
  *ret_borrowed = borrowed;
  return MU_OK;
}

/* The response is complete: what stands before it, and entries become pointers. */
static mu_status finish(struct render *r, enum grpc_reply_kind kind, uint32_t n, uint64_t borrowed,
                        uint64_t *ret_size) {
  uint64_t size = r->head->size - START_MAX + borrowed;
  if (size + STREAM_START_MAX > INT32_MAX)
    return mu_fail(r->err, MU_TOO_LARGE, "the reply has more than the 2 GiB that a gRPC message can have");
  size_t start = START_MAX;
  if (kind == GRPC_REPLY_STREAM) {
    struct buffer wrapper;
    char room[STREAM_START_MAX];
    wrapper = (struct buffer){.data = room, .capacity = sizeof room, .limit = sizeof room};
    pb_put_length(&wrapper, STREAM_RESPONSE, size);
    start -= wrapper.size;
    memcpy(r->head->data + start, room, wrapper.size);
    size += wrapper.size;
  }
  start -= GRPC_PREFIX_SIZE;
  grpc_prefix_write((uint8_t *)r->head->data + start, false, (uint32_t)size);
  for (uint32_t i = 0; i < n; i += 2) r->iov[i].iov_base = r->head->data + (uintptr_t)r->iov[i].iov_base;
  r->iov[0].iov_base = (char *)r->iov[0].iov_base + start;
  r->iov[0].iov_len -= start;
  *ret_size = size + GRPC_PREFIX_SIZE;
  return MU_OK;
}

static mu_status render(struct render *r, const struct infer_result *results, uint32_t n_results,
                        enum grpc_reply_kind kind, uint32_t *ret_n_iov, uint64_t *ret_size, bool *ret_borrows) {
  mu_status status = write_start(r, kind);
  if (status == MU_OK) status = write_outputs(r, results, n_results);
  uint32_t n = 0;
  uint64_t borrowed = 0, size = 0;
  if (status == MU_OK) status = write_raw(r, &n, &borrowed);
  if (status == MU_OK) status = finish(r, kind, n, borrowed, &size);
  if (status != MU_OK) return status;
  *ret_n_iov = n;
  *ret_size = size;
  *ret_borrows = borrowed > 0;
  return MU_OK;
}

mu_status grpc_infer_render(const struct model *model, const struct request *request,
                            const struct infer_result *results, uint32_t n_results, enum grpc_reply_kind kind,
                            struct buffer *head, struct iovec *iov, uint32_t *ret_n_iov, uint64_t *ret_size,
                            bool *ret_borrows, mu_error *err) {
  struct render r = {.model = model, .request = request, .head = head, .iov = iov, .err = err};
  buffer_init(&r.classes, head->limit);
  const mu_status status = render(&r, results, n_results, kind, ret_n_iov, ret_size, ret_borrows);
  buffer_free(&r.classes);
  return status;
}

mu_status grpc_infer_render_error(const char *id, const char *message, struct buffer *out) {
  const size_t response = *id != '\0' ? pb_bytes_size(ID, strlen(id)) : 0;
  const size_t size = pb_bytes_size(STREAM_ERROR, strlen(message)) + pb_bytes_size(STREAM_RESPONSE, response);
  const mu_status status = buffer_reserve(out, GRPC_PREFIX_SIZE + size);
  if (status != MU_OK) return status;
  uint8_t prefix[GRPC_PREFIX_SIZE];
  grpc_prefix_write(prefix, false, (uint32_t)size);
  buffer_append(out, prefix, sizeof prefix);
  pb_put_bytes(out, STREAM_ERROR, message, strlen(message));
  pb_put_length(out, STREAM_RESPONSE, response);
  pb_put_text_field(out, ID, id);
  return MU_OK;
}
