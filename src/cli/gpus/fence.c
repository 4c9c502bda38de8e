#include "cli/gpus/fence.h"

#include <ctype.h>
#include <stdio.h>

#include "cli/command.h"
#include "cli/control_client.h"

/* NAME=VALUE, percent-encoded. */
static void put_parameter(struct buffer *target, char separator, const char *name, const char *value) {
  buffer_print(target, "%c%s=", separator, name);
  for (; *value != '\0'; value++) {
    if (isalnum((unsigned char)*value))
      buffer_putc(target, *value);
    else
      buffer_print(target, "%%%02x", (unsigned)(unsigned char)*value);
  }
}

/* --reason TEXT or --reason=TEXT; NULL: it is not given. false: without a text. */
static bool take_reason(int *argc, char **argv, const char **ret_reason) {
  static const char flag[] = "--reason";
  const size_t length = sizeof flag - 1;
  for (int i = 0; i < *argc && strcmp(argv[i], "--") != 0; i++) {
    if (strncmp(argv[i], flag, length) != 0 || (argv[i][length] != '\0' && argv[i][length] != '=')) continue;
    int taken = argv[i][length] == '=' ? 1 : 2;
    if (i + taken > *argc || (taken == 2 && strncmp(argv[i + 1], "--", 2) == 0)) return false;
    *ret_reason = taken == 1 ? argv[i] + length + 1 : argv[i + 1];
    for (int k = i; k + taken <= *argc; k++) argv[k] = argv[k + taken]; /* the NULL behind them, too */
    *argc -= taken;
    return true;
  }
  return true;
}

static void print_answer(const struct buffer *answer, struct buffer *out) {
  json_t *json = json_loadb(answer->data, answer->size, 0, NULL);
  const char *reason = json_string_value(json_object_get(json, "reason"));
  buffer_print(out, "GPU %d (%s) is %s%s%s\n", (int)json_integer_value(json_object_get(json, "index")),
               json_string_value(json_object_get(json, "uuid")), json_string_value(json_object_get(json, "state")),
               reason != NULL && reason[0] != '\0' ? ": " : "", reason != NULL ? reason : "");
  json_decref(json);
}

static mu_status ask(const struct options *options, const char *target, struct buffer *out, mu_error *err) {
  char socket[CONTROL_SOCKET_PATH_MAX];
  struct buffer answer;
  mu_status status = control_find(options, socket, err);
  if (status != MU_OK) return status;
  buffer_init(&answer, 1 << 20);
  status = control_ask(socket, "POST", target, CONTROL_PROMPT_MS, &answer, err);
  if (status == MU_OK) print_answer(&answer, out);
  buffer_free(&answer);
  return status;
}

static int change(const char *path, int argc, char **argv) {
  const char *reason = NULL;
  struct options *options;
  struct buffer target, out;
  mu_error err;
  if (!take_reason(&argc, argv, &reason))
    return command_fail(&command_gpus, COMMAND_USAGE, "--reason: a text is wanted behind it");
  if (argc == 0 || argv[0][0] == '-')
    return command_fail(&command_gpus, COMMAND_USAGE, "which GPU? An index, INDEX:MIG or a UUID is wanted");
  int exit_status = command_load_options(&command_gpus, argc - 1, argv + 1, &options);
  if (exit_status != COMMAND_OK) return exit_status;
  buffer_init(&target, 8 << 10);
  buffer_init(&out, 8 << 10);
  buffer_puts(&target, path);
  put_parameter(&target, '?', "gpu", argv[0]);
  if (reason != NULL) put_parameter(&target, '&', "reason", reason);
  const char *text = buffer_text(&target);
  mu_status status =
      text != NULL ? ask(options, text, &out, &err) : mu_fail(&err, MU_TOO_LARGE, "the GPU or the reason is too long");
  options_free(options);
  buffer_free(&target);
  if (status == MU_OK) return command_output(&command_gpus, &out);
  buffer_free(&out);
  return command_fail(&command_gpus, COMMAND_FAILED, err.message);
}

int gpus_fence(int argc, char **argv) { return change("/gpus/fence", argc, argv); }
int gpus_unfence(int argc, char **argv) { return change("/gpus/unfence", argc, argv); }
