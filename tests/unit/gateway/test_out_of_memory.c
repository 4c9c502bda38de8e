/*
 * A whole gateway process without memory, with the test as its supervisor, its worker and its clients. A request is
 * answered right or with 503; the process neither ends nor hangs; and once there is memory again everything is served.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "channel/channel.h"
#include "config/options.h"
#include "control/message.h"
#include "failing_allocator.h"
#include "gateway/gateway.h"
#include "model/model.h"
#include "net/http_server.h"

enum { PATIENCE_MS = 20000, DEARTH_MS = 20, ROW = 4, CHANNELS_MAX = 64 };

/* ---- the worker: echoes its input; only its own thread and `closing`
 * --------------------------------------------------- */

struct worker {
  pthread_t thread;
  struct channel_worker *channel;
  struct channel_job job;
  struct channel_completion done;
  struct channel_span *spans;
};

static bool place_output(struct worker *w, const struct channel_place *place, struct channel_output *output) {
  uint8_t *to = channel_worker_output(w->channel)->data + place->offset;
  *output = (struct channel_output){.index = place->index,
                                    .dtype = MU_FP32,
                                    .rank = 2,
                                    .dims = {w->job.inputs[0].dims[0], ROW},
                                    .offset = place->offset};
  for (uint32_t m = 0; m < w->job.n_members; m++) {
    const struct channel_span *span = &w->spans[m];
    if (output->size + span->size > place->capacity) return false;
    memcpy(to + output->size, channel_worker_input(w->channel)->data + span->offset, span->size);
    output->size += span->size;
  }
  return true;
}

static void *work(void *context) {
  struct worker *w = context;
  while (channel_worker_wait(w->channel, 0, &w->job) == MU_OK) {
    w->done.result = CHANNEL_DONE;
    w->done.epoch = w->job.epoch;
    w->done.batch = w->job.batch;
    w->done.started_ns = w->done.input_ns = w->done.infer_ns = w->done.ended_ns = clock_now_ns();
    w->done.n_outputs = w->job.n_places;
    for (uint32_t i = 0; i < w->job.n_places; i++)
      if (!place_output(w, &w->job.places[i], &w->done.outputs[i])) return NULL;
    if (channel_worker_complete(w->channel, 0, &w->done) != MU_OK) return NULL;
  }
  return NULL;
}

static void worker_stop(struct worker *w) {
  if (w == NULL) return;
  channel_worker_close(w->channel);
  pthread_join(w->thread, NULL);
  channel_worker_free(w->channel);
  free(w->spans);
  free(w);
}

/* On what the gateway offers through socket. NULL: it offered nothing. */
static struct worker *worker_start(int socket) {
  struct worker *w = calloc(1, sizeof *w);
  mu_error err;
  assert_non_null(w);
  struct pollfd offered = {.fd = socket, .events = POLLIN};
  if (poll(&offered, 1, DEARTH_MS) == 0) { /* a gateway that lacks memory for a message reads it again and again */
    allocations_work();
    assert_int_equal(poll(&offered, 1, PATIENCE_MS), 1);
  }
  if (channel_worker_accept(socket, &w->channel, &err) != MU_OK) {
    close(socket);
    free(w);
    return NULL;
  }
  w->spans = w->job.spans = calloc(channel_worker_max_spans(w->channel), sizeof *w->spans);
  assert_non_null(w->spans);
  assert_int_equal(pthread_create(&w->thread, NULL, work, w), 0);
  return w;
}

/* ---- the supervisor
 * -------------------------------------------------------------------------------------------------------- */

struct world {
  pid_t gateway;
  int control;
  uint16_t port;
  uint32_t workers; /* attached so far */
  struct worker *worker;
  bool ready, attached;
};

static struct buffer options_bytes, metadata_bytes;
static const char config_text[] = "name: 'm' max_batch_size: 8";

/* What every gateway is told. */
static int describe(void **state) {
  static char x[] = "x", y[] = "y", batch[] = "N";
  const mu_tensor_info in = {.name = x, .dtype = MU_FP32, .rank = 2, .dims = {-1, ROW}, .symbols = {batch}};
  const mu_tensor_info out = {.name = y, .dtype = MU_FP32, .rank = 2, .dims = {-1, -1}, .symbols = {batch}};
  const mu_model_info info = {&in, 1, &out, 1, "engine 1.0", true, 0};
  struct options *options = NULL;
  struct model_config *config = NULL;
  struct model_metadata *metadata = NULL;
  mu_error err;
  char *flags[] = {"--config=", "--no-sandbox", "--input-arena=1MiB", "--output-arena=1MiB", "m.onnx"};
  buffer_init(&options_bytes, 1 << 20);
  buffer_init(&metadata_bytes, 1 << 20);
  assert_int_equal(options_load(5, flags, (char *[]){NULL}, &options, &err), MU_OK);
  assert_int_equal(options_encode(options, &options_bytes), MU_OK);
  assert_int_equal(model_config_parse(config_text, sizeof config_text - 1, "c", "m", &config, &err), MU_OK);
  assert_int_equal(model_metadata_create(config, &info, "sim", 8, &metadata, &err), MU_OK);
  assert_int_equal(model_metadata_encode(metadata, &metadata_bytes), MU_OK);
  options_free(options);
  model_config_free(config);
  model_metadata_free(metadata);
  return 0;
}

static int forget(void **state) {
  buffer_free(&options_bytes);
  buffer_free(&metadata_bytes);
  return 0;
}

static void say(struct world *w, enum control_type type, const void *message, const int *fds, size_t n_fds) {
  mu_error err;
  mu_status status = control_send(w->control, type, message, fds, n_fds, &err);
  assert_true(status == MU_OK || status == MU_CANCELED); /* a gateway may leave at its start */
}

static void set_model(struct world *w, enum model_state state) {
  const struct control_model_set message = {.model = 1,
                                            .name = "m",
                                            .version = 1,
                                            .folder = "",
                                            .config = {config_text, sizeof config_text - 1},
                                            .state = state,
                                            .reason = "",
                                            .listed = true,
                                            .batching = true,
                                            .max_queue_requests = 100,
                                            .max_queue_bytes = 1 << 20,
                                            .max_queue_delay_us = -1,
                                            .first_execution_ns = 60 * NS_PER_S};
  say(w, CONTROL_MODEL_SET, &message, NULL, 0);
}

/* A new worker in place of the one before. */
static void attach(struct world *w) {
  int ends[2];
  assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  const struct control_model_loaded loaded = {.model = 1, .metadata = {metadata_bytes.data, metadata_bytes.size}};
  const struct control_worker_attach message = {.worker = ++w->workers,
                                                .model = 1,
                                                .device_tokens = 4,
                                                .batch_tokens = 1,
                                                .lanes = 1,
                                                .epoch = w->workers,
                                                .device_name = "cpu",
                                                .gpu_uuid = "",
                                                .pid = 1};
  say(w, CONTROL_MODEL_LOADED, &loaded, NULL, 0);
  set_model(w, MODEL_READY);
  say(w, CONTROL_WORKER_ATTACH, &message, &ends[0], 1);
  close(ends[0]);
  w->attached = false;
  w->worker = worker_start(ends[1]);
}

/* Reads what the gateway says until `wanted` holds. false: the gateway has left. */
static bool listen_until(struct world *w, const bool *wanted) {
  while (!*wanted) {
    struct control_packet packet;
    struct pollfd there = {.fd = w->control, .events = POLLIN};
    mu_error err;
    if (poll(&there, 1, PATIENCE_MS) != 1) fail_msg("the gateway says nothing");
    if (control_receive(w->control, &packet, &err) != MU_OK) return false;
    enum control_type type = packet.type;
    uint32_t worker = type == CONTROL_WORKER_BROKEN || type == CONTROL_WORKER_ATTACHED ? packet.worker_event.worker : 0;
    control_packet_free(&packet);
    w->ready |= type == CONTROL_GATEWAY_READY;
    w->attached |= type == CONTROL_WORKER_ATTACHED && worker == w->workers;
    if (type != CONTROL_WORKER_BROKEN) continue;
    assert_true(allocation_has_failed());
    allocations_work(); /* what is broken stays so without memory: the supervisor kills it and starts another */
    worker_stop(w->worker);
    w->worker = NULL;
    const struct control_worker_gone gone = {.worker = worker, .epoch = worker, .why = "killed"};
    say(w, CONTROL_WORKER_GONE, &gone, NULL, 0);
    attach(w);
  }
  return true;
}

static void launch(struct world *w) {
  int sockets[2], listener;
  mu_error err;
  *w = (struct world){.gateway = 0};
  assert_int_equal(control_socket_pair(sockets, &err), MU_OK);
  assert_int_equal(listen_tcp("127.0.0.1", 0, 1, &listener, &w->port, &err), MU_OK);
  fflush(stdout);
  w->gateway = fork();
  if (w->gateway == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(sockets[0]);
    close(listener);
    allocations_fail_here(true);
    exit(gateway_main(sockets[1]));
  }
  close(sockets[1]);
  w->control = sockets[0];
  const struct control_gateway_start start = {.options = {options_bytes.data, options_bytes.size}, .n_http = 1};
  say(w, CONTROL_GATEWAY_START, &start, &listener, 1);
  close(listener);
  set_model(w, MODEL_LOADING);
  say(w, CONTROL_GATEWAY_LISTEN, NULL, NULL, 0);
}

/* false: it has left, without a crash. */
static bool finish(struct world *w, bool asked) {
  int status = 0;
  if (asked) say(w, CONTROL_DRAIN, &(struct control_drain){.deadline_ns = clock_now_ns() + 10 * NS_PER_S}, NULL, 0);
  static const bool never = false;
  listen_until(w, &never);
  assert_int_equal(waitpid(w->gateway, &status, 0), w->gateway);
  if (!WIFEXITED(status) || WEXITSTATUS(status) > 1) fail_msg("the gateway ended with %#x", status);
  close(w->control);
  worker_stop(w->worker);
  return WEXITSTATUS(status) == 0;
}

/* ---- clients
 * ------------------------------------------------------------------------------------------------------------------ */

#define POST(path, headers, body) "POST " path " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" headers "\r\n" body
#define GET(path) "GET " path " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
#define INPUT "{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[2,4],"
#define BINARY "\0\0\200?\0\0\0@\0\0@@\0\0\200@\0\0\240@\0\0\300@\0\0\340@\0\0\0A"

struct question {
  const char *text;
  size_t size;
  const char *answer; /* part of it */
};
#define QUESTION(text, answer) \
  { text, sizeof(text) - 1, answer }

static const struct question inferences[] = {
    QUESTION(POST("/v2/models/m/infer", "Content-Length: 87\r\n",
                  "{\"inputs\":[" INPUT "\"data\":[1,2,3,4,5,6,7,8]}]}     "),
             "\"data\":[1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0]"),
    QUESTION(POST("/v2/models/m/infer", "Content-Length: 168\r\nInference-Header-Content-Length: 136\r\n",
                  "{\"inputs\":[" INPUT
                  "\"parameters\":{\"binary_data_size\":32}}],\"parameters\":{\"binary_data_output\":true}} " BINARY),
             "\"binary_data_size\":32"),
    QUESTION(POST("/v2/models/m/infer", "Transfer-Encoding: chunked\r\nAccept-Encoding: gzip\r\n",
                  "52\r\n{\"inputs\":[" INPUT "\"data\":[1,2,3,4,5,6,7,8]}]}\r\n0\r\n\r\n"),
             "\"data\":[1.0,2.0"),
};
static const struct question documents[] = {
    QUESTION(GET("/v2"), "\"extensions\""),
    QUESTION(GET("/v2/models/m"), "\"datatype\":\"FP32\""),
    QUESTION(GET("/v2/models/m/config"), "\"max_batch_size\":8"),
    QUESTION(GET("/v2/models/m/stats"), "\"model_stats\""),
    QUESTION(POST("/v2/repository/index", "Content-Length: 2\r\n", "{}"), "\"READY\""),
    QUESTION(GET("/health"), "\"healthy\":true"),
    QUESTION(GET("/stats"), "\"total_requests\""),
    QUESTION(GET("/v2/models/none"), "unknown model"),
};
enum { N_INFERENCES = sizeof inferences / sizeof *inferences, N_DOCUMENTS = sizeof documents / sizeof *documents };

static char reply[1 << 16];

static int send_question(struct world *w, const struct question *question) {
  struct sockaddr_in name = {
      .sin_family = AF_INET, .sin_port = htons(w->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct timeval patience = {.tv_sec = PATIENCE_MS / 1000};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_int_equal(connect(fd, (struct sockaddr *)&name, sizeof name), 0);
  assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
  (void)!send(fd, question->text, question->size, MSG_NOSIGNAL);
  return fd;
}

/* Fills reply; false: the connection was closed without one. */
static bool read_reply(int fd, const struct question *question) {
  size_t size = 0;
  ssize_t n = 1;
  while (n > 0 && (n = recv(fd, reply + size, sizeof reply - 1 - size, 0)) > 0) size += (size_t)n;
  if (n < 0 && errno == EAGAIN) fail_msg("no answer to %.200s", question->text);
  close(fd);
  for (size_t i = 0; i < size; i++)
    if (reply[i] == '\0') reply[i] = ' '; /* binary data */
  reply[size] = '\0';
  return size > 0;
}

static bool ask(struct world *w, const struct question *question) {
  return read_reply(send_question(w, question), question);
}

/* The right answer, or a 503 where something has failed. true: the right one. */
static bool answered_well(bool answered, const struct question *question) {
  if (!answered) {
    assert_true(allocation_has_failed()); /* not even for the connection */
    return false;
  }
  if (strncmp(reply, "HTTP/1.1 503 ", 13) == 0 && allocation_has_failed()) {
    assert_non_null(strstr(reply, "\"error\":"));
    return false;
  }
  if (strstr(reply, question->answer) == NULL) fail_msg("%s\nis the answer to\n%s", reply, question->text);
  return true;
}

static bool asked_well(struct world *w, const struct question *question) {
  return answered_well(ask(w, question), question);
}

static void all_is_well(struct world *w) {
  for (int i = 0; i < N_INFERENCES + N_DOCUMENTS; i++) {
    const struct question *question = i < N_INFERENCES ? &inferences[i] : &documents[i - N_INFERENCES];
    if (!ask(w, question)) fail_msg("closed without an answer to %s", question->text);
    if (strstr(reply, question->answer) == NULL) fail_msg("%s\nis the answer to\n%s", reply, question->text);
  }
}

/* ---- shared memory of clients
 * ------------------------------------------------------------------------------------------------ */

#define SHARED "\"parameters\":{\"shared_memory_region\":\"r\",\"shared_memory_byte_size\":32"
static const struct question register_question = QUESTION(
    POST("/v2/systemsharedmemory/region/r/register", "Content-Length: 29\r\n", "{\"key\":\"/k\", \"byte_size\": 64}"),
    "HTTP/1.1 200 ");
static const struct question unregister_question =
    QUESTION(POST("/v2/systemsharedmemory/unregister", "Content-Length: 0\r\n", ""), "HTTP/1.1 200 ");
static const struct question no_region = QUESTION(GET("/v2/systemsharedmemory/status"), "\r\n\r\n[]");
static const struct question one_region = QUESTION(GET("/v2/systemsharedmemory/status"), "[{\"name\":\"r\"");
static const struct question shared_inference = QUESTION(
    POST("/v2/models/m/infer", "Content-Length: 250\r\n",
         "{\"inputs\":[" INPUT SHARED "}}],\"outputs\":[{\"name\":\"y\"," SHARED ",\"shared_memory_offset\":32}}]}"),
    "\"outputs\":[{\"name\":\"y\",\"datatype\":\"FP32\",\"shape\":[2,4]}]");

static void set_region(struct world *w) {
  int fd = memfd_create("client", MFD_CLOEXEC);
  assert_int_equal(ftruncate(fd, 64), 0);
  const struct control_region_set message = {"r", "/k", 0, 64, true};
  say(w, CONTROL_REGION_SET, &message, &fd, 1);
  close(fd);
}

/* What the supervisor does. */
static void change_regions(struct world *w) {
  struct control_packet packet;
  mu_error err;
  struct control_region_changed changed = {.status = MU_OK};
  assert_int_equal(control_receive(w->control, &packet, &err), MU_OK);
  enum control_type type = packet.type;
  changed.serial = type == CONTROL_REGION_REGISTER ? packet.region_register.serial : packet.region_unregister.serial;
  control_packet_free(&packet);
  if (type == CONTROL_REGION_REGISTER) set_region(w);
  if (type == CONTROL_REGION_UNREGISTER) say(w, CONTROL_REGION_REMOVE, &(struct control_region_remove){"r"}, NULL, 0);
  if (type == CONTROL_REGION_REGISTER || type == CONTROL_REGION_UNREGISTER)
    say(w, CONTROL_REGION_CHANGED, &changed, NULL, 0);
}

static bool ask_supervised(struct world *w, const struct question *question) {
  struct pollfd there[] = {{.fd = send_question(w, question), .events = POLLIN}, {.fd = w->control, .events = POLLIN}};
  while (there[0].revents == 0) {
    if (poll(there, 2, DEARTH_MS) == 0) { /* as above: it reads the answer when there is memory */
      allocations_work();
      if (poll(there, 2, PATIENCE_MS) <= 0) fail_msg("no answer to %.200s", question->text);
    }
    if (there[1].revents != 0) change_regions(w);
  }
  return read_reply(there[0].fd, question);
}

/* Registers, uses and unregisters a region. */
static mu_status use_region(void *context) {
  struct world *w = context;
  allocations_fail_here(false);
  bool there = answered_well(ask_supervised(w, &register_question), &register_question);
  bool well = there && asked_well(w, &one_region) && asked_well(w, &shared_inference);
  well &= answered_well(ask_supervised(w, &unregister_question), &unregister_question);
  allocations_work();
  assert_true(ask_supervised(w, &unregister_question) && strstr(reply, "200 OK") != NULL);
  assert_true(ask(w, &no_region) && strstr(reply, no_region.answer) != NULL);
  allocations_fail_here(true);
  return well ? MU_OK : MU_NO_MEMORY;
}

/* ---- GPUs
 * ------------------------------------------------------------------------------------------------------------- */

static const struct question health = QUESTION(GET("/health"), "\"gpus\":[{");
static const struct question gpu_documents[] = {
    QUESTION(GET("/health"), "\"gpus\":[{"),
    QUESTION(GET("/metrics"), "muster_gpu_xid_total{gpu_uuid=\"GPU-a\",xid=\"13\"} 2"),
};

/* Until it has taken what it was told. */
static void await_mark(struct world *w) {
  const struct control_mark mark = {.serial = 1};
  say(w, CONTROL_MARK, &mark, NULL, 0);
  for (bool marked = false; !marked;) {
    struct control_packet packet;
    struct pollfd there = {.fd = w->control, .events = POLLIN};
    mu_error err;
    if (poll(&there, 1, DEARTH_MS) == 0) { /* as above */
      allocations_work();
      if (poll(&there, 1, PATIENCE_MS) != 1) fail_msg("the gateway says nothing");
    }
    assert_int_equal(control_receive(w->control, &packet, &err), MU_OK);
    marked = packet.type == CONTROL_MARKED;
    control_packet_free(&packet);
  }
}

static void set_gpus(struct world *w, uint64_t xids) {
  static const char inventory[] = "{\"driver\":\"550\",\"cuda\":null,\"error\":\"\",\"gpus\":[],\"processes\":[]}";
  char state[512];
  int size =
      snprintf(state, sizeof state,
               "{\"fleet\":{\"state\":\"answering\",\"restarts\":0,\"stalls\":0,\"error\":\"\"},\"gpus\":[{\"uuid\":"
               "\"GPU-a\",\"index\":0,\"healthy\":true,\"present\":true,\"state\":\"serving\",\"xids\":{\"13\":%u}}]}",
               (unsigned)xids);
  const struct control_gpus message = {{inventory, sizeof inventory - 1}, {state, (size_t)size}};
  say(w, CONTROL_GPUS, &message, NULL, 0);
  await_mark(w);
}

/* Without memory what was known before holds. */
static mu_status take_gpus(void *context) {
  struct world *w = context;
  allocations_fail_here(false);
  set_gpus(w, 1);
  allocations_work();
  bool failed = allocation_has_failed();
  assert_true(ask(w, &health) && strstr(reply, health.answer) != NULL);
  set_gpus(w, 2);
  assert_true(ask(w, &gpu_documents[1]) && strstr(reply, gpu_documents[1].answer) != NULL);
  allocations_fail_here(true);
  return failed ? MU_NO_MEMORY : MU_OK;
}

/* ---- gRPC ---------------------------------------------------------------------------------------------------------
 */

#define INFER "\n\1m*\15\n\1x\22\4FP32\32\2\2\4:\40" BINARY
#define TYPED "\n\1m*1\n\1x\22\4FP32\32\2\2\4*\42\62\40" BINARY
#define ROWS "  \200?   @  @@  \200@" /* NUL is a space, as in read_reply */
#define METHOD(name) "/inference.GRPCInferenceService/" name
#define MESSAGE(text) text, sizeof(text) - 1

static const struct grpc_question {
  const char *path, *message;
  size_t size;
  uint32_t times; /* so many messages */
  size_t piece;   /* bytes of a frame; 0: whole messages */
  const char *answer;
} grpc_questions[] = {
    {METHOD("ModelInfer"), MESSAGE(INFER), 1, 0, ROWS},
    {METHOD("ModelInfer"), MESSAGE(INFER), 1, 9, ROWS},
    {METHOD("ModelInfer"), MESSAGE(TYPED), 1, 9, ROWS},
    {METHOD("ModelStreamInfer"), MESSAGE(INFER), 3, 0, ROWS},
    {METHOD("ModelStreamInfer"), MESSAGE(INFER), 2, 9, ROWS},
    {METHOD("ModelStreamInfer"), MESSAGE("\n\4none"), 2, 0, "unknown model"},
    {METHOD("ModelMetadata"), MESSAGE("\n\1m"), 1, 0, "FP32"},
    {METHOD("ModelConfig"), MESSAGE("\n\1m"), 1, 0, "\n\1m"},
    {METHOD("ModelStatistics"), MESSAGE("\n\1m"), 1, 0, "\n\1m"},
    {METHOD("RepositoryIndex"), MESSAGE(""), 1, 0, "READY"},
    {METHOD("TraceSetting"), MESSAGE(""), 1, 0, "trace_level"},
    {METHOD("LogSettings"), MESSAGE(""), 1, 0, "log_verbose_level"},
    {METHOD("SystemSharedMemoryStatus"), MESSAGE(""), 1, 0, "     "}, /* a message without anything */
    {"/grpc.health.v1.Health/Check", MESSAGE("\n\1m"), 1, 0, "\b\1"},
    {"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", MESSAGE(":\0"), 2, 0, "ServerReflection"},
};
enum { N_GRPC = sizeof grpc_questions / sizeof *grpc_questions };

static void put_frame(struct buffer *out, uint8_t type, uint8_t flags, uint8_t stream, const void *payload,
                      size_t size) {
  const uint8_t head[9] = {0, (uint8_t)(size >> 8), (uint8_t)size, type, flags, 0, 0, 0, stream};
  buffer_append(out, head, sizeof head);
  buffer_append(out, payload, size);
}

/* All of the connection: the call, and that no other follows, so that the server closes behind the answer. */
static void put_call(struct buffer *out, const struct grpc_question *question) {
  static const char beginning[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                    rest[] = "\101\1h\0\14content-type\20application/grpc\0\2te\10trailers";
  char head[256];
  uint8_t data[512];
  size_t n = 0;
  int size = snprintf(head, sizeof head, "\203\206%c\5:path%c%s", 1, (int)strlen(question->path), question->path);
  head[2] = '\0';
  memcpy(head + size, rest, sizeof rest - 1);
  for (uint32_t i = 0; i < question->times; i++) {
    const uint8_t prefix[5] = {0, 0, 0, 0, (uint8_t)question->size};
    memcpy(data + n, prefix, sizeof prefix);
    memcpy(data + n + sizeof prefix, question->message, question->size);
    n += sizeof prefix + question->size;
  }
  buffer_append(out, beginning, sizeof beginning - 1);
  put_frame(out, 4, 0, 0, "", 0);
  put_frame(out, 1, 4, 1, head, (size_t)size + sizeof rest - 1);
  size_t piece = question->piece > 0 ? question->piece : n;
  for (size_t at = 0; at < n; at += piece)
    put_frame(out, 0, at + piece >= n, 1, data + at, n - at < piece ? n - at : piece);
  put_frame(out, 7, 0, 0, "\0\0\0\0\0\0\0", 8);
}

/* true: as often answered as asked. Otherwise it has been told so somehow; the client library's words are tested
 * elsewhere. */
static bool asked_grpc_well(struct world *w, const struct grpc_question *question) {
  struct buffer text;
  buffer_init(&text, 4096);
  put_call(&text, question);
  const struct question as = {text.data, text.size, question->answer};
  bool answered = ask(w, &as);
  buffer_free(&text);
  const char *at = reply;
  uint32_t n = 0;
  while (answered && (at = strstr(at, question->answer)) != NULL) {
    at += strlen(question->answer);
    n++;
  }
  if (n >= question->times) return true;
  if (!allocation_has_failed()) fail_msg("%u answers by %s: %s", n, question->path, answered ? reply : "");
  return false;
}

static mu_status ask_grpc(void *context) {
  void *const *both = context;
  allocations_fail_here(false);
  bool well = asked_grpc_well(both[0], both[1]);
  allocations_work();
  assert_true(asked_grpc_well(both[0], both[1]));
  allocations_fail_here(true);
  return well ? MU_OK : MU_NO_MEMORY;
}

/* ---- scenarios
 * ----------------------------------------------------------------------------------------------------------------- */

/* From exec to the first worker. A gateway may leave in its start, then the supervisor starts another. */
static mu_status start(void *context) {
  struct world w;
  allocations_fail_here(false);
  launch(&w);
  attach(&w);
  if (!allocation_has_failed()) (void)listen_until(&w, &w.ready);
  allocations_work();
  bool alive = listen_until(&w, &w.ready) && listen_until(&w, &w.attached);
  if (alive) all_is_well(&w);
  finish(&w, alive);
  allocations_fail_here(true);
  return alive ? MU_OK : MU_NO_MEMORY;
}

/* Its first requests: everything that later ones find ready has to be made. */
static mu_status first_requests(void *context) {
  struct world w;
  bool well = true;
  allocations_fail_here(false);
  allocations_work();
  launch(&w);
  attach(&w);
  assert_true(listen_until(&w, &w.ready) && listen_until(&w, &w.attached));
  allocations_fail();
  for (int i = 0; i < N_INFERENCES; i++) well &= asked_well(&w, &inferences[i]);
  allocations_work();
  all_is_well(&w);
  assert_true(finish(&w, true));
  allocations_fail_here(true);
  return well ? MU_OK : MU_NO_MEMORY;
}

struct asking {
  struct world *world;
  const struct question *question;
};

static mu_status ask_document(void *context) {
  const struct asking *asking = context;
  allocations_fail_here(false);
  bool well = asked_well(asking->world, asking->question);
  allocations_work();
  allocations_fail_here(true);
  return well ? MU_OK : MU_NO_MEMORY;
}

static void test_start(void **state) { fail_each_allocation("gateway start", start, NULL); }
static void test_requests(void **state) { fail_each_allocation("first requests", first_requests, NULL); }

/* In one gateway, which goes on. */
static void test_documents(void **state) {
  struct world w;
  allocations_fail_here(false);
  launch(&w);
  attach(&w);
  assert_true(listen_until(&w, &w.ready) && listen_until(&w, &w.attached));
  for (int i = 0; i < N_DOCUMENTS; i++)
    fail_each_allocation(documents[i].answer, ask_document, &(struct asking){&w, &documents[i]});
  all_is_well(&w);
  assert_true(finish(&w, true));
  allocations_fail_here(true);
}

static void test_regions(void **state) {
  struct world w;
  allocations_fail_here(false);
  launch(&w);
  attach(&w);
  assert_true(listen_until(&w, &w.ready) && listen_until(&w, &w.attached));
  fail_each_allocation("regions", use_region, &w);
  all_is_well(&w);
  assert_true(finish(&w, true));
  allocations_fail_here(true);
}

static void test_gpus(void **state) {
  struct world w;
  allocations_fail_here(false);
  launch(&w);
  attach(&w);
  assert_true(listen_until(&w, &w.ready) && listen_until(&w, &w.attached));
  set_gpus(&w, 2);
  fail_each_allocation("GPUs", take_gpus, &w);
  for (size_t i = 0; i < sizeof gpu_documents / sizeof *gpu_documents; i++)
    fail_each_allocation(gpu_documents[i].answer, ask_document, &(struct asking){&w, &gpu_documents[i]});
  assert_true(finish(&w, true));
  allocations_fail_here(true);
}

static void test_grpc(void **state) {
  struct world w;
  allocations_fail_here(false);
  launch(&w);
  attach(&w);
  assert_true(listen_until(&w, &w.ready) && listen_until(&w, &w.attached));
  for (int i = 0; i < N_GRPC; i++)
    fail_each_allocation(grpc_questions[i].path, ask_grpc, (void *[]){&w, (void *)(uintptr_t)&grpc_questions[i]});
  all_is_well(&w);
  assert_true(finish(&w, true));
  allocations_fail_here(true);
}

int main(void) {
  log_setup("gateway", LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_requests),  cmocka_unit_test(test_start),
                                     cmocka_unit_test(test_documents), cmocka_unit_test(test_regions),
                                     cmocka_unit_test(test_grpc),      cmocka_unit_test(test_gpus)};
  return cmocka_run_group_tests(tests, describe, forget);
}
