#include "api/rest_stream.h"

#include "base/clock.h"
#include "model/repository.h"
#include "proto/json/json_reader.h"

#include <errno.h>
#include <stdlib.h>

/* ---- the query --------------------------------------------------------------------------------------------------- */

struct query_key {
  const char *name;
  mu_status (*take)(const struct query_key *key, const char *value, uint32_t most, struct stream_options *options,
                    mu_error *err);
};

enum { VALUE_MAX = 32 };

/* Digits only, 1 to most. */
static mu_status take_number(const struct query_key *key, const char *value, uint64_t most, uint64_t *ret_number,
                             mu_error *err) {
  char *end = NULL;
  errno = 0;
  unsigned long long number = value[0] >= '0' && value[0] <= '9' ? strtoull(value, &end, 10) : 0;
  if (end == NULL || *end != '\0' || errno != 0 || number == 0 || number > most)
    return mu_fail(err, MU_INVALID, "%s must be a number from 1 to %llu, not '%s'", key->name, (unsigned long long)most,
                   value);
  *ret_number = number;
  return MU_OK;
}

static mu_status take_order(const struct query_key *key, const char *value, uint32_t most,
                            struct stream_options *options, mu_error *err) {
  options->ordered = strcmp(value, "request") == 0;
  if (options->ordered || strcmp(value, "finished") == 0) return MU_OK;
  return mu_fail(err, MU_INVALID, "order must be finished (answers as they are there) or request, not '%s'", value);
}

static mu_status take_in_flight(const struct query_key *key, const char *value, uint32_t most,
                                struct stream_options *options, mu_error *err) {
  uint64_t number;
  mu_status status = take_number(key, value, most, &number, err);
  if (status == MU_OK) options->max_in_flight = (uint32_t)number;
  return status;
}

static mu_status take_deadline(const struct query_key *key, const char *value, uint32_t most,
                               struct stream_options *options, mu_error *err) {
  enum { DAY_MS = 24 * 3600 * 1000 };
  uint64_t number;
  mu_status status = take_number(key, value, DAY_MS, &number, err);
  if (status == MU_OK) options->deadline_ns = number * NS_PER_MS;
  return status;
}

static mu_status take_drop(const struct query_key *key, const char *value, uint32_t most,
                           struct stream_options *options, mu_error *err) {
  options->drop_late = strcmp(value, "late") == 0;
  return options->drop_late ? MU_OK : mu_fail(err, MU_INVALID, "drop can only be late, not '%s'", value);
}

static mu_status take_keep(const struct query_key *key, const char *value, uint32_t most,
                           struct stream_options *options, mu_error *err) {
  options->keep_newest = strcmp(value, "newest") == 0;
  return options->keep_newest ? MU_OK : mu_fail(err, MU_INVALID, "keep can only be newest, not '%s'", value);
}

static const struct query_key keys[] = {{"order", take_order},
                                        {"max_in_flight", take_in_flight},
                                        {"deadline_ms", take_deadline},
                                        {"drop", take_drop},
                                        {"keep", take_keep}};
enum { KEYS = sizeof keys / sizeof *keys };

static mu_status take_pair(const char *text, size_t size, uint32_t most, unsigned *seen, struct stream_options *options,
                           mu_error *err) {
  const char *equals = memchr(text, '=', size);
  size_t name_size = equals != NULL ? (size_t)(equals - text) : size;
  char value[VALUE_MAX + 1] = "";
  size_t value_size = equals != NULL ? size - name_size - 1 : 0;
  for (size_t i = 0; i < KEYS; i++) {
    if (strlen(keys[i].name) != name_size || memcmp(text, keys[i].name, name_size) != 0) continue;
    if (*seen >> i & 1) return mu_fail(err, MU_INVALID, "%s is given twice", keys[i].name);
    *seen |= 1u << i;
    memcpy(value, equals != NULL ? equals + 1 : "", value_size < VALUE_MAX ? value_size : VALUE_MAX);
    return keys[i].take(&keys[i], value, most, options, err);
  }
  return mu_fail(err, MU_INVALID,
                 "a stream does not know '%.*s'; it takes order, max_in_flight, deadline_ms, drop and keep",
                 (int)(name_size < 40 ? name_size : 40), text);
}

mu_status rest_stream_options(const char *query, uint32_t most_in_flight, struct stream_options *ret_options,
                              mu_error *err) {
  struct stream_options options = {.max_in_flight = most_in_flight};
  unsigned seen = 0;
  mu_status status = MU_OK;
  while (status == MU_OK && *query != '\0') {
    size_t size = strcspn(query, "&");
    if (size > 0) status = take_pair(query, size, most_in_flight, &seen, &options, err);
    query += size + (query[size] == '&');
  }
  if (status == MU_OK && options.drop_late && options.deadline_ns == 0)
    return mu_fail(err, MU_INVALID, "drop=late needs deadline_ms: nothing is late without it");
  if (status == MU_OK) *ret_options = options;
  return status;
}

/* ---- the members of a message that are not the request's --------------------------------------------------------- */

/* Stands in front of a member's value, if there is one; a later one of the same name is not looked for. */
static bool find_member(struct json_reader *reader, const char *json, size_t size, const char *name) {
  struct json_text key;
  json_reader_init(reader, json, size);
  if (json_peek(reader) != JSON_READ_OBJECT || !json_enter(reader)) return false;
  while (json_member(reader, &key)) {
    if (json_text_equal(&key, name)) return true;
    if (!json_skip(reader)) return false;
  }
  return false;
}

static mu_status syntax(const struct json_reader *reader, mu_error *err) {
  return mu_fail(err, MU_INVALID, "the JSON is not valid: %s", reader->error.message);
}

/* A string of digits, as in paths, or a number. */
static bool read_version(struct json_reader *reader, int64_t *ret_version) {
  struct json_text text;
  if (json_peek(reader) != JSON_READ_STRING) return json_read_i64(reader, ret_version) && *ret_version > 0;
  if (!json_read_string(reader, &text) || text.size == 0 || text.size > 18) return false;
  int64_t version = 0;
  for (size_t i = 0; i < text.size; i++) {
    if (text.text[i] < '0' || text.text[i] > '9') return false;
    version = version * 10 + (text.text[i] - '0');
  }
  *ret_version = version;
  return version > 0;
}

mu_status rest_stream_model(const char *json, size_t size, char *ret_model, int64_t *ret_version, mu_error *err) {
  enum { ROOM = 256 };
  struct json_reader reader;
  struct json_text text;
  int64_t version = -1;
  if (find_member(&reader, json, size, "model_version") && !read_version(&reader, &version))
    return mu_fail(err, MU_INVALID, "\"model_version\" must be a positive number, or one as a string");
  if (!find_member(&reader, json, size, "model_name"))
    return reader.failed
               ? syntax(&reader, err)
               : mu_fail(err, MU_INVALID, "the message has no \"model_name\", and the stream's address names no model");
  if (json_peek(&reader) != JSON_READ_STRING || !json_read_string(&reader, &text))
    return mu_fail(err, MU_INVALID, "\"model_name\" must be a string");
  size_t length = json_text_size(&text);
  char model[ROOM];
  if (length >= ROOM) return mu_fail(err, MU_INVALID, "\"model_name\" cannot be the name of a model");
  json_text_decode(&text, model);
  if (!model_name_valid(model, length)) return mu_fail(err, MU_INVALID, "\"model_name\" cannot be the name of a model");
  memcpy(ret_model, model, length);
  ret_model[length] = '\0';
  *ret_version = version;
  return MU_OK;
}

void rest_stream_id(const char *json, size_t size, char *ret_id) {
  struct json_reader reader;
  struct json_text text;
  ret_id[0] = '\0';
  if (!find_member(&reader, json, size, "id") || json_peek(&reader) != JSON_READ_STRING) return;
  if (!json_read_string(&reader, &text) || json_text_size(&text) > REQUEST_ID_MAX) return;
  ret_id[json_text_decode(&text, ret_id)] = '\0';
}

/* ---- instead of a reply ------------------------------------------------------------------------------------------ */

static void begin_message(struct buffer *out, const char *id) {
  buffer_putc(out, '{');
  if (id[0] == '\0') return;
  buffer_puts(out, "\"id\":");
  json_write_string(out, id, strlen(id));
  buffer_putc(out, ',');
}

void rest_stream_error(struct buffer *out, const char *id, const char *error, int http_status) {
  begin_message(out, id);
  buffer_puts(out, "\"error\":");
  json_write_string(out, error, strlen(error));
  buffer_print(out, ",\"status\":%d}", http_status);
}

void rest_stream_dropped(struct buffer *out, const char *id, const char *why) {
  begin_message(out, id);
  buffer_puts(out, "\"dropped\":");
  json_write_string(out, why, strlen(why));
  buffer_putc(out, '}');
}
