/*
 * The way between a gateway and one worker: for each instance of the worker (a "lane") a ring of submissions and a ring
 * of completions in shared memory, with eventfd doorbells; plus the input arena (gateway's) and the output arena
 * (worker's). Descriptors carry offsets, shapes and the epoch, never data. Byte layout: docs/shared-memory.md.
 *
 * Each side writes only memory it owns and sees the other's read-only: rings live with their producer, consumer
 * positions and sleep words with their consumer. Every number read from the other side is read once into a local and
 * checked; nonsense is MU_INVALID and the peer is then treated as broken.
 *
 * Sleep protocol (no lost wake-up, no doorbell while the consumer is awake): the consumer's sleep word is odd while it
 * sleeps and even while it is awake, and counts up. To sleep it makes the word odd (seq_cst), looks at the ring once
 * more, then waits; the producer publishes (seq_cst), reads the word, and rings once for each odd value it sees.
 */
#ifndef CHANNEL_CHANNEL_H
#define CHANNEL_CHANNEL_H

#include "base/status.h"
#include "channel/shared_memory.h"

enum { CHANNEL_LANES_MAX = 64, CHANNEL_TENSORS_MAX = 64, CHANNEL_MEMBERS_MAX = 4096 };

/* ---- messages ---------------------------------------------------------------------------------------------------- */

/* One tensor of a batch. dims[0] counts the rows of the whole batch where the model batches. */
struct channel_input {
  uint32_t index; /* into the model's inputs */
  mu_dtype dtype;
  uint32_t rank;
  int64_t dims[MU_MAX_RANK];
};

/* Where one member's bytes of one input stand in the input arena. */
struct channel_span {
  uint64_t offset, size;
};

/* A wanted output: where it may be written in the output arena. known: dims are what the run will produce, so the
 * engine writes in place (never BYTES, whose size no shape tells); otherwise the result is copied there, when it fits
 * capacity, and dtype and dims mean nothing. */
struct channel_place {
  uint32_t index; /* into the model's outputs */
  bool known;
  mu_dtype dtype;
  uint32_t rank;
  int64_t dims[MU_MAX_RANK];
  uint64_t offset, capacity;
};

enum channel_job_type {
  CHANNEL_RUN = 1,   /* run a batch; at least one member */
  CHANNEL_FETCH = 2, /* outputs of the last RUN of this lane did not fit: copy them to these places; no inputs */
};

struct channel_job {
  enum channel_job_type type;
  uint64_t epoch; /* of the attachment; another one is dropped */
  uint64_t batch; /* sched_batch.id */
  uint32_t n_inputs, n_members, n_places;
  struct channel_input inputs[CHANNEL_TENSORS_MAX];
  struct channel_place places[CHANNEL_TENSORS_MAX];
  struct channel_span *spans; /* n_members * n_inputs, member by member; room for CHANNEL_MEMBERS_MAX, see below */
};

/* A produced output. */
struct channel_output {
  uint32_t index;
  mu_dtype dtype;
  uint32_t rank;
  int64_t dims[MU_MAX_RANK];
  uint64_t offset, size; /* in the output arena; size is what was produced, offset only when it was placed */
};

enum channel_result {
  CHANNEL_DONE = 1,
  CHANNEL_ERROR = 2,    /* the engine refused or failed: status (never MU_OK) and message; outputs do not travel */
  CHANNEL_OVERFLOW = 3, /* outputs[].size says what is needed; held until the next job of the lane */
};

struct channel_completion {
  enum channel_result result;
  uint64_t epoch, batch;
  mu_status status;
  char message[512];
  /* clock_now_ns at start, inputs ready, run over, outputs placed. A step that did not happen may be left 0 by the
   * sender; it arrives as having taken no time, so that none is before the one in front of it. */
  uint64_t started_ns, input_ns, infer_ns, ended_ns;
  uint32_t n_outputs;
  struct channel_output outputs[CHANNEL_TENSORS_MAX];
};

/* ---- both ends --------------------------------------------------------------------------------------------------- */

/* The gateway's end. Submitting (submit, ring, stop): under the caller's lock. Completions (next, sleep, wake): one
 * thread at a time, which may be another than the submitting one. */
struct channel_gate;

/* The worker's end. Each lane: its instance's thread only. */
struct channel_worker;

struct channel_params {
  uint64_t epoch;        /* of this attachment, unique for the worker */
  uint32_t lanes;        /* 1 … CHANNEL_LANES_MAX */
  uint32_t max_spans;    /* the largest n_members * n_inputs that will be sent; sizes the rings */
  uint64_t output_arena; /* bytes of the worker's output arena that the gateway asks for */
};

/*
 * Handshake over `socket`, a SOCK_SEQPACKET pair whose ends the supervisor gave to the gateway and to the worker. Two
 * steps on each side, so that nobody blocks: the gateway creates its memory and offers; the worker accepts and answers;
 * the gateway finishes when the socket is readable. The socket stays open and afterwards carries only channel_gate_stop
 * and the end of file. Ownership of input (gateway) stays with the caller; its fd is duplicated into the message. Each
 * side takes socket over on success only. MU_CANCELED from either step of the gateway: the worker has left.
 */
MUST_CHECK mu_status channel_gate_offer(const struct channel_params *params, int socket,
                                        const struct shared_memory *input_arena, struct channel_gate **ret_gate,
                                        mu_error *err);
/* Until it has returned MU_OK once, nothing can be submitted. MU_UNAVAILABLE: the answer has not come yet. Otherwise
 * the attachment has failed: what the worker says of itself (its status and message), MU_CANCELED, MU_INVALID, MU_IO. */
MUST_CHECK mu_status channel_gate_finish(struct channel_gate *gate, mu_error *err);
void channel_gate_free(struct channel_gate *gate); /* closes the socket too; accepts NULL */

/* Reads the offer (blocking) and maps; says itself why where this fails. Takes socket over on success. The answer is
 * still owed: an answered gateway counts on somebody who takes its jobs. */
MUST_CHECK mu_status channel_worker_prepare(int socket, struct channel_worker **ret_worker, mu_error *err);
/* "Attached", or why not. After either the worker is the caller's, to be freed. */
MUST_CHECK mu_status channel_worker_answer(struct channel_worker *worker, mu_error *err);
void channel_worker_refuse(struct channel_worker *worker, mu_status status, const mu_error *why);
/* Prepares and answers at once. Takes socket over on success. */
MUST_CHECK mu_status channel_worker_accept(int socket, struct channel_worker **ret_worker, mu_error *err);
void channel_worker_free(struct channel_worker *worker); /* accepts NULL */

/* ---- gateway ----------------------------------------------------------------------------------------------------- */

/* The worker's output arena, read-only. */
const struct shared_memory *channel_gate_output(const struct channel_gate *gate);

/* Readable when a completion is there and the gateway slept: for the event loop. */
int channel_gate_doorbell(const struct channel_gate *gate);
int channel_gate_socket(const struct channel_gate *gate);

/* Puts a job into the lane's ring without waking anybody. MU_UNAVAILABLE: the ring has no room, or the lane has 16 jobs
 * without a completion already; MU_INVALID: the worker wrote nonsense, or the job is not of this attachment (lane,
 * epoch, more spans than max_spans). */
MUST_CHECK mu_status channel_gate_submit(struct channel_gate *gate, uint32_t lane, const struct channel_job *job);

/* Wakes the lanes that were given jobs since the last call and sleep: one doorbell for a burst. */
void channel_gate_ring(struct channel_gate *gate);

/* The next completion of any lane, lanes in turn. MU_OK; MU_UNAVAILABLE: none; MU_INVALID: the worker wrote nonsense
 * (or a completion for which there is no job). Other than with MU_OK the content of *ret_completion is undefined.
 * Checked: offsets against the arena, shapes against sizes. Not checked, because only the caller knows: that the
 * outputs are the wanted ones and lie in the places that were given. */
MUST_CHECK mu_status channel_gate_next(struct channel_gate *gate, uint32_t *ret_lane,
                                       struct channel_completion *ret_completion);

/* Before the loop waits, after channel_gate_next found nothing: false when a completion came meanwhile (do not wait,
 * read on). */
bool channel_gate_sleep(struct channel_gate *gate);
/* After the doorbell woke the loop, before channel_gate_next: drains it and marks awake. Harmless at any other time. */
void channel_gate_wake(struct channel_gate *gate);

/* Asks the worker to stop the run of this batch soon (nobody waits for it any more). Never blocks; best effort. */
void channel_gate_stop(struct channel_gate *gate, uint32_t lane, uint64_t batch);

/* ---- worker ------------------------------------------------------------------------------------------------------ */

uint32_t channel_worker_lanes(const struct channel_worker *worker);
uint64_t channel_worker_epoch(const struct channel_worker *worker);
/* Input arena (read-only) and output arena (writable). */
const struct shared_memory *channel_worker_input(const struct channel_worker *worker);
struct shared_memory *channel_worker_output(struct channel_worker *worker);
int channel_worker_socket(const struct channel_worker *worker);

/* Room for the spans of the largest job; malloc'ed by the caller of channel_worker_wait, this many entries. */
uint32_t channel_worker_max_spans(const struct channel_worker *worker);

/*
 * Waits for the next job of the lane. ret_job->spans must point at channel_worker_max_spans entries. All offsets have
 * been checked against the arenas, all shapes against overflow and (for fixed-size types) against the spans' sizes, and
 * elements of spans and known places lie on their natural boundary. Not checked: that an index names an input or
 * output of the model, with its dtype. MU_OK; MU_CANCELED: channel_worker_close was called; MU_INVALID: the gateway
 * wrote nonsense. Other than with MU_OK the content of *ret_job is undefined.
 */
MUST_CHECK mu_status channel_worker_wait(struct channel_worker *worker, uint32_t lane, struct channel_job *ret_job);

/* Publishes a completion and rings when the gateway sleeps. The ring always has room: a lane has as many completions
 * as jobs, and the gateway keeps fewer jobs outstanding than fit. MU_INVALID if that is broken. */
MUST_CHECK mu_status channel_worker_complete(struct channel_worker *worker, uint32_t lane,
                                             const struct channel_completion *completion);

/* Any thread: makes every channel_worker_wait, now and later, return MU_CANCELED. */
void channel_worker_close(struct channel_worker *worker);

/* Reads one message of the socket: MU_OK with the lane and batch to stop; MU_UNAVAILABLE: none now; MU_CANCELED: the
 * gateway is gone; MU_INVALID: it sent nonsense. One thread at a time. */
MUST_CHECK mu_status channel_worker_next_stop(struct channel_worker *worker, uint32_t *ret_lane, uint64_t *ret_batch);

/* ---- codecs, for tests and fuzzing: a record is `size` bytes, 8-byte aligned ------------------------------------- */

size_t channel_job_size(const struct channel_job *job);
void channel_job_encode(const struct channel_job *job, void *record);
/* max_spans: room at ret_job->spans. input_size / output_size: of the arenas, for the checks. The record may change
 * meanwhile: each word is read once. Only what the record holds is written to ret_job. MU_INVALID. */
MUST_CHECK mu_status channel_job_decode(const void *record, size_t size, uint32_t max_spans, uint64_t input_size,
                                        uint64_t output_size, struct channel_job *ret_job);
size_t channel_completion_size(const struct channel_completion *completion);
void channel_completion_encode(const struct channel_completion *completion, void *record);
MUST_CHECK mu_status channel_completion_decode(const void *record, size_t size, uint64_t output_size,
                                               struct channel_completion *ret_completion);

#endif
