/*
 * The commands of `muster`: one file each, which exports a constant struct command; main.c has the table of them.
 * A command runs in the process's only thread; what it returns is the exit status.
 */
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

#include "base/buffer.h"
#include "config/options.h"

enum { COMMAND_OK = 0, COMMAND_FAILED = 1, COMMAND_USAGE = 2 };

struct command {
  const char *name;                        /* "serve" */
  const char *usage;                       /* "muster serve [options] MODEL.onnx …|REPOSITORY" */
  const char *summary;                     /* one line */
  const char *details;                     /* further text of --help; NULL: none */
  void (*print_flags)(struct buffer *out); /* a command's own options behind that; NULL: none */
  bool has_options;                        /* --help goes on with the options of the option table */
  /* argv[0] is the first argument behind the command's name; argv[argc] is NULL. --help has been dealt with. */
  int (*run)(int argc, char **argv);
};

extern const struct command command_serve;
extern const struct command command_launch;
extern const struct command command_plan;
extern const struct command command_config;
extern const struct command command_status;
extern const struct command command_reload;
extern const struct command command_upgrade;
extern const struct command command_stop;
extern const struct command command_version;
extern const struct command command_help;
extern const struct command command_bench;
extern const struct command command_top;
extern const struct command command_gpus;
extern const struct command command_proxy;
extern const struct command command_mps;

/* The table, in the order of `muster help`. */
const struct command *const *command_table(size_t *ret_n);
/* NULL: there is none of that name. */
const struct command *command_find(const char *name);

/* Writes out to standard output and frees it; COMMAND_OK, or COMMAND_FAILED with a message when out had failed or
 * cannot be written. */
int command_output(const struct command *command, struct buffer *out);

/* "muster NAME: message" on standard error; returns exit_status. */
int command_fail(const struct command *command, int exit_status, const char *message);

/* options_load with the environment of the process; a failure is told. COMMAND_OK or the exit status. */
int command_load_options(const struct command *command, int argc, char **argv, struct options **ret_options);

/* Removes flag from argv (before "--"); was it there? */
bool command_take_flag(int *argc, char **argv, const char *flag);

/* upgrade.c: the role in which the supervisor tries a binary before it becomes that; argv: of `muster serve`, the
 * server's state is descriptor 3. Returns the exit status. */
int upgrade_check(int argc, char **argv);

/* --help of one command. */
int command_print_help(const struct command *command);

#endif
