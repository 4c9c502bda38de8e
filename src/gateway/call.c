#include "gateway/grpc.h"

#include "base/log.h"
#include "gateway/admin.h"
#include "gateway/model_control.h"
#include "gateway/websocket.h"
#include "proto/json/json_reader.h"

#include <stdlib.h>
#include <string.h>

enum { FREE_CALLS_MAX = 1024 };

/* ---- the loop's free list: a warm call costs no allocation ------------------------------------------------------- */

static void run_posted(struct net_post *post) { call_handle_events(list_item(post, struct call, post)); }

struct call *call_create(struct gateway_loop *loop, struct exchange *exchange) {
  struct list *link = list_pop_front(&loop->free_calls);
  struct call *call;
  if (link != NULL) {
    call = list_item(link, struct call, link);
    loop->n_free_calls--;
  } else {
    call = calloc(1, sizeof *call);
    if (call == NULL) return NULL;
    list_init(&call->link);
    buffer_init(&call->text, (size_t)loop->core->options->body_limit);
    buffer_init(&call->reply, CALL_REPLY_MAX);
    call->post.run = run_posted;
    call->loop = loop;
  }
  call->exchange = exchange;
  call->stage = CALL_TEXT;
  return call;
}

static void call_destroy(struct call *call) {
  request_free(&call->request);
  buffer_free(&call->text);
  buffer_free(&call->reply);
  free(call->results);
  free(call->iov);
  free(call);
}

/* What one large request needed is not kept for the next thousand small ones. */
static void trim(struct buffer *buffer) {
  enum { KEEP_BYTES = 64 * 1024 };
  if (buffer->capacity > KEEP_BYTES)
    buffer_free(buffer);
  else
    buffer_clear(buffer);
}

void call_free(struct call *call) {
  struct gateway_loop *loop = call->loop;
  core_unstage(loop->core, call->text_staged);
  core_let_go(loop->core, call->reply_held);
  if (call->trace != NULL) trace_end(call);
  if (call->model != NULL) core_release_model(call->model);
  grpc_inbox_free(&call->inbox);
  call_release_regions(call);
  model_control_forget(call->control);
  if (loop->n_free_calls == FREE_CALLS_MAX) {
    call_destroy(call);
    return;
  }
  trim(&call->text);
  trim(&call->reply);
  request_clear(&call->request);
  memset((void *)call, 0, offsetof(struct call, loop));
  list_push_front(&loop->free_calls, &call->link);
  loop->n_free_calls++;
}

/* ---- answers that are errors ------------------------------------------------------------------------------------- */

void call_reply_error(struct call *call, int code, const char *message) {
  struct exchange *exchange = call->exchange;
  if (exchange == NULL) return;
  call->exchange = NULL;
  call->stage = CALL_ANSWERED;
  const char *id = exchange->headers[HEADER_REQUEST_ID] != NULL ? exchange->headers[HEADER_REQUEST_ID] : "";
  LOG_VERBOSE("request refused", LOG_INT("request", exchange->serial),
              LOG_STR("id", call->request.id[0] != '\0' ? call->request.id : id), LOG_STR("path", exchange->path),
              LOG_INT("code", code), LOG_STR("error", message));
  buffer_clear(&call->reply);
  buffer_puts(&call->reply, "{\"error\":");
  json_write_string(&call->reply, message, strlen(message));
  buffer_puts(&call->reply, "}");
  struct header header = {"Retry-After", "1"};
  if (code == 405) header = (struct header){"Allow", call->route.allow};
  static char no_memory[] = "{\"error\":\"out of memory\"}";
  struct iovec body = {call->reply.data, call->reply.size};
  if (call->reply.failed) body = (struct iovec){no_memory, sizeof no_memory - 1};
  struct reply reply = {.status = code,
                        .content_type = "application/json",
                        .headers = &header,
                        .n_headers = code == 503 || code == 429 || code == 405,
                        .body = &body,
                        .n_body = 1};
  exchange_reply(exchange, &reply); /* without `done`: what is not written at once is copied */
}

/* ---- the service ------------------------------------------------------------------------------------------------- */

/* None of the documents but one takes more: models may come with a load. */
enum { SMALL_BODY = 64 * 1024 };

static void document_body(struct exchange *exchange, const uint8_t *data, size_t size) {
  struct call *call = exchange->user;
  bool large = call->text.size + size > SMALL_BODY;
  bool too_large = large && call->route.endpoint != ENDPOINT_MODEL_LOAD;
  bool staged = !large || too_large || core_stage(call->loop->core, size);
  if (large && !too_large && staged) call->text_staged += size;
  if (!too_large && staged && buffer_append(&call->text, data, size) == MU_OK) return;
  if (too_large)
    call_reply_error(call, http_status_of(MU_TOO_LARGE), "the body is too large for this endpoint");
  else
    call_reply_error(call, http_status_of(MU_NO_MEMORY), "no memory for the body");
  call_free(call);
}

static void document_end(struct exchange *exchange) {
  struct call *call = exchange->user;
  endpoint_answer(call);
  if (call->exchange == NULL) call_free(call);
}

static void document_gone(struct exchange *exchange) { call_free(exchange->user); }

/* Collects the body; answered at its end. */
static void document_begin(struct call *call) {
  static const struct exchange_handler handler = {.body = document_body, .end = document_end, .gone = document_gone};
  call->handler = &handler;
}

static void begin(void *context, struct exchange *exchange) {
  struct gateway_loop *loop = context;
  struct call *call = call_create(loop, exchange);
  exchange->user = call;
  if (call == NULL) {
    exchange_reply_error(exchange, 503, "no memory for the request");
    return;
  }
  call->request.received_ns = exchange->received_ns;
  if (grpc_is_call(exchange)) {
    grpc_begin(call);
    return;
  }
  mu_error err;
  mu_status status = route_find(exchange->method, exchange->path, &call->route, &err);
  if (status == MU_OK && call->route.guarded && !gateway_admin_allowed(call, &err)) {
    call_reply_error(call, 403, err.message);
    call_free(call);
    return;
  }
  if (status == MU_OK && call->route.endpoint == ENDPOINT_MODEL_INFER) {
    http_inference_begin(call);
    return;
  }
  if (status == MU_OK && call->route.endpoint == ENDPOINT_STREAM) {
    websocket_begin(call);
    return;
  }
  if (status == MU_OK) {
    document_begin(call);
    return;
  }
  /* 405 is the one code that no status of muster's own stands for: the path is there, the method is not. */
  call_reply_error(call, call->route.allow != NULL ? 405 : http_status_of(status), err.message);
  call_free(call);
}

static const struct exchange_handler *handler_of(const struct exchange *exchange) {
  return *(const struct exchange_handler *const *)exchange->user;
}

static void body(void *context, struct exchange *exchange, const uint8_t *data, size_t size) {
  handler_of(exchange)->body(exchange, data, size);
}

static void end(void *context, struct exchange *exchange) { handler_of(exchange)->end(exchange); }

static void gone(void *context, struct exchange *exchange) { handler_of(exchange)->gone(exchange); }

static bool window(void *context, struct exchange *exchange, uint8_t **ret_data, size_t *ret_size) {
  const struct exchange_handler *handler = handler_of(exchange);
  return handler->window != NULL && handler->window(exchange, ret_data, ret_size);
}

static void writable(void *context, struct exchange *exchange) {
  const struct exchange_handler *handler = handler_of(exchange);
  if (handler->writable != NULL) handler->writable(exchange);
}

static bool hold(void *context, uint64_t bytes) {
  const struct gateway_loop *loop = context;
  return core_hold(loop->core, bytes);
}

static void let_go(void *context, uint64_t bytes) {
  const struct gateway_loop *loop = context;
  core_let_go(loop->core, bytes);
}

const struct service gateway_service = {
    .begin = begin,
    .body = body,
    .end = end,
    .gone = gone,
    .window = window,
    .hold = hold,
    .let_go = let_go,
    .writable = writable,
};

void call_handle_events(struct call *call) { inference_handle_events(call, atomic_exchange(&call->events, 0)); }
