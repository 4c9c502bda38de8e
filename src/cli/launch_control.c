#include "cli/launch_control.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/command.h"
#include "cli/control_client.h"
#include "config/launch_settings.h"
#include "launch/launch.h"

enum { OUTPUT_MAX = 16 << 20, FOLDER_MAX = 4096, LINES = 200, GRACE_S = 15 };

/* What the commands are told; all borrowed from argv. */
struct request {
  const char *name, *state_dir, *group, *lines, *word; /* word: the one argument without a flag */
  bool json;
  char socket[FOLDER_MAX];
};

/* ---- arguments --------------------------------------------------------------------------------------------------- */

static const struct flag {
  const char *name;
  size_t field;
} flags[] = {{"--name", offsetof(struct request, name)},
             {"--state-dir", offsetof(struct request, state_dir)},
             {"--group", offsetof(struct request, group)},
             {"--lines", offsetof(struct request, lines)}};
enum { N_FLAGS = sizeof flags / sizeof *flags };

static mu_status read_arguments(int argc, char **argv, struct request *request, mu_error *err) {
  for (int i = 1; i < argc; i++) {
    size_t size = strcspn(argv[i], "="), k = 0;
    while (k < N_FLAGS && (strlen(flags[k].name) != size || memcmp(flags[k].name, argv[i], size) != 0)) k++;
    if (strcmp(argv[i], "--json") == 0) {
      request->json = true;
    } else if (k < N_FLAGS) {
      const char *value = argv[i][size] == '=' ? argv[i] + size + 1 : i + 1 < argc ? argv[++i] : NULL;
      if (value == NULL) return mu_fail(err, MU_INVALID, "%s needs a value", flags[k].name);
      *(const char **)(void *)((char *)request + flags[k].field) = value;
    } else if (argv[i][0] == '-') {
      return mu_fail(err, MU_INVALID, "unknown flag %.100s: see muster launch --help", argv[i]);
    } else if (request->word != NULL) {
      return mu_fail(err, MU_INVALID, "what is '%.100s'? See muster launch --help", argv[i]);
    } else {
      request->word = argv[i];
    }
  }
  return MU_OK;
}

static mu_status find_socket(struct request *request, mu_error *err) {
  const struct launch_settings settings = {.name = request->name != NULL ? request->name : "default",
                                           .state_dir = request->state_dir != NULL ? request->state_dir : ""};
  char folder[FOLDER_MAX];
  mu_status status = launch_state_folder(&settings, folder, sizeof folder, err);
  if (status != MU_OK) return status;
  int n = snprintf(request->socket, sizeof request->socket, "%s/" LAUNCH_SOCKET_NAME, folder);
  if (n < 0 || n >= CONTROL_SOCKET_PATH_MAX)
    return mu_fail(err, MU_INVALID, "the path of the control socket is longer than %d bytes: %.300s",
                   CONTROL_SOCKET_PATH_MAX - 1, request->socket);
  return MU_OK;
}

/* A name or a number that can stand in a query as it is. */
static bool is_plain(const char *text) {
  for (; *text != '\0'; text++)
    if (!isalnum((unsigned char)*text) && strchr("._-/", *text) == NULL) return false;
  return true;
}

/* ---- asking ------------------------------------------------------------------------------------------------------ */

static mu_status ask(const struct request *request, const char *target, struct buffer *out, mu_error *err) {
  struct buffer body;
  buffer_init(&body, OUTPUT_MAX);
  mu_status status = control_ask(request->socket, "POST", target, CONTROL_PATIENT_MS, &body, err);
  buffer_free(&body);
  return status;
}

static const char *text_of(const json_t *object, const char *key) {
  const char *text = json_string_value(json_object_get(object, key));
  return text != NULL ? text : "";
}

static void print_service(const json_t *service, struct buffer *out) {
  const json_t *pid = json_object_get(service, "pid"), *port = json_object_get(service, "port");
  char pid_text[24] = "-", port_text[24] = "-";
  const char *gpu = text_of(service, "gpu"), *reason = text_of(service, "reason");
  if (json_is_integer(pid)) snprintf(pid_text, sizeof pid_text, "%" JSON_INTEGER_FORMAT, json_integer_value(pid));
  if (json_is_integer(port)) snprintf(port_text, sizeof port_text, "%" JSON_INTEGER_FORMAT, json_integer_value(port));
  buffer_print(out, "%-24s %-9s %8s %6s %-6.40s %8" JSON_INTEGER_FORMAT "  %s\n", text_of(service, "id"),
               text_of(service, "state"), pid_text, port_text, gpu[0] != '\0' ? gpu : "-",
               json_integer_value(json_object_get(service, "restarts")), reason);
}

/* Where it is off because nobody shares the GPU there is nothing to say. */
static void print_mps(const json_t *mps, struct buffer *out) {
  const char *error = text_of(mps, "error"), *state = text_of(mps, "state");
  const json_t *daemon = json_object_get(mps, "daemon");
  if (strcmp(state, "off") == 0 && error[0] == '\0') return;
  buffer_print(out, "MPS on GPU %s: %s", text_of(mps, "gpu"), state);
  if (json_is_integer(daemon))
    buffer_print(out, ", daemon %" JSON_INTEGER_FORMAT ", restarts %" JSON_INTEGER_FORMAT ", %s",
                 json_integer_value(daemon), json_integer_value(json_object_get(mps, "restarts")),
                 text_of(mps, "folder"));
  buffer_print(out, "%s%s\n", error[0] != '\0' ? ": " : "", error);
}

static void print_gpu(const json_t *gpu, struct buffer *out) {
  if (text_of(gpu, "fault")[0] != '\0') buffer_print(out, "%s\n", text_of(gpu, "fault"));
}

static mu_status show_status(struct request *request, struct buffer *out, mu_error *err) {
  json_t *document;
  mu_status status = control_get_status(request->socket, &document, err);
  if (status != MU_OK) return status;
  if (request->json) {
    char *text = json_dumps(document, JSON_INDENT(2));
    buffer_print(out, "%s\n", text != NULL ? text : "{}");
    free(text);
  } else {
    size_t i;
    const json_t *service, *mps, *gpu;
    buffer_print(out, "%s, pid %" JSON_INTEGER_FORMAT ", %s\n%-24s %-9s %8s %6s %-6s %8s  %s\n",
                 text_of(document, "state"), json_integer_value(json_object_get(document, "pid")),
                 text_of(document, "state_folder"), "service", "state", "pid", "port", "gpu", "restarts", "reason");
    json_array_foreach(json_object_get(document, "services"), i, service) print_service(service, out);
    json_array_foreach(json_object_get(document, "mps"), i, mps) print_mps(mps, out);
    json_array_foreach(json_object_get(document, "gpus"), i, gpu) print_gpu(gpu, out);
  }
  json_decref(document);
  return MU_OK;
}

static mu_status stop(struct request *request, struct buffer *out, mu_error *err) {
  json_t *document;
  mu_status status = control_get_status(request->socket, &document, err);
  if (status != MU_OK) return status;
  json_int_t pid = json_integer_value(json_object_get(document, "pid"));
  double seconds = json_number_value(json_object_get(document, "stop_timeout_s")) + GRACE_S;
  json_decref(document);
  if (pid <= 0 || pid > INT32_MAX) return mu_fail(err, MU_INTERNAL, "the launch does not say its process number");
  status = control_stop_and_wait(request->socket, (int)pid, (int)seconds, err);
  if (status == MU_OK) buffer_print(out, "The launch (pid %d) has stopped.\n", (int)pid);
  return status;
}

static mu_status restart(struct request *request, struct buffer *out, mu_error *err) {
  char target[256];
  if (request->word == NULL || !is_plain(request->word) || strlen(request->word) > 100)
    return mu_fail(err, MU_INVALID, "which service? muster launch restart [GROUP/]INDEX");
  snprintf(target, sizeof target, "/restart?id=%s", request->word);
  mu_status status = ask(request, target, out, err);
  if (status == MU_OK) buffer_print(out, "%s has been restarted and is ready.\n", request->word);
  return status;
}

/* "&group=NAME" into text. */
static mu_status put_group(const struct request *request, char *text, size_t size, mu_error *err) {
  text[0] = '\0';
  if (request->group == NULL) return MU_OK;
  if (!is_plain(request->group) || strlen(request->group) > 64)
    return mu_fail(err, MU_INVALID, "there is no group '%.80s'", request->group);
  snprintf(text, size, "&group=%s", request->group);
  return MU_OK;
}

static mu_status rolling_restart(struct request *request, struct buffer *out, mu_error *err) {
  char target[256], group[128];
  if (request->word != NULL)
    return mu_fail(err, MU_INVALID, "muster launch rolling-restart [--group NAME] restarts all of them");
  mu_status status = put_group(request, group, sizeof group, err);
  if (status != MU_OK) return status;
  snprintf(target, sizeof target, "/rolling-restart?%s", group);
  status = ask(request, target, out, err);
  if (status == MU_OK) buffer_puts(out, "All have been restarted, one after the other, and are ready.\n");
  return status;
}

static mu_status scale(struct request *request, struct buffer *out, mu_error *err) {
  char target[256], group[128];
  if (request->word == NULL || strspn(request->word, "0123456789") != strlen(request->word) ||
      strlen(request->word) > 6)
    return mu_fail(err, MU_INVALID, "how many? muster launch scale N");
  mu_status status = put_group(request, group, sizeof group, err);
  if (status != MU_OK) return status;
  snprintf(target, sizeof target, "/scale?n=%s%s", request->word, group);
  status = ask(request, target, out, err);
  if (status == MU_OK) buffer_print(out, "%s services are ready.\n", request->word);
  return status;
}

/* ---- logs -------------------------------------------------------------------------------------------------------- */

/* The last lines of the file, of its last megabyte. */
static mu_status print_tail(const char *path, size_t lines, struct buffer *out, mu_error *err) {
  enum { TAIL_MAX = 1 << 20 };
  FILE *file = fopen(path, "re");
  if (file == NULL) return mu_fail(err, MU_IO, "cannot open %.300s: %s", path, strerror(errno));
  char *text = malloc(TAIL_MAX);
  size_t n = 0;
  if (text != NULL && fseek(file, 0, SEEK_END) == 0) {
    long size = ftell(file);
    if (fseek(file, size > TAIL_MAX ? size - TAIL_MAX : 0, SEEK_SET) == 0) n = fread(text, 1, TAIL_MAX, file);
  }
  fclose(file);
  if (text == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the log");
  size_t from = n, found = 0;
  while (from > 0 && (from == n || text[from - 1] != '\n' || ++found < lines)) from--;
  buffer_append(out, text + from, n - from);
  free(text);
  return MU_OK;
}

static mu_status logs(struct request *request, struct buffer *out, mu_error *err) {
  json_t *document;
  const json_t *service;
  size_t i;
  char id[128];
  char *end = NULL;
  long lines = request->lines != NULL ? strtol(request->lines, &end, 10) : LINES;
  if (request->word == NULL) return mu_fail(err, MU_INVALID, "which service? muster launch logs [GROUP/]INDEX");
  if (lines < 1 || (end != NULL && *end != '\0')) return mu_fail(err, MU_INVALID, "--lines is a number from 1 on");
  mu_status status = control_get_status(request->socket, &document, err);
  if (status != MU_OK) return status;
  status = mu_fail(err, MU_NOT_FOUND, "there is no service %.100s", request->word);
  json_array_foreach(json_object_get(document, "services"), i, service) {
    snprintf(id, sizeof id, "%s/%.60s", text_of(service, "group"), request->word);
    if (strcmp(text_of(service, "id"), request->word) != 0 && strcmp(text_of(service, "id"), id) != 0) continue;
    status = print_tail(text_of(service, "log"), (size_t)lines, out, err);
    break;
  }
  json_decref(document);
  return status;
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

static const struct {
  const char *name;
  mu_status (*run)(struct request *request, struct buffer *out, mu_error *err);
} commands[] = {{"status", show_status}, {"stop", stop}, {"restart", restart}, {"rolling-restart", rolling_restart},
                {"scale", scale},        {"logs", logs}};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static int refuse(const char *name) {
  char message[256];
  const char *names[N_COMMANDS];
  for (size_t i = 0; i < N_COMMANDS; i++) names[i] = commands[i].name;
  const char *near = nearest_word(name, names, N_COMMANDS);
  snprintf(message, sizeof message, "'%.80s'? %s%s%s", name,
           near != NULL ? "Did you mean " : "A command comes behind --",
           near != NULL ? near : ", see muster launch --help", near != NULL ? "?" : "");
  return command_fail(&command_launch, COMMAND_USAGE, message);
}

int launch_control_run(int argc, char **argv) {
  struct request request = {0};
  struct buffer out;
  mu_error err;
  size_t i = 0;
  while (i < N_COMMANDS && strcmp(commands[i].name, argv[0]) != 0) i++;
  if (i == N_COMMANDS) return refuse(argv[0]);
  mu_status status = read_arguments(argc, argv, &request, &err);
  if (status == MU_OK) status = find_socket(&request, &err);
  if (status != MU_OK) return command_fail(&command_launch, COMMAND_USAGE, err.message);
  buffer_init(&out, OUTPUT_MAX);
  status = commands[i].run(&request, &out, &err);
  if (status == MU_OK) return command_output(&command_launch, &out);
  buffer_free(&out);
  return command_fail(&command_launch, status == MU_INVALID ? COMMAND_USAGE : COMMAND_FAILED, err.message);
}
