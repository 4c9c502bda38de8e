#include "backend/backend_list.h"

#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { PORT_DIGITS_MAX = 5, PORT_MAX = 65535 };

/* ---- text -------------------------------------------------------------------------------------------------------- */

/* "HOST:PORT" or "HOST:FIRST-LAST", as pieces of the text. */
struct item {
  const char *text, *host;
  int size, host_size; /* as printf's precision wants them */
  uint32_t first, last;
};

static mu_status parse_port(const char **at, const char *end, const struct item *item, uint32_t *ret_port,
                            mu_error *err) {
  const char *digit = *at;
  uint32_t port = 0;
  while (digit < end && *digit >= '0' && *digit <= '9' && digit - *at < PORT_DIGITS_MAX)
    port = port * 10 + (uint32_t)(*digit++ - '0');
  bool more = digit < end && *digit >= '0' && *digit <= '9';
  if (digit == *at || more || port < 1 || port > PORT_MAX)
    return mu_fail(err, MU_INVALID, "backend '%.*s': a port is a number from 1 to 65535", item->size, item->text);
  *at = digit;
  *ret_port = port;
  return MU_OK;
}

static mu_status parse_ports(const char *at, const char *end, struct item *item, mu_error *err) {
  mu_status status = parse_port(&at, end, item, &item->first, err);
  item->last = item->first;
  if (status == MU_OK && at < end && *at == '-') {
    at++;
    status = parse_port(&at, end, item, &item->last, err);
  }
  if (status != MU_OK) return status;
  if (at != end)
    return mu_fail(err, MU_INVALID, "backend '%.*s': '%.*s' behind the port", item->size, item->text, (int)(end - at),
                   at);
  if (item->last < item->first)
    return mu_fail(err, MU_INVALID, "backend '%.*s': the range of ports runs backwards", item->size, item->text);
  return MU_OK;
}

static bool is_host(const char *host, int size, bool bracketed) {
  static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.";
  const char *allowed = bracketed ? ":%" : "-_";
  for (int i = 0; i < size; i++)
    if (host[i] == '\0' || (strchr(letters, host[i]) == NULL && strchr(allowed, host[i]) == NULL)) return false;
  return size > 0 && size <= BACKEND_HOST_MAX;
}

static mu_status parse_item(const char *text, size_t size, struct item *ret_item, mu_error *err) {
  enum { SHOWN_MAX = 100 };
  struct item item = {.text = text, .size = size < SHOWN_MAX ? (int)size : SHOWN_MAX, .host = text};
  const char *end = text + size, *colon;
  bool bracketed = size > 0 && text[0] == '[';
  if (size == 0) return mu_fail(err, MU_INVALID, "an empty item in the list of backends");
  if (bracketed) {
    const char *close = memchr(text, ']', size);
    item.host = text + 1;
    colon = close != NULL && close + 1 < end && close[1] == ':' ? close + 1 : NULL;
    item.host_size = colon != NULL ? (int)(close - item.host) : 0;
  } else {
    colon = memchr(text, ':', size);
    item.host_size = colon != NULL ? (int)(colon - text) : 0;
    if (colon != NULL && memchr(colon + 1, ':', (size_t)(end - colon - 1)) != NULL && strstr(text, "://") != colon)
      return mu_fail(err, MU_INVALID, "backend '%.*s': an IPv6 address stands in brackets, [::1]:9000", item.size,
                     text);
  }
  if (colon == NULL) return mu_fail(err, MU_INVALID, "backend '%.*s': has to be HOST:PORT", item.size, text);
  if (!is_host(item.host, item.host_size, bracketed))
    return mu_fail(err, MU_INVALID, "backend '%.*s': '%.*s' is not a host", item.size, text,
                   item.host_size < SHOWN_MAX ? item.host_size : SHOWN_MAX, item.host);
  mu_status status = parse_ports(colon + 1, end, &item, err);
  if (status == MU_OK) *ret_item = item;
  return status;
}

/* ---- the list ---------------------------------------------------------------------------------------------------- */

static mu_status append(struct backend_list *list, const char *host, uint16_t port, mu_error *err) {
  for (size_t i = 0; i < list->n; i++)
    if (list->items[i].port == port && strcasecmp(list->items[i].host, host) == 0)
      return mu_fail(err, MU_EXISTS, "backend %s is named twice", list->items[i].name);
  if (list->n == BACKENDS_MAX) return mu_fail(err, MU_INVALID, "more than %d backends", BACKENDS_MAX);
  if (list->n == list->capacity) {
    size_t capacity = list->capacity > 0 ? list->capacity * 2 : 16;
    struct backend_address *items = realloc(list->items, capacity * sizeof *items);
    if (items == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the list of backends");
    list->items = items;
    list->capacity = capacity;
  }
  char name[BACKEND_HOST_MAX + sizeof "[]:65535"];
  int size = snprintf(name, sizeof name, strchr(host, ':') != NULL ? "[%s]:%u" : "%s:%u", host, port);
  struct backend_address backend = {.name = arena_copy(&list->arena, name, (size_t)size), .host = host, .port = port};
  if (backend.name == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the list of backends");
  list->items[list->n++] = backend;
  return MU_OK;
}

mu_status backend_list_parse(struct backend_list *list, const char *text, mu_error *err) {
  size_t before = list->n;
  mu_status status = MU_OK;
  for (const char *at = text; status == MU_OK; at++) {
    size_t size = strcspn(at, ",");
    struct item item = {0};
    status = parse_item(at, size, &item, err);
    const char *host = status == MU_OK ? arena_copy(&list->arena, item.host, (size_t)item.host_size) : NULL;
    if (status == MU_OK && host == NULL) status = mu_fail(err, MU_NO_MEMORY, "no memory for the list of backends");
    for (uint32_t port = item.first; status == MU_OK && port <= item.last; port++)
      status = append(list, host, (uint16_t)port, err);
    at += size;
    if (*at == '\0') break;
  }
  if (status != MU_OK) list->n = before; /* the arena keeps the names until the end: of no consequence */
  return status;
}

/* ---- addresses --------------------------------------------------------------------------------------------------- */

static mu_status resolve(struct backend_address *backend, mu_error *err) {
  struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
  struct addrinfo *found;
  char port[8];
  snprintf(port, sizeof port, "%u", backend->port);
  int failed = getaddrinfo(backend->host, port, &hints, &found);
  if (failed == EAI_MEMORY) return mu_fail(err, MU_NO_MEMORY, "no memory to resolve %s", backend->host);
  if (failed != 0)
    return mu_fail(err, MU_NOT_FOUND, "backend %s: the host '%s' does not resolve: %s", backend->name, backend->host,
                   gai_strerror(failed));
  const struct addrinfo *best = found;
  for (const struct addrinfo *one = found; one != NULL; one = one->ai_next) {
    if (one->ai_family != AF_INET) continue;
    best = one;
    break;
  }
  memset(&backend->socket, 0, sizeof backend->socket);
  memcpy(&backend->socket, best->ai_addr, best->ai_addrlen);
  backend->socket_size = best->ai_addrlen;
  freeaddrinfo(found);
  return MU_OK;
}

static void set_port(struct backend_address *backend) {
  if (backend->socket.ss_family == AF_INET)
    ((struct sockaddr_in *)&backend->socket)->sin_port = htons(backend->port);
  else
    ((struct sockaddr_in6 *)&backend->socket)->sin6_port = htons(backend->port);
}

mu_status backend_list_resolve(struct backend_list *list, mu_error *err) {
  for (size_t i = 0; i < list->n; i++) {
    struct backend_address *backend = &list->items[i];
    const struct backend_address *last = i > 0 ? &list->items[i - 1] : NULL;
    if (last != NULL && last->host == backend->host) { /* of one range: asked once */
      backend->socket = last->socket;
      backend->socket_size = last->socket_size;
      set_port(backend);
    } else {
      mu_status status = resolve(backend, err);
      if (status != MU_OK) return status;
    }
    for (size_t k = 0; k < i; k++)
      if (list->items[k].socket_size == backend->socket_size &&
          memcmp(&list->items[k].socket, &backend->socket, backend->socket_size) == 0)
        return mu_fail(err, MU_EXISTS, "backends %s and %s are one address", list->items[k].name, backend->name);
  }
  return MU_OK;
}

void backend_list_free(struct backend_list *list) {
  free(list->items);
  arena_free(&list->arena);
  *list = (struct backend_list){0};
}
