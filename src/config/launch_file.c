/* The list `launch:` of muster.yaml, a group of services each; other keys of the file are the server's. */
#include <cyaml/cyaml.h>
#include <stdio.h>
#include <yaml.h>

#include "config/launch_table.h"
#include "config/yaml_text.h"

enum { GROUP_KEYS_MAX = 16 }; /* at least as many as launch_group_rows */

/* Where libcyaml puts one value. */
struct slot {
  char *text;
  char **items; /* of a sequence */
  unsigned n_items;
};

struct group_slots {
  struct slot slots[GROUP_KEYS_MAX + 1]; /* by row; the last one is the command's */
};

struct launch_list {
  struct group_slots *groups;
  unsigned n_groups;
};

struct reader {
  struct launch_settings *settings;
  const char *path;
  struct buffer text;
  struct arena scratch;
  mu_error *err;
};

static mu_status no_memory(struct reader *reader) { return yaml_fail_no_memory(reader->path, reader->err); }

/* ---- the schema -------------------------------------------------------------------------------------------------- */

static const cyaml_schema_value_t item_schema = {CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 0, CYAML_UNLIMITED)};

static void make_sequence(cyaml_schema_field_t *field, const char *key, size_t slot, enum cyaml_flag more) {
  *field = (cyaml_schema_field_t){.key = key,
                                  .data_offset = (uint32_t)(slot + offsetof(struct slot, items)),
                                  .count_offset = (uint32_t)(slot + offsetof(struct slot, n_items)),
                                  .count_size = sizeof(unsigned),
                                  .value = {CYAML_VALUE_SEQUENCE((enum cyaml_flag)(CYAML_FLAG_POINTER | more), char *,
                                                                 &item_schema, 0, CYAML_UNLIMITED)}};
}

/* One entry of the list. */
static mu_status make_group(struct reader *reader, cyaml_schema_value_t *ret_schema) {
  size_t n;
  const struct option_row *rows = launch_group_rows(&n);
  cyaml_schema_field_t *fields = arena_alloc(&reader->scratch, n + 2, sizeof *fields); /* a NULL key ends them */
  if (fields == NULL) return no_memory(reader);
  for (size_t i = 0; i < n; i++) {
    char key[OPTION_NAME_MAX];
    option_key(&rows[i], key);
    const char *kept = arena_copy(&reader->scratch, key, strlen(key));
    if (kept == NULL) return no_memory(reader);
    size_t slot = i * sizeof(struct slot);
    if (rows[i].type == OPTION_LIST)
      make_sequence(&fields[i], kept, slot, CYAML_FLAG_OPTIONAL);
    else
      fields[i] = (cyaml_schema_field_t){
          .key = kept,
          .data_offset = (uint32_t)(slot + offsetof(struct slot, text)),
          .value = {CYAML_VALUE_STRING(CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, char, 0, CYAML_UNLIMITED)}};
  }
  make_sequence(&fields[n], "command", GROUP_KEYS_MAX * sizeof(struct slot), CYAML_FLAG_DEFAULT);
  *ret_schema = (cyaml_schema_value_t){.type = CYAML_MAPPING,
                                       .flags = CYAML_FLAG_DEFAULT,
                                       .data_size = sizeof(struct group_slots),
                                       .mapping = {.fields = fields}};
  return MU_OK;
}

/* The file's keys, all but `launch` passed over. MU_NOT_FOUND: that is not among them. */
static mu_status make_schema(struct reader *reader, const yaml_document_t *document, const cyaml_schema_value_t *group,
                             cyaml_schema_value_t *ret_schema) {
  const yaml_node_t *root = yaml_document_get_root_node((yaml_document_t *)document);
  bool found = false;
  if (root == NULL || root->type != YAML_MAPPING_NODE)
    return mu_fail(reader->err, MU_INVALID, "%.200s has no list launch:", reader->path);
  const yaml_node_pair_t *pairs = root->data.mapping.pairs.start;
  size_t n = (size_t)(root->data.mapping.pairs.top - pairs);
  cyaml_schema_field_t *fields = arena_alloc(&reader->scratch, n + 1, sizeof *fields);
  if (fields == NULL) return no_memory(reader);
  for (size_t i = 0; i < n; i++) {
    const yaml_node_t *key = yaml_document_get_node((yaml_document_t *)document, pairs[i].key);
    if (key->type != YAML_SCALAR_NODE || key->data.scalar.length == 0)
      return mu_fail(reader->err, MU_INVALID, "%.200s:%zu: a key has to be a name", reader->path,
                     key->start_mark.line + 1);
    fields[i].key = (const char *)key->data.scalar.value;
    bool ours = strcmp(fields[i].key, "launch") == 0;
    if (ours && found)
      return mu_fail(reader->err, MU_INVALID, "%.200s:%zu: a second launch:", reader->path, key->start_mark.line + 1);
    found = found || ours;
    if (!ours) {
      fields[i].value = (cyaml_schema_value_t){.type = CYAML_IGNORE, .flags = CYAML_FLAG_OPTIONAL};
      continue;
    }
    fields[i].data_offset = offsetof(struct launch_list, groups);
    fields[i].count_offset = offsetof(struct launch_list, n_groups);
    fields[i].count_size = sizeof(unsigned);
    fields[i].value = (cyaml_schema_value_t){
        CYAML_VALUE_SEQUENCE(CYAML_FLAG_POINTER, struct group_slots, group, 1, LAUNCH_GROUPS_MAX)};
  }
  if (!found) return mu_fail(reader->err, MU_INVALID, "%.200s has no list launch:", reader->path);
  *ret_schema = (cyaml_schema_value_t){.type = CYAML_MAPPING,
                                       .flags = CYAML_FLAG_POINTER,
                                       .data_size = sizeof(struct launch_list),
                                       .mapping = {.fields = fields}};
  return MU_OK;
}

/* ---- from the slots to the groups -------------------------------------------------------------------------------- */

static mu_status apply_text(struct reader *reader, const struct option_row *row, const char *text, size_t group,
                            struct launch_group *into) {
  char origin[320];
  snprintf(origin, sizeof origin, "%.200s: %s of group %zu", reader->path, row->name, group + 1);
  return option_parse(row, text, origin, &reader->settings->memory, option_field(row, into), reader->err);
}

static mu_status apply_group(struct reader *reader, const struct group_slots *slots, size_t group,
                             struct launch_group *into) {
  size_t n;
  const struct option_row *rows = launch_group_rows(&n);
  struct arena *memory = &reader->settings->memory;
  mu_status status = launch_group_init(into, memory, reader->err);
  for (size_t i = 0; status == MU_OK && i < n; i++) {
    const struct slot *slot = &slots->slots[i];
    if (slot->text != NULL) status = apply_text(reader, &rows[i], slot->text, group, into);
    for (unsigned k = 0; status == MU_OK && k < slot->n_items; k++)
      status = apply_text(reader, &rows[i], slot->items[k], group, into);
  }
  const struct slot *command = &slots->slots[GROUP_KEYS_MAX];
  if (status == MU_OK && command->n_items == 0)
    return mu_fail(reader->err, MU_INVALID, "%.200s: the command of group %zu is empty", reader->path, group + 1);
  for (unsigned k = 0; status == MU_OK && k < command->n_items; k++) {
    const char *word = arena_copy(memory, command->items[k], strlen(command->items[k]));
    if (word == NULL || option_list_add(&into->command, memory, word) != MU_OK) return no_memory(reader);
  }
  return status;
}

static mu_status apply(struct reader *reader, const struct launch_list *list) {
  struct launch_settings *settings = reader->settings;
  mu_status status = MU_OK;
  settings->groups = arena_alloc(&settings->memory, list->n_groups, sizeof *settings->groups);
  if (settings->groups == NULL) return no_memory(reader);
  settings->n_groups = list->n_groups;
  for (size_t i = 0; status == MU_OK && i < list->n_groups; i++)
    status = apply_group(reader, &list->groups[i], i, &settings->groups[i]);
  return status;
}

static mu_status load(struct reader *reader, const cyaml_schema_value_t *schema) {
  struct yaml_complaint complaint = {0};
  cyaml_config_t config = {
      .log_fn = yaml_complaint_take, .log_ctx = &complaint, .mem_fn = cyaml_mem, .log_level = CYAML_LOG_ERROR};
  cyaml_data_t *loaded = NULL;
  cyaml_err_t code =
      cyaml_load_data((const uint8_t *)reader->text.data, reader->text.size, &config, schema, &loaded, NULL);
  if (code != CYAML_OK) return yaml_fail_value(reader->path, &complaint, code, reader->err);
  mu_status status = apply(reader, (const struct launch_list *)loaded);
  cyaml_free(&config, schema, loaded, 0);
  return status;
}

static mu_status read_document(struct reader *reader) {
  yaml_parser_t parser;
  yaml_document_t document;
  cyaml_schema_value_t group, schema;
  if (!yaml_parser_initialize(&parser)) return no_memory(reader);
  yaml_parser_set_input_string(&parser, (const unsigned char *)reader->text.data, reader->text.size);
  if (!yaml_parser_load(&parser, &document)) {
    mu_status status = parser.problem == NULL ? no_memory(reader)
                                              : mu_fail(reader->err, MU_INVALID, "%.200s:%zu: %s", reader->path,
                                                        parser.problem_mark.line + 1, parser.problem);
    yaml_parser_delete(&parser);
    return status;
  }
  mu_status status = yaml_check_extent(reader->path, &document, reader->err);
  if (status == MU_OK) status = make_group(reader, &group);
  if (status == MU_OK) status = make_schema(reader, &document, &group, &schema);
  if (status == MU_OK) status = load(reader, &schema); /* the keys are the document's */
  yaml_document_delete(&document);
  yaml_parser_delete(&parser);
  return status;
}

mu_status launch_file_apply(struct launch_settings *settings, const char *path, mu_error *err) {
  struct reader reader = {.settings = settings, .path = path, .err = err};
  buffer_init(&reader.text, YAML_TEXT_LIMIT);
  mu_status status = yaml_text_read(path, &reader.text, err);
  if (status == MU_OK) status = read_document(&reader);
  buffer_free(&reader.text);
  arena_free(&reader.scratch);
  return status;
}
