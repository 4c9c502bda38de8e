/* What the files of launch/ share. Private to launch/; everything belongs to the one loop's thread. */
#ifndef LAUNCH_STATE_H
#define LAUNCH_STATE_H

#include <jansson.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "launch/launch.h"
#include "launch/mps.h"
#include "launch/probe.h"
#include "net/http_server.h"
#include "process/death.h"
#include "process/process.h"
#include "process/restart_policy.h"
#include "process/tree.h"

/* What services know their launch by, and leftovers are found by: in the environment of all that a launch starts. */
#define LAUNCH_VARIABLE "MUSTER_LAUNCH_ID"
#define SERVICE_VARIABLE "MUSTER_SERVICE"

enum { LAUNCH_PATH_MAX = 4096, LAUNCH_SIGNALS = 4, LAUNCH_REASON_MAX = 512 };

enum service_state {
  SERVICE_WAITING,  /* for its turn to start */
  SERVICE_STARTING, /* runs, is not ready yet */
  SERVICE_READY,
  SERVICE_STOPPING, /* its processes have been told to end */
  SERVICE_BACKOFF,  /* died, is started again in a while */
  SERVICE_STOPPED,  /* has ended, and that is well so */
  SERVICE_FAILED,   /* given up */
};

/* What comes when a stopping service has no process left. */
enum stop_goal {
  STOP_STAY,   /* stopped */
  STOP_START,  /* started again */
  STOP_REMOVE, /* forgotten */
  STOP_JUDGE,  /* as if it had died by itself: the restart policy says */
};

enum mps_member { MPS_NOT_KNOWN, MPS_CLIENT, MPS_NO_CLIENT };

/* One service (net/ has another struct service). */
struct launched {
  struct list link; /* launch.services, in the order of groups and indices */
  struct launch *launch;
  struct plan_group *group;
  uint32_t index;
  struct plan_service plan;

  enum service_state state;
  enum stop_goal goal;     /* of STOPPING */
  struct process *process; /* the one that was started; NULL: it has ended */
  pid_t session;           /* its session, and of what it starts; 0: none of it is left */
  bool daemonised;         /* the process ended well and left others behind: those are the service now */
  pid_t adopted;           /* one of them, whose end says how the service ended; 0: not known */
  uint32_t members;        /* processes of it in the last look, without zombies */
  uint32_t empty_looks;    /* in a row that found none: a look is no atomic snapshot, so two are needed */
  struct death_facts facts;
  char wish_cause[160];
  bool killing; /* SIGTERM's time is over */

  struct restart_policy policy;
  uint32_t restarts;
  uint64_t since_ns; /* in this state */
  char reason[LAUNCH_REASON_MAX];
  struct probe *probe;
  struct probe_spec probe_spec;
  char **environment; /* of the processes; one block */
  uv_timer_t timer;   /* STARTING: ready timeout; STOPPING: until SIGKILL, then until it is given up; BACKOFF */
  char log_path[LAUNCH_PATH_MAX];

  struct mps_daemon *mps; /* its GPU's; NULL: it has not been asked for, or is not to be */
  bool under_mps;         /* it was started with that daemon's environment */
  bool mps_held;          /* reason says that it waits for the daemon */
  enum mps_member mps_member;
  uint64_t mps_asked; /* the question that says whether it is a client; 0: none */
};

enum operation_kind { OPERATION_NONE, OPERATION_RESTART, OPERATION_ROLLING, OPERATION_SCALE };

/* What the control socket asked for; one at a time. */
struct operation {
  enum operation_kind kind;
  struct exchange *exchange; /* NULL: who asked has left */
  struct launched *service;  /* RESTART, ROLLING: at work now */
  struct plan_group *group;  /* ROLLING: NULL is all; SCALE */
  uint32_t done;
};

struct launch {
  struct net_loop *loop;
  struct plan *plan;
  struct launch_report report;
  struct list services;
  struct list mps; /* of GPUs where it was decided */
  struct probe_pool *probes;
  struct process *guard; /* ends what is left when this process dies */
  char state_folder[LAUNCH_PATH_MAX], log_folder[LAUNCH_PATH_MAX];
  char id[LAUNCH_PATH_MAX + 64]; /* NUMBER-TIME:FOLDER; of this run alone */
  struct http_server *control;
  int control_fd; /* a socket that listens and is not the server's yet; -1 */
  bool control_bound;
  struct operation operation;
  uv_signal_t signals[LAUNCH_SIGNALS];
  uv_timer_t look, turn;
  bool look_soon; /* look is due within milliseconds */
  bool settled, stopping, failed;
};

/* ---- service.c --------------------------------------------------------------------------------------------------- */

const char *service_state_name(enum service_state state);

/* WAITING; service_schedule starts it. MU_INVALID, MU_NOT_FOUND, MU_NO_MEMORY. */
MUST_CHECK mu_status service_add(struct launch *launch, struct plan_group *group, uint32_t index, mu_error *err);
void service_free(struct launched *service); /* no process may be left */

/* Starts those that wait, as many as may be on their way at once. */
void services_schedule(struct launch *launch);

/* SIGTERM to all its processes, later SIGKILL, then goal. For one that stops already the goal changes. */
void service_stop(struct launched *service, enum stop_goal goal);

/* A fresh start, whatever state it is in. */
void service_restart(struct launched *service);

/* It cannot start. */
void service_fail(struct launched *service, const char *why);
/* The MPS daemon of its GPU has ended: it is ended, and started again where it may be at all. */
void service_lose_daemon(struct launched *service);

/* ---- members.c: whose processes are there -------------------------------------------------------------------------
 */

/* Reads the process tree: reaps strays, counts every service's processes, tells services whose last one has gone. */
void members_look(struct launch *launch);
/* The same within milliseconds: something has ended. */
void members_look_soon(struct launch *launch);
void members_signal(struct launched *service, int signal);
/* Is one of the service's processes such a one? */
bool members_any(struct launched *service, bool (*is)(pid_t pid, const void *context), const void *context);
/* At the very end: orphans that have nothing left by which their service could be known. */
void members_end_strays(const struct launch *launch);

/* service.c, for members.c: no process of it is left. */
void service_is_empty(struct launched *service);

/* ---- leftovers.c --------------------------------------------------------------------------------------------------
 */

/* Ends all processes of a launch by what stands in their environment: SIGTERM, SIGKILL after grace_ns. Waits for it.
 * launch_id: launch.id, or ":FOLDER" for every launch that had that state folder. How many there were. */
uint32_t leftovers_end(const char *launch_id, uint64_t grace_ns);

/* A process of its own that does that once this one has died. MU_IO, MU_NO_MEMORY. */
MUST_CHECK mu_status guard_start(struct launch *launch, mu_error *err);

/* ---- status.c -----------------------------------------------------------------------------------------------------
 */

/* NULL without memory. */
json_t *launch_status_json(const struct launch *launch);
mu_status launch_state_write(const struct launch *launch, mu_error *err);
/* For people, when all is settled. */
void launch_summary(const struct launch *launch, struct buffer *out);

/* ---- control.c ----------------------------------------------------------------------------------------------------
 */

MUST_CHECK mu_status control_open(struct launch *launch, mu_error *err); /* takes the state folder */
MUST_CHECK mu_status control_serve(struct launch *launch, mu_error *err);
void control_close(struct launch *launch);
/* After a change of a service's state: does what was asked for go on, is it over? */
void operation_step(struct launch *launch);

/* ---- launch.c -----------------------------------------------------------------------------------------------------
 */

void launch_stop(struct launch *launch, const char *why);
/* A service's state has changed: what follows from that is done in the loop's next turn. */
void launch_changed(struct launch *launch);

#endif
