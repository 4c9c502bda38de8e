#include "api/log_settings.h"

#include "api/settings_request.h"

#include <string.h>

const char log_file_refusal[] = "log file location can not be updated through network protocol";

/* ---- changes ----------------------------------------------------------------------------------------------------- */

mu_status log_change_set_format(struct log_change *change, const char *text, size_t size, mu_error *err) {
  bool iso8601 = size == 7 && memcmp(text, "ISO8601", size) == 0;
  if (!iso8601 && (size != 7 || memcmp(text, "default", size) != 0))
    return mu_fail(err, MU_INVALID, "invalid argument for log_format, got: %.*s: it is default or ISO8601",
                   (int)(size < 40 ? size : 40), text);
  change->fields |= LOG_CHANGE_FORMAT;
  change->to.iso8601 = iso8601;
  return MU_OK;
}

const char *log_format_text(const struct log_settings *settings) { return settings->iso8601 ? "ISO8601" : "default"; }

static const struct {
  const char *name;
  enum log_change_field field;
  size_t offset;
} truths[] = {
    {"log_info", LOG_CHANGE_INFO, offsetof(struct log_settings, info)},
    {"log_warning", LOG_CHANGE_WARNING, offsetof(struct log_settings, warning)},
    {"log_error", LOG_CHANGE_ERROR, offsetof(struct log_settings, error)},
};

void log_change_apply(const struct log_change *change, struct log_settings *settings) {
  for (size_t i = 0; i < sizeof truths / sizeof *truths; i++)
    if (change->fields & truths[i].field)
      *(bool *)((char *)settings + truths[i].offset) = *(const bool *)((const char *)&change->to + truths[i].offset);
  if (change->fields & LOG_CHANGE_VERBOSE_LEVEL) settings->verbose_level = change->to.verbose_level;
  if (change->fields & LOG_CHANGE_FORMAT) settings->iso8601 = change->to.iso8601;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static mu_status read_level(struct json_reader *reader, struct log_change *change, mu_error *err) {
  uint64_t level;
  if (json_peek(reader) != JSON_READ_NUMBER || !json_read_u64(reader, &level) || level > INT32_MAX)
    return mu_fail(err, MU_INVALID, "log_verbose_level is a whole number from 0 to %d", INT32_MAX);
  change->fields |= LOG_CHANGE_VERBOSE_LEVEL;
  change->to.verbose_level = (uint32_t)level;
  return MU_OK;
}

static mu_status read_format(struct json_reader *reader, struct log_change *change, mu_error *err) {
  struct json_text text;
  if (json_peek(reader) != JSON_READ_STRING || !json_read_string(reader, &text))
    return mu_fail(err, MU_INVALID, "log_format is a string: default or ISO8601");
  return log_change_set_format(change, text.text, text.size, err);
}

static mu_status read_truth(struct json_reader *reader, size_t which, struct log_change *change, mu_error *err) {
  bool truth;
  enum json_kind kind = json_peek(reader);
  if ((kind != JSON_READ_TRUE && kind != JSON_READ_FALSE) || !json_read_bool(reader, &truth))
    return mu_fail(err, MU_INVALID, "%s is true or false", truths[which].name);
  change->fields |= truths[which].field;
  *(bool *)((char *)&change->to + truths[which].offset) = truth;
  return MU_OK;
}

static mu_status read_setting(struct json_reader *reader, const struct json_text *key, void *context, mu_error *err) {
  struct log_change *change = context;
  if (json_peek(reader) == JSON_READ_NULL) {
    json_read_null(reader); /* where it is none, the reader says so at the end */
    return MU_OK;
  }
  if (json_text_equal(key, "log_file")) return mu_fail(err, MU_UNSUPPORTED, log_file_refusal);
  if (json_text_equal(key, "log_verbose_level")) return read_level(reader, change, err);
  if (json_text_equal(key, "log_format")) return read_format(reader, change, err);
  for (size_t i = 0; i < sizeof truths / sizeof *truths; i++)
    if (json_text_equal(key, truths[i].name)) return read_truth(reader, i, change, err);
  return mu_fail(err, MU_INVALID,
                 "there is no log setting '%.*s': there are log_info, log_warning, log_error, log_verbose_level and "
                 "log_format",
                 (int)(key->size < 100 ? key->size : 100), key->text);
}

mu_status log_change_parse(const char *body, size_t size, struct log_change *ret_change, mu_error *err) {
  struct log_change change = {.fields = 0};
  mu_status status = settings_request_parse("log", body, size, read_setting, &change, err);
  if (status == MU_OK) *ret_change = change;
  return status;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static const char *truth_text(bool truth) { return truth ? "true" : "false"; }

mu_status document_log_settings(struct buffer *out, const struct log_settings *settings) {
  return buffer_print(out,
                      "{\"log_file\":\"\",\"log_info\":%s,\"log_warning\":%s,\"log_error\":%s,"
                      "\"log_verbose_level\":%lu,\"log_format\":\"%s\"}",
                      truth_text(settings->info), truth_text(settings->warning), truth_text(settings->error),
                      (unsigned long)settings->verbose_level, log_format_text(settings));
}
