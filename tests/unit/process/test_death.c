#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>
#include <signal.h>
#include <string.h>

#include "process/death.h"

static const struct row {
  const char *name;
  struct death_facts facts;
  bool blamed;
  const char *why; /* how it begins */
} rows[] = {
    {"own exit", {CLD_EXITED, 3, false, DEATH_UNASKED, ""}, true, "exited with status 3"},
    {"own exit with 0", {CLD_EXITED, 0, false, DEATH_UNASKED, ""}, true, "exited with status 0"},
    {"left as asked", {CLD_EXITED, 0, false, DEATH_STOPPED, ""}, false, "exited with status 0"},
    {"crash", {CLD_KILLED, SIGSEGV, false, DEATH_UNASKED, ""}, true, "killed by signal 11 (Segmentation fault)"},
    {"crash with core", {CLD_DUMPED, SIGABRT, false, DEATH_UNASKED, ""}, true, "killed by signal 6 (Aborted), core"},
    {"bus error", {CLD_DUMPED, SIGBUS, false, DEATH_UNASKED, ""}, true, "killed by signal 7 (Bus error)"},
    {"illegal", {CLD_KILLED, SIGILL, false, DEATH_UNASKED, ""}, true, "killed by signal 4"},
    {"arithmetic", {CLD_KILLED, SIGFPE, false, DEATH_UNASKED, ""}, true, "killed by signal 8"},
    {"sandbox", {CLD_KILLED, SIGSYS, false, DEATH_UNASKED, ""}, true, "killed by signal 31"},
    {"killed from outside", {CLD_KILLED, SIGKILL, false, DEATH_UNASKED, ""}, false, "killed by signal 9 (Killed)"},
    {"asked from outside", {CLD_KILLED, SIGTERM, false, DEATH_UNASKED, ""}, false, "killed by signal 15"},
    {"unknown signal", {CLD_KILLED, 63, false, DEATH_UNASKED, ""}, false, "killed by signal 63 (unknown signal)"},
    {"out of memory", {CLD_KILLED, SIGKILL, true, DEATH_UNASKED, ""}, true, "killed by the kernel: out of memory"},
    {"crash while others ran out of memory", {CLD_KILLED, SIGTERM, true, DEATH_UNASKED, ""}, false, "killed by signal"},
    {"hung", {CLD_KILLED, SIGKILL, false, DEATH_HUNG, "batch 5"}, true, "killed because it hung: batch 5"},
    {"broken", {CLD_KILLED, SIGKILL, false, DEATH_BROKEN, "ring"}, true, "killed because it broke the protocol: ring"},
    {"slow",
     {CLD_KILLED, SIGKILL, false, DEATH_TIMEOUT, "600 s"},
     true,
     "killed because it was not ready in time: 600"},
    {"unreachable", {CLD_KILLED, SIGKILL, false, DEATH_UNREACHABLE, "x"}, false, "killed because it could not be"},
    {"hung, and crashed before the kill", {CLD_DUMPED, SIGSEGV, false, DEATH_HUNG, "x"}, true, "killed by signal 11"},
    {"its GPU", {CLD_KILLED, SIGKILL, false, DEATH_GPU, "Xid 13"}, false, "killed because of its GPU: Xid 13"},
    {"its GPU, and it crashed", {CLD_DUMPED, SIGSEGV, false, DEATH_GPU, "x"}, false, "killed by signal 11"},
    {"its GPU, and it left", {CLD_EXITED, 1, false, DEATH_GPU, "x"}, false, "exited with status 1"},
    {"device lost", {CLD_EXITED, 1, false, DEATH_DEVICE_LOST, ""}, false, "exited with status 1"},
    {"stopped, killed", {CLD_KILLED, SIGKILL, true, DEATH_STOPPED, ""}, false, "killed by signal 9"},
};

static void every_end_is_judged(void **state) {
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct death death = death_judge(&rows[i].facts);
    if (death.blamed != rows[i].blamed || strncmp(death.why, rows[i].why, strlen(rows[i].why)) != 0)
      fail_msg("%s: blamed %d, \"%s\"", rows[i].name, death.blamed, death.why);
  }
}

static void a_long_cause_is_cut(void **state) {
  char cause[2000];
  memset(cause, 'x', sizeof cause - 1);
  cause[sizeof cause - 1] = '\0';
  struct death_facts facts = {CLD_KILLED, SIGKILL, false, DEATH_HUNG, cause};
  struct death death = death_judge(&facts);
  assert_int_equal(strlen(death.why), sizeof death.why - 1);
}

static void oom_kills_are_read_from_both_kinds_of_file(void **state) {
  assert_int_equal(oom_kills_parse("low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 5\n"), 4);
  assert_int_equal(oom_kills_parse("oom_kill_disable 1\nunder_oom 0\noom_kill 17\n"), 17);
  assert_int_equal(oom_kills_parse("oom_kill 8"), 8);
  assert_int_equal(oom_kills_parse("xoom_kill 8\n"), 0);
  assert_int_equal(oom_kills_parse(""), 0);
}

static void the_watch_works_on_any_system(void **state) {
  struct oom_watch watch;
  oom_watch_open(&watch);
  assert_false(oom_watch_poll(&watch)); /* nothing was killed here */
  oom_watch_close(&watch);
  assert_int_equal(watch.fd, -1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_end_is_judged),
      cmocka_unit_test(a_long_cause_is_cut),
      cmocka_unit_test(oom_kills_are_read_from_both_kinds_of_file),
      cmocka_unit_test(the_watch_works_on_any_system),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
