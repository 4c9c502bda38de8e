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
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/child.h"
#include "control/message.h"

/*
 * A child is this program again, in a role that main() looks up below. What a role finds out it says with
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

/* More than the link takes in one turn of the loop. */
enum { MANY = 100 };
static int role_talk(void) {
  for (int i = 0; i < MANY; i++) say("word");
  return 0;
}

/* Answers every message until the parent's end is closed. */
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
    {"exit", role_exit}, {"crash", role_crash},     {"wait", role_wait},
    {"echo", role_echo}, {"inspect", role_inspect}, {"talk", role_talk},
};

/* ---- the parent's side ------------------------------------------------------------------------------------------- */

struct fixture {
  struct net_loop *loop;
  struct child child;
  pid_t pid;
  char said[64]; /* the last message */
  int heard;     /* messages */
  int lost;      /* calls */
  int ended;     /* calls */
  int code, status;
};

static void on_message(void *context, struct control_packet *packet) {
  struct fixture *f = context;
  assert_int_equal(packet->type, CONTROL_FAILED);
  snprintf(f->said, sizeof f->said, "%s", packet->failed.message);
  f->heard++;
  net_loop_stop(f->loop);
}

static void on_lost(void *context, const mu_error *err) {
  struct fixture *f = context;
  f->lost++;
}

static void on_ended(void *context, int code, int status) {
  struct fixture *f = context;
  f->ended++;
  f->code = code;
  f->status = status;
  assert_false(child_runs(&f->child));
  net_loop_stop(f->loop);
}

static const struct child_events events = {on_message, on_lost, on_ended};

static void spawn(struct fixture *f, const char *role) {
  static const char *const variables[] = {"MUSTER_TEST_OWN=of the spec", "MUSTER_TEST_NEW=", NULL};
  const struct child_spec spec = {.title = "muster: test",
                                  .role = role,
                                  .log = {true, false, true, 7, true},
                                  .log_format = LOG_FORMAT_TEXT,
                                  .environment = variables};
  setenv("MUSTER_TEST_OWN", "of the parent", 1);
  setenv("MUSTER_TEST_OWNER", "of the parent", 1);
  mu_error err;
  if (child_start(&f->child, f->loop, &spec, &events, f, &err) != MU_OK) fail_msg("%s", err.message);
  f->pid = child_pid(&f->child);
}

static void assert_said(struct fixture *f, const char *text) {
  int before = f->heard;
  while (f->heard == before && f->ended == 0) net_loop_run(f->loop);
  assert_string_equal(f->said, text);
}

static void assert_ends(struct fixture *f, int code, int status) {
  while (f->ended == 0) net_loop_run(f->loop);
  assert_int_equal(f->ended, 1);
  if (f->code != CLD_DUMPED) assert_int_equal(f->code, code);
  assert_int_equal(f->status, status);
  /* reaped: nothing of it is left */
  assert_int_equal(waitpid(f->pid, NULL, WNOHANG), -1);
  assert_int_equal(errno, ECHILD);
}

static int setup(void **state) {
  struct fixture *f = calloc(1, sizeof *f);
  if (f == NULL) return -1;
  f->loop = net_loop_create();
  *state = f;
  return f->loop != NULL ? 0 : -1;
}

static int teardown(void **state) {
  struct fixture *f = *state;
  child_forget(&f->child);
  net_loop_free(f->loop);
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
  kill(f->pid, SIGTERM);
  kill(f->pid, SIGINT);
  child_kill(&f->child);
  child_kill(&f->child); /* once is enough, twice no harm */
  assert_ends(f, CLD_KILLED, SIGKILL);
  child_kill(&f->child);
}

static void messages_go_both_ways(void **state) {
  struct fixture *f = *state;
  spawn(f, "echo");
  assert_int_equal(child_send(&f->child, CONTROL_STOP, NULL, NULL, 0), MU_OK);
  assert_said(f, "STOP");
  child_hang_up(&f->child); /* as when the parent dies */
  assert_int_equal(child_send(&f->child, CONTROL_STOP, NULL, NULL, 0), MU_CANCELED);
  assert_ends(f, CLD_EXITED, 7);
  assert_int_equal(f->lost, 0); /* its own doing */
}

static void last_words_come_before_the_end(void **state) {
  struct fixture *f = *state;
  siginfo_t info;
  spawn(f, "talk");
  assert_int_equal(waitid(P_PID, (id_t)f->pid, &info, WEXITED | WNOWAIT), 0); /* both are there at once */
  assert_ends(f, CLD_EXITED, 0);
  assert_int_equal(f->heard, MANY);
}

static void another_one_in_the_same_place(void **state) {
  struct fixture *f = *state;
  spawn(f, "exit");
  assert_ends(f, CLD_EXITED, 42);
  f->ended = 0;
  spawn(f, "wait");
  assert_said(f, "here");
  child_kill(&f->child);
  assert_ends(f, CLD_KILLED, SIGKILL);
}

/* As when this program becomes another one: the child is let go of, and watched again by what stays open. */
static void an_adopted_child_is_as_its_own(void **state) {
  struct fixture *f = *state;
  mu_error err;
  spawn(f, "echo");
  assert_true(child_flushed(&f->child));
  struct child_handle handle = child_give(&f->child);
  assert_int_equal(handle.pid, f->pid);
  handle.pidfd = dup(handle.pidfd);
  handle.control = dup(handle.control);
  child_forget(&f->child);
  assert_int_equal(child_give(&f->child).pid, 0);
  if (child_adopt(&f->child, f->loop, handle.pid, handle.pidfd, handle.control, &events, f, &err) != MU_OK)
    fail_msg("%s", err.message);
  child_stop(&f->child);
  assert_said(f, "STOP");
  child_hang_up(&f->child);
  assert_int_equal(child_give(&f->child).pid, 0); /* nobody could speak to it */
  assert_false(child_flushed(&f->child));
  assert_ends(f, CLD_EXITED, 7);
}

static void one_that_is_only_waited_for(void **state) {
  struct fixture *f = *state;
  mu_error err;
  spawn(f, "echo");
  int pidfd = dup(child_give(&f->child).pidfd);
  child_forget(&f->child); /* closes the link: it leaves */
  if (child_adopt(&f->child, f->loop, f->pid, pidfd, -1, &events, f, &err) != MU_OK) fail_msg("%s", err.message);
  assert_ends(f, CLD_EXITED, 7);
}

/* What fails leaves nothing behind: no descriptor, no child. */
static void nothing_is_left_of_a_failed_start(void **state) {
  struct fixture *f = *state;
  struct rlimit before, few;
  mu_error err;
  const struct child_spec spec = {.title = "muster: test", .role = "exit", .log_format = LOG_FORMAT_TEXT};
  int first = dup(0);
  getrlimit(RLIMIT_NOFILE, &before);
  for (rlim_t more = 0; more < 3; more++) { /* for the sockets, and then for the process */
    few = (struct rlimit){(rlim_t)first + more, before.rlim_max};
    setrlimit(RLIMIT_NOFILE, &few);
    mu_status status = child_start(&f->child, f->loop, &spec, &events, f, &err);
    setrlimit(RLIMIT_NOFILE, &before);
    assert_int_equal(status, MU_IO);
    assert_false(child_runs(&f->child));
    assert_null(f->child.link);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
  }
  close(first);
  int again = dup(0);
  assert_int_equal(again, first);
  close(again);
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
  snprintf(path, sizeof path, "/proc/%d/cmdline", f->pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  assert_true(read(fd, text, sizeof text - 1) > 0);
  close(fd);
  assert_string_equal(text, "muster: test");
  child_kill(&f->child);
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
      TEST(an_exit_is_seen),
      TEST(a_crash_is_seen),
      TEST(a_kill_works_where_sigterm_does_not),
      TEST(messages_go_both_ways),
      TEST(last_words_come_before_the_end),
      TEST(another_one_in_the_same_place),
      TEST(an_adopted_child_is_as_its_own),
      TEST(one_that_is_only_waited_for),
      TEST(nothing_is_left_of_a_failed_start),
      TEST(a_child_starts_clean),
      TEST(its_title_is_its_command_line),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
