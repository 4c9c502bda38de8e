/* A ModelInferRequest, field by field, where it lies. */
#include "api/grpc_contents.h"
#include "api/grpc_infer.h"
#include "api/grpc_infer_raw.h"
#include "api/infer_parameters.h"
#include "api/infer_shared_memory.h"
#include "api/infer_tensors.h"
#include "model/text.h"

#include <stdio.h>

enum { SHAPE_TEXT_MAX = 160, QUOTE_MAX = 100, WHO_MAX = 128, BYTES_PREFIX = 4 };

/* Field numbers of the protocol. */
enum { REQUEST_ID = 3, REQUEST_PARAMETERS = 4, REQUEST_INPUTS = 5, REQUEST_OUTPUTS = 6, REQUEST_RAW = 7 };
enum { INPUT_NAME = 1, INPUT_DATATYPE = 2, INPUT_SHAPE = 3, INPUT_PARAMETERS = 4, INPUT_CONTENTS = 5 };
enum { OUTPUT_NAME = 1, OUTPUT_PARAMETERS = 2 };
enum { ENTRY_KEY = 1, ENTRY_VALUE = 2 };
enum { VALUE_BOOL = 1, VALUE_INT64 = 2, VALUE_STRING = 3, VALUE_DOUBLE = 4, VALUE_UINT64 = 5 };

#define QUOTE(quoted) (int)((quoted).size < QUOTE_MAX ? (quoted).size : QUOTE_MAX), (quoted).text

struct text {
  const char *text;
  size_t size;
};

struct parse {
  const struct model *model;
  const char *message;
  struct request *request;
  uint32_t n_from_raw;                 /* inputs that have no contents of their own */
  const struct model_tensor *contents; /* an input that has; NULL when none */
  struct grpc_raw raw;                 /* contents that lie in the message */
  mu_error *err;
};

/* An input or output as the message describes it. */
struct tensor {
  const char *kind; /* "input", "output" */
  uint32_t position;
  bool has_name, has_datatype, has_contents;
  struct text name, datatype;
  uint32_t rank;
  int64_t dims[MU_MAX_RANK];
  struct infer_tensor_parameters parameters;
};

/* ---- values ------------------------------------------------------------------------------------------------------ */

static mu_status read_text(const struct pb_field *field, const char *what, struct text *ret_text, mu_error *err) {
  if (!text_valid(field->bytes, field->size))
    return mu_fail(err, MU_INVALID, "%s is not valid UTF-8, or has a NUL character", what);
  *ret_text = (struct text){field->bytes, field->size};
  return MU_OK;
}

/* InferParameter; the last of its oneof counts, also over several pieces of it. */
static mu_status read_value(const struct pb_field *field, struct infer_value *value, mu_error *err) {
  struct pb_reader reader;
  struct pb_field f;
  struct text text;
  mu_status status = MU_OK;
  pb_reader_init(&reader, field->bytes, field->size);
  while (status == MU_OK && pb_next(&reader, &f)) {
    if (f.number == VALUE_BOOL && f.wire == PB_VARINT)
      *value = (struct infer_value){.kind = INFER_VALUE_BOOL, .flag = f.value != 0};
    if (f.number == VALUE_INT64 && f.wire == PB_VARINT)
      *value = (struct infer_value){.kind = INFER_VALUE_I64, .i64 = (int64_t)f.value};
    if (f.number == VALUE_UINT64 && f.wire == PB_VARINT)
      *value = (struct infer_value){.kind = INFER_VALUE_U64, .u64 = f.value};
    if (f.number == VALUE_DOUBLE && f.wire == PB_FIXED64) {
      *value = (struct infer_value){.kind = INFER_VALUE_DOUBLE};
      memcpy(&value->real, &f.value, sizeof value->real);
    }
    if (f.number == VALUE_STRING && f.wire == PB_BYTES) {
      status = read_text(&f, "a parameter's text", &text, err);
      *value = (struct infer_value){.kind = INFER_VALUE_TEXT, .text = f.bytes, .text_size = f.size};
    }
  }
  return status == MU_OK ? pb_finish(&reader, "a parameter", err) : status;
}

/* An entry of a map of parameters. */
static mu_status read_parameter(const struct pb_field *field, struct infer_parameter *parameter, mu_error *err) {
  struct pb_reader reader;
  struct pb_field f;
  struct text key = {"", 0};
  *parameter = (struct infer_parameter){.key = ""};
  pb_reader_init(&reader, field->bytes, field->size);
  while (pb_next(&reader, &f)) {
    if (f.wire != PB_BYTES) continue;
    mu_status status = MU_OK;
    if (f.number == ENTRY_KEY) status = read_text(&f, "a parameter's name", &key, err);
    if (f.number == ENTRY_VALUE) status = read_value(&f, &parameter->value, err);
    if (status != MU_OK) return status;
  }
  parameter->key = key.text;
  parameter->key_size = key.size;
  return pb_finish(&reader, "a parameter", err);
}

/* "inputs[2]" or "input 'x'", into text. */
static const char *subject(const struct tensor *tensor, char *text) {
  if (tensor->has_name)
    snprintf(text, WHO_MAX, "%s '%.*s'", tensor->kind, QUOTE(tensor->name));
  else
    snprintf(text, WHO_MAX, "%ss[%u]", tensor->kind, tensor->position);
  return text;
}

static mu_status add_dim(const struct parse *p, struct tensor *tensor, int64_t dim) {
  char who[WHO_MAX];
  if (dim < 0)
    return mu_fail(p->err, MU_INVALID, "%s: a dimension of its shape is %lld", subject(tensor, who), (long long)dim);
  if (tensor->rank == MU_MAX_RANK)
    return mu_fail(p->err, MU_INVALID, "%s: its shape has more than %d dimensions", subject(tensor, who), MU_MAX_RANK);
  tensor->dims[tensor->rank++] = dim;
  return MU_OK;
}

/* A piece of the shape: one dimension, or many packed. */
static mu_status read_shape(const struct parse *p, const struct pb_field *field, struct tensor *tensor) {
  if (field->wire == PB_VARINT) return add_dim(p, tensor, (int64_t)field->value);
  if (field->wire != PB_BYTES) return MU_OK;
  struct pb_reader reader;
  uint64_t dim;
  pb_reader_init(&reader, field->bytes, field->size);
  while (pb_next_varint(&reader, &dim)) {
    const mu_status status = add_dim(p, tensor, (int64_t)dim);
    if (status != MU_OK) return status;
  }
  return pb_finish(&reader, "an input's shape", p->err);
}

/* ---- inputs ------------------------------------------------------------------------------------------------------ */

static mu_status read_input_field(const struct parse *p, const struct pb_field *field, struct tensor *tensor) {
  char who[WHO_MAX];
  struct infer_parameter parameter;
  if (field->number == INPUT_SHAPE) return read_shape(p, field, tensor);
  if (field->wire != PB_BYTES) return MU_OK;
  switch (field->number) {
    case INPUT_NAME:
      tensor->has_name = true;
      return read_text(field, "an input's name", &tensor->name, p->err);
    case INPUT_DATATYPE:
      tensor->has_datatype = true;
      return read_text(field, "an input's datatype", &tensor->datatype, p->err);
    case INPUT_PARAMETERS: {
      const mu_status status = read_parameter(field, &parameter, p->err);
      return status == MU_OK ? infer_input_parameter(subject(tensor, who), &parameter, &tensor->parameters, p->err)
                             : status;
    }
    case INPUT_CONTENTS:
      tensor->has_contents = true;
      return MU_OK;
    default:
      return MU_OK;
  }
}

/* The model's tensor of that name. */
static mu_status find_tensor(const struct parse *p, const struct tensor *tensor, bool input, uint32_t *ret_index) {
  const struct model_metadata *metadata = p->model->metadata;
  if (!tensor->has_name || tensor->name.size == 0)
    return mu_fail(p->err, MU_INVALID, "%ss[%u] has no name", tensor->kind, tensor->position);
  const int index = input ? model_metadata_find_input(metadata, tensor->name.text, tensor->name.size)
                          : model_metadata_find_output(metadata, tensor->name.text, tensor->name.size);
  if (index < 0) return infer_unknown_tensor(p->model, input, tensor->name.text, tensor->name.size, p->err);
  *ret_index = (uint32_t)index;
  return MU_OK;
}

static mu_status check_datatype(const struct parse *p, const struct tensor *tensor, mu_dtype wanted) {
  if (!tensor->has_datatype || tensor->datatype.size == 0)
    return mu_fail(p->err, MU_INVALID, "input '%.*s' has no datatype; the model takes %s", QUOTE(tensor->name),
                   mu_dtype_name(wanted));
  if (mu_dtype_parse(tensor->datatype.text, tensor->datatype.size) == wanted) return MU_OK;
  return mu_fail(p->err, MU_INVALID, "input '%.*s': datatype %.*s is not the %s that the model takes",
                 QUOTE(tensor->name), QUOTE(tensor->datatype), mu_dtype_name(wanted));
}

/* Counts the elements of typed contents; *ret_bytes: what they take as BYTES. */
static mu_status measure_contents(const struct parse *p, const struct tensor *tensor, const struct pb_field *message,
                                  mu_dtype dtype, uint64_t *ret_elements, uint64_t *ret_bytes) {
  uint32_t number;
  const char *wanted = grpc_contents_field(dtype, &number);
  uint64_t elements = 0, bytes = 0;
  struct grpc_contents walk;
  struct pb_field element;
  grpc_contents_begin(&walk, message->bytes, message->size);
  while (grpc_contents_next(&walk, &element)) {
    if (element.number != number && wanted == NULL)
      return mu_fail(p->err, MU_INVALID, "input '%.*s': data of type %s comes in raw_input_contents only",
                     QUOTE(tensor->name), mu_dtype_name(dtype));
    if (element.number != number)
      return mu_fail(p->err, MU_INVALID, "input '%.*s': its contents have %s, data of type %s comes in %s",
                     QUOTE(tensor->name), grpc_contents_field_name(element.number), mu_dtype_name(dtype), wanted);
    if (element.size > UINT32_MAX)
      return mu_fail(p->err, MU_INVALID, "input '%.*s': an element of BYTES has at most 4294967295 bytes",
                     QUOTE(tensor->name));
    elements++;
    bytes += BYTES_PREFIX + element.size;
  }
  *ret_elements = elements;
  *ret_bytes = bytes;
  return grpc_contents_finish(&walk, "an input", p->err);
}

static mu_status take_contents(struct parse *p, const struct tensor *tensor, const struct pb_field *message,
                               struct request_input *input) {
  uint64_t elements = 0, bytes = 0;
  const mu_status status = measure_contents(p, tensor, message, input->dtype, &elements, &bytes);
  if (status != MU_OK) return status;
  char shape[SHAPE_TEXT_MAX];
  if (elements != input->elements)
    return mu_fail(p->err, MU_INVALID, "input '%.*s': shape %s has %llu elements, its contents have %llu",
                   QUOTE(tensor->name), shape_text(tensor->dims, tensor->rank, shape, sizeof shape),
                   (unsigned long long)input->elements, (unsigned long long)elements);
  if (input->dtype == MU_BYTES) input->size = bytes;
  input->source = INPUT_TYPED;
  input->source_at = (size_t)(message->bytes - p->message);
  input->source_size = message->size;
  p->contents = &p->model->metadata->inputs[input->index];
  return MU_OK;
}

static mu_status take_shared(struct parse *p, const struct tensor *tensor, struct request_input *input) {
  if (!tensor->has_contents) return infer_input_share(p->model, &tensor->parameters.shared, p->request, input, p->err);
  return mu_fail(p->err, MU_INVALID,
                 "unexpected 'content' provided when using shared memory for input tensor '%.*s' for model '%.100s'",
                 QUOTE(tensor->name), p->model->name);
}

static mu_status read_input(struct parse *p, const struct pb_field *message, uint32_t position) {
  struct tensor tensor = {.kind = "input", .position = position, .name = {"", 0}, .datatype = {"", 0}};
  struct pb_reader reader;
  struct pb_field field;
  mu_status status = MU_OK;
  pb_reader_init(&reader, message->bytes, message->size);
  while (status == MU_OK && pb_next(&reader, &field)) status = read_input_field(p, &field, &tensor);
  if (status == MU_OK) status = pb_finish(&reader, "an input", p->err);
  uint32_t index;
  if (status == MU_OK) status = find_tensor(p, &tensor, true, &index);
  if (status == MU_OK) status = check_datatype(p, &tensor, p->model->metadata->inputs[index].info.dtype);
  if (status != MU_OK) return status;
  struct request_input *input;
  status = infer_input_add(p->model, index, tensor.dims, tensor.rank, p->request, &input, p->err);
  if (status != MU_OK) return status;
  if (shared_memory_given(&tensor.parameters.shared)) return take_shared(p, &tensor, input);
  if (tensor.has_contents) return take_contents(p, &tensor, message, input);
  input->source = INPUT_BINARY;
  input->source_at = p->n_from_raw++;
  input->source_size = input->size;
  return MU_OK;
}

/* ---- outputs and the rest ---------------------------------------------------------------------------------------- */

static mu_status read_output(struct parse *p, const struct pb_field *message, uint32_t position) {
  struct tensor tensor = {.kind = "output", .position = position, .name = {"", 0}};
  struct pb_reader reader;
  struct pb_field field;
  struct infer_parameter parameter;
  char who[WHO_MAX];
  mu_status status = MU_OK;
  pb_reader_init(&reader, message->bytes, message->size);
  while (status == MU_OK && pb_next(&reader, &field)) {
    if (field.wire != PB_BYTES) continue;
    if (field.number == OUTPUT_NAME) {
      tensor.has_name = true;
      status = read_text(&field, "an output's name", &tensor.name, p->err);
    }
    if (field.number != OUTPUT_PARAMETERS) continue;
    status = read_parameter(&field, &parameter, p->err);
    if (status == MU_OK) status = infer_output_parameter(subject(&tensor, who), &parameter, &tensor.parameters, p->err);
  }
  if (status == MU_OK) status = pb_finish(&reader, "an output", p->err);
  uint32_t index;
  if (status == MU_OK) status = find_tensor(p, &tensor, false, &index);
  if (status != MU_OK) return status;
  const uint64_t classes = tensor.parameters.classification;
  if (classes > 0 && p->model->metadata->outputs[index].info.dtype == MU_BYTES)
    return mu_fail(p->err, MU_INVALID, "output '%.*s': a classification needs numbers, the output is BYTES",
                   QUOTE(tensor.name));
  struct request_output *output;
  status = infer_output_add(p->model, index, p->request, &output, p->err);
  if (status != MU_OK) return status;
  output->binary = true;
  output->classification = classes < UINT32_MAX ? (uint32_t)classes : UINT32_MAX;
  if (!shared_memory_given(&tensor.parameters.shared)) return MU_OK;
  return infer_output_share(p->model, &tensor.parameters.shared, p->request, output, p->err);
}

static mu_status read_id(const struct pb_field *field, char *id, mu_error *err) {
  struct text text;
  if (field->size > REQUEST_ID_MAX)
    return mu_fail(err, MU_INVALID, "id has %zu bytes, at most %d are taken", field->size, REQUEST_ID_MAX);
  const mu_status status = read_text(field, "id", &text, err);
  if (status != MU_OK) return status;
  memcpy(id, field->bytes, field->size);
  id[field->size] = '\0';
  return MU_OK;
}

static void note_raw(struct parse *p, const struct pb_field *field) {
  struct grpc_raw *raw = &p->raw;
  if (raw->n < MODEL_TENSORS_MAX) {
    raw->at[raw->n] = (size_t)(field->bytes - p->message);
    raw->size[raw->n] = field->size;
  }
  raw->n++; /* more than a model can have inputs: the count will not match */
}

static mu_status read_request(struct parse *p, size_t size) {
  struct pb_reader reader;
  struct pb_field field;
  struct infer_parameter parameter;
  uint32_t n_inputs = 0, n_outputs = 0;
  mu_status status = MU_OK;
  pb_reader_init(&reader, p->message, size);
  while (status == MU_OK && pb_next(&reader, &field)) {
    if (field.wire != PB_BYTES) continue;
    switch (field.number) {
      case REQUEST_ID:
        status = read_id(&field, p->request->id, p->err);
        break;
      case REQUEST_PARAMETERS:
        status = read_parameter(&field, &parameter, p->err);
        if (status == MU_OK) status = infer_request_parameter(&parameter, p->request, p->err);
        break;
      case REQUEST_INPUTS:
        status = read_input(p, &field, n_inputs++);
        break;
      case REQUEST_OUTPUTS:
        status = read_output(p, &field, n_outputs++);
        break;
      case REQUEST_RAW:
        note_raw(p, &field);
        break;
      default:
        break;
    }
  }
  return status == MU_OK ? pb_finish(&reader, "the request", p->err) : status;
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

mu_status grpc_infer_parse(const struct model *model, const char *message, size_t size,
                           const struct grpc_infer_rest *rest, struct request *request, mu_error *err) {
  if (model->metadata == NULL) return mu_fail(err, MU_UNAVAILABLE, "model '%.100s' is not ready", model->name);
  struct parse p;
  p.model = model;
  p.message = message != NULL ? message : "";
  p.request = request;
  p.n_from_raw = p.raw.n = 0; /* the rest of p.raw counts as far as n says */
  p.contents = NULL;
  p.err = err;
  request->binary_default = true;
  mu_status status = read_request(&p, size);
  if (status != MU_OK) return status;
  if (p.contents != NULL && (rest != NULL || p.raw.n > 0))
    return mu_fail(err, MU_INVALID,
                   "contents field must not be specified when using raw_input_contents for '%.100s' for model '%.100s'",
                   p.contents->info.name, model->name);
  status = rest != NULL ? grpc_raw_reckon(model, rest, request, err)
                        : grpc_raw_place(model, &p.raw, p.n_from_raw, request, err);
  if (status != MU_OK) return status;
  status = infer_inputs_complete(model, request, rest != NULL ? NULL : err);
  if (status != MU_OK && rest != NULL) { /* what is missing may come behind the contents */
    request->binary_bytes = UINT64_MAX;
    return MU_OK;
  }
  if (status == MU_OK && request->n_outputs == 0) status = infer_output_add_all(model, true, request, err);
  return status;
}
