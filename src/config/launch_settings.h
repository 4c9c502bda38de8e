/*
 * What `muster launch` is told: which programs to start, how many of each, where, and what counts as ready. From flags
 * (one group of services) or from the list `launch:` of muster.yaml (several). Values are checked one by one here; what
 * they mean together is launch/plan.h's. Owned by whoever loaded it; constant afterwards.
 */
#ifndef CONFIG_LAUNCH_SETTINGS_H
#define CONFIG_LAUNCH_SETTINGS_H

#include "config/options.h"

enum { LAUNCH_GROUPS_MAX = 64 };

enum launch_restart { LAUNCH_RESTART_ALWAYS, LAUNCH_RESTART_ON_FAILURE, LAUNCH_RESTART_NEVER };

/* Services of one kind. */
struct launch_group {
  const char *name;  /* "" : the command's */
  const char *gpus;  /* "none", "all", "0-3", "0,GPU-…"; "" : nothing said */
  int64_t count;     /* services; 0: as many as there are GPUs, times per_gpu */
  int64_t per_gpu;   /* 0: 1 */
  const char *port;  /* "50051+", "50051-50066", "50051"; "" : none */
  const char *ready; /* "tcp", "grpc", "http:/path", "cmd:…", "none"; "" : tcp, none without a port */
  int64_t ready_timeout_ns, stop_timeout_ns;
  int64_t restart;            /* enum launch_restart */
  int64_t mps;                /* enum mps_mode */
  int64_t mps_active_threads; /* percent of a GPU's, of one service; 0: no cap */
  struct option_list env;     /* K=V */
  struct option_list command; /* with placeholders */
};

struct launch_settings {
  struct launch_group *groups;
  size_t n_groups;
  const char *name;               /* of the whole: where the state folder is */
  const char *state_dir;          /* "" : by the name */
  const char *log_dir;            /* "" : in the state folder */
  const char *config;             /* the file with the groups; "" : muster.yaml */
  const char *mps_control_binary; /* path, or a name that is searched in PATH */
  int64_t mps_timeout_ns;         /* of one command to an MPS daemon */
  int64_t parallel;               /* how many may be on their way to ready at once; 0: all */
  bool detach;
  struct arena memory;
};

/*
 * argv: what follows `muster launch`. With a command behind "--" that is the only group, without one the groups are the
 * file's. MU_INVALID: unknown flag or key (the message names the nearest), bad value; MU_NOT_FOUND, MU_IO,
 * MU_TOO_LARGE: the file; MU_NO_MEMORY.
 */
MUST_CHECK mu_status launch_settings_load(int argc, char **argv, struct launch_settings **ret_settings, mu_error *err);
void launch_settings_free(struct launch_settings *settings); /* accepts NULL */

/* Where its state is: --state-dir, else FOLDER/launch-NAME beside the servers' control sockets. MU_INVALID: too long.
 */
MUST_CHECK mu_status launch_state_folder(const struct launch_settings *settings, char *ret_path, size_t size,
                                         mu_error *err);

/* The rows of --help. MU_NO_MEMORY. */
MUST_CHECK mu_status launch_settings_print_help(struct buffer *out);

#endif
