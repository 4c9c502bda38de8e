#include "proto/pbtext/token.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* <ctype.h> depends on the locale, the format does not. */
static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_octal(char c) { return c >= '0' && c <= '7'; }
static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static int hex_digit(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

static struct pbtext_place place_of(const struct lexer *lexer, const char *at) {
  return (struct pbtext_place){.line = lexer->line, .column = (uint32_t)(at - lexer->line_start) + 1};
}

static void skip_blank(struct lexer *lexer) {
  while (lexer->at < lexer->end) {
    char c = *lexer->at;
    if (c == '#') {
      const char *newline = memchr(lexer->at, '\n', (size_t)(lexer->end - lexer->at));
      lexer->at = newline != NULL ? newline : lexer->end;
    } else if (is_space(c)) {
      lexer->at++;
      if (c == '\n') {
        lexer->line++;
        lexer->line_start = lexer->at;
      }
    } else {
      return;
    }
  }
}

static mu_status number_fail(const struct lexer *lexer, const char *what) {
  return pbtext_fail(lexer->err, MU_INVALID, lexer->source, lexer->token.place, "%s", what);
}

static const char *skip_digits(const char *at, const char *end) {
  while (at < end && is_digit(*at)) at++;
  return at;
}

/* Hexadecimal integers from behind their 0x, octal ones from their 0. */
static mu_status read_based(struct lexer *lexer, const char *at, unsigned base) {
  struct token *token = &lexer->token;
  const char *digits = at;
  for (; at < lexer->end && hex_digit(*at) >= 0 && (unsigned)hex_digit(*at) < base; at++)
    if (__builtin_mul_overflow(token->integer, (uint64_t)base, &token->integer) ||
        __builtin_add_overflow(token->integer, (uint64_t)hex_digit(*at), &token->integer))
      return number_fail(lexer, "this integer has more than 64 bits");
  if (at == digits) return number_fail(lexer, "a hexadecimal integer needs digits after 0x");
  token->kind = TOKEN_INTEGER;
  lexer->at = at;
  return MU_OK;
}

/* start to end is digits[.digits][e[+-]digits]; strtod wants it terminated. */
static mu_status read_double(struct lexer *lexer, const char *start, const char *end) {
  char text[512];
  size_t len = (size_t)(end - start);
  if (len >= sizeof text) return number_fail(lexer, "this number has too many digits");
  memcpy(text, start, len);
  text[len] = '\0';
  lexer->token.kind = TOKEN_FLOAT;
  lexer->token.number = strtod(text, NULL); /* past the range it gives inf or 0, as protobuf does */
  return MU_OK;
}

static mu_status read_decimal(struct lexer *lexer) {
  struct token *token = &lexer->token;
  const char *start = lexer->at, *at = skip_digits(start, lexer->end);
  bool fraction = false;
  if (at < lexer->end && *at == '.') {
    fraction = true;
    at = skip_digits(at + 1, lexer->end);
  }
  if (at < lexer->end && (*at == 'e' || *at == 'E')) {
    const char *exponent = at + 1;
    if (exponent < lexer->end && (*exponent == '+' || *exponent == '-')) exponent++;
    at = skip_digits(exponent, lexer->end);
    if (at == exponent) return number_fail(lexer, "the exponent of this number has no digits");
    fraction = true;
  }
  const char *end = at;
  if (at < lexer->end && (*at == 'f' || *at == 'F')) {
    at++;
    fraction = true;
  }
  lexer->at = at;
  bool overflow = false;
  for (const char *digit = start; !fraction && digit < end; digit++)
    overflow |= __builtin_mul_overflow(token->integer, UINT64_C(10), &token->integer) ||
                __builtin_add_overflow(token->integer, (uint64_t)(*digit - '0'), &token->integer);
  if (fraction || overflow) return read_double(lexer, start, end);
  token->kind = TOKEN_INTEGER;
  return MU_OK;
}

static mu_status read_number(struct lexer *lexer) {
  const char *at = lexer->at;
  bool zero = *at == '0' && at + 1 < lexer->end;
  mu_status status;
  if (zero && (at[1] == 'x' || at[1] == 'X'))
    status = read_based(lexer, at + 2, 16);
  else if (zero && is_digit(at[1]))
    status = read_based(lexer, at, 8);
  else
    status = read_decimal(lexer);
  if (status != MU_OK) return status;
  if (lexer->at < lexer->end && (is_letter(*lexer->at) || is_digit(*lexer->at) || *lexer->at == '.'))
    return number_fail(lexer, "this number runs into what follows it");
  lexer->token.len = (size_t)(lexer->at - at);
  return MU_OK;
}

static mu_status read_string(struct lexer *lexer) {
  char quote = *lexer->at;
  const char *start = ++lexer->at;
  for (; lexer->at < lexer->end && *lexer->at != '\n' && *lexer->at != '\0'; lexer->at++) {
    if (*lexer->at == quote) {
      lexer->token.kind = TOKEN_STRING;
      lexer->token.text = start;
      lexer->token.len = (size_t)(lexer->at - start);
      lexer->at++;
      return MU_OK;
    }
    bool escape = *lexer->at == '\\' && lexer->at + 1 < lexer->end && lexer->at[1] != '\n' && lexer->at[1] != '\0';
    if (escape) lexer->at++;
  }
  return pbtext_fail(lexer->err, MU_INVALID, lexer->source, lexer->token.place,
                     "this string does not end on its line (a line break is written \\n)");
}

mu_status lexer_next(struct lexer *lexer) {
  skip_blank(lexer);
  lexer->token = (struct token){.kind = TOKEN_END, .place = place_of(lexer, lexer->at), .text = lexer->at};
  if (lexer->at == lexer->end) return MU_OK;

  char c = *lexer->at;
  if (is_letter(c)) {
    while (lexer->at < lexer->end && (is_letter(*lexer->at) || is_digit(*lexer->at))) lexer->at++;
    lexer->token.kind = TOKEN_NAME;
    lexer->token.len = (size_t)(lexer->at - lexer->token.text);
    return MU_OK;
  }
  if (is_digit(c) || (c == '.' && lexer->at + 1 < lexer->end && is_digit(lexer->at[1]))) return read_number(lexer);
  if (c == '"' || c == '\'') return read_string(lexer);
  lexer->token.kind = TOKEN_MARK;
  lexer->token.len = 1;
  lexer->at++;
  return MU_OK;
}

mu_status lexer_start(struct lexer *lexer, const char *text, size_t len, const char *source, mu_error *err) {
  static const char byte_order_mark[] = "\xef\xbb\xbf";
  if (len >= 3 && memcmp(text, byte_order_mark, 3) == 0) {
    text += 3;
    len -= 3;
  }
  *lexer = (struct lexer){.at = text, .end = text + len, .line_start = text, .line = 1, .source = source, .err = err};
  return lexer_next(lexer);
}

mu_status lexer_unexpected(const struct lexer *lexer, const char *what) {
  const struct token *token = &lexer->token;
  char found[64];
  unsigned char c = token->kind == TOKEN_END ? 0 : (unsigned char)*token->text;
  if (token->kind == TOKEN_END)
    snprintf(found, sizeof found, "the end of the text");
  else if (token->kind == TOKEN_STRING)
    snprintf(found, sizeof found, "a string");
  else if (c < 0x20 || c >= 0x7f) /* only a mark can be such a byte */
    snprintf(found, sizeof found, "byte 0x%02x", c);
  else
    snprintf(found, sizeof found, "'%.*s'", (int)(token->len < 40 ? token->len : 40), token->text);
  return pbtext_fail(lexer->err, MU_INVALID, lexer->source, token->place, "expected %s, found %s", what, found);
}

/* ---- escapes ----------------------------------------------------------------------------------------------------- */

/* What stands for one character after a backslash. */
static const char escape_letters[] = "abfnrtv\\'\"?", escape_values[] = "\a\b\f\n\r\t\v\\'\"?";

/* Up to `most` digits of a base from *at on; how many there were. */
static unsigned read_digits(const char **at, const char *end, unsigned base, unsigned most, uint32_t *ret_number) {
  unsigned n = 0;
  uint32_t number = 0;
  for (; n < most && *at < end && hex_digit(**at) >= 0 && (unsigned)hex_digit(**at) < base; n++, (*at)++)
    number = number * base + (uint32_t)hex_digit(**at);
  *ret_number = number;
  return n;
}

static size_t put_utf8(uint32_t code, char *out) {
  if (code < 0x80) {
    out[0] = (char)code;
    return 1;
  }
  size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  for (size_t i = n - 1; i > 0; i--, code >>= 6) out[i] = (char)(0x80 | (code & 0x3f));
  out[0] = (char)(code | (0xf00u >> n)); /* 110…, 1110…, 11110…: n ones; the rest falls out of the byte */
  return n;
}

/* \uXXXX and \UXXXXXXXX from behind the letter; two \u may be the halves of a surrogate pair. */
static bool read_code_point(const char **at, const char *end, unsigned digits, uint32_t *ret_code) {
  uint32_t code, low;
  if (read_digits(at, end, 16, digits, &code) != digits) return false;
  if (digits == 4 && code >= 0xd800 && code < 0xdc00) {
    if (end - *at < 6 || (*at)[0] != '\\' || (*at)[1] != 'u') return false;
    *at += 2;
    if (read_digits(at, end, 16, 4, &low) != 4 || low < 0xdc00 || low > 0xdfff) return false;
    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
  }
  if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return false;
  *ret_code = code;
  return true;
}

/* One escape from behind its backslash; bytes written, 0 when it is none. */
static size_t read_escape(const char **at, const char *end, char *out) {
  char c = **at;
  uint32_t code;
  const char *letter = c == '\0' ? NULL : strchr(escape_letters, c);
  if (letter != NULL) {
    (*at)++;
    *out = escape_values[letter - escape_letters];
    return 1;
  }
  if (is_octal(c)) {
    read_digits(at, end, 8, 3, &code);
    *out = (char)code;
    return code <= 0xff;
  }
  (*at)++;
  if (c == 'x' || c == 'X') {
    if (read_digits(at, end, 16, 2, &code) == 0) return 0;
    *out = (char)code;
    return 1;
  }
  if ((c == 'u' && read_code_point(at, end, 4, &code)) || (c == 'U' && read_code_point(at, end, 8, &code)))
    return put_utf8(code, out);
  return 0;
}

mu_status token_unescape(const struct lexer *lexer, const struct token *token, char *out, size_t *ret_len) {
  size_t len = 0;
  const char *end = token->text + token->len;
  for (const char *at = token->text; at < end;) {
    if (*at != '\\') {
      out[len++] = *at++;
      continue;
    }
    /* the lexer saw to it that something follows the backslash within the string */
    struct pbtext_place place = token->place;
    place.column += (uint32_t)(at - token->text) + 1;
    at++;
    size_t n = read_escape(&at, end, out + len);
    if (n == 0) return pbtext_fail(lexer->err, MU_INVALID, lexer->source, place, "this is no escape of a string");
    len += n;
  }
  *ret_len = len;
  return MU_OK;
}
