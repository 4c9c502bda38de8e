#include "engine/remote/remote_network.h"

#include <netdb.h>
#include <stdio.h>
#include <string.h>

#include "backend/backend_list.h"
#include "engine/remote/remote_settings.h"

enum {
  ADDRESSES_MAX = BACKENDS_MAX * 64, /* bytes of text */
  MODEL_BACKENDS_MAX = 256,
  CALLS_EACH = 8, /* that a backend may have at the same time */
};

static mu_status parse(const mu_parameter *parameters, size_t n, struct backend_list *list, mu_error *err) {
  struct remote_settings settings;
  mu_error why;
  mu_status status = remote_settings_read(parameters, n, &settings, err);
  if (status != MU_OK) return status;
  status = backend_list_parse(list, settings.backends, &why);
  if (status == MU_OK && list->n > MODEL_BACKENDS_MAX)
    status =
        mu_fail(&why, MU_INVALID, "%zu backends, more than the %d that a model may have", list->n, MODEL_BACKENDS_MAX);
  return status == MU_OK ? MU_OK : mu_fail(err, status, "parameter remote.backends: %.400s", why.message);
}

/* "10.0.0.1:8000" or "[fd00::1]:8000" */
static mu_status put_address(struct buffer *out, const struct backend_address *address, mu_error *err) {
  char host[NI_MAXHOST];
  if (getnameinfo((const struct sockaddr *)&address->socket, address->socket_size, host, sizeof host, NULL, 0,
                  NI_NUMERICHOST) != 0)
    return mu_fail(err, MU_INTERNAL, "the address of %s cannot be written", address->name);
  bool v6 = strchr(host, ':') != NULL;
  if (buffer_print(out, "%s%s%s%s:%u", out->size > 0 ? "," : "", v6 ? "[" : "", host, v6 ? "]" : "", address->port) ==
      MU_OK)
    return MU_OK;
  return mu_fail(err, MU_NO_MEMORY, "no memory for the backends' addresses");
}

static void add_port(struct engine_network *network, uint16_t port) {
  for (size_t i = 0; i < network->n_ports; i++)
    if (network->ports[i] == port) return;
  network->ports[network->n_ports++] = port;
}

static mu_status fill(const struct backend_list *list, struct engine_network *network, mu_error *err) {
  struct buffer text;
  buffer_init(&text, ADDRESSES_MAX);
  network->ports = arena_alloc(&network->memory, list->n, sizeof *network->ports);
  mu_status status = network->ports != NULL ? MU_OK : mu_fail(err, MU_NO_MEMORY, "no memory");
  for (size_t i = 0; status == MU_OK && i < list->n; i++) {
    add_port(network, list->items[i].port);
    status = put_address(&text, &list->items[i], err);
  }
  if (status == MU_OK) network->addresses = arena_copy(&network->memory, text.data, text.size);
  if (status == MU_OK && network->addresses == NULL) status = mu_fail(err, MU_NO_MEMORY, "no memory");
  buffer_free(&text);
  return status;
}

mu_status remote_network_find(const mu_parameter *parameters, size_t n, struct engine_network *ret_network,
                              mu_error *err) {
  struct engine_network network = {0};
  struct backend_list list = {0};
  mu_error why;
  mu_status status = parse(parameters, n, &list, err);
  if (status == MU_OK && (status = backend_list_resolve(&list, &why)) != MU_OK)
    mu_fail(err, status, "parameter remote.backends: %.400s", why.message);
  if (status == MU_OK) status = fill(&list, &network, err);
  backend_list_free(&list);
  if (status == MU_OK)
    *ret_network = network;
  else
    arena_free(&network.memory);
  return status;
}

mu_status remote_network_instances(const mu_parameter *parameters, size_t n, size_t *ret_instances, mu_error *err) {
  struct backend_list list = {0};
  mu_status status = parse(parameters, n, &list, err);
  if (status == MU_OK) *ret_instances = CALLS_EACH * list.n;
  backend_list_free(&list);
  return status;
}
