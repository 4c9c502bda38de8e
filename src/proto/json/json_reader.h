/*
 * A pull reader over one complete JSON text (RFC 8259, strict; invalid UTF-8 in strings is an error). It allocates
 * nothing and builds nothing: the caller walks the text, skips what it does not know, and reads numbers straight to
 * where they belong. Depth is bounded.
 */
#ifndef PROTO_JSON_READER_H
#define PROTO_JSON_READER_H

#include "base/buffer.h"
#include "base/status.h"

enum json_kind {
  JSON_END, /* nothing more in this container, or the text is over, or the reader has failed */
  JSON_READ_NULL,
  JSON_READ_FALSE,
  JSON_READ_TRUE,
  JSON_READ_NUMBER,
  JSON_READ_STRING,
  JSON_READ_ARRAY,
  JSON_READ_OBJECT,
};

enum { JSON_DEPTH_MAX = 64 };

struct json_reader {
  const char *text;
  size_t size, at;
  uint32_t depth;
  uint64_t first;  /* private: bit d: nothing read yet in the container of depth d */
  uint64_t object; /* private: bit d: the container of depth d is an object */
  bool failed;
  mu_error error; /* once failed, every call fails with the first reason: "byte 17: …" */
};

void json_reader_init(struct json_reader *reader, const char *text, size_t size);

/* Reads one value inside a larger text: errors still count bytes from the start of text. */
void json_reader_init_at(struct json_reader *reader, const char *text, size_t at, size_t size);

/*
 * Usage: json_peek says what comes next without consuming a container's content.
 *   object: json_enter; while (json_member(&key)) { read or json_skip the value }   (leaves at the end by itself)
 *   array:  json_enter; while (json_element()) { read or json_skip the value }
 * Every function that returns bool returns false on a failure; json_element and json_member also at the end.
 */
enum json_kind json_peek(struct json_reader *reader);
bool json_enter(struct json_reader *reader);   /* into the array or object that comes next */
bool json_element(struct json_reader *reader); /* another element? false: end of the array (left) or failure */

/* Raw text between the quotes, escapes not decoded. */
struct json_text {
  const char *text;
  size_t size;
  bool escaped; /* has escapes: decode with json_unescape */
};
bool json_member(struct json_reader *reader, struct json_text *ret_key);
bool json_text_equal(const struct json_text *text, const char *with); /* decodes escapes while comparing */
size_t json_text_size(const struct json_text *text);                  /* in bytes, decoded */

bool json_read_string(struct json_reader *reader, struct json_text *ret_text);
bool json_read_bool(struct json_reader *reader, bool *ret_value);
bool json_read_null(struct json_reader *reader);
bool json_read_i64(struct json_reader *reader, int64_t *ret_value); /* an integer in range; 1.0 and 1e3 are not */
bool json_read_u64(struct json_reader *reader, uint64_t *ret_value);
bool json_read_double(struct json_reader *reader, double *ret_value); /* correctly rounded */
bool json_skip(struct json_reader *reader);                           /* the next value, checked for syntax */
/* The next value's text, skipped and checked. */
bool json_read_raw(struct json_reader *reader, const char **ret_text, size_t *ret_size);

/* After the outermost value: only white space may follow. MU_OK or MU_INVALID with the reader's error. */
MUST_CHECK mu_status json_finish(struct json_reader *reader, mu_error *err);

/* Decodes escapes to UTF-8; appends to out. The text came from the reader. */
MUST_CHECK mu_status json_unescape(const struct json_text *text, struct buffer *out);

/* The same into memory that has room for json_text_size(text) bytes; returns that size. */
size_t json_text_decode(const struct json_text *text, char *out);

/* ---- tensor data ------------------------------------------------------------------------------------------------- */

/* What an array of tensor data looks like before its type is looked at. */
struct json_tensor_form {
  uint32_t rank; /* of the nesting: 1 for a flat array */
  int64_t dims[MU_MAX_RANK];
  uint64_t elements;
  uint64_t bytes;  /* the strings among them in the wire form of BYTES */
  size_t at, size; /* its text within the reader's */
};

/* Reads past the array that comes next. It must be rectangular and nested no deeper than MU_MAX_RANK; this is a failure
 * of the reader otherwise. */
bool json_measure_tensor(struct json_reader *reader, struct json_tensor_form *ret_form);

/* Does the form fit a tensor of these dims: flat with as many elements, or nested exactly so? (Where a dimension is 0
 * any form without elements fits: nesting cannot say more.) */
bool json_tensor_form_fits(const struct json_tensor_form *form, const int64_t *dims, uint32_t rank);

/*
 * Reads the array that comes next, flat or nested (when nested, the nesting must be exactly dims), into dtype elements
 * at data, which has room for `size` bytes. With dims NULL the nesting is not looked at again, for a caller that has
 * measured it. Numbers must be in the range of dtype (floating values for an integer type: MU_INVALID); BOOL takes
 * true/false and 0/1; FP16 and BF16 are rounded to nearest even; BYTES takes strings, written in wire form. *ret_size:
 * bytes written. MU_INVALID: count against dims, type, range, nesting; MU_TOO_LARGE: more than size.
 */
MUST_CHECK mu_status json_read_tensor(struct json_reader *reader, mu_dtype dtype, const int64_t *dims, uint32_t rank,
                                      uint8_t *data, uint64_t size, uint64_t *ret_size, mu_error *err);

/* Appends `elements` elements as a flat JSON array to out. Numbers in the shortest form that reads back the same;
 * NaN and infinities are MU_UNSUPPORTED (JSON has no such numbers: ask for binary data); BYTES must be valid UTF-8
 * (else MU_UNSUPPORTED, same advice) and add up (MU_INTERNAL, as for any size that elements do not have). */
MUST_CHECK mu_status json_write_tensor(struct buffer *out, mu_dtype dtype, const uint8_t *data, uint64_t size,
                                       uint64_t elements, mu_error *err);

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* Appends text as a quoted JSON string (invalid UTF-8 replaced by U+FFFD). */
mu_status json_write_string(struct buffer *out, const char *text, size_t size);

mu_status json_write_i64(struct buffer *out, int64_t value);
mu_status json_write_u64(struct buffer *out, uint64_t value);

#endif
