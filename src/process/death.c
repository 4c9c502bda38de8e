#include "process/death.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "process/memory_group.h"

/* Signals that a process brings on itself. SIGKILL, SIGTERM and the like come from somebody else. */
static const int own_signals[] = {SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE, SIGSYS};

static bool is_own_signal(int signal) {
  for (size_t i = 0; i < sizeof own_signals / sizeof own_signals[0]; i++)
    if (own_signals[i] == signal) return true;
  return false;
}

static const struct {
  bool blamed;        /* when it was killed for that */
  bool excused;       /* however else it ended: no blame */
  const char *killed; /* what is said before the cause when it was killed for that; NULL: nothing of its own */
} wishes[] = {
    [DEATH_UNASKED] = {false, false, NULL},
    [DEATH_STOPPED] = {false, false, NULL},
    [DEATH_HUNG] = {true, false, "killed because it hung"},
    [DEATH_BROKEN] = {true, false, "killed because it broke the protocol"},
    [DEATH_TIMEOUT] = {true, false, "killed because it was not ready in time"},
    [DEATH_UNREACHABLE] = {false, false, "killed because it could not be reached"},
    [DEATH_GPU] = {false, true, "killed because of its GPU"},
    [DEATH_DEVICE_LOST] = {false, true, NULL},
};

static void describe_signal(const struct death_facts *facts, struct death *death) {
  const char *name = sigdescr_np(facts->status);
  snprintf(death->why, sizeof death->why, "killed by signal %d (%s)%s", facts->status,
           name != NULL ? name : "unknown signal", facts->code == CLD_DUMPED ? ", core dumped" : "");
}

struct death death_judge(const struct death_facts *facts) {
  struct death death = {.blamed = false};
  bool killed = facts->code == CLD_KILLED && facts->status == SIGKILL;
  if (facts->code == CLD_EXITED) {
    death.blamed = facts->wish != DEATH_STOPPED && !wishes[facts->wish].excused;
    snprintf(death.why, sizeof death.why, "exited with status %d", facts->status);
  } else if (killed && wishes[facts->wish].killed != NULL) {
    death.blamed = wishes[facts->wish].blamed;
    snprintf(death.why, sizeof death.why, "%s: %s", wishes[facts->wish].killed, facts->wish_cause);
  } else if (killed && facts->wish == DEATH_UNASKED && facts->out_of_memory) {
    death.blamed = true;
    snprintf(death.why, sizeof death.why, "killed by the kernel: out of memory");
  } else {
    death.blamed = is_own_signal(facts->status) && !wishes[facts->wish].excused;
    describe_signal(facts, &death);
  }
  return death;
}

/* ---- out of memory ----------------------------------------------------------------------------------------------- */

uint64_t oom_kills_parse(const char *text) {
  static const char key[] = "oom_kill ";
  for (const char *line = text; line != NULL;) {
    if (strncmp(line, key, sizeof key - 1) == 0) return strtoull(line + sizeof key - 1, NULL, 10);
    line = strchr(line, '\n');
    if (line != NULL) line++;
  }
  return 0;
}

/* A few small pseudo files; what does not fit is of no interest. */
static bool read_text(int fd, char *text, size_t size) {
  ssize_t n = pread(fd, text, size - 1, 0);
  if (n < 0) return false;
  text[n] = '\0';
  return true;
}

static int open_events(const char *controller, const char *mount, const char *file) {
  char text[4096], path[4096 + 64];
  int groups = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
  if (groups < 0) return -1;
  const char *group = read_text(groups, text, sizeof text) ? memory_group_path(text, controller) : NULL;
  close(groups);
  if (group == NULL) return -1;
  snprintf(path, sizeof path, "%s%s/%s", mount, strcmp(group, "/") == 0 ? "" : group, file);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd >= 0) return fd;
  /* in a container the group's own folder is often what is mounted */
  snprintf(path, sizeof path, "%s/%s", mount, file);
  return open(path, O_RDONLY | O_CLOEXEC);
}

static uint64_t count_kills(const struct oom_watch *watch) {
  char text[4096];
  return watch->fd >= 0 && read_text(watch->fd, text, sizeof text) ? oom_kills_parse(text) : 0;
}

void oom_watch_open(struct oom_watch *watch) {
  watch->fd = open_events("", "/sys/fs/cgroup", "memory.events");
  if (watch->fd < 0) watch->fd = open_events("memory", "/sys/fs/cgroup/memory", "memory.oom_control");
  watch->kills = count_kills(watch);
}

bool oom_watch_poll(struct oom_watch *watch) {
  uint64_t kills = count_kills(watch);
  bool more = kills > watch->kills;
  watch->kills = kills;
  return more;
}

void oom_watch_close(struct oom_watch *watch) {
  if (watch->fd >= 0) close(watch->fd);
  watch->fd = -1;
}
