#include "cli/command.h"
#include "cli/control_client.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- text for people --------------------------------------------------------------------------------------------- */

static const char *text_of(const json_t *object, const char *key) {
  const char *text = json_string_value(json_object_get(object, key));
  return text != NULL ? text : "";
}

static void print_number(struct buffer *out, const json_t *object, const char *key) {
  const json_t *value = json_object_get(object, key);
  if (json_is_integer(value))
    buffer_print(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
  else
    buffer_putc(out, '-');
}

static void print_servers(struct buffer *out, const json_t *servers) {
  size_t i, k;
  const json_t *server, *client;
  json_array_foreach(servers, i, server) {
    const json_t *clients = json_object_get(server, "clients");
    buffer_puts(out, "  server ");
    print_number(out, server, "pid");
    buffer_print(out, ", %zu clients\n", json_array_size(clients));
    json_array_foreach(clients, k, client) {
      buffer_puts(out, "    pid ");
      print_number(out, client, "pid");
      if (json_object_get(client, "worker") != NULL) {
        buffer_puts(out, ", worker ");
        print_number(out, client, "worker");
        buffer_print(out, " of %s", text_of(client, "model"));
      }
      buffer_putc(out, '\n');
    }
  }
}

static void print_gpu(struct buffer *out, const json_t *gpu) {
  double since_s = json_number_value(json_object_get(gpu, "since_s"));
  const char *error = text_of(gpu, "error");
  buffer_print(out, "%s  %s for %.0f s%s%s\n", text_of(gpu, "gpu"), text_of(gpu, "state"), since_s,
               error[0] != '\0' ? ": " : "", error);
  if (!json_is_integer(json_object_get(gpu, "daemon"))) return;
  buffer_puts(out, "  daemon ");
  print_number(out, gpu, "daemon");
  buffer_puts(out, ", restarts ");
  print_number(out, gpu, "restarts");
  buffer_puts(out, ", at most ");
  print_number(out, gpu, "client_limit");
  buffer_puts(out, " clients, active threads ");
  print_number(out, gpu, "default_active_thread_percentage");
  buffer_print(out, " %%, %s\n", text_of(gpu, "folder"));
  print_servers(out, json_object_get(gpu, "servers"));
}

static void print_mps(struct buffer *out, const json_t *mps) {
  size_t i;
  const json_t *gpu;
  buffer_print(out, "mode %s\n", text_of(mps, "mode"));
  if (json_is_string(json_object_get(mps, "inherited")))
    buffer_print(out, "inherited: a daemon at %s, which muster leaves alone\n", text_of(mps, "inherited"));
  json_array_foreach(json_object_get(mps, "gpus"), i, gpu) print_gpu(out, gpu);
}

/* ---- the command ------------------------------------------------------------------------------------------------- */

static mu_status print_answer(const struct options *options, bool json, struct buffer *out, mu_error *err) {
  char socket[CONTROL_SOCKET_PATH_MAX];
  json_t *answer;
  mu_status status = control_find(options, socket, err);
  if (status == MU_OK) status = control_get_status(socket, &answer, err);
  if (status != MU_OK) return status;
  const json_t *mps = json_object_get(answer, "mps");
  char *text = json ? json_dumps(mps, JSON_COMPACT) : NULL;
  if (mps == NULL || (json && text == NULL)) {
    status = mu_fail(err, MU_INTERNAL, "the server says nothing about MPS");
  } else if (json) {
    buffer_puts(out, text);
    buffer_putc(out, '\n');
  } else {
    print_mps(out, mps);
  }
  free(text);
  json_decref(answer);
  return status;
}

static int run(int argc, char **argv) {
  struct options *options;
  struct buffer out;
  mu_error err;
  bool json = command_take_flag(&argc, argv, "--json");
  if (argc < 1 || strcmp(argv[0], "status") != 0)
    return command_fail(&command_mps, COMMAND_USAGE, "muster mps status is what there is");
  int exit_status = command_load_options(&command_mps, argc - 1, argv + 1, &options);
  if (exit_status != COMMAND_OK) return exit_status;
  buffer_init(&out, 16 << 20);
  mu_status status = print_answer(options, json, &out, &err);
  options_free(options);
  if (status == MU_OK) return command_output(&command_mps, &out);
  buffer_free(&out);
  return command_fail(&command_mps, COMMAND_FAILED, err.message);
}

const struct command command_mps = {
    .name = "mps",
    .usage = "muster mps status [--json] [--http-port N|--control-socket PATH]",
    .summary = "Print the MPS daemons of a running server, and which workers are their clients",
    .details =
        "The server is found as for muster status. One entry for each GPU that workers run on: the state of its\n"
        "daemon and since when, its process, how often it was started again, its servers and their clients.",
    .run = run};
