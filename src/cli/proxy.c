#include "cli/command.h"

#include "base/log.h"
#include "proxy/proxy.h"

#include <stdio.h>

static int run(int argc, char **argv) {
  struct proxy_settings settings;
  mu_error err;
  mu_status status = proxy_settings_load(argc, argv, &settings, &err);
  if (status != MU_OK)
    return command_fail(&command_proxy, status == MU_NO_MEMORY ? COMMAND_FAILED : COMMAND_USAGE, err.message);
  log_setup("proxy", LOG_LEVEL_INFO, LOG_FORMAT_AUTO);
  int exit_status = settings.opaque ? proxy_run_opaque(&settings, argc, argv) : proxy_run(&settings);
  proxy_settings_free(&settings);
  return exit_status;
}

const struct command command_proxy = {
    .name = "proxy",
    .usage = "muster proxy --backends host:50051-50098,… [options]",
    .summary = "One endpoint in front of servers that muster did not write",
    .details =
        "Passes on gRPC calls of every kind and HTTP requests as they are, and bridges WebSocket clients\n"
        "(/ws?method=/package.Service/Method) to gRPC. The backend with the least outstanding work gets\n"
        "the next request; what fails before its answer has begun goes to another one. /health and\n"
        "/metrics are the proxy's own. docs/proxy.md has the rest.",
    .print_flags = proxy_settings_print_help,
    .run = run};
