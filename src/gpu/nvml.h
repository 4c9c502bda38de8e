/*
 * libnvidia-ml.so.1 by dlopen: nothing of NVIDIA is linked or needed to build. Any call can block for ever on a lost
 * GPU, so only the role `fleet` (and short-lived commands, in a child of their own) calls it; one thread at a time,
 * but for nvml_wait_event, which has a thread of its own.
 */
#ifndef GPU_NVML_H
#define GPU_NVML_H

#include "base/status.h"
#include "gpu/inventory.h"

struct nvml;

/* library: "" : MUSTER_NVML_LIBRARY where set, else libnvidia-ml.so.1. MU_NOT_FOUND: no such library; MU_UNSUPPORTED:
 * it lacks a function that is needed, or driver and library do not match (NVML 9, 18); MU_IO: what else NVML said, in
 * its own words. */
MUST_CHECK mu_status nvml_open(const char *library, struct nvml **ret_nvml, mu_error *err);
void nvml_close(struct nvml *nvml); /* accepts NULL */

/* Everything: what the GPUs are, their readings, links and processes. Never fails for one GPU: that one's reading says
 * why. */
MUST_CHECK mu_status nvml_read_inventory(struct nvml *nvml, struct gpu_inventory *ret_inventory, mu_error *err);

/* The readings and processes of an inventory anew. */
MUST_CHECK mu_status nvml_read_readings(struct nvml *nvml, struct gpu_inventory *inventory, mu_error *err);

struct nvml_event {
  char uuid[GPU_UUID_SIZE]; /* of the whole GPU; "" : not known */
  uint64_t xid;             /* 0: a double-bit ECC error that came without one */
};

/* For who watches this thread's calls from outside (a thread or, in shared memory, a process): from here on *slot holds
 * the number of NVML's function that is being called, -1 between calls. NULL: no more. nvml_wait_event's own wait,
 * which is meant to last, is not noted. */
void nvml_watch_calls(_Atomic int32_t *slot);
const char *nvml_call_name(int32_t number); /* "nvmlDeviceGetTemperature"; "" for what is none */

/* Waits for an Xid or a double-bit ECC error. MU_TIMEOUT: none came; MU_UNSUPPORTED: no GPU here reports events;
 * MU_IO: what NVML said, which it may say again at once (a lost GPU): pause before the next call. The first call
 * registers the GPUs that there are then; one that cannot be is left out. */
MUST_CHECK mu_status nvml_wait_event(struct nvml *nvml, uint64_t timeout_ns, struct nvml_event *ret_event,
                                     mu_error *err);

#endif
