#include "supervisor/gpus.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "proto/json/json_text.h"

/* One fault is reported several times (an exception for each multiprocessor): what comes within this is the same. */
static const uint64_t same_fault_ns = NS_PER_S;
/* A GPU without a fault for so long begins anew. */
static const uint64_t forgiven_after_ns = 60 * NS_PER_S;
static const uint64_t first_delay_ns = 100 * NS_PER_MS, longest_delay_ns = 30 * NS_PER_S;

/* ---- the inventory ----------------------------------------------------------------------------------------------- */

void gpus_simulate(struct gpus *gpus, uint32_t n) {
  static struct gpu_inventory made; /* large, and only the supervisor's one thread is here */
  const int64_t memory = INT64_C(80) << 30;
  memset(&made, 0, sizeof made);
  made.cuda = GPU_UNKNOWN;
  for (uint32_t i = 0; i < n && i < GPUS_MAX; i++) {
    struct gpu *gpu = &made.gpus[made.n_gpus];
    *gpu = (struct gpu){.name = "simulated GPU",
                        .index = (int32_t)i,
                        .mig_index = GPU_UNKNOWN,
                        .simulated = true,
                        .compute_major = 9,
                        .numa_node = GPU_UNKNOWN,
                        .memory_total = memory,
                        .persistence = GPU_UNKNOWN};
    snprintf(gpu->uuid, sizeof gpu->uuid, "GPU-simulated-%" PRIu32, i);
    gpu_reading_clear(&made.readings[made.n_gpus]);
    made.readings[made.n_gpus].memory_free = memory;
    made.readings[made.n_gpus++].memory_used = 0;
  }
  for (uint32_t i = 0; i < made.n_gpus; i++)
    for (uint32_t k = 0; k < made.n_gpus; k++) made.links[i][k] = i == k ? GPU_LINK_SELF : GPU_LINK_UNKNOWN;
  gpus_take(gpus, &made);
}

/* A new one takes the place of one that nothing was decided about and that is not there any more. */
static struct gpu_guard *add_guard(struct gpus *gpus) {
  if (gpus->n_guards < GPU_GUARDS_MAX) return &gpus->guards[gpus->n_guards++];
  for (uint32_t i = 0; i < gpus->n_guards; i++)
    if (gpus->guards[i].condition == GPU_SERVING && gpu_find(&gpus->inventory, gpus->guards[i].uuid) == GPU_UNKNOWN)
      return &gpus->guards[i];
  return NULL;
}

/* A GPU that is lost does not say its UUID to a process that sees it for the first time: it is the one that had its
 * place. Where nobody knows that one, it is named after its place, to be told from others. */
static void name_nameless(struct gpus *gpus) {
  struct gpu_inventory *inventory = &gpus->inventory;
  for (uint32_t i = 0; i < inventory->n_gpus; i++) {
    struct gpu *gpu = &inventory->gpus[i];
    if (gpu->uuid[0] != '\0' || gpu->mig_index != GPU_UNKNOWN) continue;
    for (uint32_t k = 0; k < gpus->n_guards; k++) {
      const struct gpu_guard *guard = &gpus->guards[k];
      if (guard->index != gpu->index || !gpu_is_uuid(guard->uuid) || gpu_find(inventory, guard->uuid) != GPU_UNKNOWN)
        continue;
      memcpy(gpu->uuid, guard->uuid, sizeof gpu->uuid);
      memcpy(gpu->name, guard->name, sizeof gpu->name);
      break;
    }
    if (gpu->uuid[0] == '\0' && inventory->readings[i].lost)
      snprintf(gpu->uuid, sizeof gpu->uuid, "unknown-%" PRId32, gpu->index);
  }
}

/* Names after places end with what they stand for: the GPU says its UUID again, or is not listed any more. */
static void forget_places(struct gpus *gpus) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < gpus->n_guards; i++) {
    const struct gpu_guard *guard = &gpus->guards[i];
    if (gpu_is_uuid(guard->uuid) || gpu_find(&gpus->inventory, guard->uuid) != GPU_UNKNOWN)
      gpus->guards[kept++] = *guard;
  }
  gpus->n_guards = kept;
}

void gpus_take(struct gpus *gpus, const struct gpu_inventory *from) {
  const struct gpu_inventory *inventory = &gpus->inventory;
  gpus->inventory = *from;
  name_nameless(gpus);
  forget_places(gpus);
  gpus->known = true;
  snprintf(gpus->error, sizeof gpus->error, "%s", inventory->error);
  for (uint32_t i = 0; i < inventory->n_gpus; i++) {
    const struct gpu *gpu = &inventory->gpus[i];
    struct gpu_guard *guard = gpus_guard(gpus, gpu->uuid);
    if (gpu->uuid[0] == '\0') continue; /* closed to this process: somebody else's */
    if (guard == NULL) {
      guard = add_guard(gpus);
      if (guard == NULL) continue;
      *guard = (struct gpu_guard){.energy_start_mj = GPU_UNKNOWN};
      memcpy(guard->uuid, gpu->uuid, sizeof guard->uuid);
    }
    memcpy(guard->name, gpu->name, sizeof guard->name);
    guard->index = gpu->index;
    if (guard->energy_start_mj == GPU_UNKNOWN) guard->energy_start_mj = inventory->readings[i].energy_mj;
  }
}

/* ---- finding ----------------------------------------------------------------------------------------------------- */

struct gpu_guard *gpus_guard(struct gpus *gpus, const char *uuid) {
  for (uint32_t i = 0; i < gpus->n_guards; i++)
    if (strcmp(gpus->guards[i].uuid, uuid) == 0) return &gpus->guards[i];
  return NULL;
}

struct gpu_guard *gpus_guard_at(struct gpus *gpus, uint32_t position) {
  return gpus_guard(gpus, gpus->inventory.gpus[position].uuid);
}

struct gpu_guard *gpus_guard_named(struct gpus *gpus, const char *text) {
  int32_t position = gpu_find(&gpus->inventory, text);
  return position != GPU_UNKNOWN ? gpus_guard_at(gpus, (uint32_t)position) : gpus_guard(gpus, text);
}

static const char *gpu_of_device(const char *device) {
  static const char prefix[] = "gpu:";
  return strncmp(device, prefix, sizeof prefix - 1) == 0 ? device + sizeof prefix - 1 : NULL;
}

int32_t gpus_position(const struct gpus *gpus, const char *device) {
  const char *gpu = gpu_of_device(device);
  return gpu != NULL ? gpu_find(&gpus->inventory, gpu) : GPU_UNKNOWN;
}

/* Named by UUID it is found though no inventory has it any more. */
const struct gpu_guard *gpus_obstacle(const struct gpus *gpus, const char *device) {
  int32_t position = gpus_position(gpus, device);
  const char *gpu = gpu_of_device(device), *uuid = position != GPU_UNKNOWN ? gpus->inventory.gpus[position].uuid : gpu;
  if (gpu == NULL) return NULL;
  for (uint32_t i = 0; i < gpus->n_guards; i++)
    if (gpus->guards[i].condition != GPU_SERVING && strcmp(gpus->guards[i].uuid, uuid) == 0) return &gpus->guards[i];
  return NULL;
}

/* ---- deciding ---------------------------------------------------------------------------------------------------- */

void gpu_guard_count(struct gpu_guard *guard, uint64_t xid) {
  for (uint32_t i = 0; i < guard->n_xids; i++)
    if (guard->xids[i].xid == xid) {
      guard->xids[i].count++;
      return;
    }
  /* The table has more numbers than this, but hardly one GPU in one life. */
  if (guard->n_xids < GPU_XIDS_MAX) guard->xids[guard->n_xids++] = (struct gpu_xid_count){xid, 1};
}

bool gpu_guard_fault(struct gpu_guard *guard, uint64_t now_ns) {
  uint64_t before = guard->fault_ns, passed = now_ns - before;
  if (before != 0 && passed < same_fault_ns) return false;
  guard->fault_ns = now_ns;
  if (before == 0 || passed >= forgiven_after_ns)
    guard->restart_delay_ns = 0;
  else if (guard->restart_delay_ns == 0)
    guard->restart_delay_ns = first_delay_ns;
  else
    guard->restart_delay_ns =
        guard->restart_delay_ns >= longest_delay_ns / 2 ? longest_delay_ns : guard->restart_delay_ns * 2;
  return true;
}

bool gpu_guard_worsen(struct gpu_guard *guard, enum gpu_condition condition, const char *reason, uint64_t now_ns) {
  if (condition <= guard->condition) return false;
  guard->condition = condition;
  guard->since_ns = now_ns;
  snprintf(guard->reason, sizeof guard->reason, "%s", reason);
  return true;
}

/* ---- saying ------------------------------------------------------------------------------------------------------ */

const char *gpu_condition_name(enum gpu_condition condition) {
  static const char *const names[] = {
      [GPU_SERVING] = "serving", [GPU_DRAINED] = "drained", [GPU_FENCED] = "fenced", [GPU_REMOVED] = "removed"};
  return names[condition];
}

void gpu_guard_describe(const struct gpu_guard *guard, char *text, size_t size) {
  snprintf(text, size, "GPU %d (%s) is %s: %s", (int)guard->index, guard->uuid, gpu_condition_name(guard->condition),
           guard->reason);
}

static json_t *xids_json(const struct gpu_guard *guard) {
  json_t *xids = json_object();
  bool whole = xids != NULL;
  for (uint32_t i = 0; whole && i < guard->n_xids; i++) {
    char xid[24];
    snprintf(xid, sizeof xid, "%" PRIu64, guard->xids[i].xid);
    whole = json_object_set_new(xids, xid, json_integer((json_int_t)guard->xids[i].count)) == 0;
  }
  if (whole) return xids;
  json_decref(xids);
  return NULL;
}

/* Texts come from a driver: bytes that are no UTF-8 must not cost the document. */
static json_t *text_json(const char *text) { return json_string(json_utf8_valid(text, strlen(text)) ? text : "?"); }

static json_t *guard_json(const struct gpus *gpus, const struct gpu_guard *guard) {
  int32_t position = gpu_find(&gpus->inventory, guard->uuid);
  const struct gpu_reading *reading = position != GPU_UNKNOWN ? &gpus->inventory.readings[position] : NULL;
  bool present = reading != NULL && !reading->lost;
  json_t *json = json_pack(
      "{s:o, s:i, s:i, s:o, s:b, s:b, s:s, s:o, s:o}", "uuid", text_json(guard->uuid), "index", (int)guard->index,
      "mig_index", position != GPU_UNKNOWN ? (int)gpus->inventory.gpus[position].mig_index : GPU_UNKNOWN, "name",
      text_json(guard->name), "healthy", present && guard->condition == GPU_SERVING, "present", present, "state",
      gpu_condition_name(guard->condition), "reason", text_json(guard->reason), "xids", xids_json(guard));
  if (guard->energy_start_mj == GPU_UNKNOWN ||
      json_object_set_new(json, "energy_start_mj", json_integer((json_int_t)guard->energy_start_mj)) == 0)
    return json;
  json_decref(json);
  return NULL;
}

json_t *gpus_json(const struct gpus *gpus) {
  json_t *array = json_array();
  for (uint32_t i = 0; i < gpus->n_guards; i++)
    if (json_array_append_new(array, guard_json(gpus, &gpus->guards[i])) != 0) {
      json_decref(array);
      return NULL;
    }
  return array;
}
