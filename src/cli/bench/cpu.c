#include "cli/bench/cpu.h"

#include "base/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool read_file(int pid, const char *name, char *text, size_t size) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
  FILE *file = fopen(path, "re");
  if (file == NULL) return false;
  size_t n = fread(text, 1, size - 1, file);
  fclose(file);
  text[n] = '\0';
  return n > 0;
}

/* utime and stime: fields 14 and 15 of /proc/PID/stat (proc(5)), counted behind the name, which may hold anything. */
static bool read_ticks(int pid, uint64_t *ret_user, uint64_t *ret_kernel) {
  char text[1024];
  if (!read_file(pid, "stat", text, sizeof text)) return false;
  const char *behind = strrchr(text, ')');
  return behind != NULL && sscanf(behind + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64,
                                  ret_user, ret_kernel) == 2;
}

static bool read_clock(clockid_t clock, uint64_t *ret_ns) {
  struct timespec time;
  if (clock_gettime(clock, &time) != 0) return false;
  *ret_ns = (uint64_t)time.tv_sec * NS_PER_S + (uint64_t)time.tv_nsec;
  return true;
}

mu_status cpu_watch_add(struct cpu_watch *watch, int pid, const char *label, mu_error *err) {
  struct cpu_process process = {.pid = pid};
  char name[64] = "";
  if (watch->n == CPU_PROCESSES_MAX)
    return mu_fail(err, MU_TOO_LARGE, "no more than %d processes can be watched", CPU_PROCESSES_MAX);
  if (clock_getcpuclockid(pid, &process.clock) != 0 || !read_clock(process.clock, &process.start_ns) ||
      !read_file(pid, "comm", name, sizeof name))
    return mu_fail(err, MU_NOT_FOUND, "there is no process %d", pid);
  name[strcspn(name, "\n")] = '\0';
  if (label != NULL)
    snprintf(process.label, sizeof process.label, "%s", label);
  else
    snprintf(process.label, sizeof process.label, "%s %d", name, pid);
  watch->processes[watch->n++] = process;
  return MU_OK;
}

void cpu_watch_clear(struct cpu_watch *watch) {
  for (size_t i = 0; i < watch->n; i++) {
    struct cpu_process *process = &watch->processes[i];
    process->used_ns = process->user_ticks = process->kernel_ticks = 0;
  }
}

void cpu_watch_start(struct cpu_watch *watch) {
  for (size_t i = 0; i < watch->n; i++) {
    struct cpu_process *process = &watch->processes[i];
    if (!read_ticks(process->pid, &process->start_user, &process->start_kernel) ||
        !read_clock(process->clock, &process->start_ns))
      process->gone = true;
  }
}

void cpu_watch_stop(struct cpu_watch *watch) {
  for (size_t i = 0; i < watch->n; i++) {
    struct cpu_process *process = &watch->processes[i];
    uint64_t ns, user, kernel;
    if (process->gone) continue;
    if (!read_clock(process->clock, &ns) || !read_ticks(process->pid, &user, &kernel)) {
      process->gone = true;
      continue;
    }
    process->used_ns += ns - process->start_ns;
    process->user_ticks += user - process->start_user;
    process->kernel_ticks += kernel - process->start_kernel;
  }
}

uint64_t cpu_process_user_ns(const struct cpu_process *process) {
  uint64_t ticks = process->user_ticks + process->kernel_ticks;
  return ticks > 0 ? (uint64_t)((double)process->used_ns * (double)process->user_ticks / (double)ticks) : 0;
}
