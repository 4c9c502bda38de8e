#include "cli/command.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

enum { OUTPUT_MAX = 16 << 20 };

int command_fail(const struct command *command, int exit_status, const char *message) {
  fprintf(stderr, "muster %s: %s\n", command->name, message);
  return exit_status;
}

int command_output(const struct command *command, struct buffer *out) {
  int exit_status = COMMAND_OK;
  if (out->failed)
    exit_status = command_fail(command, COMMAND_FAILED, "no memory for the output");
  else if ((out->size > 0 && fwrite(out->data, 1, out->size, stdout) != out->size) || fflush(stdout) != 0)
    exit_status = command_fail(command, COMMAND_FAILED, strerror(errno));
  buffer_free(out);
  return exit_status;
}

int command_load_options(const struct command *command, int argc, char **argv, struct options **ret_options) {
  mu_error err;
  mu_status status = options_load(argc, argv, environ, ret_options, &err);
  if (status == MU_OK) return COMMAND_OK;
  return command_fail(command, status == MU_INVALID || status == MU_NOT_FOUND ? COMMAND_USAGE : COMMAND_FAILED,
                      err.message);
}

bool command_take_flag(int *argc, char **argv, const char *flag) {
  for (int i = 0; i < *argc && strcmp(argv[i], "--") != 0; i++) {
    if (strcmp(argv[i], flag) != 0) continue;
    memmove(&argv[i], &argv[i + 1], (size_t)(*argc - i) * sizeof *argv); /* with the NULL at the end */
    --*argc;
    return true;
  }
  return false;
}

int command_print_help(const struct command *command) {
  struct buffer out;
  buffer_init(&out, OUTPUT_MAX);
  buffer_print(&out, "Usage: %s\n\n%s.\n", command->usage, command->summary);
  if (command->details != NULL) buffer_print(&out, "\n%s\n", command->details);
  if (command->print_flags != NULL) {
    buffer_putc(&out, '\n');
    command->print_flags(&out);
  }
  if (command->has_options) {
    buffer_putc(&out, '\n');
    if (options_print_help(&out) != MU_OK) out.failed = true;
  }
  return command_output(command, &out);
}
