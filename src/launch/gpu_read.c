#include "launch/gpu_read.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "gpu/inventory_json.h"
#include "gpu/nvml.h"

enum { ANSWER_S = 10, JSON_MAX = 16 << 20 };

/* ---- the process that asks --------------------------------------------------------------------------------------- */

/* An inventory that says why there is none, where that is so. */
static void ask(struct gpu_inventory *inventory) {
  struct nvml *nvml = NULL;
  mu_error err;
  mu_status status = nvml_open("", &nvml, &err);
  if (status == MU_OK) status = nvml_read_inventory(nvml, inventory, &err);
  if (status != MU_OK) {
    *inventory = (struct gpu_inventory){.cuda = GPU_UNKNOWN};
    snprintf(inventory->error, sizeof inventory->error, "%.250s", err.message);
  }
}

__attribute__((noreturn)) static void run_child(int fd) {
  struct gpu_inventory *inventory = calloc(1, sizeof *inventory);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (inventory == NULL) _exit(1);
  ask(inventory);
  json_t *json = gpu_inventory_to_json(inventory);
  _exit(json != NULL && json_dumpfd(json, fd, JSON_COMPACT) == 0 ? 0 : 1);
}

/* ---- the launcher ------------------------------------------------------------------------------------------------ */

/* All that comes until the end. MU_TIMEOUT. */
static mu_status read_answer(int fd, struct buffer *text, mu_error *err) {
  uint64_t end_ns = time_add(clock_now_ns(), ANSWER_S * NS_PER_S);
  struct pollfd ready = {.fd = fd, .events = POLLIN};
  for (;;) {
    uint64_t now_ns = clock_now_ns();
    int n = now_ns < end_ns ? poll(&ready, 1, (int)((end_ns - now_ns) / NS_PER_MS) + 1) : 0;
    if (n == 0) return mu_fail(err, MU_TIMEOUT, "NVML has not answered within %d s", ANSWER_S);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return mu_fail(err, MU_IO, "waiting for NVML: %s", strerror(errno));
    if (buffer_reserve(text, 65536) != MU_OK) return mu_fail(err, MU_NO_MEMORY, "no memory for NVML's answer");
    ssize_t got = read(fd, text->data + text->size, 65536);
    if (got == 0) return MU_OK;
    if (got > 0) text->size += (size_t)got;
    if (got < 0 && errno != EINTR) return mu_fail(err, MU_IO, "waiting for NVML: %s", strerror(errno));
  }
}

static mu_status parse(const struct buffer *text, struct gpu_inventory *ret_inventory, mu_error *err) {
  json_error_t problem;
  json_t *json = json_loadb(text->data != NULL ? text->data : "", text->size, 0, &problem);
  if (json == NULL) return mu_fail(err, MU_IO, "the process that asks NVML has died");
  mu_status status = gpu_inventory_from_json(json, ret_inventory, err);
  json_decref(json);
  return status;
}

mu_status gpu_read(struct gpu_inventory *ret_inventory, mu_error *err) {
  struct buffer text;
  mu_error why;
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return mu_fail(err, MU_IO, "cannot make a pipe: %s", strerror(errno));
  pid_t child = fork();
  if (child == 0) run_child(ends[1]);
  close(ends[1]);
  if (child < 0) {
    close(ends[0]);
    return mu_fail(err, MU_IO, "cannot start a process: %s", strerror(errno));
  }
  buffer_init(&text, JSON_MAX);
  mu_status status = read_answer(ends[0], &text, &why);
  close(ends[0]);
  kill(child, SIGKILL);
  /* one that hangs in the kernel does not end: it is not waited for */
  if (status == MU_OK) waitpid(child, NULL, 0);
  if (status == MU_OK) status = parse(&text, ret_inventory, &why);
  buffer_free(&text);
  if (status == MU_NO_MEMORY) return mu_fail(err, status, "%s", why.message);
  if (status != MU_OK) {
    *ret_inventory = (struct gpu_inventory){.cuda = GPU_UNKNOWN};
    snprintf(ret_inventory->error, sizeof ret_inventory->error, "%.250s", why.message);
  }
  return MU_OK;
}
