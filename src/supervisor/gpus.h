/*
 * What the supervisor knows of the machine's GPUs, and what it has decided about them: which of them no worker may run
 * on, since when and why, what faults they had. Decisions are kept by UUID, since indices move and a GPU that has
 * fallen off the bus is in no inventory any more. Pure: times and facts in, nothing but data changes.
 */
#ifndef SUPERVISOR_GPUS_H
#define SUPERVISOR_GPUS_H

#include <jansson.h>

#include "base/status.h"
#include "gpu/inventory.h"
#include "gpu/xid.h"

enum gpu_condition {
  GPU_SERVING,
  GPU_DRAINED, /* no worker is started there; those that ran were let finish */
  GPU_FENCED,  /* the same, in haste */
  GPU_REMOVED  /* it is not to be had again before the machine is started again */
};

enum { GPU_XIDS_MAX = 16, GPU_REASON_SIZE = 320, GPU_GUARDS_MAX = 2 * GPUS_MAX };

/* What was decided about a GPU, or a MIG device of one. */
struct gpu_guard {
  char uuid[GPU_UUID_SIZE]; /* "unknown-2": GPU 2 was lost before it could be asked */
  char name[GPU_NAME_SIZE];
  int32_t index; /* when it was last seen */
  enum gpu_condition condition;
  char reason[GPU_REASON_SIZE]; /* why it is not SERVING */
  uint64_t since_ns;            /* of the condition */
  struct gpu_xid_count {
    uint64_t xid, count;
  } xids[GPU_XIDS_MAX];
  uint32_t n_xids;
  uint64_t fault_ns;         /* when its workers were last killed for a fault; 0: never */
  uint64_t restart_delay_ns; /* before they are started again */
  int32_t recovery_action;   /* as it was last read; what changes counts */
  int64_t energy_start_mj;   /* its counter when the server first saw it; GPU_UNKNOWN */
};

struct gpus {
  bool known;                /* false: nobody has looked yet, or who looks does not come back */
  char error[GPU_TEXT_SIZE]; /* why nothing is known, or why there are none; "" */
  struct gpu_inventory inventory;
  struct gpu_guard guards[GPU_GUARDS_MAX];
  uint32_t n_guards;
};

/* So many simulated GPUs instead of what the machine has. */
void gpus_simulate(struct gpus *gpus, uint32_t n);

/* Takes a new inventory over: what was decided stays. */
void gpus_take(struct gpus *gpus, const struct gpu_inventory *from);

/* NULL: there is none of that UUID. */
struct gpu_guard *gpus_guard(struct gpus *gpus, const char *uuid);
/* The one of a position of the inventory; NULL where there are too many to be remembered. */
struct gpu_guard *gpus_guard_at(struct gpus *gpus, uint32_t position);
/* Of what a person writes: as gpu_find, and UUIDs of GPUs that are not there any more. NULL: none, or several. */
struct gpu_guard *gpus_guard_named(struct gpus *gpus, const char *text);

/* Position of the GPU that a worker's device names ("gpu:0", "gpu:UUID"); GPU_UNKNOWN: "cpu", or not in the inventory.
 */
int32_t gpus_position(const struct gpus *gpus, const char *device);
/* Why no worker may run on that device; NULL: it may. */
const struct gpu_guard *gpus_obstacle(const struct gpus *gpus, const char *device);

/* The Xid came to pass there, once more. */
void gpu_guard_count(struct gpu_guard *guard, uint64_t xid);
/* A fault for which its workers are killed: when they are started again follows from how close it is to the last one.
 * false: it still belongs to the last one, nothing is to be done. */
bool gpu_guard_fault(struct gpu_guard *guard, uint64_t now_ns);
/* Gets worse by a fault, never better. false: it was as bad already. */
bool gpu_guard_worsen(struct gpu_guard *guard, enum gpu_condition condition, const char *reason, uint64_t now_ns);

const char *gpu_condition_name(enum gpu_condition condition); /* "serving", "drained", "fenced", "removed" */
/* "GPU 0 is fenced: Xid 95, …" into text. */
void gpu_guard_describe(const struct gpu_guard *guard, char *text, size_t size);

/* For status, /health and the gateways' metrics: [{uuid, index, name, healthy, state, reason, xids {…}, …}], those that
 * are gone too. NULL without memory. */
json_t *gpus_json(const struct gpus *gpus);

#endif
