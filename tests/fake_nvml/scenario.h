/* The scenario that the fake library plays, read anew when its file has changed. Any thread. */
#ifndef FAKE_NVML_SCENARIO_H
#define FAKE_NVML_SCENARIO_H

#include <jansson.h>
#include <stdbool.h>

#include "gpu/nvml_abi.h"

/* What a device handle points to: its places in "gpus" and, of a MIG device, in "mig" (else -1). */
struct nvml_device_data {
  int gpu, mig;
};

/* Begins a call: blocks for ever when it is in "hang"; else reads the scenario, locks it and returns whether the call
 * goes on, or what it has to answer. device NULL: a call that is about none. *ret_device: the object of the device,
 * NULL without one. After NVML_SUCCESS scenario_leave has to follow, after all else not. */
nvml_return scenario_enter(const char *call, nvml_device device, json_t **ret_device);
nvml_return scenario_leave(nvml_return result);

json_t *scenario_root(void);                   /* between enter and leave */
nvml_device scenario_device(int gpu, int mig); /* its handle; NULL: past what there can be */
json_t *scenario_gpu(nvml_device device);      /* of the whole GPU; between enter and leave */

#endif
