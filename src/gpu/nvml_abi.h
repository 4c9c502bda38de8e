/*
 * What NVML's functions take and give, declared anew from its public reference (docs.nvidia.com/deploy/nvml-api, the
 * pages "Device Structs", "Device Enums", "Field Value Enums", "Event Types"), so that nothing of NVIDIA is needed to
 * build. Only what muster uses; the sizes are asserted, as a driver writes that much. Private to gpu/ and to the fake
 * library of the tests.
 */
#ifndef GPU_NVML_ABI_H
#define GPU_NVML_ABI_H

#include <stddef.h>
#include <stdint.h>

typedef int nvml_return; /* nvmlReturn_t */
enum {
  NVML_SUCCESS = 0,
  NVML_UNINITIALIZED = 1,
  NVML_INVALID_ARGUMENT = 2,
  NVML_NOT_SUPPORTED = 3,
  NVML_NO_PERMISSION = 4,
  NVML_NOT_FOUND = 6,
  NVML_INSUFFICIENT_SIZE = 7,
  NVML_DRIVER_NOT_LOADED = 9,
  NVML_TIMEOUT = 10,
  NVML_FUNCTION_NOT_FOUND = 13,
  NVML_GPU_IS_LOST = 15,
  NVML_RESET_REQUIRED = 16,
  NVML_LIB_RM_VERSION_MISMATCH = 18,
  NVML_UNKNOWN = 999,
};

typedef struct nvml_device_data *nvml_device;    /* nvmlDevice_t: opaque */
typedef struct nvml_event_set_data *nvml_events; /* nvmlEventSet_t: opaque */

enum { NVML_INIT_NO_GPUS = 1 }; /* nvmlInitWithFlags: it is no error that there is no GPU */

/* nvmlMemory_t, of nvmlDeviceGetMemoryInfo: used is without what the driver reserves. */
struct nvml_memory_v1 {
  uint64_t total, free, used;
};
_Static_assert(sizeof(struct nvml_memory_v1) == 24, "nvmlMemory_t");

/* nvmlMemory_v2_t, of nvmlDeviceGetMemoryInfo_v2; version: its size, and 2 in the highest byte. */
struct nvml_memory_v2 {
  uint32_t version, padding;
  uint64_t total, reserved, free, used; /* used is with what is reserved */
};
_Static_assert(sizeof(struct nvml_memory_v2) == 40, "nvmlMemory_v2_t");
enum { NVML_MEMORY_V2 = (int)(sizeof(struct nvml_memory_v2) | 2u << 24) };

/* nvmlPciInfo_t, of nvmlDeviceGetPciInfo_v3. */
struct nvml_pci {
  char bus_id_legacy[16];
  uint32_t domain, bus, device, device_id, subsystem_id;
  char bus_id[32]; /* "00000000:3B:00.0" */
};
_Static_assert(sizeof(struct nvml_pci) == 68 && offsetof(struct nvml_pci, bus_id) == 36, "nvmlPciInfo_t");

/* nvmlUtilization_t: percent. */
struct nvml_utilization {
  uint32_t gpu, memory;
};
_Static_assert(sizeof(struct nvml_utilization) == 8, "nvmlUtilization_t");

/* nvmlProcessInfo_v2_t, which nvmlDeviceGetComputeRunningProcesses_v3 takes. */
struct nvml_process {
  uint32_t pid, padding;
  uint64_t memory; /* all bits set: not available */
  uint32_t gpu_instance, compute_instance;
};
_Static_assert(sizeof(struct nvml_process) == 24, "nvmlProcessInfo_v2_t");

/* nvmlEventData_t, of nvmlEventSetWait_v2. */
struct nvml_event_data {
  nvml_device device;
  uint64_t type, data; /* data: the Xid, 999 for one that is not known; 0 for other events */
  uint32_t gpu_instance, compute_instance;
};
_Static_assert(sizeof(struct nvml_event_data) == 32, "nvmlEventData_t");

/* nvmlFieldValue_t, of nvmlDeviceGetFieldValues. */
struct nvml_field {
  uint32_t field, scope;
  int64_t timestamp, latency;
  uint32_t value_type; /* nvmlValueType_t: of value */
  nvml_return result;
  union {
    double f64;
    uint32_t u32;
    uint64_t u64;
    int64_t i64;
    int32_t i32;
    uint16_t u16;
  } value;
};
_Static_assert(sizeof(struct nvml_field) == 40, "nvmlFieldValue_t");
enum { NVML_FIELD_RECOVERY_ACTION = 230 }; /* NVML_FI_DEV_GET_GPU_RECOVERY_ACTION */
enum { NVML_VALUE_U32 = 1, NVML_VALUE_ULONG = 2, NVML_VALUE_U64 = 3, NVML_VALUE_I64 = 4, NVML_VALUE_I32 = 5 };

/* Values of nvmlTemperatureSensors_t, nvmlClockType_t, nvmlMemoryErrorType_t, nvmlEccCounterType_t,
 * nvmlGpuP2PCapsIndex_t with nvmlGpuP2PStatus_t, nvmlAffinityScope_t, nvmlComputeMode_t. */
enum { NVML_SENSOR_GPU = 0 };
enum { NVML_CLOCK_SM = 1, NVML_CLOCK_MEMORY = 2 };
enum { NVML_ECC_CORRECTED = 0, NVML_ECC_UNCORRECTED = 1 };
enum { NVML_ECC_VOLATILE = 0 }; /* since the driver was loaded */
enum { NVML_P2P_NVLINK = 2, NVML_P2P_OK = 0 };
enum { NVML_SCOPE_NODE = 0 };
enum { NVML_COMPUTE_EXCLUSIVE_THREAD = 1 }; /* of old; counts as exclusive process */

/* nvmlGpuTopologyLevel_t */
enum {
  NVML_TOPOLOGY_INTERNAL = 0, /* two GPUs on one board */
  NVML_TOPOLOGY_SINGLE = 10,
  NVML_TOPOLOGY_MULTIPLE = 20,
  NVML_TOPOLOGY_HOSTBRIDGE = 30,
  NVML_TOPOLOGY_NODE = 40,
  NVML_TOPOLOGY_SYSTEM = 50,
};

/* Bits of nvmlDeviceRegisterEvents and of nvml_event_data.type */
#define NVML_EVENT_DOUBLE_BIT_ECC UINT64_C(0x2)
#define NVML_EVENT_XID UINT64_C(0x8)

#endif
