#include "api/grpc_requests.h"

#include "api/grpc_names.h"
#include "model/text.h"
#include "proto/protobuf/wire.h"

#include <stddef.h>

struct reading {
  struct grpc_request *request;
  struct pb_field version; /* the last one that came */
  uint32_t n_entries;      /* of the map of settings, those of the same key included */
  mu_error *err;
};

/* A field that a method's message may have, and who reads it to which place in the struct. */
struct row {
  uint32_t number;
  enum pb_wire wire;
  mu_status (*read)(struct reading *r, const struct pb_field *field, void *into);
  size_t offset;
};

/* Is room for n things full? It begins with 8 and doubles. */
static bool is_full(uint32_t n) { return n == 0 || (n >= 8 && (n & (n - 1)) == 0); }

static size_t next_room(uint32_t n) { return n == 0 ? 8 : 2 * (size_t)n; }

static mu_status no_memory(mu_error *err) { return mu_fail(err, MU_NO_MEMORY, "no memory for the request"); }

/* ---- single values ----------------------------------------------------------------------------------------------- */

static mu_status copy_text(struct reading *r, const struct pb_field *field, const char **into) {
  if (!text_valid(field->bytes, field->size))
    return mu_fail(r->err, MU_INVALID, "a text of the request is not valid UTF-8, or has a NUL character");
  const char *copy = arena_copy(&r->request->memory, field->bytes, field->size);
  if (copy == NULL) return no_memory(r->err);
  *into = copy;
  return MU_OK;
}

static mu_status read_text(struct reading *r, const struct pb_field *field, void *into) {
  return copy_text(r, field, into);
}

static mu_status read_bool(struct reading *r, const struct pb_field *field, void *into) {
  *(bool *)into = field->value != 0;
  return MU_OK;
}

static mu_status read_u64(struct reading *r, const struct pb_field *field, void *into) {
  *(uint64_t *)into = field->value;
  return MU_OK;
}

static mu_status read_i64(struct reading *r, const struct pb_field *field, void *into) {
  *(int64_t *)into = (int64_t)field->value;
  return MU_OK;
}

static mu_status read_version(struct reading *r, const struct pb_field *field, void *into) {
  r->version = *field;
  return MU_OK;
}

static mu_status read_handle(struct reading *r, const struct pb_field *field, void *into) {
  r->request->raw_handle = field->bytes;
  r->request->raw_handle_size = field->size;
  return MU_OK;
}

/* ---- settings ---------------------------------------------------------------------------------------------------- */

enum { ENTRY_KEY = 1, ENTRY_VALUE = 2 };

/* A field of a setting's value, which is a oneof: the last one counts. */
struct value_row {
  uint32_t number;
  enum pb_wire wire;
  enum grpc_value_kind kind;
};

static const struct value_row repository_values[] = {
    {1, PB_VARINT, GRPC_VALUE_BOOL},
    {2, PB_VARINT, GRPC_VALUE_I64},
    {3, PB_BYTES, GRPC_VALUE_TEXT},
    {4, PB_BYTES, GRPC_VALUE_BYTES},
    {0},
};

static const struct value_row log_values[] = {
    {1, PB_VARINT, GRPC_VALUE_BOOL},
    {2, PB_VARINT, GRPC_VALUE_I64},
    {3, PB_BYTES, GRPC_VALUE_TEXT},
    {0},
};

static const struct value_row trace_values[] = {
    {1, PB_BYTES, GRPC_VALUE_LIST},
    {0},
};

static mu_status add_value(struct reading *r, const struct pb_field *field, struct grpc_setting *setting) {
  if (setting->n_values == GRPC_SETTINGS_MAX)
    return mu_fail(r->err, MU_INVALID, "a setting has more than %d values", GRPC_SETTINGS_MAX);
  if (is_full(setting->n_values)) {
    const char **more = arena_alloc(&r->request->memory, next_room(setting->n_values), sizeof *more);
    if (more == NULL) return no_memory(r->err);
    if (setting->n_values > 0) memcpy(more, setting->values, setting->n_values * sizeof *more);
    setting->values = more;
  }
  const mu_status status = copy_text(r, field, &setting->values[setting->n_values]);
  if (status == MU_OK) setting->n_values++;
  return status;
}

static mu_status take_value(struct reading *r, enum grpc_value_kind kind, const struct pb_field *field,
                            struct grpc_setting *setting) {
  setting->kind = kind;
  setting->flag = field->value != 0;
  setting->number = (int64_t)field->value;
  setting->text = field->bytes;
  setting->size = field->size;
  if (kind == GRPC_VALUE_TEXT) return copy_text(r, field, &setting->text);
  return kind == GRPC_VALUE_LIST ? add_value(r, field, setting) : MU_OK;
}

static mu_status read_value(struct reading *r, const struct value_row *rows, const struct pb_field *message,
                            struct grpc_setting *setting) {
  struct pb_reader reader;
  struct pb_field field;
  pb_reader_init(&reader, message->bytes, message->size);
  while (pb_next(&reader, &field))
    for (const struct value_row *row = rows; row->number != 0; row++) {
      if (row->number != field.number || row->wire != field.wire) continue;
      const mu_status status = take_value(r, row->kind, &field, setting);
      if (status != MU_OK) return status;
    }
  return pb_finish(&reader, "a setting", r->err);
}

/* The place for a setting of that key; NULL without memory. */
static struct grpc_setting *setting_place(struct reading *r, const char *key) {
  struct grpc_request *request = r->request;
  for (uint32_t i = 0; i < request->n_settings; i++)
    if (strcmp(request->settings[i].key, key) == 0) return &request->settings[i];
  if (is_full(request->n_settings)) {
    struct grpc_setting *more = arena_alloc(&request->memory, next_room(request->n_settings), sizeof *more);
    if (more == NULL) return NULL;
    if (request->n_settings > 0) memcpy(more, request->settings, request->n_settings * sizeof *more);
    request->settings = more;
  }
  return &request->settings[request->n_settings++];
}

static mu_status read_entry(struct reading *r, const struct value_row *rows, enum grpc_value_kind empty,
                            const struct pb_field *message) {
  struct pb_reader reader;
  struct pb_field field;
  struct grpc_setting setting = {.key = "", .kind = empty, .text = ""};
  mu_status status = MU_OK;
  if (r->n_entries++ == GRPC_SETTINGS_MAX)
    return mu_fail(r->err, MU_INVALID, "the request has more than %d settings", GRPC_SETTINGS_MAX);
  pb_reader_init(&reader, message->bytes, message->size);
  while (status == MU_OK && pb_next(&reader, &field)) {
    if (field.wire != PB_BYTES) continue;
    if (field.number == ENTRY_KEY) status = copy_text(r, &field, &setting.key);
    if (field.number == ENTRY_VALUE) status = read_value(r, rows, &field, &setting);
  }
  if (status == MU_OK) status = pb_finish(&reader, "a setting", r->err);
  if (status != MU_OK) return status;
  struct grpc_setting *place = setting_place(r, setting.key);
  if (place == NULL) return no_memory(r->err);
  *place = setting;
  return MU_OK;
}

static mu_status read_repository_parameter(struct reading *r, const struct pb_field *field, void *into) {
  return read_entry(r, repository_values, GRPC_VALUE_NONE, field);
}

static mu_status read_trace_setting(struct reading *r, const struct pb_field *field, void *into) {
  return read_entry(r, trace_values, GRPC_VALUE_LIST, field);
}

static mu_status read_log_setting(struct reading *r, const struct pb_field *field, void *into) {
  return read_entry(r, log_values, GRPC_VALUE_NONE, field);
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

#define AT(member) offsetof(struct grpc_request, member)

static const struct row empty_rows[] = {{0}};
static const struct row model_rows[] = {
    {1, PB_BYTES, read_text, AT(name)},
    {2, PB_BYTES, read_version, 0},
    {0},
};
static const struct row index_rows[] = {
    {1, PB_BYTES, read_text, AT(repository)},
    {2, PB_VARINT, read_bool, AT(ready)},
    {0},
};
static const struct row load_rows[] = {
    {1, PB_BYTES, read_text, AT(repository)},
    {2, PB_BYTES, read_text, AT(name)},
    {3, PB_BYTES, read_repository_parameter, 0},
    {0},
};
static const struct row name_rows[] = {
    {1, PB_BYTES, read_text, AT(name)},
    {0},
};
static const struct row system_register_rows[] = {
    {1, PB_BYTES, read_text, AT(name)},
    {2, PB_BYTES, read_text, AT(key)},
    {3, PB_VARINT, read_u64, AT(offset)},
    {4, PB_VARINT, read_u64, AT(byte_size)},
    {0},
};
static const struct row cuda_register_rows[] = {
    {1, PB_BYTES, read_text, AT(name)},
    {2, PB_BYTES, read_handle, 0},
    {3, PB_VARINT, read_i64, AT(device_id)},
    {4, PB_VARINT, read_u64, AT(byte_size)},
    {0},
};
static const struct row trace_rows[] = {
    {1, PB_BYTES, read_trace_setting, 0},
    {2, PB_BYTES, read_text, AT(name)},
    {0},
};
static const struct row log_rows[] = {
    {1, PB_BYTES, read_log_setting, 0},
    {0},
};

/* What the name must be. */
enum naming { NAME_ANY, NAME_GIVEN, NAME_OF_MODEL };

static const struct {
  const struct row *rows;
  enum naming naming;
} messages[GRPC_METHOD_COUNT] = {
    [GRPC_SERVER_LIVE] = {empty_rows, NAME_ANY},
    [GRPC_SERVER_READY] = {empty_rows, NAME_ANY},
    [GRPC_MODEL_READY] = {model_rows, NAME_OF_MODEL},
    [GRPC_SERVER_METADATA] = {empty_rows, NAME_ANY},
    [GRPC_MODEL_METADATA] = {model_rows, NAME_OF_MODEL},
    [GRPC_MODEL_CONFIG] = {model_rows, NAME_OF_MODEL},
    [GRPC_MODEL_STATISTICS] = {model_rows, NAME_ANY},
    [GRPC_REPOSITORY_INDEX] = {index_rows, NAME_ANY},
    [GRPC_REPOSITORY_MODEL_LOAD] = {load_rows, NAME_OF_MODEL},
    [GRPC_REPOSITORY_MODEL_UNLOAD] = {load_rows, NAME_OF_MODEL},
    [GRPC_SYSTEM_SHARED_MEMORY_STATUS] = {name_rows, NAME_ANY},
    [GRPC_SYSTEM_SHARED_MEMORY_REGISTER] = {system_register_rows, NAME_GIVEN},
    [GRPC_SYSTEM_SHARED_MEMORY_UNREGISTER] = {name_rows, NAME_ANY},
    [GRPC_CUDA_SHARED_MEMORY_STATUS] = {name_rows, NAME_ANY},
    [GRPC_CUDA_SHARED_MEMORY_REGISTER] = {cuda_register_rows, NAME_GIVEN},
    [GRPC_CUDA_SHARED_MEMORY_UNREGISTER] = {name_rows, NAME_ANY},
    [GRPC_TRACE_SETTING] = {trace_rows, NAME_ANY},
    [GRPC_LOG_SETTINGS] = {log_rows, NAME_ANY},
    [GRPC_HEALTH_CHECK] = {name_rows, NAME_ANY},
    [GRPC_HEALTH_WATCH] = {name_rows, NAME_ANY},
};

static mu_status read_fields(struct reading *r, const struct row *rows, const char *message, size_t size) {
  struct pb_reader reader;
  struct pb_field field;
  pb_reader_init(&reader, message, size);
  while (pb_next(&reader, &field))
    for (const struct row *row = rows; row->number != 0; row++) {
      if (row->number != field.number || row->wire != field.wire) continue;
      const mu_status status = row->read(r, &field, (char *)r->request + row->offset);
      if (status != MU_OK) return status;
    }
  return pb_finish(&reader, "the request", r->err);
}

static mu_status check_name(enum naming naming, const char *name, mu_error *err) {
  if (naming == NAME_OF_MODEL) return grpc_model_name_check(name, strlen(name), err);
  if (naming == NAME_GIVEN && *name == '\0') return mu_fail(err, MU_INVALID, "the request gives no name");
  return MU_OK;
}

mu_status grpc_request_read(enum grpc_method method, const char *message, size_t size, struct grpc_request *ret_request,
                            mu_error *err) {
  *ret_request = (struct grpc_request){.name = "", .version = -1, .repository = "", .key = "", .raw_handle = ""};
  if (messages[method].rows == NULL) return mu_fail(err, MU_INTERNAL, "the method has no request of this kind");
  struct reading r = {.request = ret_request, .version = {.bytes = ""}, .err = err};
  mu_status status = read_fields(&r, messages[method].rows, message, size);
  if (status == MU_OK) status = check_name(messages[method].naming, ret_request->name, err);
  return status == MU_OK ? grpc_version_parse(r.version.bytes, r.version.size, &ret_request->version, err) : status;
}

void grpc_request_free(struct grpc_request *request) { arena_free(&request->memory); }

const struct grpc_setting *grpc_request_setting(const struct grpc_request *request, const char *key) {
  for (uint32_t i = 0; i < request->n_settings; i++)
    if (strcmp(request->settings[i].key, key) == 0) return &request->settings[i];
  return NULL;
}
