#include "model/config_decode.h"

#include "config/options.h"
#include "model/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

_Static_assert(sizeof(enum config_kind) == sizeof(int), "CONFIG_ENUM stores an enum as an int");

mu_status config_no_memory(const struct config_decoder *decoder) {
  return mu_fail(decoder->err, MU_NO_MEMORY, "%s: no memory for its content", decoder->source);
}

mu_status config_warn(struct config_decoder *decoder, struct pbtext_place place, const char *format, ...) {
  mu_error text, message;
  va_list args;
  va_start(args, format);
  vsnprintf(message.message, sizeof message.message, format, args);
  va_end(args);
  pbtext_fail(&text, MU_UNSUPPORTED, decoder->source, place, "%s", message.message);
  text_mend_end(text.message);

  struct config_warning *warning = arena_alloc(decoder->arena, 1, sizeof *warning);
  if (warning == NULL) return config_no_memory(decoder);
  warning->text = arena_copy(decoder->arena, text.message, strlen(text.message));
  if (warning->text == NULL) return config_no_memory(decoder);
  if (decoder->last_warning == NULL)
    decoder->first_warning = warning;
  else
    decoder->last_warning->next = warning;
  decoder->last_warning = warning;
  decoder->n_warnings++;
  return MU_OK;
}

/* ---- one value --------------------------------------------------------------------------------------------------- */

static mu_status wrong_type(struct config_decoder *decoder, const struct config_rule *rule,
                            const struct pbtext_value *value, const char *wanted) {
  char found[80];
  return config_fail(decoder, MU_INVALID, value->place, "%s must be %s, not %s", rule->name, wanted,
                     pbtext_describe(value, found, sizeof found));
}

static mu_status decode_string(struct config_decoder *decoder, const struct config_rule *rule,
                               const struct pbtext_value *value, void *target) {
  if (value->kind != PBTEXT_STRING) return wrong_type(decoder, rule, value, "a string in quotes");
  if (!text_valid(value->text, value->len))
    return config_fail(decoder, MU_INVALID, value->place, "%s is not valid UTF-8 text", rule->name);
  if (rule->kind == CONFIG_PATH && value->len > 0 && !text_is_inner_path(value->text))
    return config_fail(decoder, MU_INVALID, value->place, "%s must name a file below the model's folder, not '%s'",
                       rule->name, value->text);
  memcpy(target, &value->text, sizeof value->text);
  return MU_OK;
}

/* Is that a word, which JSON has in quotes? */
static bool is_word(const struct config_decoder *decoder, const struct pbtext_value *value) {
  return value->kind == PBTEXT_IDENTIFIER || (decoder->json && value->kind == PBTEXT_STRING);
}

/* JSON has integers of 64 bits in quotes, because its readers often have no such numbers. */
static struct pbtext_value unquoted(const struct config_decoder *decoder, const struct pbtext_value *value) {
  struct pbtext_value number = {.kind = PBTEXT_INTEGER, .place = value->place};
  if (!decoder->json || value->kind != PBTEXT_STRING) return *value;
  const char *at = value->text, *end = at + value->len;
  number.negative = at < end && *at == '-';
  if (number.negative) at++;
  bool digits = at < end;
  for (; digits && at < end; at++)
    digits = *at >= '0' && *at <= '9' && !__builtin_mul_overflow(number.integer, 10, &number.integer) &&
             !__builtin_add_overflow(number.integer, (uint64_t)(*at - '0'), &number.integer);
  return digits ? number : *value;
}

/* As protobuf reads a bool: true, True, t, 1 and false, False, f, 0. */
static mu_status read_bool(struct config_decoder *decoder, const struct config_rule *rule,
                           const struct pbtext_value *value, bool *ret_bool) {
  static const char *const words[2][3] = {{"false", "False", "f"}, {"true", "True", "t"}};
  uint64_t number;
  if (pbtext_uint64(value, &number) && number <= 1) {
    *ret_bool = number == 1;
    return MU_OK;
  }
  for (int i = 0; value->kind == PBTEXT_IDENTIFIER && i < 2; i++)
    for (int j = 0; j < 3; j++)
      if (strcmp(value->text, words[i][j]) == 0) {
        *ret_bool = i == 1;
        return MU_OK;
      }
  return wrong_type(decoder, rule, value, "true or false");
}

static mu_status decode_bool(struct config_decoder *decoder, const struct config_rule *rule,
                             const struct pbtext_value *value, void *target) {
  return read_bool(decoder, rule, value, target);
}

static mu_status decode_set(struct config_decoder *decoder, const struct config_rule *rule,
                            const struct pbtext_value *value, void *target) {
  bool ignored;
  return read_bool(decoder, rule, value, &ignored);
}

static mu_status decode_integer(struct config_decoder *decoder, const struct config_rule *rule,
                                const struct pbtext_value *value, void *target) {
  const struct pbtext_value written = unquoted(decoder, value);
  int64_t number = 0;
  uint64_t magnitude = 0;
  bool fits = false;
  if (pbtext_uint64(&written, &magnitude))
    fits = magnitude <= rule->max && (rule->min <= 0 || magnitude >= (uint64_t)rule->min);
  else if (pbtext_int64(&written, &number))
    fits = number >= rule->min;
  if (!fits) {
    char wanted[80];
    snprintf(wanted, sizeof wanted, "an integer from %lld to %llu", (long long)rule->min,
             (unsigned long long)rule->max);
    return wrong_type(decoder, rule, value, wanted);
  }
  uint64_t bits = number < 0 ? (uint64_t)number : magnitude;
  uint32_t low = (uint32_t)bits;
  if (rule->kind == CONFIG_INT32)
    memcpy(target, &low, sizeof low);
  else
    memcpy(target, &bits, sizeof bits);
  return MU_OK;
}

static mu_status unknown_word(struct config_decoder *decoder, const struct config_rule *rule,
                              const struct pbtext_value *value) {
  const char *names[CONFIG_RULES_MAX];
  size_t n = 0;
  while (n < rule->n_words && n < CONFIG_RULES_MAX) {
    names[n] = rule->words[n].name;
    n++;
  }
  char found[80];
  pbtext_describe(value, found, sizeof found);
  const char *near = is_word(decoder, value) ? nearest_word(value->text, names, n) : NULL;
  if (near != NULL)
    return config_fail(decoder, MU_INVALID, value->place, "%s cannot be %s; did you mean %s?", rule->name, found, near);
  return config_fail(decoder, MU_INVALID, value->place, "%s cannot be %s (it can be %s, for example)", rule->name,
                     found, names[n > 1 ? 1 : 0]);
}

static mu_status read_word(struct config_decoder *decoder, const struct config_rule *rule,
                           const struct pbtext_value *value, int *ret_stored) {
  int64_t number;
  bool numeric = pbtext_int64(value, &number);
  for (const struct config_word *word = rule->words; word < rule->words + rule->n_words; word++) {
    bool match = numeric ? number == word->number : is_word(decoder, value) && strcmp(value->text, word->name) == 0;
    if (!match) continue;
    if (word->stored == CONFIG_WORD_UNSUPPORTED)
      return config_fail(decoder, MU_UNSUPPORTED, value->place, "%s %s is not supported", rule->name, word->name);
    *ret_stored = word->stored;
    return MU_OK;
  }
  return unknown_word(decoder, rule, value);
}

static mu_status decode_enum(struct config_decoder *decoder, const struct config_rule *rule,
                             const struct pbtext_value *value, void *target) {
  int stored = 0;
  mu_status status = read_word(decoder, rule, value, &stored);
  if (status == MU_OK) memcpy(target, &stored, sizeof stored);
  return status;
}

static mu_status decode_enum_bool(struct config_decoder *decoder, const struct config_rule *rule,
                                  const struct pbtext_value *value, void *target) {
  int stored = 0;
  mu_status status = read_word(decoder, rule, value, &stored);
  bool set = stored != 0;
  if (status == MU_OK) memcpy(target, &set, sizeof set);
  return status;
}

static mu_status decode_message(struct config_decoder *decoder, const struct config_rule *rule,
                                const struct pbtext_value *value, void *target) {
  if (value->kind != PBTEXT_MESSAGE) return wrong_type(decoder, rule, value, "a message in braces");
  return config_decode(decoder, rule->message, target, value->message);
}

static mu_status decode_ignored(struct config_decoder *decoder, const struct config_rule *rule,
                                const struct pbtext_value *value, void *target) {
  return config_warn(decoder, value->place, "%s is ignored: %s", rule->name, rule->reason);
}

static mu_status decode_unsupported(struct config_decoder *decoder, const struct config_rule *rule,
                                    const struct pbtext_value *value, void *target) {
  return config_fail(decoder, MU_UNSUPPORTED, value->place, "%s is not supported: %s", rule->name, rule->reason);
}

static mu_status decode_ignored_true(struct config_decoder *decoder, const struct config_rule *rule,
                                     const struct pbtext_value *value, void *target) {
  bool set = false;
  mu_status status = read_bool(decoder, rule, value, &set);
  return status == MU_OK && set ? decode_ignored(decoder, rule, value, target) : status;
}

static mu_status decode_unsupported_true(struct config_decoder *decoder, const struct config_rule *rule,
                                         const struct pbtext_value *value, void *target) {
  bool set = false;
  mu_status status = read_bool(decoder, rule, value, &set);
  return status == MU_OK && set ? decode_unsupported(decoder, rule, value, target) : status;
}

static const struct {
  mu_status (*decode)(struct config_decoder *decoder, const struct config_rule *rule, const struct pbtext_value *value,
                      void *target);
  size_t size; /* of an element in an array; 0: the message's */
} kinds[] = {
    [CONFIG_STRING] = {decode_string, sizeof(char *)},
    [CONFIG_PATH] = {decode_string, sizeof(char *)},
    [CONFIG_BOOL] = {decode_bool, sizeof(bool)},
    [CONFIG_INT32] = {decode_integer, sizeof(int32_t)},
    [CONFIG_INT64] = {decode_integer, sizeof(int64_t)},
    [CONFIG_ENUM] = {decode_enum, sizeof(int)},
    [CONFIG_ENUM_BOOL] = {decode_enum_bool, sizeof(bool)},
    [CONFIG_MESSAGE] = {decode_message, 0},
    [CONFIG_SET] = {decode_set, 0},
    [CONFIG_IGNORED] = {decode_ignored, 0},
    [CONFIG_IGNORED_TRUE] = {decode_ignored_true, 0},
    [CONFIG_UNSUPPORTED] = {decode_unsupported, 0},
    [CONFIG_UNSUPPORTED_TRUE] = {decode_unsupported_true, 0},
};

/* ---- one field --------------------------------------------------------------------------------------------------- */

/* How many values the message gives to the field from this occurrence on. */
static uint32_t count_values(const struct pbtext_field *field) {
  uint32_t n = 0;
  for (const struct pbtext_field *other = field; other != NULL; other = other->next)
    if (strcmp(other->name, field->name) == 0) n += other->n_values;
  return n;
}

static mu_status decode_repeated(struct config_decoder *decoder, const struct config_rule *rule, bool first,
                                 char *object, const struct pbtext_field *field) {
  size_t size = rule->kind == CONFIG_MESSAGE ? rule->message->size : kinds[rule->kind].size;
  uint32_t *count = (uint32_t *)(void *)(object + rule->count);
  char *array = object + rule->offset;
  if (first && rule->capacity == 0) {
    void *memory = arena_alloc(decoder->arena, count_values(field), size);
    if (memory == NULL) return config_no_memory(decoder);
    memcpy(object + rule->offset, &memory, sizeof memory);
  }
  if (rule->capacity == 0) memcpy(&array, object + rule->offset, sizeof array);
  for (const struct pbtext_value *value = field->values; value != NULL; value = value->next) {
    if (rule->capacity > 0 && *count == rule->capacity)
      return config_fail(decoder, MU_INVALID, value->place, "%s has more than %u values", rule->name, rule->capacity);
    mu_status status = kinds[rule->kind].decode(decoder, rule, value, array + *count * size);
    if (status != MU_OK) return status;
    ++*count;
  }
  return MU_OK;
}

static mu_status decode_single(struct config_decoder *decoder, const struct config_rule *rule, bool first, char *object,
                               const struct pbtext_field *field) {
  if (!first) return config_fail(decoder, MU_INVALID, field->place, "%s is written twice", rule->name);
  if (field->list) return config_fail(decoder, MU_INVALID, field->place, "%s takes one value, not a list", rule->name);
  return kinds[rule->kind].decode(decoder, rule, field->values, object + rule->offset);
}

/* In JSON all fields may be written: is this value the one that protobuf takes for a field that is not? */
static bool is_none(const struct config_decoder *decoder, const struct config_rule *rule,
                    const struct pbtext_field *field) {
  const struct pbtext_value *value = field->values;
  if (!decoder->json || field->list || rule->required) return false;
  if (rule->zero_is_none || rule->kind == CONFIG_IGNORED || rule->kind == CONFIG_UNSUPPORTED) {
    if (value->kind == PBTEXT_INTEGER && value->integer == 0) return true;
    if (value->kind == PBTEXT_IDENTIFIER && strcmp(value->text, "false") == 0) return true;
  }
  return value->kind == PBTEXT_STRING && value->len == 0;
}

/* What is refused or passed over needs no further look at how it is written. */
static bool is_passed_over(const struct config_rule *rule) {
  return rule->kind == CONFIG_IGNORED || rule->kind == CONFIG_UNSUPPORTED;
}

static mu_status decode_field(struct config_decoder *decoder, const struct config_rule *rule, bool first, char *object,
                              const struct pbtext_field *field) {
  mu_status status;
  if (is_passed_over(rule)) {
    struct pbtext_value at = {.place = field->place};
    return kinds[rule->kind].decode(decoder, rule, &at, NULL);
  }
  status = rule->repeated ? decode_repeated(decoder, rule, first, object, field)
                          : decode_single(decoder, rule, first, object, field);
  if (status != MU_OK) return status;
  if (rule->has != 0) *(bool *)(object + rule->has) = true;
  if (rule->group != 0) memcpy(object + rule->choice_at, &rule->choice, sizeof rule->choice);
  return MU_OK;
}

/* ---- a message --------------------------------------------------------------------------------------------------- */

static mu_status unknown_field(struct config_decoder *decoder, const struct config_rules *rules,
                               const struct pbtext_field *field) {
  const char *names[CONFIG_RULES_MAX];
  for (size_t i = 0; i < rules->n_rules; i++) names[i] = rules->rules[i].name;
  const char *near = nearest_word(field->name, names, rules->n_rules);
  if (near != NULL)
    return config_fail(decoder, MU_INVALID, field->place, "%s has no field '%s'; did you mean '%s'?", rules->name,
                       field->name, near);
  return config_fail(decoder, MU_INVALID, field->place, "%s has no field '%s'", rules->name, field->name);
}

/* Another field of the rule's group that was already seen; NULL when there is none. */
static const struct config_rule *seen_in_group(const struct config_rules *rules, const struct config_rule *rule,
                                               const bool *seen) {
  for (size_t i = 0; rule->group != 0 && i < rules->n_rules; i++)
    if (seen[i] && rules->rules[i].group == rule->group && &rules->rules[i] != rule) return &rules->rules[i];
  return NULL;
}

static mu_status check_required(struct config_decoder *decoder, const struct config_rules *rules, const bool *seen,
                                const struct pbtext_message *message) {
  for (size_t i = 0; i < rules->n_rules; i++) {
    const struct config_rule *rule = &rules->rules[i];
    if (rule->required && !seen[i] && seen_in_group(rules, rule, seen) == NULL)
      return config_fail(decoder, MU_INVALID, message->place, "%s needs %s", rules->name, rule->name);
  }
  return MU_OK;
}

mu_status config_decode(struct config_decoder *decoder, const struct config_rules *rules, void *object,
                        const struct pbtext_message *message) {
  bool seen[CONFIG_RULES_MAX] = {false};
  for (const struct pbtext_field *field = message->fields; field != NULL; field = field->next) {
    size_t i = 0;
    while (i < rules->n_rules && strcmp(rules->rules[i].name, field->name) != 0) i++;
    if (i == rules->n_rules) return unknown_field(decoder, rules, field);
    const struct config_rule *rule = &rules->rules[i], *other = seen_in_group(rules, rule, seen);
    if (other != NULL)
      return config_fail(decoder, MU_INVALID, field->place, "%s cannot have both %s and %s", rules->name, other->name,
                         rule->name);
    if (is_none(decoder, rule, field)) continue;
    mu_status status = decode_field(decoder, rule, !seen[i], object, field);
    if (status != MU_OK) return status;
    seen[i] = true;
  }
  mu_status status = check_required(decoder, rules, seen, message);
  return status == MU_OK && rules->check != NULL ? rules->check(decoder, object, message) : status;
}
