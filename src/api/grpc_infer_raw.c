/* The inputs' data of a ModelInferRequest: raw contents, their sizes and places, and typed contents' values. */
#include "api/grpc_infer_raw.h"

#include "api/grpc_contents.h"

#include <stdio.h>

enum { BYTES_PREFIX = 4, REQUEST_RAW = 7, SHAPE_TEXT_MAX = 160 };

static const char *name_of(const struct model *model, const struct request_input *input) {
  return model->metadata->inputs[input->index].info.name;
}

/* The input that takes raw contents number k, while source_at is that number. */
static struct request_input *find_raw(const struct request *request, uint64_t k) {
  for (uint32_t i = 0; i < request->n_inputs; i++)
    if (request->inputs[i].source == INPUT_BINARY && request->inputs[i].source_at == k) return &request->inputs[i];
  return NULL;
}

/* Raw contents of that size for the input, whose own size is known unless it is BYTES. */
static mu_status check_size(const struct model *model, const struct request_input *input, uint64_t size,
                            mu_error *err) {
  char shape[SHAPE_TEXT_MAX];
  shape_text(input->dims, input->rank, shape, sizeof shape);
  if (input->dtype == MU_BYTES && size / BYTES_PREFIX < input->elements)
    return mu_fail(err, MU_INVALID,
                   "input '%.100s': raw contents of %llu bytes are too few for the %llu elements of %s",
                   name_of(model, input), (unsigned long long)size, (unsigned long long)input->elements, shape);
  if (input->dtype != MU_BYTES && size != input->size)
    return mu_fail(err, MU_INVALID,
                   "input '%.100s': raw contents of %llu bytes are not the %llu bytes of shape %s as %s",
                   name_of(model, input), (unsigned long long)size, (unsigned long long)input->size, shape,
                   mu_dtype_name(input->dtype));
  return MU_OK;
}

static mu_status wrong_count(const struct model *model, const char *n_raw, uint32_t n_inputs, mu_error *err) {
  return mu_fail(err, MU_INVALID, "the request has %s raw_input_contents, its inputs for model '%.100s' take %u", n_raw,
                 model->name, n_inputs);
}

/* ---- a whole message --------------------------------------------------------------------------------------------- */

/* No raw contents at all: what has no contents either must be empty. */
static mu_status place_nothing(const struct model *model, struct request *request, mu_error *err) {
  for (uint32_t i = 0; i < request->n_inputs; i++) {
    struct request_input *input = &request->inputs[i];
    if (input->source != INPUT_BINARY) continue;
    if (input->elements > 0)
      return mu_fail(err, MU_INVALID, "input '%.100s' has neither contents nor raw_input_contents",
                     name_of(model, input));
    input->source_at = 0;
  }
  request->binary_bytes = 0;
  return MU_OK;
}

mu_status grpc_raw_place(const struct model *model, const struct grpc_raw *raw, uint32_t n_inputs,
                         struct request *request, mu_error *err) {
  if (raw->n == 0) return place_nothing(model, request, err);
  if (raw->n != n_inputs) {
    char n[16];
    snprintf(n, sizeof n, "%u", raw->n);
    return wrong_count(model, n, n_inputs, err);
  }
  request->binary_bytes = 0;
  for (uint32_t i = 0; i < request->n_inputs; i++) {
    struct request_input *input = &request->inputs[i];
    if (input->source != INPUT_BINARY) continue;
    const size_t k = input->source_at;
    const mu_status status = check_size(model, input, raw->size[k], err);
    if (status != MU_OK) return status;
    input->size = input->source_size = raw->size[k];
    input->source_at = raw->at[k];
    request->binary_bytes += raw->size[k]; /* parts of one message: no overflow */
  }
  return MU_OK;
}

/* ---- a message whose raw contents are still to come -------------------------------------------------------------- */

static void size_unknown(struct request *request) { request->binary_bytes = UINT64_MAX; }

/* The size of contents that take `bytes` bytes of a message with their tag and length; false when there is none. */
static bool size_within(uint64_t bytes, uint64_t *ret_size) {
  for (uint64_t length = 1; length <= PB_VARINT_MAX && bytes > length; length++)
    if (pb_varint_size(bytes - 1 - length) == length) {
      *ret_size = bytes - 1 - length;
      return true;
    }
  return false;
}

/* The one input of BYTES behind the first raw contents: what all others leave of the message. */
static bool reckon_bytes(struct request *request, const struct grpc_infer_rest *rest, struct request_input *unknown) {
  uint64_t others = rest->first_size, size;
  for (uint32_t i = 0; i < request->n_inputs; i++) {
    const struct request_input *input = &request->inputs[i];
    if (input->source != INPUT_BINARY || input->source_at == 0 || input == unknown) continue;
    if (__builtin_add_overflow(others, input->size, &others) ||
        __builtin_add_overflow(others, 1 + pb_varint_size(input->size), &others))
      return false;
  }
  if (others > rest->bytes || !size_within(rest->bytes - others, &size)) return false;
  if (size / BYTES_PREFIX < unknown->elements) return false;
  unknown->size = unknown->source_size = size;
  return true;
}

mu_status grpc_raw_reckon(const struct model *model, const struct grpc_infer_rest *rest, struct request *request,
                          mu_error *err) {
  struct request_input *first = find_raw(request, 0), *unknown = NULL;
  if (first == NULL) { /* its input may come behind it */
    size_unknown(request);
    return MU_OK;
  }
  const mu_status status = check_size(model, first, rest->first_size, err);
  if (status != MU_OK) return status;
  first->size = first->source_size = rest->first_size;
  request->binary_bytes = 0;
  for (uint32_t i = 0; i < request->n_inputs; i++) {
    struct request_input *input = &request->inputs[i];
    if (input->source != INPUT_BINARY || input->dtype != MU_BYTES || input == first) continue;
    if (unknown != NULL) size_unknown(request);
    unknown = input;
  }
  if (unknown != NULL && grpc_infer_sizes_known(request) && !reckon_bytes(request, rest, unknown))
    size_unknown(request);
  for (uint32_t i = 0; i < request->n_inputs && grpc_infer_sizes_known(request); i++) {
    const struct request_input *input = &request->inputs[i];
    if (input->source == INPUT_BINARY &&
        __builtin_add_overflow(request->binary_bytes, input->size, &request->binary_bytes))
      return mu_fail(err, MU_INVALID, "the inputs claim more data than 64 bits can count");
  }
  if (grpc_infer_sizes_known(request) && request->binary_bytes > rest->bytes)
    return mu_fail(err, MU_INVALID, "the inputs take %llu bytes of raw contents, the message has %llu left",
                   (unsigned long long)request->binary_bytes, (unsigned long long)rest->bytes);
  return MU_OK;
}

static uint32_t count_raw(const struct request *request) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < request->n_inputs; i++) n += request->inputs[i].source == INPUT_BINARY;
  return n;
}

mu_status grpc_infer_raw_input(const struct model *model, struct request *request, uint32_t k, uint64_t size,
                               struct request_input **ret_input, mu_error *err) {
  struct request_input *input = find_raw(request, k);
  if (input == NULL) {
    char n[32];
    snprintf(n, sizeof n, "%u or more", k + 1);
    return wrong_count(model, n, count_raw(request), err);
  }
  const mu_status status = check_size(model, input, size, err);
  if (status != MU_OK) return status;
  *ret_input = input->size == size ? input : NULL;
  return MU_OK;
}

mu_status grpc_infer_raw_end(const struct model *model, const struct request *request, uint32_t n_raw, mu_error *err) {
  const uint32_t wanted = count_raw(request);
  if (n_raw == wanted) return MU_OK;
  char n[16];
  snprintf(n, sizeof n, "%u", n_raw);
  return wrong_count(model, n, wanted, err);
}

/* ---- into memory ------------------------------------------------------------------------------------------------- */

void grpc_infer_copy_raw(const char *message, struct request *request) {
  for (uint32_t i = 0; i < request->n_inputs; i++) {
    struct request_input *input = &request->inputs[i];
    if (input->source == INPUT_BINARY && input->size > 0) memcpy(input->data, message + input->source_at, input->size);
  }
}

/* The next element of BYTES; grpc_infer_parse has measured that it fits. */
static uint8_t *store_bytes(const struct pb_field *element, uint8_t *place) {
  const uint32_t size = (uint32_t)element->size;
  memcpy(place, &size, BYTES_PREFIX);
  if (size > 0) memcpy(place + BYTES_PREFIX, element->bytes, size);
  return place + BYTES_PREFIX + size;
}

static mu_status read_input(const struct model *model, const char *message, struct request_input *input,
                            mu_error *err) {
  struct grpc_contents walk;
  struct pb_field element;
  const size_t size = mu_dtype_size(input->dtype);
  uint8_t *place = input->data;
  grpc_contents_begin(&walk, message + input->source_at, input->source_size);
  for (uint64_t i = 0; i < input->elements && grpc_contents_next(&walk, &element); i++) {
    if (input->dtype == MU_BYTES) {
      place = store_bytes(&element, place);
      continue;
    }
    if (!grpc_contents_store(input->dtype, &element, place))
      return mu_fail(err, MU_INVALID, "input '%.100s': element %llu of its contents is no %s", name_of(model, input),
                     (unsigned long long)i, mu_dtype_name(input->dtype));
    place += size;
  }
  return MU_OK;
}

mu_status grpc_infer_read_contents(const struct model *model, const char *message, struct request *request,
                                   mu_error *err) {
  for (uint32_t i = 0; i < request->n_inputs; i++) {
    if (request->inputs[i].source != INPUT_TYPED) continue;
    const mu_status status = read_input(model, message, &request->inputs[i], err);
    if (status != MU_OK) return status;
  }
  return MU_OK;
}
