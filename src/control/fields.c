#include "control/fields.h"

#include <string.h>

/* ---- encoding ---------------------------------------------------------------------------------------------------- */

static mu_status put_run(const void *data, size_t size, struct buffer *out) {
  if (size > UINT32_MAX) return MU_TOO_LARGE;
  uint32_t length = (uint32_t)size;
  mu_status status = buffer_append(out, &length, sizeof length);
  return status != MU_OK ? status : buffer_append(out, data, size);
}

static mu_status put_u32(const void *member, struct buffer *out) {
  return buffer_append(out, member, sizeof(uint32_t));
}

static mu_status put_u64(const void *member, struct buffer *out) {
  return buffer_append(out, member, sizeof(uint64_t));
}

static mu_status put_bool(const void *member, struct buffer *out) {
  return buffer_putc(out, *(const bool *)member ? 1 : 0);
}

static mu_status put_string(const void *member, struct buffer *out) {
  const char *text = *(const char *const *)member;
  if (text == NULL) text = "";
  mu_status status = put_run(text, strlen(text), out);
  return status != MU_OK ? status : buffer_putc(out, '\0');
}

static mu_status put_bytes(const void *member, struct buffer *out) {
  const struct control_bytes *bytes = member;
  if (bytes->data == NULL && bytes->size > 0) return MU_INVALID;
  return put_run(bytes->data, bytes->size, out);
}

/* ---- decoding ---------------------------------------------------------------------------------------------------- */

static mu_status take(struct field_reader *reader, void *ret_data, size_t size) {
  if ((size_t)(reader->end - reader->at) < size) return MU_INVALID;
  memcpy(ret_data, reader->at, size);
  reader->at += size;
  return MU_OK;
}

static mu_status take_run(struct field_reader *reader, size_t *ret_size, const char **ret_data) {
  uint32_t length;
  if (take(reader, &length, sizeof length) != MU_OK) return MU_INVALID;
  if ((size_t)(reader->end - reader->at) < length) return MU_INVALID;
  *ret_size = length;
  *ret_data = reader->at;
  reader->at += length;
  return MU_OK;
}

static mu_status take_u32(struct field_reader *reader, void *member) { return take(reader, member, sizeof(uint32_t)); }
static mu_status take_u64(struct field_reader *reader, void *member) { return take(reader, member, sizeof(uint64_t)); }

static mu_status take_bool(struct field_reader *reader, void *member) {
  uint8_t byte;
  if (take(reader, &byte, sizeof byte) != MU_OK || byte > 1) return MU_INVALID;
  *(bool *)member = byte == 1;
  return MU_OK;
}

static mu_status take_string(struct field_reader *reader, void *member) {
  const char *text;
  size_t length;
  char terminator;
  if (take_run(reader, &length, &text) != MU_OK || take(reader, &terminator, 1) != MU_OK) return MU_INVALID;
  if (terminator != '\0' || memchr(text, '\0', length) != NULL) return MU_INVALID;
  *(const char **)member = text;
  return MU_OK;
}

static mu_status take_bytes(struct field_reader *reader, void *member) {
  const char *data;
  size_t size;
  if (take_run(reader, &size, &data) != MU_OK) return MU_INVALID;
  *(struct control_bytes *)member = (struct control_bytes){data, size};
  return MU_OK;
}

static const struct field_codec {
  mu_status (*put)(const void *member, struct buffer *out);
  mu_status (*take)(struct field_reader *reader, void *member);
} field_codecs[] = {
    [FIELD_U32] = {put_u32, take_u32},       [FIELD_U64] = {put_u64, take_u64},
    [FIELD_I32] = {put_u32, take_u32},       [FIELD_I64] = {put_u64, take_u64},
    [FIELD_BOOL] = {put_bool, take_bool},    [FIELD_STRING] = {put_string, take_string},
    [FIELD_BYTES] = {put_bytes, take_bytes},
};

mu_status fields_put(const struct field *fields, size_t n, const void *from, struct buffer *out) {
  mu_status status = MU_OK;
  for (size_t i = 0; status == MU_OK && i < n; i++)
    status = field_codecs[fields[i].kind].put((const char *)from + fields[i].offset, out);
  return status;
}

mu_status fields_take(struct field_reader *reader, const struct field *fields, size_t n, void *ret_struct) {
  mu_status status = MU_OK;
  for (size_t i = 0; status == MU_OK && i < n; i++)
    status = field_codecs[fields[i].kind].take(reader, (char *)ret_struct + fields[i].offset);
  return status;
}
