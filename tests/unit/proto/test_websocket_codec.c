#include "proto/websocket/websocket_codec.h"

#include "wslay_reference.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LIMIT = 1 << 20 };

/* ---- frames as a client writes them ------------------------------------------------------------------------------ */

static const uint8_t mask[4] = {0x37, 0xfa, 0x21, 0x3d};

/* first: FIN, reserved bits and opcode. */
static void add_frame(struct buffer *to, uint8_t first, const void *payload, size_t size) {
  uint8_t head[WEBSOCKET_HEAD_MAX];
  size_t n = websocket_write_head(head, WEBSOCKET_TEXT, size, mask);
  head[0] = first;
  buffer_append(to, head, n);
  for (size_t i = 0; i < size; i++) buffer_putc(to, (char)(((const uint8_t *)payload)[i] ^ mask[i % 4]));
}

static void add_text(struct buffer *to, uint8_t first, const char *payload) {
  add_frame(to, first, payload, strlen(payload));
}

/* ---- a codec whose events become a transcript -------------------------------------------------------------------- */

struct recorder {
  struct buffer text, message;
  bool is_text, inside;
  const char *stop_at; /* events that stop: letters of begin data end ping pong close as b d e P p c */
  uint8_t *places;     /* memory that `place` names, of `room` bytes each; NULL: none */
  size_t room, placed;
  size_t pieces, stops;
  bool in_close; /* the bytes end inside of a close frame */
};

static bool goes_on(struct recorder *r, char event) {
  bool stop = r->stop_at != NULL && strchr(r->stop_at, event) != NULL;
  r->stops += stop;
  return !stop;
}

static bool on_begin(void *context, bool text, uint64_t size, bool whole) {
  struct recorder *r = context;
  assert_false(r->inside);
  r->inside = true;
  r->is_text = text;
  buffer_clear(&r->message);
  return goes_on(r, 'b');
}

static uint8_t *place(void *context, size_t *ret_size) {
  struct recorder *r = context;
  if (r->places == NULL) return NULL;
  *ret_size = r->room;
  return r->places + r->placed;
}

static bool on_data(void *context, const uint8_t *data, size_t size) {
  struct recorder *r = context;
  assert_true(r->inside && size > 0);
  if (r->places != NULL) {
    assert_ptr_equal(data, r->places + r->placed);
    assert_true(size <= r->room);
    r->placed += size;
  }
  r->pieces++;
  buffer_append(&r->message, data, size);
  return goes_on(r, 'd');
}

static bool on_end(void *context) {
  struct recorder *r = context;
  assert_true(r->inside);
  r->inside = false;
  buffer_print(&r->text, "%c%zu:", r->is_text ? 'T' : 'B', r->message.size);
  buffer_append(&r->text, r->message.data, r->message.size);
  return goes_on(r, 'e');
}

static bool on_ping(void *context, const uint8_t *data, size_t size) {
  struct recorder *r = context;
  buffer_print(&r->text, "P%zu:", size);
  buffer_append(&r->text, data, size);
  return goes_on(r, 'P');
}

static bool on_pong(void *context, const uint8_t *data, size_t size) {
  struct recorder *r = context;
  buffer_print(&r->text, "p%zu:", size);
  buffer_append(&r->text, data, size);
  return goes_on(r, 'p');
}

static bool on_close(void *context, uint16_t code, const uint8_t *reason, size_t size) {
  struct recorder *r = context;
  buffer_print(&r->text, "C%u/%zu:", code, size);
  buffer_append(&r->text, reason, size);
  return goes_on(r, 'c');
}

static const struct websocket_events recording = {.begin = on_begin,
                                                  .place = place,
                                                  .data = on_data,
                                                  .end = on_end,
                                                  .ping = on_ping,
                                                  .pong = on_pong,
                                                  .close = on_close};

static void recorder_init(struct recorder *r) {
  *r = (struct recorder){0};
  buffer_init(&r->text, 4 * LIMIT);
  buffer_init(&r->message, 2 * LIMIT);
}

static void recorder_free(struct recorder *r) {
  buffer_free(&r->text);
  buffer_free(&r->message);
}

/* Feeds all of a part, however often an event stops it. Returns the code to close with, 0 while it goes on. */
static uint16_t feed(struct websocket_codec *codec, const void *data, size_t size, mu_error *err) {
  const uint8_t *at = data;
  for (;;) {
    uint8_t *copy = malloc(size > 0 ? size : 1); /* exactly as long as it is said to be */
    assert_non_null(copy);
    if (size > 0) memcpy(copy, at, size);
    size_t used = 0;
    uint16_t code = 0;
    mu_status status = websocket_feed(codec, copy, size, &used, &code, err);
    free(copy);
    if (status != MU_OK) {
      assert_int_equal(status, code == WEBSOCKET_TOO_BIG ? MU_TOO_LARGE : MU_INVALID);
      assert_true(err->message[0] != '\0' && strlen(err->message) <= WEBSOCKET_REASON_MAX);
      size_t again;
      uint16_t same = 0;
      assert_int_equal(websocket_feed(codec, (const uint8_t *)"", 0, &again, &same, err), status);
      assert_int_equal(same, code);
      return code;
    }
    assert_true(used <= size);
    if (used == size && size == 0) return 0;
    at += used;
    size -= used;
  }
}

/* The first part has `first` bytes, the others `part`. */
static uint16_t run(struct recorder *r, const struct buffer *bytes, size_t first, size_t part, mu_error *err) {
  struct websocket_codec codec;
  websocket_codec_init(&codec, false, LIMIT, &recording, r);
  uint16_t code = 0;
  for (size_t at = 0; at < bytes->size && code == 0;) {
    size_t n = at == 0 && first > 0 ? first : part;
    if (n > bytes->size - at) n = bytes->size - at;
    code = feed(&codec, bytes->data + at, n, err);
    at += n;
  }
  r->in_close = codec.opcode == WEBSOCKET_CLOSE && websocket_codec_busy(&codec);
  return code;
}

static void assert_same_text(struct recorder *r, const char *expected, size_t size) {
  assert_int_equal(r->text.size, size);
  if (size > 0) assert_memory_equal(r->text.data, expected, size);
}

/* The same events however the bytes are cut: in two at every place, and in equal parts of 1 to 7. */
static void assert_events(const struct buffer *bytes, const char *expected, uint16_t expected_code) {
  assert_false(bytes->failed);
  for (size_t i = 1; i < bytes->size + 8; i++) {
    struct recorder r;
    recorder_init(&r);
    mu_error err = {""};
    uint16_t code = i <= bytes->size ? run(&r, bytes, i, bytes->size, &err) : run(&r, bytes, 0, i - bytes->size, &err);
    assert_int_equal(code, expected_code);
    assert_same_text(&r, expected, strlen(expected));
    recorder_free(&r);
  }
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

static void test_messages(void **state) {
  struct buffer b;
  buffer_init(&b, LIMIT);
  add_text(&b, 0x81, "hello");
  add_text(&b, 0x82, "\x01\xff");
  add_text(&b, 0x81, "");
  add_text(&b, 0x82, "");
  assert_events(&b, "T5:helloB2:\x01\xffT0:B0:", 0);
  buffer_free(&b);
}

static void test_fragments_with_control_frames_between(void **state) {
  struct buffer b;
  buffer_init(&b, LIMIT);
  add_text(&b, 0x01, "gr\xc3"); /* cut inside of a character */
  add_text(&b, 0x89, "ping");
  add_text(&b, 0x00, "\xbc");
  add_text(&b, 0x00, "");
  add_text(&b, 0x8a, "");
  add_text(&b, 0x80,
           "\xc3\x9f"
           "e");
  add_text(&b, 0x02, "");
  add_text(&b, 0x80, "");
  assert_events(&b,
                "P4:pingp0:T7:gr\xc3\xbc\xc3\x9f"
                "eB0:",
                0);
  buffer_free(&b);
}

static void test_sizes_at_the_edges_of_the_length_forms(void **state) {
  static const size_t sizes[] = {125, 126, 127, 65535, 65536, 200000};
  char *payload = calloc(1, 200000);
  assert_non_null(payload);
  for (size_t i = 0; i < 200000; i++) payload[i] = (char)(i * 7 + i / 251);
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    struct buffer b;
    buffer_init(&b, LIMIT);
    add_frame(&b, 0x82, payload, sizes[i]);
    static const size_t parts[] = {1, 3, 4096, 4099, LIMIT};
    for (size_t p = 0; p < sizeof parts / sizeof *parts; p++) {
      struct recorder r;
      recorder_init(&r);
      mu_error err;
      assert_int_equal(run(&r, &b, 0, parts[p], &err), 0);
      assert_int_equal(r.message.size, sizes[i]);
      assert_memory_equal(r.message.data, payload, sizes[i]);
      recorder_free(&r);
    }
    buffer_free(&b);
  }
  free(payload);
}

static void test_bytes_go_to_the_place_that_is_named(void **state) {
  struct buffer b;
  buffer_init(&b, LIMIT);
  char payload[1000];
  for (size_t i = 0; i < sizeof payload; i++) payload[i] = (char)(i * 31);
  add_frame(&b, 0x02, payload, 333);
  add_frame(&b, 0x80, payload + 333, sizeof payload - 333);
  static const size_t rooms[] = {1, 7, 100, 1000};
  for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
    struct recorder r;
    recorder_init(&r);
    uint8_t memory[sizeof payload];
    r.places = memory;
    r.room = rooms[i];
    mu_error err;
    assert_int_equal(run(&r, &b, 0, 50, &err), 0);
    assert_memory_equal(memory, payload, sizeof payload);
    recorder_free(&r);
  }
  buffer_free(&b);
}

static void test_events_stop_the_codec(void **state) {
  struct buffer b;
  buffer_init(&b, LIMIT);
  add_text(&b, 0x01, "one");
  add_text(&b, 0x89, "x");
  add_text(&b, 0x80, "two");
  add_text(&b, 0x8a, "y");
  add_text(&b, 0x82, "");
  add_frame(&b, 0x88,
            "\x03\xe8"
            "bye",
            5);
  static const char *const stops[] = {"b", "d", "e", "P", "p", "c", "bdePpc"};
  static const size_t counts[] = {2, 2, 2, 1, 1, 1, 9};
  for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
    struct recorder r;
    recorder_init(&r);
    r.stop_at = stops[i];
    mu_error err;
    assert_int_equal(run(&r, &b, 0, LIMIT, &err), 0);
    static const char expected[] = "P1:xT6:onetwop1:yB0:C1000/3:bye";
    assert_same_text(&r, expected, sizeof expected - 1);
    assert_int_equal(r.stops, counts[i]);
    recorder_free(&r);
  }
  buffer_free(&b);
}

struct sizes {
  uint64_t size[2];
  bool whole[2];
  int n;
};

static bool note_size(void *context, bool text, uint64_t size, bool whole) {
  struct sizes *s = context;
  s->size[s->n] = size;
  s->whole[s->n++] = whole;
  return true;
}
static bool ignore_data(void *context, const uint8_t *data, size_t size) { return true; }
static bool ignore_end(void *context) { return true; }

static void test_begin_says_the_size_of_the_first_frame(void **state) {
  static const struct websocket_events events = {.begin = note_size, .data = ignore_data, .end = ignore_end};
  struct buffer b;
  buffer_init(&b, LIMIT);
  add_text(&b, 0x82, "abcd");
  add_text(&b, 0x02, "ab");
  add_text(&b, 0x80, "abc");
  struct sizes sizes = {0};
  struct websocket_codec codec;
  websocket_codec_init(&codec, false, LIMIT, &events, &sizes);
  mu_error err;
  assert_int_equal(feed(&codec, b.data, b.size, &err), 0);
  assert_int_equal(sizes.n, 2);
  assert_true(sizes.size[0] == 4 && sizes.whole[0] && sizes.size[1] == 2 && !sizes.whole[1]);
  buffer_free(&b);
}

static void test_a_codec_is_busy_between_the_ends_of_messages(void **state) {
  struct buffer b;
  buffer_init(&b, LIMIT);
  add_text(&b, 0x01, "ab");
  add_text(&b, 0x80, "c");
  struct recorder r;
  recorder_init(&r);
  struct websocket_codec codec;
  websocket_codec_init(&codec, false, LIMIT, &recording, &r);
  mu_error err;
  for (size_t i = 0; i < b.size; i++) {
    assert_int_equal(websocket_codec_busy(&codec), i > 0);
    feed(&codec, b.data + i, 1, &err);
  }
  assert_false(websocket_codec_busy(&codec));
  recorder_free(&r);
  buffer_free(&b);
}

/* ---- what a client must not do ----------------------------------------------------------------------------------- */

struct bytes {
  const char *data;
  size_t size;
  uint16_t code;
  const char *part; /* of the reason */
};
#define BYTES(text) text, sizeof(text) - 1

static void test_broken_heads(void **state) {
  static const struct bytes cases[] = {
      {BYTES("\xc1\x80"), 1002, "reserved bit"},
      {BYTES("\xa1\x80"), 1002, "reserved bit"},
      {BYTES("\x91\x80"), 1002, "reserved bit"},
      {BYTES("\x83\x80"), 1002, "opcode"},
      {BYTES("\x87\x80"), 1002, "opcode"},
      {BYTES("\x8b\x80"), 1002, "opcode"},
      {BYTES("\x8f\x80"), 1002, "opcode"},
      {BYTES("\x81\x05"), 1002, "not masked"},
      {BYTES("\x89\x00"), 1002, "not masked"},
      {BYTES("\x09\x80"), 1002, "fragmented"},
      {BYTES("\x08\x80"), 1002, "fragmented"},
      {BYTES("\x89\xfe"), 1002, "125"},
      {BYTES("\x88\xff"), 1002, "125"},
      {BYTES("\x80\x80"), 1002, "no message has begun"},
      {BYTES("\x01\x80mask\x81\x80"), 1002, "had ended"},
      {BYTES("\x02\x80mask\x01\x80"), 1002, "had ended"},
      {BYTES("\x01\x80mask\x80\x80mask\x80\x80"), 1002, "no message has begun"},
      {BYTES("\x82\xfe\x00\x7dmask"), 1002, "shortest form"},
      {BYTES("\x82\xff\x00\x00\x00\x00\x00\x00\xff\xffmask"), 1002, "shortest form"},
      {BYTES("\x82\xff\x80\x00\x00\x00\x00\x01\x00\x00mask"), 1002, "highest bit"},
      {BYTES("\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xffmask"), 1009, "larger"},
      {BYTES("\x82\xff\x00\x00\x00\x00\x00\x10\x00\x01mask"), 1009, "larger"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    for (size_t part = 1; part <= cases[i].size; part++) {
      struct recorder r;
      recorder_init(&r);
      mu_error err = {""};
      struct buffer b = {.data = (char *)(uintptr_t)cases[i].data, .size = cases[i].size};
      assert_int_equal(run(&r, &b, 0, part, &err), cases[i].code);
      if (strstr(err.message, cases[i].part) == NULL) fail_msg("case %zu: '%s'", i, err.message);
      recorder_free(&r);
    }
}

static void test_a_message_is_too_big_over_its_fragments(void **state) {
  char *half = calloc(1, LIMIT / 2);
  assert_non_null(half);
  struct buffer b;
  buffer_init(&b, 2 * LIMIT);
  struct recorder r;
  recorder_init(&r);
  mu_error err;
  add_frame(&b, 0x02, half, LIMIT / 2);
  add_frame(&b, 0x80, half, LIMIT / 2);
  assert_int_equal(run(&r, &b, 0, b.size, &err), 0); /* as large as it may be */
  buffer_clear(&b);
  add_frame(&b, 0x02, half, LIMIT / 2);
  add_frame(&b, 0x00, half, LIMIT / 2);
  add_frame(&b, 0x80, "x", 1);
  struct recorder second;
  recorder_init(&second);
  assert_int_equal(run(&second, &b, 0, b.size, &err), WEBSOCKET_TOO_BIG);
  assert_int_equal(second.message.size, LIMIT); /* nothing of the fragment that was too much */
  recorder_free(&r);
  recorder_free(&second);
  buffer_free(&b);
  free(half);
}

static void test_text_that_is_not_utf8(void **state) {
  static const char *const texts[] = {"\xff",     "a\x80", "\xc0\x80", "\xed\xa0\x80", "\xf5\x80\x80\x80",
                                      "\xe2\x82", "\xc3"};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    struct buffer b;
    buffer_init(&b, LIMIT);
    add_text(&b, 0x81, texts[i]);
    assert_events(&b, "", WEBSOCKET_NOT_UTF8);
    buffer_clear(&b);
    add_text(&b, 0x82, texts[i]); /* a binary message may hold anything */
    struct recorder r;
    recorder_init(&r);
    mu_error err;
    assert_int_equal(run(&r, &b, 0, b.size, &err), 0);
    recorder_free(&r);
    buffer_free(&b);
  }
}

/* ---- closing ----------------------------------------------------------------------------------------------------- */

static void test_close(void **state) {
  struct buffer b;
  buffer_init(&b, LIMIT);
  add_frame(&b, 0x88,
            "\x0b\xb8"
            "done",
            6);
  add_text(&b, 0x81, "too late");
  buffer_puts(&b, "and rubbish");
  assert_events(&b, "C3000/4:done", 0);
  buffer_clear(&b);
  add_frame(&b, 0x88, "", 0);
  assert_events(&b, "C1005/0:", 0);
  buffer_free(&b);
}

static void test_close_codes(void **state) {
  for (unsigned code = 0; code <= UINT16_MAX; code++) {
    bool valid =
        (code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006) || (code >= 3000 && code < 5000);
    char payload[2] = {(char)(code >> 8), (char)code};
    char memory[16];
    struct buffer b = {.data = memory, .capacity = sizeof memory, .limit = sizeof memory};
    add_frame(&b, 0x88, payload, sizeof payload);
    struct recorder r;
    recorder_init(&r);
    mu_error err;
    assert_int_equal(run(&r, &b, 0, b.size, &err), valid ? 0 : WEBSOCKET_PROTOCOL_ERROR);
    recorder_free(&r);
  }
}

static void test_broken_close_frames(void **state) {
  struct buffer b;
  buffer_init(&b, LIMIT);
  add_frame(&b, 0x88, "\x03", 1);
  assert_events(&b, "", WEBSOCKET_PROTOCOL_ERROR);
  buffer_clear(&b);
  add_frame(&b, 0x88, "\x03\xe8\xc3", 3);
  assert_events(&b, "", WEBSOCKET_NOT_UTF8);
  buffer_free(&b);
}

/* ---- UTF-8 ------------------------------------------------------------------------------------------------------- */

/* Decodes by the definition: the value, and the shortest form for it. */
static bool is_utf8(const uint8_t *text, size_t size) {
  for (size_t at = 0; at < size;) {
    uint8_t b = text[at];
    size_t n = b < 0x80 ? 0 : b >> 5 == 6 ? 1 : b >> 4 == 14 ? 2 : b >> 3 == 30 ? 3 : 9;
    if (n == 9 || n > size - at - 1) return false;
    uint32_t value = n == 0 ? b : b & (0x3f >> n);
    for (size_t i = 1; i <= n; i++) {
      if (text[at + i] >> 6 != 2) return false;
      value = value << 6 | (text[at + i] & 0x3f);
    }
    static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    if (value < least[n] || value > 0x10ffff || (value >= 0xd800 && value < 0xe000)) return false;
    at += n + 1;
  }
  return true;
}

static void assert_utf8(const uint8_t *text, size_t size) {
  bool expected = is_utf8(text, size);
  for (size_t cut = 0; cut <= size; cut++) {
    struct utf8_state s = {0};
    bool valid = utf8_feed(&s, text, cut) && utf8_feed(&s, text + cut, size - cut) && utf8_complete(&s);
    if (valid != expected) fail_msg("%02x %02x %02x %02x", text[0], text[1], text[2], text[3]);
  }
}

static void test_utf8_of_all_beginnings(void **state) {
  static const uint8_t ends[] = {0x00, 0x7f, 0x80, 0xbf, 0xc0, 0xff};
  uint8_t text[5] = {0};
  for (unsigned first = 0; first < 65536; first++)
    for (size_t end = 0; end < sizeof ends; end++) {
      text[0] = (uint8_t)(first >> 8);
      text[1] = (uint8_t)first;
      text[2] = ends[end];
      text[3] = ends[(end * 5 + first) % sizeof ends];
      for (size_t size = 1; size <= 4; size++) assert_utf8(text, size);
    }
}

static void test_utf8_in_long_texts(void **state) {
  char text[64];
  for (size_t at = 0; at < sizeof text - 4; at++) {
    memset(text, 'x', sizeof text);
    memcpy(text + at, "\xf0\x9f\x8e\x89", 4);
    assert_utf8((uint8_t *)text, sizeof text);
    text[at + 3] = 'x';
    assert_utf8((uint8_t *)text, sizeof text);
  }
}

/* ---- the way out ------------------------------------------------------------------------------------------------- */

static void test_what_is_written_is_read(void **state) {
  static const size_t sizes[] = {0, 1, 125, 126, 65535, 65536};
  char *payload = calloc(1, 65536);
  assert_non_null(payload);
  for (size_t i = 0; i < 2 * sizeof sizes / sizeof *sizes; i++) {
    size_t size = sizes[i / 2];
    bool client = i % 2 == 0; /* reads what a server writes */
    struct buffer b;
    buffer_init(&b, LIMIT);
    uint8_t head[WEBSOCKET_HEAD_MAX];
    static const uint8_t zeros[4];
    buffer_append(&b, head, websocket_write_head(head, WEBSOCKET_BINARY, size, client ? NULL : zeros));
    buffer_append(&b, payload, size);
    struct recorder r;
    recorder_init(&r);
    struct websocket_codec codec;
    websocket_codec_init(&codec, client, LIMIT, &recording, &r);
    mu_error err;
    assert_int_equal(feed(&codec, b.data, b.size, &err), 0);
    assert_int_equal(r.message.size, size);
    assert_int_equal(r.text.data[0], 'B');
    recorder_free(&r);
    buffer_free(&b);
  }
  free(payload);
}

static void test_a_client_takes_no_masked_frames(void **state) {
  struct recorder r;
  recorder_init(&r);
  struct websocket_codec codec;
  websocket_codec_init(&codec, true, LIMIT, &recording, &r);
  mu_error err;
  assert_int_equal(feed(&codec, "\x81\x80", 2, &err), WEBSOCKET_PROTOCOL_ERROR);
  recorder_free(&r);
}

static void test_close_frames_are_written(void **state) {
  uint8_t frame[WEBSOCKET_CLOSE_FRAME_MAX];
  assert_int_equal(websocket_write_close(frame, 1001, "bye"), 7);
  assert_memory_equal(frame,
                      "\x88\x05\x03\xe9"
                      "bye",
                      7);
  char longer[200];
  memset(longer, 'x', sizeof longer - 1);
  longer[sizeof longer - 1] = '\0';
  assert_int_equal(websocket_write_close(frame, 1011, longer), sizeof frame);
  memcpy(longer + 122, "\xc3\xbc", 2); /* the cut would be inside of it */
  assert_int_equal(websocket_write_close(frame, 1011, longer), sizeof frame - 1);
  assert_int_equal(frame[1], 124);
}

static void test_masking_at_any_offset(void **state) {
  uint8_t plain[64], masked[64], back[64];
  for (size_t i = 0; i < sizeof plain; i++) plain[i] = (uint8_t)(i * 11);
  for (size_t i = 0; i < sizeof plain; i++) masked[i] = plain[i] ^ mask[i % 4];
  for (size_t from = 0; from < 20; from++)
    for (size_t to = from; to < sizeof plain; to++) {
      memcpy(back, masked, sizeof back);
      websocket_mask(back + from, back + from, to - from, mask, from);
      assert_memory_equal(back + from, plain + from, to - from);
      assert_memory_equal(back, masked, from);
      assert_memory_equal(back + to, masked + to, sizeof back - to);
    }
}

/* ---- against the reference --------------------------------------------------------------------------------------- */

static uint32_t next_random(uint32_t *seed) {
  *seed = *seed * 1664525 + 1013904223;
  return *seed >> 8;
}

/* Mostly right frames; now and then a byte that is not. */
static void add_random_frame(struct buffer *b, uint32_t *seed, bool *inside) {
  static const uint8_t controls[] = {0x88, 0x89, 0x8a};
  static const char *const texts[] = {"",     "abc",      "\xe2\x82\xac", "\xe2\x82",
                                      "\xac", "\x03\xe8", "\x03\xed",     "\x03\xf3x"};
  uint8_t first;
  if (next_random(seed) % 4 == 0) {
    first = next_random(seed) % 8 == 0 ? 0x88 : controls[1 + next_random(seed) % 2];
  } else {
    bool last = next_random(seed) % 2;
    first = (uint8_t)((*inside ? 0 : 1 + next_random(seed) % 2) | (last ? 0x80 : 0));
    *inside = !last;
  }
  if (next_random(seed) % 64 == 0) first ^= (uint8_t)(1u << next_random(seed) % 8);
  size_t before = b->size;
  if (next_random(seed) % 6 == 0) {
    char payload[300];
    memset(payload, 'z', sizeof payload);
    add_frame(b, first, payload, next_random(seed) % sizeof payload);
  } else {
    add_text(b, first, texts[next_random(seed) % (sizeof texts / sizeof *texts)]);
  }
  if (next_random(seed) % 64 == 0) b->data[before + 1] = (char)next_random(seed);
}

static void test_against_the_reference(void **state) {
  uint32_t seed = 1;
  struct buffer b, reference;
  buffer_init(&b, LIMIT);
  buffer_init(&reference, LIMIT);
  unsigned failures = 0, messages = 0;
  for (int round = 0; round < 20000; round++) {
    buffer_clear(&b);
    buffer_clear(&reference);
    bool inside = false;
    for (uint32_t n = 1 + next_random(&seed) % 12; n > 0; n--) add_random_frame(&b, &seed, &inside);
    uint16_t expected = wslay_reference_run((const uint8_t *)b.data, b.size, &reference);
    struct recorder r;
    recorder_init(&r);
    mu_error err = {""};
    uint16_t code = run(&r, &b, 0, 1 + next_random(&seed) % 40, &err);
    char *close = r.text.size > 0 ? memmem(r.text.data, r.text.size, "C1", 2) : NULL;
    if (code == 0 && close != NULL) code = (uint16_t)strtoul(close + 1, NULL, 10);
    if (close != NULL) r.text.size = (size_t)(close - r.text.data);
    if (strstr(err.message, "half a code") != NULL)
      expected = code; /* libwslay passes over a close frame of one byte */
    if (r.in_close && expected == WEBSOCKET_NOT_UTF8) expected = code; /* and reads a reason before its frame's end */
    assert_int_equal(code, expected);
    assert_same_text(&r, reference.data, reference.size);
    failures += code >= 1002 && code != 1005;
    messages += reference.size > 0;
    recorder_free(&r);
  }
  assert_true(failures > 1000 && messages > 1000); /* the rounds are worth something */
  buffer_free(&b);
  buffer_free(&reference);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_messages),
      cmocka_unit_test(test_fragments_with_control_frames_between),
      cmocka_unit_test(test_sizes_at_the_edges_of_the_length_forms),
      cmocka_unit_test(test_bytes_go_to_the_place_that_is_named),
      cmocka_unit_test(test_events_stop_the_codec),
      cmocka_unit_test(test_begin_says_the_size_of_the_first_frame),
      cmocka_unit_test(test_a_codec_is_busy_between_the_ends_of_messages),
      cmocka_unit_test(test_broken_heads),
      cmocka_unit_test(test_a_message_is_too_big_over_its_fragments),
      cmocka_unit_test(test_text_that_is_not_utf8),
      cmocka_unit_test(test_close),
      cmocka_unit_test(test_close_codes),
      cmocka_unit_test(test_broken_close_frames),
      cmocka_unit_test(test_utf8_of_all_beginnings),
      cmocka_unit_test(test_utf8_in_long_texts),
      cmocka_unit_test(test_what_is_written_is_read),
      cmocka_unit_test(test_a_client_takes_no_masked_frames),
      cmocka_unit_test(test_close_frames_are_written),
      cmocka_unit_test(test_masking_at_any_offset),
      cmocka_unit_test(test_against_the_reference),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
