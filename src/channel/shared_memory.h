/*
 * A piece of memory with one owner and one reader in another process: a memfd that the owner maps writable and then
 * seals (FUTURE_WRITE, SHRINK, GROW, SEAL), so that the fd it passes on can never again be mapped or written writable,
 * not through /proc either. The reader checks the seals and the size before it maps read-only.
 *
 * Pages once touched stay until the file goes: FUTURE_WRITE also forbids the owner to punch holes (fallocate and
 * MADV_REMOVE answer EPERM). Whoever shares out such memory therefore uses the pages again that were used last.
 *
 * Not thread-safe; the bytes behind `data` are ordered by whoever passes offsets around.
 */
#ifndef CHANNEL_SHARED_MEMORY_H
#define CHANNEL_SHARED_MEMORY_H

#include "base/status.h"

struct shared_memory {
  uint8_t *data; /* NULL when not mapped */
  size_t size;
  int fd; /* CLOEXEC; owned; -1 when there is none */
};

/* size is rounded up to pages (at least one); pages cost nothing until they are touched. name is shown in
 * /proc/PID/maps. MU_TOO_LARGE, MU_NO_MEMORY, MU_IO. */
MUST_CHECK mu_status shared_memory_create(const char *name, size_t size, struct shared_memory *ret_memory,
                                          mu_error *err);

/* Maps the peer's memory read-only. Takes fd over in every case. expected_size is what the peer said. MU_INVALID when
 * a seal is missing or the size is another; MU_NO_MEMORY, MU_IO. */
MUST_CHECK mu_status shared_memory_attach(int fd, size_t expected_size, struct shared_memory *ret_memory,
                                          mu_error *err);

/* Unmaps and closes. Accepts a zeroed struct with fd -1 or a struct already closed. */
void shared_memory_close(struct shared_memory *memory);

#endif
