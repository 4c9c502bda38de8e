/*
 * One end is real, the other is this test, which owns its shared file and writes into it what it likes.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "channel/doorbell.h"
#include "channel/handshake.h"
#include "channel/ring.h"
#include "channel_fixture.h"

enum { SPANS = 64, HOSTILE_LANES = 2 };

/* ---- a gateway that lies ----------------------------------------------------------------------------------------- */

struct false_gate {
  struct layout_plan plan;
  struct shared_memory file, input;
  int ends[2];
  int fds[HANDSHAKE_FDS_MAX];
  uint32_t n_fds;
  struct handshake_offer offer;
};

static void false_gate_open(struct false_gate *gate) {
  memset(gate, 0, sizeof *gate);
  assert_int_equal(layout_plan(LAYOUT_GATEWAY, HOSTILE_LANES, SPANS, &gate->plan), MU_OK);
  assert_int_equal(shared_memory_create("hostile", gate->plan.size, &gate->file, NULL), MU_OK);
  assert_int_equal(shared_memory_create("input", FIXTURE_INPUT_ARENA, &gate->input, NULL), MU_OK);
  layout_write(&gate->plan, FIXTURE_EPOCH, &gate->file);
  fixture_sockets(gate->ends);
  gate->n_fds = OFFER_SUBMISSION_BELLS + HOSTILE_LANES;
  gate->fds[OFFER_FILE] = dup(gate->file.fd);
  gate->fds[OFFER_INPUT] = dup(gate->input.fd);
  for (uint32_t i = OFFER_COMPLETION_BELL; i < gate->n_fds; i++) gate->fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  gate->offer = (struct handshake_offer){.epoch = FIXTURE_EPOCH,
                                         .file_size = gate->file.size,
                                         .input_size = gate->input.size,
                                         .output_size = FIXTURE_OUTPUT_ARENA};
}

static mu_status false_gate_offer(struct false_gate *gate, struct channel_worker **ret_worker) {
  mu_error err = {""};
  assert_int_equal(
      handshake_send(gate->ends[0], HANDSHAKE_OFFER, &gate->offer, sizeof gate->offer, gate->fds, gate->n_fds, NULL),
      MU_OK);
  mu_status status = channel_worker_accept(gate->ends[1], ret_worker, &err);
  if (status == MU_OK)
    gate->ends[1] = -1;
  else
    assert_string_not_equal(err.message, "");
  return status;
}

static void false_gate_close(struct false_gate *gate) {
  handshake_close_fds(gate->ends, 2);
  handshake_close_fds(gate->fds, gate->n_fds);
  shared_memory_close(&gate->file);
  shared_memory_close(&gate->input);
}

static struct layout_header *header_of(struct shared_memory *file) { return (void *)file->data; }

static void offer_wrong_epoch(struct false_gate *g) { g->offer.epoch++; }
static void offer_wrong_size(struct false_gate *g) { g->offer.file_size += 4096; }
static void offer_no_size(struct false_gate *g) { g->offer.input_size = 0; }
static void offer_too_few_fds(struct false_gate *g) { g->n_fds--; }
static void offer_no_fds(struct false_gate *g) { g->n_fds = 0; }
static void offer_too_many_fds(struct false_gate *g) { g->fds[g->n_fds++] = dup(0); }
static void offer_blocking_bell(struct false_gate *g) {
  close(g->fds[OFFER_SUBMISSION_BELLS]);
  g->fds[OFFER_SUBMISSION_BELLS] = eventfd(0, EFD_CLOEXEC);
}
static void offer_unsealed_file(struct false_gate *g) {
  close(g->fds[OFFER_FILE]);
  g->fds[OFFER_FILE] = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  assert_int_equal(ftruncate(g->fds[OFFER_FILE], (off_t)g->file.size), 0);
}
static void header_magic(struct false_gate *g) { header_of(&g->file)->magic++; }
static void header_side(struct false_gate *g) { header_of(&g->file)->side = LAYOUT_WORKER; }
static void header_size(struct false_gate *g) { header_of(&g->file)->size -= 8; }
static void header_no_lanes(struct false_gate *g) { header_of(&g->file)->lanes = 0; }
static void header_many_lanes(struct false_gate *g) { header_of(&g->file)->lanes = CHANNEL_LANES_MAX; }
static void header_absurd_lanes(struct false_gate *g) { header_of(&g->file)->lanes = UINT32_MAX; }
static void header_spans(struct false_gate *g) { header_of(&g->file)->max_spans = UINT32_MAX; }
static void header_sleepers(struct false_gate *g) { header_of(&g->file)->sleepers = 2; }
static void header_sleepers_at(struct false_gate *g) { header_of(&g->file)->sleepers_at = g->plan.size; }
static void header_lanes_at(struct false_gate *g) { header_of(&g->file)->lanes_at = UINT64_MAX - 7; }
static void header_rings_at(struct false_gate *g) { header_of(&g->file)->rings_at += 4096; }
static void header_ring_size(struct false_gate *g) { header_of(&g->file)->ring_size *= 2; }
static void header_epoch(struct false_gate *g) { header_of(&g->file)->epoch++; }

static void false_offers_are_refused(void **state) {
  static void (*const lies[])(struct false_gate *) = {
      offer_wrong_epoch, offer_wrong_size,    offer_no_size,       offer_too_few_fds, offer_no_fds,
      header_magic,      offer_too_many_fds,  offer_blocking_bell, header_side,       header_size,
      header_no_lanes,   header_many_lanes,   header_absurd_lanes, header_spans,      header_sleepers,
      header_lanes_at,   offer_unsealed_file, header_sleepers_at,  header_rings_at,   header_ring_size,
      header_epoch,
  };
  for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
    struct false_gate gate;
    struct channel_worker *worker = NULL;
    struct handshake_answer answer;
    false_gate_open(&gate);
    lies[i](&gate);
    assert_int_equal(false_gate_offer(&gate, &worker), MU_INVALID);
    assert_null(worker);
    assert_int_equal(handshake_receive(gate.ends[0], false, HANDSHAKE_ANSWER, &answer, sizeof answer, NULL, NULL, NULL),
                     MU_OK);
    assert_int_equal(answer.status, MU_INVALID);
    false_gate_close(&gate);
  }
}

static void another_major_version_is_not_understood(void **state) {
  struct false_gate gate;
  struct channel_worker *worker = NULL;
  false_gate_open(&gate);
  header_of(&gate.file)->minor++; /* harmless */
  header_of(&gate.file)->major++;
  assert_int_equal(false_gate_offer(&gate, &worker), MU_UNSUPPORTED);
  false_gate_close(&gate);
}

static void messages_that_are_none(void **state) {
  struct handshake_offer offer = {.epoch = 1};
  static const char noise[400] = "this is no message";
  for (size_t size = 1; size <= sizeof noise; size++) {
    struct channel_worker *worker = NULL;
    int ends[2];
    fixture_sockets(ends);
    assert_int_equal(send(ends[0], noise, size, 0), size);
    assert_int_equal(channel_worker_accept(ends[1], &worker, NULL), MU_INVALID);
    close(ends[0]);
    close(ends[1]);
  }
  for (size_t size = sizeof(struct handshake_head); size < sizeof offer; size++) {
    struct channel_worker *worker = NULL;
    int ends[2];
    fixture_sockets(ends);
    assert_int_equal(handshake_send(ends[0], HANDSHAKE_OFFER, &offer, size, NULL, 0, NULL), MU_OK);
    assert_int_equal(channel_worker_accept(ends[1], &worker, NULL), MU_INVALID);
    close(ends[0]);
    close(ends[1]);
  }
}

/* ---- what a lying gateway puts into its ring --------------------------------------------------------------------- */

struct attacked_worker {
  struct false_gate gate;
  struct channel_worker *worker;
  struct ring_producer ring; /* lane 0 */
  struct layout_lane *lane;
  struct channel_job *job;
};

static void attacked_worker_open(struct attacked_worker *attacked) {
  false_gate_open(&attacked->gate);
  assert_int_equal(false_gate_offer(&attacked->gate, &attacked->worker), MU_OK);
  static const _Atomic uint64_t no_head = 0;
  attacked->lane = layout_lane(&attacked->gate.plan, &attacked->gate.file, 0);
  ring_producer_init(&attacked->ring, layout_ring(&attacked->gate.plan, &attacked->gate.file, 0),
                     attacked->gate.plan.ring_size, &attacked->lane->tail.value, &no_head);
  attacked->job = fixture_job(SPANS);
}

static void attacked_worker_close(struct attacked_worker *attacked) {
  fixture_job_free(attacked->job);
  channel_worker_free(attacked->worker);
  false_gate_close(&attacked->gate);
}

static uint64_t *publish_job(struct attacked_worker *attacked, uint64_t epoch) {
  struct channel_job *job = fixture_job(SPANS);
  void *record;
  fixture_fill_job(job, 1, 2, 0);
  job->epoch = epoch;
  assert_int_equal(ring_reserve(&attacked->ring, channel_job_size(job), &record), MU_OK);
  channel_job_encode(job, record);
  ring_publish(&attacked->ring);
  fixture_job_free(job);
  return record;
}

static void jobs_of_another_epoch_are_dropped(void **state) {
  struct attacked_worker attacked;
  attacked_worker_open(&attacked);
  uint64_t *old = publish_job(&attacked, FIXTURE_EPOCH - 1);
  old[0] = UINT64_MAX; /* not even looked at */
  publish_job(&attacked, FIXTURE_EPOCH + 1);
  publish_job(&attacked, FIXTURE_EPOCH);
  assert_int_equal(channel_worker_wait(attacked.worker, 0, attacked.job), MU_OK);
  assert_int_equal(attacked.job->epoch, FIXTURE_EPOCH);
  attacked_worker_close(&attacked);
}

static void a_lying_gateway_is_found_out(void **state) {
  static const uint64_t tails[] = {1, 9, UINT64_MAX, UINT64_MAX - 7, UINT64_C(1) << 40};
  for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
    struct attacked_worker attacked;
    attacked_worker_open(&attacked);
    atomic_store(&attacked.lane->tail.value, tails[i]);
    assert_int_equal(channel_worker_wait(attacked.worker, 0, attacked.job), MU_INVALID);
    assert_int_equal(channel_worker_wait(attacked.worker, 0, attacked.job), MU_INVALID);
    attacked_worker_close(&attacked);
  }
  /* A record that is too short to hold even an epoch. */
  for (size_t size = 0; size < sizeof(struct layout_job); size += 8) {
    struct attacked_worker attacked;
    void *record;
    attacked_worker_open(&attacked);
    assert_int_equal(ring_reserve(&attacked.ring, size, &record), MU_OK);
    ring_publish(&attacked.ring);
    assert_int_equal(channel_worker_wait(attacked.worker, 0, attacked.job), MU_INVALID);
    attacked_worker_close(&attacked);
  }
}

/* The head of completions belongs to the gateway: a lie there ends the lane instead of overwriting anything. */
static void a_lying_completion_head_is_found_out(void **state) {
  struct attacked_worker attacked;
  struct channel_completion *completion = calloc(1, sizeof *completion);
  mu_status status = MU_OK;
  attacked_worker_open(&attacked);
  completion->result = CHANNEL_ERROR;
  completion->status = MU_INTERNAL;
  atomic_store(&attacked.lane->head.value, UINT64_MAX - 7);
  for (int i = 0; i < 1000000 && status == MU_OK; i++) status = channel_worker_complete(attacked.worker, 0, completion);
  assert_int_equal(status, MU_INVALID);
  free(completion);
  attacked_worker_close(&attacked);
}

/* ---- damage while the other side reads --------------------------------------------------------------------------- */

/* Some word of the header, the words or the first ring is overwritten: with noise, or with what could be meant. */
static void damage(const struct layout_plan *plan, struct shared_memory *file, unsigned *seed) {
  const uint64_t ranges[][2] = {
      {0, sizeof(struct layout_header)},
      {plan->sleepers_at, plan->rings_at},
      {plan->rings_at, plan->rings_at + 1024},
      {plan->rings_at, plan->rings_at + 1024},
  };
  const uint64_t *range = ranges[rand_r(seed) % 4];
  uint64_t at = range[0] + (uint64_t)rand_r(seed) % (range[1] - range[0]) / 8 * 8;
  uint64_t value =
      rand_r(seed) % 2 == 0 ? (uint64_t)rand_r(seed) % 256 * 8 : (uint64_t)rand_r(seed) << (rand_r(seed) % 48);
  __atomic_store_n((uint64_t *)(void *)(file->data + at), value, __ATOMIC_RELAXED);
}

struct victim {
  struct attacked_worker *attacked;
  uint64_t bytes; /* read, so that the reading is not left out */
  mu_status ended;
  pthread_t thread;
};

/* Uses every byte that a job names, as an engine would. */
static void use_job(struct victim *self, const struct channel_job *job) {
  const uint8_t *input = channel_worker_input(self->attacked->worker)->data;
  uint8_t *output = channel_worker_output(self->attacked->worker)->data;
  for (uint32_t i = 0; i < job->n_members * job->n_inputs; i++)
    for (uint64_t k = 0; k < job->spans[i].size; k++) self->bytes += input[job->spans[i].offset + k];
  for (uint32_t i = 0; i < job->n_places; i++) memset(output + job->places[i].offset, 1, job->places[i].capacity);
}

static void *suffer_jobs(void *argument) {
  struct victim *self = argument;
  while ((self->ended = channel_worker_wait(self->attacked->worker, 0, self->attacked->job)) == MU_OK) {
    use_job(self, self->attacked->job);
  }
  return NULL;
}

static void a_gateway_that_damages_its_file(void **state) {
  unsigned seed = 21;
  for (int run = 0; run < 300; run++) {
    struct attacked_worker attacked;
    attacked_worker_open(&attacked);
    struct victim victim = {.attacked = &attacked};
    assert_int_equal(pthread_create(&victim.thread, NULL, suffer_jobs, &victim), 0);
    for (int n = 0; n < 40; n++) {
      publish_job(&attacked, FIXTURE_EPOCH);
      if (rand_r(&seed) % 4 == 0) doorbell_write(attacked.gate.fds[OFFER_SUBMISSION_BELLS]);
      if (n > 4) damage(&attacked.gate.plan, &attacked.gate.file, &seed);
    }
    channel_worker_close(attacked.worker);
    pthread_join(victim.thread, NULL);
    assert_true(victim.ended == MU_INVALID || victim.ended == MU_CANCELED);
    attacked_worker_close(&attacked);
  }
}

/* ---- a worker that lies ------------------------------------------------------------------------------------------ */

struct attacked_gate {
  struct channel_gate *gate;
  struct shared_memory input; /* the gateway's */
  struct layout_plan plan;    /* of the false worker's file */
  struct shared_memory file, output;
  struct handshake_answer answer;
  int fds[HANDSHAKE_FDS_MAX];
  uint32_t n_fds;
  int socket;
  struct layout_lane *lane; /* 0 */
  struct ring_producer ring;
};

static void attacked_gate_open(struct attacked_gate *attacked) {
  struct channel_params params = fixture_params(HOSTILE_LANES, SPANS);
  struct handshake_offer offer;
  int ends[2], offered[HANDSHAKE_FDS_MAX];
  uint32_t n_offered;
  static const _Atomic uint64_t no_head = 0;
  memset(attacked, 0, sizeof *attacked);
  fixture_sockets(ends);
  attacked->socket = ends[1];
  assert_int_equal(shared_memory_create("input", FIXTURE_INPUT_ARENA, &attacked->input, NULL), MU_OK);
  assert_int_equal(channel_gate_offer(&params, ends[0], &attacked->input, &attacked->gate, NULL), MU_OK);
  assert_int_equal(handshake_receive(ends[1], true, HANDSHAKE_OFFER, &offer, sizeof offer, offered, &n_offered, NULL),
                   MU_OK);
  assert_int_equal(n_offered, OFFER_SUBMISSION_BELLS + HOSTILE_LANES);
  handshake_close_fds(offered, n_offered);
  assert_int_equal(layout_plan(LAYOUT_WORKER, HOSTILE_LANES, SPANS, &attacked->plan), MU_OK);
  assert_int_equal(shared_memory_create("hostile", attacked->plan.size, &attacked->file, NULL), MU_OK);
  assert_int_equal(shared_memory_create("output", FIXTURE_OUTPUT_ARENA, &attacked->output, NULL), MU_OK);
  layout_write(&attacked->plan, FIXTURE_EPOCH, &attacked->file);
  attacked->answer = (struct handshake_answer){
      .epoch = FIXTURE_EPOCH, .file_size = attacked->file.size, .output_size = attacked->output.size};
  attacked->n_fds = ANSWER_FDS;
  attacked->fds[ANSWER_FILE] = dup(attacked->file.fd);
  attacked->fds[ANSWER_OUTPUT] = dup(attacked->output.fd);
  attacked->lane = layout_lane(&attacked->plan, &attacked->file, 0);
  ring_producer_init(&attacked->ring, layout_ring(&attacked->plan, &attacked->file, 0), attacked->plan.ring_size,
                     &attacked->lane->tail.value, &no_head);
}

static mu_status false_answer(struct attacked_gate *attacked) {
  mu_error err = {""};
  assert_int_equal(handshake_send(attacked->socket, HANDSHAKE_ANSWER, &attacked->answer, sizeof attacked->answer,
                                  attacked->fds, attacked->n_fds, NULL),
                   MU_OK);
  return channel_gate_finish(attacked->gate, &err);
}

static void attacked_gate_close(struct attacked_gate *attacked) {
  channel_gate_free(attacked->gate);
  handshake_close_fds(attacked->fds, attacked->n_fds);
  close(attacked->socket);
  shared_memory_close(&attacked->input);
  shared_memory_close(&attacked->file);
  shared_memory_close(&attacked->output);
}

static void answer_epoch(struct attacked_gate *g) { g->answer.epoch++; }
static void answer_unknown_status(struct attacked_gate *g) { g->answer.status = -100; }
static void answer_positive_status(struct attacked_gate *g) { g->answer.status = 1; }
static void answer_not_now(struct attacked_gate *g) { g->answer.status = MU_UNAVAILABLE; }
static void answer_no_fds(struct attacked_gate *g) { g->n_fds = 0; }
static void answer_many_fds(struct attacked_gate *g) { g->fds[g->n_fds++] = dup(0); }
static void answer_file_size(struct attacked_gate *g) { g->answer.file_size--; }
static void answer_output_size(struct attacked_gate *g) { g->answer.output_size = UINT64_MAX; }
static void answer_swapped(struct attacked_gate *g) {
  int file = g->fds[ANSWER_FILE];
  g->fds[ANSWER_FILE] = g->fds[ANSWER_OUTPUT];
  g->fds[ANSWER_OUTPUT] = file;
}
static void worker_header_epoch(struct attacked_gate *g) { header_of(&g->file)->epoch--; }
static void worker_header_side(struct attacked_gate *g) { header_of(&g->file)->side = LAYOUT_GATEWAY; }
static void worker_header_lanes(struct attacked_gate *g) { header_of(&g->file)->lanes--; }
static void worker_header_rings(struct attacked_gate *g) { header_of(&g->file)->rings_at = 0; }
/* Consistent in itself, but not what was offered. */
static void worker_header_fewer_lanes(struct attacked_gate *g) {
  struct layout_plan plan;
  assert_int_equal(layout_plan(LAYOUT_WORKER, HOSTILE_LANES - 1, SPANS, &plan), MU_OK);
  layout_write(&plan, FIXTURE_EPOCH, &g->file);
}

static void false_answers_are_refused(void **state) {
  static void (*const lies[])(struct attacked_gate *) = {
      answer_epoch,        answer_unknown_status,     answer_positive_status, answer_not_now,
      answer_no_fds,       answer_many_fds,           answer_file_size,       answer_output_size,
      answer_swapped,      worker_header_epoch,       worker_header_side,     worker_header_lanes,
      worker_header_rings, worker_header_fewer_lanes,
  };
  for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
    struct attacked_gate attacked;
    attacked_gate_open(&attacked);
    lies[i](&attacked);
    assert_int_equal(false_answer(&attacked), MU_INVALID);
    assert_null(channel_gate_output(attacked.gate)->data);
    attacked_gate_close(&attacked);
  }
}

static void submit_jobs(struct attacked_gate *attacked, uint32_t n) {
  struct channel_job *job = fixture_job(SPANS);
  for (uint32_t i = 0; i < n; i++) {
    fixture_fill_job(job, i, 1, 0);
    mu_status status = channel_gate_submit(attacked->gate, 0, job);
    assert_true(status == MU_OK || status == MU_UNAVAILABLE || status == MU_INVALID);
  }
  channel_gate_ring(attacked->gate);
  fixture_job_free(job);
}

static void publish_completion(struct attacked_gate *attacked, struct channel_completion *completion) {
  void *record;
  assert_int_equal(ring_reserve(&attacked->ring, channel_completion_size(completion), &record), MU_OK);
  channel_completion_encode(completion, record);
  ring_publish(&attacked->ring);
}

static struct channel_completion *sound_completion(void) {
  struct channel_completion *completion = malloc(sizeof *completion);
  struct channel_job *job = fixture_job(SPANS);
  assert_non_null(completion);
  fixture_fill_job(job, 0, 1, 0);
  fixture_fill_completion(completion, job);
  fixture_job_free(job);
  return completion;
}

static void a_lying_worker_is_found_out(void **state) {
  static const uint64_t tails[] = {1, 9, UINT64_MAX, UINT64_MAX - 7, UINT64_C(1) << 40};
  struct channel_completion *completion = sound_completion();
  uint32_t lane;
  for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
    struct attacked_gate attacked;
    attacked_gate_open(&attacked);
    assert_int_equal(false_answer(&attacked), MU_OK);
    submit_jobs(&attacked, 1);
    atomic_store(&attacked.lane->tail.value, tails[i]);
    assert_false(channel_gate_sleep(attacked.gate));
    assert_int_equal(channel_gate_next(attacked.gate, &lane, completion), MU_INVALID);
    attacked_gate_close(&attacked);
  }
  for (size_t size = 0; size < sizeof(struct layout_completion); size += 8) {
    struct attacked_gate attacked;
    void *record;
    attacked_gate_open(&attacked);
    assert_int_equal(false_answer(&attacked), MU_OK);
    submit_jobs(&attacked, 1);
    assert_int_equal(ring_reserve(&attacked.ring, size, &record), MU_OK);
    ring_publish(&attacked.ring);
    assert_int_equal(channel_gate_next(attacked.gate, &lane, completion), MU_INVALID);
    attacked_gate_close(&attacked);
  }
  free(completion);
}

static void a_lying_submission_head_is_found_out(void **state) {
  struct attacked_gate attacked;
  struct channel_completion *completion = sound_completion();
  struct channel_job *job = fixture_job(SPANS);
  mu_status status = MU_OK;
  uint32_t lane;
  attacked_gate_open(&attacked);
  assert_int_equal(false_answer(&attacked), MU_OK);
  atomic_store(&attacked.lane->head.value, UINT64_MAX - 7); /* further than anything was written */
  for (int i = 0; i < 100000 && status == MU_OK; i++) {
    fixture_fill_job(job, 0, SPANS, 0);
    status = channel_gate_submit(attacked.gate, 0, job);
    if (status != MU_OK) break;
    publish_completion(&attacked, completion);
    assert_int_equal(channel_gate_next(attacked.gate, &lane, completion), MU_OK);
  }
  assert_int_equal(status, MU_INVALID);
  free(completion);
  fixture_job_free(job);
  attacked_gate_close(&attacked);
}

/* A worker that writes records of another epoch as fast as it can must not keep the gateway in one call for ever. */
static void dropped_records_hold_nobody_up(void **state) {
  struct attacked_gate attacked;
  struct channel_completion *completion = sound_completion(), *got = sound_completion();
  uint32_t lane, calls = 0;
  attacked_gate_open(&attacked);
  assert_int_equal(false_answer(&attacked), MU_OK);
  submit_jobs(&attacked, 1);
  completion->epoch++;
  for (int i = 0; i < 100; i++) publish_completion(&attacked, completion);
  completion->epoch--;
  publish_completion(&attacked, completion);
  while (channel_gate_next(attacked.gate, &lane, got) == MU_UNAVAILABLE) calls++;
  assert_int_equal(calls, 100);
  assert_int_equal(got->epoch, FIXTURE_EPOCH);
  free(completion);
  free(got);
  attacked_gate_close(&attacked);
}

struct attacker {
  struct attacked_gate *attacked;
  unsigned seed;
  pthread_mutex_t lock; /* of the false worker's file: only the gate reads it unprotected */
  atomic_bool stop;
  pthread_t thread;
};

static void *damage_on(void *argument) {
  struct attacker *self = argument;
  while (!atomic_load(&self->stop)) {
    pthread_mutex_lock(&self->lock);
    damage(&self->attacked->plan, &self->attacked->file, &self->seed);
    pthread_mutex_unlock(&self->lock);
    sched_yield();
  }
  return NULL;
}

/* Uses every byte that a completion names, as a reply would. */
static uint64_t use_completion(const struct attacked_gate *attacked, const struct channel_completion *completion) {
  uint64_t sum = 0;
  assert_true(strnlen(completion->message, sizeof completion->message) < sizeof completion->message);
  if (completion->result != CHANNEL_DONE) return sum;
  for (uint32_t i = 0; i < completion->n_outputs; i++)
    for (uint64_t k = 0; k < completion->outputs[i].size; k++)
      sum += channel_gate_output(attacked->gate)->data[completion->outputs[i].offset + k];
  return sum;
}

static void a_worker_that_damages_its_file(void **state) {
  struct channel_completion *completion = sound_completion(), *got = sound_completion();
  uint32_t lane;
  uint64_t bytes = 0;
  for (unsigned run = 1; run <= 150; run++) {
    struct attacked_gate attacked;
    mu_status status = MU_OK;
    attacked_gate_open(&attacked);
    assert_int_equal(false_answer(&attacked), MU_OK);
    struct attacker attacker = {.attacked = &attacked, .seed = run, .lock = PTHREAD_MUTEX_INITIALIZER};
    submit_jobs(&attacked, 8);
    for (int i = 0; i < 8; i++) publish_completion(&attacked, completion);
    assert_int_equal(pthread_create(&attacker.thread, NULL, damage_on, &attacker), 0);
    for (int i = 0; i < 200 && status != MU_INVALID; i++) {
      status = channel_gate_next(attacked.gate, &lane, got);
      if (status == MU_OK) bytes += use_completion(&attacked, got);
      if (i % 10 == 9) {
        submit_jobs(&attacked, 1);
        pthread_mutex_lock(&attacker.lock);
        publish_completion(&attacked, completion);
        pthread_mutex_unlock(&attacker.lock);
        channel_gate_sleep(attacked.gate);
        channel_gate_wake(attacked.gate);
      }
      sched_yield();
    }
    atomic_store(&attacker.stop, true);
    pthread_join(attacker.thread, NULL);
    attacked_gate_close(&attacked);
  }
  assert_int_equal(bytes, 0); /* nothing but the zeros of the arena was ever named */
  free(completion);
  free(got);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(false_offers_are_refused),        cmocka_unit_test(another_major_version_is_not_understood),
      cmocka_unit_test(messages_that_are_none),          cmocka_unit_test(jobs_of_another_epoch_are_dropped),
      cmocka_unit_test(a_lying_gateway_is_found_out),    cmocka_unit_test(a_lying_completion_head_is_found_out),
      cmocka_unit_test(a_gateway_that_damages_its_file), cmocka_unit_test(false_answers_are_refused),
      cmocka_unit_test(a_lying_worker_is_found_out),     cmocka_unit_test(a_lying_submission_head_is_found_out),
      cmocka_unit_test(dropped_records_hold_nobody_up),  cmocka_unit_test(a_worker_that_damages_its_file),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
