#include "cli/command.h"
#include "supervisor/supervisor.h"

static int run(int argc, char **argv) {
  struct options *options;
  int state = upgrade_take_state();
  int exit_status = command_load_options(&command_serve, argc, argv, &options);
  /* Why they cannot be read has been said. A server that is running does not end for it. */
  if (exit_status != COMMAND_OK && upgrade_former_options(state, &options) == MU_OK) exit_status = COMMAND_OK;
  if (exit_status != COMMAND_OK) return exit_status;
  if (options->models.n == 0) {
    options_free(options);
    return command_fail(&command_serve, COMMAND_USAGE,
                        "nothing to serve: name a model file or a model repository, see muster serve --help");
  }
  const struct log_settings log = options_log_settings(options);
  log_setup("supervisor", LOG_LEVEL_INFO, (enum log_format)options->log_format);
  log_apply(&log);
  for (size_t i = 0; i < options->warnings.n; i++) LOG_WARNING(options->warnings.items[i]);
  return supervisor_main(options, argc, argv, state);
}

const struct command command_serve = {
    .name = "serve",
    .usage = "muster serve [options] MODEL.onnx …|REPOSITORY …",
    .summary = "Serve models until SIGTERM, SIGINT or muster stop",
    .details =
        "A repository has the layout NAME/VERSION/model.onnx with an optional NAME/config.pbtxt, or is a folder\n"
        "of NAME.onnx files.",
    .has_options = true,
    .run = run};
