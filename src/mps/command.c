#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "gpu/mps.h"
#include "mps/keeper.h"

enum { EXEC_FAILED = 127 };

void keeper_child_begin(pid_t parent) {
  static const int reset[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
  for (size_t i = 0; i < sizeof reset / sizeof reset[0]; i++) signal(reset[i], SIG_DFL);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setpgid(0, 0);
  if (getppid() != parent) _exit(EXEC_FAILED); /* it died before prctl */
}

static pid_t start(const struct keeper *keeper, int input, int output) {
  char *const arguments[] = {keeper->binary, NULL};
  pid_t parent = getpid(), pid = fork();
  if (pid != 0) return pid;
  keeper_child_begin(parent);
  if (dup2(input, STDIN_FILENO) >= 0 && dup2(output, STDOUT_FILENO) >= 0 && dup2(output, STDERR_FILENO) >= 0)
    execvp(keeper->binary, arguments);
  _exit(EXEC_FAILED);
}

/* A command fits a pipe's buffer many times: this does not block. */
static mu_status send(int fd, const char *command, mu_error *err) {
  char line[96];
  int n = snprintf(line, sizeof line, "%s\n", command);
  if (write(fd, line, (size_t)n) == n) return MU_OK;
  return mu_fail(err, MU_IO, "cannot write the command %s: %s", command, strerror(errno));
}

/* MU_OK: there is still time. */
static mu_status check_patience(const struct keeper *keeper, const char *command, uint64_t until_ns, mu_error *err) {
  if (keeper->stop || keeper->abandoned) return mu_fail(err, MU_CANCELED, "the server stops");
  if (keeper->daemon == 0) return mu_fail(err, MU_CANCELED, "%s", keeper->error);
  if (clock_now_ns() < until_ns) return MU_OK;
  return mu_fail(err, MU_TIMEOUT, "the MPS daemon has not answered %s within %.1f s", command,
                 (double)keeper->timeout_ns / (double)NS_PER_S);
}

static mu_status receive(struct keeper *keeper, int fd, const char *command, uint64_t until_ns, struct buffer *out,
                         mu_error *err) {
  char text[4096];
  for (;;) {
    bool readable = keeper_wait(keeper, fd, until_ns);
    ssize_t n = readable ? read(fd, text, sizeof text) : -1;
    if (n > 0) buffer_append(out, text, (size_t)n);
    if (n == 0) return !out->failed ? MU_OK : mu_fail(err, MU_TOO_LARGE, "the answer to %s is too long", command);
    if (readable && n < 0 && errno != EINTR) return mu_fail(err, MU_IO, "%s: %s", command, strerror(errno));
    mu_status status = check_patience(keeper, command, until_ns, err);
    if (status != MU_OK) return status;
  }
}

/* It has closed its output. */
static mu_status await_end(struct keeper *keeper, int pidfd, const char *command, uint64_t until_ns, mu_error *err) {
  mu_status status = MU_OK;
  while (status == MU_OK && !keeper_wait(keeper, pidfd, until_ns))
    status = check_patience(keeper, command, until_ns, err);
  return status;
}

/* Waits for the end of one that ends by itself or was killed, but not for ever: NVIDIA's programs can hang in the
 * kernel. true: it was well. */
static bool reap(pid_t pid, int pidfd) {
  int status = 0;
  struct pollfd fd = {.fd = pidfd, .events = POLLIN};
  while (poll(&fd, 1, (int)(KEEPER_KILL_NS / NS_PER_MS)) < 0 && errno == EINTR) continue;
  if (waitpid(pid, &status, WNOHANG) != pid) {
    LOG_ERROR("NVIDIA's MPS control program is stuck in the kernel and stays behind", LOG_INT("pid", pid));
    return false;
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static mu_status converse(struct keeper *keeper, const char *command, int to, int from, pid_t pid, int pidfd,
                          struct buffer *out, mu_error *err) {
  uint64_t until_ns = clock_now_ns() + keeper->timeout_ns;
  char answer[200];
  mu_status status = send(to, command, err);
  close(to); /* its end of file: one command only */
  if (status == MU_OK) status = receive(keeper, from, command, until_ns, out, err);
  close(from);
  if (status == MU_OK) status = await_end(keeper, pidfd, command, until_ns, err);
  if (status != MU_OK) kill(pid, SIGKILL);
  if (reap(pid, pidfd) || status != MU_OK) return status;
  mps_quote(out->data, out->size, answer, sizeof answer);
  return mu_fail(err, MU_UNAVAILABLE, "the MPS daemon cannot be asked for %s: %s", command, answer);
}

mu_status keeper_command(struct keeper *keeper, const char *command, struct buffer *out, mu_error *err) {
  int input[2], output[2];
  if (pipe2(input, O_CLOEXEC) != 0) return mu_fail(err, MU_IO, "cannot make a pipe: %s", strerror(errno));
  if (pipe2(output, O_CLOEXEC) != 0) {
    close(input[0]);
    close(input[1]);
    return mu_fail(err, MU_IO, "cannot make a pipe: %s", strerror(errno));
  }
  pid_t pid = start(keeper, input[0], output[1]);
  int pidfd = pid > 0 ? pidfd_open(pid, 0) : -1, error = errno;
  close(input[0]);
  close(output[1]);
  if (pidfd >= 0) {
    mu_status status = converse(keeper, command, input[1], output[0], pid, pidfd, out, err);
    close(pidfd);
    return status;
  }
  if (pid > 0) kill(pid, SIGKILL); /* keeper_end_processes reaps it */
  close(input[1]);
  close(output[0]);
  return mu_fail(err, MU_IO, "cannot start %s: %s", keeper->binary, strerror(error));
}
