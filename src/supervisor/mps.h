/*
 * What mps.c (which GPUs have MPS, who may start there) and mps_daemon.c (their daemons' lives) share. Private to them;
 * the supervisor's one loop.
 */
#ifndef SUPERVISOR_MPS_H
#define SUPERVISOR_MPS_H

#include "supervisor/state.h"

/* ---- mps.c ------------------------------------------------------------------------------------------------------- */

struct mps_headcount {
  uint32_t planned;   /* places that are or may come to be filled */
  uint32_t alive;     /* places where a process runs, or will without anybody's doing */
  uint32_t processes; /* that run */
  uint32_t clients;   /* of them, with the daemon's environment */
  struct worker *any; /* one of the places; NULL: there is none */
};
struct mps_headcount mps_headcount(const struct mps_gpu *mps);

/* NULL without memory. */
struct mps_gpu *mps_add(struct supervisor *s, const char *uuid, const char *label);
void mps_set_state(struct mps_gpu *mps, enum mps_state state);
/* What is due in that state comes after that time. */
void mps_set_timer(struct mps_gpu *mps, uint64_t after_ns);
/* Whoever waits for this GPU's MPS may start, as far as their number allows. */
void mps_wake(struct mps_gpu *mps);
/* There is none to be had: with --mps=on those that wait fail, else they start without. */
void mps_do_without(struct mps_gpu *mps, const char *why);

/* ---- mps_daemon.c ------------------------------------------------------------------------------------------------ */

void mps_start_daemon(struct mps_gpu *mps);
/* Nobody is its client any more; then it is UNDECIDED. */
void mps_end_daemon(struct mps_gpu *mps);

#endif
