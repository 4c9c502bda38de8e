#include "supervisor/region_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/message.h"

/* What Triton keeps for the shared memory of its own processes. */
static const char reserved[] = "triton_python_backend_shm_region_";

static mu_status check_key(const char *region, const char *key, const char **ret_file, mu_error *err) {
  const char *file = key + strspn(key, "/"); /* as glibc's shm_open does */
  if (strncmp(file, reserved, sizeof reserved - 1) == 0)
    return mu_fail(err, MU_INVALID,
                   "cannot register shared memory region '%.200s' with key '%.200s' as the key contains the reserved "
                   "prefix '%s'",
                   region, key, reserved);
  size_t size = strlen(file);
  if (size == 0 || size > REGION_KEY_MAX || strchr(file, '/') != NULL || strcmp(file, ".") == 0 ||
      strcmp(file, "..") == 0)
    return mu_fail(
        err, MU_INVALID,
        "Unable to open shared memory region: '%.200s': a key is a '/' and then one name of at most %d bytes", key,
        REGION_KEY_MAX);
  *ret_file = file;
  return MU_OK;
}

static mu_status open_failed(const char *key, int error, mu_error *err) {
  static const struct {
    int error;
    mu_status status;
  } known[] = {{ENOENT, MU_NOT_FOUND},   {EACCES, MU_INVALID},     {EPERM, MU_INVALID},     {ELOOP, MU_INVALID},
               {EISDIR, MU_INVALID},     {ENXIO, MU_INVALID},      {ENODEV, MU_INVALID},    {ETXTBSY, MU_INVALID},
               {EAGAIN, MU_UNAVAILABLE}, {EMFILE, MU_UNAVAILABLE}, {ENFILE, MU_UNAVAILABLE}};
  mu_status status = MU_IO;
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (known[i].error == error) status = known[i].status;
  return mu_fail(err, status, "Unable to open shared memory region: '%.200s': %s", key,
                 error == ELOOP ? "it is a symbolic link" : strerror(error));
}

mu_status region_file_open(const char *region, const char *key, int *ret_fd, bool *ret_writable, uint64_t *ret_size,
                           mu_error *err) {
  enum { FLAGS = O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY };
  const char *file = NULL;
  char path[sizeof "/dev/shm/" + REGION_KEY_MAX];
  mu_status status = check_key(region, key, &file, err);
  if (status != MU_OK) return status;
  snprintf(path, sizeof path, "/dev/shm/%s", file);
  bool writable = true;
  int fd = open(path, O_RDWR | FLAGS);
  if (fd < 0 && (errno == EACCES || errno == EPERM || errno == EROFS)) {
    writable = false;
    fd = open(path, O_RDONLY | FLAGS);
  }
  if (fd < 0) return open_failed(key, errno, err);
  struct stat found;
  if (fstat(fd, &found) != 0)
    status = mu_fail(err, MU_IO, "Invalid shared memory region: '%.200s': %s", key, strerror(errno));
  else if (!S_ISREG(found.st_mode) || found.st_size < 0)
    status = mu_fail(err, MU_INVALID, "Invalid shared memory region: '%.200s': that is no shared memory object", key);
  if (status != MU_OK) {
    close(fd);
    return status;
  }
  *ret_fd = fd;
  *ret_writable = writable;
  *ret_size = (uint64_t)found.st_size;
  return MU_OK;
}
