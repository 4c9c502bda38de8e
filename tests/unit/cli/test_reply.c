/* The reading of replies: whole and in pieces, and what is no reply. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
/* cmocka needs the above */
#include <cmocka.h>

#include "cli/bench/reply.h"

static struct reply reply;
static struct reply_cache cache;
static char body[4096];
static size_t body_size;

/* Feeds text in pieces of `piece` bytes; MU_OK when all was taken. *ret_rest: what came behind the end. */
static mu_status feed(const char *text, size_t size, size_t piece, size_t *ret_rest) {
  mu_error err;
  body_size = 0;
  *ret_rest = 0;
  for (size_t start = 0; start < size; start += piece) {
    size_t n = piece < size - start ? piece : size - start;
    char copy[4096]; /* what was fed before is gone, as in a buffer that is read into again */
    memcpy(copy, text + start, n);
    for (size_t at = 0, used; at < n; at += used) {
      const char *part;
      size_t part_size;
      if (reply.state == REPLY_DONE) {
        *ret_rest = size - start - at;
        return MU_OK;
      }
      mu_status status = reply_feed(&reply, &cache, copy + at, n - at, &used, &part, &part_size, &err);
      if (status != MU_OK) return status;
      assert_true(used > 0 || reply.state == REPLY_DONE);
      memcpy(body + body_size, part, part_size);
      body_size += part_size;
    }
  }
  return MU_OK;
}

static const struct {
  const char *text, *body;
  int status;
  bool keep_alive, by_end; /* by_end: complete when the connection ends */
} good[] = {
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", 200, true, false},
    {"HTTP/1.1 200 \r\ncontent-length:5 \r\nX: y\r\n\r\nhello", "hello", 200, true, false},
    {"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "", 200, true, false},
    {"HTTP/1.1 204 No Content\r\n\r\n", "", 204, true, false},
    {"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab", "ab", 200, false, false},
    {"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab", "ab", 200, true, false},
    {"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno", "no", 503, false, false},
    {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", "x", 200, true, false},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: "
     "chunked\r\n\r\n5\r\nhello\r\n1a;x=y\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n",
     "helloabcdefghijklmnopqrstuvwxyz", 200, true, false},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTrailer: x\r\n\r\n", "", 200, true, false},
    {"HTTP/1.1 200 OK\r\n\r\nuntil the end", "until the end", 200, false, true},
};

static void test_replies_in_pieces_of_any_size(void **state) {
  for (size_t i = 0; i < sizeof good / sizeof *good; i++)
    for (size_t piece = 1, size = strlen(good[i].text), rest; piece <= size; piece++) {
      reply_begin(&reply, 0);
      assert_int_equal(feed(good[i].text, size, piece, &rest), MU_OK);
      assert_int_equal(rest, 0);
      assert_int_equal(reply.state == REPLY_DONE, !good[i].by_end);
      assert_true(reply_finish(&reply));
      assert_int_equal(reply.head.status, good[i].status);
      assert_int_equal(reply.head.keep_alive, good[i].keep_alive);
      assert_int_equal(body_size, strlen(good[i].body));
      assert_memory_equal(body, good[i].body, body_size);
    }
}

static void test_cut_off_anywhere_is_not_complete(void **state) {
  for (size_t i = 0; i < sizeof good / sizeof *good; i++)
    for (size_t size = 0, rest; size < strlen(good[i].text) && !good[i].by_end; size++) {
      reply_begin(&reply, 0);
      assert_int_equal(feed(good[i].text, size, 4096, &rest), MU_OK);
      assert_false(reply_finish(&reply));
    }
}

static void test_no_replies(void **state) {
  static const char *const wrong[] = {
      "SSH-2.0-OpenSSH_9.2\r\n",
      "HTTP/2 200\r\n\r\n",
      "HTTP/1.1 20x OK\r\n\r\n",
      "HTTP/1.1 099 OK\r\n\r\n",
      "HTTP/1.1 2000 OK\r\n\r\n",
      "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nInference-Header-Content-Length: 5\r\n\r\n",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
  };
  size_t rest;
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    reply_begin(&reply, 0);
    assert_int_equal(feed(wrong[i], strlen(wrong[i]), 4096, &rest), MU_INVALID);
  }
}

static void test_a_head_without_end(void **state) {
  static char endless[REPLY_HEAD_MAX + 4096];
  memset(endless, 'a', sizeof endless);
  memcpy(endless, "HTTP/1.1 200 OK\r\nX: ", 20);
  size_t rest;
  reply_begin(&reply, 0);
  assert_int_equal(feed(endless, sizeof endless, 4096, &rest), MU_INVALID);
}

/* The head of the reply before is only taken for the next one where it is the same to the last byte. */
static void test_the_cached_head(void **state) {
  static const char first[] = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
  static const char second[] = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmore";
  size_t rest;
  for (int i = 0; i < 4; i++) {
    bool odd = i % 2 == 1;
    for (int again = 0; again < 2; again++) {
      reply_begin(&reply, 0);
      assert_int_equal(feed(odd ? second : first, odd ? sizeof second - 1 : sizeof first - 1, 4096, &rest), MU_OK);
      assert_int_equal(reply.state, REPLY_DONE);
      assert_memory_equal(body, odd ? "more" : "hello", odd ? 4 : 5);
    }
  }
}

static void test_bytes_behind_the_end(void **state) {
  static const char text[] = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200";
  size_t rest;
  reply_begin(&reply, 0);
  assert_int_equal(feed(text, sizeof text - 1, 4096, &rest), MU_OK);
  assert_int_equal(rest, 12);
}

static void test_a_fixed_number_of_bytes(void **state) {
  size_t rest;
  reply_begin(&reply, 10);
  assert_int_equal(feed("123456789", 9, 4, &rest), MU_OK);
  assert_false(reply_finish(&reply));
  reply_begin(&reply, 10);
  assert_int_equal(feed("1234567890", 10, 4, &rest), MU_OK);
  assert_int_equal(reply.state, REPLY_DONE);
  assert_memory_equal(body, "1234567890", 10);
}

static int set_up(void **state) {
  reply_init(&reply);
  return 0;
}
static int tear_down(void **state) {
  reply_free(&reply);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_replies_in_pieces_of_any_size),
      cmocka_unit_test(test_cut_off_anywhere_is_not_complete),
      cmocka_unit_test(test_no_replies),
      cmocka_unit_test(test_a_head_without_end),
      cmocka_unit_test(test_the_cached_head),
      cmocka_unit_test(test_bytes_behind_the_end),
      cmocka_unit_test(test_a_fixed_number_of_bytes),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
