#include "proto/websocket/handshake.h"

#include "proto/websocket/sha1.h"

#include <string.h>
#include <strings.h>

/* ---- lists in headers -------------------------------------------------------------------------------------------- */

static bool is_space(char c) { return c == ' ' || c == '\t'; }

/* The next item of a comma-separated list without the space around it; false at the end. *at moves behind it. */
static bool next_item(const char **at, const char **ret_item, size_t *ret_size) {
  const char *from = *at;
  while (is_space(*from) || *from == ',') from++;
  if (*from == '\0') return false;
  size_t size = strcspn(from, ",");
  *at = from + size;
  while (size > 0 && is_space(from[size - 1])) size--;
  *ret_item = from;
  *ret_size = size;
  return true;
}

static bool same(const char *a, size_t a_size, const char *b, size_t b_size) {
  return a_size == b_size && strncasecmp(a, b, a_size) == 0;
}

bool header_has_token(const char *value, const char *token) {
  const char *item;
  size_t size;
  while (value != NULL && next_item(&value, &item, &size))
    if (same(item, size, token, strlen(token))) return true;
  return false;
}

/* ---- origins ----------------------------------------------------------------------------------------------------- */

/* host[:port] without the port that the scheme stands for. */
static size_t without_port(const char *authority, size_t size, const char *port) {
  size_t n = strlen(port);
  return size > n && memcmp(authority + size - n, port, n) == 0 ? size - n : size;
}

static bool same_host(const char *origin, const char *host) {
  static const struct { const char *scheme, *port; } schemes[] = {{"http://", ":80"}, {"https://", ":443"}};
  for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
    size_t n = strlen(schemes[i].scheme);
    if (strncasecmp(origin, schemes[i].scheme, n) != 0) continue;
    const char *authority = origin + n;
    return same(authority, without_port(authority, strlen(authority), schemes[i].port), host,
                without_port(host, strlen(host), schemes[i].port));
  }
  return false;
}

bool websocket_origin_allowed(const char *origin, const char *host, const char *const *origins, size_t n_origins) {
  if (origin == NULL) return true;
  for (size_t i = 0; i < n_origins; i++)
    if (strcmp(origins[i], "*") == 0 || strcasecmp(origins[i], origin) == 0) return true;
  return host != NULL && same_host(origin, host);
}

/* ---- the key ----------------------------------------------------------------------------------------------------- */

static const char base64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static void write_base64(const uint8_t *data, size_t size, char *to) {
  for (size_t at = 0; at < size; at += 3) {
    size_t n = size - at < 3 ? size - at : 3;
    uint32_t bits = (uint32_t)data[at] << 16 | (n > 1 ? (uint32_t)data[at + 1] << 8 : 0) | (n > 2 ? data[at + 2] : 0);
    for (size_t i = 0; i < 4; i++) *to++ = i <= n ? base64_digits[bits >> (18 - 6 * i) & 63] : '=';
  }
  *to = '\0';
}

enum { KEY_SIZE = 24, KEY_DIGITS = 22 }; /* 16 bytes in base64 */

/* The last digit stands for two bits only. Some clients do not clear the rest of it: nothing depends on it. */
static bool is_key(const char *key) {
  return strlen(key) == KEY_SIZE && strspn(key, base64_digits) == KEY_DIGITS && strcmp(key + KEY_DIGITS, "==") == 0;
}

static void write_accept(const char *key, char ret_accept[WEBSOCKET_ACCEPT_SIZE]) {
  static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; /* RFC 6455, section 1.3 */
  char text[KEY_SIZE + sizeof guid];
  memcpy(text, key, KEY_SIZE);
  memcpy(text + KEY_SIZE, guid, sizeof guid);
  uint8_t digest[SHA1_SIZE];
  sha1(text, sizeof text - 1, digest);
  write_base64(digest, sizeof digest, ret_accept);
}

/* ---- the handshake ----------------------------------------------------------------------------------------------- */

static mu_status check(const struct websocket_offer *offer, const char *const *origins, size_t n_origins,
                       int *ret_http_status, mu_error *err) {
  *ret_http_status = 400;
  if (strcmp(offer->method, "GET") != 0)
    return mu_fail(err, MU_INVALID, "a WebSocket is opened with GET, not with %.20s", offer->method);
  if (offer->upgrade == NULL) {
    *ret_http_status = 426;
    return mu_fail(err, MU_INVALID, "this address is for WebSocket clients: the request asks for no upgrade");
  }
  if (!header_has_token(offer->upgrade, "websocket"))
    return mu_fail(err, MU_INVALID, "Upgrade: %.40s is not offered here, only websocket", offer->upgrade);
  if (!header_has_token(offer->connection, "upgrade"))
    return mu_fail(err, MU_INVALID, "the handshake lacks Connection: Upgrade (a proxy in between may have removed it)");
  if (offer->version == NULL || strcmp(offer->version, "13") != 0) {
    *ret_http_status = 426;
    return mu_fail(err, MU_INVALID, "Sec-WebSocket-Version must be 13, not '%.20s'",
                   offer->version != NULL ? offer->version : "");
  }
  if (offer->key == NULL || !is_key(offer->key))
    return mu_fail(err, MU_INVALID, "Sec-WebSocket-Key must be 16 bytes in base64");
  *ret_http_status = 403;
  if (!websocket_origin_allowed(offer->origin, offer->host, origins, n_origins))
    return mu_fail(err, MU_INVALID,
                   "pages of %.200s may not open streams here; --websocket-origins lists the origins that may",
                   offer->origin);
  *ret_http_status = 101;
  return MU_OK;
}

mu_status websocket_accept(const struct websocket_offer *offer, const char *const *origins, size_t n_origins,
                           char ret_accept[WEBSOCKET_ACCEPT_SIZE], int *ret_http_status, mu_error *err) {
  mu_status status = check(offer, origins, n_origins, ret_http_status, err);
  if (status == MU_OK) write_accept(offer->key, ret_accept);
  return status;
}
