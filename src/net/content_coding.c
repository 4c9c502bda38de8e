#include "net/content_coding.h"

#include <limits.h>
#include <stdlib.h>
#include <strings.h>
#include <zlib.h>

/* windowBits of zlib: the format comes with the size of the window. */
enum { WINDOW_GZIP = 15 + 16, WINDOW_ZLIB = 15, WINDOW_RAW = -15, ENCODER_MEMORY_LEVEL = 8 };

/* A reply is compressed on the loop's thread, so the fastest level. */
enum { ENCODER_LEVEL = 1 };

static const struct {
  const char *name, *alias;
  int window;
} codings[CODING_COUNT] = {
    [CODING_IDENTITY] = {"identity", "", 0},
    [CODING_GZIP] = {"gzip", "x-gzip", WINDOW_GZIP},
    [CODING_DEFLATE] = {"deflate", NULL, WINDOW_ZLIB},
};

const char *content_coding_name(enum content_coding coding) { return codings[coding].name; }

static bool same_word(const char *word, const char *text, size_t size) {
  return word != NULL && strlen(word) == size && strncasecmp(word, text, size) == 0;
}

mu_status content_coding_parse(const char *value, enum content_coding *ret_coding) {
  size_t size = value == NULL ? 0 : strlen(value);
  for (int i = 0; i < CODING_COUNT; i++) {
    if (size > 0 && !same_word(codings[i].name, value, size) && !same_word(codings[i].alias, value, size)) continue;
    *ret_coding = (enum content_coding)i;
    return MU_OK;
  }
  return MU_UNSUPPORTED;
}

/* ---- Accept-Encoding: gzip;q=0.8, *;q=0 -------------------------------------------------------------------------- */

static const char *skip_space(const char *at) {
  while (*at == ' ' || *at == '\t') at++;
  return at;
}

/* ";q=0.123" -> 123 of 1000; NULL where it is malformed. *at stays on what follows. */
static const char *read_weight(const char *at, int *ret_weight) {
  *ret_weight = 1000;
  at = skip_space(at);
  if (*at != ';') return at;
  at = skip_space(at + 1);
  if ((*at != 'q' && *at != 'Q') || at[1] != '=') return NULL;
  at += 2;
  if (*at != '0' && *at != '1') return NULL;
  int weight = (*at++ - '0') * 1000;
  if (*at == '.') {
    at++;
    for (int unit = 100; *at >= '0' && *at <= '9'; at++, unit /= 10) weight += (*at - '0') * unit;
  }
  if (weight > 1000) return NULL;
  *ret_weight = weight;
  return skip_space(at);
}

enum content_coding content_coding_choose(const char *accept) {
  enum { UNSAID = -1 };
  int weights[CODING_COUNT] = {UNSAID, UNSAID, UNSAID}, any = 0;
  for (const char *at = accept == NULL ? "" : skip_space(accept); *at != '\0';) {
    size_t size = strcspn(at, ",; \t");
    int weight;
    const char *rest = read_weight(at + size, &weight);
    if (rest == NULL || (*rest != ',' && *rest != '\0')) return CODING_IDENTITY;
    if (same_word("*", at, size)) any = weight;
    for (int i = 0; i < CODING_COUNT; i++)
      if (same_word(codings[i].name, at, size) || (size > 0 && same_word(codings[i].alias, at, size)))
        weights[i] = weight;
    at = *rest == ',' ? skip_space(rest + 1) : rest;
  }
  enum content_coding best = CODING_IDENTITY;
  /* identity is always acceptable to us, but as the least wanted unless its weight is said */
  int best_weight = weights[CODING_IDENTITY] == UNSAID ? 0 : weights[CODING_IDENTITY];
  for (int i = CODING_GZIP; i < CODING_COUNT; i++) {
    int weight = weights[i] == UNSAID ? any : weights[i];
    if (weight <= 0 || weight < best_weight || (weight == best_weight && best != CODING_IDENTITY)) continue;
    best = (enum content_coding)i;
    best_weight = weight;
  }
  return best;
}

/* ---- decoding ---------------------------------------------------------------------------------------------------- */

struct content_decoder {
  z_stream stream;
  enum content_coding coding;
  uint8_t first[2]; /* deflate: what tells its two forms apart */
  size_t n_first, first_at;
  bool open;     /* the stream is initialised */
  bool complete; /* at the end of a member */
};

struct content_decoder *content_decoder_create(enum content_coding coding) {
  struct content_decoder *decoder = calloc(1, sizeof *decoder);
  if (decoder != NULL) decoder->coding = coding;
  return decoder;
}

void content_decoder_free(struct content_decoder *decoder) {
  if (decoder == NULL) return;
  if (decoder->open) inflateEnd(&decoder->stream);
  free(decoder);
}

/* RFC 1950 section 2.2: method 8 in the low bits, and the two bytes are a multiple of 31. */
static bool is_zlib_head(const uint8_t head[2]) { return (head[0] & 0x0f) == 8 && (head[0] << 8 | head[1]) % 31 == 0; }

/* One call of inflate over as much as its counters hold. */
static mu_status inflate_some(struct content_decoder *d, const uint8_t **data, size_t *size, uint8_t *out, size_t room,
                              size_t *ret_produced) {
  if (d->complete && *size > 0) {
    if (d->coding != CODING_GZIP || inflateReset(&d->stream) != Z_OK) return MU_INVALID;
    d->complete = false;
  }
  if (d->complete) {
    *ret_produced = 0;
    return MU_OK;
  }
  z_stream *z = &d->stream;
  uInt given = *size > UINT_MAX ? UINT_MAX : (uInt)*size, space = room > UINT_MAX ? UINT_MAX : (uInt)room;
  z->next_in = (Bytef *)(uintptr_t)*data;
  z->avail_in = given;
  z->next_out = out;
  z->avail_out = space;
  int result = inflate(z, Z_NO_FLUSH);
  if (result == Z_MEM_ERROR) return MU_NO_MEMORY;
  if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR) return MU_INVALID;
  d->complete = result == Z_STREAM_END;
  *data += given - z->avail_in;
  *size -= given - z->avail_in;
  *ret_produced = space - z->avail_out;
  return MU_OK;
}

/* Initialises the stream once it is known what it is. The first two bytes of deflate may come one by one. */
static mu_status open_stream(struct content_decoder *d, const uint8_t **data, size_t *size) {
  while (d->coding == CODING_DEFLATE && d->n_first < 2 && *size > 0) {
    d->first[d->n_first++] = *(*data)++;
    (*size)--;
  }
  if (d->coding == CODING_DEFLATE && d->n_first < 2) return MU_OK;
  bool raw = d->coding == CODING_DEFLATE && !is_zlib_head(d->first);
  if (inflateInit2(&d->stream, raw ? WINDOW_RAW : codings[d->coding].window) != Z_OK) return MU_NO_MEMORY;
  d->open = true;
  return MU_OK;
}

mu_status content_decoder_run(struct content_decoder *decoder, const uint8_t **data, size_t *size, uint8_t *out,
                              size_t room, size_t *ret_produced) {
  size_t produced = 0;
  mu_status status = decoder->open ? MU_OK : open_stream(decoder, data, size);
  while (status == MU_OK && decoder->open && produced < room) {
    bool from_first = decoder->first_at < decoder->n_first;
    const uint8_t *at = from_first ? decoder->first + decoder->first_at : *data;
    size_t left = from_first ? decoder->n_first - decoder->first_at : *size, before = left, n;
    status = inflate_some(decoder, &at, &left, out + produced, room - produced, &n);
    if (status != MU_OK) break;
    produced += n;
    if (n == 0 && left == before) break; /* wants more input */
    if (from_first) {
      decoder->first_at = decoder->n_first - left;
    } else {
      *data = at;
      *size = left;
    }
  }
  if (status == MU_OK) *ret_produced = produced;
  return status;
}

bool content_decoder_complete(const struct content_decoder *decoder) { return decoder->complete; }

/* ---- encoding ---------------------------------------------------------------------------------------------------- */

struct content_encoder {
  z_stream stream;
};

struct content_encoder *content_encoder_create(enum content_coding coding) {
  struct content_encoder *encoder = calloc(1, sizeof *encoder);
  if (encoder == NULL) return NULL;
  if (deflateInit2(&encoder->stream, ENCODER_LEVEL, Z_DEFLATED, codings[coding].window, ENCODER_MEMORY_LEVEL,
                   Z_DEFAULT_STRATEGY) == Z_OK)
    return encoder;
  free(encoder);
  return NULL;
}

void content_encoder_free(struct content_encoder *encoder) {
  if (encoder == NULL) return;
  deflateEnd(&encoder->stream);
  free(encoder);
}

/* Runs deflate until it has taken all of its input (or, with Z_FINISH, has written its end). */
static mu_status deflate_all(z_stream *z, int flush, struct buffer *out) {
  enum { STEP = 16 * 1024 };
  for (;;) {
    mu_status status = buffer_reserve(out, STEP);
    if (status != MU_OK) return status;
    z->next_out = (Bytef *)out->data + out->size;
    z->avail_out = STEP;
    int result = deflate(z, flush);
    out->size += STEP - z->avail_out;
    if (result == Z_STREAM_END || (flush == Z_NO_FLUSH && z->avail_in == 0)) return MU_OK;
  }
}

mu_status content_encoder_run(struct content_encoder *encoder, const struct iovec *body, size_t n_body,
                              struct buffer *out) {
  z_stream *z = &encoder->stream;
  deflateReset(z);
  for (size_t i = 0; i < n_body; i++) {
    const char *data = body[i].iov_base;
    for (size_t left = body[i].iov_len; left > 0;) {
      uInt given = left > UINT_MAX ? UINT_MAX : (uInt)left;
      z->next_in = (Bytef *)(uintptr_t)data;
      z->avail_in = given;
      mu_status status = deflate_all(z, Z_NO_FLUSH, out);
      if (status != MU_OK) return status;
      data += given;
      left -= given;
    }
  }
  z->avail_in = 0;
  return deflate_all(z, Z_FINISH, out);
}
