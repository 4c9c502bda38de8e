/*
 * A Landlock domain without an exception (but the ports of a remote worker's or a proxy's backends): the rights that it
 * handles are gone, those that it does not handle are untouched. Reading stays free, since libraries, models and their
 * external data lie wherever the administrator put them. Being in a domain also forbids to trace, or to reach through
 * /proc/PID/mem, any process outside of it.
 *
 * Numbers here are the kernel's (linux/landlock.h); older headers know only some of them.
 */
#include "sandbox/landlock.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { CREATE_RULESET_VERSION = 1, RULE_NET_PORT = 2 };

enum {
  FS_EXECUTE = 1 << 0,
  FS_WRITE_FILE = 1 << 1,
  FS_READ_FILE = 1 << 2,
  FS_READ_DIR = 1 << 3,
  FS_MAKE_CHAR = 1 << 6,
  FS_MAKE_BLOCK = 1 << 11,
  NET_CONNECT = 2,
  NET_BIND_AND_CONNECT = 3,
  SCOPE_ABSTRACT_UNIX = 1,
  SCOPE_SIGNAL = 2,
};

/* What each version can handle; a kernel refuses what it does not know. */
static const struct rights {
  uint64_t fs, net, scoped;
} known[] = {
    {0, 0, 0},             /* none */
    {(1 << 13) - 1, 0, 0}, /* 1: files and folders */
    {(1 << 14) - 1, 0, 0}, /* 2: moving between folders */
    {(1 << 15) - 1, 0, 0}, /* 3: truncating */
    {(1 << 15) - 1, 3, 0}, /* 4: TCP bind and connect */
    {(1 << 16) - 1, 3, 0}, /* 5: ioctl of devices */
    {(1 << 16) - 1, 3, 3}, /* 6: abstract Unix sockets and signals */
};
enum { NEWEST = sizeof known / sizeof *known - 1 };

/* A CUDA driver writes its cache, opens its devices writable and meets its daemon (MPS) at abstract sockets. */
static const struct rights denied[] = {
    [SANDBOX_GATEWAY] = {~(uint64_t)(FS_READ_FILE | FS_READ_DIR), NET_BIND_AND_CONNECT,
                         SCOPE_ABSTRACT_UNIX | SCOPE_SIGNAL},
    [SANDBOX_WORKER_CPU] = {~(uint64_t)(FS_READ_FILE | FS_READ_DIR), NET_BIND_AND_CONNECT,
                            SCOPE_ABSTRACT_UNIX | SCOPE_SIGNAL},
    [SANDBOX_WORKER_REMOTE] = {~(uint64_t)(FS_READ_FILE | FS_READ_DIR), NET_BIND_AND_CONNECT,
                               SCOPE_ABSTRACT_UNIX | SCOPE_SIGNAL},
    [SANDBOX_PROXY] = {~(uint64_t)(FS_READ_FILE | FS_READ_DIR), NET_BIND_AND_CONNECT,
                       SCOPE_ABSTRACT_UNIX | SCOPE_SIGNAL},
    [SANDBOX_WORKER_GPU] = {FS_EXECUTE | FS_MAKE_CHAR | FS_MAKE_BLOCK, NET_BIND_AND_CONNECT, SCOPE_SIGNAL},
};

int sandbox_landlock_version(void) {
  long version = syscall(SYS_landlock_create_ruleset, NULL, 0, CREATE_RULESET_VERSION);
  return version > 0 ? (int)version : 0;
}

/* struct landlock_net_port_attr, which older headers do not have. */
struct port_rule {
  uint64_t allowed, port;
};

static mu_status allow_ports(int ruleset, const uint16_t *ports, size_t n, mu_error *err) {
  for (size_t i = 0; i < n; i++) {
    const struct port_rule rule = {NET_CONNECT, ports[i]};
    if (syscall(SYS_landlock_add_rule, ruleset, RULE_NET_PORT, &rule, 0) != 0)
      return mu_fail(err, MU_IO, "cannot add port %u to a Landlock ruleset: %s", ports[i], strerror(errno));
  }
  return MU_OK;
}

mu_status landlock_enter(enum sandbox_profile profile, const uint16_t *ports, size_t n, mu_error *err) {
  int version = sandbox_landlock_version();
  if (version == 0) return MU_OK;
  const struct rights *can = &known[version < NEWEST ? version : NEWEST], *wanted = &denied[profile];
  const struct rights handled = {wanted->fs & can->fs, wanted->net & can->net, wanted->scoped & can->scoped};
  /* Trailing zeros of a larger structure than the kernel's are accepted. */
  int ruleset = (int)syscall(SYS_landlock_create_ruleset, &handled, sizeof handled, 0);
  if (ruleset < 0) return mu_fail(err, MU_IO, "cannot make a Landlock ruleset: %s", strerror(errno));
  if (allow_ports(ruleset, ports, (handled.net & NET_CONNECT) != 0 ? n : 0, err) != MU_OK) {
    close(ruleset);
    return MU_IO;
  }
  long result = syscall(SYS_landlock_restrict_self, ruleset, 0);
  int error = errno;
  close(ruleset);
  return result == 0 ? MU_OK : mu_fail(err, MU_IO, "cannot enter a Landlock domain: %s", strerror(error));
}
