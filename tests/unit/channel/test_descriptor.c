#include "channel/layout.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "channel_fixture.h"

enum { INPUT = 1 << 20, OUTPUT = 1 << 19, SPANS = 256 };

struct record {
  size_t size;
  uint64_t *words; /* exactly size bytes, so that a sanitizer sees a read past the end */
};

static struct record encode_job(const struct channel_job *job) {
  struct record record = {.size = channel_job_size(job)};
  record.words = malloc(record.size);
  assert_non_null(record.words);
  assert_int_equal(record.size % 8, 0);
  channel_job_encode(job, record.words);
  return record;
}

static struct record encode_completion(const struct channel_completion *completion) {
  struct record record = {.size = channel_completion_size(completion)};
  record.words = malloc(record.size);
  assert_non_null(record.words);
  assert_int_equal(record.size % 8, 0);
  channel_completion_encode(completion, record.words);
  return record;
}

static mu_status through_job(const struct channel_job *job, struct channel_job *ret_job) {
  struct record record = encode_job(job);
  mu_status status = channel_job_decode(record.words, record.size, SPANS, INPUT, OUTPUT, ret_job);
  free(record.words);
  return status;
}

static mu_status through_completion(const struct channel_completion *completion, struct channel_completion *ret) {
  struct record record = encode_completion(completion);
  mu_status status = channel_completion_decode(record.words, record.size, OUTPUT, ret);
  free(record.words);
  return status;
}

static void assert_same_job(const struct channel_job *a, const struct channel_job *b) {
  assert_int_equal(a->type, b->type);
  assert_int_equal(a->epoch, b->epoch);
  assert_int_equal(a->batch, b->batch);
  assert_int_equal(a->n_inputs, b->n_inputs);
  assert_int_equal(a->n_members, b->n_members);
  assert_int_equal(a->n_places, b->n_places);
  for (uint32_t i = 0; i < a->n_inputs; i++) {
    assert_int_equal(a->inputs[i].index, b->inputs[i].index);
    assert_int_equal(a->inputs[i].dtype, b->inputs[i].dtype);
    assert_int_equal(a->inputs[i].rank, b->inputs[i].rank);
    assert_memory_equal(a->inputs[i].dims, b->inputs[i].dims, a->inputs[i].rank * sizeof(int64_t));
  }
  for (uint32_t i = 0; i < a->n_places; i++) {
    assert_int_equal(a->places[i].index, b->places[i].index);
    assert_int_equal(a->places[i].known, b->places[i].known);
    assert_int_equal(a->places[i].dtype, b->places[i].dtype);
    assert_int_equal(a->places[i].rank, b->places[i].rank);
    assert_int_equal(a->places[i].offset, b->places[i].offset);
    assert_int_equal(a->places[i].capacity, b->places[i].capacity);
    assert_memory_equal(a->places[i].dims, b->places[i].dims, a->places[i].rank * sizeof(int64_t));
  }
  assert_memory_equal(a->spans, b->spans, (size_t)a->n_members * a->n_inputs * sizeof *a->spans);
}

/* ---- jobs -------------------------------------------------------------------------------------------------------- */

static void small_job_is_small(void **state) {
  struct channel_job *job = fixture_job(SPANS), *back = fixture_job(SPANS);
  fixture_fill_job(job, 99, 2, 64);
  assert_int_equal(channel_job_size(job), 32 + 24 + 40 + 2 * 16);
  assert_int_equal(through_job(job, back), MU_OK);
  assert_same_job(job, back);
  fixture_job_free(job);
  fixture_job_free(back);
}

/* Everything at its bound: tensors, rank, members. */
static void largest_job(void **state) {
  struct channel_job *job = fixture_job(CHANNEL_MEMBERS_MAX), *back = fixture_job(CHANNEL_MEMBERS_MAX);
  job->type = CHANNEL_RUN;
  job->epoch = UINT64_MAX;
  job->batch = UINT64_MAX;
  job->n_inputs = job->n_places = CHANNEL_TENSORS_MAX;
  job->n_members = CHANNEL_MEMBERS_MAX / CHANNEL_TENSORS_MAX;
  for (uint32_t i = 0; i < CHANNEL_TENSORS_MAX; i++) {
    job->inputs[i] = (struct channel_input){.index = i, .dtype = MU_UINT8, .rank = MU_MAX_RANK};
    job->places[i] = (struct channel_place){
        .index = i, .known = true, .dtype = MU_UINT8, .rank = MU_MAX_RANK, .offset = OUTPUT - 1, .capacity = 1};
    for (int k = 0; k < MU_MAX_RANK; k++) job->inputs[i].dims[k] = job->places[i].dims[k] = 1;
    job->inputs[i].dims[0] = job->n_members;
  }
  for (uint32_t i = 0; i < CHANNEL_MEMBERS_MAX; i++) job->spans[i] = (struct channel_span){.offset = i, .size = 1};
  struct record record = encode_job(job);
  struct layout_plan plan;
  assert_int_equal(layout_plan(LAYOUT_GATEWAY, 1, CHANNEL_MEMBERS_MAX, &plan), MU_OK);
  assert_true(4 * (record.size + sizeof(struct layout_record)) <= plan.ring_size);
  assert_int_equal(channel_job_decode(record.words, record.size, CHANNEL_MEMBERS_MAX, INPUT, OUTPUT, back), MU_OK);
  assert_same_job(job, back);
  assert_int_equal(channel_job_decode(record.words, record.size, CHANNEL_MEMBERS_MAX - 1, INPUT, OUTPUT, back),
                   MU_INVALID);
  free(record.words);
  fixture_job_free(job);
  fixture_job_free(back);
}

static void nothing_is_something_too(void **state) {
  struct channel_job *job = fixture_job(SPANS), *back = fixture_job(SPANS);
  fixture_fill_job(job, 1, 3, 0);
  job->inputs[0].dims[0] = 0; /* no rows at all */
  job->places[0].dims[0] = 0;
  job->places[0].offset = OUTPUT;
  job->places[0].capacity = 0;
  for (int i = 0; i < 3; i++) job->spans[i] = (struct channel_span){.offset = INPUT, .size = 0};
  assert_int_equal(through_job(job, back), MU_OK);
  assert_same_job(job, back);
  fixture_fill_job(job, 1, 3, 0); /* one member without rows */
  job->inputs[0].dims[0] = 2;
  job->spans[1] = (struct channel_span){.offset = 5, .size = 0};
  assert_int_equal(through_job(job, back), MU_OK);
  fixture_fill_job(job, 1, 1, 0); /* a scalar */
  job->inputs[0].rank = job->places[0].rank = 0;
  job->spans[0].size = job->places[0].capacity = 4;
  assert_int_equal(through_job(job, back), MU_OK);
  assert_same_job(job, back);
  fixture_fill_job(job, 1, 5, 0); /* a model without inputs and with no output wanted */
  job->n_inputs = job->n_places = 0;
  assert_int_equal(through_job(job, back), MU_OK);
  assert_same_job(job, back);
  fixture_job_free(job);
  fixture_job_free(back);
}

static void fetch_has_places_only(void **state) {
  struct channel_job *job = fixture_job(SPANS), *back = fixture_job(SPANS);
  fixture_fill_job(job, 1, 1, 0);
  job->type = CHANNEL_FETCH;
  job->places[0].known = false;
  job->places[0].dtype = MU_BYTES;
  job->places[0].rank = 0;
  assert_int_equal(through_job(job, back), MU_INVALID);
  job->n_inputs = job->n_members = 0;
  assert_int_equal(through_job(job, back), MU_OK);
  assert_same_job(job, back);
  fixture_job_free(job);
  fixture_job_free(back);
}

static void bytes_only_need_room_for_their_lengths(void **state) {
  struct channel_job *job = fixture_job(SPANS), *back = fixture_job(SPANS);
  fixture_fill_job(job, 1, 2, 0);
  job->inputs[0].dtype = MU_BYTES;
  job->inputs[0].dims[0] = 2; /* eight elements */
  job->spans[0] = (struct channel_span){.offset = 1, .size = 17};
  job->spans[1] = (struct channel_span){.offset = 999, .size = 15};
  assert_int_equal(through_job(job, back), MU_OK);
  job->spans[1].size = 14;
  assert_int_equal(through_job(job, back), MU_INVALID);
  fixture_fill_job(job, 1, 1, 0);
  job->places[0].dtype = MU_BYTES; /* known, but nobody can know its size */
  assert_int_equal(through_job(job, back), MU_INVALID);
  job->places[0].known = false;
  assert_int_equal(through_job(job, back), MU_OK);
  fixture_job_free(job);
  fixture_job_free(back);
}

/* Each changes one thing of a sound job of two members. */
static void no_member(struct channel_job *j) { j->n_members = 0; }
static void type_0(struct channel_job *j) { j->type = 0; }
static void type_3(struct channel_job *j) { j->type = 3; }
static void dtype_0(struct channel_job *j) { j->inputs[0].dtype = 0; }
static void dtype_unknown(struct channel_job *j) { j->inputs[0].dtype = MU_DTYPE_COUNT; }
static void other_dtype(struct channel_job *j) { j->inputs[0].dtype = MU_FP64; }
static void negative_dim(struct channel_job *j) { j->inputs[0].dims[0] = -2; }
static void overflowing_dims(struct channel_job *j) {
  j->inputs[0].dims[0] = INT64_MAX;
  j->inputs[0].dims[1] = 2;
}
static void dims_that_wrap_to_the_right_size(struct channel_job *j) {
  j->inputs[0].dims[0] = INT64_C(1) << 62;
  j->inputs[0].dims[1] = (INT64_C(1) << 62) + 2;
}
static void sum_too_small(struct channel_job *j) { j->spans[1].size = 12; }
static void sum_too_large(struct channel_job *j) { j->spans[1].size = 20; }
static void span_past_the_end(struct channel_job *j) { j->spans[1].offset = INPUT - 12; }
static void span_far_away(struct channel_job *j) { j->spans[0].offset = UINT64_MAX - 3; }
static void span_that_wraps(struct channel_job *j) {
  j->spans[0] = (struct channel_span){.offset = 16, .size = UINT64_MAX - 15};
  j->spans[1] = (struct channel_span){.offset = 16, .size = 48};
}
static void unaligned_span(struct channel_job *j) { j->spans[1].offset = 18; }
static void place_past_the_end(struct channel_job *j) { j->places[0].offset = OUTPUT - 28; }
static void place_far_away(struct channel_job *j) { j->places[0].offset = UINT64_MAX - 15; }
static void place_that_wraps(struct channel_job *j) { j->places[0].capacity = UINT64_MAX; }
static void place_too_small(struct channel_job *j) { j->places[0].capacity = 28; }
static void unaligned_place(struct channel_job *j) { j->places[0].offset = 2; }
static void place_of_no_type(struct channel_job *j) { j->places[0].dtype = 0; }
static void place_of_negative_dim(struct channel_job *j) { j->places[0].dims[1] = -1; }

static void wrong_jobs_are_refused(void **state) {
  static void (*const changes[])(struct channel_job *) = {
      no_member,
      type_0,
      type_3,
      dtype_0,
      dtype_unknown,
      other_dtype,
      negative_dim,
      overflowing_dims,
      dims_that_wrap_to_the_right_size,
      sum_too_small,
      sum_too_large,
      span_past_the_end,
      span_far_away,
      span_that_wraps,
      unaligned_span,
      place_past_the_end,
      place_far_away,
      place_that_wraps,
      place_too_small,
      unaligned_place,
      place_of_no_type,
      place_of_negative_dim,
  };
  struct channel_job *job = fixture_job(SPANS), *back = fixture_job(SPANS);
  for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
    fixture_fill_job(job, 1, 2, 0);
    assert_int_equal(through_job(job, back), MU_OK);
    changes[i](job);
    assert_int_equal(through_job(job, back), MU_INVALID);
  }
  fixture_job_free(job);
  fixture_job_free(back);
}

/* The first word of a tensor. */
#define TENSOR(index, dtype, rank, known, reserved)                                                 \
  ((uint64_t)(index) | (uint64_t)(dtype) << 32 | (uint64_t)(rank) << 40 | (uint64_t)(known) << 48 | \
   (uint64_t)(reserved) << 56)

static void counts_past_their_bounds(void **state) {
  struct channel_job *job = fixture_job(SPANS), *back = fixture_job(SPANS);
  fixture_fill_job(job, 1, 2, 0);
  struct record record = encode_job(job);
  static const struct {
    size_t word;
    uint64_t value;
  } rows[] = {
      {0, CHANNEL_RUN | UINT64_C(4097) << 32}, /* members */
      {0, CHANNEL_RUN | UINT64_C(0xffffffff) << 32},
      {3, 65 | UINT64_C(1) << 32}, /* inputs */
      {3, 0xffffffff | UINT64_C(1) << 32},
      {3, 1 | UINT64_C(65) << 32}, /* places */
      {3, 1 | UINT64_C(0xffffffff) << 32},
      {3, 1 | UINT64_C(2) << 32}, /* more places than there are */
      {3, 2 | UINT64_C(1) << 32},
      {3, UINT64_C(1) << 32},
      {3, 1},
      {4, TENSOR(3, MU_FP32, 17, 0, 0)}, /* rank */
      {4, TENSOR(3, MU_FP32, 255, 0, 0)},
      {4, TENSOR(3, MU_FP32, 1, 0, 0)}, /* then the rest does not add up */
      {4, TENSOR(3, MU_FP32, 2, 1, 0)}, /* an input is never "known" */
      {4, TENSOR(3, MU_FP32, 2, 0, 1)}, /* reserved */
      {7, TENSOR(2, MU_FP32, 2, 2, 0)},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    uint64_t kept = record.words[rows[i].word];
    record.words[rows[i].word] = rows[i].value;
    assert_int_equal(channel_job_decode(record.words, record.size, SPANS, INPUT, OUTPUT, back), MU_INVALID);
    record.words[rows[i].word] = kept;
  }
  assert_int_equal(channel_job_decode(record.words, record.size, SPANS, INPUT, OUTPUT, back), MU_OK);
  for (size_t cut = 0; cut < record.size; cut++)
    assert_int_equal(channel_job_decode(record.words, cut, SPANS, INPUT, OUTPUT, back), MU_INVALID);
  free(record.words);
  fixture_job_free(job);
  fixture_job_free(back);
}

/* ---- completions ------------------------------------------------------------------------------------------------- */

static struct channel_completion *completion_of_job(void) {
  struct channel_completion *completion = malloc(sizeof *completion);
  struct channel_job *job = fixture_job(SPANS);
  assert_non_null(completion);
  memset(completion, 0xa5, sizeof *completion);
  fixture_fill_job(job, 5, 2, 128);
  fixture_fill_completion(completion, job);
  fixture_job_free(job);
  return completion;
}

static void done_arrives(void **state) {
  struct channel_completion *sent = completion_of_job(), *back = completion_of_job();
  sent->epoch = 77;
  sent->batch = UINT64_MAX;
  memset(back, 0x5a, sizeof *back);
  assert_int_equal(channel_completion_size(sent), 64 + 5 * 8);
  assert_int_equal(through_completion(sent, back), MU_OK);
  assert_int_equal(back->result, CHANNEL_DONE);
  assert_int_equal(back->status, MU_OK); /* whatever the sender left there */
  assert_string_equal(back->message, "");
  assert_int_equal(back->epoch, 77);
  assert_int_equal(back->batch, UINT64_MAX);
  assert_int_equal(back->ended_ns, 4);
  assert_int_equal(back->n_outputs, 1);
  assert_int_equal(back->outputs[0].index, 2);
  assert_int_equal(back->outputs[0].offset, 128);
  assert_int_equal(back->outputs[0].size, 32);
  assert_memory_equal(back->outputs[0].dims, sent->outputs[0].dims, 2 * sizeof(int64_t));
  free(sent);
  free(back);
}

static void messages_of_every_length(void **state) {
  struct channel_completion *sent = completion_of_job(), *back = completion_of_job();
  sent->result = CHANNEL_ERROR;
  sent->status = MU_INTERNAL;
  for (size_t length = 0; length <= sizeof sent->message; length++) {
    memset(sent->message, 'x', length);
    if (length < sizeof sent->message) sent->message[length] = '\0';
    memset(back, 0x5a, sizeof *back);
    assert_int_equal(through_completion(sent, back), MU_OK);
    assert_int_equal(back->status, MU_INTERNAL);
    assert_int_equal(back->n_outputs, 0);
    size_t kept = length < sizeof sent->message ? length : sizeof sent->message - 1; /* not terminated: cut */
    assert_int_equal(strlen(back->message), kept);
    assert_memory_equal(back->message, sent->message, kept);
  }
  free(sent);
  free(back);
}

static void overflow_says_what_is_needed(void **state) {
  struct channel_completion *sent = completion_of_job(), *back = completion_of_job();
  sent->result = CHANNEL_OVERFLOW;
  sent->outputs[0].dims[0] = 1 << 20; /* more than the whole arena */
  sent->outputs[0].size = UINT64_C(16) << 20;
  sent->outputs[0].offset = UINT64_MAX;
  assert_int_equal(through_completion(sent, back), MU_OK);
  assert_int_equal(back->outputs[0].size, UINT64_C(16) << 20);
  sent->outputs[0].size++;
  assert_int_equal(through_completion(sent, back), MU_INVALID);
  sent->outputs[0].dtype = MU_BYTES;
  assert_int_equal(through_completion(sent, back), MU_OK);
  sent->outputs[0].size = UINT64_MAX;
  assert_int_equal(through_completion(sent, back), MU_INVALID);
  free(sent);
  free(back);
}

static void steps_that_did_not_happen_took_no_time(void **state) {
  struct channel_completion *sent = completion_of_job(), *back = completion_of_job();
  sent->started_ns = 50;
  sent->input_ns = sent->infer_ns = 0;
  sent->ended_ns = 60;
  assert_int_equal(through_completion(sent, back), MU_OK);
  assert_int_equal(back->started_ns, 50);
  assert_int_equal(back->input_ns, 50);
  assert_int_equal(back->infer_ns, 50);
  assert_int_equal(back->ended_ns, 60);
  free(sent);
  free(back);
}

static void out_dtype_0(struct channel_completion *c) { c->outputs[0].dtype = 0; }
static void out_dtype_unknown(struct channel_completion *c) { c->outputs[0].dtype = MU_DTYPE_COUNT; }
static void out_negative_dim(struct channel_completion *c) { c->outputs[0].dims[0] = -1; }
static void out_wrapping_dims(struct channel_completion *c) {
  c->outputs[0].dims[0] = INT64_C(1) << 62;
  c->outputs[0].dims[1] = (INT64_C(1) << 62) + 8;
}
static void out_past_the_end(struct channel_completion *c) { c->outputs[0].offset = OUTPUT - 16; }
static void out_far_away(struct channel_completion *c) { c->outputs[0].offset = UINT64_MAX - 7; }
static void out_unaligned(struct channel_completion *c) { c->outputs[0].offset = 130; }
static void out_size_too_small(struct channel_completion *c) { c->outputs[0].size = 28; }
static void out_size_too_large(struct channel_completion *c) { c->outputs[0].size = 36; }
static void out_bytes_without_lengths(struct channel_completion *c) {
  c->outputs[0].dtype = MU_BYTES;
  c->outputs[0].size = 31;
}
static void result_0(struct channel_completion *c) { c->result = 0; }
static void result_4(struct channel_completion *c) { c->result = 4; }
static void error_without_status(struct channel_completion *c) {
  c->result = CHANNEL_ERROR;
  c->status = MU_OK;
  c->message[0] = '\0';
}
static void error_with_unknown_status(struct channel_completion *c) {
  error_without_status(c);
  c->status = MU_TOO_LARGE - 1;
}

static void wrong_completions_are_refused(void **state) {
  static void (*const changes[])(struct channel_completion *) = {
      out_dtype_0,  out_dtype_unknown,    out_negative_dim,          out_wrapping_dims,  out_past_the_end,
      out_far_away, out_unaligned,        out_size_too_small,        out_size_too_large, out_bytes_without_lengths,
      result_0,     error_without_status, error_with_unknown_status, result_4,
  };
  struct channel_completion *back = completion_of_job();
  for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
    struct channel_completion *sent = completion_of_job();
    assert_int_equal(through_completion(sent, back), MU_OK);
    changes[i](sent);
    assert_int_equal(through_completion(sent, back), MU_INVALID);
    free(sent);
  }
  free(back);
}

static void completion_words_that_lie(void **state) {
  static const struct {
    size_t word;
    uint64_t value;
  } rows[] = {
      {0, CHANNEL_DONE | UINT64_C(0xfffffffb) << 32},  /* done with a status */
      {0, CHANNEL_ERROR | UINT64_C(0xfffffffb) << 32}, /* an error with outputs */
      {0, CHANNEL_ERROR | UINT64_C(5) << 32},
      {3, 3},
      {4, 0},
      {5, 1},
      {6, 2}, /* time runs backwards */
      {7, 65},
      {7, 0},
      {7, 2},
      {7, UINT32_MAX},            /* outputs */
      {7, 1 | UINT64_C(1) << 32}, /* a message of a run that was done */
      {7, 1 | UINT64_C(512) << 32},
      {7, 1 | UINT64_C(0xffffffff) << 32},
      {8, TENSOR(2, MU_FP32, 17, 0, 0)},
      {8, TENSOR(2, MU_FP32, 2, 1, 0)},
  };
  struct channel_completion *sent = completion_of_job(), *back = completion_of_job();
  struct record record = encode_completion(sent);
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    uint64_t kept = record.words[rows[i].word];
    record.words[rows[i].word] = rows[i].value;
    assert_int_equal(channel_completion_decode(record.words, record.size, OUTPUT, back), MU_INVALID);
    record.words[rows[i].word] = kept;
  }
  for (size_t cut = 0; cut < record.size; cut++)
    assert_int_equal(channel_completion_decode(record.words, cut, OUTPUT, back), MU_INVALID);
  free(record.words);
  free(sent);
  free(back);
}

/* The longest completion is what the ring is made for. */
static void largest_completion(void **state) {
  struct channel_completion *sent = completion_of_job(), *back = completion_of_job();
  sent->n_outputs = CHANNEL_TENSORS_MAX;
  for (uint32_t i = 0; i < CHANNEL_TENSORS_MAX; i++) {
    sent->outputs[i] = (struct channel_output){.index = i, .dtype = MU_BOOL, .rank = MU_MAX_RANK, .size = 1};
    for (int k = 0; k < MU_MAX_RANK; k++) sent->outputs[i].dims[k] = 1;
  }
  assert_true(channel_completion_size(sent) <= LAYOUT_COMPLETION_MAX);
  assert_int_equal(through_completion(sent, back), MU_OK);
  assert_int_equal(back->outputs[63].dims[15], 1);
  free(sent);
  free(back);
}

/* ---- random damage ----------------------------------------------------------------------------------------------- */

static void damage(struct record *record) {
  static const uint64_t favourites[] = {0,      1,          2,        3,  UINT64_MAX, INT64_MAX, INPUT,
                                        OUTPUT, UINT32_MAX, 1u << 31, 64, 4096,       INT64_MIN, UINT64_C(1) << 32};
  for (int n = rand() % 4 + 1; n > 0; n--) {
    size_t word = (size_t)rand() % (record->size / 8);
    uint64_t *at = &record->words[word];
    switch (rand() % 4) {
      case 0:
        *at = favourites[(size_t)rand() % (sizeof favourites / sizeof *favourites)];
        break;
      case 1:
        *at ^= UINT64_C(1) << rand() % 64;
        break;
      case 2:
        *at += (uint64_t)(rand() % 33) - 16;
        break;
      default:
        ((uint8_t *)at)[rand() % 8] = (uint8_t)rand();
        break;
    }
  }
}

/* What is accepted must be safe to use, whatever was sent. */
static void assert_sound_job(const struct channel_job *job) {
  assert_true(job->n_inputs <= CHANNEL_TENSORS_MAX && job->n_places <= CHANNEL_TENSORS_MAX);
  assert_true((uint64_t)job->n_members * job->n_inputs <= SPANS);
  for (uint32_t i = 0; i < job->n_inputs; i++) {
    uint64_t bytes, sum = 0;
    assert_int_equal(shape_size(job->inputs[i].dtype, job->inputs[i].dims, job->inputs[i].rank, NULL, &bytes), MU_OK);
    for (uint32_t m = 0; m < job->n_members; m++) {
      const struct channel_span *span = &job->spans[m * job->n_inputs + i];
      assert_true(span->size <= INPUT && span->offset <= INPUT - span->size);
      sum += span->size;
    }
    if (job->inputs[i].dtype != MU_BYTES) assert_int_equal(sum, bytes);
  }
  for (uint32_t i = 0; i < job->n_places; i++)
    assert_true(job->places[i].capacity <= OUTPUT && job->places[i].offset <= OUTPUT - job->places[i].capacity);
}

static void damaged_jobs(void **state) {
  struct channel_job *job = fixture_job(SPANS), *back = fixture_job(SPANS);
  int accepted = 0;
  srand(11);
  for (int run = 0; run < 100000; run++) {
    fixture_fill_job(job, 1, (uint32_t)rand() % 8 + 1, 64);
    struct record record = encode_job(job);
    damage(&record);
    size_t size = rand() % 8 == 0 ? (size_t)rand() % (record.size + 1) : record.size;
    if (channel_job_decode(record.words, size, SPANS, INPUT, OUTPUT, back) == MU_OK) {
      assert_sound_job(back);
      accepted++;
    }
    free(record.words);
  }
  assert_in_range(accepted, 100, 99000); /* the damage is neither always seen nor never */
  fixture_job_free(job);
  fixture_job_free(back);
}

static void damaged_completions(void **state) {
  struct channel_completion *sent = completion_of_job(), *back = completion_of_job();
  int accepted = 0;
  srand(12);
  for (int run = 0; run < 100000; run++) {
    sent->result = rand() % 3 + CHANNEL_DONE;
    sent->status = MU_INTERNAL;
    memset(sent->message, 'm', sizeof sent->message);
    sent->message[rand() % 64] = '\0';
    struct record record = encode_completion(sent);
    damage(&record);
    if (channel_completion_decode(record.words, record.size, OUTPUT, back) == MU_OK) {
      assert_true(back->n_outputs <= CHANNEL_TENSORS_MAX && strlen(back->message) < sizeof back->message);
      for (uint32_t i = 0; i < back->n_outputs; i++) {
        const struct channel_output *output = &back->outputs[i];
        uint64_t bytes;
        assert_int_equal(shape_size(output->dtype, output->dims, output->rank, NULL, &bytes), MU_OK);
        if (output->dtype != MU_BYTES) assert_int_equal(output->size, bytes);
        if (back->result == CHANNEL_DONE)
          assert_true(output->size <= OUTPUT && output->offset <= OUTPUT - output->size);
      }
      accepted++;
    }
    free(record.words);
  }
  assert_in_range(accepted, 100, 99000);
  free(sent);
  free(back);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(small_job_is_small),
      cmocka_unit_test(largest_job),
      cmocka_unit_test(nothing_is_something_too),
      cmocka_unit_test(fetch_has_places_only),
      cmocka_unit_test(bytes_only_need_room_for_their_lengths),
      cmocka_unit_test(wrong_jobs_are_refused),
      cmocka_unit_test(counts_past_their_bounds),
      cmocka_unit_test(done_arrives),
      cmocka_unit_test(messages_of_every_length),
      cmocka_unit_test(overflow_says_what_is_needed),
      cmocka_unit_test(steps_that_did_not_happen_took_no_time),
      cmocka_unit_test(wrong_completions_are_refused),
      cmocka_unit_test(completion_words_that_lie),
      cmocka_unit_test(largest_completion),
      cmocka_unit_test(damaged_jobs),
      cmocka_unit_test(damaged_completions),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
