#include "proto/grpc/grpc_headers.h"

static const struct {
  mu_status status;
  enum grpc_code code;
} codes[] = {
    {MU_OK, GRPC_OK},
    {MU_INVALID, GRPC_INVALID_ARGUMENT},
    {MU_NOT_FOUND, GRPC_NOT_FOUND},
    {MU_UNAVAILABLE, GRPC_UNAVAILABLE},
    {MU_UNSUPPORTED, GRPC_UNIMPLEMENTED},
    {MU_NO_MEMORY, GRPC_UNAVAILABLE},
    {MU_TIMEOUT, GRPC_UNAVAILABLE},
    {MU_CANCELED, GRPC_CANCELLED},
    {MU_EXISTS, GRPC_ALREADY_EXISTS},
    {MU_TOO_LARGE, GRPC_RESOURCE_EXHAUSTED},
};

enum grpc_code grpc_code_of(mu_status status) {
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
    if (codes[i].status == status) return codes[i].code;
  return GRPC_INTERNAL;
}

static const struct {
  char unit;
  uint64_t ns;
} units[] = {
    {'H', UINT64_C(3600000000000)}, {'M', UINT64_C(60000000000)}, {'S', UINT64_C(1000000000)},
    {'m', UINT64_C(1000000)},       {'u', UINT64_C(1000)},        {'n', 1},
};

enum { TIMEOUT_DIGITS = 8 };

mu_status grpc_timeout_parse(const char *text, uint64_t *ret_ns, mu_error *err) {
  uint64_t value = 0;
  size_t n = 0;
  for (; n < TIMEOUT_DIGITS && text[n] >= '0' && text[n] <= '9'; n++) value = value * 10 + (uint64_t)(text[n] - '0');
  if (n > 0 && text[n] != '\0' && text[n + 1] == '\0')
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
      if (units[i].unit != text[n]) continue;
      if (__builtin_mul_overflow(value, units[i].ns, ret_ns)) *ret_ns = UINT64_MAX;
      return MU_OK;
    }
  return mu_fail(err, MU_INVALID, "grpc-timeout '%.40s' is not 1 to 8 digits and one of H, M, S, m, u, n", text);
}

mu_status grpc_message_encode(struct buffer *out, const char *message) {
  static const char digits[] = "0123456789ABCDEF";
  mu_status status = MU_OK;
  for (const char *c = message; *c != '\0' && status == MU_OK; c++) {
    const uint8_t byte = (uint8_t)*c;
    if (byte >= 0x20 && byte <= 0x7e && byte != '%')
      status = buffer_putc(out, *c);
    else
      status = buffer_append(out, (char[]){'%', digits[byte >> 4], digits[byte & 15]}, 3);
  }
  return status;
}
