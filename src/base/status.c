#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A message that does not fit ends between two characters, not inside of one: clients get it as JSON. */
static void end_whole(char *message, size_t size) {
  size_t at = size; /* behind the text; then at the lead byte of its last character */
  while (at > 0 && size - at < 3 && ((unsigned char)message[at - 1] & 0xc0) == 0x80) at--;
  if (at == 0) return;
  unsigned char lead = (unsigned char)message[--at];
  size_t whole = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
  if (size - at < whole) message[at] = '\0';
}

mu_status mu_fail(mu_error *err, mu_status status, const char *format, ...) {
  if (err != NULL) {
    va_list args;
    va_start(args, format);
    int size = vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    if (size >= (int)sizeof err->message) end_whole(err->message, sizeof err->message - 1);
  }
  return status;
}

static const struct {
  const char *name;
  size_t size;
} dtypes[MU_DTYPE_COUNT] = {
    [MU_DTYPE_INVALID] = {"INVALID", 0},
    [MU_BOOL] = {"BOOL", 1},
    [MU_UINT8] = {"UINT8", 1},
    [MU_UINT16] = {"UINT16", 2},
    [MU_UINT32] = {"UINT32", 4},
    [MU_UINT64] = {"UINT64", 8},
    [MU_INT8] = {"INT8", 1},
    [MU_INT16] = {"INT16", 2},
    [MU_INT32] = {"INT32", 4},
    [MU_INT64] = {"INT64", 8},
    [MU_FP16] = {"FP16", 2},
    [MU_FP32] = {"FP32", 4},
    [MU_FP64] = {"FP64", 8},
    [MU_BYTES] = {"BYTES", 0},
    [MU_BF16] = {"BF16", 2},
};

size_t mu_dtype_size(mu_dtype dtype) { return (unsigned)dtype < MU_DTYPE_COUNT ? dtypes[dtype].size : 0; }

const char *mu_dtype_name(mu_dtype dtype) {
  return (unsigned)dtype < MU_DTYPE_COUNT ? dtypes[dtype].name : dtypes[MU_DTYPE_INVALID].name;
}

mu_dtype mu_dtype_parse(const char *name, size_t len) {
  for (int i = MU_BOOL; i < MU_DTYPE_COUNT; i++)
    if (strlen(dtypes[i].name) == len && memcmp(dtypes[i].name, name, len) == 0) return (mu_dtype)i;
  return MU_DTYPE_INVALID;
}

static const char *const status_names[] = {
    "OK",        "INVALID", "NOT_FOUND", "UNAVAILABLE", "UNSUPPORTED", "INTERNAL",
    "NO_MEMORY", "TIMEOUT", "CANCELED",  "EXISTS",      "IO",          "TOO_LARGE",
};

const char *status_name(mu_status status) {
  size_t i = (size_t)(-(int)status);
  return i < sizeof status_names / sizeof *status_names ? status_names[i] : "UNKNOWN";
}

mu_status shape_size(mu_dtype dtype, const int64_t *dims, uint32_t rank, uint64_t *ret_elements, uint64_t *ret_bytes) {
  uint64_t elements = 1;
  bool zero = false;
  for (uint32_t i = 0; i < rank; i++) {
    if (dims[i] < 0) return MU_INVALID;
    if (dims[i] == 0)
      zero = true; /* the others are still checked, so that 0 does not hide nonsense */
    else if (__builtin_mul_overflow(elements, (uint64_t)dims[i], &elements))
      return MU_INVALID;
  }
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(elements, (uint64_t)mu_dtype_size(dtype), &bytes) || bytes > INT64_MAX) return MU_INVALID;
  if (ret_elements != NULL) *ret_elements = zero ? 0 : elements;
  if (ret_bytes != NULL) *ret_bytes = zero ? 0 : bytes;
  return MU_OK;
}

const char *shape_text(const int64_t *dims, uint32_t rank, char *text, size_t size) {
  size_t at = 0;
  at += (size_t)snprintf(text, size, "[");
  for (uint32_t i = 0; i < rank && at < size; i++)
    at += (size_t)snprintf(text + at, size - at, "%s%lld", i == 0 ? "" : ",", (long long)dims[i]);
  if (at < size) at += (size_t)snprintf(text + at, size - at, "]");
  if (at >= size && size >= 4) memcpy(text + size - 4, "\xe2\x80\xa6", 4);
  return text;
}
