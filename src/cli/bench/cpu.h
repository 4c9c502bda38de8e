/*
 * CPU time of processes over the measured windows of a run: those of a server, and this one. Exact to the nanosecond in
 * total (the kernel's clock of each process); user and kernel time are its split as the kernel's ticks sampled it, so
 * it needs a second or more to mean much.
 */
#ifndef CLI_BENCH_CPU_H
#define CLI_BENCH_CPU_H

#include "base/status.h"

#include <time.h>

enum { CPU_PROCESSES_MAX = 64 };

struct cpu_process {
  char label[96];
  clockid_t clock;
  int pid;
  uint64_t start_ns, start_user, start_kernel;
  uint64_t used_ns, user_ticks, kernel_ticks; /* over all windows */
  bool gone;                                  /* it ended: its numbers are not complete */
};

struct cpu_watch {
  struct cpu_process processes[CPU_PROCESSES_MAX];
  size_t n;
};

/* label NULL: the process's own name. MU_NOT_FOUND: no such process; MU_TOO_LARGE. */
MUST_CHECK mu_status cpu_watch_add(struct cpu_watch *watch, int pid, const char *label, mu_error *err);

void cpu_watch_clear(struct cpu_watch *watch); /* the numbers; the processes stay */
void cpu_watch_start(struct cpu_watch *watch);
void cpu_watch_stop(struct cpu_watch *watch);

/* Nanoseconds of user time (kernel time is the rest of used_ns). */
uint64_t cpu_process_user_ns(const struct cpu_process *process);

#endif
