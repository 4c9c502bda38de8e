/* What is left of a launch that has died: found by its id in the processes' environment, and ended. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "launch/state.h"

enum { ENVIRONMENT_MAX = 1 << 20, GUARD_GRACE_S = 10, KILL_WAIT_MS = 20, AGAIN_MS = 2, KILL_ROUNDS = 500 };

/* ":FOLDER": of any launch with that state folder; else the id of one launch. */
static bool is_of(const char *text, const char *launch_id) {
  const char *folder = strchr(text, ':');
  return launch_id[0] != ':' ? strcmp(text, launch_id) == 0 : folder != NULL && strcmp(folder, launch_id) == 0;
}

/* Marks with owner 0 what belongs to the launch, and what that has started. */
static uint32_t mark(struct process_tree *tree, const char *launch_id) {
  struct buffer text;
  uint32_t n = 0;
  buffer_init(&text, ENVIRONMENT_MAX);
  for (size_t i = 0; i < tree->n; i++)
    if (tree->entries[i].state != 'Z' && tree->entries[i].pid != getpid() &&
        process_environment(tree->entries[i].pid, LAUNCH_VARIABLE, &text) && is_of(text.data, launch_id))
      tree->entries[i].owner = 0;
  buffer_free(&text);
  process_tree_spread(tree);
  for (size_t i = 0; i < tree->n; i++) n += tree->entries[i].owner == 0 && tree->entries[i].state != 'Z';
  return n;
}

/* Signals all of them; how many there are. */
static uint32_t signal_all(const char *launch_id, int signal, bool tell) {
  struct process_tree tree;
  mu_error err;
  if (process_tree_read(&tree, &err) != MU_OK) {
    LOG_ERROR("cannot look at the processes", LOG_STR("error", err.message));
    return 0;
  }
  uint32_t n = mark(&tree, launch_id);
  for (size_t i = 0; i < tree.n; i++) {
    if (tree.entries[i].owner != 0 || tree.entries[i].state == 'Z') continue;
    char name[64];
    process_name(tree.entries[i].pid, name, sizeof name);
    if (tell)
      LOG_WARNING("left behind by a launch that died: ended", LOG_INT("pid", tree.entries[i].pid),
                  LOG_STR("name", name));
    process_entry_signal(&tree.entries[i], signal);
  }
  process_tree_free(&tree);
  return n;
}

/* A look is no atomic snapshot: none is left when two in a row find none. */
static uint32_t signal_left(const char *launch_id, int signal, bool tell) {
  const struct timespec pause = {.tv_nsec = AGAIN_MS * NS_PER_MS};
  uint32_t n = signal_all(launch_id, signal, tell);
  if (n > 0) return n;
  nanosleep(&pause, NULL);
  return signal_all(launch_id, signal, tell);
}

uint32_t leftovers_end(const char *launch_id, uint64_t grace_ns) {
  const struct timespec pause = {.tv_nsec = KILL_WAIT_MS * NS_PER_MS};
  uint64_t kill_ns = time_add(clock_now_ns(), grace_ns);
  uint32_t n = signal_left(launch_id, SIGTERM, true), left = n;
  while (left > 0 && clock_now_ns() < kill_ns) {
    nanosleep(&pause, NULL);
    left = signal_left(launch_id, 0, false);
  }
  for (int round = 0; left > 0 && round < KILL_ROUNDS; round++) { /* what hangs in the kernel stays */
    left = signal_left(launch_id, SIGKILL, false);
    nanosleep(&pause, NULL);
  }
  return n;
}

/* ---- the guard --------------------------------------------------------------------------------------------------- */

/* Whoever waits for the end of the launcher's output does not wait for the guard. */
static void log_to_folder(const char *folder) {
  char path[LAUNCH_PATH_MAX + 32];
  snprintf(path, sizeof path, "%s/launch.log", folder);
  int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
  int log = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
  if (log < 0) log = nothing;
  if (nothing < 0 || dup2(nothing, 0) < 0 || dup2(nothing, 1) < 0 || dup2(log, 2) < 0) _exit(1);
}

static void run_guard(const void *context, pid_t parent) {
  const struct launch *launch = context;
  sigset_t all;
  (void)close_range(3, ~0U, 0); /* the control socket above all: it ends with the launcher */
  struct pollfd launcher = {.fd = pidfd_open(parent, 0), .events = POLLIN};
  sigfillset(&all); /* whoever ends the launcher by a signal to its group does not end this */
  sigprocmask(SIG_SETMASK, &all, NULL);
  setsid();
  log_to_folder(launch->state_folder);
  prctl(PR_SET_NAME, "muster-guard");
  if (launcher.fd >= 0 && getppid() == parent) {
    while (poll(&launcher, 1, -1) < 0 && errno == EINTR) continue;
  }
  leftovers_end(launch->id, GUARD_GRACE_S * NS_PER_S);
  _exit(0);
}

static void on_guard_ended(void *context, int code, int status) {
  struct launch *launch = context;
  mu_error err;
  process_free(launch->guard);
  launch->guard = NULL;
  LOG_WARNING("the guard has been ended by somebody: started again");
  if (guard_start(launch, &err) != MU_OK) LOG_ERROR("cannot start the guard", LOG_STR("error", err.message));
}

mu_status guard_start(struct launch *launch, mu_error *err) {
  return process_start(launch->loop, run_guard, launch, on_guard_ended, launch, &launch->guard, err);
}
