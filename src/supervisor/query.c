#include "supervisor/query.h"

#include <string.h>

static int hex_digit(char c) {
  static const char digits[] = "0123456789abcdef";
  const char *at = c != '\0' ? strchr(digits, c | 0x20) : NULL;
  return at != NULL ? (int)(at - digits) : -1;
}

/* Where the value of name begins; NULL: it is not given. */
static const char *find_value(const char *query, const char *name) {
  size_t length = strlen(name);
  for (const char *at = query; at != NULL; at = strchr(at, '&')) {
    if (*at == '&') at++;
    if (strncmp(at, name, length) == 0 && at[length] == '=') return at + length + 1;
  }
  return NULL;
}

mu_status query_value(const char *query, const char *name, char *text, size_t size, mu_error *err) {
  const char *at = find_value(query, name), *end = at != NULL ? at + strcspn(at, "&") : NULL;
  size_t n = 0;
  text[0] = '\0';
  while (at != end) {
    int high = *at == '%' && end - at > 2 ? hex_digit(at[1]) : -1, low = high >= 0 ? hex_digit(at[2]) : -1;
    if (*at == '%' && low < 0) return mu_fail(err, MU_INVALID, "%s: a %% without two hexadecimal digits", name);
    if (n + 1 >= size) return mu_fail(err, MU_INVALID, "%s has more than %zu characters", name, size - 1);
    text[n] = *at == '%' ? (char)(high << 4 | low) : *at;
    if (text[n++] == '\0') return mu_fail(err, MU_INVALID, "%s has a NUL character", name);
    at += *at == '%' ? 3 : 1;
  }
  text[n] = '\0';
  return MU_OK;
}
