#include "api/settings_request.h"

mu_status settings_request_parse(const char *what, const char *body, size_t size, settings_read_member *read_member,
                                 void *context, mu_error *err) {
  struct json_reader reader;
  json_reader_init(&reader, body, size);
  enum json_kind kind = json_peek(&reader);
  if (kind == JSON_END && !reader.failed) return MU_OK;
  if (kind != JSON_READ_OBJECT && !reader.failed)
    return mu_fail(err, MU_INVALID, "a %s settings request must be a JSON object", what);
  json_enter(&reader);
  struct json_text key;
  mu_status status = MU_OK;
  while (status == MU_OK && json_member(&reader, &key)) status = read_member(&reader, &key, context, err);
  if (status != MU_OK) return status;
  mu_error why;
  if (json_finish(&reader, &why) == MU_OK) return MU_OK;
  return mu_fail(err, MU_INVALID, "failed to parse the request JSON buffer: %s", why.message);
}
