/* Both ends of a channel in one process, and jobs to send through it. */
#ifndef TESTS_CHANNEL_FIXTURE_H
#define TESTS_CHANNEL_FIXTURE_H

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "channel/channel.h"

enum { FIXTURE_INPUT_ARENA = 1 << 16, FIXTURE_OUTPUT_ARENA = 1 << 16, FIXTURE_EPOCH = 7 };

struct channel_fixture {
  struct shared_memory input;
  struct channel_gate *gate;
  struct channel_worker *worker;
};

static inline void fixture_sockets(int ret_ends[2]) {
  assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ret_ends), 0);
}

static inline struct channel_params fixture_params(uint32_t lanes, uint32_t max_spans) {
  return (struct channel_params){
      .epoch = FIXTURE_EPOCH, .lanes = lanes, .max_spans = max_spans, .output_arena = FIXTURE_OUTPUT_ARENA};
}

static inline void fixture_open(struct channel_fixture *fixture, uint32_t lanes, uint32_t max_spans) {
  struct channel_params params = fixture_params(lanes, max_spans);
  int ends[2];
  mu_error err = {""};
  fixture_sockets(ends);
  assert_int_equal(shared_memory_create("test-input", FIXTURE_INPUT_ARENA, &fixture->input, &err), MU_OK);
  assert_int_equal(channel_gate_offer(&params, ends[0], &fixture->input, &fixture->gate, &err), MU_OK);
  assert_int_equal(channel_gate_finish(fixture->gate, &err), MU_UNAVAILABLE);
  assert_int_equal(channel_worker_accept(ends[1], &fixture->worker, &err), MU_OK);
  assert_int_equal(channel_gate_finish(fixture->gate, &err), MU_OK);
}

static inline void fixture_close(struct channel_fixture *fixture) {
  channel_gate_free(fixture->gate);
  channel_worker_free(fixture->worker);
  shared_memory_close(&fixture->input);
}

/* A job as a receiver needs it: too large for a stack, with its spans. */
static inline struct channel_job *fixture_job(uint32_t max_spans) {
  struct channel_job *job = malloc(sizeof *job);
  assert_non_null(job);
  memset(job, 0xa5, sizeof *job); /* what is not written must not be read */
  job->spans = malloc((max_spans + 1) * sizeof *job->spans);
  assert_non_null(job->spans);
  return job;
}

static inline void fixture_job_free(struct channel_job *job) {
  free(job->spans);
  free(job);
}

/* members rows of 16 bytes (FP32 [members,4]) beginning at offset, one output place of the same shape. */
static inline void fixture_fill_job(struct channel_job *job, uint64_t batch, uint32_t members, uint64_t offset) {
  job->type = CHANNEL_RUN;
  job->epoch = FIXTURE_EPOCH;
  job->batch = batch;
  job->n_inputs = job->n_places = 1;
  job->n_members = members;
  job->inputs[0] = (struct channel_input){.index = 3, .dtype = MU_FP32, .rank = 2, .dims = {members, 4}};
  job->places[0] = (struct channel_place){.index = 2,
                                          .known = true,
                                          .dtype = MU_FP32,
                                          .rank = 2,
                                          .dims = {members, 4},
                                          .offset = offset,
                                          .capacity = 16 * (uint64_t)members};
  for (uint32_t i = 0; i < members; i++) job->spans[i] = (struct channel_span){.offset = offset + 16 * i, .size = 16};
}

/* What a worker answers to such a job. */
static inline void fixture_fill_completion(struct channel_completion *completion, const struct channel_job *job) {
  const struct channel_place *place = &job->places[0];
  completion->result = CHANNEL_DONE;
  completion->epoch = job->epoch;
  completion->batch = job->batch;
  completion->started_ns = 1;
  completion->input_ns = 2;
  completion->infer_ns = 3;
  completion->ended_ns = 4;
  completion->n_outputs = 1;
  completion->outputs[0] = (struct channel_output){
      .index = place->index, .dtype = place->dtype, .rank = place->rank, .offset = place->offset};
  memcpy(completion->outputs[0].dims, place->dims, sizeof place->dims);
  completion->outputs[0].size = place->capacity;
}

#endif
