/*
 * The streaming methods that are no inference: health's Watch, which says how a service is and then whenever that
 * changes, and reflection, which answers message by message.
 */
#include "gateway/grpc.h"

#include "api/grpc_requests.h"

#include <stdlib.h>
#include <string.h>

enum {
  WATCH_MS = 100,          /* between two looks at what is watched */
  REQUEST_NAME_MAX = 256,  /* of a watched service */
  UNSENT_MAX = 256 * 1024, /* bytes of answers that the client does not take; then it is cut */
};

/* Whatever writes may find the connection broken, and `gone` comes inside of it: nobody frees a talk but who has
 * entered it last (leave). */
struct talk {
  const struct exchange_handler *handler; /* first */
  struct gateway_loop *loop;
  struct exchange *exchange; /* NULL: over */
  bool entered;              /* somebody further up the stack still uses it */
  enum grpc_method method;
  struct grpc_inbox inbox;
  struct buffer message; /* the present one */
  bool watching;
  struct list link; /* loop.talks */
  enum grpc_serving said;
  char service[REQUEST_NAME_MAX];
};

/* ---- answers ----------------------------------------------------------------------------------------------------- */

static void enter(struct talk *talk) { talk->entered = true; }

static void leave(struct talk *talk) {
  talk->entered = false;
  if (talk->exchange != NULL) return;
  list_remove(&talk->link);
  grpc_inbox_free(&talk->inbox);
  buffer_free(&talk->message);
  free(talk);
}

static void end_with(struct talk *talk, enum grpc_code code, const char *message) {
  struct exchange *exchange = talk->exchange;
  if (exchange == NULL) return;
  talk->exchange = NULL;
  grpc_reply_end(exchange, code, message);
}

/* One message, copied. false: the call is over. */
static bool say(struct talk *talk, struct buffer *text, mu_status status, const char *message) {
  if (status == MU_OK && exchange_unsent(talk->exchange) > UNSENT_MAX) {
    status = MU_TOO_LARGE;
    message = "the client does not read its answers";
  }
  const struct iovec body = {text->data, text->size};
  const struct reply_part part = {.body = &body, .n_body = 1};
  if (status == MU_OK)
    exchange_reply_part(talk->exchange, &part);
  else
    end_with(talk, grpc_code_of(status), message);
  buffer_free(text);
  return talk->exchange != NULL;
}

/* ---- health ------------------------------------------------------------------------------------------------------ */

enum grpc_serving grpc_health_of(struct core *core, const char *service) {
  if (grpc_service_known(service)) return core_ready(core) ? GRPC_SERVING : GRPC_NOT_SERVING;
  struct gateway_model *model = core_hold_model(core, service, -1);
  if (model == NULL) return GRPC_SERVICE_UNKNOWN;
  pthread_mutex_lock(&core->lock);
  bool ready = core_model_ready(model) && !core->draining;
  pthread_mutex_unlock(&core->lock);
  core_release_model(model);
  return ready ? GRPC_SERVING : GRPC_NOT_SERVING;
}

static bool say_health(struct talk *talk) {
  struct buffer text;
  mu_error err;
  buffer_init(&text, SIZE_MAX / 2);
  talk->said = grpc_health_of(talk->loop->core, talk->service);
  mu_status status = grpc_reply_health(&text, talk->said, &err);
  return say(talk, &text, status, err.message);
}

static void look(struct talk *talk) {
  if (talk->watching && grpc_health_of(talk->loop->core, talk->service) != talk->said) say_health(talk);
}

const char grpc_going_away[] = "the server is going away: call again";

static void say_goodbye(struct talk *talk) {
  look(talk);
  end_with(talk, GRPC_UNAVAILABLE, grpc_going_away);
}

/* What is done to one may end others: those of its connection. */
static void for_all(struct gateway_loop *loop, void (*visit)(struct talk *talk)) {
  struct list all;
  list_init(&all);
  for (struct list *link; (link = list_pop_front(&loop->talks)) != NULL;) list_push_back(&all, link);
  for (struct list *link; (link = list_pop_front(&all)) != NULL;) {
    struct talk *talk = list_item(link, struct talk, link);
    list_push_back(&loop->talks, link);
    enter(talk);
    visit(talk);
    leave(talk);
  }
}

static void on_look(uv_timer_t *timer) {
  struct gateway_loop *loop = timer->data;
  for_all(loop, look);
  if (list_empty(&loop->talks)) uv_timer_stop(timer);
}

void grpc_talks_finish(struct gateway_loop *loop) { for_all(loop, say_goodbye); }

static void watch(struct talk *talk) {
  struct grpc_request request;
  mu_error err;
  mu_status status = grpc_request_read(talk->method, talk->message.data != NULL ? talk->message.data : "",
                                       talk->message.size, &request, &err);
  if (status == MU_OK && strlen(request.name) >= sizeof talk->service)
    status = mu_fail(&err, MU_INVALID, "no service has a name of more than %d bytes", REQUEST_NAME_MAX - 1);
  if (status == MU_OK) memcpy(talk->service, request.name, strlen(request.name) + 1);
  grpc_request_free(&request);
  if (status != MU_OK) {
    end_with(talk, grpc_code_of(status), err.message);
    return;
  }
  talk->watching = true;
  say_health(talk);
}

/* ---- messages in ------------------------------------------------------------------------------------------------- */

static bool message_begin(void *context, uint64_t size) {
  struct talk *talk = context;
  buffer_clear(&talk->message);
  if (!talk->watching) return true;
  end_with(talk, GRPC_INVALID_ARGUMENT, "the call has more than one message");
  return false;
}

static bool message_data(void *context, const uint8_t *data, size_t size) {
  struct talk *talk = context;
  if (buffer_append(&talk->message, data, size) == MU_OK) return true;
  end_with(talk, grpc_code_of(MU_NO_MEMORY), "no memory for the message");
  return false;
}

static bool message_end(void *context) {
  struct talk *talk = context;
  if (talk->method == GRPC_HEALTH_WATCH) return true; /* with the end of the call */
  struct buffer text;
  mu_error err;
  buffer_init(&text, SIZE_MAX / 2);
  mu_status status =
      grpc_reply_reflection(&text, talk->message.data != NULL ? talk->message.data : "", talk->message.size, &err);
  return say(talk, &text, status, err.message);
}

static void on_body(struct exchange *exchange, const uint8_t *data, size_t size) {
  static const struct grpc_inbox_events events = {message_begin, message_data, message_end};
  struct talk *talk = exchange->user;
  mu_error err;
  enter(talk);
  mu_status status = grpc_inbox_feed(&talk->inbox, &data, &size, &talk->loop->scratch, &events, talk, &err);
  if (status != MU_OK) end_with(talk, grpc_code_of(status), err.message);
  leave(talk);
}

static void on_end(struct exchange *exchange) {
  struct talk *talk = exchange->user;
  mu_error err;
  enter(talk);
  mu_status status = grpc_inbox_finish(&talk->inbox, &err);
  if (status != MU_OK)
    end_with(talk, grpc_code_of(status), err.message);
  else if (talk->method == GRPC_HEALTH_WATCH)
    watch(talk);
  else
    end_with(talk, GRPC_OK, "");
  leave(talk);
}

static void on_gone(struct exchange *exchange) {
  struct talk *talk = exchange->user;
  talk->exchange = NULL;
  if (!talk->entered) leave(talk);
}

/* The timer runs while there are talks. */
static void enlist(struct talk *talk) {
  struct gateway_loop *loop = talk->loop;
  if (list_empty(&loop->talks)) {
    loop->watch_timer.data = loop;
    uv_timer_start(&loop->watch_timer, on_look, WATCH_MS, WATCH_MS);
  }
  list_push_back(&loop->talks, &talk->link);
}

void grpc_talk_begin(struct call *call) {
  static const struct exchange_handler handler = {.body = on_body, .end = on_end, .gone = on_gone};
  struct exchange *exchange = call->exchange;
  if (call->loop->ending) { /* it would hear of the end no more */
    grpc_reply_error(call, GRPC_UNAVAILABLE, grpc_going_away);
    return;
  }
  struct talk *talk = calloc(1, sizeof *talk);
  if (talk == NULL) {
    grpc_reply_error(call, grpc_code_of(MU_NO_MEMORY), "no memory for the call");
    return;
  }
  talk->handler = &handler;
  talk->loop = call->loop;
  talk->exchange = exchange;
  talk->method = call->method;
  talk->inbox = call->inbox;
  buffer_init(&talk->message, SIZE_MAX / 2); /* bounded by the inbox's limit */
  list_init(&talk->link);
  enlist(talk);
  exchange->user = talk;
  exchange_unbounded_body(exchange);
  exchange_reply_begin(exchange, &grpc_head);
}
