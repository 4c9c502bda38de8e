#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/command.h"
#include "cli/gpus/fence.h"
#include "cli/gpus/print.h"
#include "cli/gpus/reader.h"

/* ---- muster gpus list -------------------------------------------------------------------------------------------- */

struct request {
  bool json, topology, watch;
  double seconds; /* between two readings */
};

static void print_inventory(const struct request *request, const struct gpu_inventory *inventory, struct buffer *out) {
  if (request->json)
    gpus_print_json(inventory, request->watch ? JSON_COMPACT : JSON_INDENT(2), out);
  else if (request->topology)
    gpus_print_topology(inventory, out);
  else
    gpus_print_table(inventory, out);
}

/* Until Ctrl-C, which ends this process and its child at once. */
static void pause_watching(const struct request *request) {
  double whole;
  double part = modf(request->seconds, &whole);
  struct timespec rest = {(time_t)whole, (long)(part * 1e9)};
  while (nanosleep(&rest, &rest) != 0 && errno == EINTR) continue;
}

static void fit_to_screen(struct buffer *out) {
  struct winsize size; /* asked each time: windows change it */
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0) size = (struct winsize){0};
  gpus_print_screen(out, size.ws_row, size.ws_col);
}

static int show(const struct request *request, struct gpus_reader *reader, uint64_t timeout_ns,
                struct gpu_inventory *inventory) {
  bool screen = request->watch && !request->json && isatty(STDOUT_FILENO);
  for (bool first = true;; first = false) {
    struct buffer out;
    mu_error err;
    if (gpus_reader_read(reader, timeout_ns, inventory, &err) != MU_OK)
      return command_fail(&command_gpus, COMMAND_FAILED, err.message);
    buffer_init(&out, 16 << 20);
    if (!screen && !first && !request->json) buffer_putc(&out, '\n');
    print_inventory(request, inventory, &out);
    if (screen) fit_to_screen(&out);
    int exit_status = command_output(&command_gpus, &out);
    if (exit_status != COMMAND_OK || !request->watch) return exit_status;
    pause_watching(request);
  }
}

/* --watch or --watch=SECONDS */
static bool take_watch(int *argc, char **argv, struct request *request, const char **ret_wrong) {
  static const char flag[] = "--watch";
  char *end;
  for (int i = 0; i < *argc && strcmp(argv[i], "--") != 0; i++) {
    if (strncmp(argv[i], flag, sizeof flag - 1) != 0) continue;
    const char *value = argv[i] + sizeof flag - 1;
    if (*value != '\0' && *value != '=') continue;
    request->watch = true;
    if (*value == '=') {
      request->seconds = strtod(value + 1, &end);
      if (end == value + 1 || *end != '\0' || !(request->seconds >= 0.1 && request->seconds <= 86400)) {
        *ret_wrong = argv[i];
        return false;
      }
    }
    command_take_flag(argc, argv, argv[i]);
    i--;
  }
  return true;
}

static int list(int argc, char **argv) {
  struct request request = {.seconds = 2};
  struct options *options;
  const char *wrong = NULL;
  char message[256];
  mu_error err;
  if (!take_watch(&argc, argv, &request, &wrong)) {
    snprintf(message, sizeof message, "%.100s: seconds from 0.1 to 86400 are wanted", wrong);
    return command_fail(&command_gpus, COMMAND_USAGE, message);
  }
  request.json = command_take_flag(&argc, argv, "--json");
  request.topology = command_take_flag(&argc, argv, "--topology");
  if (request.json && request.topology)
    return command_fail(&command_gpus, COMMAND_USAGE, "--json has the topology in it: leave --topology out");
  int exit_status = command_load_options(&command_gpus, argc, argv, &options);
  if (exit_status != COMMAND_OK) return exit_status;
  struct gpus_reader *reader = NULL;
  struct gpu_inventory *inventory = calloc(1, sizeof *inventory);
  mu_status status = inventory != NULL ? gpus_reader_create(options->nvml_library, &reader, &err)
                                       : mu_fail(&err, MU_NO_MEMORY, "no memory");
  exit_status = status == MU_OK ? show(&request, reader, (uint64_t)options->nvml_timeout_ns, inventory)
                                : command_fail(&command_gpus, COMMAND_FAILED, err.message);
  gpus_reader_free(reader);
  free(inventory);
  options_free(options);
  return exit_status;
}

/* ---- the command ------------------------------------------------------------------------------------------------- */

/* The first is done where none is named. argv[0] is the first argument behind the name. */
static const struct {
  const char *name;
  int (*run)(int argc, char **argv);
} subcommands[] = {
    {"list", list},
    {"fence", gpus_fence},
    {"unfence", gpus_unfence},
};

static int run(int argc, char **argv) {
  char message[128];
  if (argc == 0 || argv[0][0] == '-') return subcommands[0].run(argc, argv);
  for (size_t i = 0; i < sizeof subcommands / sizeof *subcommands; i++)
    if (strcmp(argv[0], subcommands[i].name) == 0) return subcommands[i].run(argc - 1, argv + 1);
  snprintf(message, sizeof message, "there is no '%.64s': see muster gpus --help", argv[0]);
  return command_fail(&command_gpus, COMMAND_USAGE, message);
}

const struct command command_gpus = {
    .name = "gpus",
    .usage =
        "muster gpus [list] [--json|--topology] [--watch[=SECONDS]] [--nvml-library FILE] [--nvml-timeout TIME]\n"
        "       muster gpus fence GPU [--reason TEXT]\n"
        "       muster gpus unfence GPU",
    .summary = "Print the GPUs of this machine, what they do, and how they are connected; fence them",
    .details =
        "Asks the driver (NVML) itself, whether a server runs or not, and changes nothing.\n\n"
        "  --topology      how each GPU reaches each other one, and the CPU cores next to it\n"
        "  --json          everything as JSON; what is not known is null\n"
        "  --watch         again every 2 seconds, or as many as it says, until Ctrl-C; with --json one line each\n"
        "  --nvml-library  libnvidia-ml.so.1 of another place, as for muster serve\n"
        "  --nvml-timeout  how long NVML may take to answer (10s): on a lost GPU it never does\n\n"
        "fence takes a GPU (0, 0:1 for a MIG device, or its UUID) out of a running server: what its workers have in\n"
        "hand ends, their work goes to other GPUs. unfence puts it back, also after a fault that the server fenced it\n"
        "for. The server is found as by muster status (--http-port, --control-socket).\n\n"
        "A dash stands for what the driver does not say. Exit status 1 where there is no NVML, or no answer.",
    .run = run};
