#include "net/exchange.h"

#include "net/transport.h"

static const struct {
  const char *name;
  size_t size;
} header_names[HEADER_COUNT] = {
#define NAME(text) \
  { text, sizeof(text) - 1 }
    [HEADER_ACCEPT] = NAME("accept"),
    [HEADER_ACCEPT_ENCODING] = NAME("accept-encoding"),
    [HEADER_CONTENT_ENCODING] = NAME("content-encoding"),
    [HEADER_CONTENT_TYPE] = NAME("content-type"),
    [HEADER_HOST] = NAME("host"),
    [HEADER_INFERENCE_HEADER_CONTENT_LENGTH] = NAME("inference-header-content-length"),
    [HEADER_REQUEST_ID] = NAME("x-request-id"),
    [HEADER_ENDPOINT_LOAD_METRICS_FORMAT] = NAME("endpoint-load-metrics-format"),
    [HEADER_TE] = NAME("te"),
    [HEADER_GRPC_TIMEOUT] = NAME("grpc-timeout"),
    [HEADER_GRPC_ENCODING] = NAME("grpc-encoding"),
    [HEADER_GRPC_ACCEPT_ENCODING] = NAME("grpc-accept-encoding"),
    [HEADER_UPGRADE] = NAME("upgrade"),
    [HEADER_CONNECTION] = NAME("connection"),
    [HEADER_ORIGIN] = NAME("origin"),
    [HEADER_SEC_WEBSOCKET_KEY] = NAME("sec-websocket-key"),
    [HEADER_SEC_WEBSOCKET_VERSION] = NAME("sec-websocket-version"),
    [HEADER_SEC_WEBSOCKET_PROTOCOL] = NAME("sec-websocket-protocol"),
    [HEADER_SEC_WEBSOCKET_EXTENSIONS] = NAME("sec-websocket-extensions"),
#undef NAME
};

enum header_id header_find(const char *name, size_t size) {
  for (size_t i = 0; i < HEADER_COUNT; i++)
    if (header_names[i].size == size && memcmp(header_names[i].name, name, size) == 0) return (enum header_id)i;
  return HEADER_COUNT;
}

void exchange_reply(struct exchange *exchange, const struct reply *reply) {
  exchange->transport->reply(exchange, reply);
}
void exchange_pause(struct exchange *exchange) { exchange->transport->pause(exchange); }
void exchange_resume(struct exchange *exchange) { exchange->transport->resume(exchange); }
void exchange_unbounded_body(struct exchange *exchange) { exchange->transport->unbounded(exchange); }
void exchange_reply_begin(struct exchange *exchange, const struct reply *head) {
  exchange->transport->begin(exchange, head);
}
void exchange_reply_part(struct exchange *exchange, const struct reply_part *part) {
  exchange->transport->part(exchange, part);
}
void exchange_reply_end(struct exchange *exchange, const struct header *trailers, size_t n_trailers) {
  exchange->transport->end(exchange, trailers, n_trailers);
}
void exchange_abort(struct exchange *exchange) { exchange->transport->abort(exchange); }
uint64_t exchange_unsent(const struct exchange *exchange) { return exchange->transport->unsent(exchange); }
bool exchange_peer_is_local(const struct exchange *exchange) { return exchange->transport->peer_is_local(exchange); }

void exchange_reply_json(struct exchange *exchange, int status, const char *json, size_t size) {
  static const struct header later = {"Retry-After", "1"};
  struct iovec body = {.iov_base = (void *)(uintptr_t)json, .iov_len = size};
  exchange_reply(exchange, &(struct reply){.status = status,
                                           .content_type = "application/json",
                                           .headers = &later,
                                           .n_headers = status == 503,
                                           .body = &body,
                                           .n_body = 1,
                                           .compressible = true});
}

/* Bytes of the UTF-8 sequence at text; 0 where there is none (overlong forms and surrogates are none). */
static size_t utf8_size(const unsigned char *text) {
  static const struct {
    unsigned char first_low, first_high, second_low, second_high;
    size_t size;
  } forms[] = {
      {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
      {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
      {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
  };
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    if (text[0] < forms[i].first_low || text[0] > forms[i].first_high) continue;
    if (text[1] < forms[i].second_low || text[1] > forms[i].second_high) return 0;
    for (size_t at = 2; at < forms[i].size; at++)
      if ((text[at] & 0xc0) != 0x80) return 0;
    return forms[i].size;
  }
  return 0;
}

void exchange_append_escaped(struct buffer *json, const char *text) {
  for (const unsigned char *at = (const unsigned char *)text; *at != '\0';) {
    size_t size = *at < 0x80 ? 1 : utf8_size(at);
    if (size == 0)
      buffer_puts(json, "\\ufffd");
    else if (*at == '"' || *at == '\\')
      buffer_print(json, "\\%c", *at);
    else if (*at < 0x20)
      buffer_print(json, "\\u%04x", *at);
    else
      buffer_append(json, at, size);
    at += size == 0 ? 1 : size;
  }
}

void exchange_reply_error(struct exchange *exchange, int status, const char *text) {
  static const char fallback[] = "{\"error\":\"out of memory\"}";
  struct buffer json;
  buffer_init(&json, 6 * strlen(text) + sizeof fallback);
  buffer_puts(&json, "{\"error\":\"");
  exchange_append_escaped(&json, text);
  buffer_puts(&json, "\"}");
  if (json.failed)
    exchange_reply_json(exchange, status, fallback, sizeof fallback - 1);
  else
    exchange_reply_json(exchange, status, json.data, json.size);
  buffer_free(&json);
}
