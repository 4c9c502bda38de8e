/*
 * What the loops of a gateway share: models, workers, the scheduler, memory. One short lock (core.lock) guards all of
 * it; a function whose name begins with core_ and says "locked" is called with it held.
 *
 * The way of a call through here (inference.c drives the first and the last step on the loop that owns its connection):
 *
 *   core_reserve -> (body arrives in the arena) -> core_submit -> scheduler -> dispatch.c -> channel -> worker
 *        ^ waits in core.reserving                                                  v
 *   call_event(CALL_RESERVED / CALL_DONE / CALL_LATE) <- completion.c <- doorbell on the worker's home loop
 */
#ifndef GATEWAY_CORE_H
#define GATEWAY_CORE_H

#include "api/rest_infer.h"
#include "channel/arena_space.h"
#include "channel/channel.h"
#include "config/options.h"
#include "control/link.h"
#include "gateway/gpus.h"
#include "gateway/grpc_inbox.h"
#include "gateway/regions.h"
#include "gateway/trace.h"
#include "metrics/exposition.h"
#include "net/http_server.h"
#include "net/loop.h"
#include "sched/sched.h"

#include <pthread.h>
#include <stdatomic.h>

struct attachment;
struct call;
struct core;

/* One event loop of the gateway and what belongs to its thread alone. */
struct gateway_loop {
  struct core *core;
  struct net_loop *net;
  uint32_t index;
  struct http_server *servers[2]; /* HTTP, then metrics (loop 0 only); NULL where there is none */
  uint32_t n_draining;            /* servers whose drain is not over */
  struct list free_calls;         /* struct call, kept for reuse */
  uint32_t n_free_calls;
  struct list talks;           /* grpc_talk.c */
  uv_timer_t watch_timer;      /* while there are any */
  struct grpc_scratch scratch; /* to inflate gRPC's messages; data NULL until one has come */
  pthread_t thread;            /* of every loop but the first */
  bool ending;                 /* it drains or hands over */
  struct list streams;         /* stream.c */
  uv_timer_t stream_timer;     /* while there are any */
  struct list websockets;      /* those of websocket.c */
  uv_timer_t ping_timer;       /* while there are any */
  /* Each may be on its way while another one is. drained_post goes to loop 0. */
  struct net_post open_post, hand_over_post, drain_post, drained_post, stop_post;
};

/* One generation of a model version. Made by CONTROL_MODEL_SET; after CONTROL_MODEL_REMOVE it goes when no call holds
 * it and no attachment of its workers is left. */
struct gateway_model {
  struct list link;     /* core.known */
  uint32_t number;      /* the supervisor's */
  bool listed;          /* in core.models: requests find it by its name */
  bool leaving;         /* CONTROL_MODEL_REMOVE came */
  bool removed;         /* and CONTROL_MODEL_REMOVED was said */
  atomic_uint calls;    /* that hold it: taken under the lock, let go by any thread */
  uint32_t attachments; /* that are not freed */
  struct model model;
  struct sched_model_params params; /* of its queues: from the supervisor, completed by what the model says */
  struct sched_model *sched;        /* NULL until the first worker is there */
  struct shared_memory input;       /* the input arena: written here, read by the workers */
  struct arena_space *input_space;
  struct slot_pool *slots;
  uint32_t attached;        /* workers that take requests */
  uint64_t executed_before; /* batches, when housekeeping last looked */
  uint32_t idle_ticks;      /* times in a row that it saw none executed */
  uint32_t n_reserving;     /* its calls in core.reserving */
  bool input_full;          /* core_retry_reserving: one of them found no room just now */
  bool batching_stopped;    /* an output's first dimension was not the batch: said once */
};

/* A device as the supervisor numbered it. */
struct gateway_device {
  uint32_t number;
  struct sched_device *sched;
};

/* The output memory of one batch: in the arena of one worker until the last reply that points into it has left. */
struct output_block {
  struct attachment *attachment;
  uint64_t offset, size;
  uint32_t users;
  struct output_block *next_free;
};

struct core {
  pthread_mutex_t lock;
  const struct options *options; /* as at the start; what a reload can change of them stands here below */
  uint64_t default_request_timeout_ns;
  bool strict_readiness;
  struct gateway_loop *loops;
  uint32_t n_loops;
  struct control_link *control; /* loop 0 only */
  struct regions regions;       /* shared memory of clients; has a lock of its own */
  struct list region_changes;   /* struct region_change: asked of the supervisor; loop 0 only, and so is the number */
  uint64_t last_region_change;

  struct sched *sched;
  int timer;               /* timerfd: the scheduler's next wake-up, armed from any thread, read by loop 0 */
  uint64_t timer_armed_ns; /* TIME_NEVER when not */

  struct gateway_model **models; /* those that are listed, by name, then version */
  size_t n_models;
  struct model **notes; /* of models that are not served, for the repository index: by name, then version */
  size_t n_notes, notes_capacity;
  struct list controls; /* struct model_control, on their way to the supervisor and back; loop 0 only */
  uint64_t last_control;
  struct list known; /* struct gateway_model: those, and the ones that are still coming or already leaving */
  size_t n_known;
  struct gateway_device *devices;
  size_t n_devices;
  struct connection_room room; /* of all HTTP listeners together */
  struct list attachments;     /* struct attachment */
  struct list stalled;         /* struct flight: chosen by the scheduler, waiting for output memory */
  struct list reserving;       /* struct call: waiting for input memory, oldest first */
  /* --memory-budget, and what of it bodies that are still collected, inputs, and replies on their way may take. They
   * leave room for outputs: were all of it held by requests that wait, none of them could ever go on, and were all of
   * it held by clients that do not read, nobody else could. */
  struct memory_budget budget, input_budget, staging_budget, output_budget, reply_budget;
  struct output_block *free_blocks;
  struct list free_flights;
  /* Scratch of dispatching, for the largest batch of any model. */
  struct channel_job job;
  struct channel_completion completion;
  struct channel_span *spans;
  struct call **members;
  uint32_t spans_capacity, members_capacity;
  bool look_for_abandoned; /* a request left while it was in flight: somebody may run for nobody */
  struct list telling;     /* struct attachment: loop 0 has something to tell the supervisor about it */
  struct net_post report_post;
  bool report_posted;
  struct net_post log_post; /* the supervisor is to be told of changed log settings */
  bool log_posted;

  struct gateway_gpus gpus;

  struct metrics_config metrics_config;
  struct tracer tracer;
  pthread_mutex_t machine_lock; /* never held together with the other one */
  struct machine machine;

  _Atomic bool draining;
  uint64_t worker_deaths;
  uint64_t started_ns;
};

/* ---- model_table.c: which models there are ----------------------------------------------------------------------- */

/* The listed version of a name: that one, or with version -1 the highest that is ready (else the highest). NULL: none.
 * It stays until it is let go with core_release_model. Takes the lock. */
struct gateway_model *core_hold_model(struct core *core, const char *name, int64_t version);
void core_release_model(struct gateway_model *model); /* any thread, locked or not */

struct gateway_model *core_model_by_number(struct core *core, uint32_t number); /* locked */

/* A new one becomes known. Locked; MU_NO_MEMORY: it is still the caller's. */
MUST_CHECK mu_status core_add_model(struct core *core, struct gateway_model *model);
/* Requests find it from now on, and no longer the one of the same name and version. Locked. */
void core_list_model(struct core *core, struct gateway_model *model);
/* CONTROL_MODEL_REMOVE. Takes the lock. */
void core_remove_model(struct core *core, const struct control_model_number *message);
/* Now and then, on loop 0: says which of the models that leave are not in use any more, and frees those that nothing
 * is left of. Locked; sched_next has to follow. */
void core_settle_models(struct core *core);
void core_free_model(struct gateway_model *model); /* not known; accepts NULL */

/* CONTROL_MODEL_NOTE. Takes the lock. */
void core_note_model(struct core *core, const struct control_model_note *message);
/* All that the repository index lists: what is listed, then what else is known by another name. NULL without memory;
 * to be freed. Locked; *ret_n. */
const struct model **core_index_models(const struct core *core, size_t *ret_n);

/* What documents say of models; both locked, the array is the caller's, NULL without memory. All that are listed of
 * this name and version ("" and -1: any); the versions listed of a name. */
const struct model **core_models_of(const struct core *core, const char *name, int64_t version, size_t *ret_n);
int64_t *core_versions_of(const struct core *core, const char *name, size_t *ret_n);
/* MU_UNAVAILABLE: why nothing more is known of the model. Locked. */
MUST_CHECK mu_status core_not_loaded(const struct model *model, mu_error *err);

/* ---- core.c: models and memory ----------------------------------------------------------------------------------- */

/* MU_NO_MEMORY, MU_IO. options are borrowed. The core lives as long as the process: nothing in it outlives that. */
MUST_CHECK mu_status core_init(struct core *core, const struct options *options, uint32_t n_loops, mu_error *err);

/* Makes core.loops[i], which has no servers yet. MU_NO_MEMORY. */
MUST_CHECK mu_status core_init_loop(struct core *core, uint32_t i);

/* CONTROL_OPTIONS: takes over what a reload can change. Takes the lock. */
void core_set_options(struct core *core, const struct options *options);

/* MU_OK, or MU_UNAVAILABLE with why: loading for the first time, failed, unloading. The first one takes the lock. */
MUST_CHECK mu_status core_model_takes_requests(struct core *core, const struct gateway_model *model, mu_error *err);
MUST_CHECK mu_status core_model_check(const struct gateway_model *model, mu_error *err); /* locked */

/* Has it a worker that answers now? Locked. */
bool core_model_ready(const struct gateway_model *model);
/* Readiness of the server by --strict-readiness. Takes the lock. */
bool core_ready(struct core *core);

/* Control messages about models. Take the lock; failures are logged, the model is then UNAVAILABLE with the reason. */
void core_set_model(struct core *core, const struct control_model_set *message);
void core_model_loaded(struct core *core, const struct control_model_loaded *message);
/* Gives the model its queues in the scheduler. batch_tokens: device tokens that one batch takes. Locked. */
MUST_CHECK mu_status core_schedule_model(struct core *core, struct gateway_model *model, uint32_t batch_tokens,
                                         mu_error *err);

/* When the client is answered whatever has become of the request: by its own timeout or the default one. Locked. */
uint64_t core_deadline_ns(const struct core *core, const struct request *request);

/* Memory of a connection's staging (JSON text) against the budget. Take the lock. */
bool core_stage(struct core *core, uint64_t bytes);
void core_unstage(struct core *core, uint64_t bytes);

/* The same for memory in which replies wait for their clients: text, and what slow ones have not read yet. */
bool core_hold(struct core *core, uint64_t bytes);
void core_let_go(struct core *core, uint64_t bytes);

/* Input memory for a parsed request: MU_OK (request.inputs[].data are set), MU_UNAVAILABLE: the call waits in line and
 * gets CALL_RESERVED; MU_TOO_LARGE, MU_NO_MEMORY. Takes the lock. */
MUST_CHECK mu_status core_reserve(struct core *core, struct call *call, mu_error *err);

/* Locked: those who wait for input memory try again. */
void core_retry_reserving(struct core *core, struct list *outbox);

/* Locked, after `bytes` could not be had. When it was the budget that lacked them, what all models keep for their next
 * requests is given back. true: something was, try again. */
bool core_make_room(struct core *core, const struct memory_budget *budget, uint64_t bytes);

/* Now and then, on loop 0: who waits for memory past its deadline is refused; models that executed nothing for
 * idle_ticks calls in a row give the slots that they keep back. Takes the lock. */
void core_keep_house(struct core *core, uint32_t idle_ticks);

/* A call that waits for memory gives up. Takes the lock. false: its event is on its way already. */
bool core_forget_reserving(struct core *core, struct call *call);

/* Requests that one batch of the model can hold. */
uint32_t core_max_members(const struct gateway_model *model);

/* ---- dispatch.c: the scheduler's decisions ----------------------------------------------------------------------- */

/* Queues a call whose inputs are complete. On failure it stays the caller's. Takes the lock. */
MUST_CHECK mu_status core_submit(struct core *core, struct call *call, mu_error *err);

/* The client has left or the call is answered otherwise. true: the call is the caller's again; false: a CALL_DONE comes
 * later. Takes the lock. */
bool core_cancel(struct core *core, struct call *call);

/* The same for a call that only waits: false and nothing happens where it is in flight or on its way back. */
bool core_withdraw(struct core *core, struct call *call);

/* Locked: carries out what the scheduler decides now, and arms the timer for what it decides later. Events for calls
 * are collected in outbox, to be sent with core_deliver after the lock is gone. */
void core_run(struct core *core, struct list *outbox);

/* Not locked: hands events to the loops that own the calls. Those of `here` are handled at once, which only a callback
 * of that loop's own may ask for: inside one of an exchange (NULL then) it would answer others in the middle of it, and
 * they others in turn. */
void core_deliver(struct list *outbox, struct gateway_loop *here);

/* Locked: the last reply out of the block has left. */
void core_block_release(struct core *core, struct output_block *block);

/* Locked: gives input memory back. core_run then lets those who wait for it try. */
void core_release_inputs(struct core *core, struct call *call);

/* A call leaves without having been queued, or its reply has left: its memory goes back, and those who wait for memory
 * try again. Take the lock. */
void core_drop_inputs(struct core *core, struct call *call);
void core_drop_block(struct core *core, struct call *call);

/* The timer that core_run has armed, on loop 0: deadlines, waits. */
void core_tick(struct core *core);

/* ---- attachment.c: workers --------------------------------------------------------------------------------------- */

/* Control messages about workers; loop 0. socket is taken over, -1 where it was lost. Take the lock. */
void core_attach_worker(struct core *core, const struct control_worker_attach *message, int socket);
void core_retire_worker(struct core *core, const struct control_worker_retire *message);
void core_worker_gone(struct core *core, const struct control_worker_gone *message);
/* Now and then, on loop 0: says which of the workers that were retired have finished. Locked. */
void core_settle_workers(struct core *core);

#endif
