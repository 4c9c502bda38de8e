#include "model/config_json.h"

#include "proto/json/json_reader.h"

#include <string.h>

struct builder {
  struct json_reader reader;
  const char *source;
  struct arena *arena;
  size_t counted; /* up to here lines are counted */
  struct pbtext_place place;
  mu_status status; /* why it has stopped, where that is not the reader's failure */
  mu_error *err;
};

/* Fields of ModelConfig and its parts that are maps. No field of these names is anything else. */
static const char *const maps[] = {
    "parameters", "priority_queue_policy", "inputs", "cc_model_filenames", "metric_tags", "input_map", "output_map"};

static bool is_map(const char *name) {
  for (size_t i = 0; i < sizeof maps / sizeof *maps; i++)
    if (strcmp(maps[i], name) == 0) return true;
  return false;
}

/* Where the reader is. It only goes on, so each byte is looked at once. */
static struct pbtext_place place_now(struct builder *b) {
  for (; b->counted < b->reader.at; b->counted++) {
    b->place.column++;
    if (b->reader.text[b->counted] == '\n') b->place = (struct pbtext_place){b->place.line + 1, 1};
  }
  return b->place;
}

static bool fail(struct builder *b, mu_status status, const char *text) {
  b->status = pbtext_fail(b->err, status, b->source, b->place, "%s", text);
  return false;
}

static void *allocate(struct builder *b, size_t n, size_t size) {
  void *memory = arena_alloc(b->arena, n, size);
  if (memory == NULL) fail(b, MU_NO_MEMORY, "no memory for its content");
  return memory;
}

/* Decoded and terminated. NULL: stopped. */
static char *take_text(struct builder *b, const struct json_text *text, size_t *ret_size) {
  char *copy = allocate(b, json_text_size(text) + 1, 1);
  if (copy == NULL) return NULL;
  *ret_size = json_text_decode(text, copy);
  copy[*ret_size] = '\0';
  if (memchr(copy, '\0', *ret_size) == NULL) return copy;
  fail(b, MU_INVALID, "a NUL character cannot stand in a configuration");
  return NULL;
}

/* maxBatchSize is max_batch_size. */
static const char *take_name(struct builder *b, const struct json_text *text) {
  size_t size, n = 0;
  char *name = take_text(b, text, &size);
  char *snake = name != NULL ? allocate(b, 2 * size + 1, 1) : NULL;
  if (snake == NULL) return NULL;
  for (size_t i = 0; i < size; i++) {
    bool upper = name[i] >= 'A' && name[i] <= 'Z';
    if (upper && i > 0) snake[n++] = '_';
    snake[n++] = upper ? (char)(name[i] | 0x20) : name[i];
  }
  snake[n] = '\0';
  return snake;
}

static bool read_message(struct builder *b, const struct pbtext_message **ret_message);
static bool read_map(struct builder *b, struct pbtext_field *field);

static bool read_number(struct builder *b, struct pbtext_value *value) {
  const char *text;
  size_t size;
  if (!json_read_raw(&b->reader, &text, &size)) return false;
  struct json_reader again;
  int64_t number;
  json_reader_init(&again, text, size);
  if (json_read_i64(&again, &number)) {
    value->kind = PBTEXT_INTEGER;
    value->negative = number < 0;
    value->integer = value->negative ? 0 - (uint64_t)number : (uint64_t)number;
    return true;
  }
  json_reader_init(&again, text, size);
  value->kind = PBTEXT_INTEGER;
  if (json_read_u64(&again, &value->integer)) return true;
  json_reader_init(&again, text, size);
  value->kind = PBTEXT_FLOAT;
  return json_read_double(&again, &value->number) || fail(b, MU_INVALID, "this number is out of range");
}

static bool read_word(struct builder *b, struct pbtext_value *value) {
  bool flag = false;
  if (!json_read_bool(&b->reader, &flag)) return false;
  value->kind = PBTEXT_IDENTIFIER;
  value->text = flag ? "true" : "false";
  value->len = strlen(value->text);
  return true;
}

static bool read_string(struct builder *b, struct pbtext_value *value) {
  struct json_text text;
  if (!json_read_string(&b->reader, &text)) return false;
  value->kind = PBTEXT_STRING;
  value->text = take_text(b, &text, &value->len);
  return value->text != NULL;
}

/* Neither an array nor null. */
static bool read_value(struct builder *b, struct pbtext_value *value) {
  const enum json_kind kind = json_peek(&b->reader);
  value->place = place_now(b);
  switch (kind) {
    case JSON_READ_OBJECT:
      value->kind = PBTEXT_MESSAGE;
      return read_message(b, &value->message);
    case JSON_READ_STRING:
      return read_string(b, value);
    case JSON_READ_TRUE:
    case JSON_READ_FALSE:
      return read_word(b, value);
    case JSON_READ_NUMBER:
      return read_number(b, value);
    default:
      return !b->reader.failed && fail(b, MU_INVALID, "neither null nor an array can stand here");
  }
}

/* One more value of the field. */
static bool add_value(struct builder *b, struct pbtext_field *field, struct pbtext_value ***tail) {
  struct pbtext_value *value = allocate(b, 1, sizeof *value);
  if (value == NULL || !read_value(b, value)) return false;
  **tail = value;
  *tail = &value->next;
  field->n_values++;
  return true;
}

static bool read_array(struct builder *b, struct pbtext_field *field) {
  struct pbtext_value **tail = &field->values;
  field->list = true;
  json_enter(&b->reader);
  while (json_element(&b->reader))
    if (!add_value(b, field, &tail)) return false;
  return !b->reader.failed;
}

/* What the field is given; n_values stays 0 where that is nothing. */
static bool read_field(struct builder *b, struct pbtext_field *field) {
  struct pbtext_value **tail = &field->values;
  const enum json_kind kind = json_peek(&b->reader);
  field->place = place_now(b);
  if (kind == JSON_READ_NULL) return json_read_null(&b->reader);
  if (kind == JSON_READ_OBJECT && is_map(field->name)) return read_map(b, field);
  return kind == JSON_READ_ARRAY ? read_array(b, field) : add_value(b, field, &tail);
}

static bool read_message(struct builder *b, const struct pbtext_message **ret_message) {
  struct pbtext_message *message = allocate(b, 1, sizeof *message);
  if (message == NULL) return false;
  struct pbtext_field **tail = &message->fields;
  struct json_text key;
  message->place = place_now(b);
  json_enter(&b->reader);
  while (json_member(&b->reader, &key)) {
    struct pbtext_field *field = allocate(b, 1, sizeof *field);
    if (field == NULL || (field->name = take_name(b, &key)) == NULL || !read_field(b, field)) return false;
    if (field->n_values == 0) continue;
    *tail = field;
    tail = &field->next;
  }
  *ret_message = message;
  return !b->reader.failed;
}

/* An entry of a map: { key: … value: … } */
static bool read_entry(struct builder *b, const struct json_text *name, struct pbtext_value *entry) {
  struct pbtext_message *message = allocate(b, 1, sizeof *message);
  struct pbtext_field *fields = message != NULL ? allocate(b, 2, sizeof *fields) : NULL;
  struct pbtext_value *key = fields != NULL ? allocate(b, 1, sizeof *key) : NULL;
  if (key == NULL) return false;
  json_peek(&b->reader);
  const struct pbtext_place place = place_now(b);
  *key = (struct pbtext_value){.kind = PBTEXT_STRING, .place = place};
  key->text = take_text(b, name, &key->len);
  if (key->text == NULL) return false;
  fields[0] = (struct pbtext_field){.name = "key", .place = place, .n_values = 1, .values = key, .next = &fields[1]};
  fields[1] = (struct pbtext_field){.name = "value", .place = place};
  *message = (struct pbtext_message){place, fields};
  *entry = (struct pbtext_value){.kind = PBTEXT_MESSAGE, .place = place, .message = message};
  struct pbtext_value **tail = &fields[1].values;
  return add_value(b, &fields[1], &tail);
}

static bool read_map(struct builder *b, struct pbtext_field *field) {
  struct pbtext_value **tail = &field->values;
  struct json_text name;
  field->list = true;
  json_enter(&b->reader);
  while (json_member(&b->reader, &name)) {
    struct pbtext_value *entry = allocate(b, 1, sizeof *entry);
    if (entry == NULL || !read_entry(b, &name, entry)) return false;
    *tail = entry;
    tail = &entry->next;
    field->n_values++;
  }
  return !b->reader.failed;
}

mu_status config_json_parse(const char *text, size_t len, const char *source, struct arena *arena,
                            const struct pbtext_message **ret_message, mu_error *err) {
  struct builder b = {.source = source, .arena = arena, .place = {1, 1}, .status = MU_OK, .err = err};
  const struct pbtext_message *message = NULL;
  mu_error syntax;
  json_reader_init(&b.reader, text, len);
  json_peek(&b.reader);
  if (!read_message(&b, &message) && b.status != MU_OK) return b.status;
  if (json_finish(&b.reader, &syntax) != MU_OK) return mu_fail(err, MU_INVALID, "%s: %s", source, syntax.message);
  *ret_message = message;
  return MU_OK;
}
