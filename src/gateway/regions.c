#include "gateway/regions.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the table --------------------------------------------------------------------------------------------------- */

void regions_init(struct regions *regions) {
  *regions = (struct regions){0};
  pthread_mutex_init(&regions->lock, NULL);
}

/* Where the name stands, or would. Locked. */
static bool find(const struct regions *regions, const char *name, size_t *ret_at) {
  size_t low = 0, high = regions->n;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    int order = strcmp(regions->sorted[middle]->name, name);
    if (order == 0) {
      *ret_at = middle;
      return true;
    }
    if (order < 0)
      low = middle + 1;
    else
      high = middle;
  }
  *ret_at = low;
  return false;
}

static struct region *create(const struct control_region_set *message, int fd) {
  size_t name_size = strlen(message->name) + 1, key_size = strlen(message->key) + 1;
  struct region *region = malloc(sizeof *region + name_size + key_size);
  if (region == NULL) return NULL;
  region->fd = fd;
  region->writable = message->writable;
  region->offset = message->offset;
  region->byte_size = message->byte_size;
  memcpy(region->name, message->name, name_size);
  region->key = memcpy(region->name + name_size, message->key, key_size);
  atomic_init(&region->holders, 1);
  return region;
}

static bool reserve(struct regions *regions) {
  if (regions->n < regions->capacity) return true;
  size_t wanted = regions->capacity == 0 ? 16 : 2 * regions->capacity;
  struct region **bigger = reallocarray(regions->sorted, wanted, sizeof(struct region *));
  if (bigger == NULL) return false;
  regions->sorted = bigger;
  regions->capacity = wanted;
  return true;
}

mu_status regions_set(struct regions *regions, const struct control_region_set *message, int fd) {
  struct region *region = create(message, fd), *before = NULL;
  bool done = false;
  size_t at;
  pthread_mutex_lock(&regions->lock);
  if (region != NULL && find(regions, message->name, &at)) { /* heard twice */
    before = regions->sorted[at];
    regions->sorted[at] = region;
    done = true;
  } else if (region != NULL && reserve(regions)) {
    memmove(regions->sorted + at + 1, regions->sorted + at, (regions->n++ - at) * sizeof(struct region *));
    regions->sorted[at] = region;
    done = true;
  }
  pthread_mutex_unlock(&regions->lock);
  region_release(before);
  if (done) return MU_OK;
  free(region);
  if (fd >= 0) close(fd);
  return MU_NO_MEMORY;
}

void regions_remove(struct regions *regions, const char *name) {
  struct region *region = NULL;
  size_t at;
  pthread_mutex_lock(&regions->lock);
  if (find(regions, name, &at)) {
    region = regions->sorted[at];
    memmove(regions->sorted + at, regions->sorted + at + 1, (--regions->n - at) * sizeof(struct region *));
  }
  pthread_mutex_unlock(&regions->lock);
  region_release(region);
}

/* ---- holding ----------------------------------------------------------------------------------------------------- */

static struct region *hold(struct region *region) {
  atomic_fetch_add_explicit(&region->holders, 1, memory_order_relaxed);
  return region;
}

struct region *regions_hold(struct regions *regions, const char *name) {
  size_t at;
  pthread_mutex_lock(&regions->lock);
  struct region *region = find(regions, name, &at) ? hold(regions->sorted[at]) : NULL;
  pthread_mutex_unlock(&regions->lock);
  return region;
}

void region_release(struct region *region) {
  if (region == NULL || atomic_fetch_sub_explicit(&region->holders, 1, memory_order_acq_rel) != 1) return;
  if (region->fd >= 0) close(region->fd);
  free(region);
}

static mu_status check_part(const struct region *region, uint64_t offset, uint64_t size, bool to_write, mu_error *err) {
  if (region->fd < 0)
    return mu_fail(err, MU_UNAVAILABLE,
                   "there was no free file descriptor for shared memory region '%.255s' (ulimit -n): register it again",
                   region->name);
  if (offset > region->byte_size)
    return mu_fail(err, MU_INVALID,
                   "Invalid offset for shared memory region: '%.255s': %llu, the region has %llu bytes", region->name,
                   (unsigned long long)offset, (unsigned long long)region->byte_size);
  if (size > region->byte_size - offset)
    return mu_fail(err, MU_INVALID,
                   "Invalid offset + byte size for shared memory region: '%.255s': %llu + %llu, the region has %llu "
                   "bytes",
                   region->name, (unsigned long long)offset, (unsigned long long)size,
                   (unsigned long long)region->byte_size);
  if (to_write && !region->writable)
    return mu_fail(err, MU_INVALID,
                   "no output can be written to shared memory region '%.255s': muster may only read the file of its "
                   "key '%.100s'",
                   region->name, region->key);
  return MU_OK;
}

mu_status regions_hold_part(struct regions *regions, const char *name, uint64_t offset, uint64_t size, bool to_write,
                            struct region **ret_region, mu_error *err) {
  struct region *region = regions_hold(regions, name);
  if (region == NULL) return mu_fail(err, MU_NOT_FOUND, "Unable to find shared memory region: '%.255s'", name);
  mu_status status = check_part(region, offset, size, to_write, err);
  if (status != MU_OK) {
    region_release(region);
    return status;
  }
  *ret_region = region;
  return MU_OK;
}

mu_status regions_hold_all(struct regions *regions, const char *name, struct region ***ret_regions, size_t *ret_n,
                           mu_error *err) {
  size_t n = 0, at;
  pthread_mutex_lock(&regions->lock);
  struct region **all = calloc(regions->n + 1, sizeof *all);
  if (all != NULL && name[0] != '\0') {
    if (find(regions, name, &at)) all[n++] = hold(regions->sorted[at]);
  } else if (all != NULL) {
    for (; n < regions->n; n++) all[n] = hold(regions->sorted[n]);
  }
  pthread_mutex_unlock(&regions->lock);
  if (all == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the shared memory regions");
  if (name[0] != '\0' && n == 0) {
    free(all);
    return mu_fail(err, MU_NOT_FOUND, "Unable to find system shared memory region: '%.255s'", name);
  }
  *ret_regions = all;
  *ret_n = n;
  return MU_OK;
}

void regions_release_all(struct region **all, size_t n) {
  for (size_t i = 0; i < n; i++) region_release(all[i]);
  free(all);
}

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

static mu_status cut_short(const struct region *region, uint64_t offset, uint64_t size, mu_error *err) {
  return mu_fail(err, MU_INVALID,
                 "shared memory region '%.255s' has lost its memory: key '%.100s' does not have the bytes %llu to %llu "
                 "of the region any more",
                 region->name, region->key, (unsigned long long)offset, (unsigned long long)(offset + size));
}

mu_status region_read(const struct region *region, uint64_t offset, void *data, size_t size, mu_error *err) {
  for (size_t done = 0; done < size;) {
    ssize_t n = pread(region->fd, (char *)data + done, size - done, (off_t)(region->offset + offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      return mu_fail(err, MU_INVALID, "shared memory region '%.255s' cannot be read: %s", region->name,
                     strerror(errno));
    if (n == 0) return cut_short(region, offset, size, err);
    done += (size_t)n;
  }
  return MU_OK;
}

mu_status region_write(const struct region *region, uint64_t offset, const void *data, size_t size, mu_error *err) {
  struct stat file;
  const uint64_t start = region->offset + offset;
  /* Writing past the end would make the file larger. */
  if (size > 0 && (fstat(region->fd, &file) != 0 || (uint64_t)file.st_size < start + size))
    return cut_short(region, offset, size, err);
  for (size_t done = 0; done < size;) {
    ssize_t n = pwrite(region->fd, (const char *)data + done, size - done, (off_t)(start + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0)
      return mu_fail(err, MU_INVALID, "shared memory region '%.255s' cannot be written: %s", region->name,
                     n < 0 ? strerror(errno) : "it takes nothing");
    done += (size_t)n;
  }
  return MU_OK;
}
