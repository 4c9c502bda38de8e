/* A whole worker process, with the test as its supervisor and its gateway. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "config/options.h"
#include "control/message.h"
#include "model/model_metadata.h"
#include "worker/lane.h"
#include "worker/worker.h"

#define MODELS TEST_SOURCE_DIR "/tests/models/"

enum { INPUT_ARENA = 1 << 20, OUTPUT_ARENA = 1 << 20 };

struct fixture {
  int control;
  pid_t worker;
  struct channel_gate *gate;
  struct shared_memory input;
  uint64_t epoch;
  struct channel_span spans[64];
  struct channel_job job;
  struct channel_completion done;
  const char *cores;
};

static int set_up(void **state) {
  struct fixture *f = calloc(1, sizeof *f);
  mu_error err;
  int sockets[2];
  if (f == NULL || control_socket_pair(sockets, &err) != MU_OK) return -1;
  if (shared_memory_create("test-input", INPUT_ARENA, &f->input, &err) != MU_OK) return -1;
  f->worker = fork();
  if (f->worker == 0) {
    close(sockets[0]);
    _exit(worker_main(sockets[1]));
  }
  close(sockets[1]);
  f->control = sockets[0];
  *state = f;
  return 0;
}

static int exit_status(struct fixture *f) {
  int status = 0;
  assert_int_equal(waitpid(f->worker, &status, 0), f->worker);
  f->worker = 0;
  return status;
}

static int tear_down(void **state) {
  struct fixture *f = *state;
  if (f->worker != 0) kill(f->worker, SIGKILL);
  if (f->worker != 0) exit_status(f);
  channel_gate_free(f->gate);
  shared_memory_close(&f->input);
  if (f->control >= 0) close(f->control);
  free(f);
  return 0;
}

/* ---- as the supervisor ------------------------------------------------------------------------------------------- */

static void start(struct fixture *f, const char *engine, const char *file, const char *config, uint32_t instances) {
  struct options *options = NULL;
  struct buffer encoded;
  mu_error err = {{0}};
  buffer_init(&encoded, 1 << 20);
  assert_int_equal(options_create(&options), MU_OK);
  assert_int_equal(options_encode(options, &encoded), MU_OK);
  const struct control_worker_start message = {
      .worker = 1,
      .model = 1,
      .name = "test",
      .version = 1,
      .path = file,
      .folder = "",
      .config = {config, strlen(config)},
      .options = {encoded.data, encoded.size},
      .engine = engine,
      .device = "cpu",
      .threads = 1,
      .instances = instances,
      .max_batch = 16,
      .cores = f->cores,
  };
  assert_int_equal(control_send(f->control, CONTROL_WORKER_START, &message, NULL, 0, &err), MU_OK);
  buffer_free(&encoded);
  options_free(options);
}

static struct control_packet expect(struct fixture *f, enum control_type type) {
  struct control_packet packet;
  mu_error err = {{0}};
  if (control_receive(f->control, &packet, &err) != MU_OK) fail_msg("%s", err.message);
  if (packet.type != type) {
    fail_msg("type %d: %s", (int)packet.type, packet.type == CONTROL_FAILED ? packet.failed.message : "");
  }
  return packet;
}

static void expect_ready(struct fixture *f) {
  struct control_packet loaded = expect(f, CONTROL_LOADED), ready;
  struct model_metadata *metadata = NULL;
  assert_int_equal(model_metadata_decode(loaded.loaded.metadata.data, loaded.loaded.metadata.size, &metadata), MU_OK);
  assert_true(metadata->n_inputs > 0);
  model_metadata_free(metadata);
  ready = expect(f, CONTROL_READY);
  control_packet_free(&loaded);
  control_packet_free(&ready);
}

static void tell(struct fixture *f, enum control_type type) {
  mu_error err;
  assert_int_equal(control_send(f->control, type, NULL, NULL, 0, &err), MU_OK);
}

/* ---- as the gateway ---------------------------------------------------------------------------------------------- */

static void wait_readable(int fd) {
  struct pollfd wanted = {.fd = fd, .events = POLLIN};
  assert_int_equal(poll(&wanted, 1, 60000), 1);
}

static mu_status attach(struct fixture *f, uint32_t lanes) {
  const struct channel_params params = {
      .epoch = ++f->epoch, .lanes = lanes, .max_spans = 64, .output_arena = OUTPUT_ARENA};
  const struct control_worker_peer peer = {.epoch = params.epoch};
  int sockets[2];
  mu_error err = {{0}};
  channel_gate_free(f->gate);
  f->gate = NULL;
  assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
  assert_int_equal(channel_gate_offer(&params, sockets[0], &f->input, &f->gate, &err), MU_OK);
  assert_int_equal(control_send(f->control, CONTROL_WORKER_PEER, &peer, &sockets[1], 1, &err), MU_OK);
  close(sockets[1]);
  wait_readable(channel_gate_socket(f->gate));
  return channel_gate_finish(f->gate, &err);
}

/* A job of n requests of `size` bytes each, one after the other in the arena, and one place for all. */
static void describe(struct fixture *f, mu_dtype dtype, int64_t columns, uint32_t n, uint64_t size) {
  static uint64_t batch;
  f->job = (struct channel_job){.type = CHANNEL_RUN, .epoch = f->epoch, .batch = ++batch, .spans = f->spans};
  f->job.n_inputs = f->job.n_places = 1;
  f->job.n_members = n;
  f->job.inputs[0] = (struct channel_input){.dtype = dtype, .rank = 2, .dims = {n, columns}};
  f->job.places[0] = (struct channel_place){.capacity = OUTPUT_ARENA};
  for (uint32_t i = 0; i < n; i++) f->spans[i] = (struct channel_span){i * size, size};
}

static void submit(struct fixture *f, uint32_t lane) {
  assert_int_equal(channel_gate_submit(f->gate, lane, &f->job), MU_OK);
  channel_gate_ring(f->gate);
}

/* The next completion; returns its lane. */
static uint32_t complete(struct fixture *f) {
  uint32_t lane = 0;
  mu_status status;
  while ((status = channel_gate_next(f->gate, &lane, &f->done)) == MU_UNAVAILABLE) {
    if (!channel_gate_sleep(f->gate)) continue;
    wait_readable(channel_gate_doorbell(f->gate));
    channel_gate_wake(f->gate);
  }
  assert_int_equal(status, MU_OK);
  assert_int_equal(f->done.epoch, f->epoch);
  return lane;
}

static const uint8_t *result(const struct fixture *f) {
  return channel_gate_output(f->gate)->data + f->done.outputs[0].offset;
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static void test_serves_batches_of_a_model(void **state) {
  struct fixture *f = *state;
  start(f, "auto", MODELS "identity.onnx", "", 2);
  expect_ready(f);
  assert_int_equal(attach(f, 2), MU_OK);
  float *rows = (float *)(void *)f->input.data;
  for (int round = 0; round < 50; round++) {
    uint32_t n = 1 + (uint32_t)round % 3, lane = (uint32_t)round % 2;
    for (int i = 0; i < 48; i++) rows[i] = (float)(100 * round + i);
    describe(f, MU_FP32, 16, n, 64);
    submit(f, lane);
    assert_int_equal(complete(f), lane);
    assert_int_equal(f->done.result, CHANNEL_DONE);
    assert_int_equal(f->done.batch, f->job.batch);
    assert_int_equal(f->done.outputs[0].dims[0], n);
    assert_int_equal(f->done.outputs[0].size, 64 * n);
    assert_memory_equal(result(f), rows, 64 * n);
  }
  describe(f, MU_FP32, 15, 1, 60); /* the model has 16 columns */
  submit(f, 0);
  complete(f);
  assert_int_equal(f->done.result, CHANNEL_ERROR);
  assert_int_equal(f->done.status, MU_INVALID);
  tell(f, CONTROL_STOP);
  assert_int_equal(exit_status(f), 0);
}

static void test_gathers_from_scattered_members(void **state) {
  struct fixture *f = *state;
  start(f, "auto", MODELS "mlp.onnx", "", 1);
  expect_ready(f);
  assert_int_equal(attach(f, 1), MU_OK);
  float *rows = (float *)(void *)f->input.data;
  for (int i = 0; i < 64; i++) rows[i] = (float)i / 64;
  describe(f, MU_FP32, 16, 3, 64); /* rows 0, 1, 2 next to each other */
  submit(f, 0);
  complete(f);
  assert_int_equal(f->done.outputs[0].size, 3 * 32);
  uint8_t together[96];
  memcpy(together, result(f), sizeof together);
  describe(f, MU_FP32, 16, 3, 64);
  f->spans[0].offset = 128, f->spans[1].offset = 64, f->spans[2].offset = 0;
  submit(f, 0);
  complete(f);
  for (int row = 0; row < 3; row++) assert_memory_equal(result(f) + 32 * row, together + 32 * (2 - row), 32);
}

static const char sim[] =
    "backend: \"sim\" max_batch_size: 8 "
    "input { name: \"in\" data_type: TYPE_INT32 dims: [ -1 ] } output { name: \"out\" data_type: TYPE_INT32 dims: [ -1 "
    "] } "
    "parameters { key: \"sim.base_ms\" value { string_value: \"%s\" } } "
    "parameters { key: \"sim.%s\" value { string_value: \"%s\" } } "
    "model_warmup { name: \"w\" batch_size: 1 inputs { key: \"in\" value { data_type: TYPE_INT32 dims: [ 1 ] "
    "random_data: true } } "
    "} ";

static void start_sim(struct fixture *f, const char *ms, const char *key, const char *value) {
  char config[1024];
  assert_true(snprintf(config, sizeof config, sim, ms, key, value) < (int)sizeof config);
  start(f, "sim", "", config, 1);
}

#if defined(__SANITIZE_THREAD__)
enum { FOREIGN_THREADS = 1 }; /* the sanitizer's own, which is there before main */
#else
enum { FOREIGN_THREADS = 0 };
#endif

/* All of its threads, those of the engine too, run where the supervisor says. */
static void test_runs_on_the_cores_it_is_given(void **state) {
  struct fixture *f = *state;
  char text[16], path[64];
  cpu_set_t own, given, found;
  int first = 0;
  assert_int_equal(sched_getaffinity(0, sizeof own, &own), 0);
  while (!CPU_ISSET(first, &own)) first++;
  snprintf(text, sizeof text, "%d", first);
  f->cores = text;
  start(f, "auto", MODELS "identity.onnx", "", 2);
  expect_ready(f);
  assert_int_equal(attach(f, 2), MU_OK);
  CPU_ZERO(&given);
  CPU_SET(first, &given);
  snprintf(path, sizeof path, "/proc/%d/task", (int)f->worker);
  DIR *threads = opendir(path);
  assert_non_null(threads);
  int there = 0, elsewhere = 0;
  for (struct dirent *thread; (thread = readdir(threads)) != NULL;) {
    if (thread->d_name[0] == '.') continue;
    assert_int_equal(sched_getaffinity(atoi(thread->d_name), sizeof found, &found), 0);
    if (CPU_EQUAL(&found, &given))
      there++;
    else
      elsewhere++;
  }
  closedir(threads);
  assert_true(there > 1);
  assert_int_equal(elsewhere, FOREIGN_THREADS);
  tell(f, CONTROL_STOP);
  assert_int_equal(exit_status(f), 0);
}

/* Cores that this machine does not have: slower, but served. */
static void test_cores_that_are_gone(void **state) {
  struct fixture *f = *state;
  f->cores = "1023";
  start(f, "auto", MODELS "identity.onnx", "", 1);
  expect_ready(f);
  tell(f, CONTROL_STOP);
  assert_int_equal(exit_status(f), 0);
}

static void test_a_new_gateway_takes_over(void **state) {
  struct fixture *f = *state;
  start_sim(f, "0", "seed", "1");
  expect_ready(f);
  int32_t *numbers = (int32_t *)(void *)f->input.data;
  for (int round = 0; round < 5; round++) {
    assert_int_equal(attach(f, 1), MU_OK);
    numbers[0] = round;
    describe(f, MU_INT32, 1, 1, 4);
    submit(f, 0);
    complete(f);
    assert_int_equal(f->done.result, CHANNEL_DONE);
    assert_memory_equal(result(f), numbers, 4);
  }
}

/* While one gateway hands over to the next, both are answered; each has its own rings, epoch and memory. The first one
 * that leaves takes nothing along. */
static void test_two_gateways_at_once(void **state) {
  struct fixture *f = *state;
  start_sim(f, "0", "seed", "1");
  expect_ready(f);
  int32_t *numbers = (int32_t *)(void *)f->input.data;
  for (int round = 0; round < 10; round++) { /* more gateways than a worker has places for at once */
    struct channel_gate *before = f->gate;
    uint64_t epoch_before = f->epoch;
    f->gate = NULL; /* attach is to leave it alone */
    assert_int_equal(attach(f, 1), MU_OK);
    struct channel_gate *gates[] = {f->gate, before};
    uint64_t epochs[] = {f->epoch, epoch_before};
    for (int i = 0; i < 6; i++) {
      int at = before == NULL ? 0 : i % 2;
      numbers[0] = 100 * round + i;
      f->gate = gates[at];
      f->epoch = epochs[at];
      describe(f, MU_INT32, 1, 1, 4);
      submit(f, 0);
      complete(f);
      assert_int_equal(f->done.result, CHANNEL_DONE);
      assert_memory_equal(result(f), numbers, 4);
    }
    channel_gate_free(before);
    f->gate = gates[0];
    f->epoch = epochs[0];
  }
  tell(f, CONTROL_STOP);
  assert_int_equal(exit_status(f), 0);
}

static void test_a_stop_reaches_the_run(void **state) {
  struct fixture *f = *state;
  start(f, "auto", MODELS "slow.onnx", "", 1);
  expect_ready(f);
  assert_int_equal(attach(f, 1), MU_OK);
  *(int64_t *)(void *)f->input.data = INT64_C(1) << 40;
  describe(f, MU_INT64, 1, 1, 8);
  f->job.inputs[0].rank = 1;
  f->job.inputs[0].dims[0] = 1;
  channel_gate_stop(f->gate, 0, f->job.batch); /* once, and before it has begun */
  submit(f, 0);
  complete(f);
  assert_int_equal(f->done.result, CHANNEL_ERROR);
  assert_int_equal(f->done.status, MU_CANCELED);

  describe(f, MU_INT64, 1, 1, 8); /* and the same for a gateway that dies */
  f->job.inputs[0].rank = 1;
  f->job.inputs[0].dims[0] = 1;
  submit(f, 0);
  assert_int_equal(attach(f, 1), MU_OK);
  *(int64_t *)(void *)f->input.data = 3;
  describe(f, MU_INT64, 1, 1, 8);
  f->job.inputs[0].rank = 1;
  f->job.inputs[0].dims[0] = 1;
  submit(f, 0);
  complete(f);
  assert_int_equal(f->done.result, CHANNEL_DONE);
  assert_true(*(const float *)(const void *)result(f) == 3);
}

static void test_a_running_batch_is_finished_before_leaving(void **state) {
  struct fixture *f = *state;
  start_sim(f, "1000", "seed", "1");
  expect_ready(f);
  assert_int_equal(attach(f, 1), MU_OK);
  *(int32_t *)(void *)f->input.data = 7;
  describe(f, MU_INT32, 1, 1, 4);
  submit(f, 0);
  poll(NULL, 0, 300); /* long enough for the lane to begin, if not for it to end */
  tell(f, CONTROL_STOP);
  complete(f);
  assert_int_equal(f->done.result, CHANNEL_DONE);
  assert_int_equal(exit_status(f), 0);
}

static void test_too_many_lanes_are_refused(void **state) {
  struct fixture *f = *state;
  start_sim(f, "0", "seed", "1");
  expect_ready(f);
  if (attach(f, 2) == MU_OK) { /* the handshake may be over before the worker counts */
    wait_readable(channel_gate_socket(f->gate));
  }
  assert_int_equal(attach(f, 1), MU_OK);
  describe(f, MU_INT32, 1, 1, 4);
  submit(f, 0);
  complete(f);
  assert_int_equal(f->done.result, CHANNEL_DONE);
}

static void check_failure(struct fixture *f, mu_status status, const char *word) {
  struct control_packet packet = expect(f, CONTROL_FAILED);
  assert_int_equal(packet.failed.status, status);
  if (strstr(packet.failed.message, word) == NULL) fail_msg("%s", packet.failed.message);
  control_packet_free(&packet);
  int ended = exit_status(f);
  assert_true(WIFEXITED(ended) && WEXITSTATUS(ended) != 0);
}

static void test_cores_that_are_none(void **state) {
  struct fixture *f = *state;
  f->cores = "0-";
  start(f, "auto", MODELS "identity.onnx", "", 1);
  check_failure(f, MU_INVALID, "the cores from the supervisor cannot be read: 0-");
}

static void test_a_model_that_cannot_be_loaded(void **state) {
  struct fixture *f = *state;
  start(f, "auto", MODELS "nothing.onnx", "", 1);
  check_failure(f, MU_NOT_FOUND, "nothing.onnx");
}

static void test_a_wrong_configuration(void **state) {
  struct fixture *f = *state;
  start(f, "auto", MODELS "mlp.onnx", "input { name: \"z\" data_type: TYPE_FP32 dims: [ 16 ] }", 1);
  check_failure(f, MU_INVALID, "z");
}

static void test_a_warmup_that_fails(void **state) {
  struct fixture *f = *state;
  start_sim(f, "0", "fail_rate", "1");
  struct control_packet loaded = expect(f, CONTROL_LOADED);
  control_packet_free(&loaded);
  check_failure(f, MU_INTERNAL, "sim.fail_rate");
}

static void test_signals_of_the_group_are_ignored(void **state) {
  struct fixture *f = *state;
  start_sim(f, "0", "seed", "1");
  expect_ready(f);
  static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
  for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) kill(f->worker, signals[i]);
  assert_int_equal(attach(f, 1), MU_OK);
  tell(f, CONTROL_STOP);
  assert_int_equal(exit_status(f), 0);
}

static void test_the_supervisor_dies(void **state) {
  struct fixture *f = *state;
  start_sim(f, "0", "seed", "1");
  expect_ready(f);
  close(f->control);
  f->control = -1;
  assert_true(WIFEXITED(exit_status(f)));
}

static void test_nonsense_instead_of_a_start(void **state) {
  struct fixture *f = *state;
  tell(f, CONTROL_STOP);
  check_failure(f, MU_INVALID, "first message");
}

#define WORKER_TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void) {
  log_setup("test", LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
  const struct CMUnitTest tests[] = {
      WORKER_TEST(test_serves_batches_of_a_model),
      WORKER_TEST(test_gathers_from_scattered_members),
      WORKER_TEST(test_runs_on_the_cores_it_is_given),
      WORKER_TEST(test_cores_that_are_gone),
      WORKER_TEST(test_cores_that_are_none),
      WORKER_TEST(test_a_new_gateway_takes_over),
      WORKER_TEST(test_two_gateways_at_once),
      WORKER_TEST(test_a_stop_reaches_the_run),
      WORKER_TEST(test_a_running_batch_is_finished_before_leaving),
      WORKER_TEST(test_too_many_lanes_are_refused),
      WORKER_TEST(test_a_model_that_cannot_be_loaded),
      WORKER_TEST(test_a_wrong_configuration),
      WORKER_TEST(test_a_warmup_that_fails),
      WORKER_TEST(test_signals_of_the_group_are_ignored),
      WORKER_TEST(test_the_supervisor_dies),
      WORKER_TEST(test_nonsense_instead_of_a_start),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
