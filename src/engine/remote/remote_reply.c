#include "engine/remote/remote_reply.h"

#include <string.h>

#include "proto/grpc/grpc_message.h"

enum {
  HEAD_MAX = 1 << 20,    /* bytes of JSON before binary tensors */
  FRAMING_MAX = 1 << 20, /* bytes of a reply that are not those of tensors */
};

void remote_reply_init(struct remote_reply *reply, struct remote_results *results, enum remote_protocol protocol) {
  *reply = (struct remote_reply){.results = results, .protocol = protocol};
  buffer_init(&reply->text, results->limit + FRAMING_MAX);
}

void remote_reply_free(struct remote_reply *reply) { buffer_free(&reply->text); }

mu_status remote_reply_start(struct remote_reply *reply, int64_t head_size, mu_error *err) {
  buffer_clear(&reply->text);
  reply->head_size = head_size < 0 ? UINT64_MAX : (uint64_t)head_size;
  reply->head_read = false;
  reply->n_parts = reply->part = 0;
  reply->at = 0;
  if (head_size <= HEAD_MAX) return MU_OK;
  return mu_fail(err, MU_TOO_LARGE, "its reply has %lld bytes of JSON", (long long)head_size);
}

static mu_status collect(struct remote_reply *reply, const char *data, size_t size, mu_error *err) {
  mu_status status = buffer_append(&reply->text, data, size);
  if (status == MU_OK) return MU_OK;
  if (status == MU_NO_MEMORY) return mu_fail(err, status, "no memory for a reply");
  return mu_fail(err, status, "its reply has more than %zu bytes (remote.max_reply_mib)", reply->text.limit);
}

/* Parts that are complete are left behind, empty ones at once. */
static void pass_complete_parts(struct remote_reply *reply) {
  while (reply->part < reply->n_parts && reply->at == reply->parts[reply->part].size) {
    reply->part++;
    reply->at = 0;
  }
}

static mu_status take_parts(struct remote_reply *reply, const char *data, size_t size, mu_error *err) {
  for (;;) {
    pass_complete_parts(reply);
    if (size == 0) return MU_OK;
    if (reply->part == reply->n_parts)
      return mu_fail(err, MU_INTERNAL, "its reply has more bytes than it announced for its outputs");
    struct remote_part *part = &reply->parts[reply->part];
    size_t n = part->size - reply->at < size ? (size_t)(part->size - reply->at) : size;
    if (part->place != NULL) memcpy(part->place + reply->at, data, n);
    reply->at += n;
    data += n;
    size -= n;
  }
}

static mu_status take_rest(struct remote_reply *reply, const char *data, size_t size, mu_error *err) {
  if (!reply->head_read) {
    uint64_t lacks = reply->head_size - reply->text.size;
    size_t n = lacks < size ? (size_t)lacks : size;
    mu_status status = collect(reply, data, n, err);
    if (status != MU_OK || reply->text.size < reply->head_size) return status;
    reply->head_read = true;
    status = remote_reply_read_json(reply, err);
    if (status != MU_OK) return status;
    data += n;
    size -= n;
  }
  return take_parts(reply, data, size, err);
}

mu_status remote_reply_take(struct remote_reply *reply, const char *data, size_t size, mu_error *err) {
  return reply->protocol == REMOTE_HTTP ? take_rest(reply, data, size, err) : collect(reply, data, size, err);
}

static mu_status finish_rest(struct remote_reply *reply, mu_error *err) {
  mu_status status = MU_OK;
  if (!reply->head_read) {
    if (reply->head_size != UINT64_MAX)
      return mu_fail(err, MU_INTERNAL, "its reply ends after %zu of %llu bytes of JSON", reply->text.size,
                     (unsigned long long)reply->head_size);
    status = remote_reply_read_json(reply, err);
  }
  if (status == MU_OK) pass_complete_parts(reply);
  if (status == MU_OK && reply->part < reply->n_parts)
    status = mu_fail(err, MU_INTERNAL, "its reply ends %llu bytes short of what it announced for an output",
                     (unsigned long long)(reply->parts[reply->part].size - reply->at));
  return status;
}

static mu_status finish_grpc(struct remote_reply *reply, mu_error *err) {
  const uint8_t *data = (const uint8_t *)reply->text.data;
  size_t size = reply->text.size;
  if (size < GRPC_PREFIX_SIZE) return mu_fail(err, MU_INTERNAL, "its reply has no message");
  uint32_t announced = (uint32_t)data[1] << 24 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 8 | data[4];
  if (data[0] != 0) return mu_fail(err, MU_INTERNAL, "its reply is compressed, which nobody asked for");
  if (announced != size - GRPC_PREFIX_SIZE)
    return mu_fail(err, MU_INTERNAL, "its reply has %zu bytes, its message %u", size - GRPC_PREFIX_SIZE, announced);
  return remote_reply_read_message(reply, reply->text.data + GRPC_PREFIX_SIZE, announced, err);
}

mu_status remote_reply_finish(struct remote_reply *reply, mu_error *err) {
  mu_status status = reply->protocol == REMOTE_HTTP ? finish_rest(reply, err) : finish_grpc(reply, err);
  return status == MU_OK ? remote_results_finish(reply->results, err) : status;
}
