/*
 * From the tree of a protobuf text to C structs, by tables that say which fields a message has and where each goes.
 * Knows nothing of any particular message: those of ModelConfig are in config_fields.c. Private to model/.
 */
#ifndef MODEL_CONFIG_DECODE_H
#define MODEL_CONFIG_DECODE_H

#include "proto/pbtext/pbtext.h"

enum config_kind {
  CONFIG_STRING,           /* const char *; valid UTF-8 without NUL */
  CONFIG_PATH,             /* const char *; stays below its folder */
  CONFIG_BOOL,             /* bool */
  CONFIG_INT32,            /* int32_t or uint32_t, min to max */
  CONFIG_INT64,            /* int64_t or uint64_t, min to max */
  CONFIG_ENUM,             /* int or an enum: the number of one of `words` */
  CONFIG_ENUM_BOOL,        /* bool: whether that number is not 0 */
  CONFIG_MESSAGE,          /* a struct in place; offset 0 for a message whose fields go into the same struct */
  CONFIG_SET,              /* a bool whose value does not matter, only that it is written (`zero_data`) */
  CONFIG_IGNORED,          /* a warning with the reason */
  CONFIG_IGNORED_TRUE,     /* a bool: a warning with the reason when true */
  CONFIG_UNSUPPORTED,      /* MU_UNSUPPORTED with the reason */
  CONFIG_UNSUPPORTED_TRUE, /* a bool: the same when true */
};

/* One enumerator: its name and number in the protocol, and what is stored. */
struct config_word {
  const char *name;
  int number;
  int stored; /* CONFIG_WORD_UNSUPPORTED: understood, and refused */
};
enum { CONFIG_WORD_UNSUPPORTED = -1000 };

struct config_rules;

struct config_rule {
  const char *name;
  enum config_kind kind;
  size_t offset;
  bool required;
  bool repeated;
  size_t count;      /* repeated: offset of the uint32_t that holds how many */
  uint32_t capacity; /* repeated: size of the array in place; 0: offset is that of a pointer to an array */
  size_t has;        /* offset of a bool that says that the field is written; 0: none */
  int64_t min;
  uint64_t max;
  const struct config_word *words;
  size_t n_words;
  const struct config_rules *message;
  unsigned group; /* fields of one group (not 0) exclude one another: `oneof` */
  size_t choice_at;
  bool zero_is_none; /* in JSON, where Triton's clients write all fields, 0 is as good as not written */
  int choice;        /* in a group: stored as int at choice_at */
  const char *reason;
};

struct config_decoder {
  const char *source;
  struct arena *arena;
  mu_error *err;
  bool json; /* the tree was made of JSON: words and numbers may be in quotes, and a default is as good as nothing */
  struct config_warning *first_warning, *last_warning; /* in the arena */
  uint32_t n_warnings;
};

struct config_warning {
  struct config_warning *next;
  const char *text;
};

struct config_rules {
  const char *name; /* of the message type */
  size_t size;      /* of the struct, for repeated ones */
  const struct config_rule *rules;
  size_t n_rules;
  /* What no table can say; may be NULL. */
  mu_status (*check)(struct config_decoder *decoder, void *object, const struct pbtext_message *message);
};

enum { CONFIG_RULES_MAX = 32 }; /* fields in a message */

/*
 * Fills object, a zeroed struct of the kind that rules describe. MU_INVALID: unknown field (with the nearest right
 * name), wrong type, out of range, written twice, missing; MU_UNSUPPORTED; MU_NO_MEMORY.
 */
MUST_CHECK mu_status config_decode(struct config_decoder *decoder, const struct config_rules *rules, void *object,
                                   const struct pbtext_message *message);

/* Adds "SOURCE:LINE:COLUMN: …" to the warnings. MU_NO_MEMORY. */
MUST_CHECK mu_status config_warn(struct config_decoder *decoder, struct pbtext_place place, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define config_fail(decoder, status, place, ...) \
  pbtext_fail((decoder)->err, status, (decoder)->source, place, __VA_ARGS__)

mu_status config_no_memory(const struct config_decoder *decoder);

#endif
