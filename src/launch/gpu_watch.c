#include "launch/gpu_watch.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/child.h"
#include "gpu/inventory_json.h"
#include "gpu/xid.h"
#include "launch/state.h"

struct gpu_watch {
  struct launch *launch;
  struct child child;
  struct buffer options; /* what it is started with */
  uint64_t call_limit_ns;
  struct restart_policy policy;
  uv_timer_t timer; /* until the next sign of life, or the next start */
  bool known;       /* inventory is one of NVML's */
  bool stalled;     /* nothing is heard of the GPUs for now; said once */
  bool stopped;
  struct gpu_inventory inventory, fresh;
};

/* Beyond the time that a call may take: for the sign of life to come through. The first look may have to wake the GPUs
 * up. */
enum { OPENING_FACTOR = 6 };
static const uint64_t silence_ns = 2 * NS_PER_S, retry_ns = 30 * NS_PER_S;

/* ---- what is decided about a GPU --------------------------------------------------------------------------------- */

static bool is_on(const struct plan_gpu *gpu, int32_t index) {
  return gpu->device != NULL && gpu->device->index == index;
}

static bool is_service_on(const struct launched *service, int32_t index) {
  return service->plan.gpu != NULL && is_on(service->plan.gpu, index);
}

/* Of that index, in all groups: a MIG device has what its GPU has. false: it was said already. */
static bool set_fault(struct launch *launch, int32_t index, const char *fault) {
  bool changed = false;
  for (size_t i = 0; i < launch->plan->n_groups; i++)
    for (uint32_t k = 0; k < launch->plan->groups[i].n_gpus; k++) {
      struct plan_gpu *gpu = &launch->plan->groups[i].gpus[k];
      if (!is_on(gpu, index) || (gpu->fault[0] != '\0') == (fault[0] != '\0')) continue;
      snprintf(gpu->fault, sizeof gpu->fault, "%s", fault);
      changed = true;
    }
  return changed;
}

/* Ends those for which `concerned` holds, as if they had died by themselves; how many there are. */
static uint32_t end_services(struct launch *launch, int32_t index, bool clients, const char *cause) {
  uint32_t n = 0;
  list_each (link, &launch->services) {
    struct launched *service = list_item(link, struct launched, link);
    if (!is_service_on(service, index) || (clients && !service->under_mps) || !service_condemn(service, cause))
      continue;
    n++;
  }
  members_signal_due(launch, SIGTERM);
  return n;
}

static void block(struct gpu_watch *watch, int32_t index, enum xid_action action, const char *cause) {
  static const char *const words[] = {[XID_DRAIN] = "drained", [XID_FENCE] = "fenced", [XID_REMOVE] = "removed"};
  char fault[LAUNCH_FAULT_SIZE];
  snprintf(fault, sizeof fault, "GPU %d is %s: %.300s", (int)index, words[action], cause);
  if (!set_fault(watch->launch, index, fault)) return;
  uint32_t n = action == XID_DRAIN ? 0 : end_services(watch->launch, index, false, fault);
  LOG_ERROR("nothing is started on a GPU any more", LOG_INT("gpu", index), LOG_STR("reason", fault),
            LOG_INT("services", n));
  launch_changed(watch->launch);
}

/* One fault ends all clients of a daemon, which takes no new ones before the last one has left. A program that is alone
 * with its fault ends by it, or does not: nobody but itself can say. */
static void restart_clients(struct gpu_watch *watch, int32_t index, const char *cause) {
  uint32_t n = end_services(watch->launch, index, true, cause);
  if (n == 0) return;
  launch_mps_settle(watch->launch, index);
  LOG_WARNING("MPS clients are started again for a fault of their GPU", LOG_INT("gpu", index), LOG_INT("services", n));
}

static void act(struct gpu_watch *watch, int32_t index, enum xid_action action, const char *cause) {
  if (action == XID_RESTART)
    restart_clients(watch, index, cause);
  else if (action >= XID_DRAIN)
    block(watch, index, action, cause);
}

const char *gpu_watch_fault(const struct launched *service) {
  return service->plan.gpu != NULL ? service->plan.gpu->fault : "";
}

bool gpu_watch_admit(struct launched *service) {
  const char *fault = gpu_watch_fault(service);
  if (fault[0] != '\0') service_fail(service, fault);
  return fault[0] == '\0';
}

void gpu_watch_forgive(struct launched *service) {
  const struct plan_gpu *gpu = service->plan.gpu;
  if (gpu == NULL || gpu->fault[0] == '\0') return;
  LOG_INFO("a GPU may be used again, somebody wants it", LOG_INT("gpu", gpu->device->index),
           LOG_STR("was", gpu->fault));
  set_fault(service->launch, gpu->device->index, "");
}

/* ---- what is said of GPUs ---------------------------------------------------------------------------------------- */

static bool is_used(const struct gpu_watch *watch, int32_t index) {
  const struct plan *plan = watch->launch->plan;
  for (size_t i = 0; i < plan->n_groups; i++)
    for (uint32_t k = 0; k < plan->groups[i].n_gpus; k++)
      if (is_on(&plan->groups[i].gpus[k], index)) return true;
  return false;
}

static void on_event(struct gpu_watch *watch, const struct control_packet *packet) {
  const char *uuid = packet->fleet_event.uuid;
  uint64_t xid = packet->fleet_event.xid;
  const struct xid_policy *policy = xid_find(xid);
  int32_t position = watch->known && uuid[0] != '\0' ? gpu_find(&watch->inventory, uuid) : GPU_UNKNOWN;
  int32_t index = position != GPU_UNKNOWN ? watch->inventory.gpus[position].index : GPU_UNKNOWN;
  char cause[160];
  if (position != GPU_UNKNOWN && !is_used(watch, index)) return;
  snprintf(cause, sizeof cause, "Xid %" PRIu64 ", %s", xid, policy->meaning);
  LOG_WARNING("GPU fault", LOG_INT("gpu", index), LOG_STR("uuid", uuid), LOG_INT("xid", xid),
              LOG_STR("meaning", policy->meaning));
  if (index != GPU_UNKNOWN) act(watch, index, policy->action, xid != 0 ? cause : policy->meaning);
}

/* Only what is new counts, so that people can decide otherwise; what is lost is so as long as NVML says it. */
static void judge_reading(struct gpu_watch *watch, uint32_t position) {
  const struct gpu_inventory *fresh = &watch->fresh;
  const struct gpu *gpu = &fresh->gpus[position];
  const struct gpu_reading *reading = &fresh->readings[position];
  int32_t before = watch->known ? gpu_find(&watch->inventory, gpu->uuid) : GPU_UNKNOWN;
  const char *meaning;
  if (!is_used(watch, gpu->index)) return;
  if (reading->lost) {
    block(watch, gpu->index, XID_REMOVE, "NVML says that it is lost");
    return;
  }
  int32_t old = before != GPU_UNKNOWN ? watch->inventory.readings[before].recovery_action : 0;
  if (reading->recovery_action == old || reading->recovery_action == GPU_UNKNOWN) return;
  enum xid_action action = gpu_recovery_action(reading->recovery_action, &meaning);
  if (action != XID_LOG) act(watch, gpu->index, action, meaning);
}

/* A process that looks anew does not find it any more. A MIG device can only be taken away while nothing runs there. */
static void find_missing(struct gpu_watch *watch) {
  const struct plan *plan = watch->launch->plan;
  for (size_t i = 0; i < plan->n_groups; i++)
    for (uint32_t k = 0; k < plan->groups[i].n_gpus; k++) {
      const struct plan_gpu *gpu = &plan->groups[i].gpus[k];
      if (gpu->device == NULL || gpu_find(&watch->fresh, gpu->uuid) != GPU_UNKNOWN) continue;
      /* one that is lost does not say its UUID to whom sees it for the first time: its reading says the rest */
      block(watch, gpu->device->index, XID_FENCE, "NVML does not list it any more");
    }
}

static void start_again(struct gpu_watch *watch, const char *why);

static void on_inventory(struct gpu_watch *watch, const struct control_packet *packet) {
  const struct control_bytes *bytes = &packet->fleet_inventory.inventory;
  mu_error err;
  json_t *json = json_loadb(bytes->data, bytes->size, JSON_REJECT_DUPLICATES, NULL);
  mu_status status = json != NULL ? gpu_inventory_from_json(json, &watch->fresh, &err)
                                  : mu_fail(&err, MU_INVALID, "what it says of the GPUs is no JSON");
  json_decref(json);
  if (status != MU_OK || packet->fleet_inventory.status != MU_OK) {
    start_again(watch, status != MU_OK ? err.message : watch->fresh.error);
    return;
  }
  if (watch->stalled) LOG_INFO("NVML answers again");
  watch->stalled = false;
  restart_policy_ready(&watch->policy, clock_now_ns());
  find_missing(watch);
  for (uint32_t i = 0; i < watch->fresh.n_gpus; i++) judge_reading(watch, i);
  watch->inventory = watch->fresh;
  watch->known = true;
}

/* ---- the process ------------------------------------------------------------------------------------------------- */

static void on_timer(uv_timer_t *timer);

static void set_timer(struct gpu_watch *watch, uint64_t after_ns) {
  uv_timer_start(&watch->timer, on_timer, after_ns / NS_PER_MS, 0);
}

/* Services go on. One that hangs in the kernel is waited for: its end starts the next one. */
static void start_again(struct gpu_watch *watch, const char *why) {
  uint64_t delay;
  if (!watch->stalled) LOG_ERROR("faults of GPUs are not heard of for now, services go on", LOG_STR("error", why));
  watch->stalled = true;
  child_hang_up(&watch->child);
  uv_timer_stop(&watch->timer);
  if (child_runs(&watch->child)) {
    child_kill(&watch->child);
    return;
  }
  if (!restart_policy_death(&watch->policy, clock_now_ns(), true, &delay)) {
    delay = retry_ns;
    watch->policy.early_deaths = RESTART_EARLY_DEATHS_MAX - 1;
  }
  set_timer(watch, delay);
}

static void on_alive(struct gpu_watch *watch, const struct control_packet *packet) {
  const struct control_fleet_alive *alive = &packet->fleet_alive;
  char why[160];
  if (alive->call_ns <= watch->call_limit_ns * (alive->opening ? OPENING_FACTOR : 1)) return;
  snprintf(why, sizeof why, "NVML has not answered for %.1f s, in %.80s", (double)alive->call_ns / (double)NS_PER_S,
           alive->call);
  start_again(watch, why);
}

static void on_message(void *context, struct control_packet *packet) {
  static void (*const handlers[CONTROL_TYPE_COUNT])(struct gpu_watch *, const struct control_packet *) = {
      [CONTROL_FLEET_ALIVE] = on_alive,
      [CONTROL_FLEET_INVENTORY] = on_inventory,
      [CONTROL_FLEET_EVENT] = on_event,
  };
  struct gpu_watch *watch = context;
  set_timer(watch, watch->call_limit_ns + silence_ns); /* heard of: the next sign has to come in time */
  if (handlers[packet->type] != NULL)
    handlers[packet->type](watch, packet);
  else
    start_again(watch, "the process that asks NVML sent a message that is not its own");
}

static void on_ended(void *context, int code, int status) {
  struct gpu_watch *watch = context;
  char why[160];
  const struct death death = death_judge(&(struct death_facts){.code = code, .status = status, .wish_cause = ""});
  snprintf(why, sizeof why, "the process that asks NVML %.100s", death.why);
  if (!watch->stopped) start_again(watch, why);
}

static const struct child_events child_events = {.message = on_message, .ended = on_ended};

static mu_status spawn(struct gpu_watch *watch, mu_error *err) {
  int output = launch_open_output(watch->launch);
  if (output < 0) return mu_fail(err, MU_IO, "cannot open the log of the launch");
  const struct child_spec spec = {.title = "muster: fleet", .role = "fleet", .log = log_current(), .output = output};
  mu_status status = child_start(&watch->child, watch->launch->loop, &spec, &child_events, watch, err);
  if (output > 0) close(output);
  if (status != MU_OK) return status;
  const struct control_fleet_start message = {{watch->options.data, watch->options.size}};
  if (child_send(&watch->child, CONTROL_FLEET_START, &message, NULL, 0) != MU_OK)
    child_kill(&watch->child); /* on_ended tries again */
  return MU_OK;
}

/* The time to start it has come, or no sign of life has. */
static void on_timer(uv_timer_t *timer) {
  struct gpu_watch *watch = timer->data;
  mu_error err;
  if (child_runs(&watch->child)) {
    start_again(watch, "the process that asks NVML gives no sign of life");
  } else if (spawn(watch, &err) == MU_OK) {
    set_timer(watch, OPENING_FACTOR * watch->call_limit_ns + silence_ns);
  } else {
    start_again(watch, err.message);
  }
}

bool gpu_watch_keeps(const struct gpu_watch *watch, pid_t pid) {
  return watch != NULL && child_runs(&watch->child) && child_pid(&watch->child) == pid;
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static mu_status encode_options(struct gpu_watch *watch, mu_error *err) {
  struct options *options;
  mu_status status = options_create(&options);
  if (status != MU_OK) return mu_fail(err, status, "no memory to watch the GPUs");
  watch->call_limit_ns = (uint64_t)options->nvml_timeout_ns;
  status = options_encode(options, &watch->options);
  options_free(options);
  return status == MU_OK ? MU_OK : mu_fail(err, status, "no memory to watch the GPUs");
}

mu_status gpu_watch_create(struct launch *launch, struct gpu_watch **ret_watch, mu_error *err) {
  enum { OPTIONS_MAX = 1 << 20 };
  bool wanted = false;
  *ret_watch = NULL;
  for (size_t i = 0; i < launch->plan->n_groups; i++)
    for (uint32_t k = 0; k < launch->plan->groups[i].n_gpus; k++)
      wanted = wanted || launch->plan->groups[i].gpus[k].device != NULL;
  if (!wanted) return MU_OK;
  struct gpu_watch *watch = calloc(1, sizeof *watch);
  if (watch == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory to watch the GPUs");
  watch->launch = launch;
  buffer_init(&watch->options, OPTIONS_MAX);
  mu_status status = encode_options(watch, err);
  if (status != MU_OK) {
    gpu_watch_free(watch);
    return status;
  }
  uv_timer_init(net_loop_uv(launch->loop), &watch->timer);
  watch->timer.data = watch;
  set_timer(watch, 0);
  *ret_watch = watch;
  return MU_OK;
}

void gpu_watch_stop(struct gpu_watch *watch) {
  if (watch == NULL) return;
  watch->stopped = true;
  uv_timer_stop(&watch->timer);
  child_kill(&watch->child);
  child_forget(&watch->child);
}

void gpu_watch_free(struct gpu_watch *watch) {
  if (watch == NULL) return;
  buffer_free(&watch->options);
  free(watch);
}

/* ---- what people see --------------------------------------------------------------------------------------------- */

static bool has_uuid(const json_t *gpus, const char *uuid) {
  size_t i;
  const json_t *gpu;
  json_array_foreach(gpus, i, gpu) if (strcmp(json_string_value(json_object_get(gpu, "uuid")), uuid) == 0) return true;
  return false;
}

json_t *gpu_watch_json(const struct launch *launch) {
  json_t *gpus = json_array();
  for (size_t i = 0; i < launch->plan->n_groups; i++)
    for (uint32_t k = 0; k < launch->plan->groups[i].n_gpus; k++) {
      const struct plan_gpu *gpu = &launch->plan->groups[i].gpus[k];
      if (gpu->device == NULL || has_uuid(gpus, gpu->uuid)) continue;
      if (json_array_append_new(gpus, json_pack("{s:s, s:s, s:o}", "gpu", gpu->name, "uuid", gpu->uuid, "fault",
                                                launch_text_json(gpu->fault))) == 0)
        continue;
      json_decref(gpus);
      return NULL;
    }
  return gpus;
}
