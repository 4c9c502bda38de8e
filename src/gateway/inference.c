/*
 * POST …/infer from its first byte to its reply: text -> request -> memory -> tensors -> scheduler -> results -> reply.
 * Everything here runs on the loop of the connection.
 */
#include "base/log.h"
#include "gateway/call.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
  DIRECT_READ_BYTES = 16 * 1024, /* what is left of a tensor from here on is read by the kernel into its place */
  STAGED_FREE_BYTES = 64 * 1024, /* text up to here does not count against the memory budget */
  REPLY_FREE_BYTES = 16 * 1024,  /* nor does text of a reply up to here */
};

/* ---- the end of a call ------------------------------------------------------------------------------------------- */

static const struct {
  mu_status status;
  enum failure_reason reason;
} failure_reasons[] = {
    {MU_UNAVAILABLE, FAILURE_REJECTED}, {MU_TIMEOUT, FAILURE_REJECTED}, /* as Triton counts what the scheduler gives up
                                                                         */
    {MU_CANCELED, FAILURE_CANCELED},    {MU_INTERNAL, FAILURE_BACKEND}, {MU_IO, FAILURE_BACKEND},
};

static void count_failure(const struct call *call, mu_status status) {
  if (call->model == NULL) return;
  enum failure_reason reason = FAILURE_OTHER;
  for (size_t i = 0; i < sizeof failure_reasons / sizeof *failure_reasons; i++)
    if (failure_reasons[i].status == status) reason = failure_reasons[i].reason;
  model_stats_failure(call->model->model.stats, reason, clock_now_ns() - call->request.received_ns);
}

/* Answers with an error; the call stays (the scheduler may still have it). Nothing happens when it is answered already
 * or the client has left. */
static void refuse(struct call *call, mu_status status, const char *message) {
  if (call->exchange == NULL) return;
  count_failure(call, status);
  call_reply_error(call, http_status_of(status), message);
}

/* Answers with an error; the call and what it holds go. It is not with the scheduler. */
static void finish_with_error(struct call *call, mu_status status, const char *message) {
  struct core *core = call->loop->core;
  refuse(call, status, message);
  core_drop_block(core, call);
  core_drop_inputs(core, call);
  call_free(call);
}

/* ---- beginning --------------------------------------------------------------------------------------------------- */

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

static mu_status find_model(struct call *call, mu_error *err) {
  const struct route *route = &call->route;
  call->model = core_hold_model(call->loop->core, route->model, route->version);
  if (call->model == NULL && route->version >= 0)
    return mu_fail(err, MU_NOT_FOUND, "Request for unknown model: '%s' version %lld is not found", route->model,
                   (long long)route->version);
  if (call->model == NULL)
    return mu_fail(err, MU_NOT_FOUND, "Request for unknown model: '%s' is not found", route->model);
  return core_model_takes_requests(call->loop->core, call->model, err);
}

/* Where the JSON part ends. */
static mu_status find_text_size(struct call *call, mu_error *err) {
  const struct exchange *exchange = call->exchange;
  const char *header = exchange->headers[HEADER_INFERENCE_HEADER_CONTENT_LENGTH];
  uint64_t body = exchange->encoded ? UINT64_MAX : exchange->content_length;
  call->text_size = body;
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

/* ---- memory and tensors ------------------------------------------------------------------------------------------ */

/* Keeps bytes for later, counted against the memory budget once they are many. */
static mu_status stage(struct call *call, const void *data, size_t size, mu_error *err) {
  uint64_t total = call->text.size + size, counted = call->text_staged + STAGED_FREE_BYTES;
  if (total > counted) {
    /* All of a known length at once, so that half-read bodies never wait for each other. */
    uint64_t known = call->text_size != UINT64_MAX ? call->text_size : total + total / 2;
    uint64_t more = (known > total ? known : total) - counted;
    if (!core_stage(call->loop->core, more))
      return mu_fail(err, MU_UNAVAILABLE, "no memory for a body of %llu bytes now (--memory-budget)",
                     (unsigned long long)known);
    call->text_staged += more;
  }
  mu_status status = buffer_append(&call->text, data, size);
  if (status == MU_NO_MEMORY) return mu_fail(err, status, "no memory for the request's JSON");
  return status == MU_OK ? MU_OK : mu_fail(err, status, "the request's JSON does not fit --body-limit");
}

/* Inputs whose bytes follow the JSON part, in their order there. */
static void order_binary_inputs(struct call *call) {
  const struct request *request = &call->request;
  call->n_order = 0;
  for (uint32_t i = 0; i < request->n_inputs; i++) {
    if (request->inputs[i].source != INPUT_BINARY) continue;
    uint32_t at = call->n_order++;
    for (; at > 0 && request->inputs[call->order[at - 1]].source_at > request->inputs[i].source_at; at--)
      call->order[at] = call->order[at - 1];
    call->order[at] = i;
  }
}

/* The input whose bytes come next, or NULL when all have come. */
static struct request_input *next_input(struct call *call) {
  while (call->filling < call->n_order) {
    struct request_input *input = &call->request.inputs[call->order[call->filling]];
    if (call->filling_at < input->size) return input;
    call->filling++;
    call->filling_at = 0;
  }
  return NULL;
}

static mu_status stage_bytes(struct call *call, const uint8_t *data, size_t size, mu_error *err) {
  return stage(call, data, size, err);
}

static mu_status feed_tensors(struct call *call, const uint8_t *data, size_t size, mu_error *err) {
  call->binary_at += size;
  while (size > 0) {
    struct request_input *input = next_input(call);
    if (input == NULL)
      return mu_fail(err, MU_INVALID, "the body goes on after the %llu bytes that its inputs claim",
                     (unsigned long long)call->request.binary_bytes);
    uint64_t left = input->size - call->filling_at;
    size_t part = size < left ? size : (size_t)left;
    uint8_t *place = input->data + call->filling_at;
    if (place != data) memcpy(place, data, part); /* a direct read has put it there already */
    call->filling_at += part;
    data += part;
    size -= part;
  }
  return MU_OK;
}

/* All that was to be had from the text is in the arena: a large one does not wait with its request for the reply. */
static void drop_text(struct call *call) {
  if (call->text_staged == 0) return;
  buffer_free(&call->text);
  core_unstage(call->loop->core, call->text_staged);
  call->text_staged = 0;
}

/* Memory is there: the JSON's numbers are converted into it; then come the tensors. */
static mu_status fill_from_text(struct call *call, const char *text, mu_error *err) {
  call->stage = CALL_TENSORS;
  order_binary_inputs(call);
  /* only a raw body, which is one input, does not begin at the input's beginning */
  if (call->n_order > 0) call->filling_at = rest_infer_binary_start(&call->request.inputs[call->order[0]]);
  return rest_infer_read_json(&call->model->model, text, (size_t)call->text_size, &call->request, err);
}

/* No memory now: what has been read is kept, and reading pauses. The call is in core.reserving. */
static mu_status wait_for_memory(struct call *call, const char *text, const uint8_t *rest, size_t rest_size,
                                 mu_error *err) {
  call->stage = CALL_RESERVING;
  mu_status status = MU_OK;
  if (text != call->text.data) status = stage(call, text, (size_t)call->text_size, err);
  if (status == MU_OK && !call->rest_staged) status = stage(call, rest, rest_size, err);
  if (status == MU_OK && !call->body_ended) exchange_pause(call->exchange);
  return status;
}

/*
 * The JSON part is complete: call->text_size bytes at text. rest: bytes behind it that are here already. binary_bytes:
 * all that there will be, UINT64_MAX while nobody can say.
 */
static mu_status text_complete(struct call *call, const char *text, const uint8_t *rest, size_t rest_size,
                               uint64_t binary_bytes, mu_error *err) {
  const struct model *model = &call->model->model;
  mu_status status = call->raw
                         ? rest_infer_raw(model, binary_bytes, &call->request, err)
                         : rest_infer_parse(model, text, (size_t)call->text_size, binary_bytes, &call->request, err);
  if (status != MU_OK) return status;
  status = core_reserve(call->loop->core, call, err);
  if (status == MU_UNAVAILABLE) return wait_for_memory(call, text, rest, rest_size, err);
  if (status == MU_OK) status = fill_from_text(call, text, err);
  if (status == MU_OK) status = feed_tensors(call, rest, rest_size, err);
  if (status == MU_OK) drop_text(call);
  return status;
}

/* All bytes are here. On success the call may be answered and gone already. */
static mu_status submit(struct call *call, mu_error *err) {
  if (call->binary_at != call->request.binary_bytes)
    return mu_fail(err, MU_INVALID, "the body ends after %llu of the %llu bytes that its inputs claim",
                   (unsigned long long)call->binary_at, (unsigned long long)call->request.binary_bytes);
  mu_status status = rest_infer_check_binary(&call->model->model, &call->request, err);
  if (status != MU_OK) return status;
  call->stage = CALL_QUEUED;
  return core_submit(call->loop->core, call, err);
}

/* ---- the exchange's events --------------------------------------------------------------------------------------- */

/* Ends a call that failed on the way in. A call in line for memory whose event is on its way already goes with that
 * event. */
static void fail(struct call *call, mu_status status, const char *message) {
  if (call->stage == CALL_RESERVING && !core_forget_reserving(call->loop->core, call))
    refuse(call, status, message);
  else
    finish_with_error(call, status, message);
}

void inference_begin(struct call *call) {
  mu_error err;
  mu_status status = find_model(call, &err);
  if (status == MU_OK) status = find_text_size(call, &err);
  if (status == MU_OK && call->raw && call->text_size != UINT64_MAX) { /* the size alone describes it */
    uint64_t size = call->text_size;
    call->text_size = 0;
    status = text_complete(call, call->text.data, NULL, 0, size, &err);
  }
  if (status != MU_OK) fail(call, status, err.message);
}

/* Bytes after the JSON part; UINT64_MAX while nobody can say. */
static uint64_t binary_size(const struct call *call) {
  const struct exchange *exchange = call->exchange;
  if (exchange->encoded || exchange->content_length == UINT64_MAX) return UINT64_MAX;
  return exchange->content_length - call->text_size;
}

static mu_status take_text(struct call *call, const uint8_t *data, size_t size, mu_error *err) {
  uint64_t missing = call->text_size - call->text.size;
  size_t part = size < missing ? size : (size_t)missing;
  const char *text = (const char *)data; /* parsed in place where one read brought all of it */
  if (call->text.size > 0 || part < missing) {
    mu_status status = stage(call, data, part, err);
    if (status != MU_OK || part < missing) return status;
    text = call->text.data;
  }
  return text_complete(call, text, data + part, size - part, binary_size(call), err);
}

void inference_body(struct call *call, const uint8_t *data, size_t size) {
  static mu_status (*const takers[])(struct call *, const uint8_t *, size_t, mu_error *) = {
      [CALL_TEXT] = take_text,
      [CALL_RESERVING] = stage_bytes,
      [CALL_TENSORS] = feed_tensors,
  };
  mu_error err;
  mu_status status = takers[call->stage](call, data, size, &err);
  if (status != MU_OK) fail(call, status, err.message);
}

/* The end of a body that is empty, or whose length nobody had said: its text is what has been staged. */
static mu_status take_end(struct call *call, mu_error *err) {
  if (call->text_size != UINT64_MAX && call->text_size > call->text.size)
    return mu_fail(err, MU_INVALID, "the body ends before its Inference-Header-Content-Length of %llu bytes",
                   (unsigned long long)call->text_size);
  size_t size = call->text.size;
  call->text_size = call->raw ? 0 : size;
  call->rest_staged = true;
  const char *text = call->text.data != NULL ? call->text.data : "";
  return call->raw ? text_complete(call, text, (const uint8_t *)text, size, size, err)
                   : text_complete(call, text, NULL, 0, 0, err);
}

void inference_end(struct call *call) {
  mu_error err;
  mu_status status = MU_OK;
  call->body_ended = true;
  if (call->stage == CALL_TEXT) status = take_end(call, &err);
  if (status == MU_OK && call->stage == CALL_TENSORS) status = submit(call, &err);
  if (status != MU_OK) fail(call, status, err.message);
}

bool inference_window(struct call *call, uint8_t **ret_data, size_t *ret_size) {
  if (call->stage != CALL_TENSORS) return false;
  struct request_input *input = next_input(call);
  if (input == NULL || input->size - call->filling_at < DIRECT_READ_BYTES) return false;
  *ret_data = input->data + call->filling_at;
  *ret_size = (size_t)(input->size - call->filling_at);
  return true;
}

void inference_gone(struct call *call) {
  struct core *core = call->loop->core;
  if (call->stage == CALL_RESERVING && !core_forget_reserving(core, call)) return; /* goes with its event */
  if (call->stage == CALL_QUEUED) {
    count_failure(call, MU_CANCELED);
    if (!core_cancel(core, call)) return; /* goes with its batch */
  }
  core_drop_inputs(core, call);
  call_free(call);
}

/* ---- replies ----------------------------------------------------------------------------------------------------- */

static void reply_sent(void *owner) {
  struct call *call = owner;
  core_drop_block(call->loop->core, call);
  call_free(call);
}

static bool reserve_iov(struct call *call, uint32_t n) {
  if (n <= call->iov_capacity) return true;
  struct iovec *bigger = reallocarray(call->iov, n, sizeof *bigger);
  if (bigger == NULL) return false;
  call->iov = bigger;
  call->iov_capacity = n;
  return true;
}

/* The text of a reply may wait long for its client: it counts against the memory budget. */
static mu_status hold_reply(struct call *call, mu_error *err) {
  struct core *core = call->loop->core;
  if (call->reply.size <= REPLY_FREE_BYTES) return MU_OK;
  uint64_t size = call->reply.capacity, limit = core->reply_budget.limit;
  if (limit > 0 && size - REPLY_FREE_BYTES > limit)
    return mu_fail(err, MU_TOO_LARGE, "a reply of %llu bytes of text does not fit --memory-budget; ask for binary data",
                   (unsigned long long)call->reply.size);
  if (!core_hold(core, size - REPLY_FREE_BYTES))
    return mu_fail(err, MU_UNAVAILABLE, "no memory for a reply of %llu bytes now (--memory-budget)",
                   (unsigned long long)call->reply.size);
  call->reply_held = size - REPLY_FREE_BYTES;
  return MU_OK;
}

static mu_status render(struct call *call, uint32_t *ret_n_binary, mu_error *err) {
  if (!reserve_iov(call, call->n_results + 1)) return mu_fail(err, MU_NO_MEMORY, "no memory for the reply");
  buffer_clear(&call->reply);
  mu_status status = rest_infer_render(&call->model->model, &call->request, call->results, call->n_results,
                                       &call->reply, call->iov + 1, ret_n_binary, err);
  return status == MU_OK ? hold_reply(call, err) : status;
}

static void reply_results(struct call *call) {
  mu_error err;
  uint32_t n_binary = 0;
  mu_status status = render(call, &n_binary, &err);
  if (status != MU_OK) {
    finish_with_error(call, status, err.message);
    return;
  }
  model_stats_success(call->model->model.stats, call->request.rows, call->job.dispatched_ns - call->job.submitted_ns,
                      clock_now_ns() - call->request.received_ns);
  struct core *core = call->loop->core;
  if (n_binary == 0) core_drop_block(core, call); /* all of it is text now */
  char length[24];
  snprintf(length, sizeof length, "%zu", call->reply.size);
  struct header header = {"Inference-Header-Content-Length", length};
  call->iov[0] = (struct iovec){call->reply.data, call->reply.size};
  struct reply reply = {.status = 200,
                        .content_type = n_binary > 0 ? "application/octet-stream" : "application/json",
                        .headers = &header,
                        .n_headers = n_binary > 0,
                        .body = call->iov,
                        .n_body = n_binary + 1,
                        .compressible = true,
                        .unshared = n_binary == 0,
                        .done = reply_sent,
                        .owner = call};
  struct exchange *exchange = call->exchange;
  LOG_VERBOSE("request answered", LOG_INT("request", exchange->serial), LOG_STR("id", call->request.id),
              LOG_STR("model", call->model->model.name), LOG_INT("rows", call->request.rows),
              LOG_INT("us", (clock_now_ns() - call->request.received_ns) / NS_PER_US));
  call->exchange = NULL;
  call->stage = CALL_ANSWERED;
  exchange_reply(exchange, &reply); /* the call is gone when reply_sent has run, which may be now */
}

/* ---- events from the scheduler's side ---------------------------------------------------------------------------- */

/* Input memory is there: what was kept is used, then reading goes on. */
static mu_status resume(struct call *call, mu_error *err) {
  const char *text = call->text.data != NULL ? call->text.data : "";
  mu_status status = fill_from_text(call, text, err);
  if (status == MU_OK)
    status =
        feed_tensors(call, (const uint8_t *)text + call->text_size, call->text.size - (size_t)call->text_size, err);
  if (status != MU_OK) return status;
  drop_text(call);
  if (call->body_ended) return submit(call, err);
  exchange_resume(call->exchange);
  return MU_OK;
}

static void handle_reserved(struct call *call) {
  mu_error err;
  if (call->exchange == NULL) {
    core_drop_inputs(call->loop->core, call);
    call_free(call);
    return;
  }
  mu_status status = resume(call, &err);
  if (status != MU_OK) finish_with_error(call, status, err.message);
}

static void handle_refused(struct call *call) { finish_with_error(call, call->status, call->error.message); }

static void handle_done(struct call *call) {
  if (call->exchange != NULL && call->status == MU_OK) {
    reply_results(call);
    return;
  }
  refuse(call, call->status, call->error.message);
  core_drop_block(call->loop->core, call);
  call_free(call);
}

static void handle_late(struct call *call) {
  refuse(call, MU_TIMEOUT, "the request's timeout passed while it was being executed");
}

void inference_handle_events(struct call *call, unsigned events) {
  static const struct {
    enum call_event event;
    void (*handle)(struct call *);
  } handlers[] = {
      {CALL_LATE, handle_late},
      {CALL_RESERVED, handle_reserved},
      {CALL_REFUSED, handle_refused},
      {CALL_DONE, handle_done},
  };
  /* LATE alone can be joined by another, DONE. Results that came meanwhile are answered; but that the run was stopped,
   * because nobody waited for it any more, is no news for the client. */
  if (events & CALL_DONE && call->status == MU_OK) events = CALL_DONE;
  if (events == (CALL_LATE | CALL_DONE)) {
    handle_late(call);
    events = CALL_DONE;
  }
  for (size_t i = 0; i < sizeof handlers / sizeof *handlers; i++)
    if (events & handlers[i].event) {
      handlers[i].handle(call);
      return;
    }
}
