#include "net/http_server.h"

#include "net/http1_connection.h"
#include "net/http2_connection.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ACCEPTS_PER_TURN = 64 }; /* then the connections have their turn */

#define LINGER_NS (2 * NS_PER_S) /* without a byte from a client that has its last answer */
#define FIRST_NS NS_PER_S        /* for a client that connected just before the drain */

struct listener {
  struct http_server *server;
  struct list link;
  uv_poll_t poll;
  int fd;
};

/* ---- listening --------------------------------------------------------------------------------------------------- */

static void on_listener_closed(uv_handle_t *handle) {
  struct listener *listener = handle->data;
  struct http_server *server = listener->server;
  free(listener);
  http_server_detach(server);
}

static void listener_close(struct listener *listener) {
  list_remove(&listener->link);
  uv_close((uv_handle_t *)&listener->poll, on_listener_closed);
  close(listener->fd);
}

static bool has_room(const struct http_server *server) {
  const struct connection_room *room = server->limits.room;
  return !server->held &&
         atomic_load_explicit(&server->connections_open, memory_order_relaxed) < server->limits.connections &&
         (room == NULL || atomic_load_explicit(&room->open, memory_order_relaxed) < room->most);
}

static void give_room(struct http_server *server) {
  counter_add(&server->connections_open, UINT64_MAX);
  if (server->limits.room != NULL) atomic_fetch_sub_explicit(&server->limits.room->open, 1, memory_order_relaxed);
}

/* For one connection more; those of other loops may take it at the same time. */
static bool take_room(struct http_server *server) {
  struct connection_room *room = server->limits.room;
  if (!has_room(server)) return false;
  counter_add(&server->connections_open, 1);
  if (room == NULL || atomic_fetch_add_explicit(&room->open, 1, memory_order_relaxed) < room->most) return true;
  give_room(server);
  return false;
}

static void on_coarse(uv_timer_t *timer);

/* Runs while there is anything that may have to wait for something; an idle server sleeps. */
static void arm_coarse(struct http_server *server) {
  if (uv_is_active((uv_handle_t *)&server->coarse)) return;
  uv_timer_start(&server->coarse, on_coarse, COARSE_NS / NS_PER_MS, COARSE_NS / NS_PER_MS);
}

/* Connections that cannot be taken wait in the backlog, without a loop that spins on a readable listener. */
static void hold_accept(struct http_server *server) {
  server->accept_held = true;
  arm_coarse(server);
  list_each (link, &server->listeners) uv_poll_stop(&list_item(link, struct listener, link)->poll);
}

/* Errors that concern the one connection that was to be accepted (accept(2)); the next one may be well. */
static bool is_of_one_connection(int error) {
  static const int errors[] = {EINTR,  ECONNABORTED, EPROTO,     ENETDOWN,    ENOPROTOOPT, EHOSTDOWN,
                               ENONET, EHOSTUNREACH, EOPNOTSUPP, ENETUNREACH, EPERM};
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
    if (error == errors[i]) return true;
  return false;
}

/* Takes up to n connections out of the backlog. */
static void accept_some(struct listener *listener, int n) {
  struct http_server *server = listener->server;
  while (n-- > 0) {
    if (!take_room(server)) {
      hold_accept(server);
      return;
    }
    int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), error = errno;
    if (fd < 0) give_room(server);
    if (fd < 0 && is_of_one_connection(error)) continue;
    if (fd < 0 && error != EAGAIN) hold_accept(server); /* no descriptors or no memory: tried again later */
    if (fd < 0) return;
    counter_add(&server->connections_total, 1);
    arm_coarse(server);
    if (connection_open(server, fd) == MU_OK) continue;
    give_room(server);
    hold_accept(server);
    return;
  }
}

static void on_listener(uv_poll_t *poll, int status, int events) {
  struct listener *listener = poll->data;
  listener->server->now_ns = clock_now_ns();
  accept_some(listener, ACCEPTS_PER_TURN);
}

/* Accepting goes on where it was held and there is room again. */
static void resume_accept(struct http_server *server) {
  if (!server->accept_held || server->draining || server->closed || !has_room(server)) return;
  server->accept_held = false;
  list_each (link, &server->listeners)
    uv_poll_start(&list_item(link, struct listener, link)->poll, UV_READABLE, on_listener);
}

mu_status http_server_listen(struct http_server *server, int fd, mu_error *err) {
  struct listener *listener = calloc(1, sizeof *listener);
  int one = 1, error;
  if (listener == NULL) {
    close(fd);
    return mu_fail(err, MU_NO_MEMORY, "no memory for a listener");
  }
  /* Connections inherit it. A Unix socket has no such option, and nothing to delay. */
  if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0 && errno != EOPNOTSUPP && errno != ENOPROTOOPT) {
    error = errno;
    goto fail;
  }
  error = -uv_poll_init(net_loop_uv(server->loop), &listener->poll, fd);
  if (error != 0) goto fail;
  listener->server = server;
  listener->fd = fd;
  listener->poll.data = listener;
  list_push_back(&server->listeners, &listener->link);
  http_server_attach(server);
  error = server->accept_held ? 0 : -uv_poll_start(&listener->poll, UV_READABLE, on_listener);
  if (error == 0) return MU_OK;
  listener_close(listener);
  return mu_fail(err, MU_IO, "cannot listen: %s", strerror(error));

fail:
  free(listener);
  close(fd);
  return mu_fail(err, MU_IO, "cannot listen: %s", strerror(error));
}

void http_server_hold(struct http_server *server) { server->held = server->accept_held = true; }

void http_server_open(struct http_server *server) {
  server->held = false;
  server->now_ns = clock_now_ns();
  resume_accept(server);
}

mu_status http_server_adopt(struct http_server *server, int fd) {
  server->now_ns = clock_now_ns();
  counter_add(&server->connections_open, 1); /* it is open: whether there is room is no question any more */
  if (server->limits.room != NULL) atomic_fetch_add_explicit(&server->limits.room->open, 1, memory_order_relaxed);
  counter_add(&server->connections_total, 1);
  arm_coarse(server);
  mu_status status = connection_open(server, fd);
  if (status != MU_OK) give_room(server);
  return status;
}

/* ---- timers and turns -------------------------------------------------------------------------------------------- */

/* Looks after every connection before the loop waits again. */
static void wake_all(struct http_server *server) {
  list_each (link, &server->connections) connection_wake(list_item(link, struct connection, link));
}

void http_server_keep_all(struct http_server *server) {
  server->give = NULL;
  wake_all(server);
}

static void expire(struct http_server *server, enum wait wait) {
  for (struct deadline *item; (item = deadlines_take(&server->waits[wait], server->now_ns)) != NULL;)
    connection_expire(wait, item);
}

static void on_coarse(uv_timer_t *timer) {
  struct http_server *server = timer->data;
  server->now_ns = clock_now_ns();
  for (enum wait wait = 0; wait < WAIT_SLOW; wait++) expire(server, wait);
  if (server->give != NULL) wake_all(server);
  resume_accept(server);
  if (list_empty(&server->connections) && !server->accept_held) uv_timer_stop(timer);
}

static void on_fine(uv_timer_t *timer) {
  struct http_server *server = timer->data;
  server->now_ns = clock_now_ns();
  expire(server, WAIT_SLOW);
  http_server_arm_fine(server);
}

void http_server_arm_fine(struct http_server *server) {
  uint64_t next = deadlines_next(&server->waits[WAIT_SLOW]);
  if (next == TIME_NEVER || server->closed || uv_is_active((uv_handle_t *)&server->fine)) return;
  uint64_t left = next > server->now_ns ? next - server->now_ns : 0;
  uv_update_time(net_loop_uv(server->loop));
  uv_timer_start(&server->fine, on_fine, (left + NS_PER_MS - 1) / NS_PER_MS, 0);
}

/* Before the loop waits: answers given in this turn are written, a writev for each connection. */
static void on_turn(uv_prepare_t *turn) {
  struct http_server *server = turn->data;
  if (!list_empty(&server->ready)) server->now_ns = clock_now_ns();
  for (struct list *link; (link = list_pop_front(&server->ready)) != NULL;)
    connection_settle(list_item(link, struct connection, ready));
  if (!server->draining || server->drained || !list_empty(&server->connections)) return;
  server->drained = true;
  if (server->on_drained != NULL) server->on_drained(server->drained_context);
}

/* ---- connections' side ------------------------------------------------------------------------------------------- */

void http_server_attach(struct http_server *server) { server->n_handles++; }

void http_server_detach(struct http_server *server) {
  if (--server->n_handles > 0) return;
  for (struct list *link; (link = list_pop_front(&server->spare)) != NULL;)
    http1_exchange_free(list_item(link, struct http1_exchange, link));
  for (struct list *link; (link = list_pop_front(&server->spare2)) != NULL;)
    http2_exchange_free(list_item(link, struct http2_exchange, link));
  for (int i = 0; i < CODING_COUNT; i++) content_encoder_free(server->encoders[i]);
  buffer_free(&server->encoded);
  free(server->read_buffer);
  free(server->decoded);
  free(server);
}

void http_server_connection_closed(struct http_server *server) {
  give_room(server);
  resume_accept(server);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

/* Each server counts its exchanges from a start of its own, so that serials are unique in the process without a shared
 * counter on the way of every request. */
static uint64_t first_serial(void) {
  static _Atomic uint64_t servers;
  return (atomic_fetch_add_explicit(&servers, 1, memory_order_relaxed) << 40) + 1;
}

static void on_handle_closed(uv_handle_t *handle) { http_server_detach(handle->data); }

/* The handles that every server has; none of them keeps the loop running by itself. */
static void start_handles(struct http_server *server) {
  uv_loop_t *loop = net_loop_uv(server->loop);
  uv_prepare_init(loop, &server->turn);
  uv_timer_init(loop, &server->coarse);
  uv_timer_init(loop, &server->fine);
  server->turn.data = server->coarse.data = server->fine.data = server;
  server->n_handles = 3;
  uv_prepare_start(&server->turn, on_turn);
  uv_unref((uv_handle_t *)&server->turn);
  uv_unref((uv_handle_t *)&server->coarse);
}

struct http_server *http_server_create(struct net_loop *loop, const struct service *service, void *context,
                                       const struct http_limits *limits) {
  struct http_server *server = calloc(1, sizeof *server);
  if (server == NULL) return NULL;
  server->read_buffer = malloc(READ_SIZE);
  server->decoded = malloc(READ_SIZE);
  if (server->read_buffer == NULL || server->decoded == NULL) {
    free(server->read_buffer);
    free(server->decoded);
    free(server);
    return NULL;
  }
  server->loop = loop;
  server->service = *service;
  server->context = context;
  server->limits = *limits;
  if (server->limits.pipeline == 0) server->limits.pipeline = 1;
  server->next_serial = first_serial();
  server->now_ns = clock_now_ns();
  list_init(&server->listeners);
  list_init(&server->connections);
  list_init(&server->ready);
  list_init(&server->spare);
  list_init(&server->spare2);
  buffer_init(&server->encoded, SIZE_MAX / 2); /* bounded by what is given to the encoder */
  const uint64_t durations[WAIT_COUNT] = {
      [WAIT_IDLE] = limits->idle_timeout_ns,
      [WAIT_FIRST] = FIRST_NS,
      [WAIT_HEAD] = limits->head_timeout_ns,
      [WAIT_BODY] = limits->body_grace_ns > COARSE_NS ? limits->body_grace_ns : COARSE_NS,
      [WAIT_LINGER] = LINGER_NS,
      [WAIT_STALL] = limits->idle_timeout_ns,
      [WAIT_SLOW] = limits->slow_reply_ns,
  };
  for (int i = 0; i < WAIT_COUNT; i++) deadlines_init(&server->waits[i], durations[i]);
  start_handles(server);
  return server;
}

static void close_listeners(struct http_server *server) {
  for (struct list *link; (link = list_pop_front(&server->listeners)) != NULL;)
    listener_close(list_item(link, struct listener, link));
}

void http_server_drain(struct http_server *server, void (*drained)(void *context), void *context) {
  server->on_drained = drained;
  server->drained_context = context;
  if (server->draining && !server->patient) return;
  server->now_ns = clock_now_ns();
  server->draining = true;
  server->patient = false;
  server->give = NULL;
  /* What is in the backlog of a closed listener is reset, and to its client that looks like a crash. */
  list_each (link, &server->listeners) accept_some(list_item(link, struct listener, link), SOMAXCONN);
  close_listeners(server);
  struct list all;
  list_init(&all);
  while (!list_empty(&server->connections)) list_push_back(&all, list_pop_front(&server->connections));
  for (struct list *link; (link = list_pop_front(&all)) != NULL;) {
    list_push_back(&server->connections, link);
    connection_drain(list_item(link, struct connection, link));
  }
}

void http_server_hand_over(struct http_server *server, mu_status (*give)(void *context, int fd),
                           void (*drained)(void *context), void *context) {
  if (server->draining) return;
  server->on_drained = drained;
  server->drained_context = context;
  server->now_ns = clock_now_ns();
  server->draining = server->patient = true;
  server->give = give;
  close_listeners(server);
  wake_all(server);
}

void http_server_free(struct http_server *server) {
  if (server == NULL) return;
  server->closed = true;
  close_listeners(server);
  while (!list_empty(&server->connections))
    connection_close(list_item(server->connections.next, struct connection, link));
  uv_close((uv_handle_t *)&server->turn, on_handle_closed);
  uv_close((uv_handle_t *)&server->coarse, on_handle_closed);
  uv_close((uv_handle_t *)&server->fine, on_handle_closed);
}

void http_server_count(const struct http_server *server, struct http_server_counts *ret_counts) {
  ret_counts->connections_open = atomic_load_explicit(&server->connections_open, memory_order_relaxed);
  ret_counts->connections_total = atomic_load_explicit(&server->connections_total, memory_order_relaxed);
  ret_counts->requests_total = atomic_load_explicit(&server->requests_total, memory_order_relaxed);
}
