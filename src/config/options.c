#include "config/options.h"

#include "config/option_table.h"
#include "config/trace_config.h"
#include "metrics/metrics_config.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char no_memory[] = "no memory for the settings";

static size_t row_number(const struct option_row *row) {
  size_t n;
  return (size_t)(row - option_rows(&n));
}

mu_status option_list_add(struct option_list *list, struct arena *memory, const char *item) {
  if ((list->n & (list->n - 1)) == 0) { /* full: room is always the next power of two */
    const char **items = arena_alloc(memory, list->n == 0 ? 1 : 2 * list->n, sizeof *items);
    if (items == NULL) return MU_NO_MEMORY;
    if (list->n > 0) memcpy(items, list->items, list->n * sizeof *items);
    list->items = items;
  }
  list->items[list->n++] = item;
  return MU_OK;
}

mu_status options_warn(struct options *options, const char *format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  const char *copy = arena_copy(&options->memory, text, strlen(text));
  return copy == NULL ? MU_NO_MEMORY : option_list_add(&options->warnings, &options->memory, copy);
}

mu_status option_set(struct options *options, const struct option_row *row, const char *text,
                     struct option_origin origin, mu_error *err) {
  size_t i = row_number(row);
  void *field = option_field(row, options);
  const char *origin_text = arena_copy(&options->memory, origin.text, strlen(origin.text));
  if (origin_text == NULL) return mu_fail(err, MU_NO_MEMORY, no_memory);
  if (row->type == OPTION_LIST && options->sources[i] != origin.source)
    *(struct option_list *)field = (struct option_list){0};
  mu_status status = option_parse(row, text, origin_text, &options->memory, field, err);
  if (status != MU_OK) return status;
  options->sources[i] = origin.source;
  options->origins[i] = origin_text;
  return MU_OK;
}

void options_free(struct options *options) {
  if (options == NULL) return;
  arena_free(&options->memory);
  free(options);
}

/* The defaults, before what follows from other settings is filled in. */
static mu_status create_unfinished(struct options **ret_options) {
  size_t n;
  const struct option_row *rows = option_rows(&n);
  const struct option_origin origin = {SOURCE_DEFAULT, "default"};
  struct options *options = calloc(1, sizeof *options);
  if (options == NULL) return MU_NO_MEMORY;
  mu_status status = MU_NO_MEMORY;
  options->sources = arena_alloc(&options->memory, n, sizeof *options->sources);
  options->origins = arena_alloc(&options->memory, n, sizeof *options->origins);
  if (options->sources == NULL || options->origins == NULL) goto fail;
  for (size_t i = 0; i < n; i++) {
    options->origins[i] = origin.text;
    if (rows[i].initial == NULL) continue;
    status = option_set(options, &rows[i], rows[i].initial, origin, NULL);
    if (status != MU_OK) goto fail;
  }
  *ret_options = options;
  return MU_OK;
fail:
  options_free(options);
  return status;
}

/* ---- what follows from other settings ---------------------------------------------------------------------------- */

struct listener {
  const char *allow, *address, *port;
};
static const struct listener listeners[] = {
    {"allow-http", "http-address", "http-port"},
    {"allow-grpc", "grpc-address", "grpc-port"},
    {"allow-metrics", "metrics-address", "metrics-port"},
};
enum { N_LISTENERS = sizeof listeners / sizeof *listeners };

static const struct option_row *row_named(const char *name) { return option_find(name, strlen(name), false); }
static void *field_named(struct options *options, const char *name) { return option_field(row_named(name), options); }

/* A listener without an address of its own has the common one, and says where that comes from. */
static void fill_addresses(struct options *options) {
  size_t common = row_number(row_named("address"));
  for (size_t i = 0; i < N_LISTENERS; i++) {
    const char **address = field_named(options, listeners[i].address);
    if (**address != '\0') continue;
    size_t row = row_number(row_named(listeners[i].address));
    *address = options->address;
    options->sources[row] = options->sources[common];
    options->origins[row] = options->origins[common];
  }
}

/* Batching switched off is a largest batch of one; 0 (no batch dimension) stays. */
static void fill_max_batch(struct options *options) {
  if (options->enable_batching || options->max_batch_size <= 1) return;
  size_t from = row_number(row_named("enable-batching")), to = row_number(row_named("max-batch-size"));
  options->max_batch_size = 1;
  options->sources[to] = options->sources[from];
  options->origins[to] = options->origins[from];
}

static void fill(struct options *options) {
  fill_addresses(options);
  fill_max_batch(options);
}

static mu_status check_ports(struct options *options, mu_error *err) {
  for (size_t i = 0; i < N_LISTENERS; i++)
    for (size_t k = i + 1; k < N_LISTENERS; k++) {
      const bool *one = field_named(options, listeners[i].allow), *other = field_named(options, listeners[k].allow);
      int64_t port = *(int64_t *)field_named(options, listeners[i].port);
      if (!*one || !*other || port == 0 || port != *(int64_t *)field_named(options, listeners[k].port)) continue;
      if (strcmp(*(const char **)field_named(options, listeners[i].address),
                 *(const char **)field_named(options, listeners[k].address)) != 0)
        continue;
      return mu_fail(err, MU_INVALID, "%s and %s are both %d: every listener needs a port of its own",
                     listeners[i].port, listeners[k].port, (int)port);
    }
  return MU_OK;
}

static mu_status check_metrics(struct options *options, mu_error *err) {
  struct metrics_config config;
  metrics_config_init(&config);
  for (size_t i = 0; i < options->metrics_config.n; i++) {
    mu_error why;
    mu_status status = metrics_config_set(&config, options->metrics_config.items[i], &why);
    if (status != MU_OK)
      return mu_fail(err, status, "metrics-config (from %s): %s",
                     options->origins[row_number(row_named("metrics-config"))], why.message);
  }
  return MU_OK;
}

static mu_status check_trace(struct options *options, mu_error *err) {
  struct trace_config config;
  mu_error why;
  const char *origin = options->origins[row_number(row_named("trace-config"))];
  mu_status status = trace_config_read(options, &config, &why);
  if (status != MU_OK)
    return mu_fail(err, status == MU_UNSUPPORTED ? MU_INVALID : status, "trace-config (from %s): %s", origin,
                   why.message);
  bool traces = config.settings.timestamps && config.settings.rate > 0;
  if (!traces || config.file[0] != '\0') return MU_OK;
  status = options_warn(options, "trace-config (from %s): nothing is traced without triton,file=PATH", origin);
  return status == MU_OK ? status : mu_fail(err, status, no_memory);
}

/* Before fill: a listener's address that was set is told from one that follows. */
static mu_status (*const checks[])(struct options *, mu_error *) = {check_metrics, check_trace};

/* ---- load -------------------------------------------------------------------------------------------------------- */

mu_status options_create(struct options **ret_options) {
  mu_status status = create_unfinished(ret_options);
  if (status == MU_OK) fill(*ret_options);
  return status;
}

/* --config (empty: no file), else MUSTER_CONFIG, else muster.yaml where there is one. */
static mu_status apply_file(struct options *options, char **environment, const struct flag_settings *flags,
                            mu_error *err) {
  const char *path = environment_value(environment, "MUSTER_CONFIG");
  const struct option_row *row = row_named("config");
  for (size_t i = 0; i < flags->n; i++)
    if (flags->items[i].row == row) path = flags->items[i].text;
  if (path != NULL) return *path != '\0' ? yaml_file_apply(options, path, err) : MU_OK;
  if (access("muster.yaml", F_OK) != 0) return MU_OK;
  mu_status status = option_set(options, row, "muster.yaml", (struct option_origin){SOURCE_FILE, "muster.yaml"}, err);
  return status == MU_OK ? yaml_file_apply(options, "muster.yaml", err) : status;
}

static mu_status apply_all(struct options *options, int argc, char **argv, char **environment, mu_error *err) {
  struct flag_settings flags = {0};
  mu_status status = flags_read(options, argc, argv, &flags, err);
  if (status == MU_OK) status = apply_file(options, environment, &flags, err);
  if (status == MU_OK) status = environment_apply(options, environment, err);
  for (size_t i = 0; status == MU_OK && i < flags.n; i++)
    status = option_set(options, flags.items[i].row, flags.items[i].text,
                        (struct option_origin){SOURCE_FLAG, flags.items[i].origin}, err);
  for (size_t i = 0; status == MU_OK && i < sizeof checks / sizeof *checks; i++) status = checks[i](options, err);
  if (status != MU_OK) return status;
  fill(options);
  return check_ports(options, err);
}

mu_status options_load(int argc, char **argv, char **environment, struct options **ret_options, mu_error *err) {
  struct options *options;
  mu_status status = create_unfinished(&options);
  if (status != MU_OK) return mu_fail(err, status, no_memory);
  status = apply_all(options, argc, argv, environment, err);
  if (status != MU_OK) {
    options_free(options);
    return status;
  }
  *ret_options = options;
  return MU_OK;
}

/* ---- questions --------------------------------------------------------------------------------------------------- */

bool options_is_set(const struct options *options, const char *name) {
  return options->sources[row_number(row_named(name))] != SOURCE_DEFAULT;
}

struct log_settings options_log_settings(const struct options *options) {
  return (struct log_settings){.error = options->log_error,
                               .warning = options->log_warning,
                               .info = options->log_info,
                               .verbose_level = (uint32_t)options->log_verbose,
                               .iso8601 = options->log_format == LOG_FORMAT_ISO8601};
}

bool model_option_is_unset(const struct option_row *row, const void *field) {
  return row->type == OPTION_STRING ? *(const char *const *)field == NULL
                                    : *(const int64_t *)field == MODEL_OPTION_UNSET;
}

struct model_options options_for_model(const struct options *options, const char *model) {
  struct model_options found = {0};
  const struct model_options *own = NULL;
  for (size_t i = 0; i < options->n_model_options; i++)
    if (strcmp(options->model_options[i].name, model) == 0) own = &options->model_options[i];
  size_t n;
  const struct model_row *rows = model_rows(&n);
  for (size_t i = 0; i < n; i++) {
    const struct option_row *row = row_named(rows[i].name);
    const void *from = own == NULL ? NULL : (const char *)own + rows[i].offset;
    if (from == NULL || model_option_is_unset(row, from)) from = (const char *)options + row->offset;
    memcpy((char *)&found + rows[i].offset, from, row->type == OPTION_STRING ? sizeof(char *) : sizeof(int64_t));
  }
  if (!options->enable_batching && found.max_batch_size > 1) found.max_batch_size = 1;
  found.name = model;
  return found;
}
