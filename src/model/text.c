#include "model/text.h"

#include <stdint.h>
#include <string.h>

/* Length of the UTF-8 sequence at bytes, of which `left` are there; 0 when there is no valid one. */
static size_t sequence_length(const unsigned char *bytes, size_t left) {
  static const uint32_t least[] = {0, 1, 0x80, 0x800, 0x10000}; /* smaller codes have a shorter form */
  unsigned char first = bytes[0];
  size_t n = first < 0x80 ? 1 : first >= 0xf0 && first < 0xf8 ? 4 : first >= 0xe0 ? 3 : first >= 0xc0 ? 2 : 0;
  if (n == 0 || n > left || first >= 0xf8) return 0;
  uint32_t code = n == 1 ? first : first & (0x7fu >> n);
  for (size_t i = 1; i < n; i++) {
    if ((bytes[i] & 0xc0) != 0x80) return 0;
    code = code << 6 | (bytes[i] & 0x3f);
  }
  bool valid = code >= least[n] && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
  return valid ? n : 0;
}

bool text_valid(const char *text, size_t len) {
  for (size_t at = 0; at < len;) {
    size_t n = sequence_length((const unsigned char *)text + at, len - at);
    if (n == 0 || text[at] == '\0') return false;
    at += n;
  }
  return true;
}

void text_mend_end(char *text) {
  size_t len = strlen(text);
  for (int cut = 0; cut < 3 && len > 0 && !text_valid(text, len); cut++) text[--len] = '\0';
}

bool text_is_inner_path(const char *path) {
  if (*path == '\0' || *path == '/') return false;
  for (const char *part = path; *part != '\0';) {
    size_t len = strcspn(part, "/");
    if (len == 2 && part[0] == '.' && part[1] == '.') return false;
    part += len;
    part += strspn(part, "/");
  }
  return true;
}
