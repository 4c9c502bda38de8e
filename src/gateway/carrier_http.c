/* Inference as one HTTP request: what its headers say of the body, and the answer. */
#include "base/log.h"
#include "gateway/call.h"

#include <errno.h>
#include <stdlib.h>

/* ---- the request ------------------------------------------------------------------------------------------------- */

/* Inference-Header-Content-Length: digits only. */
static bool parse_length(const char *text, uint64_t *ret_length) {
  if (text[0] < '0' || text[0] > '9') return false;
  char *end;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  if (errno != 0 || *end != '\0') return false;
  *ret_length = value;
  return true;
}

/* Where the JSON part ends. */
static mu_status find_text_size(struct call *call, mu_error *err) {
  const struct exchange *exchange = call->exchange;
  const char *header = exchange->headers[HEADER_INFERENCE_HEADER_CONTENT_LENGTH];
  uint64_t body = exchange->encoded ? UINT64_MAX : exchange->content_length;
  call->message_size = call->text_size = body;
  if (header == NULL) return MU_OK;
  uint64_t length;
  if (!parse_length(header, &length))
    return mu_fail(err, MU_INVALID, "Inference-Header-Content-Length '%.40s' is not a length", header);
  if (body != UINT64_MAX && length > body)
    return mu_fail(err, MU_INVALID, "Inference-Header-Content-Length %llu is larger than the body of %llu bytes",
                   (unsigned long long)length, (unsigned long long)body);
  if (length > (uint64_t)call->loop->core->options->body_limit)
    return mu_fail(err, MU_TOO_LARGE, "Inference-Header-Content-Length %llu is larger than --body-limit",
                   (unsigned long long)length);
  call->raw = length == 0;
  if (!call->raw) call->text_size = length;
  return MU_OK;
}

static void on_body(struct exchange *exchange, const uint8_t *data, size_t size) {
  inference_body(exchange->user, data, size);
}

static void on_end(struct exchange *exchange) { inference_end(exchange->user); }

static void on_gone(struct exchange *exchange) { inference_gone(exchange->user); }

static bool on_window(struct exchange *exchange, uint8_t **ret_data, size_t *ret_size) {
  return inference_window(exchange->user, ret_data, ret_size);
}

void http_inference_begin(struct call *call) {
  static const struct exchange_handler handler = {.body = on_body, .end = on_end, .gone = on_gone, .window = on_window};
  mu_error err;
  call->handler = &handler;
  call->format = &format_rest;
  call->carrier = &carrier_http;
  mu_status status = inference_find_model(call, &err);
  if (status == MU_OK) status = find_text_size(call, &err);
  if (status == MU_OK)
    inference_begin(call);
  else
    inference_fail(call, status, err.message);
}

/* ---- the answer -------------------------------------------------------------------------------------------------- */

static void reply(struct call *call, uint32_t n_iov, bool borrows) {
  struct exchange *exchange = call->exchange;
  char length[24];
  snprintf(length, sizeof length, "%zu", call->reply.size);
  struct header header = {"Inference-Header-Content-Length", length};
  bool binary = n_iov > 1;
  struct reply answer = {.status = 200,
                         .content_type = binary ? "application/octet-stream" : "application/json",
                         .headers = &header,
                         .n_headers = binary,
                         .body = call->iov + 1,
                         .n_body = n_iov,
                         .compressible = true,
                         .unshared = !borrows,
                         .done = inference_reply_sent,
                         .owner = call};
  call->exchange = NULL;
  exchange_reply(exchange, &answer);
}

static void error(struct call *call, mu_status status, const char *message) {
  call_reply_error(call, http_status_of(status), message);
}

/* A body that is all there is not held back. */
static void hold_back(struct call *call) {
  if (!call->body_ended) exchange_pause(call->exchange);
}

static void go_on(struct call *call) {
  if (!call->body_ended) exchange_resume(call->exchange);
}

const struct carrier carrier_http = {.reply = reply, .error = error, .pause = hold_back, .resume = go_on};
