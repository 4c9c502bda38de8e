#include <unistd.h>

#include "net/peer.h"
#include "supervisor/state.h"

enum { LOOPS_MAX = (LISTENERS_MAX - 1) / 2 /* each has a socket for HTTP and one for gRPC */ };

/* Loops of the gateway. HTTP parsing needs few cores next to the models. */
static uint32_t gateway_loops(const struct supervisor *s) {
  if (s->options->gateway_threads > 0) return (uint32_t)s->options->gateway_threads;
  uint32_t half = s->cores / 2;
  return half < 1 ? 1 : half > 4 ? 4 : half;
}

/* Opens n sockets behind those that are there. */
static mu_status open_listener(struct listeners *listeners, const char *wish, int64_t port, uint32_t n,
                               char address[ADDRESS_MAX], uint16_t *ret_port, uint32_t *ret_n, mu_error *err) {
  uint32_t at = listeners_count(listeners);
  if (n > LISTENERS_MAX - at) return mu_fail(err, MU_INVALID, "%u gateway threads: at most %d", n, LOOPS_MAX);
  if (strlen(wish) >= ADDRESS_MAX) return mu_fail(err, MU_INVALID, "the address %.64s… is too long", wish);
  strcpy(address, wish);
  mu_status status = listen_tcp(address, (uint16_t)port, n, listeners->fds + at, ret_port, err);
  if (status == MU_OK) *ret_n = n;
  return status;
}

static bool is_local(int socket) {
  struct sockaddr_storage address = {0};
  socklen_t size = sizeof address;
  return getsockname(socket, (struct sockaddr *)&address, &size) == 0 && address_is_local((struct sockaddr *)&address);
}

static void warn_of_admin(const struct supervisor *s) {
  const struct listeners *listeners = &s->listeners;
  bool local = true;
  for (uint32_t i = 0; i < listeners_count(listeners); i++) local = local && is_local(listeners->fds[i]);
  if (s->options->admin == ADMIN_ALL && !local)
    LOG_WARNING(
        "--admin=all on an address that other machines reach: WHOEVER CAN SEND A REQUEST CAN LOAD AND UNLOAD "
        "MODELS and change other settings of this server; --admin=local is for clients on this machine only");
}

mu_status listeners_open(struct supervisor *s, mu_error *err) {
  const struct options *options = s->options;
  struct listeners *l = &s->listeners;
  mu_status status = MU_OK;
  uint32_t loops = gateway_loops(s);
  if (options->allow_http)
    status = open_listener(l, options->http_address, options->http_port, loops, l->http_address, &l->http_port,
                           &l->n_http, err);
  if (status == MU_OK && options->allow_grpc)
    status = open_listener(l, options->grpc_address, options->grpc_port, loops, l->grpc_address, &l->grpc_port,
                           &l->n_grpc, err);
  if (status == MU_OK && options->allow_metrics)
    status = open_listener(l, options->metrics_address, options->metrics_port, 1, l->metrics_address, &l->metrics_port,
                           &l->n_metrics, err);
  if (status == MU_OK) warn_of_admin(s);
  return status;
}

void listeners_close(struct supervisor *s) {
  struct listeners *listeners = &s->listeners;
  for (uint32_t i = 0; i < listeners_count(listeners); i++) {
    if (listeners->fds[i] >= 0) close(listeners->fds[i]);
    listeners->fds[i] = -1;
  }
}

void listener_url(const char *address, uint16_t port, char *text, size_t size) {
  if (strcmp(address, "0.0.0.0") == 0 || strcmp(address, "::") == 0) address = "localhost";
  bool v6 = strchr(address, ':') != NULL;
  snprintf(text, size, v6 ? "http://[%s]:%u" : "http://%s:%u", address, port);
}
