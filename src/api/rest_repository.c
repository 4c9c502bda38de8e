#include "api/rest_repository.h"

#include "proto/json/json_reader.h"

#include <string.h>

static const char file_prefix[] = "file:";

static bool take_text(struct arena *memory, const struct json_text *text, const char **ret_data, size_t *ret_size) {
  *ret_data = text->text;
  *ret_size = text->size;
  if (!text->escaped) return true;
  char *copy = arena_alloc(memory, json_text_size(text) + 1, 1);
  if (copy == NULL) return false;
  *ret_size = json_text_decode(text, copy);
  *ret_data = copy;
  return true;
}

static bool is_file(const struct model_parameter *parameter) {
  return parameter->key_size >= sizeof file_prefix - 1 &&
         memcmp(parameter->key, file_prefix, sizeof file_prefix - 1) == 0;
}

/* false: the reader has failed, or *ret_status says why not. */
static bool read_value(struct json_reader *reader, struct arena *memory, struct model_parameter *parameter,
                       mu_status *ret_status, mu_error *err) {
  struct json_text text;
  bool flag = false;
  switch (json_peek(reader)) {
    case JSON_READ_STRING:
      parameter->kind = is_file(parameter) ? MODEL_PARAMETER_BASE64 : MODEL_PARAMETER_STRING;
      if (!json_read_string(reader, &text)) return false;
      if (take_text(memory, &text, &parameter->data, &parameter->size)) return true;
      *ret_status = mu_fail(err, MU_NO_MEMORY, "no memory for the parameters");
      return false;
    case JSON_READ_TRUE:
    case JSON_READ_FALSE:
      parameter->kind = MODEL_PARAMETER_BOOL;
      if (!json_read_bool(reader, &flag)) return false;
      parameter->number = flag;
      return true;
    case JSON_READ_NUMBER:
      parameter->kind = MODEL_PARAMETER_INT;
      return json_read_i64(reader, &parameter->number);
    default:
      if (reader->failed) return false;
      *ret_status = mu_fail(err, MU_INVALID, "parameter '%.*s' is neither a string nor a bool nor a number",
                            (int)(parameter->key_size < 100 ? parameter->key_size : 100), parameter->key);
      return false;
  }
}

static mu_status read_parameters(struct json_reader *reader, struct arena *memory,
                                 struct model_parameter ret_parameters[MODEL_PARAMETERS_MAX], size_t *ret_n,
                                 mu_error *err) {
  struct json_text key;
  mu_status status = MU_OK;
  if (json_peek(reader) != JSON_READ_OBJECT && !reader->failed)
    return mu_fail(err, MU_INVALID, "'parameters' must be a JSON object");
  json_enter(reader);
  while (status == MU_OK && json_member(reader, &key)) {
    if (*ret_n == MODEL_PARAMETERS_MAX)
      return mu_fail(err, MU_INVALID, "more than %d parameters", MODEL_PARAMETERS_MAX);
    struct model_parameter *parameter = &ret_parameters[*ret_n];
    *parameter = (struct model_parameter){0};
    if (!take_text(memory, &key, &parameter->key, &parameter->key_size))
      return mu_fail(err, MU_NO_MEMORY, "no memory for the parameters");
    if (!read_value(reader, memory, parameter, &status, err)) break;
    ++*ret_n;
  }
  return status;
}

mu_status rest_repository_parse(const char *body, size_t size, struct arena *memory,
                                struct model_parameter ret_parameters[MODEL_PARAMETERS_MAX], size_t *ret_n,
                                mu_error *err) {
  struct json_reader reader;
  struct json_text key;
  *ret_n = 0;
  json_reader_init(&reader, body, size);
  const enum json_kind kind = json_peek(&reader);
  if (kind == JSON_END && !reader.failed && reader.at == size) return MU_OK;
  if (kind != JSON_READ_OBJECT && !reader.failed)
    return mu_fail(err, MU_INVALID, "a request to load or unload a model must be a JSON object");
  json_enter(&reader);
  while (json_member(&reader, &key)) {
    if (!json_text_equal(&key, "parameters")) {
      if (!json_skip(&reader)) break;
      continue;
    }
    *ret_n = 0;
    mu_status status = read_parameters(&reader, memory, ret_parameters, ret_n, err);
    if (status != MU_OK) return status;
    if (reader.failed) break;
  }
  return json_finish(&reader, err);
}
