/*
 * Shared memory of clients (Triton's system shared memory extension): parts of files, by the names under which they
 * were registered. The supervisor has the table and opens the files, which a gateway may not; this is a gateway's copy
 * of it, shared by all loops under a lock of its own.
 *
 * Nothing of a client is ever mapped: it may shrink its file at any time, and a mapping would then end the gateway.
 * Bytes are copied with pread and pwrite, and a file that has become too small is an error of the request.
 */
#ifndef GATEWAY_REGIONS_H
#define GATEWAY_REGIONS_H

#include "control/message.h"

#include <pthread.h>
#include <stdatomic.h>

/* Constant once it is in the table. Whoever holds it can use it, also when the name has been unregistered. */
struct region {
  atomic_uint holders; /* the table is one */
  int fd;              /* -1: this process had no descriptor free for it */
  bool writable;
  uint64_t offset, byte_size; /* in the file */
  const char *key;
  char name[];
};

struct regions {
  pthread_mutex_t lock;
  struct region **sorted; /* by name */
  size_t n, capacity;
};

void regions_init(struct regions *regions);

/* REGION_SET and REGION_REMOVE. fd is taken over; -1 where it was lost on the way. MU_NO_MEMORY. */
MUST_CHECK mu_status regions_set(struct regions *regions, const struct control_region_set *message, int fd);
void regions_remove(struct regions *regions, const char *name);

/* The region of that name, held for the caller; NULL: there is none. */
struct region *regions_hold(struct regions *regions, const char *name);
void region_release(struct region *region); /* accepts NULL */

/* The same with everything that can be said about a part of it now: MU_NOT_FOUND, MU_INVALID: it goes past the region,
 * or nothing can be written there; MU_UNAVAILABLE: no descriptor. */
MUST_CHECK mu_status regions_hold_part(struct regions *regions, const char *name, uint64_t offset, uint64_t size,
                                       bool to_write, struct region **ret_region, mu_error *err);

/* All of them, or the one of that name, by name; each is held: regions_release_all. MU_NOT_FOUND, MU_NO_MEMORY. */
MUST_CHECK mu_status regions_hold_all(struct regions *regions, const char *name, struct region ***ret_regions,
                                      size_t *ret_n, mu_error *err);
void regions_release_all(struct region **all, size_t n);

/* A part of the region, which was held against its bounds before. MU_INVALID: its file has become too small, or takes
 * nothing more. */
MUST_CHECK mu_status region_read(const struct region *region, uint64_t offset, void *data, size_t size, mu_error *err);
MUST_CHECK mu_status region_write(const struct region *region, uint64_t offset, const void *data, size_t size,
                                  mu_error *err);

#endif
