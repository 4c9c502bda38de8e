/* muster launch: starting. What speaks to a launch that runs is in launch_control.c. */
#include "launch/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cli/command.h"
#include "cli/gpus/reader.h"
#include "cli/launch_control.h"

enum { NVML_S = 10, FOLDER_MAX = 4096, OUTPUT_MAX = 16 << 20 };

/* Where the summary goes. In the background that is a pipe to the process that the user has started, which shows it and
 * leaves: one of these first, then the text. */
enum settled { SETTLED_ALL = 'a', SETTLED_PART = 'p' };

struct reporter {
  int fd;
  const char *log; /* in the background: what is said from then on; NULL: in the foreground */
};

/* ---- in the background: the process that stays ------------------------------------------------------------------- */

/* Standard error was the user's until all was settled, for what goes wrong before. */
static void log_to_file(const char *path) {
  int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
  if (fd < 0) fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (fd < 0 || dup2(fd, STDERR_FILENO) < 0) LOG_ERROR("cannot write the log", LOG_STR("file", path));
  if (fd >= 0) close(fd);
}

static void on_settled(void *context, bool all, const char *summary) {
  struct reporter *reporter = context;
  const char first = all ? SETTLED_ALL : SETTLED_PART;
  bool written = (reporter->log == NULL || write(reporter->fd, &first, 1) == 1) &&
                 write(reporter->fd, summary, strlen(summary)) >= 0;
  if (!written) LOG_WARNING("nobody reads the summary", LOG_STR("error", strerror(errno)));
  if (reporter->log == NULL) return;
  close(reporter->fd);
  log_to_file(reporter->log);
}

/* Where NVML is not there or does not answer the inventory says why, and has no GPUs: names may do without it. */
static mu_status look_at_gpus(struct gpu_inventory *inventory, mu_error *err) {
  struct gpus_reader *reader = NULL;
  mu_error why;
  mu_status status = gpus_reader_create("", &reader, err);
  if (status != MU_OK) return status;
  status = gpus_reader_read(reader, NVML_S * NS_PER_S, inventory, &why);
  gpus_reader_free(reader);
  if (status == MU_OK) return MU_OK;
  if (status == MU_NO_MEMORY) return mu_fail(err, status, "%s", why.message);
  *inventory = (struct gpu_inventory){.cuda = GPU_UNKNOWN};
  snprintf(inventory->error, sizeof inventory->error, "%.*s", (int)sizeof inventory->error - 1, why.message);
  return MU_OK;
}

/* NVML is asked only where somebody wants GPUs. */
static mu_status make_plan(const struct launch_settings *settings, struct plan **ret_plan, mu_error *err) {
  bool wanted = false;
  for (size_t i = 0; i < settings->n_groups; i++)
    wanted = wanted || (settings->groups[i].gpus[0] != '\0' && strcmp(settings->groups[i].gpus, "none") != 0);
  if (!wanted) return plan_create(settings, NULL, ret_plan, err);
  struct gpu_inventory *inventory = calloc(1, sizeof *inventory);
  if (inventory == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the list of GPUs");
  mu_status status = look_at_gpus(inventory, err);
  if (status == MU_OK) status = plan_create(settings, inventory, ret_plan, err);
  free(inventory);
  return status;
}

static mu_status start(struct launch_settings *settings, const char *folder, struct reporter *reporter, bool *ret_well,
                       mu_error *err) {
  struct plan *plan;
  struct launch *launch;
  const struct launch_report report = {.settled = on_settled, .context = reporter};
  mu_status status = make_plan(settings, &plan, err);
  if (status != MU_OK) return status;
  status = launch_create(plan, folder, &report, &launch, err);
  if (status == MU_OK) {
    *ret_well = launch_run(launch);
    launch_free(launch);
  }
  plan_free(plan);
  return status;
}

static int stay(struct launch_settings *settings, const char *folder, struct reporter *reporter) {
  mu_error err;
  bool well;
  mu_status status = start(settings, folder, reporter, &well, &err);
  if (status == MU_OK) return well ? COMMAND_OK : COMMAND_FAILED;
  return command_fail(&command_launch, status == MU_INVALID || status == MU_NOT_FOUND ? COMMAND_USAGE : COMMAND_FAILED,
                      err.message);
}

/* ---- in the background: the process that the user has started -----------------------------------------------------
 */

static int wait_settled(int fd, pid_t child) {
  struct buffer text;
  ssize_t got = 1;
  int state;
  buffer_init(&text, OUTPUT_MAX);
  while (got > 0 && buffer_reserve(&text, 4096) == MU_OK) {
    got = read(fd, text.data + text.size, 4096);
    if (got > 0) text.size += (size_t)got;
    if (got < 0 && errno == EINTR) got = 1;
  }
  if (text.size == 0) { /* it has ended, and has said why */
    buffer_free(&text);
    return waitpid(child, &state, 0) == child && WIFEXITED(state) ? WEXITSTATUS(state) : COMMAND_FAILED;
  }
  bool all = text.data[0] == SETTLED_ALL;
  buffer_consume(&text, 1);
  int exit_status = command_output(&command_launch, &text);
  return exit_status == COMMAND_OK && !all ? COMMAND_FAILED : exit_status;
}

/* In the child: away from the terminal. */
static bool leave_terminal(void) {
  int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
  return nothing >= 0 && setsid() >= 0 && dup2(nothing, STDIN_FILENO) >= 0 && dup2(nothing, STDOUT_FILENO) >= 0;
}

static int detach(struct launch_settings *settings, const char *folder) {
  char log[FOLDER_MAX + 32];
  int ends[2];
  snprintf(log, sizeof log, "%s/launch.log", folder);
  if (pipe2(ends, O_CLOEXEC) != 0) return command_fail(&command_launch, COMMAND_FAILED, strerror(errno));
  pid_t child = fork();
  if (child < 0) return command_fail(&command_launch, COMMAND_FAILED, strerror(errno));
  if (child > 0) {
    close(ends[1]);
    int exit_status = wait_settled(ends[0], child);
    close(ends[0]);
    return exit_status;
  }
  close(ends[0]);
  struct reporter reporter = {.fd = ends[1], .log = log};
  if (!leave_terminal()) return command_fail(&command_launch, COMMAND_FAILED, strerror(errno));
  return stay(settings, folder, &reporter);
}

/* ---- the command ------------------------------------------------------------------------------------------------- */

static int launch(int argc, char **argv) {
  struct launch_settings *settings;
  mu_error err;
  char folder[FOLDER_MAX];
  mu_status status = launch_settings_load(argc, argv, &settings, &err);
  if (status != MU_OK) return command_fail(&command_launch, COMMAND_USAGE, err.message);
  log_setup("launch", LOG_LEVEL_INFO, LOG_FORMAT_AUTO);
  status = launch_state_folder(settings, folder, sizeof folder, &err);
  struct reporter reporter = {.fd = STDOUT_FILENO};
  int exit_status = status != MU_OK    ? command_fail(&command_launch, COMMAND_USAGE, err.message)
                    : settings->detach ? detach(settings, folder)
                                       : stay(settings, folder, &reporter);
  launch_settings_free(settings);
  return exit_status;
}

static int run(int argc, char **argv) {
  if (argc > 0 && argv[0][0] != '-') return launch_control_run(argc, argv);
  return launch(argc, argv);
}

static void print_flags(struct buffer *out) {
  if (launch_settings_print_help(out) != MU_OK) out->failed = true;
}

const struct command command_launch = {
    .name = "launch",
    .usage =
        "muster launch [options] -- COMMAND [ARGUMENT …]\n"
        "       muster launch [--config FILE]\n"
        "       muster launch status|stop|restart|scale|rolling-restart|logs [--name NAME|--state-dir DIR] …",
    .summary = "Start and guard servers that muster did not write",
    .details =
        "Each service gets a port and a GPU of its own. In the command, in --env and in cmd: of --ready stand\n"
        "{port}, {gpu} (as named), {uuid}, {index} (0, 1 …) and {name}; the environment has PORT, MUSTER_GPU,\n"
        "MUSTER_INDEX, MUSTER_SERVICE and CUDA_VISIBLE_DEVICES. Without a command the list launch: of muster.yaml\n"
        "says what to start: a group of these options each (per_gpu for --per-gpu), its command: a list of words.\n"
        "It runs until it is told to stop, and takes all processes of its services with it. docs/launch.md.\n\n"
        "  status [--json]                 what runs\n"
        "  stop                            end all, and the launch\n"
        "  restart [GROUP/]INDEX           one service; returns when it is ready\n"
        "  rolling-restart [--group NAME]  one after the other, the next when the one before is ready\n"
        "  scale N [--group NAME]          so many services; returns when they are ready\n"
        "  logs [GROUP/]INDEX [--lines N]  the end of its log (200 lines)\n\nOptions:",
    .print_flags = print_flags,
    .run = run};
