#include "cli/bench/echo.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PEER_BYTES = 256 * 1024, EVENTS = 256 };

struct peer {
  int fd;
  bool sending;
  size_t from, to, room; /* what came, and is still to be sent back; all that there is place for */
  char bytes[];
};

static void accept_peers(int listener, int epoll, size_t least) {
  size_t room = least > PEER_BYTES ? least : PEER_BYTES;
  for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
    struct peer *peer = malloc(sizeof *peer + room);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = peer};
    if (peer == NULL) {
      close(fd);
      continue;
    }
    *peer = (struct peer){.fd = fd, .room = room};
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0) continue;
    close(fd);
    free(peer);
  }
}

/* Until neither reading nor writing goes on. least: what has to be there before any of it is sent back. false: the peer
 * has gone. */
static bool serve_peer(struct peer *peer, size_t least, bool ends) {
  bool drained = false; /* nothing more to read: what comes later brings an event of its own */
  for (;;) {
    while (peer->sending && peer->from < peer->to) {
      ssize_t n = send(peer->fd, peer->bytes + peer->from, peer->to - peer->from, MSG_NOSIGNAL);
      if (n < 0) return errno == EAGAIN;
      peer->from += (size_t)n;
    }
    if (peer->sending) peer->from = peer->to = 0;
    peer->sending = false;
    if (drained && !ends) return true;
    size_t room = peer->room - peer->to;
    ssize_t n = recv(peer->fd, peer->bytes + peer->to, room, 0);
    if (n <= 0) return n < 0 && errno == EAGAIN;
    drained = (size_t)n < room;
    peer->to += (size_t)n;
    peer->sending = peer->to >= least;
  }
}

static mu_status listen_at(const char *where, int *ret_fd, mu_error *err) {
  const char *colon = strrchr(where, ':'), *port = colon != NULL ? colon + 1 : where;
  char host[256] = "127.0.0.1";
  if (colon != NULL) snprintf(host, sizeof host, "%.*s", (int)(colon - where), where);
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found;
  int failed = getaddrinfo(host, port, &hints, &found);
  if (failed != 0)
    return mu_fail(err, MU_INVALID, "--echo wants [HOST:]PORT, not '%s': %s", where, gai_strerror(failed));
  int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  bool listening = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)) == 0 &&
                   bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0;
  struct sockaddr_storage address;
  socklen_t size = sizeof address;
  if (listening) listening = getsockname(fd, (struct sockaddr *)&address, &size) == 0;
  freeaddrinfo(found);
  if (!listening) {
    mu_status status = mu_fail(err, MU_IO, "%s: %s", where, strerror(errno));
    if (fd >= 0) close(fd);
    return status;
  }
  /* the port stands at the same place in both families */
  printf("%s:%d\n", host, ntohs(((struct sockaddr_in *)&address)->sin_port));
  fflush(stdout);
  *ret_fd = fd;
  return MU_OK;
}

mu_status echo_serve(const char *where, size_t least, mu_error *err) {
  int listener = -1, epoll = epoll_create1(EPOLL_CLOEXEC);
  mu_status status = listen_at(where, &listener, err);
  if (status != MU_OK) return status;
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS];
  if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) != 0)
    return mu_fail(err, MU_IO, "epoll: %s", strerror(errno));
  for (;;) {
    int n = epoll_wait(epoll, events, EVENTS, -1);
    if (n < 0 && errno != EINTR) return mu_fail(err, MU_IO, "epoll: %s", strerror(errno));
    for (int i = 0; i < n; i++) {
      struct peer *peer = events[i].data.ptr;
      if (peer == NULL) {
        accept_peers(listener, epoll, least);
      } else if (!serve_peer(peer, least, (events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)) {
        close(peer->fd);
        free(peer);
      }
    }
  }
}
