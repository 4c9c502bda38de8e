/*
 * The functions of NVML that muster calls, as one table: X(member, symbol, symbol of older drivers or NULL, required,
 * parameters). An open library is a struct nvml; calls go through NVML_CALL, which says to the outside which one is
 * under way (nvml_watch_calls) and answers for what the driver lacks. Private to gpu/.
 */
#ifndef GPU_NVML_FUNCTIONS_H
#define GPU_NVML_FUNCTIONS_H

#include <pthread.h>

#include "gpu/locality.h"
#include "gpu/nvml.h"
#include "gpu/nvml_abi.h"

#define NVML_REQUIRED true
#define NVML_OPTIONAL false
/* clang-format off */
#define NVML_FUNCTIONS(X)                                                                                                 \
  X(init, "nvmlInitWithFlags", NULL, NVML_REQUIRED, (uint32_t flags))                                                     \
  X(shutdown, "nvmlShutdown", NULL, NVML_REQUIRED, (void))                                                                \
  X(count, "nvmlDeviceGetCount_v2", NULL, NVML_REQUIRED, (uint32_t *count))                                               \
  X(handle, "nvmlDeviceGetHandleByIndex_v2", NULL, NVML_REQUIRED, (uint32_t index, nvml_device *device))                  \
  X(uuid, "nvmlDeviceGetUUID", NULL, NVML_REQUIRED, (nvml_device device, char *text, uint32_t size))                      \
  X(name, "nvmlDeviceGetName", NULL, NVML_REQUIRED, (nvml_device device, char *text, uint32_t size))                      \
  X(memory_v1, "nvmlDeviceGetMemoryInfo", NULL, NVML_REQUIRED, (nvml_device device, struct nvml_memory_v1 *memory))       \
  X(driver, "nvmlSystemGetDriverVersion", NULL, NVML_REQUIRED, (char *text, uint32_t size))                               \
  X(cuda, "nvmlSystemGetCudaDriverVersion_v2", NULL, NVML_OPTIONAL, (int *version))                                       \
  X(pci, "nvmlDeviceGetPciInfo_v3", NULL, NVML_OPTIONAL, (nvml_device device, struct nvml_pci *pci))                      \
  X(capability, "nvmlDeviceGetCudaComputeCapability", NULL, NVML_OPTIONAL, (nvml_device device, int *major, int *minor))  \
  X(memory_v2, "nvmlDeviceGetMemoryInfo_v2", NULL, NVML_OPTIONAL, (nvml_device device, struct nvml_memory_v2 *memory))    \
  X(mig_mode, "nvmlDeviceGetMigMode", NULL, NVML_OPTIONAL, (nvml_device device, uint32_t *now, uint32_t *pending))        \
  X(mig_count, "nvmlDeviceGetMaxMigDeviceCount", NULL, NVML_OPTIONAL, (nvml_device device, uint32_t *count))              \
  X(mig_handle, "nvmlDeviceGetMigDeviceHandleByIndex", NULL, NVML_OPTIONAL,                                               \
    (nvml_device device, uint32_t index, nvml_device *mig_device))                                                        \
  X(compute_mode, "nvmlDeviceGetComputeMode", NULL, NVML_OPTIONAL, (nvml_device device, uint32_t *mode))                  \
  X(persistence, "nvmlDeviceGetPersistenceMode", NULL, NVML_OPTIONAL, (nvml_device device, uint32_t *mode))               \
  X(memory_affinity, "nvmlDeviceGetMemoryAffinity", NULL, NVML_OPTIONAL,                                                  \
    (nvml_device device, uint32_t n, unsigned long *nodes, uint32_t scope))                                               \
  X(numa_node, "nvmlDeviceGetNumaNodeId", NULL, NVML_OPTIONAL, (nvml_device device, uint32_t *node))                      \
  X(utilization, "nvmlDeviceGetUtilizationRates", NULL, NVML_OPTIONAL,                                                    \
    (nvml_device device, struct nvml_utilization *utilization))                                                           \
  X(temperature, "nvmlDeviceGetTemperature", NULL, NVML_OPTIONAL,                                                         \
    (nvml_device device, uint32_t sensor, uint32_t *celsius))                                                             \
  X(power, "nvmlDeviceGetPowerUsage", NULL, NVML_OPTIONAL, (nvml_device device, uint32_t *milliwatts))                    \
  X(power_limit, "nvmlDeviceGetEnforcedPowerLimit", NULL, NVML_OPTIONAL, (nvml_device device, uint32_t *milliwatts))      \
  X(energy, "nvmlDeviceGetTotalEnergyConsumption", NULL, NVML_OPTIONAL, (nvml_device device, uint64_t *millijoules))      \
  X(clock, "nvmlDeviceGetClockInfo", NULL, NVML_OPTIONAL, (nvml_device device, uint32_t clock, uint32_t *mhz))            \
  X(clock_max, "nvmlDeviceGetMaxClockInfo", NULL, NVML_OPTIONAL, (nvml_device device, uint32_t clock, uint32_t *mhz))     \
  X(throttle_reasons, "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons",              \
    NVML_OPTIONAL, (nvml_device device, uint64_t *reasons))                                                               \
  X(ecc, "nvmlDeviceGetTotalEccErrors", NULL, NVML_OPTIONAL,                                                              \
    (nvml_device device, uint32_t error, uint32_t counter, uint64_t *count))                                              \
  X(fields, "nvmlDeviceGetFieldValues", NULL, NVML_OPTIONAL, (nvml_device device, int n, struct nvml_field *fields))      \
  X(processes, "nvmlDeviceGetComputeRunningProcesses_v3", NULL, NVML_OPTIONAL,                                            \
    (nvml_device device, uint32_t *n, struct nvml_process *processes))                                                    \
  X(ancestor, "nvmlDeviceGetTopologyCommonAncestor", NULL, NVML_OPTIONAL,                                                 \
    (nvml_device one, nvml_device other, uint32_t *level))                                                                \
  X(p2p, "nvmlDeviceGetP2PStatus", NULL, NVML_OPTIONAL,                                                                   \
    (nvml_device one, nvml_device other, uint32_t capability, uint32_t *status))                                          \
  X(events_create, "nvmlEventSetCreate", NULL, NVML_OPTIONAL, (nvml_events *events))                                      \
  X(events_supported, "nvmlDeviceGetSupportedEventTypes", NULL, NVML_OPTIONAL, (nvml_device device, uint64_t *types))     \
  X(events_register, "nvmlDeviceRegisterEvents", NULL, NVML_OPTIONAL,                                                     \
    (nvml_device device, uint64_t types, nvml_events events))                                                             \
  X(events_wait, "nvmlEventSetWait_v2", NULL, NVML_OPTIONAL,                                                              \
    (nvml_events events, struct nvml_event_data *event, uint32_t milliseconds))                                           \
  X(events_free, "nvmlEventSetFree", NULL, NVML_OPTIONAL, (nvml_events events))
/* clang-format on */

enum nvml_function {
#define X(member, ...) NVML_FN_##member,
  NVML_FUNCTIONS(X)
#undef X
      NVML_FUNCTION_COUNT
};

/* A GPU or MIG device that was found, and what events it is known by. */
struct nvml_known {
  char uuid[GPU_UUID_SIZE];
  nvml_device device;
};

struct nvml {
  void *library;
  struct {
#define X(member, symbol, older, required, parameters) nvml_return(*member) parameters;
    NVML_FUNCTIONS(X)
#undef X
  } functions;
  const char *(*error_text)(nvml_return result);
  bool initialized;
  struct gpu_locality *locality;     /* made when first needed */
  struct nvml_known known[GPUS_MAX]; /* of the inventory that was read last, position for position;
                                      * device NULL: could not be found */
  uint32_t n_known;
  /* By index, which does not change while NVML is open: a GPU that is lost does not say any more what it is. */
  struct gpu boards[GPUS_MAX];
  /* of the thread that waits for events alone */
  nvml_events events;
  struct nvml_known watched[GPUS_MAX];
  uint32_t n_watched;
};

/* Notes for the outside that a call has begun or, with NVML_FUNCTION_COUNT, ended. */
void nvml_note_call(enum nvml_function function);

#define NVML_CALL(nvml, member, ...)                       \
  ({                                                       \
    nvml_return nvml_result = NVML_FUNCTION_NOT_FOUND;     \
    if ((nvml)->functions.member != NULL) {                \
      nvml_note_call(NVML_FN_##member);                    \
      nvml_result = (nvml)->functions.member(__VA_ARGS__); \
      nvml_note_call(NVML_FUNCTION_COUNT);                 \
    }                                                      \
    nvml_result;                                           \
  })

/* "nvmlDeviceGetName: GPU is lost" into err; returns the status that fits. */
mu_status nvml_fail(const struct nvml *nvml, enum nvml_function function, nvml_return result, mu_error *err);
/* NVML's own words; never NULL. */
const char *nvml_words(const struct nvml *nvml, nvml_return result);

/* nvml_readings.c: of one device; mig: a MIG device, which lacks many figures. */
void nvml_read_device(struct nvml *nvml, nvml_device device, bool mig, struct gpu_reading *ret_reading);
/* devices: position for position, NULL for what is not there. */
void nvml_read_processes(struct nvml *nvml, const nvml_device *devices, struct gpu_inventory *inventory);
/* Notes in a reading why it could not be read. */
void nvml_reading_failed(const struct nvml *nvml, enum nvml_function function, nvml_return result,
                         struct gpu_reading *reading);

#endif
