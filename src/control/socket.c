/* Control messages on a socket: one message a packet, its file descriptors beside it. */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/message.h"

/* The buffer counts the kernel's own bookkeeping too: room for several of the largest packets. */
enum { SOCKET_BUFFER = 4 * CONTROL_PACKET_MAX };

/* As large as allowed: past the system's limit where the process may, else up to it. Not more is not an error: a
 * message that does not fit says so when it is sent. */
static void grow_buffer(int socket, int force_option, int option) {
  int size = SOCKET_BUFFER;
  if (setsockopt(socket, SOL_SOCKET, force_option, &size, sizeof size) != 0)
    (void)setsockopt(socket, SOL_SOCKET, option, &size, sizeof size);
}

mu_status control_socket_pair(int ret_sockets[2], mu_error *err) {
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0)
    return mu_fail(err, MU_IO, "cannot create a control socket: %s", strerror(errno));
  for (int i = 0; i < 2; i++) {
    grow_buffer(sockets[i], SO_SNDBUFFORCE, SO_SNDBUF);
    grow_buffer(sockets[i], SO_RCVBUFFORCE, SO_RCVBUF);
    ret_sockets[i] = sockets[i];
  }
  return MU_OK;
}

/* ---- sending ----------------------------------------------------------------------------------------------------- */

union fd_space {
  struct cmsghdr align;
  char bytes[CMSG_SPACE(sizeof(int[CONTROL_FDS_MAX]))];
};

static void attach_fds(struct msghdr *header, union fd_space *space, const int *fds, size_t n_fds) {
  memset(space, 0, sizeof *space);
  header->msg_control = space->bytes;
  header->msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
  struct cmsghdr *part = CMSG_FIRSTHDR(header);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
  memcpy(CMSG_DATA(part), fds, n_fds * sizeof(int));
}

static mu_status send_failed(int error, size_t size, mu_error *err) {
  switch (error) {
    case EAGAIN:
    case ETOOMANYREFS: /* file descriptors that were sent and not yet received */
      return mu_fail(err, MU_UNAVAILABLE, "the control socket is full");
    case EPIPE:
    case ECONNRESET:
    case ENOTCONN:
      return mu_fail(err, MU_CANCELED, "the other end of the control socket is closed");
    case EMSGSIZE:
      return mu_fail(err, MU_TOO_LARGE,
                     "a control message of %zu bytes does not fit the socket's buffer (sysctl net.core.wmem_max)",
                     size);
    case ENOMEM:
    case ENOBUFS:
      return mu_fail(err, MU_NO_MEMORY, "no memory for a control message of %zu bytes", size);
    default:
      return mu_fail(err, MU_IO, "cannot send a control message: %s", strerror(error));
  }
}

mu_status control_send_encoded(int socket, const struct buffer *encoded, const int *fds, size_t n_fds, mu_error *err) {
  if (n_fds > CONTROL_FDS_MAX)
    return mu_fail(err, MU_INVALID, "%zu file descriptors in one control message; at most %d", n_fds, CONTROL_FDS_MAX);
  struct iovec content = {encoded->data, encoded->size};
  struct msghdr header = {.msg_iov = &content, .msg_iovlen = 1};
  union fd_space space;
  if (n_fds > 0) attach_fds(&header, &space, fds, n_fds);
  while (sendmsg(socket, &header, MSG_NOSIGNAL) < 0)
    if (errno != EINTR) return send_failed(errno, encoded->size, err);
  return MU_OK;
}

mu_status control_send(int socket, enum control_type type, const void *message, const int *fds, size_t n_fds,
                       mu_error *err) {
  struct buffer encoded;
  buffer_init(&encoded, CONTROL_PACKET_MAX);
  if (!control_type_takes(type, n_fds))
    return mu_fail(err, MU_INVALID, "a control message %s with %zu file descriptors", control_type_name(type), n_fds);
  mu_status status = control_encode(type, message, &encoded);
  if (status == MU_OK)
    status = control_send_encoded(socket, &encoded, fds, n_fds, err);
  else
    mu_fail(err, status, "cannot encode a control message %s (%s)", control_type_name(type), status_name(status));
  buffer_free(&encoded);
  return status;
}

/* ---- receiving --------------------------------------------------------------------------------------------------- */

/* Moves the fds that came along into ret_packet, which owns them from then on. */
static void take_fds(struct msghdr *header, struct control_packet *ret_packet) {
  for (struct cmsghdr *part = CMSG_FIRSTHDR(header); part != NULL; part = CMSG_NXTHDR(header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    size_t n = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < n && ret_packet->n_fds < CONTROL_FDS_MAX; i++)
      memcpy(&ret_packet->fds[ret_packet->n_fds++], CMSG_DATA(part) + i * sizeof(int), sizeof(int));
  }
}

static mu_status receive_failed(int error, mu_error *err) {
  if (error == EAGAIN) return mu_fail(err, MU_UNAVAILABLE, "no control message is there");
  return mu_fail(err, MU_IO, "cannot receive a control message: %s", strerror(error));
}

/* ECONNRESET says, once, that the peer left without reading everything; what it sent before that is still there. */
static bool again(ssize_t n) { return n < 0 && (errno == EINTR || errno == ECONNRESET); }

/* The size of the next packet, which stays in the socket; 0: end of file (no message is empty). */
static mu_status next_size(int socket, size_t *ret_size, mu_error *err) {
  ssize_t n;
  do n = recv(socket, NULL, 0, MSG_PEEK | MSG_TRUNC);
  while (again(n));
  if (n < 0) return receive_failed(errno, err);
  *ret_size = (size_t)n;
  return MU_OK;
}

/* One packet into bytes; the fds into carried even when this fails. *ret_fds_lost: they have been lost on the way. */
static mu_status receive_packet(int socket, void *bytes, size_t size, struct control_packet *carried,
                                bool *ret_fds_lost, mu_error *err) {
  struct iovec content = {bytes, size};
  union fd_space space;
  struct msghdr header = {
      .msg_iov = &content, .msg_iovlen = 1, .msg_control = space.bytes, .msg_controllen = sizeof space.bytes};
  ssize_t n;
  do n = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  while (again(n));
  if (n < 0) return receive_failed(errno, err);
  take_fds(&header, carried);
  bool fds_cut = (header.msg_flags & MSG_CTRUNC) != 0;
  if ((size_t)n != size || (header.msg_flags & MSG_TRUNC) != 0 || (fds_cut && carried->n_fds == CONTROL_FDS_MAX))
    return mu_fail(err, MU_INVALID, "a control message was cut off");
  if (!fds_cut) return MU_OK;
  control_packet_free(carried); /* those that there was room for */
  *ret_fds_lost = true;
  return MU_OK;
}

mu_status control_receive(int socket, struct control_packet *ret_packet, mu_error *err) {
  size_t size = 0;
  mu_status status = next_size(socket, &size, err);
  if (status != MU_OK) return status;
  if (size == 0) return mu_fail(err, MU_CANCELED, "the other end of the control socket is closed");
  if (size > CONTROL_PACKET_MAX) return mu_fail(err, MU_INVALID, "a control message of %zu bytes", size);
  void *bytes = malloc(size);
  if (bytes == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for a control message of %zu bytes", size);

  struct control_packet carried = {.n_fds = 0}, packet;
  bool fds_lost = false;
  status = receive_packet(socket, bytes, size, &carried, &fds_lost, err);
  if (status != MU_OK) {
    free(bytes);
  } else {
    status = control_decode_taken(bytes, size, &packet); /* what has been received must not be lost without memory */
    if (status != MU_OK)
      mu_fail(err, status, "a control message of %zu bytes is not valid (%s)", size, status_name(status));
  }
  if (status == MU_OK && !fds_lost && !control_type_takes(packet.type, carried.n_fds)) {
    status = mu_fail(err, MU_INVALID, "a control message %s with %zu file descriptors", control_type_name(packet.type),
                     carried.n_fds);
    control_packet_free(&packet);
  }
  if (status != MU_OK) {
    control_packet_free(&carried);
    return status;
  }
  memcpy(packet.fds, carried.fds, sizeof packet.fds);
  packet.n_fds = carried.n_fds;
  *ret_packet = packet;
  return MU_OK;
}
