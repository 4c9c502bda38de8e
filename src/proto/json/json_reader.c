#include "proto/json/json_reader.h"

#include "proto/json/json_private.h"
#include "proto/json/json_text.h"

#include <assert.h>
#include <stdio.h>

void json_reader_init_at(struct json_reader *reader, const char *text, size_t at, size_t size) {
  reader->text = text;
  reader->size = at + size;
  reader->at = at;
  reader->depth = 0;
  reader->first = reader->object = 0;
  reader->failed = false; /* error is written with the first failure: no need to clear its 512 bytes here */
}

void json_reader_init(struct json_reader *reader, const char *text, size_t size) {
  json_reader_init_at(reader, text, 0, size);
}

/* Keeps the first reason only. Always false. */
static bool fail_at(struct json_reader *reader, size_t at, const char *why) {
  if (!reader->failed) snprintf(reader->error.message, sizeof reader->error.message, "byte %zu: %s", at, why);
  reader->failed = true;
  return false;
}

bool json_fail(struct json_reader *reader, const char *why) { return fail_at(reader, reader->at, why); }

static inline void skip_space(struct json_reader *reader) {
  while (reader->at < reader->size) {
    const char c = reader->text[reader->at];
    if (c != ' ' && c != '\n' && c != '\r' && c != '\t') break;
    reader->at++;
  }
}

/* What a value's first byte makes of it. */
enum { KIND_NONE = 0, KIND_CLOSE = JSON_READ_OBJECT + 1 };
static const uint8_t kind_of_byte[256] = {
    ['n'] = JSON_READ_NULL,   ['f'] = JSON_READ_FALSE,  ['t'] = JSON_READ_TRUE,   ['-'] = JSON_READ_NUMBER,
    ['0'] = JSON_READ_NUMBER, ['1'] = JSON_READ_NUMBER, ['2'] = JSON_READ_NUMBER, ['3'] = JSON_READ_NUMBER,
    ['4'] = JSON_READ_NUMBER, ['5'] = JSON_READ_NUMBER, ['6'] = JSON_READ_NUMBER, ['7'] = JSON_READ_NUMBER,
    ['8'] = JSON_READ_NUMBER, ['9'] = JSON_READ_NUMBER, ['"'] = JSON_READ_STRING, ['['] = JSON_READ_ARRAY,
    [']'] = KIND_CLOSE,       ['}'] = KIND_CLOSE,       ['{'] = JSON_READ_OBJECT,
};

static const char *const kind_names[] = {
    [JSON_END] = "the end",         [JSON_READ_NULL] = "null",        [JSON_READ_FALSE] = "a boolean",
    [JSON_READ_TRUE] = "a boolean", [JSON_READ_NUMBER] = "a number",  [JSON_READ_STRING] = "a string",
    [JSON_READ_ARRAY] = "an array", [JSON_READ_OBJECT] = "an object",
};

static inline enum json_kind peek(struct json_reader *reader) {
  if (reader->failed) return JSON_END;
  skip_space(reader);
  if (reader->at == reader->size) return JSON_END;
  const uint8_t kind = kind_of_byte[(uint8_t)reader->text[reader->at]];
  if (kind == KIND_NONE) json_fail(reader, "expected a value");
  return kind == KIND_CLOSE ? JSON_END : (enum json_kind)kind;
}

enum json_kind json_peek(struct json_reader *reader) { return peek(reader); }

static bool fail_kind(struct json_reader *reader, enum json_kind wanted, enum json_kind found) {
  char why[64];
  snprintf(why, sizeof why, "expected %s, found %s", kind_names[wanted], kind_names[found]);
  return json_fail(reader, why);
}

/* The next value is of this kind, or the reader fails and says what it found. */
static inline bool expect(struct json_reader *reader, enum json_kind kind) {
  const enum json_kind found = peek(reader);
  return found == kind || fail_kind(reader, kind, found);
}

/* ---- containers -------------------------------------------------------------------------------------------------- */

bool json_enter(struct json_reader *reader) {
  const enum json_kind kind = peek(reader);
  if (kind != JSON_READ_ARRAY && kind != JSON_READ_OBJECT) return fail_kind(reader, JSON_READ_ARRAY, kind);
  if (reader->depth == JSON_DEPTH_MAX) return json_fail(reader, "nested too deep");
  const uint64_t bit = UINT64_C(1) << reader->depth++;
  reader->first |= bit;
  reader->object = kind == JSON_READ_OBJECT ? reader->object | bit : reader->object & ~bit;
  reader->at++;
  return true;
}

/* To the next item of the innermost container, past the comma. false: its end (then left), or a failure. */
static inline bool next_item(struct json_reader *reader, char close, const char *truncated, const char *expected) {
  if (reader->failed) return false;
  const uint64_t bit = UINT64_C(1) << (reader->depth - 1);
  skip_space(reader);
  if (reader->at == reader->size) return json_fail(reader, truncated);
  if (reader->text[reader->at] == close) {
    reader->at++;
    reader->depth--;
    return false;
  }
  if ((reader->first & bit) == 0) {
    if (reader->text[reader->at] != ',') return json_fail(reader, expected);
    reader->at++;
    skip_space(reader);
    if (reader->at < reader->size && reader->text[reader->at] == close)
      return json_fail(reader, "a comma with nothing behind it");
  }
  reader->first &= ~bit;
  return true;
}

static bool in_object(const struct json_reader *reader) { return (reader->object >> (reader->depth - 1) & 1) != 0; }

bool json_element(struct json_reader *reader) {
  assert(reader->failed || (reader->depth > 0 && !in_object(reader)));
  return next_item(reader, ']', "the text ends inside an array", "expected ',' or ']'");
}

/* The string whose opening quote the reader stands at. */
static bool scan_string(struct json_reader *reader, struct json_text *ret_text) {
  const char *end = reader->text + reader->size, *stop, *why;
  const char *quote = json_text_scan(reader->text + reader->at + 1, end, ret_text, &stop, &why);
  if (quote == NULL) return fail_at(reader, (size_t)(stop - reader->text), why);
  reader->at = (size_t)(quote + 1 - reader->text);
  return true;
}

bool json_member(struct json_reader *reader, struct json_text *ret_key) {
  assert(reader->failed || (reader->depth > 0 && in_object(reader)));
  if (!next_item(reader, '}', "the text ends inside an object", "expected ',' or '}'")) return false;
  if (reader->at == reader->size || reader->text[reader->at] != '"')
    return json_fail(reader, "expected a key in quotes");
  struct json_text key;
  if (!scan_string(reader, &key)) return false;
  skip_space(reader);
  if (reader->at == reader->size || reader->text[reader->at] != ':') return json_fail(reader, "expected ':'");
  reader->at++;
  *ret_key = key;
  return true;
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

bool json_read_string(struct json_reader *reader, struct json_text *ret_text) {
  return expect(reader, JSON_READ_STRING) && scan_string(reader, ret_text);
}

static bool read_word(struct json_reader *reader, const char *word) {
  const size_t length = strlen(word);
  if (reader->size - reader->at < length || memcmp(reader->text + reader->at, word, length) != 0)
    return json_fail(reader, "expected a value");
  reader->at += length;
  return true;
}

bool json_read_bool(struct json_reader *reader, bool *ret_value) {
  const bool value = peek(reader) == JSON_READ_TRUE;
  if (!value && !expect(reader, JSON_READ_FALSE)) return false;
  if (!read_word(reader, value ? "true" : "false")) return false;
  *ret_value = value;
  return true;
}

bool json_read_null(struct json_reader *reader) { return expect(reader, JSON_READ_NULL) && read_word(reader, "null"); }

bool json_read_number(struct json_reader *reader, struct json_number *ret_number) {
  if (!expect(reader, JSON_READ_NUMBER)) return false;
  const char *end = json_number_scan(reader->text + reader->at, reader->text + reader->size, ret_number);
  if (end == NULL) return json_fail(reader, "not a number as JSON writes it");
  reader->at = (size_t)(end - reader->text);
  return true;
}

bool json_read_i64(struct json_reader *reader, int64_t *ret_value) {
  struct json_number number;
  if (!json_read_number(reader, &number)) return false;
  return json_number_i64(&number, ret_value) ||
         fail_at(reader, (size_t)(number.text - reader->text), "expected an integer of 64 bits");
}

bool json_read_u64(struct json_reader *reader, uint64_t *ret_value) {
  struct json_number number;
  if (!json_read_number(reader, &number)) return false;
  return json_number_u64(&number, ret_value) ||
         fail_at(reader, (size_t)(number.text - reader->text), "expected an integer of 64 bits, not negative");
}

bool json_read_double(struct json_reader *reader, double *ret_value) {
  struct json_number number;
  if (!json_read_number(reader, &number)) return false;
  return json_number_double(&number, ret_value) ||
         fail_at(reader, (size_t)(number.text - reader->text), "the number is too large");
}

/* ---- skipping ---------------------------------------------------------------------------------------------------- */

static bool skip_bool(struct json_reader *reader) {
  bool value;
  return json_read_bool(reader, &value);
}
static bool skip_number(struct json_reader *reader) {
  struct json_number number;
  return json_read_number(reader, &number);
}
static bool skip_string(struct json_reader *reader) {
  struct json_text text;
  return json_read_string(reader, &text);
}
static bool skip_nothing(struct json_reader *reader) { return json_fail(reader, "expected a value"); }

/* Reads a plain value, enters a container. */
static bool (*const skip_one[])(struct json_reader *reader) = {
    [JSON_END] = skip_nothing,      [JSON_READ_NULL] = json_read_null, [JSON_READ_FALSE] = skip_bool,
    [JSON_READ_TRUE] = skip_bool,   [JSON_READ_NUMBER] = skip_number,  [JSON_READ_STRING] = skip_string,
    [JSON_READ_ARRAY] = json_enter, [JSON_READ_OBJECT] = json_enter,
};

static bool next_of_either(struct json_reader *reader) {
  struct json_text key;
  return in_object(reader) ? json_member(reader, &key) : json_element(reader);
}

bool json_skip(struct json_reader *reader) {
  const uint32_t outside = reader->depth;
  do {
    if (!skip_one[peek(reader)](reader)) return false;
    while (reader->depth > outside && !next_of_either(reader))
      if (reader->failed) return false;
  } while (reader->depth > outside);
  return true;
}

bool json_read_raw(struct json_reader *reader, const char **ret_text, size_t *ret_size) {
  json_peek(reader); /* to the value's first byte */
  const size_t start = reader->at;
  if (!json_skip(reader)) return false;
  *ret_text = reader->text + start;
  *ret_size = reader->at - start;
  return true;
}

mu_status json_finish(struct json_reader *reader, mu_error *err) {
  if (!reader->failed) {
    skip_space(reader);
    if (reader->at < reader->size) json_fail(reader, "something follows the JSON text");
  }
  return reader->failed ? mu_fail(err, MU_INVALID, "%s", reader->error.message) : MU_OK;
}
