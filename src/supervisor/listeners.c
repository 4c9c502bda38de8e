#include <unistd.h>

#include "net/peer.h"
#include "supervisor/state.h"

/* Loops of the gateway. HTTP parsing needs few cores next to the models. */
static uint32_t gateway_loops(const struct supervisor *s) {
  if (s->options->gateway_threads > 0) return (uint32_t)s->options->gateway_threads;
  uint32_t half = s->cores / 2;
  return half < 1 ? 1 : half > 4 ? 4 : half;
}

static mu_status open_sockets(struct listeners *listeners, const char *address, int64_t port, uint32_t n,
                              uint16_t *ret_port, mu_error *err) {
  uint32_t at = listeners->n_http + listeners->n_metrics;
  if (n > LISTENERS_MAX - at) return mu_fail(err, MU_INVALID, "%u gateway threads: at most %d", n, LISTENERS_MAX - 1);
  return listen_tcp(address, (uint16_t)port, n, listeners->fds + at, ret_port, err);
}

static mu_status copy_address(char address[ADDRESS_MAX], const char *from, mu_error *err) {
  if (strlen(from) >= ADDRESS_MAX) return mu_fail(err, MU_INVALID, "the address %.64s… is too long", from);
  strcpy(address, from);
  return MU_OK;
}

static bool is_local(int socket) {
  struct sockaddr_storage address = {0};
  socklen_t size = sizeof address;
  return getsockname(socket, (struct sockaddr *)&address, &size) == 0 && address_is_local((struct sockaddr *)&address);
}

static void warn_of_admin(const struct supervisor *s) {
  const struct listeners *listeners = &s->listeners;
  bool local = true;
  for (uint32_t i = 0; i < listeners->n_http + listeners->n_metrics; i++) local = local && is_local(listeners->fds[i]);
  if (s->options->admin == ADMIN_ALL && !local)
    LOG_WARNING(
        "--admin=all on an address that other machines reach: WHOEVER CAN SEND A REQUEST CAN LOAD AND UNLOAD "
        "MODELS and change other settings of this server; --admin=local is for clients on this machine only");
}

mu_status listeners_open(struct supervisor *s, mu_error *err) {
  const struct options *options = s->options;
  struct listeners *listeners = &s->listeners;
  mu_status status = MU_OK;
  if (options->allow_http) {
    uint32_t loops = gateway_loops(s);
    status = copy_address(listeners->http_address, options->http_address, err);
    if (status != MU_OK) return status;
    status = open_sockets(listeners, listeners->http_address, options->http_port, loops, &listeners->http_port, err);
    if (status != MU_OK) return status;
    listeners->n_http = loops;
  }
  if (options->allow_metrics) {
    status = copy_address(listeners->metrics_address, options->metrics_address, err);
    if (status != MU_OK) return status;
    status =
        open_sockets(listeners, listeners->metrics_address, options->metrics_port, 1, &listeners->metrics_port, err);
    if (status != MU_OK) return status;
    listeners->n_metrics = 1;
  }
  warn_of_admin(s);
  return MU_OK;
}

void listeners_close(struct supervisor *s) {
  struct listeners *listeners = &s->listeners;
  for (uint32_t i = 0; i < listeners->n_http + listeners->n_metrics; i++) {
    if (listeners->fds[i] >= 0) close(listeners->fds[i]);
    listeners->fds[i] = -1;
  }
}

void listener_url(const char *address, uint16_t port, char *text, size_t size) {
  if (strcmp(address, "0.0.0.0") == 0 || strcmp(address, "::") == 0) address = "localhost";
  bool v6 = strchr(address, ':') != NULL;
  snprintf(text, size, v6 ? "http://[%s]:%u" : "http://%s:%u", address, port);
}
