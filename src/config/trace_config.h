/*
 * --trace-config, as tritonserver has it: which requests are traced and where to. Plain data; parsed when settings are
 * read (to refuse what is wrong), by the supervisor, which opens the file, and by the gateway. The strings of single
 * settings are read by the same functions when a client changes them.
 */
#ifndef CONFIG_TRACE_CONFIG_H
#define CONFIG_TRACE_CONFIG_H

#include "config/options.h"

enum trace_field { TRACE_LEVEL = 1, TRACE_RATE = 2, TRACE_COUNT = 4, TRACE_LOG_FREQUENCY = 8 };

struct trace_settings {
  bool timestamps;        /* the level: TIMESTAMPS or OFF */
  uint32_t rate;          /* one of so many requests */
  int32_t count;          /* traces still to be made; -1: without end */
  uint32_t log_frequency; /* traces in each file FILE.0, FILE.1 …; 0: all in FILE */
};

struct trace_config {
  struct trace_settings settings;
  const char *file; /* of the options' memory; "": none, nothing can be traced */
};

/* MU_INVALID, MU_UNSUPPORTED (OpenTelemetry, TENSORS): the message names the item. */
MUST_CHECK mu_status trace_config_read(const struct options *options, struct trace_config *ret_config, mu_error *err);

/* "OFF" and "TIMESTAMPS"; TENSORS is MU_UNSUPPORTED, anything else MU_INVALID. */
MUST_CHECK mu_status trace_parse_level(const char *text, bool *ret_timestamps, mu_error *err);
/* The number of a field that is one, in Triton's words where it is none: MU_INVALID. name: "trace_rate". */
MUST_CHECK mu_status trace_parse_number(enum trace_field field, const char *name, const char *text,
                                        struct trace_settings *settings, mu_error *err);

#endif
