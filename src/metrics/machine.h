/*
 * What the whole machine does, read from /proc when somebody asks for the metrics: nv_cpu_*. One owner, who calls from
 * one thread at a time.
 */
#ifndef METRICS_MACHINE_H
#define METRICS_MACHINE_H

#include "base/status.h"

struct machine {
  bool read;                          /* the figures below hold */
  double cpu_utilization;             /* 0 to 1, of all cores, between the last two readings */
  uint64_t memory_total, memory_used; /* bytes */
  /* private */
  uint64_t read_ns, busy, idle; /* when, and the counters then */
};

/* Reads them again when the last reading is at least interval_ns old. What cannot be read keeps `read` false. proc:
 * "/proc"; the tests have another one. */
void machine_look(struct machine *machine, const char *proc, uint64_t now_ns, uint64_t interval_ns);

#endif
