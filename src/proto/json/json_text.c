#include "proto/json/json_text.h"

/* Could one of the 8 bytes at `at` need a look: control character, quote, backslash, beyond ASCII? Never no when it is
 * yes (a borrow between bytes can only make it yes). */
static inline bool needs_look(const char *at) {
  const uint64_t ones = UINT64_C(0x0101010101010101);
  uint64_t x;
  memcpy(&x, at, sizeof x);
  const uint64_t quote = x ^ (ones * '"'), backslash = x ^ (ones * '\\');
  return ((x | (x - ones * 0x20) | (quote - ones) | (backslash - ones)) & (ones * 0x80)) != 0;
}

static inline bool is_plain(unsigned char c) { return c >= 0x20 && c < 0x80 && c != '"' && c != '\\'; }

/* The first byte from `at` on that is not plain printable ASCII. */
static inline const char *skip_plain(const char *at, const char *end) {
  while (end - at >= 8 && !needs_look(at)) at += 8;
  while (at < end && is_plain((unsigned char)*at)) at++;
  return at;
}

/* Length of the UTF-8 sequence at `at`; 0 when it is not valid (RFC 3629: no overlong form, no surrogate, nothing past
 * U+10FFFF). */
static size_t utf8_length(const char *at, const char *end) {
  const unsigned char *p = (const unsigned char *)at;
  if (p[0] < 0x80) return 1;
  const size_t length = p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
  if (length == 0 || (size_t)(end - at) < length) return 0;
  /* the second byte's range is narrower after some first bytes */
  const unsigned char low = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
  const unsigned char high = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
  if (p[1] < low || p[1] > high) return 0;
  for (size_t i = 2; i < length; i++)
    if ((p[i] & 0xc0) != 0x80) return 0;
  return length;
}

bool json_utf8_valid(const char *text, size_t size) {
  const char *end = text + size;
  for (const char *at = skip_plain(text, end); at < end; at = skip_plain(at, end)) {
    const size_t length = utf8_length(at, end);
    if (length == 0) return false;
    at += length;
  }
  return true;
}

/* ---- escapes ----------------------------------------------------------------------------------------------------- */

/* The letter behind a backslash and the byte that it stands for. */
static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The four hex digits of \uXXXX; -1 when they are none. */
static int32_t hex4(const char *at, const char *end) {
  if (end - at < 4) return -1;
  int32_t value = 0;
  for (int i = 0; i < 4; i++) {
    const int digit = hex_digit(at[i]);
    if (digit < 0) return -1;
    value = value << 4 | digit;
  }
  return value;
}

static size_t utf8_encode(uint32_t code, char out[4]) {
  static const struct {
    uint32_t below;
    uint8_t lead;
  } forms[] = {{0x80, 0}, {0x800, 0xc0}, {0x10000, 0xe0}, {0x110000, 0xf0}};
  size_t more = 0;
  while (code >= forms[more].below) more++;
  for (size_t i = more; i > 0; i--, code >>= 6) out[i] = (char)(0x80 | (code & 0x3f));
  out[0] = (char)(forms[more].lead | code);
  return more + 1;
}

/* Decodes the escape at `at` (a backslash) to 1 to 4 bytes. Returns its end; NULL with *ret_why when it is none. */
static const char *escape_decode(const char *at, const char *end, char out[4], size_t *ret_size, const char **ret_why) {
  *ret_why = "there is no such escape";
  if (end - at < 2) return NULL;
  if (at[1] != 'u') {
    const char *letter = memchr(letters, at[1], sizeof letters - 1);
    if (letter == NULL) return NULL;
    out[0] = meanings[letter - letters];
    *ret_size = 1;
    return at + 2;
  }
  *ret_why = "\\u needs four hexadecimal digits";
  int32_t code = hex4(at + 2, end);
  if (code < 0) return NULL;
  at += 6;
  if (code >= 0xd800 && code < 0xe000) {
    *ret_why = "half of a surrogate pair";
    if (code >= 0xdc00 || end - at < 6 || at[0] != '\\' || at[1] != 'u') return NULL;
    const int32_t low = hex4(at + 2, end);
    if (low < 0xdc00 || low >= 0xe000) return NULL;
    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    at += 6;
  }
  *ret_size = utf8_encode((uint32_t)code, out);
  return at;
}

const char *json_text_scan(const char *at, const char *end, struct json_text *ret_text, const char **ret_stop,
                           const char **ret_why) {
  const char *start = at;
  bool escaped = false;
  for (;;) {
    at = skip_plain(at, end);
    *ret_stop = at;
    if (at == end) {
      *ret_why = "the text ends inside a string";
      return NULL;
    }
    if (*at == '"') break;
    if (*at == '\\') {
      char decoded[4];
      size_t size;
      at = escape_decode(at, end, decoded, &size, ret_why);
      if (at == NULL) return NULL;
      escaped = true;
    } else if ((unsigned char)*at < 0x20) {
      *ret_why = "a control character inside a string";
      return NULL;
    } else {
      const size_t length = utf8_length(at, end);
      if (length == 0) {
        *ret_why = "a string is not valid UTF-8";
        return NULL;
      }
      at += length;
    }
  }
  *ret_text = (struct json_text){.text = start, .size = (size_t)(at - start), .escaped = escaped};
  return at;
}

/* A scanned text in pieces: the next run without escape, or the next escape decoded (into scratch). false at the end.
 */
static bool next_piece(const char **at, const char *end, char scratch[4], const char **ret_piece, size_t *ret_size) {
  if (*at == end) return false;
  if (**at == '\\') {
    const char *why;
    *at = escape_decode(*at, end, scratch, ret_size, &why); /* the scan has checked it */
    *ret_piece = scratch;
    return true;
  }
  const char *stop = memchr(*at, '\\', (size_t)(end - *at));
  if (stop == NULL) stop = end;
  *ret_piece = *at;
  *ret_size = (size_t)(stop - *at);
  *at = stop;
  return true;
}

size_t json_text_size(const struct json_text *text) {
  if (!text->escaped) return text->size;
  const char *at = text->text, *piece;
  char scratch[4];
  size_t total = 0, size;
  while (next_piece(&at, text->text + text->size, scratch, &piece, &size)) total += size;
  return total;
}

size_t json_text_decode(const struct json_text *text, char *out) {
  const char *at = text->text, *piece;
  char scratch[4];
  size_t total = 0, size;
  while (next_piece(&at, text->text + text->size, scratch, &piece, &size)) {
    memcpy(out + total, piece, size);
    total += size;
  }
  return total;
}

bool json_text_equal(const struct json_text *text, const char *with) {
  const size_t length = strlen(with);
  if (!text->escaped) return text->size == length && memcmp(text->text, with, length) == 0;
  const char *at = text->text, *piece;
  char scratch[4];
  size_t total = 0, size;
  while (next_piece(&at, text->text + text->size, scratch, &piece, &size)) {
    if (size > length - total || memcmp(with + total, piece, size) != 0) return false;
    total += size;
  }
  return total == length;
}

mu_status json_unescape(const struct json_text *text, struct buffer *out) {
  const mu_status status = buffer_reserve(out, json_text_size(text));
  if (status == MU_OK && text->size != 0) out->size += json_text_decode(text, out->data + out->size);
  return status;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* What stands for the byte at `at`, which is not plain: an escape, U+FFFD, or itself (all of its sequence). */
static mu_status write_special(struct buffer *out, const char **at, const char *end) {
  const unsigned char c = (unsigned char)**at;
  if (c < 0x80) {
    ++*at;
    const char *meaning = memchr(meanings, c, sizeof meanings - 1);
    if (meaning != NULL) return buffer_append(out, (char[]){'\\', letters[meaning - meanings]}, 2);
    static const char hex[] = "0123456789abcdef";
    return buffer_append(out, (char[]){'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]}, 6);
  }
  const char *start = *at;
  const size_t length = utf8_length(start, end);
  *at += length != 0 ? length : 1;
  return length != 0 ? buffer_append(out, start, length) : buffer_append(out, "\xef\xbf\xbd", 3);
}

mu_status json_write_string(struct buffer *out, const char *text, size_t size) {
  const char *at = text, *end = text + size;
  mu_status status = buffer_putc(out, '"');
  while (status == MU_OK && at < end) {
    const char *plain = at;
    at = skip_plain(at, end);
    status = buffer_append(out, plain, (size_t)(at - plain));
    if (status == MU_OK && at < end) status = write_special(out, &at, end);
  }
  return status == MU_OK ? buffer_putc(out, '"') : status;
}
