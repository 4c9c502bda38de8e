/* The daemon's life: its start, and its end. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "gpu/mps.h"
#include "mps/keeper.h"

enum { EXEC_FAILED = 127 };

/* ---- its start --------------------------------------------------------------------------------------------------- */

static mu_status make_part(const struct keeper *keeper, const char *part, const char *variable, mu_error *err) {
  char path[KEEPER_PATH_SIZE];
  snprintf(path, sizeof path, "%s/%s", keeper->folder, part);
  if (mkdir(path, 0700) != 0) return mu_fail(err, MU_IO, "cannot make the folder %s: %s", path, strerror(errno));
  if (setenv(variable, path, 1) != 0) return mu_fail(err, MU_NO_MEMORY, "no memory for the environment");
  return MU_OK;
}

static mu_status make_folders(struct keeper *keeper, mu_error *err) {
  mu_status status = keeper_make_folder(keeper, err);
  if (status == MU_OK && setenv(KEEPER_FOLDER_VARIABLE, keeper->folder, 1) != 0)
    status = mu_fail(err, MU_NO_MEMORY, "no memory for the environment");
  if (status == MU_OK) status = make_part(keeper, "pipe", "CUDA_MPS_PIPE_DIRECTORY", err);
  if (status == MU_OK) status = make_part(keeper, "log", "CUDA_MPS_LOG_DIRECTORY", err);
  return status;
}

static _Noreturn void become_daemon(const struct keeper *keeper, pid_t parent) {
  char path[KEEPER_PATH_SIZE], *const arguments[] = {keeper->binary, (char *)"-f", NULL};
  keeper_child_begin(parent);
  snprintf(path, sizeof path, "%s/%s", keeper->folder, KEEPER_OUTPUT);
  int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
  int output = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (nothing >= 0 && output >= 0 && dup2(nothing, STDIN_FILENO) >= 0 && dup2(output, STDOUT_FILENO) >= 0 &&
      dup2(output, STDERR_FILENO) >= 0)
    execvp(keeper->binary, arguments);
  dprintf(STDERR_FILENO, "%s: %s\n", keeper->binary, strerror(errno));
  _exit(EXEC_FAILED);
}

mu_status keeper_start_daemon(struct keeper *keeper, mu_error *err) {
  mu_status status = make_folders(keeper, err);
  if (status != MU_OK) return status;
  pid_t parent = getpid();
  keeper->daemon = fork();
  if (keeper->daemon == 0) become_daemon(keeper, parent);
  if (keeper->daemon > 0 && (keeper->daemon_fd = pidfd_open(keeper->daemon, 0)) >= 0) return MU_OK;
  keeper->daemon = 0; /* keeper_end_daemon ends what there is */
  return mu_fail(err, MU_IO, "cannot start %s: %s", keeper->binary, strerror(errno));
}

/* ---- its end ----------------------------------------------------------------------------------------------------- */

/* The last line that it has written, as printable text. */
static void last_words(const struct keeper *keeper, char *words, size_t words_size) {
  char text[200];
  const size_t size = sizeof text;
  char path[KEEPER_PATH_SIZE];
  snprintf(path, sizeof path, "%s/%s", keeper->folder, KEEPER_OUTPUT);
  text[0] = '\0';
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  off_t end = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
  off_t from = end >= (off_t)size ? end - (off_t)size + 1 : 0;
  ssize_t n = fd >= 0 ? pread(fd, text, size - 1, from) : 0;
  if (fd >= 0) close(fd);
  while (n > 0 && text[n - 1] == '\n') n--;
  text[n > 0 ? n : 0] = '\0';
  const char *line = strrchr(text, '\n');
  line = line != NULL ? line + 1 : text;
  mps_quote(line, strlen(line), words, words_size);
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

/* It ends its servers, too. */
static void tell_to_quit(struct keeper *keeper) {
  struct buffer answer;
  mu_error err;
  keeper->stop = false; /* so that this command is not cut short */
  buffer_init(&answer, KEEPER_ANSWER_MAX);
  bool told = keeper_command(keeper, "quit", &answer, &err) == MU_OK;
  uint64_t until_ns = clock_now_ns() + keeper->timeout_ns;
  while (told && !keeper_check_daemon(keeper) && !keeper->abandoned && clock_now_ns() < until_ns)
    keeper_wait(keeper, -1, until_ns);
  buffer_free(&answer);
}

void keeper_end_daemon(struct keeper *keeper) {
  /* one that does not answer would not answer this either, and its clients wait for the next one */
  bool answers = keeper->failures < KEEPER_FAILURES_MAX;
  if (keeper->daemon > 0 && answers && !keeper->abandoned) tell_to_quit(keeper);
  /* What has lost its parent has come to this process, which is their subreaper: the daemon's servers. */
  keeper_end_processes(keeper->folder);
  if (keeper->daemon > 0) close(keeper->daemon_fd);
  keeper->daemon = 0;
  keeper_remove_folder(keeper);
}
