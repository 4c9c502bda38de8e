#include <signal.h>
#include <unistd.h>

#include "supervisor/state.h"

/* A gateway that has closed its control socket has this long to be gone. */
static const uint64_t leaving_ms = 5000;
/* While the next one waits nobody is answered: a gateway that dies again and again is worth another try every second.
 */
static const uint64_t longest_delay_ns = NS_PER_S;
/* A gateway that is started again opens to clients when the workers are back, or after this: who comes earlier waits in
 * the backlog, and does not hear that the models are still loading. */
static const uint64_t reunion_ns = NS_PER_S;
/* A successor has this long to listen, with all the workers that the present one has. */
static const uint64_t succession_ns = 30 * NS_PER_S;

static void on_timer(uv_timer_t *timer);

const char *gateway_state_name(enum gateway_state state) {
  static const char *const names[] = {
      [GATEWAY_GONE] = "gone",         [GATEWAY_STARTING] = "starting",
      [GATEWAY_READY] = "ready",       [GATEWAY_HANDING_OVER] = "handing over",
      [GATEWAY_DRAINING] = "draining", [GATEWAY_BACKOFF] = "backoff",
  };
  return names[state];
}

static bool is_present(const struct gateway *gateway) { return gateway == gateway->supervisor->gateway; }

/* On its way to take over. */
static bool is_successor(const struct gateway *gateway) {
  return !is_present(gateway) && gateway->state == GATEWAY_STARTING;
}

struct gateway *gateway_other(struct supervisor *s) {
  return &s->gateways[1 - s->gateway->slot];
}

static void set_timer(struct gateway *gateway, uint64_t ms) { uv_timer_start(&gateway->timer, on_timer, ms, 0); }

void gateway_tell(struct gateway *gateway, enum control_type type, const void *message, const int *fds, size_t n_fds) {
  mu_status status = child_send(&gateway->child, type, message, fds, n_fds);
  if (status == MU_OK || status == MU_CANCELED) return; /* the latter: its end is on its way to us */
  LOG_ERROR("cannot speak to the gateway, it has to go", LOG_STR("message", control_type_name(type)),
            LOG_STR("error", status_name(status)));
  child_kill(&gateway->child);
}

void gateways_tell(struct supervisor *s, enum control_type type, const void *message) {
  for (size_t i = 0; i < GATEWAYS; i++) gateway_tell(&s->gateways[i], type, message, NULL, 0);
}

/* ---- succession -------------------------------------------------------------------------------------------------- */

static void forget_heir(struct supervisor *s) {
  if (s->heir >= 0) close(s->heir);
  s->heir = -1;
}

/* How long the gateway that hands over may take for what it has in hand: every request ends, and so does every
 * connection that nobody takes over. */
static uint64_t hand_over_ns(const struct supervisor *s) {
  uint64_t request = (uint64_t)s->options->default_request_timeout_ns, idle = (uint64_t)s->options->idle_timeout_ns;
  return time_add(request > idle ? request : idle, (uint64_t)s->options->exit_timeout_ns);
}

/* The successor listens: from here on it is the present one. */
static void switch_over(struct supervisor *s) {
  struct gateway *before = s->gateway, *next = gateway_other(s);
  uint64_t most = hand_over_ns(s);
  const struct control_hand_over message = {time_add(clock_now_ns(), most)};
  uv_timer_stop(&next->timer);
  next->state = GATEWAY_READY;
  s->gateway = next;
  restart_policy_ready(&s->gateway_policy, clock_now_ns());
  LOG_INFO("gateway takes over", LOG_INT("pid", child_pid(&next->child)),
           LOG_INT("from_pid", child_runs(&before->child) ? child_pid(&before->child) : 0));
  if (child_runs(&before->child) && before->state == GATEWAY_READY) {
    before->state = GATEWAY_HANDING_OVER;
    gateway_tell(before, CONTROL_HAND_OVER, &message, &s->heir, 1);
    set_timer(before, most / NS_PER_MS + leaving_ms);
  } else {
    uv_timer_stop(&before->timer);
    before->state = GATEWAY_GONE;
    child_kill(&before->child);
    if (!child_runs(&before->child)) upgrade_gateway_left(s);
  }
  forget_heir(s);
  workers_await(s);
  list_each (link, &s->models) served_model_update(s, list_item(link, struct served_model, link));
  supervisor_check(s);
}

static void let_listen(struct supervisor *s, struct gateway *successor) {
  int ends[2];
  mu_error err;
  if (control_socket_pair(ends, &err) != MU_OK) {
    LOG_ERROR("a gateway cannot take over", LOG_STR("error", err.message));
    child_kill(&successor->child);
    return;
  }
  s->heir = ends[1];
  gateway_tell(successor, CONTROL_GATEWAY_LISTEN, NULL, &ends[0], 1);
  close(ends[0]);
}

static void open_up(struct gateway *gateway) {
  gateway->listen_due = false;
  uv_timer_stop(&gateway->timer);
  gateway_tell(gateway, CONTROL_GATEWAY_LISTEN, NULL, NULL, 0);
}

void gateways_check_listen(struct supervisor *s) {
  struct gateway *successor = gateway_other(s);
  if (s->gateway->listen_due && workers_are_attached(s, s->gateway)) open_up(s->gateway);
  if (!is_successor(successor) || !child_runs(&successor->child) || s->heir >= 0) return;
  if (workers_follow(s, s->gateway, successor)) let_listen(s, successor);
}

/* ---- what it says ------------------------------------------------------------------------------------------------ */

static void on_ready(struct gateway *gateway, const struct control_packet *packet) {
  struct supervisor *s = gateway->supervisor;
  if (gateway->state != GATEWAY_STARTING) return;
  LOG_INFO("gateway ready", LOG_INT("pid", child_pid(&gateway->child)),
           LOG_INT("loops", s->listeners.n_http > s->listeners.n_grpc ? s->listeners.n_http : s->listeners.n_grpc));
  if (!is_present(gateway)) {
    switch_over(s);
    return;
  }
  gateway->state = GATEWAY_READY;
  restart_policy_ready(&s->gateway_policy, clock_now_ns());
  supervisor_check(s);
  reload_marked(s); /* a mark that the one before did not answer: this one knows all that is to be known */
}

static void on_retired(struct gateway *gateway, const struct control_packet *packet) {
  workers_retired(gateway, &packet->worker_event);
}

static void on_removed(struct gateway *gateway, const struct control_packet *packet) {
  struct supervisor *s = gateway->supervisor;
  if (is_present(gateway) && s->phase < PHASE_DRAINING) served_models_removed(s, packet->model_number.model);
}

static void on_marked(struct gateway *gateway, const struct control_packet *packet) {
  struct supervisor *s = gateway->supervisor;
  if (is_present(gateway) && packet->mark.serial == s->reload.serial) reload_marked(s);
}

/* A client has changed them. Said first, in case nothing is said from here on. */
static void on_log_settings(struct gateway *gateway, const struct control_packet *packet) {
  struct supervisor *s = gateway->supervisor;
  const struct log_settings log = control_log_settings_take(&packet->log_settings);
  LOG_INFO("a client changes the log settings", LOG_INT("log_info", log.info), LOG_INT("log_warning", log.warning),
           LOG_INT("log_error", log.error), LOG_INT("log_verbose_level", log.verbose_level));
  log_apply(&log);
  for (size_t i = 0; i < GATEWAYS; i++)
    if (&s->gateways[i] != gateway) gateway_tell(&s->gateways[i], CONTROL_LOG_SETTINGS, &packet->log_settings, NULL, 0);
  workers_tell(s, CONTROL_LOG_SETTINGS, &packet->log_settings);
  fleet_tell(s, CONTROL_LOG_SETTINGS, &packet->log_settings);
  mps_tell(s, CONTROL_LOG_SETTINGS, &packet->log_settings);
}

static void on_trace_open(struct gateway *gateway, const struct control_packet *packet) {
  trace_file_open(gateway->supervisor, gateway, packet->trace_open.numbered);
}

static void on_attached(struct gateway *gateway, const struct control_packet *packet) {
  workers_attached(gateway, &packet->worker_event);
  gateways_check_listen(gateway->supervisor);
}

/* A gateway that has not proven itself brings down no worker that serves well. */
static void condemn_worker(struct gateway *gateway, const struct control_packet *packet, enum death_wish wish) {
  if (is_successor(gateway)) {
    LOG_ERROR("the next gateway does not get along with a worker, it has to go",
              LOG_INT("worker", packet->worker_event.worker), LOG_STR("why", packet->worker_event.why));
    child_kill(&gateway->child);
    return;
  }
  workers_condemn(gateway, &packet->worker_event, wish);
}

static void on_hung(struct gateway *gateway, const struct control_packet *packet) {
  condemn_worker(gateway, packet, DEATH_HUNG);
}

static void on_broken(struct gateway *gateway, const struct control_packet *packet) {
  condemn_worker(gateway, packet, DEATH_BROKEN);
}

static void on_register(struct gateway *gateway, const struct control_packet *packet) {
  regions_register(gateway, &packet->region_register);
}

static void on_unregister(struct gateway *gateway, const struct control_packet *packet) {
  regions_unregister(gateway, &packet->region_unregister);
}

/* It leaves by itself now. */
static void on_drained(struct gateway *gateway, const struct control_packet *packet) {
  if (gateway->state != GATEWAY_DRAINING && gateway->state != GATEWAY_HANDING_OVER) return;
  gateway->state = GATEWAY_GONE;
  if (gateway->supervisor->phase >= PHASE_DRAINING)
    supervisor_gateway_finished(gateway->supervisor);
  else
    set_timer(gateway, leaving_ms);
}

static void on_model_unload(struct gateway *gateway, const struct control_packet *packet) {
  operations_unload(gateway, &packet->model_unload);
}

static void on_model_index(struct gateway *gateway, const struct control_packet *packet) {
  operations_index(gateway, &packet->model_index);
}

static void on_message(void *context, struct control_packet *packet) {
  static void (*const handlers[CONTROL_TYPE_COUNT])(struct gateway *, const struct control_packet *) = {
      [CONTROL_GATEWAY_READY] = on_ready,       [CONTROL_WORKER_ATTACHED] = on_attached,
      [CONTROL_WORKER_HUNG] = on_hung,          [CONTROL_WORKER_BROKEN] = on_broken,
      [CONTROL_DRAINED] = on_drained,           [CONTROL_WORKER_RETIRED] = on_retired,
      [CONTROL_MODEL_REMOVED] = on_removed,     [CONTROL_MARKED] = on_marked,
      [CONTROL_REGION_REGISTER] = on_register,  [CONTROL_REGION_UNREGISTER] = on_unregister,
      [CONTROL_LOG_SETTINGS] = on_log_settings, [CONTROL_MODEL_LOAD] = operations_load,
      [CONTROL_MODEL_UNLOAD] = on_model_unload, [CONTROL_MODEL_INDEX] = on_model_index,
      [CONTROL_TRACE_OPEN] = on_trace_open,
  };
  struct gateway *gateway = context;
  if (handlers[packet->type] != NULL) {
    handlers[packet->type](gateway, packet);
    return;
  }
  LOG_ERROR("the gateway sent a control message that is not a gateway's, it has to go",
            LOG_STR("message", control_type_name(packet->type)));
  child_kill(&gateway->child);
}

/* Nearly always the first sign that it has ended. */
static void on_lost(void *context, const mu_error *err) {
  struct gateway *gateway = context;
  LOG_VERBOSE("no more control messages from the gateway", LOG_STR("reason", err->message));
  gateway->listen_due = false;
  set_timer(gateway, leaving_ms);
}

/* ---- start, end, restart ----------------------------------------------------------------------------------------- */

/* There is no gateway any more, and it was not asked to leave. own_doing: as death_judge says. */
static void after_end(struct supervisor *s, bool own_doing, const char *why) {
  struct gateway *gateway = s->gateway;
  uint64_t delay;
  if (!restart_policy_death(&s->gateway_policy, clock_now_ns(), own_doing, &delay)) {
    LOG_ERROR("the gateway cannot be started", LOG_STR("error", why));
    supervisor_give_up(s);
    return;
  }
  LOG_ERROR("gateway ended, will be started again", LOG_STR("error", why), LOG_INT("delay_ms", delay / NS_PER_MS));
  gateway->state = GATEWAY_BACKOFF;
  set_timer(gateway, delay / NS_PER_MS);
}

/* The one beside the present one has ended: the one before it, or the one that was to come. */
static void after_other_end(struct gateway *gateway, enum gateway_state state, const char *why) {
  struct supervisor *s = gateway->supervisor;
  if (state == GATEWAY_STARTING) {
    forget_heir(s);
    upgrade_gateway_failed(s, why);
    return;
  }
  if (state == GATEWAY_HANDING_OVER)
    LOG_ERROR("gateway ended before it had handed everything over", LOG_STR("error", why));
  upgrade_gateway_left(s);
}

static void on_ended(void *context, int code, int status) {
  struct gateway *gateway = context;
  struct supervisor *s = gateway->supervisor;
  const struct death_facts facts = {.code = code, .status = status, .out_of_memory = oom_watch_poll(&s->oom)};
  const struct death death = death_judge(&facts);
  enum gateway_state state = gateway->state;
  uv_timer_stop(&gateway->timer);
  gateway->state = GATEWAY_GONE;
  gateway->listen_due = false;
  if (s->phase >= PHASE_DRAINING) {
    if (state != GATEWAY_GONE && s->phase == PHASE_DRAINING)
      LOG_ERROR("gateway ended before it had finished", LOG_STR("error", death.why));
    supervisor_gateway_finished(s);
  } else if (is_present(gateway)) {
    after_end(s, death.blamed, death.why);
  } else {
    after_other_end(gateway, state, death.why);
  }
  operations_forget(s, gateway);
  workers_detach(s, gateway);
  if (is_present(gateway) && s->phase < PHASE_DRAINING) served_models_forget(s);
  gateways_check_listen(s);
}

static void on_timer(uv_timer_t *timer) {
  struct gateway *gateway = timer->data;
  if (gateway->listen_due) {
    open_up(gateway);
  } else if (child_runs(&gateway->child)) {
    child_kill(&gateway->child);
  } else {
    gateway->supervisor->gateway_restarts++;
    gateway_start(gateway->supervisor);
  }
}

static const struct child_events child_events = {on_message, on_lost, on_ended};

static mu_status spawn(struct gateway *gateway, mu_error *err) {
  const struct supervisor *s = gateway->supervisor;
  const struct child_spec spec = {
      .title = "muster: gateway", .role = "gateway", .log = log_current(), .log_format = s->log_format};
  return child_start(&gateway->child, s->loop, &spec, &child_events, gateway, err);
}

void gateways_init(struct supervisor *s) {
  s->gateway = &s->gateways[0];
  s->heir = -1;
  s->gateway_policy.longest_delay_ns = longest_delay_ns;
  for (uint32_t i = 0; i < GATEWAYS; i++) {
    struct gateway *gateway = &s->gateways[i];
    *gateway = (struct gateway){.supervisor = s, .slot = i};
    uv_timer_init(net_loop_uv(s->loop), &gateway->timer);
    gateway->timer.data = gateway;
  }
}

/* It is told to listen when they are there. */
static void await_workers(struct gateway *gateway) {
  gateway->listen_due = true;
  set_timer(gateway, reunion_ns / NS_PER_MS);
  gateways_check_listen(gateway->supervisor);
}

mu_status gateway_adopt(struct supervisor *s, const struct handover_gateway *from, mu_error *err) {
  struct gateway *gateway = &s->gateways[from->slot];
  gateway->state = (enum gateway_state)from->state;
  mu_status status =
      child_adopt(&gateway->child, s->loop, from->pid, from->pidfd, from->control, &child_events, gateway, err);
  if (status != MU_OK) return status;
  if (is_present(gateway) && gateway->state == GATEWAY_STARTING)
    await_workers(gateway); /* heard twice it does no harm */
  return MU_OK;
}

/* Starts it and tells it all that there is to know. It does not listen yet. */
static mu_status start(struct gateway *gateway, mu_error *err) {
  struct supervisor *s = gateway->supervisor;
  gateway->state = GATEWAY_STARTING;
  mu_status status = spawn(gateway, err);
  if (status != MU_OK) {
    gateway->state = GATEWAY_GONE;
    return status;
  }
  LOG_INFO("gateway started", LOG_INT("pid", child_pid(&gateway->child)));
  const struct control_gateway_start message = {
      .options = {s->encoded_options.data, s->encoded_options.size},
      .n_http = s->listeners.n_http,
      .n_grpc = s->listeners.n_grpc,
      .n_metrics = s->listeners.n_metrics,
  };
  gateway_tell(gateway, CONTROL_GATEWAY_START, &message, s->listeners.fds, listeners_count(&s->listeners));
  served_models_tell(s, gateway);
  regions_tell(s, gateway);
  model_notes_tell(s, gateway);
  gpus_tell_gateway(s, gateway);
  return MU_OK;
}

void gateway_start(struct supervisor *s) {
  mu_error err;
  if (start(s->gateway, &err) != MU_OK) {
    after_end(s, true, err.message);
    return;
  }
  workers_attach(s, s->gateway);
  await_workers(s->gateway);
}

mu_status gateway_start_successor(struct supervisor *s, mu_error *err) {
  struct gateway *successor = gateway_other(s);
  if (child_runs(&successor->child)) return mu_fail(err, MU_UNAVAILABLE, "a gateway is still handing over");
  mu_status status = start(successor, err);
  if (status != MU_OK) return status;
  set_timer(successor, succession_ns / NS_PER_MS);
  workers_attach(s, successor);
  gateways_check_listen(s);
  return MU_OK;
}

/* ---- stop -------------------------------------------------------------------------------------------------------- */

bool gateways_drain(struct supervisor *s, uint64_t deadline_ns) {
  const struct control_drain message = {(uint64_t)s->options->drain_delay_ns, deadline_ns};
  bool draining = false;
  for (size_t i = 0; i < GATEWAYS; i++) {
    struct gateway *gateway = &s->gateways[i];
    uv_timer_stop(&gateway->timer);
    gateway->listen_due = false;
    if (gateway->child.link == NULL || gateway->state == GATEWAY_GONE) continue;
    if (is_successor(gateway)) {
      gateway->state = GATEWAY_GONE;
      child_kill(&gateway->child);
      continue;
    }
    gateway->state = GATEWAY_DRAINING;
    gateway_tell(gateway, CONTROL_DRAIN, &message, NULL, 0);
    draining = true;
  }
  return draining;
}

void gateways_stop(struct supervisor *s, bool now) {
  for (size_t i = 0; i < GATEWAYS; i++) {
    uv_timer_stop(&s->gateways[i].timer);
    s->gateways[i].state = GATEWAY_GONE;
    if (now) child_kill(&s->gateways[i].child);
  }
}

bool gateways_gone(const struct supervisor *s) {
  for (size_t i = 0; i < GATEWAYS; i++)
    if (child_runs(&s->gateways[i].child)) return false;
  return true;
}
