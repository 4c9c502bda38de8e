/*
 * A worker as the gateway sees it: its channel, its instances in the scheduler, the batches it holds, the space of its
 * output arena. Guarded by the core lock, except for the poll handles, which belong to its home loop.
 */
#ifndef GATEWAY_ATTACHMENT_H
#define GATEWAY_ATTACHMENT_H

#include "gateway/core.h"

/* A batch on its way: from the scheduler's decision until it is done, failed or lost. */
struct flight {
  struct list link; /* attachment.flights, or core.stalled */
  struct attachment *attachment;
  struct sched_batch *batch;
  uint32_t lane;
  uint32_t n_outputs;
  uint32_t outputs[CHANNEL_TENSORS_MAX]; /* indices wanted by any of its requests */
  struct output_block *block;            /* NULL while stalled */
  bool stopping;                         /* the worker was asked to stop it */
  bool fetching;                         /* the run is over, its outputs did not fit: they are asked for again */
  bool sized;                            /* a run has said how many bytes they take: */
  uint64_t needed[CHANNEL_TENSORS_MAX];
  struct batch_times times;                          /* of what the worker has done for it so far */
  uint64_t started_ns, input_ns, infer_ns, ended_ns; /* of its run; the end is that of its last fetch */
};

struct lane {
  struct attachment *attachment;
  struct sched_instance *instance; /* NULL once gone */
  uint32_t index;
};

struct attachment {
  struct list link; /* core.attachments */
  struct list telling_link;
  struct core *core;
  struct gateway_model *model;
  struct gateway_loop *home;
  uint32_t worker;
  struct sched_device *device;
  char device_name[64];
  char gpu_uuid[GPU_UUID_SIZE]; /* "": none */
  int32_t pid;
  uint64_t epoch;
  struct channel_gate *gate;
  struct arena_space *output_space; /* NULL until the handshake is over */
  struct lane lanes[CHANNEL_LANES_MAX];
  uint32_t n_lanes;
  struct list flights;
  uint32_t users; /* output blocks in use, plus 1 while the worker lives, plus 1 while polled */
  bool attached, gone, reported;
  bool retiring, retired; /* it gets no new batch; and that it has finished was said */
  const char *report_why; /* hung or broken, static text */
  enum control_type report_type;
  bool attached_untold, report_untold; /* core.telling */
  bool unrung;                         /* jobs were put into its rings since the last doorbell */
  uv_poll_t doorbell, socket;
  uint32_t open_handles;
  struct net_post start_post, close_post; /* of polling, on the home loop */
  uint64_t total_requests, total_batches, total_rows, errors;
};

/* Does it take requests? Locked. */
static inline bool attachment_serves(const struct attachment *attachment) {
  return attachment->attached && !attachment->retiring;
}

/* Locked. One user less; the last one frees it (on its home loop where handles are still open). */
void attachment_release(struct attachment *attachment);

/* Locked: the worker did what it must not; the supervisor will kill it. */
void attachment_report(struct attachment *attachment, enum control_type type, const char *why);

/* dispatch.c. Locked. The batch is on its way, or waits in core.stalled for output memory, or has failed. */
struct flight *flight_create(struct core *core, struct sched_batch *batch);
void flight_start(struct core *core, struct flight *flight, struct list *outbox);
/* Gives its block back (as far as no reply uses it) and forgets the flight; the batch is not touched. */
void flight_free(struct core *core, struct flight *flight);
/* The batch failed: its only request gets the error, several are tried again one by one. Frees the flight. */
void flight_fail(struct core *core, struct flight *flight, mu_status status, const char *message, struct list *outbox);
/* Its calls in core.members in the order of their rows; returns how many. */
uint32_t flight_members(struct core *core, const struct flight *flight);
/* A call is its loop's again. */
void call_return(struct core *core, struct call *call, mu_status status, const char *message, struct list *outbox);

/* completion.c: reads all completions that are there. Locked. */
void attachment_drain_completions(struct attachment *attachment, struct list *outbox);

/* output_shapes.c: what a run of `rows` rows of this shape key will produce for output `index`. true: dims are known.
 * false: only *ret_capacity (a guess, bytes) is. Locked. */
bool output_shape_predict(struct gateway_model *model, struct sched_key *key, uint32_t index, uint32_t rows,
                          mu_tensor *ret_shape, uint64_t *ret_capacity);
/* Learns from what a run produced. Locked. */
void output_shape_learn(struct gateway_model *model, struct sched_key *key, uint32_t rows,
                        const struct channel_output *output);

#endif
