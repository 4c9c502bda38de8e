#include "base/clock.h"
#include "cli/command.h"
#include "cli/control_client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <unistd.h>

enum { GRACE_S = 10, WAIT_MAX_S = 7 * 86400 };

/* How long the server may take: what it says itself, else what it would be with these options. */
static int wait_seconds(const json_t *status, const struct options *options) {
  const json_t *said = json_object_get(status, "stop_timeout_s");
  double seconds = json_is_number(said)
                       ? json_number_value(said)
                       : (double)(options->exit_timeout_ns + options->drain_delay_ns) / (double)NS_PER_S;
  if (!(seconds >= 0)) seconds = 0; /* NaN too */
  return (int)(seconds > WAIT_MAX_S ? WAIT_MAX_S : seconds) + GRACE_S;
}

/* Until the process behind the pidfd has ended. MU_TIMEOUT; MU_IO. */
static mu_status wait_for_end(int pidfd, int seconds, mu_error *err) {
  struct pollfd poll_fd = {.fd = pidfd, .events = POLLIN};
  uint64_t deadline = time_add(clock_now_ns(), (uint64_t)seconds * NS_PER_S);
  for (;;) {
    uint64_t now = clock_now_ns(), left_ms = deadline > now ? (deadline - now + NS_PER_MS - 1) / NS_PER_MS : 0;
    int n = poll(&poll_fd, 1, (int)left_ms);
    if (n > 0) return MU_OK;
    if (n == 0) return mu_fail(err, MU_TIMEOUT, "the server is still stopping after %d s", seconds);
    if (errno != EINTR) return mu_fail(err, MU_IO, "waiting for the server: %s", strerror(errno));
  }
}

/* The pidfd is opened before the server is told to leave: its number cannot have gone to another process by then. */
mu_status control_stop_and_wait(const char *socket, int pid, int seconds, mu_error *err) {
  struct buffer body;
  int pidfd = pidfd_open(pid, 0); /* close-on-exec by itself */
  if (pidfd < 0) return mu_fail(err, MU_IO, "cannot watch the server, pid %d: %s", pid, strerror(errno));
  buffer_init(&body, 1 << 20);
  mu_status status = control_ask(socket, "POST", "/stop", CONTROL_PROMPT_MS, &body, err);
  buffer_free(&body);
  if (status == MU_OK) status = wait_for_end(pidfd, seconds, err);
  close(pidfd);
  return status;
}

static mu_status stop(const struct options *options, struct buffer *out, mu_error *err) {
  char socket[CONTROL_SOCKET_PATH_MAX];
  json_t *answer;
  mu_status status = control_find(options, socket, err);
  if (status == MU_OK) status = control_get_status(socket, &answer, err);
  if (status != MU_OK) return status;
  json_int_t pid = json_integer_value(json_object_get(answer, "pid"));
  int seconds = wait_seconds(answer, options);
  json_decref(answer);
  if (pid <= 0 || pid > INT32_MAX)
    return mu_fail(err, MU_INTERNAL, "the server at %s does not say its process number", socket);
  status = control_stop_and_wait(socket, (int)pid, seconds, err);
  if (status == MU_OK) buffer_print(out, "The server (pid %d) has stopped.\n", (int)pid);
  return status;
}

static int run(int argc, char **argv) {
  struct options *options;
  struct buffer out;
  mu_error err;
  int exit_status = command_load_options(&command_stop, argc, argv, &options);
  if (exit_status != COMMAND_OK) return exit_status;
  buffer_init(&out, 1 << 10);
  mu_status status = stop(options, &out, &err);
  options_free(options);
  if (status == MU_OK) return command_output(&command_stop, &out);
  buffer_free(&out);
  return command_fail(&command_stop, COMMAND_FAILED, err.message);
}

const struct command command_stop = {
    .name = "stop",
    .usage = "muster stop [--http-port N|--control-socket PATH]",
    .summary = "Stop a running server and wait until it is gone",
    .details =
        "Requests in flight finish first (--exit-timeout-secs of the server). The server is found as by muster\n"
        "status. Exit status 1 where no server answers or it does not stop in time.",
    .run = run};
