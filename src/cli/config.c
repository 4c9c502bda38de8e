#include "cli/command.h"

#include <stdio.h>

static int print(const struct options *options, bool json) {
  struct buffer out;
  buffer_init(&out, 16 << 20);
  mu_status status = json ? options_print_json(options, &out) : options_print(options, &out);
  if (status != MU_OK) out.failed = true;
  for (size_t i = 0; i < options->warnings.n; i++)
    fprintf(stderr, "muster config: warning: %s\n", options->warnings.items[i]);
  return command_output(&command_config, &out);
}

static int print_reference(int argc) {
  struct buffer out;
  if (argc > 0) return command_fail(&command_config, COMMAND_USAGE, "--reference takes no other argument");
  buffer_init(&out, 1 << 20);
  if (options_print_reference(&out) != MU_OK) out.failed = true;
  return command_output(&command_config, &out);
}

static int run(int argc, char **argv) {
  struct options *options;
  if (command_take_flag(&argc, argv, "--reference")) return print_reference(argc);
  bool json = command_take_flag(&argc, argv, "--json");
  int exit_status = command_load_options(&command_config, argc, argv, &options);
  if (exit_status != COMMAND_OK) return exit_status;
  exit_status = print(options, json);
  options_free(options);
  return exit_status;
}

const struct command command_config = {
    .name = "config",
    .usage = "muster config [--json|--reference] [options of muster serve]",
    .summary = "Print every effective setting and where it comes from",
    .details =
        "The output can be saved as muster.yaml. --json prints JSON with sizes in bytes and times in seconds,\n"
        "--reference the page about all options (Markdown).",
    .has_options = true,
    .run = run};
