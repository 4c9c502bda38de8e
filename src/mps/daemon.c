/* The daemon's life: its folder, its start, its end and what it leaves. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "mps/keeper.h"

enum { EXEC_FAILED = 127, PATH_SIZE = KEEPER_FOLDER_SIZE + 16 };

/* ---- the folder -------------------------------------------------------------------------------------------------- */

/* Sockets come to lie there: a long path would not fit their addresses. */
static mu_status make_folder(struct keeper *keeper, mu_error *err) {
  static const char name[] = "muster-mps-XXXXXX";
  const char *runtime = getenv("XDG_RUNTIME_DIR");
  bool usable = runtime != NULL && runtime[0] == '/' && strlen(runtime) + sizeof name < KEEPER_FOLDER_SIZE - 1;
  snprintf(keeper->folder, sizeof keeper->folder, "%s/%s", usable ? runtime : "/tmp", name);
  if (mkdtemp(keeper->folder) != NULL) return MU_OK; /* mode 0700 */
  mu_status status = mu_fail(err, MU_IO, "cannot make the folder %s: %s", keeper->folder, strerror(errno));
  keeper->folder[0] = '\0';
  return status;
}

static mu_status make_part(const struct keeper *keeper, const char *part, const char *variable, mu_error *err) {
  char path[PATH_SIZE];
  snprintf(path, sizeof path, "%s/%s", keeper->folder, part);
  if (mkdir(path, 0700) != 0) return mu_fail(err, MU_IO, "cannot make the folder %s: %s", path, strerror(errno));
  if (setenv(variable, path, 1) != 0) return mu_fail(err, MU_NO_MEMORY, "no memory for the environment");
  return MU_OK;
}

static int remove_entry(const char *path, const struct stat *ignored, int kind, struct FTW *place) {
  if (remove(path) != 0) LOG_WARNING("cannot remove", LOG_STR("path", path), LOG_STR("error", strerror(errno)));
  return 0;
}

void keeper_remove_folder(const char *folder) {
  enum { OPEN_FOLDERS = 4 };
  if (folder[0] != '\0') (void)nftw(folder, remove_entry, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS);
}

/* ---- its start --------------------------------------------------------------------------------------------------- */

static const char output_name[] = "output";

static _Noreturn void become_daemon(const struct keeper *keeper, pid_t parent) {
  char path[PATH_SIZE], *const arguments[] = {keeper->binary, (char *)"-f", NULL};
  keeper_child_begin(parent);
  snprintf(path, sizeof path, "%s/%s", keeper->folder, output_name);
  int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC), output = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (nothing >= 0 && output >= 0 && dup2(nothing, STDIN_FILENO) >= 0 && dup2(output, STDOUT_FILENO) >= 0 &&
      dup2(output, STDERR_FILENO) >= 0)
    execvp(keeper->binary, arguments);
  dprintf(STDERR_FILENO, "%s: %s\n", keeper->binary, strerror(errno));
  _exit(EXEC_FAILED);
}

mu_status keeper_start_daemon(struct keeper *keeper, mu_error *err) {
  mu_status status = make_folder(keeper, err);
  if (status == MU_OK) status = make_part(keeper, "pipe", "CUDA_MPS_PIPE_DIRECTORY", err);
  if (status == MU_OK) status = make_part(keeper, "log", "CUDA_MPS_LOG_DIRECTORY", err);
  if (status != MU_OK) return status;
  pid_t parent = getpid();
  keeper->daemon = fork();
  if (keeper->daemon == 0) become_daemon(keeper, parent);
  if (keeper->daemon > 0 && (keeper->daemon_fd = pidfd_open(keeper->daemon, 0)) >= 0) return MU_OK;
  status = mu_fail(err, MU_IO, "cannot start %s: %s", keeper->binary, strerror(errno));
  if (keeper->daemon > 0) {
    kill(keeper->daemon, SIGKILL);
    waitpid(keeper->daemon, NULL, 0);
  }
  keeper->daemon = 0;
  return status;
}

/* ---- its end ----------------------------------------------------------------------------------------------------- */

/* The last line that it has written, without its end. */
static void last_words(const struct keeper *keeper, char *text, size_t size) {
  char path[PATH_SIZE];
  snprintf(path, sizeof path, "%s/%s", keeper->folder, output_name);
  text[0] = '\0';
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  off_t end = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
  off_t from = end >= (off_t)size ? end - (off_t)size + 1 : 0;
  ssize_t n = fd >= 0 ? pread(fd, text, size - 1, from) : 0;
  if (fd >= 0) close(fd);
  while (n > 0 && text[n - 1] == '\n') n--;
  text[n > 0 ? n : 0] = '\0';
  const char *line = strrchr(text, '\n');
  if (line != NULL) memmove(text, line + 1, strlen(line + 1) + 1);
}

bool keeper_check_daemon(struct keeper *keeper) {
  char words[200], how[48];
  int status;
  if (keeper->daemon == 0) return true;
  if (waitpid(keeper->daemon, &status, WNOHANG) != keeper->daemon) return false;
  close(keeper->daemon_fd);
  keeper->daemon = 0;
  keeper->daemon_fd = -1;
  last_words(keeper, words, sizeof words);
  if (WIFSIGNALED(status))
    snprintf(how, sizeof how, "signal %d", WTERMSIG(status));
  else
    snprintf(how, sizeof how, "exit status %d", WEXITSTATUS(status));
  snprintf(keeper->error, sizeof keeper->error, "the MPS daemon has ended (%s)%s%s", how, words[0] != '\0' ? ": " : "",
           words);
  return true;
}

/* Whose parent has ended comes to this process, which is their subreaper: the daemon's servers. */
static void end_children(void) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
  for (;;) {
    FILE *file = fopen(path, "re");
    int pid, n = 0;
    while (file != NULL && fscanf(file, "%d", &pid) == 1) {
      kill(pid, SIGKILL);
      n++;
    }
    if (file != NULL) fclose(file);
    if (n == 0) break;
    while (waitpid(-1, NULL, 0) > 0 || errno == EINTR) continue;
  }
}

void keeper_end_daemon(struct keeper *keeper) {
  struct buffer answer;
  mu_error err;
  if (keeper->daemon > 0 && !keeper->abandoned) {
    keeper->stop = false; /* so that this command is not cut short */
    buffer_init(&answer, KEEPER_ANSWER_MAX);
    bool told = keeper_command(keeper, "quit", &answer, &err) == MU_OK;
    uint64_t until_ns = clock_now_ns() + keeper->timeout_ns;
    while (told && !keeper_check_daemon(keeper) && !keeper->abandoned && clock_now_ns() < until_ns)
      keeper_wait(keeper, -1, until_ns);
    buffer_free(&answer);
  }
  if (keeper->daemon > 0) {
    kill(keeper->daemon, SIGKILL);
    waitpid(keeper->daemon, NULL, 0);
    close(keeper->daemon_fd);
    keeper->daemon = 0;
  }
  end_children();
  keeper_remove_folder(keeper->folder);
}
