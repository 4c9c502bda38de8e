/* The tokens of protobuf text format. Private to pbtext/. A struct lexer may be copied to come back to a place. */
#ifndef PROTO_PBTEXT_TOKEN_H
#define PROTO_PBTEXT_TOKEN_H

#include "proto/pbtext/pbtext.h"

enum token_kind {
  TOKEN_END,
  TOKEN_NAME,
  TOKEN_INTEGER,
  TOKEN_FLOAT,
  TOKEN_STRING, /* text is what stands between the quotes, escapes and all */
  TOKEN_MARK,   /* one character of punctuation */
};

struct token {
  enum token_kind kind;
  struct pbtext_place place;
  const char *text;
  size_t len;
  uint64_t integer; /* TOKEN_INTEGER */
  double number;    /* TOKEN_FLOAT */
};

struct lexer {
  const char *at, *end;
  const char *line_start;
  uint32_t line;
  const char *source;
  mu_error *err;
  struct token token; /* the current one */
};

/* Stands on the first token afterwards. MU_INVALID. */
MUST_CHECK mu_status lexer_start(struct lexer *lexer, const char *text, size_t len, const char *source, mu_error *err);

/* To the next token. MU_INVALID. At the end it stays there. */
MUST_CHECK mu_status lexer_next(struct lexer *lexer);

static inline bool lexer_on_mark(const struct lexer *lexer, char mark) {
  return lexer->token.kind == TOKEN_MARK && *lexer->token.text == mark;
}

/* "expected WHAT, found …" at the current token; MU_INVALID. */
mu_status lexer_unexpected(const struct lexer *lexer, const char *what);

/* Decodes the escapes of a TOKEN_STRING into out, which has room for token->len bytes. MU_INVALID. */
MUST_CHECK mu_status token_unescape(const struct lexer *lexer, const struct token *token, char *out, size_t *ret_len);

#endif
