/*
 * How the machine's GPUs are, as the supervisor last said it: for /health and the metrics. In struct core, under its
 * lock.
 */
#ifndef GATEWAY_GPUS_H
#define GATEWAY_GPUS_H

#include <jansson.h>

#include "control/message.h"
#include "gpu/inventory.h"
#include "metrics/exposition.h"

struct core;

struct gateway_gpus {
  json_t *state;                   /* {"fleet": {…}, "gpus": [{…}]}; NULL: there are none */
  struct gpu_inventory *inventory; /* NULL: no fresh readings */
};

/* CONTROL_GPUS. Takes the lock. What does not add up is logged, and what was known before holds. */
void gateway_gpus_take(struct core *core, const struct control_gpus *message);

/* For the page of metrics, locked: an array of *ret_n, to be freed, whose texts are borrowed; NULL without memory. */
struct exposition_gpu *gateway_gpus_expose(const struct gateway_gpus *gpus, size_t *ret_n);

#endif
