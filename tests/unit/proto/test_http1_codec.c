#include "proto/http1/http1_codec.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- a codec whose events become a transcript -------------------------------------------------------------------- */

struct recorder {
  struct buffer text;
  bool body_open;                         /* parts of a body are joined: how it was cut must not show */
  bool stop_head, stop_body, stop_end;    /* answers of the events */
  const uint8_t *body_data;               /* where the last part lay */
  size_t body_parts, heads, messages_end; /* counts */
};

static void close_body(struct recorder *r) {
  if (r->body_open) buffer_putc(&r->text, '\n');
  r->body_open = false;
}

static bool on_head(void *context, const char *method, const char *target, int status, uint64_t length, bool keep_alive,
                    bool expect) {
  struct recorder *r = context;
  r->heads++;
  if (status > 0)
    buffer_print(&r->text, "RESPONSE %d", status);
  else
    buffer_print(&r->text, "%s %s", method, target);
  if (length == UINT64_MAX)
    buffer_puts(&r->text, " length=?");
  else
    buffer_print(&r->text, " length=%llu", (unsigned long long)length);
  buffer_print(&r->text, "%s%s\n", keep_alive ? " keep" : " close", expect ? " expect" : "");
  return !r->stop_head;
}

static void on_header(void *context, const char *name, size_t name_size, const char *value, size_t value_size) {
  struct recorder *r = context;
  assert_int_equal(strlen(name), name_size);
  assert_int_equal(strlen(value), value_size);
  buffer_print(&r->text, "%s=[%s]\n", name, value);
}

static bool on_body(void *context, const uint8_t *data, size_t size) {
  struct recorder *r = context;
  assert_true(size > 0);
  if (!r->body_open) buffer_puts(&r->text, "body:");
  r->body_open = true;
  r->body_data = data;
  r->body_parts++;
  buffer_append(&r->text, data, size);
  return !r->stop_body;
}

static bool on_end(void *context) {
  struct recorder *r = context;
  close_body(r);
  r->messages_end++;
  buffer_puts(&r->text, "end\n");
  return !r->stop_end;
}

static const struct http1_events recording = {.head = on_head, .header = on_header, .body = on_body, .end = on_end};

static void recorder_init(struct recorder *r) {
  *r = (struct recorder){0};
  buffer_init(&r->text, 1 << 20);
}

static const char *transcript(struct recorder *r) {
  close_body(r);
  assert_false(r->text.failed);
  return buffer_text(&r->text);
}

struct outcome {
  mu_status status;
  int http;
  size_t used;
  mu_error error;
};

static struct outcome feed(struct http1_codec *codec, const char *data, size_t size) {
  struct outcome out = {0};
  /* memory of exactly this size, so that a read past it is seen by the sanitizer */
  uint8_t *copy = malloc(size == 0 ? 1 : size);
  assert_non_null(copy);
  memcpy(copy, data, size);
  out.status = http1_codec_feed(codec, copy, size, &out.used, &out.http, &out.error);
  free(copy);
  return out;
}

/* Feeds text in parts of at most `part` bytes, the first one of `first`; returns the transcript (to be freed). */
static char *run(bool client, const char *text, size_t size, size_t first, size_t part, struct outcome *ret) {
  struct recorder r;
  recorder_init(&r);
  struct http1_codec *codec = http1_codec_create(client, &recording, &r, 4096);
  assert_non_null(codec);
  *ret = (struct outcome){0};
  for (size_t at = 0; at < size && ret->status == MU_OK;) {
    size_t n = at == 0 && first > 0 ? first : part;
    if (n > size - at) n = size - at;
    *ret = feed(codec, text + at, n);
    if (ret->status == MU_OK) assert_int_equal(ret->used, n);
    at += n;
  }
  char *copy = strdup(transcript(&r));
  assert_non_null(copy);
  buffer_free(&r.text);
  http1_codec_free(codec);
  return copy;
}

/* The same events however the bytes are cut. */
static void expect_events(bool client, const char *text, size_t size, const char *expected) {
  struct outcome out;
  char *whole = run(client, text, size, 0, size, &out);
  if (out.status != MU_OK) print_error("%s\n", out.error.message);
  assert_int_equal(out.status, MU_OK);
  assert_string_equal(whole, expected);
  free(whole);
  for (size_t cut = 1; cut < size; cut++) {
    char *halves = run(client, text, size, cut, size, &out);
    assert_int_equal(out.status, MU_OK);
    assert_string_equal(halves, expected);
    free(halves);
  }
  char *bytes = run(client, text, size, 0, 1, &out);
  assert_int_equal(out.status, MU_OK);
  assert_string_equal(bytes, expected);
  free(bytes);
}

#define EVENTS(text, expected) expect_events(false, text, sizeof(text) - 1, expected)
#define RESPONSE_EVENTS(text, expected) expect_events(true, text, sizeof(text) - 1, expected)

/* ---- well-formed ------------------------------------------------------------------------------------------------- */

static void requests(void **state) {
  EVENTS("GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n", "host=[a]\nGET /v2 length=0 keep\nend\n");
  EVENTS("GET / HTTP/1.0\r\n\r\n", "GET / length=0 close\nend\n");
  EVENTS("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "connection=[keep-alive]\nGET / length=0 keep\nend\n");
  EVENTS("HEAD /x?y=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
         "host=[a]\nconnection=[close]\nHEAD /x?y=1 length=0 close\nend\n");
  EVENTS("POST /i HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
         "host=[a]\ncontent-length=[5]\nPOST /i length=5 keep\nbody:hello\nend\n");
  EVENTS("POST /i HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
         "host=[a]\ncontent-length=[0]\nPOST /i length=0 keep\nend\n");
  EVENTS("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "host=[a]\nGET / length=0 keep\nend\n");
  EVENTS("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "host=[a]\nOPTIONS * length=0 keep\nend\n");
}

static void header_values(void **state) {
  EVENTS("GET / HTTP/1.1\r\nHost:a\r\nX-Mixed-CASE: \t padded out \t \r\nEmpty:\r\nBlank:   \r\nObs: \xc3\xa9\r\n\r\n",
         "host=[a]\nx-mixed-case=[padded out]\nempty=[]\nblank=[]\nobs=[\xc3\xa9]\nGET / length=0 keep\nend\n");
  EVENTS("POST / HTTP/1.1\r\nhost:a\r\ncontent-length: 1 \r\n\r\n!",
         "host=[a]\ncontent-length=[1]\nPOST / length=1 keep\nbody:!\nend\n");
  EVENTS("POST / HTTP/1.1\r\nhost:a\r\nexpect: 100-Continue\r\ncontent-length: 1\r\n\r\n!",
         "host=[a]\nexpect=[100-Continue]\ncontent-length=[1]\nPOST / length=1 keep expect\nbody:!\nend\n");
  /* an expectation of an HTTP/1.0 client is none */
  EVENTS("POST / HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n!",
         "expect=[100-continue]\ncontent-length=[1]\nPOST / length=1 close\nbody:!\nend\n");
}

static void chunked(void **state) {
#define HEAD "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
#define HEAD_EVENTS "host=[a]\ntransfer-encoding=[chunked]\nPOST /c length=? keep\n"
  EVENTS(HEAD "5\r\nhello\r\n0\r\n\r\n", HEAD_EVENTS "body:hello\nend\n");
  EVENTS(HEAD "3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", HEAD_EVENTS "body:hello\nend\n");
  EVENTS(HEAD "0\r\n\r\n", HEAD_EVENTS "end\n");
  EVENTS(HEAD "00000A\r\n0123456789\r\n000\r\n\r\n", HEAD_EVENTS "body:0123456789\nend\n");
  EVENTS(HEAD "a;name=value;other=\"q\"\r\n0123456789\r\n0;last\r\n\r\n", HEAD_EVENTS "body:0123456789\nend\n");
  EVENTS(HEAD "2\r\n\r\n\r\n0\r\n\r\n", HEAD_EVENTS "body:\r\n\nend\n"); /* the data looks like framing */
  EVENTS(HEAD "1\r\nx\r\n0\r\nTrailer-Field: dropped\r\nHost: twice\r\n\r\n", HEAD_EVENTS "body:x\nend\n");
  EVENTS(
      "POST / HTTP/1.1\r\nHost: a\r\nTRANSFER-ENCODING: Chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: "
      "b\r\n\r\n",
      "host=[a]\ntransfer-encoding=[Chunked]\nPOST / length=? keep\nbody:x\nend\nhost=[b]\nGET /2 length=0 "
      "keep\nend\n");
}

static void pipelined(void **state) {
  EVENTS(
      "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
      "GET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
      "host=[a]\nGET /1 length=0 keep\nend\nhost=[a]\ncontent-length=[2]\nPOST /2 length=2 keep\nbody:hi\nend\n"
      "host=[a]\nGET /3 length=0 keep\nend\n");
  /* what follows the last message of a connection is not looked at */
  EVENTS("GET /1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
         "host=[a]\nconnection=[close]\nGET /1 length=0 close\nend\n");
}

static void upgrade_is_passed_over(void **state) {
  EVENTS(
      "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n"
      "GET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
      "host=[a]\nconnection=[Upgrade, HTTP2-Settings]\nupgrade=[h2c]\nhttp2-settings=[AA]\nGET / length=0 keep\nend\n"
      "host=[a]\nGET /2 length=0 keep\nend\n");
}

static void responses(void **state) {
  RESPONSE_EVENTS("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
                  "content-length=[2]\nRESPONSE 200 length=2 keep\nbody:hi\nend\ncontent-length=[0]\n"
                  "RESPONSE 404 length=0 keep\nend\n");
  RESPONSE_EVENTS(
      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 All is well now\r\nTransfer-Encoding: chunked\r\n\r\n"
      "1\r\nx\r\n0\r\n\r\n",
      "RESPONSE 100 length=0 keep\nend\ntransfer-encoding=[chunked]\nRESPONSE 200 length=? keep\nbody:x\nend\n");
}

static void response_until_the_connection_ends(void **state) {
  struct recorder r;
  recorder_init(&r);
  struct http1_codec *codec = http1_codec_create(true, &recording, &r, 4096);
  assert_non_null(codec);
  const char text[] = "HTTP/1.0 200 OK\r\n\r\nall the rest";
  assert_int_equal(feed(codec, text, sizeof text - 1).status, MU_OK);
  assert_int_equal(http1_codec_body_left(codec), 0);
  assert_int_equal(http1_codec_finish(codec, NULL), MU_OK);
  assert_string_equal(transcript(&r), "RESPONSE 200 length=? close\nbody:all the rest\nend\n");
  http1_codec_free(codec);
  buffer_free(&r.text);
}

static void end_of_file(void **state) {
  static const struct {
    const char *text;
    mu_status status;
  } cases[] = {
      {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", MU_OK},
      {"", MU_OK},
      {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh", MU_INVALID},
      {"HTTP/1.1 200 OK\r\nContent", MU_INVALID},
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", MU_INVALID},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct recorder r;
    recorder_init(&r);
    struct http1_codec *codec = http1_codec_create(true, &recording, &r, 4096);
    assert_non_null(codec);
    assert_int_equal(feed(codec, cases[i].text, strlen(cases[i].text)).status, MU_OK);
    assert_int_equal(http1_codec_finish(codec, NULL), cases[i].status);
    http1_codec_free(codec);
    buffer_free(&r.text);
  }
}

/* ---- refused ----------------------------------------------------------------------------------------------------- */
#define H "Host: a\r\n"
#define CASE(text, http) \
  { text, sizeof(text) - 1, http }

static const struct {
  const char *text;
  size_t size;
  int http;
} refused[] = {
    /* where a message ends, said twice or unclearly */
    CASE("POST / HTTP/1.1\r\n" H "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    CASE("POST / HTTP/1.1\r\n" H "Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 400),
    CASE("POST / HTTP/1.1\r\n" H "Content-Length: 1, 1\r\n\r\na", 400),
    CASE("POST / HTTP/1.1\r\n" H "Content-Length: +1\r\n\r\na", 400),
    CASE("POST / HTTP/1.1\r\n" H "Content-Length: -1\r\n\r\na", 400),
    CASE("POST / HTTP/1.1\r\n" H "Content-Length: 0x1\r\n\r\na", 400),
    CASE("POST / HTTP/1.1\r\n" H "Content-Length: 1 1\r\n\r\na", 400),
    CASE("POST / HTTP/1.1\r\n" H "Content-Length: 1.0\r\n\r\na", 400),
    CASE("POST / HTTP/1.1\r\n" H "Content-Length:\r\n\r\n", 400),
    CASE("POST / HTTP/1.1\r\n" H "Content-Length: 18446744073709551615\r\n\r\n", 400),
    CASE("POST / HTTP/1.1\r\n" H "Content-Length: 18446744073709551616\r\n\r\n", 400),
    CASE("POST / HTTP/1.1\r\n" H "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    CASE("POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n", 400),
    CASE("POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    CASE("POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400),
    CASE("POST / HTTP/1.1\r\n" H "Transfer-Encoding: identity\r\n\r\n", 400),
    CASE("POST / HTTP/1.1\r\n" H "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    CASE("POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
    CASE("POST / HTTP/1.1\r\n" H "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    CASE("POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n", 400),
    CASE("POST / HTTP/1.1\r\n" H "Transfer-Encoding: \x0b"
         "chunked\r\n\r\n0\r\n\r\n",
         400),
    CASE("POST / HTTP/1.1\r\n" H "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 400),
    CASE("POST / HTTP/1.1\r\n" H "Transfer-Encoding:\r\n\r\n", 400),
    CASE("POST / HTTP/1.0\r\n" H "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    /* names that another reader would take for others */
    CASE("POST / HTTP/1.1\r\n" H "Content-Length : 1\r\n\r\na", 400),
    CASE("POST / HTTP/1.1\r\n" H "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", 400),
    CASE("POST / HTTP/1.1\r\n" H "Content Length: 1\r\n\r\na", 400),
    CASE("POST / HTTP/1.1\r\n" H "Content-Length\0: 1\r\n\r\na", 400),
    CASE("POST / HTTP/1.1\r\n" H ": empty\r\n\r\n", 400),
    CASE("POST / HTTP/1.1\r\n" H "no colon\r\n\r\n", 400),
    CASE("POST / HTTP/1.1\r\n" H "NoColon\r\n\r\n", 400),
    CASE("POST / HTTP/1.1\r\n" H "(comment): x\r\n\r\n", 400),
    CASE("POST / HTTP/1.1\r\n" H "caf\xc3\xa9: x\r\n\r\n", 400),
    /* line ends and folds */
    CASE("GET / HTTP/1.1\n" H "\r\n", 400),
    CASE("GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
    CASE("GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    CASE("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
    CASE("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", 400),
    CASE("GET / HTTP/1.1\rHost: a\r\n\r\n", 400),
    CASE("\nGET / HTTP/1.1\r\n" H "\r\n", 400),
    CASE("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
    CASE("GET / HTTP/1.1\r\nHost: a\r\n\tfolded\r\n\r\n", 400),
    CASE("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    CASE("POST / HTTP/1.1\r\n" H "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    /* bytes that do not belong */
    CASE("GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n", 400),
    CASE("GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", 400),
    CASE("GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", 400),
    CASE("GET /\0 HTTP/1.1\r\n" H "\r\n", 400),
    CASE("GET /a b HTTP/1.1\r\n" H "\r\n", 400),
    CASE("GET  / HTTP/1.1\r\n" H "\r\n", 400),
    CASE("GET\t/ HTTP/1.1\r\n" H "\r\n", 400),
    CASE("GET / HTTP/1.1 \r\n" H "\r\n", 400),
    CASE(" GET / HTTP/1.1\r\n" H "\r\n", 400),
    CASE("GET /\xc3\xa9 HTTP/1.1\r\n" H "\r\n", 400),
    CASE("get / HTTP/1.1\r\n" H "\r\n", 400),
    CASE("NONSENSE / HTTP/1.1\r\n" H "\r\n", 400),
    /* chunks */
    CASE(HEAD "5\nhello\r\n0\r\n\r\n", 400),
    CASE(HEAD "5\r\nhello\n0\r\n\r\n", 400),
    CASE(HEAD "5\r\nhello!\r\n0\r\n\r\n", 400),
    CASE(HEAD "5\r\nhelloX\r\n\r\n0\r\n\r\n", 400),
    CASE(HEAD "5 \r\nhello\r\n0\r\n\r\n", 400),
    CASE(HEAD " 5\r\nhello\r\n0\r\n\r\n", 400),
    CASE(HEAD "0x5\r\nhello\r\n0\r\n\r\n", 400),
    CASE(HEAD "-5\r\nhello\r\n0\r\n\r\n", 400),
    CASE(HEAD "+5\r\nhello\r\n0\r\n\r\n", 400),
    CASE(HEAD "5_\r\nhello\r\n0\r\n\r\n", 400),
    CASE(HEAD "\r\nhello\r\n0\r\n\r\n", 400),
    CASE(HEAD ";x\r\nhello\r\n0\r\n\r\n", 400),
    CASE(HEAD "10000000000000000\r\nhello\r\n0\r\n\r\n", 400),
    CASE(HEAD "5;a\0b\r\nhello\r\n0\r\n\r\n", 400),
    CASE(HEAD "5;a\rb\r\nhello\r\n0\r\n\r\n", 400),
    CASE(HEAD "0\r\n folded: x\r\n\r\n", 400),
    CASE(HEAD "0\r\nbad name: x\r\n\r\n", 400),
    CASE(HEAD "0\r\nX: y\n\r\n", 400),
    CASE(HEAD "0\r\nXY\r\n\r\n", 400),
    /* hosts */
    CASE("GET / HTTP/1.1\r\n\r\n", 400),
    CASE("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    /* other protocols and what is not done here */
    CASE("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    CASE("GET / HTTP/2.0\r\n" H "\r\n", 505),
    CASE("GET / HTTP/3.7\r\n" H "\r\n", 505),
    CASE("GET / HTTP/1.2\r\n" H "\r\n", 505),
    CASE("GET /\r\n\r\n", 505),
    CASE("GET / HTTP/0.9\r\n" H "\r\n", 505),
    CASE("GET / HTPT/1.1\r\n" H "\r\n", 400),
    CASE("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    CASE("CONNECT a:80 HTTP/1.1\r\n" H "\r\n", 501),
    CASE("POST / HTTP/1.1\r\n" H "Expect: 200-ok\r\nContent-Length: 1\r\n\r\n", 417),
};

/* Each is refused with its status, however it is cut, and nothing is taken for a message's end before. */
static void hostile_requests(void **state) {
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
    struct outcome out;
    for (size_t part = 1; part <= refused[i].size; part++) {
      char *events = run(false, refused[i].text, refused[i].size, part, part == 1 ? 1 : refused[i].size, &out);
      if (out.status == MU_OK || out.http != refused[i].http)
        fail_msg("case %zu cut at %zu: status %d, http %d (%s), expected http %d: %s\n%s", i, part, out.status,
                 out.http, out.error.message, refused[i].http, refused[i].text, events);
      assert_null(strstr(events, "end\n"));
      assert_true(out.error.message[0] != '\0');
      free(events);
    }
  }
}

static void error_stays(void **state) {
  struct recorder r;
  recorder_init(&r);
  struct http1_codec *codec = http1_codec_create(false, &recording, &r, 4096);
  assert_non_null(codec);
  assert_int_equal(feed(codec, "BAD\r\n", 5).status, MU_INVALID);
  const char good[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
  struct outcome out = feed(codec, good, sizeof good - 1);
  assert_int_equal(out.status, MU_INVALID);
  assert_int_equal(out.http, 400);
  assert_int_equal(r.heads, 0);
  http1_codec_free(codec);
  buffer_free(&r.text);
}

/* Head and trailers share the limit; the body does not count. */
static void head_limit(void **state) {
  static const char head[] = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300\r\n\r\n";
  char body[300];
  memset(body, 'x', sizeof body);
  for (size_t limit = sizeof head - 3; limit <= sizeof head; limit++) {
    struct recorder r;
    recorder_init(&r);
    struct http1_codec *codec = http1_codec_create(false, &recording, &r, limit);
    assert_non_null(codec);
    struct outcome out = feed(codec, head, sizeof head - 1);
    if (limit < sizeof head - 1) {
      assert_int_equal(out.status, MU_TOO_LARGE);
      assert_int_equal(out.http, 431);
    } else {
      assert_int_equal(out.status, MU_OK);
      assert_int_equal(feed(codec, body, sizeof body).status, MU_OK);
      assert_int_equal(r.messages_end, 1);
      assert_int_equal(feed(codec, head, sizeof head - 1).status, MU_OK); /* counted anew */
    }
    http1_codec_free(codec);
    buffer_free(&r.text);
  }
}

static void endless_heads(void **state) {
  static const struct {
    const char *start, *again;
  } cases[] = {
      {"GET /", "a"}, {"GET / HTTP/1.1\r\n", "A: b\r\n"}, {"GET / HTTP/1.1\r\nX", "x"}, {"GET / HTTP/1.1\r\nX:", "y"},
      {"", "\r\n"},   {HEAD "0\r\n", "A: b\r\n"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct recorder r;
    recorder_init(&r);
    struct http1_codec *codec = http1_codec_create(false, &recording, &r, 1024);
    assert_non_null(codec);
    struct outcome out = feed(codec, cases[i].start, strlen(cases[i].start));
    size_t sent = 0;
    while (out.status == MU_OK) {
      out = feed(codec, cases[i].again, strlen(cases[i].again));
      sent += strlen(cases[i].again);
      assert_true(sent < 2048);
    }
    assert_int_equal(out.http, 431);
    http1_codec_free(codec);
    buffer_free(&r.text);
  }
}

static void endless_chunk_extension(void **state) {
  struct recorder r;
  recorder_init(&r);
  struct http1_codec *codec = http1_codec_create(false, &recording, &r, 4096);
  assert_non_null(codec);
  struct outcome out = feed(codec, HEAD "1;", sizeof HEAD + 1);
  for (size_t sent = 0; out.status == MU_OK; sent++) {
    assert_true(sent < 1024);
    out = feed(codec, "x", 1);
  }
  assert_int_equal(out.http, 400);
  http1_codec_free(codec);
  buffer_free(&r.text);
}

/* ---- stopping ---------------------------------------------------------------------------------------------------- */

static void stops_between_messages(void **state) {
  struct recorder r;
  recorder_init(&r);
  struct http1_codec *codec = http1_codec_create(false, &recording, &r, 4096);
  assert_non_null(codec);
  const char text[] = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
  r.stop_end = true;
  struct outcome out = feed(codec, text, sizeof text - 1);
  assert_int_equal(out.status, MU_OK);
  assert_int_equal(out.used, (sizeof text - 1) / 2);
  assert_int_equal(r.messages_end, 1);
  assert_false(http1_codec_busy(codec));
  out = feed(codec, text + out.used, sizeof text - 1 - out.used);
  assert_int_equal(out.used, (sizeof text - 1) / 2);
  assert_int_equal(r.messages_end, 2);
  http1_codec_free(codec);
  buffer_free(&r.text);
}

/* A head without a body that says stop: `end` comes with the next call, which may bring nothing. */
static void stops_at_head(void **state) {
  struct recorder r;
  recorder_init(&r);
  struct http1_codec *codec = http1_codec_create(false, &recording, &r, 4096);
  assert_non_null(codec);
  const char text[] = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n";
  r.stop_head = true;
  struct outcome out = feed(codec, text, sizeof text - 1);
  assert_int_equal(out.used, sizeof text - 1);
  assert_int_equal(r.heads, 1);
  assert_int_equal(r.messages_end, 0);
  assert_true(http1_codec_busy(codec));
  assert_int_equal(feed(codec, "", 0).status, MU_OK);
  assert_int_equal(r.messages_end, 1);
  http1_codec_free(codec);
  buffer_free(&r.text);
}

static void stops_in_body(void **state) {
  static const char *const texts[] = {
      "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
      HEAD "3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
  };
  for (size_t i = 0; i < 2; i++) {
    struct recorder r;
    recorder_init(&r);
    struct http1_codec *codec = http1_codec_create(false, &recording, &r, 4096);
    assert_non_null(codec);
    r.stop_body = true;
    size_t at = 0, size = strlen(texts[i]), calls = 0;
    while (r.messages_end == 0) {
      struct outcome out = feed(codec, texts[i] + at, size - at);
      assert_int_equal(out.status, MU_OK);
      at += out.used;
      assert_true(++calls < 10);
    }
    assert_int_equal(at, size);
    assert_non_null(strstr(transcript(&r), "body:hello\n"));
    http1_codec_free(codec);
    buffer_free(&r.text);
  }
}

static void body_left_and_place(void **state) {
  struct recorder r;
  recorder_init(&r);
  struct http1_codec *codec = http1_codec_create(false, &recording, &r, 4096);
  assert_non_null(codec);
  const char head[] = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc";
  assert_int_equal(http1_codec_body_left(codec), 0);
  feed(codec, head, 20);
  assert_int_equal(http1_codec_body_left(codec), 0);
  assert_true(http1_codec_busy(codec));
  feed(codec, head + 20, sizeof head - 1 - 20);
  assert_int_equal(http1_codec_body_left(codec), 7);
  const uint8_t rest[8] = "defghijG";
  size_t used;
  int http;
  r.body_parts = 0;
  assert_int_equal(http1_codec_feed(codec, rest, 7, &used, &http, NULL), MU_OK);
  assert_ptr_equal(r.body_data, rest); /* not copied */
  assert_int_equal(r.body_parts, 1);
  assert_int_equal(r.messages_end, 1);
  assert_int_equal(http1_codec_body_left(codec), 0);
  assert_false(http1_codec_busy(codec));
  feed(codec, HEAD "5\r\nab", sizeof HEAD + 4);
  assert_int_equal(http1_codec_body_left(codec), 0); /* chunked: no direct reads */
  http1_codec_free(codec);
  buffer_free(&r.text);
}

/* Random bytes from the alphabet of HTTP: never a crash, and cut or not the outcome is the same. */
static void random_streams(void **state) {
  static const char *const words[] = {"GET / HTTP/1.1\r\n",
                                      "POST /x HTTP/1.1\r\n",
                                      "Host: a\r\n",
                                      "Content-Length: 3\r\n",
                                      "Transfer-Encoding: chunked\r\n",
                                      "\r\n",
                                      "abc",
                                      "3\r\nabc\r\n",
                                      "0\r\n\r\n",
                                      "X: y\r\n",
                                      "\r",
                                      "\n",
                                      " ",
                                      "\t",
                                      "HTTP/1.1",
                                      "Connection: close\r\n"};
  srand(42);
  for (int round = 0; round < 3000; round++) {
    char text[512] = "";
    size_t size = 0;
    for (int i = 0, n = rand() % 14; i < n; i++) {
      /* mostly sensible beginnings, so that the depths are reached */
      const char *word = i < 2 && rand() % 4 ? words[i == 0 ? rand() % 2 : 2] : words[(size_t)rand() % 16];
      memcpy(text + size, word, strlen(word));
      size += strlen(word);
    }
    if (size > 0 && rand() % 3 == 0) text[(size_t)rand() % size] = (char)rand();
    struct outcome whole, cut;
    char *a = run(false, text, size, 0, size, &whole), *b = run(false, text, size, 0, 1 + (size_t)rand() % 3, &cut);
    /* which of two faults is met first may depend on the cut, whether there is one may not */
    assert_int_equal(whole.status == MU_OK, cut.status == MU_OK);
    /* of a message in error more may have been reported when it came in parts */
    assert_memory_equal(a, b, strlen(a) < strlen(b) ? strlen(a) : strlen(b));
    free(a);
    free(b);
  }
}

static void status_texts(void **state) {
  assert_string_equal(http_status_text(200), "OK");
  assert_string_equal(http_status_text(404), "Not Found");
  assert_string_equal(http_status_text(0), "Unknown");
  assert_string_equal(http_status_text(-1), "Unknown");
  assert_string_equal(http_status_text(299), "Unknown");
  assert_string_equal(http_status_text(99999), "Unknown");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(requests),
      cmocka_unit_test(header_values),
      cmocka_unit_test(chunked),
      cmocka_unit_test(pipelined),
      cmocka_unit_test(upgrade_is_passed_over),
      cmocka_unit_test(responses),
      cmocka_unit_test(response_until_the_connection_ends),
      cmocka_unit_test(end_of_file),
      cmocka_unit_test(hostile_requests),
      cmocka_unit_test(error_stays),
      cmocka_unit_test(head_limit),
      cmocka_unit_test(endless_heads),
      cmocka_unit_test(endless_chunk_extension),
      cmocka_unit_test(stops_between_messages),
      cmocka_unit_test(stops_at_head),
      cmocka_unit_test(stops_in_body),
      cmocka_unit_test(body_left_and_place),
      cmocka_unit_test(random_streams),
      cmocka_unit_test(status_texts),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
