#include "net/peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>

static bool is_loopback_v4(in_addr_t address) { return ntohl(address) >> 24 == IN_LOOPBACKNET; }

bool address_is_local(const struct sockaddr *address) {
  const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)address;
  const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)address;
  switch (address->sa_family) {
    case AF_UNIX:
      return true;
    case AF_INET:
      return is_loopback_v4(v4->sin_addr.s_addr);
    case AF_INET6:
      if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) return is_loopback_v4(v6->sin6_addr.s6_addr32[3]);
      return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
    default:
      return false;
  }
}

bool peer_is_local(int fd, enum peer_place *place) {
  struct sockaddr_storage address = {0};
  socklen_t size = sizeof address;
  if (*place == PEER_UNASKED)
    *place = getpeername(fd, (struct sockaddr *)&address, &size) == 0 && address_is_local((struct sockaddr *)&address)
                 ? PEER_LOCAL
                 : PEER_REMOTE;
  return *place == PEER_LOCAL;
}
