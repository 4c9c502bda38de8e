/*
 * What a process of muster may still do once it has everything it needs: a fence around code that reads foreign bytes
 * (requests in the gateway and in muster proxy, models in a worker), so that who takes such a process over has gained little.
 *
 *   gateway, CPU worker   a list of allowed system calls (call_table.c); everything else fails
 *   remote worker         the same list, and TCP connections to the ports of its backends
 *   proxy                 a gateway's list, and the same connections
 *   GPU worker            everything but a list of refused calls: a driver's needs are nobody's to list
 *   all                   no new privileges, no capabilities but reading models, hidden from processes of the same user
 *                         (no ptrace, no /proc/PID/mem), and where the kernel has Landlock no new file to write or
 *                         execute, no TCP connection, no signal to anybody outside
 *
 * Called once by the process itself, before it starts a thread and before it reads its first foreign byte. What was
 * opened before stays usable.
 */
#ifndef SANDBOX_SANDBOX_H
#define SANDBOX_SANDBOX_H

#include "base/status.h"

enum sandbox_profile {
  SANDBOX_OFF, /* no new privileges, nothing else */
  SANDBOX_GATEWAY,
  SANDBOX_WORKER_CPU,
  SANDBOX_WORKER_GPU,
  SANDBOX_WORKER_REMOTE,
  SANDBOX_PROXY,
};

/* MU_UNSUPPORTED: the kernel, or what surrounds this process, does not let it; the message names --sandbox. MU_IO. */
MUST_CHECK mu_status sandbox_enter(enum sandbox_profile profile, mu_error *err);

/* SANDBOX_WORKER_REMOTE: a CPU worker that may also connect to these TCP ports (of any machine; where the kernel has no
 * Landlock for that, to any port). As sandbox_enter. */
MUST_CHECK mu_status sandbox_enter_remote(const uint16_t *ports, size_t n, mu_error *err);

/* SANDBOX_PROXY: the same of a gateway. As sandbox_enter. */
MUST_CHECK mu_status sandbox_enter_proxy(const uint16_t *ports, size_t n, mu_error *err);

/* Only the part that hides a process from others of the same user: for the supervisor, which has to stay able to do
 * everything else. Ends with exec. MU_IO. */
MUST_CHECK mu_status sandbox_hide(mu_error *err);

/* The version of the kernel's Landlock; 0: it has none, and the rest of the fence has to do. */
int sandbox_landlock_version(void);

#endif
