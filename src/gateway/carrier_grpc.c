/* gRPC's calls: what their headers say, messages in, the answer of a unary one. */
#include "gateway/grpc.h"

#include <stdio.h>
#include <string.h>

enum { CODE_DIGITS = 12 };

/* ---- answers ----------------------------------------------------------------------------------------------------- */

#define CONTENT_TYPE "application/grpc"

static const struct header accepted = {"grpc-accept-encoding", "identity, deflate, gzip"};
const struct reply grpc_head = {.status = 200, .content_type = CONTENT_TYPE, .headers = &accepted, .n_headers = 1};
const struct header grpc_ok = {"grpc-status", "0"};

static struct exchange *take_exchange(struct call *call) {
  struct exchange *exchange = call->exchange;
  call->exchange = NULL;
  call->stage = CALL_ANSWERED;
  return exchange;
}

/* grpc-status and, where something is wrong, grpc-message. Borrowed memory: text, digits. */
static size_t status_headers(enum grpc_code code, const char *message, struct buffer *text, char digits[CODE_DIGITS],
                             struct header headers[2]) {
  snprintf(digits, CODE_DIGITS, "%d", (int)code);
  headers[0] = (struct header){"grpc-status", digits};
  if (code == GRPC_OK) return 1;
  bool told = grpc_message_encode(text, message) == MU_OK && buffer_append(text, "", 1) == MU_OK;
  headers[1] = (struct header){"grpc-message", told ? text->data : "out of memory"};
  return 2;
}

void grpc_reply_end(struct exchange *exchange, enum grpc_code code, const char *message) {
  struct buffer text;
  char digits[CODE_DIGITS];
  struct header trailers[2];
  buffer_init(&text, SIZE_MAX / 2);
  size_t n = status_headers(code, message, &text, digits, trailers);
  exchange_reply_end(exchange, trailers, n);
  buffer_free(&text);
}

void grpc_reply_error(struct call *call, enum grpc_code code, const char *message) {
  struct exchange *exchange = take_exchange(call);
  if (exchange == NULL) return;
  char digits[CODE_DIGITS];
  struct header headers[3] = {accepted};
  buffer_clear(&call->reply);
  size_t n = 1 + status_headers(code, message, &call->reply, digits, headers + 1);
  const struct reply reply = {.status = 200, .content_type = CONTENT_TYPE, .headers = headers, .n_headers = n};
  exchange_reply(exchange, &reply);
}

void grpc_reply_message(struct call *call) {
  struct exchange *exchange = take_exchange(call);
  if (exchange == NULL) return;
  const struct iovec body = {call->reply.data, call->reply.size};
  struct reply reply = grpc_head;
  reply.body = &body;
  reply.n_body = 1;
  reply.trailers = &grpc_ok;
  reply.n_trailers = 1;
  exchange_reply(exchange, &reply);
}

enum grpc_code grpc_code_for(const struct call *call, mu_status status) {
  bool own = status == MU_TIMEOUT && call->deadline_ns > 0 && clock_now_ns() >= call->deadline_ns;
  return own ? GRPC_DEADLINE_EXCEEDED : grpc_code_of(status);
}

static void carry_reply(struct call *call, uint32_t n_iov, bool borrows) {
  struct exchange *exchange = take_exchange(call);
  struct reply reply = grpc_head;
  reply.body = call->iov + 1;
  reply.n_body = n_iov;
  reply.unshared = !borrows;
  reply.trailers = &grpc_ok;
  reply.n_trailers = 1;
  reply.done = inference_reply_sent;
  reply.owner = call;
  exchange_reply(exchange, &reply);
}

static void carry_error(struct call *call, mu_status status, const char *message) {
  grpc_reply_error(call, grpc_code_for(call, status), message);
}

static void pause_reading(struct call *call) { exchange_pause(call->exchange); }
static void resume_reading(struct call *call) { exchange_resume(call->exchange); }

static const struct carrier carrier_grpc = {.reply = carry_reply,
                                            .error = carry_error,
                                            .pause = pause_reading,
                                            .resume = resume_reading,
                                            .trace_names = &trace_names_grpc};

/* ---- the message of a unary call --------------------------------------------------------------------------------- */

static void fail(struct call *call, mu_status status, const char *message) {
  if (call->method == GRPC_MODEL_INFER) {
    inference_fail(call, status, message);
    return;
  }
  grpc_reply_error(call, grpc_code_for(call, status), message);
  call_free(call);
}

static bool message_begin(void *context, uint64_t size) {
  struct call *call = context;
  if (call->n_messages++ > 0) {
    fail(call, MU_INVALID, "the call has more than one message");
    return false;
  }
  call->message_size = size;
  if (call->method == GRPC_MODEL_INFER)
    inference_begin(call);
  else
    call->text_size = size;
  return true;
}

static bool message_data(void *context, const uint8_t *data, size_t size) {
  struct call *call = context;
  if (call->method == GRPC_MODEL_INFER) return inference_body(call, data, size);
  mu_error err;
  mu_status status = inference_stage(call, data, size, &err);
  if (status != MU_OK) fail(call, status, err.message);
  return status == MU_OK;
}

static bool message_end(void *context) { return true; } /* whether it was the only one tells the end of the call */

static void on_body(struct exchange *exchange, const uint8_t *data, size_t size) {
  static const struct grpc_inbox_events events = {message_begin, message_data, message_end};
  struct call *call = exchange->user;
  mu_error err;
  mu_status status = grpc_inbox_feed(&call->inbox, &data, &size, &call->loop->scratch, &events, call, &err);
  if (status != MU_OK) fail(call, status, err.message);
}

static void on_end(struct exchange *exchange) {
  struct call *call = exchange->user;
  mu_error err;
  mu_status status = grpc_inbox_finish(&call->inbox, &err);
  if (status == MU_OK && call->n_messages == 0) status = mu_fail(&err, MU_INVALID, "the call ends without a message");
  if (status != MU_OK)
    fail(call, status, err.message);
  else if (call->method == GRPC_MODEL_INFER)
    inference_end(call);
  else
    grpc_endpoint_answer(call);
}

static void on_gone(struct exchange *exchange) {
  struct call *call = exchange->user;
  if (call->method == GRPC_MODEL_INFER) {
    inference_gone(call);
    return;
  }
  call->exchange = NULL;
  call_free(call);
}

/* ---- beginning --------------------------------------------------------------------------------------------------- */

static bool has_type(const struct exchange *exchange) {
  const char *type = exchange->headers[HEADER_CONTENT_TYPE];
  enum { SIZE = sizeof CONTENT_TYPE - 1 };
  return type != NULL && strncasecmp(type, CONTENT_TYPE, SIZE) == 0 &&
         (type[SIZE] == '\0' || type[SIZE] == '+' || type[SIZE] == ';' || type[SIZE] == ' ');
}

bool grpc_is_call(const struct exchange *exchange) {
  enum grpc_method method;
  return has_type(exchange) || grpc_method_find(exchange->path, &method, NULL) == MU_OK;
}

/* What does not speak gRPC is told so in the words of HTTP. */
static bool refuse_http(struct call *call) {
  const struct exchange *exchange = call->exchange;
  call->route.allow = "POST";
  if (!has_type(exchange))
    call_reply_error(call, 415, "gRPC's methods take Content-Type: application/grpc");
  else if (!exchange->multiplexed)
    call_reply_error(call, 505, "gRPC needs HTTP/2: its status stands in trailers");
  else if (strcmp(exchange->method, "POST") != 0)
    call_reply_error(call, 405, "gRPC's methods take POST");
  return call->exchange == NULL;
}

static mu_status read_head(struct call *call, mu_error *err) {
  const struct exchange *exchange = call->exchange;
  const char *timeout = exchange->headers[HEADER_GRPC_TIMEOUT];
  enum content_coding coding;
  mu_status status = grpc_method_find(exchange->path, &call->method, err);
  if (status != MU_OK) return status;
  if (content_coding_parse(exchange->headers[HEADER_GRPC_ENCODING], &coding) != MU_OK)
    return mu_fail(err, MU_UNSUPPORTED, "the grpc-encoding '%.40s' is not served; identity, deflate and gzip are",
                   exchange->headers[HEADER_GRPC_ENCODING]);
  /* With its prefix, so that it is gRPC that refuses a message, and not HTTP its body. */
  uint64_t most = (uint64_t)call->loop->core->options->body_limit - GRPC_PREFIX_SIZE,
           limit = grpc_methods[call->method].request_limit;
  grpc_inbox_init(&call->inbox, coding, limit > 0 && limit < most ? limit : most);
  if (timeout == NULL) return MU_OK;
  uint64_t timeout_ns;
  status = grpc_timeout_parse(timeout, &timeout_ns, err);
  if (status == MU_OK) call->deadline_ns = time_add(exchange->received_ns, timeout_ns);
  return status;
}

void grpc_begin(struct call *call) {
  static const struct exchange_handler handler = {.body = on_body, .end = on_end, .gone = on_gone};
  mu_error err;
  call->handler = &handler;
  call->format = &format_protobuf;
  call->carrier = &carrier_grpc;
  call->text_size = UINT64_MAX;
  if (refuse_http(call)) {
    call_free(call);
    return;
  }
  mu_status status = read_head(call, &err);
  if (status != MU_OK) {
    grpc_reply_error(call, grpc_code_of(status), err.message);
    call_free(call);
    return;
  }
  if (!grpc_endpoint_allowed(call, &err)) {
    grpc_reply_error(call, GRPC_PERMISSION_DENIED, err.message);
    call_free(call);
    return;
  }
  const struct grpc_method_info *info = &grpc_methods[call->method];
  if (!info->client_streams && !info->server_streams) return;
  if (call->loop->ending) {
    grpc_reply_error(call, GRPC_UNAVAILABLE, "the server is going away: call again");
    call_free(call);
    return;
  }
  if (call->method == GRPC_MODEL_STREAM_INFER)
    grpc_stream_infer_begin(call);
  else
    grpc_talk_begin(call);
  call->exchange = NULL; /* it is the stream's, or answered */
  call_free(call);
}
