#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/message.h"
#include "control/role.h"

/*
 * A spawned process is this program again, in a role that main() looks up below. What a role finds out it says with
 * CONTROL_FAILED on its control socket, descriptor 3.
 */

enum { CONTROL = 3 };

static void say(const char *text) {
  const struct control_failed message = {MU_OK, text};
  if (control_send(CONTROL, CONTROL_FAILED, &message, NULL, 0, NULL) != MU_OK) _exit(99);
}

static int role_exit(void) { return 42; }

static int role_crash(void) {
  signal(SIGSEGV, SIG_DFL); /* a sanitizer has a handler there */
  raise(SIGSEGV);
  return 0;
}

static int role_wait(void) {
  say("here");
  while (pause() < 0) continue;
  return 0;
}

/* Answers every message until the supervisor's end is closed. */
static int role_echo(void) {
  struct control_packet packet;
  while (control_receive(CONTROL, &packet, NULL) == MU_OK) {
    say(control_type_name(packet.type));
    control_packet_free(&packet);
  }
  return 7;
}

static const char *wrong_descriptor(void) {
  static char text[64];
  for (int fd = 0; fd < 1024; fd++) {
    bool open = fcntl(fd, F_GETFD) >= 0;
    if (open == (fd <= CONTROL)) continue;
    snprintf(text, sizeof text, "descriptor %d is %s", fd, open ? "open" : "closed");
    return text;
  }
  char byte;
  return read(STDIN_FILENO, &byte, 1) == 0 ? NULL : "standard input is not empty";
}

static const char *wrong_signal(void) {
  static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
  for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++) {
    struct sigaction action;
    if (sigaction(ignored[i], NULL, &action) != 0 || action.sa_handler != SIG_IGN) return "a signal is not ignored";
  }
  sigset_t blocked;
  sigprocmask(SIG_SETMASK, NULL, &blocked);
  for (int i = 1; i < SIGRTMIN; i++)
    if (sigismember(&blocked, i) == 1) return "a signal is blocked";
  int on_death = 0;
  prctl(PR_GET_PDEATHSIG, &on_death);
  return on_death == SIGKILL ? NULL : "it would outlive the supervisor";
}

static int role_inspect(void) {
  const char *wrong = wrong_descriptor();
  if (wrong == NULL) wrong = wrong_signal();
  const char *log = getenv("MUSTER_ROLE_LOG");
  if (wrong == NULL && (log == NULL || strcmp(log, "1:0:1:7:1:1") != 0)) wrong = "MUSTER_ROLE_LOG is wrong";
  if (wrong == NULL && getenv("PROCESS_TEST") == NULL) wrong = "the environment is lost";
  const char *own = getenv("MUSTER_TEST_OWN"), *added = getenv("MUSTER_TEST_NEW"), *owner = getenv("MUSTER_TEST_OWNER");
  if (wrong == NULL && (own == NULL || strcmp(own, "of the spec") != 0)) wrong = "a variable was not replaced";
  if (wrong == NULL && (added == NULL || added[0] != '\0')) wrong = "a variable was not added";
  if (wrong == NULL && (owner == NULL || strcmp(owner, "of the parent") != 0))
    wrong = "a variable too many was replaced";
  say(wrong == NULL ? "all is well" : wrong);
  return 0;
}

static const struct {
  const char *name;
  int (*run)(void);
} roles[] = {
    {"exit", role_exit}, {"crash", role_crash}, {"wait", role_wait}, {"echo", role_echo}, {"inspect", role_inspect},
};

/* ---- the supervisor's side --------------------------------------------------------------------------------------- */

struct fixture {
  struct net_loop *loop;
  struct process *process;
  int control;
  int ended; /* calls */
  int code, status;
};

static void on_ended(void *context, int code, int status) {
  struct fixture *f = context;
  f->ended++;
  f->code = code;
  f->status = status;
  net_loop_stop(f->loop);
}

static void spawn(struct fixture *f, const char *role) {
  static const char *const variables[] = {"MUSTER_TEST_OWN=of the spec", "MUSTER_TEST_NEW=", NULL};
  const struct process_spec spec = {.title = "muster: test",
                                    .role = role,
                                    .log = {true, false, true, 7, true},
                                    .log_format = LOG_FORMAT_TEXT,
                                    .environment = variables};
  setenv("MUSTER_TEST_OWN", "of the parent", 1);
  setenv("MUSTER_TEST_OWNER", "of the parent", 1);
  mu_error err;
  if (process_spawn(f->loop, &spec, on_ended, f, &f->process, &f->control, &err) != MU_OK) fail_msg("%s", err.message);
}

static void assert_said(struct fixture *f, const char *text) {
  struct control_packet packet;
  mu_error err;
  if (control_receive(f->control, &packet, &err) != MU_OK) fail_msg("%s", err.message);
  assert_int_equal(packet.type, CONTROL_FAILED);
  assert_string_equal(packet.failed.message, text);
  control_packet_free(&packet);
}

static void assert_ends(struct fixture *f, int code, int status) {
  net_loop_run(f->loop);
  assert_int_equal(f->ended, 1);
  if (f->code != CLD_DUMPED) assert_int_equal(f->code, code);
  assert_int_equal(f->status, status);
  /* reaped: nothing of it is left */
  assert_int_equal(waitpid(process_pid(f->process), NULL, WNOHANG), -1);
  assert_int_equal(errno, ECHILD);
}

static int setup(void **state) {
  struct fixture *f = calloc(1, sizeof *f);
  if (f == NULL) return -1;
  f->control = -1;
  f->loop = net_loop_create();
  *state = f;
  return f->loop != NULL ? 0 : -1;
}

static int teardown(void **state) {
  struct fixture *f = *state;
  process_free(f->process);
  net_loop_free(f->loop);
  if (f->control >= 0) close(f->control);
  free(f);
  return 0;
}

static void an_exit_is_seen(void **state) {
  spawn(*state, "exit");
  assert_ends(*state, CLD_EXITED, 42);
}

static void a_crash_is_seen(void **state) {
  spawn(*state, "crash");
  assert_ends(*state, CLD_KILLED, SIGSEGV);
}

static void a_kill_works_where_sigterm_does_not(void **state) {
  struct fixture *f = *state;
  spawn(f, "wait");
  assert_said(f, "here");
  process_kill(f->process, SIGTERM);
  process_kill(f->process, SIGINT);
  process_kill(f->process, SIGKILL);
  assert_ends(f, CLD_KILLED, SIGKILL);
  process_kill(f->process, SIGKILL); /* harmless now */
}

static void messages_go_both_ways(void **state) {
  struct fixture *f = *state;
  spawn(f, "echo");
  assert_int_equal(control_send(f->control, CONTROL_STOP, NULL, NULL, 0, NULL), MU_OK);
  assert_said(f, "STOP");
  close(f->control); /* as when the supervisor dies */
  f->control = -1;
  assert_ends(f, CLD_EXITED, 7);
}

static void a_child_starts_clean(void **state) {
  struct fixture *f = *state;
  /* what a careless parent of the supervisor, and the supervisor's own state, could leave to it */
  int careless = open("/dev/null", O_RDONLY);
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR1);
  sigprocmask(SIG_BLOCK, &blocked, &before);
  setenv("MUSTER_ROLE_LOG", "9:9", 1);
  setenv("PROCESS_TEST", "1", 1);
  spawn(f, "inspect");
  assert_said(f, "all is well");
  assert_ends(f, CLD_EXITED, 0);
  sigset_t after;
  sigprocmask(SIG_SETMASK, &before, &after);
  assert_int_equal(sigismember(&after, SIGUSR1), 1); /* and the supervisor's own mask is as it was */
  assert_int_equal(sigismember(&after, SIGUSR2), 0);
  close(careless);
}

static void its_title_is_its_command_line(void **state) {
  struct fixture *f = *state;
  spawn(f, "wait");
  assert_said(f, "here");
  char path[64], text[64] = "";
  snprintf(path, sizeof path, "/proc/%d/cmdline", process_pid(f->process));
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  assert_true(read(fd, text, sizeof text - 1) > 0);
  close(fd);
  assert_string_equal(text, "muster: test");
  process_kill(f->process, SIGKILL);
  assert_ends(f, CLD_KILLED, SIGKILL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv) {
  if (argc == 3 && strcmp(argv[1], "--role") == 0) {
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
      if (strcmp(argv[2], roles[i].name) == 0) return roles[i].run();
    return 98;
  }
  const struct CMUnitTest tests[] = {
      TEST(an_exit_is_seen),       TEST(a_crash_is_seen),      TEST(a_kill_works_where_sigterm_does_not),
      TEST(messages_go_both_ways), TEST(a_child_starts_clean), TEST(its_title_is_its_command_line),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
