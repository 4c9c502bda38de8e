#include "channel/handshake.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union control {
  struct cmsghdr align;
  char bytes[CMSG_SPACE(HANDSHAKE_FDS_MAX * sizeof(int))];
};

void handshake_close_fds(int *fds, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    if (fds[i] >= 0) close(fds[i]);
    fds[i] = -1;
  }
}

static mu_status fail_errno(mu_error *err, const char *what) {
  int error = errno;
  if (error == EAGAIN || error == EWOULDBLOCK) return mu_fail(err, MU_UNAVAILABLE, "channel: %s: not now", what);
  mu_status status = error == EPIPE || error == ECONNRESET ? MU_CANCELED : MU_IO;
  return mu_fail(err, status, "channel: %s: %s", what, strerror(error));
}

mu_status handshake_send(int socket, enum handshake_type type, void *message, size_t size, const int *fds,
                         uint32_t n_fds, mu_error *err) {
  struct handshake_head head = {.magic = LAYOUT_MAGIC, .major = LAYOUT_MAJOR, .minor = LAYOUT_MINOR, .type = type};
  memcpy(message, &head, sizeof head);
  union control control;
  struct iovec bytes = {.iov_base = message, .iov_len = size};
  struct msghdr packet = {.msg_iov = &bytes, .msg_iovlen = 1};
  if (n_fds > 0) {
    memset(&control, 0, sizeof control);
    packet.msg_control = control.bytes;
    packet.msg_controllen = CMSG_SPACE(n_fds * sizeof *fds);
    struct cmsghdr *rights = CMSG_FIRSTHDR(&packet);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(n_fds * sizeof *fds);
    memcpy(CMSG_DATA(rights), fds, n_fds * sizeof *fds);
  }
  ssize_t sent;
  do sent = sendmsg(socket, &packet, MSG_DONTWAIT | MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  return sent >= 0 ? MU_OK : fail_errno(err, "sending");
}

/* Every descriptor that came along; a peer can send several lots. */
static uint32_t collect_fds(struct msghdr *packet, int *fds) {
  uint32_t n = 0;
  for (struct cmsghdr *part = CMSG_FIRSTHDR(packet); part != NULL; part = CMSG_NXTHDR(packet, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    size_t bytes = part->cmsg_len - CMSG_LEN(0);
    memcpy(&fds[n], CMSG_DATA(part), bytes); /* all lots together fit the control buffer, so they fit fds */
    n += (uint32_t)(bytes / sizeof *fds);
  }
  return n;
}

static mu_status check_message(const struct msghdr *packet, ssize_t received, enum handshake_type type,
                               const void *message, size_t size, mu_error *err) {
  struct handshake_head head;
  if (received == 0) return mu_fail(err, MU_CANCELED, "channel: the peer has closed its end");
  if ((size_t)received < sizeof head) return mu_fail(err, MU_INVALID, "channel: a message of %zd bytes", received);
  memcpy(&head, message, sizeof head);
  if (head.magic != LAYOUT_MAGIC) return mu_fail(err, MU_INVALID, "channel: a message that is none of ours");
  if (head.major != LAYOUT_MAJOR)
    return mu_fail(err, MU_UNSUPPORTED, "channel: the peer speaks version %u.%u, this is %d.%d", head.major, head.minor,
                   LAYOUT_MAJOR, LAYOUT_MINOR);
  if (head.type != (uint32_t)type || (size_t)received != size || (packet->msg_flags & MSG_TRUNC) != 0)
    return mu_fail(err, MU_INVALID, "channel: message %u of %zd bytes instead of message %u of %zu", head.type,
                   received, (unsigned)type, size);
  return MU_OK;
}

mu_status handshake_receive(int socket, bool wait, enum handshake_type type, void *message, size_t size, int *fds,
                            uint32_t *ret_n_fds, mu_error *err) {
  union control control;
  struct iovec bytes = {.iov_base = message, .iov_len = size};
  struct msghdr packet = {.msg_iov = &bytes, .msg_iovlen = 1};
  if (fds != NULL) {
    packet.msg_control = control.bytes;
    packet.msg_controllen = sizeof control.bytes;
  }
  ssize_t received;
  do received = recvmsg(socket, &packet, (wait ? 0 : MSG_DONTWAIT) | MSG_CMSG_CLOEXEC);
  while (received < 0 && errno == EINTR);
  if (received < 0) return fail_errno(err, "receiving");
  uint32_t n = fds != NULL ? collect_fds(&packet, fds) : 0;
  mu_status status = check_message(&packet, received, type, message, size, err);
  if (status == MU_OK && fds != NULL && (packet.msg_flags & MSG_CTRUNC) != 0)
    status = mu_fail(err, MU_INVALID, "channel: file descriptors were lost on the way (too many open files?)");
  if (status != MU_OK) {
    if (n > 0) handshake_close_fds(fds, n);
    return status;
  }
  if (fds != NULL) *ret_n_fds = n;
  return MU_OK;
}
