#include "channel/channel.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "channel/doorbell.h"
#include "channel/handshake.h"
#include "channel/ring.h"

/* One thread's. */
struct worker_lane {
  _Alignas(LAYOUT_LINE) struct ring_consumer submissions;
  struct ring_producer completions;
  struct doorbell_sleeper sleeper;
  struct doorbell_ringer bell; /* the gateway's one doorbell; each lane remembers by itself what it rang for */
};

struct channel_worker {
  int socket;
  atomic_bool closed;
  uint64_t epoch;
  struct layout_plan plan;     /* of our file */
  struct shared_memory file;   /* ours */
  struct shared_memory output; /* ours */
  struct shared_memory peer;   /* the gateway's */
  struct shared_memory input;  /* the gateway's */
  int fds[HANDSHAKE_FDS_MAX];  /* the doorbells; -1 in the places of the files */
  struct worker_lane *lanes;
};

/* ---- handshake --------------------------------------------------------------------------------------------------- */

/* A doorbell that blocks could hold up a lane for ever. */
static mu_status check_bells(const struct channel_worker *worker, uint32_t n_fds, mu_error *err) {
  if (n_fds != OFFER_SUBMISSION_BELLS + worker->plan.lanes)
    return mu_fail(err, MU_INVALID, "channel: %u file descriptors for %u lanes", n_fds, worker->plan.lanes);
  for (uint32_t i = OFFER_COMPLETION_BELL; i < n_fds; i++) {
    int flags = fcntl(worker->fds[i], F_GETFL);
    if (flags < 0 || (flags & O_NONBLOCK) == 0) return mu_fail(err, MU_INVALID, "channel: a doorbell that blocks");
  }
  return MU_OK;
}

/* Maps what came with the offer; the fds stand in worker->fds. */
static mu_status map_offer(struct channel_worker *worker, const struct handshake_offer *offer, uint32_t n_fds,
                           struct layout_plan *ret_peer, mu_error *err) {
  uint64_t epoch;
  if (n_fds < OFFER_SUBMISSION_BELLS) return mu_fail(err, MU_INVALID, "channel: an offer with %u files", n_fds);
  mu_status status = shared_memory_attach(worker->fds[OFFER_FILE], offer->file_size, &worker->peer, err);
  worker->fds[OFFER_FILE] = -1;
  if (status == MU_OK) status = layout_read(&worker->peer, LAYOUT_GATEWAY, ret_peer, &epoch, err);
  if (status != MU_OK) return status;
  if (epoch != offer->epoch) return mu_fail(err, MU_INVALID, "channel: the gateway's file is of another attachment");
  status = shared_memory_attach(worker->fds[OFFER_INPUT], offer->input_size, &worker->input, err);
  worker->fds[OFFER_INPUT] = -1;
  if (status != MU_OK) return status;
  status = layout_plan(LAYOUT_WORKER, ret_peer->lanes, ret_peer->max_spans, &worker->plan);
  return status == MU_OK ? check_bells(worker, n_fds, err) : status;
}

static void connect_lane(struct channel_worker *worker, const struct layout_plan *peer, uint32_t i) {
  struct worker_lane *lane = &worker->lanes[i];
  struct layout_lane *own = layout_lane(&worker->plan, &worker->file, i);
  const struct layout_lane *theirs = layout_lane(peer, &worker->peer, i);
  ring_consumer_init(&lane->submissions, layout_ring(peer, &worker->peer, i), peer->ring_size, &theirs->tail.value,
                     &own->head.value);
  ring_producer_init(&lane->completions, layout_ring(&worker->plan, &worker->file, i), worker->plan.ring_size,
                     &own->tail.value, &theirs->head.value);
  lane->sleeper = (struct doorbell_sleeper){.word = &layout_sleeper(&worker->plan, &worker->file, i)->value,
                                            .fd = worker->fds[OFFER_SUBMISSION_BELLS + i]};
  lane->bell = (struct doorbell_ringer){.word = &layout_sleeper(peer, &worker->peer, 0)->value,
                                        .fd = worker->fds[OFFER_COMPLETION_BELL]};
}

/* Our memory, as large as the gateway asks. */
static mu_status open_own(struct channel_worker *worker, const struct layout_plan *peer, uint64_t output_size,
                          mu_error *err) {
  mu_status status = shared_memory_create("muster-completions", worker->plan.size, &worker->file, err);
  if (status != MU_OK) return status;
  layout_write(&worker->plan, worker->epoch, &worker->file);
  status = shared_memory_create("muster-output", output_size, &worker->output, err);
  if (status != MU_OK) return status;
  size_t size = worker->plan.lanes * sizeof *worker->lanes;
  worker->lanes = aligned_alloc(LAYOUT_LINE, size);
  if (worker->lanes == NULL) return mu_fail(err, MU_NO_MEMORY, "channel: no memory");
  memset(worker->lanes, 0, size);
  for (uint32_t i = 0; i < worker->plan.lanes; i++) connect_lane(worker, peer, i);
  return MU_OK;
}

/* Tells the gateway that there will be no attachment and why; returns the reason. */
static mu_status refuse(int socket, uint64_t epoch, mu_status status, const mu_error *why) {
  struct handshake_answer answer = {.epoch = epoch, .status = status};
  snprintf(answer.message, sizeof answer.message, "%.*s", (int)sizeof answer.message - 1, why->message);
  mu_status sent = handshake_send(socket, HANDSHAKE_ANSWER, &answer, sizeof answer, NULL, 0, NULL);
  (void)sent; /* the caller learns the reason in any case, and the gateway sees the socket close */
  return status;
}

static mu_status send_answer(const struct channel_worker *worker, int socket, mu_error *err) {
  struct handshake_answer answer = {
      .epoch = worker->epoch, .file_size = worker->file.size, .output_size = worker->output.size, .status = MU_OK};
  int fds[ANSWER_FDS] = {[ANSWER_FILE] = worker->file.fd, [ANSWER_OUTPUT] = worker->output.fd};
  return handshake_send(socket, HANDSHAKE_ANSWER, &answer, sizeof answer, fds, ANSWER_FDS, err);
}

static struct channel_worker *worker_create(void) {
  struct channel_worker *worker = calloc(1, sizeof *worker);
  if (worker == NULL) return NULL;
  worker->socket = worker->file.fd = worker->output.fd = worker->peer.fd = worker->input.fd = -1;
  for (size_t i = 0; i < HANDSHAKE_FDS_MAX; i++) worker->fds[i] = -1;
  return worker;
}

mu_status channel_worker_prepare(int socket, struct channel_worker **ret_worker, mu_error *err) {
  struct handshake_offer offer;
  struct layout_plan peer;
  uint32_t n_fds = 0;
  mu_error why = {""};
  struct channel_worker *worker = worker_create();
  if (worker == NULL) return mu_fail(err, MU_NO_MEMORY, "channel: no memory");
  mu_status status = handshake_receive(socket, true, HANDSHAKE_OFFER, &offer, sizeof offer, worker->fds, &n_fds, err);
  if (status != MU_OK) {
    channel_worker_free(worker);
    return status;
  }
  worker->epoch = offer.epoch;
  status = map_offer(worker, &offer, n_fds, &peer, &why);
  if (status == MU_OK) status = open_own(worker, &peer, offer.output_size, &why);
  if (status != MU_OK) {
    refuse(socket, offer.epoch, status, &why);
    channel_worker_free(worker);
    return mu_fail(err, status, "%s", why.message);
  }
  worker->socket = socket;
  *ret_worker = worker;
  return MU_OK;
}

mu_status channel_worker_answer(struct channel_worker *worker, mu_error *err) {
  return send_answer(worker, worker->socket, err);
}

void channel_worker_refuse(struct channel_worker *worker, mu_status status, const mu_error *why) {
  refuse(worker->socket, worker->epoch, status, why);
}

mu_status channel_worker_accept(int socket, struct channel_worker **ret_worker, mu_error *err) {
  struct channel_worker *worker = NULL;
  mu_status status = channel_worker_prepare(socket, &worker, err);
  if (status != MU_OK) return status;
  status = channel_worker_answer(worker, err);
  if (status == MU_OK) {
    *ret_worker = worker;
    return MU_OK;
  }
  worker->socket = -1; /* the caller's still */
  channel_worker_free(worker);
  return status;
}

void channel_worker_free(struct channel_worker *worker) {
  if (worker == NULL) return;
  if (worker->socket >= 0) close(worker->socket);
  handshake_close_fds(worker->fds, HANDSHAKE_FDS_MAX);
  shared_memory_close(&worker->file);
  shared_memory_close(&worker->output);
  shared_memory_close(&worker->peer);
  shared_memory_close(&worker->input);
  free(worker->lanes);
  free(worker);
}

uint32_t channel_worker_lanes(const struct channel_worker *worker) { return worker->plan.lanes; }
uint64_t channel_worker_epoch(const struct channel_worker *worker) { return worker->epoch; }
const struct shared_memory *channel_worker_input(const struct channel_worker *worker) { return &worker->input; }
struct shared_memory *channel_worker_output(struct channel_worker *worker) {
  return &worker->output;
}
int channel_worker_socket(const struct channel_worker *worker) { return worker->socket; }
uint32_t channel_worker_max_spans(const struct channel_worker *worker) { return worker->plan.max_spans; }

/* ---- jobs -------------------------------------------------------------------------------------------------------- */

static bool is_closed(const struct channel_worker *worker) {
  return atomic_load_explicit(&worker->closed, memory_order_seq_cst);
}

/* The next record; MU_UNAVAILABLE: none, or one of another epoch, which is dropped. */
static mu_status lane_next(const struct channel_worker *worker, struct worker_lane *lane, struct channel_job *job) {
  const void *record;
  size_t size;
  mu_status status = ring_peek(&lane->submissions, &record, &size);
  if (status != MU_OK) return status;
  if (size < sizeof(struct layout_job)) return MU_INVALID;
  if (layout_epoch(record) != worker->epoch) {
    ring_pop(&lane->submissions);
    return MU_UNAVAILABLE;
  }
  status = channel_job_decode(record, size, worker->plan.max_spans, worker->input.size, worker->output.size, job);
  if (status != MU_OK) return status;
  if (job->epoch != worker->epoch) return MU_INVALID; /* it changed under our eyes */
  ring_pop(&lane->submissions);
  return MU_OK;
}

mu_status channel_worker_wait(struct channel_worker *worker, uint32_t index, struct channel_job *ret_job) {
  struct worker_lane *lane = &worker->lanes[index];
  for (;;) {
    if (is_closed(worker)) return MU_CANCELED;
    mu_status status = lane_next(worker, lane, ret_job);
    if (status != MU_UNAVAILABLE) return status;
    doorbell_sleep(&lane->sleeper);
    if (!ring_waiting(&lane->submissions)) { /* closing rings in any case, so it needs no look */
      doorbell_wait(lane->sleeper.fd);
      doorbell_drain(lane->sleeper.fd);
    }
    doorbell_wake(&lane->sleeper);
  }
}

mu_status channel_worker_complete(struct channel_worker *worker, uint32_t index,
                                  const struct channel_completion *completion) {
  struct worker_lane *lane = &worker->lanes[index];
  if (completion->n_outputs > CHANNEL_TENSORS_MAX) return MU_INVALID;
  void *record;
  if (ring_reserve(&lane->completions, channel_completion_size(completion), &record) != MU_OK) return MU_INVALID;
  channel_completion_encode(completion, record);
  ring_publish(&lane->completions);
  doorbell_ring(&lane->bell);
  return MU_OK;
}

void channel_worker_close(struct channel_worker *worker) {
  atomic_store_explicit(&worker->closed, true, memory_order_seq_cst);
  for (uint32_t i = 0; i < worker->plan.lanes; i++) doorbell_write(worker->lanes[i].sleeper.fd);
}

mu_status channel_worker_next_stop(struct channel_worker *worker, uint32_t *ret_lane, uint64_t *ret_batch) {
  struct handshake_stop stop;
  mu_status status = handshake_receive(worker->socket, false, HANDSHAKE_STOP, &stop, sizeof stop, NULL, NULL, NULL);
  if (status != MU_OK) return status;
  if (stop.lane >= worker->plan.lanes) return MU_INVALID;
  *ret_lane = stop.lane;
  *ret_batch = stop.batch;
  return MU_OK;
}
