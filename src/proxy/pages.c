/* The pages of the proxy itself: /health, /metrics, /backends/drain, and gRPC's health service. */
#include "base/log.h"
#include "proto/grpc/grpc_headers.h"
#include "proxy/proxy.h"

#include <stdio.h>

static size_t clusters_of(const struct proxy *proxy, const struct cluster *ret_clusters[2]) {
  size_t n = 0;
  if (proxy->grpc != NULL) ret_clusters[n++] = proxy->grpc;
  if (proxy->http != NULL && proxy->http != proxy->grpc) ret_clusters[n++] = proxy->http;
  return n;
}

/* Can it do what it is for? Each of its lists needs one that is healthy. */
static bool is_healthy(const struct proxy *proxy) {
  const struct cluster *clusters[2];
  size_t n = clusters_of(proxy, clusters);
  bool healthy = !proxy->leaving;
  for (size_t i = 0; i < n; i++) healthy &= clusters[i]->pool.n_healthy > 0;
  return healthy;
}

/* ---- /health ----------------------------------------------------------------------------------------------------- */

static void health(struct proxy *proxy, struct exchange *exchange) {
  const struct cluster *clusters[2];
  size_t n = clusters_of(proxy, clusters), total = 0, healthy = 0;
  struct buffer json;
  buffer_init(&json, 8 << 20);
  for (size_t i = 0; i < n; i++) {
    total += clusters[i]->pool.n;
    healthy += clusters[i]->pool.n_healthy;
  }
  bool all_well = is_healthy(proxy);
  buffer_print(&json, "{\"healthy\":%s,\"total_backends\":%zu,\"healthy_count\":%zu,\"backends\":[",
               all_well ? "true" : "false", total, healthy);
  bool first = true;
  for (size_t i = 0; i < n; i++)
    for (size_t k = 0; k < clusters[i]->pool.n; k++, first = false) {
      const struct backend *backend = &clusters[i]->pool.items[k];
      /* names of hosts need no escapes */
      buffer_print(&json,
                   "%s{\"address\":\"%s\",\"healthy\":%s,\"total_requests\":%llu,\"error_count\":%llu,"
                   "\"outstanding\":%u,\"draining\":%s}",
                   first ? "" : ",", clusters[i]->list->items[k].name,
                   backend->state == BACKEND_HEALTHY ? "true" : "false", (unsigned long long)backend->total_requests,
                   (unsigned long long)backend->error_count, backend->outstanding,
                   backend->draining ? "true" : "false");
    }
  buffer_puts(&json, "]}");
  if (json.failed)
    exchange_reply_error(exchange, 503, "out of memory");
  else
    exchange_reply_json(exchange, all_well ? 200 : 503, json.data, json.size);
  buffer_free(&json);
}

/* ---- /metrics ---------------------------------------------------------------------------------------------------- */

static double value_of_healthy(const struct backend *backend) { return backend->state == BACKEND_HEALTHY; }
static double value_of_outstanding(const struct backend *backend) { return backend->outstanding; }
static double value_of_requests(const struct backend *backend) { return (double)backend->total_requests; }
static double value_of_errors(const struct backend *backend) { return (double)backend->error_count; }

static const struct {
  const char *name, *type, *help;
  double (*value)(const struct backend *backend);
} backend_metrics[] = {
    {"muster_proxy_backend_healthy", "gauge", "1 while the backend gets requests", value_of_healthy},
    {"muster_proxy_backend_outstanding", "gauge", "Requests at the backend now", value_of_outstanding},
    {"muster_proxy_backend_requests_total", "counter", "Requests sent to the backend, further attempts too",
     value_of_requests},
    {"muster_proxy_backend_errors_total", "counter", "Requests that the backend did not answer", value_of_errors},
};

static double calls_grpc(const struct proxy *proxy) { return (double)proxy->calls_grpc; }
static double calls_http(const struct proxy *proxy) { return (double)proxy->calls_http; }
static double sockets(const struct proxy *proxy) { return (double)proxy->sockets; }
static double messages(const struct proxy *proxy) { return (double)proxy->messages; }

static double sum(const struct proxy *proxy, size_t field) {
  const struct cluster *clusters[2];
  size_t n = clusters_of(proxy, clusters);
  double total = 0;
  for (size_t i = 0; i < n; i++) total += (double)*(const uint64_t *)(const void *)((const char *)clusters[i] + field);
  return total;
}
static double retries(const struct proxy *proxy) { return sum(proxy, offsetof(struct cluster, retries)); }
static double failed(const struct proxy *proxy) { return sum(proxy, offsetof(struct cluster, failures)); }

static const struct {
  const char *name, *help;
  double (*value)(const struct proxy *proxy);
} proxy_metrics[] = {
    {"muster_proxy_grpc_calls_total", "Calls of gRPC from clients", calls_grpc},
    {"muster_proxy_http_requests_total", "Requests of HTTP from clients", calls_http},
    {"muster_proxy_websocket_connections_total", "WebSocket connections", sockets},
    {"muster_proxy_websocket_messages_total", "Messages from WebSocket clients", messages},
    {"muster_proxy_retries_total", "Further attempts", retries},
    {"muster_proxy_failures_total", "Requests answered with an error of the proxy's own", failed},
};

static void metrics(struct proxy *proxy, struct exchange *exchange) {
  const struct cluster *clusters[2];
  size_t n = clusters_of(proxy, clusters);
  struct buffer text;
  buffer_init(&text, 16 << 20);
  for (size_t m = 0; m < sizeof proxy_metrics / sizeof *proxy_metrics; m++)
    buffer_print(&text, "# HELP %s %s\n# TYPE %s counter\n%s %.0f\n", proxy_metrics[m].name, proxy_metrics[m].help,
                 proxy_metrics[m].name, proxy_metrics[m].name, proxy_metrics[m].value(proxy));
  for (size_t m = 0; m < sizeof backend_metrics / sizeof *backend_metrics; m++) {
    buffer_print(&text, "# HELP %s %s\n# TYPE %s %s\n", backend_metrics[m].name, backend_metrics[m].help,
                 backend_metrics[m].name, backend_metrics[m].type);
    for (size_t i = 0; i < n; i++)
      for (size_t k = 0; k < clusters[i]->pool.n; k++)
        buffer_print(&text, "%s{backend=\"%s\",list=\"%s\"} %.0f\n", backend_metrics[m].name,
                     clusters[i]->list->items[k].name, clusters[i]->http ? "http-backends" : "backends",
                     backend_metrics[m].value(&clusters[i]->pool.items[k]));
  }
  struct iovec body = {text.data, text.size};
  if (text.failed)
    exchange_reply_error(exchange, 503, "out of memory");
  else
    exchange_reply(exchange, &(struct reply){.status = 200,
                                             .content_type = "text/plain; version=0.0.4; charset=utf-8",
                                             .body = &body,
                                             .n_body = 1,
                                             .compressible = true});
  buffer_free(&text);
}

/* ---- /backends/drain and /backends/undrain ----------------------------------------------------------------------- */

/* Every backend of that address, in both lists; how many. */
static size_t set_draining(struct proxy *proxy, const char *address, bool draining) {
  struct cluster *clusters[2] = {proxy->grpc, proxy->http};
  size_t n = 0;
  for (size_t i = 0; i < 2; i++) {
    if (clusters[i] == NULL || (i > 0 && clusters[i] == clusters[0])) continue;
    for (size_t k = 0; k < clusters[i]->pool.n; k++) {
      if (strcmp(clusters[i]->list->items[k].name, address) != 0) continue;
      backend_pool_drain(&clusters[i]->pool, k, draining);
      n++;
    }
    if (!draining) clusters[i]->wake(clusters[i]);
  }
  return n;
}

/* For who sits on this machine, and for no page in a browser there: that says where it is from. */
static void drain(struct proxy *proxy, struct exchange *exchange, bool draining) {
  static const char parameter[] = "address=";
  bool named = strncmp(exchange->query, parameter, sizeof parameter - 1) == 0;
  const char *address = named ? exchange->query + sizeof parameter - 1 : "";
  if (!exchange_peer_is_local(exchange) || exchange->headers[HEADER_ORIGIN] != NULL)
    exchange_reply_error(exchange, 403, "only programs on the proxy's own machine may ask for this");
  else if (!named)
    exchange_reply_error(exchange, 400, "which backend? ?address=HOST:PORT");
  else if (set_draining(proxy, address, draining) == 0)
    exchange_reply_error(exchange, 404, "no backend has this address; GET /health lists them");
  else {
    LOG_INFO(draining ? "backend drains" : "backend drains no more", LOG_STR("backend", address));
    health(proxy, exchange);
  }
}

/* ---- gRPC -------------------------------------------------------------------------------------------------------- */

void proxy_grpc_error(struct exchange *exchange, bool begun, int code, const char *message) {
  char digits[12];
  struct buffer text;
  buffer_init(&text, 4096);
  snprintf(digits, sizeof digits, "%d", code);
  struct header headers[2] = {{"grpc-status", digits}, {"grpc-message", NULL}};
  if (grpc_message_encode(&text, message) == MU_OK) headers[1].value = buffer_text(&text);
  size_t n = headers[1].value != NULL ? 2 : 1;
  if (begun)
    exchange_reply_end(exchange, headers, n);
  else
    exchange_reply(
        exchange,
        &(struct reply){.status = 200, .content_type = "application/grpc", .headers = headers, .n_headers = n});
  buffer_free(&text);
}

/* The proxy's own state: whoever looks after it has no business with one backend. */
static void grpc_check(struct proxy *proxy, struct exchange *exchange) {
  static const struct header ok = {"grpc-status", "0"};
  enum { SERVING = 1, NOT_SERVING = 2 };
  uint8_t message[] = {0, 0, 0, 0, 2, 0x08, is_healthy(proxy) ? SERVING : NOT_SERVING};
  struct iovec body = {message, sizeof message};
  exchange_reply(exchange, &(struct reply){.status = 200,
                                           .content_type = "application/grpc",
                                           .body = &body,
                                           .n_body = 1,
                                           .trailers = &ok,
                                           .n_trailers = 1});
}

/* ---- which ------------------------------------------------------------------------------------------------------- */

bool pages_answer(struct proxy *proxy, struct exchange *exchange, bool grpc) {
  const char *path = exchange->path;
  if (grpc && strcmp(path, "/grpc.health.v1.Health/Check") == 0)
    grpc_check(proxy, exchange);
  else if (grpc && strcmp(path, "/grpc.health.v1.Health/Watch") == 0)
    proxy_grpc_error(exchange, false, GRPC_UNIMPLEMENTED, "the proxy's health can be asked for with Check");
  else if (!grpc && strcmp(exchange->method, "GET") == 0 && strcmp(path, "/health") == 0)
    health(proxy, exchange);
  else if (!grpc && strcmp(exchange->method, "GET") == 0 && strcmp(path, "/metrics") == 0)
    metrics(proxy, exchange);
  else if (!grpc && strcmp(exchange->method, "POST") == 0 && strcmp(path, "/backends/drain") == 0)
    drain(proxy, exchange, true);
  else if (!grpc && strcmp(exchange->method, "POST") == 0 && strcmp(path, "/backends/undrain") == 0)
    drain(proxy, exchange, false);
  else
    return false;
  return true;
}
