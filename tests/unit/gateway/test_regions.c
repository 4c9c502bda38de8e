/* Shared memory of clients in a gateway: the table, who holds what, and files that do what they want. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "gateway/regions.h"

enum { FILE_SIZE = 100, OFFSET = 10, SIZE = 64 };

static int make_file(size_t size) {
  int fd = memfd_create("client", MFD_CLOEXEC);
  assert_true(fd >= 0);
  assert_int_equal(ftruncate(fd, (off_t)size), 0);
  return fd;
}

static bool is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

/* A region of that name in a new file; returns its descriptor. */
static int set(struct regions *regions, const char *name) {
  int fd = make_file(FILE_SIZE);
  const struct control_region_set message = {name, "/key", OFFSET, SIZE, true};
  assert_int_equal(regions_set(regions, &message, fd), MU_OK);
  return fd;
}

static void clear(struct regions *regions) {
  while (regions->n > 0) regions_remove(regions, regions->sorted[0]->name);
  free(regions->sorted);
}

static void test_table(void **state) {
  static const char *const names[] = {"m", "a", "z", "mm", "b", "", "y"};
  struct regions regions;
  struct region **all;
  size_t n;
  mu_error err;
  regions_init(&regions);
  assert_int_equal(regions_hold_all(&regions, "", &all, &n, &err), MU_OK);
  assert_int_equal(n, 0);
  regions_release_all(all, n);
  for (size_t i = 0; i < 5; i++) set(&regions, names[i]);
  assert_int_equal(regions_hold_all(&regions, "", &all, &n, &err), MU_OK);
  assert_int_equal(n, 5);
  for (size_t i = 1; i < n; i++) assert_true(strcmp(all[i - 1]->name, all[i]->name) < 0);
  assert_string_equal(all[0]->key, "/key");
  regions_release_all(all, n);
  assert_int_equal(regions_hold_all(&regions, "mm", &all, &n, &err), MU_OK);
  assert_int_equal(n, 1);
  assert_string_equal(all[0]->name, "mm");
  regions_release_all(all, n);
  assert_int_equal(regions_hold_all(&regions, "mmm", &all, &n, &err), MU_NOT_FOUND);
  assert_string_equal(err.message, "Unable to find system shared memory region: 'mmm'");
  regions_remove(&regions, "nobody");
  regions_remove(&regions, "m");
  assert_null(regions_hold(&regions, "m"));
  assert_int_equal(regions.n, 4);
  int first = regions.sorted[0]->fd, second = set(&regions, "a"); /* heard twice: the new one counts */
  assert_int_equal(regions.n, 4);
  assert_false(is_open(first));
  assert_true(is_open(second));
  clear(&regions);
  assert_false(is_open(second));
}

static void test_many(void **state) {
  struct regions regions;
  char name[16];
  regions_init(&regions);
  const struct control_region_set message = {name, "/key", OFFSET, SIZE, true};
  for (unsigned i = 0; i < REGIONS_MAX; i++) {
    snprintf(name, sizeof name, "%u", i * 2654435761u % REGIONS_MAX);
    assert_int_equal(regions_set(&regions, &message, -1), MU_OK);
  }
  assert_int_equal(regions.n, REGIONS_MAX);
  for (unsigned i = 0; i < REGIONS_MAX; i++) {
    snprintf(name, sizeof name, "%u", i);
    struct region *region = regions_hold(&regions, name);
    assert_string_equal(region->name, name);
    region_release(region);
    regions_remove(&regions, name);
  }
  assert_int_equal(regions.n, 0);
  clear(&regions);
}

/* Who holds a region has it, whatever becomes of its name. */
static void test_holders(void **state) {
  struct regions regions;
  mu_error err;
  char data[4];
  regions_init(&regions);
  int fd = set(&regions, "r");
  struct region *one = regions_hold(&regions, "r"), *two = regions_hold(&regions, "r");
  regions_remove(&regions, "r");
  assert_null(regions_hold(&regions, "r"));
  region_release(one);
  assert_int_equal(region_read(two, 0, data, 4, &err), MU_OK);
  region_release(two);
  assert_false(is_open(fd));
  region_release(NULL);
  clear(&regions);
}

static void test_parts(void **state) {
  static const struct {
    uint64_t offset, size;
    mu_status status;
  } cases[] = {
      {0, SIZE, MU_OK},
      {0, 0, MU_OK},
      {SIZE, 0, MU_OK},
      {SIZE - 1, 1, MU_OK},
      {0, SIZE + 1, MU_INVALID},
      {1, SIZE, MU_INVALID},
      {SIZE, 1, MU_INVALID},
      {SIZE + 1, 0, MU_INVALID},
      {UINT64_MAX, 1, MU_INVALID},
      {1, UINT64_MAX, MU_INVALID},
      {UINT64_MAX, UINT64_MAX, MU_INVALID},
      {UINT64_MAX - SIZE + 1, SIZE, MU_INVALID},
  };
  struct regions regions;
  struct region *region = NULL;
  mu_error err;
  regions_init(&regions);
  set(&regions, "r");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    for (int to_write = 0; to_write < 2; to_write++) {
      assert_int_equal(regions_hold_part(&regions, "r", cases[i].offset, cases[i].size, to_write, &region, &err),
                       cases[i].status);
      if (cases[i].status == MU_OK) region_release(region);
    }
  assert_int_equal(regions_hold_part(&regions, "R", 0, 1, false, &region, &err), MU_NOT_FOUND);
  assert_string_equal(err.message, "Unable to find shared memory region: 'R'");
  assert_int_equal(atomic_load(&regions.sorted[0]->holders), 1);
  const struct control_region_set lost = {"lost", "/key", 0, 1, true}, read_only = {"read", "/key", 0, 1, false};
  assert_int_equal(regions_set(&regions, &lost, -1), MU_OK);
  assert_int_equal(regions_set(&regions, &read_only, make_file(1)), MU_OK);
  assert_int_equal(regions_hold_part(&regions, "lost", 0, 1, false, &region, &err), MU_UNAVAILABLE);
  assert_non_null(strstr(err.message, "ulimit -n"));
  assert_int_equal(regions_hold_part(&regions, "read", 0, 1, true, &region, &err), MU_INVALID);
  assert_int_equal(regions_hold_part(&regions, "read", 0, 1, false, &region, &err), MU_OK);
  region_release(region);
  clear(&regions);
}

static void test_bytes(void **state) {
  struct regions regions;
  mu_error err;
  char data[SIZE], file[FILE_SIZE];
  regions_init(&regions);
  int fd = set(&regions, "r");
  struct region *region = regions_hold(&regions, "r");
  for (int i = 0; i < FILE_SIZE; i++) file[i] = (char)i;
  assert_int_equal(pwrite(fd, file, FILE_SIZE, 0), FILE_SIZE);
  assert_int_equal(region_read(region, 3, data, SIZE - 3, &err), MU_OK);
  assert_memory_equal(data, file + OFFSET + 3, SIZE - 3);
  assert_int_equal(region_write(region, 4, "abc", 3, &err), MU_OK);
  assert_int_equal(pread(fd, file, FILE_SIZE, 0), FILE_SIZE);
  assert_memory_equal(file + OFFSET + 3, "\15abc\21", 5);
  /* a file that was cut has neither bytes nor room; nothing makes it larger */
  for (int size = FILE_SIZE; size >= 0; size--) {
    struct stat found;
    assert_int_equal(ftruncate(fd, size), 0);
    mu_status wanted = size >= OFFSET + SIZE ? MU_OK : MU_INVALID;
    assert_int_equal(region_read(region, 0, data, SIZE, &err), wanted);
    assert_int_equal(region_write(region, 0, data, SIZE, &err), wanted);
    assert_int_equal(region_read(region, 0, data, 0, &err), MU_OK);
    assert_int_equal(region_write(region, 0, data, 0, &err), MU_OK);
    assert_int_equal(fstat(fd, &found), 0);
    assert_int_equal(found.st_size, size);
  }
  assert_non_null(strstr(err.message, "shared memory region 'r' has lost its memory: key '/key'"));
  /* nor does a file that takes nothing: as when /dev/shm is full */
  assert_int_equal(ftruncate(fd, FILE_SIZE), 0);
  region_release(region);
  clear(&regions);
  const struct control_region_set sealed = {"s", "/key", 0, SIZE, true};
  fd = memfd_create("client", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  assert_int_equal(ftruncate(fd, SIZE), 0);
  assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
  regions_init(&regions);
  assert_int_equal(regions_set(&regions, &sealed, fd), MU_OK);
  region = regions_hold(&regions, "s");
  assert_int_equal(region_write(region, 0, data, SIZE, &err), MU_INVALID);
  assert_non_null(strstr(err.message, "cannot be written"));
  region_release(region);
  clear(&regions);
}

/* Loops look up and let go while names come and go. */
static void *use(void *context) {
  struct regions *regions = context;
  char data[SIZE];
  for (int i = 0; i < 2000; i++) {
    struct region *region = NULL;
    mu_error err;
    if (regions_hold_part(regions, i % 2 == 0 ? "a" : "b", 0, SIZE, true, &region, &err) != MU_OK) continue;
    if (region_read(region, 0, data, SIZE, &err) != MU_OK) abort();
    region_release(region);
  }
  return NULL;
}

static void test_threads(void **state) {
  struct regions regions;
  pthread_t threads[3];
  regions_init(&regions);
  for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&threads[i], NULL, use, &regions), 0);
  for (int i = 0; i < 500; i++) {
    set(&regions, "a");
    set(&regions, "b");
    regions_remove(&regions, "a");
  }
  for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
  clear(&regions);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_table), cmocka_unit_test(test_many),  cmocka_unit_test(test_holders),
      cmocka_unit_test(test_parts), cmocka_unit_test(test_bytes), cmocka_unit_test(test_threads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
