#include "proto/json/json_private.h"
#include "proto/json/json_text.h"

enum { BYTES_PREFIX = 4 }; /* the length before each element of BYTES */

/* ---- the form of an array ---------------------------------------------------------------------------------------- */

/*
 * Most tensor data is numbers with a comma between them: from the end of one straight to the next, without the reader's
 * bookkeeping (which stands as after any value when the run ends).
 */
static inline bool next_of_run(const char **at, const char *end) {
  const char *next = *at;
  if (next == end || *next != ',') return false;
  do next++;
  while (next < end && (*next == ' ' || *next == '\n'));
  if (next == end || (*next != '-' && (*next < '0' || *next > '9'))) return false;
  *at = next;
  return true;
}

/* Counts the numbers from here on. */
static bool measure_numbers(struct json_reader *reader, int64_t *n) {
  const char *at = reader->text + reader->at, *end = reader->text + reader->size;
  struct json_number number;
  do {
    const char *stop = json_number_scan(at, end, &number);
    if (stop == NULL) {
      reader->at = (size_t)(at - reader->text);
      return json_skip(reader); /* fails, and says why */
    }
    at = stop;
    ++*n;
  } while (next_of_run(&at, end));
  reader->at = (size_t)(at - reader->text);
  return true;
}

/* Counts one value that is no array, or a run of numbers. */
static bool measure_leaves(struct json_reader *reader, struct json_tensor_form *form, int64_t *n) {
  const enum json_kind kind = json_peek(reader);
  if (kind == JSON_READ_NUMBER) return measure_numbers(reader, n);
  ++*n;
  if (kind != JSON_READ_STRING) return json_skip(reader);
  struct json_text text;
  if (!json_read_string(reader, &text)) return false;
  form->bytes += BYTES_PREFIX + json_text_size(&text); /* at most the text's own size and 2: cannot overflow */
  return true;
}

/* The array that comes next, `level` arrays inside the outermost. The first value that is no array, or the first empty
 * array, settles the rank; the first array of a level settles its dimension. Recursion is bounded by MU_MAX_RANK. */
static bool measure_level(struct json_reader *reader, uint32_t level, struct json_tensor_form *form) {
  if (level == MU_MAX_RANK) return json_fail(reader, "tensor data is nested deeper than 16 arrays");
  if (!json_enter(reader)) return false;
  int64_t arrays = 0, leaves = 0;
  while (json_element(reader)) {
    const bool inner = json_peek(reader) == JSON_READ_ARRAY;
    if (form->rank == 0 && !inner) form->rank = level + 1;
    if (form->rank != 0 && inner != (level + 1 < form->rank))
      return json_fail(reader, "tensor data mixes arrays and values at one level");
    if (!(inner ? measure_level(reader, level + 1, form) : measure_leaves(reader, form, &leaves))) return false;
    arrays += inner;
  }
  if (reader->failed) return false;
  if (form->rank == 0) form->rank = level + 1;
  const int64_t n = arrays + leaves; /* never both */
  form->elements += (uint64_t)leaves;
  if (form->dims[level] < 0) form->dims[level] = n;
  return form->dims[level] == n || json_fail(reader, "the arrays of one level have different lengths");
}

bool json_measure_tensor(struct json_reader *reader, struct json_tensor_form *ret_form) {
  struct json_tensor_form form = {0};
  for (int i = 0; i < MU_MAX_RANK; i++) form.dims[i] = -1;
  if (json_peek(reader) != JSON_READ_ARRAY) return json_fail(reader, "tensor data must be an array");
  form.at = reader->at;
  if (!measure_level(reader, 0, &form)) return false;
  form.size = reader->at - form.at;
  *ret_form = form;
  return true;
}

bool json_tensor_form_fits(const struct json_tensor_form *form, const int64_t *dims, uint32_t rank) {
  uint64_t elements;
  if (shape_size(MU_BOOL, dims, rank, &elements, NULL) != MU_OK || elements != form->elements) return false;
  return elements == 0 || form->rank == 1 || (form->rank == rank && memcmp(form->dims, dims, rank * sizeof *dims) == 0);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* An integer within limits, as the low bytes of 64 bits (little-endian, as tensors are). */
struct element_type;
typedef bool (*store_number)(const struct element_type *type, const struct json_number *number, uint8_t *at);
typedef size_t (*print_element)(const uint8_t *at, char *text); /* 0: JSON has no such number */

struct element_type {
  size_t size;
  store_number store;
  int64_t least;
  uint64_t most;
  print_element print;
  bool integer;
};

static bool store_signed(const struct element_type *type, const struct json_number *number, uint8_t *at) {
  int64_t value;
  if (!json_number_i64(number, &value) || value < type->least || value > (int64_t)type->most) return false;
  memcpy(at, &value, type->size);
  return true;
}

static bool store_unsigned(const struct element_type *type, const struct json_number *number, uint8_t *at) {
  uint64_t value;
  if (!json_number_u64(number, &value) || value > type->most) return false;
  memcpy(at, &value, type->size);
  return true;
}

#define STORE_FLOATING(name, ctype)                                                                          \
  static bool store_##name(const struct element_type *type, const struct json_number *number, uint8_t *at) { \
    ctype value;                                                                                             \
    if (!json_number_##name(number, &value)) return false;                                                   \
    memcpy(at, &value, sizeof value);                                                                        \
    return true;                                                                                             \
  }
STORE_FLOATING(fp16, uint16_t)
STORE_FLOATING(bf16, uint16_t)
STORE_FLOATING(float, float)
STORE_FLOATING(double, double)

#define PRINT_ELEMENT(name, ctype, finite, call)              \
  static size_t print_##name(const uint8_t *at, char *text) { \
    ctype value;                                              \
    memcpy(&value, at, sizeof value);                         \
    return (finite) ? call(value, text) : 0;                  \
  }
PRINT_ELEMENT(u8, uint8_t, true, json_print_u64)
PRINT_ELEMENT(u16, uint16_t, true, json_print_u64)
PRINT_ELEMENT(u32, uint32_t, true, json_print_u64)
PRINT_ELEMENT(u64, uint64_t, true, json_print_u64)
PRINT_ELEMENT(i8, int8_t, true, json_print_i64)
PRINT_ELEMENT(i16, int16_t, true, json_print_i64)
PRINT_ELEMENT(i32, int32_t, true, json_print_i64)
PRINT_ELEMENT(i64, int64_t, true, json_print_i64)
PRINT_ELEMENT(fp16, uint16_t, (value & 0x7c00) != 0x7c00, json_print_fp16)
PRINT_ELEMENT(bf16, uint16_t, (value & 0x7f80) != 0x7f80, json_print_bf16)
PRINT_ELEMENT(float, float, __builtin_isfinite(value), json_print_float)
PRINT_ELEMENT(double, double, __builtin_isfinite(value), json_print_double)

static size_t print_bool(const uint8_t *at, char *text) {
  const char *word = *at != 0 ? "true" : "false";
  const size_t length = strlen(word);
  memcpy(text, word, length);
  return length;
}

/* Every type of fixed size; BYTES has functions of its own. */
static const struct element_type element_types[MU_DTYPE_COUNT] = {
    [MU_BOOL] = {1, store_unsigned, 0, 1, print_bool, true},
    [MU_UINT8] = {1, store_unsigned, 0, UINT8_MAX, print_u8, true},
    [MU_UINT16] = {2, store_unsigned, 0, UINT16_MAX, print_u16, true},
    [MU_UINT32] = {4, store_unsigned, 0, UINT32_MAX, print_u32, true},
    [MU_UINT64] = {8, store_unsigned, 0, UINT64_MAX, print_u64, true},
    [MU_INT8] = {1, store_signed, INT8_MIN, INT8_MAX, print_i8, true},
    [MU_INT16] = {2, store_signed, INT16_MIN, INT16_MAX, print_i16, true},
    [MU_INT32] = {4, store_signed, INT32_MIN, INT32_MAX, print_i32, true},
    [MU_INT64] = {8, store_signed, INT64_MIN, INT64_MAX, print_i64, true},
    [MU_FP16] = {2, store_fp16, 0, 0, print_fp16, false},
    [MU_BF16] = {2, store_bf16, 0, 0, print_bf16, false},
    [MU_FP32] = {4, store_float, 0, 0, print_float, false},
    [MU_FP64] = {8, store_double, 0, 0, print_double, false},
};

/* Where elements go, one after the other. */
struct tensor_writer {
  struct json_reader *reader;
  mu_dtype dtype;
  const struct element_type *type;
  uint8_t *data;
  uint64_t size, used, elements;
  mu_error *err;
};

static mu_status reader_status(const struct json_reader *reader, mu_error *err) {
  return mu_fail(err, MU_INVALID, "%s", reader->error.message);
}

static mu_status no_room(const struct tensor_writer *w) {
  return mu_fail(w->err, MU_TOO_LARGE, "element %llu does not fit the %llu bytes that the tensor has",
                 (unsigned long long)w->elements, (unsigned long long)w->size);
}

static mu_status store_element(struct tensor_writer *w, const struct json_number *number) {
  if (w->size - w->used < w->type->size) return no_room(w);
  if (!w->type->store(w->type, number, w->data + w->used))
    return mu_fail(w->err, MU_INVALID, "element %llu: %.*s is %s %s", (unsigned long long)w->elements,
                   (int)(number->size < 40 ? number->size : 40), number->text,
                   w->type->integer && !number->integer ? "no integer, as is needed for" : "out of the range of",
                   mu_dtype_name(w->dtype));
  w->used += w->type->size;
  w->elements++;
  return MU_OK;
}

static mu_status read_numbers(struct tensor_writer *w) {
  struct json_reader *reader = w->reader;
  const char *at = reader->text + reader->at, *end = reader->text + reader->size;
  do {
    struct json_number number;
    const char *stop = json_number_scan(at, end, &number);
    if (stop == NULL) {
      reader->at = (size_t)(at - reader->text);
      json_skip(reader); /* fails, and says why */
      return reader_status(reader, w->err);
    }
    const mu_status status = store_element(w, &number);
    if (status != MU_OK) return status;
    at = stop;
  } while (next_of_run(&at, end));
  reader->at = (size_t)(at - reader->text);
  return MU_OK;
}

static mu_status read_bytes(struct tensor_writer *w) {
  struct json_text text;
  if (!json_read_string(w->reader, &text)) return reader_status(w->reader, w->err);
  const size_t length = json_text_size(&text);
  if (length > UINT32_MAX || w->size - w->used < BYTES_PREFIX + (uint64_t)length) return no_room(w);
  memcpy(w->data + w->used, &(uint32_t){(uint32_t)length}, BYTES_PREFIX);
  json_text_decode(&text, (char *)w->data + w->used + BYTES_PREFIX);
  w->used += BYTES_PREFIX + length;
  w->elements++;
  return MU_OK;
}

static mu_status read_boolean(struct tensor_writer *w) {
  bool value;
  if (!json_read_bool(w->reader, &value)) return reader_status(w->reader, w->err);
  if (w->size - w->used < 1) return no_room(w);
  w->data[w->used++] = value;
  w->elements++;
  return MU_OK;
}

/* One value, or a run of numbers. */
static mu_status read_leaf(struct tensor_writer *w, enum json_kind kind) {
  if (w->dtype == MU_BYTES && kind == JSON_READ_STRING) return read_bytes(w);
  if (w->dtype != MU_BYTES && kind == JSON_READ_NUMBER) return read_numbers(w);
  if (w->dtype == MU_BOOL && (kind == JSON_READ_TRUE || kind == JSON_READ_FALSE)) return read_boolean(w);
  if (w->reader->failed) return reader_status(w->reader, w->err);
  static const char *const wanted[] = {"a number", "a string", "true, false, 0 or 1"};
  return mu_fail(w->err, MU_INVALID, "byte %zu: element %llu of %s must be %s", w->reader->at,
                 (unsigned long long)w->elements, mu_dtype_name(w->dtype),
                 wanted[w->dtype == MU_BYTES  ? 1
                        : w->dtype == MU_BOOL ? 2
                                              : 0]);
}

/* Every value inside the array that comes next, whatever its nesting. */
static mu_status read_leaves(struct tensor_writer *w) {
  struct json_reader *reader = w->reader;
  const uint32_t outside = reader->depth;
  if (!json_enter(reader)) return reader_status(reader, w->err);
  while (reader->depth > outside) {
    if (!json_element(reader)) {
      if (reader->failed) return reader_status(reader, w->err);
      continue;
    }
    const enum json_kind kind = json_peek(reader);
    if (kind == JSON_READ_ARRAY) {
      if (!json_enter(reader)) return reader_status(reader, w->err);
      continue;
    }
    const mu_status status = read_leaf(w, kind);
    if (status != MU_OK) return status;
  }
  return MU_OK;
}

/* Measures ahead on a copy of the reader. */
static mu_status check_form(const struct json_reader *reader, const int64_t *dims, uint32_t rank, mu_error *err) {
  struct json_reader ahead = *reader;
  struct json_tensor_form form;
  if (!json_measure_tensor(&ahead, &form)) return reader_status(&ahead, err);
  if (json_tensor_form_fits(&form, dims, rank)) return MU_OK;
  char found[128], wanted[128];
  return mu_fail(err, MU_INVALID, "data of form %s does not fit shape %s",
                 shape_text(form.dims, form.rank, found, sizeof found), shape_text(dims, rank, wanted, sizeof wanted));
}

mu_status json_read_tensor(struct json_reader *reader, mu_dtype dtype, const int64_t *dims, uint32_t rank,
                           uint8_t *data, uint64_t size, uint64_t *ret_size, mu_error *err) {
  if (dims != NULL) {
    const mu_status status = check_form(reader, dims, rank, err);
    if (status != MU_OK) return status;
  }
  struct tensor_writer w = {
      .reader = reader, .dtype = dtype, .type = &element_types[dtype], .data = data, .size = size, .err = err};
  const mu_status status = read_leaves(&w);
  if (status == MU_OK) *ret_size = w.used;
  return status;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

mu_status json_write_i64(struct buffer *out, int64_t value) {
  char text[JSON_NUMBER_TEXT_MAX];
  return buffer_append(out, text, json_print_i64(value, text));
}

mu_status json_write_u64(struct buffer *out, uint64_t value) {
  char text[JSON_NUMBER_TEXT_MAX];
  return buffer_append(out, text, json_print_u64(value, text));
}

static mu_status not_written(const struct buffer *out, mu_status status, mu_error *err) {
  if (status != MU_TOO_LARGE) return mu_fail(err, status, "no memory for the JSON text");
  return mu_fail(err, status, "the JSON text is larger than %zu bytes", out->limit);
}

static mu_status append(struct buffer *out, const char *text, size_t size, mu_error *err) {
  const mu_status status = buffer_append(out, text, size);
  return status == MU_OK ? MU_OK : not_written(out, status, err);
}

static mu_status write_fixed(struct buffer *out, const struct element_type *type, const uint8_t *data,
                             uint64_t elements, mu_error *err) {
  char chunk[1024]; /* so that the buffer is asked once for many elements */
  size_t n = 0;
  for (uint64_t i = 0; i < elements; i++) {
    if (i != 0) chunk[n++] = ',';
    const size_t length = type->print(data + i * type->size, chunk + n);
    if (length == 0)
      return mu_fail(err, MU_UNSUPPORTED,
                     "element %llu is not a finite number, which JSON cannot carry: ask for binary data",
                     (unsigned long long)i);
    n += length;
    if (n > sizeof chunk - JSON_NUMBER_TEXT_MAX - 1) {
      const mu_status status = append(out, chunk, n, err);
      if (status != MU_OK) return status;
      n = 0;
    }
  }
  return append(out, chunk, n, err);
}

static mu_status write_bytes(struct buffer *out, const uint8_t *data, uint64_t size, uint64_t elements, mu_error *err) {
  uint64_t at = 0;
  for (uint64_t i = 0; i < elements; i++) {
    uint32_t length = 0;
    if (size - at >= BYTES_PREFIX) memcpy(&length, data + at, BYTES_PREFIX);
    if (size - at < BYTES_PREFIX || size - at - BYTES_PREFIX < length)
      return mu_fail(err, MU_INTERNAL, "the lengths of the BYTES elements run past the tensor's %llu bytes",
                     (unsigned long long)size);
    const char *text = (const char *)data + at + BYTES_PREFIX;
    if (!json_utf8_valid(text, length))
      return mu_fail(err, MU_UNSUPPORTED,
                     "element %llu is not valid UTF-8, which JSON cannot carry: ask for binary data",
                     (unsigned long long)i);
    mu_status status = i == 0 ? MU_OK : buffer_putc(out, ',');
    if (status == MU_OK) status = json_write_string(out, text, length);
    if (status != MU_OK) return not_written(out, status, err);
    at += BYTES_PREFIX + (uint64_t)length;
  }
  if (at != size)
    return mu_fail(err, MU_INTERNAL, "%llu bytes follow the last BYTES element", (unsigned long long)(size - at));
  return MU_OK;
}

mu_status json_write_tensor(struct buffer *out, mu_dtype dtype, const uint8_t *data, uint64_t size, uint64_t elements,
                            mu_error *err) {
  const struct element_type *type = &element_types[dtype];
  mu_status status = append(out, "[", 1, err);
  if (status != MU_OK) return status;
  if (dtype == MU_BYTES) {
    status = write_bytes(out, data, size, elements, err);
  } else {
    uint64_t wanted;
    if (__builtin_mul_overflow(elements, (uint64_t)type->size, &wanted) || wanted != size || type->size == 0)
      return mu_fail(err, MU_INTERNAL, "%llu elements of %s are not %llu bytes", (unsigned long long)elements,
                     mu_dtype_name(dtype), (unsigned long long)size);
    status = write_fixed(out, type, data, elements, err);
  }
  return status == MU_OK ? append(out, "]", 1, err) : status;
}
