#include "model/model_config.h"

#include "model/config_fields.h"
#include "model/config_json.h"
#include "model/text.h"
#include "model/text_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  SOURCE_SHOWN_MAX = 160,             /* bytes of a source's name in a message, so that the message has room too */
  LABELS_SIZE_MAX = 16 * 1024 * 1024, /* bytes of a label file */
};

/* The end of a long path says more than its beginning. */
static const char *shown_source(const char *source) {
  size_t len = strlen(source);
  if (len <= SOURCE_SHOWN_MAX) return source;
  const char *tail = source + len - SOURCE_SHOWN_MAX;
  while ((*tail & 0xc0) == 0x80) tail++; /* not into the middle of a character */
  return tail;
}

static mu_status check_name(struct config_decoder *decoder, struct model_config *config, const char *name,
                            const struct pbtext_message *message) {
  if (*config->name != '\0' && strcmp(config->name, name) != 0)
    return config_fail(decoder, MU_INVALID, pbtext_find(message, "name", 0)->place,
                       "the name is '%s', but the model's folder is '%s'", config->name, name);
  config->name = arena_copy(&config->memory, name, strlen(name));
  return config->name != NULL ? MU_OK : config_no_memory(decoder);
}

static mu_status keep_warnings(struct config_decoder *decoder, struct model_config *config) {
  const char **warnings = arena_alloc(&config->memory, decoder->n_warnings, sizeof *warnings);
  if (warnings == NULL) return config_no_memory(decoder);
  size_t n = 0;
  for (const struct config_warning *w = decoder->first_warning; w != NULL; w = w->next) warnings[n++] = w->text;
  config->warnings = warnings;
  config->n_warnings = decoder->n_warnings;
  return MU_OK;
}

bool model_config_is_json(const char *text, size_t len) {
  size_t at = 0;
  while (at < len && (text[at] == ' ' || text[at] == '\t' || text[at] == '\r' || text[at] == '\n')) at++;
  return at < len && text[at] == '{';
}

static mu_status parse_into(struct model_config *config, const char *text, size_t len, const char *source,
                            const char *name, mu_error *err) {
  struct config_decoder decoder = {.source = source, .arena = &config->memory, .err = err};
  config->text = arena_copy(&config->memory, text, len);
  config->source = arena_copy(&config->memory, source, strlen(source));
  if (config->text == NULL || config->source == NULL) return config_no_memory(&decoder);
  config->text_size = len;
  config->name = config->platform = config->backend = config->default_model_filename = "";
  config->latest = 1;

  const struct pbtext_message *message = NULL;
  decoder.json = model_config_is_json(text, len);
  mu_status status = decoder.json ? config_json_parse(text, len, source, &config->memory, &message, err)
                                  : pbtext_parse(text, len, source, &config->memory, &message, err);
  if (status == MU_OK) status = config_decode(&decoder, &config_model_rules, config, message);
  if (status == MU_OK) status = check_name(&decoder, config, name, message);
  return status == MU_OK ? keep_warnings(&decoder, config) : status;
}

mu_status model_config_parse(const char *text, size_t len, const char *source, const char *name,
                             struct model_config **ret_config, mu_error *err) {
  source = shown_source(source);
  if (len > MODEL_CONFIG_TEXT_MAX)
    return mu_fail(err, MU_INVALID, "%s:1: the configuration is larger than %d bytes", source, MODEL_CONFIG_TEXT_MAX);
  struct model_config *config = calloc(1, sizeof *config);
  if (config == NULL) return mu_fail(err, MU_NO_MEMORY, "%s: no memory for its content", source);
  mu_status status = parse_into(config, text, len, source, name, err);
  if (status != MU_OK) {
    model_config_free(config);
    return status;
  }
  *ret_config = config;
  return MU_OK;
}

void model_config_free(struct model_config *config) {
  if (config == NULL) return;
  arena_free(&config->memory);
  free(config);
}

const char *model_config_parameter(const struct model_config *config, const char *key) {
  for (uint32_t i = 0; i < config->n_parameters; i++)
    if (strcmp(config->parameters[i].key, key) == 0) return config->parameters[i].value;
  return NULL;
}

const char *model_config_dtype_name(mu_dtype dtype) {
  for (size_t i = 0; i < config_n_dtypes; i++)
    if (config_dtypes[i].stored == (int)dtype) return config_dtypes[i].name;
  return "TYPE_INVALID";
}

/* ---- labels ------------------------------------------------------------------------------------------------------ */

/* One label a line, LF or CRLF; an empty last line is none. text has no NUL. */
static mu_status split_labels(struct model_config *config, struct model_tensor_config *output, const char *text,
                              size_t size, mu_error *err) {
  size_t n = 0;
  for (size_t i = 0; i < size; i++) n += text[i] == '\n';
  if (size > 0 && text[size - 1] != '\n') n++;
  char *copy = arena_copy(&config->memory, text, size);
  const char **labels = arena_alloc(&config->memory, n, sizeof *labels);
  if (copy == NULL || labels == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for %zu labels", n);
  char *line = copy;
  for (size_t i = 0; i < n; i++) {
    size_t len = strcspn(line, "\n");
    labels[i] = line;
    if (len > 0 && line[len - 1] == '\r') line[len - 1] = '\0';
    line[len] = '\0'; /* the last line may end at the copy's own terminator */
    line += len + 1;
  }
  output->labels = labels;
  output->n_labels = (uint32_t)n;
  return MU_OK;
}

static mu_status read_labels(struct model_config *config, struct model_tensor_config *output, const char *folder,
                             mu_error *err) {
  char *path = NULL, *text = NULL;
  size_t size = 0;
  if (asprintf(&path, "%s/%s", folder, output->label_filename) < 0)
    return mu_fail(err, MU_NO_MEMORY, "%s: no memory for the path of its labels", folder);
  mu_status status = text_file_read(path, LABELS_SIZE_MAX, &text, &size, err);
  if (status == MU_OK && !text_valid(text, size))
    status = mu_fail(err, MU_INVALID, "%s: the labels are not valid UTF-8 text", path);
  if (status == MU_OK) status = split_labels(config, output, text, size, err);
  free(text);
  free(path);
  return status;
}

mu_status model_config_read_labels(struct model_config *config, const char *folder, mu_error *err) {
  mu_status status = MU_OK;
  for (uint32_t i = 0; i < config->n_outputs && status == MU_OK; i++)
    if (config->outputs[i].label_filename != NULL && config->outputs[i].labels == NULL)
      status = read_labels(config, &config->outputs[i], folder, err);
  return status;
}
