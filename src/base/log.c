#include "base/log.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The one piece of global state: a process has one standard error. */
static struct {
  char role[64];
  _Atomic unsigned levels; /* bit by enum log_level */
  _Atomic uint32_t verbose_level;
  _Atomic bool iso8601;
  bool json;
} log_state = {.role = "muster", .levels = (2U << LOG_LEVEL_INFO) - 1};

static const char *const level_names[] = {"error", "warning", "info", "verbose"};

void log_setup(const char *role, enum log_level most, enum log_format format) {
  bool choose = format == LOG_FORMAT_AUTO || format == LOG_FORMAT_ISO8601;
  snprintf(log_state.role, sizeof log_state.role, "%s", role);
  log_state.json = format == LOG_FORMAT_JSON || (choose && !isatty(STDERR_FILENO));
  const struct log_settings settings = {.error = true,
                                        .warning = most >= LOG_LEVEL_WARNING,
                                        .info = most >= LOG_LEVEL_INFO,
                                        .verbose_level = most >= LOG_LEVEL_VERBOSE,
                                        .iso8601 = format == LOG_FORMAT_ISO8601};
  log_apply(&settings);
}

void log_apply(const struct log_settings *settings) {
  const unsigned levels =
      (unsigned)settings->error << LOG_LEVEL_ERROR | (unsigned)settings->warning << LOG_LEVEL_WARNING |
      (unsigned)settings->info << LOG_LEVEL_INFO | (unsigned)(settings->verbose_level > 0) << LOG_LEVEL_VERBOSE;
  atomic_store_explicit(&log_state.iso8601, settings->iso8601, memory_order_relaxed);
  atomic_store_explicit(&log_state.verbose_level, settings->verbose_level, memory_order_relaxed);
  atomic_store_explicit(&log_state.levels, levels, memory_order_relaxed);
}

struct log_settings log_current(void) {
  return (struct log_settings){.error = log_wants(LOG_LEVEL_ERROR),
                               .warning = log_wants(LOG_LEVEL_WARNING),
                               .info = log_wants(LOG_LEVEL_INFO),
                               .verbose_level = log_state.verbose_level,
                               .iso8601 = log_state.iso8601};
}

bool log_wants(enum log_level level) {
  return (atomic_load_explicit(&log_state.levels, memory_order_relaxed) >> level & 1) != 0;
}

struct line {
  char text[4096]; /* below PIPE_BUF, so that lines of several processes do not mix in a pipe */
  size_t at;
};

static void put(struct line *line, const char *text, size_t n) {
  size_t room = sizeof line->text - 2 - line->at; /* keeps place for the newline */
  if (n > room) n = room;
  memcpy(line->text + line->at, text, n);
  line->at += n;
}
static void put_text(struct line *line, const char *text) { put(line, text, strlen(text)); }

/* JSON string; control characters escaped so that nobody's model name forges a log line. */
static void put_quoted(struct line *line, const char *text) {
  put(line, "\"", 1);
  for (; *text != '\0' && line->at < sizeof line->text - 64; text++) {
    unsigned char c = (unsigned char)*text;
    char escape[8];
    if (c == '"' || c == '\\') {
      escape[0] = '\\';
      escape[1] = (char)c;
      put(line, escape, 2);
    } else if (c < 0x20 || c == 0x7f) {
      snprintf(escape, sizeof escape, "\\u%04x", c);
      put(line, escape, 6);
    } else {
      put(line, text, 1);
    }
  }
  put(line, "\"", 1);
}

static bool is_plain(const char *text) {
  if (*text == '\0') return false;
  for (; *text != '\0'; text++)
    if ((unsigned char)*text <= ' ' || *text == '"' || *text == '\\' || *text == 0x7f) return false;
  return true;
}

void log_write(enum log_level level, const char *message, const struct log_field *fields, size_t n) {
  struct line line = {.at = 0};
  struct timespec now;
  struct tm utc;
  char stamp[64];
  clock_gettime(CLOCK_REALTIME, &now);
  gmtime_r(&now.tv_sec, &utc);
  int ms = (int)(now.tv_nsec / 1000000);
  if (log_state.json || log_state.iso8601)
    snprintf(stamp, sizeof stamp, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", utc.tm_year + 1900, utc.tm_mon + 1,
             utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec, ms);
  else
    snprintf(stamp, sizeof stamp, "%02d:%02d:%02d.%03d", utc.tm_hour, utc.tm_min, utc.tm_sec, ms);
  if (log_state.json) {
    put_text(&line, "{\"time\":\"");
    put_text(&line, stamp);
    put_text(&line, "\",\"level\":\"");
    put_text(&line, level_names[level]);
    put_text(&line, "\",\"role\":");
    put_quoted(&line, log_state.role);
    put_text(&line, ",\"message\":");
    put_quoted(&line, message);
  } else {
    char padded[16];
    snprintf(padded, sizeof padded, " %-7s ", level_names[level]);
    put_text(&line, stamp);
    put_text(&line, padded);
    put_text(&line, log_state.role);
    put_text(&line, ": ");
    put_text(&line, message);
  }
  for (size_t i = 0; i < n; i++) {
    char number[32];
    if (log_state.json) {
      put(&line, ",", 1);
      put_quoted(&line, fields[i].key);
      put(&line, ":", 1);
    } else {
      put(&line, " ", 1);
      put_text(&line, fields[i].key);
      put(&line, "=", 1);
    }
    if (fields[i].text == NULL) {
      snprintf(number, sizeof number, "%lld", (long long)fields[i].number);
      put_text(&line, number);
    } else if (log_state.json || !is_plain(fields[i].text)) {
      put_quoted(&line, fields[i].text);
    } else {
      put_text(&line, fields[i].text);
    }
  }
  if (log_state.json) put(&line, "}", 1);
  line.text[line.at++] = '\n';
  while (write(STDERR_FILENO, line.text, line.at) < 0) {
    /* interrupted is the only failure worth repeating; a log that cannot be written has nowhere to say so */
    if (errno != EINTR) break;
  }
}
