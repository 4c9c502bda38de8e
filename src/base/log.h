/*
 * The log: one line an event on standard error, text on a terminal, JSON otherwise. Levels as tritonserver's
 * --log-error, --log-warning, --log-info, --log-verbose. Any thread; each line is one write(2).
 *
 *   LOG_INFO("worker ready", LOG_STR("model", name), LOG_INT("pid", pid));
 *   -> 12:00:01.123 info  worker ready model=magika pid=4711
 *   -> {"time":"2026-01-01T12:00:01.123Z","level":"info","role":"supervisor","message":"worker
 * ready","model":"magika","pid":4711}
 *
 * Lower layers return errors and do not log; the process layer logs once (STYLE: log at the top).
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_VERBOSE };
enum log_format { LOG_FORMAT_AUTO, LOG_FORMAT_TEXT, LOG_FORMAT_JSON, LOG_FORMAT_ISO8601 /* as AUTO */ };

/* What is logged, as tritonserver's settings say it: each level by itself. */
struct log_settings {
  bool error, warning, info;
  uint32_t verbose_level; /* 0: no details */
  bool iso8601;           /* lines of text carry date and time zone too; JSON always does */
};

struct log_field {
  const char *key;
  const char *text; /* NULL: number counts */
  int64_t number;
};

#define LOG_STR(k, v) ((struct log_field){.key = (k), .text = (v)})
#define LOG_INT(k, v) ((struct log_field){.key = (k), .number = (int64_t)(v)})

/* Once, before any thread is started: all levels up to `most`. role names the process in every line ("supervisor",
 * "gateway", …); copied. */
void log_setup(const char *role, enum log_level most, enum log_format format);

/* From here on; any thread, at any time. */
void log_apply(const struct log_settings *settings);
struct log_settings log_current(void);
bool log_wants(enum log_level level);

void log_write(enum log_level level, const char *message, const struct log_field *fields, size_t n);

#define LOG_FIELDS(...) ((const struct log_field[]){{0}, ##__VA_ARGS__})
#define LOG_AT(level, message, ...)                                             \
  do {                                                                          \
    if (log_wants(level))                                                       \
      log_write(level, message, LOG_FIELDS(__VA_ARGS__) + 1,                    \
                sizeof LOG_FIELDS(__VA_ARGS__) / sizeof(struct log_field) - 1); \
  } while (0)
#define LOG_ERROR(...) LOG_AT(LOG_LEVEL_ERROR, __VA_ARGS__)
#define LOG_WARNING(...) LOG_AT(LOG_LEVEL_WARNING, __VA_ARGS__)
#define LOG_INFO(...) LOG_AT(LOG_LEVEL_INFO, __VA_ARGS__)
#define LOG_VERBOSE(...) LOG_AT(LOG_LEVEL_VERBOSE, __VA_ARGS__)

#endif
