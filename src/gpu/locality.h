/*
 * Which CPU cores are next to a GPU, by hwloc. Reads /sys (in it the PCI configuration of every device), which takes
 * some milliseconds and is for whoever may wait for a GPU: the role `fleet` and commands. One thread at a time.
 */
#ifndef GPU_LOCALITY_H
#define GPU_LOCALITY_H

#include <sched.h>

#include "base/status.h"
#include "gpu/inventory.h"

struct gpu_locality;

/* allowed: the cores that count; NULL: those that this process may use. MU_NO_MEMORY, MU_IO. */
MUST_CHECK mu_status gpu_locality_create(const cpu_set_t *allowed, struct gpu_locality **ret_locality, mu_error *err);
void gpu_locality_free(struct gpu_locality *locality); /* accepts NULL */

/* The allowed cores next to the GPU: by its place on the PCI bus, else by its NUMA node, else (also where none of those
 * is allowed) all that are allowed. */
void gpu_locality_cores(const struct gpu_locality *locality, const struct gpu *gpu, cpu_set_t *ret_cores);

/* "0-7,16-23" into text; false: it does not fit, text is "". */
bool gpu_cores_print(const cpu_set_t *cores, char *text, size_t size);
/* The reverse. MU_INVALID: not a list, or no core. */
MUST_CHECK mu_status gpu_cores_parse(const char *text, cpu_set_t *ret_cores);

#endif
