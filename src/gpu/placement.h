/*
 * Which processes of a model go onto which GPUs, and whether they fit there. Pure: instance groups, GPUs and memory in,
 * shares out.
 *
 *   KIND_GPU   on each GPU that `gpus` names (by ordinal, gpu/visible.h); where it names none, on every GPU that the
 *              server may use: `count` instances on each, as in Triton
 *   KIND_CPU   on the CPU
 *   KIND_AUTO  as KIND_GPU where the engine can use a GPU here and the server may use one, or `gpus` names some; else
 * on the CPU. No group at all is one of KIND_AUTO.
 *
 * Memory: a process takes a CUDA context, the model's weights once (its instances share them) and an arena for what
 * runs. Until a process was measured these are estimates.
 */
#ifndef GPU_PLACEMENT_H
#define GPU_PLACEMENT_H

#include "gpu/visible.h"

enum placement_kind { PLACEMENT_AUTO, PLACEMENT_GPU, PLACEMENT_CPU };

/* An instance_group. */
struct placement_group {
  enum placement_kind kind;
  int64_t count; /* instances on each device, in one process; at least 1 */
  const int32_t *gpus;
  uint32_t n_gpus;
};

/* Where an engine can run. */
struct placement_engine {
  const char *name;
  bool simulated; /* on simulated GPUs, too */
  bool automatic; /* on a real GPU without being told to: what it needs for that is there */
};

struct placement_wish {
  const char *device; /* "auto": as the groups say; "cpu", "gpu" (every GPU), "gpu:ORDINAL", "gpu:UUID": all go there */
  const struct placement_group *groups;
  uint32_t n_groups;
  struct placement_engine engine;
};

/* On one device. */
struct placement_share {
  int32_t gpu; /* position in the inventory; GPU_UNKNOWN: the CPU */
  int64_t instances;
};

enum { PLACEMENT_SHARES_MAX = GPUS_MAX + 1 };

/* Whether the answer depends on real GPUs at all. What does not can be served before they are known. */
bool placement_needs_gpus(const struct placement_wish *wish);

/* At least one share. MU_NOT_FOUND: a GPU that is not there, or none where one is wanted; MU_UNSUPPORTED: the engine
 * cannot run there; MU_INVALID. */
MUST_CHECK mu_status placement_choose(const struct gpu_inventory *inventory, const struct gpu_set *set,
                                      const struct placement_wish *wish,
                                      struct placement_share ret_shares[PLACEMENT_SHARES_MAX], uint32_t *ret_n,
                                      mu_error *err);

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* Of one process on a GPU, in bytes. */
struct placement_memory {
  int64_t context, weights, arena; /* estimates … */
  int64_t measured;                /* … or what a process of this model was seen to take; GPU_UNKNOWN: not yet … */
  int64_t given;                   /* … or what the operator says (--gpu-memory); 0: nothing */
};

/* A CUDA context until it is measured: gpu-sharing figures lie between 287 and 667 MiB. */
#define PLACEMENT_CONTEXT_BYTES (INT64_C(500) << 20)

int64_t placement_memory_sum(const struct placement_memory *memory);

/* What a GPU has, and how much of it is spoken for. */
struct placement_room {
  int64_t total;  /* GPU_UNKNOWN: the driver does not say; everything fits then */
  int64_t others; /* used by processes that are not the server's, and by the driver */
  int64_t taken;  /* by what was placed there */
  uint32_t processes;
};

/* Rooms of all GPUs of the inventory; pids: the server's own processes, which do not count as others. */
void placement_look(const struct gpu_inventory *inventory, const int32_t *pids, uint32_t n_pids,
                    struct placement_room ret_rooms[GPUS_MAX]);

/* Takes room for `processes` of a model on each GPU of the shares, or none at all. MU_TOO_LARGE: the message shows the
 * sum that does not fit. */
MUST_CHECK mu_status placement_take(const struct gpu_inventory *inventory, const struct placement_share *shares,
                                    uint32_t n_shares, uint32_t processes, const struct placement_memory *memory,
                                    const char *model, struct placement_room rooms[GPUS_MAX], mu_error *err);

/* "1,210 MiB", "11.0 GiB" from 10 GiB on. */
enum { PLACEMENT_BYTES_TEXT = 32 };
void placement_print_bytes(int64_t bytes, char text[PLACEMENT_BYTES_TEXT]);
/* "500 MiB context + 1,210 MiB weights + 2,048 MiB arena, estimated", "1,950 MiB, measured", "4,096 MiB, as
 * --gpu-memory says". */
enum { PLACEMENT_MEMORY_TEXT = 160 };
void placement_print_memory(const struct placement_memory *memory, char text[PLACEMENT_MEMORY_TEXT]);

#endif
