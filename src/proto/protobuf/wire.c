#include "proto/protobuf/wire.h"

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static bool refuse(struct pb_reader *reader, const char *why) {
  reader->wrong = why;
  return false;
}

static bool read_varint(struct pb_reader *reader, uint64_t *ret_value) {
  uint64_t value = 0;
  for (size_t i = 0; i < PB_VARINT_MAX; i++) {
    if (reader->at + i == reader->size) return refuse(reader, "a number is cut off");
    const uint8_t byte = (uint8_t)reader->data[reader->at + i];
    if (i == PB_VARINT_MAX - 1 && byte > 1) break;
    value |= (uint64_t)(byte & 0x7f) << (7 * i);
    if (byte < 0x80) {
      reader->at += i + 1;
      *ret_value = value;
      return true;
    }
  }
  return refuse(reader, "a number has more than 64 bits");
}

static bool read_fixed(struct pb_reader *reader, size_t size, uint64_t *ret_value) {
  if (reader->size - reader->at < size) return refuse(reader, "a number is cut off");
  uint64_t value = 0;
  memcpy(&value, reader->data + reader->at, size);
  reader->at += size;
  *ret_value = value;
  return true;
}

static bool read_bytes(struct pb_reader *reader, struct pb_field *field) {
  uint64_t size;
  if (!read_varint(reader, &size)) return false;
  if (size > reader->size - reader->at) return refuse(reader, "a length points past the end");
  field->bytes = reader->data + reader->at;
  field->size = (size_t)size;
  reader->at += (size_t)size;
  return true;
}

bool pb_next(struct pb_reader *reader, struct pb_field *field) {
  if (reader->wrong != NULL || reader->at == reader->size) return false;
  uint64_t tag;
  const size_t start = reader->at;
  if (!read_varint(reader, &tag)) return false;
  *field = (struct pb_field){.number = (uint32_t)(tag >> 3), .wire = (enum pb_wire)(tag & 7), .bytes = ""};
  if (tag > UINT32_MAX || field->number == 0 || reader->at - start > PB_TAG_MAX) {
    reader->at = start;
    return refuse(reader, "a field has a number that cannot be one");
  }
  switch (tag & 7) {
    case PB_VARINT:
      return read_varint(reader, &field->value);
    case PB_FIXED64:
      return read_fixed(reader, 8, &field->value);
    case PB_FIXED32:
      return read_fixed(reader, 4, &field->value);
    case PB_BYTES:
      return read_bytes(reader, field);
    default:
      reader->at = start;
      return refuse(reader, "a field is a group, or of no known wire type");
  }
}

bool pb_next_varint(struct pb_reader *reader, uint64_t *ret_value) {
  return reader->wrong == NULL && reader->at < reader->size && read_varint(reader, ret_value);
}

bool pb_next_fixed(struct pb_reader *reader, size_t size, uint64_t *ret_value) {
  return reader->wrong == NULL && reader->at < reader->size && read_fixed(reader, size, ret_value);
}

mu_status pb_finish(const struct pb_reader *reader, const char *what, mu_error *err) {
  if (reader->wrong == NULL) return MU_OK;
  return mu_fail(err, MU_INVALID, "%s is no protobuf: %s at byte %zu", what, reader->wrong, reader->at);
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

void pb_put_varint(struct buffer *out, uint64_t value) {
  char bytes[PB_VARINT_MAX];
  size_t n = 0;
  for (; value >= 0x80; value >>= 7) bytes[n++] = (char)(value | 0x80);
  bytes[n++] = (char)value;
  buffer_append(out, bytes, n);
}

void pb_put_tag(struct buffer *out, uint32_t number, enum pb_wire wire) {
  pb_put_varint(out, (uint64_t)number << 3 | (uint64_t)wire);
}

void pb_put_length(struct buffer *out, uint32_t number, uint64_t size) {
  pb_put_tag(out, number, PB_BYTES);
  pb_put_varint(out, size);
}

void pb_put_bytes(struct buffer *out, uint32_t number, const void *bytes, size_t size) {
  pb_put_length(out, number, size);
  buffer_append(out, bytes, size);
}

void pb_put_text_field(struct buffer *out, uint32_t number, const char *text) {
  const size_t size = strlen(text);
  if (size > 0) pb_put_bytes(out, number, text, size);
}

void pb_put_varint_field(struct buffer *out, uint32_t number, uint64_t value) {
  if (value == 0) return;
  pb_put_tag(out, number, PB_VARINT);
  pb_put_varint(out, value);
}

size_t pb_open(struct buffer *out, uint32_t number) {
  pb_put_tag(out, number, PB_BYTES);
  buffer_putc(out, 0); /* most lengths take one byte */
  return out->size;
}

void pb_close(struct buffer *out, size_t mark) {
  if (out->failed) return;
  uint64_t size = out->size - mark;
  const size_t more = pb_varint_size(size) - 1;
  if (more > 0) {
    if (buffer_reserve(out, more) != MU_OK) return;
    memmove(out->data + mark + more, out->data + mark, out->size - mark);
    out->size += more;
  }
  char *place = out->data + mark - 1;
  for (; size >= 0x80; size >>= 7) *place++ = (char)(size | 0x80);
  *place = (char)size;
}
