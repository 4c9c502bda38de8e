#include "api/infer_parameters.h"

#include "base/status.h"

#include <string.h>

/* What a table's row reads: `who` ("" for the request itself) and the key are for messages. */
struct target {
  const char *who;
  const char *key;
  const struct infer_value *value;
  struct request *request;                /* of a request's parameter */
  struct infer_tensor_parameters *tensor; /* of a tensor's */
  mu_error *err;
};

struct row {
  const char *key;
  mu_status (*take)(const struct target *target);
};

/* "parameter "x"" or "input 'y', parameter "x"" and what is wrong. */
static mu_status refuse(const struct target *t, mu_status status, const char *why) {
  return mu_fail(t->err, status, "%s%sparameter \"%s\": %s", t->who, *t->who != '\0' ? ", " : "", t->key, why);
}

static mu_status take_u64(const struct target *t, uint64_t *into) {
  switch (t->value->kind) {
    case INFER_VALUE_U64:
      *into = t->value->u64;
      return MU_OK;
    case INFER_VALUE_I64:
      if (t->value->i64 < 0) break;
      *into = (uint64_t)t->value->i64;
      return MU_OK;
    default:
      break;
  }
  return refuse(t, MU_INVALID, "its value must be a number that is not negative");
}

static mu_status take_priority(const struct target *t) { return take_u64(t, &t->request->priority); }

static mu_status take_timeout(const struct target *t) { return take_u64(t, &t->request->timeout_us); }

/* 0, "" and false say that the request belongs to no sequence. */
static mu_status take_sequence(const struct target *t) {
  const struct infer_value *v = t->value;
  const bool none[] = {
      [INFER_VALUE_NONE] = true,       [INFER_VALUE_BOOL] = !v->flag, [INFER_VALUE_I64] = v->i64 == 0,
      [INFER_VALUE_U64] = v->u64 == 0, [INFER_VALUE_DOUBLE] = false,  [INFER_VALUE_TEXT] = v->text_size == 0,
  };
  if (none[v->kind]) return MU_OK;
  return refuse(t, MU_UNSUPPORTED, "muster does not serve sequences");
}

static mu_status take_classification(const struct target *t) { return take_u64(t, &t->tensor->classification); }

static mu_status take_region(const struct target *t) {
  if (t->value->kind != INFER_VALUE_TEXT) return refuse(t, MU_INVALID, "its value must be a text");
  struct shared_memory_parameters *shared = &t->tensor->shared;
  shared->has_region = true;
  shared->region = t->value->text;
  shared->region_size = t->value->text_size;
  return MU_OK;
}

static mu_status take_byte_size(const struct target *t) {
  t->tensor->shared.has_byte_size = true;
  return take_u64(t, &t->tensor->shared.byte_size);
}

static mu_status take_offset(const struct target *t) {
  t->tensor->shared.has_offset = true;
  return take_u64(t, &t->tensor->shared.offset);
}

static const struct row request_rows[] = {
    {"priority", take_priority},       {"timeout", take_timeout},       {"sequence_id", take_sequence},
    {"sequence_start", take_sequence}, {"sequence_end", take_sequence},
};

static const struct row input_rows[] = {
    {"shared_memory_region", take_region},
    {"shared_memory_byte_size", take_byte_size},
    {"shared_memory_offset", take_offset},
};

static const struct row output_rows[] = {
    {"classification", take_classification},
    {"shared_memory_region", take_region},
    {"shared_memory_byte_size", take_byte_size},
    {"shared_memory_offset", take_offset},
};

static mu_status take(const struct row *rows, size_t n, const struct infer_parameter *parameter,
                      struct target *target) {
  for (size_t i = 0; i < n; i++) {
    if (strlen(rows[i].key) != parameter->key_size || memcmp(rows[i].key, parameter->key, parameter->key_size) != 0)
      continue;
    target->key = rows[i].key;
    target->value = &parameter->value;
    return rows[i].take(target);
  }
  return MU_OK;
}

#define ROWS(table) table, sizeof(table) / sizeof *(table)

mu_status infer_request_parameter(const struct infer_parameter *parameter, struct request *request, mu_error *err) {
  struct target target = {.who = "", .request = request, .err = err};
  return take(ROWS(request_rows), parameter, &target);
}

mu_status infer_input_parameter(const char *who, const struct infer_parameter *parameter,
                                struct infer_tensor_parameters *into, mu_error *err) {
  struct target target = {.who = who, .tensor = into, .err = err};
  return take(ROWS(input_rows), parameter, &target);
}

mu_status infer_output_parameter(const char *who, const struct infer_parameter *parameter,
                                 struct infer_tensor_parameters *into, mu_error *err) {
  struct target target = {.who = who, .tensor = into, .err = err};
  return take(ROWS(output_rows), parameter, &target);
}
