#include <signal.h>
#include <unistd.h>

#include "supervisor/state.h"

/* A gateway that has closed its control socket has this long to be gone. */
static const uint64_t leaving_ms = 5000;
/* While the next one waits nobody is answered: a gateway that dies again and again is worth another try every second.
 */
static const uint64_t longest_delay_ns = NS_PER_S;

static void on_timer(uv_timer_t *timer);

const char *gateway_state_name(enum gateway_state state) {
  static const char *const names[] = {
      [GATEWAY_STARTING] = "starting", [GATEWAY_READY] = "ready", [GATEWAY_DRAINING] = "draining",
      [GATEWAY_BACKOFF] = "backoff",   [GATEWAY_GONE] = "gone",
  };
  return names[state];
}

static void kill_process(struct gateway *gateway) {
  if (gateway->process != NULL) process_kill(gateway->process, SIGKILL);
}

void gateway_tell(struct supervisor *s, enum control_type type, const void *message, const int *fds, size_t n_fds) {
  if (s->gateway.link == NULL) return;
  mu_status status = control_link_send(s->gateway.link, type, message, fds, n_fds);
  if (status == MU_OK || status == MU_CANCELED) return; /* the latter: its end is on its way to us */
  LOG_ERROR("cannot speak to the gateway, it is started anew", LOG_STR("message", control_type_name(type)),
            LOG_STR("error", status_name(status)));
  kill_process(&s->gateway);
}

/* ---- what it says ------------------------------------------------------------------------------------------------ */

static void on_ready(struct supervisor *s, const struct control_packet *packet) {
  struct gateway *gateway = &s->gateway;
  if (gateway->state != GATEWAY_STARTING) return;
  gateway->state = GATEWAY_READY;
  restart_policy_ready(&gateway->policy, clock_now_ns());
  LOG_INFO("gateway ready", LOG_INT("pid", process_pid(gateway->process)), LOG_INT("loops", gateway->n_http));
  supervisor_check(s);
  reload_marked(s); /* a mark that the one before did not answer: this one knows all that is to be known */
}

static void on_attached(struct supervisor *s, const struct control_packet *packet) {
  workers_attached(s, &packet->worker_event);
}

static void on_retired(struct supervisor *s, const struct control_packet *packet) {
  workers_retired(s, &packet->worker_event);
}

static void on_removed(struct supervisor *s, const struct control_packet *packet) {
  if (s->phase < PHASE_DRAINING) served_models_removed(s, packet->model_number.model);
}

static void on_marked(struct supervisor *s, const struct control_packet *packet) {
  if (packet->mark.serial == s->reload.serial) reload_marked(s);
}

static void on_hung(struct supervisor *s, const struct control_packet *packet) {
  workers_condemn(s, &packet->worker_event, DEATH_HUNG);
}

static void on_broken(struct supervisor *s, const struct control_packet *packet) {
  workers_condemn(s, &packet->worker_event, DEATH_BROKEN);
}

static void on_drained(struct supervisor *s, const struct control_packet *packet) {
  if (s->gateway.state != GATEWAY_DRAINING) return;
  s->gateway.state = GATEWAY_GONE; /* it leaves by itself now */
  supervisor_gateway_finished(s);
}

static void on_message(void *context, struct control_packet *packet) {
  static void (*const handlers[CONTROL_TYPE_COUNT])(struct supervisor *, const struct control_packet *) = {
      [CONTROL_GATEWAY_READY] = on_ready,   [CONTROL_WORKER_ATTACHED] = on_attached,
      [CONTROL_WORKER_HUNG] = on_hung,      [CONTROL_WORKER_BROKEN] = on_broken,
      [CONTROL_DRAINED] = on_drained,       [CONTROL_WORKER_RETIRED] = on_retired,
      [CONTROL_MODEL_REMOVED] = on_removed, [CONTROL_MARKED] = on_marked,
  };
  struct supervisor *s = context;
  if (handlers[packet->type] != NULL) {
    handlers[packet->type](s, packet);
    return;
  }
  LOG_ERROR("the gateway sent a control message that is not a gateway's, it is started anew",
            LOG_STR("message", control_type_name(packet->type)));
  kill_process(&s->gateway);
}

/* Nearly always the first sign that it has ended. */
static void on_lost(void *context, const mu_error *err) {
  struct supervisor *s = context;
  LOG_VERBOSE("no more control messages from the gateway", LOG_STR("reason", err->message));
  uv_timer_start(&s->gateway.timer, on_timer, leaving_ms, 0);
}

/* ---- start, end, restart ----------------------------------------------------------------------------------------- */

/* There is no gateway any more, and it was not asked to leave. own_doing: as death_judge says. */
static void after_end(struct supervisor *s, bool own_doing, const char *why) {
  struct gateway *gateway = &s->gateway;
  uint64_t delay;
  if (!restart_policy_death(&gateway->policy, clock_now_ns(), own_doing, &delay)) {
    LOG_ERROR("the gateway cannot be started", LOG_STR("error", why));
    supervisor_give_up(s);
    return;
  }
  LOG_ERROR("gateway ended, will be started again", LOG_STR("error", why), LOG_INT("delay_ms", delay / NS_PER_MS));
  gateway->state = GATEWAY_BACKOFF;
  uv_timer_start(&gateway->timer, on_timer, delay / NS_PER_MS, 0);
}

static void on_ended(void *context, int code, int status) {
  struct supervisor *s = context;
  struct gateway *gateway = &s->gateway;
  if (gateway->link != NULL) control_link_read(gateway->link);
  const struct death_facts facts = {.code = code, .status = status, .out_of_memory = oom_watch_poll(&s->oom)};
  const struct death death = death_judge(&facts);
  uv_timer_stop(&gateway->timer);
  control_link_free(gateway->link);
  gateway->link = NULL;
  process_free(gateway->process);
  gateway->process = NULL;
  if (s->phase >= PHASE_DRAINING) {
    if (gateway->state != GATEWAY_GONE && s->phase == PHASE_DRAINING)
      LOG_ERROR("gateway ended before it had finished", LOG_STR("error", death.why));
    gateway->state = GATEWAY_GONE;
    supervisor_gateway_finished(s);
  } else {
    after_end(s, death.blamed, death.why);
  }
  workers_detach(s);
  if (s->phase < PHASE_DRAINING) served_models_forget(s);
}

static void on_timer(uv_timer_t *timer) {
  struct supervisor *s = timer->data;
  if (s->gateway.process != NULL) {
    kill_process(&s->gateway);
  } else {
    s->gateway.restarts++;
    gateway_start(s);
  }
}

static mu_status spawn(struct supervisor *s, mu_error *err) {
  static const struct control_link_events events = {on_message, on_lost};
  struct gateway *gateway = &s->gateway;
  const struct process_spec spec = {"muster: gateway", "gateway", s->log_level, s->log_format};
  int control;
  mu_status status = process_spawn(s->loop, &spec, on_ended, s, &gateway->process, &control, err);
  if (status != MU_OK) return status;
  gateway->link = control_link_create(s->loop, control, &events, s);
  if (gateway->link == NULL) {
    close(control);
    LOG_ERROR("no memory to speak to the gateway");
    kill_process(&s->gateway);
  }
  return MU_OK;
}

void gateway_init(struct supervisor *s) {
  uv_timer_init(net_loop_uv(s->loop), &s->gateway.timer);
  s->gateway.timer.data = s;
  s->gateway.policy.longest_delay_ns = longest_delay_ns;
}

void gateway_start(struct supervisor *s) {
  struct gateway *gateway = &s->gateway;
  mu_error err;
  gateway->state = GATEWAY_STARTING;
  if (spawn(s, &err) != MU_OK) {
    after_end(s, true, err.message);
    return;
  }
  LOG_INFO("gateway started", LOG_INT("pid", process_pid(gateway->process)));
  const struct control_gateway_start message = {
      .options = {s->encoded_options.data, s->encoded_options.size},
      .n_http = gateway->n_http,
      .n_metrics = gateway->n_metrics,
      .n_models = served_models_told(s),
      .n_workers = workers_ready(s),
  };
  gateway_tell(s, CONTROL_GATEWAY_START, &message, gateway->fds, gateway->n_http + gateway->n_metrics);
  served_models_tell(s);
  workers_attach(s);
}

bool gateway_drain(struct supervisor *s, uint64_t deadline_ns) {
  struct gateway *gateway = &s->gateway;
  uv_timer_stop(&gateway->timer);
  if (gateway->process == NULL || gateway->link == NULL) return false;
  const struct control_drain message = {(uint64_t)s->options->drain_delay_ns, deadline_ns};
  gateway->state = GATEWAY_DRAINING;
  gateway_tell(s, CONTROL_DRAIN, &message, NULL, 0);
  return true;
}

void gateway_stop(struct supervisor *s, bool now) {
  uv_timer_stop(&s->gateway.timer);
  s->gateway.state = GATEWAY_GONE;
  if (now) kill_process(&s->gateway);
}
