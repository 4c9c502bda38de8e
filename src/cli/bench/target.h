/*
 * What is under load: where it is, which model, what the model takes, what it has counted. Through libcurl, before
 * and after a run, never during it.
 */
#ifndef CLI_BENCH_TARGET_H
#define CLI_BENCH_TARGET_H

#include "base/status.h"

enum { TARGET_INPUTS_MAX = 64 };

struct target_input {
  char name[256];
  mu_dtype dtype;
  uint32_t rank;
  int64_t dims[MU_MAX_RANK]; /* -1 where it varies */
};

struct target {
  char host[256], port[8];
  bool tcp;                     /* no HTTP: bytes go there and as many come back */
  char path[640];               /* of the request, "" where only a body is sent */
  char model[256], version[24]; /* model "": it is no inference server; version "": the server chooses */
  struct target_input inputs[TARGET_INPUTS_MAX];
  uint32_t n_inputs;
};

/* Where a URL leads: "http://host:port[/path]" or "tcp://host:port". A path /v2/models/NAME[/versions/V] names a model,
 * and `path` becomes that of its infer requests. Asks nobody. MU_INVALID. */
MUST_CHECK mu_status target_parse(const char *url, struct target *ret_target, mu_error *err);

/* what: a model's name (then the server is url), or a URL; without a model in it the server must serve exactly one.
 * Fetches the metadata. MU_INVALID, MU_NOT_FOUND, MU_UNAVAILABLE (no server there). */
MUST_CHECK mu_status target_find(const char *what, const char *url, struct target *ret_target, mu_error *err);

/* Rows executed in batches of each size so far, from the statistics extension. Owned by the caller: counts[rows], up to
 * TARGET_BATCH_MAX. */
enum { TARGET_BATCH_MAX = 4096 };
MUST_CHECK mu_status target_batches(const struct target *target, uint64_t counts[TARGET_BATCH_MAX + 1], mu_error *err);

#endif
