#include "gateway/stream.h"

#include <stdlib.h>

const char stream_dropped_late[] = "late", stream_dropped_older[] = "older";

enum {
  LOOK_MOST_MS = 10 * 1000,    /* between two looks at messages that are on their way */
  LEAST_RATE = 1024,           /* bytes a second that such a message must bring */
  KEPT_FREE_BYTES = 16 * 1024, /* of an answer that waits for its turn: up to here they are not counted */
  KEPT_BUFFER_BYTES = 4096,    /* of memory that a message leaves to the next one */
};

/* A message from its beginning until its answer has left, or is the call's own to send. */
struct stream_message {
  struct list link; /* stream.messages, stream.spare, or none while `bytes` are on their way */
  struct stream *stream;
  struct call *call;   /* NULL: answered */
  bool waiting;        /* for input memory */
  bool ready;          /* `bytes` is the answer, and it is not its turn yet */
  struct buffer bytes; /* an answer that does not stand in the call's memory */
  uint64_t held;       /* of them, by the memory budget */
};

/* ---- the streams of a loop --------------------------------------------------------------------------------------- */

/* As patient as with a request's head, or with its body where that is less. */
static uint64_t look_ms(const struct gateway_loop *loop) {
  uint64_t head_ms = (uint64_t)loop->core->options->head_timeout_ns / NS_PER_MS;
  return head_ms < LOOK_MOST_MS ? head_ms : LOOK_MOST_MS;
}

/* A message that was on its way all the time and has brought too little is refused. */
static void look(struct stream *s) {
  bool slow = s->looked_at && s->receiving != NULL && s->received * 1000 < LEAST_RATE * look_ms(s->loop);
  s->looked_at = s->receiving != NULL && !s->paused;
  s->received = 0;
  if (slow) stream_message_fail(s, MU_INVALID, "the message comes too slowly");
}

static void on_look(uv_timer_t *timer) {
  const struct gateway_loop *loop = timer->data;
  list_each (link, &loop->streams) look(list_item(link, struct stream, link));
}

/* The timer runs while there are streams. */
static void enlist(struct stream *s) {
  struct gateway_loop *loop = s->loop;
  if (list_empty(&loop->streams)) {
    loop->stream_timer.data = loop;
    uv_timer_start(&loop->stream_timer, on_look, look_ms(loop), look_ms(loop));
  }
  list_push_back(&loop->streams, &s->link);
}

static void delist(struct stream *s) {
  list_remove(&s->link);
  if (list_empty(&s->loop->streams)) uv_timer_stop(&s->loop->stream_timer);
}

void streams_finish(struct gateway_loop *loop) {
  list_each (link, &loop->streams) {
    struct stream *s = list_item(link, struct stream, link);
    if (s->exchange != NULL) s->framing->leave(s);
  }
}

void stream_init(struct stream *stream, struct gateway_loop *loop, struct exchange *exchange,
                 const struct stream_framing *framing, const struct stream_options *options) {
  *stream = (struct stream){.loop = loop, .exchange = exchange, .framing = framing, .options = *options};
  list_init(&stream->messages);
  list_init(&stream->spare);
  list_init(&stream->post.link);
  enlist(stream);
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

static struct stream_message *take_spare(struct stream *stream) {
  struct list *link = list_pop_front(&stream->spare);
  if (link != NULL) return list_item(link, struct stream_message, link);
  struct stream_message *message = calloc(1, sizeof *message);
  if (message == NULL) return NULL;
  message->stream = stream;
  list_init(&message->link);
  buffer_init(&message->bytes, SIZE_MAX);
  return message;
}

/* As many are spare as were ever in use at once: max_in_flight at most, and those whose bytes are on their way. */
static void leave_spare(struct stream_message *message) {
  core_let_go(message->stream->loop->core, message->held);
  message->held = 0;
  message->ready = false;
  if (message->bytes.capacity > KEPT_BUFFER_BYTES) buffer_free(&message->bytes);
  buffer_clear(&message->bytes);
  list_push_front(&message->stream->spare, &message->link);
}

static void free_spare(struct stream *stream) {
  for (struct list *link; (link = list_pop_front(&stream->spare)) != NULL;) {
    struct stream_message *message = list_item(link, struct stream_message, link);
    buffer_free(&message->bytes);
    free(message);
  }
}

static void wait_over(struct stream_message *message) {
  message->stream->n_waiting -= message->waiting;
  message->waiting = false;
}

/* The call has its answer, or its client has left: neither knows of the other any more. */
static void part(struct stream_message *message) {
  wait_over(message);
  if (message->stream->receiving == message) message->stream->receiving = NULL;
  message->call->message = NULL;
  message->call->exchange = NULL;
  message->call = NULL;
}

static void leave_stream(struct stream_message *message) {
  list_remove(&message->link);
  message->stream->n_messages--;
}

/* ---- what follows from a change: between two turns of the loop --------------------------------------------------- */

bool stream_reads(const struct stream *s) {
  if (s->exchange == NULL || s->n_waiting > 0) return false;
  if (!s->in_message && (s->finishing || s->n_messages >= s->options.max_in_flight)) return false;
  return exchange_unsent(s->exchange) <= STREAM_UNSENT_MAX;
}

static bool finished(const struct stream *s) { return s->finishing && s->n_messages == 0 && !s->in_message; }

static void run_posted(struct net_post *post) {
  struct stream *s = list_item(post, struct stream, post);
  s->posted = false;
  if (s->exchange == NULL) {
    if (s->n_sending > 0) return; /* the last of them comes here again */
    free_spare(s);
    delist(s);
    s->framing->release(s);
    return;
  }
  if (finished(s)) {
    s->framing->finished(s);
    return;
  }
  if (!s->paused || !stream_reads(s)) return;
  s->framing->resumed(s);
  if (!stream_reads(s)) return;
  s->paused = false;
  exchange_resume(s->exchange);
}

static void settle(struct stream *s) {
  bool due = s->exchange == NULL || finished(s) || (s->paused && stream_reads(s));
  if (!due || s->posted) return;
  s->posted = true;
  s->post.run = run_posted;
  net_loop_post(s->loop->net, &s->post);
}

void stream_settle(struct stream *s) {
  if (s->exchange != NULL && !s->paused && !stream_reads(s)) {
    s->paused = true;
    s->looked_at = false;
    exchange_pause(s->exchange);
  }
  settle(s);
}

void stream_writable(struct stream *s) { settle(s); }

void stream_finish(struct stream *s) {
  s->finishing = true;
  settle(s);
}

void stream_gone(struct stream *s) {
  s->exchange = NULL;
  s->receiving = NULL;
  s->in_message = false;
  for (struct list *link; (link = list_pop_front(&s->messages)) != NULL;) {
    struct stream_message *message = list_item(link, struct stream_message, link);
    struct call *call = message->call;
    s->n_messages--;
    if (call != NULL) {
      part(message);
      inference_gone(call);
    }
    leave_spare(message);
  }
  settle(s);
}

/* Not even an error finds memory: the client learns it from the end of the stream. */
static void break_off(struct stream *s) {
  struct exchange *exchange = s->exchange;
  stream_gone(s);
  exchange_reply_end(exchange, NULL, 0);
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

static void message_sent(void *owner) {
  struct stream_message *message = owner;
  struct stream *s = message->stream;
  leave_spare(message);
  s->n_sending--;
  if (s->exchange == NULL) settle(s);
}

static void send_bytes(struct stream_message *message) {
  struct stream *s = message->stream;
  struct iovec bytes = {message->bytes.data, message->bytes.size};
  leave_stream(message);
  s->n_sending++;
  exchange_reply_part(
      s->exchange,
      &(struct reply_part){.body = &bytes, .n_body = 1, .unshared = true, .done = message_sent, .owner = message});
}

static bool its_turn(const struct stream_message *message) {
  return !message->stream->options.ordered || message->stream->messages.next == &message->link;
}

/* An answer has left: those behind it that wait for their turn follow. */
static void send_ready(struct stream *s) {
  while (s->exchange != NULL && s->options.ordered && !list_empty(&s->messages)) {
    struct stream_message *first = list_item(s->messages.next, struct stream_message, link);
    if (!first->ready) break;
    send_bytes(first);
  }
  settle(s);
}

static void say_instead(struct stream_message *message, mu_status status, const char *text) {
  struct stream *s = message->stream;
  buffer_clear(&message->bytes);
  s->framing->error(message->call, status, text, &message->bytes);
  message->ready = !message->bytes.failed;
}

static void send_or_keep(struct stream_message *message) {
  struct stream *s = message->stream;
  if (!message->ready) {
    break_off(s);
    return;
  }
  if (!its_turn(message)) return;
  send_bytes(message);
  send_ready(s);
}

/* A reply whose turn has not come gives its output memory back: the one that it waits for may need it. */
static mu_status keep(struct stream_message *message, const struct iovec *iov, size_t n, uint64_t size) {
  uint64_t counted = size > KEPT_FREE_BYTES ? size - KEPT_FREE_BYTES : 0;
  if (!core_hold(message->stream->loop->core, counted)) return MU_UNAVAILABLE;
  message->held = counted;
  buffer_clear(&message->bytes);
  mu_status status = buffer_reserve(&message->bytes, size);
  for (size_t i = 0; status == MU_OK && i < n; i++)
    status = buffer_append(&message->bytes, iov[i].iov_base, iov[i].iov_len);
  message->ready = status == MU_OK;
  return status;
}

static void reply_later(struct stream_message *message, uint32_t n_iov, uint64_t size) {
  struct call *call = message->call;
  mu_status status = keep(message, call->iov, n_iov, size);
  if (status != MU_OK)
    say_instead(message, status, "no memory for a reply that waits for its turn (order=request, --memory-budget)");
  part(message);
  if (!message->ready) break_off(message->stream);
  inference_reply_sent(call);
}

static void reply(struct call *call, uint32_t n_iov, bool borrows) {
  struct stream_message *message = call->message;
  struct stream *s = message->stream;
  uint64_t size = 0;
  for (uint32_t i = 1; i <= n_iov; i++) size += call->iov[i].iov_len;
  size_t head = s->framing->head(call, n_iov, size, call->head);
  call->iov[0] = (struct iovec){call->head, head};
  if (!its_turn(message)) {
    reply_later(message, n_iov + 1, head + size);
    return;
  }
  part(message);
  leave_stream(message);
  leave_spare(message);
  exchange_reply_part(
      s->exchange,
      &(struct reply_part){
          .body = call->iov, .n_body = n_iov + 1, .unshared = !borrows, .done = inference_reply_sent, .owner = call});
  send_ready(s);
}

static void error(struct call *call, mu_status status, const char *text) {
  struct stream_message *message = call->message;
  bool late = status == MU_TIMEOUT && message->stream->options.drop_late;
  say_instead(message, status, late ? stream_dropped_late : text);
  part(message);
  call->stage = CALL_ANSWERED;
  send_or_keep(message);
}

static void hold_back(struct call *call) {
  struct stream_message *message = call->message;
  message->waiting = true;
  message->stream->n_waiting++;
}

static void go_on(struct call *call) {
  wait_over(call->message);
  settle(call->message->stream);
}

const struct carrier carrier_stream = {.reply = reply, .error = error, .pause = hold_back, .resume = go_on};

/* ---- questions --------------------------------------------------------------------------------------------------- */

struct call *stream_receiving(const struct stream *s) {
  return s->receiving != NULL ? s->receiving->call : NULL;
}

struct call *stream_message_begin(struct stream *s) {
  s->in_message = true;
  struct stream_message *message = take_spare(s);
  struct call *call = message != NULL ? call_create(s->loop, s->exchange) : NULL;
  if (call == NULL) {
    if (message != NULL) leave_spare(message);
    return NULL;
  }
  message->call = call;
  call->message = message;
  call->carrier = &carrier_stream;
  call->request.received_ns = clock_now_ns();
  call->request.deadline_ns = s->options.deadline_ns > 0 ? call->request.received_ns + s->options.deadline_ns : 0;
  call->job.drop_late = s->options.drop_late;
  list_push_back(&s->messages, &message->link);
  s->n_messages++;
  s->receiving = message;
  s->looked_at = false;
  return call;
}

void stream_message_start(struct stream *s) {
  struct call *call = stream_receiving(s);
  mu_error err;
  mu_status status = call->route.model[0] != '\0' ? inference_find_model(call, &err) : MU_OK;
  if (status == MU_OK)
    inference_begin(call);
  else
    inference_fail(call, status, err.message);
}

void stream_message_body(struct stream *s, const uint8_t *data, size_t size) {
  struct call *call = stream_receiving(s);
  s->received += size;
  if (call != NULL && size > 0) inference_body(call, data, size);
}

void stream_message_fail(struct stream *s, mu_status status, const char *text) {
  struct call *call = stream_receiving(s);
  if (call != NULL) inference_fail(call, status, text);
}

/* What is older and for the same model, and does not run yet. */
static void drop_older(struct stream *s) {
  const struct call *newest = s->receiving->call;
  struct list *link = s->messages.next;
  while (s->exchange != NULL && link != &s->messages) {
    struct call *call = list_item(link, struct stream_message, link)->call;
    link = link->next;
    if (call == NULL || call == newest || call->model != newest->model) continue;
    /* its answer may take others along, or the whole stream: all over again */
    if (inference_withdraw(call, MU_CANCELED, stream_dropped_older)) link = s->messages.next;
  }
}

void stream_message_end(struct stream *s) {
  s->in_message = false;
  if (s->receiving != NULL && s->options.keep_newest) drop_older(s);
  struct call *call = stream_receiving(s);
  s->receiving = NULL;
  if (call != NULL) inference_end(call);
  settle(s);
}
