#include "worker/worker.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "config/options.h"
#include "gpu/locality.h"
#include "sandbox/sandbox.h"
#include "worker/device_nodes.h"
#include "worker/engine_report.h"
#include "worker/peer.h"
#include "worker/warmup.h"

enum {
  HURRY_MS = 20, /* how often runs that nobody waits for are told to stop */
  PEERS_MAX = 2  /* a gateway, and the one that it hands over to */
};

struct worker {
  int control;
  int wake; /* eventfd: a lane's thread has ended */
  struct control_packet start;
  char file[32];    /* path of the model file, where it came as a descriptor */
  char sim_gpu[16]; /* descriptor of the simulated GPU */
  struct engine_network network;
  struct worker_model model;
  struct engine_report report;
  struct lane **lanes;
  struct peer *peers[PEERS_MAX]; /* NULL: none */
  int next;                      /* socket of a gateway that waits until it can be a peer; -1: none */
  bool leaving;                  /* told to stop: without a peer the worker ends */
};

/* ---- the process ------------------------------------------------------------------------------------------------- */

/* Signals are the supervisor's business; it tells what to do over the control socket. When it dies, so does a worker:
 * at once by the kernel, or, should it have died before prctl, by the end of file of that socket. */
static void settle_process(void) {
  static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
  for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++) signal(ignored[i], SIG_IGN);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  mallopt(M_ARENA_MAX, 2); /* lanes hardly allocate; an arena for each of them would only cost memory */
}

static void name_process(const struct control_worker_start *start) {
  char name[16]; /* the kernel keeps 15 characters */
  snprintf(name, sizeof name, "worker:%s", start->name);
  prctl(PR_SET_NAME, name);
}

/* ---- to the supervisor ------------------------------------------------------------------------------------------- */

static void send_failed(const struct worker *worker, mu_status status, const char *message) {
  const struct control_failed failed = {.status = status, .message = message};
  mu_error err;
  mu_status sent = control_send(worker->control, CONTROL_FAILED, &failed, NULL, 0, &err);
  if (sent != MU_OK && sent != MU_CANCELED) {
    LOG_ERROR("cannot tell the supervisor", LOG_STR("why", message), LOG_STR("error", err.message));
  }
}

static mu_status send_loaded(const struct worker *worker, mu_error *err) {
  struct buffer encoded;
  buffer_init(&encoded, CONTROL_PACKET_MAX);
  mu_status status = model_metadata_encode(worker->model.metadata, &encoded);
  if (status == MU_OK) {
    const struct control_loaded loaded = {.metadata = {encoded.data, encoded.size}};
    status = control_send(worker->control, CONTROL_LOADED, &loaded, NULL, 0, err);
  } else {
    mu_fail(err, status, "the model's metadata do not fit a message");
  }
  buffer_free(&encoded);
  return status;
}

/* ---- from nothing to ready --------------------------------------------------------------------------------------- */

static mu_status receive_start(struct worker *worker, mu_error *err) {
  mu_status status = control_receive(worker->control, &worker->start, err);
  if (status != MU_OK) return status;
  if (worker->start.type != CONTROL_WORKER_START)
    return mu_fail(err, MU_INVALID, "the first message is of type %d", (int)worker->start.type);
  struct control_worker_start *start = &worker->start.worker_start;
  if (worker->start.n_fds != (size_t)start->has_file + start->has_sim_gpu)
    return mu_fail(err, MU_INTERNAL, "%zu descriptors came with the first message", worker->start.n_fds);
  if (start->has_file) {
    snprintf(worker->file, sizeof worker->file, "/proc/self/fd/%d", worker->start.fds[0]);
    start->path = worker->file;
  }
  if (start->has_sim_gpu) {
    snprintf(worker->sim_gpu, sizeof worker->sim_gpu, "%d", worker->start.fds[start->has_file]);
    start->sim_gpu = worker->sim_gpu;
  }
  return MU_OK;
}

/* Names are looked up before the fence, which so needs no resolver. The configuration is parsed for that here already,
 * as the supervisor has. */
static mu_status find_network(struct worker *worker, const struct engine_entry *entry, mu_error *err) {
  struct model_config *config = NULL;
  if (entry->find_network == NULL) return MU_OK;
  mu_status status = worker_model_config(&worker->start.worker_start, &config, err);
  if (status != MU_OK) return status;
  status = entry->find_network(config->parameters, config->n_parameters, &worker->network, err);
  model_config_free(config);
  return status;
}

static mu_status enter_fence(const struct worker *worker, const struct engine_entry *entry, bool sandbox,
                             mu_error *err) {
  if (!sandbox) return sandbox_enter(SANDBOX_OFF, err);
  if (entry->find_network != NULL) return sandbox_enter_remote(worker->network.ports, worker->network.n_ports, err);
  bool gpu = strncmp(worker->start.worker_start.device, "gpu", 3) == 0;
  if (gpu) device_nodes_make();
  return sandbox_enter(gpu ? SANDBOX_WORKER_GPU : SANDBOX_WORKER_CPU, err);
}

/* Before there is a second thread. Cores that are gone by now cost speed only. */
static mu_status pin(const struct control_worker_start *start, mu_error *err) {
  cpu_set_t cores;
  if (start->cores[0] == '\0') return MU_OK;
  if (gpu_cores_parse(start->cores, &cores) != MU_OK)
    return mu_fail(err, MU_INVALID, "the cores from the supervisor cannot be read: %.100s", start->cores);
  if (sched_setaffinity(0, sizeof cores, &cores) != 0) {
    LOG_WARNING("a worker cannot run on the cores next to its GPU", LOG_STR("model", start->name),
                LOG_STR("cores", start->cores), LOG_STR("error", strerror(errno)));
  }
  return MU_OK;
}

/* Before the model is read, which is the first that a stranger has made, and before there is a second thread. */
static mu_status enter_sandbox(struct worker *worker, mu_error *err) {
  const struct control_worker_start *start = &worker->start.worker_start;
  const struct engine_entry *entry;
  struct options *options = NULL;
  if (options_decode(start->options.data, start->options.size, &options) != MU_OK)
    return mu_fail(err, MU_INVALID, "the options from the supervisor cannot be read");
  mu_status status = engine_find(start->engine, start->path, &entry, err);
  if (status == MU_OK) status = find_network(worker, entry, err);
  if (status == MU_OK) status = enter_fence(worker, entry, options->sandbox, err);
  options_free(options);
  return status;
}

static mu_status create_lanes(struct worker *worker, mu_error *err) {
  const struct worker_model *model = &worker->model;
  worker->lanes = calloc(model->n_instances, sizeof(struct lane *));
  bool complete = worker->lanes != NULL;
  for (uint32_t i = 0; complete && i < model->n_instances; i++) {
    worker->lanes[i] = lane_create(model->engine, model->instances[i], model->info);
    complete = worker->lanes[i] != NULL;
  }
  return complete ? MU_OK : mu_fail(err, MU_NO_MEMORY, "no memory for the lanes");
}

static mu_status become_ready(struct worker *worker, mu_error *err) {
  const struct control_worker_start *start = &worker->start.worker_start;
  uint64_t begin = clock_now_ns();
  name_process(start);
  mu_status status = pin(start, err);
  if (status == MU_OK) status = enter_sandbox(worker, err);
  if (status == MU_OK) status = worker_model_load(start, worker->network.addresses, &worker->model, err);
  if (status == MU_OK && start->max_batch > 0 && worker->model.metadata->batch_note[0] != '\0') {
    LOG_WARNING("requests for this model are not batched", LOG_STR("model", start->name),
                LOG_STR("because", worker->model.metadata->batch_note),
                LOG_STR("cure", "max_batch_size in config.pbtxt decides"));
  }
  if (status == MU_OK) status = create_lanes(worker, err);
  if (status == MU_OK) status = send_loaded(worker, err);
  uint64_t loaded = clock_now_ns();
  char note[WARMUP_NOTE_MAX] = "";
  if (status == MU_OK) status = warmup_run(&worker->model, start->folder, note, err);
  if (status != MU_OK) return status;
  if (note[0] != '\0') {
    LOG_WARNING("the model refused the invented input of its warm-up: give it a model_warmup in config.pbtxt",
                LOG_STR("model", start->name), LOG_STR("because", note));
  }
  LOG_VERBOSE("worker warm", LOG_STR("model", start->name), LOG_STR("runtime", worker->model.metadata->runtime),
              LOG_INT("load_ms", (loaded - begin) / NS_PER_MS),
              LOG_INT("warmup_ms", (clock_now_ns() - loaded) / NS_PER_MS));
  return control_send(worker->control, CONTROL_READY, NULL, NULL, 0, err);
}

/* ---- serving ----------------------------------------------------------------------------------------------------- */

/* hurry: what it runs is of no use to anybody. */
static void end_peer(struct peer *peer, bool hurry) {
  if (peer == NULL) return;
  peer_close(peer);
  if (hurry) peer_hurry(peer);
}

/* Where the next peer goes; NULL: nowhere yet. A gateway that is gone and still has something running here is waited
 * for: the batches of its successor must not be blamed for the time that this takes. */
static struct peer **free_place(struct worker *worker) {
  struct peer **place = NULL;
  for (size_t i = 0; i < PEERS_MAX; i++) {
    if (worker->peers[i] == NULL)
      place = &worker->peers[i];
    else if (peer_closing(worker->peers[i]))
      return NULL;
  }
  return place;
}

static void attach(struct worker *worker) {
  mu_error err;
  struct peer **place = free_place(worker);
  if (worker->next < 0 || worker->leaving || place == NULL) return;
  int socket = worker->next;
  worker->next = -1;
  mu_status status = peer_create(socket, worker->lanes, worker->model.n_instances, worker->wake, place, &err);
  if (status != MU_OK) { /* the gateway sees its end close and asks for another worker */
    LOG_ERROR("cannot attach to the gateway", LOG_STR("error", err.message));
  }
}

/* What the gateways have said, or that they are gone. */
static void obey_peers(struct worker *worker) {
  for (size_t i = 0; i < PEERS_MAX; i++) {
    struct peer *peer = worker->peers[i];
    if (peer != NULL && !peer_closing(peer) && !peer_obey(peer)) end_peer(peer, true);
  }
}

/* Another gateway wants to attach: beside one that hands over to it, or after one that has died, whose end of file is
 * then there to be seen already. */
static void take_peer(struct worker *worker, struct control_packet *packet) {
  if (worker->next >= 0) close(worker->next);
  worker->next = packet->n_fds > 0 ? packet->fds[0] : -1;
  if (packet->n_fds > 0) packet->fds[0] = -1;
  obey_peers(worker);
}

static void take_stop(struct worker *worker, struct control_packet *packet) {
  worker->leaving = true;
  for (size_t i = 0; i < PEERS_MAX; i++) end_peer(worker->peers[i], false);
}

/* What a model is served with does not change while it is; only the log does. */
static void take_options(struct worker *worker, struct control_packet *packet) {
  struct options *options;
  if (options_decode(packet->options.options.data, packet->options.options.size, &options) != MU_OK) return;
  const struct log_settings settings = options_log_settings(options);
  log_apply(&settings);
  options_free(options);
}

static void take_log_settings(struct worker *worker, struct control_packet *packet) {
  const struct log_settings settings = control_log_settings_take(&packet->log_settings);
  log_apply(&settings);
}

static void (*const takers[CONTROL_TYPE_COUNT])(struct worker *worker, struct control_packet *packet) = {
    [CONTROL_WORKER_PEER] = take_peer,
    [CONTROL_STOP] = take_stop,
    [CONTROL_OPTIONS] = take_options,
    [CONTROL_LOG_SETTINGS] = take_log_settings};

/* MU_CANCELED: the supervisor is gone. */
static mu_status take_message(struct worker *worker, mu_error *err) {
  struct control_packet packet = {.n_fds = 0};
  mu_status status = control_receive(worker->control, &packet, err);
  if (status != MU_OK) return status == MU_UNAVAILABLE ? MU_OK : status;
  if (takers[packet.type] != NULL) {
    takers[packet.type](worker, &packet);
  } else {
    status = mu_fail(err, MU_INVALID, "the supervisor sent a message of type %d to a worker", (int)packet.type);
  }
  control_packet_free(&packet);
  return status;
}

/* Clears peers away whose threads have ended. MU_IO: the device is lost, whatever the other lanes do. */
static mu_status reap(struct worker *worker, mu_error *err) {
  for (size_t i = 0; i < PEERS_MAX; i++) {
    struct peer *peer = worker->peers[i];
    if (peer == NULL) continue;
    if (peer_lost_device(peer, err)) return MU_IO;
    if (!peer_over(peer)) continue;
    mu_error reason;
    if (peer_free(peer, &reason) != MU_OK) LOG_ERROR("lost the gateway", LOG_STR("error", reason.message));
    worker->peers[i] = NULL;
  }
  return MU_OK;
}

static bool has_peers(const struct worker *worker) {
  for (size_t i = 0; i < PEERS_MAX; i++)
    if (worker->peers[i] != NULL) return true;
  return false;
}

/* Runs that nobody waits for are told again; was there one? */
static bool hurry_peers(struct worker *worker) {
  bool any = false;
  for (size_t i = 0; i < PEERS_MAX; i++) {
    struct peer *peer = worker->peers[i];
    if (peer == NULL) continue;
    any = peer_stop_unwanted(peer) || peer_hurried(peer) || any;
    if (peer_hurried(peer)) peer_hurry(peer);
  }
  return any;
}

/* wait_ms: at most; -1: for ever. */
static mu_status wait_for_something(struct worker *worker, int wait_ms, mu_error *err) {
  enum { CONTROL, WAKE, PEERS, N_FDS = PEERS + PEERS_MAX };
  struct pollfd fds[N_FDS] = {
      [CONTROL] = {.fd = worker->control, .events = POLLIN}, [WAKE] = {.fd = worker->wake, .events = POLLIN}};
  for (size_t i = 0; i < PEERS_MAX; i++) {
    bool listens = worker->peers[i] != NULL && !peer_closing(worker->peers[i]);
    fds[PEERS + i] = (struct pollfd){.fd = listens ? peer_socket(worker->peers[i]) : -1, .events = POLLIN};
  }
  int n = poll(fds, N_FDS, hurry_peers(worker) ? HURRY_MS : wait_ms);
  if (n < 0 && errno != EINTR) return mu_fail(err, MU_IO, "poll: %s", strerror(errno));
  if (n <= 0) return MU_OK;
  eventfd_t ended;
  if (fds[WAKE].revents != 0) (void)!eventfd_read(worker->wake, &ended); /* reap() looks itself who has ended */
  obey_peers(worker);
  return fds[CONTROL].revents != 0 ? take_message(worker, err) : MU_OK;
}

/* MU_OK: told to leave, and nothing runs. */
static mu_status serve(struct worker *worker, mu_error *err) {
  for (;;) {
    mu_status status = reap(worker, err);
    if (status != MU_OK) return status;
    if (worker->leaving && !has_peers(worker)) return MU_OK;
    attach(worker);
    int wait_ms;
    status = engine_report_send(&worker->report, &worker->model, worker->control, &wait_ms, err);
    if (status == MU_OK) status = wait_for_something(worker, wait_ms, err);
    if (status != MU_OK) return status;
  }
}

/* ---- the role ---------------------------------------------------------------------------------------------------- */

static void free_worker(struct worker *worker) {
  if (worker->next >= 0) close(worker->next);
  for (uint32_t i = 0; worker->lanes != NULL && i < worker->model.n_instances; i++) lane_free(worker->lanes[i]);
  free(worker->lanes);
  worker_model_free(&worker->model);
  engine_report_free(&worker->report);
  arena_free(&worker->network.memory);
  control_packet_free(&worker->start);
  if (worker->wake >= 0) close(worker->wake);
}

int worker_main(int control) {
  struct worker worker = {.control = control, .wake = -1, .next = -1};
  mu_error err = {{0}};
  settle_process();
  engine_report_init(&worker.report);
  worker.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  mu_status status = worker.wake >= 0 ? MU_OK : mu_fail(&err, MU_IO, "eventfd: %s", strerror(errno));
  if (status == MU_OK) status = receive_start(&worker, &err);
  if (status == MU_OK) status = become_ready(&worker, &err);
  bool served = status == MU_OK;
  if (status == MU_OK) status = serve(&worker, &err);
  if (status != MU_OK && status != MU_CANCELED) send_failed(&worker, status, err.message);
  /* With a lost device, or with runs still going on for nobody, an orderly end could take for ever. */
  if (served && status != MU_OK) _exit(EXIT_FAILURE);
  free_worker(&worker);
  return status == MU_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
