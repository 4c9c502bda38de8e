/* The JSON of a reply to an inference: with binary tensors behind it, or with their elements in it. */
#include <string.h>

#include "engine/remote/remote_reply.h"
#include "proto/json/json_reader.h"

/* One of "outputs", whose members come in any order. */
struct output {
  struct json_text name;
  bool named, shaped;
  struct remote_tensor tensor;
  bool binary, has_data;
  uint64_t binary_size;
  struct json_tensor_form form; /* of "data" */
};

static bool read_shape(struct json_reader *reader, struct remote_tensor *tensor) {
  if (json_peek(reader) != JSON_READ_ARRAY || !json_enter(reader)) return false;
  for (tensor->rank = 0; json_element(reader); tensor->rank++) {
    int64_t dim;
    if (tensor->rank == MU_MAX_RANK || !json_read_i64(reader, &dim)) return false;
    tensor->dims[tensor->rank] = dim;
  }
  return !reader->failed;
}

static bool read_parameters(struct json_reader *reader, struct output *output) {
  struct json_text key;
  if (json_peek(reader) != JSON_READ_OBJECT) return json_skip(reader);
  if (!json_enter(reader)) return false;
  while (json_member(reader, &key)) {
    bool size = json_text_equal(&key, "binary_data_size");
    if (size ? !json_read_u64(reader, &output->binary_size) : !json_skip(reader)) return false;
    output->binary = output->binary || size;
  }
  return !reader->failed;
}

static bool read_member(struct json_reader *reader, const struct json_text *key, struct output *output) {
  struct json_text datatype;
  if (json_text_equal(key, "name")) return output->named = json_read_string(reader, &output->name);
  if (json_text_equal(key, "shape")) return output->shaped = read_shape(reader, &output->tensor);
  if (json_text_equal(key, "parameters")) return read_parameters(reader, output);
  if (json_text_equal(key, "data")) return output->has_data = json_measure_tensor(reader, &output->form);
  if (!json_text_equal(key, "datatype")) return json_skip(reader);
  if (!json_read_string(reader, &datatype)) return false;
  output->tensor.dtype = mu_dtype_parse(datatype.text, datatype.size);
  return true;
}

/* The elements that the JSON holds itself. */
static mu_status read_data(struct remote_reply *reply, const struct output *output, mu_error *err) {
  const struct remote_tensor *tensor = &output->tensor;
  uint64_t size = output->form.bytes, used = 0;
  uint8_t *place;
  mu_error why;
  if (!json_tensor_form_fits(&output->form, tensor->dims, tensor->rank))
    return mu_fail(err, MU_INTERNAL, "the elements of an output in its reply do not fit the output's shape");
  if (tensor->dtype != MU_BYTES && shape_size(tensor->dtype, tensor->dims, tensor->rank, NULL, &size) != MU_OK)
    return mu_fail(err, MU_INTERNAL, "an output in its reply has an impossible shape");
  mu_status status = remote_results_place(reply->results, tensor, size, &place, err);
  if (status != MU_OK || place == NULL) return status;
  struct json_reader reader;
  json_reader_init_at(&reader, reply->text.data, output->form.at, output->form.size);
  status = json_read_tensor(&reader, tensor->dtype, NULL, 0, place, size, &used, &why);
  if (status == MU_OK && used == size) return MU_OK;
  return mu_fail(err, MU_INTERNAL, "the elements of an output in its reply are wrong: %.200s",
                 status != MU_OK ? why.message : "they are too few");
}

static mu_status take_output(struct remote_reply *reply, struct output *output, mu_error *err) {
  char name[256];
  if (!output->named || !output->shaped || output->binary == output->has_data)
    return mu_fail(err, MU_INTERNAL, "an output of its reply lacks its name, its shape or its data");
  output->tensor.name = name;
  if (json_text_size(&output->name) <= sizeof name) /* else none of ours: no name */
    output->tensor.name_size = json_text_decode(&output->name, name);
  if (output->has_data) return read_data(reply, output, err);
  if (reply->head_size == UINT64_MAX)
    return mu_fail(err, MU_INTERNAL, "its reply announces binary data and does not say how long its JSON is");
  if (reply->n_parts == REMOTE_TENSORS_MAX)
    return mu_fail(err, MU_INTERNAL, "its reply has more than %d outputs", REMOTE_TENSORS_MAX);
  struct remote_part *part = &reply->parts[reply->n_parts++];
  part->size = output->binary_size;
  return remote_results_place(reply->results, &output->tensor, part->size, &part->place, err);
}

/* MU_OK, too, where the reader has failed, which json_finish tells. */
static mu_status read_outputs(struct remote_reply *reply, struct json_reader *reader, mu_error *err) {
  if (!json_enter(reader)) return MU_OK;
  while (json_element(reader)) {
    struct output output = {.tensor = {.dtype = MU_DTYPE_INVALID}};
    struct json_text key;
    bool good = json_peek(reader) == JSON_READ_OBJECT && json_enter(reader);
    while (good && json_member(reader, &key)) good = read_member(reader, &key, &output);
    if (reader->failed) return MU_OK;
    mu_status status = good ? take_output(reply, &output, err)
                            : mu_fail(err, MU_INTERNAL, "an output of its reply is no object, or has no shape");
    if (status != MU_OK) return status;
  }
  return MU_OK;
}

mu_status remote_reply_read_json(struct remote_reply *reply, mu_error *err) {
  struct json_reader reader;
  struct json_text key;
  mu_error why = {{0}};
  bool found = false;
  json_reader_init(&reader, reply->text.data != NULL ? reply->text.data : "", reply->text.size);
  if (json_peek(&reader) == JSON_READ_OBJECT && json_enter(&reader)) {
    while (json_member(&reader, &key)) {
      bool outputs = !found && json_text_equal(&key, "outputs") && json_peek(&reader) == JSON_READ_ARRAY;
      found = found || outputs;
      mu_status status = outputs ? read_outputs(reply, &reader, err) : MU_OK;
      if (status != MU_OK) return status;
      if (reader.failed || (!outputs && !json_skip(&reader))) break;
    }
  }
  if (json_finish(&reader, &why) != MU_OK)
    return mu_fail(err, MU_INTERNAL, "its reply is no JSON of an inference: %.200s", why.message);
  return found ? MU_OK : mu_fail(err, MU_INTERNAL, "its reply has no outputs");
}
