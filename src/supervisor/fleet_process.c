/*
 * The fleet process: start, what it says, the watch over it, restart. NVML can hang in the kernel, where no signal
 * reaches: a process that was killed and does not go is left to itself, and another one is started beside it.
 */
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "gpu/inventory_json.h"
#include "supervisor/state.h"

/* Processes that were killed and are not gone; past that nobody is started any more. */
enum { STUCK_MAX = 3 };
/* The first look may have to wake the GPUs up, which takes long where the driver does not keep them awake. */
enum { OPENING_FACTOR = 6 };
/* Beyond the time that a call may take: for the sign of life to come through. */
static const uint64_t silence_ns = 2 * NS_PER_S;
static const uint64_t retry_ns = 30 * NS_PER_S;

struct fleet_process {
  struct list link; /* fleet.processes */
  struct supervisor *supervisor;
  struct child child; /* without a link: killed */
};

static void spawn_due(struct supervisor *s, uint64_t after_ns);

const char *fleet_state_name(enum fleet_state state) {
  static const char *const names[] = {
      [FLEET_NONE] = "none",
      [FLEET_STARTING] = "starting",
      [FLEET_ANSWERING] = "answering",
      [FLEET_STALLED] = "not answering",
  };
  return names[state];
}

/* ---- how it is --------------------------------------------------------------------------------------------------- */

/* Nothing is to be had from it for now; said once. Models do not wait for it any longer. */
static void stall(struct supervisor *s, const char *why) {
  struct fleet *fleet = &s->fleet;
  bool news = fleet->state != FLEET_STALLED;
  fleet->state = FLEET_STALLED;
  snprintf(fleet->error, sizeof fleet->error, "%s", why);
  if (news) {
    fleet->stalls++;
    LOG_ERROR("nothing is known of the GPUs for now, serving goes on", LOG_STR("error", why));
  }
  bool waited_for = !s->gpus.known && s->gpus.error[0] == '\0';
  if (!s->gpus.known) snprintf(s->gpus.error, sizeof s->gpus.error, "%.*s", GPU_TEXT_SIZE - 1, why);
  if (waited_for) gpus_known(s);
  if (news) gpus_tell(s);
  reload_looked(s, why);
}

/* Kills the present one and does not wait for it. */
static void abandon(struct supervisor *s) {
  struct fleet_process *present = s->fleet.present;
  s->fleet.present = NULL;
  if (present == NULL) return;
  child_kill(&present->child);
  child_hang_up(&present->child);
}

static void start_again(struct supervisor *s) {
  uint64_t delay;
  abandon(s);
  if (!restart_policy_death(&s->fleet.policy, clock_now_ns(), true, &delay)) {
    delay = retry_ns; /* five times in a row it did not get to its first answer */
    s->fleet.policy.early_deaths = RESTART_EARLY_DEATHS_MAX - 1;
  }
  s->fleet.restarts++;
  spawn_due(s, delay);
}

/* ---- what it says ------------------------------------------------------------------------------------------------ */

static uint64_t call_limit(const struct supervisor *s) { return (uint64_t)s->options->nvml_timeout_ns; }

/* Heard of: the next sign of life has to come in time. */
static void expect_sign(struct supervisor *s) {
  uint64_t ms = (call_limit(s) + silence_ns) / NS_PER_MS;
  uv_timer_start(&s->fleet.timer, s->fleet.on_timer, ms, 0);
}

static void on_alive(struct supervisor *s, const struct control_packet *packet) {
  const struct control_fleet_alive *message = &packet->fleet_alive;
  char why[256];
  uint64_t limit = call_limit(s);
  if (message->call_ns <= limit) return;
  snprintf(why, sizeof why, "NVML has not answered for %.1f s%s%s", (double)message->call_ns / (double)NS_PER_S,
           message->call[0] != '\0' ? ", in " : "", message->call);
  stall(s, why);
  if (!message->opening || message->call_ns / OPENING_FACTOR > limit) start_again(s);
}

/* It has found no NVML, or one that does not work, and leaves. Where there were GPUs this is a fault (another version
 * of the library has been installed): what is known of them stays. */
static void take_absence(struct supervisor *s, const struct gpu_inventory *inventory, mu_status status) {
  struct fleet *fleet = &s->fleet;
  if (s->gpus.known && s->gpus.inventory.n_gpus > 0) {
    stall(s, inventory->error);
    return;
  }
  LOG_AT(status == MU_NOT_FOUND ? LOG_LEVEL_VERBOSE : LOG_LEVEL_WARNING, "no GPUs here",
         LOG_STR("because", inventory->error));
  bool first = !s->gpus.known, late = first && s->gpus.error[0] != '\0';
  fleet->state = FLEET_NONE;
  fleet->error[0] = '\0';
  abandon(s);
  uv_timer_stop(&fleet->timer);
  gpus_read(s, inventory);
  if (first) gpus_known(s);
  if (late) reload_for_gpus(s); /* models could not wait, and some may do without */
  reload_looked(s, status == MU_NOT_FOUND ? NULL : inventory->error);
}

/* They are nobody's: not listed among the GPUs, and not used. */
static void tell_unreadable(const struct gpu_inventory *inventory) {
  for (uint32_t i = 0; i < inventory->n_gpus; i++)
    if (inventory->gpus[i].uuid[0] == '\0' && !inventory->readings[i].lost)
      LOG_WARNING("GPU cannot be read and is not used", LOG_INT("gpu", inventory->gpus[i].index),
                  LOG_STR("error", inventory->readings[i].error));
}

static void take_presence(struct supervisor *s, const struct gpu_inventory *inventory) {
  struct fleet *fleet = &s->fleet;
  bool first = !s->gpus.known, late = first && s->gpus.error[0] != '\0';
  if (fleet->state != FLEET_ANSWERING) {
    LOG_INFO(fleet->state == FLEET_STALLED ? "NVML answers again" : "GPUs are known",
             LOG_INT("gpus", inventory->n_gpus), LOG_STR("driver", inventory->driver));
    fleet->state = FLEET_ANSWERING;
    fleet->error[0] = '\0';
    restart_policy_ready(&fleet->policy, clock_now_ns());
    tell_unreadable(inventory);
  }
  gpus_read(s, inventory);
  if (first) gpus_known(s);
  if (late) reload_for_gpus(s); /* for the models that could not wait */
  reload_looked(s, NULL);
}

static void on_inventory(struct supervisor *s, const struct control_packet *packet) {
  static struct gpu_inventory inventory; /* large; the supervisor's one thread */
  const struct control_bytes *bytes = &packet->fleet_inventory.inventory;
  mu_error err = {{0}};
  json_t *json = json_loadb(bytes->data, bytes->size, JSON_REJECT_DUPLICATES, NULL);
  mu_status status = json != NULL ? gpu_inventory_from_json(json, &inventory, &err)
                                  : mu_fail(&err, MU_INVALID, "what it says of the GPUs is no JSON");
  json_decref(json);
  if (status != MU_OK) {
    stall(s, err.message);
    start_again(s);
  } else if (packet->fleet_inventory.status != MU_OK) {
    take_absence(s, &inventory, (mu_status)packet->fleet_inventory.status);
  } else {
    take_presence(s, &inventory);
  }
}

static void on_event(struct supervisor *s, const struct control_packet *packet) {
  gpus_xid(s, packet->fleet_event.uuid, packet->fleet_event.xid);
}

static void on_message(void *context, struct control_packet *packet) {
  static void (*const handlers[CONTROL_TYPE_COUNT])(struct supervisor *, const struct control_packet *) = {
      [CONTROL_FLEET_ALIVE] = on_alive,
      [CONTROL_FLEET_INVENTORY] = on_inventory,
      [CONTROL_FLEET_EVENT] = on_event,
  };
  struct fleet_process *from = context;
  struct supervisor *s = from->supervisor;
  if (s->fleet.present != from || s->phase >= PHASE_STOPPING) return;
  expect_sign(s);
  if (handlers[packet->type] != NULL) {
    handlers[packet->type](s, packet);
    return;
  }
  stall(s, "the fleet process sent a message that is not its own");
  start_again(s);
}

/* ---- start and end ----------------------------------------------------------------------------------------------- */

static uint32_t count_stuck(const struct supervisor *s) {
  uint32_t n = 0;
  list_each (link, &s->fleet.processes) n += list_item(link, struct fleet_process, link) != s->fleet.present;
  return n;
}

static void on_ended(void *context, int code, int status) {
  struct fleet_process *ended = context;
  struct supervisor *s = ended->supervisor;
  bool present = s->fleet.present == ended; /* after its last words */
  const struct death_facts facts = {.code = code, .status = status};
  const struct death death = death_judge(&facts);
  if (present) s->fleet.present = NULL;
  list_remove(&ended->link);
  free(ended);
  if (!present || s->phase >= PHASE_STOPPING) return;
  char why[sizeof death.why + 64];
  snprintf(why, sizeof why, "%s", s->fleet.state == FLEET_STALLED ? s->fleet.error : "");
  if (why[0] == '\0') snprintf(why, sizeof why, "the process that asks NVML %s", death.why);
  stall(s, why);
  start_again(s);
}

static const struct child_events child_events = {.message = on_message, .ended = on_ended};

/* A process is watched from here on; NULL without memory. */
static struct fleet_process *add_process(struct supervisor *s) {
  struct fleet_process *made = calloc(1, sizeof *made);
  if (made == NULL) return NULL;
  made->supervisor = s;
  list_push_back(&s->fleet.processes, &made->link);
  return made;
}

static mu_status spawn(struct supervisor *s, mu_error *err) {
  const struct child_spec spec = {
      .title = "muster: fleet", .role = "fleet", .log = log_current(), .log_format = s->log_format};
  struct fleet_process *made = add_process(s);
  if (made == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory to start the process that asks NVML");
  mu_status status = child_start(&made->child, s->loop, &spec, &child_events, made, err);
  if (status != MU_OK) {
    list_remove(&made->link);
    free(made);
    return status;
  }
  const struct control_fleet_start message = {{s->encoded_options.data, s->encoded_options.size}};
  status = child_send(&made->child, CONTROL_FLEET_START, &message, NULL, 0);
  if (status != MU_OK) {
    child_kill(&made->child);
    return mu_fail(err, status, "cannot speak to the process that asks NVML (%s)", status_name(status));
  }
  s->fleet.present = made;
  LOG_VERBOSE("fleet started", LOG_INT("pid", child_pid(&made->child)));
  return MU_OK;
}

static void try_spawn(struct supervisor *s) {
  mu_error err = {{0}};
  uint32_t stuck = count_stuck(s);
  if (stuck >= STUCK_MAX) {
    spawn_due(s, retry_ns);
    return;
  }
  if (spawn(s, &err) == MU_OK) {
    expect_sign(s);
    return;
  }
  stall(s, err.message);
  spawn_due(s, retry_ns);
}

/* No sign of life in time, or the time to start it has come. */
static void on_timer(uv_timer_t *timer) {
  struct supervisor *s = timer->data;
  if (s->phase >= PHASE_STOPPING) return;
  if (s->fleet.present == NULL) {
    try_spawn(s);
    return;
  }
  stall(s, "the process that asks NVML gives no sign of life");
  start_again(s);
}

static void spawn_due(struct supervisor *s, uint64_t after_ns) {
  uv_timer_start(&s->fleet.timer, on_timer, after_ns / NS_PER_MS, 0);
}

void fleet_init(struct supervisor *s) {
  list_init(&s->fleet.processes);
  s->fleet.on_timer = on_timer;
  s->fleet.policy.longest_delay_ns = retry_ns;
  uv_timer_init(net_loop_uv(s->loop), &s->fleet.timer);
  s->fleet.timer.data = s;
}

void fleet_start(struct supervisor *s) {
  if (s->options->simulate_gpus > 0) {
    gpus_simulate(&s->gpus, (uint32_t)s->options->simulate_gpus);
    gpus_known(s);
    return;
  }
  s->fleet.state = FLEET_STARTING;
  try_spawn(s);
}

bool fleet_look_again(struct supervisor *s) {
  if (s->fleet.state != FLEET_NONE || s->options->simulate_gpus > 0) return false;
  s->fleet.state = FLEET_STARTING;
  s->fleet.policy = (struct restart_policy){.longest_delay_ns = retry_ns};
  try_spawn(s);
  return s->fleet.state == FLEET_STARTING; /* else it cannot be asked, which is said */
}

void fleet_tell(struct supervisor *s, enum control_type type, const void *message) {
  if (s->fleet.present == NULL) return;
  mu_status status = child_send(&s->fleet.present->child, type, message, NULL, 0);
  if (status == MU_OK || status == MU_CANCELED) return; /* canceled: its end is on its way */
  stall(s, status_name(status));
  start_again(s);
}

void fleet_stop(struct supervisor *s) {
  if (s->fleet.processes.next == NULL) return; /* never begun */
  uv_timer_stop(&s->fleet.timer);
  abandon(s);
}

void fleet_free(struct supervisor *s) {
  if (s->fleet.processes.next == NULL) return;
  for (struct list *link; (link = list_pop_front(&s->fleet.processes)) != NULL;) {
    struct fleet_process *process = list_item(link, struct fleet_process, link);
    child_forget(&process->child);
    free(process);
  }
}

/* ---- upgrade ----------------------------------------------------------------------------------------------------- */

size_t fleet_count(const struct supervisor *s) {
  size_t n = 0;
  list_each (link, &s->fleet.processes) n++;
  return n;
}

void fleet_give(const struct supervisor *s, struct handover *state) {
  list_each (link, &s->fleet.processes) {
    const struct fleet_process *process = list_item(link, struct fleet_process, link);
    state->fleet[state->n_fleet++] =
        (struct handover_fleet){child_pid(&process->child), process_pidfd(process->child.process)};
  }
}

mu_status fleet_take(struct supervisor *s, const struct handover_fleet *from, mu_error *err) {
  struct fleet_process *process = add_process(s);
  if (process == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory to watch the process that asks NVML");
  mu_status status = child_adopt(&process->child, s->loop, from->pid, from->pidfd, -1, &child_events, process, err);
  if (status == MU_OK) {
    child_kill(&process->child);
    return MU_OK;
  }
  list_remove(&process->link);
  free(process);
  return status;
}

/* ---- to the gateways --------------------------------------------------------------------------------------------- */

json_t *fleet_json(const struct supervisor *s) {
  const struct fleet *fleet = &s->fleet;
  return json_pack("{s:s, s:i, s:i, s:s}", "state", fleet_state_name(fleet->state), "restarts", (int)fleet->restarts,
                   "stalls", (int)fleet->stalls, "error", fleet->error);
}

/* NULL without memory. */
static char *state_text(const struct supervisor *s) {
  json_t *json = json_pack("{s:o, s:o}", "fleet", fleet_json(s), "gpus", gpus_json(&s->gpus));
  char *text = json != NULL ? json_dumps(json, JSON_COMPACT) : NULL;
  json_decref(json);
  return text;
}

static char *inventory_text(const struct supervisor *s) {
  json_t *json = gpu_inventory_to_json(&s->gpus.inventory);
  char *text = json != NULL ? json_dumps(json, JSON_COMPACT) : NULL;
  json_decref(json);
  return text;
}

/* gateway: NULL: all. Where there never was a GPU there is nothing to say. */
static void tell(struct supervisor *s, struct gateway *gateway) {
  if (s->gpus.n_guards == 0 && s->fleet.stalls == 0) return;
  /* figures that have grown old are worse than none */
  bool fresh = s->fleet.state == FLEET_ANSWERING || s->options->simulate_gpus > 0;
  char *state = state_text(s), *inventory = fresh ? inventory_text(s) : strdup("");
  if (state != NULL && inventory != NULL) {
    const struct control_gpus message = {{inventory, strlen(inventory)}, {state, strlen(state)}};
    if (gateway != NULL)
      gateway_tell(gateway, CONTROL_GPUS, &message, NULL, 0);
    else
      gateways_tell(s, CONTROL_GPUS, &message);
  } else {
    LOG_ERROR("no memory to tell the gateways of the GPUs");
  }
  free(state);
  free(inventory);
}

void gpus_tell(struct supervisor *s) { tell(s, NULL); }
void gpus_tell_gateway(struct supervisor *s, struct gateway *gateway) { tell(s, gateway); }
