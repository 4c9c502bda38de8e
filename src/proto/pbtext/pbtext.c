#include "proto/pbtext/pbtext.h"

#include "proto/pbtext/token.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

struct parser {
  struct lexer lexer;
  struct arena *arena;
  unsigned depth;
};

static mu_status no_memory(const struct parser *p) {
  return mu_fail(p->lexer.err, MU_NO_MEMORY, "%s: no memory for its content", p->lexer.source);
}

static mu_status parse_message(struct parser *p, char closing, struct pbtext_message **ret_message);

/* One or more literals in a row are one string. The first pass over them measures, the second decodes. */
static mu_status parse_string(struct parser *p, struct pbtext_value *value) {
  struct lexer measure = p->lexer;
  size_t room = 0;
  while (measure.token.kind == TOKEN_STRING) {
    room += measure.token.len;
    mu_status status = lexer_next(&measure);
    if (status != MU_OK) return status;
  }
  char *text = arena_alloc(p->arena, room + 1, 1);
  if (text == NULL) return no_memory(p);
  size_t len = 0;
  while (p->lexer.token.kind == TOKEN_STRING) {
    size_t n = 0;
    mu_status status = token_unescape(&p->lexer, &p->lexer.token, text + len, &n);
    if (status != MU_OK) return status;
    len += n;
    status = lexer_next(&p->lexer);
    if (status != MU_OK) return status;
  }
  value->kind = PBTEXT_STRING;
  value->text = text;
  value->len = len;
  return MU_OK;
}

static mu_status parse_identifier(struct parser *p, struct pbtext_value *value) {
  const struct token *token = &p->lexer.token;
  value->kind = PBTEXT_IDENTIFIER;
  value->len = token->len;
  value->text = arena_copy(p->arena, token->text, token->len);
  return value->text != NULL ? lexer_next(&p->lexer) : no_memory(p);
}

static bool token_is(const struct token *token, const char *word) {
  return strlen(word) == token->len && strncasecmp(word, token->text, token->len) == 0;
}

/* A number with its sign; behind a minus also the words for what is no finite number. */
static mu_status parse_number(struct parser *p, struct pbtext_value *value) {
  if (lexer_on_mark(&p->lexer, '-')) {
    value->negative = true;
    mu_status status = lexer_next(&p->lexer);
    if (status != MU_OK) return status;
  }
  const struct token *token = &p->lexer.token;
  double sign = value->negative ? -1.0 : 1.0;
  value->kind = PBTEXT_FLOAT;
  if (token->kind == TOKEN_INTEGER) {
    value->kind = PBTEXT_INTEGER;
    value->integer = token->integer;
  } else if (token->kind == TOKEN_FLOAT) {
    value->number = sign * token->number;
  } else if (token->kind == TOKEN_NAME && (token_is(token, "inf") || token_is(token, "infinity"))) {
    value->number = sign * (double)INFINITY;
  } else if (token->kind == TOKEN_NAME && token_is(token, "nan")) {
    value->number = (double)NAN;
  } else {
    return lexer_unexpected(&p->lexer, "a number");
  }
  return lexer_next(&p->lexer);
}

static mu_status parse_scalar(struct parser *p, struct pbtext_value *value) {
  switch (p->lexer.token.kind) {
    case TOKEN_STRING:
      return parse_string(p, value);
    case TOKEN_NAME:
      return parse_identifier(p, value);
    case TOKEN_INTEGER:
    case TOKEN_FLOAT:
      return parse_number(p, value);
    default:
      break;
  }
  return lexer_on_mark(&p->lexer, '-') ? parse_number(p, value) : lexer_unexpected(&p->lexer, "a value");
}

static mu_status parse_nested(struct parser *p, char closing, struct pbtext_value *value) {
  if (p->depth == PBTEXT_DEPTH_MAX)
    return pbtext_fail(p->lexer.err, MU_INVALID, p->lexer.source, value->place, "more than %d messages in one another",
                       PBTEXT_DEPTH_MAX);
  mu_status status = lexer_next(&p->lexer);
  if (status != MU_OK) return status;
  struct pbtext_message *message = NULL;
  p->depth++;
  status = parse_message(p, closing, &message);
  if (status != MU_OK) return status;
  p->depth--;
  message->place = value->place;
  value->kind = PBTEXT_MESSAGE;
  value->message = message;
  return lexer_next(&p->lexer); /* past the closing bracket */
}

/* Only a message may follow a field's name without a colon. */
static mu_status parse_value(struct parser *p, bool colon, struct pbtext_value **ret_value) {
  struct pbtext_value *value = arena_alloc(p->arena, 1, sizeof *value);
  if (value == NULL) return no_memory(p);
  value->place = p->lexer.token.place;
  mu_status status;
  if (lexer_on_mark(&p->lexer, '{'))
    status = parse_nested(p, '}', value);
  else if (lexer_on_mark(&p->lexer, '<'))
    status = parse_nested(p, '>', value);
  else
    status = colon ? parse_scalar(p, value) : lexer_unexpected(&p->lexer, "':' or a message after the field's name");
  if (status == MU_OK) *ret_value = value;
  return status;
}

static mu_status parse_list(struct parser *p, bool colon, struct pbtext_field *field) {
  field->list = true;
  mu_status status = lexer_next(&p->lexer); /* past '[' */
  if (status != MU_OK) return status;
  struct pbtext_value **tail = &field->values;
  while (field->n_values > 0 || !lexer_on_mark(&p->lexer, ']')) {
    status = parse_value(p, colon, tail);
    if (status != MU_OK) return status;
    tail = &(*tail)->next;
    field->n_values++;
    if (!lexer_on_mark(&p->lexer, ',')) break;
    status = lexer_next(&p->lexer);
    if (status != MU_OK) return status;
  }
  if (!lexer_on_mark(&p->lexer, ']')) return lexer_unexpected(&p->lexer, "',' or ']'");
  return lexer_next(&p->lexer);
}

/* [com.example.extension] or [type.googleapis.com/example.Message]; blanks between the parts are dropped. */
static mu_status parse_bracketed_name(struct parser *p, struct pbtext_field *field) {
  char name[256];
  size_t len = 0;
  do {
    name[len++] = *p->lexer.token.text; /* '[' or what joins two parts */
    mu_status status = lexer_next(&p->lexer);
    if (status != MU_OK) return status;
    const struct token *token = &p->lexer.token;
    if (token->kind != TOKEN_NAME) return lexer_unexpected(&p->lexer, "a part of the name in brackets");
    if (len + token->len >= sizeof name) /* a joint or ']' follows */
      return pbtext_fail(p->lexer.err, MU_INVALID, p->lexer.source, field->place, "this name in brackets is too long");
    memcpy(name + len, token->text, token->len);
    len += token->len;
    status = lexer_next(&p->lexer);
    if (status != MU_OK) return status;
  } while (lexer_on_mark(&p->lexer, '.') || lexer_on_mark(&p->lexer, '/') || lexer_on_mark(&p->lexer, '-'));
  if (!lexer_on_mark(&p->lexer, ']')) return lexer_unexpected(&p->lexer, "']'");
  name[len++] = ']';
  field->name = arena_copy(p->arena, name, len);
  return field->name != NULL ? lexer_next(&p->lexer) : no_memory(p);
}

static mu_status parse_name(struct parser *p, struct pbtext_field *field) {
  const struct token *token = &p->lexer.token;
  if (lexer_on_mark(&p->lexer, '[')) return parse_bracketed_name(p, field);
  if (token->kind != TOKEN_NAME) return lexer_unexpected(&p->lexer, "the name of a field");
  field->name = arena_copy(p->arena, token->text, token->len);
  return field->name != NULL ? lexer_next(&p->lexer) : no_memory(p);
}

static mu_status parse_field(struct parser *p, struct pbtext_field *field) {
  field->place = p->lexer.token.place;
  mu_status status = parse_name(p, field);
  if (status != MU_OK) return status;
  bool colon = lexer_on_mark(&p->lexer, ':');
  if (colon) status = lexer_next(&p->lexer);
  if (status != MU_OK) return status;
  if (lexer_on_mark(&p->lexer, '[')) {
    status = parse_list(p, colon, field);
  } else {
    field->n_values = 1;
    status = parse_value(p, colon, &field->values);
  }
  if (status != MU_OK) return status;
  return lexer_on_mark(&p->lexer, ',') || lexer_on_mark(&p->lexer, ';') ? lexer_next(&p->lexer) : MU_OK;
}

/* Up to and not including the closing mark; '\0': up to the end of the text. */
static mu_status parse_message(struct parser *p, char closing, struct pbtext_message **ret_message) {
  struct pbtext_message *message = arena_alloc(p->arena, 1, sizeof *message);
  if (message == NULL) return no_memory(p);
  message->place = p->lexer.token.place;
  struct pbtext_field **tail = &message->fields;
  while (closing == '\0' ? p->lexer.token.kind != TOKEN_END : !lexer_on_mark(&p->lexer, closing)) {
    if (p->lexer.token.kind == TOKEN_END)
      return lexer_unexpected(&p->lexer, closing == '}' ? "a field or '}'" : "a field or '>'");
    struct pbtext_field *field = arena_alloc(p->arena, 1, sizeof *field);
    if (field == NULL) return no_memory(p);
    mu_status status = parse_field(p, field);
    if (status != MU_OK) return status;
    *tail = field;
    tail = &field->next;
  }
  *ret_message = message;
  return MU_OK;
}

mu_status pbtext_parse(const char *text, size_t len, const char *source, struct arena *arena,
                       const struct pbtext_message **ret_message, mu_error *err) {
  if (len > INT32_MAX)
    return mu_fail(err, MU_INVALID, "%s: the text is too long", source); /* lines are counted in 32 bits */
  struct parser parser = {.arena = arena};
  mu_status status = lexer_start(&parser.lexer, text, len, source, err);
  if (status != MU_OK) return status;
  struct pbtext_message *message = NULL;
  status = parse_message(&parser, '\0', &message);
  if (status != MU_OK) return status;
  message->place = (struct pbtext_place){1, 1};
  *ret_message = message;
  return MU_OK;
}

const struct pbtext_value *pbtext_find(const struct pbtext_message *message, const char *name, size_t n) {
  for (const struct pbtext_field *field = message->fields; field != NULL; field = field->next) {
    if (strcmp(field->name, name) != 0) continue;
    if (n >= field->n_values) {
      n -= field->n_values;
      continue;
    }
    const struct pbtext_value *value = field->values;
    while (n-- > 0) value = value->next;
    return value;
  }
  return NULL;
}

bool pbtext_uint64(const struct pbtext_value *value, uint64_t *ret_number) {
  if (value->kind != PBTEXT_INTEGER || (value->negative && value->integer != 0)) return false;
  *ret_number = value->integer;
  return true;
}

bool pbtext_int64(const struct pbtext_value *value, int64_t *ret_number) {
  uint64_t most = (uint64_t)INT64_MAX + (value->negative ? 1 : 0);
  if (value->kind != PBTEXT_INTEGER || value->integer > most) return false;
  *ret_number = value->negative ? (int64_t)(0 - value->integer) : (int64_t)value->integer;
  return true;
}

const char *pbtext_describe(const struct pbtext_value *value, char *text, size_t size) {
  switch (value->kind) {
    case PBTEXT_INTEGER:
      snprintf(text, size, "%s%llu", value->negative ? "-" : "", (unsigned long long)value->integer);
      break;
    case PBTEXT_FLOAT:
      snprintf(text, size, "%g", value->number);
      break;
    case PBTEXT_IDENTIFIER:
      snprintf(text, size, "%s", value->text);
      break;
    case PBTEXT_STRING:
      snprintf(text, size, "a string");
      break;
    case PBTEXT_MESSAGE:
      snprintf(text, size, "a message");
      break;
  }
  return text;
}

mu_status pbtext_fail(mu_error *err, mu_status status, const char *source, struct pbtext_place place,
                      const char *format, ...) {
  char message[sizeof err->message];
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  return mu_fail(err, status, "%s:%u:%u: %s", source, place.line, place.column, message);
}
