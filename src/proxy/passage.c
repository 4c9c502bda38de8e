#include "proxy/passage.h"

#include "base/clock.h"
#include "base/log.h"
#include "proto/grpc/grpc_headers.h"
#include "proto/grpc/grpc_message.h"

#include <stdio.h>
#include <stdlib.h>

enum {
  TRIED_MAX = 8,
  AHEAD_MAX = 256 * 1024, /* bytes of a body that wait for the backend; its sender goes on below a quarter of it */
  GIVE_BACK = 64 * 1024,  /* bytes sent that are worth moving the rest for */
  RETRY_TOKENS_MAX = 1000
};

/* Each request earns a part of a second attempt of another one: a fleet that fails is not asked twice for everything.
 */
static const double RETRY_EARNED = 0.2;

struct passage {
  struct cluster *cluster;
  const struct passage_sink *sink;
  void *owner;
  struct passage_request request;
  struct client_request attempt;
  struct list waiting; /* cluster.waiting */
  struct buffer lines; /* of this attempt, where they are not the request's own */

  struct buffer body;
  size_t body_at;
  bool body_ended, kept;  /* kept: body begins at its beginning */
  uint64_t retained;      /* of the cluster's */
  uint64_t first_message; /* gRPC: bytes up to the end of the first one; 0: not known yet */
  bool held_back;

  size_t tried[TRIED_MAX], n_tried, backend;
  int64_t attempts;
  uint64_t sent; /* bytes of the body that this attempt has read */
  bool in_flight, answered, paused;
  uint64_t wait_until_ns;
  char why[160];
  uv_timer_t timer;
  bool timer_open;
  bool doomed; /* it fails as soon as the loop comes to it */
  enum passage_failure doom;
};

const struct passage_failure_code passage_failure_codes[] = {
    [PASSAGE_UNAVAILABLE] = {503, GRPC_UNAVAILABLE},
    [PASSAGE_DEADLINE] = {504, GRPC_DEADLINE_EXCEEDED},
    [PASSAGE_REFUSED] = {431, GRPC_RESOURCE_EXHAUSTED},
    [PASSAGE_UNREADABLE] = {502, GRPC_INTERNAL},
};

static struct passage *passage_of(struct client_request *request) {
  return list_item(request, struct passage, attempt);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static void timer_closed(uv_handle_t *handle) { free(handle->data); }

static void release(struct passage *p) {
  list_remove(&p->waiting);
  p->cluster->retained -= p->retained;
  buffer_free(&p->body);
  buffer_free(&p->lines);
  if (p->timer_open)
    uv_close((uv_handle_t *)&p->timer, timer_closed);
  else
    free(p);
}

static void leave_backend(struct passage *p, enum backend_outcome outcome, const char *why) {
  if (!p->in_flight) return;
  p->in_flight = false;
  cluster_end(p->cluster, p->backend, outcome, why);
}

static void fail(struct passage *p, enum passage_failure failure, const char *why) {
  p->cluster->failures++;
  p->sink->failed(p->owner, failure, why);
  release(p);
}

struct passage *passage_create(struct cluster *cluster, const struct passage_request *request,
                               const struct passage_sink *sink, void *owner) {
  struct passage *p = calloc(1, sizeof *p);
  if (p == NULL) return NULL;
  p->cluster = cluster;
  p->sink = sink;
  p->owner = owner;
  p->request = *request;
  p->kept = cluster->settings->retry != PROXY_RETRY_NEVER;
  list_init(&p->waiting);
  list_init(&p->attempt.link);
  buffer_init(&p->body, SIZE_MAX / 2); /* bounded by passage_room */
  buffer_init(&p->lines, (size_t)128 * 1024);
  return p;
}

void passage_cancel(struct passage *p) {
  client_cancel(&p->attempt);
  leave_backend(p, BACKEND_NO_RESULT, "");
  release(p);
}

/* ---- the timer --------------------------------------------------------------------------------------------------- */

static void arm(struct passage *p);

static void on_timer(uv_timer_t *timer) {
  struct passage *p = timer->data;
  uint64_t now = clock_now_ns();
  bool late = now >= p->request.deadline_ns, waited = !list_empty(&p->waiting) && now >= p->wait_until_ns;
  if (!late && !waited) {
    arm(p);
    return;
  }
  client_cancel(&p->attempt);
  leave_backend(p, BACKEND_NO_RESULT, "");
  if (p->doomed)
    fail(p, p->doom, p->why);
  else if (late)
    fail(p, PASSAGE_DEADLINE, "the call's deadline has passed");
  else
    fail(p, PASSAGE_UNAVAILABLE, p->why[0] != '\0' ? p->why : "no backend is healthy");
}

/* For the earlier of both. */
static void arm(struct passage *p) {
  uint64_t at = p->request.deadline_ns, now = clock_now_ns();
  if (!list_empty(&p->waiting) && p->wait_until_ns < at) at = p->wait_until_ns;
  if (at == TIME_NEVER) {
    if (p->timer_open) uv_timer_stop(&p->timer);
    return;
  }
  if (!p->timer_open) {
    uv_timer_init(p->cluster->timer.loop, &p->timer);
    p->timer.data = p;
    p->timer_open = true;
  }
  uv_timer_start(&p->timer, on_timer, at > now ? (at - now) / NS_PER_MS + 1 : 0, 0);
}

/* ---- attempts ---------------------------------------------------------------------------------------------------- */

static const struct client_events events;

/* grpc-timeout says what is left, in at most 8 digits. */
static void put_timeout(struct passage *p, uint64_t left_ns) {
  static const struct {
    uint64_t ns;
    char unit;
  } units[] = {{1, 'n'}, {NS_PER_US, 'u'}, {NS_PER_MS, 'm'}, {NS_PER_S, 'S'}, {60 * NS_PER_S, 'M'}};
  size_t i = 0;
  while (i + 1 < sizeof units / sizeof *units && left_ns / units[i].ns > 99999999) i++;
  buffer_append(&p->lines, "grpc-timeout", sizeof "grpc-timeout");
  buffer_print(&p->lines, "%llu%c", (unsigned long long)(left_ns / units[i].ns), units[i].unit);
  buffer_putc(&p->lines, '\0');
}

static struct client_lines lines_of_attempt(struct passage *p) {
  const char *name, *value;
  if (p->request.deadline_ns == TIME_NEVER || !p->request.grpc) return p->request.lines;
  uint64_t now = clock_now_ns();
  buffer_clear(&p->lines);
  for (size_t at = 0; client_next_line(p->request.lines, &at, &name, &value);) {
    if (strcmp(name, "grpc-timeout") == 0) continue;
    buffer_append(&p->lines, name, strlen(name) + 1);
    buffer_append(&p->lines, value, strlen(value) + 1);
  }
  put_timeout(p, p->request.deadline_ns > now ? p->request.deadline_ns - now : 1);
  return (struct client_lines){p->lines.data, p->lines.failed ? 0 : p->lines.size};
}

/* A failure comes from the loop, never from inside of an owner's call. */
static void doom(struct passage *p, enum passage_failure failure, const char *why) {
  client_cancel(&p->attempt);
  leave_backend(p, BACKEND_NO_RESULT, "");
  snprintf(p->why, sizeof p->why, "%.150s", why);
  p->doomed = true;
  p->doom = failure;
  p->wait_until_ns = 1;
  list_remove(&p->waiting);
  list_push_back(&p->cluster->waiting, &p->waiting);
  arm(p);
}

static void wait_for_backend(struct passage *p) {
  uint64_t now = clock_now_ns();
  if (p->wait_until_ns == 0) p->wait_until_ns = time_add(now, (uint64_t)p->cluster->settings->wait_timeout_ns);
  list_remove(&p->waiting); /* one that is doomed before it starts waits already */
  list_push_back(&p->cluster->waiting, &p->waiting);
  arm(p);
}

/* One that has not been tried; where all have been, any: what made them fail may be over. */
static size_t choose(struct passage *p) {
  struct backend_pool *pool = &p->cluster->pool;
  size_t index = backend_pool_choose(pool, p->tried, p->n_tried);
  if (index != BACKEND_NONE || p->n_tried == 0) return index;
  p->n_tried = 0;
  return backend_pool_choose(pool, NULL, 0);
}

static void begin_attempt(struct passage *p) {
  struct cluster *cluster = p->cluster;
  mu_error err;
  size_t index = p->doomed ? BACKEND_NONE : choose(p);
  if (index == BACKEND_NONE) {
    wait_for_backend(p);
    return;
  }
  const struct client_head head = {.method = p->request.method,
                                   .path = p->request.path,
                                   .query = p->request.query,
                                   .lines = lines_of_attempt(p),
                                   .content_length = p->request.content_length};
  p->body_at = 0;
  p->sent = 0;
  p->attempt.events = &events;
  struct client_host *host = p->request.grpc ? cluster->http2[index] : cluster->http1[index];
  mu_status status = client_start(host, &p->attempt, &head, &err);
  if (status != MU_OK) {
    doom(p, status == MU_INVALID ? PASSAGE_REFUSED : PASSAGE_UNAVAILABLE, err.message);
    return;
  }
  p->backend = index;
  p->in_flight = true;
  p->wait_until_ns = 0; /* should it have to wait once more, it has the whole time again */
  p->attempts++;
  if (p->n_tried < TRIED_MAX) p->tried[p->n_tried++] = index;
  backend_pool_begin(&cluster->pool, index);
  if (p->paused) client_pause(&p->attempt);
  arm(p);
}

void passage_start(struct passage *p) {
  p->cluster->requests++;
  if (p->cluster->retry_tokens < RETRY_TOKENS_MAX) p->cluster->retry_tokens += RETRY_EARNED;
  begin_attempt(p);
}

void passages_wake(struct cluster *cluster) {
  struct list all;
  list_init(&all);
  while (!list_empty(&cluster->waiting)) list_push_back(&all, list_pop_front(&cluster->waiting));
  for (struct list *link; (link = list_pop_front(&all)) != NULL;)
    begin_attempt(list_item(link, struct passage, waiting));
}

/* ---- may it be sent again? --------------------------------------------------------------------------------------- */

/* No backend can have acted on it but by the one message that is at hand: all of the request is here, or less than a
 * message has gone out. */
static bool is_repeatable(const struct passage *p) {
  if (p->body_ended) return true;
  return p->request.grpc && (p->first_message == 0 || p->sent < p->first_message);
}

/* unseen: the backend has not looked at it. */
static bool may_retry(struct passage *p, bool unseen) {
  const struct proxy_settings *settings = p->cluster->settings;
  if (settings->retry == PROXY_RETRY_NEVER || p->answered || p->attempts > settings->retries) return false;
  if (!p->kept && p->sent > 0) return false; /* its beginning is gone */
  if (unseen) return true;
  if (settings->retry != PROXY_RETRY_IDEMPOTENT || !is_repeatable(p)) return false;
  if (p->cluster->retry_tokens < 1) return false;
  p->cluster->retry_tokens -= 1;
  return true;
}

static void retry(struct passage *p, const char *why) {
  p->cluster->retries++;
  LOG_VERBOSE("request goes to another backend", LOG_STR("path", p->request.path), LOG_INT("attempt", p->attempts),
              LOG_STR("why", why));
  begin_attempt(p);
}

/* ---- the backend's events ---------------------------------------------------------------------------------------- */

/* What was kept for another attempt goes, up to where the backend is. */
static void give_back(struct passage *p) {
  if (p->kept || (p->body_at < GIVE_BACK && p->body_at < p->body.size)) return;
  buffer_consume(&p->body, p->body_at);
  p->body_at = 0;
}

static void stop_keeping(struct passage *p) {
  p->kept = false;
  p->cluster->retained -= p->retained;
  p->retained = 0;
  give_back(p);
}

size_t passage_waiting(const struct passage *p) { return p->body.size - p->body_at; }

static size_t on_read(struct client_request *request, uint8_t *to, size_t most, bool *ret_end) {
  struct passage *p = passage_of(request);
  size_t left = passage_waiting(p), n = left < most ? left : most;
  if (n > 0) memcpy(to, p->body.data + p->body_at, n);
  p->body_at += n;
  p->sent += n;
  *ret_end = p->body_ended && n == left;
  give_back(p);
  if (p->held_back && passage_waiting(p) < AHEAD_MAX / 4) {
    p->held_back = false;
    if (p->sink->room != NULL) p->sink->room(p->owner);
  }
  return n;
}

/* The backend cannot, and says so before it has said anything else: somebody else may. */
static bool is_refusal(const struct passage *p, int status, struct client_lines lines) {
  if (status == 502 || status == 503 || status == 504) return true;
  const char *grpc_status = p->request.grpc ? client_line(lines, "grpc-status") : NULL;
  return grpc_status != NULL && strcmp(grpc_status, "14") == 0;
}

static void on_head(struct client_request *request, int status, struct client_lines lines, uint64_t content_length) {
  struct passage *p = passage_of(request);
  if (is_refusal(p, status, lines) && backend_pool_choose(&p->cluster->pool, p->tried, p->n_tried) != BACKEND_NONE &&
      may_retry(p, false)) {
    client_cancel(&p->attempt);
    leave_backend(p, BACKEND_OK, "");
    retry(p, "the backend says that it is not available");
    return;
  }
  p->answered = true;
  stop_keeping(p);
  p->sink->head(p->owner, status, lines, content_length);
}

static void on_body(struct client_request *request, const uint8_t *data, size_t size) {
  struct passage *p = passage_of(request);
  p->sink->body(p->owner, data, size);
}

static void on_end(struct client_request *request, struct client_lines trailers) {
  struct passage *p = passage_of(request);
  leave_backend(p, BACKEND_OK, "");
  p->sink->end(p->owner, trailers);
  release(p);
}

static void on_failed(struct client_request *request, enum client_failure failure, const char *why) {
  static const enum backend_outcome outcomes[] = {
      [CLIENT_REFUSED] = BACKEND_REFUSED,      [CLIENT_UNSEEN] = BACKEND_NO_RESULT,
      [CLIENT_STALE] = BACKEND_NO_RESULT,      [CLIENT_BROKEN] = BACKEND_FAILED,
      [CLIENT_UNSENDABLE] = BACKEND_NO_RESULT, [CLIENT_UNREADABLE] = BACKEND_NO_RESULT,
      [CLIENT_NO_MEMORY] = BACKEND_NO_RESULT};
  struct passage *p = passage_of(request);
  snprintf(p->why, sizeof p->why, "%s", why);
  leave_backend(p, outcomes[failure], why);
  if (failure == CLIENT_STALE && p->n_tried > 0) p->n_tried--;      /* says nothing of the backend */
  if (failure == CLIENT_UNSENDABLE || failure == CLIENT_UNREADABLE) /* as it would be anywhere */
    fail(p, failure == CLIENT_UNSENDABLE ? PASSAGE_REFUSED : PASSAGE_UNREADABLE, p->why);
  else if (may_retry(p, failure == CLIENT_REFUSED || failure == CLIENT_UNSEEN))
    retry(p, p->why);
  else
    fail(p, PASSAGE_UNAVAILABLE, p->why);
}

static const struct client_events events = {
    .read = on_read, .head = on_head, .body = on_body, .end = on_end, .failed = on_failed};

/* ---- the owner's calls ------------------------------------------------------------------------------------------- */

static void note_first_message(struct passage *p) {
  if (!p->request.grpc || p->first_message > 0 || !p->kept || p->body.size < GRPC_PREFIX_SIZE) return;
  const uint8_t *prefix = (const uint8_t *)p->body.data;
  uint32_t size = (uint32_t)prefix[1] << 24 | (uint32_t)prefix[2] << 16 | (uint32_t)prefix[3] << 8 | prefix[4];
  p->first_message = (uint64_t)GRPC_PREFIX_SIZE + size;
}

/* Up to AHEAD_MAX everybody has; what is kept beyond that is of the common room. */
static void account(struct passage *p) {
  bool streams = p->request.grpc && p->first_message > 0 && p->body.size > p->first_message && p->sent > 0;
  if (p->kept && streams) stop_keeping(p); /* it has begun to speak: never repeated */
  if (!p->kept || p->body.size <= AHEAD_MAX) return;
  uint64_t wanted = p->body.size - p->retained;
  if (p->cluster->retained + wanted > (uint64_t)p->cluster->settings->retry_buffer) {
    stop_keeping(p);
    return;
  }
  p->retained += wanted;
  p->cluster->retained += wanted;
}

void passage_data(struct passage *p, const uint8_t *data, size_t size) {
  if (buffer_append(&p->body, data, size) != MU_OK) {
    doom(p, PASSAGE_UNAVAILABLE, "no memory for a request"); /* a body with a hole must not go on */
    return;
  }
  note_first_message(p);
  account(p);
  client_more(&p->attempt);
}

void passage_finish(struct passage *p) {
  p->body_ended = true;
  client_more(&p->attempt);
}

bool passage_room(const struct passage *p) {
  bool room = passage_waiting(p) < AHEAD_MAX;
  if (!room) ((struct passage *)(uintptr_t)p)->held_back = true;
  return room;
}

void passage_pause(struct passage *p) {
  p->paused = true;
  client_pause(&p->attempt);
}

void passage_resume(struct passage *p) {
  p->paused = false;
  client_resume(&p->attempt);
}
