/* A machine that NVML shows: scenarios of the fake library (tests/fake_nvml/scenario.c). */
#ifndef TESTS_GPU_FAKE_MACHINE_H
#define TESTS_GPU_FAKE_MACHINE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "gpu/nvml.h"

#define FAKE_NVML_LIBRARY TEST_BUILD_DIR "/libfake_nvml.so"
#define FAKE_NVML_OLD_LIBRARY TEST_BUILD_DIR "/libfake_nvml_old.so"

static char scenario_path[] = "/tmp/muster-scenario-XXXXXX";

/* The scenario as JSON with ' for ". */
static inline void set_scenario(const char *text) {
  char temporary[sizeof scenario_path + 4];
  snprintf(temporary, sizeof temporary, "%s.new", scenario_path);
  FILE *file = fopen(temporary, "w");
  assert_non_null(file);
  for (; *text != '\0'; text++) fputc(*text == '\'' ? '"' : *text, file);
  assert_int_equal(fclose(file), 0);
  assert_int_equal(rename(temporary, scenario_path), 0);
}

static inline int create_scenario(void **state) {
  int file = mkstemp(scenario_path);
  if (file < 0) return -1;
  close(file);
  return setenv("FAKE_NVML", scenario_path, 1);
}

static inline int remove_scenario(void **state) { return unlink(scenario_path); }

static inline struct nvml *open_fake(const char *library) {
  struct nvml *nvml = NULL;
  mu_error err;
  if (nvml_open(library, &nvml, &err) != MU_OK) fail_msg("%s", err.message);
  return nvml;
}

#endif
