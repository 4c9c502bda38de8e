/*
 * Files that traces are written to. The gateway, which is fenced in, cannot open them: here they are opened, under
 * names that only the server's own settings say, and their descriptors given away. The common file is one JSON array,
 * whoever has written to it and however many gateways there were: its brackets are written here, each trace ends with a
 * comma, and the last comma goes when everybody has left.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/trace_config.h"
#include "supervisor/state.h"

/* Never a device, a pipe or what a link points to; never waits. */
static int open_file(const char *path, int flags, mu_error *err) {
  struct stat facts;
  int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | flags, 0640);
  if (fd < 0) {
    mu_fail(err, MU_IO, "%s: %s", path, strerror(errno));
    return -1;
  }
  if (fstat(fd, &facts) == 0 && S_ISREG(facts.st_mode)) return fd;
  mu_fail(err, MU_INVALID, "%s is not a regular file", path);
  close(fd);
  return -1;
}

/* The supervisor's own descriptor of the common file, opened when it is first asked for; -1 with err. */
static int common_file(struct supervisor *s, const char *path, mu_error *err) {
  struct stat facts;
  if (s->trace_file >= 0) return s->trace_file;
  int fd = open_file(path, s->trace_begun ? 0 : O_TRUNC, err);
  if (fd < 0) return -1;
  bool empty = fstat(fd, &facts) == 0 && facts.st_size == 0;
  if (empty && write(fd, "[\n", 2) != 2) {
    mu_fail(err, MU_IO, "%s: %s", path, strerror(errno));
    close(fd);
    return -1;
  }
  s->trace_begun = true;
  s->trace_file = fd;
  return fd;
}

static int numbered_file(struct supervisor *s, const char *path, mu_error *err) {
  char name[PATH_MAX];
  if (snprintf(name, sizeof name, "%s.%u", path, s->trace_files) >= (int)sizeof name) {
    mu_fail(err, MU_INVALID, "the path of the trace file is too long");
    return -1;
  }
  int fd = open_file(name, O_TRUNC, err);
  if (fd >= 0) s->trace_files++;
  return fd;
}

void trace_file_open(struct supervisor *s, struct gateway *gateway, bool numbered) {
  struct trace_config config;
  mu_error err = {""};
  int fd = -1;
  mu_status status = trace_config_read(s->options, &config, &err);
  if (status == MU_OK && config.file[0] == '\0') status = mu_fail(&err, MU_INVALID, "there is no trace file");
  if (status == MU_OK) fd = numbered ? numbered_file(s, config.file, &err) : common_file(s, config.file, &err);
  const struct control_trace_file message = {numbered, err.message};
  gateway_tell(gateway, CONTROL_TRACE_FILE, &message, &fd, fd >= 0);
  if (numbered && fd >= 0) close(fd);
}

/* The bracket at the end, in place of the last comma. */
static void finish(int fd) {
  char last[2];
  struct stat facts;
  if (fstat(fd, &facts) != 0 || facts.st_size < 2 || pread(fd, last, 2, facts.st_size - 2) != 2) return;
  if (memcmp(last, ",\n", 2) == 0 && ftruncate(fd, facts.st_size - 2) != 0) return;
  if (write(fd, "\n]\n", 3) != 3)
    LOG_WARNING("the trace file could not be finished", LOG_STR("error", strerror(errno)));
}

void trace_file_close(struct supervisor *s) {
  struct trace_config config;
  mu_error err;
  /* after an upgrade nobody may have asked for it again */
  if (s->trace_begun && s->trace_file < 0 && trace_config_read(s->options, &config, &err) == MU_OK)
    (void)common_file(s, config.file, &err);
  if (s->trace_file < 0) return;
  finish(s->trace_file);
  close(s->trace_file);
  s->trace_file = -1;
}
