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

enum { CALL_CONDITIONS_MAX = 3 };

/* A row holds for the profiles in its set (1 << profile), and where it has conditions only if they are met. A call may
 * have several rows; where none applies, the default of the profile does. */
struct call_row {
  int number; /* negative: this machine has no such call */
  enum call_verdict verdict;
  unsigned profiles;
  unsigned n_conditions; /* all of them have to be met */
  bool self;             /* datum_a of the only condition is this process's pid */
  struct scmp_arg_cmp conditions[CALL_CONDITIONS_MAX];
};

const struct call_row *call_rows(size_t *ret_n);

#endif
