/*
 * libFuzzer target: any bytes as an HTTP/1.1 stream, in both directions.
 *
 *   clang -fsanitize=fuzzer,address,undefined … -o fuzz_http1 && fuzz_http1 corpus/http1
 *
 * The first byte says how the rest is cut and which direction it is. Checked: no byte is read past what was given, and
 * the messages found do not depend on the cut: framing that does would be a way to smuggle requests.
 */
#include "proto/http1/http1_codec.h"

#include <stdlib.h>

/* What was found, reduced to what must not depend on the cut. */
struct digest {
  uint64_t heads, ends, body_bytes, hash;
  bool failed;
};

static void mix(struct digest *d, const void *data, size_t size) {
  for (size_t i = 0; i < size; i++) d->hash = (d->hash ^ ((const uint8_t *)data)[i]) * UINT64_C(1099511628211);
}

static bool on_head(void *context, const char *method, const char *target, int status, uint64_t content_length,
                    bool keep_alive, bool expect_continue) {
  struct digest *d = context;
  d->heads++;
  if (target != NULL) mix(d, target, strlen(target));
  mix(d, &content_length, sizeof content_length);
  return !expect_continue; /* some heads stop the parser */
}

static void on_header(void *context, const char *name, size_t name_size, const char *value, size_t value_size) {
  if (strlen(name) != name_size || strlen(value) != value_size) abort();
  mix(context, name, name_size);
  mix(context, value, value_size);
}

static bool on_body(void *context, const uint8_t *data, size_t size) {
  struct digest *d = context;
  if (size == 0) abort();
  d->body_bytes += size;
  mix(d, data, size);
  return true;
}

static bool on_end(void *context) {
  struct digest *d = context;
  d->ends++;
  return d->ends % 2 == 0; /* every other message stops the parser */
}

static const struct http1_events events = {.head = on_head, .header = on_header, .body = on_body, .end = on_end};

/* Gives the parser all of the part, however often it stops. */
static bool feed(struct http1_codec *codec, const uint8_t *data, size_t size) {
  size_t used, calls = 0;
  int status;
  do {
    uint8_t *copy = malloc(size > 0 ? size : 1); /* exactly as long as it is said to be */
    if (copy == NULL) abort();
    memcpy(copy, data, size);
    mu_status result = http1_codec_feed(codec, copy, size, &used, &status, NULL);
    free(copy);
    if (result != MU_OK) {
      if (status < 400 || status > 599) abort();
      return false;
    }
    if (used > size || ++calls > 100000) abort();
    data += used;
    size -= used;
  } while (size > 0);
  /* what may be due without a further byte */
  return http1_codec_feed(codec, data, 0, &used, &status, NULL) == MU_OK;
}

static struct digest run(bool client, const uint8_t *data, size_t size, size_t part) {
  struct digest d = {.hash = UINT64_C(14695981039346656037)};
  struct http1_codec *codec = http1_codec_create(client, &events, &d, 1024);
  if (codec == NULL) abort();
  for (size_t at = 0; at < size && !d.failed; at += part)
    d.failed = !feed(codec, data + at, size - at < part ? size - at : part);
  http1_codec_free(codec);
  return d;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2) return 0;
  bool client = data[0] & 1;
  size_t part = 1 + (data[0] >> 1) % 32;
  struct digest whole = run(client, data + 1, size - 1, size), cut = run(client, data + 1, size - 1, part);
  if (whole.failed != cut.failed || whole.heads != cut.heads || whole.ends != cut.ends) abort();
  if (!whole.failed && (whole.body_bytes != cut.body_bytes || whole.hash != cut.hash)) abort();
  return 0;
}
