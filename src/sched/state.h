/*
 * What the opaque names of sched.h stand for, and the calls between the files of the scheduler:
 *
 *   sched.c     devices, models, instances: made and ended; sched_submit, sched_cancel, sched_next, sched_wake_ns
 *   key.c       shape keys: hash table, LRU of those not in use
 *   queue.c     jobs waiting: limits, levels, order, forming a batch
 *   hold.c      whether a key's batch goes now or waits for more (explicit delay, preferred sizes, learned wait)
 *   dispatch.c  which instance takes work, which model's turn it is on a device
 *   batch.c     batches in flight
 *   deadline.c  timers of jobs, batches and held keys
 *   speed.c     how fast devices are beside one another
 *   blame.c     what happens to the jobs of a batch that failed
 *   curve.c, enough.c, wait.c, heap.c   stand alone
 */
#ifndef SCHED_STATE_H
#define SCHED_STATE_H

#include "sched/curve.h"
#include "sched/enough.h"
#include "sched/heap.h"
#include "sched/sched.h"
#include "sched/wait.h"

enum job_state {
  JOB_OWNERS = 0, /* not in the scheduler */
  JOB_WAITING,    /* in a rank of its key */
  JOB_ALONE,      /* in its model's list of solo jobs */
  JOB_IN_FLIGHT,
  JOB_LATE,      /* in flight, and its client was answered */
  JOB_GOING_BACK /* in sched->going_back */
};

/* Why a job goes back to its owner without a result; indexes the table in deadline.c. */
enum reason {
  BACK_DEADLINE,
  BACK_QUEUE_TIMEOUT,
  BACK_CANCELED,
  BACK_BLAMED,
  BACK_ATTEMPTS,
  BACK_REMOVED,
  BACK_UNSERVED
};

struct sched {
  struct sched_params params; /* without zeros */
  struct list devices, models;
  struct list offering;   /* models that may have work for an open instance */
  struct list unsettled;  /* devices where something changed */
  struct list going_back; /* jobs */
  struct list removed;    /* models, to be freed when nothing is left of them */
  struct heap job_timers, batch_timers, hold_timers;
  uint32_t n_jobs, n_instances, n_keys; /* that the timer heaps have room for */
  uint64_t positions, batch_ids, dispatches;
};

struct sched_device {
  struct sched *sched;
  struct list link, unsettled;
  uint32_t tokens, free_tokens;
  struct heap contenders; /* shares with an instance that waits for the device, by used_ns */
  uint32_t n_shares;
  uint64_t turn_ns; /* used_ns of the share that last had a turn: where a newcomer starts */
};

/* A model on a device. */
struct sched_share {
  struct sched_model *model;
  struct sched_device *device;
  struct list link;
  struct heap parked;     /* instances waiting for the device, by score */
  uint32_t at;            /* in device->contenders, while parked is not empty, */
  struct list contending; /* and then in model->contending */
  uint32_t n_instances, n_idle, n_busy;
  uint64_t used_ns; /* virtual time: device time x tokens x priority level */

  double measured, speed;             /* beside the fastest of the model: as learned, and as it is used (speed.h) */
  uint64_t last_batch, last_measured; /* model->batches then */
  bool due;                           /* to be measured again */
};

struct sched_model {
  struct sched *sched;
  struct sched_model_params params;
  struct list link, offering;
  uint32_t max_rows; /* 1: no batching */
  uint32_t n_levels; /* at least 1 */
  bool removed;

  struct list shares, instances;
  struct list contending;          /* shares that wait for their device */
  uint32_t n_instances, n_working; /* all; those that take work */
  uint32_t n_idle;                 /* working ones without a batch */
  struct heap open;                /* instances with room, by score, that found no work */
  struct sched_instance *apart;    /* reserved for solo jobs … */
  bool apart_whole;                /* … with its whole process: the next one is a suspect */

  struct heap ready;    /* keys whose batch may go, by their oldest job */
  uint32_t n_with_jobs; /* keys with waiting jobs */
  struct list alone;    /* solo jobs waiting, by position */
  bool alone_next;      /* the turn is a solo job's, where others are in its way */
  uint32_t waiting;     /* jobs, solo ones included */
  uint64_t waiting_bytes;
  uint32_t level_waiting[SCHED_PRIORITY_MAX + 1];
  uint32_t going_back; /* jobs in sched->going_back */
  uint32_t jobs_in_flight, batches_in_flight;
  uint64_t rows_in_flight;
  uint32_t n_busy; /* instances with a batch */

  uint64_t batches;  /* started, while there are several shares */
  uint32_t compared; /* batches since the speeds were */
  bool uneven;       /* a share is used as a slow one */

  struct sched_key **buckets; /* by hash */
  uint32_t n_buckets, n_keys, n_unused;
  struct list unused; /* keys without jobs, least recently used first */
};

/* Instances that die together; a struct goes with its last instance. */
struct process {
  struct list instances;
  uint32_t n_instances;
  uint32_t outstanding; /* batches on all of them */
  bool exclusive;       /* a suspect runs: nothing beside it */
};

struct sched_instance {
  struct sched_model *model;
  struct sched_share *share;
  struct process *process;
  struct list link, in_process;
  struct heap *heap; /* where at points: model->open or share->parked */
  uint32_t at;
  uint32_t depth, outstanding;
  uint64_t rows; /* outstanding */
  double speed;
  bool retired;
  bool exclusive;                   /* a solo job runs: nothing beside it */
  bool idle;                        /* counted in n_idle */
  struct list spare;                /* batches */
  struct list flying;               /* batches in the order they were handed out; the first one runs */
  uint64_t last_used;               /* sched->dispatches at its last batch */
  const struct sched_key *last_key; /* of the last batch learned from; may be gone */
  uint32_t last_rows;
  uint64_t last_ended_ns;
  void *owner;
};

struct batch {
  struct sched_batch shown; /* first: the owner's pointer is ours */
  uint64_t started_ns;      /* when it became the first of its instance; TIME_NEVER: not yet */
  uint64_t charged_ns;      /* expected time, already counted */
  uint32_t weight;          /* tokens x priority level */
  uint32_t capacity;        /* of shown.jobs */
  uint32_t timer_at;
};

enum { RANK_WORDS = SCHED_PRIORITY_MAX * 2 / 64 };

struct sched_key {
  struct sched_model *model;
  void *owner;
  struct list unused;     /* in model->unused while uses is 0 */
  struct sched_key *next; /* in its bucket */
  uint64_t hash;
  uint32_t uses;   /* jobs in the scheduler */
  uint32_t n_jobs; /* waiting in the ranks */
  uint64_t rows;   /* of these */
  uint32_t runs;   /* batches that ended well */
  uint32_t ready_at, hold_at;
  uint32_t hold_rows; /* while held: so many rows end it */
  struct curve curve;
  struct enough enough;
  struct wait wait;
  uint64_t filled[RANK_WORDS]; /* bit r: ranks[r] is not empty */
  size_t size;
  uint8_t *bytes;
  struct list ranks[]; /* 2 a level: in time, then delayed; jobs in order of arrival */
};

/* Zeroed; NULL without memory. */
void *sched_allocate(const struct sched_params *params, size_t size);

/* key.c */
void key_use(struct sched_key *key);
void key_release(struct sched_key *key); /* may free another key, never this one */
void keys_free(struct sched_model *model);

/* queue.c */
MUST_CHECK mu_status queue_admit(struct sched_job *job, mu_error *err); /* sets the level */
void queue_push(struct sched_job *job);  /* at its place by level, delayed and position, or among the solo ones */
void queue_take(struct sched_job *job);  /* out, wherever it waits; its key may have become empty */
void queue_delay(struct sched_job *job); /* behind all others of its level */
struct sched_job *queue_head(const struct sched_key *key); /* oldest of the first rank; NULL when empty */
/* The one behind job in the order in which batches take them; NULL at the end. */
struct sched_job *queue_after(const struct sched_key *key, const struct sched_job *job);
uint64_t queue_oldest_ns(const struct sched_key *key); /* when the oldest job of all ranks was submitted */
void queue_settle(struct sched_key *key);              /* its head changed: its place among the model's keys */
/* Moves jobs from the head on into the batch: at least one, then while the rows fit. */
void queue_form(struct sched_key *key, uint32_t max_rows, struct batch *batch);
void queue_drop_all(struct sched_model *model, enum reason reason);

/* hold.c */
bool hold_full(const struct sched_key *key); /* another job would not fit any more */
/* The rows that the batch of the key may have now on an instance of this speed; 0: it is held from here on. */
uint32_t hold_limit(struct sched_key *key, double speed, uint64_t now_ns);
void hold_end(struct sched_key *key);    /* time is up or the rows are there: asks hold_limit again */
void hold_cancel(struct sched_key *key); /* its jobs have gone */
bool hold_learns(const struct sched_model *model);

/* dispatch.c */
void model_offer(struct sched_model *model); /* there may be work for an open instance */
/* The model has less to run: an instance of it that waits for a device may only be in the way of others there. */
void model_withdraw(struct sched_model *model);
void model_choose_apart(struct sched_model *model);   /* after solo jobs or instances came or went */
void process_place(struct process *process);          /* instance_place of all in it */
void instance_place(struct sched_instance *instance); /* something about it changed: into the heap where it belongs */
void device_unsettle(struct sched_device *device);
struct batch *dispatch_next(struct sched *sched, uint64_t now_ns);
uint32_t dispatch_startable(const struct sched_share *share); /* instances that could start a batch now */
uint32_t dispatch_parallel(const struct sched_model *model);  /* of all shares */
void dispatch_charge(struct sched_share *share, int64_t ns);
void dispatch_release(struct sched_instance *instance); /* it is idle: its tokens are free */

/* batch.c */
/* alone: the solo job that the batch is for; NULL: a batch from the queue of key. */
struct batch *batch_start(struct sched_instance *instance, struct sched_key *key, struct sched_job *alone,
                          uint32_t max_rows, uint64_t now_ns);
/* Off its instance and device; its jobs are still marked in flight. Returns how long it ran (0: never the first). */
uint64_t batch_end(struct batch *batch, uint64_t now_ns);
void batch_recycle(struct batch *batch); /* the slot is free; frees a retired instance with its last */

/* sched.c */
void instance_end(struct sched_instance *instance);  /* no new work */
void instance_free(struct sched_instance *instance); /* without batches */

/* deadline.c */
void deadline_set(struct sched_job *job); /* by its state */
void job_leave(struct sched_job *job);    /* the owner's again: off timers and counts */
void job_send_back(struct sched_job *job, enum reason reason);
void job_take_back(struct sched_job *job); /* out of sched->going_back: the owner's again */
bool deadline_next(struct sched *sched, uint64_t now_ns, struct sched_decision *ret_decision);

#endif
