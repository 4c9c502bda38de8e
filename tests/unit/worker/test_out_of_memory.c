/* A model loaded, checked, warmed up, and a gateway's hold on it, without memory (the sim engine: what ONNX Runtime
 * allocates itself cannot be failed from here). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/options.h"
#include "failing_allocator.h"
#include "worker/batch_check.h"
#include "worker/lane.h"
#include "worker/peer.h"
#include "worker/warmup.h"

static struct buffer options_bytes;
static const char config[] =
    "max_batch_size: 8 input { name: 'x' data_type: TYPE_FP32 dims: [ 4 ] }\n"
    "output { name: 'y' data_type: TYPE_FP32 dims: [ 4 ] }\n"
    "model_warmup { name: 'w' batch_size: 2 inputs { key: 'x' value { data_type: TYPE_FP32 dims: [4] random_data: true "
    "} } }\n"
    "parameters { key: 'sim.output_size' value { string_value: '4' } }";

static int encode_options(void **state) {
  struct options *options = NULL;
  buffer_init(&options_bytes, 1 << 20);
  if (options_create(&options) != MU_OK) return -1;
  mu_status status = options_encode(options, &options_bytes);
  options_free(options);
  return status;
}
static int free_options(void **state) {
  buffer_free(&options_bytes);
  return 0;
}

static struct control_worker_start start_message(void) {
  return (struct control_worker_start){.name = "test",
                                       .version = 1,
                                       .path = "",
                                       .folder = "",
                                       .config = {config, sizeof config - 1},
                                       .options = {options_bytes.data, options_bytes.size},
                                       .engine = "sim",
                                       .device = "cpu",
                                       .threads = 1,
                                       .instances = 2,
                                       .max_batch = 16};
}

static mu_status load(void *context) {
  struct control_worker_start start = start_message();
  struct worker_model model = {0};
  char note[WARMUP_NOTE_MAX] = "", batch_note[BATCH_NOTE_MAX] = "";
  mu_error err = {""};
  mu_status status = worker_model_load(&start, NULL, &model, &err);
  if (status == MU_OK) status = warmup_run(&model, "", note, &err);
  if (status == MU_OK) {
    assert_string_equal(note, "");
    status = batch_check(model.engine, model.instances[0], model.info, 8, batch_note, &err);
    if (status == MU_OK) assert_string_equal(batch_note, ""); /* no note where only memory was missing */
  }
  if (status != MU_OK) assert_true(err.message[0] != '\0');
  worker_model_free(&model);
  return status;
}

enum { LANES = 2 };

/* The gateway's end of a channel; what the worker answers comes to its caller. */
struct gate {
  struct shared_memory input;
  struct channel_gate *gate;
  int socket; /* the worker's end */
};

static struct gate gate_open(void) {
  struct gate g = {.input.fd = -1};
  struct channel_params params = {.epoch = 1, .lanes = LANES, .max_spans = 8, .output_arena = 1 << 16};
  int ends[2];
  mu_error err;
  assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  assert_int_equal(shared_memory_create("no-memory", 1 << 16, &g.input, &err), MU_OK);
  assert_int_equal(channel_gate_offer(&params, ends[0], &g.input, &g.gate, &err), MU_OK);
  g.socket = ends[1];
  return g;
}

static void gate_close(struct gate *g) {
  channel_gate_free(g->gate);
  shared_memory_close(&g->input);
}

/* One batch of one row, answered by whatever engine the lane has. */
static enum channel_result run_batch(struct gate *g, uint32_t lane, uint64_t batch) {
  static struct channel_job job;
  static struct channel_completion done;
  struct channel_span span = {.size = 16};
  mu_status status;
  uint32_t from;
  memset(&job, 0, sizeof job);
  job.type = CHANNEL_RUN;
  job.epoch = 1;
  job.batch = batch;
  job.n_inputs = job.n_members = job.n_places = 1;
  job.spans = &span;
  job.inputs[0] = (struct channel_input){.dtype = MU_FP32, .rank = 2, .dims = {1, 4}};
  job.places[0] = (struct channel_place){.capacity = 1 << 12}; /* unknown: the engine needs memory for it */
  assert_int_equal(channel_gate_submit(g->gate, lane, &job), MU_OK);
  channel_gate_ring(g->gate);
  while ((status = channel_gate_next(g->gate, &from, &done)) == MU_UNAVAILABLE) usleep(100);
  assert_int_equal(status, MU_OK);
  assert_int_equal(done.batch, batch);
  if (done.result == CHANNEL_ERROR) assert_int_equal(done.status, MU_NO_MEMORY);
  return done.result;
}

static mu_status serve(void *context) {
  struct control_worker_start start = start_message();
  struct worker_model model = {0};
  struct lane *lanes[LANES] = {NULL};
  struct peer *peer = NULL;
  mu_error err = {""};
  allocations_work();
  assert_int_equal(worker_model_load(&start, NULL, &model, &err), MU_OK);
  struct gate g = gate_open();
  int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  allocations_fail();
  mu_status status = MU_OK;
  for (int i = 0; i < LANES; i++) {
    lanes[i] = lane_create(model.engine, model.instances[i], model.info);
    if (lanes[i] == NULL) status = MU_NO_MEMORY;
  }
  if (status == MU_OK)
    status = peer_create(g.socket, lanes, LANES, wake, &peer, &err);
  else
    close(g.socket);
  if (status == MU_IO) status = MU_NO_MEMORY; /* a thread that cannot be started */
  allocations_work();
  mu_status heard = channel_gate_finish(g.gate, &err);
  allocations_fail();
  if (heard == MU_UNAVAILABLE) heard = MU_IO; /* ... and the socket is closed */
  /* A gateway must not believe in an attachment that is none: it would wait for answers that never come. */
  assert_int_equal(heard == MU_OK, status == MU_OK);
  if (status == MU_OK) {
    bool whole = run_batch(&g, 0, 1) == CHANNEL_DONE;
    whole &= run_batch(&g, 1, 2) == CHANNEL_DONE;
    allocations_work();
    assert_int_equal(run_batch(&g, 0, 3), CHANNEL_DONE);
    assert_int_equal(run_batch(&g, 1, 4), CHANNEL_DONE);
    if (!whole) status = MU_NO_MEMORY;
  }
  allocations_work();
  if (peer != NULL) assert_int_equal(peer_free(peer, &err), MU_OK);
  for (int i = 0; i < LANES; i++) lane_free(lanes[i]);
  gate_close(&g);
  close(wake);
  worker_model_free(&model);
  return status;
}

static void test_load(void **state) { fail_each_allocation("load, warm-up, batch check", load, NULL); }
static void test_serve(void **state) { fail_each_allocation("lanes of a gateway", serve, NULL); }

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_load), cmocka_unit_test(test_serve)};
  return cmocka_run_group_tests(tests, encode_options, free_options);
}
