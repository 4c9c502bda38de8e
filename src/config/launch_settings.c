/* The flags of `muster launch`: one table for the groups (also the keys of `launch:`), one for the whole. */
#include "config/launch_settings.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "config/control_socket.h"
#include "config/launch_table.h"

#define SECOND ((int64_t)NS_PER_S)
#define DAY (86400 * SECOND)
#define TIME(member, most_ns, text)                                                                             \
  .type = OPTION_DURATION, .offset = offsetof(struct launch_group, member), .min = NS_PER_MS, .max = (most_ns), \
  .scale = 1, .unit = SECOND, .initial = (text)
#define TEXT(type_name, member, text) \
  .type = OPTION_STRING, .offset = offsetof(struct type_name, member), .initial = (text)

static const struct option_word restarts[] = {
    {"always", LAUNCH_RESTART_ALWAYS}, {"on-failure", LAUNCH_RESTART_ON_FAILURE}, {"never", LAUNCH_RESTART_NEVER}, {0}};
static const struct option_word mps_modes[] = {
    {"auto", MPS_MODE_AUTO}, {"on", MPS_MODE_ON}, {"off", MPS_MODE_OFF}, {0}};
static const struct option_word zero_is_none[] = {{"none", 0}, {0}};
static const struct option_word zero_is_auto[] = {{"auto", 0}, {0}};
static const struct option_word zero_is_all[] = {{"all", 0}, {0}};

/* reloadable: so that --help says nothing of reloads, which are no matter here */
static const struct option_row group_rows[] = {
    {"name", .reloadable = true, .placeholder = "NAME", TEXT(launch_group, name, ""),
     .help = "What the services are called: NAME/0, NAME/1 … Without it the command's name."},
    {"gpus", .reloadable = true, .placeholder = "LIST", TEXT(launch_group, gpus, ""),
     .help = "GPUs to use: indices (0-3 or 0,2), UUIDs, all, or none. Without it the services see what muster sees."},
    {"per-gpu", .reloadable = true, .placeholder = "N", .type = OPTION_INT,
     .offset = offsetof(struct launch_group, per_gpu), .min = 1, .max = 256, .words = zero_is_auto, .initial = "auto",
     .help = "Services on each GPU; auto is 1."},
    {"count", .reloadable = true, .placeholder = "N", .type = OPTION_INT,
     .offset = offsetof(struct launch_group, count), .min = 1, .max = 4096, .words = zero_is_auto, .initial = "auto",
     .help = "Services in all, in turn on the GPUs; auto is --per-gpu times the GPUs, 1 without GPUs."},
    {"port", .reloadable = true, .placeholder = "RANGE", TEXT(launch_group, port, ""),
     .help = "Ports, one for each service: 50051+ (from there on), 50051-50066, or one port."},
    {"ready", .reloadable = true, .placeholder = "CHECK", TEXT(launch_group, ready, ""),
     .help =
         "What says that a service is ready: tcp (its port takes a connection), grpc (grpc.health.v1 says SERVING), "
         "http:/PATH (answers 2xx), cmd:COMMAND (a shell command that succeeds), none (it has run for a second). "
         "Without it tcp, and none where there is no --port."},
    {"ready-timeout", .reloadable = true, TIME(ready_timeout_ns, DAY, "600s"),
     .help = "A service that is not ready by then is ended and counts as failed."},
    {"restart", .reloadable = true, .type = OPTION_ENUM, .offset = offsetof(struct launch_group, restart),
     .words = restarts, .initial = "always",
     .help = "When a service that ends is started again: at once, then after 0.1 s to 30 s; after five deaths in a row "
             "without getting ready it is given up."},
    {"stop-timeout", .reloadable = true, TIME(stop_timeout_ns, DAY, "10s"),
     .help = "Time from SIGTERM to SIGKILL for all processes of a service."},
    {"mps", .reloadable = true, .type = OPTION_ENUM, .offset = offsetof(struct launch_group, mps), .words = mps_modes,
     .initial = "auto",
     .help = "NVIDIA's Multi-Process Service, so that services run on a GPU at the same time: on (also --mps alone), "
             "off, or auto (where several share a GPU that can, and its control program is there)."},
    {"mps-active-threads", .reloadable = true, .placeholder = "N", .type = OPTION_INT,
     .offset = offsetof(struct launch_group, mps_active_threads), .min = 0, .max = 100, .words = zero_is_none,
     .initial = "none",
     .help = "With MPS: the most of a GPU's threads that one service may use, in percent. none is no cap."},
    {"env", .reloadable = true, .placeholder = "K=V", .type = OPTION_LIST, .offset = offsetof(struct launch_group, env),
     .help = "A variable of the services' environment; placeholders as in the command. May repeat."},
};

static const struct option_row whole_rows[] = {
    {"config", .reloadable = true, .placeholder = "FILE", TEXT(launch_settings, config, ""),
     .help = "Where no command is given: the file whose list launch: says what to start. Without it ./muster.yaml."},
    {"state-dir", .reloadable = true, .placeholder = "DIR", TEXT(launch_settings, state_dir, ""),
     .help =
         "Folder for the control socket, state.json and logs. Without it launch-NAME in $XDG_RUNTIME_DIR/muster, or "
         "where that is not set in /tmp/muster-UID (NAME of --name, else default)."},
    {"log-dir", .reloadable = true, .placeholder = "DIR", TEXT(launch_settings, log_dir, ""),
     .help = "Folder for one log file a service. Without it logs in the state folder."},
    {"parallel", .reloadable = true, .placeholder = "N", .type = OPTION_INT,
     .offset = offsetof(struct launch_settings, parallel), .min = 1, .max = 4096, .words = zero_is_all, .initial = "16",
     .help = "Services that may be on their way to ready at the same time; or all."},
    {"mps-control-binary", .reloadable = true, .placeholder = "FILE",
     TEXT(launch_settings, mps_control_binary, "nvidia-cuda-mps-control"),
     .help = "MPS's control program; a name without a slash is searched in PATH."},
    {"mps-timeout", .reloadable = true, .type = OPTION_DURATION,
     .offset = offsetof(struct launch_settings, mps_timeout_ns), .min = 10 * NS_PER_MS, .max = 3600 * SECOND,
     .scale = 1, .unit = SECOND, .initial = "5s",
     .help = "How long an MPS daemon may take to answer a command, and half of what it may take to start; one that "
             "does not answer three times in a row is started again, and its services with it."},
    {"detach", .reloadable = true, .type = OPTION_BOOL, .offset = offsetof(struct launch_settings, detach),
     .initial = "false",
     .help = "Return when all services are ready and go on in the background; --wait (the default) stays."},
};
enum { N_GROUP_ROWS = sizeof group_rows / sizeof *group_rows, N_WHOLE_ROWS = sizeof whole_rows / sizeof *whole_rows };

const struct option_row *launch_group_rows(size_t *ret_n) {
  *ret_n = N_GROUP_ROWS;
  return group_rows;
}

/* ---- defaults ---------------------------------------------------------------------------------------------------- */

static mu_status set_defaults(const struct option_row *rows, size_t n, void *base, struct arena *memory,
                              mu_error *err) {
  mu_status status = MU_OK;
  for (size_t i = 0; status == MU_OK && i < n; i++)
    if (rows[i].initial != NULL)
      status = option_parse(&rows[i], rows[i].initial, "default", memory, option_field(&rows[i], base), err);
  return status;
}

mu_status launch_group_init(struct launch_group *group, struct arena *memory, mu_error *err) {
  *group = (struct launch_group){0};
  return set_defaults(group_rows, N_GROUP_ROWS, group, memory, err);
}

/* ---- flags ------------------------------------------------------------------------------------------------------- */

static const struct option_row *find_row(const struct option_row *rows, size_t n, const char *name, size_t size) {
  for (size_t i = 0; i < n; i++)
    if (strlen(rows[i].name) == size && memcmp(rows[i].name, name, size) == 0) return &rows[i];
  return NULL;
}

static mu_status fail_unknown(const char *argument, const char *name, size_t size, mu_error *err) {
  const char *names[N_GROUP_ROWS + N_WHOLE_ROWS];
  char word[OPTION_NAME_MAX];
  for (size_t i = 0; i < N_GROUP_ROWS; i++) names[i] = group_rows[i].name;
  for (size_t i = 0; i < N_WHOLE_ROWS; i++) names[N_GROUP_ROWS + i] = whole_rows[i].name;
  snprintf(word, sizeof word, "%.*s", (int)(size < sizeof word ? size : sizeof word - 1), name);
  const char *near = nearest_word(word, names, N_GROUP_ROWS + N_WHOLE_ROWS);
  return near != NULL ? mu_fail(err, MU_INVALID, "unknown flag %.100s: did you mean --%s?", argument, near)
                      : mu_fail(err, MU_INVALID, "unknown flag %.100s: see muster launch --help", argument);
}

struct flag_walk {
  int argc, at;
  char **argv;
  struct launch_settings *settings;
  struct launch_group *group;
  const char *group_flag; /* one that belongs to a group, for the message where the groups are the file's */
};

static mu_status read_flag(struct flag_walk *walk, mu_error *err) {
  const char *argument = walk->argv[walk->at], *name = argument + 2;
  size_t size = strcspn(name, "=");
  const char *value = name[size] == '=' ? name + size + 1 : NULL;
  if (strcmp(argument, "--wait") == 0) {
    walk->settings->detach = false;
    return MU_OK;
  }
  void *base = walk->settings;
  const struct option_row *row = find_row(whole_rows, N_WHOLE_ROWS, name, size);
  if (row == NULL) {
    row = find_row(group_rows, N_GROUP_ROWS, name, size);
    base = walk->group;
  }
  if (row == NULL) return fail_unknown(argument, name, size, err);
  char origin[OPTION_NAME_MAX + 3];
  snprintf(origin, sizeof origin, "--%s", row->name);
  if (value == NULL && row->type == OPTION_BOOL) value = "true";
  bool alone = walk->at + 1 >= walk->argc || strncmp(walk->argv[walk->at + 1], "--", 2) == 0;
  if (value == NULL && alone && strcmp(row->name, "mps") == 0) value = "on";
  if (value == NULL && walk->at + 1 < walk->argc && strcmp(walk->argv[walk->at + 1], "--") != 0)
    value = walk->argv[++walk->at];
  if (value == NULL) return mu_fail(err, MU_INVALID, "%s needs a value", origin);
  if (strcmp(row->name, "name") == 0) {
    walk->settings->name = arena_copy(&walk->settings->memory, value, strlen(value));
    if (walk->settings->name == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the settings");
  } else if (base == walk->group) {
    walk->group_flag = row->name;
  }
  return option_parse(row, value, origin, &walk->settings->memory, option_field(row, base), err);
}

static mu_status read_flags(struct flag_walk *walk, mu_error *err) {
  for (; walk->at < walk->argc && strcmp(walk->argv[walk->at], "--") != 0; walk->at++) {
    const char *argument = walk->argv[walk->at];
    if (strncmp(argument, "--", 2) != 0)
      return mu_fail(err, MU_INVALID, "'%.100s'? The command comes behind --: muster launch [options] -- %.100s …",
                     argument, argument);
    mu_status status = read_flag(walk, err);
    if (status != MU_OK) return status;
  }
  return MU_OK;
}

/* What follows "--". */
static mu_status read_command(struct flag_walk *walk, mu_error *err) {
  mu_status status = MU_OK;
  if (walk->at + 1 >= walk->argc) return mu_fail(err, MU_INVALID, "a command is missing behind --");
  while (status == MU_OK && ++walk->at < walk->argc) {
    const char *word = arena_copy(&walk->settings->memory, walk->argv[walk->at], strlen(walk->argv[walk->at]));
    status = word != NULL ? option_list_add(&walk->group->command, &walk->settings->memory, word) : MU_NO_MEMORY;
  }
  return status == MU_OK ? status : mu_fail(err, MU_NO_MEMORY, "no memory for the settings");
}

static mu_status read_all(struct launch_settings *settings, int argc, char **argv, mu_error *err) {
  struct launch_group *group = arena_alloc(&settings->memory, 1, sizeof *group);
  if (group == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the settings");
  struct flag_walk walk = {.argc = argc, .argv = argv, .settings = settings, .group = group};
  mu_status status = set_defaults(whole_rows, N_WHOLE_ROWS, settings, &settings->memory, err);
  if (status == MU_OK) status = launch_group_init(group, &settings->memory, err);
  if (status == MU_OK) status = read_flags(&walk, err);
  if (status != MU_OK) return status;
  if (walk.at < argc) {
    if (settings->config[0] != '\0')
      return mu_fail(err, MU_INVALID, "--config says what to start, and so does the command behind --: choose one");
    settings->groups = group;
    settings->n_groups = 1;
    return read_command(&walk, err);
  }
  if (walk.group_flag != NULL)
    return mu_fail(err, MU_INVALID, "--%s belongs to a command: muster launch --%s … -- COMMAND", walk.group_flag,
                   walk.group_flag);
  status = launch_file_apply(settings, settings->config[0] != '\0' ? settings->config : "muster.yaml", err);
  if (status == MU_NOT_FOUND && settings->config[0] == '\0')
    return mu_fail(err, MU_INVALID,
                   "what is to be started? muster launch [options] -- COMMAND, or launch: in muster.yaml");
  return status;
}

mu_status launch_settings_load(int argc, char **argv, struct launch_settings **ret_settings, mu_error *err) {
  struct launch_settings *settings = calloc(1, sizeof *settings);
  if (settings == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the settings");
  settings->name = "default";
  mu_status status = read_all(settings, argc, argv, err);
  if (status == MU_OK)
    *ret_settings = settings;
  else
    launch_settings_free(settings);
  return status;
}

void launch_settings_free(struct launch_settings *settings) {
  if (settings == NULL) return;
  arena_free(&settings->memory);
  free(settings);
}

mu_status launch_state_folder(const struct launch_settings *settings, char *ret_path, size_t size, mu_error *err) {
  char folder[CONTROL_SOCKET_PATH_MAX];
  int n;
  if (settings->state_dir[0] != '\0') {
    n = snprintf(ret_path, size, "%s", settings->state_dir);
  } else {
    if (strchr(settings->name, '/') != NULL)
      return mu_fail(err, MU_INVALID, "--name has a / in it: %.100s", settings->name);
    mu_status status = control_folder_path(folder, err);
    if (status != MU_OK) return status;
    n = snprintf(ret_path, size, "%s/launch-%s", folder, settings->name);
  }
  if (n < 0 || (size_t)n >= size) return mu_fail(err, MU_INVALID, "the path of the state folder is too long");
  return MU_OK;
}

/* ---- help -------------------------------------------------------------------------------------------------------- */

mu_status launch_settings_print_help(struct buffer *out) {
  mu_status status = option_rows_print_help(group_rows, N_GROUP_ROWS, out);
  return status == MU_OK ? option_rows_print_help(whole_rows, N_WHOLE_ROWS, out) : status;
}
