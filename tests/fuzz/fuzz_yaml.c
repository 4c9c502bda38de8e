/* Any bytes as a muster.yaml. A refusal must name the file; what is accepted must print. */
#include "config/option_table.h"
#include "config/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
  if (!holds) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static int file = -1;
  static char path[32];
  if (file < 0) {
    file = memfd_create("muster.yaml", MFD_CLOEXEC);
    require(file >= 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
  }
  require(ftruncate(file, 0) == 0 && pwrite(file, data, size, 0) == (ssize_t)size);
  struct options *options;
  mu_error err = {{0}};
  require(options_create(&options) == MU_OK);
  if (yaml_file_apply(options, path, &err) == MU_OK) {
    struct buffer out;
    buffer_init(&out, SIZE_MAX / 2);
    require(options_print(options, &out) == MU_OK);
    buffer_free(&out);
  } else {
    require(strstr(err.message, path) != NULL);
  }
  options_free(options);
  return 0;
}
