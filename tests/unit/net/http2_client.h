/* A client of HTTP/2 for the fixture's server: an nghttp2 client session on a plain socket, and raw frames beside it.
 */
#ifndef TEST_NET_HTTP2_CLIENT_H
#define TEST_NET_HTTP2_CLIENT_H

#include "http_fixture.h"

#include <nghttp2/nghttp2.h>

#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

enum { STREAMS_MOST = 256 };

struct stream {
  int status;
  int n_headers; /* HEADERS frames, interim ones not counted */
  bool interim, ended, closed;
  bool ended_by_headers;
  uint32_t error_code;
  char content_type[64], content_encoding[64], trailer[64], length[32];
  struct buffer body;
  /* what is sent */
  const uint8_t *data;
  size_t size, at;
  bool held_open; /* the end of the body is not sent */
};

struct http2_client {
  struct client c;
  nghttp2_session *session;
  struct stream streams[STREAMS_MOST];
  int n_goaways;
  uint32_t goaway_code;
  int32_t goaway_last;
  int n_pings;
  bool manual_windows;
};

static struct stream *stream_of(struct http2_client *h, int32_t id) {
  assert_true(id > 0 && id / 2 < STREAMS_MOST);
  return &h->streams[id / 2];
}

static int client_on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_size,
                            const uint8_t *value, size_t size, uint8_t flags, void *context) {
  struct stream *s = stream_of(context, frame->hd.stream_id);
  const char *key = (const char *)name, *text = (const char *)value; /* nghttp2 terminates both */
  if (strcmp(key, ":status") == 0) s->status = atoi(text);
  if (strcmp(key, "content-type") == 0) snprintf(s->content_type, sizeof s->content_type, "%s", text);
  if (strcmp(key, "content-encoding") == 0) snprintf(s->content_encoding, sizeof s->content_encoding, "%s", text);
  if (strcmp(key, "content-length") == 0) snprintf(s->length, sizeof s->length, "%s", text);
  if (strcmp(key, "grpc-status") == 0) snprintf(s->trailer, sizeof s->trailer, "%s", text);
  return 0;
}

static int client_on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *context) {
  struct http2_client *h = context;
  if (frame->hd.type == NGHTTP2_GOAWAY) {
    h->n_goaways++;
    h->goaway_code = frame->goaway.error_code;
    h->goaway_last = frame->goaway.last_stream_id;
  }
  if (frame->hd.type == NGHTTP2_PING && (frame->hd.flags & NGHTTP2_FLAG_ACK)) h->n_pings++;
  if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
  struct stream *s = stream_of(h, frame->hd.stream_id);
  if (frame->hd.type == NGHTTP2_HEADERS) {
    if (s->status == 100)
      s->interim = true;
    else
      s->n_headers++;
  }
  if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) {
    s->ended = true;
    s->ended_by_headers = frame->hd.type == NGHTTP2_HEADERS;
  }
  return 0;
}

static int client_on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t size,
                          void *context) {
  assert_int_equal(buffer_append(&stream_of(context, id)->body, data, size), MU_OK);
  return 0;
}

static int client_on_close(nghttp2_session *session, int32_t id, uint32_t error_code, void *context) {
  struct stream *s = stream_of(context, id);
  s->closed = true;
  s->error_code = error_code;
  return 0;
}

static ssize_t client_read_body(nghttp2_session *session, int32_t id, uint8_t *out, size_t length, uint32_t *flags,
                                nghttp2_data_source *source, void *context) {
  struct stream *s = stream_of(context, id);
  size_t n = s->size - s->at < length ? s->size - s->at : length;
  if (n == 0 && s->held_open) return NGHTTP2_ERR_DEFERRED;
  memcpy(out, s->data + s->at, n);
  s->at += n;
  if (s->at == s->size && !s->held_open) *flags |= NGHTTP2_DATA_FLAG_EOF;
  return (ssize_t)n;
}

UNUSED static void http2_connect_with(struct http2_client *h, struct fixture *f, const nghttp2_settings_entry *settings,
                                      size_t n_settings) {
  *h = (struct http2_client){.goaway_last = -1, .manual_windows = h->manual_windows};
  for (size_t i = 0; i < STREAMS_MOST; i++) buffer_init(&h->streams[i].body, SIZE_MAX / 2);
  nghttp2_session_callbacks *callbacks;
  nghttp2_option *option;
  assert_int_equal(nghttp2_session_callbacks_new(&callbacks), 0);
  assert_int_equal(nghttp2_option_new(&option), 0);
  nghttp2_option_set_no_auto_window_update(option, h->manual_windows);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, client_on_header);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, client_on_frame);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, client_on_data);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, client_on_close);
  assert_int_equal(nghttp2_session_client_new2(&h->session, callbacks, h, option), 0);
  nghttp2_session_callbacks_del(callbacks);
  nghttp2_option_del(option);
  client_connect(&h->c, f);
  assert_int_equal(nghttp2_submit_settings(h->session, 0, settings, n_settings), 0);
}

UNUSED static void http2_connect(struct http2_client *h, struct fixture *f) { http2_connect_with(h, f, NULL, 0); }

UNUSED static void http2_free(struct http2_client *h) {
  nghttp2_session_del(h->session);
  for (size_t i = 0; i < STREAMS_MOST; i++) buffer_free(&h->streams[i].body);
  client_free(&h->c);
}

/* Sends what the session wants to send, takes what has come. */
UNUSED static void http2_pump(struct http2_client *h) {
  const uint8_t *data;
  for (ssize_t n; (n = nghttp2_session_mem_send(h->session, &data)) > 0;) client_send(&h->c, data, (size_t)n);
  client_receive(&h->c);
  if (h->c.in.size > 0)
    assert_int_equal(nghttp2_session_mem_recv(h->session, (uint8_t *)h->c.in.data, h->c.in.size), h->c.in.size);
  buffer_clear(&h->c.in);
}

#define HTTP2_UNTIL(h, condition) TURN_UNTIL((h)->c.fixture, (http2_pump(h), (condition)))

struct pair {
  const char *name, *value;
};

/* A request; data NULL: none. Returns the stream's number. */
UNUSED static int32_t http2_request(struct http2_client *h, const char *method, const char *path, const void *data,
                                    size_t size, bool held_open, const struct pair *more, size_t n_more) {
  nghttp2_nv pairs[32];
  const struct pair usual[] = {{":method", method}, {":path", path}, {":scheme", "http"}, {":authority", "h:1"}};
  size_t n = 0;
  for (size_t i = 0; i < 4 + n_more; i++) {
    const struct pair *pair = i < 4 ? &usual[i] : &more[i - 4];
    pairs[n++] = (nghttp2_nv){(uint8_t *)(uintptr_t)pair->name, (uint8_t *)(uintptr_t)pair->value, strlen(pair->name),
                              strlen(pair->value), 0};
  }
  nghttp2_data_provider provider = {.read_callback = client_read_body};
  int32_t id =
      nghttp2_session_get_next_stream_id(h->session) > 0 ? (int32_t)nghttp2_session_get_next_stream_id(h->session) : -1;
  struct stream *s = stream_of(h, id);
  s->data = data;
  s->size = size;
  s->held_open = held_open;
  assert_int_equal(nghttp2_submit_request(h->session, NULL, pairs, n, data == NULL ? NULL : &provider, NULL), id);
  return id;
}

UNUSED static int32_t http2_get(struct http2_client *h, const char *path) {
  return http2_request(h, "GET", path, NULL, 0, false, NULL, 0);
}
UNUSED static int32_t http2_post(struct http2_client *h, const char *path, const void *data, size_t size) {
  return http2_request(h, "POST", path, data, size, false, NULL, 0);
}

UNUSED static void http2_expect(struct http2_client *h, int32_t id, int status, const char *body) {
  struct stream *s = stream_of(h, id);
  HTTP2_UNTIL(h, s->closed || h->c.closed);
  if (s->status != status) fail_msg("status %d, not %d: %s", s->status, status, buffer_text(&s->body));
  if (body != NULL) assert_string_equal(buffer_text(&s->body), body);
}

/* A raw frame. */
UNUSED static void http2_frame(struct client *c, uint8_t type, uint8_t flags, uint32_t id, const void *data,
                               size_t size) {
  uint8_t head[9] = {(uint8_t)(size >> 16), (uint8_t)(size >> 8), (uint8_t)size,      type,       flags,
                     (uint8_t)(id >> 24),   (uint8_t)(id >> 16),  (uint8_t)(id >> 8), (uint8_t)id};
  client_send(c, head, sizeof head);
  if (size > 0) client_send(c, data, size);
}

/* GET / with the static table: four bytes of HPACK, and the authority as a literal. */
static const uint8_t get_root[] = {0x82, 0x84, 0x86, 0x41, 0x01, 'h'};

UNUSED static void http2_raw_connect(struct client *c, struct fixture *f) {
  client_connect(c, f);
  client_send(c, PREFACE, sizeof PREFACE - 1);
  http2_frame(c, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
}

/* The error code of the first frame of this type (RST_STREAM, GOAWAY) that has come; -1: none. */
UNUSED static int64_t http2_raw_error(struct client *c, uint8_t type) {
  client_receive(c);
  const uint8_t *data = (const uint8_t *)c->in.data;
  for (size_t at = 0; at + 9 <= c->in.size;) {
    size_t size = (size_t)data[at] << 16 | (size_t)data[at + 1] << 8 | data[at + 2];
    if (at + 9 + size > c->in.size) return -1;
    const uint8_t *code = data + at + 9 + (type == NGHTTP2_GOAWAY ? 4 : 0);
    if (data[at + 3] == type)
      return (int64_t)((uint32_t)code[0] << 24 | (uint32_t)code[1] << 16 | (uint32_t)code[2] << 8 | code[3]);
    at += 9 + size;
  }
  return -1;
}

#endif
