/* What went wrong with requests: counted by kind (and HTTP status), with the words of the first of each. */
#ifndef CLI_BENCH_FAILURES_H
#define CLI_BENCH_FAILURES_H

#include <stddef.h>
#include <stdint.h>

enum failure_kind { FAILURE_STATUS, FAILURE_CONNECTION, FAILURE_TIMEOUT, FAILURE_WRONG_REPLY };

struct failure {
  enum failure_kind kind;
  int http_status; /* of FAILURE_STATUS, else 0 */
  char what[200];  /* of the first */
  uint64_t count;
};

enum { FAILURES_MAX = 16 };

struct failures {
  struct failure rows[FAILURES_MAX]; /* the last one takes in all kinds that come after it */
  uint32_t n;
};

/* One failure with such words; nothing of a peer's that could steer a terminal stays in them. */
struct failure failure_make(enum failure_kind kind, int http_status, const char *text, size_t size);

/* Adds failure->count of that kind. */
void failures_add(struct failures *failures, const struct failure *failure);

/* "status", "connection", "timeout", "wrong reply" */
const char *failure_kind_name(enum failure_kind kind);

#endif
