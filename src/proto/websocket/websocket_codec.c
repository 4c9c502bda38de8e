#include "proto/websocket/websocket_codec.h"

#include <string.h>

/* What comes next. */
enum step {
  STEP_HEAD,    /* a frame's head is being collected */
  STEP_PAYLOAD, /* on its way through */
  STEP_END,     /* the frame is complete: its event is due */
  STEP_OVER,    /* the peer has closed: nothing */
  STEP_COUNT
};

struct input {
  const uint8_t *data;
  size_t left;
};

enum outcome { OUTCOME_GO_ON, OUTCOME_STOP, OUTCOME_STARVED, OUTCOME_FAILED };

/* ---- what can be wrong ------------------------------------------------------------------------------------------- */

enum failure {
  FAILURE_NONE,
  FAILURE_RESERVED_BIT,
  FAILURE_OPCODE,
  FAILURE_UNMASKED,
  FAILURE_MASKED,
  FAILURE_LENGTH_FORM,
  FAILURE_LENGTH_SIGN,
  FAILURE_CONTROL_SIZE,
  FAILURE_CONTROL_FRAGMENT,
  FAILURE_NO_MESSAGE,
  FAILURE_IN_MESSAGE,
  FAILURE_TEXT,
  FAILURE_TOO_BIG,
  FAILURE_CLOSE_SIZE,
  FAILURE_CLOSE_CODE,
  FAILURE_CLOSE_REASON,
};

static const struct {
  uint16_t code;
  const char *text; /* WEBSOCKET_REASON_MAX bytes at most */
} failures[] = {
    [FAILURE_RESERVED_BIT] = {WEBSOCKET_PROTOCOL_ERROR, "a reserved bit is set, but no extension was agreed on"},
    [FAILURE_OPCODE] = {WEBSOCKET_PROTOCOL_ERROR, "a frame has an opcode that RFC 6455 does not define"},
    [FAILURE_UNMASKED] = {WEBSOCKET_PROTOCOL_ERROR, "a frame is not masked, as those of a client must be"},
    [FAILURE_MASKED] = {WEBSOCKET_PROTOCOL_ERROR, "a frame is masked, which those of a server must not be"},
    [FAILURE_LENGTH_FORM] = {WEBSOCKET_PROTOCOL_ERROR, "a length is not written in its shortest form"},
    [FAILURE_LENGTH_SIGN] = {WEBSOCKET_PROTOCOL_ERROR, "a length has its highest bit set"},
    [FAILURE_CONTROL_SIZE] = {WEBSOCKET_PROTOCOL_ERROR, "a control frame has more than 125 bytes"},
    [FAILURE_CONTROL_FRAGMENT] = {WEBSOCKET_PROTOCOL_ERROR, "a control frame is fragmented"},
    [FAILURE_NO_MESSAGE] = {WEBSOCKET_PROTOCOL_ERROR, "a continuation came, but no message has begun"},
    [FAILURE_IN_MESSAGE] = {WEBSOCKET_PROTOCOL_ERROR, "a message began before the one before it had ended"},
    [FAILURE_TEXT] = {WEBSOCKET_NOT_UTF8, "a text message is not UTF-8"},
    [FAILURE_TOO_BIG] = {WEBSOCKET_TOO_BIG, "a message is larger than the server takes"},
    [FAILURE_CLOSE_SIZE] = {WEBSOCKET_PROTOCOL_ERROR, "a close frame has one byte: half a code"},
    [FAILURE_CLOSE_CODE] = {WEBSOCKET_PROTOCOL_ERROR, "a close frame has a code that must not be sent"},
    [FAILURE_CLOSE_REASON] = {WEBSOCKET_NOT_UTF8, "the reason in a close frame is not UTF-8"},
};

static enum outcome fail(struct websocket_codec *c, enum failure failure) {
  c->failure = (uint8_t)failure;
  return OUTCOME_FAILED;
}

static mu_status failed(const struct websocket_codec *c, uint16_t *ret_code, mu_error *err) {
  *ret_code = failures[c->failure].code;
  return mu_fail(err, *ret_code == WEBSOCKET_TOO_BIG ? MU_TOO_LARGE : MU_INVALID, "%s", failures[c->failure].text);
}

static enum outcome after(bool go_on) { return go_on ? OUTCOME_GO_ON : OUTCOME_STOP; }

/* ---- heads ------------------------------------------------------------------------------------------------------- */

void websocket_codec_init(struct websocket_codec *c, bool client, uint64_t message_limit,
                          const struct websocket_events *events, void *context) {
  *c = (struct websocket_codec){.events = events, .context = context, .client = client, .message_limit = message_limit};
}

static bool is_control(uint8_t opcode) { return (opcode & 8) != 0; }

/* The first two bytes: they say how long the head is. */
static enum failure check_start(const struct websocket_codec *c) {
  uint8_t opcode = c->head[0] & 0x0f, length = c->head[1] & 0x7f;
  bool last = (c->head[0] & 0x80) != 0, masked = (c->head[1] & 0x80) != 0;
  if ((c->head[0] & 0x70) != 0) return FAILURE_RESERVED_BIT;
  if ((opcode & 7) > 2) return FAILURE_OPCODE;
  if (masked == c->client) return masked ? FAILURE_MASKED : FAILURE_UNMASKED;
  if (is_control(opcode)) {
    if (length > WEBSOCKET_CONTROL_MAX) return FAILURE_CONTROL_SIZE;
    return last ? FAILURE_NONE : FAILURE_CONTROL_FRAGMENT;
  }
  if (opcode == WEBSOCKET_CONTINUATION) return c->in_message ? FAILURE_NONE : FAILURE_NO_MESSAGE;
  return c->in_message ? FAILURE_IN_MESSAGE : FAILURE_NONE;
}

static size_t length_bytes(uint8_t length) { return length == 127 ? 8 : length == 126 ? 2 : 0; }

static enum failure read_length(struct websocket_codec *c) {
  uint8_t length = c->head[1] & 0x7f;
  size_t n = length_bytes(length);
  uint64_t value = n == 0 ? length : 0;
  for (size_t i = 0; i < n; i++) value = value << 8 | c->head[2 + i];
  if (value >> 63 != 0) return FAILURE_LENGTH_SIGN;
  if ((n == 2 && value < 126) || (n == 8 && value <= UINT16_MAX)) return FAILURE_LENGTH_FORM;
  c->left = value;
  return FAILURE_NONE;
}

static bool collect(struct websocket_codec *c, struct input *in, size_t size) {
  while (c->head_size < size && in->left > 0) {
    c->head[c->head_size++] = *in->data++;
    in->left--;
  }
  return c->head_size == size;
}

/* The frame's head is complete. */
static enum outcome begin_frame(struct websocket_codec *c) {
  c->opcode = c->head[0] & 0x0f;
  c->last = (c->head[0] & 0x80) != 0;
  c->masked = !c->client;
  if (c->masked) memcpy(c->mask, c->head + c->head_size - sizeof c->mask, sizeof c->mask);
  c->mask_at = 0;
  c->head_size = 0;
  c->step = c->left > 0 ? STEP_PAYLOAD : STEP_END;
  c->control_size = 0;
  if (is_control(c->opcode)) return OUTCOME_GO_ON;
  if (c->opcode != WEBSOCKET_CONTINUATION) c->message_size = 0;
  if (c->left > c->message_limit - c->message_size) return fail(c, FAILURE_TOO_BIG);
  c->message_size += c->left;
  if (c->opcode == WEBSOCKET_CONTINUATION) return OUTCOME_GO_ON;
  c->in_message = true;
  c->text = c->opcode == WEBSOCKET_TEXT;
  c->utf8 = (struct utf8_state){0};
  return after(c->events->begin(c->context, c->text, c->left, c->last));
}

static enum outcome step_head(struct websocket_codec *c, struct input *in) {
  if (!collect(c, in, c->head_size > 2 ? c->head_size : 2)) return OUTCOME_STARVED;
  enum failure failure = check_start(c);
  if (failure != FAILURE_NONE) return fail(c, failure);
  size_t size = 2 + length_bytes(c->head[1] & 0x7f);
  if (!collect(c, in, c->head_size > size ? c->head_size : size)) return OUTCOME_STARVED;
  failure = read_length(c);
  if (failure != FAILURE_NONE) return fail(c, failure);
  if (!collect(c, in, size + (c->client ? 0 : sizeof c->mask))) return OUTCOME_STARVED;
  return begin_frame(c);
}

/* ---- payloads ---------------------------------------------------------------------------------------------------- */

void websocket_mask(uint8_t *to, const uint8_t *from, size_t size, const uint8_t mask[4], uint64_t at) {
  uint8_t turned[8]; /* the mask as it falls on the first eight bytes */
  for (size_t i = 0; i < sizeof turned; i++) turned[i] = mask[(at + i) % 4];
  uint64_t key, word;
  memcpy(&key, turned, sizeof key);
  size_t done = 0;
  for (; size - done >= sizeof word; done += sizeof word) {
    memcpy(&word, from + done, sizeof word);
    word ^= key;
    memcpy(to + done, &word, sizeof word);
  }
  for (; done < size; done++) to[done] = from[done] ^ turned[done % 4];
}

static void unmask(struct websocket_codec *c, uint8_t *to, const uint8_t *from, size_t size) {
  if (c->masked)
    websocket_mask(to, from, size, c->mask, c->mask_at);
  else if (size > 0)
    memcpy(to, from, size);
  c->mask_at = (uint32_t)(c->mask_at + size) % sizeof c->mask;
}

static size_t take(struct websocket_codec *c, struct input *in, size_t most) {
  size_t size = in->left < most ? in->left : most;
  if (size > c->left) size = (size_t)c->left;
  in->data += size;
  in->left -= size;
  c->left -= size;
  if (c->left == 0) c->step = STEP_END;
  return size;
}

static enum outcome step_control_payload(struct websocket_codec *c, struct input *in) {
  const uint8_t *from = in->data;
  size_t size = take(c, in, sizeof c->control - c->control_size);
  unmask(c, c->control + c->control_size, from, size);
  c->control_size = (uint8_t)(c->control_size + size);
  return OUTCOME_GO_ON;
}

static enum outcome step_payload(struct websocket_codec *c, struct input *in) {
  if (in->left == 0) return OUTCOME_STARVED;
  if (is_control(c->opcode)) return step_control_payload(c, in);
  uint8_t piece[WEBSOCKET_PIECE_MAX];
  size_t most = 0;
  uint8_t *to = c->events->place != NULL ? c->events->place(c->context, &most) : NULL;
  if (to == NULL) {
    to = piece;
    most = sizeof piece;
  }
  const uint8_t *from = in->data;
  size_t size = take(c, in, most);
  unmask(c, to, from, size);
  if (c->text && !utf8_feed(&c->utf8, to, size)) return fail(c, FAILURE_TEXT);
  return after(c->events->data(c->context, to, size));
}

/* ---- ends -------------------------------------------------------------------------------------------------------- */

/* RFC 6455, section 7.4, and the registry of codes that it founded. */
static bool may_be_sent(uint16_t code) {
  return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);
}

static enum outcome end_close(struct websocket_codec *c) {
  size_t size = c->control_size;
  if (size == 1) return fail(c, FAILURE_CLOSE_SIZE);
  uint16_t code = size == 0 ? WEBSOCKET_NO_CODE : (uint16_t)(c->control[0] << 8 | c->control[1]);
  const uint8_t *reason = size > 0 ? c->control + 2 : c->control;
  size_t reason_size = size > 0 ? size - 2 : 0;
  struct utf8_state utf8 = {0};
  if (!utf8_feed(&utf8, reason, reason_size) || !utf8_complete(&utf8)) return fail(c, FAILURE_CLOSE_REASON);
  if (size > 0 && !may_be_sent(code)) return fail(c, FAILURE_CLOSE_CODE);
  c->step = STEP_OVER;
  return after(c->events->close(c->context, code, reason, reason_size));
}

static enum outcome end_ping(struct websocket_codec *c) {
  return after(c->events->ping(c->context, c->control, c->control_size));
}

static enum outcome end_pong(struct websocket_codec *c) {
  return after(c->events->pong(c->context, c->control, c->control_size));
}

static enum outcome end_data(struct websocket_codec *c) {
  if (!c->last) return OUTCOME_GO_ON;
  if (c->text && !utf8_complete(&c->utf8)) return fail(c, FAILURE_TEXT);
  c->in_message = false;
  return after(c->events->end(c->context));
}

static enum outcome step_end(struct websocket_codec *c, struct input *in) {
  static enum outcome (*const ends[])(struct websocket_codec *) = {
      [WEBSOCKET_CONTINUATION] = end_data, [WEBSOCKET_TEXT] = end_data, [WEBSOCKET_BINARY] = end_data,
      [WEBSOCKET_CLOSE] = end_close,       [WEBSOCKET_PING] = end_ping, [WEBSOCKET_PONG] = end_pong,
  };
  c->step = STEP_HEAD;
  return ends[c->opcode](c);
}

static enum outcome step_over(struct websocket_codec *c, struct input *in) {
  in->data += in->left;
  in->left = 0;
  return OUTCOME_STARVED;
}

mu_status websocket_feed(struct websocket_codec *c, const uint8_t *data, size_t size, size_t *ret_used,
                         uint16_t *ret_code, mu_error *err) {
  static enum outcome (*const steps[STEP_COUNT])(struct websocket_codec *, struct input *) = {
      [STEP_HEAD] = step_head, [STEP_PAYLOAD] = step_payload, [STEP_END] = step_end, [STEP_OVER] = step_over};
  struct input in = {data, size};
  enum outcome outcome = c->failure == FAILURE_NONE ? OUTCOME_GO_ON : OUTCOME_FAILED;
  while (outcome == OUTCOME_GO_ON) outcome = steps[c->step](c, &in);
  *ret_used = size - in.left;
  return outcome == OUTCOME_FAILED ? failed(c, ret_code, err) : MU_OK;
}

bool websocket_codec_busy(const struct websocket_codec *c) {
  return c->in_message || c->head_size > 0 || c->step == STEP_PAYLOAD;
}

/* ---- the way out ------------------------------------------------------------------------------------------------- */

size_t websocket_write_head(uint8_t head[WEBSOCKET_HEAD_MAX], enum websocket_opcode opcode, uint64_t size,
                            const uint8_t mask[4]) {
  uint8_t length = size > UINT16_MAX ? 127 : size > 125 ? 126 : (uint8_t)size;
  size_t at = 0, n = length_bytes(length);
  head[at++] = (uint8_t)(0x80 | opcode);
  head[at++] = (uint8_t)((mask != NULL ? 0x80 : 0) | length);
  for (size_t i = 0; i < n; i++) head[at++] = (uint8_t)(size >> 8 * (n - 1 - i));
  if (mask == NULL) return at;
  memcpy(head + at, mask, 4);
  return at + 4;
}

size_t websocket_write_pong(uint8_t frame[WEBSOCKET_PONG_FRAME_MAX], const uint8_t *data, size_t size) {
  size_t at = websocket_write_head(frame, WEBSOCKET_PONG, size, NULL);
  if (size > 0) memcpy(frame + at, data, size);
  return at + size;
}

size_t websocket_write_close(uint8_t frame[WEBSOCKET_CLOSE_FRAME_MAX], uint16_t code, const char *reason) {
  size_t size = strlen(reason);
  if (size > WEBSOCKET_REASON_MAX) {
    size = WEBSOCKET_REASON_MAX;
    while (size > 0 && ((uint8_t)reason[size] & 0xc0) == 0x80) size--;
  }
  size_t at = websocket_write_head(frame, WEBSOCKET_CLOSE, 2 + size, NULL);
  frame[at++] = (uint8_t)(code >> 8);
  frame[at++] = (uint8_t)code;
  memcpy(frame + at, reason, size);
  return at + size;
}
