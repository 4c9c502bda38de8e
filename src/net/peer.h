/* Where the other end of a connection sits. */
#ifndef NET_PEER_H
#define NET_PEER_H

#include <stdbool.h>
#include <sys/socket.h>

/* Of a connection, asked for when somebody first wants to know. */
enum peer_place { PEER_UNASKED, PEER_LOCAL, PEER_REMOTE };

/* The connected socket's peer; remembered in *place. One that cannot be asked counts as remote. */
bool peer_is_local(int fd, enum peer_place *place);

/* A Unix socket, or an address that only this machine reaches: 127.0.0.0/8, ::1, and the former written as the latter
 * (::ffff:127.0.0.1). */
bool address_is_local(const struct sockaddr *address);

#endif
