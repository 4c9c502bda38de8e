#include "engine/remote/remote_body.h"

#include <string.h>

#include "proto/grpc/grpc_message.h"
#include "proto/json/json_reader.h"
#include "proto/protobuf/wire.h"

enum { TEXT_MAX = 1 << 20 };

/* Field numbers of ModelInferRequest and its tensors. */
enum { MODEL_NAME = 1, MODEL_VERSION = 2, INPUTS = 5, OUTPUTS = 6, RAW_INPUT_CONTENTS = 7 };
enum { TENSOR_NAME = 1, TENSOR_DATATYPE = 2, TENSOR_SHAPE = 3 };

void remote_body_init(struct remote_body *body) {
  *body = (struct remote_body){0};
  buffer_init(&body->text, TEXT_MAX);
}

void remote_body_free(struct remote_body *body) { buffer_free(&body->text); }

static void clear(struct remote_body *body) {
  buffer_clear(&body->text);
  body->n_pieces = 0;
  body->size = 0;
  body->piece = body->at = 0;
}

/* Text from offset to the end of what is written. */
static void add_text(struct remote_body *body, size_t offset) {
  if (body->text.size == offset) return;
  size_t size = body->text.size - offset;
  body->pieces[body->n_pieces++] = (struct remote_piece){NULL, offset, size};
  body->size += size;
}

static void add_data(struct remote_body *body, const mu_tensor *tensor) {
  if (tensor->size == 0) return;
  body->pieces[body->n_pieces++] = (struct remote_piece){tensor->data, 0, tensor->size};
  body->size += tensor->size;
}

static mu_status check(const mu_model_info *info, const mu_input *inputs, size_t n_inputs, const mu_output *outputs,
                       size_t n_outputs, mu_error *err) {
  if (n_inputs > REMOTE_TENSORS_MAX || n_outputs > REMOTE_TENSORS_MAX)
    return mu_fail(err, MU_INVALID, "more than %d inputs or outputs", REMOTE_TENSORS_MAX);
  for (size_t i = 0; i < n_inputs; i++)
    if (inputs[i].index >= info->n_inputs || inputs[i].tensor.rank > MU_MAX_RANK)
      return mu_fail(err, MU_INVALID, "there is no input %u", inputs[i].index);
  for (size_t i = 0; i < n_outputs; i++)
    if (outputs[i].index >= info->n_outputs) return mu_fail(err, MU_INVALID, "there is no output %u", outputs[i].index);
  return MU_OK;
}

/* ---- REST -------------------------------------------------------------------------------------------------------- */

static void write_json_input(struct buffer *out, const mu_tensor_info *info, const mu_tensor *tensor) {
  buffer_puts(out, "{\"name\":");
  json_write_string(out, info->name, strlen(info->name));
  buffer_print(out, ",\"datatype\":\"%s\",\"shape\":[", mu_dtype_name(tensor->dtype));
  for (uint32_t d = 0; d < tensor->rank; d++) {
    if (d > 0) buffer_putc(out, ',');
    json_write_i64(out, tensor->dims[d]);
  }
  buffer_print(out, "],\"parameters\":{\"binary_data_size\":%zu}}", tensor->size);
}

static void write_json(struct remote_body *body, const mu_model_info *info, const mu_input *inputs, size_t n_inputs,
                       const mu_output *outputs, size_t n_outputs) {
  struct buffer *out = &body->text;
  buffer_puts(out, "{\"inputs\":[");
  for (size_t i = 0; i < n_inputs; i++) {
    if (i > 0) buffer_putc(out, ',');
    write_json_input(out, &info->inputs[inputs[i].index], &inputs[i].tensor);
  }
  buffer_puts(out, "],\"outputs\":[");
  for (size_t i = 0; i < n_outputs; i++) {
    const char *name = info->outputs[outputs[i].index].name;
    buffer_puts(out, i > 0 ? ",{\"name\":" : "{\"name\":");
    json_write_string(out, name, strlen(name));
    buffer_puts(out, ",\"parameters\":{\"binary_data\":true}}");
  }
  buffer_puts(out, "]}");
  body->head_size = out->size;
  add_text(body, 0);
  for (size_t i = 0; i < n_inputs; i++) add_data(body, &inputs[i].tensor);
}

/* ---- gRPC -------------------------------------------------------------------------------------------------------- */

static void write_grpc_input(struct buffer *out, const mu_tensor_info *info, const mu_tensor *tensor) {
  size_t field = pb_open(out, INPUTS);
  pb_put_text_field(out, TENSOR_NAME, info->name);
  pb_put_text_field(out, TENSOR_DATATYPE, mu_dtype_name(tensor->dtype));
  size_t shape = pb_open(out, TENSOR_SHAPE);
  for (uint32_t d = 0; d < tensor->rank; d++) pb_put_varint(out, (uint64_t)tensor->dims[d]);
  pb_close(out, shape);
  pb_close(out, field);
}

/* The prefix comes first, and is known last. */
static mu_status write_prefix(struct remote_body *body, mu_error *err) {
  uint64_t message = body->size - GRPC_PREFIX_SIZE;
  if (message > UINT32_MAX)
    return mu_fail(err, MU_TOO_LARGE, "a batch of %llu bytes is more than a message of gRPC can be",
                   (unsigned long long)message);
  if (!body->text.failed) grpc_prefix_write((uint8_t *)body->text.data, false, (uint32_t)message);
  return MU_OK;
}

static mu_status write_grpc(struct remote_body *body, const struct remote_settings *settings, const mu_model_info *info,
                            const mu_input *inputs, size_t n_inputs, const mu_output *outputs, size_t n_outputs,
                            mu_error *err) {
  struct buffer *out = &body->text;
  const char prefix[GRPC_PREFIX_SIZE] = {0};
  buffer_append(out, prefix, sizeof prefix);
  pb_put_text_field(out, MODEL_NAME, settings->model);
  if (settings->version != NULL) pb_put_text_field(out, MODEL_VERSION, settings->version);
  for (size_t i = 0; i < n_inputs; i++) write_grpc_input(out, &info->inputs[inputs[i].index], &inputs[i].tensor);
  for (size_t i = 0; i < n_outputs; i++) {
    size_t field = pb_open(out, OUTPUTS);
    pb_put_text_field(out, TENSOR_NAME, info->outputs[outputs[i].index].name);
    pb_close(out, field);
  }
  size_t begin = 0;
  for (size_t i = 0; i < n_inputs; i++) {
    pb_put_length(out, RAW_INPUT_CONTENTS, inputs[i].tensor.size);
    add_text(body, begin);
    add_data(body, &inputs[i].tensor);
    begin = out->size;
  }
  add_text(body, begin);
  return write_prefix(body, err);
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

mu_status remote_body_write(struct remote_body *body, const struct remote_settings *settings, const mu_model_info *info,
                            const mu_input *inputs, size_t n_inputs, const mu_output *outputs, size_t n_outputs,
                            mu_error *err) {
  mu_status status = check(info, inputs, n_inputs, outputs, n_outputs, err);
  if (status != MU_OK) return status;
  clear(body);
  if (settings->protocol == REMOTE_HTTP)
    write_json(body, info, inputs, n_inputs, outputs, n_outputs);
  else
    status = write_grpc(body, settings, info, inputs, n_inputs, outputs, n_outputs, err);
  if (status == MU_OK && body->text.failed) status = mu_fail(err, MU_NO_MEMORY, "no memory for a request");
  return status;
}

size_t remote_body_read(struct remote_body *body, char *to, size_t size) {
  size_t done = 0;
  while (done < size && body->piece < body->n_pieces) {
    const struct remote_piece *piece = &body->pieces[body->piece];
    const char *data = piece->data != NULL ? piece->data : body->text.data + piece->offset;
    size_t n = piece->size - body->at < size - done ? piece->size - body->at : size - done;
    memcpy(to + done, data + body->at, n);
    done += n;
    body->at += n;
    if (body->at < piece->size) break;
    body->piece++;
    body->at = 0;
  }
  return done;
}

bool remote_body_seek(struct remote_body *body, uint64_t offset) {
  if (offset > body->size) return false;
  size_t piece = 0;
  for (; piece < body->n_pieces && offset >= body->pieces[piece].size; piece++) offset -= body->pieces[piece].size;
  body->piece = piece;
  body->at = (size_t)offset;
  return true;
}
