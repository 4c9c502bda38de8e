/*
 * muster.yaml. libcyaml reads the values by a schema made from the option table; before that libyaml's tree of the same
 * text is walked once for what libcyaml does not tell: the line of every key, keys that nobody knows (and what was
 * probably meant), and the models' names, which are the user's and so become part of the schema.
 */
#include <cyaml/cyaml.h>
#include <stdio.h>
#include <yaml.h>

#include "config/option_table.h"
#include "config/yaml_text.h"

/* Where libcyaml puts one value. */
struct slot {
  char *text;
  char **items; /* of a sequence */
  unsigned n_items;
  struct slot *fields; /* of a mapping */
};

struct mapping;

/* One key of the file. */
struct entry {
  const char *key;              /* as it is spelled there */
  size_t line;                  /* from 1 */
  const struct option_row *row; /* NULL: a mapping */
  size_t model_offset;          /* of the setting in struct model_options, within a model */
  bool sequence;
  bool foreign; /* of another command: `launch:` is launch_file.c's */
  struct mapping *mapping;
};

struct mapping {
  struct entry *entries;
  size_t n;
};

struct file {
  struct options *options;
  const char *path;
  struct buffer text;
  yaml_document_t document;
  struct arena scratch; /* entries and schema */
  mu_error *err;
};

static mu_status fail_no_memory(struct file *file) { return yaml_fail_no_memory(file->path, file->err); }

/* ---- the walk over libyaml's tree -------------------------------------------------------------------------------- */

static size_t line_of(const yaml_node_t *node) { return node->start_mark.line + 1; }

/* What an entry means, by its key; false: unknown. */
typedef bool (*find_fn)(const char *key, struct entry *entry);

static bool find_server_key(const char *key, struct entry *entry) {
  entry->row = option_find(key, strlen(key), true);
  return entry->row != NULL && !entry->row->not_in_file;
}

static bool find_model_key(const char *key, struct entry *entry) {
  size_t n;
  const struct model_row *rows = model_rows(&n);
  entry->row = option_find(key, strlen(key), true);
  for (size_t i = 0; entry->row != NULL && i < n; i++)
    if (strcmp(rows[i].name, entry->row->name) == 0) {
      entry->model_offset = rows[i].offset;
      return true;
    }
  return false;
}

static bool find_model_name(const char *key, struct entry *entry) { return true; }

static mu_status fail_unknown(struct file *file, size_t line, const char *key, find_fn find) {
  static const char models[] = "models", launch[] = "launch";
  char names[OPTION_ROWS_MAX][OPTION_NAME_MAX];
  const char *candidates[OPTION_ROWS_MAX + 2];
  size_t n_rows, n = 0;
  const struct option_row *rows = option_rows(&n_rows);
  for (size_t i = 0; i < n_rows; i++) {
    struct entry ignored;
    option_key(&rows[i], names[i]);
    if (find(names[i], &ignored)) candidates[n++] = names[i];
  }
  if (find == find_server_key) candidates[n++] = models, candidates[n++] = launch;
  const char *near = nearest_word(key, candidates, n);
  if (near == NULL)
    return mu_fail(file->err, MU_INVALID, "%.200s:%zu: unknown key '%.100s'%s", file->path, line, key,
                   find == find_model_key ? " of a model" : "");
  return mu_fail(file->err, MU_INVALID, "%.200s:%zu: unknown key '%.100s': did you mean %s?", file->path, line, key,
                 near);
}

/* The keys of one mapping, each checked by find; a key may be there once in all its spellings. */
static mu_status index_mapping(struct file *file, const yaml_node_t *node, find_fn find, struct mapping *ret_mapping);

static mu_status index_models(struct file *file, const yaml_node_t *node, struct entry *entry) {
  entry->mapping = arena_alloc(&file->scratch, 1, sizeof *entry->mapping);
  if (entry->mapping == NULL) return fail_no_memory(file);
  if (node->type != YAML_MAPPING_NODE) return MU_OK; /* libcyaml says what it expects */
  mu_status status = index_mapping(file, node, find_model_name, entry->mapping);
  const yaml_node_pair_t *pair = node->data.mapping.pairs.start;
  for (size_t i = 0; status == MU_OK && i < entry->mapping->n; i++) {
    struct entry *model = &entry->mapping->entries[i];
    const yaml_node_t *settings = yaml_document_get_node(&file->document, pair[i].value);
    model->mapping = arena_alloc(&file->scratch, 1, sizeof *model->mapping);
    if (model->mapping == NULL) return fail_no_memory(file);
    if (settings->type == YAML_MAPPING_NODE) status = index_mapping(file, settings, find_model_key, model->mapping);
  }
  return status;
}

static mu_status index_mapping(struct file *file, const yaml_node_t *node, find_fn find, struct mapping *ret_mapping) {
  const yaml_node_pair_t *pairs = node->data.mapping.pairs.start;
  size_t n = (size_t)(node->data.mapping.pairs.top - pairs);
  struct entry *entries = arena_alloc(&file->scratch, n, sizeof *entries);
  if (entries == NULL) return fail_no_memory(file);
  for (size_t i = 0; i < n; i++) {
    const yaml_node_t *key = yaml_document_get_node(&file->document, pairs[i].key);
    const yaml_node_t *value = yaml_document_get_node(&file->document, pairs[i].value);
    struct entry *entry = &entries[i];
    if (key->type != YAML_SCALAR_NODE || key->data.scalar.length == 0)
      return mu_fail(file->err, MU_INVALID, "%.200s:%zu: a key has to be a name", file->path, line_of(key));
    entry->key = (const char *)key->data.scalar.value;
    entry->line = line_of(key);
    entry->sequence = value->type == YAML_SEQUENCE_NODE;
    mu_status status = MU_OK;
    if (find == find_server_key && strcmp(entry->key, "models") == 0)
      status = index_models(file, value, entry);
    else if (find == find_server_key && strcmp(entry->key, "launch") == 0)
      entry->foreign = true;
    else if (!find(entry->key, entry))
      status = fail_unknown(file, entry->line, entry->key, find);
    for (size_t k = 0; status == MU_OK && k < i; k++)
      if (strcmp(entries[k].key, entry->key) == 0 || (entry->row != NULL && entries[k].row == entry->row))
        status = mu_fail(file->err, MU_INVALID, "%.200s:%zu: '%.100s' is already set in line %zu", file->path,
                         entry->line, entry->key, entries[k].line);
    if (status != MU_OK) return status;
  }
  *ret_mapping = (struct mapping){.entries = entries, .n = n};
  return MU_OK;
}

/* A NUL would cut the text short wherever it goes. */
static mu_status check_texts(struct file *file) {
  for (const yaml_node_t *node = file->document.nodes.start; node < file->document.nodes.top; node++)
    if (node->type == YAML_SCALAR_NODE && memchr(node->data.scalar.value, '\0', node->data.scalar.length) != NULL)
      return mu_fail(file->err, MU_INVALID, "%.200s:%zu: a NUL character", file->path, line_of(node));
  return MU_OK;
}

static mu_status fail_syntax(struct file *file, const yaml_parser_t *parser) {
  if (parser->problem == NULL) return fail_no_memory(file); /* the only failure that libyaml does not describe */
  return mu_fail(file->err, MU_INVALID, "%.200s:%zu: %s", file->path, parser->problem_mark.line + 1, parser->problem);
}

/* Nothing but the end may follow: libcyaml would not look at a second document. */
static mu_status check_single(struct file *file, yaml_parser_t *parser) {
  yaml_document_t second;
  if (!yaml_parser_load(parser, &second)) return fail_syntax(file, parser);
  const yaml_node_t *root = yaml_document_get_root_node(&second);
  mu_status status = MU_OK;
  if (root != NULL) status = mu_fail(file->err, MU_INVALID, "%.200s:%zu: a second document", file->path, line_of(root));
  yaml_document_delete(&second);
  return status;
}

static mu_status index_document(struct file *file, yaml_parser_t *parser, struct mapping *ret_mapping) {
  const yaml_node_t *root = yaml_document_get_root_node(&file->document);
  if (root == NULL) return MU_OK; /* an empty file sets nothing */
  mu_status status = check_single(file, parser);
  if (status == MU_OK) status = check_texts(file);
  if (status == MU_OK) status = yaml_check_extent(file->path, &file->document, file->err);
  if (status != MU_OK) return status;
  if (root->type == YAML_SCALAR_NODE && root->data.scalar.length == 0) return MU_OK; /* a bare "---" */
  if (root->type != YAML_MAPPING_NODE)
    return mu_fail(file->err, MU_INVALID, "%.200s:%zu: the file has to be a mapping, key: value", file->path,
                   line_of(root));
  return index_mapping(file, root, find_server_key, ret_mapping);
}

/* ---- the schema -------------------------------------------------------------------------------------------------- */

static const cyaml_schema_value_t item_schema = {CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 0, CYAML_UNLIMITED)};

static mu_status make_schema(struct file *file, const struct mapping *mapping, cyaml_schema_value_t *ret_schema);

/* The i-th entry's value lies in the i-th slot. A list may be one text or a sequence of them. */
static mu_status make_field(struct file *file, const struct entry *entry, size_t i, cyaml_schema_field_t *field) {
  size_t slot = i * sizeof(struct slot);
  field->key = entry->key;
  if (entry->foreign) {
    field->value = (cyaml_schema_value_t){.type = CYAML_IGNORE, .flags = CYAML_FLAG_OPTIONAL};
    return MU_OK;
  }
  if (entry->mapping != NULL) {
    field->data_offset = (uint32_t)(slot + offsetof(struct slot, fields));
    return make_schema(file, entry->mapping, &field->value);
  }
  if (entry->sequence && entry->row->type == OPTION_LIST) {
    field->data_offset = (uint32_t)(slot + offsetof(struct slot, items));
    field->count_offset = (uint32_t)(slot + offsetof(struct slot, n_items));
    field->count_size = sizeof(unsigned);
    field->value = (cyaml_schema_value_t){
        CYAML_VALUE_SEQUENCE(CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, char *, &item_schema, 0, CYAML_UNLIMITED)};
    return MU_OK;
  }
  field->data_offset = (uint32_t)(slot + offsetof(struct slot, text));
  field->value =
      (cyaml_schema_value_t){CYAML_VALUE_STRING(CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, char, 0, CYAML_UNLIMITED)};
  return MU_OK;
}

static mu_status make_schema(struct file *file, const struct mapping *mapping, cyaml_schema_value_t *ret_schema) {
  cyaml_schema_field_t *fields = arena_alloc(&file->scratch, mapping->n + 1, sizeof *fields); /* a NULL key ends them */
  if (fields == NULL) return fail_no_memory(file);
  for (size_t i = 0; i < mapping->n; i++) {
    mu_status status = make_field(file, &mapping->entries[i], i, &fields[i]);
    if (status != MU_OK) return status;
  }
  /* at least one slot, so that an empty mapping has an address */
  *ret_schema = (cyaml_schema_value_t){.type = CYAML_MAPPING,
                                       .flags = (enum cyaml_flag)(CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL),
                                       .data_size = (uint32_t)((mapping->n + 1) * sizeof(struct slot)),
                                       .mapping = {.fields = fields}};
  return MU_OK;
}

/* ---- from the slots to the options ------------------------------------------------------------------------------- */

static const char *origin_of(struct file *file, const struct entry *entry) {
  size_t size = strlen(file->path) + 24;
  char *text = arena_alloc(&file->scratch, size, 1);
  if (text != NULL) snprintf(text, size, "%s:%zu", file->path, entry->line);
  return text;
}

static mu_status apply_model(struct file *file, const struct entry *entry, const struct slot *slots,
                             struct model_options *model) {
  size_t n;
  const struct model_row *rows = model_rows(&n);
  for (size_t i = 0; i < n; i++)
    if (option_find(rows[i].name, strlen(rows[i].name), false)->type != OPTION_STRING)
      *(int64_t *)(void *)((char *)model + rows[i].offset) = MODEL_OPTION_UNSET;
  struct arena *memory = &file->options->memory;
  model->name = arena_copy(memory, entry->key, strlen(entry->key));
  if (model->name == NULL) return fail_no_memory(file);
  for (size_t i = 0; i < entry->mapping->n; i++) {
    const struct entry *setting = &entry->mapping->entries[i];
    const char *origin = origin_of(file, setting);
    if (origin == NULL) return fail_no_memory(file);
    mu_status status =
        option_parse(setting->row, slots[i].text, origin, memory, (char *)model + setting->model_offset, file->err);
    if (status != MU_OK) return status;
  }
  return MU_OK;
}

static mu_status apply_models(struct file *file, const struct mapping *models, const struct slot *slots) {
  struct options *options = file->options;
  options->model_options = arena_alloc(&options->memory, models->n, sizeof *options->model_options);
  if (options->model_options == NULL) return fail_no_memory(file);
  options->n_model_options = models->n;
  for (size_t i = 0; i < models->n; i++) {
    mu_status status = apply_model(file, &models->entries[i], slots[i].fields, &options->model_options[i]);
    if (status != MU_OK) return status;
  }
  return MU_OK;
}

static mu_status apply_entry(struct file *file, const struct entry *entry, const struct slot *slot) {
  if (entry->foreign) return MU_OK;
  if (entry->mapping != NULL) return apply_models(file, entry->mapping, slot->fields);
  struct option_origin origin = {SOURCE_FILE, origin_of(file, entry)};
  if (origin.text == NULL) return fail_no_memory(file);
  if (slot->text != NULL) return option_set(file->options, entry->row, slot->text, origin, file->err);
  mu_status status = MU_OK;
  for (unsigned i = 0; status == MU_OK && i < slot->n_items; i++)
    status = option_set(file->options, entry->row, slot->items[i], origin, file->err);
  return status;
}

static mu_status load_values(struct file *file, const struct mapping *keys) {
  cyaml_schema_value_t schema;
  struct yaml_complaint complaint = {0};
  cyaml_config_t config = {
      .log_fn = yaml_complaint_take, .log_ctx = &complaint, .mem_fn = cyaml_mem, .log_level = CYAML_LOG_ERROR};
  cyaml_data_t *loaded = NULL;
  mu_status status = make_schema(file, keys, &schema);
  if (status != MU_OK) return status;
  cyaml_err_t code =
      cyaml_load_data((const uint8_t *)file->text.data, file->text.size, &config, &schema, &loaded, NULL);
  if (code != CYAML_OK) return yaml_fail_value(file->path, &complaint, code, file->err);
  const struct slot *slots = loaded;
  for (size_t i = 0; status == MU_OK && i < keys->n; i++) status = apply_entry(file, &keys->entries[i], &slots[i]);
  cyaml_free(&config, &schema, loaded, 0);
  return status;
}

static mu_status read_file(struct file *file) {
  yaml_parser_t parser;
  struct mapping keys = {0};
  mu_status status = yaml_text_read(file->path, &file->text, file->err);
  if (status != MU_OK) return status;
  if (!yaml_parser_initialize(&parser)) return fail_no_memory(file);
  yaml_parser_set_input_string(&parser, (const unsigned char *)file->text.data, file->text.size);
  if (!yaml_parser_load(&parser, &file->document)) {
    status = fail_syntax(file, &parser);
    yaml_parser_delete(&parser);
    return status;
  }
  status = index_document(file, &parser, &keys);
  if (status == MU_OK && keys.n > 0) status = load_values(file, &keys);
  yaml_document_delete(&file->document);
  yaml_parser_delete(&parser);
  return status;
}

mu_status yaml_file_apply(struct options *options, const char *path, mu_error *err) {
  struct file file = {.options = options, .path = path, .err = err};
  buffer_init(&file.text, YAML_TEXT_LIMIT);
  mu_status status = read_file(&file);
  buffer_free(&file.text);
  arena_free(&file.scratch);
  return status;
}
