/* The daemon of one GPU as the files of launch/mps*.c share it. Private to them. */
#ifndef LAUNCH_MPS_DAEMON_H
#define LAUNCH_MPS_DAEMON_H

#include "control/child.h"
#include "launch/state.h"

enum daemon_state {
  DAEMON_UNDECIDED,
  DAEMON_OFF,
  DAEMON_STARTING,
  DAEMON_SERVING,
  DAEMON_BACKOFF, /* started again once its clients have left and the timer is over */
};

/* What is known of one GPU's MPS. */
struct mps_daemon {
  struct list link; /* launch.mps */
  struct launch *launch;
  const struct plan_gpu *gpu; /* the plan's */
  enum daemon_state state;
  bool due;      /* BACKOFF: the timer is over, clients are still there */
  bool served;   /* once, so that it can */
  bool ending;   /* it was told to */
  bool settling; /* after a fault, until the last client has left */
  uint32_t restarts;
  uint64_t asked; /* the last question's number */
  struct restart_policy policy;
  struct child keeper;
  uv_timer_t timer;
  int32_t daemon;  /* its process; 0: none */
  json_t *servers; /* of the last report; NULL: not known */
  char folder[MPS_VARIABLE_SIZE - 32];
  char error[LAUNCH_REASON_MAX]; /* OFF: why not, "": it is alone there */
};

/* Services on it that run, without one; clients: only those. */
uint32_t launch_mps_count(const struct mps_daemon *mps, const struct launched *without, bool clients);

/* After a report, which answers the question serial: who is a client? */
void launch_mps_check_clients(struct mps_daemon *mps, uint64_t serial);

/* The keeper has done what could be done about that client. */
void launch_mps_terminated(struct mps_daemon *mps, pid_t client);

#endif
