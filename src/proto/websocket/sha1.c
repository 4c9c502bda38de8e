#include "proto/websocket/sha1.h"

#include <string.h>

enum { BLOCK = 64, LENGTH_BYTES = 8, ROUNDS = 80 };

static uint32_t rotate(uint32_t value, unsigned bits) { return value << bits | value >> (32 - bits); }

static uint32_t mixed(unsigned round, uint32_t b, uint32_t c, uint32_t d) {
  switch (round / 20) {
    case 0:
      return (b & c) | (~b & d);
    case 2:
      return (b & c) | (b & d) | (c & d);
    default:
      return b ^ c ^ d;
  }
}

static void add_block(uint32_t state[5], const uint8_t block[BLOCK]) {
  static const uint32_t constants[] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
  uint32_t w[ROUNDS];
  for (unsigned i = 0; i < 16; i++)
    w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
           block[4 * i + 3];
  for (unsigned i = 16; i < ROUNDS; i++) w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
  uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
  for (unsigned i = 0; i < ROUNDS; i++) {
    uint32_t next = rotate(a, 5) + mixed(i, b, c, d) + e + constants[i / 20] + w[i];
    e = d;
    d = c;
    c = rotate(b, 30);
    b = a;
    a = next;
  }
  state[0] += a;
  state[1] += b;
  state[2] += c;
  state[3] += d;
  state[4] += e;
}

static void put_big_endian(uint8_t *to, uint64_t value, unsigned bytes) {
  for (unsigned i = 0; i < bytes; i++) to[i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
}

void sha1(const void *data, size_t size, uint8_t ret_digest[SHA1_SIZE]) {
  uint32_t state[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
  const uint8_t *at = data;
  size_t left = size;
  for (; left >= BLOCK; left -= BLOCK, at += BLOCK) add_block(state, at);
  uint8_t tail[2 * BLOCK] = {0}; /* the rest, a bit, zeros, and the length in bits */
  if (left > 0) memcpy(tail, at, left);
  tail[left] = 0x80;
  size_t tail_size = left + 1 + LENGTH_BYTES <= BLOCK ? BLOCK : 2 * BLOCK;
  put_big_endian(tail + tail_size - LENGTH_BYTES, (uint64_t)size * 8, LENGTH_BYTES);
  for (size_t done = 0; done < tail_size; done += BLOCK) add_block(state, tail + done);
  for (unsigned i = 0; i < 5; i++) put_big_endian(ret_digest + 4 * i, state[i], 4);
}
