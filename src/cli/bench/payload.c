#include "cli/bench/payload.h"

#include "proto/json/json_reader.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { BYTES_ELEMENT = 8 }; /* length of a random string element */

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

static mu_status choose_dims(const struct target_input *input, const struct payload_options *options, int64_t *dims,
                             mu_error *err) {
  memcpy(dims, input->dims, sizeof input->dims);
  bool batched = input->rank > 0 && dims[0] < 0;
  if (batched) dims[0] = options->rows;
  const char *shape = find_named(options->shapes, options->n_shapes, input->name, ':');
  if (shape != NULL) return fill_dims(input, shape, dims, batched, err);
  for (uint32_t i = 0; i < input->rank; i++) {
    char text[128];
    if (dims[i] < 0)
      return mu_fail(err, MU_INVALID, "input '%s' has the shape %s: say its varying dims with --shape %s:…",
                     input->name, shape_text(input->dims, input->rank, text, sizeof text), input->name);
  }
  return MU_OK;
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

static mu_status append_file(const char *path, struct buffer *out, mu_error *err) {
  FILE *file = fopen(path, "re");
  if (file == NULL) return mu_fail(err, MU_IO, "%s: %s", path, strerror(errno));
  char chunk[65536];
  mu_status status = MU_OK;
  for (size_t n; status == MU_OK && (n = fread(chunk, 1, sizeof chunk, file)) > 0;)
    status = buffer_append(out, chunk, n);
  if (ferror(file)) status = MU_IO;
  fclose(file);
  return status == MU_OK ? MU_OK : mu_fail(err, status, "%s cannot be read, or is too large", path);
}

static mu_status append_input(const struct target *target, const struct target_input *input,
                              const struct payload_options *options, uint64_t *state, struct buffer *json,
                              struct buffer *tensors, mu_error *err) {
  int64_t dims[MU_MAX_RANK];
  uint64_t elements, bytes;
  mu_status status = choose_dims(input, options, dims, err);
  if (status != MU_OK) return status;
  if (shape_size(input->dtype, dims, input->rank, &elements, &bytes) != MU_OK)
    return mu_fail(err, MU_INVALID, "input '%s': the shape is too large", input->name);
  size_t before = tensors->size;
  const char *path = find_named(options->files, options->n_files, input->name, '=');
  status = path != NULL ? append_file(path, tensors, err) : append_random(input->dtype, elements, state, tensors);
  size_t size = tensors->size - before;
  if (status == MU_TOO_LARGE && path == NULL) mu_fail(err, status, "input '%s' is too large", input->name);
  if (status != MU_OK) return status;
  char shape[256];
  shape_text(dims, input->rank, shape, sizeof shape);
  if (input->dtype != MU_BYTES && size != bytes)
    return mu_fail(err, MU_INVALID, "%s has %zu bytes, input '%s' with the shape %s takes %llu", path, size,
                   input->name, shape, (unsigned long long)bytes);
  buffer_puts(json, input == target->inputs ? "{\"name\":" : ",{\"name\":");
  json_write_string(json, input->name, strlen(input->name));
  buffer_print(json, ",\"shape\":%s,\"datatype\":\"%s\",\"parameters\":{\"binary_data_size\":%zu}}", shape,
               mu_dtype_name(input->dtype), size);
  return json->failed ? mu_fail(err, MU_NO_MEMORY, "no memory for the request") : MU_OK;
}

mu_status payload_build(const struct target *target, const struct payload_options *options, struct buffer *out,
                        mu_error *err) {
  enum { PAYLOAD_BYTES_MAX = 1 << 30 };
  struct buffer json, tensors;
  buffer_init(&json, PAYLOAD_BYTES_MAX);
  buffer_init(&tensors, PAYLOAD_BYTES_MAX);
  uint64_t state = options->seed * 2 + 1;
  mu_status status = buffer_puts(&json, "{\"inputs\":[");
  for (uint32_t i = 0; status == MU_OK && i < target->n_inputs; i++)
    status = append_input(target, &target->inputs[i], options, &state, &json, &tensors, err);
  buffer_puts(&json, "],\"parameters\":{\"binary_data_output\":true}}");
  if (status == MU_OK) {
    const char *versions = target->version[0] != '\0' ? "/versions/" : "";
    buffer_print(out,
                 "POST /v2/models/%s%s%s/infer HTTP/1.1\r\nHost: %s:%s\r\nInference-Header-Content-Length: %zu\r\n"
                 "Content-Length: %zu\r\n\r\n",
                 target->model, versions, target->version, target->host, target->port, json.size,
                 json.size + tensors.size);
    buffer_append(out, json.data, json.size);
    buffer_append(out, tensors.data, tensors.size);
    if (out->failed || json.failed) status = mu_fail(err, MU_TOO_LARGE, "the request is too large");
  }
  buffer_free(&json);
  buffer_free(&tensors);
  return status;
}
