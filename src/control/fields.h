/*
 * Structs as bytes, described field by field in a table, from which encoding, decoding and checking follow. A number is
 * in the machine's own byte order; a string or run of bytes is a u32 length and its bytes, a string with its terminator
 * after it, so that it can be used where it lies. Control messages (message.c) and what a supervisor hands to the next
 * one are made of this.
 */
#ifndef CONTROL_FIELDS_H
#define CONTROL_FIELDS_H

#include <stddef.h>

#include "base/buffer.h"
#include "base/status.h"

struct control_bytes {
  const void *data;
  size_t size;
};

enum field_kind { FIELD_U32, FIELD_U64, FIELD_I32, FIELD_I64, FIELD_BOOL, FIELD_STRING, FIELD_BYTES };

struct field {
  enum field_kind kind;
  size_t offset; /* in the struct */
};

/* The kind follows from the member's type, so that the two cannot disagree. */
/* clang-format off */
#define FIELD_KIND_OF(member)           \
  _Generic((member),                    \
           uint32_t: FIELD_U32,         \
           uint64_t: FIELD_U64,         \
           int32_t: FIELD_I32,          \
           int64_t: FIELD_I64,          \
           bool: FIELD_BOOL,            \
           const char *: FIELD_STRING,  \
           struct control_bytes: FIELD_BYTES)
/* clang-format on */
#define FIELD(type, member) \
  { FIELD_KIND_OF(((struct type *)NULL)->member), offsetof(struct type, member) }

/* Appends the fields of the struct. A NULL string is "". MU_INVALID: bytes without memory; MU_TOO_LARGE, MU_NO_MEMORY.
 */
MUST_CHECK mu_status fields_put(const struct field *fields, size_t n, const void *from, struct buffer *out);

struct field_reader {
  const char *at, *end;
};

/* Fills the struct; strings and bytes point into what is read. MU_INVALID: it ends too early, or a value is none. */
MUST_CHECK mu_status fields_take(struct field_reader *reader, const struct field *fields, size_t n, void *ret_struct);

#endif
