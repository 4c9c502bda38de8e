#include "gpu/locality.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static mu_error error;

static cpu_set_t cores_of(const char *text) {
  cpu_set_t cores;
  if (gpu_cores_parse(text, &cores) != MU_OK) fail_msg("%s", text);
  return cores;
}

static void expect_cores(const struct gpu_locality *locality, const char *pci, int32_t node, const char *expected) {
  struct gpu gpu = {.numa_node = node};
  cpu_set_t cores;
  char text[256];
  snprintf(gpu.pci, sizeof gpu.pci, "%s", pci);
  gpu_locality_cores(locality, &gpu, &cores);
  assert_true(gpu_cores_print(&cores, text, sizeof text));
  assert_string_equal(text, expected);
}

static struct gpu_locality *create(const char *allowed) {
  struct gpu_locality *locality;
  cpu_set_t cores = cores_of(allowed);
  if (gpu_locality_create(&cores, &locality, &error) != MU_OK) fail_msg("%s", error.message);
  return locality;
}

/* Two nodes of four cores with two threads each. */
static void test_numa_node(void **state) {
  setenv("HWLOC_SYNTHETIC", "numa:2 core:4 pu:2(indexes=0,8,1,9,2,10,3,11,4,12,5,13,6,14,7,15)", 1);
  struct gpu_locality *locality = create("0-15");
  expect_cores(locality, "", 0, "0-3,8-11");
  expect_cores(locality, "00000000:3B:00.0", 1, "4-7,12-15"); /* hwloc knows nothing of that device */
  expect_cores(locality, "nonsense", 1, "4-7,12-15");
  expect_cores(locality, "", GPU_UNKNOWN, "0-15");
  expect_cores(locality, "", 7, "0-15"); /* no such node */
  gpu_locality_free(locality);
  locality = create("2-5,14"); /* bounded by what the process may use */
  expect_cores(locality, "", 0, "2-3");
  expect_cores(locality, "", 1, "4-5,14");
  gpu_locality_free(locality);
  locality = create("0-1"); /* none of node 1 is: better a distant core than none */
  expect_cores(locality, "", 1, "0-1");
  gpu_locality_free(locality);
  unsetenv("HWLOC_SYNTHETIC");
}

/* A machine with two packages and a GPU at the second one, as `lstopo --of xml` writes it. */
static const char machine[] =
    "<?xml version='1.0' encoding='UTF-8'?><!DOCTYPE topology SYSTEM 'hwloc2.dtd'><topology version='2.0'>"
    "<object type='Machine' os_index='0' cpuset='0x0000000f' complete_cpuset='0x0000000f' allowed_cpuset='0x0000000f' "
    "nodeset='0x00000003' complete_nodeset='0x00000003' allowed_nodeset='0x00000003' gp_index='1'>"
#define PACKAGE(n, set, node, more)                                                                       \
  "<object type='Package' os_index='" n "' cpuset='" set "' complete_cpuset='" set "' nodeset='" node     \
  "' complete_nodeset='" node "' gp_index='1" n "'><object type='NUMANode' os_index='" n "' cpuset='" set \
  "' complete_cpuset='" set "' nodeset='" node "' complete_nodeset='" node "' gp_index='2" n              \
  "' local_memory='1024'/>" more "</object>"
#define PU(n, set, node)                                                                         \
  "<object type='PU' os_index='" n "' cpuset='" set "' complete_cpuset='" set "' nodeset='" node \
  "' "                                                                                           \
  "complete_nodeset='" node "' gp_index='3" n "'/>"
    PACKAGE("0", "0x00000003", "0x00000001", PU("0", "0x00000001", "0x00000001") PU("1", "0x00000002", "0x00000001"))
    PACKAGE("1", "0x0000000c", "0x00000002", PU("2", "0x00000004", "0x00000002") PU("3", "0x00000008", "0x00000002")
            "<object type='Bridge' gp_index='40' bridge_type='0-1' depth='0' bridge_pci='0000:[3a-3b]'>"
            "<object type='PCIDev' gp_index='41' pci_busid='0000:3b:00.0' pci_type='0302 [10de:2335] [10de:18be] a1' "
            "pci_link_speed='31.507692'/></object>")
    "</object></topology>";

static void test_pci(void **state) {
  char path[] = "/tmp/muster-topology-XXXXXX";
  FILE *file = fdopen(mkstemp(path), "w");
  assert_non_null(file);
  for (const char *at = machine; *at != '\0'; at++) /* as hwloc's own parser wants it */
    fprintf(file, *at == '>' ? ">\n" : "%c", *at == '\'' ? '"' : *at);
  fclose(file);
  setenv("HWLOC_XMLFILE", path, 1);
  struct gpu_locality *locality = create("0-3");
  expect_cores(locality, "00000000:3B:00.0", GPU_UNKNOWN, "2-3");
  expect_cores(locality, "00000000:3B:00.0", 0, "2-3"); /* the bus knows better */
  expect_cores(locality, "00000000:3C:00.0", 0, "0-1");
  gpu_locality_free(locality);
  unsetenv("HWLOC_XMLFILE");
  unlink(path);
}

static void test_this_machine(void **state) {
  struct gpu_locality *locality;
  cpu_set_t own, cores;
  const struct gpu gpu = {.numa_node = GPU_UNKNOWN};
  assert_int_equal(sched_getaffinity(0, sizeof own, &own), 0);
  assert_int_equal(gpu_locality_create(NULL, &locality, &error), MU_OK);
  gpu_locality_cores(locality, &gpu, &cores);
  assert_true(CPU_EQUAL(&cores, &own));
  gpu_locality_free(locality);
}

static void test_text(void **state) {
  static const char *const good[] = {"0", "1023", "0-1023", "0-7,16-23", "1,3,5-6"};
  static const char *const bad[] = {"",     ",",      "1,", ",1", "1-",          "-1",  "3-1",
                                    "1024", "0-1024", "a",  "1 ", "99999999999", "1--2"};
  char text[256];
  cpu_set_t cores;
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    cores = cores_of(good[i]);
    assert_true(gpu_cores_print(&cores, text, sizeof text));
    assert_string_equal(text, good[i]);
  }
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    if (gpu_cores_parse(bad[i], &cores) != MU_INVALID) fail_msg("%s", bad[i]);
  cores = cores_of("0-7,16-23");
  assert_false(gpu_cores_print(&cores, text, sizeof "0-7,16-23" - 1));
  assert_string_equal(text, "");
  assert_true(gpu_cores_print(&cores, text, sizeof "0-7,16-23"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_numa_node),
      cmocka_unit_test(test_pci),
      cmocka_unit_test(test_this_machine),
      cmocka_unit_test(test_text),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
