#include "net/client_connection.h"

#include "base/clock.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- lines ------------------------------------------------------------------------------------------------------- */

bool client_next_line(struct client_lines lines, size_t *at, const char **ret_name, const char **ret_value) {
  if (*at >= lines.size) return false;
  *ret_name = lines.text + *at;
  *ret_value = *ret_name + strlen(*ret_name) + 1;
  *at = (size_t)(*ret_value - lines.text) + strlen(*ret_value) + 1;
  return true;
}

const char *client_line(struct client_lines lines, const char *name) {
  const char *found, *value;
  for (size_t at = 0; client_next_line(lines, &at, &found, &value);)
    if (strcmp(found, name) == 0) return value;
  return NULL;
}

mu_status client_keep_line(struct client_request *request, const char *name, size_t name_size, const char *value,
                           size_t size) {
  struct buffer *lines = &request->lines;
  mu_status status = buffer_reserve(lines, name_size + size + 2);
  if (status != MU_OK) return status;
  buffer_append(lines, name, name_size);
  buffer_putc(lines, '\0');
  buffer_append(lines, value, size);
  buffer_putc(lines, '\0');
  return MU_OK;
}

/* ---- ends of requests -------------------------------------------------------------------------------------------- */

void client_request_leave(struct client_request *request) {
  list_remove(&request->link);
  request->connection = NULL;
  buffer_free(&request->lines);
}

void client_request_end(struct client_request *request, struct client_lines trailers) {
  list_remove(&request->link);
  request->connection = NULL;
  struct buffer lines = request->lines; /* trailers may lie in there, and the request may go */
  request->lines = (struct buffer){0};
  request->events->end(request, trailers);
  buffer_free(&lines);
}

void client_request_fail(struct client_request *request, enum client_failure failure, const char *why) {
  client_request_leave(request);
  request->events->failed(request, failure, why);
}

/* ---- ends of connections ----------------------------------------------------------------------------------------- */

static void release_client(struct client *client) {
  if (client->n_handles == 0 && client->freed) free(client);
}

static void handle_closed(uv_handle_t *handle) {
  struct client_connection *c = handle->data;
  struct client *client = c->client;
  client->n_handles--;
  if (--c->n_open == 0) {
    close(c->fd);
    free(c);
  }
  release_client(client);
}

/* Without events. */
static void tear_down(struct client_connection *c) {
  list_remove(&c->link);
  list_remove(&c->dirty);
  c->host->kind->close(c);
  c->host = NULL;
  buffer_free(&c->out);
  buffer_free(&c->held);
  uv_close((uv_handle_t *)&c->poll, handle_closed);
  uv_close((uv_handle_t *)&c->timer, handle_closed);
}

static void on_idle(uv_idle_t *idle);

void client_connection_touch(struct client_connection *c) {
  if (c->host == NULL || !list_empty(&c->dirty)) return;
  list_push_back(&c->client->dirty, &c->dirty);
  uv_idle_start(&c->client->idle, on_idle); /* nothing where it runs already */
}

void client_connection_break(struct client_connection *c, enum client_failure failure, const char *why) {
  if (c->host == NULL || c->broken) return;
  c->broken = c->leaving = true;
  c->failure = failure;
  snprintf(c->why, sizeof c->why, "%s", why);
  client_connection_touch(c);
}

/* Those who wait hear of it once the connection is no more: they may begin anew at once. */
static void end_broken(struct client_connection *c) {
  struct list requests;
  enum client_failure failure = c->failure;
  char why[sizeof c->why];
  memcpy(why, c->why, sizeof why);
  list_init(&requests);
  while (!list_empty(&c->requests)) list_push_back(&requests, list_pop_front(&c->requests));
  list_each (link, &requests) list_item(link, struct client_request, link)->connection = NULL;
  tear_down(c);
  for (struct list *link; (link = list_pop_front(&requests)) != NULL;) {
    struct client_request *request = list_item(link, struct client_request, link);
    bool unseen = request->unseen && failure != CLIENT_REFUSED;
    client_request_fail(request, unseen ? CLIENT_UNSEEN : failure, why);
  }
}

/* ---- sockets ----------------------------------------------------------------------------------------------------- */

static void on_ready(uv_poll_t *poll, int status, int events);

static void arm(struct client_connection *c) {
  bool stopped = c->stopped && !c->connecting;
  int wanted = (stopped ? 0 : UV_READABLE) | (c->connecting || c->blocked ? UV_WRITABLE : 0);
  if (c->host == NULL || wanted == c->polled) return;
  c->polled = wanted;
  uv_poll_start(&c->poll, wanted, on_ready);
}

static void write_out(struct client_connection *c) {
  if (c->connecting || c->blocked) return;
  for (;;) {
    if (c->out_at == c->out.size) {
      buffer_clear(&c->out);
      c->out_at = 0;
      c->host->kind->fill(c);
      if (c->broken || c->out.size == 0) return;
    }
    ssize_t n = send(c->fd, c->out.data + c->out_at, c->out.size - c->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) {
      c->out_at += (size_t)n;
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) {
      char why[128];
      snprintf(why, sizeof why, "writing to %s: %s", c->host->name, strerror(errno));
      client_connection_break(c, c->used && !c->heard ? CLIENT_STALE : CLIENT_BROKEN, why);
      return;
    }
    c->blocked = true;
    return;
  }
}

static void tend(struct client_connection *c) {
  if (!c->broken && c->host->kind->turn != NULL) c->host->kind->turn(c);
  if (!c->broken) write_out(c);
  if (c->broken)
    end_broken(c);
  else
    arm(c);
}

static void on_idle(uv_idle_t *idle) {
  struct client *client = idle->data;
  struct list now;
  list_init(&now);
  while (!list_empty(&client->dirty)) list_push_back(&now, list_pop_front(&client->dirty));
  for (struct list *link; (link = list_pop_front(&now)) != NULL;)
    tend(list_item(link, struct client_connection, dirty));
  if (list_empty(&client->dirty)) uv_idle_stop(idle);
}

static void end_of_file(struct client_connection *c) {
  c->host->kind->feed(c, NULL, 0);
  char why[128];
  snprintf(why, sizeof why, "%s closed the connection", c->host->name);
  client_connection_break(c, c->used && !c->heard ? CLIENT_STALE : CLIENT_BROKEN, why);
}

static void read_in(struct client_connection *c) {
  uint8_t *data = c->client->read_buffer;
  for (int turns = 0; turns < 4 && !c->broken && !c->stopped; turns++) {
    ssize_t n = recv(c->fd, data, CLIENT_READ_SIZE, MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n == 0) {
      end_of_file(c);
      return;
    }
    if (n < 0) {
      char why[128];
      snprintf(why, sizeof why, "reading from %s: %s", c->host->name, strerror(errno));
      client_connection_break(c, c->used && !c->heard ? CLIENT_STALE : CLIENT_BROKEN, why);
      return;
    }
    c->heard = true;
    c->host->kind->feed(c, data, (size_t)n);
    if (c->host == NULL || (size_t)n < CLIENT_READ_SIZE) return;
  }
}

static void refuse(struct client_connection *c, const char *reason) {
  char why[160];
  snprintf(why, sizeof why, "no connection to %s: %s", c->host->name, reason);
  client_connection_break(c, CLIENT_REFUSED, why);
}

static void on_connected(struct client_connection *c) {
  int error = 0;
  socklen_t size = sizeof error;
  if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
  if (error != 0) {
    refuse(c, strerror(error));
    return;
  }
  c->connecting = false;
  uv_timer_stop(&c->timer);
}

static void on_ready(uv_poll_t *poll, int status, int events) {
  struct client_connection *c = poll->data;
  if (c->host == NULL) return;
  if (status < 0) c->polled = 0; /* libuv has stopped it; the socket says what is wrong */
  if (c->connecting) {
    on_connected(c);
  } else if (!c->broken) {
    if (events & UV_WRITABLE) c->blocked = false;
    if (status < 0 || events & UV_READABLE) read_in(c);
  }
  client_connection_touch(c);
}

static void on_connect_timeout(uv_timer_t *timer) {
  struct client_connection *c = timer->data;
  if (c->host != NULL) refuse(c, "no answer in time");
}

static void on_no_answer(uv_timer_t *timer) {
  struct client_connection *c = timer->data;
  if (c->host != NULL) client_connection_break(c, CLIENT_BROKEN, "the server does not answer any more");
}

void client_connection_answered(struct client_connection *c) {
  if (!c->asked) return;
  c->asked = false;
  uv_timer_stop(&c->timer);
}

static struct client_connection *connect_to(struct client_host *host, mu_error *err) {
  struct client *client = host->client;
  struct client_connection *c = calloc(1, sizeof *c);
  int on = 1;
  int fd = socket(host->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (c == NULL || fd < 0) {
    mu_fail(err, MU_NO_MEMORY, c == NULL ? "no memory for a connection" : "no descriptor for a connection");
    if (fd >= 0) close(fd);
    free(c);
    return NULL;
  }
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  *c = (struct client_connection){.client = client, .host = host, .fd = fd, .connecting = true};
  list_init(&c->requests);
  list_init(&c->dirty);
  list_init(&c->link);
  buffer_init(&c->out, SIZE_MAX / 2);
  buffer_init(&c->held, SIZE_MAX / 2);
  int error = connect(fd, (const struct sockaddr *)&host->address, host->address_size) == 0 ? 0 : errno;
  uv_loop_t *loop = net_loop_uv(client->loop);
  if (host->kind->open(c) != MU_OK || uv_poll_init(loop, &c->poll, fd) != 0) {
    mu_fail(err, MU_NO_MEMORY, "no memory for a connection");
    host->kind->close(c);
    close(fd);
    free(c);
    return NULL;
  }
  uv_timer_init(loop, &c->timer);
  c->poll.data = c->timer.data = c;
  c->n_open = 2;
  client->n_handles += 2;
  list_push_back(&host->connections, &c->link);
  if (error != 0 && error != EINPROGRESS && error != EAGAIN)
    refuse(c, strerror(error));
  else
    uv_timer_start(&c->timer, on_connect_timeout, host->connect_timeout_ns / NS_PER_MS, 0);
  return c;
}

/* ---- hosts and requests ------------------------------------------------------------------------------------------ */

struct client *client_create(struct net_loop *loop) {
  struct client *client = calloc(1, sizeof *client);
  if (client == NULL) return NULL;
  client->loop = loop;
  client->n_handles = 1;
  list_init(&client->dirty);
  uv_idle_init(net_loop_uv(loop), &client->idle);
  client->idle.data = client;
  return client;
}

static void idle_closed(uv_handle_t *handle) {
  struct client *client = handle->data;
  client->n_handles--;
  release_client(client);
}

void client_free(struct client *client) {
  if (client == NULL) return;
  client->freed = true;
  uv_close((uv_handle_t *)&client->idle, idle_closed);
}

struct client_host *client_host_create(struct client *client, enum client_protocol protocol, const char *name,
                                       const struct sockaddr *address, socklen_t address_size,
                                       uint64_t connect_timeout_ns) {
  struct client_host *host = calloc(1, sizeof *host);
  char *copy = strdup(name);
  if (host == NULL || copy == NULL) {
    free(copy);
    free(host);
    return NULL;
  }
  *host = (struct client_host){.client = client,
                               .kind = protocol == CLIENT_HTTP2 ? &client_http2_kind : &client_http1_kind,
                               .name = copy,
                               .address_size = address_size,
                               .connect_timeout_ns = connect_timeout_ns};
  memcpy(&host->address, address, address_size);
  list_init(&host->connections);
  return host;
}

void client_host_free(struct client_host *host) {
  if (host == NULL) return;
  while (!list_empty(&host->connections)) {
    struct client_connection *c = list_item(host->connections.next, struct client_connection, link);
    while (!list_empty(&c->requests)) client_request_leave(list_item(c->requests.next, struct client_request, link));
    tear_down(c);
  }
  free(host->name);
  free(host);
}

void client_host_doubt(struct client_host *host, uint64_t patience_ns) {
  list_each (link, &host->connections) {
    struct client_connection *c = list_item(link, struct client_connection, link);
    if (c->connecting || c->asked || c->broken || list_empty(&c->requests) || host->kind->ask == NULL) continue;
    c->asked = true;
    host->kind->ask(c);
    uv_timer_start(&c->timer, on_no_answer, patience_ns / NS_PER_MS, 0);
  }
}

mu_status client_start(struct client_host *host, struct client_request *request, const struct client_head *head,
                       mu_error *err) {
  const struct client_events *events = request->events;
  *request = (struct client_request){.events = events, .content_length = UINT64_MAX};
  list_init(&request->link);
  buffer_init(&request->lines, CLIENT_HEAD_MOST);
  struct client_head sent = *head;
  if (sent.authority == NULL) sent.authority = host->name;
  struct client_connection *c = host->kind->find(host);
  if (c == NULL) c = connect_to(host, err);
  if (c == NULL) return MU_NO_MEMORY;
  mu_status status = host->kind->start(c, request, &sent, err);
  client_connection_touch(c);
  if (status != MU_OK) return status;
  request->connection = c;
  list_push_back(&c->requests, &request->link);
  return MU_OK;
}

void client_more(struct client_request *request) {
  struct client_connection *c = request->connection;
  if (c == NULL || c->broken || !request->deferred) return;
  request->deferred = false;
  c->host->kind->more(request);
  client_connection_touch(c);
}

void client_pause(struct client_request *request) { request->paused = true; }

void client_resume(struct client_request *request) {
  struct client_connection *c = request->connection;
  if (!request->paused) return;
  request->paused = false;
  if (c == NULL || c->broken) return;
  c->host->kind->resume(request);
  client_connection_touch(c);
}

void client_cancel(struct client_request *request) {
  struct client_connection *c = request->connection;
  if (c == NULL) { /* it may be among those that hear of the end of their connection just now */
    if (request->link.next != NULL) list_remove(&request->link);
    return;
  }
  client_request_leave(request);
  if (c->broken || c->host == NULL) return;
  c->host->kind->cancel(c, request);
  client_connection_touch(c);
}
