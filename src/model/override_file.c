#include "model/override_file.h"

#include "model/repository.h"

#include <string.h>

static const char prefix[] = "file:";

static mu_status refuse(mu_error *err, const char *name, size_t size, const char *why) {
  char shown[100];
  size_t n = size < sizeof shown - 1 ? size : sizeof shown - 1;
  for (size_t i = 0; i < n; i++)
    shown[i] = (unsigned char)name[i] >= 0x20 && (unsigned char)name[i] < 0x7f ? name[i] : '?';
  shown[n] = '\0';
  return mu_fail(err, MU_INVALID, "parameter '%s': %s", shown, why);
}

/* As folders of versions are called: digits, the first not 0. */
static bool read_version(const char *text, size_t size, int64_t *ret_version) {
  int64_t version = 0;
  if (size == 0 || *text == '0') return false;
  for (size_t i = 0; i < size; i++)
    if (text[i] < '0' || text[i] > '9' || __builtin_mul_overflow(version, 10, &version) ||
        __builtin_add_overflow(version, text[i] - '0', &version))
      return false;
  *ret_version = version;
  return true;
}

mu_status override_file_parse(const char *name, size_t size, int64_t *ret_version, const char **ret_file,
                              size_t *ret_file_size, mu_error *err) {
  const size_t lead = sizeof prefix - 1;
  if (size < lead || memcmp(name, prefix, lead) != 0)
    return refuse(err, name, size, "not of the form file:1/model.onnx");
  const char *file = name + lead, *end = name + size, *slash = memchr(file, '/', (size_t)(end - file));
  int64_t version = 0;
  if (slash != NULL) {
    if (!read_version(file, (size_t)(slash - file), &version))
      return refuse(err, name, size,
                    "what stands before the / must be a version, a number from 1 without leading zeros");
    file = slash + 1;
  }
  /* What can be called so is one name in a folder: without /, not "." or "..", no control characters, not empty. */
  if (!model_name_valid(file, (size_t)(end - file)))
    return refuse(err, name, size, "must name one file, of a version or of the model: file:1/model.onnx");
  *ret_version = version;
  *ret_file = file;
  *ret_file_size = (size_t)(end - file);
  return MU_OK;
}
