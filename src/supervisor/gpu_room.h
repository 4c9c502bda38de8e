/*
 * Whether the models that are wanted fit into the memory of the GPUs that they were placed on. The supervisor's, and of
 * `muster plan placement`.
 */
#ifndef SUPERVISOR_GPU_ROOM_H
#define SUPERVISOR_GPU_ROOM_H

#include "supervisor/state.h"

/* Of the model's files: the model file and what lies in its folder (weights that are stored apart). */
int64_t gpu_room_file_bytes(const struct served_model *model);

/*
 * Takes room for every planned model of wanted, in the order of the list; one that does not fit is not planned any
 * more, with the sum as its reason. What runs already as it is wanted (planning->served) is never refused. part: wanted
 * is not all that is to be served, so what is served under other names keeps its room, too. ret_rooms: by position of
 * the inventory. The room that a generation needs beside the one that it replaces is not counted: it is needed for
 * moments, and where it is missing the new one fails to load and the old one stays.
 */
void gpu_room_check(const struct planning *planning, struct list *wanted, bool part,
                    struct placement_room ret_rooms[GPUS_MAX]);

/* New readings: what each ready worker takes of its GPU is remembered, in the file of --measurements too. */
void gpu_room_measure(struct supervisor *s);
/* What that file remembers. MU_INVALID, MU_IO, MU_NO_MEMORY. */
MUST_CHECK mu_status gpu_room_remember(struct supervisor *s, mu_error *err);

#endif
