#include "cli/bench/failures.h"

void failures_add(struct failures *failures, const struct failure *failure) {
  uint32_t i = 0;
  while (i < failures->n &&
         (failures->rows[i].kind != failure->kind || failures->rows[i].http_status != failure->http_status))
    i++;
  if (i == failures->n && failures->n == FAILURES_MAX) i--;
  if (i == failures->n) {
    failures->rows[failures->n++] = *failure;
    return;
  }
  failures->rows[i].count += failure->count;
}

const char *failure_kind_name(enum failure_kind kind) {
  static const char *const names[] = {"status", "connection", "timeout", "wrong reply"};
  return names[kind];
}
