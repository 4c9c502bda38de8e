/* What the files of launch/ share. Private to launch/; everything belongs to the one loop's thread. */
#ifndef LAUNCH_STATE_H
#define LAUNCH_STATE_H

#include <jansson.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "launch/gpu_watch.h"
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

enum { LAUNCH_PATH_MAX = 4096, LAUNCH_SIGNALS = 4, LAUNCH_REASON_MAX = 512, MPS_TERMINATE_MAX = 64 };
/* What a daemon's end of a client's work may take; after SIGKILL: what is there still hangs in the kernel. */
enum { TERMINATE_MS = 2000, UNKILLABLE_MS = 10000 };

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
  bool signal_due, grouped; /* a signal is on its way; the session's process group has had it */
  bool killing;             /* SIGTERM's time is over */

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
  bool mps_seen;                        /* while a report is looked through: one of its processes is a client */
  uint64_t mps_asked;                   /* the question that says whether it is a client; 0: none */
  pid_t terminating[MPS_TERMINATE_MAX]; /* clients whose work the daemon is about to end, before all is killed */
  uint32_t n_terminating;
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
  struct list mps;        /* of GPUs where it was decided */
  struct gpu_watch *gpus; /* NULL: there is nothing to watch */
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
  bool unclear;   /* in the last look there was what cannot be told yet to be a service's or not */
  uint64_t stop_asked_ns;
  struct oom_watch oom;
  struct rlimit descriptors; /* what this process was started with, and its services are */
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
/* The same for several at once: members_signal_due(SIGTERM) has to follow. May free the service. */
void service_stop_with_others(struct launched *service, enum stop_goal goal);
/* SIGKILL at once, to one that stops. */
void service_kill(struct launched *service);

/* A fresh start, whatever state it is in. */
void service_restart(struct launched *service);

/* Ends what runs, as if it had died by itself for that cause; members_signal_due has to follow. false: nothing runs. */
bool service_condemn(struct launched *service, const char *cause);
/* It cannot start. */
void service_fail(struct launched *service, const char *why);
/* The MPS daemon of its GPU has ended: it is ended, and started again where it may be at all. As
 * service_stop_with_others. */
void service_lose_daemon(struct launched *service);

/* ---- service_process.c -------------------------------------------------------------------------------------------
 */

/* A line of the launcher's in the service's log. */
void service_mark_log(const struct launched *service, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Into service->process; ended as of process_start. MU_EXISTS: somebody has its port; MU_IO, MU_NO_MEMORY. */
MUST_CHECK mu_status service_start_process(struct launched *service, process_ended *ended, mu_error *err);

/* ---- members.c: whose processes are there -------------------------------------------------------------------------
 */

/* Reads the process tree: reaps strays, counts every service's processes, tells services whose last one has gone. */
void members_look(struct launch *launch);
/* The same within milliseconds: something has ended. */
void members_look_soon(struct launch *launch);
/* To all processes of the services whose signal_due is set, which it clears. */
void members_signal_due(struct launch *launch, int signal);
/* Calls visit for each process of each service. */
void members_visit(struct launch *launch, void (*visit)(void *context, struct launched *service, pid_t pid),
                   void *context);
/* At the very end: orphans that have nothing left by which their service could be known. */
void members_end_strays(const struct launch *launch);

/* service.c, for members.c: how the process that stands for it has ended; no process of it is left. */
void service_end_facts(struct launched *service, int code, int status);
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

/* Texts come from a file system, or from programs of others: what is no UTF-8 becomes '?'. NULL without memory. */
json_t *launch_text_json(const char *text);
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
/* For processes that stay longer than the user's terminal may: 0: this process's standard error; -1: errno. */
int launch_open_output(const struct launch *launch);
/* A service's state has changed: what follows from that is done in the loop's next turn. */
void launch_changed(struct launch *launch);

#endif
