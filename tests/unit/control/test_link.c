#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/link.h"

/* One end is a link on a loop, the other a plain socket that the test plays the peer with. */
struct fixture {
  struct net_loop *loop;
  struct control_link *link;
  int peer;
  size_t messages, lost;
  enum control_type types[8]; /* of the first messages */
  uint64_t epochs;            /* of WORKER_PEER: the last one seen */
  bool in_order;
  int taken;          /* fd of the last WORKER_PEER */
  bool free_on_first; /* the callback frees the link */
  char why[512];
};

static void on_message(void *context, struct control_packet *packet) {
  struct fixture *f = context;
  if (f->messages < 8) f->types[f->messages] = packet->type;
  f->messages++;
  if (packet->type == CONTROL_WORKER_PEER) {
    if (packet->worker_peer.epoch != f->epochs + 1) f->in_order = false;
    f->epochs = packet->worker_peer.epoch;
    if (f->taken >= 0) close(f->taken);
    f->taken = packet->fds[0];
    packet->fds[0] = -1;
  }
  if (f->free_on_first) {
    control_link_free(f->link);
    f->link = NULL;
  }
}

static void on_lost(void *context, const mu_error *err) {
  struct fixture *f = context;
  f->lost++;
  snprintf(f->why, sizeof f->why, "%s", err->message);
  if (f->free_on_first) {
    control_link_free(f->link);
    f->link = NULL;
  }
}

static const struct control_link_events events = {on_message, on_lost};

static int setup(void **state) {
  struct fixture *f = calloc(1, sizeof *f);
  int sockets[2];
  mu_error err;
  if (f == NULL || control_socket_pair(sockets, &err) != MU_OK) return -1;
  f->taken = -1;
  f->in_order = true;
  f->peer = sockets[1];
  f->loop = net_loop_create();
  f->link = control_link_create(f->loop, sockets[0], &events, f);
  *state = f;
  return f->loop != NULL && f->link != NULL ? 0 : -1;
}

static int teardown(void **state) {
  struct fixture *f = *state;
  control_link_free(f->link);
  net_loop_free(f->loop);
  if (f->peer >= 0) close(f->peer);
  if (f->taken >= 0) close(f->taken);
  free(f);
  return 0;
}

/* Everything that can happen now. */
static void turn(struct fixture *f) {
  for (int i = 0; i < 3; i++) uv_run(net_loop_uv(f->loop), UV_RUN_NOWAIT);
}

static void leave(struct fixture *f) {
  close(f->peer);
  f->peer = -1;
}

static void peer_sends(struct fixture *f, enum control_type type, const void *message) {
  assert_int_equal(control_send(f->peer, type, message, NULL, 0, NULL), MU_OK);
}

static size_t count_fds(void) {
  size_t n = 0;
  for (int fd = 0; fd < 1024; fd++)
    if (fcntl(fd, F_GETFD) >= 0) n++;
  return n;
}

static void messages_arrive_in_order(void **state) {
  struct fixture *f = *state;
  for (uint64_t i = 1; i <= 200; i++) {
    struct control_worker_peer peer = {i};
    assert_int_equal(control_send(f->peer, CONTROL_WORKER_PEER, &peer, &f->peer, 1, NULL), MU_OK);
    if (i % 50 == 0) turn(f);
  }
  for (int i = 0; i < 10; i++) turn(f);
  assert_int_equal(f->messages, 200);
  assert_true(f->in_order);
  assert_int_equal(fcntl(f->taken, F_GETFD), FD_CLOEXEC);
}

static void the_end_is_reported_once_after_the_last_message(void **state) {
  struct fixture *f = *state;
  peer_sends(f, CONTROL_READY, NULL);
  leave(f);
  turn(f);
  turn(f);
  assert_int_equal(f->messages, 1);
  assert_int_equal(f->lost, 1);
  assert_int_equal(control_link_send(f->link, CONTROL_STOP, NULL, NULL, 0), MU_CANCELED);
}

/* The kernel reports an error on the socket when the peer left with our messages unread. */
static void last_words_are_heard_though_ours_were_not(void **state) {
  struct fixture *f = *state;
  struct control_failed failed = {MU_IO, "no disk"};
  assert_int_equal(control_link_send(f->link, CONTROL_STOP, NULL, NULL, 0), MU_OK);
  peer_sends(f, CONTROL_FAILED, &failed);
  leave(f);
  turn(f);
  assert_int_equal(f->messages, 1);
  assert_int_equal(f->types[0], CONTROL_FAILED);
  assert_int_equal(f->lost, 1);
}

static void sending_to_nobody_does_not_hide_what_was_said(void **state) {
  struct fixture *f = *state;
  peer_sends(f, CONTROL_READY, NULL);
  leave(f);
  assert_int_equal(control_link_send(f->link, CONTROL_STOP, NULL, NULL, 0), MU_CANCELED);
  assert_int_equal(f->lost, 0); /* never called out of a send */
  turn(f);
  assert_int_equal(f->messages, 1);
  assert_int_equal(f->lost, 1);
}

static void what_has_arrived_can_be_read_at_once(void **state) {
  struct fixture *f = *state;
  control_link_read(f->link);
  assert_int_equal(f->messages + f->lost, 0);
  for (int i = 0; i < 100; i++) peer_sends(f, CONTROL_READY, NULL);
  leave(f);
  control_link_read(f->link);
  assert_int_equal(f->messages, 100);
  assert_int_equal(f->lost, 1);
}

static void nonsense_loses_the_link(void **state) {
  struct fixture *f = *state;
  assert_int_equal(send(f->peer, "nonsense", 8, 0), 8);
  peer_sends(f, CONTROL_READY, NULL);
  turn(f);
  assert_int_equal(f->lost, 1);
  assert_int_equal(f->messages, 0);
  assert_non_null(strstr(f->why, "not valid"));
}

static void a_callback_may_free_the_link(void **state) {
  struct fixture *f = *state;
  f->free_on_first = true;
  peer_sends(f, CONTROL_READY, NULL);
  peer_sends(f, CONTROL_READY, NULL);
  turn(f);
  assert_int_equal(f->messages, 1);
  assert_int_equal(f->lost, 0);
  struct control_packet packet;
  assert_int_equal(control_receive(f->peer, &packet, NULL), MU_CANCELED); /* its socket is closed */
}

static void the_lost_callback_may_free_the_link(void **state) {
  struct fixture *f = *state;
  f->free_on_first = true;
  leave(f);
  turn(f);
  assert_int_equal(f->lost, 1);
  assert_null(f->link);
}

/* Sends far more than the socket holds, each with an fd that is closed at once by the sender. */
static void a_slow_peer_gets_everything_in_order(void **state) {
  struct fixture *f = *state;
  enum { N = 300 };
  int size = 4096; /* so that the queue is needed soon */
  int ends[2];
  assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  assert_int_equal(setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
  size_t before = count_fds();
  struct control_link *slow = control_link_create(f->loop, ends[0], &events, f);
  assert_non_null(slow);
  for (uint64_t i = 1; i <= N; i++) {
    struct control_worker_peer peer = {i};
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(control_link_send(slow, CONTROL_WORKER_PEER, &peer, &fd, 1), MU_OK);
    close(fd);
  }
  assert_true(count_fds() > before); /* some wait in the queue */
  assert_int_equal(fcntl(ends[1], F_SETFL, O_NONBLOCK), 0);
  uint64_t seen = 0;
  while (seen < N) {
    struct control_packet packet;
    mu_status status = control_receive(ends[1], &packet, NULL);
    if (status == MU_UNAVAILABLE) {
      turn(f);
      continue;
    }
    assert_int_equal(status, MU_OK);
    assert_true(packet.worker_peer.epoch == ++seen);
    assert_int_equal(packet.n_fds, 1);
    assert_true(fcntl(packet.fds[0], F_GETFD) >= 0);
    control_packet_free(&packet);
  }
  assert_int_equal(count_fds(), before);
  control_link_free(slow);
  close(ends[1]);
}

static void the_queue_is_bounded_and_freed(void **state) {
  struct fixture *f = *state;
  enum { SIZE = 100000 };
  size_t before = count_fds();
  char *large = calloc(1, SIZE);
  struct control_worker_start start = {.name = "m", .config = {large, SIZE}};
  size_t sent = 0;
  mu_status status;
  while ((status = control_link_send(f->link, CONTROL_WORKER_START, &start, NULL, 0)) == MU_OK) sent++;
  assert_int_equal(status, MU_TOO_LARGE);
  assert_true(sent * SIZE > CONTROL_LINK_QUEUE_MAX - 2 * SIZE);
  assert_true(sent * SIZE < CONTROL_LINK_QUEUE_MAX + 32 * CONTROL_PACKET_MAX);
  /* once there is room again, a later message still overtakes nothing */
  struct control_packet packet;
  assert_int_equal(control_receive(f->peer, &packet, NULL), MU_OK);
  assert_int_equal(packet.type, CONTROL_WORKER_START);
  control_packet_free(&packet);
  turn(f);
  assert_int_equal(control_link_send(f->link, CONTROL_STOP, NULL, NULL, 0), MU_OK);
  for (size_t i = 1; i < sent; i++) {
    turn(f);
    assert_int_equal(control_receive(f->peer, &packet, NULL), MU_OK);
    assert_int_equal(packet.type, CONTROL_WORKER_START);
    control_packet_free(&packet);
  }
  turn(f);
  assert_int_equal(control_receive(f->peer, &packet, NULL), MU_OK);
  assert_int_equal(packet.type, CONTROL_STOP);
  control_packet_free(&packet);
  assert_int_equal(count_fds(), before);
  free(large);
}

static void fds_must_belong_to_the_type(void **state) {
  struct fixture *f = *state;
  assert_int_equal(control_link_send(f->link, CONTROL_STOP, NULL, &f->peer, 1), MU_INVALID);
  assert_int_equal(control_link_send(f->link, CONTROL_WORKER_PEER, &(struct control_worker_peer){1}, NULL, 0),
                   MU_INVALID);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(messages_arrive_in_order),
      TEST(the_end_is_reported_once_after_the_last_message),
      TEST(last_words_are_heard_though_ours_were_not),
      TEST(sending_to_nobody_does_not_hide_what_was_said),
      TEST(what_has_arrived_can_be_read_at_once),
      TEST(nonsense_loses_the_link),
      TEST(a_callback_may_free_the_link),
      TEST(the_lost_callback_may_free_the_link),
      TEST(a_slow_peer_gets_everything_in_order),
      TEST(the_queue_is_bounded_and_freed),
      TEST(fds_must_belong_to_the_type),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
