#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/message.h"

#define BYTES(text) ((struct control_bytes){text, sizeof(text) - 1})

/* One message of every type, no two fields alike. */
static const struct control_gateway_start gateway_start = {BYTES("a\0b"), 4, 3, 1};
static const struct control_model_set model_set = {
    .model = 7,
    .listed = true,
    .name = "magika",
    .version = -3,
    .folder = "/models/magika",
    .config = BYTES("max_batch_size: 4"),
    .state = 1,
    .reason = "loading",
    .batching = true,
    .round_robin = true,
    .max_queue_requests = 1000,
    .max_queue_bytes = UINT64_C(1) << 40,
    .max_queue_delay_us = -1,
    .max_batch_wait_ns = UINT64_MAX - 28,
    .max_execution_ns = UINT64_MAX - 29,
    .first_execution_ns = UINT64_MAX - 30,
};
static const struct control_model_number model_number = {31};
static const struct control_worker_retire worker_retire = {32, UINT64_MAX - 33};
static const struct control_mark mark = {UINT64_MAX - 34};
static const struct control_trace_open trace_open = {true};
static const struct control_trace_file trace_file = {true, "no space left"};
static const struct control_log_settings log_settings = {true, false, true, false, 77};
static const struct control_options options = {BYTES("MUO1\0")};
static const struct control_model_loaded model_loaded = {8, BYTES("\1\2\3\0"), true, 3};
static const struct control_worker_attach worker_attach = {9, 10, 11, 12, 13, 14, UINT64_MAX, "cpu", "GPU-a", -15, 29};
static const struct control_worker_gone worker_gone = {16, 17, true, "killed by signal 11 (Segmentation fault)"};
static const struct control_drain drain = {18, 19};
static const struct control_hand_over hand_over = {28};
static const struct control_connection connection = {true};
static const struct control_worker_event worker_event = {20, 21, "batch 5 ran for 61 s"};
static const struct control_worker_start worker_start = {
    22,      23, "ocr", INT64_MIN, "/m/ocr.onnx", "",   BYTES(""), BYTES("o"), "onnxruntime",
    "gpu:0", 24, 25,    26,        "0-7,16",      true, true,      NULL};
static const struct control_worker_peer worker_peer = {27};
static const struct control_mps_start mps_start = {"nvidia-cuda-mps-control", "GPU-1", 44};
static const struct control_mps_query mps_query = {UINT64_MAX - 45};
static const struct control_mps_terminate mps_terminate = {46};
static const struct control_mps_report mps_report = {47, true, 48, "/tmp/muster-mps-2", 100, "", BYTES("[]")};
static const struct control_failed failed = {MU_NOT_FOUND, "no such file"};
static const struct control_region_register region_register = {35, "r", "/k", UINT64_MAX - 36, 37};
static const struct control_region_unregister region_unregister = {38, ""};
static const struct control_region_set region_set = {"s", "k", 39, UINT64_MAX - 40, true};
static const struct control_region_remove region_remove = {"t"};
static const struct control_region_changed region_changed = {41, MU_EXISTS, "there"};
static const struct control_loaded loaded = {BYTES("metadata")};
static const struct control_worker_backends worker_backends = {BYTES("[]")};

static const struct control_model_load model_load = {UINT64_MAX - 35, "ocr", BYTES("{\"name\": \"ocr\"}"),
                                                     BYTES("\1\0\0\0\0\0\0\0")};
static const struct control_model_unload model_unload = {36, "ocr"};
static const struct control_model_index model_index = {37};
static const struct control_model_note model_note = {"ocr", 38, true, "unloaded"};
static const struct control_model_control_done model_control_done = {39, MU_INVALID, "no"};
static const struct control_fleet_start fleet_start = {BYTES("options")};
static const struct control_fleet_inventory fleet_inventory = {MU_NOT_FOUND, BYTES("{}")};
static const struct control_fleet_alive fleet_alive = {40, "nvmlInit", true};
static const struct control_fleet_event fleet_event = {"GPU-1", 79};
static const struct control_gpus gpus = {BYTES(""), BYTES("{}")};

static const struct sample {
  enum control_type type;
  const void *message;
  size_t n_fds;
} samples[] = {
    {CONTROL_GATEWAY_START, &gateway_start, 5},
    {CONTROL_MODEL_SET, &model_set, 0},
    {CONTROL_MODEL_LOADED, &model_loaded, 0},
    {CONTROL_MODEL_REMOVE, &model_number, 0},
    {CONTROL_WORKER_ATTACH, &worker_attach, 1},
    {CONTROL_WORKER_RETIRE, &worker_retire, 0},
    {CONTROL_WORKER_GONE, &worker_gone, 0},
    {CONTROL_MARK, &mark, 0},
    {CONTROL_GATEWAY_LISTEN, NULL, 1},
    {CONTROL_HAND_OVER, &hand_over, 1},
    {CONTROL_CONNECTION, &connection, 1},
    {CONTROL_DRAIN, &drain, 0},
    {CONTROL_GATEWAY_READY, NULL, 0},
    {CONTROL_WORKER_ATTACHED, &worker_event, 0},
    {CONTROL_WORKER_HUNG, &worker_event, 0},
    {CONTROL_WORKER_BROKEN, &worker_event, 0},
    {CONTROL_WORKER_RETIRED, &worker_event, 0},
    {CONTROL_MODEL_REMOVED, &model_number, 0},
    {CONTROL_MARKED, &mark, 0},
    {CONTROL_DRAINED, NULL, 0},
    {CONTROL_REGION_REGISTER, &region_register, 0},
    {CONTROL_REGION_UNREGISTER, &region_unregister, 0},
    {CONTROL_REGION_SET, &region_set, 1},
    {CONTROL_REGION_REMOVE, &region_remove, 0},
    {CONTROL_REGION_CHANGED, &region_changed, 0},
    {CONTROL_WORKER_START, &worker_start, 1},
    {CONTROL_WORKER_PEER, &worker_peer, 1},
    {CONTROL_STOP, NULL, 0},
    {CONTROL_OPTIONS, &options, 0},
    {CONTROL_LOG_SETTINGS, &log_settings, 0},
    {CONTROL_TRACE_OPEN, &trace_open, 0},
    {CONTROL_TRACE_FILE, &trace_file, 1},
    {CONTROL_LOADED, &loaded, 0},
    {CONTROL_WORKER_BACKENDS, &worker_backends, 0},
    {CONTROL_READY, NULL, 0},
    {CONTROL_FAILED, &failed, 0},
    {CONTROL_MPS_START, &mps_start, 0},
    {CONTROL_MPS_QUERY, &mps_query, 0},
    {CONTROL_MPS_TERMINATE, &mps_terminate, 0},
    {CONTROL_MPS_REPORT, &mps_report, 0},
    {CONTROL_MPS_TERMINATED, &mps_terminate, 0},
    {CONTROL_MODEL_LOAD, &model_load, 1},
    {CONTROL_MODEL_UNLOAD, &model_unload, 0},
    {CONTROL_MODEL_INDEX, &model_index, 0},
    {CONTROL_MODEL_NOTE, &model_note, 0},
    {CONTROL_MODEL_CONTROL_DONE, &model_control_done, 0},
    {CONTROL_FLEET_START, &fleet_start, 0},
    {CONTROL_FLEET_INVENTORY, &fleet_inventory, 0},
    {CONTROL_FLEET_ALIVE, &fleet_alive, 0},
    {CONTROL_FLEET_EVENT, &fleet_event, 0},
    {CONTROL_GPUS, &gpus, 0},
};
enum { N_SAMPLES = sizeof samples / sizeof samples[0] };
_Static_assert(N_SAMPLES == CONTROL_TYPE_COUNT - 1, "a sample of every type");

static struct buffer encode(const struct sample *sample) {
  struct buffer out;
  buffer_init(&out, CONTROL_PACKET_MAX);
  assert_int_equal(control_encode(sample->type, sample->message, &out), MU_OK);
  return out;
}

static void assert_bytes_equal(struct control_bytes a, struct control_bytes b) {
  assert_int_equal(a.size, b.size);
  assert_memory_equal(a.data, b.data, a.size);
}

static void assert_event(const struct control_worker_event *event) {
  assert_int_equal(event->worker, worker_event.worker);
  assert_true(event->epoch == worker_event.epoch);
  assert_string_equal(event->why, worker_event.why);
}

static void assert_model_set(const struct control_model_set *m) {
  assert_int_equal(m->model, model_set.model);
  assert_string_equal(m->name, model_set.name);
  assert_true(m->version == model_set.version);
  assert_string_equal(m->folder, model_set.folder);
  assert_bytes_equal(m->config, model_set.config);
  assert_int_equal(m->state, model_set.state);
  assert_string_equal(m->reason, model_set.reason);
  assert_true(m->listed == model_set.listed && m->batching == model_set.batching);
  assert_true(m->round_robin == model_set.round_robin);
  assert_int_equal(m->max_queue_requests, model_set.max_queue_requests);
  assert_true(m->max_queue_bytes == model_set.max_queue_bytes);
  assert_true(m->max_queue_delay_us == model_set.max_queue_delay_us);
  assert_true(m->max_batch_wait_ns == model_set.max_batch_wait_ns);
  assert_true(m->max_execution_ns == model_set.max_execution_ns);
  assert_true(m->first_execution_ns == model_set.first_execution_ns);
}

static void assert_worker_attach(const struct control_worker_attach *m) {
  assert_int_equal(m->worker, worker_attach.worker);
  assert_int_equal(m->model, worker_attach.model);
  assert_int_equal(m->device, worker_attach.device);
  assert_int_equal(m->device_tokens, worker_attach.device_tokens);
  assert_int_equal(m->batch_tokens, worker_attach.batch_tokens);
  assert_int_equal(m->lanes, worker_attach.lanes);
  assert_true(m->epoch == worker_attach.epoch);
  assert_true(m->load_ns == worker_attach.load_ns);
  assert_string_equal(m->device_name, worker_attach.device_name);
  assert_string_equal(m->gpu_uuid, worker_attach.gpu_uuid);
  assert_int_equal(m->pid, worker_attach.pid);
}

static void assert_worker_start(const struct control_worker_start *m) {
  assert_int_equal(m->worker, worker_start.worker);
  assert_int_equal(m->model, worker_start.model);
  assert_string_equal(m->name, worker_start.name);
  assert_true(m->version == worker_start.version);
  assert_string_equal(m->path, worker_start.path);
  assert_string_equal(m->folder, worker_start.folder);
  assert_bytes_equal(m->config, worker_start.config);
  assert_bytes_equal(m->options, worker_start.options);
  assert_string_equal(m->engine, worker_start.engine);
  assert_string_equal(m->device, worker_start.device);
  assert_int_equal(m->threads, worker_start.threads);
  assert_int_equal(m->instances, worker_start.instances);
  assert_int_equal(m->max_batch, worker_start.max_batch);
  assert_string_equal(m->cores, worker_start.cores);
}

/* Every field of every message comes back as it was. */
static void assert_sample(const struct control_packet *packet) {
  switch (packet->type) {
    case CONTROL_GATEWAY_START:
      assert_bytes_equal(packet->gateway_start.options, gateway_start.options);
      assert_int_equal(packet->gateway_start.n_http, gateway_start.n_http);
      assert_int_equal(packet->gateway_start.n_grpc, gateway_start.n_grpc);
      assert_int_equal(packet->gateway_start.n_metrics, gateway_start.n_metrics);
      break;
    case CONTROL_MODEL_SET:
      assert_model_set(&packet->model_set);
      break;
    case CONTROL_MODEL_LOADED:
      assert_int_equal(packet->model_loaded.model, model_loaded.model);
      assert_bytes_equal(packet->model_loaded.metadata, model_loaded.metadata);
      assert_int_equal(packet->model_loaded.was_ready, model_loaded.was_ready);
      assert_int_equal(packet->model_loaded.batch_tokens, model_loaded.batch_tokens);
      break;
    case CONTROL_WORKER_ATTACH:
      assert_worker_attach(&packet->worker_attach);
      break;
    case CONTROL_WORKER_GONE:
      assert_int_equal(packet->worker_gone.worker, worker_gone.worker);
      assert_true(packet->worker_gone.epoch == worker_gone.epoch);
      assert_true(packet->worker_gone.blamed);
      assert_string_equal(packet->worker_gone.why, worker_gone.why);
      break;
    case CONTROL_MODEL_REMOVE:
    case CONTROL_MODEL_REMOVED:
      assert_int_equal(packet->model_number.model, model_number.model);
      break;
    case CONTROL_WORKER_RETIRE:
      assert_int_equal(packet->worker_retire.worker, worker_retire.worker);
      assert_true(packet->worker_retire.epoch == worker_retire.epoch);
      break;
    case CONTROL_MARK:
    case CONTROL_MARKED:
      assert_true(packet->mark.serial == mark.serial);
      break;
    case CONTROL_TRACE_OPEN:
      assert_true(packet->trace_open.numbered);
      break;
    case CONTROL_TRACE_FILE:
      assert_true(packet->trace_file.numbered);
      assert_string_equal(packet->trace_file.error, trace_file.error);
      break;
    case CONTROL_LOG_SETTINGS:
      assert_true(packet->log_settings.error && packet->log_settings.info);
      assert_false(packet->log_settings.warning || packet->log_settings.iso8601);
      assert_int_equal(packet->log_settings.verbose_level, 77);
      break;
    case CONTROL_OPTIONS:
      assert_bytes_equal(packet->options.options, options.options);
      break;
    case CONTROL_DRAIN:
      assert_true(packet->drain.drain_delay_ns == drain.drain_delay_ns);
      assert_true(packet->drain.deadline_ns == drain.deadline_ns);
      break;
    case CONTROL_HAND_OVER:
      assert_true(packet->hand_over.deadline_ns == hand_over.deadline_ns);
      break;
    case CONTROL_CONNECTION:
      assert_true(packet->connection.metrics);
      break;
    case CONTROL_WORKER_ATTACHED:
    case CONTROL_WORKER_HUNG:
    case CONTROL_WORKER_BROKEN:
    case CONTROL_WORKER_RETIRED:
      assert_event(&packet->worker_event);
      break;
    case CONTROL_WORKER_START:
      assert_worker_start(&packet->worker_start);
      break;
    case CONTROL_WORKER_PEER:
      assert_true(packet->worker_peer.epoch == worker_peer.epoch);
      break;
    case CONTROL_LOADED:
      assert_bytes_equal(packet->loaded.metadata, loaded.metadata);
      break;
    case CONTROL_MPS_START:
      assert_string_equal(packet->mps_start.binary, mps_start.binary);
      assert_string_equal(packet->mps_start.uuid, mps_start.uuid);
      assert_true(packet->mps_start.timeout_ns == mps_start.timeout_ns);
      break;
    case CONTROL_MPS_QUERY:
      assert_true(packet->mps_query.serial == mps_query.serial);
      break;
    case CONTROL_MPS_TERMINATE:
    case CONTROL_MPS_TERMINATED:
      assert_int_equal(packet->mps_terminate.client, mps_terminate.client);
      break;
    case CONTROL_MPS_REPORT:
      assert_true(packet->mps_report.serial == mps_report.serial && packet->mps_report.answering);
      assert_true(packet->mps_report.daemon == mps_report.daemon && packet->mps_report.percentage == 100);
      assert_string_equal(packet->mps_report.folder, mps_report.folder);
      assert_string_equal(packet->mps_report.error, "");
      assert_bytes_equal(packet->mps_report.servers, mps_report.servers);
      break;
    case CONTROL_FAILED:
      assert_int_equal(packet->failed.status, failed.status);
      assert_string_equal(packet->failed.message, failed.message);
      break;
    case CONTROL_MODEL_LOAD:
      assert_true(packet->model_load.serial == model_load.serial);
      assert_string_equal(packet->model_load.name, model_load.name);
      assert_bytes_equal(packet->model_load.config, model_load.config);
      assert_bytes_equal(packet->model_load.versions, model_load.versions);
      break;
    case CONTROL_MODEL_UNLOAD:
      assert_true(packet->model_unload.serial == model_unload.serial);
      assert_string_equal(packet->model_unload.name, model_unload.name);
      break;
    case CONTROL_MODEL_INDEX:
      assert_true(packet->model_index.serial == model_index.serial);
      break;
    case CONTROL_MODEL_NOTE:
      assert_string_equal(packet->model_note.name, model_note.name);
      assert_true(packet->model_note.version == model_note.version && packet->model_note.kept);
      assert_string_equal(packet->model_note.reason, model_note.reason);
      break;
    case CONTROL_MODEL_CONTROL_DONE:
      assert_true(packet->model_control_done.serial == model_control_done.serial);
      assert_int_equal(packet->model_control_done.status, model_control_done.status);
      assert_string_equal(packet->model_control_done.text, model_control_done.text);
      break;
    default: /* the types without fields */
      break;
  }
}

static void every_type_comes_back(void **state) {
  for (size_t i = 0; i < N_SAMPLES; i++) {
    struct buffer out = encode(&samples[i]);
    struct control_packet packet;
    assert_int_equal(control_decode(out.data, out.size, &packet), MU_OK);
    assert_int_equal(packet.type, samples[i].type);
    assert_int_equal(packet.n_fds, 0);
    assert_sample(&packet);
    control_packet_free(&packet);
    buffer_free(&out);
  }
}

static void messages_follow_one_another_in_a_buffer(void **state) {
  struct buffer out;
  buffer_init(&out, CONTROL_PACKET_MAX);
  assert_int_equal(buffer_puts(&out, "before"), MU_OK);
  assert_int_equal(control_encode(CONTROL_DRAIN, &drain, &out), MU_OK);
  struct control_packet packet;
  assert_int_equal(control_decode(out.data + 6, out.size - 6, &packet), MU_OK);
  assert_sample(&packet);
  control_packet_free(&packet);
  buffer_free(&out);
}

static void a_null_string_is_an_empty_one(void **state) {
  struct sample sample = {CONTROL_FAILED, &(struct control_failed){MU_IO, NULL}, 0};
  struct buffer out = encode(&sample);
  struct control_packet packet;
  assert_int_equal(control_decode(out.data, out.size, &packet), MU_OK);
  assert_string_equal(packet.failed.message, "");
  control_packet_free(&packet);
  buffer_free(&out);
}

static void short_and_long_packets_are_invalid(void **state) {
  for (size_t i = 0; i < N_SAMPLES; i++) {
    struct buffer out = encode(&samples[i]);
    struct control_packet packet = {.n_fds = 99};
    for (size_t size = 0; size < out.size; size++) {
      /* memory of exactly that size, so that a read past it is seen */
      char *cut = malloc(size + 1);
      memcpy(cut + 1, out.data, size);
      assert_int_equal(control_decode(cut + 1, size, &packet), MU_INVALID);
      free(cut);
    }
    assert_int_equal(buffer_putc(&out, '\0'), MU_OK);
    assert_int_equal(control_decode(out.data, out.size, &packet), MU_INVALID);
    assert_int_equal(packet.n_fds, 99); /* untouched on failure */
    buffer_free(&out);
  }
}

static void headers_are_checked(void **state) {
  struct control_packet packet;
  static const uint16_t wrong[][2] = {{CONTROL_VERSION + 1, CONTROL_STOP},
                                      {0, CONTROL_STOP},
                                      {CONTROL_VERSION, 0},
                                      {CONTROL_VERSION, CONTROL_TYPE_COUNT},
                                      {CONTROL_VERSION, UINT16_MAX}};
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
    assert_int_equal(control_decode(wrong[i], sizeof wrong[i], &packet), MU_INVALID);
}

static void strings_without_end_or_with_two_are_invalid(void **state) {
  struct sample sample = {CONTROL_FAILED, &(struct control_failed){MU_IO, "abc"}, 0};
  struct buffer out = encode(&sample);
  struct control_packet packet;
  out.data[out.size - 1] = 'x';
  assert_int_equal(control_decode(out.data, out.size, &packet), MU_INVALID);
  out.data[out.size - 1] = '\0';
  out.data[out.size - 3] = '\0';
  assert_int_equal(control_decode(out.data, out.size, &packet), MU_INVALID);
  buffer_free(&out);
}

static void a_bool_is_0_or_1(void **state) {
  struct sample sample = {CONTROL_WORKER_GONE, &worker_gone, 0};
  struct buffer out = encode(&sample);
  size_t blamed = 4 + 4 + 8;
  assert_int_equal(out.data[blamed], 1);
  out.data[blamed] = 2;
  struct control_packet packet;
  assert_int_equal(control_decode(out.data, out.size, &packet), MU_INVALID);
  buffer_free(&out);
}

static void wrong_messages_are_not_encoded(void **state) {
  struct buffer out;
  buffer_init(&out, SIZE_MAX);
  assert_int_equal(control_encode((enum control_type)0, &drain, &out), MU_INVALID);
  assert_int_equal(control_encode(CONTROL_TYPE_COUNT, &drain, &out), MU_INVALID);
  assert_int_equal(control_encode(CONTROL_DRAIN, NULL, &out), MU_INVALID);
  struct control_loaded hollow = {{NULL, 3}};
  assert_int_equal(control_encode(CONTROL_LOADED, &hollow, &out), MU_INVALID);
  char *large = calloc(1, CONTROL_PACKET_MAX + 1);
  struct control_loaded whole = {{large, CONTROL_PACKET_MAX}}, most = {{large, CONTROL_PACKET_MAX - 8}};
  assert_int_equal(control_encode(CONTROL_LOADED, &whole, &out), MU_TOO_LARGE);
  struct control_loaded beyond = {{large, SIZE_MAX}};
  assert_int_equal(control_encode(CONTROL_LOADED, &beyond, &out), MU_TOO_LARGE);
  assert_int_equal(out.size, 0); /* nothing half-written */
  assert_int_equal(control_encode(CONTROL_LOADED, &most, &out), MU_OK);
  assert_int_equal(out.size, CONTROL_PACKET_MAX);
  free(large);
  buffer_free(&out);
}

/* Whatever comes out of changed bytes lies inside the packet. */
static void assert_inside(const struct control_packet *packet, const void *data, size_t size) {
  const char *begin = packet->memory;
  assert_true((const char *)data >= begin && (const char *)data + size <= begin + CONTROL_PACKET_MAX);
}

static void changed_bytes_never_do_harm(void **state) {
  unsigned seed = 20260101;
  for (size_t round = 0; round < 200000; round++) {
    struct buffer out = encode(&samples[(size_t)rand_r(&seed) % N_SAMPLES]);
    size_t changes = 1 + (size_t)rand_r(&seed) % 4;
    for (size_t i = 0; i < changes; i++) {
      size_t at = (size_t)rand_r(&seed) % out.size;
      static const unsigned char edges[] = {0, 1, 0x7f, 0x80, 0xff};
      out.data[at] = (char)(rand_r(&seed) % 2 ? (unsigned)rand_r(&seed) : edges[(size_t)rand_r(&seed) % 5]);
    }
    size_t size = rand_r(&seed) % 8 == 0 ? (size_t)rand_r(&seed) % (out.size + 1) : out.size;
    struct control_packet packet;
    mu_status status = control_decode(out.data, size, &packet);
    if (status == MU_OK) {
      struct sample again = {packet.type, &packet.gateway_start, 0};
      struct buffer copy = encode(&again);
      assert_int_equal(copy.size, size); /* all of it was read, and nothing else */
      assert_memory_equal(copy.data, out.data, size);
      if (packet.type == CONTROL_LOADED)
        assert_inside(&packet, packet.loaded.metadata.data, packet.loaded.metadata.size);
      buffer_free(&copy);
      control_packet_free(&packet);
    } else {
      assert_int_equal(status, MU_INVALID);
    }
    buffer_free(&out);
  }
}

static void types_have_names(void **state) {
  assert_string_equal(control_type_name(CONTROL_WORKER_ATTACH), "WORKER_ATTACH");
  assert_string_equal(control_type_name(CONTROL_TYPE_COUNT), "UNKNOWN");
  assert_string_equal(control_type_name((enum control_type)0), "UNKNOWN");
}

/* ---- sockets ----------------------------------------------------------------------------------------------------- */

static void make_pair(int sockets[2]) {
  mu_error err;
  assert_int_equal(control_socket_pair(sockets, &err), MU_OK);
}

static size_t count_fds(void) {
  size_t n = 0;
  for (int fd = 0; fd < 256; fd++)
    if (fcntl(fd, F_GETFD) >= 0) n++;
  return n;
}

static void every_type_goes_through_a_socket(void **state) {
  int sockets[2], fds[5];
  make_pair(sockets);
  size_t before = count_fds();
  for (size_t i = 0; i < N_SAMPLES; i++) {
    mu_error err = {{0}};
    for (size_t k = 0; k < samples[i].n_fds; k++) assert_true((fds[k] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0);
    assert_int_equal(control_send(sockets[0], samples[i].type, samples[i].message, fds, samples[i].n_fds, &err), MU_OK);
    for (size_t k = 0; k < samples[i].n_fds; k++) close(fds[k]);
    struct control_packet packet;
    assert_int_equal(control_receive(sockets[1], &packet, &err), MU_OK);
    assert_int_equal(packet.type, samples[i].type);
    assert_sample(&packet);
    assert_int_equal(packet.n_fds, samples[i].n_fds);
    for (size_t k = 0; k < packet.n_fds; k++) assert_int_equal(fcntl(packet.fds[k], F_GETFD), FD_CLOEXEC);
    control_packet_free(&packet);
    assert_int_equal(count_fds(), before);
  }
  close(sockets[0]);
  close(sockets[1]);
}

static void a_taken_fd_stays_open(void **state) {
  int sockets[2];
  make_pair(sockets);
  assert_int_equal(control_send(sockets[0], CONTROL_WORKER_PEER, &worker_peer, &sockets[0], 1, NULL), MU_OK);
  struct control_packet packet;
  assert_int_equal(control_receive(sockets[1], &packet, NULL), MU_OK);
  int fd = packet.fds[0];
  packet.fds[0] = -1;
  control_packet_free(&packet);
  assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
  close(fd);
  close(sockets[0]);
  close(sockets[1]);
}

static void the_largest_packet_fits(void **state) {
  int sockets[2];
  make_pair(sockets);
  char *large = calloc(1, CONTROL_PACKET_MAX);
  struct control_loaded most = {{large, CONTROL_PACKET_MAX - 8}};
  mu_error err = {{0}};
  mu_status status = control_send(sockets[0], CONTROL_LOADED, &most, NULL, 0, &err);
  if (status == MU_OK) {
    struct control_packet packet;
    assert_int_equal(control_receive(sockets[1], &packet, &err), MU_OK);
    assert_int_equal(packet.loaded.metadata.size, CONTROL_PACKET_MAX - 8);
    control_packet_free(&packet);
  } else {
    /* the system's limit for unprivileged processes is smaller: then it is said clearly */
    assert_int_equal(status, MU_TOO_LARGE);
    assert_non_null(strstr(err.message, "wmem_max"));
  }
  free(large);
  close(sockets[0]);
  close(sockets[1]);
}

static void a_small_socket_says_that_a_message_does_not_fit(void **state) {
  int sockets[2], size = 4096;
  make_pair(sockets);
  assert_int_equal(setsockopt(sockets[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
  char *large = calloc(1, 100000);
  struct control_loaded message = {{large, 100000}};
  mu_error err = {{0}};
  assert_int_equal(control_send(sockets[0], CONTROL_LOADED, &message, NULL, 0, &err), MU_TOO_LARGE);
  assert_non_null(strstr(err.message, "does not fit"));
  free(large);
  close(sockets[0]);
  close(sockets[1]);
}

static void fds_must_belong_to_the_type(void **state) {
  int sockets[2];
  make_pair(sockets);
  assert_int_equal(control_send(sockets[0], CONTROL_STOP, NULL, sockets, 1, NULL), MU_INVALID);
  assert_int_equal(control_send(sockets[0], CONTROL_WORKER_PEER, &worker_peer, NULL, 0, NULL), MU_INVALID);
  assert_int_equal(control_send(sockets[0], CONTROL_WORKER_PEER, &worker_peer, sockets, 2, NULL), MU_INVALID);
  close(sockets[0]);
  close(sockets[1]);
}

/* A peer that sends what control_send would not. */
static void send_raw(int socket, const void *bytes, size_t size, const int *fds, size_t n_fds) {
  struct buffer raw;
  buffer_init(&raw, CONTROL_PACKET_MAX);
  assert_int_equal(buffer_append(&raw, bytes, size), MU_OK);
  assert_int_equal(control_send_encoded(socket, &raw, fds, n_fds, NULL), MU_OK);
  buffer_free(&raw);
}

static void fds_of_a_bad_packet_are_closed(void **state) {
  int sockets[2];
  make_pair(sockets);
  size_t before = count_fds();
  struct control_packet packet;
  mu_error err;
  int two[2] = {sockets[0], sockets[0]};
  send_raw(sockets[0], "nonsense", 8, two, 2);
  assert_int_equal(control_receive(sockets[1], &packet, &err), MU_INVALID);
  uint16_t stop[2] = {CONTROL_VERSION, CONTROL_STOP}; /* well formed, but with an fd that it does not take */
  send_raw(sockets[0], stop, sizeof stop, two, 1);
  assert_int_equal(control_receive(sockets[1], &packet, &err), MU_INVALID);
  struct sample peer = {CONTROL_WORKER_PEER, &worker_peer, 1};
  struct buffer encoded = encode(&peer);
  send_raw(sockets[0], encoded.data, encoded.size, NULL, 0); /* and one that lacks its fd */
  assert_int_equal(control_receive(sockets[1], &packet, &err), MU_INVALID);
  buffer_free(&encoded);
  assert_int_equal(count_fds(), before);
  close(sockets[0]);
  close(sockets[1]);
}

static void more_fds_than_fit_are_closed_and_refused(void **state) {
  int sockets[2], fds[CONTROL_FDS_MAX + 8];
  make_pair(sockets);
  size_t before = count_fds();
  for (size_t i = 0; i < CONTROL_FDS_MAX + 8; i++) fds[i] = sockets[0];
  assert_int_equal(control_send(sockets[0], CONTROL_GATEWAY_START, &gateway_start, fds, CONTROL_FDS_MAX + 1, NULL),
                   MU_INVALID);
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof fds)];
  } space = {.bytes = {0}};
  struct sample start = {CONTROL_GATEWAY_START, &gateway_start, 0};
  struct buffer encoded = encode(&start);
  struct iovec content = {encoded.data, encoded.size};
  struct msghdr header = {
      .msg_iov = &content, .msg_iovlen = 1, .msg_control = space.bytes, .msg_controllen = sizeof space.bytes};
  struct cmsghdr *part = CMSG_FIRSTHDR(&header);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof fds);
  memcpy(CMSG_DATA(part), fds, sizeof fds);
  assert_true(sendmsg(sockets[0], &header, MSG_NOSIGNAL) >= 0);
  struct control_packet packet;
  mu_error err;
  assert_int_equal(control_receive(sockets[1], &packet, &err), MU_INVALID);
  assert_int_equal(count_fds(), before);
  buffer_free(&encoded);
  close(sockets[0]);
  close(sockets[1]);
}

static void nothing_there_and_nobody_there_differ(void **state) {
  int sockets[2];
  make_pair(sockets);
  assert_int_equal(fcntl(sockets[0], F_SETFL, O_NONBLOCK), 0);
  struct control_packet packet;
  assert_int_equal(control_receive(sockets[0], &packet, NULL), MU_UNAVAILABLE);
  assert_int_equal(control_send(sockets[1], CONTROL_READY, NULL, NULL, 0, NULL), MU_OK);
  close(sockets[1]);
  assert_int_equal(control_receive(sockets[0], &packet, NULL), MU_OK);
  assert_int_equal(packet.type, CONTROL_READY);
  control_packet_free(&packet);
  assert_int_equal(control_receive(sockets[0], &packet, NULL), MU_CANCELED);
  assert_int_equal(control_send(sockets[0], CONTROL_STOP, NULL, NULL, 0, NULL), MU_CANCELED);
  close(sockets[0]);
}

/* The message is what it was, only its descriptors are lost; with room again the next one has its own. */
static void fds_that_find_no_room_are_lost_alone(void **state) {
  int sockets[2], null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  make_pair(sockets);
  struct rlimit usual, none;
  assert_int_equal(getrlimit(RLIMIT_NOFILE, &usual), 0);
  none = usual;
  none.rlim_cur = 3; /* all descriptors that are free are above */
  struct control_packet packet;
  for (int room = 0; room < 2; room++) {
    assert_int_equal(control_send(sockets[0], CONTROL_WORKER_ATTACH, &worker_attach, &null, 1, NULL), MU_OK);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, room == 0 ? &none : &usual), 0);
    assert_int_equal(control_receive(sockets[1], &packet, NULL), MU_OK);
    assert_sample(&packet);
    assert_int_equal(packet.n_fds, room);
    control_packet_free(&packet);
  }
  close(null);
  close(sockets[0]);
  close(sockets[1]);
}

/* A peer that leaves with our messages unread makes the kernel say ECONNRESET before its own last message. */
static void last_words_are_heard_though_ours_were_not(void **state) {
  int sockets[2];
  make_pair(sockets);
  assert_int_equal(control_send(sockets[0], CONTROL_STOP, NULL, NULL, 0, NULL), MU_OK);
  assert_int_equal(control_send(sockets[1], CONTROL_FAILED, &failed, NULL, 0, NULL), MU_OK);
  close(sockets[1]);
  struct control_packet packet;
  assert_int_equal(control_receive(sockets[0], &packet, NULL), MU_OK);
  assert_sample(&packet);
  control_packet_free(&packet);
  assert_int_equal(control_receive(sockets[0], &packet, NULL), MU_CANCELED);
  close(sockets[0]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_type_comes_back),
      cmocka_unit_test(messages_follow_one_another_in_a_buffer),
      cmocka_unit_test(a_null_string_is_an_empty_one),
      cmocka_unit_test(short_and_long_packets_are_invalid),
      cmocka_unit_test(headers_are_checked),
      cmocka_unit_test(strings_without_end_or_with_two_are_invalid),
      cmocka_unit_test(a_bool_is_0_or_1),
      cmocka_unit_test(wrong_messages_are_not_encoded),
      cmocka_unit_test(changed_bytes_never_do_harm),
      cmocka_unit_test(types_have_names),
      cmocka_unit_test(every_type_goes_through_a_socket),
      cmocka_unit_test(a_taken_fd_stays_open),
      cmocka_unit_test(the_largest_packet_fits),
      cmocka_unit_test(a_small_socket_says_that_a_message_does_not_fit),
      cmocka_unit_test(fds_must_belong_to_the_type),
      cmocka_unit_test(fds_of_a_bad_packet_are_closed),
      cmocka_unit_test(more_fds_than_fit_are_closed_and_refused),
      cmocka_unit_test(fds_that_find_no_room_are_lost_alone),
      cmocka_unit_test(nothing_there_and_nobody_there_differ),
      cmocka_unit_test(last_words_are_heard_though_ours_were_not),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
