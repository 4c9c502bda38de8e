#include "api/grpc_documents.h"

#include "api/protobuf_json.h"
#include "api/rest_documents.h"
#include "proto/grpc/grpc_message.h"
#include "proto/protobuf/wire.h"

#include <grpc_service.pb-c.h>

/* ---- one message ------------------------------------------------------------------------------------------------- */

/* Room for the prefix, which end_message fills; where the message begins. */
static size_t begin_message(struct buffer *out) {
  buffer_append(out, (char[GRPC_PREFIX_SIZE]){0}, GRPC_PREFIX_SIZE);
  return out->size;
}

static mu_status end_message(struct buffer *out, size_t start, mu_error *err) {
  if (out->failed) return mu_fail(err, MU_NO_MEMORY, "no room for the reply");
  const size_t size = out->size - start;
  if (size > INT32_MAX) return mu_fail(err, MU_TOO_LARGE, "the reply is larger than a gRPC message can be");
  grpc_prefix_write((uint8_t *)out->data + start - GRPC_PREFIX_SIZE, false, (uint32_t)size);
  return MU_OK;
}

mu_status grpc_reply_flag(struct buffer *out, bool flag, mu_error *err) {
  const size_t start = begin_message(out);
  pb_put_varint_field(out, 1, flag);
  return end_message(out, start, err);
}

mu_status grpc_reply_empty(struct buffer *out, mu_error *err) { return end_message(out, begin_message(out), err); }

mu_status grpc_reply_health(struct buffer *out, enum grpc_serving serving, mu_error *err) {
  const size_t start = begin_message(out);
  pb_put_varint_field(out, 1, serving);
  return end_message(out, start, err);
}

/* ---- what the HTTP surface says too ------------------------------------------------------------------------------ */

/* The document as a message; NULL is one for which there was no memory. Lets go of it. */
static mu_status reply_document(struct buffer *out, const ProtobufCMessageDescriptor *descriptor, json_t *document,
                                mu_error *err) {
  if (document == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the reply");
  const size_t start = begin_message(out);
  mu_status status = protobuf_write_json(descriptor, document, out, err);
  if (status == MU_OK) status = end_message(out, start, err);
  json_decref(document);
  return status;
}

mu_status grpc_reply_server_metadata(struct buffer *out, mu_error *err) {
  return reply_document(out, &inference__server_metadata_response__descriptor, server_metadata_json(), err);
}

mu_status grpc_reply_model_metadata(struct buffer *out, const struct model *model, const int64_t *versions,
                                    size_t n_versions, mu_error *err) {
  return reply_document(out, &inference__model_metadata_response__descriptor,
                        model_metadata_json(model, versions, n_versions), err);
}

mu_status grpc_reply_model_config(struct buffer *out, const struct model *model, mu_error *err) {
  return reply_document(out, &inference__model_config_response__descriptor,
                        json_pack("{s:o}", "config", model_config_json(model)), err);
}

mu_status grpc_reply_statistics(struct buffer *out, const struct model *const *models, size_t n_models, mu_error *err) {
  return reply_document(out, &inference__model_statistics_response__descriptor, statistics_json(models, n_models), err);
}

mu_status grpc_reply_repository_index(struct buffer *out, const struct model *const *models, size_t n_models,
                                      bool only_ready, mu_error *err) {
  return reply_document(out, &inference__repository_index_response__descriptor,
                        json_pack("{s:o}", "models", repository_index_json(models, n_models, only_ready)), err);
}

/* ---- regions and settings ---------------------------------------------------------------------------------------- */

enum { ENTRY_KEY = 1, ENTRY_VALUE = 2, MAP = 1 };

mu_status grpc_reply_system_regions(struct buffer *out, const struct grpc_region *regions, size_t n, mu_error *err) {
  const size_t start = begin_message(out);
  for (size_t i = 0; i < n; i++) {
    const size_t entry = pb_open(out, MAP);
    pb_put_text_field(out, ENTRY_KEY, regions[i].name);
    const size_t value = pb_open(out, ENTRY_VALUE);
    pb_put_text_field(out, 1, regions[i].name);
    pb_put_text_field(out, 2, regions[i].key);
    pb_put_varint_field(out, 3, regions[i].offset);
    pb_put_varint_field(out, 4, regions[i].byte_size);
    pb_close(out, value);
    pb_close(out, entry);
  }
  return end_message(out, start, err);
}

mu_status grpc_reply_cuda_regions(struct buffer *out, const struct grpc_region *regions, size_t n, mu_error *err) {
  const size_t start = begin_message(out);
  for (size_t i = 0; i < n; i++) {
    const size_t entry = pb_open(out, MAP);
    pb_put_text_field(out, ENTRY_KEY, regions[i].name);
    const size_t value = pb_open(out, ENTRY_VALUE);
    pb_put_text_field(out, 1, regions[i].name);
    pb_put_varint_field(out, 2, regions[i].device_id);
    pb_put_varint_field(out, 3, regions[i].byte_size);
    pb_close(out, value);
    pb_close(out, entry);
  }
  return end_message(out, start, err);
}

mu_status grpc_reply_trace_settings(struct buffer *out, const struct grpc_setting *settings, size_t n, mu_error *err) {
  const size_t start = begin_message(out);
  for (size_t i = 0; i < n; i++) {
    const size_t entry = pb_open(out, MAP);
    pb_put_text_field(out, ENTRY_KEY, settings[i].key);
    const size_t value = pb_open(out, ENTRY_VALUE);
    for (uint32_t j = 0; j < settings[i].n_values; j++)
      pb_put_bytes(out, 1, settings[i].values[j], strlen(settings[i].values[j]));
    pb_close(out, value);
    pb_close(out, entry);
  }
  return end_message(out, start, err);
}

/* A member of a oneof: written also where it is 0 or "". */
static void put_log_value(struct buffer *out, const struct grpc_setting *setting) {
  if (setting->kind == GRPC_VALUE_BOOL || setting->kind == GRPC_VALUE_I64) {
    const bool truth = setting->kind == GRPC_VALUE_BOOL;
    pb_put_tag(out, truth ? 1 : 2, PB_VARINT);
    pb_put_varint(out, truth ? setting->flag : (uint32_t)setting->number);
  }
  if (setting->kind == GRPC_VALUE_TEXT) pb_put_bytes(out, 3, setting->text, strlen(setting->text));
}

mu_status grpc_reply_log_settings(struct buffer *out, const struct grpc_setting *settings, size_t n, mu_error *err) {
  const size_t start = begin_message(out);
  for (size_t i = 0; i < n; i++) {
    const size_t entry = pb_open(out, MAP);
    pb_put_text_field(out, ENTRY_KEY, settings[i].key);
    const size_t value = pb_open(out, ENTRY_VALUE);
    put_log_value(out, &settings[i]);
    pb_close(out, value);
    pb_close(out, entry);
  }
  return end_message(out, start, err);
}
