/* The JSON part of an inference request, field by field, from tables. */
#include "api/infer_shared_memory.h"
#include "api/infer_tensors.h"
#include "api/rest_infer.h"
#include "proto/json/json_reader.h"

#include <stdio.h>

enum { SHAPE_TEXT_MAX = 160, QUOTE_MAX = 100 };
_Static_assert(MODEL_TENSORS_MAX <= 64, "parse.binary_given has a bit for each output");

/* printf arguments for "%.*s": the client's text, cut off. */
#define QUOTE(quoted) (int)((quoted).size < QUOTE_MAX ? (quoted).size : QUOTE_MAX), (quoted).text

struct parse {
  const struct model *model;
  struct request *request;
  struct json_reader reader;
  uint64_t binary_at;       /* bytes of the binary part that inputs have claimed */
  uint64_t binary_given;    /* bit i: output i of the request says itself whether it is binary */
  bool has_inputs;          /* "inputs" was there */
  const char *kind;         /* "input", "output": whose fields are being read, for messages */
  struct json_text subject; /* its name, as far as it is known */
  uint32_t position;        /* where it stands in its array */
  mu_error *err;
};

static mu_status syntax(const struct parse *p) {
  return mu_fail(p->err, MU_INVALID, "the request's JSON is wrong at %s", p->reader.error.message);
}

/* One key of an object and who reads its value. */
struct field {
  const char *key;
  size_t size; /* of the key */
  mu_status (*read)(struct parse *p, const struct field *field, void *into);
};

static inline bool is_key(const struct json_text *key, const struct field *field) {
  if (key->escaped) return json_text_equal(key, field->key);
  return key->size == field->size && memcmp(key->text, field->key, field->size) == 0;
}

/* Reads the object that comes next: values with a field by that, all others are passed over. A key with a field must
 * not come twice (readers differ in which one they would take). */
static mu_status read_object(struct parse *p, const char *what, const struct field *fields, uint32_t n, void *into) {
  struct json_reader *reader = &p->reader;
  uint32_t seen = 0;
  if (json_peek(reader) != JSON_READ_OBJECT && !reader->failed)
    return mu_fail(p->err, MU_INVALID, "%s must be a JSON object", what);
  if (!json_enter(reader)) return syntax(p);
  struct json_text key;
  while (json_member(reader, &key)) {
    uint32_t i = 0;
    while (i < n && !is_key(&key, &fields[i])) i++;
    if (i == n) {
      if (!json_skip(reader)) return syntax(p);
      continue;
    }
    if ((seen >> i & 1) != 0) return mu_fail(p->err, MU_INVALID, "%s has \"%s\" twice", what, fields[i].key);
    seen |= 1u << i;
    const mu_status status = fields[i].read(p, &fields[i], into);
    if (status != MU_OK) return status;
    if (reader->failed) return syntax(p);
  }
  return reader->failed ? syntax(p) : MU_OK;
}

#define FIELD(key, read) \
  { key, sizeof(key) - 1, read }
#define COUNT(table) (uint32_t)(sizeof(table) / sizeof *(table))

/* ---- values ------------------------------------------------------------------------------------------------------ */

static mu_status read_u64(struct parse *p, const struct field *field, void *into) {
  return json_read_u64(&p->reader, into)
             ? MU_OK
             : mu_fail(p->err, MU_INVALID, "parameter \"%s\": %s", field->key, p->reader.error.message);
}

static mu_status read_bool(struct parse *p, const struct field *field, void *into) {
  return json_read_bool(&p->reader, into)
             ? MU_OK
             : mu_fail(p->err, MU_INVALID, "parameter \"%s\": %s", field->key, p->reader.error.message);
}

/* ---- parameters of the request ----------------------------------------------------------------------------------- */

static mu_status read_priority(struct parse *p, const struct field *field, void *into) {
  return read_u64(p, field, &p->request->priority);
}

static mu_status read_timeout(struct parse *p, const struct field *field, void *into) {
  return read_u64(p, field, &p->request->timeout_us);
}

static mu_status read_binary_data_output(struct parse *p, const struct field *field, void *into) {
  return read_bool(p, field, &p->request->binary_default);
}

/* 0, "" and false say that the request belongs to no sequence. */
static mu_status read_sequence(struct parse *p, const struct field *field, void *into) {
  struct json_text text;
  int64_t number;
  bool flag, none = false;
  switch (json_peek(&p->reader)) {
    case JSON_READ_FALSE:
    case JSON_READ_TRUE:
      none = json_read_bool(&p->reader, &flag) && !flag;
      break;
    case JSON_READ_STRING:
      none = json_read_string(&p->reader, &text) && text.size == 0;
      break;
    default:
      none = json_read_i64(&p->reader, &number) && number == 0;
      break;
  }
  if (p->reader.failed) return syntax(p);
  if (none) return MU_OK;
  return mu_fail(p->err, MU_UNSUPPORTED, "parameter \"%s\": muster does not serve sequences", field->key);
}

static const struct field request_parameters[] = {
    FIELD("priority", read_priority),     FIELD("timeout", read_timeout),
    FIELD("sequence_id", read_sequence),  FIELD("sequence_start", read_sequence),
    FIELD("sequence_end", read_sequence), FIELD("binary_data_output", read_binary_data_output),
};

/* ---- parameters of a tensor -------------------------------------------------------------------------------------- */

/* What an input's or output's object says, before it is held against the model. */
struct tensor_fields {
  mu_dtype dtype;
  struct json_text dtype_name;
  bool has_name, has_dtype, has_shape, has_data, has_binary_size, has_binary;
  uint32_t rank;
  int64_t dims[MU_MAX_RANK];
  struct json_tensor_form form;
  uint64_t binary_size;
  bool binary;
  uint64_t classification;
  struct shared_memory_parameters shared; /* but for the region */
  struct json_text region;
};

/* "inputs[2]" or "input 'x'", into text. */
static const char *subject(const struct parse *p, const struct tensor_fields *fields, char *text, size_t size) {
  if (fields->has_name)
    snprintf(text, size, "%s '%.*s'", p->kind, QUOTE(p->subject));
  else
    snprintf(text, size, "%ss[%u]", p->kind, p->position);
  return text;
}

enum { SUBJECT_MAX = 128 };

static mu_status read_shared_memory_region(struct parse *p, const struct field *field, void *into) {
  struct tensor_fields *fields = into;
  fields->shared.has_region = json_read_string(&p->reader, &fields->region);
  return MU_OK; /* a failed reader is seen by read_object */
}

static mu_status read_shared_memory_byte_size(struct parse *p, const struct field *field, void *into) {
  struct shared_memory_parameters *shared = &((struct tensor_fields *)into)->shared;
  shared->has_byte_size = true;
  return read_u64(p, field, &shared->byte_size);
}

static mu_status read_shared_memory_offset(struct parse *p, const struct field *field, void *into) {
  struct shared_memory_parameters *shared = &((struct tensor_fields *)into)->shared;
  shared->has_offset = true;
  return read_u64(p, field, &shared->offset);
}

static mu_status read_binary_data_size(struct parse *p, const struct field *field, void *into) {
  struct tensor_fields *fields = into;
  fields->has_binary_size = true;
  return read_u64(p, field, &fields->binary_size);
}

static mu_status read_binary_data(struct parse *p, const struct field *field, void *into) {
  struct tensor_fields *fields = into;
  fields->has_binary = true;
  return read_bool(p, field, &fields->binary);
}

static mu_status read_classification(struct parse *p, const struct field *field, void *into) {
  return read_u64(p, field, &((struct tensor_fields *)into)->classification);
}

static const struct field input_parameters[] = {
    FIELD("binary_data_size", read_binary_data_size),
    FIELD("shared_memory_region", read_shared_memory_region),
    FIELD("shared_memory_byte_size", read_shared_memory_byte_size),
    FIELD("shared_memory_offset", read_shared_memory_offset),
};

static const struct field output_parameters[] = {
    FIELD("binary_data", read_binary_data),
    FIELD("classification", read_classification),
    FIELD("shared_memory_region", read_shared_memory_region),
    FIELD("shared_memory_byte_size", read_shared_memory_byte_size),
    FIELD("shared_memory_offset", read_shared_memory_offset),
};

/* ---- fields of a tensor ------------------------------------------------------------------------------------------ */

static mu_status read_name(struct parse *p, const struct field *field, void *into) {
  struct tensor_fields *fields = into;
  fields->has_name = json_read_string(&p->reader, &p->subject);
  return MU_OK; /* a failed reader is seen by read_object */
}

static mu_status read_datatype(struct parse *p, const struct field *field, void *into) {
  struct tensor_fields *fields = into;
  fields->has_dtype = json_read_string(&p->reader, &fields->dtype_name);
  if (fields->has_dtype) fields->dtype = mu_dtype_parse(fields->dtype_name.text, fields->dtype_name.size);
  return MU_OK;
}

static mu_status read_shape(struct parse *p, const struct field *field, void *into) {
  struct tensor_fields *fields = into;
  struct json_reader *reader = &p->reader;
  char who[SUBJECT_MAX];
  fields->has_shape = true;
  if (json_peek(reader) != JSON_READ_ARRAY && !reader->failed)
    return mu_fail(p->err, MU_INVALID, "%s: \"shape\" must be an array", subject(p, fields, who, sizeof who));
  if (!json_enter(reader)) return syntax(p);
  while (json_element(reader)) {
    int64_t dim;
    if (!json_read_i64(reader, &dim)) return syntax(p);
    if (dim < 0)
      return mu_fail(p->err, MU_INVALID, "%s: a dimension of its shape is %lld", subject(p, fields, who, sizeof who),
                     (long long)dim);
    if (fields->rank == MU_MAX_RANK)
      return mu_fail(p->err, MU_INVALID, "%s: its shape has more than %d dimensions",
                     subject(p, fields, who, sizeof who), MU_MAX_RANK);
    fields->dims[fields->rank++] = dim;
  }
  return MU_OK;
}

static mu_status read_data(struct parse *p, const struct field *field, void *into) {
  struct tensor_fields *fields = into;
  fields->has_data = json_measure_tensor(&p->reader, &fields->form);
  return MU_OK;
}

static mu_status read_input_parameters(struct parse *p, const struct field *field, void *into) {
  return read_object(p, "an input's \"parameters\"", input_parameters, COUNT(input_parameters), into);
}

static mu_status read_output_parameters(struct parse *p, const struct field *field, void *into) {
  return read_object(p, "an output's \"parameters\"", output_parameters, COUNT(output_parameters), into);
}

static const struct field input_fields[] = {
    FIELD("name", read_name), FIELD("datatype", read_datatype),           FIELD("shape", read_shape),
    FIELD("data", read_data), FIELD("parameters", read_input_parameters),
};

static const struct field output_fields[] = {
    FIELD("name", read_name),
    FIELD("parameters", read_output_parameters),
};

/* ---- inputs and outputs against the model ------------------------------------------------------------------------ */

/* The model's tensor of that name. */
static mu_status find_tensor(const struct parse *p, const struct model_tensor *tensors, uint32_t n,
                             const struct tensor_fields *fields, uint32_t *ret_index) {
  if (!fields->has_name) return mu_fail(p->err, MU_INVALID, "%ss[%u] has no \"name\"", p->kind, p->position);
  for (uint32_t i = 0; i < n; i++)
    if (tensors[i].served && json_text_equal(&p->subject, tensors[i].info.name)) {
      *ret_index = i;
      return MU_OK;
    }
  return infer_unknown_tensor(p->model, tensors == p->model->metadata->inputs, p->subject.text, p->subject.size,
                              p->err);
}

static mu_status check_dtype(const struct parse *p, const struct tensor_fields *fields, mu_dtype wanted) {
  if (fields->dtype == wanted) return MU_OK;
  if (!fields->has_dtype)
    return mu_fail(p->err, MU_INVALID, "input '%.*s' has no \"datatype\"; the model takes %s", QUOTE(p->subject),
                   mu_dtype_name(wanted));
  return mu_fail(p->err, MU_INVALID, "input '%.*s': datatype %.*s is not the %s that the model takes",
                 QUOTE(p->subject), QUOTE(fields->dtype_name), mu_dtype_name(wanted));
}

static mu_status take_json_data(const struct parse *p, const struct tensor_fields *fields,
                                struct request_input *input) {
  const struct json_tensor_form *form = &fields->form;
  if (!json_tensor_form_fits(form, fields->dims, fields->rank)) {
    char wanted[SHAPE_TEXT_MAX], found[SHAPE_TEXT_MAX];
    shape_text(fields->dims, fields->rank, wanted, sizeof wanted);
    if (form->elements != input->elements)
      return mu_fail(p->err, MU_INVALID, "input '%.*s': shape %s has %llu elements, \"data\" has %llu",
                     QUOTE(p->subject), wanted, (unsigned long long)input->elements,
                     (unsigned long long)form->elements);
    return mu_fail(p->err, MU_INVALID, "input '%.*s': \"data\" is nested as %s, its shape is %s", QUOTE(p->subject),
                   shape_text(form->dims, form->rank, found, sizeof found), wanted);
  }
  if (input->dtype == MU_BYTES) input->size = form->bytes;
  input->source = INPUT_JSON;
  input->source_at = form->at;
  input->source_size = form->size;
  return MU_OK;
}

static mu_status take_binary_data(struct parse *p, const struct tensor_fields *fields, struct request_input *input) {
  const uint64_t size = fields->binary_size;
  char shape[SHAPE_TEXT_MAX];
  if (input->dtype == MU_BYTES) {
    /* every element has at least its length of 4 bytes */
    if (size / 4 < input->elements)
      return mu_fail(p->err, MU_INVALID, "input '%.*s': binary_data_size %llu is too small for the %llu elements of %s",
                     QUOTE(p->subject), (unsigned long long)size, (unsigned long long)input->elements,
                     shape_text(fields->dims, fields->rank, shape, sizeof shape));
    input->size = size;
  }
  if (input->size != size)
    return mu_fail(p->err, MU_INVALID, "input '%.*s': binary_data_size %llu is not the %llu bytes of shape %s as %s",
                   QUOTE(p->subject), (unsigned long long)size, (unsigned long long)input->size,
                   shape_text(fields->dims, fields->rank, shape, sizeof shape), mu_dtype_name(input->dtype));
  input->source = INPUT_BINARY;
  input->source_at = p->binary_at;
  input->source_size = size;
  if (__builtin_add_overflow(p->binary_at, size, &p->binary_at))
    return mu_fail(p->err, MU_INVALID, "the inputs claim more binary data than 64 bits can count");
  return MU_OK;
}

/* The region's name into text; one that is too long is left for the check of names to refuse. */
static struct shared_memory_parameters take_region(const struct tensor_fields *fields,
                                                   char text[static REQUEST_REGION_MAX + 1]) {
  struct shared_memory_parameters shared = fields->shared;
  shared.region = text;
  if (shared.has_region) shared.region_size = json_text_size(&fields->region);
  if (shared.has_region && shared.region_size <= REQUEST_REGION_MAX) json_text_decode(&fields->region, text);
  return shared;
}

static mu_status take_shared_input(struct parse *p, const struct tensor_fields *fields, struct request_input *input) {
  char text[REQUEST_REGION_MAX + 1];
  const struct shared_memory_parameters shared = take_region(fields, text);
  return infer_input_share(p->model, &shared, p->request, input, p->err);
}

static mu_status take_shared_output(struct parse *p, const struct tensor_fields *fields,
                                    struct request_output *output) {
  char text[REQUEST_REGION_MAX + 1];
  const struct shared_memory_parameters shared = take_region(fields, text);
  return infer_output_share(p->model, &shared, p->request, output, p->err);
}

/* An input's data is in one of three places. */
static mu_status check_place(const struct parse *p, const struct tensor_fields *fields) {
  const bool shared = shared_memory_given(&fields->shared);
  const int places = fields->has_data + fields->has_binary_size + shared;
  if (places == 1) return MU_OK;
  if (places == 0)
    return mu_fail(p->err, MU_INVALID,
                   "input '%.*s' has neither \"data\" nor a binary_data_size nor a shared_memory_region",
                   QUOTE(p->subject));
  return mu_fail(p->err, MU_INVALID, "input '%.*s' has both %s and a %s", QUOTE(p->subject),
                 fields->has_data ? "\"data\"" : "a binary_data_size",
                 fields->has_data && fields->has_binary_size ? "binary_data_size" : "shared_memory_region");
}

static mu_status take_input(struct parse *p, const struct tensor_fields *fields) {
  const struct model_metadata *metadata = p->model->metadata;
  uint32_t index;
  mu_status status = find_tensor(p, metadata->inputs, metadata->n_inputs, fields, &index);
  if (status == MU_OK) status = check_dtype(p, fields, metadata->inputs[index].info.dtype);
  if (status != MU_OK) return status;
  if (!fields->has_shape) return mu_fail(p->err, MU_INVALID, "input '%.*s' has no \"shape\"", QUOTE(p->subject));
  status = check_place(p, fields);
  if (status != MU_OK) return status;
  struct request_input *input;
  status = infer_input_add(p->model, index, fields->dims, fields->rank, p->request, &input, p->err);
  if (status != MU_OK) return status;
  if (fields->has_data) return take_json_data(p, fields, input);
  return fields->has_binary_size ? take_binary_data(p, fields, input) : take_shared_input(p, fields, input);
}

static mu_status take_output(struct parse *p, const struct tensor_fields *fields) {
  const struct model_metadata *metadata = p->model->metadata;
  uint32_t index;
  mu_status status = find_tensor(p, metadata->outputs, metadata->n_outputs, fields, &index);
  if (status != MU_OK) return status;
  if (fields->classification > 0 && metadata->outputs[index].info.dtype == MU_BYTES)
    return mu_fail(p->err, MU_INVALID, "output '%.*s': a classification needs numbers, the output is BYTES",
                   QUOTE(p->subject));
  struct request_output *output;
  status = infer_output_add(p->model, index, p->request, &output, p->err);
  if (status != MU_OK) return status;
  output->binary = fields->binary;
  if (fields->has_binary) p->binary_given |= UINT64_C(1) << (p->request->n_outputs - 1);
  output->classification = fields->classification < UINT32_MAX ? (uint32_t)fields->classification : UINT32_MAX;
  return shared_memory_given(&fields->shared) ? take_shared_output(p, fields, output) : MU_OK;
}

/* ---- the request ------------------------------------------------------------------------------------------------- */

/* An array of tensors: each object read by its fields, then taken. */
static mu_status read_tensors(struct parse *p, const char *kind, const struct field *fields, uint32_t n,
                              mu_status (*take)(struct parse *p, const struct tensor_fields *fields)) {
  p->kind = kind;
  p->position = 0;
  if (json_peek(&p->reader) != JSON_READ_ARRAY && !p->reader.failed)
    return mu_fail(p->err, MU_INVALID, "\"%ss\" must be an array", kind);
  if (!json_enter(&p->reader)) return syntax(p);
  for (; json_element(&p->reader); p->position++) {
    struct tensor_fields tensor = {0};
    mu_status status = read_object(p, kind, fields, n, &tensor);
    if (status == MU_OK) status = take(p, &tensor);
    if (status != MU_OK) return status;
  }
  return p->reader.failed ? syntax(p) : MU_OK;
}

static mu_status read_id(struct parse *p, const struct field *field, void *into) {
  struct json_text text;
  if (!json_read_string(&p->reader, &text)) return syntax(p);
  const size_t size = json_text_size(&text);
  if (size > REQUEST_ID_MAX)
    return mu_fail(p->err, MU_INVALID, "\"id\" has %zu bytes, at most %d are taken", size, REQUEST_ID_MAX);
  json_text_decode(&text, p->request->id);
  p->request->id[size] = '\0';
  if (strlen(p->request->id) != size) return mu_fail(p->err, MU_INVALID, "\"id\" has a NUL character");
  return MU_OK;
}

static mu_status read_parameters(struct parse *p, const struct field *field, void *into) {
  return read_object(p, "\"parameters\"", request_parameters, COUNT(request_parameters), NULL);
}

static mu_status read_inputs(struct parse *p, const struct field *field, void *into) {
  p->has_inputs = true;
  return read_tensors(p, "input", input_fields, COUNT(input_fields), take_input);
}

static mu_status read_outputs(struct parse *p, const struct field *field, void *into) {
  return read_tensors(p, "output", output_fields, COUNT(output_fields), take_output);
}

static const struct field request_fields[] = {
    FIELD("id", read_id),
    FIELD("parameters", read_parameters),
    FIELD("inputs", read_inputs),
    FIELD("outputs", read_outputs),
};

/* Every output that does not say how it wants to come gets the request's default, which may have come after it. */
static mu_status complete_outputs(struct parse *p) {
  struct request *request = p->request;
  if (request->n_outputs == 0) return infer_output_add_all(p->model, request->binary_default, request, p->err);
  for (uint32_t i = 0; i < request->n_outputs; i++)
    if ((p->binary_given >> i & 1) == 0 && request->outputs[i].share == 0)
      request->outputs[i].binary = request->binary_default;
  return MU_OK;
}

mu_status rest_infer_parse(const struct model *model, const char *json, size_t json_size, uint64_t binary_size,
                           struct request *request, mu_error *err) {
  if (model->metadata == NULL) return mu_fail(err, MU_UNAVAILABLE, "model '%.100s' is not ready", model->name);
  struct parse p; /* its reader's error text needs no clearing */
  p.model = model;
  p.request = request;
  p.binary_at = p.binary_given = 0;
  p.has_inputs = false;
  p.err = err;
  json_reader_init(&p.reader, json, json_size);
  mu_status status = read_object(&p, "an inference request", request_fields, COUNT(request_fields), NULL);
  if (status == MU_OK && json_finish(&p.reader, NULL) != MU_OK) status = syntax(&p);
  if (status == MU_OK && !p.has_inputs) status = mu_fail(err, MU_INVALID, "the request has no \"inputs\"");
  if (status == MU_OK) status = infer_inputs_complete(model, request, err);
  if (status == MU_OK) status = complete_outputs(&p);
  if (status != MU_OK) return status;
  request->binary_bytes = p.binary_at;
  if (binary_size != BINARY_SIZE_UNKNOWN && binary_size != p.binary_at)
    return mu_fail(err, MU_INVALID, "%llu bytes follow the JSON part, its inputs claim %llu",
                   (unsigned long long)binary_size, (unsigned long long)p.binary_at);
  return MU_OK;
}
