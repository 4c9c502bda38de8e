/* argv, cut into settings. */
#include "config/option_table.h"

#include <stdio.h>

enum { CANDIDATES_MAX = OPTION_ROWS_MAX * (1 + OPTION_ALIASES_MAX) };

/* Every flag that there is. */
static size_t all_flags(const char *names[CANDIDATES_MAX]) {
  size_t n_rows, n = 0;
  const struct option_row *rows = option_rows(&n_rows);
  for (size_t i = 0; i < n_rows; i++) {
    names[n++] = rows[i].name;
    for (size_t a = 0; a < OPTION_ALIASES_MAX && rows[i].aliases[a] != NULL; a++) names[n++] = rows[i].aliases[a];
  }
  return n;
}

static bool is_truth(const struct option_row *row) { return row->type == OPTION_BOOL || row->type == OPTION_TRISTATE; }

static mu_status fail_unknown(const char *argument, const char *name, size_t size, mu_error *err) {
  char word[OPTION_NAME_MAX];
  const char *names[CANDIDATES_MAX];
  snprintf(word, sizeof word, "%.*s", (int)size, name);
  const char *near = nearest_word(word, names, all_flags(names));
  if (near == NULL) return mu_fail(err, MU_INVALID, "unknown flag %.100s: see --help", argument);
  return mu_fail(err, MU_INVALID, "unknown flag %.100s: did you mean --%s?", argument, near);
}

/* The walk over argv. */
struct walk {
  struct options *options;
  int argc, at;
  char **argv;
  struct flag_settings *settings;
  mu_error *err;
};

static mu_status add(struct walk *walk, const struct option_row *row, const char *text, const char *origin) {
  struct flag_settings *settings = walk->settings;
  settings->items[settings->n++] = (struct flag_setting){.row = row, .text = text, .origin = origin};
  return MU_OK;
}

/* The value that follows as an argument of its own; NULL: there is none. */
static const char *next_value(struct walk *walk) {
  if (walk->at + 1 >= walk->argc || strncmp(walk->argv[walk->at + 1], "--", 2) == 0) return NULL;
  return walk->argv[++walk->at];
}

static mu_status read_foreign(struct walk *walk, const struct foreign_flag *flag, bool has_value) {
  const char *argument = walk->argv[walk->at];
  size_t size = strcspn(argument, "=");
  if (flag->refused)
    return mu_fail(walk->err, MU_INVALID, "tritonserver's %.*s has no counterpart: %s", (int)size, argument, flag->why);
  if (!has_value && !flag->takes_no_value) next_value(walk);
  if (options_warn(walk->options, "tritonserver's %.*s has no counterpart: %s", (int)size, argument, flag->why) !=
      MU_OK)
    return mu_fail(walk->err, MU_NO_MEMORY, "no memory for the settings");
  return MU_OK;
}

/* Flags that tritonserver still takes for what it spells otherwise by now. */
static const struct {
  const char *name, *now, *prefix;
} former_flags[] = {
    {"trace-file", "trace-config", "triton,file="},
    {"trace-level", "trace-config", "level="},
    {"trace-rate", "trace-config", "rate="},
    {"trace-count", "trace-config", "count="},
    {"trace-log-frequency", "trace-config", "triton,log-frequency="},
};

/* true: it was one, and *ret_status says how it went. */
static bool read_former(struct walk *walk, const char *name, size_t size, const char *value, const char *origin,
                        mu_status *ret_status) {
  size_t i = 0, n = sizeof former_flags / sizeof *former_flags;
  while (i < n && (strlen(former_flags[i].name) != size || memcmp(former_flags[i].name, name, size) != 0)) i++;
  if (i == n) return false;
  const char *prefix = former_flags[i].prefix, *now = former_flags[i].now;
  if (value == NULL) value = next_value(walk);
  size_t length = strlen(prefix) + (value != NULL ? strlen(value) : 0);
  char *text = arena_alloc(&walk->options->memory, length + 1, 1);
  if (value == NULL) {
    *ret_status = mu_fail(walk->err, MU_INVALID, "%s needs a value", origin);
  } else if (text == NULL) {
    *ret_status = mu_fail(walk->err, MU_NO_MEMORY, "no memory for the settings");
  } else {
    snprintf(text, length + 1, "%s%s", prefix, value);
    *ret_status = add(walk, option_find(now, strlen(now), false), text, origin);
  }
  return true;
}

/* tritonserver's flags take their truth as an argument of its own; ours may stand alone before a model's name. */
static const char *truth_value(struct walk *walk) {
  if (walk->at + 1 < walk->argc && option_is_bool_word(walk->argv[walk->at + 1])) return walk->argv[++walk->at];
  return "true";
}

static mu_status read_flag(struct walk *walk) {
  const char *argument = walk->argv[walk->at], *name = argument + 2;
  size_t size = strcspn(name, "=");
  const char *value = name[size] == '=' ? name + size + 1 : NULL;
  char *origin = arena_copy(&walk->options->memory, argument, size + 2);
  if (origin == NULL) return mu_fail(walk->err, MU_NO_MEMORY, "no memory for the settings");

  const struct option_row *row = option_find(name, size, false);
  if (row != NULL && is_truth(row)) return add(walk, row, value != NULL ? value : truth_value(walk), origin);
  if (row != NULL) {
    if (value == NULL) value = next_value(walk);
    if (value == NULL)
      return mu_fail(walk->err, MU_INVALID, "%s needs a value (%s=VALUE for one that begins with --)", origin, origin);
    return add(walk, row, value, origin);
  }
  if (size > 3 && memcmp(name, "no-", 3) == 0) {
    row = option_find(name + 3, size - 3, false);
    if (row != NULL && is_truth(row) && value == NULL) return add(walk, row, "false", origin);
    if (row != NULL)
      return mu_fail(walk->err, MU_INVALID, "%.100s: %s", argument,
                     is_truth(row) ? "takes no value" : "only a flag that is true or false has a --no- form");
  }
  mu_status status;
  if (read_former(walk, name, size, value, origin, &status)) return status;
  const struct foreign_flag *foreign = foreign_flag_find(name, size);
  if (foreign != NULL) return read_foreign(walk, foreign, value != NULL);
  return fail_unknown(argument, name, size, walk->err);
}

mu_status flags_read(struct options *options, int argc, char **argv, struct flag_settings *ret_settings,
                     mu_error *err) {
  const struct option_row *models = option_find("model-repository", strlen("model-repository"), false);
  struct flag_settings settings = {0}; /* at most one for each argument */
  struct walk walk = {.options = options, .argc = argc, .argv = argv, .settings = &settings, .err = err};
  bool flags_ended = false;
  settings.items = arena_alloc(&options->memory, argc > 0 ? (size_t)argc : 1, sizeof *settings.items);
  if (settings.items == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the settings");
  for (; walk.at < argc; walk.at++) {
    const char *argument = argv[walk.at];
    mu_status status = MU_OK;
    if (!flags_ended && strcmp(argument, "--") == 0)
      flags_ended = true;
    else if (flags_ended || argument[0] != '-')
      status = add(&walk, models, argument, "argument");
    else if (argument[1] == '-')
      status = read_flag(&walk);
    else
      status = mu_fail(err, MU_INVALID, "unknown flag %.100s: flags begin with --, see --help", argument);
    if (status != MU_OK) return status;
  }
  *ret_settings = settings;
  return MU_OK;
}
