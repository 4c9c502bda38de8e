#include "config/trace_config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- single settings --------------------------------------------------------------------------------------------- */

mu_status trace_parse_level(const char *text, bool *ret_timestamps, mu_error *err) {
  if (strcmp(text, "TENSORS") == 0)
    return mu_fail(err, MU_UNSUPPORTED, "trace level TENSORS is not supported: requests are traced by TIMESTAMPS");
  bool timestamps = strcmp(text, "TIMESTAMPS") == 0;
  if (!timestamps && strcmp(text, "OFF") != 0)
    return mu_fail(err, MU_INVALID, "invalid value for trace level: %.100s: it is OFF or TIMESTAMPS", text);
  *ret_timestamps = timestamps;
  return MU_OK;
}

static const struct {
  enum trace_field field;
  int64_t least, most;
} ranges[] = {
    {TRACE_RATE, 0, UINT32_MAX},
    {TRACE_COUNT, -1, INT32_MAX},
    {TRACE_LOG_FREQUENCY, 0, UINT32_MAX},
};

static void set_number(enum trace_field field, int64_t number, struct trace_settings *settings) {
  if (field == TRACE_RATE) settings->rate = (uint32_t)number;
  if (field == TRACE_COUNT) settings->count = (int32_t)number;
  if (field == TRACE_LOG_FREQUENCY) settings->log_frequency = (uint32_t)number;
}

mu_status trace_parse_number(enum trace_field field, const char *name, const char *text,
                             struct trace_settings *settings, mu_error *err) {
  size_t i = 0;
  while (ranges[i].field != field) i++;
  char *end;
  errno = 0;
  long long number = strtoll(text, &end, 10);
  if ((*text != '-' && (*text < '0' || *text > '9')) || end == text || *end != '\0')
    return mu_fail(err, MU_INVALID, "Unable to parse '%s', got: %.100s", name, text);
  if (field == TRACE_COUNT && number < ranges[i].least)
    return mu_fail(err, MU_INVALID, "Unable to parse '%s'. Expecting value >= -1, got:%.100s", name, text);
  if (errno != 0 || number < ranges[i].least || number > ranges[i].most)
    return mu_fail(err, MU_INVALID, "Unable to parse '%s', value is out of range [ %lld, %lld ], got: %.100s", name,
                   (long long)ranges[i].least, (long long)ranges[i].most, text);
  set_number(field, number, settings);
  return MU_OK;
}

/* ---- --trace-config ---------------------------------------------------------------------------------------------- */

static mu_status set_mode(struct trace_config *config, const char *value, mu_error *err) {
  if (strcmp(value, "triton") == 0) return MU_OK;
  if (strcmp(value, "opentelemetry") == 0)
    return mu_fail(err, MU_UNSUPPORTED,
                   "trace mode opentelemetry is not supported: there is mode triton, which writes a file");
  return mu_fail(err, MU_INVALID, "there is no trace mode '%.100s': there is triton", value);
}

static mu_status set_level(struct trace_config *config, const char *value, mu_error *err) {
  return trace_parse_level(value, &config->settings.timestamps, err);
}
static mu_status set_rate(struct trace_config *config, const char *value, mu_error *err) {
  return trace_parse_number(TRACE_RATE, "rate", value, &config->settings, err);
}
static mu_status set_count(struct trace_config *config, const char *value, mu_error *err) {
  return trace_parse_number(TRACE_COUNT, "count", value, &config->settings, err);
}
static mu_status set_log_frequency(struct trace_config *config, const char *value, mu_error *err) {
  return trace_parse_number(TRACE_LOG_FREQUENCY, "log-frequency", value, &config->settings, err);
}
static mu_status set_file(struct trace_config *config, const char *value, mu_error *err) {
  config->file = value;
  return MU_OK;
}

static const struct {
  const char *name; /* with its mode, where it belongs to one */
  mu_status (*set)(struct trace_config *config, const char *value, mu_error *err);
} settings[] = {
    {"mode", set_mode},        {"level", set_level},
    {"rate", set_rate},        {"count", set_count},
    {"triton,file", set_file}, {"triton,log-frequency", set_log_frequency},
    {"file", set_file},        {"log-frequency", set_log_frequency}, /* in the environment a comma separates items */
};

static mu_status set_item(struct trace_config *config, const char *item, mu_error *err) {
  size_t size = strcspn(item, "=");
  if (item[size] != '=' || size == 0 || item[size + 1] == '\0')
    return mu_fail(err, MU_INVALID, "'%.100s' is not SETTING=VALUE or triton,SETTING=VALUE", item);
  if (strncmp(item, "opentelemetry,", 14) == 0) return set_mode(config, "opentelemetry", err);
  for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
    if (strlen(settings[i].name) == size && memcmp(settings[i].name, item, size) == 0)
      return settings[i].set(config, item + size + 1, err);
  return mu_fail(err, MU_INVALID,
                 "there is no setting '%.*s': there are level, rate, count, mode, triton,file and triton,log-frequency",
                 (int)(size < 100 ? size : 100), item);
}

mu_status trace_config_read(const struct options *options, struct trace_config *ret_config, mu_error *err) {
  struct trace_config config = {.settings = {.rate = 1000, .count = -1}, .file = ""};
  for (size_t i = 0; i < options->trace_config.n; i++) {
    mu_status status = set_item(&config, options->trace_config.items[i], err);
    if (status != MU_OK) return status;
  }
  *ret_config = config;
  return MU_OK;
}
