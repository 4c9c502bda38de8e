/*
 * Registering and unregistering shared memory of clients: asked of the supervisor, which opens the files and tells all
 * gateways. Any protocol, any loop; the answer comes on the loop that asked.
 */
#ifndef GATEWAY_REGION_CHANGE_H
#define GATEWAY_REGION_CHANGE_H

#include "gateway/core.h"

struct region_change {
  /* What is wanted: filled by whoever asks. */
  bool registers;
  char name[REGION_NAME_MAX + 1]; /* "" where all are to be unregistered */
  char key[2 * REGION_KEY_MAX];   /* these three of a registration; a key may begin with many '/' */
  uint64_t offset, byte_size;
  /* Called once, on the asking loop; the change, with its outcome, is the callee's again. */
  void (*done)(struct region_change *change);
  void *context;
  /* What came of it. MU_EXISTS, MU_NOT_FOUND, MU_INVALID, MU_UNAVAILABLE, MU_NO_MEMORY, MU_IO. */
  mu_status status;
  mu_error error;
  /* Private. */
  struct gateway_loop *loop;
  struct net_post post;
  struct list link; /* core.region_changes */
  uint64_t serial;
};

/* The change belongs to this until `done` is called, which is never before this returns. */
void region_change_begin(struct region_change *change, struct gateway_loop *loop);

/* Loop 0: the supervisor's messages. fd of REGION_SET is taken over; -1 where it was lost. */
void region_change_set(struct core *core, const struct control_region_set *message, int fd);
void region_change_remove(struct core *core, const struct control_region_remove *message);
void region_change_finish(struct core *core, const struct control_region_changed *message);

#endif
