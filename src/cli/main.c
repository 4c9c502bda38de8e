/*
 * muster: the table of commands, and the door through which the supervisor starts its other processes (the same binary
 * with --role, the control socket as descriptor 3), or tries another binary (--role upgrade-check).
 */
#include "cli/command.h"
#include "fleet/fleet.h"
#include "gateway/gateway.h"
#include "mps/mps.h"
#include "worker/worker.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* One a line: */
/* clang-format off */
static const struct command *const commands[] = {
    &command_serve,
    &command_launch,
    &command_proxy,
    &command_plan,
    &command_bench,
    &command_gpus,
    &command_status,
    &command_top,
    &command_mps,
    &command_reload,
    &command_upgrade,
    &command_stop,
    &command_config,
    &command_version,
    &command_help,
};
/* clang-format on */
enum { N_COMMANDS = sizeof commands / sizeof *commands };

const struct command *const *command_table(size_t *ret_n) {
  *ret_n = N_COMMANDS;
  return commands;
}

const struct command *command_find(const char *name) {
  for (size_t i = 0; i < N_COMMANDS; i++)
    if (strcmp(commands[i]->name, name) == 0) return commands[i];
  return NULL;
}

/* ---- roles ------------------------------------------------------------------------------------------------------- */

enum { CONTROL_FD = 3 };
static const char role_log[] = "MUSTER_ROLE_LOG"; /* the supervisor's log settings: control/child.c */

static const struct {
  const char *name;
  int (*run)(int control);
} roles[] = {{"gateway", gateway_main}, {"worker", worker_main}, {"fleet", fleet_main}, {"mps", mps_main}};

static int refuse_role(const char *why) {
  fprintf(stderr, "muster: --role is for muster's own processes: %s\n", why);
  return COMMAND_USAGE;
}

/* ERROR:WARNING:INFO:VERBOSE LEVEL:ISO8601:FORMAT, numbers. */
static bool read_role_log(const char *text, struct log_settings *ret_settings, enum log_format *ret_format) {
  unsigned error, warning, info, verbose, iso8601, format;
  int end = 0;
  if (sscanf(text, "%u:%u:%u:%u:%u:%u%n", &error, &warning, &info, &verbose, &iso8601, &format, &end) != 6 ||
      text[end] != '\0' || error > 1 || warning > 1 || info > 1 || iso8601 > 1 || format > LOG_FORMAT_ISO8601)
    return false;
  *ret_settings = (struct log_settings){error, warning, info, verbose, iso8601};
  *ret_format = (enum log_format)format;
  return true;
}

static int run_role(int argc, char **argv) {
  if (argc > 0 && strcmp(argv[0], "upgrade-check") == 0) return upgrade_check(argc - 1, argv + 1);
  struct stat found;
  struct log_settings settings;
  enum log_format format;
  const char *log = getenv(role_log);
  if (fstat(CONTROL_FD, &found) != 0 || !S_ISSOCK(found.st_mode)) return refuse_role("descriptor 3 is no socket");
  if (log == NULL || !read_role_log(log, &settings, &format))
    return refuse_role("MUSTER_ROLE_LOG is not as it has to be");
  for (size_t i = 0; argc == 1 && i < sizeof roles / sizeof *roles; i++) {
    if (strcmp(roles[i].name, argv[0]) != 0) continue;
    log_setup(roles[i].name, LOG_LEVEL_INFO, format);
    log_apply(&settings);
    unsetenv(role_log);
    return roles[i].run(CONTROL_FD);
  }
  return refuse_role("the roles are gateway, worker, fleet and mps");
}

/* ---- commands ---------------------------------------------------------------------------------------------------- */

static int refuse_command(const char *name) {
  const char *names[N_COMMANDS];
  for (size_t i = 0; i < N_COMMANDS; i++) names[i] = commands[i]->name;
  const char *near = nearest_word(name, names, N_COMMANDS);
  if (near != NULL)
    fprintf(stderr, "muster: unknown command '%s': did you mean %s?\n", name, near);
  else if (access(name, F_OK) == 0)
    fprintf(stderr, "muster: unknown command '%s': did you mean muster serve %s?\n", name, name);
  else
    fprintf(stderr, "muster: unknown command '%s': see muster help\n", name);
  return COMMAND_USAGE;
}

static bool asks_for_help(int argc, char **argv) {
  for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
  return false;
}

/* The spellings that people try for commands. */
static const struct {
  const char *flag, *command;
} flags[] = {{"--help", "help"}, {"-h", "help"}, {"--version", "version"}, {"-V", "version"}};

/* Who is started with one of them closed would get a file of its own in its place, and write errors into it. */
static void open_standard_descriptors(void) {
  int fd = open("/dev/null", O_RDWR); /* the lowest that is free; not close-on-exec, as the real ones */
  while (fd >= 0 && fd <= STDERR_FILENO) fd = dup(fd);
  if (fd > STDERR_FILENO) close(fd);
}

int main(int argc, char **argv) {
  open_standard_descriptors();
  if (argc < 2) {
    fprintf(stderr, "muster: a command is missing: see muster help\n");
    return COMMAND_USAGE;
  }
  if (strcmp(argv[1], "--role") == 0) return run_role(argc - 2, argv + 2);
  const char *name = argv[1];
  for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
    if (strcmp(name, flags[i].flag) == 0) name = flags[i].command;
  const struct command *command = command_find(name);
  if (command == NULL) return refuse_command(name);
  if (asks_for_help(argc - 2, argv + 2)) return command_print_help(command);
  return command->run(argc - 2, argv + 2);
}
