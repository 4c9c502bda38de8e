#include "channel/channel.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "channel/doorbell.h"
#include "channel/handshake.h"
#include "channel/ring.h"

struct gate_lane {
  /* The submitting thread's. */
  _Alignas(LAYOUT_LINE) struct ring_producer submissions;
  struct doorbell_ringer bell;
  _Atomic uint64_t submitted; /* jobs */
  /* The completing thread's. */
  _Alignas(LAYOUT_LINE) struct ring_consumer completions;
  _Atomic uint64_t completed; /* jobs */
};

struct channel_gate {
  int socket;
  bool attached; /* the worker's answer was read */
  uint64_t epoch;
  struct layout_plan plan;
  struct shared_memory file;   /* ours */
  struct shared_memory peer;   /* the worker's */
  struct shared_memory output; /* the worker's */
  int fds[HANDSHAKE_FDS_MAX];  /* the doorbells; -1 in the places of the files */
  /* The submitting thread's. */
  uint64_t unrung; /* bit i: lane i was given a job since the last ring */
  /* The completing thread's. */
  _Alignas(LAYOUT_LINE) uint32_t turn; /* the lane whose completions are looked at next */
  struct doorbell_sleeper sleeper;
  struct gate_lane lanes[];
};
_Static_assert(CHANNEL_LANES_MAX <= 64, "channel_gate.unrung");

/* ---- handshake --------------------------------------------------------------------------------------------------- */

static struct channel_gate *gate_create(const struct layout_plan *plan, uint64_t epoch) {
  size_t size = sizeof(struct channel_gate) + plan->lanes * sizeof(struct gate_lane);
  size = (size + LAYOUT_LINE - 1) / LAYOUT_LINE * LAYOUT_LINE;
  struct channel_gate *gate = aligned_alloc(LAYOUT_LINE, size);
  if (gate == NULL) return NULL;
  memset(gate, 0, size);
  gate->socket = gate->file.fd = gate->peer.fd = gate->output.fd = -1;
  for (size_t i = 0; i < HANDSHAKE_FDS_MAX; i++) gate->fds[i] = -1;
  gate->plan = *plan;
  gate->epoch = epoch;
  return gate;
}

static mu_status open_bells(struct channel_gate *gate, mu_error *err) {
  uint32_t n = OFFER_SUBMISSION_BELLS + gate->plan.lanes;
  for (uint32_t i = OFFER_COMPLETION_BELL; i < n; i++) {
    gate->fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (gate->fds[i] < 0) return mu_fail(err, MU_IO, "channel: eventfd: %m");
  }
  return MU_OK;
}

static mu_status send_offer(struct channel_gate *gate, int socket, const struct shared_memory *input, uint64_t output,
                            mu_error *err) {
  struct handshake_offer offer = {
      .epoch = gate->epoch, .file_size = gate->file.size, .input_size = input->size, .output_size = output};
  int fds[HANDSHAKE_FDS_MAX];
  memcpy(fds, gate->fds, sizeof fds);
  fds[OFFER_FILE] = gate->file.fd;
  fds[OFFER_INPUT] = input->fd;
  return handshake_send(socket, HANDSHAKE_OFFER, &offer, sizeof offer, fds, OFFER_SUBMISSION_BELLS + gate->plan.lanes,
                        err);
}

mu_status channel_gate_offer(const struct channel_params *params, int socket, const struct shared_memory *input_arena,
                             struct channel_gate **ret_gate, mu_error *err) {
  struct layout_plan plan;
  if (layout_plan(LAYOUT_GATEWAY, params->lanes, params->max_spans, &plan) != MU_OK)
    return mu_fail(err, MU_INVALID, "channel: %u lanes, %u spans: out of range", params->lanes, params->max_spans);
  struct channel_gate *gate = gate_create(&plan, params->epoch);
  if (gate == NULL) return mu_fail(err, MU_NO_MEMORY, "channel: no memory");
  mu_status status = shared_memory_create("muster-submissions", plan.size, &gate->file, err);
  if (status == MU_OK) {
    layout_write(&plan, params->epoch, &gate->file);
    status = open_bells(gate, err);
  }
  if (status == MU_OK) status = send_offer(gate, socket, input_arena, params->output_arena, err);
  if (status != MU_OK) {
    channel_gate_free(gate);
    return status;
  }
  gate->socket = socket;
  gate->sleeper = (struct doorbell_sleeper){.word = &layout_sleeper(&plan, &gate->file, 0)->value,
                                            .fd = gate->fds[OFFER_COMPLETION_BELL]};
  *ret_gate = gate;
  return MU_OK;
}

/* Maps what came with the answer. Takes the fds over. */
static mu_status map_answer(struct channel_gate *gate, const struct handshake_answer *answer, int *fds,
                            struct layout_plan *ret_peer, mu_error *err) {
  uint64_t epoch;
  mu_status status = shared_memory_attach(fds[ANSWER_FILE], answer->file_size, &gate->peer, err);
  fds[ANSWER_FILE] = -1;
  if (status == MU_OK) status = layout_read(&gate->peer, LAYOUT_WORKER, ret_peer, &epoch, err);
  if (status != MU_OK) return status;
  if (epoch != gate->epoch || ret_peer->lanes != gate->plan.lanes || ret_peer->max_spans != gate->plan.max_spans)
    return mu_fail(err, MU_INVALID, "channel: the worker's file is of another attachment");
  status = shared_memory_attach(fds[ANSWER_OUTPUT], answer->output_size, &gate->output, err);
  fds[ANSWER_OUTPUT] = -1;
  return status;
}

static void connect_lane(struct channel_gate *gate, const struct layout_plan *peer, uint32_t i) {
  struct gate_lane *lane = &gate->lanes[i];
  struct layout_lane *own = layout_lane(&gate->plan, &gate->file, i);
  const struct layout_lane *theirs = layout_lane(peer, &gate->peer, i);
  ring_producer_init(&lane->submissions, layout_ring(&gate->plan, &gate->file, i), gate->plan.ring_size,
                     &own->tail.value, &theirs->head.value);
  ring_consumer_init(&lane->completions, layout_ring(peer, &gate->peer, i), peer->ring_size, &theirs->tail.value,
                     &own->head.value);
  lane->bell = (struct doorbell_ringer){.word = &layout_sleeper(peer, &gate->peer, i)->value,
                                        .fd = gate->fds[OFFER_SUBMISSION_BELLS + i]};
}

mu_status channel_gate_finish(struct channel_gate *gate, mu_error *err) {
  struct handshake_answer answer;
  struct layout_plan peer;
  int fds[HANDSHAKE_FDS_MAX];
  uint32_t n_fds = 0;
  if (gate->attached) return MU_OK;
  mu_status status = handshake_receive(gate->socket, false, HANDSHAKE_ANSWER, &answer, sizeof answer, fds, &n_fds, err);
  if (status == MU_CANCELED) return mu_fail(err, status, "channel: the worker left before it answered");
  if (status != MU_OK) return status;
  answer.message[sizeof answer.message - 1] = '\0';
  bool own = answer.status != MU_UNAVAILABLE && answer.status != MU_CANCELED; /* those are said of it, not by it */
  if (answer.status < MU_OK && answer.status >= MU_TOO_LARGE && own)
    status = mu_fail(err, (mu_status)answer.status, "%s", answer.message);
  else if (answer.status != MU_OK || answer.epoch != gate->epoch || n_fds != ANSWER_FDS)
    status = mu_fail(err, MU_INVALID, "channel: the worker's answer contradicts itself");
  else
    status = map_answer(gate, &answer, fds, &peer, err);
  handshake_close_fds(fds, n_fds);
  if (status != MU_OK) {
    shared_memory_close(&gate->peer);
    return status;
  }
  for (uint32_t i = 0; i < gate->plan.lanes; i++) connect_lane(gate, &peer, i);
  gate->attached = true;
  return MU_OK;
}

void channel_gate_free(struct channel_gate *gate) {
  if (gate == NULL) return;
  if (gate->socket >= 0) close(gate->socket);
  handshake_close_fds(gate->fds, HANDSHAKE_FDS_MAX);
  shared_memory_close(&gate->file);
  shared_memory_close(&gate->peer);
  shared_memory_close(&gate->output);
  free(gate);
}

const struct shared_memory *channel_gate_output(const struct channel_gate *gate) { return &gate->output; }
int channel_gate_doorbell(const struct channel_gate *gate) { return gate->sleeper.fd; }
int channel_gate_socket(const struct channel_gate *gate) { return gate->socket; }

/* ---- submitting -------------------------------------------------------------------------------------------------- */

mu_status channel_gate_submit(struct channel_gate *gate, uint32_t index, const struct channel_job *job) {
  if (!gate->attached) return MU_UNAVAILABLE;
  if (index >= gate->plan.lanes || job->epoch != gate->epoch || job->n_inputs > CHANNEL_TENSORS_MAX ||
      job->n_places > CHANNEL_TENSORS_MAX || (uint64_t)job->n_members * job->n_inputs > gate->plan.max_spans)
    return MU_INVALID;
  struct gate_lane *lane = &gate->lanes[index];
  uint64_t submitted = atomic_load_explicit(&lane->submitted, memory_order_relaxed);
  if (submitted - atomic_load_explicit(&lane->completed, memory_order_acquire) >= LAYOUT_OUTSTANDING)
    return MU_UNAVAILABLE;
  void *record;
  mu_status status = ring_reserve(&lane->submissions, channel_job_size(job), &record);
  if (status != MU_OK) return status;
  channel_job_encode(job, record);
  /* Counted first: the completion can be read by the other thread as soon as the job is published. */
  atomic_store_explicit(&lane->submitted, submitted + 1, memory_order_release);
  ring_publish(&lane->submissions);
  gate->unrung |= UINT64_C(1) << index;
  return MU_OK;
}

void channel_gate_ring(struct channel_gate *gate) {
  for (; gate->unrung != 0; gate->unrung &= gate->unrung - 1)
    doorbell_ring(&gate->lanes[__builtin_ctzll(gate->unrung)].bell);
}

void channel_gate_stop(struct channel_gate *gate, uint32_t lane, uint64_t batch) {
  struct handshake_stop stop = {.batch = batch, .lane = lane};
  mu_status status = handshake_send(gate->socket, HANDSHAKE_STOP, &stop, sizeof stop, NULL, 0, NULL);
  (void)status; /* only a hint: the run ends by itself otherwise */
}

/* ---- completions ------------------------------------------------------------------------------------------------- */

/* MU_UNAVAILABLE also after a record of another epoch, so that a peer that goes on writing them holds nobody up. */
static mu_status lane_next(struct channel_gate *gate, struct gate_lane *lane, struct channel_completion *completion) {
  const void *record;
  size_t size;
  mu_status status = ring_peek(&lane->completions, &record, &size);
  if (status != MU_OK) return status;
  if (size < sizeof(struct layout_completion)) return MU_INVALID;
  if (layout_epoch(record) != gate->epoch) {
    ring_pop(&lane->completions);
    return MU_UNAVAILABLE;
  }
  uint64_t completed = atomic_load_explicit(&lane->completed, memory_order_relaxed);
  if (completed == atomic_load_explicit(&lane->submitted, memory_order_acquire)) return MU_INVALID;
  status = channel_completion_decode(record, size, gate->output.size, completion);
  if (status != MU_OK) return status;
  if (completion->epoch != gate->epoch) return MU_INVALID; /* it changed under our eyes */
  ring_pop(&lane->completions);
  atomic_store_explicit(&lane->completed, completed + 1, memory_order_release);
  return MU_OK;
}

mu_status channel_gate_next(struct channel_gate *gate, uint32_t *ret_lane, struct channel_completion *ret_completion) {
  if (!gate->attached) return MU_UNAVAILABLE;
  for (uint32_t i = 0; i < gate->plan.lanes; i++) {
    uint32_t index = gate->turn;
    gate->turn = index + 1 < gate->plan.lanes ? index + 1 : 0;
    mu_status status = lane_next(gate, &gate->lanes[index], ret_completion);
    if (status == MU_OK) *ret_lane = index;
    if (status != MU_UNAVAILABLE) return status;
  }
  return MU_UNAVAILABLE;
}

bool channel_gate_sleep(struct channel_gate *gate) {
  doorbell_sleep(&gate->sleeper);
  for (uint32_t i = 0; gate->attached && i < gate->plan.lanes; i++) {
    if (!ring_waiting(&gate->lanes[i].completions)) continue;
    doorbell_wake(&gate->sleeper);
    return false;
  }
  return true;
}

void channel_gate_wake(struct channel_gate *gate) {
  doorbell_drain(gate->sleeper.fd);
  doorbell_wake(&gate->sleeper);
}
