#include "base/clock.h"
#include "cli/command.h"
#include "cli/control_client.h"
#include "supervisor/supervisor.h"
#include "supervisor/upgrade_check.h"

#include <curl/curl.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <time.h>
#include <unistd.h>

enum { POLL_MS = 100, STATE_FD = 3 };

/* Requests in flight, loading models: past this something is wrong. The server goes on with it all the same. */
#define LIMIT_NS (3600 * NS_PER_S)

/* ---- waiting ----------------------------------------------------------------------------------------------------- */

static const char *text_of(const json_t *object, const char *key) {
  const char *text = json_string_value(json_object_get(object, key));
  return text != NULL ? text : "";
}

/* What has become of the upgrade of that number. MU_OK with ret_status NULL: it goes on. */
static mu_status look(const char *socket, json_int_t number, json_t **ret_status, mu_error *err) {
  json_t *status;
  mu_status result = control_get_status(socket, &status, err);
  if (result != MU_OK) return result;
  const json_t *upgrade = json_object_get(status, "upgrade");
  const char *state = text_of(upgrade, "state");
  bool ours = json_integer_value(json_object_get(upgrade, "number")) == number;
  *ret_status = NULL;
  if (!ours)
    result = mu_fail(err, MU_INTERNAL, "another upgrade has begun; see muster status");
  else if (strcmp(state, "refused") == 0)
    result = mu_fail(err, MU_UNAVAILABLE, "refused, nothing has changed: %s", text_of(upgrade, "error"));
  else if (strcmp(state, "failed") == 0)
    result = mu_fail(err, MU_INTERNAL, "failed in part: %s", text_of(upgrade, "error"));
  else if (strcmp(state, "done") == 0)
    *ret_status = json_incref(status);
  json_decref(status);
  return result;
}

/* While the server becomes the new binary it answers nobody for a moment: that counts only if its process ends. */
static mu_status wait_for_end(const char *socket, int pidfd, json_int_t number, json_t **ret_status, mu_error *err) {
  uint64_t limit = clock_now_ns() + LIMIT_NS;
  while (clock_now_ns() < limit) {
    mu_status status = look(socket, number, ret_status, err);
    bool cut = status == MU_NOT_FOUND || status == MU_IO || status == MU_TIMEOUT;
    if (!cut && (status != MU_OK || *ret_status != NULL)) return status;
    struct pollfd watched = {.fd = pidfd, .events = POLLIN};
    if (poll(&watched, 1, POLL_MS) > 0) return mu_fail(err, MU_CANCELED, "the server has ended");
  }
  return mu_fail(err, MU_TIMEOUT, "the upgrade is still going on; see muster status");
}

/* ---- asking ------------------------------------------------------------------------------------------------------ */

/* The server may run in another folder. */
static mu_status make_target(const char *binary, char *target, size_t size, mu_error *err) {
  char path[PATH_MAX];
  if (binary == NULL) {
    snprintf(target, size, "/upgrade");
    return MU_OK;
  }
  if (realpath(binary, path) == NULL) return mu_fail(err, MU_NOT_FOUND, "%s: %s", binary, strerror(errno));
  char *escaped = curl_easy_escape(NULL, path, 0);
  int n = escaped != NULL ? snprintf(target, size, "/upgrade?binary=%s", escaped) : -1;
  curl_free(escaped);
  return n > 0 && (size_t)n < size ? MU_OK : mu_fail(err, MU_INVALID, "the path of the binary is too long");
}

static mu_status begin(const char *socket, const char *target, json_int_t *ret_number, mu_error *err) {
  struct buffer body;
  buffer_init(&body, 1 << 16);
  mu_status status = control_ask(socket, "POST", target, CONTROL_PROMPT_MS, &body, err);
  if (status == MU_OK) {
    json_t *answer = json_loadb(body.data != NULL ? body.data : "", body.size, 0, NULL);
    *ret_number = json_integer_value(json_object_get(answer, "number"));
    if (*ret_number <= 0) status = mu_fail(err, MU_INTERNAL, "the server at %s does not answer as muster does", socket);
    json_decref(answer);
  }
  buffer_free(&body);
  return status;
}

static void print_result(struct buffer *out, const json_t *status) {
  const json_t *upgrade = json_object_get(status, "upgrade");
  const json_t *gateway = json_object_get(status, "gateway");
  json_int_t workers = json_integer_value(json_object_get(upgrade, "workers"));
  buffer_print(out, "Upgraded from %s to %s: gateway (pid %lld), %lld worker%s, %.1f s.\n", text_of(upgrade, "from"),
               text_of(upgrade, "to"), (long long)json_integer_value(json_object_get(gateway, "pid")),
               (long long)workers, workers == 1 ? "" : "s", json_number_value(json_object_get(upgrade, "seconds")));
}

static mu_status upgrade(const struct options *options, const char *binary, struct buffer *out, mu_error *err) {
  char socket[CONTROL_SOCKET_PATH_MAX], target[3 * PATH_MAX + 64];
  json_t *answer = NULL;
  json_int_t number = 0;
  mu_status status = make_target(binary, target, sizeof target, err);
  if (status == MU_OK) status = control_find(options, socket, err);
  if (status == MU_OK) status = control_get_status(socket, &answer, err);
  if (status != MU_OK) return status;
  json_int_t pid = json_integer_value(json_object_get(answer, "pid"));
  json_decref(answer);
  int pidfd = pid > 0 && pid <= INT32_MAX ? pidfd_open((pid_t)pid, 0) : -1;
  if (pidfd < 0) return mu_fail(err, MU_IO, "cannot watch the server: %s", strerror(errno));
  status = begin(socket, target, &number, err);
  if (status == MU_OK) status = wait_for_end(socket, pidfd, number, &answer, err);
  close(pidfd);
  if (status != MU_OK) return status;
  print_result(out, answer);
  json_decref(answer);
  return MU_OK;
}

/* --binary PATH, --binary=PATH; NULL: not given. false: without a path. */
static bool take_binary(int *argc, char **argv, const char **ret_binary) {
  static const char flag[] = "--binary";
  *ret_binary = NULL;
  for (int i = 0; i < *argc && strcmp(argv[i], "--") != 0; i++) {
    if (strncmp(argv[i], flag, sizeof flag - 1) != 0) continue;
    const char *rest = argv[i] + sizeof flag - 1;
    if (*rest != '\0' && *rest != '=') continue;
    int n = *rest == '=' ? 1 : 2;
    *ret_binary = *rest == '=' ? rest + 1 : argv[i + 1];
    if (*ret_binary == NULL || **ret_binary == '\0') return false;
    memmove(&argv[i], &argv[i + n], (size_t)(*argc - i - n + 1) * sizeof *argv); /* with the NULL at the end */
    *argc -= n;
    return true;
  }
  return true;
}

static int run(int argc, char **argv) {
  struct options *options;
  struct buffer out;
  mu_error err;
  const char *binary;
  if (!take_binary(&argc, argv, &binary)) return command_fail(&command_upgrade, COMMAND_USAGE, "--binary needs a path");
  int exit_status = command_load_options(&command_upgrade, argc, argv, &options);
  if (exit_status != COMMAND_OK) return exit_status;
  buffer_init(&out, 1 << 12);
  mu_status status = upgrade(options, binary, &out, &err);
  options_free(options);
  if (status == MU_OK) return command_output(&command_upgrade, &out);
  buffer_free(&out);
  return command_fail(&command_upgrade, COMMAND_FAILED, err.message);
}

const struct command command_upgrade = {
    .name = "upgrade",
    .usage = "muster upgrade [--binary PATH] [--http-port N|--control-socket PATH]",
    .summary = "Put another version of muster in a running server's place; no request fails",
    .details =
        "Without --binary: what lies now where the server was started from. The new binary first proves that it can\n"
        "take the server over; if not, it says why and nothing changes. Then the supervisor becomes it (the same\n"
        "process), a new gateway takes over the connections, and new workers follow. Waits until all of it is done;\n"
        "exit status 1 where something did not succeed. The server is found as by muster status.",
    .run = run};

/* ---- in the new binary ------------------------------------------------------------------------------------------- */

static int refuse(const char *why) {
  fprintf(stderr, "%s\n", why);
  return COMMAND_FAILED;
}

int upgrade_check(int argc, char **argv) {
  struct options *options;
  mu_error err;
  if (options_load(argc, argv, environ, &options, &err) != MU_OK) return refuse(err.message);
  options_free(options);
  if (upgrade_check_state(STATE_FD, &err) != MU_OK) return refuse(err.message);
  return printf(UPGRADE_CHECK_PROOF MUSTER_VERSION "\n") > 0 && fflush(stdout) == 0 ? COMMAND_OK : COMMAND_FAILED;
}
