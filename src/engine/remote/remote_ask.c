#include "engine/remote/remote_ask.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "proto/grpc/grpc_message.h"
#include "proto/protobuf/wire.h"

enum { ANSWER_MAX = 4 << 20, PATH_MAX_BYTES = 900 };
enum { READY = 1 }; /* field of ModelReadyResponse */

struct question {
  const char *tail;   /* of the path of HTTP */
  const char *method; /* of gRPC */
};
static const struct question ready = {"/ready", "ModelReady"}, metadata = {"", "ModelMetadata"},
                             configuration = {"/config", "ModelConfig"};

/* ---- paths and messages ------------------------------------------------------------------------------------------ */

/* Appends text as a part of a path. */
static bool put_part(char *path, size_t size, size_t *at, const char *text) {
  static const char hex[] = "0123456789ABCDEF";
  for (; *text != '\0'; text++) {
    unsigned char c = (unsigned char)*text;
    bool plain =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-._~", c) != NULL;
    if (*at + 4 > size) return false;
    if (plain) {
      path[(*at)++] = (char)c;
      continue;
    }
    path[(*at)++] = '%';
    path[(*at)++] = hex[c >> 4];
    path[(*at)++] = hex[c & 15];
  }
  path[*at] = '\0';
  return true;
}

static bool put_plain(char *path, size_t size, size_t *at, const char *text) {
  int n = snprintf(path + *at, size - *at, "%s", text);
  *at += (size_t)n;
  return *at < size;
}

mu_status remote_path(const struct remote_settings *settings, const char *tail, char *path, size_t size,
                      mu_error *err) {
  size_t at = 0;
  bool fits = put_plain(path, size, &at, "/v2/models/") && put_part(path, size, &at, settings->model);
  if (settings->version != NULL)
    fits = fits && put_plain(path, size, &at, "/versions/") && put_part(path, size, &at, settings->version);
  fits = fits && put_plain(path, size, &at, tail);
  return fits ? MU_OK : mu_fail(err, MU_TOO_LARGE, "the name \"%.64s…\" is too long for a path", settings->model);
}

static mu_status write_message(struct remote_body *body, const struct remote_settings *settings) {
  const char prefix[GRPC_PREFIX_SIZE] = {0};
  struct buffer *out = &body->text;
  buffer_append(out, prefix, sizeof prefix);
  pb_put_text_field(out, 1, settings->model);
  if (settings->version != NULL) pb_put_text_field(out, 2, settings->version);
  if (out->failed) return MU_NO_MEMORY;
  grpc_prefix_write((uint8_t *)out->data, false, (uint32_t)(out->size - GRPC_PREFIX_SIZE));
  body->pieces[0] = (struct remote_piece){NULL, 0, out->size};
  body->n_pieces = 1;
  body->size = out->size;
  return MU_OK;
}

/* ---- the answer -------------------------------------------------------------------------------------------------- */

/* Whole, without what gRPC puts before it. */
struct answer {
  struct buffer bytes;
  enum remote_protocol protocol;
  const char *data;
  size_t size;
};

static mu_status begin(void *context, const struct remote_head *head, mu_error *err) {
  buffer_clear(&((struct answer *)context)->bytes);
  return MU_OK;
}

static mu_status take(void *context, const char *data, size_t size, mu_error *err) {
  mu_status status = buffer_append(&((struct answer *)context)->bytes, data, size);
  if (status == MU_NO_MEMORY) return mu_fail(err, status, "no memory for its answer");
  return status == MU_OK ? MU_OK : mu_fail(err, status, "its answer is larger than %d bytes", ANSWER_MAX);
}

static mu_status finish(void *context, mu_error *err) {
  struct answer *answer = context;
  size_t lead = answer->protocol == REMOTE_GRPC ? GRPC_PREFIX_SIZE : 0;
  if (answer->bytes.size < lead || (lead > 0 && answer->bytes.data[0] != 0))
    return mu_fail(err, MU_INTERNAL, "its answer is no message");
  answer->data = answer->bytes.data != NULL ? answer->bytes.data + lead : "";
  answer->size = answer->bytes.size - lead;
  return MU_OK;
}

/* *answer is the caller's to free. */
static void ask(const struct remote_asker *asker, const struct remote_address *address, const struct question *question,
                struct answer *answer, struct remote_outcome *outcome) {
  char path[PATH_MAX_BYTES];
  struct remote_body body;
  mu_error err = {{0}};
  bool grpc = asker->settings->protocol == REMOTE_GRPC;
  mu_status status = MU_OK;
  *answer = (struct answer){.protocol = asker->settings->protocol};
  buffer_init(&answer->bytes, ANSWER_MAX);
  remote_body_init(&body);
  if (grpc) {
    snprintf(path, sizeof path, "/inference.GRPCInferenceService/%s", question->method);
    status = write_message(&body, asker->settings);
  } else {
    status = remote_path(asker->settings, question->tail, path, sizeof path, &err);
  }
  const struct remote_call call = {.address = address,
                                   .path = path,
                                   .body = grpc ? &body : NULL,
                                   .protocol = asker->settings->protocol,
                                   .deadline_ns = time_add(clock_now_ns(), asker->ns),
                                   .begin = begin,
                                   .take = take,
                                   .finish = finish,
                                   .context = answer};
  if (status == MU_OK)
    remote_transfer_run(asker->transfer, &call, outcome);
  else
    *outcome = (struct remote_outcome){.end = REMOTE_FAILED_HERE, .status = status, .error = err};
  remote_body_free(&body);
}

/* What it has answered cannot be used. */
static void spoil(struct remote_outcome *outcome, mu_status status, const mu_error *err) {
  enum remote_end end = status == MU_NO_MEMORY ? REMOTE_FAILED_HERE : REMOTE_MALFORMED;
  *outcome = (struct remote_outcome){.end = end, .status = status, .error = *err};
}

/* ---- the questions ----------------------------------------------------------------------------------------------- */

/* Over HTTP the status says all; gRPC has a field. */
static bool says_ready(const struct answer *answer) {
  struct pb_reader reader;
  struct pb_field field;
  bool yes = answer->protocol == REMOTE_HTTP;
  pb_reader_init(&reader, answer->data, yes ? 0 : answer->size);
  while (pb_next(&reader, &field))
    if (field.number == READY && field.wire == PB_VARINT) yes = field.value != 0;
  return yes && reader.wrong == NULL;
}

void remote_ask_ready(const struct remote_asker *asker, const struct remote_address *address,
                      struct remote_outcome *ret_outcome) {
  struct answer answer;
  mu_error err;
  ask(asker, address, &ready, &answer, ret_outcome);
  if (ret_outcome->end == REMOTE_ANSWERED && !says_ready(&answer))
    spoil(ret_outcome, mu_fail(&err, MU_UNAVAILABLE, "it says that the model is not ready"), &err);
  buffer_free(&answer.bytes);
}

void remote_ask_metadata(const struct remote_asker *asker, const struct remote_address *address,
                         struct remote_metadata *ret_metadata, struct remote_outcome *ret_outcome) {
  struct answer answer;
  mu_error err;
  ask(asker, address, &metadata, &answer, ret_outcome);
  if (ret_outcome->end == REMOTE_ANSWERED) {
    mu_status status = remote_metadata_parse(answer.protocol, answer.data, answer.size, ret_metadata, &err);
    if (status != MU_OK) spoil(ret_outcome, status, &err);
  }
  buffer_free(&answer.bytes);
}

mu_status remote_ask_max_batch(const struct remote_asker *asker, const struct remote_address *address,
                               uint32_t *ret_rows, mu_error *err) {
  struct answer answer;
  struct remote_outcome outcome;
  uint32_t rows = 0;
  ask(asker, address, &configuration, &answer, &outcome);
  if (outcome.end == REMOTE_ANSWERED) rows = remote_metadata_max_batch(answer.protocol, answer.data, answer.size);
  buffer_free(&answer.bytes);
  if (outcome.end == REMOTE_FAILED_HERE && outcome.status == MU_NO_MEMORY)
    return mu_fail(err, MU_NO_MEMORY, "%s", outcome.error.message);
  *ret_rows = rows;
  return MU_OK;
}
