#include "channel/shared_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

static struct shared_memory create(size_t size) {
  struct shared_memory memory;
  assert_int_equal(shared_memory_create("test", size, &memory, NULL), MU_OK);
  return memory;
}

static struct shared_memory attach(const struct shared_memory *owner) {
  struct shared_memory peer;
  assert_int_equal(shared_memory_attach(dup(owner->fd), owner->size, &peer, NULL), MU_OK);
  return peer;
}

static void whole_pages_of_zero(void **state) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  const struct {
    size_t asked, got;
  } sizes[] = {{0, page}, {1, page}, {page, page}, {page + 1, 2 * page}, {10 * page - 1, 10 * page}};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    struct shared_memory memory = create(sizes[i].asked);
    assert_int_equal(memory.size, sizes[i].got);
    for (size_t k = 0; k < memory.size; k++) assert_int_equal(memory.data[k], 0);
    assert_true(fcntl(memory.fd, F_GETFD) & FD_CLOEXEC);
    shared_memory_close(&memory);
  }
}

static void what_cannot_be_had_is_said(void **state) {
  const struct shared_memory before = {.fd = 77};
  struct shared_memory memory = before;
  mu_error err = {""};
  assert_int_equal(shared_memory_create("test", SIZE_MAX, &memory, &err), MU_TOO_LARGE);
  assert_string_not_equal(err.message, "");
  assert_int_not_equal(shared_memory_create("test", SIZE_MAX / 2 / 4096 * 4096, &memory, &err), MU_OK);
  assert_memory_equal(&memory, &before, sizeof memory);
}

static void reader_sees_what_the_owner_writes(void **state) {
  struct shared_memory owner = create(10000), peer = attach(&owner);
  owner.data[9999] = 42;
  assert_int_equal(peer.data[9999], 42);
  shared_memory_close(&owner);
  assert_int_equal(peer.data[9999], 42); /* lives as long as somebody maps it */
  shared_memory_close(&peer);
}

/* Every way that a peer with the fd could try. */
static void nobody_else_can_write(void **state) {
  struct shared_memory owner = create(8192), peer = attach(&owner);
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", peer.fd);
  int fds[] = {peer.fd, open(path, O_RDWR | O_CLOEXEC)};
  for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
    if (fds[i] < 0) continue; /* refused altogether is as good */
    assert_ptr_equal(mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], 0), MAP_FAILED);
    assert_int_equal(pwrite(fds[i], "x", 1, 0), -1);
    assert_int_equal(ftruncate(fds[i], 0), -1);
    assert_int_equal(ftruncate(fds[i], 1 << 20), -1);
    assert_int_equal(fallocate(fds[i], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
    assert_int_equal(fallocate(fds[i], 0, 0, 1 << 20), -1);
    assert_int_equal(fcntl(fds[i], F_ADD_SEALS, F_SEAL_WRITE), -1);
  }
  assert_int_equal(mprotect(peer.data, 8192, PROT_READ | PROT_WRITE), -1);
  if (fds[1] >= 0) close(fds[1]);
  owner.data[0] = 1; /* the owner still can */
  assert_int_equal(peer.data[0], 1);
  shared_memory_close(&peer);
  shared_memory_close(&owner);
}

static int unsealed(size_t size, int seals) {
  int fd = memfd_create("hostile", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  assert_true(fd >= 0);
  assert_int_equal(ftruncate(fd, (off_t)size), 0);
  if (seals != 0) assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
  return fd;
}

static void refuse(int fd, size_t size) {
  const struct shared_memory before = {.fd = 77};
  struct shared_memory memory = before;
  mu_error err = {""};
  assert_int_equal(shared_memory_attach(fd, size, &memory, &err), MU_INVALID);
  assert_string_not_equal(err.message, "");
  assert_memory_equal(&memory, &before, sizeof memory);
  assert_int_equal(fcntl(fd, F_GETFD), -1); /* taken over, so closed */
  assert_int_equal(errno, EBADF);
}

static void files_that_could_change_are_refused(void **state) {
  static const int seals[] = {F_SEAL_FUTURE_WRITE, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL};
  refuse(unsealed(4096, 0), 4096);
  for (size_t left_out = 0; left_out < 4; left_out++) {
    int some = 0;
    for (size_t i = 0; i < 4; i++) some |= i == left_out ? 0 : seals[i];
    refuse(unsealed(4096, some), 4096);
  }
  int ends[2];
  assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
  refuse(ends[0], 4096);
  close(ends[1]);
}

static void a_wrong_size_is_refused(void **state) {
  struct shared_memory owner = create(8192);
  refuse(dup(owner.fd), 4096);
  refuse(dup(owner.fd), 8193);
  refuse(dup(owner.fd), 0);
  refuse(dup(owner.fd), SIZE_MAX);
  shared_memory_close(&owner);
  const int all = F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  refuse(unsealed(0, all), 0);
}

static void closing_twice_is_harmless(void **state) {
  struct shared_memory memory = create(1), never = {.fd = -1};
  shared_memory_close(&memory);
  shared_memory_close(&memory);
  shared_memory_close(&never);
  assert_null(memory.data);
  assert_int_equal(memory.fd, -1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(whole_pages_of_zero),
      cmocka_unit_test(what_cannot_be_had_is_said),
      cmocka_unit_test(reader_sees_what_the_owner_writes),
      cmocka_unit_test(nobody_else_can_write),
      cmocka_unit_test(files_that_could_change_are_refused),
      cmocka_unit_test(a_wrong_size_is_refused),
      cmocka_unit_test(closing_twice_is_harmless),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
