#include "metrics/machine.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILE_BYTES = 4096 }; /* what is needed of both files stands at their beginning */

/* false: it cannot be read. */
static bool read_start(const char *proc, const char *name, char text[FILE_BYTES]) {
  char path[PATH_MAX];
  if (snprintf(path, sizeof path, "%s/%s", proc, name) >= (int)sizeof path) return false;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  size_t at = 0;
  ssize_t n;
  while (at < FILE_BYTES - 1 && (n = read(fd, text + at, FILE_BYTES - 1 - at)) > 0) at += (size_t)n;
  close(fd);
  text[at] = '\0';
  return at > 0;
}

/* The first line of /proc/stat: "cpu  user nice system idle iowait irq softirq steal …". */
static bool read_cpu(const char *proc, uint64_t *ret_busy, uint64_t *ret_idle) {
  char text[FILE_BYTES];
  unsigned long long t[8];
  if (!read_start(proc, "stat", text) || sscanf(text, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &t[0], &t[1],
                                                &t[2], &t[3], &t[4], &t[5], &t[6], &t[7]) != 8)
    return false;
  *ret_busy = t[0] + t[1] + t[2] + t[5] + t[6] + t[7];
  *ret_idle = t[3] + t[4];
  return true;
}

/* "MemTotal:       16384 kB" at the beginning of a line, in bytes. */
static bool find_kib(const char *text, const char *name, uint64_t *ret_bytes) {
  const char *at = strstr(text, name);
  if (at == NULL || (at != text && at[-1] != '\n')) return false;
  unsigned long long kib;
  if (sscanf(at + strlen(name), "%llu kB", &kib) != 1 || kib > UINT64_MAX / 1024) return false;
  *ret_bytes = kib * 1024;
  return true;
}

/* As Triton: used is what is not available, so that caches do not count. */
static bool read_memory(const char *proc, uint64_t *ret_total, uint64_t *ret_used) {
  char text[FILE_BYTES];
  uint64_t total, available;
  if (!read_start(proc, "meminfo", text) || !find_kib(text, "MemTotal:", &total) ||
      !find_kib(text, "MemAvailable:", &available) || available > total)
    return false;
  *ret_total = total;
  *ret_used = total - available;
  return true;
}

static uint64_t grown(uint64_t now, uint64_t before) { return now > before ? now - before : 0; }

void machine_look(struct machine *machine, const char *proc, uint64_t now_ns, uint64_t interval_ns) {
  bool first = machine->read_ns == 0;
  if (!first && now_ns - machine->read_ns < interval_ns) return;
  uint64_t busy, idle;
  machine->read = read_cpu(proc, &busy, &idle) && read_memory(proc, &machine->memory_total, &machine->memory_used);
  machine->read_ns = now_ns;
  if (!machine->read) return;
  uint64_t more_busy = grown(busy, machine->busy), more = more_busy + grown(idle, machine->idle);
  if (more > 0) machine->cpu_utilization = (double)more_busy / (double)more; /* the first time: since the boot */
  machine->busy = busy;
  machine->idle = idle;
}
