/*
 * libFuzzer target: any bytes as what a WebSocket client sends.
 *
 *   clang -fsanitize=fuzzer,address,undefined … -o fuzz_websocket && fuzz_websocket corpus/websocket
 *
 * The first byte says how the rest is cut. Checked: no byte is read past what was given, what is found does not depend
 * on the cut nor on events that stop the codec, and it is what libwslay finds.
 */
#include "proto/websocket/websocket_codec.h"

#include "../unit/proto/wslay_reference.h"

enum { LIMIT = 1 << 20 };

struct found {
  struct buffer transcript, message;
  bool text, inside, stopping, in_close, failed;
  uint32_t events;
  uint16_t code;
};

static bool goes_on(struct found *f) { return !f->stopping || ++f->events % 3 != 0; }

static bool on_begin(void *context, bool text, uint64_t size, bool whole) {
  struct found *f = context;
  if (f->inside || size > LIMIT) abort();
  f->inside = true;
  f->text = text;
  buffer_clear(&f->message);
  return goes_on(f);
}

/* Now and then a place, straight in the message. */
static uint8_t *place(void *context, size_t *ret_size) {
  struct found *f = context;
  if (f->message.size % 3 != 1 || buffer_reserve(&f->message, 64) != MU_OK) return NULL;
  *ret_size = 1 + f->message.size % 64;
  return (uint8_t *)f->message.data + f->message.size;
}

static bool on_data(void *context, const uint8_t *data, size_t size) {
  struct found *f = context;
  if (!f->inside || size == 0) abort();
  if (f->message.data != NULL && data == (const uint8_t *)f->message.data + f->message.size)
    f->message.size += size;
  else
    buffer_append(&f->message, data, size);
  return goes_on(f);
}

static void note(struct found *f, char kind, const void *data, size_t size) {
  buffer_print(&f->transcript, "%c%zu:", kind, size);
  buffer_append(&f->transcript, data, size);
}

static bool on_end(void *context) {
  struct found *f = context;
  if (!f->inside) abort();
  f->inside = false;
  note(f, f->text ? 'T' : 'B', f->message.data, f->message.size);
  return goes_on(f);
}

static bool on_ping(void *context, const uint8_t *data, size_t size) {
  note(context, 'P', data, size);
  return goes_on(context);
}

static bool on_pong(void *context, const uint8_t *data, size_t size) {
  note(context, 'p', data, size);
  return goes_on(context);
}

static bool on_close(void *context, uint16_t code, const uint8_t *reason, size_t size) {
  struct found *f = context;
  if (f->code != 0 || size > WEBSOCKET_REASON_MAX) abort();
  f->code = code;
  return goes_on(f);
}

static const struct websocket_events events = {.begin = on_begin,
                                               .place = place,
                                               .data = on_data,
                                               .end = on_end,
                                               .ping = on_ping,
                                               .pong = on_pong,
                                               .close = on_close};

/* Gives the codec all of the part, however often it stops. false: it has failed. */
static bool feed(struct websocket_codec *codec, struct found *f, const uint8_t *data, size_t size, mu_error *err) {
  for (unsigned calls = 0;; calls++) {
    uint8_t *copy = malloc(size > 0 ? size : 1); /* exactly as long as it is said to be */
    if (copy == NULL || calls > 1000000) abort();
    if (size > 0) memcpy(copy, data, size);
    size_t used = 0;
    uint16_t code = 0;
    mu_status status = websocket_feed(codec, copy, size, &used, &code, err);
    free(copy);
    if (status != MU_OK) {
      if (code < 1002 || code > 1009 || f->code != 0) abort();
      f->code = code;
      f->failed = true;
      return false;
    }
    if (used > size) abort();
    if (size == 0) return true;
    data += used;
    size -= used;
  }
}

static struct found run(const uint8_t *data, size_t size, size_t part, bool stopping, mu_error *err) {
  struct found f = {.stopping = stopping};
  buffer_init(&f.transcript, 4 * LIMIT);
  buffer_init(&f.message, 2 * LIMIT);
  struct websocket_codec codec;
  websocket_codec_init(&codec, false, LIMIT, &events, &f);
  for (size_t at = 0; at < size; at += part)
    if (!feed(&codec, &f, data + at, size - at < part ? size - at : part, err)) break;
  f.in_close = codec.opcode == WEBSOCKET_CLOSE && websocket_codec_busy(&codec);
  buffer_free(&f.message);
  return f;
}

static bool same(const struct buffer *a, const struct buffer *b) {
  return a->size == b->size && (a->size == 0 || memcmp(a->data, b->data, a->size) == 0);
}

/* What libwslay does otherwise: it passes over a close frame of one byte, knows no codes 1012 to 1014, and reads the
 * reason of a close frame before that has ended. */
static bool judged_otherwise(const struct found *f, const mu_error *err, uint16_t reference) {
  return strstr(err->message, "half a code") != NULL || (f->code >= 1012 && f->code <= 1014) ||
         (f->in_close && reference == WEBSOCKET_NOT_UTF8);
}

/* It also sees what is wrong with a head only when all of that is there, and the first byte behind it. */
static uint16_t run_reference(const uint8_t *data, size_t size, bool failed, struct buffer *transcript) {
  static const uint8_t more[WEBSOCKET_HEAD_MAX + 1];
  struct buffer padded;
  buffer_init(&padded, size + sizeof more);
  buffer_append(&padded, data, size);
  if (failed) buffer_append(&padded, more, sizeof more);
  uint16_t code = wslay_reference_run((const uint8_t *)padded.data, padded.size, transcript);
  buffer_free(&padded);
  return code;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2) return 0;
  mu_error err = {""}, cut_err = {""};
  struct found whole = run(data + 1, size - 1, size, false, &err),
               cut = run(data + 1, size - 1, 1 + (data[0] >> 1) % 32, data[0] & 1, &cut_err);
  if (whole.code != cut.code || !same(&whole.transcript, &cut.transcript)) abort();
  struct buffer reference;
  buffer_init(&reference, 4 * LIMIT);
  uint16_t code = run_reference(data + 1, size - 1, whole.failed, &reference);
  if (!judged_otherwise(&whole, &err, code) && (code != whole.code || !same(&reference, &whole.transcript))) abort();
  buffer_free(&reference);
  buffer_free(&whole.transcript);
  buffer_free(&cut.transcript);
  return 0;
}
