#include "net/content_coding.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include <cmocka.h>

static void parse_names(void **state) {
  static const struct {
    const char *value;
    mu_status status;
    enum content_coding coding;
  } cases[] = {
      {NULL, MU_OK, CODING_IDENTITY}, {"", MU_OK, CODING_IDENTITY},        {"identity", MU_OK, CODING_IDENTITY},
      {"gzip", MU_OK, CODING_GZIP},   {"X-GZip", MU_OK, CODING_GZIP},      {"deflate", MU_OK, CODING_DEFLATE},
      {"br", MU_UNSUPPORTED, 0},      {"gzip,deflate", MU_UNSUPPORTED, 0}, {"gzi", MU_UNSUPPORTED, 0},
      {"gzipp", MU_UNSUPPORTED, 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    enum content_coding coding = CODING_COUNT;
    assert_int_equal(content_coding_parse(cases[i].value, &coding), cases[i].status);
    assert_int_equal(coding, cases[i].status == MU_OK ? cases[i].coding : CODING_COUNT);
  }
}

static void choose_by_weight(void **state) {
  static const struct {
    const char *accept;
    enum content_coding coding;
  } cases[] = {
      {NULL, CODING_IDENTITY},
      {"", CODING_IDENTITY},
      {"gzip", CODING_GZIP},
      {"x-gzip", CODING_GZIP},
      {"GZIP", CODING_GZIP},
      {"deflate", CODING_DEFLATE},
      {"gzip, deflate, br", CODING_GZIP},
      {"deflate, gzip", CODING_GZIP},
      {"deflate;q=1.0, gzip;q=0.9", CODING_DEFLATE},
      {"gzip;q=0.001", CODING_GZIP},
      {"gzip;q=0", CODING_IDENTITY},
      {"gzip;q=0.000", CODING_IDENTITY},
      {"gzip;q=0, *", CODING_DEFLATE},
      {"*", CODING_GZIP},
      {"*;q=0", CODING_IDENTITY},
      {"gzip ; q=0.5 , deflate ; Q=0.7", CODING_DEFLATE},
      {"identity", CODING_IDENTITY},
      {"identity;q=0.5, gzip;q=0.4", CODING_IDENTITY},
      {"identity;q=0.5, gzip;q=0.5", CODING_GZIP},
      {"identity;q=0, gzip", CODING_GZIP},
      {"br;q=1, zstd", CODING_IDENTITY},
      {"gzip;q=2", CODING_IDENTITY},
      {"gzip;q=1.5", CODING_IDENTITY},
      {"gzip;q=", CODING_IDENTITY},
      {"gzip;x=1", CODING_IDENTITY},
      {"gzip deflate", CODING_IDENTITY},
      {",,,", CODING_IDENTITY},
      {"gzip,", CODING_GZIP},
      {";", CODING_IDENTITY},
      {"gzip;q=0.99999999999999999999", CODING_GZIP},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    if (content_coding_choose(cases[i].accept) != cases[i].coding) fail_msg("%s", cases[i].accept);
}

static size_t pack(int window, const uint8_t *data, size_t size, uint8_t *out, size_t room) {
  z_stream z = {0};
  assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, window, 8, Z_DEFAULT_STRATEGY), Z_OK);
  z.next_in = (Bytef *)(uintptr_t)data;
  z.avail_in = (uInt)size;
  z.next_out = out;
  z.avail_out = (uInt)room;
  assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
  deflateEnd(&z);
  return room - z.avail_out;
}

/* Decodes in pieces of at most `part` bytes in and `room` bytes out; the status, and what came out. */
static mu_status unpack(enum content_coding coding, const uint8_t *data, size_t size, size_t part, size_t room,
                        uint8_t *out, size_t *ret_size, bool *ret_complete) {
  struct content_decoder *decoder = content_decoder_create(coding);
  assert_non_null(decoder);
  mu_status status = MU_OK;
  *ret_size = 0;
  for (size_t at = 0; at < size && status == MU_OK;) {
    size_t given = size - at < part ? size - at : part, left = given, produced = room;
    const uint8_t *in = data + at;
    while (status == MU_OK && (left > 0 || produced == room)) {
      status = content_decoder_run(decoder, &in, &left, out + *ret_size, room, &produced);
      if (status == MU_OK) *ret_size += produced;
    }
    at += given;
  }
  *ret_complete = content_decoder_complete(decoder);
  content_decoder_free(decoder);
  return status;
}

static const struct {
  enum content_coding coding;
  int window;
} forms[] = {{CODING_GZIP, 31}, {CODING_DEFLATE, 15}, {CODING_DEFLATE, -15}};

static void decode_in_any_pieces(void **state) {
  static const size_t sizes[] = {0, 1, 2, 100, 5000, 70000};
  static const size_t parts[] = {1, 2, 3, 7, 1000, 1 << 20}, rooms[] = {1, 2, 10, 4096, 1 << 20};
  uint8_t *data = malloc(70000), *packed = malloc(200000), *out = malloc(70000 + (1 << 20));
  assert_non_null(data);
  assert_non_null(packed);
  assert_non_null(out);
  for (size_t i = 0; i < 70000; i++) data[i] = (uint8_t)(i * i / 97);
  for (size_t f = 0; f < 3; f++)
    for (size_t s = 0; s < 6; s++) {
      size_t n = pack(forms[f].window, data, sizes[s], packed, 200000);
      for (size_t p = 0; p < 6; p++)
        for (size_t r = 0; r < 5; r++) {
          size_t size;
          bool complete;
          assert_int_equal(unpack(forms[f].coding, packed, n, parts[p], rooms[r], out, &size, &complete), MU_OK);
          assert_true(complete);
          assert_int_equal(size, sizes[s]);
          assert_memory_equal(out, data, size);
        }
    }
  free(data);
  free(packed);
  free(out);
}

static void cut_off_is_not_complete(void **state) {
  uint8_t packed[200], out[1000];
  for (size_t f = 0; f < 3; f++) {
    size_t n = pack(forms[f].window, (const uint8_t *)"some text, some text", 20, packed, sizeof packed);
    for (size_t cut = 0; cut < n; cut++) {
      size_t size;
      bool complete;
      assert_int_equal(unpack(forms[f].coding, packed, cut, 3, 100, out, &size, &complete), MU_OK);
      assert_false(complete);
    }
  }
}

static void members_follow_each_other(void **state) {
  uint8_t packed[400], out[1000];
  size_t size, first = pack(31, (const uint8_t *)"one ", 4, packed, 200);
  size_t n = first + pack(31, (const uint8_t *)"two", 3, packed + first, 200);
  bool complete;
  for (size_t part = 1; part < n; part++) {
    assert_int_equal(unpack(CODING_GZIP, packed, n, part, 100, out, &size, &complete), MU_OK);
    assert_true(complete);
    assert_int_equal(size, 7);
    assert_memory_equal(out, "one two", 7);
  }
  /* but not garbage, and nothing at all behind the other format */
  memcpy(packed + n, "garbage that is no gzip", 23);
  assert_int_equal(unpack(CODING_GZIP, packed, n + 23, 1, 100, out, &size, &complete), MU_INVALID);
  n = pack(15, (const uint8_t *)"one ", 4, packed, 200);
  packed[n] = 0;
  assert_int_equal(unpack(CODING_DEFLATE, packed, n + 1, 1, 100, out, &size, &complete), MU_INVALID);
}

static void damaged_data(void **state) {
  uint8_t packed[4096], out[1 << 16], data[3000];
  srand(1);
  for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(rand() % 5);
  for (int round = 0; round < 2000; round++) {
    size_t f = (size_t)(rand() % 3), n = pack(forms[f].window, data, sizeof data, packed, sizeof packed), size;
    for (int i = 0; i < 1 + rand() % 3; i++) packed[(size_t)rand() % n] ^= (uint8_t)(1 << rand() % 8);
    bool complete;
    mu_status status = unpack(forms[f].coding, packed, n, 1 + (size_t)rand() % 100, 1000, out, &size, &complete);
    assert_true(status == MU_OK || status == MU_INVALID);
    /* the checksum of gzip and zlib is looked at */
    if (f < 2 && status == MU_OK && complete && size == sizeof data) assert_memory_equal(out, data, size);
  }
}

static void encode_and_decode(void **state) {
  struct content_encoder *encoders[] = {content_encoder_create(CODING_GZIP), content_encoder_create(CODING_DEFLATE)};
  uint8_t *data = malloc(1 << 20), *out = malloc((1 << 20) + 65536);
  assert_non_null(data);
  assert_non_null(out);
  srand(3);
  for (int round = 0; round < 20; round++) {
    size_t total = round == 0 ? 0 : (size_t)rand() % (1 << 20);
    for (size_t i = 0; i < total; i++) data[i] = (uint8_t)(round % 2 ? rand() : rand() % 3);
    struct iovec body[3] = {{data, total / 3}, {NULL, 0}, {data + total / 3, total - total / 3}};
    for (int e = 0; e < 2; e++) {
      struct buffer packed;
      buffer_init(&packed, 4 << 20);
      assert_int_equal(content_encoder_run(encoders[e], body, 3, &packed), MU_OK);
      size_t size;
      bool complete;
      assert_int_equal(unpack(e == 0 ? CODING_GZIP : CODING_DEFLATE, (uint8_t *)packed.data, packed.size, 5000, 65536,
                              out, &size, &complete),
                       MU_OK);
      assert_true(complete);
      assert_int_equal(size, total);
      assert_memory_equal(out, data, total);
      buffer_free(&packed);
    }
  }
  struct buffer small;
  buffer_init(&small, 100);
  struct iovec body = {data, 100000};
  assert_int_equal(content_encoder_run(encoders[0], &body, 1, &small), MU_TOO_LARGE);
  buffer_free(&small);
  content_encoder_free(encoders[0]);
  content_encoder_free(encoders[1]);
  content_encoder_free(NULL);
  content_decoder_free(NULL);
  free(data);
  free(out);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(parse_names),
      cmocka_unit_test(choose_by_weight),
      cmocka_unit_test(decode_in_any_pieces),
      cmocka_unit_test(cut_off_is_not_complete),
      cmocka_unit_test(members_follow_each_other),
      cmocka_unit_test(damaged_data),
      cmocka_unit_test(encode_and_decode),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
