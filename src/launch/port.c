#include "launch/port.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "process/tree.h"

/* ---- ranges ------------------------------------------------------------------------------------------------------ */

static bool read_port(const char *text, const char **ret_end, uint16_t *ret_port) {
  char *end;
  if (!isdigit((unsigned char)*text)) return false;
  errno = 0;
  unsigned long port = strtoul(text, &end, 10);
  if (errno != 0 || port < 1 || port > 65535) return false;
  *ret_end = end;
  *ret_port = (uint16_t)port;
  return true;
}

mu_status port_range_parse(const char *text, struct port_range *ret_range, mu_error *err) {
  struct port_range range = {0};
  const char *end = text;
  if (*text != '\0') {
    bool good = read_port(text, &end, &range.first);
    range.last = range.first;
    if (good && strcmp(end, "+") == 0) {
      range.open = true;
      range.last = 65535;
    } else if (good && *end == '-') {
      good = read_port(end + 1, &end, &range.last) && *end == '\0';
      if (good && range.last < range.first)
        return mu_fail(err, MU_INVALID, "the ports %.60s end before they begin", text);
    } else {
      good = good && *end == '\0';
    }
    if (!good)
      return mu_fail(err, MU_INVALID, "ports are 50051+, 50051-50066 or 50051, from 1 to 65535, not '%.60s'", text);
  }
  *ret_range = range;
  return MU_OK;
}

mu_status port_range_check(const struct port_range *range, uint32_t n, mu_error *err) {
  uint32_t room = (uint32_t)range->last - range->first + 1;
  if (range->first == 0 || n <= room) return MU_OK;
  if (range->open)
    return mu_fail(err, MU_INVALID, "%u services from port %u on need ports up to %u, beyond 65535", n, range->first,
                   range->first + n - 1);
  if (room == 1)
    return mu_fail(err, MU_INVALID, "one port (%u) for %u services: %u+ gives each its own", range->first, n,
                   range->first);
  return mu_fail(err, MU_INVALID, "the ports %u-%u are %u, for %u services", range->first, range->last, room, n);
}

/* ---- who has it -------------------------------------------------------------------------------------------------- */

/* The inode of a socket that listens on the port; 0: none in this table. */
static unsigned long find_listener(const char *table, uint16_t port) {
  enum { LISTENING = 0x0a };
  char line[512];
  unsigned long inode = 0;
  FILE *file = fopen(table, "re");
  if (file == NULL) return 0;
  while (inode == 0 && fgets(line, sizeof line, file) != NULL) {
    unsigned local, state;
    unsigned long found;
    if (sscanf(line, " %*d: %*[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x %*s %*s %*s %*u %*u %lu", &local, &state, &found) ==
            3 &&
        local == port && state == LISTENING)
      inode = found;
  }
  fclose(file);
  return inode;
}

static bool holds_socket(pid_t pid, const char *wanted) {
  char path[64], target[64];
  snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
  DIR *folder = opendir(path);
  bool found = false;
  if (folder == NULL) return false;
  for (const struct dirent *entry; !found && (entry = readdir(folder)) != NULL;) {
    ssize_t n = readlinkat(dirfd(folder), entry->d_name, target, sizeof target - 1);
    if (n <= 0) continue;
    target[n] = '\0';
    found = strcmp(target, wanted) == 0;
  }
  closedir(folder);
  return found;
}

/* 0: it cannot be seen. */
static pid_t find_owner(uint16_t port) {
  char wanted[64];
  struct process_tree tree;
  pid_t owner = 0;
  unsigned long inode = find_listener("/proc/net/tcp", port);
  if (inode == 0) inode = find_listener("/proc/net/tcp6", port);
  if (inode == 0 || process_tree_read(&tree, NULL) != MU_OK) return 0;
  snprintf(wanted, sizeof wanted, "socket:[%lu]", inode);
  for (size_t i = 0; owner == 0 && i < tree.n; i++)
    if (holds_socket(tree.entries[i].pid, wanted)) owner = tree.entries[i].pid;
  process_tree_free(&tree);
  return owner;
}

/* 0, or errno. REUSEADDR: connections of an earlier service that are not yet forgotten are no reason to fail. */
static int try_bind(int family, uint16_t port) {
  int one = 1, error = 0, fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
  struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
  bool six = family == AF_INET6;
  if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
      (six && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one) != 0) ||
      bind(fd, six ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4, six ? sizeof v6 : sizeof v4) != 0)
    error = errno;
  close(fd);
  return error;
}

mu_status port_check_free(uint16_t port, mu_error *err) {
  int error = try_bind(AF_INET, port);
  if (error == 0) error = try_bind(AF_INET6, port);
  if (error == 0 || error == EAFNOSUPPORT || error == EADDRNOTAVAIL) return MU_OK;
  if (error != EADDRINUSE) return mu_fail(err, MU_IO, "port %u cannot be used: %s", port, strerror(error));
  pid_t owner = find_owner(port);
  if (owner == 0) return mu_fail(err, MU_EXISTS, "port %u is in use (by whom cannot be seen)", port);
  char name[64];
  process_name(owner, name, sizeof name);
  return mu_fail(err, MU_EXISTS, "port %u is in use by process %d (%s)", port, (int)owner, name);
}
