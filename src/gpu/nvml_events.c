/* Xids and double-bit ECC errors. All state here belongs to the thread that waits. */
#include <string.h>

#include "base/clock.h"
#include "gpu/nvml_functions.h"

enum { WAIT_MAX_MS = 60000 };

/* The GPUs' UUIDs are kept: one that is lost does not say it any more. */
static void watch_device(struct nvml *nvml, nvml_device device) {
  struct nvml_known *place = &nvml->watched[nvml->n_watched];
  uint64_t types = 0;
  if (NVML_CALL(nvml, events_supported, device, &types) != NVML_SUCCESS) return;
  types &= NVML_EVENT_XID | NVML_EVENT_DOUBLE_BIT_ECC;
  if (types == 0 || NVML_CALL(nvml, uuid, device, place->uuid, sizeof place->uuid) != NVML_SUCCESS) return;
  if (NVML_CALL(nvml, events_register, device, types, nvml->events) != NVML_SUCCESS) return;
  place->device = device;
  nvml->n_watched++;
}

static mu_status watch_devices(struct nvml *nvml, mu_error *err) {
  nvml_return result = NVML_SUCCESS;
  uint32_t n = 0;
  if (nvml->events == NULL) result = NVML_CALL(nvml, events_create, &nvml->events);
  if (result != NVML_SUCCESS) {
    nvml->events = NULL;
    return nvml_fail(nvml, NVML_FN_events_create, result, err);
  }
  result = NVML_CALL(nvml, count, &n);
  if (result != NVML_SUCCESS) return nvml_fail(nvml, NVML_FN_count, result, err);
  for (uint32_t i = 0; i < n && nvml->n_watched < GPUS_MAX; i++) {
    nvml_device device;
    if (NVML_CALL(nvml, handle, i, &device) == NVML_SUCCESS) watch_device(nvml, device);
  }
  if (nvml->n_watched == 0) return mu_fail(err, MU_UNSUPPORTED, "none of the %u GPUs reports Xid events", (unsigned)n);
  return MU_OK;
}

mu_status nvml_wait_event(struct nvml *nvml, uint64_t timeout_ns, struct nvml_event *ret_event, mu_error *err) {
  if (nvml->n_watched == 0) {
    mu_status status = watch_devices(nvml, err);
    if (status != MU_OK) return status;
  }
  uint64_t ms = timeout_ns / NS_PER_MS + (timeout_ns % NS_PER_MS != 0);
  struct nvml_event_data data = {0};
  uint32_t most_ms = (uint32_t)(ms < WAIT_MAX_MS ? ms : WAIT_MAX_MS);
  nvml_return result = NVML_CALL(nvml, events_wait, nvml->events, &data, most_ms);
  if (result == NVML_TIMEOUT) return mu_fail(err, MU_TIMEOUT, "no event");
  if (result != NVML_SUCCESS) return nvml_fail(nvml, NVML_FN_events_wait, result, err);
  struct nvml_event event = {.xid = data.type == NVML_EVENT_XID ? data.data : 0};
  for (uint32_t i = 0; i < nvml->n_watched; i++)
    if (nvml->watched[i].device == data.device) memcpy(event.uuid, nvml->watched[i].uuid, sizeof event.uuid);
  *ret_event = event;
  return MU_OK;
}
