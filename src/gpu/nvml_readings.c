/* What the GPUs do now. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/nvml_functions.h"

void nvml_reading_failed(const struct nvml *nvml, enum nvml_function function, nvml_return result,
                         struct gpu_reading *reading) {
  mu_error err;
  (void)nvml_fail(nvml, function, result, &err);
  if (result == NVML_GPU_IS_LOST || result == NVML_RESET_REQUIRED) {
    gpu_reading_clear(reading);
    reading->lost = true;
  }
  if (reading->error[0] == '\0') snprintf(reading->error, sizeof reading->error, "%.255s", err.message);
}

/* ---- figures, each by a function of its own -------------------------------------------------------------------------
 */

static int32_t as_figure(nvml_return result, uint32_t value) {
  return result == NVML_SUCCESS && value <= INT32_MAX ? (int32_t)value : GPU_UNKNOWN;
}
static int64_t as_count(nvml_return result, uint64_t value) {
  return result == NVML_SUCCESS && value <= INT64_MAX ? (int64_t)value : GPU_UNKNOWN;
}

static nvml_return read_memory(struct nvml *nvml, nvml_device device, struct gpu_reading *reading) {
  struct nvml_memory_v2 memory = {.version = NVML_MEMORY_V2};
  nvml_return result = NVML_CALL(nvml, memory_v2, device, &memory);
  if (result != NVML_SUCCESS) {
    struct nvml_memory_v1 older = {0};
    result = NVML_CALL(nvml, memory_v1, device, &older);
    memory.free = older.free;
    memory.used = older.total - older.free; /* with what the driver reserves, as in the newer call */
  }
  reading->memory_used = as_count(result, memory.used);
  reading->memory_free = as_count(result, memory.free);
  return result;
}

static nvml_return read_utilization(struct nvml *nvml, nvml_device device, struct gpu_reading *reading) {
  struct nvml_utilization utilization = {0};
  nvml_return result = NVML_CALL(nvml, utilization, device, &utilization);
  reading->gpu_utilization = as_figure(result, utilization.gpu);
  reading->memory_utilization = as_figure(result, utilization.memory);
  return result;
}

static nvml_return read_temperature(struct nvml *nvml, nvml_device device, struct gpu_reading *reading) {
  uint32_t value = 0;
  nvml_return result = NVML_CALL(nvml, temperature, device, NVML_SENSOR_GPU, &value);
  reading->temperature = as_figure(result, value);
  return result;
}

static nvml_return read_power(struct nvml *nvml, nvml_device device, struct gpu_reading *reading) {
  uint32_t value = 0;
  nvml_return result = NVML_CALL(nvml, power, device, &value);
  reading->power_mw = as_count(result, value);
  return result;
}

static nvml_return read_power_limit(struct nvml *nvml, nvml_device device, struct gpu_reading *reading) {
  uint32_t value = 0;
  nvml_return result = NVML_CALL(nvml, power_limit, device, &value);
  reading->power_limit_mw = as_count(result, value);
  return result;
}

static nvml_return read_energy(struct nvml *nvml, nvml_device device, struct gpu_reading *reading) {
  uint64_t value = 0;
  nvml_return result = NVML_CALL(nvml, energy, device, &value);
  reading->energy_mj = as_count(result, value);
  return result;
}

static nvml_return read_sm_clock(struct nvml *nvml, nvml_device device, struct gpu_reading *reading) {
  uint32_t value = 0;
  nvml_return result = NVML_CALL(nvml, clock, device, NVML_CLOCK_SM, &value);
  reading->sm_clock_mhz = as_figure(result, value);
  return result;
}

static nvml_return read_memory_clock(struct nvml *nvml, nvml_device device, struct gpu_reading *reading) {
  uint32_t value = 0;
  nvml_return result = NVML_CALL(nvml, clock, device, NVML_CLOCK_MEMORY, &value);
  reading->memory_clock_mhz = as_figure(result, value);
  return result;
}

static nvml_return read_sm_clock_max(struct nvml *nvml, nvml_device device, struct gpu_reading *reading) {
  uint32_t value = 0;
  nvml_return result = NVML_CALL(nvml, clock_max, device, NVML_CLOCK_SM, &value);
  reading->sm_clock_max_mhz = as_figure(result, value);
  return result;
}

static nvml_return read_throttle_reasons(struct nvml *nvml, nvml_device device, struct gpu_reading *reading) {
  uint64_t value = 0;
  nvml_return result = NVML_CALL(nvml, throttle_reasons, device, &value);
  reading->throttle_reasons = as_count(result, value);
  return result;
}

static nvml_return read_ecc(struct nvml *nvml, nvml_device device, struct gpu_reading *reading) {
  uint64_t corrected = 0, uncorrected = 0;
  nvml_return result = NVML_CALL(nvml, ecc, device, NVML_ECC_CORRECTED, NVML_ECC_VOLATILE, &corrected);
  reading->ecc_corrected = as_count(result, corrected);
  if (result != NVML_SUCCESS) return result;
  result = NVML_CALL(nvml, ecc, device, NVML_ECC_UNCORRECTED, NVML_ECC_VOLATILE, &uncorrected);
  reading->ecc_uncorrected = as_count(result, uncorrected);
  return result;
}

static nvml_return read_recovery_action(struct nvml *nvml, nvml_device device, struct gpu_reading *reading) {
  struct nvml_field field = {.field = NVML_FIELD_RECOVERY_ACTION};
  nvml_return result = NVML_CALL(nvml, fields, device, 1, &field);
  if (result != NVML_SUCCESS) return result;
  if (field.result != NVML_SUCCESS) return field.result == NVML_INVALID_ARGUMENT ? NVML_NOT_SUPPORTED : field.result;
  bool wide =
      field.value_type == NVML_VALUE_ULONG || field.value_type == NVML_VALUE_U64 || field.value_type == NVML_VALUE_I64;
  uint64_t value = wide ? field.value.u64 : field.value.u32;
  reading->recovery_action = value <= INT32_MAX ? (int32_t)value : GPU_UNKNOWN;
  return NVML_SUCCESS;
}

static const struct {
  enum nvml_function function; /* for the error message */
  nvml_return (*read)(struct nvml *nvml, nvml_device device, struct gpu_reading *reading);
} readers[] = {
    {NVML_FN_memory_v1, read_memory},
    {NVML_FN_utilization, read_utilization},
    {NVML_FN_temperature, read_temperature},
    {NVML_FN_power, read_power},
    {NVML_FN_power_limit, read_power_limit},
    {NVML_FN_energy, read_energy},
    {NVML_FN_clock, read_sm_clock},
    {NVML_FN_clock, read_memory_clock},
    {NVML_FN_clock_max, read_sm_clock_max},
    {NVML_FN_throttle_reasons, read_throttle_reasons},
    {NVML_FN_ecc, read_ecc},
    {NVML_FN_fields, read_recovery_action},
};

/* A figure that this driver or this device does not have, or does not say to everybody. */
static bool is_absent(nvml_return result) {
  return result == NVML_NOT_SUPPORTED || result == NVML_FUNCTION_NOT_FOUND || result == NVML_NO_PERMISSION;
}

void nvml_read_device(struct nvml *nvml, nvml_device device, bool mig, struct gpu_reading *ret_reading) {
  gpu_reading_clear(ret_reading);
  for (size_t i = 0; i < sizeof readers / sizeof *readers; i++) {
    nvml_return result = readers[i].read(nvml, device, ret_reading);
    bool absent = is_absent(result) || (mig && i > 0 && result == NVML_INVALID_ARGUMENT);
    if (result != NVML_SUCCESS && !absent) nvml_reading_failed(nvml, readers[i].function, result, ret_reading);
    if (ret_reading->lost) return;
  }
}

/* ---- processes
 * ------------------------------------------------------------------------------------------------------- */

/* Processes come and go between asking how many there are and asking for them. */
static nvml_return list_processes(struct nvml *nvml, nvml_device device, struct nvml_process **ret_list,
                                  uint32_t *ret_n) {
  struct nvml_process *list = NULL;
  nvml_return result = NVML_INSUFFICIENT_SIZE;
  uint32_t n = 64;
  for (int tries = 0; tries < 4 && result == NVML_INSUFFICIENT_SIZE; tries++) {
    struct nvml_process *larger = realloc(list, (size_t)n * sizeof *list);
    if (larger == NULL) break;
    list = larger;
    uint32_t room = n;
    result = NVML_CALL(nvml, processes, device, &n, list);
    if (result == NVML_SUCCESS && n > room) n = room;
    if (result == NVML_INSUFFICIENT_SIZE) n = (n > room && n < 1 << 20 ? n : room) + 64;
  }
  *ret_list = list;
  *ret_n = result == NVML_SUCCESS ? n : 0;
  return result;
}

void nvml_read_processes(struct nvml *nvml, const nvml_device *devices, struct gpu_inventory *inventory) {
  inventory->n_processes = 0;
  for (uint32_t i = 0; i < inventory->n_gpus; i++) {
    nvml_device device = devices[i];
    if (device == NULL || inventory->gpus[i].mig_enabled || inventory->readings[i].lost) continue;
    struct nvml_process *list = NULL;
    uint32_t n = 0;
    nvml_return result = list_processes(nvml, device, &list, &n);
    if (result != NVML_SUCCESS && !is_absent(result))
      nvml_reading_failed(nvml, NVML_FN_processes, result, &inventory->readings[i]);
    for (uint32_t p = 0; p < n && inventory->n_processes < GPU_PROCESSES_MAX; p++)
      inventory->processes[inventory->n_processes++] = (struct gpu_process){
          .pid = (int32_t)list[p].pid, .gpu = i, .memory_used = as_count(NVML_SUCCESS, list[p].memory)};
    free(list);
  }
}

/* ---- anew
 * ------------------------------------------------------------------------------------------------------------ */

/* NULL: it could not be found even then. */
static nvml_device find_known(const struct nvml *nvml, const struct gpu *gpu) {
  for (uint32_t i = 0; i < nvml->n_known; i++)
    if (gpu->uuid[0] != '\0' && strcmp(nvml->known[i].uuid, gpu->uuid) == 0) return nvml->known[i].device;
  return NULL;
}

mu_status nvml_read_readings(struct nvml *nvml, struct gpu_inventory *inventory, mu_error *err) {
  nvml_device devices[GPUS_MAX];
  uint32_t n = 0;
  nvml_return result = NVML_CALL(nvml, count, &n); /* is the driver still there at all? */
  if (result != NVML_SUCCESS) return nvml_fail(nvml, NVML_FN_count, result, err);
  for (uint32_t i = 0; i < inventory->n_gpus; i++) {
    struct gpu_reading *reading = &inventory->readings[i];
    devices[i] = find_known(nvml, &inventory->gpus[i]);
    if (devices[i] != NULL) {
      nvml_read_device(nvml, devices[i], inventory->gpus[i].mig_index != GPU_UNKNOWN, reading);
    } else if (!reading->lost && reading->error[0] == '\0') {
      gpu_reading_clear(reading);
      snprintf(reading->error, sizeof reading->error, "not among the GPUs that were found last");
    }
  }
  nvml_read_processes(nvml, devices, inventory);
  return MU_OK;
}
