/*
 * llhttp reads heads. Where lines, heads, bodies and chunks end is decided here, by a small machine that is walked a
 * line or a run of body bytes at a time and refuses whatever llhttp would let pass in its loose mode: the mode is a
 * compile-time choice of the distribution, and two readers of one stream that disagree about where a message ends are
 * how requests are smuggled (RFC 9112 sections 2.2, 5.1, 6.3 and 11.2).
 *
 * Because each piece ends where a step ends, an event that says "stop" is obeyed between two pieces and llhttp never
 * has to be paused inside of one.
 */
#include "proto/http1/http1_codec.h"

#include <llhttp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
  CHUNK_LINE_LIMIT = 256, /* a chunk's size and extensions; nobody needs extensions */
  TEXT_KEPT = 4096        /* of the memory for names and values, between two messages */
};

enum step {
  STEP_START,
  STEP_FIELD,
  STEP_BODY,
  STEP_CHUNK_SIZE,
  STEP_CHUNK_DATA,
  STEP_CHUNK_END,
  STEP_TRAILER,
  STEP_OVER
};

enum { SEEN_CONTENT_LENGTH = 1, SEEN_TRANSFER_ENCODING = 2, SEEN_HOST = 4 };

struct http1_codec {
  llhttp_t parser;
  struct http1_events events;
  void *context;
  bool client;
  enum step step;

  /* the line being read */
  size_t line_size;
  bool cr;        /* its last byte so far was a CR */
  bool past_name; /* behind the colon of a field, behind the number of a chunk size */
  int spaces;     /* in the request line */

  /* the message being read */
  size_t head_size, head_limit;
  uint64_t left; /* of the body (UINT64_MAX: until the connection ends) or of the chunk */
  int seen;      /* SEEN_* */
  bool head_done, end_due, keep_alive, expect_continue, begun;
  struct buffer text; /* the target, then name and value of the field in work; each terminated */
  size_t target_size, name_size;

  bool stop; /* an event wants feed to return */

  /* why the stream cannot be read further; sticky */
  mu_status fault;
  int fault_http;
  const char *fault_text;
};

static mu_status refuse(struct http1_codec *c, mu_status status, int http, const char *text) {
  if (c->fault == MU_OK) {
    c->fault = status;
    c->fault_http = http;
    c->fault_text = text;
  }
  return c->fault;
}

static mu_status refuse_form(struct http1_codec *c, const char *text) { return refuse(c, MU_INVALID, 400, text); }

/* ---- fields that decide where the message ends ------------------------------------------------------------------- */

static mu_status once(struct http1_codec *c, int which, const char *text) {
  if (c->seen & which) return refuse_form(c, text);
  c->seen |= which;
  return MU_OK;
}

static mu_status check_content_length(struct http1_codec *c, const char *value, size_t size) {
  for (size_t i = 0; i < size; i++)
    if (value[i] < '0' || value[i] > '9') return refuse_form(c, "Content-Length is not a number");
  if (size == 0) return refuse_form(c, "Content-Length is empty");
  return once(c, SEEN_CONTENT_LENGTH, "more than one Content-Length");
}

static mu_status check_transfer_encoding(struct http1_codec *c, const char *value, size_t size) {
  if (size != 7 || strncasecmp(value, "chunked", 7) != 0)
    return refuse_form(c, "the only Transfer-Encoding understood is chunked");
  return once(c, SEEN_TRANSFER_ENCODING, "more than one Transfer-Encoding");
}

static mu_status check_host(struct http1_codec *c, const char *value, size_t size) {
  return c->client ? MU_OK : once(c, SEEN_HOST, "more than one Host");
}

static mu_status check_expect(struct http1_codec *c, const char *value, size_t size) {
  if (c->client) return MU_OK;
  if (size != 12 || strncasecmp(value, "100-continue", 12) != 0)
    return refuse(c, MU_UNSUPPORTED, 417, "the only Expect understood is 100-continue");
  c->expect_continue = true;
  return MU_OK;
}

static const struct {
  const char *name;
  size_t size;
  mu_status (*check)(struct http1_codec *c, const char *value, size_t size);
} checked_fields[] = {
    {"host", 4, check_host},
    {"content-length", 14, check_content_length},
    {"transfer-encoding", 17, check_transfer_encoding},
    {"expect", 6, check_expect},
};

/* ---- what llhttp reports ----------------------------------------------------------------------------------------- */

static struct http1_codec *codec_of(llhttp_t *parser) { return parser->data; }

static int collect(struct http1_codec *c, const char *at, size_t size) {
  mu_status status = buffer_append(&c->text, at, size);
  if (status == MU_OK) return 0;
  refuse(c, status, 503, "no memory for the head");
  return -1;
}

static int terminate(struct http1_codec *c) { return collect(c, "", 1); }

static int on_url(llhttp_t *parser, const char *at, size_t size) { return collect(codec_of(parser), at, size); }

static int on_url_complete(llhttp_t *parser) {
  struct http1_codec *c = codec_of(parser);
  if (terminate(c) != 0) return -1;
  c->target_size = c->text.size;
  return 0;
}

static int on_header_field(llhttp_t *parser, const char *at, size_t size) {
  struct http1_codec *c = codec_of(parser);
  size_t from = c->text.size;
  if (collect(c, at, size) != 0) return -1;
  for (size_t i = from; i < c->text.size; i++)
    if (c->text.data[i] >= 'A' && c->text.data[i] <= 'Z') c->text.data[i] = (char)(c->text.data[i] | 0x20);
  return 0;
}

static int on_header_field_complete(llhttp_t *parser) {
  struct http1_codec *c = codec_of(parser);
  c->name_size = c->text.size - c->target_size;
  return terminate(c);
}

static int on_header_value(llhttp_t *parser, const char *at, size_t size) {
  return collect(codec_of(parser), at, size);
}

static int on_header_value_complete(llhttp_t *parser) {
  struct http1_codec *c = codec_of(parser);
  size_t value_at = c->target_size + c->name_size + 1;
  while (c->text.size > value_at && (c->text.data[c->text.size - 1] == ' ' || c->text.data[c->text.size - 1] == '\t'))
    c->text.size--;
  size_t value_size = c->text.size - value_at;
  if (terminate(c) != 0) return -1;
  const char *name = c->text.data + c->target_size, *value = c->text.data + value_at;
  for (size_t i = 0; i < sizeof checked_fields / sizeof *checked_fields; i++)
    if (checked_fields[i].size == c->name_size && memcmp(checked_fields[i].name, name, c->name_size) == 0 &&
        checked_fields[i].check(c, value, value_size) != MU_OK)
      return -1;
  if (c->events.header != NULL) c->events.header(c->context, name, c->name_size, value, value_size);
  c->text.size = c->target_size;
  return 0;
}

/* The checks that need the whole head. */
static mu_status check_head(struct http1_codec *c) {
  const llhttp_t *p = &c->parser;
  bool http10 = p->http_major == 1 && p->http_minor == 0;
  if (!http10 && !(p->http_major == 1 && p->http_minor == 1))
    return refuse(c, MU_UNSUPPORTED, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
  if ((c->seen & SEEN_CONTENT_LENGTH) && (c->seen & SEEN_TRANSFER_ENCODING))
    return refuse_form(c, "both Content-Length and Transfer-Encoding");
  if (http10 && (c->seen & SEEN_TRANSFER_ENCODING)) return refuse_form(c, "Transfer-Encoding in HTTP/1.0");
  if (c->client) return MU_OK;
  if (p->method == HTTP_CONNECT) return refuse(c, MU_UNSUPPORTED, 501, "CONNECT is not supported");
  if (!http10 && !(c->seen & SEEN_HOST)) return refuse_form(c, "Host is missing");
  if (http10) c->expect_continue = false; /* RFC 9110 section 10.1.1 */
  return MU_OK;
}

enum { HEAD_ONLY = 1 }; /* tells llhttp that no body follows, so that the next byte it gets starts a head */

static int on_headers_complete(llhttp_t *parser) {
  struct http1_codec *c = codec_of(parser);
  if (check_head(c) != MU_OK) return -1;
  if ((c->seen & SEEN_CONTENT_LENGTH) &&
      parser->content_length == UINT64_MAX) { /* which means here that none is known */
    refuse_form(c, "Content-Length overflow");
    return -1;
  }
  /* An offer to upgrade is one that a server may pass over (RFC 9110 section 7.8), and clients do offer h2c unasked. */
  parser->upgrade = 0;
  c->head_done = true;
  c->keep_alive = llhttp_should_keep_alive(parser) != 0;
  if (c->seen & SEEN_TRANSFER_ENCODING)
    c->step = STEP_CHUNK_SIZE;
  else
    c->step = STEP_BODY;
  c->left = 0;
  if (c->step == STEP_BODY) c->left = llhttp_message_needs_eof(parser) ? UINT64_MAX : parser->content_length;
  return HEAD_ONLY;
}

static const llhttp_settings_t settings = {
    .on_url = on_url,
    .on_url_complete = on_url_complete,
    .on_header_field = on_header_field,
    .on_header_field_complete = on_header_field_complete,
    .on_header_value = on_header_value,
    .on_header_value_complete = on_header_value_complete,
    .on_headers_complete = on_headers_complete,
};

static mu_status parse(struct http1_codec *c, const uint8_t *data, size_t size) {
  llhttp_errno_t error = llhttp_execute(&c->parser, (const char *)data, size);
  if (c->fault != MU_OK || error == HPE_OK) return c->fault;
  if (error == HPE_INVALID_VERSION) return refuse(c, MU_UNSUPPORTED, 505, "unknown HTTP version");
  const char *reason = llhttp_get_error_reason(&c->parser);
  return refuse_form(c, reason != NULL ? reason : "malformed");
}

/* ---- lines ------------------------------------------------------------------------------------------------------- */

static bool is_text(uint8_t byte) { return (byte >= 0x20 && byte != 0x7f) || byte == '\t'; }

static bool is_hex(uint8_t byte) {
  return (byte >= '0' && byte <= '9') || ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'f');
}

static uint64_t hex_value(uint8_t digit) {
  return digit <= '9' ? (uint64_t)(digit - '0') : (uint64_t)((digit | 0x20) - 'a' + 10);
}

/* tchar of RFC 9110 section 5.6.2 */
static const bool is_token[256] = {
    ['!'] = true,         ['#' ... '\''] = true, ['*'] = true,         ['+'] = true,         ['-'] = true, ['.'] = true,
    ['0' ... '9'] = true, ['A' ... 'Z'] = true,  ['^' ... '`'] = true, ['a' ... 'z'] = true, ['|'] = true, ['~'] = true,
};

/* METHOD SP target SP HTTP/1.x in visible ASCII, or a status line. */
static mu_status check_start_line(struct http1_codec *c, const uint8_t *text, size_t size) {
  if (size > 0 && c->line_size == 0 && text[0] == 0x16)
    return refuse_form(c, "this looks like TLS, which this port does not speak");
  for (size_t i = 0; i < size; i++) {
    if (!is_text(text[i]) || (!c->client && (text[i] == '\t' || text[i] >= 0x80)))
      return refuse_form(c, "byte in the first line that cannot be there");
    c->spaces += text[i] == ' ';
  }
  if (c->spaces > 2 && !c->client) return refuse_form(c, "more than two spaces in the request line");
  return MU_OK;
}

/* name ":" value. Only the first byte of a line can show that it continues the one before. */
static mu_status check_field_line(struct http1_codec *c, const uint8_t *text, size_t size) {
  size_t i = 0;
  if (size > 0 && c->line_size == 0 && (text[0] == ' ' || text[0] == '\t'))
    return refuse_form(c, "folded header lines are obsolete");
  while (!c->past_name && i < size) {
    if (text[i] == ':' && c->line_size + i > 0)
      c->past_name = true;
    else if (!is_token[text[i]])
      return refuse_form(c, "byte in a header's name that cannot be there");
    i++;
  }
  for (; i < size; i++)
    if (!is_text(text[i])) return refuse_form(c, "byte in a header's value that cannot be there");
  return MU_OK;
}

/* hex digits, then nothing or ";" and extensions, which mean nothing to us */
static mu_status check_chunk_line(struct http1_codec *c, const uint8_t *text, size_t size) {
  if (c->line_size + size > CHUNK_LINE_LIMIT) return refuse_form(c, "chunk extensions are too long");
  for (size_t i = 0; i < size; i++) {
    if (!c->past_name && text[i] == ';' && c->line_size + i > 0) c->past_name = true;
    if (c->past_name ? !is_text(text[i]) : !is_hex(text[i])) return refuse_form(c, "malformed chunk size");
    if (c->past_name) continue;
    if (c->left > UINT64_MAX >> 4) return refuse_form(c, "chunk size past any number");
    c->left = c->left << 4 | hex_value(text[i]);
  }
  return MU_OK;
}

static mu_status check_empty_line(struct http1_codec *c, const uint8_t *text, size_t size) {
  return size == 0 ? MU_OK : refuse_form(c, "a chunk is longer than its size says");
}

static void report_head(struct http1_codec *c) {
  uint64_t length = c->step == STEP_CHUNK_SIZE ? UINT64_MAX : c->left;
  const char *method = c->client ? NULL : llhttp_method_name(c->parser.method);
  c->end_due = length == 0;
  if (!c->events.head(c->context, method, c->client ? NULL : c->text.data, c->client ? c->parser.status_code : 0,
                      length, c->keep_alive, c->expect_continue))
    c->stop = true;
}

static mu_status start_line_over(struct http1_codec *c) {
  if (c->line_size == 2) return MU_OK; /* an empty line ahead of a request is skipped: RFC 9112 section 2.2 */
  if (!c->client && c->parser.method == HTTP_PRI) return refuse(c, MU_UNSUPPORTED, 505, "HTTP/2 is not spoken here");
  c->step = STEP_FIELD;
  return MU_OK;
}

static mu_status field_line_over(struct http1_codec *c) {
  if (c->line_size > 2 && !c->past_name) return refuse_form(c, "header line without a colon");
  if (c->head_done) report_head(c);
  return MU_OK;
}

static mu_status chunk_line_over(struct http1_codec *c) {
  if (c->line_size == 2) return refuse_form(c, "chunk size is missing");
  c->step = c->left > 0 ? STEP_CHUNK_DATA : STEP_TRAILER;
  return MU_OK;
}

static mu_status chunk_end_over(struct http1_codec *c) {
  c->step = STEP_CHUNK_SIZE;
  return MU_OK;
}

static mu_status trailer_line_over(struct http1_codec *c) {
  if (c->line_size > 2 && !c->past_name) return refuse_form(c, "trailer line without a colon");
  c->end_due = c->line_size == 2;
  return MU_OK;
}

/* How a line is read in each step that reads lines. */
static const struct line_rule {
  mu_status (*check)(struct http1_codec *c, const uint8_t *text, size_t size);
  mu_status (*over)(struct http1_codec *c);
  bool limited; /* counts against the limit of the head */
  bool parsed;  /* is for llhttp to read */
} line_rules[] = {
    [STEP_START] = {check_start_line, start_line_over, true, true},
    [STEP_FIELD] = {check_field_line, field_line_over, true, true},
    [STEP_CHUNK_SIZE] = {check_chunk_line, chunk_line_over, false, false},
    [STEP_CHUNK_END] = {check_empty_line, chunk_end_over, false, false},
    [STEP_TRAILER] = {check_field_line, trailer_line_over, true, false},
    [STEP_OVER] = {0},
};

/* Up to the end of the line, or all there is of it. Lines end with CR LF and contain neither otherwise. */
static mu_status take_line(struct http1_codec *c, const uint8_t *data, size_t size, size_t *ret_taken) {
  const struct line_rule *rule = &line_rules[c->step];
  const uint8_t *lf = memchr(data, '\n', size);
  size_t taken = lf != NULL ? (size_t)(lf - data) + 1 : size, text = lf != NULL ? taken - 1 : taken;
  bool cr = text > 0 ? data[text - 1] == '\r' : c->cr;
  if (c->cr && text > 0) return refuse_form(c, "CR without LF");
  if (lf != NULL && !cr) return refuse_form(c, "LF without CR");
  if (text > 0 && cr) text--;
  if (rule->limited && (c->head_size += taken) > c->head_limit)
    return refuse(c, MU_TOO_LARGE, 431, "request line and headers are too long");
  mu_status status = rule->check(c, data, text);
  if (status != MU_OK) return status;
  c->cr = cr;
  c->line_size += taken;
  if (c->step == STEP_START && text > 0) c->begun = true;
  if (rule->parsed) status = parse(c, data, taken);
  if (status != MU_OK) return status;
  *ret_taken = taken;
  if (lf == NULL) return MU_OK;
  status = rule->over(c);
  c->line_size = 0;
  c->cr = c->past_name = false;
  c->spaces = 0;
  return status;
}

/* ---- bodies and the whole ---------------------------------------------------------------------------------------- */

static mu_status take_body(struct http1_codec *c, const uint8_t *data, size_t size, size_t *ret_taken) {
  size_t taken = size < c->left ? size : (size_t)c->left;
  if (c->left != UINT64_MAX) c->left -= taken;
  if (c->left == 0 && c->step == STEP_CHUNK_DATA) c->step = STEP_CHUNK_END;
  c->end_due = c->left == 0 && c->step == STEP_BODY;
  *ret_taken = taken;
  if (!c->events.body(c->context, data, taken)) c->stop = true;
  return MU_OK;
}

/* After a message that ends the connection nothing that follows is looked at. */
static mu_status take_nothing(struct http1_codec *c, const uint8_t *data, size_t size, size_t *ret_taken) {
  *ret_taken = size;
  return MU_OK;
}

static mu_status (*const takers[])(struct http1_codec *c, const uint8_t *data, size_t size, size_t *ret_taken) = {
    [STEP_START] = take_line,      [STEP_FIELD] = take_line,      [STEP_BODY] = take_body,
    [STEP_CHUNK_SIZE] = take_line, [STEP_CHUNK_DATA] = take_body, [STEP_CHUNK_END] = take_line,
    [STEP_TRAILER] = take_line,    [STEP_OVER] = take_nothing,
};

static void message_over(struct http1_codec *c) {
  c->step = c->keep_alive ? STEP_START : STEP_OVER;
  c->head_size = c->target_size = c->name_size = 0;
  c->left = 0;
  c->seen = 0;
  c->head_done = c->end_due = c->keep_alive = c->expect_continue = c->begun = false;
  if (c->text.capacity > TEXT_KEPT) buffer_free(&c->text);
  buffer_clear(&c->text);
  if (!c->events.end(c->context)) c->stop = true;
}

mu_status http1_codec_feed(struct http1_codec *codec, const uint8_t *data, size_t size, size_t *ret_used,
                           int *ret_http_status, mu_error *err) {
  size_t used = 0;
  mu_status status = codec->fault;
  codec->stop = false;
  while (status == MU_OK && !codec->stop) {
    if (codec->end_due)
      message_over(codec);
    else if (used == size)
      break;
    else {
      size_t taken = 0;
      status = takers[codec->step](codec, data + used, size - used, &taken);
      used += taken;
    }
  }
  if (status != MU_OK) {
    *ret_http_status = codec->fault_http;
    return mu_fail(err, status, "%s", codec->fault_text);
  }
  *ret_used = used;
  return MU_OK;
}

mu_status http1_codec_finish(struct http1_codec *codec, mu_error *err) {
  if (codec->fault == MU_OK && codec->step == STEP_BODY && codec->left == UINT64_MAX) {
    message_over(codec);
    return MU_OK;
  }
  if (!http1_codec_busy(codec)) return MU_OK;
  return mu_fail(err, MU_INVALID, "the connection ended in the middle of a message");
}

struct http1_codec *http1_codec_create(bool client, const struct http1_events *events, void *context,
                                       size_t head_limit) {
  struct http1_codec *codec = calloc(1, sizeof *codec);
  if (codec == NULL) return NULL;
  llhttp_init(&codec->parser, client ? HTTP_RESPONSE : HTTP_REQUEST, &settings);
  codec->parser.data = codec;
  codec->events = *events;
  codec->context = context;
  codec->client = client;
  codec->head_limit = head_limit;
  /* twice: a line's bytes are counted before they are collected, terminators are not counted at all */
  buffer_init(&codec->text, head_limit > SIZE_MAX / 4 ? SIZE_MAX / 2 : 2 * head_limit + 64);
  return codec;
}

void http1_codec_free(struct http1_codec *codec) {
  if (codec == NULL) return;
  buffer_free(&codec->text);
  free(codec);
}

uint64_t http1_codec_body_left(const struct http1_codec *codec) {
  return codec->step == STEP_BODY && codec->left != UINT64_MAX ? codec->left : 0;
}

bool http1_codec_is_1_0(const struct http1_codec *codec) {
  return codec->parser.http_major == 1 && codec->parser.http_minor == 0;
}

bool http1_codec_busy(const struct http1_codec *codec) { return codec->begun; }
