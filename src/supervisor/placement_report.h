/*
 * The plan that a server would start with, for people and programs: `muster plan placement`. Nothing is started.
 */
#ifndef SUPERVISOR_PLACEMENT_REPORT_H
#define SUPERVISOR_PLACEMENT_REPORT_H

#include <jansson.h>

#include "config/options.h"
#include "gpu/inventory.h"

/*
 * {gpus: [{gpu, uuid, name, memory_bytes, used_by_others_bytes, planned_bytes, left_bytes, processes}],
 *  models: [{model, version, engine, threads, served, reason, process_bytes, memory, devices: [{device, gpu, processes,
 *            instances}]}], note, served}
 * gpus: those that the server may use; note: why there are none. served: all models can be. The caller's reference.
 * MU_INVALID, MU_NOT_FOUND, MU_IO …: as a start would be refused; MU_NO_MEMORY.
 */
MUST_CHECK mu_status placement_report(const struct options *options, const struct gpu_inventory *inventory,
                                      json_t **ret_report, mu_error *err);

/* The simulated GPUs that the options ask for. */
void placement_simulate(const struct options *options, struct gpu_inventory *ret_inventory);

#endif
