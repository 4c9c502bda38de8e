/*
 * WebSocket frames (RFC 6455) as events. Pure: bytes in, events out; no socket, no clock, no memory of its own: the
 * codec is embedded by whoever owns the connection and used by one thread at a time.
 *
 * A message is never collected here: its bytes are handed on as they come, unmasked on the way straight into the memory
 * that the owner names (`place`), so that a tensor is copied once, from the read buffer into the input arena. Only
 * payloads of control frames, 125 bytes at most, wait in the codec for their end.
 *
 * Checked: reserved bits, opcodes, masking (a client must, a server must not), the shortest form of lengths, control
 * frames (size, not in fragments), the order of fragments, UTF-8 of texts and of close reasons, close codes, and the
 * size of a message over all its fragments, before any of the fragment is read.
 *
 * Own code instead of libwslay, which only hands out payloads from its own 4 KiB, unmasked byte by byte (measured at
 * 0.5 GB/s; this does 20). libwslay is the reference that the unit tests and the fuzzer compare with.
 */
#ifndef PROTO_WEBSOCKET_CODEC_H
#define PROTO_WEBSOCKET_CODEC_H

#include "base/status.h"
#include "proto/websocket/utf8.h"

enum websocket_opcode {
  WEBSOCKET_CONTINUATION = 0,
  WEBSOCKET_TEXT = 1,
  WEBSOCKET_BINARY = 2,
  WEBSOCKET_CLOSE = 8,
  WEBSOCKET_PING = 9,
  WEBSOCKET_PONG = 10,
};

enum websocket_code { /* why a connection is closed: RFC 6455, section 7.4.1 */
                      WEBSOCKET_NORMAL = 1000,
                      WEBSOCKET_GOING_AWAY = 1001,
                      WEBSOCKET_PROTOCOL_ERROR = 1002,
                      WEBSOCKET_NO_CODE = 1005, /* stands for a close frame without a code; never sent */
                      WEBSOCKET_NOT_UTF8 = 1007,
                      WEBSOCKET_POLICY = 1008,
                      WEBSOCKET_TOO_BIG = 1009,
                      WEBSOCKET_INTERNAL = 1011,
                      WEBSOCKET_TRY_AGAIN = 1013, /* IANA's registry: a passing overload */
};

enum {
  WEBSOCKET_CONTROL_MAX = 125,    /* bytes of a control frame's payload */
  WEBSOCKET_REASON_MAX = 123,     /* of them a close frame's text */
  WEBSOCKET_HEAD_MAX = 14,        /* bytes in front of a payload, from a client */
  WEBSOCKET_PIECE_MAX = 16 * 1024 /* bytes of a payload that come at once where `place` names no memory */
};

/* All but place return false to stop: websocket_feed returns and says how far it came; it goes on when it is called
 * with the rest, be it empty (an event may still be due). */
struct websocket_events {
  /* A message begins. size: of its first frame; whole: that is all of it. */
  bool (*begin)(void *context, bool text, uint64_t size, bool whole);
  /* Where the next bytes of the message belong: memory for *ret_size (>= 1) of them, or NULL where it does not matter.
   * May be NULL itself. */
  uint8_t *(*place)(void *context, size_t *ret_size);
  /* The next bytes of the message: at the place asked for, else in memory that is valid during the call. size > 0. */
  bool (*data)(void *context, const uint8_t *data, size_t size);
  bool (*end)(void *context);
  bool (*ping)(void *context, const uint8_t *data, size_t size); /* to be answered with a pong of the same bytes */
  bool (*pong)(void *context, const uint8_t *data, size_t size);
  /* The peer closes: WEBSOCKET_NO_CODE without a code. Whatever it sends behind this is passed over. */
  bool (*close)(void *context, uint16_t code, const uint8_t *reason, size_t size);
};

/* All fields are the codec's own. */
struct websocket_codec {
  const struct websocket_events *events;
  void *context;
  uint64_t message_limit;
  bool client;  /* reads what a server sends */
  uint8_t step; /* websocket_codec.c: what comes next */
  uint8_t head_size, control_size;
  uint8_t opcode; /* of the frame */
  bool last;      /* its FIN bit */
  bool in_message, text, masked;
  uint8_t failure; /* websocket_codec.c: what was wrong; 0: nothing */
  uint64_t left;   /* bytes of the frame's payload that are to come */
  uint64_t message_size;
  uint32_t mask_at;
  uint8_t mask[4];
  struct utf8_state utf8;
  uint8_t head[WEBSOCKET_HEAD_MAX];
  uint8_t control[WEBSOCKET_CONTROL_MAX];
};

/* client: it reads what a server sends. message_limit: bytes. */
void websocket_codec_init(struct websocket_codec *codec, bool client, uint64_t message_limit,
                          const struct websocket_events *events, void *context);

/*
 * Parses up to size bytes; *ret_used says how many were taken (fewer only after an event returned false). On MU_INVALID
 * and MU_TOO_LARGE *ret_code is the code to close with, err the reason. The error stays: further calls return it again.
 */
MUST_CHECK mu_status websocket_feed(struct websocket_codec *codec, const uint8_t *data, size_t size, size_t *ret_used,
                                    uint16_t *ret_code, mu_error *err);

/* In the middle of a message or of a frame? */
bool websocket_codec_busy(const struct websocket_codec *codec);

/* ---- the way out ------------------------------------------------------------------------------------------------- */

/* The bytes in front of a payload of this size, a frame that is a whole message: a server's with mask NULL. Returns how
 * many. */
size_t websocket_write_head(uint8_t head[WEBSOCKET_HEAD_MAX], enum websocket_opcode opcode, uint64_t size,
                            const uint8_t mask[4]);

/* A server's answer to a ping: its payload. Returns the frame's size. */
enum { WEBSOCKET_PONG_FRAME_MAX = 2 + WEBSOCKET_CONTROL_MAX };
size_t websocket_write_pong(uint8_t frame[WEBSOCKET_PONG_FRAME_MAX], const uint8_t *data, size_t size);

/* A server's close frame: code and as much of the reason as fits (cut between characters). Returns its size. */
enum { WEBSOCKET_CLOSE_FRAME_MAX = 2 + WEBSOCKET_CONTROL_MAX };
size_t websocket_write_close(uint8_t frame[WEBSOCKET_CLOSE_FRAME_MAX], uint16_t code, const char *reason);

/* Masks or unmasks size bytes that stand at offset `at` of their payload; to may be from. */
void websocket_mask(uint8_t *to, const uint8_t *from, size_t size, const uint8_t mask[4], uint64_t at);

#endif
