#include "launch/placeholder.h"

#include <ctype.h>
#include <stdio.h>

/* The length of the word in braces at text ("{port}": 4); 0: it is none. */
static size_t word_at(const char *text) {
  size_t n = 0;
  if (text[0] != '{') return 0;
  while (islower((unsigned char)text[1 + n]) || text[1 + n] == '_') n++;
  return text[1 + n] == '}' ? n : 0;
}

static mu_status fail_unknown(const char *word, size_t size, const struct placeholder *placeholders, size_t n,
                              mu_error *err) {
  char names[256] = "";
  size_t used = 0;
  for (size_t i = 0; i < n && used < sizeof names; i++)
    used += (size_t)snprintf(names + used, sizeof names - used, "%s{%s}", i == 0 ? "" : ", ", placeholders[i].name);
  return mu_fail(err, MU_INVALID, "unknown placeholder {%.*s}: there are %s; {{%.*s}} is the text itself",
                 (int)(size < 64 ? size : 64), word, names, (int)(size < 64 ? size : 64), word);
}

static mu_status expand_word(const char *word, size_t size, const struct placeholder *placeholders, size_t n,
                             struct buffer *out, mu_error *err) {
  for (size_t i = 0; i < n; i++) {
    if (strlen(placeholders[i].name) != size || memcmp(placeholders[i].name, word, size) != 0) continue;
    if (placeholders[i].value == NULL)
      return mu_fail(err, MU_INVALID, "{%s} has no value: %s", placeholders[i].name, placeholders[i].why);
    buffer_puts(out, placeholders[i].value);
    return MU_OK;
  }
  return fail_unknown(word, size, placeholders, n, err);
}

mu_status placeholder_expand(const char *text, const struct placeholder *placeholders, size_t n, struct buffer *out,
                             mu_error *err) {
  mu_status status = MU_OK;
  while (status == MU_OK && *text != '\0') {
    size_t size = word_at(text), inner = text[0] == '{' ? word_at(text + 1) : 0;
    if (inner > 0 && text[inner + 3] == '}') {
      buffer_append(out, text + 1, inner + 2);
      text += inner + 4;
    } else if (size > 0) {
      status = expand_word(text + 1, size, placeholders, n, out, err);
      text += size + 2;
    } else {
      buffer_putc(out, *text++);
    }
  }
  if (status == MU_OK && out->failed) return mu_fail(err, MU_NO_MEMORY, "no memory for a command");
  return status;
}
