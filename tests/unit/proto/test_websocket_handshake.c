#include "proto/websocket/handshake.h"
#include "proto/websocket/sha1.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* ---- SHA-1 ------------------------------------------------------------------------------------------------------- */

static void assert_sha1(const char *text, size_t size, const char *expected) {
  uint8_t digest[SHA1_SIZE];
  char hex[2 * SHA1_SIZE + 1];
  sha1(text, size, digest);
  for (int i = 0; i < SHA1_SIZE; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
  assert_string_equal(hex, expected);
}

static void test_sha1(void **state) {
  /* FIPS 180-4's examples, and one longer than the room for what is left of a block */
  assert_sha1("", 0, "da39a3ee5e6b4b0d3255bfef95601890afd80709");
  assert_sha1("abc", 3, "a9993e364706816aba3e25717850c26c9cd0d89d");
  assert_sha1("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56,
              "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
  assert_sha1(
      "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrst"
      "nopqrstu",
      112, "a49b2446a02c645bf419f995b67091253a04a259");
}

/* The digest of the digests of 0 to 300 letters: every way that a text can end in its last block. */
static void test_sha1_of_every_size(void **state) {
  static char letters[300], digests[301 * SHA1_SIZE];
  memset(letters, 'a', sizeof letters);
  for (size_t size = 0; size <= sizeof letters; size++) sha1(letters, size, (uint8_t *)digests + size * SHA1_SIZE);
  assert_sha1(digests, sizeof digests, "9c723e6d1a3322c163723daf00acf97e827fb5a0");
}

/* ---- the handshake ----------------------------------------------------------------------------------------------- */

static const struct websocket_offer good = {.method = "GET",
                                            .upgrade = "websocket",
                                            .connection = "Upgrade",
                                            .key = "dGhlIHNhbXBsZSBub25jZQ==",
                                            .version = "13",
                                            .host = "here:8000"};

static int answer(struct websocket_offer offer, const char *origin, mu_error *err) {
  char accept[WEBSOCKET_ACCEPT_SIZE] = "untouched";
  int http_status = 0;
  mu_status status = websocket_accept(&offer, &origin, origin != NULL, accept, &http_status, err);
  assert_int_equal(status == MU_OK, http_status == 101);
  assert_string_equal(accept, status == MU_OK ? "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" : "untouched");
  return http_status;
}

static void assert_answer(struct websocket_offer offer, int http_status, const char *part) {
  mu_error err = {""};
  assert_int_equal(answer(offer, NULL, &err), http_status);
  if (strstr(err.message, part) == NULL) fail_msg("'%s' is not in '%s'", part, err.message);
}

static void test_handshake_of_the_rfc(void **state) { assert_answer(good, 101, ""); }

static void test_handshakes_as_clients_write_them(void **state) {
  struct websocket_offer offer = good;
  offer.upgrade = "WebSocket";
  offer.connection = "keep-alive, Upgrade";
  assert_answer(offer, 101, "");
  offer.upgrade = "h2c , websocket";
  offer.connection = "\tupgrade\t,,close";
  assert_answer(offer, 101, "");
}

static void test_broken_handshakes(void **state) {
  struct websocket_offer offer = good;
  offer.method = "POST";
  assert_answer(offer, 400, "with GET");
  offer = good;
  offer.upgrade = NULL;
  assert_answer(offer, 426, "for WebSocket clients");
  offer.upgrade = "h2c";
  assert_answer(offer, 400, "h2c");
  offer.upgrade = "websockets";
  assert_answer(offer, 400, "websockets");
  offer = good;
  offer.connection = NULL;
  assert_answer(offer, 400, "Connection: Upgrade");
  offer.connection = "keep-alive, no-upgrade";
  assert_answer(offer, 400, "Connection: Upgrade");
}

static void test_other_versions(void **state) {
  static const char *const versions[] = {NULL, "", "8", "130", "13, 8", "1 3"};
  for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
    struct websocket_offer offer = good;
    offer.version = versions[i];
    assert_answer(offer, 426, "must be 13");
  }
}

static void test_keys_that_are_none(void **state) {
  static const char *const keys[] = {NULL,
                                     "",
                                     "dGhlIHNhbXBsZSBub25jZQ=",
                                     "dGhlIHNhbXBsZSBub25jZQ===",
                                     "dGhlIHNhbXBsZSBub25jZQA=",
                                     "dGhlIHNhbXBsZSBub25jZ===",
                                     "dGhlIHNhbXBsZS\"ub25jZQ=="};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    struct websocket_offer offer = good;
    offer.key = keys[i];
    assert_answer(offer, 400, "16 bytes in base64");
  }
}

/* ---- origins ----------------------------------------------------------------------------------------------------- */

static void test_origins(void **state) {
  static const struct {
    const char *origin, *host, *origins[2];
    bool allowed;
  } cases[] = {
      {NULL, "here:8000", {NULL}, true},
      {NULL, NULL, {NULL}, true},
      {"http://here:8000", "here:8000", {NULL}, true},
      {"HTTP://Here:8000", "hERE:8000", {NULL}, true},
      {"http://here", "here:80", {NULL}, true},
      {"http://here:80", "here", {NULL}, true},
      {"https://here", "here:443", {NULL}, true},
      {"https://here", "here", {NULL}, true},
      {"http://here", "here:8000", {NULL}, false},
      {"http://here:3000", "here:8000", {NULL}, false},
      {"http://here", "here:443", {NULL}, false},
      {"http://evil.example", "here:8000", {NULL}, false},
      {"http://here:8000.evil.example", "here:8000", {NULL}, false},
      {"http://evil.example/here:8000", "here:8000", {NULL}, false},
      {"http://here:8000", NULL, {NULL}, false},
      {"http://", "", {NULL}, true}, /* no browser sends it */
      {"null", "here:8000", {NULL}, false},
      {"null", "null", {NULL}, false},
      {"ftp://here:8000", "here:8000", {NULL}, false},
      {"", "here:8000", {NULL}, false},
      {"http://evil.example", "here:8000", {"*"}, true},
      {"null", "here:8000", {"*"}, true},
      {"https://app.example", "here:8000", {"https://other.example", "https://app.example"}, true},
      {"https://APP.example", "here:8000", {"https://app.example"}, true},
      {"http://app.example", "here:8000", {"https://app.example"}, false},
      {"https://app.example:8443", "here:8000", {"https://app.example"}, false},
      {"https://sub.app.example", "here:8000", {"https://app.example"}, false},
      {"http://here:8000", "here:8000", {"https://app.example"}, true},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    if (websocket_origin_allowed(cases[i].origin, cases[i].host, cases[i].origins,
                                 (cases[i].origins[0] != NULL) + (cases[i].origins[1] != NULL)) != cases[i].allowed)
      fail_msg("case %zu: %s", i, cases[i].origin);
}

static void test_foreign_pages_are_refused(void **state) {
  struct websocket_offer offer = good;
  offer.origin = "https://evil.example";
  assert_answer(offer, 403, "--websocket-origins");
  mu_error err;
  assert_int_equal(answer(offer, "https://evil.example", &err), 101);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_sha1),
      cmocka_unit_test(test_sha1_of_every_size),
      cmocka_unit_test(test_handshake_of_the_rfc),
      cmocka_unit_test(test_handshakes_as_clients_write_them),
      cmocka_unit_test(test_broken_handshakes),
      cmocka_unit_test(test_other_versions),
      cmocka_unit_test(test_keys_that_are_none),
      cmocka_unit_test(test_origins),
      cmocka_unit_test(test_foreign_pages_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
