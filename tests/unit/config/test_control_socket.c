#include "config/control_socket.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/muster-socket-XXXXXX";
static mu_error error;

static struct options *with_socket(char *flag) {
  struct options *options;
  if (options_load(flag == NULL ? 0 : 1, (char *[]){flag, NULL}, (char *[]){NULL}, &options, &error) != MU_OK)
    fail_msg("%s", error.message);
  return options;
}

static void test_paths(void **state) {
  char path[CONTROL_SOCKET_PATH_MAX], expected[CONTROL_SOCKET_PATH_MAX];
  struct options *options = with_socket(NULL);
  setenv("XDG_RUNTIME_DIR", folder, 1);
  assert_int_equal(options_control_socket(options, 8000, path, &error), MU_OK);
  snprintf(expected, sizeof expected, "%s/muster/8000.sock", folder);
  assert_string_equal(path, expected);
  snprintf(expected, sizeof expected, "/tmp/muster-%lu/9000.sock", (unsigned long)getuid());
  unsetenv("XDG_RUNTIME_DIR");
  assert_int_equal(options_control_socket(options, 9000, path, &error), MU_OK);
  assert_string_equal(path, expected);
  setenv("XDG_RUNTIME_DIR", "relative", 1); /* has to be absolute to count */
  assert_int_equal(options_control_socket(options, 9000, path, &error), MU_OK);
  assert_string_equal(path, expected);
  options_free(options);

  options = with_socket("--control-socket=/run/x.sock");
  assert_int_equal(options_control_socket(options, 9000, path, &error), MU_OK);
  assert_string_equal(path, "/run/x.sock");
  options_free(options);
}

static void test_too_long(void **state) {
  char path[CONTROL_SOCKET_PATH_MAX] = "untouched", flag[200], *name = flag + sizeof "--control-socket=" - 1;
  memset(flag, 'x', sizeof flag);
  memcpy(flag, "--control-socket=/", sizeof "--control-socket=/" - 1);
  name[CONTROL_SOCKET_PATH_MAX - 1] = '\0';
  struct options *options = with_socket(flag);
  assert_int_equal(options_control_socket(options, 1, path, &error), MU_OK);
  options_free(options);
  memcpy(path, "untouched", sizeof "untouched");
  name[CONTROL_SOCKET_PATH_MAX - 1] = 'x';
  name[CONTROL_SOCKET_PATH_MAX] = '\0';
  options = with_socket(flag);
  assert_int_equal(options_control_socket(options, 1, path, &error), MU_INVALID);
  assert_string_equal(path, "untouched");
  options_free(options);

  char runtime[200];
  memset(runtime, 'r', sizeof runtime);
  runtime[0] = '/';
  runtime[sizeof runtime - 1] = '\0';
  setenv("XDG_RUNTIME_DIR", runtime, 1);
  assert_int_equal(control_folder_path(path, &error), MU_INVALID);
  assert_int_equal(control_folder_create(&error), MU_INVALID);
}

static void test_folder(void **state) {
  char path[CONTROL_SOCKET_PATH_MAX], elsewhere[CONTROL_SOCKET_PATH_MAX];
  struct stat found;
  setenv("XDG_RUNTIME_DIR", folder, 1);
  assert_int_equal(control_folder_path(path, &error), MU_OK);
  assert_int_equal(control_folder_check(&error), MU_NOT_FOUND);
  mode_t before = umask(0);
  assert_int_equal(control_folder_create(&error), MU_OK);
  umask(before);
  assert_int_equal(stat(path, &found), 0);
  assert_int_equal(found.st_mode & 0777, 0700);
  assert_int_equal(control_folder_create(&error), MU_OK); /* already there */
  assert_int_equal(chmod(path, 0750), 0);
  assert_int_equal(control_folder_check(&error), MU_INVALID); /* others can enter */
  assert_int_equal(rmdir(path), 0);
  snprintf(elsewhere, sizeof elsewhere, "%s/elsewhere", folder);
  assert_int_equal(mkdir(elsewhere, 0700), 0);
  assert_int_equal(symlink(elsewhere, path), 0);
  assert_int_equal(control_folder_create(&error), MU_INVALID); /* led somewhere else */
  assert_int_equal(unlink(path), 0);
  assert_int_equal(rmdir(elsewhere), 0);
}

static int enter_folder(void **state) { return mkdtemp(folder) == NULL ? -1 : chdir(folder); }
static int leave_folder(void **state) { return chdir("/") == 0 ? rmdir(folder) : -1; }

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_paths), cmocka_unit_test(test_too_long),
                                     cmocka_unit_test(test_folder)};
  return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
