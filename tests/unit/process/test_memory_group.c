#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "process/memory_group.h"

/* A tree of control groups in a folder of its own; gone with the test. */
static char root[64];

static void put(const char *name, const char *text) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", root, name);
  for (char *at = path + 1; (at = strchr(at, '/')) != NULL; at++) {
    *at = '\0';
    (void)mkdir(path, 0700);
    *at = '/';
  }
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs(text, file);
  fclose(file);
}

static int set_up(void **state) {
  snprintf(root, sizeof root, "/tmp/muster-groups-XXXXXX");
  return mkdtemp(root) != NULL ? 0 : -1;
}

static int tear_down(void **state) {
  char command[128];
  snprintf(command, sizeof command, "rm -r '%s'", root);
  return system(command);
}

static bool look(char ret_group[MEMORY_GROUP_PATH_MAX]) {
  char groups[128];
  snprintf(groups, sizeof groups, "%s/self", root);
  strcpy(ret_group, "untouched");
  return memory_group_dies_together(groups, root, ret_group);
}

static void one_for_all_is_found_wherever_it_stands(void **state) {
  static const struct {
    const char *self, *file;
    const char *group; /* NULL: none */
  } rows[] = {
      {"0::/system.slice/muster.service\n", "system.slice/muster.service/memory.oom.group",
       "/system.slice/muster.service"},
      {"0::/system.slice/muster.service\n", "system.slice/memory.oom.group", "/system.slice"},
      {"0::/\n", "memory.oom.group", "/"}, /* a container: the mount is its own group */
      {"1:name=systemd:/x\n0::/a/b/c\n", "a/memory.oom.group", "/a"},
      {"0::/a/b\n", "a/c/memory.oom.group", NULL},   /* of a neighbour */
      {"4:memory:/a\n", "a/memory.oom.group", NULL}, /* v1 knows no such thing */
      {"0::/../../up\n", "memory.oom.group", "/"},   /* outside of the namespace: what can be seen */
      {"0::nonsense\n", "nonsense/memory.oom.group", NULL},
  };
  char group[MEMORY_GROUP_PATH_MAX];
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    put("self", rows[i].self);
    put(rows[i].file, "1\n");
    bool found = look(group);
    put(rows[i].file, "0\n");
    if (found != (rows[i].group != NULL) || strcmp(group, found ? rows[i].group : "untouched") != 0)
      fail_msg("row %zu: %d %s", i, found, group);
    assert_false(look(group)); /* it is the 1 that counts */
  }
}

static void the_outermost_counts(void **state) {
  char group[MEMORY_GROUP_PATH_MAX];
  put("self", "0::/a/b\n");
  put("a/memory.oom.group", "1\n");
  put("a/b/memory.oom.group", "1\n");
  assert_true(look(group));
  assert_string_equal(group, "/a");
}

static void no_files_no_warning(void **state) {
  char group[MEMORY_GROUP_PATH_MAX];
  assert_false(look(group));
  put("self", "");
  assert_false(look(group));
  put("self", "0::/nowhere\n");
  assert_false(look(group));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(one_for_all_is_found_wherever_it_stands, set_up, tear_down),
      cmocka_unit_test_setup_teardown(the_outermost_counts, set_up, tear_down),
      cmocka_unit_test_setup_teardown(no_files_no_warning, set_up, tear_down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
