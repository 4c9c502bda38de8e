#include "engine/remote/remote_metadata.h"

#include <string.h>

#include "proto/json/json_reader.h"
#include "proto/protobuf/wire.h"

enum { TENSORS_MAX = 64 };

/* Field numbers of ModelMetadataResponse and its TensorMetadata; of ModelConfigResponse and ModelConfig. */
enum { META_INPUTS = 4, META_OUTPUTS = 5, TENSOR_NAME = 1, TENSOR_DATATYPE = 2, TENSOR_SHAPE = 3 };
enum { RESPONSE_CONFIG = 1, CONFIG_MAX_BATCH_SIZE = 4 };

/* One side while it is read. */
struct side {
  struct arena *memory;
  mu_tensor_info *infos;
  size_t n;
  const char *wrong; /* why it cannot be; NULL: all is well */
  bool no_memory;    /* that is why */
};

static bool refuse(struct side *side, const char *why) {
  if (side->wrong == NULL) side->wrong = why;
  return false;
}

static bool lack_memory(struct side *side) {
  side->no_memory = true;
  return refuse(side, "no memory");
}

static mu_tensor_info *add(struct side *side) {
  if (side->infos == NULL) side->infos = arena_alloc(side->memory, TENSORS_MAX, sizeof *side->infos);
  if (side->infos == NULL || side->n == TENSORS_MAX) {
    (void)(side->infos == NULL ? lack_memory(side) : refuse(side, "more than 64 inputs or outputs"));
    return NULL;
  }
  return &side->infos[side->n++];
}

static bool set_name(struct side *side, mu_tensor_info *info, const char *name, size_t size) {
  if (size == 0 || size > 255 || memchr(name, '\0', size) != NULL) return refuse(side, "a name that is none");
  info->name = arena_copy(side->memory, name, size);
  return info->name != NULL || lack_memory(side);
}

static bool set_dtype(struct side *side, mu_tensor_info *info, const char *name, size_t size) {
  info->dtype = mu_dtype_parse(name, size);
  return info->dtype != MU_DTYPE_INVALID || refuse(side, "a datatype that muster does not know");
}

static bool add_dim(struct side *side, mu_tensor_info *info, int64_t dim) {
  if (info->rank == MU_MAX_RANK || dim < -1) return refuse(side, "a shape that is none");
  info->dims[info->rank++] = dim;
  return true;
}

static bool complete(struct side *side, const mu_tensor_info *info) {
  return (info->name != NULL && info->dtype != MU_DTYPE_INVALID) || refuse(side, "a tensor without name or datatype");
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static bool read_json_shape(struct json_reader *reader, struct side *side, mu_tensor_info *info) {
  if (json_peek(reader) != JSON_READ_ARRAY || !json_enter(reader)) return refuse(side, "a shape that is none");
  while (json_element(reader)) {
    int64_t dim;
    if (!json_read_i64(reader, &dim) || !add_dim(side, info, dim)) return false;
  }
  return !reader->failed;
}

static bool read_json_member(struct json_reader *reader, const struct json_text *key, struct side *side,
                             mu_tensor_info *info) {
  struct json_text text;
  char name[256];
  if (json_text_equal(key, "shape")) return read_json_shape(reader, side, info);
  bool is_name = json_text_equal(key, "name");
  if (!is_name && !json_text_equal(key, "datatype")) return json_skip(reader);
  if (!json_read_string(reader, &text)) return false;
  size_t size = json_text_size(&text);
  if (size > sizeof name) return refuse(side, "a name that is none");
  json_text_decode(&text, name);
  return is_name ? set_name(side, info, name, size) : set_dtype(side, info, name, size);
}

static bool read_json_side(struct json_reader *reader, struct side *side) {
  struct json_text key;
  if (json_peek(reader) != JSON_READ_ARRAY || !json_enter(reader)) return refuse(side, "inputs or outputs of no kind");
  while (json_element(reader)) {
    mu_tensor_info *info = add(side);
    if (info == NULL || json_peek(reader) != JSON_READ_OBJECT || !json_enter(reader))
      return refuse(side, "a tensor that is none");
    while (json_member(reader, &key))
      if (!read_json_member(reader, &key, side, info)) return false;
    if (reader->failed || !complete(side, info)) return false;
  }
  return !reader->failed;
}

static void read_json(const char *data, size_t size, struct side sides[2]) {
  struct json_reader reader;
  struct json_text key;
  mu_error err;
  bool good;
  json_reader_init(&reader, data, size);
  good = json_peek(&reader) == JSON_READ_OBJECT && json_enter(&reader);
  while (good && json_member(&reader, &key)) {
    if (json_text_equal(&key, "inputs") && sides[0].n == 0)
      good = read_json_side(&reader, &sides[0]);
    else if (json_text_equal(&key, "outputs") && sides[1].n == 0)
      good = read_json_side(&reader, &sides[1]);
    else
      good = json_skip(&reader);
  }
  if (!good || json_finish(&reader, &err) != MU_OK) refuse(&sides[0], "no JSON of metadata");
}

/* ---- protobuf ---------------------------------------------------------------------------------------------------- */

static bool read_message_shape(const struct pb_field *field, struct side *side, mu_tensor_info *info) {
  struct pb_reader packed;
  uint64_t dim;
  if (field->wire == PB_VARINT) return add_dim(side, info, (int64_t)field->value);
  pb_reader_init(&packed, field->bytes, field->wire == PB_BYTES ? field->size : 0);
  while (pb_next_varint(&packed, &dim))
    if (!add_dim(side, info, (int64_t)dim)) return false;
  return packed.wrong == NULL || refuse(side, "no protobuf");
}

static bool read_message_tensor(const struct pb_field *of, struct side *side) {
  struct pb_reader reader;
  struct pb_field field;
  mu_tensor_info *info = add(side);
  bool good = info != NULL;
  pb_reader_init(&reader, of->bytes, of->size);
  while (good && pb_next(&reader, &field)) {
    if (field.number == TENSOR_SHAPE)
      good = read_message_shape(&field, side, info);
    else if (field.number == TENSOR_NAME && field.wire == PB_BYTES)
      good = set_name(side, info, field.bytes, field.size);
    else if (field.number == TENSOR_DATATYPE && field.wire == PB_BYTES)
      good = set_dtype(side, info, field.bytes, field.size);
  }
  if (reader.wrong != NULL) return refuse(side, "no protobuf");
  return good && complete(side, info);
}

static void read_message(const char *data, size_t size, struct side sides[2]) {
  struct pb_reader reader;
  struct pb_field field;
  bool good = true;
  pb_reader_init(&reader, data, size);
  while (good && pb_next(&reader, &field)) {
    if (field.wire != PB_BYTES || (field.number != META_INPUTS && field.number != META_OUTPUTS)) continue;
    good = read_message_tensor(&field, &sides[field.number == META_INPUTS ? 0 : 1]);
  }
  if (reader.wrong != NULL) refuse(&sides[0], "no protobuf");
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static bool has_twin(const struct side *side) {
  for (size_t i = 0; i < side->n; i++)
    for (size_t j = 0; j < i; j++)
      if (strcmp(side->infos[i].name, side->infos[j].name) == 0) return true;
  return false;
}

mu_status remote_metadata_parse(enum remote_protocol protocol, const char *data, size_t size,
                                struct remote_metadata *ret_metadata, mu_error *err) {
  struct remote_metadata metadata = {0};
  struct side sides[2] = {{.memory = &metadata.memory}, {.memory = &metadata.memory}};
  if (protocol == REMOTE_HTTP)
    read_json(data, size, sides);
  else
    read_message(data, size, sides);
  const char *wrong = sides[0].wrong != NULL ? sides[0].wrong : sides[1].wrong;
  if (wrong == NULL && (sides[0].n == 0 || sides[1].n == 0)) wrong = "a model without inputs or outputs";
  if (wrong == NULL && (has_twin(&sides[0]) || has_twin(&sides[1]))) wrong = "two tensors of one name";
  if (wrong != NULL) {
    arena_free(&metadata.memory);
    if (sides[0].no_memory || sides[1].no_memory) return mu_fail(err, MU_NO_MEMORY, "no memory for its metadata");
    return mu_fail(err, MU_INTERNAL, "its answer for metadata has %s", wrong);
  }
  metadata.inputs = sides[0].infos;
  metadata.n_inputs = sides[0].n;
  metadata.outputs = sides[1].infos;
  metadata.n_outputs = sides[1].n;
  *ret_metadata = metadata;
  return MU_OK;
}

static mu_status copy_infos(struct arena *memory, const mu_tensor_info *from, size_t n, const mu_tensor_info **ret_to,
                            mu_error *err) {
  mu_tensor_info *to = arena_alloc(memory, n, sizeof *to);
  bool whole = to != NULL;
  for (size_t i = 0; whole && i < n; i++) {
    if (from[i].dtype == MU_DTYPE_INVALID)
      return mu_fail(err, MU_INVALID, "the remote engine needs the data_type of \"%s\" in config.pbtxt", from[i].name);
    to[i] = from[i];
    to[i].name = arena_copy(memory, from[i].name, strlen(from[i].name));
    whole = to[i].name != NULL;
    for (uint32_t d = 0; whole && d < from[i].rank; d++) {
      if (from[i].symbols[d] == NULL) continue;
      to[i].symbols[d] = arena_copy(memory, from[i].symbols[d], strlen(from[i].symbols[d]));
      whole = to[i].symbols[d] != NULL;
    }
  }
  if (!whole) return mu_fail(err, MU_NO_MEMORY, "no memory");
  *ret_to = to;
  return MU_OK;
}

mu_status remote_metadata_declared(const mu_model_spec *spec, struct remote_metadata *ret_metadata, mu_error *err) {
  struct remote_metadata metadata = {.n_inputs = spec->n_inputs, .n_outputs = spec->n_outputs};
  mu_status status = copy_infos(&metadata.memory, spec->inputs, spec->n_inputs, &metadata.inputs, err);
  if (status == MU_OK) status = copy_infos(&metadata.memory, spec->outputs, spec->n_outputs, &metadata.outputs, err);
  if (status == MU_OK)
    *ret_metadata = metadata;
  else
    arena_free(&metadata.memory);
  return status;
}

void remote_metadata_free(struct remote_metadata *metadata) {
  arena_free(&metadata->memory);
  *metadata = (struct remote_metadata){0};
}

static mu_status compare_side(const char *word, const mu_tensor_info *one, size_t n_one, const mu_tensor_info *other,
                              size_t n_other, mu_error *err) {
  char shape[2][128];
  if (n_one != n_other) return mu_fail(err, MU_INVALID, "%zu %ss instead of %zu", n_other, word, n_one);
  for (size_t i = 0; i < n_one; i++) {
    size_t j = 0;
    while (j < n_other && strcmp(one[i].name, other[j].name) != 0) j++;
    if (j == n_other) return mu_fail(err, MU_INVALID, "no %s \"%.64s\"", word, one[i].name);
    if (one[i].dtype != other[j].dtype)
      return mu_fail(err, MU_INVALID, "%s \"%.64s\" is %s instead of %s", word, one[i].name,
                     mu_dtype_name(other[j].dtype), mu_dtype_name(one[i].dtype));
    if (one[i].rank != other[j].rank || memcmp(one[i].dims, other[j].dims, one[i].rank * sizeof *one[i].dims) != 0)
      return mu_fail(err, MU_INVALID, "%s \"%.64s\" has the shape %s instead of %s", word, one[i].name,
                     shape_text(other[j].dims, other[j].rank, shape[0], sizeof shape[0]),
                     shape_text(one[i].dims, one[i].rank, shape[1], sizeof shape[1]));
  }
  return MU_OK;
}

mu_status remote_metadata_compare(const struct remote_metadata *one, const struct remote_metadata *other,
                                  mu_error *err) {
  mu_status status = compare_side("input", one->inputs, one->n_inputs, other->inputs, other->n_inputs, err);
  return status != MU_OK ? status
                         : compare_side("output", one->outputs, one->n_outputs, other->outputs, other->n_outputs, err);
}

/* ---- max_batch_size ---------------------------------------------------------------------------------------------- */

static uint64_t json_max_batch(const char *data, size_t size) {
  struct json_reader reader;
  struct json_text key;
  uint64_t value = 0;
  mu_error err;
  json_reader_init(&reader, data, size);
  bool good = json_peek(&reader) == JSON_READ_OBJECT && json_enter(&reader);
  while (good && json_member(&reader, &key))
    good = json_text_equal(&key, "max_batch_size") ? json_read_u64(&reader, &value) : json_skip(&reader);
  return good && json_finish(&reader, &err) == MU_OK ? value : 0;
}

static uint64_t message_max_batch(const char *data, size_t size) {
  struct pb_reader response, config;
  struct pb_field field;
  uint64_t value = 0;
  pb_reader_init(&response, data, size);
  while (pb_next(&response, &field)) {
    if (field.number != RESPONSE_CONFIG || field.wire != PB_BYTES) continue;
    pb_reader_init(&config, field.bytes, field.size);
    while (pb_next(&config, &field))
      if (field.number == CONFIG_MAX_BATCH_SIZE && field.wire == PB_VARINT) value = field.value;
    if (config.wrong != NULL) return 0;
  }
  return response.wrong == NULL ? value : 0;
}

uint32_t remote_metadata_max_batch(enum remote_protocol protocol, const char *data, size_t size) {
  uint64_t value = protocol == REMOTE_HTTP ? json_max_batch(data, size) : message_max_batch(data, size);
  return value <= INT32_MAX ? (uint32_t)value : 0;
}
