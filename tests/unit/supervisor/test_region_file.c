/* Which files a client's key opens, and which it does not. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "supervisor/region_file.h"

static char name[64], path[80];

static int set_up(void **state) {
  snprintf(name, sizeof name, "muster-unit-%d", (int)getpid());
  snprintf(path, sizeof path, "/dev/shm/%s", name);
  return 0;
}

static int tear_down(void **state) {
  if (unlink(path) != 0) rmdir(path);
  return 0;
}

static mu_status try(const char *key, mu_error *err) {
  int fd = -7;
  bool writable = false;
  uint64_t size = 77;
  mu_status status = region_file_open("r", key, &fd, &writable, &size, err);
  if (status == MU_OK)
    close(fd);
  else
    assert_true(fd == -7 && size == 77);
  return status;
}

static void what_shm_open_makes(void **state) {
  char key[80];
  int made = shm_open(name, O_CREAT | O_RDWR | O_EXCL, 0600), fd = -1;
  bool writable = false;
  uint64_t size = 0;
  mu_error err;
  assert_true(made >= 0);
  assert_int_equal(ftruncate(made, 4096 * 3 + 1), 0);
  for (int slashes = 0; slashes < 3; slashes++) {
    snprintf(key, sizeof key, "%.*s%s", slashes, "//", name);
    assert_int_equal(region_file_open("r", key, &fd, &writable, &size, &err), MU_OK);
    assert_int_equal(size, 4096 * 3 + 1);
    assert_true(writable && (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    assert_int_equal(pwrite(fd, "x", 1, 5), 1);
    close(fd);
  }
  char x = 0;
  assert_int_equal(pread(made, &x, 1, 5), 1);
  assert_int_equal(x, 'x');
  close(made);
}

static void keys_that_are_none(void **state) {
  char longest[600];
  static const char *const keys[] = {"",     "/",         "///", ".",  "..",     "/.",  "/..",
                                     "../x", "/../x",     "a/b", "a/", "//a//b", "./a", "../../etc/passwd",
                                     "a/..", "/dev/shm/a"};
  mu_error err;
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    assert_int_equal(try(keys[i], &err), MU_INVALID);
    assert_non_null(strstr(err.message, "Unable to open shared memory region: '"));
  }
  memset(longest, 'a', sizeof longest);
  longest[256] = '\0';
  assert_int_equal(try(longest, &err), MU_INVALID);
  longest[255] = '\0';
  assert_int_equal(try(longest, &err), MU_NOT_FOUND);
  memset(longest, '/', sizeof longest - 1);
  longest[sizeof longest - 1] = '\0';
  assert_int_equal(try(longest, &err), MU_INVALID);
  for (int i = 0; i < 2; i++) {
    assert_int_equal(try(&"/triton_python_backend_shm_region_1"[i], &err), MU_INVALID);
    assert_non_null(strstr(err.message, "as the key contains the reserved prefix 'triton_python_backend_shm_region_'"));
  }
}

static void what_is_no_regular_file(void **state) {
  mu_error err;
  assert_int_equal(try(name, &err), MU_NOT_FOUND);
  assert_int_equal(symlink("/etc/passwd", path), 0);
  assert_int_equal(try(name, &err), MU_INVALID);
  assert_non_null(strstr(err.message, "symbolic link"));
  assert_int_equal(unlink(path), 0);
  assert_int_equal(mkfifo(path, 0600), 0); /* without a reader: nothing waits for one */
  assert_int_equal(try(name, &err), MU_INVALID);
  assert_int_equal(unlink(path), 0);
  assert_int_equal(mkdir(path, 0700), 0);
  assert_int_equal(try(name, &err), MU_INVALID);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(what_shm_open_makes, set_up, tear_down),
      cmocka_unit_test_setup_teardown(keys_that_are_none, set_up, tear_down),
      cmocka_unit_test_setup_teardown(what_is_no_regular_file, set_up, tear_down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
