/*
 * An inference from its first byte to its reply: text -> request -> memory -> tensors -> scheduler -> results -> reply,
 * whatever its format and its carrier. Everything here runs on the loop of the connection.
 */
#include "base/log.h"
#include "gateway/call.h"

#include <stdlib.h>
#include <string.h>

enum {
  STAGED_FREE_BYTES = 64 * 1024, /* text up to here does not count against the memory budget ... */
  STAGED_FREE_OF_MANY = 4096,    /* ... where a connection may have very many calls, up to here */
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
  call->carrier->error(call, status, message);
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

mu_status inference_hold_model(struct call *call, mu_error *err) {
  const struct route *route = &call->route;
  call->model = core_hold_model(call->loop->core, route->model, route->version);
  if (call->model == NULL && route->version >= 0)
    return mu_fail(err, MU_NOT_FOUND, "Request for unknown model: '%s' version %lld is not found", route->model,
                   (long long)route->version);
  if (call->model == NULL)
    return mu_fail(err, MU_NOT_FOUND, "Request for unknown model: '%s' is not found", route->model);
  return MU_OK;
}

mu_status inference_find_model(struct call *call, mu_error *err) {
  mu_status status = inference_hold_model(call, err);
  if (status != MU_OK) return status;
  if (atomic_load_explicit(&call->loop->core->tracer.on, memory_order_relaxed)) trace_begin(call);
  return core_model_takes_requests(call->loop->core, call->model, err);
}

/* ---- memory and tensors ------------------------------------------------------------------------------------------ */

static uint64_t staged_free(const struct call *call) {
  return call->message != NULL || call->exchange->multiplexed ? STAGED_FREE_OF_MANY : STAGED_FREE_BYTES;
}

/* Keeps bytes for later, counted against the memory budget once they are many. */
mu_status inference_count_text(struct call *call, size_t size, mu_error *err) {
  uint64_t total = call->text.size + size, counted = call->text_staged + staged_free(call);
  if (total <= counted) return MU_OK;
  /* All of a known length at once, so that half-read bodies never wait for each other. */
  uint64_t known = call->text_size != UINT64_MAX ? call->text_size : total + total / 2;
  uint64_t more = (known > total ? known : total) - counted;
  if (!core_stage(call->loop->core, more))
    return mu_fail(err, MU_UNAVAILABLE, "no memory for a body of %llu bytes now (--memory-budget)",
                   (unsigned long long)known);
  call->text_staged += more;
  return MU_OK;
}

mu_status inference_stage(struct call *call, const void *data, size_t size, mu_error *err) {
  mu_status status = inference_count_text(call, size, err);
  if (status != MU_OK) return status;
  status = buffer_append(&call->text, data, size);
  if (status == MU_NO_MEMORY) return mu_fail(err, status, "no memory for the request's text");
  return status == MU_OK ? MU_OK : mu_fail(err, status, "the request's text does not fit --body-limit");
}

/* All that was to be had from the text is in the arena: a large one does not wait with its request for the reply. */
static void drop_text(struct call *call) {
  if (call->text_staged == 0) return;
  buffer_free(&call->text);
  core_unstage(call->loop->core, call->text_staged);
  call->text_staged = 0;
}

/* No memory now: what has been read is kept, and reading pauses. The call is in core.reserving. */
static mu_status wait_for_memory(struct call *call, const char *text, const uint8_t *rest, size_t rest_size,
                                 mu_error *err) {
  call->stage = CALL_RESERVING;
  mu_status status = MU_OK;
  if (text != call->text.data) status = inference_stage(call, text, (size_t)call->text_size, err);
  if (status == MU_OK && !call->rest_staged) status = inference_stage(call, rest, rest_size, err);
  if (status == MU_OK) call->carrier->pause(call);
  return status;
}

/* Memory is there: what is here goes into it. */
static mu_status use_memory(struct call *call, const char *text, const uint8_t *rest, size_t rest_size, mu_error *err) {
  call->stage = CALL_TENSORS;
  mu_status status = call->format->fill(call, text, err);
  if (status == MU_OK) status = call_read_regions(call, err);
  if (status == MU_OK) status = call->format->tensors(call, rest, rest_size, err);
  if (status == MU_OK && !call->format->keeps_text) drop_text(call);
  return status;
}

mu_status inference_reserve(struct call *call, const char *text, const uint8_t *rest, size_t rest_size, mu_error *err) {
  mu_status status = call_hold_regions(call, err);
  if (status != MU_OK) return status;
  status = core_reserve(call->loop->core, call, err);
  if (status == MU_UNAVAILABLE) return wait_for_memory(call, text, rest, rest_size, err);
  return status == MU_OK ? use_memory(call, text, rest, rest_size, err) : status;
}

/* All bytes are here. On success the call may be answered and gone already. */
static mu_status submit(struct call *call, mu_error *err) {
  mu_status status = call->format->complete(call, err);
  if (status != MU_OK) return status;
  if (call->format->keeps_text) drop_text(call);
  call->stage = CALL_QUEUED;
  return core_submit(call->loop->core, call, err);
}

/* The message has ended. As submit, where it waits for nothing any more. */
static mu_status end_message(struct call *call, mu_error *err) {
  mu_status status = call->stage == CALL_TEXT ? call->format->text_end(call, err) : MU_OK;
  return status == MU_OK && call->stage == CALL_TENSORS ? submit(call, err) : status;
}

/* ---- the message's events ---------------------------------------------------------------------------------------- */

/* A call in line for memory whose event is on its way already goes with that event. */
void inference_fail(struct call *call, mu_status status, const char *message) {
  if (call->stage == CALL_RESERVING && !core_forget_reserving(call->loop->core, call))
    refuse(call, status, message);
  else
    finish_with_error(call, status, message);
}

void inference_begin(struct call *call) {
  mu_error err;
  mu_status status = MU_OK;
  if (call->raw && call->message_size != UINT64_MAX) /* nothing has to come before its memory can be taken */
    status = call->format->text(call, NULL, 0, &err);
  if (status != MU_OK) inference_fail(call, status, err.message);
}

bool inference_body(struct call *call, const uint8_t *data, size_t size) {
  mu_error err;
  mu_status status = MU_OK;
  if (call->stage == CALL_TEXT)
    status = call->format->text(call, data, size, &err);
  else if (call->stage == CALL_RESERVING)
    status = inference_stage(call, data, size, &err);
  else
    status = call->format->tensors(call, data, size, &err);
  if (status != MU_OK) inference_fail(call, status, err.message);
  return status == MU_OK;
}

void inference_end(struct call *call) {
  mu_error err;
  call->body_ended = true;
  if (call->trace != NULL) call->trace->ns[TRACE_RECV_END] = clock_now_ns();
  mu_status status = end_message(call, &err);
  if (status != MU_OK) inference_fail(call, status, err.message);
}

bool inference_window(struct call *call, uint8_t **ret_data, size_t *ret_size) {
  return call->stage == CALL_TENSORS && call->format->window != NULL && call->format->window(call, ret_data, ret_size);
}

void inference_gone(struct call *call) {
  struct core *core = call->loop->core;
  call->exchange = NULL;
  if (call->stage == CALL_RESERVING && !core_forget_reserving(core, call)) return; /* goes with its event */
  if (call->stage == CALL_QUEUED) {
    count_failure(call, MU_CANCELED);
    if (!core_cancel(core, call)) return; /* goes with its batch */
  }
  core_drop_inputs(core, call);
  call_free(call);
}

static bool take_back(struct call *call) {
  struct core *core = call->loop->core;
  if (call->stage == CALL_RESERVING) return call->body_ended && core_forget_reserving(core, call);
  return call->stage == CALL_QUEUED && core_withdraw(core, call);
}

bool inference_withdraw(struct call *call, mu_status status, const char *message) {
  if (!take_back(call)) return false;
  finish_with_error(call, status, message);
  return true;
}

/* ---- replies ----------------------------------------------------------------------------------------------------- */

void inference_reply_sent(void *owner) {
  struct call *call = owner;
  core_drop_block(call->loop->core, call);
  call_free(call);
}

mu_status inference_reserve_iov(struct call *call, uint32_t n, mu_error *err) {
  if (n <= call->iov_capacity) return MU_OK;
  struct iovec *bigger = reallocarray(call->iov, n, sizeof *bigger);
  if (bigger == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the reply");
  call->iov = bigger;
  call->iov_capacity = n;
  return MU_OK;
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

static void reply_results(struct call *call) {
  mu_error err;
  uint32_t n_iov = 0;
  bool borrows = false;
  buffer_clear(&call->reply);
  mu_status status = call_write_regions(call, &err);
  if (status == MU_OK) status = call->format->render(call, &n_iov, &borrows, &err);
  if (status == MU_OK) status = hold_reply(call, &err);
  if (status != MU_OK) {
    finish_with_error(call, status, err.message);
    return;
  }
  model_stats_success(call->model->model.stats, call->request.rows, call->job.dispatched_ns - call->job.submitted_ns,
                      clock_now_ns() - call->request.received_ns);
  if (!borrows) core_drop_block(call->loop->core, call); /* all of it is text now */
  LOG_VERBOSE("request answered", LOG_INT("request", call->exchange->serial), LOG_STR("id", call->request.id),
              LOG_STR("model", call->model->model.name), LOG_INT("rows", call->request.rows),
              LOG_INT("us", (clock_now_ns() - call->request.received_ns) / NS_PER_US));
  if (call->trace != NULL) call->trace->ns[TRACE_REQUEST_END] = call->trace->ns[TRACE_SEND_START] = clock_now_ns();
  call->stage = CALL_ANSWERED;
  call->carrier->reply(call, n_iov, borrows); /* the call is gone when its memory is not needed, which may be now */
}

/* ---- events from the scheduler's side ---------------------------------------------------------------------------- */

/* What came while the call waited stands behind its text, and is fed from there; from a copy where the format still
 * writes into its text. */
static mu_status use_kept(struct call *call, mu_error *err) {
  size_t text_size = (size_t)call->text_size, rest_size = call->text.size - text_size;
  const char *text = call->text.data != NULL ? call->text.data : "";
  if (!call->format->keeps_text || rest_size == 0)
    return use_memory(call, text, (const uint8_t *)text + text_size, rest_size, err);
  uint8_t *rest = malloc(rest_size);
  if (rest == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the request's tensors");
  memcpy(rest, text + text_size, rest_size);
  call->text.size = text_size;
  mu_status status = use_memory(call, text, rest, rest_size, err);
  free(rest);
  return status;
}

/* Input memory is there: what was kept is used, then reading goes on. */
static mu_status resume(struct call *call, mu_error *err) {
  mu_status status = use_kept(call, err);
  if (status != MU_OK) return status;
  call->carrier->resume(call);
  return call->body_ended ? end_message(call, err) : MU_OK;
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
