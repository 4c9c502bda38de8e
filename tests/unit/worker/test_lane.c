#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "worker/lane.h"

/*
 * An engine that answers with what it is told, and remembers what it was given: output 0 is input 0 doubled in length
 * (each byte twice) where `doubles`, otherwise a copy.
 */
static struct {
  const uint8_t *seen; /* where input 0 stood */
  bool doubles;
  mu_status answer;
  int runs, stops;
  uint8_t result[4096];
} fake;

static char name[] = "x";
static const mu_tensor_info tensor = {.name = name, .dtype = MU_UINT8, .rank = 2, .dims = {-1, -1}};
static const mu_model_info info = {.inputs = &tensor, .n_inputs = 1, .outputs = &tensor, .n_outputs = 1};

static mu_status fake_run(mu_engine_instance *instance, const mu_input *inputs, size_t n_inputs, mu_output *outputs,
                          size_t n_outputs, mu_error *err) {
  const mu_tensor *in = &inputs[0].tensor;
  int times = fake.doubles ? 2 : 1;
  fake.runs++;
  fake.seen = in->data;
  if (fake.answer != MU_OK) return mu_fail(err, fake.answer, "told so");
  for (size_t i = 0; i < n_outputs; i++) {
    mu_tensor *out = &outputs[i].tensor;
    if (out->data != NULL && out->dims[1] != in->dims[1] * times) return mu_fail(err, MU_INVALID, "another shape");
    void *data = out->data != NULL ? out->data : fake.result;
    *out = *in;
    out->dims[1] *= times;
    out->size *= (size_t)times;
    out->data = data;
    for (size_t k = 0; k < out->size; k++) ((uint8_t *)data)[k] = ((uint8_t *)in->data)[k / (size_t)times];
  }
  return MU_OK;
}
static void fake_stop(mu_engine_instance *instance) { fake.stops++; }
static const mu_engine engine = {
    .api_version = MU_ENGINE_API_VERSION, .name = "fake", .run = fake_run, .stop = fake_stop};

struct fixture {
  struct lane *lane;
  struct lane_seat *seat;
  struct shared_memory input, output;
  struct channel_span spans[CHANNEL_MEMBERS_MAX];
  struct channel_job job;
  struct channel_completion done;
};

static int set_up(void **state) {
  struct fixture *f = calloc(1, sizeof *f);
  if (f == NULL) return -1;
  memset(&fake, 0, sizeof fake);
  f->input = (struct shared_memory){calloc(1, 4096), 4096, -1};
  f->output = (struct shared_memory){calloc(1, 4096), 4096, -1};
  f->lane = lane_create(&engine, NULL, &info);
  for (size_t i = 0; i < 4096; i++) f->input.data[i] = (uint8_t)(i * 7 + 1);
  f->seat = lane_seat_create(f->lane, &f->input, &f->output);
  *state = f;
  return f->lane == NULL || f->seat == NULL;
}

static int tear_down(void **state) {
  struct fixture *f = *state;
  lane_seat_free(f->seat);
  lane_free(f->lane);
  free(f->input.data);
  free(f->output.data);
  free(f);
  return 0;
}

/* A batch of rows of 8 bytes at these places of the input arena. */
static void describe(struct fixture *f, const uint64_t *offsets, uint32_t rows) {
  f->job = (struct channel_job){.type = CHANNEL_RUN, .epoch = 3, .batch = 40, .spans = f->spans};
  f->job.n_inputs = f->job.n_places = 1;
  f->job.n_members = rows;
  f->job.inputs[0] = (struct channel_input){.index = 0, .dtype = MU_UINT8, .rank = 2, .dims = {rows, 8}};
  for (uint32_t i = 0; i < rows; i++) f->spans[i] = (struct channel_span){offsets[i], 8};
}

static void place(struct fixture *f, bool known, int64_t columns, uint64_t offset, uint64_t capacity) {
  f->job.places[0] = (struct channel_place){.index = 0,
                                            .known = known,
                                            .dtype = MU_UINT8,
                                            .rank = 2,
                                            .dims = {f->job.n_members, columns},
                                            .offset = offset,
                                            .capacity = capacity};
}

static void check_done(const struct fixture *f, enum channel_result result) {
  assert_int_equal(f->done.result, result);
  assert_int_equal(f->done.epoch, f->job.epoch);
  assert_int_equal(f->done.batch, f->job.batch);
  assert_true(f->done.started_ns > 0 && f->done.started_ns <= f->done.input_ns);
  assert_true(f->done.input_ns <= f->done.infer_ns && f->done.infer_ns <= f->done.ended_ns);
}

/* ---- inputs ------------------------------------------------------------------------------------------------------ */

static void test_neighbours_are_not_copied(void **state) {
  struct fixture *f = *state;
  const uint64_t offsets[] = {64, 72, 80};
  describe(f, offsets, 3);
  place(f, true, 8, 128, 24);
  assert_int_equal(lane_run(f->seat, &f->job, &f->done), MU_OK);
  check_done(f, CHANNEL_DONE);
  assert_ptr_equal(fake.seen, f->input.data + 64);
  assert_memory_equal(f->output.data + 128, f->input.data + 64, 24);
  assert_int_equal(f->output.data[152], 0);
  assert_int_equal(f->done.n_outputs, 1);
  assert_int_equal(f->done.outputs[0].offset, 128);
  assert_int_equal(f->done.outputs[0].size, 24);
  assert_int_equal(f->done.outputs[0].dims[0], 3);
}

static void test_others_are_gathered(void **state) {
  struct fixture *f = *state;
  const uint64_t orders[][3] = {{72, 64, 80}, {64, 80, 72}, {0, 4088, 8}, {64, 64, 64}};
  for (size_t i = 0; i < sizeof orders / sizeof orders[0]; i++) {
    describe(f, orders[i], 3);
    place(f, true, 8, 0, 24);
    assert_int_equal(lane_run(f->seat, &f->job, &f->done), MU_OK);
    check_done(f, CHANNEL_DONE);
    assert_true(fake.seen < f->input.data || fake.seen >= f->input.data + 4096);
    for (int row = 0; row < 3; row++) {
      assert_memory_equal(f->output.data + 8 * row, f->input.data + orders[i][row], 8);
    }
  }
}

static void test_overlapping_members_are_bounded(void **state) {
  struct fixture *f = *state;
  uint64_t offsets[1000] = {0}; /* together more than the arena */
  describe(f, offsets, 1000);
  place(f, false, 8, 0, 4096);
  assert_int_equal(lane_run(f->seat, &f->job, &f->done), MU_OK);
  check_done(f, CHANNEL_ERROR);
  assert_int_equal(f->done.status, MU_INVALID);
  assert_int_equal(fake.runs, 0);
}

/* ---- outputs ----------------------------------------------------------------------------------------------------- */

static void test_unknown_shapes_are_copied(void **state) {
  struct fixture *f = *state;
  const uint64_t offsets[] = {8};
  describe(f, offsets, 1);
  place(f, false, 0, 256, 64);
  fake.doubles = true;
  assert_int_equal(lane_run(f->seat, &f->job, &f->done), MU_OK);
  check_done(f, CHANNEL_DONE);
  assert_int_equal(fake.runs, 1);
  assert_int_equal(f->done.outputs[0].dims[1], 16);
  assert_int_equal(f->done.outputs[0].size, 16);
  assert_int_equal(f->done.outputs[0].offset, 256);
  assert_memory_equal(f->output.data + 256, fake.result, 16);
}

static void test_a_wrong_expectation_is_corrected(void **state) {
  struct fixture *f = *state;
  const uint64_t offsets[] = {8};
  describe(f, offsets, 1);
  place(f, true, 8, 256, 64); /* it will be 16 columns */
  fake.doubles = true;
  assert_int_equal(lane_run(f->seat, &f->job, &f->done), MU_OK);
  check_done(f, CHANNEL_DONE);
  assert_int_equal(f->done.outputs[0].dims[1], 16);
  assert_memory_equal(f->output.data + 256, fake.result, 16);

  place(f, true, 1 << 20, 256, 64); /* dims that the place has no room for are not believed */
  assert_int_equal(lane_run(f->seat, &f->job, &f->done), MU_OK);
  check_done(f, CHANNEL_DONE);
  assert_int_equal(f->done.outputs[0].dims[1], 16);
}

static void fetch(struct fixture *f, uint64_t offset, uint64_t capacity) {
  f->job.type = CHANNEL_FETCH;
  f->job.n_inputs = f->job.n_members = 0;
  f->job.places[0].known = false;
  f->job.places[0].offset = offset;
  f->job.places[0].capacity = capacity;
  assert_int_equal(lane_run(f->seat, &f->job, &f->done), MU_OK);
}

static void test_too_large_outputs_are_fetched(void **state) {
  struct fixture *f = *state;
  const uint64_t offsets[] = {8};
  describe(f, offsets, 1);
  place(f, false, 0, 256, 15);
  fake.doubles = true;
  assert_int_equal(lane_run(f->seat, &f->job, &f->done), MU_OK);
  check_done(f, CHANNEL_OVERFLOW);
  assert_int_equal(f->done.outputs[0].size, 16);
  assert_int_equal(f->output.data[256], 0);
  fetch(f, 512, 8); /* still too small: still held */
  check_done(f, CHANNEL_OVERFLOW);
  fetch(f, 512, 16);
  check_done(f, CHANNEL_DONE);
  assert_int_equal(f->done.outputs[0].offset, 512);
  assert_memory_equal(f->output.data + 512, fake.result, 16);
  assert_int_equal(fake.runs, 1);
}

/* One output was written in place, the other did not fit: the gateway may move both, over each other. */
static void test_places_may_move(void **state) {
  struct fixture *f = *state;
  static const mu_tensor_info tensors[] = {{.name = name, .dtype = MU_UINT8, .rank = 2, .dims = {-1, -1}},
                                           {.name = name, .dtype = MU_UINT8, .rank = 2, .dims = {-1, -1}}};
  static const mu_model_info two = {.inputs = tensors, .n_inputs = 1, .outputs = tensors, .n_outputs = 2};
  struct lane *lane = lane_create(&engine, NULL, &two);
  struct lane_seat *seat = lane_seat_create(lane, &f->input, &f->output);
  assert_non_null(seat);
  const uint64_t offsets[] = {8};
  describe(f, offsets, 1);
  place(f, true, 8, 0, 8);
  f->job.places[1] = f->job.places[0];
  f->job.places[1].index = 1;
  f->job.places[1].known = false;
  f->job.places[1].offset = 64;
  f->job.places[1].capacity = 1;
  f->job.n_places = 2;
  assert_int_equal(lane_run(seat, &f->job, &f->done), MU_OK);
  check_done(f, CHANNEL_OVERFLOW);
  memset(f->output.data, 0xee, 4096); /* given to somebody else meanwhile */
  f->job.type = CHANNEL_FETCH;
  f->job.n_inputs = f->job.n_members = 0;
  f->job.places[0].offset = 4;
  f->job.places[1].offset = 12;
  f->job.places[1].capacity = 8;
  assert_int_equal(lane_run(seat, &f->job, &f->done), MU_OK);
  check_done(f, CHANNEL_DONE);
  assert_memory_equal(f->output.data + 4, f->input.data + 8, 8);
  assert_memory_equal(f->output.data + 12, f->input.data + 8, 8);
  lane_seat_free(seat);
  lane_free(lane);
}

static void test_only_what_is_held_is_fetched(void **state) {
  struct fixture *f = *state;
  const uint64_t offsets[] = {8};
  describe(f, offsets, 1);
  place(f, false, 0, 0, 1);
  fetch(f, 0, 64); /* nothing has run */
  check_done(f, CHANNEL_ERROR);
  describe(f, offsets, 1);
  place(f, false, 0, 0, 1);
  assert_int_equal(lane_run(f->seat, &f->job, &f->done), MU_OK);
  check_done(f, CHANNEL_OVERFLOW);
  f->job.batch = 41;
  fetch(f, 0, 64); /* another batch */
  check_done(f, CHANNEL_ERROR);
  f->job.batch = 40;
  f->job.places[0].index = 1; /* an output that was not asked for */
  fetch(f, 0, 64);
  check_done(f, CHANNEL_ERROR);
  struct lane_seat *other = lane_seat_create(f->lane, &f->input, &f->output); /* of another gateway */
  assert_non_null(other);
  f->job.places[0].index = 0;
  assert_int_equal(lane_run(other, &f->job, &f->done), MU_OK);
  check_done(f, CHANNEL_ERROR);
  lane_seat_free(other);
}

/* ---- two gateways ------------------------------------------------------------------------------------------------ */

static void test_another_gateways_run_takes_nothing_away(void **state) {
  struct fixture *f = *state;
  struct lane_seat *other = lane_seat_create(f->lane, &f->input, &f->output);
  assert_non_null(other);
  const uint64_t mine[] = {8}, others[] = {64};
  uint8_t expected[16];
  describe(f, mine, 1);
  place(f, false, 0, 256, 15);
  fake.doubles = true;
  assert_int_equal(lane_run(f->seat, &f->job, &f->done), MU_OK);
  check_done(f, CHANNEL_OVERFLOW);
  memcpy(expected, fake.result, sizeof expected);

  describe(f, others, 1); /* it overwrites what the engine had produced */
  f->job.batch = 41;
  place(f, false, 0, 1024, 16);
  assert_int_equal(lane_run(other, &f->job, &f->done), MU_OK);
  check_done(f, CHANNEL_DONE);
  assert_memory_not_equal(fake.result, expected, sizeof expected);

  f->job.batch = 40;
  f->job.places[0].index = 0;
  fetch(f, 512, 16);
  check_done(f, CHANNEL_DONE);
  assert_memory_equal(f->output.data + 512, expected, sizeof expected);
  assert_int_equal(fake.runs, 2);
  lane_seat_free(other);
}

static void test_what_a_gateway_left_held_is_forgotten(void **state) {
  struct fixture *f = *state;
  struct lane_seat *other = lane_seat_create(f->lane, &f->input, &f->output);
  assert_non_null(other);
  const uint64_t offsets[] = {8};
  describe(f, offsets, 1);
  place(f, false, 0, 256, 1);
  assert_int_equal(lane_run(other, &f->job, &f->done), MU_OK);
  check_done(f, CHANNEL_OVERFLOW);
  lane_seat_free(other);
  place(f, true, 8, 256, 8);
  assert_int_equal(lane_run(f->seat, &f->job, &f->done), MU_OK);
  check_done(f, CHANNEL_DONE);
}

struct turns {
  struct fixture *fixture;
  struct lane_seat *seat;
  struct channel_span span;
  struct channel_job job;
  struct channel_completion done;
  int wrong;
};

static void *take_turns(void *argument) {
  struct turns *turns = argument;
  for (int i = 0; i < 500; i++) {
    if (lane_run(turns->seat, &turns->job, &turns->done) != MU_OK || turns->done.result != CHANNEL_DONE) turns->wrong++;
    const uint8_t *in = turns->fixture->input.data + turns->span.offset;
    if (memcmp(turns->fixture->output.data + turns->job.places[0].offset, in, 8) != 0) turns->wrong++;
  }
  return NULL;
}

/* The instance has one job at a time, and each gets its own answer. */
static void test_gateways_take_turns(void **state) {
  struct fixture *f = *state;
  static struct turns turns[2];
  pthread_t threads[2];
  for (uint64_t i = 0; i < 2; i++) {
    const uint64_t offsets[] = {64 * i};
    describe(f, offsets, 1);
    place(f, false, 8, 128 * i, 8);
    turns[i] = (struct turns){.fixture = f, .job = f->job, .span = f->spans[0]};
    turns[i].job.spans = &turns[i].span;
    turns[i].seat = lane_seat_create(f->lane, &f->input, &f->output);
    assert_non_null(turns[i].seat);
  }
  for (size_t i = 0; i < 2; i++) assert_int_equal(pthread_create(&threads[i], NULL, take_turns, &turns[i]), 0);
  for (size_t i = 0; i < 2; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
  assert_int_equal(turns[0].wrong + turns[1].wrong, 0);
  assert_int_equal(fake.runs, 1000);
  for (size_t i = 0; i < 2; i++) lane_seat_free(turns[i].seat);
}

/* ---- failures, stop ---------------------------------------------------------------------------------------------- */

static void test_what_the_engine_says_is_passed_on(void **state) {
  struct fixture *f = *state;
  static const struct {
    mu_status answer, run;
  } cases[] = {{MU_INVALID, MU_OK}, {MU_INTERNAL, MU_OK}, {MU_CANCELED, MU_OK}, {MU_NO_MEMORY, MU_OK}, {MU_IO, MU_IO}};
  const uint64_t offsets[] = {8};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    describe(f, offsets, 1);
    place(f, true, 8, 0, 8);
    fake.answer = cases[i].answer;
    assert_int_equal(lane_run(f->seat, &f->job, &f->done), cases[i].run);
    check_done(f, CHANNEL_ERROR);
    assert_int_equal(f->done.status, cases[i].answer);
    assert_string_equal(f->done.message, "told so");
    assert_int_equal(f->done.n_outputs, 0);
  }
}

static void test_only_a_running_batch_is_stopped(void **state) {
  struct fixture *f = *state;
  lane_stop(f->seat, 40);
  lane_stop(f->seat, 0);
  lane_stop_any(f->seat);
  assert_int_equal(fake.stops, 0);
}

/* With an engine that can be stopped. */
struct long_run {
  struct fixture *fixture;
  struct lane_seat *seat;
};
static void *run_long(void *argument) {
  struct long_run *run = argument;
  assert_int_equal(lane_run(run->seat, &run->fixture->job, &run->fixture->done), MU_OK);
  return NULL;
}

static void test_stop_reaches_the_engine(void **state) {
  struct fixture *f = *state;
  const mu_parameter parameters[] = {{"sim.base_ms", "3600000"}};
  const mu_model_spec spec = {.name = "test",
                              .device = "cpu",
                              .threads = 1,
                              .instances = 1,
                              .parameters = parameters,
                              .n_parameters = 1,
                              .inputs = &tensor,
                              .n_inputs = 1,
                              .outputs = &tensor,
                              .n_outputs = 1};
  const struct engine_entry *entry = NULL;
  mu_engine_model *model = NULL;
  mu_engine_instance *instance = NULL;
  mu_error err;
  assert_int_equal(engine_find("sim", NULL, &entry, &err), MU_OK);
  assert_int_equal(entry->engine->model_load(&spec, &model, &err), MU_OK);
  assert_int_equal(entry->engine->instance_create(model, &instance, &err), MU_OK);
  struct lane *lane = lane_create(entry->engine, instance, entry->engine->model_info(model));
  assert_non_null(lane);
  struct long_run run = {f, lane_seat_create(lane, &f->input, &f->output)};
  struct lane_seat *other = lane_seat_create(lane, &f->input, &f->output);
  assert_true(run.seat != NULL && other != NULL);
  const uint64_t offsets[] = {8};
  describe(f, offsets, 1);
  place(f, true, 8, 0, 8);
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, run_long, &run), 0);
  for (int i = 0; i < 50; i++) { /* what others ask for does not concern it */
    lane_stop(run.seat, 39);
    lane_stop(other, 40);
    lane_stop_any(other);
    assert_int_not_equal(pthread_tryjoin_np(thread, NULL), 0);
    poll(NULL, 0, 1);
  }
  while (pthread_tryjoin_np(thread, NULL) != 0) { /* before it has begun, a stop finds nothing */
    lane_stop(run.seat, 40);
    sched_yield();
  }
  check_done(f, CHANNEL_ERROR);
  assert_int_equal(f->done.status, MU_CANCELED);
  lane_seat_free(run.seat);
  lane_seat_free(other);
  lane_free(lane);
  entry->engine->instance_free(instance);
  entry->engine->model_free(model);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_neighbours_are_not_copied, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_others_are_gathered, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_overlapping_members_are_bounded, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_unknown_shapes_are_copied, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_a_wrong_expectation_is_corrected, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_too_large_outputs_are_fetched, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_places_may_move, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_only_what_is_held_is_fetched, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_another_gateways_run_takes_nothing_away, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_what_a_gateway_left_held_is_forgotten, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_gateways_take_turns, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_what_the_engine_says_is_passed_on, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_only_a_running_batch_is_stopped, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_stop_reaches_the_engine, set_up, tear_down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
