/* Which processes of this machine a target is, for the CPU that they use. */
#ifndef CLI_BENCH_SERVER_PROCESSES_H
#define CLI_BENCH_SERVER_PROCESSES_H

#include "cli/bench/cpu.h"
#include "cli/bench/target.h"

/* Adds gateway and workers as the server's control socket names them. control_socket NULL: that of the target's port,
 * if the target is on this machine and a muster; else nothing is added and all is well. A socket that was named has to
 * answer: MU_NOT_FOUND, MU_INVALID (another server's), as control_get_status. */
MUST_CHECK mu_status server_processes_watch(const struct target *target, const char *control_socket,
                                            struct cpu_watch *watch, mu_error *err);

#endif
