/* Requests over HTTP/1.1: one at a time on each connection, which is kept for the next one. */
#include "net/client_connection.h"

#include "proto/http1/http1_codec.h"

#include <stdio.h>
#include <strings.h>

enum { PIECE_MOST = 64 * 1024, CHUNK_HEAD = 8 /* "%06zx\r\n" */ };

/* The one that the connection is busy with. */
static struct client_request *current(const struct client_connection *c) {
  return list_empty(&c->requests) ? NULL : list_item(c->requests.next, struct client_request, link);
}

/* ---- what comes -------------------------------------------------------------------------------------------------- */

static bool goes_on(const struct client_connection *c) {
  const struct client_request *request = current(c);
  return !c->broken && request != NULL && !request->paused;
}

static void on_header(void *context, const char *name, size_t name_size, const char *value, size_t value_size) {
  struct client_connection *c = context;
  struct client_request *request = current(c);
  if (request == NULL) return;
  mu_status status = client_keep_line(request, name, name_size, value, value_size);
  if (status == MU_TOO_LARGE) client_connection_break(c, CLIENT_UNREADABLE, "the answer's head is too large");
  if (status == MU_NO_MEMORY) client_connection_break(c, CLIENT_NO_MEMORY, "no memory for an answer");
}

/* The connection is free for the next request, or at its end. */
static void finish(struct client_connection *c) {
  struct client_request *request = current(c);
  if (request == NULL) return;
  if (c->sending || c->close_after) client_connection_break(c, CLIENT_BROKEN, "the connection ends with its answer");
  client_request_end(request, (struct client_lines){0});
}

static bool on_head(void *context, const char *method, const char *target, int status, uint64_t content_length,
                    bool keep_alive, bool expect_continue) {
  struct client_connection *c = context;
  struct client_request *request = current(c);
  if (c->broken || request == NULL) return false;
  if (status < 200) { /* interim; 101 was not asked for */
    buffer_clear(&request->lines);
    if (status == 101) client_connection_break(c, CLIENT_BROKEN, "the server switches protocols unasked");
    return !c->broken;
  }
  bool none = c->no_body || status == 204 || status == 304;
  c->close_after |= !keep_alive || (none && content_length != 0);
  struct buffer lines = request->lines;
  buffer_init(&request->lines, CLIENT_HEAD_MOST);
  request->headed = true;
  request->events->head(request, status, (struct client_lines){lines.data, lines.size}, content_length);
  buffer_free(&lines);
  if (none && content_length != 0 && current(c) == request) finish(c); /* what the codec waits for does not come */
  return goes_on(c);
}

static bool on_body(void *context, const uint8_t *data, size_t size) {
  struct client_connection *c = context;
  struct client_request *request = current(c);
  if (request == NULL || c->broken) return false;
  request->events->body(request, data, size);
  return goes_on(c);
}

static bool on_end(void *context) {
  struct client_connection *c = context;
  struct client_request *request = current(c);
  if (request == NULL || c->broken) return false;
  if (!request->headed) return true; /* of an interim answer */
  finish(c);
  return false;
}

static const struct http1_events events = {.head = on_head, .header = on_header, .body = on_body, .end = on_end};

static void parse(struct client_connection *c, const uint8_t *data, size_t size) {
  size_t used = 0;
  int http_status;
  mu_error err;
  for (;;) {
    size_t taken = 0;
    mu_status status = http1_codec_feed(c->codec, data + used, size - used, &taken, &http_status, &err);
    if (status == MU_TOO_LARGE) {
      client_connection_break(c, CLIENT_UNREADABLE, "the answer's head is too large");
      return;
    }
    if (status != MU_OK) {
      char why[160];
      snprintf(why, sizeof why, "%s: %.100s", c->host->name, err.message);
      client_connection_break(c, status == MU_NO_MEMORY ? CLIENT_NO_MEMORY : CLIENT_BROKEN, why);
      return;
    }
    used += taken;
    if (c->broken || used == size) break;
    if (current(c) == NULL) {
      client_connection_break(c, CLIENT_BROKEN, "bytes that nobody has asked for");
      return;
    }
    if (current(c)->paused) break;
  }
  c->stopped = !c->broken && current(c) != NULL && current(c)->paused;
  if (c->stopped && used < size && buffer_append(&c->held, data + used, size - used) != MU_OK)
    client_connection_break(c, CLIENT_NO_MEMORY, "no memory for an answer");
}

static void feed(struct client_connection *c, const uint8_t *data, size_t size) {
  mu_error err;
  if (size > 0)
    parse(c, data, size);
  else if (http1_codec_finish(c->codec, &err) != MU_OK)
    client_connection_break(c, CLIENT_BROKEN, err.message);
}

/* Reading goes on: what was kept comes first. */
static void turn(struct client_connection *c) {
  if (!c->stopped || !goes_on(c)) return;
  struct buffer held = c->held;
  buffer_init(&c->held, held.limit);
  c->stopped = false;
  parse(c, (const uint8_t *)held.data, held.size);
  buffer_free(&held);
}

/* ---- what goes --------------------------------------------------------------------------------------------------- */

static bool is_left_out(const char *name) {
  static const char *const names[] = {
      "connection",     "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "host", "te",
      "content-length", "expect",     "trailer"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(names[i], name) == 0) return true;
  return false;
}

static mu_status start(struct client_connection *c, struct client_request *request, const struct client_head *head,
                       mu_error *err) {
  const char *name, *value;
  struct buffer *out = &c->out;
  buffer_print(out, "%s %s%s%s HTTP/1.1\r\nHost: %s\r\n", head->method, head->path, head->query[0] != '\0' ? "?" : "",
               head->query, head->authority);
  for (size_t at = 0; client_next_line(head->lines, &at, &name, &value);)
    if (!is_left_out(name)) buffer_print(out, "%s: %s\r\n", name, value);
  c->chunked = head->content_length == UINT64_MAX;
  c->sending = head->content_length != 0;
  c->no_body = strcmp(head->method, "HEAD") == 0;
  bool may_bring = strcmp(head->method, "GET") != 0 && !c->no_body;
  if (c->chunked)
    buffer_puts(out, "Transfer-Encoding: chunked\r\n");
  else if (c->sending || may_bring)
    buffer_print(out, "Content-Length: %llu\r\n", (unsigned long long)head->content_length);
  buffer_puts(out, "\r\n");
  request->read_ended = !c->sending;
  c->heard = false;
  if (!out->failed) return MU_OK;
  client_connection_break(c, CLIENT_NO_MEMORY, "no memory for a request");
  return mu_fail(err, MU_NO_MEMORY, "no memory for a request");
}

static void fill(struct client_connection *c) {
  struct client_request *request = current(c);
  if (!c->sending || request == NULL || request->deferred) return;
  bool end = false;
  if (buffer_reserve(&c->out, CHUNK_HEAD + PIECE_MOST + sizeof "\r\n0\r\n\r\n") != MU_OK) {
    client_connection_break(c, CLIENT_NO_MEMORY, "no memory for a request");
    return;
  }
  size_t before = c->chunked ? CHUNK_HEAD : 0;
  size_t size = request->events->read(request, (uint8_t *)c->out.data + before, PIECE_MOST, &end);
  if (size == 0 && !end) {
    request->deferred = true;
    return;
  }
  if (c->chunked && size > 0) {
    char line[CHUNK_HEAD + 1];
    snprintf(line, sizeof line, "%06x\r\n", (unsigned)size);
    memcpy(c->out.data, line, CHUNK_HEAD);
    c->out.size = CHUNK_HEAD + size;
    buffer_puts(&c->out, "\r\n");
  } else {
    c->out.size = size;
  }
  if (!end) return;
  c->sending = false;
  request->read_ended = true;
  if (c->chunked) buffer_puts(&c->out, "0\r\n\r\n");
}

static void more(struct client_request *request) {}

static void resume(struct client_request *request) {}

static void cancel(struct client_connection *c, struct client_request *request) {
  client_connection_break(c, CLIENT_BROKEN, "the request was cancelled");
}

/* ---- the connection ---------------------------------------------------------------------------------------------- */

static struct client_connection *find(struct client_host *host) {
  for (struct list *link = host->connections.prev; link != &host->connections; link = link->prev) {
    struct client_connection *c = list_item(link, struct client_connection, link);
    if (c->leaving || c->broken || c->connecting || !list_empty(&c->requests) || http1_codec_busy(c->codec) ||
        c->out.size > c->out_at)
      continue;
    c->used = true;
    return c;
  }
  return NULL;
}

static mu_status open_codec(struct client_connection *c) {
  c->codec = http1_codec_create(true, &events, c, CLIENT_HEAD_MOST);
  return c->codec != NULL ? MU_OK : MU_NO_MEMORY;
}

static void close_codec(struct client_connection *c) {
  http1_codec_free(c->codec);
  c->codec = NULL;
}

const struct client_kind client_http1_kind = {.find = find,
                                              .open = open_codec,
                                              .start = start,
                                              .fill = fill,
                                              .feed = feed,
                                              .turn = turn,
                                              .more = more,
                                              .resume = resume,
                                              .cancel = cancel,
                                              .close = close_codec};
