#include "cli/command.h"

#include <stdio.h>

static int print_overview(void) {
  size_t n;
  const struct command *const *commands = command_table(&n);
  struct buffer out;
  buffer_init(&out, 1 << 16);
  buffer_puts(&out,
              "muster turns the GPUs and CPUs of a machine into one inference endpoint.\n\n"
              "  muster serve model.onnx        serve a model on http://localhost:8000\n"
              "  muster serve REPOSITORY        serve a Triton model repository\n\nCommands:\n");
  for (size_t i = 0; i < n; i++) buffer_print(&out, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
  buffer_puts(&out, "\nmuster COMMAND --help says more.\n");
  return command_output(&command_help, &out);
}

static int run(int argc, char **argv) {
  if (argc == 0) return print_overview();
  const struct command *command = command_find(argv[0]);
  if (argc == 1 && command != NULL) return command_print_help(command);
  char message[128];
  snprintf(message, sizeof message, "there is no command '%.64s': see muster help", argv[0]);
  return command_fail(&command_help, COMMAND_USAGE, argc == 1 ? message : "takes one command");
}

const struct command command_help = {
    .name = "help", .usage = "muster help [COMMAND]", .summary = "Print the commands, or all about one", .run = run};
