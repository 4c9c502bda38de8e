/*
 * SHA-1 (FIPS 180-4) for the opening handshake of WebSocket, which demands it as a proof that the server has
 * understood, not as a secret. For nothing else: SHA-1 is broken as a signature. Pure.
 */
#ifndef PROTO_WEBSOCKET_SHA1_H
#define PROTO_WEBSOCKET_SHA1_H

#include <stddef.h>
#include <stdint.h>

enum { SHA1_SIZE = 20 };

/* Of a short text held in memory. */
void sha1(const void *data, size_t size, uint8_t ret_digest[SHA1_SIZE]);

#endif
