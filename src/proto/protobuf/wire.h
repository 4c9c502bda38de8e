/*
 * Protocol Buffers' wire form, field by field, for messages that are read and written in place. Pure: the reader walks
 * over bytes that it borrows and copies nothing; the writers append to a buffer. What is read comes from anybody: every
 * length is held against what is there. Groups, which proto3 does not have, are refused.
 */
#ifndef PROTO_PROTOBUF_WIRE_H
#define PROTO_PROTOBUF_WIRE_H

#include "base/buffer.h"
#include "base/status.h"

enum pb_wire { PB_VARINT = 0, PB_FIXED64 = 1, PB_BYTES = 2, PB_FIXED32 = 5 };

enum { PB_VARINT_MAX = 10, PB_TAG_MAX = 5 }; /* bytes */

/* One field of a message. Who expects another wire type than it has passes it over, like one of an unknown number. */
struct pb_field {
  uint32_t number;
  enum pb_wire wire;
  uint64_t value;    /* PB_VARINT, PB_FIXED64, PB_FIXED32: the bits */
  const char *bytes; /* PB_BYTES: borrowed from what is read; never NULL */
  size_t size;       /* of bytes */
};

struct pb_reader {
  const char *data;
  size_t size, at;
  const char *wrong; /* why reading ended before the end: a sentence's end; NULL while all is well */
};

static inline void pb_reader_init(struct pb_reader *reader, const void *data, size_t size) {
  *reader = (struct pb_reader){.data = data != NULL ? data : "", .size = size};
}

/* The next field; false at the end, or where the bytes are no protobuf (reader->wrong is set, at is the place). */
bool pb_next(struct pb_reader *reader, struct pb_field *field);

/* A bare number, as in packed fields; false at the end or where it is none (wrong is set). */
bool pb_next_varint(struct pb_reader *reader, uint64_t *ret_value);
bool pb_next_fixed(struct pb_reader *reader, size_t size, uint64_t *ret_value); /* size 4 or 8 */

/* MU_OK, or MU_INVALID with "what is no protobuf: … at byte 17" when the reader ended early. */
MUST_CHECK mu_status pb_finish(const struct pb_reader *reader, const char *what, mu_error *err);

/* Bytes that a number takes as a varint. */
static inline size_t pb_varint_size(uint64_t value) { return (size_t)(63 - __builtin_clzll(value | 1)) / 7 + 1; }

/* Appends; a failure is remembered in the buffer. Strings and numbers that are empty or 0 are left out by the _field
 * writers, as proto3 has it. */
void pb_put_varint(struct buffer *out, uint64_t value);
void pb_put_tag(struct buffer *out, uint32_t number, enum pb_wire wire);
void pb_put_length(struct buffer *out, uint32_t number, uint64_t size); /* tag and length: size bytes have to follow */
void pb_put_bytes(struct buffer *out, uint32_t number, const void *bytes, size_t size); /* also an empty one */
void pb_put_text_field(struct buffer *out, uint32_t number, const char *text);
void pb_put_varint_field(struct buffer *out, uint32_t number, uint64_t value);

/* A message inside of the message, whose length is known only once it has been written: pb_open(), its fields,
 * pb_close() with what pb_open returned. */
size_t pb_open(struct buffer *out, uint32_t number);
void pb_close(struct buffer *out, size_t mark);

/* Bytes that pb_put_length and its content take. */
static inline size_t pb_bytes_size(uint32_t number, uint64_t size) {
  return pb_varint_size((uint64_t)number << 3) + pb_varint_size(size) + (size_t)size;
}

#endif
