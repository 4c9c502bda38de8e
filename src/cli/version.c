#include "cli/command.h"

static int run(int argc, char **argv) {
  struct buffer out;
  if (argc > 0) return command_fail(&command_version, COMMAND_USAGE, "takes no arguments");
  buffer_init(&out, 256);
  buffer_puts(&out, "muster " MUSTER_VERSION "\n");
  return command_output(&command_version, &out);
}

const struct command command_version = {
    .name = "version", .usage = "muster version", .summary = "Print the version", .run = run};
