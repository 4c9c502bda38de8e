#include "cli/bench/server_processes.h"

#include "cli/control_client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool is_local(const char *host) {
  return strcmp(host, "localhost") == 0 || strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0;
}

static bool listens(const json_t *status, const char *port) {
  size_t i;
  const json_t *listener;
  json_array_foreach(json_object_get(status, "http"), i,
                     listener) if (json_integer_value(json_object_get(listener, "port")) == atoi(port)) return true;
  return false;
}

static mu_status watch_all(const json_t *status, const struct target *target, struct cpu_watch *watch, mu_error *err) {
  size_t i;
  const json_t *worker;
  int gateway = (int)json_integer_value(json_object_get(json_object_get(status, "gateway"), "pid"));
  mu_status added = cpu_watch_add(watch, gateway, "gateway", err);
  json_array_foreach(json_object_get(status, "workers"), i, worker) {
    const char *model = json_string_value(json_object_get(worker, "model"));
    char label[64];
    if (added != MU_OK) return added;
    if (model == NULL || (target->model[0] != '\0' && strcmp(model, target->model) != 0)) continue;
    snprintf(label, sizeof label, "worker %d", (int)json_integer_value(json_object_get(worker, "worker")));
    added = cpu_watch_add(watch, (int)json_integer_value(json_object_get(worker, "pid")), label, err);
  }
  return added;
}

/* The rule that `muster status --http-port N` follows. */
static mu_status find_socket(const struct target *target, char ret_path[CONTROL_SOCKET_PATH_MAX], mu_error *err) {
  char flag[] = "--http-port", port[sizeof target->port];
  memcpy(port, target->port, sizeof port);
  char *argv[] = {flag, port, NULL};
  struct options *options;
  mu_status status = options_load(2, argv, environ, &options, err);
  if (status != MU_OK) return status;
  status = control_find(options, ret_path, err);
  options_free(options);
  return status;
}

mu_status server_processes_watch(const struct target *target, const char *control_socket, struct cpu_watch *watch,
                                 mu_error *err) {
  char found[CONTROL_SOCKET_PATH_MAX];
  json_t *answer;
  bool named = control_socket != NULL;
  if (!named) {
    mu_error ignored;
    if (!is_local(target->host) || find_socket(target, found, &ignored) != MU_OK || access(found, F_OK) != 0)
      return MU_OK;
    control_socket = found;
  }
  mu_status status = control_get_status(control_socket, &answer, err);
  if (status != MU_OK) return named ? status : MU_OK;
  if (listens(answer, target->port))
    status = watch_all(answer, target, watch, err);
  else if (named)
    status = mu_fail(err, MU_INVALID, "the server at %s does not listen on port %s", control_socket, target->port);
  json_decref(answer);
  return status;
}
