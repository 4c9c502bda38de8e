#include "proxy/bridge_query.h"

#include <stdio.h>
#include <string.h>

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = (char)(c | 0x20);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The value of a parameter, percent-escapes resolved; false: not there, or not fit to be one. *ret_found tells. */
static bool take_parameter(const char *query, const char *name, char *to, size_t room, bool *ret_found) {
  size_t length = strlen(name), n = 0;
  *ret_found = false;
  for (const char *at = query; *at != '\0'; at += *at == '&') {
    bool its = strncmp(at, name, length) == 0 && at[length] == '=';
    if (!its) {
      at += strcspn(at, "&");
      continue;
    }
    *ret_found = true;
    for (at += length + 1; *at != '\0' && *at != '&'; at++) {
      int high = *at == '%' ? hex_digit(at[1]) : -1, low = high >= 0 ? hex_digit(at[2]) : -1;
      if (*at == '%' && low < 0) return false;
      char c = *at == '%' ? (char)(high * 16 + low) : *at;
      if (*at == '%') at += 2;
      if (c <= ' ' || c == 0x7f || n + 1 >= room) return false;
      to[n++] = c;
    }
    to[n] = '\0';
    return true;
  }
  return false;
}

mu_status bridge_query_read(const char *text, const char *fallback, struct bridge_query *ret_query, mu_error *err) {
  struct bridge_query query = {0};
  char mode[16] = "unary", order[16] = "request";
  bool found;
  bool taken = take_parameter(text, "method", query.method, sizeof query.method, &found);
  if (!found && fallback == NULL)
    return mu_fail(err, MU_INVALID, "the address names no method: ?method=/package.Service/Method");
  if (!found) snprintf(query.method, sizeof query.method, "%s", fallback);
  const char *slash = query.method[0] == '/' ? strchr(query.method + 1, '/') : NULL;
  if ((found && !taken) || slash == NULL || slash == query.method + 1 || slash[1] == '\0' ||
      strpbrk(query.method, "?#"))
    return mu_fail(err, MU_INVALID, "method has to be /package.Service/Method");
  taken = take_parameter(text, "mode", mode, sizeof mode, &found) || !found;
  query.streaming = strcmp(mode, "stream") == 0;
  if (!taken || (!query.streaming && strcmp(mode, "unary") != 0))
    return mu_fail(err, MU_INVALID, "mode is unary or stream");
  taken = take_parameter(text, "order", order, sizeof order, &found) || !found;
  query.any_order = strcmp(order, "any") == 0;
  if (!taken || (!query.any_order && strcmp(order, "request") != 0))
    return mu_fail(err, MU_INVALID, "order is request or any");
  *ret_query = query;
  return MU_OK;
}
