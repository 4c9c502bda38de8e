#include "proxy/proxy.h"

#include "base/clock.h"
#include "base/log.h"
#include "proxy/passage.h"
#include "sandbox/sandbox.h"

#include <signal.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
  PIPELINE_MAX = 16,
  STREAMS_MAX = 1024,
  HEAD_BYTES_MAX = 64 * 1024,
  BODY_MIN_RATE = 1024, /* bytes a second that a body must bring ... */
  BODY_GRACE_S = 10,    /* ... from here on */
  IDLE_TIMEOUT_S = 75,
  HEAD_TIMEOUT_S = 10,
  SLOW_REPLY_MS = 20,
  PING_S = 20,
};
static const uint64_t UNSENT_OF_CONNECTION_MAX = UINT64_C(2) << 30;

/* ---- exchanges --------------------------------------------------------------------------------------------------- */

static const struct proxy_handler *handler_of(const struct exchange *exchange) {
  return *(const struct proxy_handler *const *)exchange->user; /* the first member of whoever has it */
}

static bool is_grpc(const struct exchange *exchange) {
  static const char type[] = "application/grpc";
  const char *value = exchange->headers[HEADER_CONTENT_TYPE];
  return exchange->multiplexed && value != NULL && strncasecmp(value, type, sizeof type - 1) == 0;
}

static void begin(void *context, struct exchange *exchange) {
  struct proxy *proxy = context;
  bool grpc = is_grpc(exchange);
  if (pages_answer(proxy, exchange, grpc)) return;
  if (!grpc && !exchange->multiplexed && strcmp(exchange->path, "/ws") == 0)
    bridge_begin(proxy, exchange);
  else
    relay_begin(proxy, exchange, grpc);
}

static void body(void *context, struct exchange *exchange, const uint8_t *data, size_t size) {
  handler_of(exchange)->body(exchange, data, size);
}

static void end(void *context, struct exchange *exchange) { handler_of(exchange)->end(exchange); }

static void gone(void *context, struct exchange *exchange) { handler_of(exchange)->gone(exchange); }

static void writable(void *context, struct exchange *exchange) { handler_of(exchange)->writable(exchange); }

static const struct service service = {.begin = begin, .body = body, .end = end, .gone = gone, .writable = writable};

/* ---- listening --------------------------------------------------------------------------------------------------- */

static mu_status listen_on(struct proxy *proxy, enum proxy_port which, int64_t wanted, mu_error *err) {
  static const char *const names[] = {[PROXY_GRPC] = "grpc", [PROXY_HTTP] = "http", [PROXY_WS] = "ws"};
  const struct http_limits limits = {.body_bytes = UINT64_MAX,
                                     .head_bytes = HEAD_BYTES_MAX,
                                     .pipeline = PIPELINE_MAX,
                                     .streams = STREAMS_MAX,
                                     .idle_timeout_ns = IDLE_TIMEOUT_S * NS_PER_S,
                                     .head_timeout_ns = HEAD_TIMEOUT_S * NS_PER_S,
                                     .body_min_rate = BODY_MIN_RATE,
                                     .body_grace_ns = BODY_GRACE_S * NS_PER_S,
                                     .slow_reply_ns = (uint64_t)SLOW_REPLY_MS * NS_PER_MS,
                                     .copied_reply_bytes = UNSENT_OF_CONNECTION_MAX,
                                     .connections = (uint32_t)proxy->settings->max_connections,
                                     .verbatim = true};
  uint16_t port;
  int fd;
  if (wanted == PROXY_PORT_OFF) return MU_OK;
  mu_status status = listen_tcp(proxy->settings->address, (uint16_t)wanted, 1, &fd, &port, err);
  if (status != MU_OK) return status;
  proxy->servers[which] = http_server_create(proxy->loop, &service, proxy, &limits);
  if (proxy->servers[which] == NULL) {
    close(fd);
    return mu_fail(err, MU_NO_MEMORY, "no memory for the listener");
  }
  status = http_server_listen(proxy->servers[which], fd, err);
  if (status != MU_OK) return status;
  proxy->ports[which] = port;
  LOG_INFO("listening", LOG_STR("protocol", names[which]), LOG_INT("port", port));
  return MU_OK;
}

/* A client and its backend take one descriptor each. */
static void raise_files(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) LOG_WARNING("the limit of open files cannot be raised");
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

static void stop(uv_timer_t *timer) {
  struct proxy *proxy = timer->data;
  LOG_WARNING("requests are still in flight after --drain-timeout: they are dropped");
  net_loop_stop(proxy->loop);
}

static void drained(void *context) {
  struct proxy *proxy = context;
  if (--proxy->n_draining == 0) net_loop_stop(proxy->loop);
}

static void on_signal(uv_signal_t *handle, int number) {
  struct proxy *proxy = handle->data;
  if (proxy->leaving) { /* a second one: at once */
    net_loop_stop(proxy->loop);
    return;
  }
  LOG_INFO("stopping: what is in flight is finished", LOG_INT("signal", number));
  proxy->leaving = true;
  uv_timer_start(&proxy->drain_timer, stop, (uint64_t)proxy->settings->drain_timeout_ns / NS_PER_MS, 0);
  proxy->n_draining = 1;
  bridges_leave(proxy);
  for (size_t i = 0; i < PROXY_PORTS; i++) {
    if (proxy->servers[i] == NULL) continue;
    proxy->n_draining++;
    http_server_drain(proxy->servers[i], drained, proxy);
  }
  drained(proxy);
}

/* Of a terminal that closes, or of somebody who expects a reload: neither ends what others wait for. */
static void on_hangup(uv_signal_t *handle, int number) {
  LOG_WARNING("SIGHUP is ignored: the list of backends is read at the start only (--opaque reads it again)");
}

static void on_ping_timer(uv_timer_t *timer) { bridges_ping(timer->data); }

/* ---- life -------------------------------------------------------------------------------------------------------- */

static mu_status start_clusters(struct proxy *proxy, mu_error *err) {
  const struct proxy_settings *s = proxy->settings;
  mu_status status = MU_OK;
  if (s->backends.n > 0) {
    proxy->grpc = proxy->http = &proxy->clusters[0];
    status = cluster_init(proxy->grpc, s, &s->backends, false, proxy->client, proxy->loop, err);
    proxy->clusters[0].wake = passages_wake;
  }
  if (status == MU_OK && s->http_backends.n > 0) {
    proxy->http = &proxy->clusters[1];
    status = cluster_init(proxy->http, s, &s->http_backends, true, proxy->client, proxy->loop, err);
    proxy->clusters[1].wake = passages_wake;
  }
  return status;
}

mu_status proxy_start(struct proxy *proxy, const struct proxy_settings *settings, mu_error *err) {
  const struct proxy_settings *s = settings;
  *proxy = (struct proxy){.settings = settings};
  list_init(&proxy->bridges);
  proxy->loop = net_loop_create();
  if (proxy->loop == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for an event loop");
  proxy->client = client_create(proxy->loop);
  if (proxy->client == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for connections");
  uv_loop_t *loop = net_loop_uv(proxy->loop);
  uv_timer_init(loop, &proxy->drain_timer);
  uv_timer_init(loop, &proxy->ping_timer);
  proxy->drain_timer.data = proxy->ping_timer.data = proxy;
  uv_timer_start(&proxy->ping_timer, on_ping_timer, PING_S * 1000, PING_S * 1000);
  static const struct {
    int number;
    uv_signal_cb callback;
  } signals[] = {{SIGINT, on_signal}, {SIGTERM, on_signal}, {SIGHUP, on_hangup}};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
    uv_signal_init(loop, &proxy->signals[i]);
    proxy->signals[i].data = proxy;
    uv_signal_start(&proxy->signals[i], signals[i].callback, signals[i].number);
  }
  mu_status status = start_clusters(proxy, err);
  const int64_t ports[] = {[PROXY_GRPC] = s->grpc_port, [PROXY_HTTP] = s->http_port, [PROXY_WS] = s->ws_port};
  for (size_t i = 0; status == MU_OK && i < PROXY_PORTS; i++)
    status = listen_on(proxy, (enum proxy_port)i, ports[i], err);
  return status;
}

void proxy_stop(struct proxy *proxy) {
  for (size_t i = 0; i < PROXY_PORTS; i++) http_server_free(proxy->servers[i]);
  bridges_forget(proxy);
  for (size_t i = 0; i < 2; i++) cluster_close(&proxy->clusters[i]);
  client_free(proxy->client);
  net_loop_free(proxy->loop); /* closes what is left and runs the closing callbacks */
  for (size_t i = 0; i < 2; i++) cluster_free(&proxy->clusters[i]);
}

/* ---- the fence --------------------------------------------------------------------------------------------------- */

static size_t add_ports(const struct backend_list *list, uint16_t *ports, size_t n) {
  for (size_t i = 0; i < list->n; i++) {
    size_t k = 0;
    while (k < n && ports[k] != list->items[i].port) k++;
    if (k == n) ports[n++] = list->items[i].port;
  }
  return n;
}

/* All names are resolved and all ports open; nothing that a stranger sent has been read. */
static mu_status enter_fence(const struct proxy_settings *settings, mu_error *err) {
  uint16_t ports[2 * BACKENDS_MAX];
  if (!settings->sandbox) {
    LOG_WARNING("the sandbox is off: a request that takes over this process has all its rights");
    return sandbox_enter(SANDBOX_OFF, err);
  }
  size_t n = add_ports(&settings->http_backends, ports, add_ports(&settings->backends, ports, 0));
  return sandbox_enter_proxy(ports, n, err);
}

int proxy_run(const struct proxy_settings *settings) {
  struct proxy proxy;
  mu_error err;
  signal(SIGPIPE, SIG_IGN);
  raise_files();
  mu_status status = proxy_start(&proxy, settings, &err);
  if (status == MU_OK) status = enter_fence(settings, &err);
  if (status == MU_OK)
    net_loop_run(proxy.loop);
  else
    LOG_ERROR("the proxy cannot start", LOG_STR("error", err.message));
  proxy_stop(&proxy);
  return status == MU_OK ? 0 : 1;
}
