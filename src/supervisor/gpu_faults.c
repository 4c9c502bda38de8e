/* Faults of GPUs, and wishes of people about them: what follows for workers, and how it is said. */
#include <inttypes.h>
#include <stdlib.h>

#include "control/answer.h"
#include "proto/json/json_text.h"
#include "supervisor/gpu_room.h"
#include "supervisor/query.h"
#include "supervisor/state.h"

/* ---- transitions ------------------------------------------------------------------------------------------------- */

static void log_transition(const struct gpu_guard *guard, enum gpu_condition before) {
  LOG_AT(guard->condition == GPU_SERVING ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING, "GPU changes its state",
         LOG_INT("gpu", guard->index), LOG_STR("uuid", guard->uuid), LOG_STR("from", gpu_condition_name(before)),
         LOG_STR("to", gpu_condition_name(guard->condition)), LOG_STR("reason", guard->reason));
}

static bool worsen(struct gpu_guard *guard, enum gpu_condition condition, const char *reason) {
  enum gpu_condition before = guard->condition;
  if (!gpu_guard_worsen(guard, condition, reason, clock_now_ns())) return false;
  log_transition(guard, before);
  return true;
}

/* The whole GPU, and what of it can be used by itself. */
static bool worsen_all_of(struct supervisor *s, int32_t index, enum gpu_condition condition, const char *reason) {
  const struct gpu_inventory *inventory = &s->gpus.inventory;
  bool changed = false;
  for (uint32_t i = 0; i < inventory->n_gpus; i++) {
    struct gpu_guard *guard = inventory->gpus[i].index == index ? gpus_guard_at(&s->gpus, i) : NULL;
    if (guard != NULL && worsen(guard, condition, reason)) changed = true;
  }
  return changed;
}

static void changed(struct supervisor *s) {
  workers_obey_gpus(s);
  gpus_tell(s);
}

/* ---- faults ------------------------------------------------------------------------------------------------------ */

static void restart_workers(struct supervisor *s, int32_t position, const char *cause) {
  struct gpu_guard *guard = gpus_guard_at(&s->gpus, (uint32_t)position);
  if (guard == NULL || !gpu_guard_fault(guard, clock_now_ns())) return;
  int32_t index = s->gpus.inventory.gpus[position].index;
  for (uint32_t i = 0; i < s->gpus.inventory.n_gpus; i++) { /* workers look at the MIG device that they are on */
    struct gpu_guard *part = s->gpus.inventory.gpus[i].index == index ? gpus_guard_at(&s->gpus, i) : NULL;
    if (part != NULL) part->restart_delay_ns = guard->restart_delay_ns;
    if (part != NULL) mps_settle(s, part->uuid);
  }
  uint32_t n = workers_restart_on_gpu(s, index, cause);
  LOG_WARNING("workers are started again for a fault of their GPU", LOG_INT("gpu", guard->index), LOG_INT("workers", n),
              LOG_INT("delay_ms", guard->restart_delay_ns / NS_PER_MS));
}

static void act(struct supervisor *s, int32_t position, enum xid_action action, const char *cause) {
  static const enum gpu_condition conditions[] = {
      [XID_DRAIN] = GPU_DRAINED, [XID_FENCE] = GPU_FENCED, [XID_REMOVE] = GPU_REMOVED};
  if (action == XID_RESTART)
    restart_workers(s, position, cause);
  else if (action >= XID_DRAIN && worsen_all_of(s, s->gpus.inventory.gpus[position].index, conditions[action], cause))
    workers_obey_gpus(s);
  gpus_tell(s);
}

void gpus_mps_fault(struct supervisor *s, const char *device) {
  int32_t position = gpus_position(&s->gpus, device);
  struct gpu_guard *guard = position != GPU_UNKNOWN ? gpus_guard_at(&s->gpus, (uint32_t)position) : NULL;
  if (guard == NULL) return;
  /* Only the delay follows from how close it is to the last fault: who says this was there, so all that are there are
   * concerned. */
  (void)gpu_guard_fault(guard, clock_now_ns());
  uint32_t n = workers_restart_under_mps(s, guard->uuid, "another MPS client's device is lost, which ends them all");
  mps_settle(s, guard->uuid);
  LOG_WARNING("MPS clients are started again, one has lost its device", LOG_INT("gpu", guard->index),
              LOG_INT("workers", n), LOG_INT("delay_ms", guard->restart_delay_ns / NS_PER_MS));
}

void gpus_xid(struct supervisor *s, const char *uuid, uint64_t xid) {
  const struct xid_policy *policy = xid_find(xid);
  int32_t position = uuid[0] != '\0' ? gpu_find(&s->gpus.inventory, uuid) : GPU_UNKNOWN;
  struct gpu_guard *guard = position != GPU_UNKNOWN ? gpus_guard_at(&s->gpus, (uint32_t)position) : NULL;
  char cause[GPU_REASON_SIZE];
  if (xid != 0)
    snprintf(cause, sizeof cause, "Xid %" PRIu64 ", %s", xid, policy->meaning);
  else
    snprintf(cause, sizeof cause, "%s", policy->meaning);
  LOG_AT(policy->action >= XID_DRAIN ? LOG_LEVEL_ERROR : LOG_LEVEL_WARNING, "GPU fault",
         LOG_INT("gpu", guard != NULL ? guard->index : GPU_UNKNOWN), LOG_STR("uuid", uuid), LOG_INT("xid", xid),
         LOG_STR("meaning", policy->meaning),
         LOG_STR("action", guard != NULL ? xid_action_text(policy->action) : "nobody knows which GPU it is"));
  if (guard == NULL) return;
  gpu_guard_count(guard, xid);
  act(s, position, policy->action, cause);
}

/* The driver's own word on what a GPU needs; only what is new counts, so that people can decide otherwise. */
static void obey_recovery(struct supervisor *s, uint32_t position, struct gpu_guard *guard) {
  int32_t now = s->gpus.inventory.readings[position].recovery_action;
  const char *meaning;
  if (now == guard->recovery_action || now == GPU_UNKNOWN) return;
  guard->recovery_action = now;
  enum xid_action action = gpu_recovery_action(now, &meaning);
  if (action == XID_LOG) return;
  LOG_ERROR("GPU needs help", LOG_INT("gpu", guard->index), LOG_STR("uuid", guard->uuid), LOG_STR("because", meaning));
  act(s, (int32_t)position, action, meaning);
}

/* What was there and is not any more, for a process that looks anew: what runs there is on borrowed time. A MIG device
 * that is gone was taken away by somebody, and can only be while nothing runs there. */
static bool fence_missing(struct supervisor *s) {
  bool changed = false;
  for (uint32_t i = 0; i < s->gpus.n_guards; i++) {
    struct gpu_guard *guard = &s->gpus.guards[i];
    bool mig = strncmp(guard->uuid, "MIG-", 4) == 0;
    if (!mig && gpu_find(&s->gpus.inventory, guard->uuid) == GPU_UNKNOWN)
      changed = worsen(guard, GPU_FENCED, "NVML does not list it any more") || changed;
  }
  return changed;
}

void gpus_read(struct supervisor *s, const struct gpu_inventory *from) {
  const struct gpu_inventory *inventory = &s->gpus.inventory;
  gpus_take(&s->gpus, from);
  bool lost = fence_missing(s);
  for (uint32_t i = 0; i < inventory->n_gpus; i++) {
    struct gpu_guard *guard = gpus_guard_at(&s->gpus, i);
    if (guard == NULL) continue;
    if (inventory->readings[i].lost)
      lost = worsen_all_of(s, inventory->gpus[i].index, GPU_REMOVED, "NVML says that it is lost") || lost;
    else
      obey_recovery(s, i, guard);
  }
  if (lost) workers_obey_gpus(s);
  gpu_room_measure(s);
  gpus_tell(s);
}

void gpus_known(struct supervisor *s) {
  served_models_plan_waiting(s);
  gpus_tell(s);
}

/* ---- the control socket ------------------------------------------------------------------------------------------ */

/* A reason that somebody writes goes into documents. */
static bool read_reason(struct exchange *exchange, char reason[GPU_REASON_SIZE]) {
  mu_error err = {{0}};
  mu_status status = query_value(exchange->query, "reason", reason, GPU_REASON_SIZE, &err);
  if (status == MU_OK && !json_utf8_valid(reason, strlen(reason)))
    status = mu_fail(&err, MU_INVALID, "reason is not UTF-8");
  if (status != MU_OK) exchange_reply_error(exchange, 400, err.message);
  return status == MU_OK;
}

static void answer_guard(struct exchange *exchange, const struct gpu_guard *guard) {
  control_answer(exchange, 200,
                 json_pack("{s:s, s:i, s:s, s:s}", "uuid", guard->uuid, "index", (int)guard->index, "state",
                           gpu_condition_name(guard->condition), "reason", guard->reason));
}

/* The GPU that the query names; answers itself where there is none. */
static struct gpu_guard *named_guard(struct supervisor *s, struct exchange *exchange) {
  char name[GPU_UUID_SIZE];
  mu_error err = {{0}};
  mu_status status = query_value(exchange->query, "gpu", name, sizeof name, &err);
  struct gpu_guard *guard = status == MU_OK && name[0] != '\0' ? gpus_guard_named(&s->gpus, name) : NULL;
  if (guard != NULL) return guard;
  if (status == MU_OK && name[0] == '\0') {
    mu_fail(&err, MU_INVALID, "which GPU? An index, INDEX:MIG or a UUID is wanted");
  } else if (status == MU_OK) {
    const char *why = s->gpus.error[0] != '\0' ? s->gpus.error : "see muster gpus";
    mu_fail(&err, MU_NOT_FOUND, "there is no GPU %s here, or several begin so: %s", name, why);
  }
  exchange_reply_error(exchange, status == MU_OK && name[0] != '\0' ? 404 : 400, err.message);
  return NULL;
}

/* Whether what a person says of `named` is meant for the other one, too: a GPU takes its MIG devices along. */
static bool goes_along(const struct gpus *gpus, const struct gpu_guard *named, const struct gpu_guard *other) {
  int32_t position = gpu_find(&gpus->inventory, named->uuid);
  bool whole = position != GPU_UNKNOWN && gpus->inventory.gpus[position].mig_index == GPU_UNKNOWN;
  return named == other || (whole && other->index == named->index && gpu_find(&gpus->inventory, other->uuid) >= 0);
}

void gpus_answer_fence(struct supervisor *s, struct exchange *exchange) {
  char reason[GPU_REASON_SIZE];
  if (!read_reason(exchange, reason)) return;
  struct gpu_guard *guard = named_guard(s, exchange);
  if (guard == NULL) return;
  if (reason[0] == '\0') snprintf(reason, sizeof reason, "by hand");
  for (uint32_t i = 0; i < s->gpus.n_guards; i++)
    if (goes_along(&s->gpus, guard, &s->gpus.guards[i])) worsen(&s->gpus.guards[i], GPU_FENCED, reason);
  answer_guard(exchange, guard);
  changed(s);
}

static void unfence(struct gpu_guard *guard) {
  enum gpu_condition before = guard->condition;
  if (before == GPU_SERVING || before == GPU_REMOVED) return;
  guard->condition = GPU_SERVING;
  guard->since_ns = clock_now_ns();
  guard->reason[0] = '\0';
  guard->fault_ns = guard->restart_delay_ns = 0;
  log_transition(guard, before);
}

void gpus_answer_unfence(struct supervisor *s, struct exchange *exchange) {
  struct gpu_guard *guard = named_guard(s, exchange);
  if (guard == NULL) return;
  if (guard->condition == GPU_REMOVED) {
    char text[GPU_REASON_SIZE + 256];
    gpu_guard_describe(guard, text, sizeof text);
    strncat(text, "; it comes back with a restart of the machine", sizeof text - strlen(text) - 1);
    exchange_reply_error(exchange, 409, text);
    return;
  }
  for (uint32_t i = 0; i < s->gpus.n_guards; i++)
    if (goes_along(&s->gpus, guard, &s->gpus.guards[i])) unfence(&s->gpus.guards[i]);
  answer_guard(exchange, guard);
  changed(s);
}

void gpus_answer_list(struct supervisor *s, struct exchange *exchange) {
  control_answer(
      exchange, 200,
      json_pack("{s:b, s:s, s:o}", "known", s->gpus.known, "error", s->gpus.error, "gpus", gpus_json(&s->gpus)));
}
