#include "cli/command.h"
#include "cli/control_client.h"

#include <inttypes.h>
#include <stdio.h>

enum { CELL_MAX = 256, COLUMNS_MAX = 8 };

/* ---- text for people --------------------------------------------------------------------------------------------- */

/* Names and reasons come from files and models: no control character of theirs reaches the terminal. */
static void clean(char *text) {
  for (; *text != '\0'; text++)
    if ((unsigned char)*text < 0x20 || *text == 0x7f) *text = '?';
}

static void cell_text(const json_t *row, const char *key, char text[CELL_MAX]) {
  const json_t *value = json_object_get(row, key);
  if (json_is_integer(value))
    snprintf(text, CELL_MAX, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
  else if (json_is_boolean(value))
    snprintf(text, CELL_MAX, "%s", json_is_true(value) ? "yes" : "no");
  else
    snprintf(text, CELL_MAX, "%s", json_is_string(value) ? json_string_value(value) : "");
  clean(text);
}

struct column {
  const char *title, *key;
};
static const struct column model_columns[] = {
    {"MODEL", "name"}, {"VERSION", "version"}, {"STATE", "state"}, {"REASON", "reason"}, {0}};
static const struct column worker_columns[] = {{"WORKER", "worker"},     {"PID", "pid"},       {"MODEL", "model"},
                                               {"VERSION", "version"},   {"DEVICE", "device"}, {"STATE", "state"},
                                               {"RESTARTS", "restarts"}, {"REASON", "reason"}, {0}};
static const struct column gpu_columns[] = {{"GPU", "index"},   {"UUID", "uuid"},     {"NAME", "name"},
                                            {"STATE", "state"}, {"REASON", "reason"}, {0}};

static const struct column backend_columns[] = {{"MODEL", "model"},
                                                {"BACKEND", "address"},
                                                {"HEALTHY", "healthy"},
                                                {"REQUESTS", "total_requests"},
                                                {"ERRORS", "error_count"},
                                                {"LAST ERROR", "error"},
                                                {0}};

/* rows: an array of objects; the last column is not padded. */
static void print_table(struct buffer *out, const struct column *columns, const json_t *rows) {
  char text[CELL_MAX];
  int widths[COLUMNS_MAX] = {0};
  size_t i;
  const json_t *row;
  for (size_t c = 0; columns[c].title != NULL; c++) {
    widths[c] = (int)strlen(columns[c].title);
    json_array_foreach(rows, i, row) {
      cell_text(row, columns[c].key, text);
      if ((int)strlen(text) > widths[c]) widths[c] = (int)strlen(text);
    }
  }
  for (size_t r = 0; r <= json_array_size(rows); r++) {
    for (size_t c = 0; columns[c].title != NULL; c++) {
      if (r == 0)
        snprintf(text, sizeof text, "%s", columns[c].title);
      else
        cell_text(json_array_get(rows, r - 1), columns[c].key, text);
      bool last = columns[c + 1].title == NULL;
      buffer_print(out, "%s%-*s", c == 0 ? "" : "  ", last ? 0 : widths[c], text);
    }
    while (out->size > 0 && out->data[out->size - 1] == ' ') out->size--;
    buffer_putc(out, '\n');
  }
}

static void print_uptime(struct buffer *out, double seconds) {
  uint64_t s = seconds > 0 ? (uint64_t)seconds : 0;
  buffer_puts(out, "uptime   ");
  if (s >= 86400) buffer_print(out, "%" PRIu64 "d ", s / 86400);
  if (s >= 3600) buffer_print(out, "%" PRIu64 "h ", s / 3600 % 24);
  if (s >= 60) buffer_print(out, "%" PRIu64 "m ", s / 60 % 60);
  buffer_print(out, "%" PRIu64 "s\n", s % 60);
}

/* A listener of every address is reached as localhost; an IPv6 address stands in brackets. */
static void print_urls(struct buffer *out, const char *label, const json_t *listeners, const char *path) {
  size_t i;
  const json_t *listener;
  json_array_foreach(listeners, i, listener) {
    char address[CELL_MAX], port[CELL_MAX];
    cell_text(listener, "address", address);
    cell_text(listener, "port", port);
    if (strcmp(address, "0.0.0.0") == 0 || strcmp(address, "::") == 0) snprintf(address, sizeof address, "localhost");
    bool v6 = strchr(address, ':') != NULL;
    buffer_print(out, "%-8s http://%s%s%s:%s%s\n", label, v6 ? "[" : "", address, v6 ? "]" : "", port, path);
  }
}

/* What became of the last reload; nothing where there was none. */
static void print_reload(struct buffer *out, const json_t *report) {
  char state[CELL_MAX], error[CELL_MAX];
  if (!json_is_object(report)) return;
  cell_text(report, "state", state);
  cell_text(report, "error", error);
  buffer_print(out, "reload   %s%s%s\n", state, error[0] != '\0' ? ": " : "", error);
}

/* Nothing where there was none. */
static void print_upgrade(struct buffer *out, const json_t *upgrade) {
  char state[CELL_MAX], from[CELL_MAX], to[CELL_MAX], error[CELL_MAX];
  cell_text(upgrade, "state", state);
  cell_text(upgrade, "from", from);
  cell_text(upgrade, "to", to);
  cell_text(upgrade, "error", error);
  if (state[0] == '\0' || strcmp(state, "none") == 0) return;
  buffer_print(out, "upgrade  %s, from %s%s%s%s%s\n", state, from, to[0] != '\0' ? " to " : "", to,
               error[0] != '\0' ? ": " : "", error);
}

/* Those of remote models; nothing where there are none. */
static void print_backends(struct buffer *out, const json_t *workers) {
  json_t *rows = json_array(), *backend;
  const json_t *worker;
  size_t w, b;
  json_array_foreach(workers, w, worker) {
    json_array_foreach(json_object_get(worker, "backends"), b, backend) {
      json_object_set(backend, "model", json_object_get(worker, "model"));
      json_array_append(rows, backend);
    }
  }
  if (json_array_size(rows) > 0) {
    buffer_putc(out, '\n');
    print_table(out, backend_columns, rows);
  }
  json_decref(rows);
}

/* Nothing where NVML answers, or there is none. */
static void print_fleet(struct buffer *out, const json_t *fleet) {
  char state[CELL_MAX], error[CELL_MAX];
  cell_text(fleet, "state", state);
  cell_text(fleet, "error", error);
  if (error[0] != '\0') buffer_print(out, "gpus     %s: %s\n", state, error);
}

static void print_status(struct buffer *out, const json_t *status) {
  char state[CELL_MAX], pid[CELL_MAX], version[CELL_MAX], gateway[CELL_MAX], restarts[CELL_MAX], gateway_pid[CELL_MAX];
  const json_t *gateway_status = json_object_get(status, "gateway");
  cell_text(status, "state", state);
  cell_text(status, "pid", pid);
  cell_text(status, "version", version);
  cell_text(gateway_status, "state", gateway);
  cell_text(gateway_status, "pid", gateway_pid);
  cell_text(gateway_status, "restarts", restarts);
  buffer_print(out, "state    %s\n", state);
  print_uptime(out, json_number_value(json_object_get(status, "uptime_s")));
  buffer_print(out, "server   muster %s, pid %s\n", version, pid);
  print_upgrade(out, json_object_get(status, "upgrade"));
  buffer_print(out, "gateway  %s, pid %s, restarts %s\n", gateway, gateway_pid, restarts);
  print_urls(out, "http", json_object_get(status, "http"), "");
  print_urls(out, "grpc", json_object_get(status, "grpc"), "");
  print_urls(out, "metrics", json_object_get(status, "metrics"), "/metrics");
  print_fleet(out, json_object_get(status, "fleet"));
  print_reload(out, json_object_get(status, "reload"));
  buffer_putc(out, '\n');
  print_table(out, model_columns, json_object_get(status, "models"));
  buffer_putc(out, '\n');
  print_table(out, worker_columns, json_object_get(status, "workers"));
  if (json_array_size(json_object_get(status, "gpus")) == 0) return;
  buffer_putc(out, '\n');
  print_table(out, gpu_columns, json_object_get(status, "gpus"));
  print_backends(out, json_object_get(status, "workers"));
}

/* ---- the command ------------------------------------------------------------------------------------------------- */

static mu_status print_answer(const struct options *options, bool json, struct buffer *out, mu_error *err) {
  char socket[CONTROL_SOCKET_PATH_MAX];
  mu_status status = control_find(options, socket, err);
  if (status != MU_OK) return status;
  if (json) {
    status = control_ask(socket, "GET", "/status", CONTROL_PROMPT_MS, out, err);
    if (status == MU_OK && out->size > 0 && out->data[out->size - 1] != '\n') buffer_putc(out, '\n');
    return status;
  }
  json_t *answer;
  status = control_get_status(socket, &answer, err);
  if (status != MU_OK) return status;
  print_status(out, answer);
  json_decref(answer);
  return MU_OK;
}

static int run(int argc, char **argv) {
  struct options *options;
  struct buffer out;
  mu_error err;
  bool json = command_take_flag(&argc, argv, "--json");
  int exit_status = command_load_options(&command_status, argc, argv, &options);
  if (exit_status != COMMAND_OK) return exit_status;
  buffer_init(&out, 16 << 20);
  mu_status status = print_answer(options, json, &out, &err);
  options_free(options);
  if (status == MU_OK) return command_output(&command_status, &out);
  buffer_free(&out);
  return command_fail(&command_status, COMMAND_FAILED, err.message);
}

const struct command command_status = {
    .name = "status",
    .usage = "muster status [--json] [--http-port N|--control-socket PATH]",
    .summary = "Print the state of a running server, its models and workers",
    .details =
        "The server is found by its control socket or its HTTP port, said here, in the environment or in\n"
        "muster.yaml as for muster serve (the other options are taken too, and mean nothing here). Said nowhere:\n"
        "the only server of this user. Exit status 1 where no server answers.",
    .run = run};
