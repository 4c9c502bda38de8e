/*
 * Any bytes as a ModelInferRequest: a byte that chooses the pieces, then the message, which is read as a whole and
 * piece by piece. Both must come to the same; inputs must be what their memory holds, and the echo of what is accepted
 * must be a reply that protobuf-c reads.
 */
#include "api/grpc_infer.h"
#include "proto/grpc/grpc_message.h"

#include <grpc_service.pb-c.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool truth) {
  if (!truth) abort();
}

enum { TENSORS = 4, MAX_BATCH = 4, INPUT_LIMIT = 1 << 20 };

/* Inputs and outputs alike: a number that may be reshaped, two texts, and an optional flag. */
static const struct model_tensor tensors[TENSORS] = {
    {.info = {.name = (char *)(uintptr_t) "real", .dtype = MU_FP32, .rank = 3, .dims = {-1, 2, 2}, .optional = true},
     .rank = 2,
     .dims = {-1, 4},
     .reshaped = true,
     .served = true},
    {.info = {.name = (char *)(uintptr_t) "text", .dtype = MU_BYTES, .rank = 2, .dims = {-1, -1}, .optional = true},
     .rank = 2,
     .dims = {-1, -1},
     .served = true},
    {.info = {.name = (char *)(uintptr_t) "more", .dtype = MU_BYTES, .rank = 2, .dims = {-1, 1}, .optional = true},
     .rank = 2,
     .dims = {-1, 1},
     .served = true},
    {.info = {.name = (char *)(uintptr_t) "tiny", .dtype = MU_INT8, .rank = 1, .dims = {-1}, .optional = true},
     .rank = 1,
     .dims = {-1},
     .served = true},
};

struct call {
  const struct model *model;
  struct request request;
  uint8_t *memory[TENSORS];
  mu_error err;
};

static void drop(struct call *call) {
  for (int i = 0; i < TENSORS; i++) free(call->memory[i]);
  memset(call->memory, 0, sizeof call->memory);
}

static mu_status reserve(struct call *call) {
  for (uint32_t i = 0; i < call->request.n_inputs; i++) {
    struct request_input *input = &call->request.inputs[i];
    if (input->size > INPUT_LIMIT) return MU_TOO_LARGE;
    input->data = call->memory[i] = calloc(1, input->size > 0 ? input->size : 1);
    require(input->data != NULL);
  }
  return MU_OK;
}

/* All of the message at once. */
static mu_status receive_whole(struct call *call, const char *message, size_t size) {
  mu_status status = grpc_infer_parse(call->model, message, size, NULL, &call->request, &call->err);
  if (status == MU_OK) status = reserve(call);
  if (status != MU_OK) return status;
  for (uint32_t i = 0; i < call->request.n_inputs; i++) {
    const struct request_input *input = &call->request.inputs[i];
    require(input->source == INPUT_SHARED || input->source_at + input->source_size <= size);
    require(input->source != INPUT_BINARY || input->source_size == input->size);
  }
  grpc_infer_copy_raw(message, &call->request);
  return grpc_infer_read_contents(call->model, message, &call->request, &call->err);
}

static mu_status stage(struct call *call, struct grpc_scan *scan, bool filled) {
  const mu_status status = grpc_scan_stage(scan, filled ? &call->request : NULL, &call->err);
  drop(call);
  request_clear(&call->request);
  return status;
}

/* Raw contents begin: where they go. */
static mu_status begin_raw(struct call *call, struct grpc_scan *scan, uint8_t **ret_place) {
  if (scan->n_raw == 1) {
    const struct grpc_infer_rest rest = grpc_scan_rest(scan);
    mu_status status =
        grpc_infer_parse(call->model, scan->head->data, scan->head->size, &rest, &call->request, &call->err);
    if (status != MU_OK) return status;
    if (!grpc_infer_sizes_known(&call->request)) return stage(call, scan, false);
    status = reserve(call);
    if (status != MU_OK) return status;
  }
  struct request_input *input;
  const mu_status status =
      grpc_infer_raw_input(call->model, &call->request, scan->n_raw - 1, scan->raw_size, &input, &call->err);
  if (status != MU_OK) return status;
  if (input == NULL) return stage(call, scan, true);
  require(input->size == scan->raw_size);
  *ret_place = input->data;
  return MU_OK;
}

/* In pieces of so many bytes. */
static mu_status receive_pieces(struct call *call, struct buffer *head, const uint8_t *message, size_t size,
                                size_t piece) {
  struct grpc_scan scan;
  uint8_t *place = NULL;
  enum grpc_scan_event event = GRPC_SCAN_MORE;
  grpc_scan_begin(&scan, head, size);
  size_t at = 0;
  do {
    const uint8_t *data = message + at;
    size_t left = size - at < piece ? size - at : piece;
    at += left;
    do {
      while (!scan.staged && scan.raw_left > 0 && left > 0) {
        *place++ = *data++;
        left--;
        grpc_scan_advance(&scan, 1);
      }
      mu_status status = grpc_scan_feed(&scan, &data, &left, &event, &call->err);
      if (status == MU_OK && event == GRPC_SCAN_RAW) status = begin_raw(call, &scan, &place);
      if (status == MU_OK && event == GRPC_SCAN_LATE) status = stage(call, &scan, true);
      if (status != MU_OK) return status;
    } while (event == GRPC_SCAN_RAW || event == GRPC_SCAN_LATE);
    require(left == 0);
  } while (at < size);
  require(event == GRPC_SCAN_END && scan.at == size);
  if (!scan.staged && scan.n_raw > 0) return grpc_infer_raw_end(call->model, &call->request, scan.n_raw, &call->err);
  return receive_whole(call, head->data != NULL ? head->data : "", head->size);
}

static void compare(const struct call *one, const struct call *other) {
  require(strcmp(one->request.id, other->request.id) == 0);
  require(one->request.n_inputs == other->request.n_inputs && one->request.n_outputs == other->request.n_outputs);
  require(one->request.input_bytes == other->request.input_bytes && one->request.rows == other->request.rows);
  for (uint32_t i = 0; i < one->request.n_inputs; i++) {
    const struct request_input *a = &one->request.inputs[i], *b = &other->request.inputs[i];
    require(a->index == b->index && a->size == b->size && a->source == b->source);
    require(memcmp(a->data, b->data, a->size) == 0);
  }
}

static void echo(const struct call *call) {
  struct infer_result results[TENSORS];
  const struct request *request = &call->request;
  for (uint32_t i = 0; i < request->n_inputs; i++) {
    const struct request_input *input = &request->inputs[i];
    results[i].index = input->index;
    results[i].tensor =
        (mu_tensor){.dtype = input->dtype, .rank = input->rank, .data = input->data, .size = input->size};
    memcpy(results[i].tensor.dims, input->dims, sizeof input->dims);
  }
  struct buffer head;
  struct iovec iov[GRPC_INFER_IOV_MAX(TENSORS)];
  uint32_t n_iov;
  uint64_t size;
  bool borrows;
  mu_error err;
  buffer_init(&head, SIZE_MAX / 2);
  if (grpc_infer_render(call->model, request, results, request->n_inputs, GRPC_REPLY_UNARY, &head, iov, &n_iov, &size,
                        &borrows, &err) == MU_OK) {
    require(n_iov <= GRPC_INFER_IOV_MAX(request->n_outputs));
    uint8_t *bytes = malloc(size);
    require(bytes != NULL);
    size_t at = 0;
    for (uint32_t i = 0; i < n_iov; i++) {
      memcpy(bytes + at, iov[i].iov_base, iov[i].iov_len);
      at += iov[i].iov_len;
    }
    require(at == size);
    Inference__ModelInferResponse *reply =
        inference__model_infer_response__unpack(NULL, size - GRPC_PREFIX_SIZE, bytes + GRPC_PREFIX_SIZE);
    require(reply != NULL && reply->n_outputs == request->n_outputs);
    require(reply->n_raw_output_contents == request->n_outputs);
    inference__model_infer_response__free_unpacked(reply, NULL);
    free(bytes);
  }
  buffer_free(&head);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1) return 0;
  const size_t piece = 1 + (size_t)data[0];
  struct model_tensor inputs[TENSORS], outputs[TENSORS];
  memcpy(inputs, tensors, sizeof inputs);
  memcpy(outputs, tensors, sizeof outputs);
  struct model_metadata metadata = {
      .inputs = inputs, .outputs = outputs, .n_inputs = TENSORS, .n_outputs = TENSORS, .max_batch = MAX_BATCH};
  struct model_config config = {0};
  const struct model model = {
      .name = (char *)(uintptr_t) "fuzzed", .version = 1, .config = &config, .metadata = &metadata};
  struct call whole = {.model = &model}, pieces = {.model = &model};
  struct grpc_infer_target target;
  mu_error err;
  struct buffer head;
  buffer_init(&head, SIZE_MAX / 2);
  (void)(grpc_infer_find_target((const char *)data + 1, size - 1, &target, &err) == MU_OK);
  const mu_status status = receive_whole(&whole, (const char *)data + 1, size - 1);
  const mu_status other = receive_pieces(&pieces, &head, data + 1, size - 1, piece);
  require((other == MU_OK) == (status == MU_OK)); /* what is wrong first may differ */
  if (status == MU_OK) {
    compare(&whole, &pieces);
    if (rest_infer_check_binary(&model, &whole.request, &err) == MU_OK) echo(&whole);
  }
  drop(&whole);
  drop(&pieces);
  request_free(&whole.request);
  request_free(&pieces.request);
  buffer_free(&head);
  return 0;
}
