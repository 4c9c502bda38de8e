#include "api/trace_settings.h"

#include "api/settings_request.h"

#include <stdio.h>
#include <string.h>

enum { VALUES_MAX = 4, VALUE_MAX = 64 }; /* longer ones are no value of any setting */

/* ---- one setting ------------------------------------------------------------------------------------------------- */

static mu_status set_level(struct trace_change *change, const char *const *values, size_t n, mu_error *err) {
  bool timestamps = false;
  for (size_t i = 0; i < n; i++) {
    bool more;
    mu_status status = trace_parse_level(values[i], &more, err);
    if (status != MU_OK) return status;
    if (!more && n > 1) return mu_fail(err, MU_INVALID, "Expect only one trace level 'OFF' is specified");
    timestamps = more;
  }
  change->to.timestamps = timestamps;
  return MU_OK;
}

static const struct {
  const char *name;
  enum trace_field field;
} fields[] = {
    {"trace_level", TRACE_LEVEL},
    {"trace_rate", TRACE_RATE},
    {"trace_count", TRACE_COUNT},
    {"log_frequency", TRACE_LOG_FREQUENCY},
};

static mu_status set_field(struct trace_change *change, size_t which, const char *const *values, size_t n,
                           mu_error *err) {
  enum trace_field field = fields[which].field;
  mu_status status = MU_OK;
  if (n > 1 && field != TRACE_LEVEL)
    return mu_fail(err, MU_INVALID, "expect only one value for '%s'", fields[which].name);
  if (n > 0 && field == TRACE_LEVEL) status = set_level(change, values, n, err);
  if (n > 0 && field != TRACE_LEVEL)
    status = trace_parse_number(field, fields[which].name, values[0], &change->to, err);
  if (status != MU_OK) return status;
  change->fields = n > 0 ? change->fields | field : change->fields & ~(unsigned)field;
  change->cleared = n > 0 ? change->cleared & ~(unsigned)field : change->cleared | field;
  return MU_OK;
}

mu_status trace_change_set(struct trace_change *change, const char *name, const char *const *values, size_t n,
                           mu_error *err) {
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
    if (strcmp(name, fields[i].name) == 0) return set_field(change, i, values, n, err);
  if (strcmp(name, "trace_file") == 0)
    return mu_fail(err, MU_UNSUPPORTED, "trace file location can not be updated through network protocol");
  if (strcmp(name, "trace_mode") != 0)
    return mu_fail(
        err, MU_INVALID,
        "there is no trace setting '%.100s': there are trace_level, trace_rate, trace_count and log_frequency", name);
  for (size_t i = 0; i < n; i++)
    if (strcmp(values[i], "triton") != 0)
      return mu_fail(err, MU_UNSUPPORTED, "trace mode '%.100s' is not supported: there is mode triton", values[i]);
  return MU_OK;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

struct values {
  char texts[VALUES_MAX][VALUE_MAX];
  const char *list[VALUES_MAX];
  size_t n;
};

static mu_status add_text(struct values *values, const char *name, const char *text, size_t size, mu_error *err) {
  if (values->n == VALUES_MAX) return mu_fail(err, MU_INVALID, "'%s' has too many values", name);
  if (size >= VALUE_MAX || memchr(text, '\0', size) != NULL)
    return mu_fail(err, MU_INVALID, "Unable to parse '%s', got: %.40s…", name, text);
  memcpy(values->texts[values->n], text, size);
  values->texts[values->n][size] = '\0';
  values->list[values->n] = values->texts[values->n];
  values->n++;
  return MU_OK;
}

/* A string or a number; a failure of the reader adds nothing and shows at the end. */
static mu_status read_value(struct json_reader *reader, const char *name, struct values *values, mu_error *err) {
  enum json_kind kind = json_peek(reader);
  struct json_text text;
  const char *raw;
  size_t size;
  if (kind == JSON_READ_STRING)
    return json_read_string(reader, &text) ? add_text(values, name, text.text, text.size, err) : MU_OK;
  if (kind == JSON_READ_NUMBER)
    return json_read_raw(reader, &raw, &size) ? add_text(values, name, raw, size, err) : MU_OK;
  return reader->failed ? MU_OK : mu_fail(err, MU_INVALID, "the value of '%s' is a string", name);
}

static mu_status read_values(struct json_reader *reader, const char *name, struct values *values, mu_error *err) {
  enum json_kind kind = json_peek(reader);
  mu_status status = MU_OK;
  if (kind == JSON_READ_NULL) {
    json_read_null(reader);
  } else if (kind == JSON_READ_ARRAY) {
    json_enter(reader);
    while (status == MU_OK && json_element(reader)) status = read_value(reader, name, values, err);
  } else {
    status = read_value(reader, name, values, err);
  }
  return status;
}

static mu_status read_setting(struct json_reader *reader, const struct json_text *key, void *context, mu_error *err) {
  struct trace_change *change = context;
  char name[VALUE_MAX];
  struct values values = {.n = 0};
  snprintf(name, sizeof name, "%.*s", (int)(key->size < sizeof name ? key->size : sizeof name - 1), key->text);
  if (strcmp(name, "trace_file") == 0) return trace_change_set(change, name, NULL, 0, err); /* whatever its value */
  mu_status status = read_values(reader, name, &values, err);
  if (status != MU_OK || reader->failed) return status;
  return trace_change_set(change, name, values.list, values.n, err);
}

mu_status trace_change_parse(const char *body, size_t size, struct trace_change *ret_change, mu_error *err) {
  struct trace_change change = {.fields = 0};
  mu_status status = settings_request_parse("trace", body, size, read_setting, &change, err);
  if (status == MU_OK) *ret_change = change;
  return status;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

mu_status document_trace_settings(struct buffer *out, const struct trace_settings *settings, const char *file) {
  buffer_print(out,
               "{\"trace_level\":[\"%s\"],\"trace_rate\":\"%lu\",\"trace_count\":\"%ld\",\"log_frequency\":\"%lu\","
               "\"trace_file\":",
               settings->timestamps ? "TIMESTAMPS" : "OFF", (unsigned long)settings->rate, (long)settings->count,
               (unsigned long)settings->log_frequency);
  json_write_string(out, file, strlen(file));
  buffer_puts(out, ",\"trace_mode\":\"triton\"}");
  return out->failed ? MU_NO_MEMORY : MU_OK;
}
