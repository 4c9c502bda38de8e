#include "cli/bench/payload.h"

#include "cli/bench/tensor_file.h"
#include "proto/json/json_reader.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum {
  BYTES_ELEMENT = 8, /* length of a random string element */
  PAYLOAD_BYTES_MAX = 1 << 30
};

/* ---- shapes ------------------------------------------------------------------------------------------------------ */

/* The value behind "NAME<separator>" in a list; NULL when the name is not in it. */
static const char *find_named(const char *const *list, size_t n, const char *name, char separator) {
  size_t length = strlen(name);
  for (size_t i = 0; i < n; i++)
    if (strncmp(list[i], name, length) == 0 && list[i][length] == separator) return list[i] + length + 1;
  return NULL;
}

/* Fills the varying dims behind the first with the numbers of "2,3,4", which lists all dims behind the first. */
static mu_status fill_dims(const struct target_input *input, const char *text, int64_t *dims, uint32_t first,
                           mu_error *err) {
  for (uint32_t i = first; i < input->rank; i++) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    bool last = i + 1 == input->rank;
    if (errno != 0 || end == text || value < 0 || *end != (last ? '\0' : ','))
      return mu_fail(err, MU_INVALID, "--shape %s: %u numbers are wanted, like %s:8,8", input->name,
                     input->rank - first, input->name);
    dims[i] = value;
    text = end + 1;
  }
  return MU_OK;
}

static bool is_batched(const struct target_input *input) { return input->rank > 0 && input->dims[0] < 0; }

/* What is said of the dims; those that nobody said stay -1. */
static mu_status choose_dims(const struct target_input *input, const struct payload_options *options, int64_t *dims,
                             mu_error *err) {
  memcpy(dims, input->dims, sizeof input->dims);
  if (is_batched(input)) dims[0] = options->rows;
  const char *shape = find_named(options->shapes, options->n_shapes, input->name, ':');
  return shape != NULL ? fill_dims(input, shape, dims, is_batched(input), err) : MU_OK;
}

/* ---- data -------------------------------------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *state) { /* xorshift64* */
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * UINT64_C(2685821657736338717);
}

/* Values that any model can digest: floats in [0, 1), integers 0 or 1, short strings. */
static mu_status append_random(mu_dtype dtype, uint64_t elements, uint64_t *state, struct buffer *out) {
  size_t size = mu_dtype_size(dtype);
  for (uint64_t i = 0; i < elements; i++) {
    uint64_t random = next_random(state) >> 11;
    double fraction = (double)random / (double)(UINT64_C(1) << 53);
    float single = (float)fraction;
    uint16_t brain;
    memcpy(&brain, (const char *)&single + 2, sizeof brain); /* the upper half of a float is a BF16 */
    uint64_t integer = random & 1;
    uint16_t half = (uint16_t)(0x3800 | (random & 0x3ff)); /* [0.5, 1) */
    uint32_t length = BYTES_ELEMENT;
    switch (dtype) {
      case MU_FP32:
        buffer_append(out, &single, size);
        break;
      case MU_FP64:
        buffer_append(out, &fraction, size);
        break;
      case MU_FP16:
        buffer_append(out, &half, size);
        break;
      case MU_BF16:
        buffer_append(out, &brain, size);
        break;
      case MU_BYTES:
        buffer_append(out, &length, sizeof length);
        for (uint32_t k = 0; k < length; k++) buffer_putc(out, (char)('a' + (random >> k) % 26));
        break;
      default:
        buffer_append(out, &integer, size);
        break;
    }
  }
  return out->failed ? MU_TOO_LARGE : MU_OK;
}

static mu_status append_input(const struct target *target, const struct target_input *input,
                              const struct payload_options *options, uint64_t *state, struct buffer *json,
                              struct payload *payload, struct buffer *tensors, mu_error *err) {
  int64_t dims[MU_MAX_RANK];
  char shape[256];
  uint64_t elements, bytes;
  size_t before = tensors->size;
  mu_status status = choose_dims(input, options, dims, err);
  if (status != MU_OK) return status;
  const char *path = find_named(options->files, options->n_files, input->name, '=');
  if (path != NULL) {
    status = tensor_file_append(path, input, dims, tensors, err);
    if (status != MU_OK) return status;
  } else {
    if (shape_size(input->dtype, dims, input->rank, &elements, &bytes) != MU_OK)
      return mu_fail(err, MU_INVALID, "input '%s' has the shape %s: say its varying dims with --shape %s:…",
                     input->name, shape_text(input->dims, input->rank, shape, sizeof shape), input->name);
    if (append_random(input->dtype, elements, state, tensors) != MU_OK)
      return mu_fail(err, MU_TOO_LARGE, "input '%s' is too large", input->name);
  }
  if (is_batched(input) && payload->rows < dims[0]) payload->rows = dims[0];
  buffer_puts(json, input == target->inputs ? "{\"name\":" : ",{\"name\":");
  json_write_string(json, input->name, strlen(input->name));
  buffer_print(json, ",\"shape\":%s,\"datatype\":\"%s\",\"parameters\":{\"binary_data_size\":%zu}}",
               shape_text(dims, input->rank, shape, sizeof shape), mu_dtype_name(input->dtype), tensors->size - before);
  return json->failed ? mu_fail(err, MU_NO_MEMORY, "no memory for the request") : MU_OK;
}

/* Every name that a flag says has to be an input's. */
static mu_status check_names(const struct target *target, const char *const *list, size_t n, char separator,
                             const char *flag, mu_error *err) {
  for (size_t i = 0; i < n; i++) {
    size_t length = (size_t)(strchr(list[i], separator) - list[i]);
    uint32_t k = 0;
    while (k < target->n_inputs &&
           (strlen(target->inputs[k].name) != length || strncmp(target->inputs[k].name, list[i], length) != 0))
      k++;
    if (k == target->n_inputs)
      return mu_fail(err, MU_INVALID, "%s %s: '%s' has no such input", flag, list[i], target->model);
  }
  return MU_OK;
}

static mu_status begin_payload(const char *method, const struct payload_options *options, struct payload *payload,
                               mu_error *err) {
  payload->method = method;
  payload->rows = 1;
  buffer_init(&payload->headers, PAYLOAD_BYTES_MAX);
  buffer_init(&payload->body, PAYLOAD_BYTES_MAX);
  for (size_t i = 0; i < options->n_headers; i++) {
    const char *header = options->headers[i], *colon = strchr(header, ':');
    if (colon == NULL || colon == header || strpbrk(header, "\r\n") != NULL)
      return mu_fail(err, MU_INVALID, "--header wants 'Name: value', not '%s'", header);
    buffer_print(&payload->headers, "%s\r\n", header);
  }
  return MU_OK;
}

mu_status payload_infer(const struct target *target, const struct payload_options *options, struct payload *payload,
                        mu_error *err) {
  struct buffer tensors;
  buffer_init(&tensors, PAYLOAD_BYTES_MAX);
  uint64_t state = options->seed * 2 + 1;
  mu_status status = begin_payload("POST", options, payload, err);
  struct buffer *json = &payload->body;
  if (status == MU_OK) status = check_names(target, options->files, options->n_files, '=', "--input", err);
  if (status == MU_OK) status = check_names(target, options->shapes, options->n_shapes, ':', "--shape", err);
  buffer_puts(json, "{\"inputs\":[");
  for (uint32_t i = 0; status == MU_OK && i < target->n_inputs; i++)
    status = append_input(target, &target->inputs[i], options, &state, json, payload, &tensors, err);
  if (status == MU_OK && options->rows > 1 && payload->rows == 1)
    status = mu_fail(err, MU_INVALID, "'%s' has no varying first dim: its requests have no rows", target->model);
  buffer_puts(json, "],\"parameters\":{\"binary_data_output\":true}}");
  payload->json_size = json->size;
  buffer_print(&payload->headers, "Inference-Header-Content-Length: %zu\r\n", json->size);
  buffer_append(json, tensors.data, tensors.size);
  buffer_free(&tensors);
  if (status == MU_OK && (json->failed || payload->headers.failed))
    status = mu_fail(err, MU_TOO_LARGE, "the request is too large");
  return status;
}

mu_status payload_ready(const char *method, const char *body_path, uint64_t bytes,
                        const struct payload_options *options, struct payload *payload, mu_error *err) {
  uint64_t state = options->seed * 2 + 1;
  mu_status status = begin_payload(method, options, payload, err);
  if (status == MU_OK && body_path != NULL) status = file_append(body_path, &payload->body, err);
  if (status == MU_OK && bytes > 0 && append_random(MU_UINT8, bytes, &state, &payload->body) != MU_OK)
    status = mu_fail(err, MU_TOO_LARGE, "a body of %llu bytes is too large", (unsigned long long)bytes);
  return status;
}

void payload_free(struct payload *payload) {
  buffer_free(&payload->headers);
  buffer_free(&payload->body);
}

mu_status payload_print(const struct payload *payload, const struct target *target, struct buffer *out, mu_error *err) {
  bool v6 = strchr(target->host, ':') != NULL;
  if (target->path[0] != '\0') {
    buffer_print(out, "%s %s HTTP/1.1\r\nHost: %s%s%s:%s\r\n", payload->method, target->path, v6 ? "[" : "",
                 target->host, v6 ? "]" : "", target->port);
    buffer_append(out, payload->headers.data, payload->headers.size);
    if (payload->body.size > 0 || strcmp(payload->method, "GET") != 0)
      buffer_print(out, "Content-Length: %zu\r\n", payload->body.size);
    buffer_puts(out, "\r\n");
  }
  buffer_append(out, payload->body.data, payload->body.size);
  return out->failed ? mu_fail(err, MU_NO_MEMORY, "no memory for the request") : MU_OK;
}
