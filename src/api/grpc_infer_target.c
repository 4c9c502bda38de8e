/* Whom a ModelInferRequest is for. */
#include "api/grpc_infer.h"
#include "api/grpc_names.h"
#include "model/repository.h"
#include "model/text.h"
#include "proto/protobuf/wire.h"

enum { REQUEST_MODEL_NAME = 1, REQUEST_MODEL_VERSION = 2, REQUEST_ID = 3 };

mu_status grpc_version_parse(const char *text, size_t size, int64_t *ret_version, mu_error *err) {
  int64_t version = size > 0 ? 0 : -1;
  bool wrong = false;
  for (size_t i = 0; i < size && !wrong; i++)
    wrong = text[i] < '0' || text[i] > '9' || __builtin_mul_overflow(version, 10, &version) ||
            __builtin_add_overflow(version, text[i] - '0', &version);
  if (wrong || version == 0)
    return mu_fail(
        err, MU_INVALID,
        "failed to get model version from specified version string '%.*s', version should be an integral value > 0",
        (int)(size < 40 ? size : 40), text);
  *ret_version = version;
  return MU_OK;
}

mu_status grpc_model_name_check(const char *name, size_t size, mu_error *err) {
  if (size == 0) return mu_fail(err, MU_INVALID, "the request names no model");
  if (model_name_valid(name, size) && text_valid(name, size)) return MU_OK;
  return mu_fail(err, MU_INVALID, "a model cannot be called what the request names it");
}

static mu_status take_text(const struct pb_field *field, char *text, size_t most) {
  if (field->size > most || !text_valid(field->bytes, field->size)) return MU_INVALID;
  memcpy(text, field->bytes, field->size);
  text[field->size] = '\0';
  return MU_OK;
}

mu_status grpc_infer_find_target(const char *message, size_t size, struct grpc_infer_target *ret_target,
                                 mu_error *err) {
  struct pb_reader reader;
  struct pb_field field, name = {.bytes = ""}, version = {.bytes = ""}, id = {.bytes = ""};
  *ret_target = (struct grpc_infer_target){.version = -1};
  pb_reader_init(&reader, message, size);
  while (pb_next(&reader, &field)) {
    if (field.wire != PB_BYTES) continue;
    if (field.number == REQUEST_MODEL_NAME) name = field;
    if (field.number == REQUEST_MODEL_VERSION) version = field;
    if (field.number == REQUEST_ID) id = field;
  }
  /* an id that cannot be one is refused by grpc_infer_parse */
  if (take_text(&id, ret_target->id, REQUEST_ID_MAX) != MU_OK) ret_target->id[0] = '\0';
  mu_status status = pb_finish(&reader, "the request", err);
  if (status == MU_OK) status = grpc_model_name_check(name.bytes, name.size, err);
  if (status != MU_OK) return status;
  memcpy(ret_target->model, name.bytes, name.size); /* valid names are shorter than the room */
  ret_target->model[name.size] = '\0';
  return grpc_version_parse(version.bytes, version.size, &ret_target->version, err);
}
