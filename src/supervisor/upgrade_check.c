#include "supervisor/upgrade_check.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "control/child.h"
#include "supervisor/service_manager.h"

enum { SAID_MAX = 4096, STATE_FD = 3, EXEC_FAILED = 127 };

static const uint64_t limit_ms = 10000;

struct upgrade_check {
  struct net_loop *loop;
  struct process *process;
  int output; /* the pipe's end that is read */
  bool timed_out;
  uv_timer_t timer;
  upgrade_checked *checked;
  void *context;
  char binary[256]; /* for messages */
};

/* ---- the child --------------------------------------------------------------------------------------------------- */

/* What tries a binary does not speak for the server. Here in the child, whose environment is a copy. */
static void forget_service_manager(void) {
  size_t kept = 0;
  for (size_t i = 0; environ[i] != NULL; i++)
    if (!child_drops_variable(environ[i])) environ[kept++] = environ[i];
  environ[kept] = NULL;
}

__attribute__((noreturn)) static void run_child(const char *binary, char **argv, int state, int output, pid_t parent) {
  sigset_t none;
  sigemptyset(&none);
  signal(SIGPIPE, SIG_DFL);
  sigprocmask(SIG_SETMASK, &none, NULL);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(EXEC_FAILED);
  int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC), high = fcntl(state, F_DUPFD_CLOEXEC, STATE_FD + 1);
  if (nothing >= 0 && high >= 0 && dup2(nothing, STDIN_FILENO) >= 0 && dup2(output, STDOUT_FILENO) >= 0 &&
      dup2(output, STDERR_FILENO) >= 0 && dup2(high, STATE_FD) >= 0) {
    (void)close_range(STATE_FD + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    forget_service_manager();
    execv(binary, argv);
  }
  dprintf(STDERR_FILENO, "%s\n", strerror(errno));
  _exit(EXEC_FAILED);
}

/* All signals are blocked meanwhile: a handler of the supervisor must not run in the child. */
static pid_t fork_child(const char *binary, char **argv, int state, int output) {
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  pid_t parent = getpid(), pid = fork();
  if (pid == 0) run_child(binary, argv, state, output, parent);
  int error = errno;
  sigprocmask(SIG_SETMASK, &before, NULL);
  errno = error;
  return pid;
}

static pid_t spawn(const char *binary, int argc, char **argv, int state, int output) {
  char **arguments = calloc((size_t)argc + 4, sizeof *arguments);
  if (arguments == NULL) return -1;
  arguments[0] = (char *)"muster";
  arguments[1] = (char *)"--role";
  arguments[2] = (char *)"upgrade-check";
  memcpy(arguments + 3, argv, (size_t)argc * sizeof *argv);
  pid_t pid = fork_child(binary, arguments, state, output);
  int error = errno;
  free(arguments);
  errno = error;
  return pid;
}

/* ---- its end ----------------------------------------------------------------------------------------------------- */

static void on_closed(uv_handle_t *handle) { free(handle->data); }

static void release(struct upgrade_check *check) {
  process_free(check->process);
  check->process = NULL;
  if (check->output >= 0) close(check->output);
  check->output = -1;
  uv_close((uv_handle_t *)&check->timer, on_closed);
}

/* What it has said, terminated. It has ended: nothing more comes, unless from a child of its own. */
static void read_output(const struct upgrade_check *check, char said[SAID_MAX]) {
  size_t size = 0;
  for (;;) {
    ssize_t n = read(check->output, said + size, SAID_MAX - 1 - size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    size += (size_t)n;
  }
  said[size] = '\0';
  for (char *at = said; *at != '\0'; at++)
    if (((unsigned char)*at < 0x20 && *at != '\n') || *at == 0x7f) *at = '?';
}

/* The version behind the proof, which stands at the beginning of a line; NULL: there is none. */
static const char *find_version(char *said) {
  for (char *line = said; line != NULL && *line != '\0';) {
    char *end = strchr(line, '\n');
    if (end != NULL && strncmp(line, UPGRADE_CHECK_PROOF, sizeof UPGRADE_CHECK_PROOF - 1) == 0) {
      *end = '\0';
      return line + sizeof UPGRADE_CHECK_PROOF - 1;
    }
    line = end != NULL ? end + 1 : NULL;
  }
  return NULL;
}

/* The last line that says something; what a program complains of stands at the end. */
static const char *last_line(char *said) {
  size_t size = strlen(said);
  while (size > 0 && said[size - 1] == '\n') said[--size] = '\0';
  const char *line = strrchr(said, '\n');
  return line != NULL ? line + 1 : said;
}

static void describe_end(const struct upgrade_check *check, int code, int status, char *said, char *why, size_t size) {
  const char *line = last_line(said), *colon = line[0] != '\0' ? ": " : "";
  if (check->timed_out)
    snprintf(why, size, "%s did not finish its check within %d s%s%s", check->binary, (int)(limit_ms / 1000), colon,
             line);
  else if (code != CLD_EXITED)
    snprintf(why, size, "%s was killed by signal %d in its check%s%s", check->binary, status, colon, line);
  else if (status == EXEC_FAILED)
    snprintf(why, size, "%s cannot be started%s%s", check->binary, colon, line);
  else if (status != 0)
    snprintf(why, size, "%s refuses (exit status %d)%s%s", check->binary, status, colon, line);
  else
    snprintf(why, size, "%s does not say that it can take over: is it muster?", check->binary);
}

static void on_ended(void *context, int code, int status) {
  struct upgrade_check *check = context;
  upgrade_checked *checked = check->checked;
  void *whose = check->context;
  char said[SAID_MAX], why[SAID_MAX + 512];
  read_output(check, said);
  const char *version = code == CLD_EXITED && status == 0 && !check->timed_out ? find_version(said) : NULL;
  if (version == NULL) describe_end(check, code, status, said, why, sizeof why);
  uv_timer_stop(&check->timer);
  release(check);
  checked(whose, version, version == NULL ? why : NULL);
}

static void on_timer(uv_timer_t *timer) {
  struct upgrade_check *check = timer->data;
  check->timed_out = true;
  process_kill(check->process, SIGKILL);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static mu_status start(struct upgrade_check *check, const char *binary, int argc, char **argv, int state,
                       mu_error *err) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return mu_fail(err, MU_IO, "cannot make a pipe: %s", strerror(errno));
  check->output = ends[0];
  fcntl(ends[1], F_SETFL, 0); /* for the child a pipe like any other */
  pid_t pid = spawn(binary, argc, argv, state, ends[1]);
  int error = errno;
  close(ends[1]);
  if (pid < 0) return mu_fail(err, MU_IO, "cannot start a process: %s", strerror(error));
  mu_status status = process_adopt(check->loop, pid, pidfd_open(pid, 0), on_ended, check, &check->process, err);
  if (status != MU_OK) {
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
  }
  return status;
}

mu_status upgrade_check_start(struct net_loop *loop, const char *binary, int argc, char **argv, int state,
                              upgrade_checked *checked, void *context, struct upgrade_check **ret_check,
                              mu_error *err) {
  struct upgrade_check *check = calloc(1, sizeof *check);
  if (check == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the check");
  *check = (struct upgrade_check){.loop = loop, .output = -1, .checked = checked, .context = context};
  snprintf(check->binary, sizeof check->binary, "%s", binary);
  uv_timer_init(net_loop_uv(loop), &check->timer);
  check->timer.data = check;
  mu_status status = start(check, binary, argc, argv, state, err);
  if (status != MU_OK) {
    release(check);
    return status;
  }
  uv_timer_start(&check->timer, on_timer, limit_ms, 0);
  *ret_check = check;
  return MU_OK;
}

/* The child is reaped by nobody until the supervisor ends, which is what comes next. */
void upgrade_check_cancel(struct upgrade_check *check) {
  if (check == NULL) return;
  process_kill(check->process, SIGKILL);
  release(check);
}
