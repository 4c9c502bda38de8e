#include "channel/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "channel/layout.h"
#include "channel_fixture.h"

static bool readable(int fd) {
  struct pollfd wanted = {.fd = fd, .events = POLLIN};
  return poll(&wanted, 1, 0) == 1;
}

/* The worker's part for one job, on this thread. */
static void answer_one(struct channel_worker *worker, uint32_t lane, struct channel_job *job) {
  struct channel_completion *completion = malloc(sizeof *completion);
  assert_non_null(completion);
  assert_int_equal(channel_worker_wait(worker, lane, job), MU_OK);
  fixture_fill_completion(completion, job);
  assert_int_equal(channel_worker_complete(worker, lane, completion), MU_OK);
  free(completion);
}

/* ---- handshake --------------------------------------------------------------------------------------------------- */

static void both_ends_agree(void **state) {
  struct channel_fixture fixture;
  fixture_open(&fixture, 3, 128);
  assert_int_equal(channel_worker_lanes(fixture.worker), 3);
  assert_int_equal(channel_worker_epoch(fixture.worker), FIXTURE_EPOCH);
  assert_int_equal(channel_worker_max_spans(fixture.worker), 128);
  assert_int_equal(channel_gate_output(fixture.gate)->size, FIXTURE_OUTPUT_ARENA);
  assert_int_equal(channel_worker_input(fixture.worker)->size, FIXTURE_INPUT_ARENA);
  fixture.input.data[77] = 5;
  assert_int_equal(channel_worker_input(fixture.worker)->data[77], 5);
  channel_worker_output(fixture.worker)->data[99] = 6;
  assert_int_equal(channel_gate_output(fixture.gate)->data[99], 6);
  assert_int_equal(channel_gate_finish(fixture.gate, NULL), MU_OK); /* once more is harmless */
  fixture_close(&fixture);
}

enum { FDS = 1024 };

static void list_fds(int ret_flags[FDS]) {
  for (int fd = 0; fd < FDS; fd++) ret_flags[fd] = fcntl(fd, F_GETFD);
}

static void nothing_stays_open(void **state) {
  int before[FDS], during[FDS], after[FDS];
  struct channel_fixture fixture;
  list_fds(before);
  fixture_open(&fixture, CHANNEL_LANES_MAX, 1);
  list_fds(during);
  fixture_close(&fixture);
  list_fds(after);
  for (int fd = 0; fd < FDS; fd++)
    if (before[fd] < 0 && during[fd] >= 0) assert_true(during[fd] & FD_CLOEXEC);
  assert_memory_equal(before, after, sizeof before);
  channel_gate_free(NULL);
  channel_worker_free(NULL);
}

static void parameters_out_of_range(void **state) {
  static const struct {
    uint32_t lanes, max_spans;
  } rows[] = {{0, 1}, {CHANNEL_LANES_MAX + 1, 1}, {1, CHANNEL_MEMBERS_MAX * CHANNEL_TENSORS_MAX + 1}, {1, UINT32_MAX}};
  struct shared_memory input;
  int ends[2];
  fixture_sockets(ends);
  assert_int_equal(shared_memory_create("test", 1, &input, NULL), MU_OK);
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct channel_params params = fixture_params(rows[i].lanes, rows[i].max_spans);
    struct channel_gate *gate = NULL;
    mu_error err = {""};
    assert_int_equal(channel_gate_offer(&params, ends[0], &input, &gate, &err), MU_INVALID);
    assert_null(gate);
    assert_string_not_equal(err.message, "");
  }
  assert_true(fcntl(ends[0], F_GETFD) >= 0); /* still the caller's */
  close(ends[0]);
  close(ends[1]);
  shared_memory_close(&input);
}

/* The largest that can be asked for works as well: a ring costs nothing until it is used. */
static void largest_parameters(void **state) {
  struct channel_fixture fixture;
  fixture_open(&fixture, 2, CHANNEL_MEMBERS_MAX * CHANNEL_TENSORS_MAX);
  struct channel_job *job = fixture_job(CHANNEL_MEMBERS_MAX * CHANNEL_TENSORS_MAX);
  fixture_fill_job(job, 1, CHANNEL_MEMBERS_MAX, 0);
  job->n_inputs = CHANNEL_TENSORS_MAX;
  for (uint32_t i = 0; i < CHANNEL_TENSORS_MAX; i++) job->inputs[i] = job->inputs[0];
  for (uint32_t i = 0; i < CHANNEL_MEMBERS_MAX * CHANNEL_TENSORS_MAX; i++)
    job->spans[i] = (struct channel_span){.offset = i % 4096 * 16, .size = 16};
  for (int i = 0; i < 3; i++) assert_int_equal(channel_gate_submit(fixture.gate, 1, job), MU_OK);
  for (int i = 0; i < 3; i++) answer_one(fixture.worker, 1, job);
  assert_int_equal(job->n_members, CHANNEL_MEMBERS_MAX);
  fixture_job_free(job);
  fixture_close(&fixture);
}

static void the_worker_says_why_it_cannot(void **state) {
  struct shared_memory input;
  struct channel_gate *gate;
  struct channel_worker *worker = NULL;
  mu_error err = {""};
  int ends[2];
  fixture_sockets(ends);
  struct channel_params params = fixture_params(1, 1);
  params.output_arena = UINT64_C(1) << 62;
  assert_int_equal(shared_memory_create("test", 1, &input, NULL), MU_OK);
  assert_int_equal(channel_gate_offer(&params, ends[0], &input, &gate, &err), MU_OK);
  mu_status status = channel_worker_accept(ends[1], &worker, &err);
  assert_int_not_equal(status, MU_OK);
  assert_null(worker);
  mu_error heard = {""};
  assert_int_equal(channel_gate_finish(gate, &heard), status);
  assert_string_equal(heard.message, err.message);
  channel_gate_free(gate);
  close(ends[1]);
  shared_memory_close(&input);
}

static void a_peer_that_leaves(void **state) {
  struct shared_memory input;
  struct channel_gate *gate;
  struct channel_worker *worker = NULL;
  mu_error err = {""};
  int ends[2];
  struct channel_params params = fixture_params(1, 1);
  assert_int_equal(shared_memory_create("test", 1, &input, NULL), MU_OK);
  fixture_sockets(ends);
  assert_int_equal(channel_gate_offer(&params, ends[0], &input, &gate, &err), MU_OK);
  close(ends[1]);
  assert_int_equal(channel_gate_finish(gate, &err), MU_CANCELED);
  channel_gate_free(gate);
  fixture_sockets(ends);
  close(ends[1]);
  assert_int_equal(channel_gate_offer(&params, ends[0], &input, &gate, &err), MU_CANCELED);
  close(ends[0]);
  fixture_sockets(ends);
  close(ends[0]);
  assert_int_equal(channel_worker_accept(ends[1], &worker, &err), MU_CANCELED);
  close(ends[1]);
  shared_memory_close(&input);
}

static void nothing_is_submitted_before_the_answer(void **state) {
  struct shared_memory input;
  struct channel_gate *gate;
  int ends[2];
  struct channel_params params = fixture_params(1, 4);
  fixture_sockets(ends);
  assert_int_equal(shared_memory_create("test", 1, &input, NULL), MU_OK);
  assert_int_equal(channel_gate_offer(&params, ends[0], &input, &gate, NULL), MU_OK);
  struct channel_job *job = fixture_job(4);
  struct channel_completion *completion = malloc(sizeof *completion);
  uint32_t lane;
  fixture_fill_job(job, 1, 1, 0);
  assert_int_equal(channel_gate_submit(gate, 0, job), MU_UNAVAILABLE);
  assert_int_equal(channel_gate_next(gate, &lane, completion), MU_UNAVAILABLE);
  assert_true(channel_gate_sleep(gate));
  channel_gate_wake(gate);
  channel_gate_ring(gate);
  free(completion);
  fixture_job_free(job);
  channel_gate_free(gate);
  close(ends[1]);
  shared_memory_close(&input);
}

/* ---- jobs and completions ---------------------------------------------------------------------------------------- */

static void a_job_and_its_answer(void **state) {
  struct channel_fixture fixture;
  fixture_open(&fixture, 2, 8);
  struct channel_job *job = fixture_job(8);
  struct channel_completion *completion = malloc(sizeof *completion);
  uint32_t lane = 99;
  fixture_fill_job(job, 42, 3, 160);
  assert_int_equal(channel_gate_next(fixture.gate, &lane, completion), MU_UNAVAILABLE);
  assert_int_equal(channel_gate_submit(fixture.gate, 1, job), MU_OK);
  channel_gate_ring(fixture.gate);
  answer_one(fixture.worker, 1, job);
  assert_int_equal(channel_gate_next(fixture.gate, &lane, completion), MU_OK);
  assert_int_equal(lane, 1);
  assert_int_equal(completion->batch, 42);
  assert_int_equal(completion->outputs[0].offset, 160);
  assert_int_equal(channel_gate_next(fixture.gate, &lane, completion), MU_UNAVAILABLE);
  free(completion);
  fixture_job_free(job);
  fixture_close(&fixture);
}

static void submitting_has_a_bound(void **state) {
  struct channel_fixture fixture;
  fixture_open(&fixture, 2, 1024);
  struct channel_job *job = fixture_job(1024);
  struct channel_completion *completion = malloc(sizeof *completion);
  uint32_t lane, n = 0;
  for (;; n++) {
    fixture_fill_job(job, n, 1, 0);
    mu_status status = channel_gate_submit(fixture.gate, 0, job);
    if (status == MU_UNAVAILABLE) break;
    assert_int_equal(status, MU_OK);
  }
  assert_int_equal(n, LAYOUT_OUTSTANDING);
  assert_int_equal(channel_gate_submit(fixture.gate, 1, job), MU_OK); /* the other lane is not concerned */
  /* Taking the jobs makes no room; reading completions does. */
  for (uint32_t i = 0; i < n; i++) answer_one(fixture.worker, 0, job);
  assert_int_equal(channel_gate_submit(fixture.gate, 0, job), MU_UNAVAILABLE);
  assert_int_equal(channel_gate_next(fixture.gate, &lane, completion), MU_OK);
  assert_int_equal(completion->batch, 0);
  assert_int_equal(channel_gate_submit(fixture.gate, 0, job), MU_OK);
  assert_int_equal(channel_gate_submit(fixture.gate, 0, job), MU_UNAVAILABLE);
  free(completion);
  fixture_job_free(job);
  fixture_close(&fixture);
}

/* As many of the largest completions as jobs are allowed fit, wherever the ring begins. */
static void largest_completions_always_fit(void **state) {
  struct channel_fixture fixture;
  fixture_open(&fixture, 1, 8);
  struct channel_job *job = fixture_job(8);
  struct channel_completion *completion = calloc(1, sizeof *completion);
  uint32_t lane;
  completion->result = CHANNEL_DONE;
  completion->epoch = FIXTURE_EPOCH;
  for (uint32_t i = 0; i < CHANNEL_TENSORS_MAX; i++) {
    completion->outputs[i] = (struct channel_output){.dtype = MU_UINT8, .rank = MU_MAX_RANK, .size = 1};
    for (int k = 0; k < MU_MAX_RANK; k++) completion->outputs[i].dims[k] = 1;
  }
  for (int round = 0; round < 200; round++) {
    for (int i = 0; i < LAYOUT_OUTSTANDING; i++) {
      fixture_fill_job(job, (uint64_t)i, 1, 0);
      assert_int_equal(channel_gate_submit(fixture.gate, 0, job), MU_OK);
    }
    for (int i = 0; i < LAYOUT_OUTSTANDING; i++) {
      completion->n_outputs = round % 7 == 0 ? (uint32_t)round % CHANNEL_TENSORS_MAX : CHANNEL_TENSORS_MAX;
      assert_int_equal(channel_worker_wait(fixture.worker, 0, job), MU_OK);
      assert_int_equal(channel_worker_complete(fixture.worker, 0, completion), MU_OK);
    }
    for (int i = 0; i < LAYOUT_OUTSTANDING; i++)
      assert_int_equal(channel_gate_next(fixture.gate, &lane, completion), MU_OK);
  }
  free(completion);
  fixture_job_free(job);
  fixture_close(&fixture);
}

static void jobs_that_are_not_of_this_attachment(void **state) {
  struct channel_fixture fixture;
  fixture_open(&fixture, 2, 4);
  struct channel_job *job = fixture_job(8);
  fixture_fill_job(job, 1, 4, 0);
  assert_int_equal(channel_gate_submit(fixture.gate, 2, job), MU_INVALID);
  job->epoch--;
  assert_int_equal(channel_gate_submit(fixture.gate, 0, job), MU_INVALID);
  fixture_fill_job(job, 1, 5, 0);
  assert_int_equal(channel_gate_submit(fixture.gate, 0, job), MU_INVALID);
  fixture_job_free(job);
  fixture_close(&fixture);
}

/* A completion of an earlier attachment comes late: it is dropped, what follows is read. */
static void completions_of_another_epoch_are_dropped(void **state) {
  struct channel_fixture fixture;
  fixture_open(&fixture, 1, 4);
  struct channel_job *job = fixture_job(4);
  struct channel_completion *completion = malloc(sizeof *completion);
  uint32_t lane;
  fixture_fill_job(job, 8, 1, 0);
  assert_int_equal(channel_gate_submit(fixture.gate, 0, job), MU_OK);
  fixture_fill_completion(completion, job);
  completion->epoch--;
  completion->outputs[0].offset = UINT64_MAX; /* not even looked at */
  assert_int_equal(channel_worker_complete(fixture.worker, 0, completion), MU_OK);
  answer_one(fixture.worker, 0, job);
  mu_status status = channel_gate_next(fixture.gate, &lane, completion);
  assert_int_equal(status, MU_UNAVAILABLE);
  assert_false(channel_gate_sleep(fixture.gate)); /* which sends the loop back to reading */
  assert_int_equal(channel_gate_next(fixture.gate, &lane, completion), MU_OK);
  assert_int_equal(completion->batch, 8);
  free(completion);
  fixture_job_free(job);
  fixture_close(&fixture);
}

static void a_completion_without_a_job_is_nonsense(void **state) {
  struct channel_fixture fixture;
  fixture_open(&fixture, 1, 4);
  struct channel_job *job = fixture_job(4);
  struct channel_completion *completion = malloc(sizeof *completion);
  uint32_t lane;
  fixture_fill_job(job, 8, 1, 0);
  fixture_fill_completion(completion, job);
  assert_int_equal(channel_worker_complete(fixture.worker, 0, completion), MU_OK);
  assert_int_equal(channel_gate_next(fixture.gate, &lane, completion), MU_INVALID);
  free(completion);
  fixture_job_free(job);
  fixture_close(&fixture);
}

/* Lanes are read in turn, so that a busy one does not hide the others. */
static void lanes_take_turns(void **state) {
  struct channel_fixture fixture;
  fixture_open(&fixture, 3, 4);
  struct channel_job *job = fixture_job(4);
  struct channel_completion *completion = malloc(sizeof *completion);
  static const uint32_t expected[] = {0, 1, 2, 0, 0};
  uint32_t lane;
  for (uint32_t i = 0; i < 5; i++) {
    uint32_t to = i < 3 ? 0 : i - 2;
    fixture_fill_job(job, i, 1, 0);
    assert_int_equal(channel_gate_submit(fixture.gate, to, job), MU_OK);
    answer_one(fixture.worker, to, job);
  }
  for (uint32_t i = 0; i < 5; i++) {
    assert_int_equal(channel_gate_next(fixture.gate, &lane, completion), MU_OK);
    assert_int_equal(lane, expected[i]);
  }
  free(completion);
  fixture_job_free(job);
  fixture_close(&fixture);
}

/* ---- doorbells --------------------------------------------------------------------------------------------------- */

static void only_a_sleeping_gateway_is_rung_and_once(void **state) {
  struct channel_fixture fixture;
  fixture_open(&fixture, 2, 4);
  struct channel_job *job = fixture_job(4);
  struct channel_completion *completion = malloc(sizeof *completion);
  int bell = channel_gate_doorbell(fixture.gate);
  uint32_t lane;
  for (uint32_t i = 0; i < 4; i++) {
    fixture_fill_job(job, i, 1, 0);
    assert_int_equal(channel_gate_submit(fixture.gate, i % 2, job), MU_OK);
  }
  answer_one(fixture.worker, 0, job);
  assert_false(readable(bell));                   /* awake */
  assert_false(channel_gate_sleep(fixture.gate)); /* something is there */
  assert_int_equal(channel_gate_next(fixture.gate, &lane, completion), MU_OK);
  assert_true(channel_gate_sleep(fixture.gate));
  answer_one(fixture.worker, 0, job);
  assert_true(readable(bell));
  uint64_t count;
  assert_int_equal(read(bell, &count, sizeof count), sizeof count);
  answer_one(fixture.worker, 1, job); /* another lane remembers for itself: one more doorbell */
  answer_one(fixture.worker, 1, job); /* but not twice for one sleep */
  assert_int_equal(read(bell, &count, sizeof count), sizeof count);
  assert_int_equal(count, 1);
  channel_gate_wake(fixture.gate);
  for (int i = 0; i < 3; i++) assert_int_equal(channel_gate_next(fixture.gate, &lane, completion), MU_OK);
  assert_true(channel_gate_sleep(fixture.gate));
  assert_false(readable(bell));
  channel_gate_wake(fixture.gate);
  channel_gate_wake(fixture.gate); /* harmless */
  free(completion);
  fixture_job_free(job);
  fixture_close(&fixture);
}

struct lane_thread {
  struct channel_worker *worker;
  uint32_t lane;
  uint32_t done;
  mu_status ended;
  pthread_t thread;
};

/* Writes each input, plus one, into the place of the output. */
static void *serve_lane(void *argument) {
  struct lane_thread *self = argument;
  struct channel_job *job = fixture_job(channel_worker_max_spans(self->worker));
  struct channel_completion *completion = malloc(sizeof *completion);
  assert_non_null(completion);
  while ((self->ended = channel_worker_wait(self->worker, self->lane, job)) == MU_OK) {
    const uint8_t *input = channel_worker_input(self->worker)->data + job->spans[0].offset;
    uint8_t *output = channel_worker_output(self->worker)->data + job->places[0].offset;
    for (uint32_t i = 0; i < 16 * job->n_members; i++) output[i] = (uint8_t)(input[i] + 1);
    fixture_fill_completion(completion, job);
    assert_int_equal(channel_worker_complete(self->worker, self->lane, completion), MU_OK);
    self->done++;
  }
  free(completion);
  fixture_job_free(job);
  return NULL;
}

/* A thread of its own reads the completions of `n` jobs, as an event loop does. */
struct reader_thread {
  struct channel_gate *gate;
  uint32_t n;
  uint64_t next_batch[CHANNEL_LANES_MAX];
  pthread_t thread;
};

static void check_completion(struct reader_thread *self, uint32_t lane, const struct channel_completion *completion) {
  assert_int_equal(completion->batch, self->next_batch[lane]++);
  assert_int_equal(completion->n_outputs, 1);
  const struct channel_output *output = &completion->outputs[0];
  const uint8_t *data = channel_gate_output(self->gate)->data + output->offset;
  for (uint64_t i = 0; i < output->size; i++) assert_int_equal(data[i], (uint8_t)(completion->batch + 1));
}

static void *read_completions(void *argument) {
  struct reader_thread *self = argument;
  struct channel_completion *completion = malloc(sizeof *completion);
  assert_non_null(completion);
  struct pollfd bell = {.fd = channel_gate_doorbell(self->gate), .events = POLLIN};
  for (uint32_t got = 0; got < self->n;) {
    uint32_t lane;
    mu_status status = channel_gate_next(self->gate, &lane, completion);
    if (status == MU_OK) {
      check_completion(self, lane, completion);
      got++;
    } else {
      assert_int_equal(status, MU_UNAVAILABLE);
      if (!channel_gate_sleep(self->gate)) continue;
      poll(&bell, 1, -1);
      channel_gate_wake(self->gate);
    }
  }
  free(completion);
  return NULL;
}

enum { LANES = 3, JOBS_PER_LANE = 20000, PLACE = 1024 };

/* Submits to all lanes as fast as there is room; each job's bytes are its number. */
static void submit_all(struct channel_gate *gate, struct shared_memory *input, uint32_t per_lane) {
  struct channel_job *job = fixture_job(8);
  uint32_t sent[LANES] = {0};
  for (uint32_t left = LANES * per_lane; left > 0;) {
    bool any = false;
    for (uint32_t lane = 0; lane < LANES; lane++) {
      if (sent[lane] == per_lane) continue;
      /* More places than jobs can be outstanding, so none is written twice at a time. */
      uint64_t offset = (lane * (LAYOUT_OUTSTANDING + 1) + sent[lane] % (LAYOUT_OUTSTANDING + 1)) * PLACE;
      fixture_fill_job(job, sent[lane], sent[lane] % 8 + 1, offset);
      memset(input->data + offset, (uint8_t)sent[lane], 16 * job->n_members);
      mu_status status = channel_gate_submit(gate, lane, job);
      if (status == MU_UNAVAILABLE) continue;
      assert_int_equal(status, MU_OK);
      sent[lane]++;
      left--;
      any = true;
    }
    channel_gate_ring(gate);
    if (!any) sched_yield();
  }
  fixture_job_free(job);
}

static void threads_on_both_ends(void **state) {
  struct channel_fixture fixture;
  struct lane_thread lanes[LANES];
  fixture_open(&fixture, LANES, 8);
  for (uint32_t i = 0; i < LANES; i++) {
    lanes[i] = (struct lane_thread){.worker = fixture.worker, .lane = i};
    assert_int_equal(pthread_create(&lanes[i].thread, NULL, serve_lane, &lanes[i]), 0);
  }
  struct reader_thread reader = {.gate = fixture.gate, .n = LANES * JOBS_PER_LANE};
  assert_int_equal(pthread_create(&reader.thread, NULL, read_completions, &reader), 0);
  submit_all(fixture.gate, &fixture.input, JOBS_PER_LANE);
  pthread_join(reader.thread, NULL);
  channel_worker_close(fixture.worker);
  for (uint32_t i = 0; i < LANES; i++) {
    pthread_join(lanes[i].thread, NULL);
    assert_int_equal(lanes[i].done, JOBS_PER_LANE);
    assert_int_equal(lanes[i].ended, MU_CANCELED);
  }
  fixture_close(&fixture);
}

static void closing_wakes_sleepers_and_stays(void **state) {
  for (int round = 0; round < 50; round++) {
    struct channel_fixture fixture;
    struct lane_thread lanes[LANES];
    fixture_open(&fixture, LANES, 8);
    for (uint32_t i = 0; i < LANES; i++) {
      lanes[i] = (struct lane_thread){.worker = fixture.worker, .lane = i};
      assert_int_equal(pthread_create(&lanes[i].thread, NULL, serve_lane, &lanes[i]), 0);
    }
    for (int i = 0; i < round; i++) sched_yield(); /* some are asleep by now, some are not */
    channel_worker_close(fixture.worker);
    for (uint32_t i = 0; i < LANES; i++) pthread_join(lanes[i].thread, NULL);
    struct channel_job *job = fixture_job(8);
    fixture_fill_job(job, 1, 1, 0);
    assert_int_equal(channel_gate_submit(fixture.gate, 0, job), MU_OK);
    assert_int_equal(channel_worker_wait(fixture.worker, 0, job), MU_CANCELED); /* in spite of the job */
    fixture_job_free(job);
    fixture_close(&fixture);
  }
}

static void ignore_signal(int number) {}

/* A signal that interrupts the wait is no wake-up. */
static void signals_do_not_disturb(void **state) {
  struct channel_fixture fixture;
  fixture_open(&fixture, 1, 8);
  struct sigaction action = {.sa_handler = ignore_signal};
  sigaction(SIGUSR1, &action, NULL);
  struct lane_thread lane = {.worker = fixture.worker};
  assert_int_equal(pthread_create(&lane.thread, NULL, serve_lane, &lane), 0);
  for (int i = 0; i < 200; i++) {
    pthread_kill(lane.thread, SIGUSR1);
    sched_yield();
  }
  channel_worker_close(fixture.worker);
  pthread_join(lane.thread, NULL);
  assert_int_equal(lane.ended, MU_CANCELED);
  fixture_close(&fixture);
}

/* ---- the socket afterwards --------------------------------------------------------------------------------------- */

static void stop_reaches_the_worker(void **state) {
  struct channel_fixture fixture;
  fixture_open(&fixture, 2, 8);
  uint32_t lane = 99;
  uint64_t batch = 0;
  assert_int_equal(channel_worker_next_stop(fixture.worker, &lane, &batch), MU_UNAVAILABLE);
  channel_gate_stop(fixture.gate, 1, 12345);
  assert_true(readable(channel_worker_socket(fixture.worker)));
  assert_int_equal(channel_worker_next_stop(fixture.worker, &lane, &batch), MU_OK);
  assert_int_equal(lane, 1);
  assert_int_equal(batch, 12345);
  channel_gate_stop(fixture.gate, 2, 1); /* no such lane */
  assert_int_equal(channel_worker_next_stop(fixture.worker, &lane, &batch), MU_INVALID);
  for (int i = 0; i < 100000; i++) channel_gate_stop(fixture.gate, 0, 1); /* nobody reads; it never blocks */
  channel_gate_free(fixture.gate);
  mu_status status;
  while ((status = channel_worker_next_stop(fixture.worker, &lane, &batch)) == MU_OK) assert_int_equal(lane, 0);
  assert_int_equal(status, MU_CANCELED);
  channel_worker_free(fixture.worker);
  shared_memory_close(&fixture.input);
}

static void the_gateway_sees_the_worker_leave(void **state) {
  struct channel_fixture fixture;
  fixture_open(&fixture, 1, 8);
  struct channel_job *job = fixture_job(8);
  struct channel_completion *completion = malloc(sizeof *completion);
  uint32_t lane;
  for (uint64_t i = 0; i < 2; i++) {
    fixture_fill_job(job, i, 1, 0);
    assert_int_equal(channel_gate_submit(fixture.gate, 0, job), MU_OK);
  }
  answer_one(fixture.worker, 0, job);
  channel_worker_output(fixture.worker)->data[0] = 9;
  channel_worker_free(fixture.worker);
  assert_true(readable(channel_gate_socket(fixture.gate)));
  /* What it had finished is still there to be read, and so is its output. */
  assert_int_equal(channel_gate_next(fixture.gate, &lane, completion), MU_OK);
  assert_int_equal(channel_gate_next(fixture.gate, &lane, completion), MU_UNAVAILABLE);
  assert_int_equal(channel_gate_output(fixture.gate)->data[0], 9);
  channel_gate_stop(fixture.gate, 0, 1);
  channel_gate_ring(fixture.gate);
  free(completion);
  fixture_job_free(job);
  channel_gate_free(fixture.gate);
  shared_memory_close(&fixture.input);
}

/* ---- two processes ----------------------------------------------------------------------------------------------- */

static int worker_process(int socket) {
  struct channel_worker *worker;
  struct lane_thread lanes[LANES];
  if (channel_worker_accept(socket, &worker, NULL) != MU_OK) return 1;
  for (uint32_t i = 0; i < LANES; i++) {
    lanes[i] = (struct lane_thread){.worker = worker, .lane = i};
    if (pthread_create(&lanes[i].thread, NULL, serve_lane, &lanes[i]) != 0) return 2;
  }
  struct pollfd wanted = {.fd = channel_worker_socket(worker), .events = POLLIN};
  uint32_t lane;
  uint64_t batch;
  do poll(&wanted, 1, -1);
  while (channel_worker_next_stop(worker, &lane, &batch) != MU_CANCELED);
  channel_worker_close(worker);
  for (uint32_t i = 0; i < LANES; i++) {
    pthread_join(lanes[i].thread, NULL);
    if (lanes[i].ended != MU_CANCELED) return 3;
  }
  channel_worker_free(worker);
  return 0;
}

static void processes_on_both_ends(void **state) {
  struct channel_params params = fixture_params(LANES, 8);
  struct shared_memory input;
  struct channel_gate *gate;
  mu_error err = {""};
  int ends[2];
  fixture_sockets(ends);
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    close(ends[0]);
    _exit(worker_process(ends[1]));
  }
  close(ends[1]);
  assert_int_equal(shared_memory_create("test-input", FIXTURE_INPUT_ARENA, &input, &err), MU_OK);
  assert_int_equal(channel_gate_offer(&params, ends[0], &input, &gate, &err), MU_OK);
  struct pollfd wanted = {.fd = channel_gate_socket(gate), .events = POLLIN};
  poll(&wanted, 1, -1);
  assert_int_equal(channel_gate_finish(gate, &err), MU_OK);
  struct reader_thread reader = {.gate = gate, .n = LANES * JOBS_PER_LANE};
  assert_int_equal(pthread_create(&reader.thread, NULL, read_completions, &reader), 0);
  submit_all(gate, &input, JOBS_PER_LANE);
  pthread_join(reader.thread, NULL);
  channel_gate_free(gate);
  int ended;
  assert_int_equal(waitpid(pid, &ended, 0), pid);
  assert_true(WIFEXITED(ended));
  assert_int_equal(WEXITSTATUS(ended), 0);
  shared_memory_close(&input);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(processes_on_both_ends), /* first: a sanitizer wants fork before threads */
      cmocka_unit_test(both_ends_agree),
      cmocka_unit_test(nothing_stays_open),
      cmocka_unit_test(parameters_out_of_range),
      cmocka_unit_test(largest_parameters),
      cmocka_unit_test(the_worker_says_why_it_cannot),
      cmocka_unit_test(a_peer_that_leaves),
      cmocka_unit_test(nothing_is_submitted_before_the_answer),
      cmocka_unit_test(a_job_and_its_answer),
      cmocka_unit_test(submitting_has_a_bound),
      cmocka_unit_test(largest_completions_always_fit),
      cmocka_unit_test(jobs_that_are_not_of_this_attachment),
      cmocka_unit_test(completions_of_another_epoch_are_dropped),
      cmocka_unit_test(a_completion_without_a_job_is_nonsense),
      cmocka_unit_test(lanes_take_turns),
      cmocka_unit_test(only_a_sleeping_gateway_is_rung_and_once),
      cmocka_unit_test(threads_on_both_ends),
      cmocka_unit_test(closing_wakes_sleepers_and_stays),
      cmocka_unit_test(signals_do_not_disturb),
      cmocka_unit_test(stop_reaches_the_worker),
      cmocka_unit_test(the_gateway_sees_the_worker_leave),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
