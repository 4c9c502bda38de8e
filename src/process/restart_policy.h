/*
 * When a process that died is started again: at once, then after 0.1 s, doubling up to 30 s; not at all when it has
 * died five times in a row without getting ready. A death that somebody else caused (SIGKILL from outside) says nothing
 * about the next process: where this one was ready, the next is started at once and nothing is counted. Pure.
 */
#ifndef PROCESS_RESTART_POLICY_H
#define PROCESS_RESTART_POLICY_H

#include <stdbool.h>
#include <stdint.h>

enum { RESTART_EARLY_DEATHS_MAX = 5 };

/* Of one process and its successors. Zeroed, but for what is said here: a fresh one. */
struct restart_policy {
  uint64_t longest_delay_ns; /* instead of 30 s; 0: 30 s */
  uint32_t early_deaths;     /* in a row, before it was ready */
  bool ready;
  uint64_t ready_ns; /* since when */
  uint64_t delay_ns; /* before the last restart */
  bool restarted;    /* since it last proved itself */
};

void restart_policy_ready(struct restart_policy *policy, uint64_t now_ns);

/* It died now; its own doing: as death_judge says. true: start it again after *ret_delay_ns. false: give up. */
bool restart_policy_death(struct restart_policy *policy, uint64_t now_ns, bool own_doing, uint64_t *ret_delay_ns);

#endif
