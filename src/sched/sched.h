/*
 * The scheduler: which requests run together, where, and when. Pure: events and times go in, decisions come out; no
 * clock, no socket, no thread, no allocation per request once warm. One thread at a time (the gateway holds its core
 * lock around every call); the unit tests and `muster plan` drive it with a simulated clock.
 *
 *   submit / cancel / batch_done / batch_failed / instance_lost  ->  sched  ->  sched_next: run, drop, late, hung
 *
 * After every event the owner calls sched_next until it returns false, then sleeps until sched_wake_ns. The time given
 * never goes back from one call to the next.
 *
 * Ownership: a job is embedded in the owner's request. From a successful sched_submit it belongs to the scheduler until
 * it comes back in one of three ways: in a batch given to sched_batch_done, in a SCHED_DROP decision, or from a
 * sched_cancel that returned true. Models, instances, batches and shape keys belong to the scheduler.
 */
#ifndef SCHED_SCHED_H
#define SCHED_SCHED_H

#include "base/clock.h"
#include "base/list.h"
#include "base/status.h"

struct sched;
struct sched_device;
struct sched_model;
struct sched_instance;
struct sched_key; /* (model, shape key): requests of one key can share a batch */

enum sched_choice {
  SCHED_QUEUE_DEPTH, /* idle first, then the least outstanding rows, both by measured speed */
  SCHED_ROUND_ROBIN,
};

struct sched_queue_policy {
  bool delay;                  /* on timeout go behind all others (DELAY) instead of being refused (REJECT) */
  uint64_t default_timeout_ns; /* 0: none */
  bool allow_timeout_override; /* a request's own timeout counts when it is shorter */
  uint32_t max_queue_size;     /* requests; 0: only the model's max_queue_requests */
};

enum { SCHED_PREFERRED_MAX = 16, SCHED_PRIORITY_MAX = 64 };

struct sched_model_params {
  uint32_t max_batch;       /* rows; 0 or 1: every request runs alone */
  bool has_max_queue_delay; /* explicit: acts as in Triton; otherwise the learned wait */
  uint64_t max_queue_delay_ns;
  uint32_t preferred[SCHED_PREFERRED_MAX]; /* rows, ascending */
  uint32_t n_preferred;
  bool preserve_ordering;   /* one batch of the model in flight at a time */
  uint32_t priority_levels; /* 0: none; levels are 1 (first) to priority_levels */
  uint32_t default_priority_level;
  struct sched_queue_policy policies[SCHED_PRIORITY_MAX + 1]; /* [0]: without levels; else by level */
  uint32_t max_queue_requests;                                /* waiting, over all levels; 0: unbounded */
  uint64_t max_queue_bytes;                                   /* 0: unbounded */
  uint64_t max_learned_wait_ns;                               /* upper bound of the learned wait; 0 switches it off */
  uint64_t max_execution_ns;   /* a batch is hung after this; 0: the larger of 60 s and 100 x the learned p99 */
  uint64_t first_execution_ns; /* the same for the first run of a shape key (load_timeout); 0: 600 s */
  uint32_t tokens;             /* device tokens that a busy instance takes; 0 is 1, more than the device has is all */
  enum sched_choice choice;
  void *owner; /* the caller's model; handed back by sched_model_owner */
};

/* Embedded in the owner's request. The owner fills the first part before sched_submit and leaves the rest alone. */
struct sched_job {
  struct sched_key *key; /* from sched_key_get, same scheduler */
  uint32_t rows;         /* 1 … max_batch (any number from 1 for a model that does not batch) */
  uint32_t priority;     /* 0: the model's default */
  uint64_t bytes;        /* counted against max_queue_bytes */
  uint64_t deadline_ns;  /* absolute; TIME_NEVER: none. Passing it in the queue is SCHED_DROP, in flight SCHED_LATE */
  uint64_t timeout_ns;   /* the request's own queue timeout (0: none), as Triton's `timeout` parameter */
  bool drop_late;        /* dropped with MU_TIMEOUT as soon as it cannot be done by its deadline, as far as is known */

  uint64_t submitted_ns;     /* set by sched_submit */
  uint64_t dispatched_ns;    /* set when its batch is handed out, last attempt */
  uint64_t position;         /* order of arrival, for fairness across keys and going back to the front */
  struct list link;          /* private */
  struct sched_batch *batch; /* private: the batch that it is in */
  uint64_t queue_until_ns;   /* private: end of its queue timeout */
  uint32_t timer_at;         /* private */
  uint32_t level;            /* private */
  uint16_t attempts;         /* batches handed out with it that ended with the death of the worker or an error */
  uint8_t state;             /* private */
  uint8_t reason;            /* private: why it is on its way back */
  bool delayed;              /* private: behind all others of its level */
  bool solo;                 /* must run alone: it was in a batch that failed or killed its worker */
  bool suspect;              /* solo, with nothing beside it in its whole process: it may have killed one */
  bool canceled;             /* owner asked for cancel while in flight; answer nothing, free on sched_batch_done */
};

/* Jobs that run together on one instance. Valid from SCHED_RUN until sched_batch_done / _failed / instance_lost. */
struct sched_batch {
  uint64_t id; /* unique in this scheduler, never reused */
  struct sched_instance *instance;
  struct sched_key *key;
  struct sched_job **jobs;
  uint32_t n_jobs;
  uint32_t rows;
  uint32_t live; /* jobs neither cancelled nor late: 0 means that nobody waits for the run any more */
  uint64_t dispatched_ns;
  void *owner; /* for the caller */
  /* The run as the instance measured it, for the caller to fill in before sched_batch_done: what is learned of times is not
   * to hold how late a busy caller sees the end. 0, or times that cannot be: the scheduler's own are taken. */
  uint64_t run_started_ns, run_ended_ns;
  struct list link; /* private */
};

enum sched_action {
  SCHED_RUN,  /* send `batch` to its instance */
  SCHED_DROP, /* `job` is the owner's again; answer it with `status` and `why` */
  SCHED_LATE, /* `job` is in flight and past its deadline: answer the client, keep its memory until the batch ends */
  SCHED_HUNG, /* the instance of `batch` is hung: have its worker killed, then call sched_instance_lost with blame */
};

struct sched_decision {
  enum sched_action action;
  struct sched_batch *batch;
  struct sched_job *job;
  mu_status status; /* MU_TIMEOUT, MU_INTERNAL (blamed alone, or too many attempts), MU_UNAVAILABLE (model removed) */
  const char *why;  /* static text, a full sentence for the client */
};

struct sched_params {
  uint32_t keys_per_model; /* bound of the LRU of shape keys that are not in use; 0: 256 */
  uint32_t max_attempts;   /* how often one request goes back to the queue after a failure; 0: 8 */
  /* Where memory comes from: zeroed, released with free(); NULL when there is none. NULL here: calloc. */
  void *(*allocate)(void *context, size_t size);
  void *allocate_context;
};

/* NULL without memory. params may be NULL. */
struct sched *sched_create(const struct sched_params *params);
void sched_free(struct sched *sched); /* accepts NULL; no job may be in it */

/* tokens: how much may run on the device at once (CPU: cores; GPU: max_concurrent). NULL without memory. */
struct sched_device *sched_add_device(struct sched *sched, uint32_t tokens);

/* params are copied. NULL without memory or when params contradict themselves. */
struct sched_model *sched_add_model(struct sched *sched, const struct sched_model_params *params);
void *sched_model_owner(const struct sched_model *model);

/* The model takes nothing any more; what waits comes back as SCHED_DROP MU_UNAVAILABLE. Its batches in flight end as
 * usual; the memory goes with the last of them (its instances must be removed by sched_instance_lost/_remove). */
void sched_remove_model(struct sched *sched, struct sched_model *model, uint64_t now_ns);

/* What waits comes back as SCHED_DROP MU_UNAVAILABLE: nobody will run it, since no instance is left and none will come.
 * The model stays, for the case that one comes after all. */
void sched_model_drop_waiting(struct sched_model *model);

/* Limits batches to one row from now on (an output whose first dimension is not the batch). */
void sched_model_stop_batching(struct sched_model *model);

/* depth: batches that may be outstanding on the instance (1: the next one is formed when it is idle). speed: relative
 * weight for the choice, 1.0 is normal. NULL without memory. */
struct sched_instance *sched_add_instance(struct sched *sched, struct sched_model *model, struct sched_device *device,
                                          uint32_t depth, double speed, void *owner, uint64_t now_ns);
/* One more instance in the process of `of`, for the same model on the same device, with its depth and speed: they live
 * and die together. NULL without memory. */
struct sched_instance *sched_add_sibling(struct sched *sched, struct sched_instance *of, void *owner, uint64_t now_ns);
/* How fast its device is for the model beside the fastest of those that the model is on, as measured: 1 to almost 0. */
double sched_instance_speed(const struct sched_instance *instance);
void *sched_instance_owner(const struct sched_instance *instance);

/*
 * The instance's process is confirmed dead (or detached): its batches and those of its siblings go back to the front of
 * the queue in their old order; all of these instances are gone after the call. blamed: the process caused it itself.
 * Nobody knows by which of its batches, so every job that was in flight there is a suspect from now on: it runs alone
 * in a whole process, which is set apart for it while other work goes elsewhere (where there is only one process, in
 * turn with other work); a suspect whose process dies again is dropped with MU_INTERNAL. Not blamed: requeued until the
 * deadline, at most max_attempts times, after the third one of its batch alone. Jobs cancelled or late meanwhile are dropped (SCHED_DROP with MU_CANCELED /
 * MU_TIMEOUT) so that their memory can go.
 */
void sched_instance_lost(struct sched *sched, struct sched_instance *instance, bool blamed, uint64_t now_ns);

/* No new work for the instance; returns true when it is idle and gone, false when it goes with its last batch. */
bool sched_instance_retire(struct sched *sched, struct sched_instance *instance, uint64_t now_ns);

/* The shape key for these bytes (dtype and dims without the batch dimension, as the owner encodes them), made when new.
 * Never NULL except without memory. Keys in use are pinned; others live in a bounded LRU, so a key that is not used in
 * a job at once must be fetched again. */
struct sched_key *sched_key_get(struct sched *sched, struct sched_model *model, const void *bytes, size_t size);

/* Per shape key room for the owner (learned output shapes). Freed with free() when the key leaves the LRU. */
void **sched_key_owner(struct sched_key *key);
struct sched_model *sched_key_model(const struct sched_key *key);

/* MU_OK: queued. MU_UNAVAILABLE: queue full (requests or bytes) or model removed; MU_INVALID: rows out of range or an
 * unknown priority level; the job stays the owner's. err says which limit. */
MUST_CHECK mu_status sched_submit(struct sched *sched, struct sched_job *job, uint64_t now_ns, mu_error *err);

/* The client has left. true: it was waiting and is the owner's again. false: it is in flight; it comes back with its
 * batch, marked canceled. */
bool sched_cancel(struct sched *sched, struct sched_job *job, uint64_t now_ns);

/* The owner wants a job back that only waits. false: it is in flight or on its way back, and nothing has changed. */
bool sched_withdraw(struct sched *sched, struct sched_job *job);

/* The batch was answered: the instance is free, the curve learns, the jobs are the owner's again. The batch struct is
 * gone after the call, so the owner takes the jobs from it before. */
void sched_batch_done(struct sched *sched, struct sched_batch *batch, uint64_t now_ns);

/* The engine answered the batch with an error. One job: it is the owner's (true: answer it with the error).
 * Several: all go back to the front as solo (false), so that the neighbours get their answers. An error has hurt nobody
 * else: other instances of the process go on beside them. */
bool sched_batch_failed(struct sched *sched, struct sched_batch *batch, uint64_t now_ns);

/* The next decision, if there is one. */
bool sched_next(struct sched *sched, uint64_t now_ns, struct sched_decision *ret_decision);

/* When sched_next could next have something to say without an event before; TIME_NEVER when never. */
uint64_t sched_wake_ns(const struct sched *sched);

/* Learned time of a batch of `rows` of this key on the fastest device; 0 when nothing is known. For tests, statistics
 * and `muster plan`. */
uint64_t sched_key_batch_ns(const struct sched_key *key, uint32_t rows);

/* For /stats and readiness. */
struct sched_model_view {
  uint32_t waiting; /* requests in the queue */
  uint64_t waiting_bytes;
  uint32_t in_flight; /* requests */
  uint32_t instances; /* that take work */
  uint32_t keys;      /* shape keys held */
};
void sched_model_look(const struct sched_model *model, struct sched_model_view *ret_view);

#endif
