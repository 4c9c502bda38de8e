/*
 * The keeper's folder, and what keepers that were killed have left. A keeper holds a lock on its folder (flock) for as
 * long as it lives: one that can be locked is nobody's, and goes with the processes that were started for it. The lock
 * also keeps systemd-tmpfiles from clearing a folder in /tmp that seems old.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "mps/keeper.h"
#include "process/tree.h"

static const char prefix[] = "muster-mps-";
enum { UNIQUE_SIZE = 6 /* mkdtemp's */, NAME_LENGTH = sizeof prefix - 1 + UNIQUE_SIZE };

/* ---- where --------------------------------------------------------------------------------------------------------
 */

/* A folder where the daemon's sockets would have too long an address is not used. */
static const char *base_folder(void) {
  const char *runtime = getenv("XDG_RUNTIME_DIR");
  bool usable = runtime != NULL && runtime[0] == '/' && strlen(runtime) + 1 + NAME_LENGTH < KEEPER_FOLDER_SIZE;
  return usable ? runtime : "/tmp";
}

/* Opened and locked; -1: errno says why. A link is not followed. */
static int lock_folder(const char *path) {
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  int error = errno;
  close(fd);
  errno = error;
  return -1;
}

/* Between its making and its locking somebody who tidies up may have taken it for an orphan. */
static bool is_still(const char *path, int fd) {
  struct stat named, locked;
  return lstat(path, &named) == 0 && fstat(fd, &locked) == 0 && named.st_ino == locked.st_ino &&
         named.st_dev == locked.st_dev;
}

/* ---- processes ----------------------------------------------------------------------------------------------------
 */

static bool belongs_to(pid_t pid, const char *folder) {
  enum { ENVIRONMENT_MAX = 1 << 20 };
  struct buffer value;
  buffer_init(&value, ENVIRONMENT_MAX);
  bool same =
      folder[0] != '\0' && process_environment(pid, KEEPER_FOLDER_VARIABLE, &value) && strcmp(value.data, folder) == 0;
  buffer_free(&value);
  return same;
}

/* Kills what this process and its children have started, and what belongs to the folder; the number of one that is
 * still there, 0: none. */
static mu_status kill_all(const char *folder, pid_t *ret_left, mu_error *err) {
  struct process_tree tree;
  pid_t self = getpid();
  mu_status status = process_tree_read(&tree, err);
  if (status != MU_OK) return status;
  *ret_left = 0;
  for (size_t i = 0; i < tree.n; i++)
    if (tree.entries[i].parent == self || belongs_to(tree.entries[i].pid, folder)) tree.entries[i].owner = 0;
  process_tree_spread(&tree);
  for (size_t i = 0; i < tree.n; i++) {
    const struct process_entry *entry = &tree.entries[i];
    if (entry->owner == PROCESS_UNOWNED || entry->pid == self || entry->state == 'Z' || entry->state == 'X') continue;
    process_entry_signal(entry, SIGKILL);
    *ret_left = entry->pid;
  }
  process_tree_free(&tree);
  return MU_OK;
}

static void await_end(pid_t pid, uint64_t until_ns) {
  struct pollfd fd = {.fd = pidfd_open(pid, 0), .events = POLLIN};
  uint64_t now = clock_now_ns();
  if (fd.fd < 0) return; /* it has ended */
  (void)poll(&fd, 1, until_ns > now ? (int)((until_ns - now) / NS_PER_MS) + 1 : 0);
  close(fd.fd);
}

void keeper_end_processes(const char *folder) {
  uint64_t until_ns = clock_now_ns() + KEEPER_KILL_NS;
  mu_error err;
  for (pid_t left;;) {
    while (waitpid(-1, NULL, WNOHANG) > 0) continue;
    if (kill_all(folder, &left, &err) != MU_OK) {
      LOG_WARNING("cannot look for what an MPS daemon has left", LOG_STR("error", err.message));
      return;
    }
    if (left == 0) return;
    if (clock_now_ns() >= until_ns) {
      LOG_ERROR("a process of an MPS daemon is stuck in the kernel and stays behind", LOG_INT("pid", left));
      return;
    }
    await_end(left, until_ns);
  }
}

/* ---- its end ------------------------------------------------------------------------------------------------------
 */

static int remove_entry(const char *path, const struct stat *ignored, int kind, struct FTW *place) {
  if (remove(path) != 0) LOG_WARNING("cannot remove", LOG_STR("path", path), LOG_STR("error", strerror(errno)));
  return 0;
}

static void remove_folder(const char *folder) {
  enum { OPEN_FOLDERS = 4 };
  (void)nftw(folder, remove_entry, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS);
}

/* Its keeper was killed, or lives: then it is left alone. */
static void tidy(const char *folder) {
  int fd = lock_folder(folder);
  if (fd < 0) return;
  LOG_INFO("what the killed keeper of an MPS daemon has left is removed", LOG_STR("folder", folder));
  keeper_end_processes(folder);
  remove_folder(folder);
  close(fd);
}

void keeper_tidy(void) {
  const char *base = base_folder();
  DIR *entries = opendir(base);
  const struct dirent *entry;
  while (entries != NULL && (entry = readdir(entries)) != NULL) {
    char path[KEEPER_FOLDER_SIZE];
    struct stat file;
    if (strncmp(entry->d_name, prefix, sizeof prefix - 1) != 0 || strlen(entry->d_name) != NAME_LENGTH) continue;
    snprintf(path, sizeof path, "%s/%.*s", base, (int)NAME_LENGTH, entry->d_name);
    /* in /tmp anybody may have given one that name */
    if (lstat(path, &file) == 0 && S_ISDIR(file.st_mode) && file.st_uid == geteuid()) tidy(path);
  }
  if (entries != NULL) closedir(entries);
}

void keeper_remove_folder(struct keeper *keeper) {
  if (keeper->folder[0] == '\0') return;
  remove_folder(keeper->folder);
  close(keeper->folder_fd);
  keeper->folder[0] = '\0';
}

/* ---- its begin ----------------------------------------------------------------------------------------------------
 */

static mu_status make_one(struct keeper *keeper, bool *ret_made, mu_error *err) {
  const char *path = keeper->folder;
  *ret_made = false;
  snprintf(keeper->folder, sizeof keeper->folder, "%s/%sXXXXXX", base_folder(), prefix);
  if (mkdtemp(keeper->folder) == NULL) /* mode 0700 */
    return mu_fail(err, MU_IO, "cannot make the folder %s: %s", path, strerror(errno));
  keeper->folder_fd = lock_folder(path);
  if (keeper->folder_fd < 0 && errno != EWOULDBLOCK && errno != ENOENT)
    return mu_fail(err, MU_IO, "cannot lock the folder %s: %s", path, strerror(errno));
  *ret_made = keeper->folder_fd >= 0 && is_still(path, keeper->folder_fd);
  if (!*ret_made && keeper->folder_fd >= 0) close(keeper->folder_fd);
  return MU_OK;
}

mu_status keeper_make_folder(struct keeper *keeper, mu_error *err) {
  enum { TRIES = 8 };
  bool made = false;
  mu_status status = MU_OK;
  for (int i = 0; status == MU_OK && !made && i < TRIES; i++) status = make_one(keeper, &made, err);
  if (status == MU_OK && !made) status = mu_fail(err, MU_IO, "somebody removes each folder %s", keeper->folder);
  if (status != MU_OK) keeper->folder[0] = '\0';
  return status;
}

/* ---- logs ---------------------------------------------------------------------------------------------------------
 */

void keeper_trim_logs(const struct keeper *keeper) {
  static const char *const names[] = {KEEPER_OUTPUT, "log/control.log", "log/server.log"};
  enum { BLOCK = 512 /* of st_blocks */ };
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char path[KEEPER_PATH_SIZE];
    struct stat file;
    snprintf(path, sizeof path, "%s/%s", keeper->folder, names[i]);
    /* One whose writer goes on at the old end has a hole then: what counts is what it takes. */
    if (lstat(path, &file) != 0 || !S_ISREG(file.st_mode) || file.st_blocks * BLOCK <= KEEPER_LOG_MAX) continue;
    if (truncate(path, 0) != 0)
      LOG_WARNING("cannot cut a log of MPS short", LOG_STR("path", path), LOG_STR("error", strerror(errno)));
  }
}
