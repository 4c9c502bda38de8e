/* The functions. The scenario's format stands at the top of scenario.c. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "scenario.h"

#define EXPORT __attribute__((visibility("default")))

/* FUNCTION(name, device or NULL, (parameters), expression): what the expression says is answered, with `object` the
 * device's in the scenario. */
#define FUNCTION(name, subject, parameters, expression)                    \
  EXPORT nvml_return name parameters;                                      \
  EXPORT nvml_return name parameters {                                     \
    json_t *object = NULL;                                                 \
    nvml_return entered = scenario_enter(#name, subject, &object);         \
    (void)object;                                                          \
    return entered == NVML_SUCCESS ? scenario_leave(expression) : entered; \
  }

/* ---- values of the scenario
 * ------------------------------------------------------------------------------------------ */

static nvml_return put_text(const json_t *value, char *text, uint32_t size) {
  if (!json_is_string(value)) return NVML_NOT_SUPPORTED;
  if (json_string_length(value) >= size) return NVML_INSUFFICIENT_SIZE;
  strcpy(text, json_string_value(value));
  return NVML_SUCCESS;
}

static nvml_return put_u32(const json_t *value, uint32_t *ret) {
  if (!json_is_integer(value)) return NVML_NOT_SUPPORTED;
  *ret = (uint32_t)json_integer_value(value);
  return NVML_SUCCESS;
}

static nvml_return put_u64(const json_t *value, uint64_t *ret) {
  if (!json_is_integer(value)) return NVML_NOT_SUPPORTED;
  *ret = (uint64_t)json_integer_value(value);
  return NVML_SUCCESS;
}

static const json_t *get(const json_t *object, const char *key) { return json_object_get(object, key); }
static const json_t *item(const json_t *object, const char *key, size_t i) {
  return json_array_get(get(object, key), i);
}

static nvml_return put_device(int gpu, int mig, nvml_device *ret_device) {
  *ret_device = scenario_device(gpu, mig);
  return *ret_device != NULL ? NVML_SUCCESS : NVML_INVALID_ARGUMENT;
}

/* ---- the machine
 * ----------------------------------------------------------------------------------------------------- */

EXPORT const char *nvmlErrorString(nvml_return result);
EXPORT const char *nvmlErrorString(nvml_return result) {
  static const struct {
    nvml_return result;
    const char *words;
  } words[] = {{NVML_SUCCESS, "The operation was successful"},
               {NVML_UNINITIALIZED, "Uninitialized"},
               {NVML_INVALID_ARGUMENT, "Invalid Argument"},
               {NVML_NOT_SUPPORTED, "Not Supported"},
               {NVML_NO_PERMISSION, "Insufficient Permissions"},
               {NVML_NOT_FOUND, "Not Found"},
               {NVML_INSUFFICIENT_SIZE, "Insufficient Size"},
               {NVML_DRIVER_NOT_LOADED, "Driver Not Loaded"},
               {NVML_TIMEOUT, "Timeout"},
               {NVML_FUNCTION_NOT_FOUND, "Function Not Found"},
               {NVML_GPU_IS_LOST, "GPU is lost"},
               {NVML_RESET_REQUIRED, "GPU requires reset"},
               {NVML_LIB_RM_VERSION_MISMATCH, "Driver/library version mismatch"}};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (words[i].result == result) return words[i].words;
  return "Unknown Error";
}

FUNCTION(nvmlInitWithFlags, NULL, (uint32_t flags), flags == NVML_INIT_NO_GPUS ? NVML_SUCCESS : NVML_INVALID_ARGUMENT)
FUNCTION(nvmlShutdown, NULL, (void), NVML_SUCCESS)
FUNCTION(nvmlSystemGetDriverVersion, NULL, (char *text, uint32_t size),
         put_text(get(scenario_root(), "driver"), text, size))

static nvml_return count_gpus(uint32_t *ret_n) {
  *ret_n = (uint32_t)json_array_size(get(scenario_root(), "gpus"));
  return NVML_SUCCESS;
}
FUNCTION(nvmlDeviceGetCount_v2, NULL, (uint32_t * n), count_gpus(n))
/* A GPU that is lost has no handle any more, as with real drivers. */
FUNCTION(nvmlDeviceGetHandleByIndex_v2, scenario_device((int)index, -1), (uint32_t index, nvml_device *device),
         put_device((int)index, -1, device))
FUNCTION(nvmlDeviceGetUUID, device, (nvml_device device, char *text, uint32_t size),
         put_text(get(object, "uuid"), text, size))
FUNCTION(nvmlDeviceGetName, device, (nvml_device device, char *text, uint32_t size),
         put_text(get(object, "name"), text, size))

static nvml_return put_memory(const json_t *object, uint64_t *ret_total, uint64_t *ret_free, uint64_t *ret_used) {
  const json_t *memory = get(object, "memory");
  nvml_return result = put_u64(get(memory, "total"), ret_total);
  if (result == NVML_SUCCESS) result = put_u64(get(memory, "used"), ret_used);
  if (result == NVML_SUCCESS) *ret_free = *ret_total - *ret_used;
  return result;
}
FUNCTION(nvmlDeviceGetMemoryInfo, device, (nvml_device device, struct nvml_memory_v1 *memory),
         put_memory(object, &memory->total, &memory->free, &memory->used))
FUNCTION(nvmlDeviceGetUtilizationRates, device, (nvml_device device, struct nvml_utilization *utilization),
         put_u32(item(object, "utilization", 0), &utilization->gpu) == NVML_SUCCESS
             ? put_u32(item(object, "utilization", 1), &utilization->memory)
             : NVML_NOT_SUPPORTED)
FUNCTION(nvmlDeviceGetTemperature, device, (nvml_device device, uint32_t sensor, uint32_t *celsius),
         put_u32(get(object, "temperature"), celsius))
FUNCTION(nvmlDeviceGetPowerUsage, device, (nvml_device device, uint32_t *milliwatts),
         put_u32(get(object, "power_mw"), milliwatts))
FUNCTION(nvmlDeviceGetEnforcedPowerLimit, device, (nvml_device device, uint32_t *milliwatts),
         put_u32(get(object, "power_limit_mw"), milliwatts))
FUNCTION(nvmlDeviceGetClockInfo, device, (nvml_device device, uint32_t clock, uint32_t *mhz),
         put_u32(get(object, clock == NVML_CLOCK_SM ? "sm_clock" : "memory_clock"), mhz))
FUNCTION(nvmlDeviceGetMaxClockInfo, device, (nvml_device device, uint32_t clock, uint32_t *mhz),
         put_u32(get(object, "sm_clock_max"), mhz))
FUNCTION(nvmlDeviceGetTotalEccErrors, device, (nvml_device device, uint32_t error, uint32_t counter, uint64_t *count),
         put_u64(item(object, "ecc", error), count))
FUNCTION(nvmlDeviceGetComputeMode, device, (nvml_device device, uint32_t *mode),
         put_u32(get(object, "compute_mode"), mode))
FUNCTION(nvmlDeviceGetPersistenceMode, device, (nvml_device device, uint32_t *mode),
         put_u32(get(object, "persistence"), mode))

#ifdef FAKE_NVML_OLD
FUNCTION(nvmlDeviceGetCurrentClocksThrottleReasons, device, (nvml_device device, uint64_t *reasons),
         put_u64(get(object, "throttle_reasons"), reasons))
#else
FUNCTION(nvmlDeviceGetCurrentClocksEventReasons, device, (nvml_device device, uint64_t *reasons),
         put_u64(get(object, "throttle_reasons"), reasons))
FUNCTION(nvmlSystemGetCudaDriverVersion_v2, NULL, (int *version),
         put_u32(get(scenario_root(), "cuda"), (uint32_t *)version))

static nvml_return put_pci(const json_t *object, struct nvml_pci *pci) {
  return put_text(get(object, "pci"), pci->bus_id, sizeof pci->bus_id);
}
FUNCTION(nvmlDeviceGetPciInfo_v3, device, (nvml_device device, struct nvml_pci *pci), put_pci(object, pci))
FUNCTION(nvmlDeviceGetCudaComputeCapability, device, (nvml_device device, int *major, int *minor),
         put_u32(item(object, "compute_capability", 0), (uint32_t *)major) == NVML_SUCCESS
             ? put_u32(item(object, "compute_capability", 1), (uint32_t *)minor)
             : NVML_NOT_SUPPORTED)
FUNCTION(nvmlDeviceGetMemoryInfo_v2, device, (nvml_device device, struct nvml_memory_v2 *memory),
         memory->version != (uint32_t)NVML_MEMORY_V2 ? NVML_INVALID_ARGUMENT
                                                     : put_memory(object, &memory->total, &memory->free, &memory->used))
FUNCTION(nvmlDeviceGetTotalEnergyConsumption, device, (nvml_device device, uint64_t *millijoules),
         put_u64(get(object, "energy_mj"), millijoules))

static nvml_return put_nodes(const json_t *object, uint32_t n, unsigned long *nodes) {
  uint32_t node;
  nvml_return result = put_u32(get(object, "numa_node"), &node);
  if (result != NVML_SUCCESS) return result;
  memset(nodes, 0, n * sizeof *nodes);
  if (node / 64 >= n) return NVML_INVALID_ARGUMENT;
  nodes[node / 64] = 1ul << node % 64;
  return NVML_SUCCESS;
}
FUNCTION(nvmlDeviceGetMemoryAffinity, device, (nvml_device device, uint32_t n, unsigned long *nodes, uint32_t scope),
         put_nodes(object, n, nodes))

static nvml_return put_field(const json_t *object, struct nvml_field *field) {
  field->value_type = NVML_VALUE_U32;
  field->result = field->field == NVML_FIELD_RECOVERY_ACTION
                      ? put_u32(get(object, "recovery_action"), &field->value.u32)
                      : NVML_NOT_SUPPORTED;
  return NVML_SUCCESS;
}
FUNCTION(nvmlDeviceGetFieldValues, device, (nvml_device device, int n, struct nvml_field *fields),
         n == 1 ? put_field(object, fields) : NVML_INVALID_ARGUMENT)

/* ---- MIG
 * ------------------------------------------------------------------------------------------------------------- */

FUNCTION(nvmlDeviceGetMigMode, device, (nvml_device device, uint32_t *now, uint32_t *pending),
         (*now = *pending = get(object, "mig") != NULL, device->mig < 0 ? NVML_SUCCESS : NVML_INVALID_ARGUMENT))
FUNCTION(nvmlDeviceGetMaxMigDeviceCount, device, (nvml_device device, uint32_t *n),
         (*n = (uint32_t)json_array_size(get(object, "mig")), NVML_SUCCESS))
FUNCTION(nvmlDeviceGetMigDeviceHandleByIndex, device, (nvml_device device, uint32_t index, nvml_device *mig),
         json_is_object(item(object, "mig", index)) ? put_device(device->gpu, (int)index, mig) : NVML_NOT_FOUND)

/* ---- processes
 * ------------------------------------------------------------------------------------------------------- */

static nvml_return put_processes(const json_t *object, uint32_t *n, struct nvml_process *list) {
  const json_t *processes = get(object, "processes"), *process;
  uint32_t room = *n;
  size_t i;
  *n = (uint32_t)json_array_size(processes);
  if (*n > room) return NVML_INSUFFICIENT_SIZE;
  json_array_foreach(processes, i, process) {
    list[i] = (struct nvml_process){.memory = UINT64_MAX}; /* not available */
    (void)put_u32(get(process, "pid"), &list[i].pid);
    (void)put_u64(get(process, "memory"), &list[i].memory);
  }
  return NVML_SUCCESS;
}
FUNCTION(nvmlDeviceGetComputeRunningProcesses_v3, device, (nvml_device device, uint32_t *n, struct nvml_process *list),
         put_processes(object, n, list))

/* ---- how they are connected
 * ------------------------------------------------------------------------------------------ */

static nvml_return put_level(nvml_device one, nvml_device other, uint32_t *ret_level) {
  const json_t *row = json_array_get(get(scenario_root(), "topology"), (size_t)one->gpu);
  if (put_u32(json_array_get(row, (size_t)other->gpu), ret_level) == NVML_SUCCESS) return NVML_SUCCESS;
  bool near = json_equal(get(scenario_gpu(one), "numa_node"), get(scenario_gpu(other), "numa_node"));
  *ret_level = near ? NVML_TOPOLOGY_NODE : NVML_TOPOLOGY_SYSTEM;
  return NVML_SUCCESS;
}
FUNCTION(nvmlDeviceGetTopologyCommonAncestor, device, (nvml_device device, nvml_device other, uint32_t *level),
         put_level(device, other, level))

static bool has(const json_t *group, int gpu) {
  size_t i;
  const json_t *member;
  json_array_foreach(group, i, member) {
    if (json_integer_value(member) == gpu) return true;
  }
  return false;
}

static nvml_return put_p2p(nvml_device one, nvml_device other, uint32_t *ret_status) {
  size_t i;
  const json_t *group;
  *ret_status = 1; /* not supported by the chipset */
  json_array_foreach(get(scenario_root(), "nvlink"), i, group) {
    if (has(group, one->gpu) && has(group, other->gpu)) *ret_status = NVML_P2P_OK;
  }
  return NVML_SUCCESS;
}
FUNCTION(nvmlDeviceGetP2PStatus, device, (nvml_device device, nvml_device other, uint32_t capability, uint32_t *status),
         capability == NVML_P2P_NVLINK ? put_p2p(device, other, status) : NVML_INVALID_ARGUMENT)
#endif

/* ---- events
 * ---------------------------------------------------------------------------------------------------------- */

enum { GPUS = 64, EVENT_POLL_MS = 5 };

struct nvml_event_set_data {
  uint64_t types[GPUS];
  size_t seen; /* events of the list that were handed out, or were not asked for */
};

static nvml_return put_events(nvml_events *ret_events) {
  *ret_events = calloc(1, sizeof **ret_events);
  return *ret_events != NULL ? NVML_SUCCESS : NVML_UNKNOWN;
}
FUNCTION(nvmlEventSetCreate, NULL, (nvml_events * events), put_events(events))
FUNCTION(nvmlEventSetFree, NULL, (nvml_events events), (free(events), NVML_SUCCESS))
FUNCTION(nvmlDeviceGetSupportedEventTypes, device, (nvml_device device, uint64_t *types),
         (*types = json_is_false(get(object, "events")) ? 0 : NVML_EVENT_XID | NVML_EVENT_DOUBLE_BIT_ECC, NVML_SUCCESS))
FUNCTION(nvmlDeviceRegisterEvents, device, (nvml_device device, uint64_t types, nvml_events events),
         (events->types[device->gpu] |= types, NVML_SUCCESS))

static nvml_return next_event(nvml_events events, struct nvml_event_data *ret_data) {
  const json_t *list = get(scenario_root(), "events");
  while (events->seen < json_array_size(list)) {
    const json_t *event = json_array_get(list, events->seen++);
    json_int_t gpu = json_integer_value(get(event, "gpu"));
    uint64_t type = json_is_true(get(event, "ecc")) ? NVML_EVENT_DOUBLE_BIT_ECC : NVML_EVENT_XID;
    if (gpu < 0 || gpu >= GPUS || (events->types[gpu] & type) == 0) continue;
    *ret_data = (struct nvml_event_data){.device = scenario_device((int)gpu, -1),
                                         .type = type,
                                         .data = (uint64_t)json_integer_value(get(event, "xid")),
                                         .gpu_instance = UINT32_MAX,
                                         .compute_instance = UINT32_MAX};
    return NVML_SUCCESS;
  }
  return NVML_TIMEOUT;
}

EXPORT nvml_return nvmlEventSetWait_v2(nvml_events events, struct nvml_event_data *data, uint32_t milliseconds);
EXPORT nvml_return nvmlEventSetWait_v2(nvml_events events, struct nvml_event_data *data, uint32_t milliseconds) {
  for (uint32_t waited = 0;; waited += EVENT_POLL_MS) {
    json_t *none = NULL;
    nvml_return result = scenario_enter(__func__, NULL, &none);
    if (result == NVML_SUCCESS) result = scenario_leave(next_event(events, data));
    if (result != NVML_TIMEOUT || waited >= milliseconds) return result;
    usleep(EVENT_POLL_MS * 1000);
  }
}
