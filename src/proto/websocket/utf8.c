#include "proto/websocket/utf8.h"

#include <string.h>

/* First bytes, how many follow, and where the second one lies (RFC 3629, section 4); the others are 80 to BF. */
static const struct {
  uint8_t first, last, following, low, high;
} forms[] = {
    {0x00, 0x7f, 0, 0x80, 0xbf}, {0xc2, 0xdf, 1, 0x80, 0xbf}, {0xe0, 0xe0, 2, 0xa0, 0xbf},
    {0xe1, 0xec, 2, 0x80, 0xbf}, {0xed, 0xed, 2, 0x80, 0x9f}, {0xee, 0xef, 2, 0x80, 0xbf},
    {0xf0, 0xf0, 3, 0x90, 0xbf}, {0xf1, 0xf3, 3, 0x80, 0xbf}, {0xf4, 0xf4, 3, 0x80, 0x8f},
};

static bool begin_character(struct utf8_state *s, uint8_t byte) {
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
    if (byte >= forms[i].first && byte <= forms[i].last) {
      *s = (struct utf8_state){.missing = forms[i].following, .low = forms[i].low, .high = forms[i].high};
      return true;
    }
  return false;
}

/* Bytes of plain ASCII at the front, in steps of eight: nearly all of a JSON text. */
static size_t ascii_run(const uint8_t *data, size_t size) {
  size_t at = 0;
  for (uint64_t word; size - at >= sizeof word; at += sizeof word) {
    memcpy(&word, data + at, sizeof word);
    if (word & UINT64_C(0x8080808080808080)) break;
  }
  return at;
}

bool utf8_feed(struct utf8_state *s, const uint8_t *data, size_t size) {
  for (size_t at = 0; at < size; at++) {
    if (s->missing == 0) {
      at += ascii_run(data + at, size - at);
      if (at < size && !begin_character(s, data[at])) return false;
    } else {
      if (data[at] < s->low || data[at] > s->high) return false;
      *s = (struct utf8_state){.missing = (uint8_t)(s->missing - 1), .low = 0x80, .high = 0xbf};
    }
  }
  return true;
}
