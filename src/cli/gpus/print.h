/* An inventory of GPUs as text and as JSON for people and scripts. Out of memory is noted in the buffer. */
#ifndef CLI_GPUS_PRINT_H
#define CLI_GPUS_PRINT_H

#include "base/buffer.h"
#include "gpu/inventory.h"

/* The GPUs, what they do, and the processes on them. */
void gpus_print_table(const struct gpu_inventory *inventory, struct buffer *out);

/* How each reaches each, the islands, the cores next to each. */
void gpus_print_topology(const struct gpu_inventory *inventory, struct buffer *out);

/* Makes what was printed the content of a terminal of that size, in place of what it showed before; what does not fit
 * is counted. 0: it has no size. */
void gpus_print_screen(struct buffer *out, size_t rows, size_t columns);

/* gpu/inventory_json.h, and besides: "island" of each GPU, "name" of each process. flags: of json_dumps. */
void gpus_print_json(const struct gpu_inventory *inventory, size_t flags, struct buffer *out);

#endif
