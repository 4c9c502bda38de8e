/*
 * What the supervisor knows and wants: one struct, held by supervisor_main for the life of the process, used on its one
 * loop. Private to supervisor/.
 *
 *   supervisor.c        start, readiness, stop
 *   listeners.c         the sockets that a gateway gets
 *   wanted_models.c     the models that settings and repository want
 *   served_models.c     the models that are served, and their states
 *   fingerprint.c       what a generation of a model is made of
 *   reload.c            settings and repository read anew, while everything serves on
 *   operations.c     models loaded and unloaded on request, or when the repository changes
 *   model_choice.c      which ones those are
 *   model_notes.c       what the repository index says of models that are not served
 *   gpus.c              what is known and decided of the machine's GPUs; gpu_faults.c: what follows for workers
 *   fleet_process.c     the process that asks NVML
 *   workers.c           worker processes: start, attach, death, restart
 *   worker_gpus.c       what faults and fences of GPUs mean for them
 *   mps.c               which GPUs have MPS, who may start there; mps_daemon.c: the daemons' lives
 *   mps_membership.c    who is a client of them
 *   load_queue.c        how many of them load at once
 *   trace_file.c        files for traces, which the gateway cannot open
 *   gateway_process.c   gateway processes: start, hand-over, drain, death, restart
 *   upgrade.c           another binary in this one's place; handover.c, inherit.c: the state that goes there
 *   regions.c           shared memory of clients, for all gateways that come; region_file.c opens it
 *   control_socket.c    `muster status`, `muster stop`, `muster reload`, `muster upgrade`
 *   service_manager.c   what systemd hears
 *   process.c, death.c, restart_policy.c, worker_plan.c   what they use
 */
#ifndef SUPERVISOR_STATE_H
#define SUPERVISOR_STATE_H

#include <jansson.h>
#include "base/arena.h"
#include "base/clock.h"
#include "base/list.h"
#include "config/options.h"
#include "control/child.h"
#include "control/link.h"
#include "model/model.h"
#include "model/repository.h"
#include "net/http_server.h"
#include "process/death.h"
#include "process/restart_policy.h"
#include "supervisor/gpu_measurements.h"
#include "supervisor/gpus.h"
#include "supervisor/handover.h"
#include "supervisor/service_manager.h"
#include "supervisor/worker_plan.h"

struct supervisor;

enum { GATEWAYS = 2 };

enum phase {
  PHASE_STARTING, /* not ready yet */
  PHASE_SERVING,  /* was ready */
  PHASE_DRAINING, /* the gateway finishes what is in flight */
  PHASE_STOPPING, /* workers were told to leave */
};

/* ---- models ------------------------------------------------------------------------------------------------------ */

/* Where a generation stands. Requests find one that is SERVED; of a name and version there is at most one. */
enum served_role {
  SERVED,
  COMING,  /* loads; becomes SERVED when its workers are ready, or goes */
  LEAVING, /* no new request gets it, the gateway finishes those that have it */
  LEFT     /* its workers leave; then it is gone */
};

/* A generation of a model version that is served, or that should be and cannot. It keeps its address for life and owns
 * its strings (in memory) and its workers. */
struct served_model {
  struct list link; /* supervisor.models */
  struct supervisor *supervisor;
  uint32_t number; /* never reused */
  enum served_role role;
  bool outgoing; /* another version of the name takes its place when it comes */
  struct net_post gone_post;
  bool gone;
  struct arena memory;
  const char *name;
  int64_t version; /* 0: not known, the model's folder is wrong */
  const char *folder;
  const char *path; /* of the model file; NULL for an engine that needs none */
  int file;         /* that file, kept open: path may come to name another one; -1: none */
  const char *text; /* config.pbtxt */
  size_t text_size;
  bool named; /* given as a file on the command line */
  bool given; /* the file came with a load request: path only names it */
  struct model_options options;
  bool batching, round_robin; /* what else of the settings it is served with */
  uint64_t max_batch_wait_ns, first_execution_ns;
  struct buffer settings;    /* encoded, for its workers */
  struct buffer fingerprint; /* two generations with the same one are the same */
  struct worker_plan plan;
  int64_t file_bytes;                 /* of the model file and what lies beside it */
  struct placement_memory gpu_memory; /* what a process of it takes on a GPU */
  bool planned;                       /* false: it has no workers, and never gets any … */
  bool waits_for_gpus;                /* … but for this one, when the machine's GPUs are known */
  struct worker *workers;             /* as many as the plan wants */
  size_t n_workers;
  size_t open_timers;     /* of its workers, while it goes */
  struct buffer metadata; /* what a worker found it to be, encoded; empty: not known yet */
  enum model_state state;
  char reason[512];
  char note[512]; /* of one that serves well: what became of a reload that wanted another one in its place */
  bool was_ready;
};

/* ---- workers ----------------------------------------------------------------------------------------------------- */

enum worker_state {
  WORKER_STARTING,
  WORKER_LOADING,
  WORKER_WARMING,
  WORKER_READY,
  WORKER_RETIRING, /* the gateway gives it nothing new; then it is told to leave */
  WORKER_STOPPING, /* told to leave, or leaving by itself */
  WORKER_BACKOFF,  /* dead, waits to be started again */
  WORKER_QUEUED,   /* there is no process: others on its device load first */
  WORKER_FAILED,   /* dead, is not started again */
  WORKER_FENCED,   /* there is none: its GPU serves nobody now */
};

/* Of a worker's process to a gateway. */
struct attachment {
  uint64_t epoch; /* 0: none */
  bool attached;  /* and the gateway says that it is usable */
};

/* A place for a worker process; processes come and go in it. */
struct worker {
  struct list all; /* supervisor.workers */
  struct supervisor *supervisor;
  struct served_model *model;
  const struct worker_group *group;
  uint32_t device; /* number of it */
  enum worker_state state;
  uint32_t number; /* of the present process; every process gets a new one */
  struct child child;
  struct attachment attachments[GATEWAYS]; /* by the gateway's slot */
  enum death_wish wish;
  char wish_cause[512];
  mu_status failure; /* what it said with CONTROL_FAILED; MU_OK: nothing */
  struct restart_policy policy;
  uint32_t restarts;
  uint64_t turn;      /* QUEUED: the smaller, the earlier */
  bool under_mps;     /* the present process has the environment of its GPU's MPS daemon */
  bool crowded_out;   /* QUEUED: its GPU has as many clients of MPS as it takes */
  uint64_t mps_asked; /* WARMING: it is warm, and the answer to that question says whether it is a client; 0: not yet */
  bool terminating;   /* the daemon was told to end its work; then it is killed */
  uint64_t started_ns;
  uv_timer_t timer; /* until it has to be ready, attached, gone, or started again: by state */
  char reason[512]; /* why it is not ready, or why its last process ended */
  json_t *backends; /* of a remote model, as its process says; NULL: nothing said */
};

/* ---- gateway ----------------------------------------------------------------------------------------------------- */

enum gateway_state {
  GATEWAY_GONE,     /* there is none, or it leaves by itself */
  GATEWAY_STARTING, /* not listening yet */
  GATEWAY_READY,
  GATEWAY_HANDING_OVER, /* the present one takes its connections */
  GATEWAY_DRAINING,
  GATEWAY_BACKOFF, /* dead, waits to be started again */
};

/* A place for a gateway process. There are two: while one hands over to the next both run. */
struct gateway {
  struct supervisor *supervisor;
  uint32_t slot; /* which of the places */
  enum gateway_state state;
  struct child child;
  bool listen_due;  /* the present one, from its start until its workers are attached */
  uv_timer_t timer; /* until it is started again, or listens or has to have taken over, or has to be gone: by state */
};

/* ---- the fleet process ------------------------------------------------------------------------------------------- */

enum fleet_state {
  FLEET_NONE, /* there is no NVML, or the GPUs are simulated */
  FLEET_STARTING,
  FLEET_ANSWERING,
  FLEET_STALLED /* it does not answer, or is started again and again */
};

struct fleet_process;

struct fleet {
  enum fleet_state state;
  struct list processes; /* struct fleet_process: the present one, and those that were killed and are not gone */
  struct fleet_process *present; /* NULL: none */
  struct restart_policy policy;
  uint32_t restarts, stalls;
  uv_timer_t timer; /* until the next sign of life, or the next start */
  uv_timer_cb on_timer;
  char error[512]; /* while it is STALLED */
};

/* ---- MPS --------------------------------------------------------------------------------------------------------- */

enum mps_state {
  MPS_UNDECIDED,
  MPS_OFF,
  MPS_SIMULATED, /* workers have the environment, there is no daemon */
  MPS_STARTING,  /* the daemon does not answer yet */
  MPS_SERVING,
  MPS_BACKOFF, /* it has ended, and is started again */
  MPS_ENDING   /* it was told to: nobody runs there any more */
};

/* The MPS of one GPU, or MIG device; once workers are to run there. */
struct mps_gpu {
  struct list link; /* supervisor.mps */
  struct supervisor *supervisor;
  char uuid[GPU_UUID_SIZE];
  char label[GPU_LABEL_SIZE + 4]; /* "gpu:0" */
  enum mps_state state;
  struct child keeper; /* of the daemon (mps/) */
  struct restart_policy policy;
  bool served;   /* since it was decided the daemon has answered */
  bool settling; /* after a fault: nobody is started before all clients have left */
  bool due;      /* BACKOFF: the time has come, but clients of the one before are still there */
  uint32_t restarts;
  uint64_t since_ns; /* of the state */
  uint64_t asked;    /* serial of the last question */
  int32_t daemon;    /* its process; 0: none, or not known yet */
  uint32_t percentage;
  bool answering;
  char folder[128]; /* the keeper's; "": not known yet */
  char error[512];
  json_t *servers;  /* as it was last told, [{pid, clients}]; NULL: nothing */
  uv_timer_t timer; /* until it is decided, started again, or seen that nobody is left */
};

/* ---- what models are planned with -------------------------------------------------------------------------------- */

struct planning {
  uint32_t cores; /* that the server may use */
  const struct gpus *gpus;
  const struct gpu_measurements *measured; /* NULL: nothing was */
  const struct list *served;               /* what is served now; NULL: nothing */
  const struct list *workers;              /* struct worker: the server's own; NULL: none */
  bool mps;                                /* --mps=on: what its daemons take as clients counts */
};

/* ---- listeners --------------------------------------------------------------------------------------------------- */

enum { LISTENERS_MAX = CONTROL_FDS_MAX, ADDRESS_MAX = 256 };

struct listeners {
  int fds[LISTENERS_MAX]; /* n_http sockets, n_grpc, n_metrics; they stay open here for the next gateway */
  uint32_t n_http, n_grpc, n_metrics;
  char http_address[ADDRESS_MAX], grpc_address[ADDRESS_MAX], metrics_address[ADDRESS_MAX];
  uint16_t http_port, grpc_port, metrics_port;
};

static inline uint32_t listeners_count(const struct listeners *listeners) {
  return listeners->n_http + listeners->n_grpc + listeners->n_metrics;
}

/* ---- reload ------------------------------------------------------------------------------------------------------ */

struct model_operation;

struct reload {
  bool going;
  struct model_operation
      *operation;  /* it is about one model, that somebody wants loaded or unloaded; NULL: about all */
  bool again;      /* SIGHUP came meanwhile, or during an upgrade */
  bool looking;    /* for GPUs: reload_looked follows */
  bool one_by_one; /* a model is loaded when the one before has come, or cannot */
  bool marked;     /* CONTROL_MARK was sent: with its answer it is over */
  uint64_t serial; /* of the present or last one */
  uint64_t started_ns;
  struct exchange *waiting; /* who wants to hear what became of it */
  json_t *report;           /* what became of the present or last one; NULL: there was none */
  json_t *shown;            /* of the last one about all: for `muster status` */
};

/* ---- model control ----------------------------------------------------------------------------------------------- */

/* With --model-control-mode=explicit: a model that is to be loaded, because --load-model says so or somebody asked. */
struct model_choice {
  struct list link; /* supervisor.choices */
  char *name;
  char *config; /* a configuration instead of that of the repository; NULL: none */
  size_t config_size;
  size_t n_files; /* model files that came along: then nothing of it is read off the repository */
  int64_t versions[CONTROL_FDS_MAX];
  int files[CONTROL_FDS_MAX]; /* sealed memfds */
};

/* A model of the repository, or one that was served, which is not served: for the repository index. */
struct model_note {
  struct list link; /* supervisor.notes */
  char *name;
  int64_t version; /* 0: nothing is known of it but that it is there */
  char *reason;    /* "unloaded", or why it could not be loaded */
  bool seen;       /* while the repository is listed */
};

struct operations {
  struct list waiting;  /* struct model_operation, in the order in which they were asked for */
  struct list notes;    /* struct model_note */
  uint64_t listed_ns;   /* when the names of the repository were last looked at; 0: never */
  struct buffer digest; /* poll: of what was last found there */
  char poll_error[512]; /* why the last look failed, so that it is said once */
  uv_timer_t poll_timer;
};

/* ---- upgrade ----------------------------------------------------------------------------------------------------- */

enum upgrade_state {
  UPGRADE_NONE,
  UPGRADE_CHECKING,  /* the new binary proves itself */
  UPGRADE_EXECUTING, /* about to become it */
  UPGRADE_GATEWAY,   /* the gateways change; from here on the new binary runs */
  UPGRADE_WORKERS,   /* the workers change */
  UPGRADE_DONE,
  UPGRADE_REFUSED, /* nothing has changed */
  UPGRADE_FAILED,  /* in part: the supervisor is the new one */
};

enum { UPGRADE_PATH_MAX = 4096, UPGRADE_TEXT_MAX = 1024 };

struct upgrade {
  enum upgrade_state state;
  uint32_t number; /* of the present or last one */
  uint64_t started_ns, ended_ns;
  char binary[UPGRADE_PATH_MAX];
  char from[64], to[64];        /* versions */
  char error[UPGRADE_TEXT_MAX]; /* REFUSED, FAILED */
  uint32_t first_worker;        /* numbers from here on are workers of the new binary */
  struct upgrade_check *check;
  uint64_t device, inode;  /* of the binary that proved itself … */
  struct timespec changed; /* … and when it was written */
  uint64_t give_up_ns;     /* EXECUTING: when it is not waited any longer */
  uv_timer_t timer;
};

/* ---- all --------------------------------------------------------------------------------------------------------- */

enum { SIGNALS = 3 };

struct supervisor {
  struct options *options;
  int argc; /* the options as they were given: a reload reads them again */
  char **argv;
  struct net_loop *loop;
  uint64_t started_ns, stop_asked_ns;
  uint32_t cores;
  enum log_format log_format; /* of the children */
  int trace_file;             /* the common one; -1: not open */
  bool trace_begun;           /* it has its first bracket, of this server's life */
  uint32_t trace_files;       /* those with numbers, so far */
  struct buffer encoded_options;
  enum phase phase;
  int exit_status;
  bool killed;    /* all processes were, on the way to the end */
  bool finished;  /* nothing is left to wait for */
  bool was_ready; /* readiness was reached once, and said */
  bool settled;   /* it was said that it is not reached */

  struct list models;  /* struct served_model, by name, then version */
  struct list workers; /* struct worker, those of all models */
  struct list regions; /* regions.c: shared memory of clients */
  uint32_t n_regions;
  char devices[PLAN_DEVICES_MAX][PLAN_DEVICE_NAME]; /* by number; "cpu" is 0 */
  uint32_t n_devices;
  int sim_gpus[PLAN_DEVICES_MAX]; /* by device, the memory of a simulated GPU that workers share; 0: none yet */
  struct reload reload;
  struct list choices; /* struct model_choice */
  struct operations operations;
  struct net_post resume_post; /* for reload.again */
  bool resume_posted;
  struct listeners listeners;
  struct gateway gateways[GATEWAYS];
  struct gateway *gateway; /* the present one: it has the listeners, or will have */
  struct restart_policy gateway_policy;
  struct gpus gpus;
  struct fleet fleet;
  struct gpu_measurements measured;
  struct list mps; /* struct mps_gpu */
  bool mps_told;   /* on stop: the daemons are ended when nobody runs any more */
  uint32_t gateway_restarts;
  int heir; /* the successor's end is open, this one is for the gateway that hands over to it; -1: none */
  uint32_t last_model, last_worker; /* numbers given last */
  uint64_t last_turn;               /* given to a worker that waits to be loaded */
  uint64_t last_epoch;
  struct upgrade upgrade;
  char binary[UPGRADE_PATH_MAX]; /* what this process was started from; "" : not known */
  struct oom_watch oom;
  struct service_manager service_manager;

  char *control_path; /* of the Unix socket; NULL: none yet */
  struct http_server *control_server;
  int control_socket; /* the server's listening socket */
  uv_signal_t signals[SIGNALS];
  uv_timer_t stop_timer; /* bounds the phase of stopping that is going on */
};

/* What models are planned with now. */
static inline struct planning supervisor_planning(const struct supervisor *s) {
  return (struct planning){
      .cores = s->cores,
      .gpus = &s->gpus,
      .measured = &s->measured,
      .served = &s->models,
      .workers = &s->workers,
      .mps = s->options->mps == MPS_MODE_ON,
  };
}

/* ---- supervisor.c ------------------------------------------------------------------------------------------------ */

/* Something that readiness or the end depends on has changed. */
void supervisor_check(struct supervisor *s);
/* A reload or an upgrade has begun or ended: what systemd is told. */
void supervisor_tell(struct supervisor *s);
/* Stops in order; called again it stops at once. */
void supervisor_stop(struct supervisor *s, const char *why);
/* How long stopping in order may take: serving on with readiness down, then finishing what is in flight. */
uint64_t supervisor_stop_ns(const struct supervisor *s);
/* Gives up: stops at once with exit status 1. The caller has logged why. */
void supervisor_give_up(struct supervisor *s);
/* The gateway has finished, or is gone: what comes next on the way to the end. */
void supervisor_gateway_finished(struct supervisor *s);
/* "starting", "ready", "degraded", "draining". */
const char *supervisor_state_name(const struct supervisor *s);

/* ---- trace_file.c ------------------------------------------------------------------------------------------------ */

/* A gateway has traces to write: the common file, or the next one that has a number. It is answered in any case. */
void trace_file_open(struct supervisor *s, struct gateway *gateway, bool numbered);
/* The end: no gateway is left. */
void trace_file_close(struct supervisor *s);

/* ---- listeners.c ------------------------------------------------------------------------------------------------- */

/* Opens the sockets of options into s->listeners. MU_EXISTS, MU_INVALID, MU_IO. */
MUST_CHECK mu_status listeners_open(struct supervisor *s, mu_error *err);
/* May be called again. The gateway's own copies are not touched. */
void listeners_close(struct supervisor *s);
/* "http://127.0.0.1:8000" into text; all addresses are called localhost. */
void listener_url(const char *address, uint16_t port, char *text, size_t size);

/* ---- wanted_models.c --------------------------------------------------------------------------------------------- */

/* What the options and the repository want served, planned with what the server has, appended to models (struct
 * served_model without number and workers). A model that wants GPUs while they are not known waits for them. choices
 * (struct model_choice): only those; NULL: all of the repository. What is wrong with one model is its reason, it is not
 * planned then. MU_INVALID, MU_IO, MU_NOT_FOUND …: what concerns all; models is untouched. */
MUST_CHECK mu_status wanted_models_find(const struct options *options, const struct planning *planning,
                                        const struct list *choices, struct list *models, mu_error *err);
/* A model that waited for the GPUs is planned, or gets its reason. MU_NO_MEMORY. */
MUST_CHECK mu_status wanted_model_plan(const struct options *options, const struct planning *planning,
                                       struct served_model *model);
/* The same for one model of those that can be chosen. MU_NOT_FOUND: there is none. */
MUST_CHECK mu_status wanted_model_find(const struct options *options, const struct planning *planning,
                                       const struct model_choice *choice, struct list *models, mu_error *err);
/* The GPUs that the server may use, as options and environment say. MU_INVALID. */
MUST_CHECK mu_status wanted_gpus(const struct options *options, const struct gpus *gpus, struct gpu_set *ret_set,
                                 mu_error *err);
/* Whether the GPUs that the operator asks for are there: else nothing is served, whether a model wants them or not. The
 * environment may be another one's doing: only models that want GPUs fail by it. MU_INVALID. */
MUST_CHECK mu_status wanted_gpus_check(const struct options *options, const struct gpus *gpus, mu_error *err);
/* Whether the options make sense. */
MUST_CHECK mu_status wanted_models_check(const struct options *options, mu_error *err);
/* Logs what their configurations say that has no effect here. */
void wanted_models_warn(const struct list *models);
/* Bytes that are the same as long as the same is wanted, made of the same. MU_NO_MEMORY. */
MUST_CHECK mu_status wanted_models_digest(const struct list *models, struct buffer *out);

/* One of them as it was found, with memory of its own; neither planned nor in a list. version: NULL where none was
 * found. NULL without memory. */
struct served_model *served_model_create(const struct options *options, const struct repository_model *found,
                                         const struct repository_version *version);

/* ---- served_models.c --------------------------------------------------------------------------------------------- */

/* Scans the repository and plans. MU_INVALID and others: nothing can be served, or --exit-on-error forbids to go on. */
MUST_CHECK mu_status served_models_create(struct supervisor *s, mu_error *err);
/* The model gets its number and its workers, which will run with these options and are not started. As
 * workers_create. */
MUST_CHECK mu_status served_model_enroll(struct supervisor *s, struct served_model *model,
                                         const struct options *options, mu_error *err);
/* No process of its workers is left, and no timer of theirs open. */
void served_model_free(struct served_model *model);
void served_models_free(struct list *models);
/* Into the list of all, at its place. */
void served_model_insert(struct supervisor *s, struct served_model *model);
/* The machine's GPUs are known: plans and starts the models that waited for that. */
void served_models_plan_waiting(struct supervisor *s);
/* Whether there are any. */
bool served_models_wait_for_gpus(const struct supervisor *s);
/* It stays as it is, though another one was to take its place. */
void served_model_keep(struct supervisor *s, struct served_model *model, const char *why);
/* What was said so is no longer true. */
void served_model_forgive(struct supervisor *s, struct served_model *model);
/* Takes it from the requests; it goes when they have ended. */
void served_model_remove(struct supervisor *s, struct served_model *model);
/* The gateway has nothing of that model left, or there is no gateway: its workers leave. */
void served_models_removed(struct supervisor *s, uint32_t number);
void served_models_forget(struct supervisor *s);
/* A process of its workers has ended, which all were told to. */
void served_model_check_gone(struct served_model *model);
/* Where it is UNAVAILABLE: only because its GPUs serve nobody, which says nothing about the model. */
bool served_model_rests(const struct served_model *model);
/* Recomputes the model's state from its workers; tells gateway and log when it has changed. */
void served_model_update(struct supervisor *s, struct served_model *model);
/* Tells the gateways of a model that they do not know. */
void served_model_tell(struct supervisor *s, const struct served_model *model);
/* Tells a new gateway everything about all models that it is to know. */
void served_models_tell(struct supervisor *s, struct gateway *gateway);
/* What a worker found. MU_INVALID: not what an earlier worker of the model found, or nonsense. */
MUST_CHECK mu_status served_model_loaded(struct supervisor *s, struct served_model *model,
                                         struct control_bytes metadata, mu_error *err);
/* Whether a failure of this model at start ends the server. */
bool served_model_must_start(const struct supervisor *s, bool named);

/* ---- workers.c --------------------------------------------------------------------------------------------------- */

/* Those of a model, by its plan; not started. MU_NO_MEMORY; MU_INVALID: too many devices. */
MUST_CHECK mu_status workers_create(struct supervisor *s, struct served_model *model, mu_error *err);
/* Forgets those of a model; their timers are closed. */
void workers_free(struct served_model *model);
void workers_start(struct served_model *model);
/* A new gateway is there: offers it every ready worker. */
void workers_attach(struct supervisor *s, struct gateway *gateway);
/* The gateway is gone: no worker is attached to it. */
void workers_detach(struct supervisor *s, const struct gateway *gateway);
/* Whether every worker that is ready takes requests from it. */
bool workers_are_attached(const struct supervisor *s, const struct gateway *gateway);
/* Whether every worker that takes requests from one takes them from the other, too. */
bool workers_follow(const struct supervisor *s, const struct gateway *from, const struct gateway *to);
/* The present gateway is another one: who is on the way to it has the usual time for that. */
void workers_await(struct supervisor *s);
/* Word of a gateway about a worker. */
void workers_attached(struct gateway *gateway, const struct control_worker_event *event);
void workers_condemn(struct gateway *gateway, const struct control_worker_event *event, enum death_wish wish);
/* Those of a model that is not needed any more: they leave. */
void workers_leave(struct supervisor *s, struct served_model *model);
/* That one gets no new batch, finishes what it has, leaves and is started again. MU_NOT_FOUND; MU_UNAVAILABLE: not now,
 * or it is the only one of its model that serves. */
MUST_CHECK mu_status workers_drain(struct supervisor *s, uint32_t number, mu_error *err);
/* Word of the gateway: it holds no request any more. */
void workers_retired(struct gateway *gateway, const struct control_worker_event *event);
/* All that run hear of it: changed settings. */
void workers_tell(struct supervisor *s, enum control_type type, const void *message);
/* What was decided about GPUs has changed: their workers leave, those of GPUs that serve again are started. */
void workers_obey_gpus(struct supervisor *s);
/* Kills those on the GPU of that number (its MIG devices too), which had a fault; they are started again after its
 * delay. Returns how many. */
uint32_t workers_restart_on_gpu(struct supervisor *s, int32_t index, const char *cause);
/* Tells all to leave; those that could not listen now (loading) are killed. */
void workers_stop(struct supervisor *s);
/* A worker of the supervisor before, into its place. */
MUST_CHECK mu_status worker_adopt(struct worker *worker, const struct handover_worker *from, mu_error *err);
void workers_kill(struct supervisor *s);
bool workers_gone(const struct supervisor *s);
const char *worker_state_name(enum worker_state state);
/* Starts a process in that place, or lets it wait for its turn. */
void worker_start(struct worker *worker);

/* A client's work has been ended as far as that went, or its place is vain: it is killed. */
void worker_end_now(struct worker *worker);
/* Its GPU's daemon counts it among its clients; or not, and why is said. */
void worker_is_client(struct worker *worker);
void worker_is_no_client(struct worker *worker, const char *why);
/* A place that waits for MPS, which cannot be had. */
void worker_fail(struct worker *worker, const char *why);
/* Kills those on that GPU that are clients of MPS, without blame. Returns how many. */
uint32_t workers_restart_under_mps(struct supervisor *s, const char *uuid, const char *cause);

/* ---- mps.c ------------------------------------------------------------------------------------------------------- */

/* Logs what of MPS's settings was inherited. */
void mps_say_inherited(void);
/* May a worker be started there now? false: it is QUEUED, and started when its GPU's daemon answers. */
bool mps_admit(struct worker *worker);
/* Whether mps_admit would say no. */
bool mps_holds(const struct worker *worker);
/* NULL: its device has none. */
struct mps_gpu *mps_of(const struct worker *worker);
/* A process has ended. */
void mps_worker_ended(struct worker *worker);
/* The place will not be filled again by itself. */
void mps_worker_rests(const struct worker *worker);
/* A fault ends all clients of that GPU, or MIG device: nobody new is started before they have left. */
void mps_settle(struct supervisor *s, const char *uuid);
const char *mps_state_name(enum mps_state state);

/* ---- mps_daemon.c ------------------------------------------------------------------------------------------------ */

/* Changed settings, to all keepers. */
void mps_tell(struct supervisor *s, enum control_type type, const void *message);
/* Tells all keepers to end their daemons, or lets go of them: they end by themselves. */
void mps_stop(struct supervisor *s, bool now);
bool mps_gone(const struct supervisor *s);
void mps_free(struct supervisor *s);
/* For the next supervisor; and what the one before had. */
size_t mps_count(const struct supervisor *s);
void mps_give(const struct supervisor *s, struct handover *state);
MUST_CHECK mu_status mps_take(struct supervisor *s, const struct handover_mps *from, mu_error *err);

/* ---- mps_membership.c -------------------------------------------------------------------------------------------- */

/* What a worker's process finds in its environment, "NAME=VALUE" each; NULL ends. */
struct mps_environment {
  char pipe[192], threads[64], memory[96];
  const char *entries[4];
};
/* Sets worker->under_mps, too. */
void mps_prepare(struct worker *worker, struct mps_environment *ret_environment);
/* The worker is warm: asks the daemon whether it is a client; worker_is_client or worker_is_no_client follows. false:
 * nothing is to be asked. */
bool mps_verify(struct worker *worker);
/* Whoever waits for the answer to a question hears it. */
void mps_check_clients(struct mps_gpu *mps, uint64_t serial);
/* Lets the daemon end its work; worker_end_now follows, or the caller's patience ends. false: it is no client. */
bool mps_terminate(struct worker *worker);
void mps_terminated(struct mps_gpu *mps, int32_t pid);
/* For `muster mps status`; NULL without memory. */
json_t *mps_json(const struct supervisor *s);

/* ---- load_queue.c ------------------------------------------------------------------------------------------------ */

/* Whether it may load now. If not, it is QUEUED. */
bool load_queue_admit(struct worker *worker);
/* Something on that device (by number) loads no longer: whose turn it is starts. */
void load_queue_next(struct supervisor *s, uint32_t device);

/* ---- fleet_process.c --------------------------------------------------------------------------------------------- */

void fleet_init(struct supervisor *s);
/* Looks which GPUs there are: gpus_known follows, at once or when the fleet process has answered. */
void fleet_start(struct supervisor *s);
/* Where there was no NVML: looks anew; reload_looked follows. false: there is nothing to look for. */
bool fleet_look_again(struct supervisor *s);
/* Changed settings, to the process if there is one. */
void fleet_tell(struct supervisor *s, enum control_type type, const void *message);
/* The server stops: it is killed, and not waited for. */
void fleet_stop(struct supervisor *s);
void fleet_free(struct supervisor *s);
const char *fleet_state_name(enum fleet_state state);
json_t *fleet_json(const struct supervisor *s); /* NULL without memory */
/* An upgrade: what processes there are, for state that has room for fleet_count; and the end of one that there was. */
size_t fleet_count(const struct supervisor *s);
void fleet_give(const struct supervisor *s, struct handover *state);
MUST_CHECK mu_status fleet_take(struct supervisor *s, const struct handover_fleet *from, mu_error *err);

/* ---- gpu_faults.c ------------------------------------------------------------------------------------------------ */

/* The machine's GPUs are known, or will not be soon: what waited for them is planned and started. */
void gpus_known(struct supervisor *s);
/* Requests of people: POST /gpus/fence?gpu=ID&reason=TEXT, POST /gpus/unfence?gpu=ID; GET /gpus. */
void gpus_answer_fence(struct supervisor *s, struct exchange *exchange);
void gpus_answer_unfence(struct supervisor *s, struct exchange *exchange);
void gpus_answer_list(struct supervisor *s, struct exchange *exchange);
/* The driver reports a fault of a GPU; uuid "": of one that it does not name. */
void gpus_xid(struct supervisor *s, const char *uuid, uint64_t xid);
/* A client of MPS there has lost its device: all have. */
void gpus_mps_fault(struct supervisor *s, const char *device);
/* Tells the gateways how the GPUs are; or a new one. */
void gpus_tell(struct supervisor *s);
void gpus_tell_gateway(struct supervisor *s, struct gateway *gateway);
/* A new inventory or new readings of it. */
void gpus_read(struct supervisor *s, const struct gpu_inventory *inventory);

/* ---- gateway_process.c ------------------------------------------------------------------------------------------- */

void gateways_init(struct supervisor *s);
/* The present one. */
void gateway_start(struct supervisor *s);
/* Starts one beside the present one. When it has the workers that the present one has, it takes over: upgrade.c hears
 * upgrade_gateway_left when the one before is gone, or upgrade_gateway_failed. MU_UNAVAILABLE: not now. */
MUST_CHECK mu_status gateway_start_successor(struct supervisor *s, mu_error *err);
/* Something that the successor, if there is one, waits for has changed. */
void gateways_check_listen(struct supervisor *s);
/* Sends to a gateway, where there is a process; a message that cannot be sent is logged and ends the gateway, because
 * what it knows would no longer be true. */
void gateway_tell(struct gateway *gateway, enum control_type type, const void *message, const int *fds, size_t n_fds);
/* The same to all of them. */
void gateways_tell(struct supervisor *s, enum control_type type, const void *message);
/* false: there is nobody who could drain. */
bool gateways_drain(struct supervisor *s, uint64_t deadline_ns);
/* None is started again. A process that is there leaves by itself (drained), or now. */
void gateways_stop(struct supervisor *s, bool now);
bool gateways_gone(const struct supervisor *s);
/* A gateway of the supervisor before. */
MUST_CHECK mu_status gateway_adopt(struct supervisor *s, const struct handover_gateway *from, mu_error *err);
/* The place beside the present one. */
struct gateway *gateway_other(struct supervisor *s);
const char *gateway_state_name(enum gateway_state state);

/* ---- regions.c --------------------------------------------------------------------------------------------------- */

/* Word of a gateway about shared memory of a client. All gateways hear what changes, that one the outcome. */
void regions_register(struct gateway *gateway, const struct control_region_register *message);
void regions_unregister(struct gateway *gateway, const struct control_region_unregister *message);
/* Tells a new gateway of all that there are. */
void regions_tell(struct supervisor *s, struct gateway *gateway);
/* For the next supervisor; state has room for all of them. And what the one before had. MU_NO_MEMORY, MU_INVALID. */
void regions_give(const struct supervisor *s, struct handover *state);
MUST_CHECK mu_status regions_take(struct supervisor *s, const struct handover *state, mu_error *err);
void regions_free(struct supervisor *s);

/* ---- fingerprint.c ----------------------------------------------------------------------------------------------- */

/* What the model is made of, as bytes: its configuration, its settings and plan, its files (which, and when changed).
 * MU_NO_MEMORY. */
MUST_CHECK mu_status fingerprint_take(struct served_model *model, const struct options *options);
/* Does the path still name the file that it named at first? */
bool fingerprint_has_file(const struct served_model *model);
bool fingerprint_same(const struct served_model *a, const struct served_model *b);

/* ---- reload.c ---------------------------------------------------------------------------------------------------- */

/* Begins, or refuses to. exchange: is answered when it is over; NULL: nobody waits for it (SIGHUP). */
void reload_request(struct supervisor *s, struct exchange *exchange);
/* Some models could not wait for the machine's GPUs, which are known now. */
void reload_for_gpus(struct supervisor *s);
/* For the reload that waits for it: what GPUs there are is known. error: what is wrong with NVML where that is more
 * than that it is missing; NULL: nothing. */
void reload_looked(struct supervisor *s, const char *error);
/* For the workers of the binary that now runs: what was inherited counts as changed. One model after the other. */
void reload_for_upgrade(struct supervisor *s);
/* Who waited has left. */
void reload_forget(struct supervisor *s, const struct exchange *exchange);
/* A COMING model has come, or cannot: goes on with the reload. */
void reload_came(struct supervisor *s, struct served_model *model);
void reload_failed(struct supervisor *s, struct served_model *model);
/* The gateway has done what was said before the mark, or is a new one. */
void reload_marked(struct supervisor *s);
/* A reload or an upgrade is over: SIGHUP that came meanwhile is seen to. */
void reload_resume(struct supervisor *s);
/* The server stops. */
void reload_abort(struct supervisor *s);

/* One model is loaded or unloaded, as operation says; operations_finished when it is over. Nothing else goes on. */
void reload_operate(struct supervisor *s, struct model_operation *operation);
/* The repository is looked at, without the settings; goes on only where it is not as it was. */
void reload_poll(struct supervisor *s);

/* ---- model_choice.c ---------------------------------------------------------------------------------------------- */

/* name and config are copied, the files duplicated. NULL without memory or descriptors. */
struct model_choice *model_choice_create(const char *name, const struct control_bytes *config, const int64_t *versions,
                                         const int *files, size_t n_files);
void model_choice_free(struct model_choice *choice); /* accepts NULL */
/* --load-model, and with * all that the repository has now. MU_NOT_FOUND: one is not there; MU_IO, MU_NO_MEMORY. */
MUST_CHECK mu_status model_choices_read(struct supervisor *s, mu_error *err);
/* NULL: it is not chosen. */
struct model_choice *model_choice_find(const struct list *choices, const char *name);
/* Takes the place of one of the same name; the list owns it. */
void model_choice_put(struct list *choices, struct model_choice *choice);
void model_choices_free(struct list *choices);
/* What wanted_models_find takes: NULL where all of the repository is wanted. */
const struct list *model_choices(const struct supervisor *s);

/* ---- model_notes.c ----------------------------------------------------------------------------------------------- */

/* That version is not served, for this reason. Without memory the index lacks it. */
void model_note(struct supervisor *s, const char *name, int64_t version, const char *reason);
/* What is known of that name but that it is there is forgotten. */
void model_notes_forget(struct supervisor *s, const char *name);
/* Looks which models the repository has, at most once a second. */
void model_notes_list(struct supervisor *s);
/* All to a new gateway. */
void model_notes_tell(struct supervisor *s, struct gateway *gateway);
void model_notes_free(struct supervisor *s);

/* ---- operations.c --------------------------------------------------------------------------------------------- */

void operations_init(struct supervisor *s);
/* Serving has begun: with --model-control-mode=poll the repository is watched. */
void operations_start(struct supervisor *s);
/* Messages of a gateway. */
void operations_load(struct gateway *gateway, const struct control_packet *packet);
void operations_unload(struct gateway *gateway, const struct control_model_unload *message);
void operations_index(struct gateway *gateway, const struct control_model_index *message);
/* Begins what waits, where nothing stands in its way. */
void operations_next(struct supervisor *s);
/* Whether something goes on or waits. */
bool operations_is_busy(const struct supervisor *s);
/* reload.c has done what operation wanted; took: a version of it serves, or with an unload none. */
void operations_finished(struct supervisor *s, struct model_operation *operation, mu_status status, bool took,
                         const char *text);
/* A reload of all is over: what is not there any more is not loaded any more either. */
void operations_reloaded(struct supervisor *s);
/* Nobody waits there any more; what was asked for is done all the same. */
void operations_forget(struct supervisor *s, const struct gateway *gateway);
/* The server stops. */
void operations_abort(struct supervisor *s);
void operations_free(struct supervisor *s);

/* What somebody asked for. */
struct model_operation {
  struct list link;      /* operations.waiting, while it waits */
  struct gateway *asker; /* NULL: is gone */
  uint64_t serial;       /* its own, for the answer */
  bool load;             /* false: unload */
  struct model_choice *choice;
};

/* ---- upgrade.c --------------------------------------------------------------------------------------------------- */

void upgrade_init(struct supervisor *s);
/* Answers: begins with the binary of the query, or refuses to. */
void upgrade_request(struct supervisor *s, struct exchange *exchange);
/* Goes on in the new binary. before: what it was given. */
void upgrade_resume(struct supervisor *s, const struct handover_server *before);
/* The server stops: nothing goes on. */
void upgrade_abort(struct supervisor *s);
/* For `muster status`; NULL without memory. */
json_t *upgrade_json(const struct supervisor *s);
bool upgrade_is_going(const struct supervisor *s);
/* The reload that is part of it is over, or another one. */
void upgrade_reloaded(struct supervisor *s);
/* A model has left. */
void upgrade_check_workers(struct supervisor *s);
/* The gateway that was there before has left everything to the present one. */
void upgrade_gateway_left(struct supervisor *s);
/* The one that was to come has ended; the present one goes on. */
void upgrade_gateway_failed(struct supervisor *s, const char *why);

/* ---- control_socket.c -------------------------------------------------------------------------------------------- */

MUST_CHECK mu_status control_socket_open(struct supervisor *s, mu_error *err);
/* The one of the supervisor before; takes fd over. */
MUST_CHECK mu_status control_socket_adopt(struct supervisor *s, int fd, const char *path, mu_error *err);
/* Unlinks it, too. */
void control_socket_close(struct supervisor *s);

#endif
