#include "gateway/gateway.h"

#include "base/log.h"
#include "gateway/attachment.h"
#include "gateway/call.h"
#include "gateway/grpc.h"
#include "gateway/model_control.h"
#include "gateway/region_change.h"
#include "gateway/stream.h"
#include "sandbox/sandbox.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
  PIPELINE_MAX = 16,          /* requests of a connection that are not answered yet */
  STREAMS_MAX = 1024,         /* the same for HTTP/2 */
  HEAD_BYTES_MAX = 64 * 1024, /* request line and headers */
  BODY_MIN_RATE = 1024,       /* bytes a second that a body must bring ... */
  BODY_GRACE_S = 10,          /* ... from here on */
  FILES_KEPT = 64,            /* descriptors that are not for connections; a quarter of them where that is more */
  METRICS_CONNECTIONS = 16,   /* on the metrics port, beside --max-connections */
  SLOW_REPLY_MS = 20,         /* an unwritten reply is copied then, so that nobody's memory waits for a slow reader */
  HOUSEKEEPING_MS = 100,
  SERVER_HTTP = 0, /* of gateway_loop.servers */
  SERVER_METRICS = 1,
  IDLE_TICKS = 20, /* of housekeeping without a request, then a model's slots go back to the budget */
};

/* The role's own state; everything shared between loops is in core. Loop 0's thread. */
struct gateway {
  struct core core;
  struct options *options;
  uv_poll_t timer;
  uv_timer_t housekeeping, drain_timer, drain_deadline;
  struct control_link *predecessor; /* a gateway that hands over to this one; NULL: none */
  uint32_t adopted;                 /* connections of it, so far */
  int heir;                         /* socket of the gateway that this one hands over to; -1: none */
  uint32_t n_undrained;             /* loops */
  int exit_status;
};

/* ---- the end ----------------------------------------------------------------------------------------------------- */

static void leave(struct gateway *gateway, int exit_status) {
  gateway->exit_status = exit_status;
  net_loop_stop(gateway->core.loops[0].net);
}

static void report_drained(struct gateway *gateway) {
  if (control_link_send(gateway->core.control, CONTROL_DRAINED, NULL, NULL, 0) != MU_OK)
    LOG_WARNING("the supervisor cannot be told that the gateway has drained");
  leave(gateway, 0);
}

/* ---- the end of serving ------------------------------------------------------------------------------------------
 * Draining: readiness flips, then after the delay the listeners close and what is in flight finishes. Handing over: the
 * listeners are left to the next gateway, and every connection goes there when it is between two requests. Both end
 * when no connection is left. */

static void traces_written(struct core *core) { report_drained(list_item(core, struct gateway, core)); }

static void loop_drained(struct net_post *post) {
  struct gateway_loop *loop = list_item(post, struct gateway_loop, drained_post);
  struct gateway *gateway = list_item(loop->core, struct gateway, core);
  if (--gateway->n_undrained == 0) trace_close(&gateway->core, traces_written);
}

static void server_drained(void *context) {
  struct gateway_loop *loop = context;
  if (--loop->n_draining > 0) return;
  loop->drained_post.run = loop_drained;
  net_loop_post(loop->core->loops[0].net, &loop->drained_post);
}

/* Ends the loop's servers, one way or the other. */
static void end_loop(struct gateway_loop *loop, void (*end)(struct gateway_loop *loop, bool metrics)) {
  bool first = !loop->ending;
  loop->ending = true;
  size_t n = sizeof loop->servers / sizeof *loop->servers;
  if (first) streams_finish(loop);
  if (first) grpc_talks_finish(loop);
  if (first) loop->n_draining = 1; /* so that a server that is drained at once does not end the loop's drain early */
  for (size_t i = 0; i < n; i++) {
    if (loop->servers[i] == NULL) continue;
    if (first) loop->n_draining++;
    end(loop, i == SERVER_METRICS);
  }
  if (first) server_drained(loop);
}

static void drain_server(struct gateway_loop *loop, bool metrics) {
  http_server_drain(loop->servers[metrics], server_drained, loop);
}

static void drain_loop(struct net_post *post) {
  end_loop(list_item(post, struct gateway_loop, drain_post), drain_server);
}

/* Any loop: packets are whole, whoever sends them. */
static mu_status give(struct gateway_loop *loop, int fd, bool metrics) {
  const struct gateway *gateway = list_item(loop->core, struct gateway, core);
  const struct control_connection message = {metrics};
  return control_send(gateway->heir, CONTROL_CONNECTION, &message, &fd, 1, NULL);
}

static mu_status give_http(void *context, int fd) { return give(context, fd, false); }
static mu_status give_metrics(void *context, int fd) { return give(context, fd, true); }

static void hand_over_server(struct gateway_loop *loop, bool metrics) {
  http_server_hand_over(loop->servers[metrics], metrics ? give_metrics : give_http, server_drained, loop);
}

static void hand_over_loop(struct net_post *post) {
  end_loop(list_item(post, struct gateway_loop, hand_over_post), hand_over_server);
}

/* The first of the two begins to count the loops. */
static void begin_end(struct gateway *gateway) {
  if (gateway->n_undrained == 0) gateway->n_undrained = gateway->core.n_loops;
}

static void begin_drain(uv_timer_t *timer) {
  struct gateway *gateway = timer->data;
  struct core *core = &gateway->core;
  begin_end(gateway);
  for (uint32_t i = 0; i < core->n_loops; i++) {
    core->loops[i].drain_post.run = drain_loop;
    net_loop_post(core->loops[i].net, &core->loops[i].drain_post);
  }
}

static void drain_over(uv_timer_t *timer) {
  LOG_WARNING("requests were still in flight at the end of the time for them: they are cut");
  report_drained(timer->data);
}

static void bound_end(struct gateway *gateway, uint64_t deadline) {
  uint64_t now = clock_now_ns();
  uv_timer_start(&gateway->drain_deadline, drain_over, deadline > now ? (deadline - now) / NS_PER_MS : 0, 0);
}

static void on_drain(struct gateway *gateway, struct control_packet *packet) {
  if (gateway->core.draining) return;
  gateway->core.draining = true;
  uv_timer_start(&gateway->drain_timer, begin_drain, packet->drain.drain_delay_ns / NS_PER_MS, 0);
  bound_end(gateway, packet->drain.deadline_ns);
}

static void on_hand_over(struct gateway *gateway, struct control_packet *packet) {
  struct core *core = &gateway->core;
  if (core->draining || gateway->heir >= 0) return;
  if (packet->n_fds > 0) { /* lost on the way where descriptors are short: no connection can be given away then */
    gateway->heir = packet->fds[0];
    packet->fds[0] = -1;
    fcntl(gateway->heir, F_SETFL, O_NONBLOCK); /* no loop waits for the next gateway */
  }
  begin_end(gateway);
  for (uint32_t i = 0; i < core->n_loops; i++) {
    core->loops[i].hand_over_post.run = hand_over_loop;
    net_loop_post(core->loops[i].net, &core->loops[i].hand_over_post);
  }
  bound_end(gateway, packet->hand_over.deadline_ns);
}

/* ---- connections of a gateway that hands over to this one -------------------------------------------------------- */

struct adoption {
  struct net_post post;
  struct http_server *server;
  int fd;
};

static void adopt(struct net_post *post) {
  struct adoption *adoption = list_item(post, struct adoption, post);
  if (http_server_adopt(adoption->server, adoption->fd) != MU_OK) LOG_WARNING("no memory for a connection");
  free(adoption);
}

static void on_connection(void *context, struct control_packet *packet) {
  struct gateway *gateway = context;
  struct core *core = &gateway->core;
  if (packet->type != CONTROL_CONNECTION) return;
  if (packet->n_fds == 0) {
    LOG_WARNING("a connection of the gateway before found no free file descriptor (ulimit -n)");
    return;
  }
  bool metrics = packet->connection.metrics;
  struct gateway_loop *loop = &core->loops[metrics ? 0 : gateway->adopted++ % core->n_loops];
  struct adoption *adoption = loop->servers[metrics] != NULL ? calloc(1, sizeof *adoption) : NULL;
  if (adoption == NULL) {
    LOG_WARNING("a connection of the gateway before has no place here");
    return;
  }
  *adoption = (struct adoption){{.run = adopt}, loop->servers[metrics], packet->fds[0]};
  packet->fds[0] = -1;
  net_loop_post(loop->net, &adoption->post);
}

static void on_predecessor_gone(void *context, const mu_error *err) {
  struct gateway *gateway = context;
  LOG_VERBOSE("the gateway before has handed over", LOG_INT("connections", gateway->adopted));
  control_link_free(gateway->predecessor);
  gateway->predecessor = NULL;
}

static void follow(struct gateway *gateway, int socket) {
  static const struct control_link_events events = {.message = on_connection, .lost = on_predecessor_gone};
  gateway->predecessor = control_link_create(gateway->core.loops[0].net, socket, &events, gateway);
  if (gateway->predecessor != NULL) return;
  LOG_ERROR("no memory to take the connections of the gateway before");
  close(socket);
}

/* ---- starting ---------------------------------------------------------------------------------------------------- */

static void *run_loop(void *argument) {
  struct gateway_loop *loop = argument;
  net_loop_run(loop->net);
  return NULL;
}

/* The largest reply: text, then tensors out of one worker's memory. With less a connection would be cut in the middle
 * of a reply that no client can read within SLOW_REPLY_MS. */
static uint64_t largest_reply(const struct options *options) {
  return CALL_REPLY_MAX + (uint64_t)options->output_arena;
}

static struct http_limits http_limits(const struct options *options) {
  return (struct http_limits){.body_bytes = (uint64_t)options->body_limit,
                              .streams = STREAMS_MAX,
                              .head_bytes = HEAD_BYTES_MAX,
                              .pipeline = PIPELINE_MAX,
                              .idle_timeout_ns = (uint64_t)options->idle_timeout_ns,
                              .head_timeout_ns = (uint64_t)options->head_timeout_ns,
                              .body_min_rate = BODY_MIN_RATE,
                              .body_grace_ns = BODY_GRACE_S * NS_PER_S,
                              .slow_reply_ns = (uint64_t)SLOW_REPLY_MS * NS_PER_MS,
                              .copied_reply_bytes = largest_reply(options),
                              .connections = (uint32_t)options->max_connections};
}

/* Connections never take the last descriptors: some stay for the gateway itself, for workers, whose attachments need a
 * few each, for clients' shared memory (an eighth of all: supervisor/regions.c), and for whoever asks for the metrics.
 */
static void size_room(struct core *core) {
  struct rlimit limit;
  core->room.most = (uint32_t)core->options->max_connections;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  uint64_t files = limit.rlim_cur, kept = files / 4 > FILES_KEPT ? files / 4 : FILES_KEPT;
  uint64_t most = files > 2 * kept ? files - kept : files / 2;
  if (core->room.most <= most) return;
  core->room.most = (uint32_t)most;
  LOG_WARNING("fewer connections than --max-connections: this process may open too few files (ulimit -n)",
              LOG_INT("connections", most), LOG_INT("files", files));
}

/* A server's listening socket, which is taken over. It accepts from CONTROL_GATEWAY_LISTEN on. */
static mu_status listen_on(struct gateway_loop *loop, size_t server, int fd, mu_error *err) {
  struct http_limits limits = http_limits(loop->core->options);
  if (loop->servers[server] != NULL) return http_server_listen(loop->servers[server], fd, err);
  if (server == SERVER_METRICS)
    limits.connections = METRICS_CONNECTIONS;
  else
    limits.room = &loop->core->room;
  struct http_server *made = http_server_create(loop->net, &gateway_service, loop, &limits);
  if (made == NULL) {
    close(fd);
    return mu_fail(err, MU_NO_MEMORY, "no memory for the listener");
  }
  loop->servers[server] = made;
  http_server_hold(made);
  return http_server_listen(made, fd, err);
}

static mu_status listen_all(struct core *core, struct control_packet *packet, mu_error *err) {
  const struct control_gateway_start *start = &packet->gateway_start;
  uint32_t n_http = start->n_http, n_grpc = start->n_grpc, n_metrics = start->n_metrics;
  if (packet->n_fds != (size_t)n_http + n_grpc + n_metrics || n_metrics > 1 || n_http > core->n_loops ||
      n_grpc > core->n_loops)
    return mu_fail(err, MU_INVALID, "%zu sockets for %u + %u + %u listeners", packet->n_fds, n_http, n_grpc, n_metrics);
  size_room(core);
  for (uint32_t i = 0; i < packet->n_fds; i++) {
    int fd = packet->fds[i];
    packet->fds[i] = -1;
    bool metrics = i >= n_http + n_grpc;
    uint32_t loop = metrics ? 0 : i < n_http ? i : i - n_http; /* both ports of a loop are served alike */
    mu_status status = listen_on(&core->loops[loop], metrics ? SERVER_METRICS : SERVER_HTTP, fd, err);
    if (status != MU_OK) return status;
  }
  return MU_OK;
}

static mu_status start_threads(struct core *core, mu_error *err) {
  for (uint32_t i = 1; i < core->n_loops; i++) {
    int error = pthread_create(&core->loops[i].thread, NULL, run_loop, &core->loops[i]);
    if (error != 0) return mu_fail(err, MU_IO, "pthread_create: %s", strerror(error));
  }
  return MU_OK;
}

static void on_timer(uv_poll_t *poll, int status, int events) {
  struct gateway *gateway = poll->data;
  uint64_t ticks;
  ssize_t n = read(gateway->core.timer, &ticks, sizeof ticks);
  if (n == (ssize_t)sizeof ticks) core_tick(&gateway->core);
}

static void keep_house(uv_timer_t *timer) {
  struct gateway *gateway = timer->data;
  core_keep_house(&gateway->core, IDLE_TICKS);
  trace_tick(&gateway->core);
}

static mu_status start(struct gateway *gateway, mu_error *err) {
  struct core *core = &gateway->core;
  uv_loop_t *loop = net_loop_uv(core->loops[0].net);
  if (uv_poll_init(loop, &gateway->timer, core->timer) != 0) return mu_fail(err, MU_IO, "the timer cannot be polled");
  gateway->timer.data = gateway;
  uv_poll_start(&gateway->timer, UV_READABLE, on_timer);
  uv_timer_t *timers[] = {&gateway->housekeeping, &gateway->drain_timer, &gateway->drain_deadline};
  for (size_t i = 0; i < sizeof timers / sizeof *timers; i++) {
    uv_timer_init(loop, timers[i]);
    timers[i]->data = gateway;
  }
  uv_timer_start(&gateway->housekeeping, keep_house, HOUSEKEEPING_MS, HOUSEKEEPING_MS);
  return start_threads(core, err);
}

/* ---- the supervisor's messages ----------------------------------------------------------------------------------- */

static void open_loop(struct net_post *post) {
  struct gateway_loop *loop = list_item(post, struct gateway_loop, open_post);
  for (size_t i = 0; i < sizeof loop->servers / sizeof *loop->servers; i++)
    if (loop->servers[i] != NULL) http_server_open(loop->servers[i]);
}

/* All models are known: from here on nobody hears that one of them does not exist. */
static void on_listen(struct gateway *gateway, struct control_packet *packet) {
  struct core *core = &gateway->core;
  if (packet->n_fds > 0) {
    follow(gateway, packet->fds[0]);
    packet->fds[0] = -1;
  }
  for (uint32_t i = 0; i < core->n_loops; i++) {
    core->loops[i].open_post.run = open_loop;
    net_loop_post(core->loops[i].net, &core->loops[i].open_post);
  }
  LOG_VERBOSE("gateway listens", LOG_INT("loops", core->n_loops), LOG_INT("models", core->n_models));
  if (control_link_send(core->control, CONTROL_GATEWAY_READY, NULL, NULL, 0) == MU_OK) return;
  LOG_ERROR("the supervisor cannot be told that the gateway is ready");
  leave(gateway, 1);
}

static void on_model_set(struct gateway *gateway, struct control_packet *packet) {
  core_set_model(&gateway->core, &packet->model_set);
}

static void on_model_loaded(struct gateway *gateway, struct control_packet *packet) {
  core_model_loaded(&gateway->core, &packet->model_loaded);
}

static void on_worker_attach(struct gateway *gateway, struct control_packet *packet) {
  int socket = packet->n_fds > 0 ? packet->fds[0] : -1; /* lost on the way where descriptors are short */
  packet->n_fds = 0;
  core_attach_worker(&gateway->core, &packet->worker_attach, socket);
}

static void on_model_remove(struct gateway *gateway, struct control_packet *packet) {
  core_remove_model(&gateway->core, &packet->model_number);
}

static void on_worker_retire(struct gateway *gateway, struct control_packet *packet) {
  core_retire_worker(&gateway->core, &packet->worker_retire);
}

static void on_options(struct gateway *gateway, struct control_packet *packet) {
  struct options *options;
  mu_status status = options_decode(packet->options.options.data, packet->options.options.size, &options);
  if (status != MU_OK) {
    LOG_ERROR("changed settings do not add up", LOG_STR("error", status_name(status)));
    return;
  }
  core_set_options(&gateway->core, options);
  const struct log_settings log = options_log_settings(options);
  log_apply(&log);
  options_free(options);
}

static void on_trace_file(struct gateway *gateway, struct control_packet *packet) {
  trace_file_take(&gateway->core, packet);
}

/* A client of another gateway has changed them. */
static void on_log_settings(struct gateway *gateway, struct control_packet *packet) {
  const struct log_settings log = control_log_settings_take(&packet->log_settings);
  log_apply(&log);
}

static void on_mark(struct gateway *gateway, struct control_packet *packet) {
  if (control_link_send(gateway->core.control, CONTROL_MARKED, &packet->mark, NULL, 0) != MU_OK)
    LOG_ERROR("the supervisor cannot be told", LOG_STR("what", control_type_name(CONTROL_MARKED)));
}

static void on_worker_gone(struct gateway *gateway, struct control_packet *packet) {
  core_worker_gone(&gateway->core, &packet->worker_gone);
}

static void on_region_set(struct gateway *gateway, struct control_packet *packet) {
  int fd = packet->n_fds > 0 ? packet->fds[0] : -1; /* lost on the way where descriptors are short */
  packet->n_fds = 0;
  region_change_set(&gateway->core, &packet->region_set, fd);
}

static void on_region_remove(struct gateway *gateway, struct control_packet *packet) {
  region_change_remove(&gateway->core, &packet->region_remove);
}

static void on_region_changed(struct gateway *gateway, struct control_packet *packet) {
  region_change_finish(&gateway->core, &packet->region_changed);
}

static void on_model_note(struct gateway *gateway, struct control_packet *packet) {
  core_note_model(&gateway->core, &packet->model_note);
}

static void on_gpus(struct gateway *gateway, struct control_packet *packet) {
  gateway_gpus_take(&gateway->core, &packet->gpus);
}

static void on_control_done(struct gateway *gateway, struct control_packet *packet) {
  model_control_done(&gateway->core, &packet->model_control_done);
}

static void (*const message_handlers[CONTROL_TYPE_COUNT])(struct gateway *, struct control_packet *) = {
    [CONTROL_MODEL_SET] = on_model_set,
    [CONTROL_MODEL_LOADED] = on_model_loaded,
    [CONTROL_MODEL_REMOVE] = on_model_remove,
    [CONTROL_WORKER_ATTACH] = on_worker_attach,
    [CONTROL_WORKER_RETIRE] = on_worker_retire,
    [CONTROL_WORKER_GONE] = on_worker_gone,
    [CONTROL_OPTIONS] = on_options,
    [CONTROL_LOG_SETTINGS] = on_log_settings,
    [CONTROL_TRACE_FILE] = on_trace_file,
    [CONTROL_MARK] = on_mark,
    [CONTROL_GATEWAY_LISTEN] = on_listen,
    [CONTROL_HAND_OVER] = on_hand_over,
    [CONTROL_DRAIN] = on_drain,
    [CONTROL_REGION_SET] = on_region_set,
    [CONTROL_REGION_REMOVE] = on_region_remove,
    [CONTROL_REGION_CHANGED] = on_region_changed,
    [CONTROL_MODEL_NOTE] = on_model_note,
    [CONTROL_MODEL_CONTROL_DONE] = on_control_done,
    [CONTROL_GPUS] = on_gpus,
};

static void on_message(void *context, struct control_packet *packet) {
  if (message_handlers[packet->type] != NULL)
    message_handlers[packet->type](context, packet);
  else
    LOG_WARNING("a control message that is not for a gateway", LOG_INT("type", packet->type));
}

static void on_lost(void *context, const mu_error *err) {
  LOG_ERROR("the supervisor is gone", LOG_STR("error", err->message));
  leave(context, 1);
}

static const struct control_link_events link_events = {.message = on_message, .lost = on_lost};

/* ---- the role ----------------------------------------------------------------------------------------------------
 */

static mu_status create_loops(struct core *core, mu_error *err) {
  for (uint32_t i = 0; i < core->n_loops; i++)
    if (core_init_loop(core, i) != MU_OK) return mu_fail(err, MU_NO_MEMORY, "no memory for an event loop");
  return MU_OK;
}

/* One for each socket of a port. */
static uint32_t count_loops(const struct control_gateway_start *message) {
  uint32_t n = message->n_http > message->n_grpc ? message->n_http : message->n_grpc;
  return n > 0 ? n : 1;
}

/* packet: the first message, which says all that there is to start with. */
static mu_status prepare(struct gateway *gateway, int control, struct control_packet *packet, mu_error *err) {
  if (packet->type != CONTROL_GATEWAY_START) return mu_fail(err, MU_INVALID, "the first message is not the start");
  const struct control_gateway_start *message = &packet->gateway_start;
  mu_status status = options_decode(message->options.data, message->options.size, &gateway->options);
  if (status != MU_OK) return mu_fail(err, status, "the options do not add up");
  status = sandbox_enter(gateway->options->sandbox ? SANDBOX_GATEWAY : SANDBOX_OFF, err);
  if (status == MU_OK) status = core_init(&gateway->core, gateway->options, count_loops(message), err);
  if (status == MU_OK) status = create_loops(&gateway->core, err);
  if (status != MU_OK) return status;
  gateway->core.control = control_link_create(gateway->core.loops[0].net, control, &link_events, gateway);
  if (gateway->core.control == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the control link");
  status = listen_all(&gateway->core, packet, err);
  return status == MU_OK ? start(gateway, err) : status;
}

static void stop_loop(struct net_post *post) { net_loop_stop(list_item(post, struct gateway_loop, stop_post)->net); }

static void stop_threads(struct core *core) {
  for (uint32_t i = 1; i < core->n_loops; i++) {
    if (core->loops[i].thread == 0) continue;
    core->loops[i].stop_post.run = stop_loop;
    net_loop_post(core->loops[i].net, &core->loops[i].stop_post);
    pthread_join(core->loops[i].thread, NULL);
  }
}

int gateway_main(int control) {
  static struct gateway gateway = {.heir = -1}; /* large: it holds the dispatcher's scratch */
  mu_error err;
  signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_NAME, "muster-gateway");
  struct control_packet first;
  mu_status status = control_receive(control, &first, &err);
  if (status == MU_OK) {
    status = prepare(&gateway, control, &first, &err);
    control_packet_free(&first);
  }
  if (status != MU_OK) {
    LOG_ERROR("the gateway cannot start", LOG_STR("error", err.message));
    return 1;
  }
  net_loop_run(gateway.core.loops[0].net);
  stop_threads(&gateway.core);
  /* Requests, workers and shared memory go with the process: nothing outlives it that somebody else would need. */
  return gateway.exit_status;
}
