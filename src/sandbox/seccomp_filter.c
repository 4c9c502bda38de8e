#include "sandbox/seccomp_filter.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "sandbox/call_table.h"

/*
 * Nothing kills the process: a gateway that dies of a library's whim is worse than a call that fails. What is known and
 * refused answers EPERM. What the table does not know answers ENOSYS, as on a kernel that does not have it: newer C
 * libraries try newer calls first and fall back on just this answer (clone3, whose flags no filter can read, to clone).
 */
static uint32_t default_action(enum sandbox_profile profile) {
  return profile == SANDBOX_WORKER_GPU ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(ENOSYS);
}

static int add_row(scmp_filter_ctx filter, const struct call_row *row) {
  const uint32_t actions[] = {SCMP_ACT_ALLOW, SCMP_ACT_ERRNO(EPERM), SCMP_ACT_ERRNO(ENOSYS)};
  struct scmp_arg_cmp conditions[CALL_CONDITIONS_MAX];
  memcpy(conditions, row->conditions, sizeof conditions);
  if (row->self) conditions[0].datum_a = (scmp_datum_t)getpid();
  return seccomp_rule_add_array(filter, actions[row->verdict], row->number, row->n_conditions, conditions);
}

static int fill(scmp_filter_ctx filter, enum sandbox_profile profile) {
  size_t n;
  const struct call_row *rows = call_rows(&n);
  /* All threads, should a library have started one; a tree instead of a list, since most calls are not the first; and
   * no slower processor (before Linux 5.16 a filter brought the SSB mitigation, which is for code inside of a process
   * that must not read all of it). */
  int error = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
  if (error == 0) error = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
  if (error == 0) error = seccomp_attr_set(filter, SCMP_FLTATR_CTL_SSB, 1);
  for (size_t i = 0; error == 0 && i < n; i++) {
    bool is_default = profile == SANDBOX_WORKER_GPU && rows[i].verdict == CALL_ALLOWED;
    if (rows[i].number < 0 || (rows[i].profiles & 1U << profile) == 0 || is_default) continue;
    error = add_row(filter, &rows[i]);
  }
  return error;
}

mu_status seccomp_filter_enter(enum sandbox_profile profile, mu_error *err) {
  scmp_filter_ctx filter = seccomp_init(default_action(profile));
  if (filter == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the filter of system calls");
  int error = fill(filter, profile);
  if (error != 0) {
    mu_status status = error == -ENOMEM ? MU_NO_MEMORY : MU_INTERNAL;
    seccomp_release(filter);
    return mu_fail(err, status, "the filter of system calls cannot be made: %s", strerror(-error));
  }
  error = seccomp_load(filter);
  seccomp_release(filter);
  if (error == 0) return MU_OK;
  return mu_fail(err, MU_UNSUPPORTED, "the system does not take a filter of system calls (seccomp): %s",
                 strerror(-error));
}
