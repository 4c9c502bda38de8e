/* Everything that is written from the option table: help, `muster config`, the reference page. */
#include "config/option_table.h"
#include "config/options.h"
#include "proto/json/json_reader.h"

#include <inttypes.h>

enum { HELP_INDENT = 34, HELP_WIDTH = 100, COMMENT_COLUMN = 44 };

static mu_status result(const struct buffer *out) { return out->failed ? MU_NO_MEMORY : MU_OK; }

static bool begins_group(const struct option_row *rows, size_t i) {
  return i == 0 || rows[i].group != rows[i - 1].group;
}

static const char *placeholder(const struct option_row *row) {
  static const char *const by_type[] = {[OPTION_INT] = "N",     [OPTION_BYTES] = "SIZE",  [OPTION_DURATION] = "TIME",
                                        [OPTION_ENUM] = "WORD", [OPTION_STRING] = "TEXT", [OPTION_LIST] = "TEXT"};
  if (row->placeholder != NULL || row->type == OPTION_BOOL || row->type == OPTION_TRISTATE) return row->placeholder;
  return by_type[row->type];
}

static void pad(struct buffer *out, size_t from, size_t column) {
  size_t used = out->size - from;
  do buffer_putc(out, ' ');
  while (++used < column && !out->failed);
}

/* ---- help -------------------------------------------------------------------------------------------------------- */

/* text in lines of at most HELP_WIDTH columns, the first of which begins at HELP_INDENT. */
static void print_wrapped(struct buffer *out, const char *text) {
  size_t column = HELP_INDENT;
  while (*text != '\0') {
    size_t word = strcspn(text, " ");
    if (column > HELP_INDENT && column + 1 + word > HELP_WIDTH) {
      buffer_print(out, "\n%*s", HELP_INDENT, "");
      column = HELP_INDENT;
    } else if (column > HELP_INDENT) {
      buffer_putc(out, ' ');
      column++;
    }
    buffer_append(out, text, word);
    column += word;
    text += word;
    while (*text == ' ') text++;
  }
  buffer_putc(out, '\n');
}

/* "… (default 8000; also --model-store, MAX_BATCH_SIZE)" */
static mu_status print_meaning(struct buffer *out, const struct option_row *row) {
  struct buffer text;
  buffer_init(&text, 4096);
  buffer_puts(&text, row->help);
  const char *separator = " (";
  if (row->type == OPTION_ENUM || row->type == OPTION_TRISTATE) {
    buffer_puts(&text, separator);
    option_describe(row, &text);
    separator = "; ";
  }
  if (row->initial != NULL && *row->initial != '\0') {
    buffer_print(&text, "%sdefault %s", separator, row->initial);
    separator = "; ";
  }
  for (size_t i = 0; i < OPTION_ALIASES_MAX && row->aliases[i] != NULL; i++) {
    buffer_print(&text, "%salso --%s", separator, row->aliases[i]);
    separator = "; ";
  }
  if (row->environment != NULL) {
    buffer_print(&text, "%salso %s in the environment", separator, row->environment);
    separator = "; ";
  }
  if (!row->reloadable) {
    buffer_print(&text, "%snot changed by a reload", separator);
    separator = "; ";
  }
  if (*separator == ';') buffer_putc(&text, ')');
  const char *whole = buffer_text(&text);
  mu_status status = whole == NULL || text.failed ? MU_NO_MEMORY : MU_OK;
  if (status == MU_OK) print_wrapped(out, whole);
  buffer_free(&text);
  return status;
}

/* One option, its flag on the left, what it means on the right. */
static mu_status print_option(struct buffer *out, const struct option_row *row) {
  size_t from = out->size;
  const char *value = placeholder(row);
  buffer_print(out, "  --%s%s%s", row->name, value != NULL ? " " : "", value != NULL ? value : "");
  if (out->size - from >= HELP_INDENT)
    buffer_print(out, "\n%*s", HELP_INDENT, "");
  else
    pad(out, from, HELP_INDENT);
  return print_meaning(out, row);
}

mu_status option_rows_print_help(const struct option_row *rows, size_t n, struct buffer *out) {
  mu_status status = MU_OK;
  for (size_t i = 0; status == MU_OK && i < n; i++) status = print_option(out, &rows[i]);
  return status == MU_OK ? result(out) : status;
}

mu_status options_print_help(struct buffer *out) {
  size_t n;
  const struct option_row *rows = option_rows(&n);
  buffer_puts(out,
              "Every option --some-name is also some_name in muster.yaml and MUSTER_SOME_NAME in the environment.\n"
              "A flag counts before the environment, the environment before the file. Sizes: 64MiB. Times: 250ms,\n"
              "30s, 5m. A flag that is true or false: --name, --no-name, --name=false.\n");
  for (size_t i = 0; i < n; i++) {
    if (begins_group(rows, i)) buffer_print(out, "\n%s:\n", rows[i].group);
    mu_status status = print_option(out, &rows[i]);
    if (status != MU_OK) return status;
  }
  return result(out);
}

/* ---- docs/options.md --------------------------------------------------------------------------------------------- */

static void print_code(struct buffer *out, const char *before, const char *name, const char *after) {
  buffer_print(out, "%s`%s`%s", before, name, after);
}

mu_status options_print_reference(struct buffer *out) {
  size_t n;
  const struct option_row *rows = option_rows(&n);
  buffer_puts(out,
              "# Options of `muster serve`\n\n"
              "Printed by `muster config --reference`. Later wins: default, `muster.yaml`, environment, flag. `muster "
              "reload` and\n"
              "SIGHUP read them anew, the flags as they were given; what a reload does not change needs a restart.\n");
  for (size_t i = 0; i < n; i++) {
    const struct option_row *row = &rows[i];
    char key[OPTION_NAME_MAX], variable[OPTION_NAME_MAX];
    option_key(row, key);
    option_environment_name(row, variable);
    if (begins_group(rows, i))
      buffer_print(out,
                   "\n## %s\n\n| flag | `muster.yaml` | environment | default | allowed | reload | meaning |\n"
                   "|---|---|---|---|---|---|---|\n",
                   row->group);
    buffer_print(out, "| `--%s`", row->name);
    for (size_t a = 0; a < OPTION_ALIASES_MAX && row->aliases[a] != NULL; a++)
      buffer_print(out, ", `--%s`", row->aliases[a]);
    if (row->not_in_file)
      buffer_puts(out, " | ");
    else
      print_code(out, " | ", key, "");
    print_code(out, " | ", variable, "");
    if (row->environment != NULL) print_code(out, ", ", row->environment, "");
    buffer_print(out, " | %s | ", row->initial != NULL ? row->initial : "");
    option_describe(row, out);
    buffer_print(out, " | %s | %s |\n", row->reloadable ? "yes" : "no", row->help);
  }
  size_t n_settings;
  const struct model_row *settings = model_rows(&n_settings);
  buffer_puts(out, "\n## Settings of one model\n\nUnder `models:` in `muster.yaml`, by the model's name:");
  for (size_t i = 0; i < n_settings; i++) {
    char key[OPTION_NAME_MAX];
    option_key(option_find(settings[i].name, strlen(settings[i].name), false), key);
    print_code(out, i == 0 ? " " : ", ", key, "");
  }
  buffer_puts(out, ".\n\n```yaml\nmodels:\n  magika:\n    instances: 2\n    max_queue_delay: 500us\n```\n");
  return result(out);
}

/* ---- muster config ----------------------------------------------------------------------------------------------- */

/* Calls print for every setting that the model has of its own. */
typedef void (*model_setting_fn)(const struct option_row *row, const void *field, struct buffer *out);
static void each_model_setting(const struct model_options *model, model_setting_fn print, struct buffer *out) {
  size_t n;
  const struct model_row *rows = model_rows(&n);
  for (size_t i = 0; i < n; i++) {
    const struct option_row *row = option_find(rows[i].name, strlen(rows[i].name), false);
    const void *field = (const char *)model + rows[i].offset;
    if (!model_option_is_unset(row, field)) print(row, field, out);
  }
}

static void print_yaml_setting(const struct option_row *row, const void *field, struct buffer *out) {
  char key[OPTION_NAME_MAX];
  option_key(row, key);
  buffer_print(out, "    %s: ", key);
  option_format(row, field, out);
  buffer_putc(out, '\n');
}

/* An origin is a comment there: it must not end the line. */
static void print_comment(const char *text, struct buffer *out) {
  for (; *text != '\0'; text++) buffer_putc(out, (unsigned char)*text < 0x20 ? '?' : *text);
}

mu_status options_print(const struct options *options, struct buffer *out) {
  size_t n;
  const struct option_row *rows = option_rows(&n);
  for (size_t i = 0; i < n; i++) {
    char key[OPTION_NAME_MAX];
    option_key(&rows[i], key);
    if (begins_group(rows, i)) buffer_print(out, "%s# %s\n", i == 0 ? "" : "\n", rows[i].group);
    size_t from = out->size;
    buffer_print(out, "%s%s: ", rows[i].not_in_file ? "# " : "", key);
    option_format(&rows[i], (const char *)options + rows[i].offset, out);
    pad(out, from, COMMENT_COLUMN);
    buffer_puts(out, "# ");
    print_comment(options->origins[i], out);
    buffer_putc(out, '\n');
  }
  if (options->n_model_options > 0) buffer_puts(out, "\nmodels:\n");
  for (size_t i = 0; i < options->n_model_options; i++) {
    buffer_puts(out, "  ");
    option_format_text(options->model_options[i].name, out);
    size_t from = out->size;
    buffer_puts(out, ":\n");
    size_t before = out->size;
    each_model_setting(&options->model_options[i], print_yaml_setting, out);
    if (out->size != before || out->failed) continue;
    out->size = from; /* nothing of its own: the value of the key is an empty mapping */
    buffer_puts(out, ": {}\n");
  }
  return result(out);
}

static void put_json_text(struct buffer *out, const char *text) { json_write_string(out, text, strlen(text)); }

static void put_json_value(const struct option_row *row, const void *field, struct buffer *out) {
  if (row->type == OPTION_BOOL) {
    buffer_puts(out, *(const bool *)field ? "true" : "false");
  } else if (row->type == OPTION_STRING) {
    put_json_text(out, *(const char *const *)field);
  } else if (row->type == OPTION_LIST) {
    const struct option_list *list = field;
    buffer_putc(out, '[');
    for (size_t i = 0; i < list->n; i++) {
      if (i > 0) buffer_putc(out, ',');
      put_json_text(out, list->items[i]);
    }
    buffer_putc(out, ']');
  } else {
    int64_t number = *(const int64_t *)field;
    const char *word = option_word_of(row, number);
    if (word != NULL)
      put_json_text(out, word);
    else if (row->type == OPTION_DURATION)
      buffer_print(out, "%.15g", (double)number * (double)row->scale / 1e9);
    else
      buffer_print(out, "%" PRId64, number);
  }
}

static void print_json_setting(const struct option_row *row, const void *field, struct buffer *out) {
  char key[OPTION_NAME_MAX];
  option_key(row, key);
  if (out->size > 0 && out->data[out->size - 1] != '{') buffer_putc(out, ',');
  put_json_text(out, key);
  buffer_putc(out, ':');
  put_json_value(row, field, out);
}

mu_status options_print_json(const struct options *options, struct buffer *out) {
  static const char *const sources[] = {[SOURCE_DEFAULT] = "default",
                                        [SOURCE_FILE] = "file",
                                        [SOURCE_ENVIRONMENT] = "environment",
                                        [SOURCE_FLAG] = "flag"};
  size_t n;
  const struct option_row *rows = option_rows(&n);
  buffer_puts(out, "{\"options\":{");
  for (size_t i = 0; i < n; i++) {
    char key[OPTION_NAME_MAX];
    option_key(&rows[i], key);
    if (i > 0) buffer_putc(out, ',');
    buffer_puts(out, "\n  ");
    put_json_text(out, key);
    buffer_puts(out, ":{\"value\":");
    put_json_value(&rows[i], (const char *)options + rows[i].offset, out);
    buffer_print(out, ",\"source\":\"%s\",\"origin\":", sources[options->sources[i]]);
    put_json_text(out, options->origins[i]);
    buffer_putc(out, '}');
  }
  buffer_puts(out, "\n},\n\"models\":{");
  for (size_t i = 0; i < options->n_model_options; i++) {
    if (i > 0) buffer_putc(out, ',');
    buffer_puts(out, "\n  ");
    put_json_text(out, options->model_options[i].name);
    buffer_puts(out, ":{");
    each_model_setting(&options->model_options[i], print_json_setting, out);
    buffer_putc(out, '}');
  }
  buffer_puts(out, "\n}}\n");
  return result(out);
}
