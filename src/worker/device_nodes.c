#include "worker/device_nodes.h"

#include <glob.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"

enum { GPUS_MAX = 64 };

/* The GPUs that the driver knows; 1 while it is not loaded. */
static size_t count_gpus(void) {
  glob_t found;
  size_t n = glob("/proc/driver/nvidia/gpus/*", 0, NULL, &found) == 0 ? found.gl_pathc : 1;
  globfree(&found);
  return n < GPUS_MAX ? n : GPUS_MAX;
}

void device_nodes_make(void) {
  char minors[GPUS_MAX][32];
  char *arguments[GPUS_MAX + 3] = {"nvidia-modprobe", "-u"}; /* -u: unified memory; -c=N: the GPU with that number */
  size_t n = count_gpus(), n_arguments = 2;
  if (access("/dev/nvidia-uvm", F_OK) == 0 && access("/dev/nvidiactl", F_OK) == 0) return;
  for (size_t i = 0; i < n; i++) {
    snprintf(minors[i], sizeof minors[i], "-c=%zu", i);
    arguments[n_arguments++] = minors[i];
  }
  pid_t pid;
  int status = 0, error = posix_spawnp(&pid, arguments[0], NULL, NULL, arguments, environ);
  if (error == 0) (void)waitpid(pid, &status, 0);
  LOG_VERBOSE("nvidia-modprobe", LOG_STR("error", error != 0 ? strerror(error) : ""), LOG_INT("status", status));
}
