#include "sandbox/sandbox.h"

#include <errno.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/landlock.h"
#include "sandbox/seccomp_filter.h"

#define CAPABILITY(number) (UINT64_C(1) << (number))

/* Of what root has, a worker keeps the one that lets it read models which belong to somebody else. */
static const uint64_t kept_capabilities[] = {
    [SANDBOX_GATEWAY] = 0,
    [SANDBOX_WORKER_CPU] = CAPABILITY(CAP_DAC_READ_SEARCH),
    [SANDBOX_WORKER_GPU] = CAPABILITY(CAP_DAC_READ_SEARCH),
    [SANDBOX_WORKER_REMOTE] = 0,
    [SANDBOX_PROXY] = 0,
};

static mu_status forgo_privileges(mu_error *err) {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0) return MU_OK;
  return mu_fail(err, MU_UNSUPPORTED, "the kernel does not know no_new_privs: %s", strerror(errno));
}

/* Inheritable and ambient ones go with them: nothing is executed any more. */
static mu_status drop_capabilities(uint64_t kept, mu_error *err) {
  struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];
  if (syscall(SYS_capget, &head, sets) != 0) return mu_fail(err, MU_IO, "capget: %s", strerror(errno));
  for (size_t i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
    sets[i].permitted &= (uint32_t)(kept >> 32 * i);
    sets[i].effective &= (uint32_t)(kept >> 32 * i);
    sets[i].inheritable = 0;
  }
  if (syscall(SYS_capset, &head, sets) != 0) return mu_fail(err, MU_IO, "capset: %s", strerror(errno));
  return MU_OK;
}

mu_status sandbox_hide(mu_error *err) {
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0) return MU_OK;
  return mu_fail(err, MU_IO, "PR_SET_DUMPABLE: %s", strerror(errno));
}

static mu_status enter(enum sandbox_profile profile, const uint16_t *ports, size_t n, mu_error *err) {
  mu_error why = {""};
  mu_status status = forgo_privileges(&why);
  if (status == MU_OK && profile == SANDBOX_OFF) return MU_OK;
  if (status == MU_OK) status = sandbox_hide(&why);
  if (status == MU_OK) status = landlock_enter(profile, ports, n, &why);
  if (status == MU_OK) status = drop_capabilities(kept_capabilities[profile], &why);
  /* Last: of the calls above hardly one is allowed afterwards. */
  if (status == MU_OK) status = seccomp_filter_enter(profile, &why);
  if (status == MU_OK) return MU_OK;
  return mu_fail(err, status, "no sandbox: %.300s (--sandbox=off serves without one)", why.message);
}

mu_status sandbox_enter(enum sandbox_profile profile, mu_error *err) { return enter(profile, NULL, 0, err); }

mu_status sandbox_enter_remote(const uint16_t *ports, size_t n, mu_error *err) {
  return enter(SANDBOX_WORKER_REMOTE, ports, n, err);
}

mu_status sandbox_enter_proxy(const uint16_t *ports, size_t n, mu_error *err) {
  return enter(SANDBOX_PROXY, ports, n, err);
}
