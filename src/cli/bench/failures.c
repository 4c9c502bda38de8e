#include "cli/bench/failures.h"

#include <string.h>

struct failure failure_make(enum failure_kind kind, int http_status, const char *text, size_t size) {
  struct failure failure = {.kind = kind, .http_status = http_status, .count = 1};
  if (size >= sizeof failure.what) size = sizeof failure.what - 1;
  if (size > 0) memcpy(failure.what, text, size);
  for (size_t i = 0; i < size; i++)
    if ((unsigned char)failure.what[i] < 0x20 || failure.what[i] == 0x7f) failure.what[i] = ' ';
  return failure;
}

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
