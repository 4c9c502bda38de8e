/* Remote models without memory: loading one says so, a run fails or is right, and the next one is served as ever. */
#include "engine/engine.h"
#include "engine/remote/remote.h"
#include "engine/remote/remote_body.h"
#include "engine/remote/remote_reply.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>
#include <poll.h>

#include "failing_allocator.h"
#include "plain_peer.h"

static char name_x[] = "x", name_y[] = "y";
static const mu_tensor_info x = {.name = name_x, .dtype = MU_INT32, .rank = 1, .dims = {-1}},
                            y = {.name = name_y, .dtype = MU_INT32, .rank = 1, .dims = {-1}};
static struct plain_peer peer; /* in a thread of its own, as an engine's run blocks */
static atomic_bool over;

/* ---- what the backend answers ------------------------------------------------------------------------------------ */

static void say_http(struct plain_connection *connection, const char *head, const void *body, size_t size) {
  char line[256];
  int n = snprintf(line, sizeof line, "HTTP/1.1 200 OK\r\n%sContent-Length: %zu\r\n\r\n", head, size);
  plain_say(connection, line, (size_t)n);
  plain_say(connection, body, size);
}

static const char inference[] =
    "{\"outputs\":[{\"name\":\"y\",\"datatype\":\"INT32\",\"shape\":[2],\"parameters\":{\"binary_data_size\":8}}]}"
    "\7\0\0\0\11\0\0\0";
static const char metadata[] =
    "{\"name\":\"m\",\"inputs\":[{\"name\":\"x\",\"datatype\":\"INT32\",\"shape\":[-1]}],"
    "\"outputs\":[{\"name\":\"y\",\"datatype\":\"INT32\",\"shape\":[-1]}]}";

static const struct {
  const char *line, *head, *body;
  size_t size;
} http_answers[] = {
    {"POST /v2/models/m/infer ", "Inference-Header-Content-Length: 93\r\n", inference, sizeof inference - 1},
    {"GET /v2/models/m/ready ", "", "", 0},
    {"GET /v2/models/m/config ", "", "{\"max_batch_size\":8}", 20},
    {"GET /v2/models/m ", "", metadata, sizeof metadata - 1},
};

static void answer(struct plain_connection *connection, uint32_t stream, const char *text, size_t size) {
  for (size_t i = 0; i < sizeof http_answers / sizeof *http_answers; i++) {
    if (strncmp(text, http_answers[i].line, strlen(http_answers[i].line)) != 0) continue;
    say_http(connection, http_answers[i].head, http_answers[i].body, http_answers[i].size);
    return;
  }
}

static void *serve(void *unused) {
  while (!atomic_load(&over)) {
    struct pollfd fds[PEER_CONNECTIONS + 1] = {{.fd = peer.listener, .events = POLLIN}};
    nfds_t n = 1;
    for (size_t i = 0; i < PEER_CONNECTIONS; i++)
      if (peer.connections[i].fd != 0) fds[n++] = (struct pollfd){.fd = peer.connections[i].fd, .events = POLLIN};
    poll(fds, n, 100);
    plain_peer_turn(&peer);
  }
  return NULL;
}

/* ---- the scenario ------------------------------------------------------------------------------------------------ */

static mu_status run_once(mu_engine_instance *instance) {
  int32_t numbers[] = {1, 2};
  const mu_input input = {0, {MU_INT32, 1, {2}, numbers, sizeof numbers}};
  mu_output output = {.index = 0};
  mu_error err;
  mu_status status = engine_remote.run(instance, &input, 1, &output, 1, &err);
  if (status == MU_OK) {
    assert_int_equal(output.tensor.size, 8);
    assert_memory_equal(output.tensor.data, ((int32_t[]){7, 9}), 8);
  }
  return status;
}

/* A check that found no memory has said nothing: then nobody is known to be healthy. */
static mu_status without_memory(mu_status status) {
  return status == MU_UNAVAILABLE && allocation_has_failed() ? MU_NO_MEMORY : status;
}

static mu_status use_model(void *unused) {
  char address[32];
  mu_engine_model *model = NULL;
  mu_engine_instance *instance = NULL;
  mu_error err;
  snprintf(address, sizeof address, "127.0.0.1:%u", ntohs(peer.address.sin_port));
  const mu_parameter parameters[] = {{"remote.backends", address},
                                     {ENGINE_ADDRESSES_PARAMETER, address},
                                     {"remote.health_interval", "0.05"},
                                     {"remote.timeout", "1"},
                                     {"remote.wait", "0.02"}};
  const mu_model_spec spec = {.name = "m", .parameters = parameters, .n_parameters = 5};
  mu_status status = engine_remote.model_load(&spec, &model, &err);
  if (status == MU_OK) status = engine_remote.instance_create(model, &instance, &err);
  if (status == MU_OK) {
    struct buffer report;
    buffer_init(&report, 4096);
    for (int i = 0; i < 2 && status == MU_OK; i++) status = without_memory(run_once(instance));
    if (remote_report(model, &report) != MU_OK) status = MU_NO_MEMORY;
    buffer_free(&report);
    allocations_work();
    mu_status again; /* there is memory once more, and so the backend becomes healthy */
    while ((again = run_once(instance)) == MU_UNAVAILABLE) {
    }
    assert_int_equal(again, MU_OK);
  }
  allocations_work();
  engine_remote.instance_free(instance);
  engine_remote.model_free(model);
  return status;
}

/* gRPC without libcurl, which for want of memory waits now and then until the time of a call is up. */
static mu_status use_messages(void *unused) {
  static const char reply_bytes[] =
      "\0\0\0\0\x19"
      "\x2a\x0d"
      "\x0a\1y"
      "\x12\5INT32"
      "\x1a\1\2"
      "\x32\x08\7\0\0\0\11\0\0\0";
  const struct remote_settings settings = {.protocol = REMOTE_GRPC, .model = "m"};
  const mu_model_info info = {.inputs = &x, .n_inputs = 1, .outputs = &y, .n_outputs = 1};
  int32_t numbers[] = {1, 2};
  const mu_input input = {0, {MU_INT32, 1, {2}, numbers, sizeof numbers}};
  mu_output output = {.index = 0};
  struct remote_body body;
  struct remote_results results;
  struct remote_reply reply;
  mu_error err;
  remote_body_init(&body);
  mu_status status = remote_body_write(&body, &settings, &info, &input, 1, &output, 1, &err);
  mu_status created = remote_results_create(&results, &info, 1 << 20, &err);
  remote_reply_init(&reply, &results, REMOTE_GRPC);
  for (int i = 0; created == MU_OK && i < 2; i++) { /* the second one has memory */
    mu_status read = remote_results_start(&results, &output, 1, &err);
    if (read == MU_OK) read = remote_reply_start(&reply, -1, &err);
    if (read == MU_OK) read = remote_reply_take(&reply, reply_bytes, sizeof reply_bytes - 1, &err);
    if (read == MU_OK) read = remote_reply_finish(&reply, &err);
    if (read == MU_OK) assert_memory_equal(output.tensor.data, ((int32_t[]){7, 9}), 8);
    allocations_work();
    if (i == 0 && read != MU_OK) status = read;
    if (i == 1) assert_int_equal(read, MU_OK);
  }
  remote_reply_free(&reply);
  remote_results_free(&results);
  remote_body_free(&body);
  return created == MU_OK ? status : created;
}

static void test_model(void **state) { fail_each_allocation("remote model", use_model, NULL); }
static void test_messages(void **state) { fail_each_allocation("messages of gRPC", use_messages, NULL); }

/* The C library keeps stacks of threads that have ended for others. libcurl starts one where it finds no memory to read
 * a numeric address by itself. */
static void *end_at_once(void *unused) { return NULL; }

static void warm_up(void) {
  pthread_t threads[4];
  for (size_t i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, end_at_once, NULL), 0);
  for (size_t i = 0; i < 4; i++) pthread_join(threads[i], NULL);
}

int main(void) {
  pthread_t thread;
  warm_up();
  peer.answer = answer;
  if (!plain_peer_start(&peer) || pthread_create(&thread, NULL, serve, NULL) != 0) return 1;
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_model), cmocka_unit_test(test_messages)};
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  atomic_store(&over, true);
  pthread_join(thread, NULL);
  plain_peer_stop(&peer);
  return failed;
}
