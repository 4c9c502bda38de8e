#include "cli/gpus/reader.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "gpu/nvml.h"

enum { DEATH_MS = 1000 };

/* Memory of both. The child writes between the question and the answer on the socket, but for `call`. */
struct answer {
  _Atomic int32_t call; /* nvml_watch_calls */
  mu_status status;
  mu_error error;
  struct gpu_inventory inventory;
};

struct gpus_reader {
  struct answer *answer;
  int socket; /* a byte each: the question, the answer */
  pid_t child;
};

/* ---- the child --------------------------------------------------------------------------------------------------- */

static void answer_questions(const char *library, int socket, struct answer *answer) {
  struct nvml *nvml = NULL;
  char byte;
  nvml_watch_calls(&answer->call);
  while (read(socket, &byte, 1) == 1) {
    answer->status = nvml != NULL ? MU_OK : nvml_open(library, &nvml, &answer->error);
    if (answer->status == MU_OK) answer->status = nvml_read_inventory(nvml, &answer->inventory, &answer->error);
    if (write(socket, &byte, 1) != 1) break;
  }
}

/* ---- the command's side ------------------------------------------------------------------------------------------ */

mu_status gpus_reader_create(const char *library, struct gpus_reader **ret_reader, mu_error *err) {
  int sockets[2] = {-1, -1};
  struct gpus_reader *reader = calloc(1, sizeof *reader);
  if (reader == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  reader->answer = mmap(NULL, sizeof *reader->answer, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (reader->answer == MAP_FAILED) {
    free(reader);
    return mu_fail(err, MU_NO_MEMORY, "mmap: %s", strerror(errno));
  }
  reader->answer->call = -1;
  reader->child = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0 ? fork() : -1;
  if (reader->child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(sockets[0]);
    answer_questions(library, sockets[1], reader->answer);
    _exit(EXIT_SUCCESS);
  }
  mu_status status =
      reader->child > 0 ? MU_OK : mu_fail(err, MU_IO, "cannot start a process to read NVML: %s", strerror(errno));
  reader->socket = sockets[0];
  if (sockets[1] >= 0) close(sockets[1]);
  if (status == MU_OK)
    *ret_reader = reader;
  else
    gpus_reader_free(reader);
  return status;
}

static mu_status fail_timeout(const struct gpus_reader *reader, uint64_t timeout_ns, mu_error *err) {
  const char *call = nvml_call_name(reader->answer->call);
  return mu_fail(err, MU_TIMEOUT,
                 "NVML does not answer: %s%s has not come back within %.1f s: a GPU may be lost (see dmesg), or the "
                 "driver may take long to start (see nvidia-smi -pm 1, and --nvml-timeout where the command has it)",
                 call[0] != '\0' ? "the call " : "what it was asked", call, (double)timeout_ns / (double)NS_PER_S);
}

mu_status gpus_reader_read(struct gpus_reader *reader, uint64_t timeout_ns, struct gpu_inventory *ret_inventory,
                           mu_error *err) {
  struct pollfd answered = {.fd = reader->socket, .events = POLLIN};
  char byte = 0;
  int n = 0;
  if (send(reader->socket, &byte, 1, MSG_NOSIGNAL) == 1) {
    uint64_t end = time_add(clock_now_ns(), timeout_ns), now;
    do {
      now = clock_now_ns();
      uint64_t ms = now < end ? (end - now + NS_PER_MS - 1) / NS_PER_MS : 0;
      n = poll(&answered, 1, ms < INT32_MAX ? (int)ms : INT32_MAX);
    } while (n < 0 && errno == EINTR);
    if (n == 0) return fail_timeout(reader, timeout_ns, err);
  }
  if (n <= 0 || read(reader->socket, &byte, 1) != 1) {
    const char *call = nvml_call_name(reader->answer->call);
    return mu_fail(err, MU_INTERNAL, "the process that reads NVML has died%s%s", call[0] != '\0' ? " in " : "", call);
  }
  if (reader->answer->status != MU_OK) {
    if (err != NULL) *err = reader->answer->error;
    return reader->answer->status;
  }
  *ret_inventory = reader->answer->inventory;
  return MU_OK;
}

/* A process inside a driver's call may not die before that returns, so nothing waits for it without end. */
static void end_child(pid_t child) {
  int fd = (int)syscall(SYS_pidfd_open, child, 0);
  struct pollfd ended = {.fd = fd, .events = POLLIN};
  kill(child, SIGKILL);
  if (fd >= 0) {
    (void)poll(&ended, 1, DEATH_MS);
    close(fd);
  }
  (void)waitpid(child, NULL, fd >= 0 ? WNOHANG : 0);
}

void gpus_reader_free(struct gpus_reader *reader) {
  if (reader == NULL) return;
  if (reader->child > 0) end_child(reader->child);
  if (reader->socket >= 0) close(reader->socket);
  munmap(reader->answer, sizeof *reader->answer);
  free(reader);
}
