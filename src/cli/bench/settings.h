/* What `muster bench` was asked for: its flags, read and checked against each other. */
#ifndef CLI_BENCH_SETTINGS_H
#define CLI_BENCH_SETTINGS_H

#include "base/status.h"
#include "cli/bench/schedule.h"

enum { SETTINGS_LIST_MAX = 64, SETTINGS_ROUNDS_MAX = 1000 };

struct text_list {
  const char *items[SETTINGS_LIST_MAX];
  size_t n;
};
struct number_list {
  double items[SETTINGS_LIST_MAX];
  size_t n;
};
struct pid_list {
  int items[SETTINGS_LIST_MAX];
  size_t n;
};

/* Texts point into argv. */
struct bench_settings {
  const char *what, *url, *compare;     /* model or URL; the server of a model; the second URL or NULL */
  struct number_list concurrency, rate; /* the rows of the report: one of the two */
  int64_t connections;                  /* open loop: no more than these */
  enum arrivals arrivals;
  bool arrivals_said;
  double duration_s, warmup_s, timeout_s;
  int64_t requests, rows, seed, rounds;
  struct text_list shapes, files, headers;
  const char *raw, *body; /* "METHOD /PATH"; a file */
  int64_t bytes, reply_bytes;
  int64_t streams;        /* WebSocket streams instead of requests; 0: none */
  double fps, deadline_s; /* of each */
  bool check, json;
  const char *histogram, *save_reply; /* files to write */
  const char *control_socket, *compare_socket;
  struct pid_list pids, compare_pids;
  const char *echo; /* "[HOST:]PORT": be the bare TCP peer instead */
};

/* Defaults, then the arguments. MU_INVALID: the message says which flag and why. */
MUST_CHECK mu_status settings_read(int argc, char **argv, struct bench_settings *ret_settings, mu_error *err);

#endif
