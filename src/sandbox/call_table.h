/* The system calls of each profile: data for seccomp_filter.c. */
#ifndef SANDBOX_CALL_TABLE_H
#define SANDBOX_CALL_TABLE_H

#include <seccomp.h>
#include <stdbool.h>
#include <stddef.h>

#include "sandbox/sandbox.h"

enum call_verdict {
  CALL_ALLOWED,
  CALL_REFUSED, /* EPERM */
  CALL_ABSENT,  /* ENOSYS */
};

/* A row holds for the profiles in its set (1 << profile), and where it has a condition only if that is met. A call may
 * have several rows; where none applies, the default of the profile does. */
struct call_row {
  int number; /* negative: this machine has no such call */
  enum call_verdict verdict;
  unsigned profiles;
  bool conditional, self; /* self: condition.datum_a is this process's pid */
  struct scmp_arg_cmp condition;
};

const struct call_row *call_rows(size_t *ret_n);

#endif
