/* An inventory as JSON: `muster gpus --json`, and what the fleet sends to the supervisor and that one to the gateways.
 */
#ifndef GPU_INVENTORY_JSON_H
#define GPU_INVENTORY_JSON_H

#include <jansson.h>

#include "base/status.h"
#include "gpu/inventory.h"

/* NULL without memory. Unknown figures are null. */
json_t *gpu_inventory_to_json(const struct gpu_inventory *inventory);

/* Checks everything: types, ranges, lengths. MU_INVALID. */
MUST_CHECK mu_status gpu_inventory_from_json(const json_t *json, struct gpu_inventory *ret_inventory, mu_error *err);

#endif
