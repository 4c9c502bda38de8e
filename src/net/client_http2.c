/* Requests over HTTP/2: all of a host's on one connection. nghttp2 must not be entered twice: frames are submitted at
 * any time, bytes are made in `fill`. */
#include "net/client_connection.h"

#include "base/decimal.h"

#include <stdio.h>
#include <strings.h>

enum {
  STREAM_WINDOW = 1024 * 1024,          /* of an answer that may be ahead of its reader */
  CONNECTION_WINDOW = 64 * 1024 * 1024, /* given back at once: it is the streams' windows that bound */
  FRAME_MOST = 64 * 1024,
  LINES_MOST = 128
};

static struct client_request *request_of(nghttp2_session *session, int32_t stream_id) {
  return nghttp2_session_get_stream_user_data(session, stream_id);
}

static void forget(struct client_connection *c, struct client_request *request) {
  nghttp2_session_set_stream_user_data(c->session, request->stream_id, NULL);
}

static void break_off(struct client_connection *c, enum client_failure failure, const char *what) {
  char why[160];
  snprintf(why, sizeof why, "%s: %s", c->host->name, what);
  client_connection_break(c, failure, why);
}

/* error: nghttp2's. Callbacks fail only for want of memory. */
static void break_with(struct client_connection *c, int error) {
  bool memory = error == NGHTTP2_ERR_NOMEM || error == NGHTTP2_ERR_CALLBACK_FAILURE;
  break_off(c, memory ? CLIENT_NO_MEMORY : CLIENT_BROKEN, memory ? "no memory" : nghttp2_strerror(error));
}

/* ---- what comes -------------------------------------------------------------------------------------------------- */

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *context) {
  struct client_request *request = request_of(session, frame->hd.stream_id);
  if (request != NULL) buffer_clear(&request->lines);
  return 0;
}

static uint64_t parse_length(const uint8_t *text, size_t size) {
  uint64_t number = 0;
  for (size_t i = 0; i < size; i++) {
    if (text[i] < '0' || text[i] > '9' || number > (UINT64_MAX - 9) / 10) return UINT64_MAX;
    number = 10 * number + (uint64_t)(text[i] - '0');
  }
  return number;
}

static bool is_name(const uint8_t *name, size_t size, const char *text) {
  return size == strlen(text) && memcmp(name, text, size) == 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_size,
                     const uint8_t *value, size_t size, uint8_t flags, void *context) {
  struct client_request *request = request_of(session, frame->hd.stream_id);
  if (request == NULL) return 0;
  if (is_name(name, name_size, ":status")) {
    request->status = (int)parse_length(value, size);
    return 0;
  }
  if (!request->headed && is_name(name, name_size, "content-length"))
    request->content_length = parse_length(value, size);
  request->refused = client_keep_line(request, (const char *)name, name_size, (const char *)value, size);
  return request->refused == MU_OK ? 0 : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* the stream is reset */
}

static void end_request(struct client_connection *c, struct client_request *request) {
  forget(c, request);
  /* the answer came before the whole request was sent: the rest is not */
  if (!request->read_ended)
    nghttp2_submit_rst_stream(c->session, NGHTTP2_FLAG_NONE, request->stream_id, NGHTTP2_NO_ERROR);
  bool trailers = request->headed && !request->lines.failed;
  client_request_end(request,
                     (struct client_lines){trailers ? request->lines.data : NULL, trailers ? request->lines.size : 0});
}

static void on_headers(struct client_connection *c, struct client_request *request) {
  if (request->headed) return; /* trailers: they stay in lines */
  if (request->status < 200) {
    buffer_clear(&request->lines);
    return;
  }
  struct buffer lines = request->lines;
  buffer_init(&request->lines, CLIENT_HEAD_MOST);
  request->headed = true;
  request->events->head(request, request->status, (struct client_lines){lines.data, lines.size},
                        request->content_length);
  buffer_free(&lines);
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *context) {
  struct client_connection *c = context;
  if (frame->hd.type == NGHTTP2_GOAWAY) c->leaving = true;
  if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
  struct client_request *request = request_of(session, frame->hd.stream_id);
  if (request != NULL && frame->hd.type == NGHTTP2_HEADERS) on_headers(c, request);
  if (!(frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) return 0;
  request = request_of(session, frame->hd.stream_id); /* its owner may have let go of it */
  if (request != NULL) end_request(c, request);
  return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t size,
                   void *context) {
  if (nghttp2_session_consume_connection(session, size) != 0) return NGHTTP2_ERR_CALLBACK_FAILURE;
  struct client_request *request = request_of(session, stream_id);
  if (request != NULL) request->events->body(request, data, size);
  request = request_of(session, stream_id);
  if (request != NULL && request->paused) {
    request->owed += size;
    return 0;
  }
  return nghttp2_session_consume_stream(session, stream_id, size) == 0 ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code, void *context) {
  struct client_connection *c = context;
  struct client_request *request = request_of(session, stream_id);
  if (request == NULL) return 0;
  char why[160];
  snprintf(why, sizeof why, "%s reset the stream: %s", c->host->name, nghttp2_http2_strerror(error_code));
  forget(c, request);
  if (request->refused == MU_NO_MEMORY)
    client_request_fail(request, CLIENT_NO_MEMORY, "no memory for an answer");
  else if (request->refused != MU_OK)
    client_request_fail(request, CLIENT_UNREADABLE, "the answer's head is too large");
  else
    client_request_fail(request, error_code == NGHTTP2_REFUSED_STREAM ? CLIENT_UNSEEN : CLIENT_BROKEN, why);
  return 0;
}

/* Its head is among the bytes that are about to be written. */
static int on_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *context) {
  struct client_request *request = frame->hd.type == NGHTTP2_HEADERS ? request_of(session, frame->hd.stream_id) : NULL;
  if (request != NULL) request->unseen = false;
  return 0;
}

/* A request that does not even leave: too large a head, or the connection takes no new streams. */
static int on_frame_not_sent(nghttp2_session *session, const nghttp2_frame *frame, int error, void *context) {
  struct client_connection *c = context;
  if (frame->hd.type != NGHTTP2_HEADERS) return 0;
  struct client_request *request = request_of(session, frame->hd.stream_id);
  if (request == NULL) return 0;
  char why[160];
  snprintf(why, sizeof why, "the request cannot be sent to %s: %s", c->host->name, nghttp2_strerror(error));
  forget(c, request);
  client_request_fail(request, error == NGHTTP2_ERR_FRAME_SIZE_ERROR ? CLIENT_UNSENDABLE : CLIENT_UNSEEN, why);
  return 0;
}

static void feed(struct client_connection *c, const uint8_t *data, size_t size) {
  client_connection_answered(c);
  if (size == 0) return;
  ssize_t used = nghttp2_session_mem_recv(c->session, data, size);
  if (used < 0) break_with(c, (int)used);
}

/* ---- what goes --------------------------------------------------------------------------------------------------- */

static ssize_t read_body(nghttp2_session *session, int32_t stream_id, uint8_t *to, size_t most, uint32_t *flags,
                         nghttp2_data_source *source, void *context) {
  struct client_request *request = request_of(session, stream_id);
  if (request == NULL) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
  bool end = false;
  size_t size = request->events->read(request, to, most, &end);
  if (end) {
    request->read_ended = true;
    *flags |= NGHTTP2_DATA_FLAG_EOF;
  } else if (size == 0) {
    request->deferred = true;
    return NGHTTP2_ERR_DEFERRED;
  }
  return (ssize_t)size;
}

static void fill(struct client_connection *c) {
  while (c->out.size < CLIENT_OUT_MOST) {
    const uint8_t *data;
    ssize_t size = nghttp2_session_mem_send(c->session, &data);
    if (size < 0 || (size > 0 && buffer_append(&c->out, data, (size_t)size) != MU_OK)) {
      break_with(c, size < 0 ? (int)size : NGHTTP2_ERR_NOMEM);
      return;
    }
    if (size == 0) break;
  }
  bool over = !nghttp2_session_want_read(c->session) && !nghttp2_session_want_write(c->session);
  if (c->out.size == 0 && (over || (c->leaving && list_empty(&c->requests))))
    break_off(c, CLIENT_BROKEN, "the connection is at its end");
}

/* What concerns the connection, and what is written anew (RFC 9113 section 8.2.2). te: gRPC's is written anew. */
static bool is_left_out(const char *name) {
  static const char *const names[] = {
      "connection",     "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "host", "te",
      "content-length", "expect"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(names[i], name) == 0) return true;
  return false;
}

static void put(nghttp2_nv *pairs, size_t *n, const char *name, const char *value) {
  pairs[(*n)++] = (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name), strlen(value), 0};
}

static mu_status start(struct client_connection *c, struct client_request *request, const struct client_head *head,
                       mu_error *err) {
  nghttp2_nv pairs[LINES_MOST + 8];
  char length[DECIMAL_MOST + 1];
  size_t n = 0;
  struct buffer target;
  buffer_init(&target, CLIENT_HEAD_MOST);
  buffer_puts(&target, head->path);
  if (head->query[0] != '\0') buffer_print(&target, "?%s", head->query);
  const char *path = target.failed ? NULL : buffer_text(&target), *name, *value;
  put(pairs, &n, ":method", head->method);
  put(pairs, &n, ":scheme", "http");
  put(pairs, &n, ":authority", head->authority);
  put(pairs, &n, ":path", path != NULL ? path : "/");
  put(pairs, &n, "te", "trailers");
  if (head->content_length != UINT64_MAX && head->content_length > 0) {
    *decimal_put(length, head->content_length) = '\0';
    put(pairs, &n, "content-length", length);
  }
  bool fits = true;
  for (size_t at = 0; client_next_line(head->lines, &at, &name, &value);) {
    if (is_left_out(name)) continue;
    fits = n < LINES_MOST + 7;
    if (!fits) break;
    put(pairs, &n, name, value);
  }
  nghttp2_data_provider provider = {.read_callback = read_body};
  bool has_body = head->content_length != 0;
  request->read_ended = !has_body;
  int32_t id = !fits || path == NULL
                   ? -1
                   : nghttp2_submit_request(c->session, NULL, pairs, n, has_body ? &provider : NULL, request);
  buffer_free(&target);
  if (!fits) return mu_fail(err, MU_INVALID, "more than %d headers", LINES_MOST);
  if (id < 0) {
    c->leaving |= id == NGHTTP2_ERR_STREAM_ID_NOT_AVAILABLE;
    return mu_fail(err, MU_NO_MEMORY, "no memory for a request");
  }
  request->stream_id = id;
  request->unseen = true;
  return MU_OK;
}

static void more(struct client_request *request) {
  struct client_connection *c = request->connection;
  int failed = nghttp2_session_resume_data(c->session, request->stream_id);
  if (nghttp2_is_fatal(failed)) break_with(c, failed);
}

static void resume(struct client_request *request) {
  struct client_connection *c = request->connection;
  size_t owed = request->owed;
  request->owed = 0;
  if (owed > 0 && nghttp2_session_consume_stream(c->session, request->stream_id, owed) != 0)
    break_off(c, CLIENT_NO_MEMORY, "no memory for a window");
}

static void cancel(struct client_connection *c, struct client_request *request) {
  forget(c, request);
  if (nghttp2_submit_rst_stream(c->session, NGHTTP2_FLAG_NONE, request->stream_id, NGHTTP2_CANCEL) != 0)
    break_off(c, CLIENT_NO_MEMORY, "no memory to cancel");
}

static void ask(struct client_connection *c) {
  if (nghttp2_submit_ping(c->session, NGHTTP2_FLAG_NONE, NULL) != 0)
    break_off(c, CLIENT_NO_MEMORY, "no memory for a ping");
  client_connection_touch(c);
}

/* ---- the connection ---------------------------------------------------------------------------------------------- */

static struct client_connection *find(struct client_host *host) {
  list_each (link, &host->connections) {
    struct client_connection *c = list_item(link, struct client_connection, link);
    if (!c->leaving && !c->broken && nghttp2_session_check_request_allowed(c->session)) return c;
  }
  return NULL;
}

static mu_status create(struct client_connection *c, nghttp2_session_callbacks *callbacks, nghttp2_option *option) {
  nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
  nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, on_frame_not_sent);
  nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_sent);
  nghttp2_option_set_no_auto_window_update(option, 1);
  nghttp2_option_set_no_closed_streams(option, 1);
  nghttp2_option_set_peer_max_concurrent_streams(option, 1024); /* until the server says its own */
  if (nghttp2_session_client_new2(&c->session, callbacks, c, option) != 0) return MU_NO_MEMORY;
  const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
                                             {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW},
                                             {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, FRAME_MOST},
                                             {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, CLIENT_HEAD_MOST}};
  bool ok = nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings, sizeof settings / sizeof *settings) == 0 &&
            nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW) == 0;
  return ok ? MU_OK : MU_NO_MEMORY;
}

static mu_status open_session(struct client_connection *c) {
  nghttp2_session_callbacks *callbacks = NULL;
  nghttp2_option *option = NULL;
  mu_status status = MU_NO_MEMORY;
  if (nghttp2_session_callbacks_new(&callbacks) == 0 && nghttp2_option_new(&option) == 0)
    status = create(c, callbacks, option);
  nghttp2_session_callbacks_del(callbacks);
  nghttp2_option_del(option);
  return status;
}

static void close_session(struct client_connection *c) {
  nghttp2_session_del(c->session);
  c->session = NULL;
}

const struct client_kind client_http2_kind = {.find = find,
                                              .open = open_session,
                                              .start = start,
                                              .fill = fill,
                                              .feed = feed,
                                              .more = more,
                                              .resume = resume,
                                              .cancel = cancel,
                                              .ask = ask,
                                              .close = close_session};
