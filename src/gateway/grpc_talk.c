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

struct talk {
  const struct exchange_handler *handler; /* first */
  struct gateway_loop *loop;
  struct exchange *exchange; /* NULL: gone, while it was said something */
  bool saying;
  enum grpc_method method;
  struct grpc_inbox inbox;
  struct buffer message; /* the present one */
  bool watching;
  struct list link; /* loop.talks */
  enum grpc_serving said;
  char service[REQUEST_NAME_MAX];
};

/* ---- answers ----------------------------------------------------------------------------------------------------- */

static void talk_free(struct talk *talk) {
  list_remove(&talk->link);
  grpc_inbox_free(&talk->inbox);
  buffer_free(&talk->message);
  free(talk);
}

static void end_with(struct talk *talk, enum grpc_code code, const char *message) {
  grpc_reply_end(talk->exchange, code, message);
  talk_free(talk);
}

/* Whoever writes may hear that the connection is broken. */
static bool send_text(struct talk *talk, const struct buffer *text) {
  const struct iovec body = {text->data, text->size};
  const struct reply_part part = {.body = &body, .n_body = 1};
  talk->saying = true;
  exchange_reply_part(talk->exchange, &part);
  talk->saying = false;
  if (talk->exchange != NULL) return true;
  talk_free(talk);
  return false;
}

/* One message, copied. false: the call has ended. */
static bool say(struct talk *talk, struct buffer *text, mu_status status, const char *message) {
  if (status == MU_OK && exchange_unsent(talk->exchange) > UNSENT_MAX) {
    status = MU_TOO_LARGE;
    message = "the client does not read its answers";
  }
  bool goes_on = status == MU_OK && send_text(talk, text);
  if (status != MU_OK) end_with(talk, grpc_code_of(status), message);
  buffer_free(text);
  return goes_on;
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

/* true: the talk goes on. */
static bool look(struct talk *talk) {
  return grpc_health_of(talk->loop->core, talk->service) == talk->said || say_health(talk);
}

/* Whoever writes may find a connection broken, and then any of its talks is gone: one after the other leaves `all`. */
static void take_all(struct gateway_loop *loop, struct list *all) {
  list_init(all);
  for (struct list *link; (link = list_pop_front(&loop->talks)) != NULL;) list_push_back(all, link);
}

static void on_look(uv_timer_t *timer) {
  struct gateway_loop *loop = timer->data;
  struct list all;
  bool any = false;
  take_all(loop, &all);
  for (struct list *link; (link = list_pop_front(&all)) != NULL;) {
    struct talk *talk = list_item(link, struct talk, link);
    list_push_back(&loop->talks, link);
    any |= talk->watching;
    if (talk->watching) look(talk);
  }
  if (!any) uv_timer_stop(timer);
}

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
  if (!say_health(talk)) return;
  struct gateway_loop *loop = talk->loop;
  if (!uv_is_active((uv_handle_t *)&loop->watch_timer)) {
    loop->watch_timer.data = loop;
    uv_timer_start(&loop->watch_timer, on_look, WATCH_MS, WATCH_MS);
  }
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
  mu_status status = grpc_inbox_feed(&talk->inbox, &data, &size, &talk->loop->scratch, &events, talk, &err);
  if (status != MU_OK) end_with(talk, grpc_code_of(status), err.message);
}

static void on_end(struct exchange *exchange) {
  struct talk *talk = exchange->user;
  mu_error err;
  mu_status status = grpc_inbox_finish(&talk->inbox, &err);
  if (status != MU_OK)
    end_with(talk, grpc_code_of(status), err.message);
  else if (talk->method == GRPC_HEALTH_WATCH)
    watch(talk);
  else
    end_with(talk, GRPC_OK, "");
}

static void on_gone(struct exchange *exchange) {
  struct talk *talk = exchange->user;
  talk->exchange = NULL;
  if (!talk->saying) talk_free(talk);
}

const char grpc_going_away[] = "the server is going away: call again";

void grpc_talks_finish(struct gateway_loop *loop) {
  struct list all;
  take_all(loop, &all);
  for (struct list *link; (link = list_pop_front(&all)) != NULL;) {
    struct talk *talk = list_item(link, struct talk, link);
    list_push_back(&loop->talks, link); /* where it may be freed */
    if (!talk->watching || look(talk)) end_with(talk, GRPC_UNAVAILABLE, grpc_going_away);
  }
}

void grpc_talk_begin(struct call *call) {
  static const struct exchange_handler handler = {.body = on_body, .end = on_end, .gone = on_gone};
  struct exchange *exchange = call->exchange;
  if (call->loop->ending) {
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
  list_push_back(&talk->loop->talks, &talk->link);
  exchange->user = talk;
  exchange_unbounded_body(exchange);
  exchange_reply_begin(exchange, &grpc_head);
}
