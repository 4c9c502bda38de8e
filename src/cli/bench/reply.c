#include "cli/bench/reply.h"

#include <strings.h>

void reply_init(struct reply *reply) {
  *reply = (struct reply){.state = REPLY_HEAD};
  buffer_init(&reply->text, REPLY_HEAD_MAX);
}

void reply_free(struct reply *reply) { buffer_free(&reply->text); }

void reply_begin(struct reply *reply, uint64_t fixed_bytes) {
  buffer_clear(&reply->text);
  reply->body_bytes = 0;
  reply->left = fixed_bytes;
  reply->state = fixed_bytes > 0 ? REPLY_BODY : REPLY_HEAD;
  reply->head = (struct reply_head){.keep_alive = true};
}

/* ---- the head ---------------------------------------------------------------------------------------------------- */

static bool parse_size(const char *text, const char *end, int base, uint64_t *ret_size) {
  uint64_t value = 0;
  if (text == end) return false;
  for (; text < end; text++) {
    int digit = *text >= '0' && *text <= '9'                               ? *text - '0'
                : base == 16 && (*text | 32) >= 'a' && (*text | 32) <= 'f' ? (*text | 32) - 'a' + 10
                                                                           : -1;
    if (digit < 0 || value > (UINT64_MAX >> 5)) return false;
    value = value * (uint64_t)base + (uint64_t)digit;
  }
  *ret_size = value;
  return true;
}

static bool has_word(const char *text, const char *end, const char *word) {
  size_t size = strlen(word);
  for (; (size_t)(end - text) >= size; text++)
    if (strncasecmp(text, word, size) == 0) return true;
  return false;
}

static bool read_length(struct reply_head *head, const char *value, const char *end) {
  if (!head->to_end) return false; /* a second one */
  head->to_end = false;
  return parse_size(value, end, 10, &head->length);
}
static bool read_infer_length(struct reply_head *head, const char *value, const char *end) {
  return parse_size(value, end, 10, &head->infer_length);
}
static bool read_coding(struct reply_head *head, const char *value, const char *end) {
  head->chunked = has_word(value, end, "chunked");
  return head->chunked;
}
static bool read_connection(struct reply_head *head, const char *value, const char *end) {
  if (has_word(value, end, "close")) head->keep_alive = false;
  if (has_word(value, end, "keep-alive")) head->keep_alive = true;
  return true;
}

/* The headers that say where a reply ends; others are passed over. */
static const struct {
  const char *name;
  size_t size;
  bool (*read)(struct reply_head *head, const char *value, const char *end);
} headers[] = {
    {"content-length", 14, read_length},
    {"transfer-encoding", 17, read_coding},
    {"connection", 10, read_connection},
    {"inference-header-content-length", 31, read_infer_length},
};

static bool parse_header(struct reply_head *head, const char *line, const char *end) {
  const char *colon = memchr(line, ':', (size_t)(end - line));
  if (colon == NULL || colon == line) return false;
  const char *value = colon + 1;
  while (value < end && (*value == ' ' || *value == '\t')) value++;
  while (end > value && (end[-1] == ' ' || end[-1] == '\t')) end--;
  for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
    if ((size_t)(colon - line) == headers[i].size && strncasecmp(line, headers[i].name, headers[i].size) == 0)
      return headers[i].read(head, value, end);
  return true;
}

/* text: with the empty line at the end. */
static bool parse_head(const char *text, size_t size, struct reply_head *ret_head) {
  struct reply_head head = {.infer_length = UINT64_MAX, .to_end = true};
  const char *end = text + size - 2;
  if (size < 16 || strncmp(text, "HTTP/1.", 7) != 0 || text[8] != ' ') return false;
  head.keep_alive = text[7] != '0';
  for (int i = 9; i < 12; i++) {
    if (text[i] < '0' || text[i] > '9') return false;
    head.status = head.status * 10 + (text[i] - '0');
  }
  if (head.status < 100 || (text[12] != ' ' && text[12] != '\r')) return false;
  const char *line = memmem(text, size, "\r\n", 2);
  while ((line += 2) < end) {
    const char *line_end = memmem(line, (size_t)(end - line), "\r\n", 2);
    if (line_end == NULL || !parse_header(&head, line, line_end)) return false;
    line = line_end;
  }
  if (head.chunked && !head.to_end) return false; /* a length and chunks: where does it end? */
  if (head.chunked) head.to_end = false;
  if (head.status == 204 || head.status == 304) head.to_end = head.chunked = false, head.length = 0;
  if (head.to_end) head.keep_alive = false;
  if (head.infer_length != UINT64_MAX && !head.chunked && !head.to_end && head.infer_length > head.length) return false;
  *ret_head = head;
  return true;
}

static void head_complete(struct reply *reply) {
  if (reply->head.status < 200) { /* "100 Continue": the reply is still to come */
    reply_begin(reply, 0);
    return;
  }
  reply->left = reply->head.to_end ? UINT64_MAX : reply->head.length;
  reply->state = reply->head.chunked ? REPLY_CHUNK_SIZE : reply->left > 0 ? REPLY_BODY : REPLY_DONE;
}

/* Bytes up to the end of a line or head, which may have come in pieces: MU_OK with *ret_text NULL while it has not
 * ended. */
static mu_status take_until(struct reply *reply, const char *data, size_t size, const char *mark, size_t *ret_used,
                            const char **ret_text, size_t *ret_size, mu_error *err) {
  size_t before = reply->text.size, mark_size = strlen(mark);
  *ret_text = NULL;
  const char *found = before == 0 ? memmem(data, size, mark, mark_size) : NULL;
  if (found != NULL) { /* in one piece: used where it is */
    *ret_used = (size_t)(found - data) + mark_size;
    *ret_text = data;
    *ret_size = *ret_used;
    return MU_OK;
  }
  size_t room = REPLY_HEAD_MAX - before,
         n = size < room ? size : room; /* the body may come along: it is not for here */
  if (n == 0) return mu_fail(err, MU_INVALID, "the reply's head is too long");
  if (buffer_append(&reply->text, data, n) != MU_OK)
    return mu_fail(err, MU_NO_MEMORY, "no memory for the reply's head");
  size_t from = before > mark_size ? before - mark_size : 0;
  found = memmem(reply->text.data + from, reply->text.size - from, mark, mark_size);
  *ret_used = n;
  if (found == NULL) return MU_OK;
  *ret_size = (size_t)(found - reply->text.data) + mark_size;
  *ret_used = *ret_size - before;
  *ret_text = reply->text.data;
  reply->text.size = 0; /* read by the caller before anything is appended */
  return MU_OK;
}

static mu_status feed_head(struct reply *reply, struct reply_cache *cache, const char *data, size_t size,
                           size_t *ret_used, mu_error *err) {
  const char *text;
  size_t text_size;
  if (reply->text.size == 0 && cache->size > 0 && size >= cache->size && memcmp(data, cache->text, cache->size) == 0) {
    reply->head = cache->head;
    *ret_used = cache->size;
    head_complete(reply);
    return MU_OK;
  }
  if (reply->text.size == 0 && strncmp(data, "HTTP/1.", size < 7 ? size : 7) != 0)
    return mu_fail(err, MU_INVALID, "the reply is no HTTP/1: '%.*s'", (int)(size < 40 ? strnlen(data, size) : 40),
                   data);
  mu_status status = take_until(reply, data, size, "\r\n\r\n", ret_used, &text, &text_size, err);
  if (status != MU_OK || text == NULL) return status;
  if (!parse_head(text, text_size, &reply->head))
    return mu_fail(err, MU_INVALID, "the reply's head cannot be understood");
  if (text_size <= sizeof cache->text) {
    memcpy(cache->text, text, text_size);
    cache->size = text_size;
    cache->head = reply->head;
  }
  head_complete(reply);
  return MU_OK;
}

/* ---- the body ---------------------------------------------------------------------------------------------------- */

static mu_status feed_line(struct reply *reply, const char *data, size_t size, size_t *ret_used, mu_error *err) {
  const char *line;
  size_t line_size;
  mu_status status = take_until(reply, data, size, "\r\n", ret_used, &line, &line_size, err);
  if (status != MU_OK || line == NULL) return status;
  const char *end = line + line_size - 2;
  if (reply->state == REPLY_TRAILER) {
    if (end == line) reply->state = REPLY_DONE;
    return MU_OK;
  }
  if (reply->state == REPLY_CHUNK_END) {
    reply->state = REPLY_CHUNK_SIZE;
    return end == line ? MU_OK : mu_fail(err, MU_INVALID, "a chunk of the reply is longer than it says");
  }
  const char *extension = memchr(line, ';', (size_t)(end - line));
  if (!parse_size(line, extension != NULL ? extension : end, 16, &reply->left))
    return mu_fail(err, MU_INVALID, "a chunk of the reply has no size");
  reply->state = reply->left > 0 ? REPLY_CHUNK : REPLY_TRAILER;
  return MU_OK;
}

mu_status reply_feed(struct reply *reply, struct reply_cache *cache, const char *data, size_t size, size_t *ret_used,
                     const char **ret_body, size_t *ret_body_size, mu_error *err) {
  *ret_body = data;
  *ret_body_size = 0;
  if (reply->state == REPLY_HEAD) return feed_head(reply, cache, data, size, ret_used, err);
  if (reply->state != REPLY_BODY && reply->state != REPLY_CHUNK) return feed_line(reply, data, size, ret_used, err);
  size_t n = size < reply->left ? size : (size_t)reply->left;
  reply->left -= n;
  reply->body_bytes += n;
  *ret_used = *ret_body_size = n;
  if (reply->left == 0) reply->state = reply->state == REPLY_CHUNK ? REPLY_CHUNK_END : REPLY_DONE;
  return MU_OK;
}

bool reply_finish(struct reply *reply) {
  if (reply->state == REPLY_BODY && reply->head.to_end) reply->state = REPLY_DONE;
  return reply->state == REPLY_DONE;
}
