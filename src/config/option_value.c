/* Values as text: one parser and one printer a type, chosen by table. */
#include "config/option_table.h"

#include "base/clock.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/* Words are typed by people and come from deployments that write ROUND_ROBIN: case and -/_ make no difference. */
static bool word_equal(const char *a, const char *b) {
  for (; *a != '\0' && *b != '\0'; a++, b++) {
    char x = (char)tolower((unsigned char)*a), y = (char)tolower((unsigned char)*b);
    if (x != y && !((x == '-' || x == '_') && (y == '-' || y == '_'))) return false;
  }
  return *a == *b;
}

static bool find_word(const struct option_word *words, const char *text, int64_t *ret_value) {
  for (; words != NULL && words->word != NULL; words++)
    if (word_equal(words->word, text)) {
      *ret_value = words->value;
      return true;
    }
  return false;
}

const char *option_word_of(const struct option_row *row, int64_t number) {
  for (const struct option_word *word = row->words; word != NULL && word->word != NULL; word++)
    if (word->value == number) return word->word;
  return NULL;
}

bool option_number_fits(const struct option_row *row, int64_t number) {
  if (option_word_of(row, number) != NULL) return true;
  if (row->type == OPTION_ENUM || row->type == OPTION_TRISTATE) return false;
  return number >= row->min && number <= row->max;
}

/* ---- numbers with a unit ----------------------------------------------------------------------------------------- */

struct unit {
  const char *name;
  int64_t factor; /* ascending, so that the largest that divides a number is the last that does */
};
static const struct unit sizes[] = {{"B", 1},         {"KiB", 1 << 10},          {"MiB", 1 << 20},
                                    {"GiB", 1 << 30}, {"TiB", INT64_C(1) << 40}, {0}};
static const struct unit times[] = {{"ns", 1},
                                    {"us", NS_PER_US},
                                    {"ms", NS_PER_MS},
                                    {"s", (int64_t)NS_PER_S},
                                    {"m", 60 * (int64_t)NS_PER_S},
                                    {"h", 3600 * (int64_t)NS_PER_S},
                                    {0}};

static const struct unit *find_unit(const struct unit *units, const char *name) {
  for (; units->name != NULL; units++)
    if (word_equal(units->name, name)) return units;
  return NULL;
}

/* "1.5GiB": decimal digits with an optional fraction, then a unit; a number without one counts in bare. The result is
 * exact: a fraction that is no whole number of the smallest unit is cut off. */
static bool parse_with_unit(const char *text, const struct unit *units, int64_t bare, int64_t *ret_value) {
  int64_t whole = 0, fraction = 0, places = 1, factor = bare, value;
  const char *at = text;
  for (; isdigit((unsigned char)*at); at++)
    if (__builtin_mul_overflow(whole, 10, &whole) || __builtin_add_overflow(whole, *at - '0', &whole)) return false;
  if (at == text) return false;
  if (*at == '.') {
    const char *point = at++;
    for (; isdigit((unsigned char)*at); at++) {
      if (at - point > 9) continue; /* past a nanosecond of a second there is nothing to say */
      fraction = fraction * 10 + (*at - '0');
      places *= 10;
    }
    if (at == point + 1) return false;
  }
  while (*at == ' ') at++;
  if (*at != '\0') {
    const struct unit *unit = find_unit(units, at);
    if (unit == NULL) return false;
    factor = unit->factor;
  }
  if (__builtin_mul_overflow(whole, factor, &value)) return false;
  __int128 part = (__int128)fraction * factor / places;
  if (__builtin_add_overflow(value, (int64_t)part, &value)) return false;
  *ret_value = value;
  return true;
}

static void format_with_unit(int64_t value, const struct unit *units, const struct unit *for_zero, struct buffer *out) {
  const struct unit *best = value == 0 ? for_zero : units;
  for (const struct unit *unit = units; value != 0 && unit->name != NULL; unit++)
    if (value % unit->factor == 0) best = unit;
  buffer_print(out, "%" PRId64 "%s", value / best->factor, best->factor == 1 && units == sizes ? "" : best->name);
}

static void format_size(int64_t value, struct buffer *out) { format_with_unit(value, sizes, &sizes[0], out); }
static void format_time(int64_t value_ns, struct buffer *out) { format_with_unit(value_ns, times, &times[3], out); }

/* ---- one parser a type: false where the text is no value of the type --------------------------------------------- */

union option_value {
  bool truth;
  int64_t number;
  const char *text;
};

static bool parse_bool(const struct option_row *row, const char *text, union option_value *ret_value) {
  static const struct option_word words[] = {{"true", 1}, {"false", 0}, {"1", 1},   {"0", 0}, {"yes", 1},
                                             {"no", 0},   {"on", 1},    {"off", 0}, {0}};
  int64_t truth;
  if (!find_word(words, text, &truth)) return false;
  ret_value->truth = truth != 0;
  return true;
}

bool option_is_bool_word(const char *text) {
  union option_value ignored;
  return parse_bool(NULL, text, &ignored);
}

static bool parse_word(const struct option_row *row, const char *text, union option_value *ret_value) {
  return find_word(row->words, text, &ret_value->number);
}

static bool in_range(const struct option_row *row, int64_t number, union option_value *ret_value) {
  if (number < row->min || number > row->max) return false;
  ret_value->number = number;
  return true;
}

static bool parse_int(const struct option_row *row, const char *text, union option_value *ret_value) {
  if (parse_word(row, text, ret_value)) return true;
  if (!isdigit((unsigned char)*text)) return false; /* strtoll would take blanks and a sign */
  char *end;
  errno = 0;
  long long number = strtoll(text, &end, 10);
  return errno == 0 && *end == '\0' && in_range(row, number, ret_value);
}

static bool parse_size(const struct option_row *row, const char *text, union option_value *ret_value) {
  int64_t number;
  if (parse_word(row, text, ret_value)) return true;
  return parse_with_unit(text, sizes, 1, &number) && in_range(row, number, ret_value);
}

static bool parse_time(const struct option_row *row, const char *text, union option_value *ret_value) {
  int64_t ns;
  if (parse_word(row, text, ret_value)) return true;
  return parse_with_unit(text, times, row->unit, &ns) && in_range(row, ns / row->scale, ret_value);
}

static bool parse_text(const struct option_row *row, const char *text, union option_value *ret_value) {
  ret_value->text = text;
  return true;
}

/* ---- one description a type -------------------------------------------------------------------------------------- */

static void describe_words(const struct option_row *row, const char *separator, struct buffer *out) {
  for (const struct option_word *word = row->words; word != NULL && word->word != NULL; word++) {
    if (option_word_of(row, word->value) != word->word) continue; /* another spelling of one that was listed */
    buffer_print(out, "%s%s", word == row->words ? "" : separator, word->word);
  }
}

static void describe_bool(const struct option_row *row, struct buffer *out) { buffer_puts(out, "true or false"); }

static void describe_enum(const struct option_row *row, struct buffer *out) {
  buffer_puts(out, "one of ");
  describe_words(row, ", ", out);
}

static void describe_or_words(const struct option_row *row, struct buffer *out) {
  if (row->words != NULL) buffer_puts(out, ", or ");
  describe_words(row, ", ", out);
}

static void describe_int(const struct option_row *row, struct buffer *out) {
  buffer_print(out, "a whole number from %" PRId64 " to %" PRId64, row->min, row->max);
  describe_or_words(row, out);
}

static void describe_size(const struct option_row *row, struct buffer *out) {
  buffer_puts(out, "a size from ");
  format_size(row->min, out);
  buffer_puts(out, " to ");
  format_size(row->max, out);
  buffer_puts(out, " (units B, KiB, MiB, GiB, TiB)");
  describe_or_words(row, out);
}

static const char *unit_name(int64_t unit_ns) {
  for (const struct unit *unit = times; unit->name != NULL; unit++)
    if (unit->factor == unit_ns) return unit->name;
  return "ns";
}

static void describe_time(const struct option_row *row, struct buffer *out) {
  buffer_puts(out, "a time from ");
  format_time(row->min * row->scale, out);
  buffer_puts(out, " to ");
  format_time(row->max * row->scale, out);
  buffer_print(out, " (units ns, us, ms, s, m, h; a bare number is in %s)", unit_name(row->unit));
  describe_or_words(row, out);
}

static void describe_text(const struct option_row *row, struct buffer *out) { buffer_puts(out, "a text"); }

/* ---- one printer a type ------------------------------------------------------------------------------------------ */

static void format_bool(const struct option_row *row, const void *field, struct buffer *out) {
  buffer_puts(out, *(const bool *)field ? "true" : "false");
}

static void format_number(const struct option_row *row, const void *field, struct buffer *out) {
  int64_t number = *(const int64_t *)field;
  const char *word = option_word_of(row, number);
  if (word != NULL)
    buffer_puts(out, word);
  else if (row->type == OPTION_BYTES)
    format_size(number, out);
  else if (row->type == OPTION_DURATION)
    format_time(number * row->scale, out);
  else
    buffer_print(out, "%" PRId64, number);
}

static void format_string(const struct option_row *row, const void *field, struct buffer *out) {
  option_format_text(*(const char *const *)field, out);
}

static void format_list(const struct option_row *row, const void *field, struct buffer *out) {
  const struct option_list *list = field;
  buffer_putc(out, '[');
  for (size_t i = 0; i < list->n; i++) {
    if (i > 0) buffer_puts(out, ", ");
    option_format_text(list->items[i], out);
  }
  buffer_putc(out, ']');
}

/* A plain scalar where nobody can misread one, else double quotes with YAML's escapes. */
void option_format_text(const char *text, struct buffer *out) {
  static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-";
  if (*text != '\0' && *text != '-' && text[strspn(text, plain)] == '\0') {
    buffer_puts(out, text);
    return;
  }
  buffer_putc(out, '"');
  for (; *text != '\0'; text++) {
    unsigned char c = (unsigned char)*text;
    if (c == '"' || c == '\\')
      buffer_print(out, "\\%c", c);
    else if (c < 0x20 || c == 0x7f)
      buffer_print(out, "\\x%02x", c);
    else
      buffer_putc(out, (char)c);
  }
  buffer_putc(out, '"');
}

static const struct {
  bool (*parse)(const struct option_row *row, const char *text, union option_value *ret_value);
  void (*describe)(const struct option_row *row, struct buffer *out);
  void (*format)(const struct option_row *row, const void *field, struct buffer *out);
} types[] = {
    [OPTION_BOOL] = {parse_bool, describe_bool, format_bool},
    [OPTION_TRISTATE] = {parse_word, describe_enum, format_number},
    [OPTION_INT] = {parse_int, describe_int, format_number},
    [OPTION_BYTES] = {parse_size, describe_size, format_number},
    [OPTION_DURATION] = {parse_time, describe_time, format_number},
    [OPTION_ENUM] = {parse_word, describe_enum, format_number},
    [OPTION_STRING] = {parse_text, describe_text, format_string},
    [OPTION_LIST] = {parse_text, describe_text, format_list},
};

void option_format(const struct option_row *row, const void *field, struct buffer *out) {
  types[row->type].format(row, field, out);
}

void option_describe(const struct option_row *row, struct buffer *out) { types[row->type].describe(row, out); }

static mu_status fail_value(const struct option_row *row, const char *text, const char *origin, mu_error *err) {
  struct buffer allowed;
  buffer_init(&allowed, 1024);
  option_describe(row, &allowed);
  const char *description = buffer_text(&allowed);
  mu_status status = mu_fail(err, MU_INVALID, "%s: '%.100s' (from %.200s) is not %s", row->name, text, origin,
                             description == NULL || allowed.failed ? "a value of it" : description);
  buffer_free(&allowed);
  return status;
}

mu_status option_parse(const struct option_row *row, const char *text, const char *origin, struct arena *memory,
                       void *field, mu_error *err) {
  union option_value value;
  if (!types[row->type].parse(row, text, &value)) return fail_value(row, text, origin, err);
  if (row->type == OPTION_BOOL) {
    *(bool *)field = value.truth;
  } else if (row->type == OPTION_STRING || row->type == OPTION_LIST) {
    const char *copy = arena_copy(memory, text, strlen(text));
    if (copy == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the settings");
    if (row->type == OPTION_LIST) return option_list_add(field, memory, copy);
    *(const char **)field = copy;
  } else {
    *(int64_t *)field = value.number;
  }
  return MU_OK;
}
