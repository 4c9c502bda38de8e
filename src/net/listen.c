/*
 * Opening listening sockets. A port that several loops share needs SO_REUSEPORT, with which a second server would join
 * in without a word; so a port is first probed without it. Between probe and listen nothing may come in between: all
 * of it happens under a lock that reaches as far as the ports do, the network namespace, which is where abstract Unix
 * sockets live too.
 */
#include "base/clock.h"
#include "net/http_server.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define LOCK_NAME "muster-listen"
#define LOCK_MOST_NS (10 * NS_PER_S) /* opening sockets takes milliseconds */

/* ---- the lock ---------------------------------------------------------------------------------------------------- */

static mu_status lock_take(int *ret_fd, mu_error *err) {
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  memcpy(name.sun_path + 1, LOCK_NAME, sizeof LOCK_NAME - 1); /* a leading NUL: abstract, gone with its owner */
  socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + sizeof LOCK_NAME);
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return mu_fail(err, MU_IO, "cannot make a socket: %s", strerror(errno));
  uint64_t end = clock_now_ns() + LOCK_MOST_NS;
  while (bind(fd, (struct sockaddr *)&name, size) != 0) {
    int error = errno;
    if (error == EADDRINUSE && clock_now_ns() < end) {
      nanosleep(&(struct timespec){.tv_nsec = 5 * NS_PER_MS}, NULL);
      continue;
    }
    close(fd);
    if (error == EADDRINUSE) return mu_fail(err, MU_UNAVAILABLE, "another muster is opening ports and does not finish");
    return mu_fail(err, MU_IO, "cannot take the lock for opening ports: %s", strerror(error));
  }
  *ret_fd = fd;
  return MU_OK;
}

static void lock_release(int fd) { close(fd); }

/* ---- TCP --------------------------------------------------------------------------------------------------------- */

/* A bound socket; -1 with errno. */
static int bound_socket(const struct addrinfo *address, uint16_t port, bool reuse_port) {
  int one = 1, zero = 0, fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  struct sockaddr_storage name = {0};
  memcpy(&name, address->ai_addr, address->ai_addrlen);
  if (address->ai_family == AF_INET6)
    ((struct sockaddr_in6 *)&name)->sin6_port = htons(port);
  else
    ((struct sockaddr_in *)&name)->sin_port = htons(port);
  /* REUSEADDR: connections of an earlier server that are not yet forgotten (TIME_WAIT) are no reason to fail. */
  bool ok = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 &&
            (!reuse_port || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) == 0) &&
            (address->ai_family != AF_INET6 || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero) == 0) &&
            bind(fd, (struct sockaddr *)&name, address->ai_addrlen) == 0;
  if (ok) return fd;
  int error = errno;
  close(fd);
  errno = error;
  return -1;
}

static uint16_t port_of(int fd) {
  struct sockaddr_storage name = {0};
  socklen_t size = sizeof name;
  if (getsockname(fd, (struct sockaddr *)&name, &size) != 0) return 0;
  return ntohs(name.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&name)->sin6_port
                                          : ((struct sockaddr_in *)&name)->sin_port);
}

/* Opens all sockets, or none and returns false with errno. *port 0 becomes the one that the first socket got. */
static bool open_sockets(const struct addrinfo *address, uint16_t *port, uint32_t n_sockets, int *ret_fds) {
  if (*port != 0) {
    int probe = bound_socket(address, *port, false);
    if (probe < 0) return false;
    close(probe);
  }
  for (uint32_t i = 0; i < n_sockets; i++) {
    ret_fds[i] = bound_socket(address, *port, true);
    if (ret_fds[i] >= 0 && *port == 0) *port = port_of(ret_fds[i]);
    if (ret_fds[i] >= 0 && listen(ret_fds[i], SOMAXCONN) == 0) continue;
    int error = errno;
    for (uint32_t j = 0; j <= i; j++)
      if (ret_fds[j] >= 0) close(ret_fds[j]);
    errno = error;
    return false;
  }
  return true;
}

static mu_status fail_tcp(const char *address, uint16_t port, int error, mu_error *err) {
  if (error == EADDRINUSE) return mu_fail(err, MU_EXISTS, "port %u on %s is in use", port, address);
  if (error == EADDRNOTAVAIL)
    return mu_fail(err, MU_INVALID, "%s is not an address of this machine (port %u)", address, port);
  return mu_fail(err, MU_IO, "cannot listen on port %u of %s: %s", port, address, strerror(error));
}

/* A name that has addresses of both families is served by its IPv4 one: what a client tries that knows only one. */
static const struct addrinfo *choose_address(const struct addrinfo *found) {
  for (const struct addrinfo *at = found; at != NULL; at = at->ai_next)
    if (at->ai_family == AF_INET) return at;
  return found;
}

mu_status listen_tcp(const char *address, uint16_t port, uint32_t n_sockets, int *ret_fds, uint16_t *ret_port,
                     mu_error *err) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
  int result = getaddrinfo(address, NULL, &hints, &found);
  if (result == EAI_MEMORY) return mu_fail(err, MU_NO_MEMORY, "no memory to resolve %s", address);
  if (result != 0) return mu_fail(err, MU_INVALID, "bad address %s: %s", address, gai_strerror(result));
  int lock = -1;
  mu_status status = lock_take(&lock, err);
  if (status == MU_OK) {
    uint16_t bound = port;
    if (open_sockets(choose_address(found), &bound, n_sockets, ret_fds))
      *ret_port = bound;
    else
      status = fail_tcp(address, port, errno, err);
    lock_release(lock);
  }
  freeaddrinfo(found);
  return status;
}

/* ---- Unix -------------------------------------------------------------------------------------------------------- */

/* Does somebody listen there? MU_NOT_FOUND: nobody, and the file is a socket that may go. */
static mu_status probe_unix(const struct sockaddr_un *name, mu_error *err) {
  struct stat file;
  if (lstat(name->sun_path, &file) != 0)
    return errno == ENOENT ? MU_NOT_FOUND
                           : mu_fail(err, MU_IO, "cannot look at %s: %s", name->sun_path, strerror(errno));
  if (!S_ISSOCK(file.st_mode)) return mu_fail(err, MU_EXISTS, "%s exists and is no socket", name->sun_path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return mu_fail(err, MU_IO, "cannot make a socket: %s", strerror(errno));
  int error = connect(fd, (const struct sockaddr *)name, sizeof *name) == 0 ? 0 : errno;
  close(fd);
  if (error == ECONNREFUSED) return MU_NOT_FOUND;
  if (error == 0 || error == EAGAIN || error == EINPROGRESS)
    return mu_fail(err, MU_EXISTS, "somebody listens on %s already", name->sun_path);
  return mu_fail(err, MU_IO, "cannot see who listens on %s: %s", name->sun_path, strerror(error));
}

static mu_status open_unix(const struct sockaddr_un *name, int *ret_fd, mu_error *err) {
  mu_status status = probe_unix(name, err);
  if (status != MU_NOT_FOUND) return status;
  if (unlink(name->sun_path) != 0 && errno != ENOENT)
    return mu_fail(err, MU_IO, "cannot make %s: %s", name->sun_path, strerror(errno));
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return mu_fail(err, MU_IO, "cannot make a socket: %s", strerror(errno));
  /* The file takes its mode from the socket, so that it is never open to others, not even for a moment. */
  if (fchmod(fd, 0600) == 0 && bind(fd, (const struct sockaddr *)name, sizeof *name) == 0 &&
      listen(fd, SOMAXCONN) == 0) {
    *ret_fd = fd;
    return MU_OK;
  }
  int error = errno;
  close(fd);
  return mu_fail(err, MU_IO, "cannot listen on %s: %s", name->sun_path, strerror(error));
}

mu_status listen_unix(const char *path, int *ret_fd, mu_error *err) {
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  if (path[0] == '\0' || strlen(path) >= sizeof name.sun_path)
    return mu_fail(err, MU_INVALID, "the path of a Unix socket has 1 to %zu bytes: %s", sizeof name.sun_path - 1, path);
  memcpy(name.sun_path, path, strlen(path));
  int lock = -1;
  mu_status status = lock_take(&lock, err);
  if (status != MU_OK) return status;
  status = open_unix(&name, ret_fd, err);
  lock_release(lock);
  return status;
}
