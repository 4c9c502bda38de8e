/*
 * The option table and what is done with one row of it: find it by a name, parse a text into it, write its value as
 * text. Private to config/; rows are constant, everything set belongs to the memory of the struct options.
 */
#ifndef CONFIG_OPTION_TABLE_H
#define CONFIG_OPTION_TABLE_H

#include "config/options.h"

enum option_type {
  OPTION_BOOL,     /* bool */
  OPTION_TRISTATE, /* int64_t, enum tristate; as a flag like a boolean */
  OPTION_INT,      /* int64_t */
  OPTION_BYTES,    /* int64_t; 64MiB */
  OPTION_DURATION, /* int64_t in units of row->scale; 30s */
  OPTION_ENUM,     /* int64_t; one of row->words */
  OPTION_STRING,   /* const char * */
  OPTION_LIST,     /* struct option_list */
};

struct option_word {
  const char *word; /* NULL ends the list */
  int64_t value;    /* the first word with a value is the one that is printed */
};

enum { OPTION_ALIASES_MAX = 2 };

struct option_row {
  const char *name; /* of the flag; in muster.yaml with _ for - too, in the environment MUSTER_ and capitals */
  const char *aliases[OPTION_ALIASES_MAX]; /* other flags and keys of the same meaning */
  const char *environment;                 /* of existing deployments, besides MUSTER_<NAME> */
  const char *group, *help;
  const char *placeholder; /* of the value in --help; NULL: by type */
  enum option_type type;
  size_t offset; /* in struct options */
  int64_t min, max;
  int64_t scale;                   /* DURATION: nanoseconds in one stored unit */
  int64_t unit;                    /* DURATION: nanoseconds in one of a number without unit */
  const char *initial;             /* the default, as text; NULL: empty list */
  const struct option_word *words; /* ENUM, TRISTATE: all values; else words for special numbers ("auto") */
  bool not_in_file;                /* has no meaning inside muster.yaml */
  bool reloadable;                 /* muster reload changes it in a server that runs; false: a start does */
};

enum { OPTION_ROWS_MAX = 96 }; /* at least as many as there are rows */
const struct option_row *option_rows(size_t *ret_n);
static inline void *option_field(const struct option_row *row, void *base) { return (char *)base + row->offset; }

/* By flag name or alias (- and _ alike where loose); NULL: unknown. */
const struct option_row *option_find(const char *name, size_t size, bool loose);

/* "MUSTER_HTTP_PORT" into text. */
enum { OPTION_NAME_MAX = 64 };
void option_environment_name(const struct option_row *row, char text[OPTION_NAME_MAX]);
/* "http_port" into text. */
void option_key(const struct option_row *row, char text[OPTION_NAME_MAX]);

/* The settings that a model may have of its own: rows of the table, whose field in struct model_options is at offset.
 */
struct model_row {
  const char *name;
  size_t offset;
};
const struct model_row *model_rows(size_t *ret_n);
/* field: of a struct model_options, described by row */
bool model_option_is_unset(const struct option_row *row, const void *field);

/* ---- values (option_value.c) ------------------------------------------------------------------------------------- */

/* Where a setting comes from; kept (copied) for `muster config` and for messages. */
struct option_origin {
  enum option_source source;
  const char *text;
};

/* Parses text into field (the row's field or a model's); the string types are copied to memory, a list becomes that
 * one item. MU_INVALID with a complete message; MU_NO_MEMORY. */
MUST_CHECK mu_status option_parse(const struct option_row *row, const char *text, const char *origin,
                                  struct arena *memory, void *field, mu_error *err);
/* Is a stored number one that option_parse could have produced? */
bool option_number_fits(const struct option_row *row, int64_t number);

/* Appends the value as muster.yaml spells it. */
void option_format(const struct option_row *row, const void *field, struct buffer *out);
/* Appends what is allowed: "a whole number from 0 to 65535". */
void option_describe(const struct option_row *row, struct buffer *out);
/* The word printed for the number; NULL: none. */
const char *option_word_of(const struct option_row *row, int64_t number);
/* Appends text as a YAML scalar, quoted where needed. */
void option_format_text(const char *text, struct buffer *out);

/* The rows as --help shows them (options_print.c); for tables of other commands, too. MU_NO_MEMORY. */
MUST_CHECK mu_status option_rows_print_help(const struct option_row *rows, size_t n, struct buffer *out);

/* Is the text one that a boolean flag takes as its value? */
bool option_is_bool_word(const char *text);

/* ---- setting (options.c) ----------------------------------------------------------------------------------------- */

/* option_parse into the options, with its source. A list is replaced by this one item, or gets it added where its last
 * item came from the same source. */
MUST_CHECK mu_status option_set(struct options *options, const struct option_row *row, const char *text,
                                struct option_origin origin, mu_error *err);
/* Adds text to the warnings. */
MUST_CHECK mu_status options_warn(struct options *options, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Adds one item to a list in memory. */
MUST_CHECK mu_status option_list_add(struct option_list *list, struct arena *memory, const char *item);

/* ---- sources ----------------------------------------------------------------------------------------------------- */

/* flags.c: argv cut into settings, in order; foreign flags of tritonserver become warnings or errors. */
struct flag_setting {
  const struct option_row *row;
  const char *text;
  const char *origin;
};
struct flag_settings {
  struct flag_setting *items;
  size_t n;
};
MUST_CHECK mu_status flags_read(struct options *options, int argc, char **argv, struct flag_settings *ret_settings,
                                mu_error *err);

/* environment.c: the value of a variable in environment (NULL: not there, or empty). */
const char *environment_value(char **environment, const char *name);
MUST_CHECK mu_status environment_apply(struct options *options, char **environment, mu_error *err);

/* yaml_file.c: path as it is to appear in messages. */
MUST_CHECK mu_status yaml_file_apply(struct options *options, const char *path, mu_error *err);

/* foreign_flags.c: what tritonserver has and muster has not. */
struct foreign_flag {
  const char *name; /* a trailing * stands for any rest */
  const char *why;  /* "there is no …" */
  bool refused;     /* ignoring it would change results or open what was meant closed */
  bool takes_no_value;
};
const struct foreign_flag *foreign_flag_find(const char *name, size_t size);

#endif
