#include "supervisor/supervisor.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "process/memory_group.h"
#include "sandbox/sandbox.h"
#include "supervisor/gpu_room.h"
#include "supervisor/inherit.h"
#include "supervisor/state.h"

/* Past the deadline that the gateway was given: to say that it is done, or be killed. */
static const uint64_t drain_grace_ns = 2 * NS_PER_S;
/* Workers and gateway that were told to leave have this long before they are killed. */
static const uint64_t leave_ns = 5 * NS_PER_S;
/* What was killed and is not gone after this is stuck in the kernel: nothing more can be done here. */
static const uint64_t stuck_ns = 10 * NS_PER_S;
/* Signals that come closer together than this are one wish to stop. */
static const uint64_t same_wish_ns = 500 * NS_PER_MS;

static void on_stop_timer(uv_timer_t *timer);

/* ---- readiness --------------------------------------------------------------------------------------------------- */

static size_t count_models(const struct supervisor *s, enum model_state state) {
  size_t n = 0;
  list_each (link, &s->models) {
    const struct served_model *model = list_item(link, struct served_model, link);
    n += model->role == SERVED && model->state == state;
  }
  return n;
}

static size_t count_served(const struct supervisor *s) {
  size_t n = 0;
  list_each (link, &s->models) n += list_item(link, struct served_model, link)->role == SERVED;
  return n;
}

static bool all_ready(const struct supervisor *s) {
  return s->gateway->state == GATEWAY_READY && count_models(s, MODEL_READY) == count_served(s);
}

/* As --strict-readiness wants it. */
static bool is_ready(const struct supervisor *s) {
  if (all_ready(s)) return true;
  return s->gateway->state == GATEWAY_READY && !s->options->strict_readiness && count_models(s, MODEL_READY) > 0;
}

const char *supervisor_state_name(const struct supervisor *s) {
  if (s->phase >= PHASE_DRAINING) return "draining";
  if (all_ready(s)) return "ready";
  return s->was_ready || s->settled ? "degraded" : "starting";
}

static void log_reached(const struct supervisor *s, const char *message, enum log_level level) {
  const struct listeners *listeners = &s->listeners;
  char http[512] = "", grpc[512] = "", metrics[512] = "";
  if (listeners->n_http > 0) listener_url(listeners->http_address, listeners->http_port, http, sizeof http);
  if (listeners->n_grpc > 0) listener_url(listeners->grpc_address, listeners->grpc_port, grpc, sizeof grpc);
  if (listeners->n_metrics > 0)
    listener_url(listeners->metrics_address, listeners->metrics_port, metrics, sizeof metrics);
  if (listeners->n_metrics > 0) strncat(metrics, "/metrics", sizeof metrics - strlen(metrics) - 1);
  LOG_AT(level, message, LOG_STR("http", http), LOG_STR("grpc", grpc), LOG_STR("metrics", metrics),
         LOG_STR("control", s->control_path), LOG_INT("models", count_models(s, MODEL_READY)),
         LOG_INT("of", count_served(s)), LOG_INT("ms", (clock_now_ns() - s->started_ns) / NS_PER_MS));
}

static void check_readiness(struct supervisor *s) {
  if (s->was_ready) return;
  if (is_ready(s)) {
    s->was_ready = true;
    s->phase = PHASE_SERVING;
    log_reached(s, "ready", LOG_LEVEL_INFO);
  } else if (!s->settled && s->gateway->state == GATEWAY_READY && count_models(s, MODEL_LOADING) == 0) {
    s->settled = true;
    log_reached(s, "not ready: a model cannot be served", LOG_LEVEL_WARNING);
  }
}

/* ---- systemd ----------------------------------------------------------------------------------------------------- */

static void tell(struct supervisor *s, bool tick) {
  if (s->service_manager.fd < 0) return;
  size_t workers = 0, ready = 0;
  list_each (link, &s->workers) {
    const struct worker *worker = list_item(link, struct worker, all);
    if (worker->model->role != SERVED) continue;
    workers++;
    ready += worker->state == WORKER_READY;
  }
  struct service_state state = {
      .started = s->was_ready || s->settled,
      .reloading = (s->reload.going && s->reload.operation == NULL) || upgrade_is_going(s),
      .stopping = s->phase >= PHASE_DRAINING,
  };
  service_state_describe(&state, state.reloading ? "reloading" : supervisor_state_name(s), count_models(s, MODEL_READY),
                         count_served(s), ready, workers);
  service_manager_tell(&s->service_manager, &state, tick);
}

void supervisor_tell(struct supervisor *s) { tell(s, false); }

static void on_tell_timer(uv_timer_t *timer) { tell(timer->data, true); }

static void open_service_manager(struct supervisor *s) {
  struct service_manager *manager = &s->service_manager;
  uv_timer_init(net_loop_uv(s->loop), &manager->timer);
  manager->timer.data = s;
  if (service_manager_open(manager)) uv_timer_start(&manager->timer, on_tell_timer, 0, manager->interval_ms);
}

/* What muster makes of one process's death, restart and retry, does not happen when all die. */
static void warn_of_memory_group(void) {
  char group[MEMORY_GROUP_PATH_MAX];
  if (!memory_group_dies_together("/proc/self/cgroup", "/sys/fs/cgroup", group)) return;
  LOG_WARNING("one process that runs out of memory will take the whole server with it: memory.oom.group is set",
              LOG_STR("cgroup", group),
              LOG_STR("cure",
                      "systemd: OOMPolicy=continue in the unit; Kubernetes: singleProcessOOMKill: true in the "
                      "kubelet's configuration; else: write 0 to that file"));
}

void supervisor_check(struct supervisor *s) {
  if (s->phase < PHASE_DRAINING) {
    check_readiness(s);
  } else if (s->phase == PHASE_STOPPING && gateways_gone(s) && workers_gone(s) && !s->finished) {
    if (!s->mps_told) mps_stop(s, false);
    s->mps_told = true;
    s->finished = mps_gone(s);
    if (s->finished) net_loop_stop(s->loop);
  }
  supervisor_tell(s);
}

/* ---- stopping ---------------------------------------------------------------------------------------------------- */

static void bound_stop(struct supervisor *s, uint64_t ns) {
  uv_timer_start(&s->stop_timer, on_stop_timer, ns / NS_PER_MS, 0);
}

static void kill_all(struct supervisor *s) {
  s->killed = true;
  gateways_stop(s, true);
  workers_kill(s);
  mps_stop(s, true);
  s->mps_told = true;
  bound_stop(s, stuck_ns);
}

/* The gateway is done: everybody leaves. */
static void leave(struct supervisor *s) {
  s->phase = PHASE_STOPPING;
  fleet_stop(s);
  gateways_stop(s, false);
  workers_stop(s);
  bound_stop(s, leave_ns);
  supervisor_check(s);
}

static void stop_now(struct supervisor *s) {
  s->phase = PHASE_STOPPING;
  fleet_stop(s);
  supervisor_tell(s);
  workers_stop(s);
  kill_all(s);
  supervisor_check(s);
}

void supervisor_gateway_finished(struct supervisor *s) {
  if (s->phase != PHASE_DRAINING) {
    supervisor_check(s);
    return;
  }
  for (size_t i = 0; i < GATEWAYS; i++)
    if (s->gateways[i].state == GATEWAY_DRAINING) return;
  leave(s);
}

uint64_t supervisor_stop_ns(const struct supervisor *s) {
  return time_add((uint64_t)s->options->drain_delay_ns, (uint64_t)s->options->exit_timeout_ns);
}

void supervisor_stop(struct supervisor *s, const char *why) {
  if (s->phase >= PHASE_DRAINING) {
    LOG_WARNING("stopping at once", LOG_STR("reason", why));
    stop_now(s);
    return;
  }
  s->phase = PHASE_DRAINING;
  s->stop_asked_ns = clock_now_ns();
  reload_abort(s);
  operations_abort(s);
  upgrade_abort(s);
  supervisor_tell(s);
  uint64_t most = supervisor_stop_ns(s);
  LOG_INFO("stopping", LOG_STR("reason", why), LOG_INT("at_most_s", most / NS_PER_S));
  if (!gateways_drain(s, time_add(clock_now_ns(), most))) {
    leave(s);
    return;
  }
  /* Were they still open here when the gateway closes its own, clients would go on being connected, to nobody. */
  listeners_close(s);
  bound_stop(s, time_add(most, drain_grace_ns));
}

void supervisor_give_up(struct supervisor *s) {
  s->exit_status = EXIT_FAILURE;
  stop_now(s);
}

static void report_stuck(struct supervisor *s) {
  for (size_t i = 0; i < GATEWAYS; i++)
    if (child_runs(&s->gateways[i].child))
      LOG_ERROR("gateway is stuck in the kernel and stays behind", LOG_INT("pid", child_pid(&s->gateways[i].child)));
  list_each (link, &s->workers) {
    const struct worker *worker = list_item(link, struct worker, all);
    if (child_runs(&worker->child))
      LOG_ERROR("worker is stuck in the kernel and stays behind", LOG_STR("model", worker->model->name),
                LOG_INT("pid", child_pid(&worker->child)));
  }
  list_each (link, &s->mps) {
    const struct mps_gpu *mps = list_item(link, struct mps_gpu, link);
    if (child_runs(&mps->keeper))
      LOG_ERROR("an MPS daemon is stuck in the kernel and stays behind", LOG_STR("gpu", mps->label),
                LOG_INT("keeper", child_pid(&mps->keeper)), LOG_INT("pid", mps->daemon));
  }
}

/* A step of stopping has taken too long. */
static void on_stop_timer(uv_timer_t *timer) {
  struct supervisor *s = timer->data;
  if (s->phase == PHASE_DRAINING) {
    LOG_WARNING("the gateway did not finish in time");
    stop_now(s);
  } else if (!s->killed) {
    LOG_WARNING("not everybody left in time");
    kill_all(s);
  } else {
    report_stuck(s);
    s->exit_status = EXIT_FAILURE;
    s->finished = true;
    net_loop_stop(s->loop);
  }
}

/* ---- signals ----------------------------------------------------------------------------------------------------- */

/* Ctrl-C in a terminal and the script around us that passes it on, or timeout(1), which signals its child and then the
 * child's group, mean one stop though they send it twice: a second one counts only after a moment. */
static void on_stop_signal(uv_signal_t *handle, int number) {
  struct supervisor *s = handle->data;
  if (s->phase >= PHASE_DRAINING && clock_now_ns() - s->stop_asked_ns < same_wish_ns) return;
  supervisor_stop(s, number == SIGINT ? "SIGINT" : "SIGTERM");
}

static void on_reload_signal(uv_signal_t *handle, int number) { reload_request(handle->data, NULL); }

static const struct {
  int number;
  uv_signal_cb run;
} signals[SIGNALS] = {{SIGTERM, on_stop_signal}, {SIGINT, on_stop_signal}, {SIGHUP, on_reload_signal}};

static mu_status watch_signals(struct supervisor *s, mu_error *err) {
  signal(SIGPIPE, SIG_IGN);
  for (size_t i = 0; i < SIGNALS; i++) {
    int status = uv_signal_init(net_loop_uv(s->loop), &s->signals[i]);
    if (status == 0) status = uv_signal_start(&s->signals[i], signals[i].run, signals[i].number);
    if (status != 0) return mu_fail(err, MU_IO, "cannot watch signals: %s", uv_strerror(status));
    s->signals[i].data = s;
  }
  return MU_OK;
}

/* ---- start ------------------------------------------------------------------------------------------------------- */

/* Shared memory, connections and doorbells need many descriptors; the limit that counts is the administrator's. */
static void raise_descriptor_limit(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

static enum log_format child_log_format(const struct options *options) {
  if (options->log_format == LOG_FORMAT_TEXT || options->log_format == LOG_FORMAT_JSON)
    return (enum log_format)options->log_format;
  return isatty(STDERR_FILENO) ? LOG_FORMAT_TEXT : LOG_FORMAT_JSON;
}

/* The children enter their own; here is only hidden what they could write through otherwise. */
static mu_status prepare_sandbox(const struct options *options, mu_error *err) {
  if (!options->sandbox) {
    LOG_WARNING("the sandbox is off: a request or a model that takes over a process has all its rights");
    return MU_OK;
  }
  LOG_VERBOSE("sandbox", LOG_INT("landlock", sandbox_landlock_version()));
  return sandbox_hide(err);
}

static mu_status prepare(struct supervisor *s, mu_error *err) {
  s->loop = net_loop_create();
  if (s->loop == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the event loop");
  uv_timer_init(net_loop_uv(s->loop), &s->stop_timer);
  s->stop_timer.data = s;
  gateways_init(s);
  fleet_init(s);
  upgrade_init(s);
  open_service_manager(s);
  mps_say_inherited();
  mu_status status = prepare_sandbox(s->options, err);
  if (status != MU_OK) return status;
  status = gpu_room_remember(s, err);
  if (status != MU_OK) return status;
  status = options_encode(s->options, &s->encoded_options);
  return status == MU_OK ? status : mu_fail(err, status, "cannot encode the settings (%s)", status_name(status));
}

/* Everything that can fail before a process is started. */
static mu_status open_all(struct supervisor *s, mu_error *err) {
  mu_status status = served_models_create(s, err);
  if (status == MU_OK) status = listeners_open(s, err);
  if (status == MU_OK) status = control_socket_open(s, err);
  if (status == MU_OK) status = watch_signals(s, err);
  return status;
}

static void init(struct supervisor *s, struct options *options, int argc, char **argv) {
  *s = (struct supervisor){
      .options = options,
      .argc = argc,
      .argv = argv,
      .started_ns = clock_now_ns(),
      .cores = uv_available_parallelism(),
      .log_format = child_log_format(options),
      .trace_file = -1,
      .oom = {.fd = -1},
      .service_manager = {.fd = -1},
      .devices = {"cpu"},
      .n_devices = 1,
  };
  list_init(&s->models);
  operations_init(s);
  list_init(&s->workers);
  list_init(&s->mps);
  list_init(&s->regions);
  buffer_init(&s->encoded_options, CONTROL_PACKET_MAX);
  oom_watch_open(&s->oom);
}

static void release(struct supervisor *s) {
  trace_file_close(s);
  control_socket_close(s);
  listeners_close(s);
  fleet_free(s);
  net_loop_free(s->loop); /* the handles in s are closed before their memory goes */
  served_models_free(&s->models);
  mps_free(s);
  regions_free(s);
  operations_free(s);
  json_decref(s->reload.report);
  json_decref(s->reload.shown);
  options_free(s->options);
  gpu_measurements_free(&s->measured);
  buffer_free(&s->encoded_options);
  oom_watch_close(&s->oom);
  service_manager_close(&s->service_manager);
}

/* Everything that is there already, in a process that has become this binary. */
static mu_status take_over(struct supervisor *s, int state, mu_error *err) {
  struct handover_file file;
  mu_status status = state >= 0 ? handover_open(state, &file, err)
                                : mu_fail(err, MU_INVALID, "MUSTER_ROLE_STATE is muster's own, for an upgrade");
  if (status != MU_OK) return status;
  status = inherit_take(s, &file.state, err);
  if (status == MU_OK) status = watch_signals(s, err);
  if (status == MU_OK) fleet_start(s);
  if (status == MU_OK) upgrade_resume(s, file.state.server);
  handover_close(&file);
  close(state);
  return status;
}

static mu_status begin(struct supervisor *s, int state, mu_error *err) {
  mu_status status = prepare(s, err);
  if (status == MU_OK && state == -1) fleet_start(s);
  if (status == MU_OK) status = state != -1 ? take_over(s, state, err) : open_all(s, err);
  if (status != MU_OK) return status;
  operations_start(s);
  if (state != -1) return MU_OK;
  warn_of_memory_group();
  gateway_start(s);
  list_each (link, &s->models)
    if (s->phase < PHASE_STOPPING) workers_start(list_item(link, struct served_model, link));
  return MU_OK;
}

int supervisor_main(struct options *options, int argc, char **argv, int state) {
  struct supervisor s;
  mu_error err = {{0}};
  raise_descriptor_limit();
  init(&s, options, argc, argv);
  if (begin(&s, state, &err) == MU_OK) {
    if (!s.finished) net_loop_run(s.loop);
    LOG_INFO("stopped", LOG_INT("status", s.exit_status));
  } else {
    LOG_ERROR("cannot start", LOG_STR("error", err.message));
    s.exit_status = EXIT_FAILURE;
  }
  release(&s);
  return s.exit_status;
}
