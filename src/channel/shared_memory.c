#include "channel/shared_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3; older C library headers lack it */
#endif

enum { SEALS = F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };

static const struct shared_memory nothing = {.fd = -1};

static mu_status fail_errno(mu_error *err, const char *what) {
  int error = errno;
  mu_status status = error == ENOMEM || error == ENOSPC ? MU_NO_MEMORY : MU_IO;
  return mu_fail(err, status, "shared memory: %s: %s", what, strerror(error));
}

/* A system may demand that memory files say they hold no code (vm.memfd_noexec); older kernels do not know how. */
static int open_file(const char *name) {
  int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
  return fd < 0 && errno == EINVAL ? memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING) : fd;
}

mu_status shared_memory_create(const char *name, size_t size, struct shared_memory *ret_memory, mu_error *err) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), whole;
  if (__builtin_add_overflow(size == 0 ? 1 : size, page - 1, &whole) || whole > INT64_MAX)
    return mu_fail(err, MU_TOO_LARGE, "shared memory: %zu bytes cannot be had", size);
  struct shared_memory memory = {.size = whole / page * page, .fd = open_file(name)};
  if (memory.fd < 0) return fail_errno(err, "memfd_create");
  if (ftruncate(memory.fd, (off_t)memory.size) != 0) {
    mu_status status = fail_errno(err, "ftruncate");
    shared_memory_close(&memory);
    return status;
  }
  /* First the writable mapping, then the seals: afterwards there cannot be another one. */
  void *data = mmap(NULL, memory.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memory.fd, 0);
  if (data == MAP_FAILED) {
    mu_status status = fail_errno(err, "mmap");
    shared_memory_close(&memory);
    return status;
  }
  memory.data = data;
  if (fcntl(memory.fd, F_ADD_SEALS, SEALS) != 0) {
    mu_status status = fail_errno(err, "sealing");
    shared_memory_close(&memory);
    return status;
  }
  *ret_memory = memory;
  return MU_OK;
}

static mu_status check_file(int fd, size_t expected_size, mu_error *err) {
  struct stat file;
  int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & SEALS) != SEALS)
    return mu_fail(err, MU_INVALID, "shared memory: the peer's file is not sealed");
  if (fstat(fd, &file) != 0) return fail_errno(err, "fstat");
  if (expected_size == 0 || file.st_size < 0 || (uint64_t)file.st_size != expected_size)
    return mu_fail(err, MU_INVALID, "shared memory: the peer's file has %lld bytes instead of %zu",
                   (long long)file.st_size, expected_size);
  return MU_OK;
}

mu_status shared_memory_attach(int fd, size_t expected_size, struct shared_memory *ret_memory, mu_error *err) {
  struct shared_memory memory = {.size = expected_size, .fd = fd};
  mu_status status = check_file(fd, expected_size, err);
  if (status != MU_OK) {
    shared_memory_close(&memory);
    return status;
  }
  void *data = mmap(NULL, expected_size, PROT_READ, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) {
    status = fail_errno(err, "mmap");
    shared_memory_close(&memory);
    return status;
  }
  memory.data = data;
  *ret_memory = memory;
  return MU_OK;
}

void shared_memory_close(struct shared_memory *memory) {
  if (memory->data != NULL) munmap(memory->data, memory->size);
  if (memory->fd >= 0) close(memory->fd);
  *memory = nothing;
}
