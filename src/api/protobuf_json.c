#include "api/protobuf_json.h"

#include "proto/protobuf/wire.h"

#include <errno.h>
#include <stdlib.h>

struct writer {
  struct buffer *out;
  mu_error *err;
};

static mu_status write_message(const struct writer *w, const ProtobufCMessageDescriptor *descriptor, json_t *object);

static mu_status wrong_type(const struct writer *w, const ProtobufCFieldDescriptor *field) {
  return mu_fail(w->err, MU_INTERNAL, "the document's \"%s\" is not of its field's type", field->name);
}

/* ---- scalars ----------------------------------------------------------------------------------------------------- */

/* The wire type of a field's elements. */
static enum pb_wire wire_of(ProtobufCType type) {
  switch (type) {
    case PROTOBUF_C_TYPE_DOUBLE:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64:
      return PB_FIXED64;
    case PROTOBUF_C_TYPE_FLOAT:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_SFIXED32:
      return PB_FIXED32;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
      return PB_BYTES;
    default:
      return PB_VARINT;
  }
}

/* The bits of a number, a truth or an enum's value. */
static bool number_bits(const ProtobufCFieldDescriptor *field, json_t *value, uint64_t *ret_bits) {
  uint32_t narrow;
  double real;
  const ProtobufCEnumValue *entry;
  switch (field->type) {
    case PROTOBUF_C_TYPE_BOOL:
      *ret_bits = json_is_true(value);
      return json_is_boolean(value);
    case PROTOBUF_C_TYPE_ENUM:
      entry = json_is_string(value)
                  ? protobuf_c_enum_descriptor_get_value_by_name(field->descriptor, json_string_value(value))
                  : NULL;
      *ret_bits = entry != NULL ? (uint64_t)(int64_t)entry->value : 0;
      return entry != NULL;
    case PROTOBUF_C_TYPE_DOUBLE:
      real = json_number_value(value);
      memcpy(ret_bits, &real, sizeof real);
      return json_is_number(value);
    case PROTOBUF_C_TYPE_FLOAT:
      memcpy(&narrow, &(float){(float)json_number_value(value)}, sizeof narrow);
      *ret_bits = narrow;
      return json_is_number(value);
    default:
      *ret_bits = (uint64_t)json_integer_value(value);
      return json_is_integer(value);
  }
}

static void put_number(struct buffer *out, enum pb_wire wire, uint64_t bits) {
  if (wire == PB_VARINT)
    pb_put_varint(out, bits);
  else
    buffer_append(out, &bits, wire == PB_FIXED64 ? 8 : 4); /* little-endian, as on the wire */
}

/* ---- fields ------------------------------------------------------------------------------------------------------ */

/* One value, always written. */
static mu_status write_value(const struct writer *w, const ProtobufCFieldDescriptor *field, json_t *value) {
  if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
    const size_t mark = pb_open(w->out, field->id);
    const mu_status status = write_message(w, field->descriptor, value);
    pb_close(w->out, mark);
    return status;
  }
  if (wire_of(field->type) == PB_BYTES) {
    if (!json_is_string(value)) return wrong_type(w, field);
    pb_put_bytes(w->out, field->id, json_string_value(value), json_string_length(value));
    return MU_OK;
  }
  uint64_t bits;
  if (!number_bits(field, value, &bits)) return wrong_type(w, field);
  pb_put_tag(w->out, field->id, wire_of(field->type));
  put_number(w->out, wire_of(field->type), bits);
  return MU_OK;
}

/* Is it what a reader takes for a field that is not there? */
static bool is_default(const ProtobufCFieldDescriptor *field, json_t *value) {
  uint64_t bits;
  if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF || field->type == PROTOBUF_C_TYPE_MESSAGE) return false;
  if (wire_of(field->type) == PB_BYTES) return json_is_string(value) && json_string_length(value) == 0;
  return number_bits(field, value, &bits) && bits == 0;
}

static mu_status write_array(const struct writer *w, const ProtobufCFieldDescriptor *field, json_t *array) {
  const bool packed = wire_of(field->type) != PB_BYTES;
  const size_t n = json_array_size(array), mark = packed && n > 0 ? pb_open(w->out, field->id) : 0;
  for (size_t i = 0; i < n; i++) {
    json_t *value = json_array_get(array, i);
    uint64_t bits;
    if (packed) {
      if (!number_bits(field, value, &bits)) return wrong_type(w, field);
      put_number(w->out, wire_of(field->type), bits);
      continue;
    }
    const mu_status status = write_value(w, field, value);
    if (status != MU_OK) return status;
  }
  if (mark > 0) pb_close(w->out, mark);
  return MU_OK;
}

/* A map's key, which JSON writes as text whatever it is. */
static mu_status write_key(const struct writer *w, const ProtobufCFieldDescriptor *field, const char *key) {
  if (field->type == PROTOBUF_C_TYPE_STRING) {
    pb_put_text_field(w->out, field->id, key);
    return MU_OK;
  }
  char *end;
  errno = 0;
  const unsigned long long number = strtoull(key, &end, 10);
  if (errno != 0 || end == key || *end != '\0') return wrong_type(w, field);
  pb_put_varint_field(w->out, field->id, number);
  return MU_OK;
}

/* A map is a repeated message of key and value. */
static mu_status write_map(const struct writer *w, const ProtobufCFieldDescriptor *field, json_t *object) {
  const ProtobufCMessageDescriptor *entry = field->descriptor;
  const ProtobufCFieldDescriptor *key_field = protobuf_c_message_descriptor_get_field_by_name(entry, "key"),
                                 *value_field = protobuf_c_message_descriptor_get_field_by_name(entry, "value");
  if (key_field == NULL || value_field == NULL) return wrong_type(w, field);
  const char *key;
  json_t *value;
  json_object_foreach(object, key, value) {
    const size_t mark = pb_open(w->out, field->id);
    mu_status status = write_key(w, key_field, key);
    if (status == MU_OK) status = write_value(w, value_field, value);
    if (status != MU_OK) return status;
    pb_close(w->out, mark);
  }
  return MU_OK;
}

static mu_status write_field(const struct writer *w, const ProtobufCFieldDescriptor *field, json_t *value) {
  if (json_is_null(value)) return MU_OK;
  if (field->label != PROTOBUF_C_LABEL_REPEATED) return is_default(field, value) ? MU_OK : write_value(w, field, value);
  if (json_is_array(value)) return write_array(w, field, value);
  if (json_is_object(value) && field->type == PROTOBUF_C_TYPE_MESSAGE) return write_map(w, field, value);
  return wrong_type(w, field);
}

static mu_status write_message(const struct writer *w, const ProtobufCMessageDescriptor *descriptor, json_t *object) {
  if (!json_is_object(object))
    return mu_fail(w->err, MU_INTERNAL, "the document has no object where a %s belongs", descriptor->name);
  const char *key;
  json_t *value;
  json_object_foreach(object, key, value) {
    const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field_by_name(descriptor, key);
    if (field == NULL) continue;
    const mu_status status = write_field(w, field, value);
    if (status != MU_OK) return status;
  }
  return MU_OK;
}

mu_status protobuf_write_json(const ProtobufCMessageDescriptor *descriptor, json_t *document, struct buffer *out,
                              mu_error *err) {
  const struct writer writer = {.out = out, .err = err};
  const mu_status status = write_message(&writer, descriptor, document);
  if (status != MU_OK) return status;
  if (!out->failed) return MU_OK;
  return mu_fail(err, MU_NO_MEMORY, "no room for the reply");
}
