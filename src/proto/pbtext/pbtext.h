/*
 * A reader of the text format of protocol buffers (protobuf.dev, "Text Format Language Specification"): text in, a tree
 * out. It knows the syntax only; which fields exist and of what type they are is for the caller to say.
 *
 * Pure: no I/O, no state between calls. The tree lives in the caller's arena and is immutable. Strings are copied, so
 * the text may go after the call. Time and memory are linear in the length of the text.
 */
#ifndef PROTO_PBTEXT_PBTEXT_H
#define PROTO_PBTEXT_PBTEXT_H

#include "base/arena.h"

enum { PBTEXT_DEPTH_MAX = 64 }; /* messages within messages */

/* Both from 1; the column counts bytes. */
struct pbtext_place {
  uint32_t line, column;
};

enum pbtext_kind {
  PBTEXT_INTEGER,    /* integer, negative */
  PBTEXT_FLOAT,      /* number; also -inf, -nan, and decimal integers past 64 bits */
  PBTEXT_STRING,     /* text, len: escapes decoded, neighbours joined; any byte may occur */
  PBTEXT_IDENTIFIER, /* text, len: true, TYPE_FP32, inf … */
  PBTEXT_MESSAGE,    /* message */
};

struct pbtext_message;

struct pbtext_value {
  enum pbtext_kind kind;
  bool negative; /* PBTEXT_INTEGER: a minus stood before it */
  struct pbtext_place place;
  union {
    uint64_t integer; /* magnitude */
    double number;
    struct {
      const char *text; /* terminated */
      size_t len;
    };
    const struct pbtext_message *message;
  };
  struct pbtext_value *next; /* in the field's list */
};

struct pbtext_field {
  const char *name; /* "max_batch_size"; an extension or Any keeps its brackets: "[com.example.ext]" */
  struct pbtext_place place;
  bool list; /* written as [a, b] */
  uint32_t n_values;
  struct pbtext_value *values; /* one, or the list's (which may be empty: NULL) */
  struct pbtext_field *next;
};

struct pbtext_message {
  struct pbtext_place place; /* of its opening bracket; 1:1 for the text as a whole */
  struct pbtext_field *fields;
};

/* MU_INVALID ("SOURCE:LINE:COLUMN: what is wrong"), MU_NO_MEMORY. What a failed call allocated stays in the arena. */
MUST_CHECK mu_status pbtext_parse(const char *text, size_t len, const char *source, struct arena *arena,
                                  const struct pbtext_message **ret_message, mu_error *err);

/* The n-th value (from 0) that the message gives to the field, over all its occurrences; NULL when there are fewer. */
const struct pbtext_value *pbtext_find(const struct pbtext_message *message, const char *name, size_t n);

/* The integer of a value, whole; false when it is none or does not fit. */
bool pbtext_int64(const struct pbtext_value *value, int64_t *ret_number);
bool pbtext_uint64(const struct pbtext_value *value, uint64_t *ret_number);

/* The value as an error message quotes it ("-5", "TYPE_FP32", "a string", "a message") into text; returns text. */
const char *pbtext_describe(const struct pbtext_value *value, char *text, size_t size);

/* mu_fail with "SOURCE:LINE:COLUMN: " before the message. */
mu_status pbtext_fail(mu_error *err, mu_status status, const char *source, struct pbtext_place place,
                      const char *format, ...) __attribute__((format(printf, 5, 6)));

#endif
