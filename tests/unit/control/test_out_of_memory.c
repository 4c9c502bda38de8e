/* Messages between supervisor and children without memory: a message is late then, or its sender is told; none is lost
 * on the way and no link ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "control/link.h"
#include "failing_allocator.h"

enum { MESSAGES = 6 };

struct end {
  struct control_link *link;
  int messages, lost;
};

static void on_message(void *context, struct control_packet *packet) {
  struct end *end = context;
  if (packet->type == CONTROL_WORKER_PEER) {
    assert_int_equal(packet->worker_peer.epoch, end->messages);
    assert_int_equal(packet->n_fds, 1);
  } else {
    assert_string_equal(packet->worker_event.why, "a reason");
    assert_int_equal(packet->worker_event.epoch, end->messages);
  }
  end->messages++;
}
static void on_lost(void *context, const mu_error *err) { ((struct end *)context)->lost++; }
static const struct control_link_events events = {on_message, on_lost};

/* A supervisor's and a child's link on one loop. What the child says needs no memory to be sent. */
static mu_status talk(void *context) {
  int sockets[2];
  mu_error err = {""};
  struct end ends[2] = {{0}};
  allocations_work();
  assert_int_equal(control_socket_pair(sockets, &err), MU_OK);
  allocations_fail();
  struct net_loop *loop = net_loop_create();
  mu_status status = loop != NULL ? MU_OK : MU_NO_MEMORY;
  for (int i = 0; status == MU_OK && i < 2; i++) {
    ends[i].link = control_link_create(loop, sockets[i], &events, &ends[i]);
    if (ends[i].link != NULL)
      sockets[i] = -1;
    else
      status = MU_NO_MEMORY;
  }
  for (int i = 0; status == MU_OK && i < MESSAGES; i++) {
    struct control_worker_peer peer = {.epoch = (uint64_t)i};
    struct control_worker_event event = {.worker = 1, .epoch = (uint64_t)i, .why = "a reason"};
    assert_int_equal(control_link_send(ends[0].link, CONTROL_WORKER_PEER, &peer, (const int[]){0}, 1), MU_OK);
    assert_int_equal(control_link_send(ends[1].link, CONTROL_WORKER_HUNG, &event, NULL, 0), MU_OK);
    for (int turn = 0; turn < 4; turn++) uv_run(net_loop_uv(loop), UV_RUN_NOWAIT);
  }
  allocations_work();
  bool complete = status != MU_OK;
  for (int turn = 0; !complete && turn < 1000; turn++) {
    uv_run(net_loop_uv(loop), UV_RUN_NOWAIT);
    complete = ends[0].messages == MESSAGES && ends[1].messages == MESSAGES;
  }
  assert_true(complete);
  assert_int_equal(ends[0].lost + ends[1].lost, 0);
  for (int i = 0; i < 2; i++) {
    control_link_free(ends[i].link);
    if (sockets[i] >= 0) close(sockets[i]);
  }
  net_loop_free(loop);
  return status;
}

/* A message that is too large for the link's own memory: the sender hears of it. */
static mu_status send_large(void *context) {
  static char text[20000];
  memset(text, 'x', sizeof text);
  int sockets[2];
  mu_error err = {""};
  struct end end = {0};
  struct control_packet packet;
  allocations_work();
  assert_int_equal(control_socket_pair(sockets, &err), MU_OK);
  struct net_loop *loop = net_loop_create();
  end.link = control_link_create(loop, sockets[0], &events, &end);
  allocations_fail();
  struct control_loaded loaded = {.metadata = {text, sizeof text}};
  mu_status status = control_link_send(end.link, CONTROL_LOADED, &loaded, NULL, 0);
  if (status == MU_OK) {
    status = control_receive(sockets[1], &packet, &err);
    if (status != MU_OK) { /* it is still there */
      allocations_work();
      assert_int_equal(control_receive(sockets[1], &packet, &err), MU_OK);
    }
    assert_int_equal(packet.loaded.metadata.size, sizeof text);
    control_packet_free(&packet);
  }
  control_link_free(end.link);
  net_loop_free(loop);
  close(sockets[1]);
  return status;
}

static void test_talk(void **state) { fail_each_allocation("two links", talk, NULL); }
static void test_large(void **state) { fail_each_allocation("a large message", send_large, NULL); }

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_talk), cmocka_unit_test(test_large)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
