#include "control/answer.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

const struct http_limits control_limits = {
    .body_bytes = 64 << 10,
    .head_bytes = 16 << 10,
    .pipeline = 4,
    .idle_timeout_ns = 30 * NS_PER_S,
    .head_timeout_ns = 10 * NS_PER_S,
    .body_min_rate = 1024,
    .body_grace_ns = 10 * NS_PER_S,
    .slow_reply_ns = 20 * NS_PER_MS,
    .copied_reply_bytes = 16 << 20,
    .connections = 64,
};

void control_answer(struct exchange *exchange, int status, json_t *document) {
  char *text = document != NULL ? json_dumps(document, JSON_COMPACT) : NULL;
  json_decref(document);
  if (text != NULL)
    exchange_reply_json(exchange, status, text, strlen(text));
  else
    exchange_reply_error(exchange, 500, "no memory for the answer");
  free(text);
}
