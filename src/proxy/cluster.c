#include "proxy/cluster.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdlib.h>

enum { CHECK_BODY_MAX = 64, RETRY_TOKENS = 1000 };

/* One check at a time for each backend: a request over HTTP, or only a connection. */
struct check {
  struct cluster *cluster;
  size_t index;
  struct client_request request;
  uv_timer_t timer;
  uv_tcp_t tcp;
  bool tcp_open, running;
  bool told; /* the log knows the backend's state; the first one is no change of it */
  int http_status, grpc_status;
  uint8_t body[CHECK_BODY_MAX];
  size_t body_size;
};

static struct check *check_of(struct client_request *request) { return list_item(request, struct check, request); }

static void arm(struct cluster *cluster);

static void log_change(const struct cluster *cluster, size_t index, const char *why) {
  const struct backend *backend = &cluster->pool.items[index];
  const char *name = cluster->list->items[index].name;
  if (backend->state == BACKEND_HEALTHY)
    LOG_INFO("backend healthy", LOG_STR("backend", name), LOG_INT("healthy", cluster->pool.n_healthy),
             LOG_INT("backends", cluster->pool.n));
  else
    LOG_WARNING("backend out", LOG_STR("backend", name), LOG_STR("why", why),
                LOG_INT("healthy", cluster->pool.n_healthy), LOG_INT("backends", cluster->pool.n));
}

void cluster_end(struct cluster *cluster, size_t index, enum backend_outcome outcome, const char *why) {
  if (!backend_pool_end(&cluster->pool, index, outcome, clock_now_ns())) return;
  log_change(cluster, index, why);
  arm(cluster);
}

/* ---- the verdict ------------------------------------------------------------------------------------------------- */

static void conclude(struct check *check, enum backend_outcome outcome, const char *why) {
  struct cluster *cluster = check->cluster;
  if (!check->running) return;
  check->running = false;
  uv_timer_stop(&check->timer);
  bool changed = backend_pool_checked(&cluster->pool, check->index, outcome, clock_now_ns());
  bool first = !check->told && outcome != BACKEND_NO_RESULT;
  if (changed || first) {
    check->told = true;
    log_change(cluster, check->index, why);
  } else if (outcome != BACKEND_OK) {
    LOG_VERBOSE("check failed", LOG_STR("backend", cluster->list->items[check->index].name), LOG_STR("why", why));
  }
  arm(cluster);
  if (changed && outcome == BACKEND_OK) cluster->wake(cluster);
}

static void tcp_closed(uv_handle_t *handle) {
  struct check *check = handle->data;
  check->tcp_open = false;
}

static void on_timeout(uv_timer_t *timer) {
  struct check *check = timer->data;
  client_cancel(&check->request);
  /* Is it the process that hangs, or only the check? Whoever holds requests is asked. */
  client_host_doubt(check->cluster->http2[check->index], (uint64_t)check->cluster->settings->check_timeout_ns);
  conclude(check, BACKEND_FAILED, "a check was not answered in time");
  if (check->tcp_open && !uv_is_closing((uv_handle_t *)&check->tcp)) uv_close((uv_handle_t *)&check->tcp, tcp_closed);
}

/* ---- gRPC and HTTP ----------------------------------------------------------------------------------------------- */

static const uint8_t empty_message[5];

static size_t on_read(struct client_request *request, uint8_t *to, size_t most, bool *ret_end) {
  memcpy(to, empty_message, sizeof empty_message);
  *ret_end = true;
  return sizeof empty_message;
}

static void take_status(struct check *check, struct client_lines lines) {
  const char *status = client_line(lines, "grpc-status");
  if (status != NULL) check->grpc_status = atoi(status);
}

static void on_head(struct client_request *request, int status, struct client_lines lines, uint64_t content_length) {
  struct check *check = check_of(request);
  check->http_status = status;
  take_status(check, lines);
}

static void on_body(struct client_request *request, const uint8_t *data, size_t size) {
  struct check *check = check_of(request);
  size_t room = sizeof check->body - check->body_size;
  size_t n = size < room ? size : room;
  memcpy(check->body + check->body_size, data, n);
  check->body_size += n;
}

/* HealthCheckResponse{status: SERVING} and nothing else that anybody knows. */
static bool says_serving(const struct check *check) {
  return check->body_size >= 7 && check->body[5] == 0x08 && check->body[6] == 1;
}

static void conclude_grpc(struct check *check) {
  enum { UNIMPLEMENTED = 12, PERMISSION_DENIED = 7, UNAUTHENTICATED = 16 };
  int status = check->grpc_status;
  if (status == 0)
    conclude(check, says_serving(check) ? BACKEND_OK : BACKEND_FAILED, "it says that it does not serve");
  else if (status == UNIMPLEMENTED || status == PERMISSION_DENIED || status == UNAUTHENTICATED)
    conclude(check, BACKEND_OK, ""); /* it lives, and has no health service for us */
  else
    conclude(check, BACKEND_FAILED, status < 0 ? "it does not speak gRPC" : "its health check ends with an error");
}

static void on_end(struct client_request *request, struct client_lines trailers) {
  struct check *check = check_of(request);
  const struct cluster *cluster = check->cluster;
  take_status(check, trailers);
  int status = check->http_status;
  bool good = status >= 200 && status < 400;
  if (cluster->check == PROXY_CHECK_HTTP)
    conclude(check, good ? BACKEND_OK : BACKEND_FAILED, "its health path answers with an error");
  else if (cluster->check == PROXY_CHECK_AUTO && cluster->http) /* 404, 405: it lives, and has no such path */
    conclude(check, good || status == 404 || status == 405 ? BACKEND_OK : BACKEND_FAILED, "it is not ready");
  else
    conclude_grpc(check);
}

static void on_failed(struct client_request *request, enum client_failure failure, const char *why) {
  struct check *check = check_of(request);
  enum backend_outcome outcome = failure == CLIENT_REFUSED ? BACKEND_REFUSED : BACKEND_FAILED;
  conclude(check, failure == CLIENT_STALE || failure == CLIENT_UNSEEN ? BACKEND_NO_RESULT : outcome, why);
}

static const struct client_events events = {
    .read = on_read, .head = on_head, .body = on_body, .end = on_end, .failed = on_failed};

static mu_status ask_http(struct check *check, mu_error *err) {
  static const char lines[] = "content-type\0application/grpc\0user-agent\0muster-proxy";
  const struct cluster *cluster = check->cluster;
  bool http = cluster->check == PROXY_CHECK_HTTP || (cluster->check == PROXY_CHECK_AUTO && cluster->http);
  struct client_head head = {.method = "POST",
                             .path = "/grpc.health.v1.Health/Check",
                             .query = "",
                             .lines = {lines, sizeof lines},
                             .content_length = UINT64_MAX};
  if (http) {
    head.method = "GET";
    head.path = cluster->check == PROXY_CHECK_HTTP ? cluster->settings->check_path : "/v2/health/ready";
    head.lines = (struct client_lines){0};
    head.content_length = 0;
  }
  check->request.events = &events;
  return client_start(http ? cluster->http1[check->index] : cluster->http2[check->index], &check->request, &head, err);
}

/* ---- TCP --------------------------------------------------------------------------------------------------------- */

static void tcp_connected(uv_connect_t *connect, int status) {
  struct check *check = connect->data;
  free(connect);
  if (!uv_is_closing((uv_handle_t *)&check->tcp)) uv_close((uv_handle_t *)&check->tcp, tcp_closed);
  if (!check->cluster->closing)
    conclude(check, status == 0 ? BACKEND_OK : BACKEND_REFUSED, status == 0 ? "" : uv_strerror(status));
}

static mu_status connect_tcp(struct check *check, mu_error *err) {
  const struct backend_address *address = &check->cluster->list->items[check->index];
  uv_connect_t *connect = check->tcp_open ? NULL : malloc(sizeof *connect);
  if (connect == NULL)
    return mu_fail(err, MU_NO_MEMORY, check->tcp_open ? "the check before is not closed yet" : "no memory for a check");
  uv_tcp_init(check->timer.loop, &check->tcp);
  check->tcp.data = connect->data = check;
  check->tcp_open = true;
  int failed = uv_tcp_connect(connect, &check->tcp, (const struct sockaddr *)&address->socket, tcp_connected);
  if (failed == 0) return MU_OK;
  free(connect);
  uv_close((uv_handle_t *)&check->tcp, tcp_closed);
  return mu_fail(err, MU_IO, "%s", uv_strerror(failed));
}

/* ---- when -------------------------------------------------------------------------------------------------------- */

static void begin(struct cluster *cluster, size_t index) {
  struct check *check = &cluster->checks[index];
  mu_error err;
  check->running = true;
  check->body_size = 0;
  check->grpc_status = check->http_status = -1;
  uv_timer_start(&check->timer, on_timeout, (uint64_t)cluster->settings->check_timeout_ns / NS_PER_MS, 0);
  mu_status status = cluster->check == PROXY_CHECK_TCP ? connect_tcp(check, &err) : ask_http(check, &err);
  if (status != MU_OK) conclude(check, status == MU_IO ? BACKEND_REFUSED : BACKEND_NO_RESULT, err.message);
}

static void on_due(uv_timer_t *timer) {
  struct cluster *cluster = timer->data;
  uint64_t now = clock_now_ns();
  for (size_t index; (index = backend_pool_check(&cluster->pool, now)) != BACKEND_NONE;) begin(cluster, index);
  arm(cluster);
}

static void arm(struct cluster *cluster) {
  uint64_t next = backend_pool_next_check(&cluster->pool), now = clock_now_ns();
  if (cluster->closing || next == TIME_NEVER) return;
  uv_timer_start(&cluster->timer, on_due, next > now ? (next - now) / NS_PER_MS + 1 : 1, 0);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static mu_status fill(struct cluster *cluster, uv_loop_t *loop) {
  size_t n = cluster->list->n;
  cluster->http1 = calloc(n, sizeof *cluster->http1);
  cluster->http2 = calloc(n, sizeof *cluster->http2);
  cluster->checks = calloc(n, sizeof *cluster->checks);
  if (cluster->http1 == NULL || cluster->http2 == NULL || cluster->checks == NULL) return MU_NO_MEMORY;
  for (size_t i = 0; i < n; i++) {
    const struct backend_address *a = &cluster->list->items[i];
    const struct sockaddr *address = (const struct sockaddr *)&a->socket;
    uint64_t timeout = (uint64_t)cluster->settings->connect_timeout_ns;
    cluster->http1[i] = client_host_create(cluster->client, CLIENT_HTTP1, a->name, address, a->socket_size, timeout);
    cluster->http2[i] = client_host_create(cluster->client, CLIENT_HTTP2, a->name, address, a->socket_size, timeout);
    if (cluster->http1[i] == NULL || cluster->http2[i] == NULL) return MU_NO_MEMORY;
    cluster->checks[i] = (struct check){.cluster = cluster, .index = i};
    list_init(&cluster->checks[i].request.link);
  }
  uv_timer_init(loop, &cluster->timer);
  cluster->timer.data = cluster;
  for (size_t i = 0; i < n; i++) {
    uv_timer_init(loop, &cluster->checks[i].timer);
    cluster->checks[i].timer.data = &cluster->checks[i];
  }
  return MU_OK;
}

mu_status cluster_init(struct cluster *cluster, const struct proxy_settings *settings, const struct backend_list *list,
                       bool http, struct client *client, struct net_loop *loop, mu_error *err) {
  struct backend_pool_settings pool = backend_pool_defaults;
  pool.check_interval_ns = (uint64_t)settings->check_interval_ns;
  *cluster = (struct cluster){.settings = settings,
                              .list = list,
                              .client = client,
                              .check = settings->check,
                              .http = http,
                              .retry_tokens = RETRY_TOKENS};
  list_init(&cluster->waiting);
  mu_status status = backend_pool_init(&cluster->pool, list->n, &pool, clock_now_ns(), err);
  if (status != MU_OK) return status;
  if (fill(cluster, net_loop_uv(loop)) != MU_OK) return mu_fail(err, MU_NO_MEMORY, "no memory for the backends");
  arm(cluster);
  return MU_OK;
}

void cluster_close(struct cluster *cluster) {
  if (cluster->checks == NULL || cluster->http1 == NULL || cluster->http2 == NULL || cluster->closing) return;
  cluster->closing = true;
  for (size_t i = 0; i < cluster->list->n; i++) {
    struct check *check = &cluster->checks[i];
    client_cancel(&check->request);
    client_host_free(cluster->http1[i]);
    client_host_free(cluster->http2[i]);
    if (check->timer.loop != NULL) uv_close((uv_handle_t *)&check->timer, NULL);
    if (check->tcp_open && !uv_is_closing((uv_handle_t *)&check->tcp)) uv_close((uv_handle_t *)&check->tcp, tcp_closed);
  }
  if (cluster->timer.loop != NULL) uv_close((uv_handle_t *)&cluster->timer, NULL);
}

void cluster_free(struct cluster *cluster) {
  backend_pool_free(&cluster->pool);
  free(cluster->http1);
  free(cluster->http2);
  free(cluster->checks);
  *cluster = (struct cluster){0};
}
