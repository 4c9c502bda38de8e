#include "net/http_message.h"

#include <stdio.h>
#include <string.h>

enum {
  COMPRESS_LEAST = 512,       /* below, a compressed body is hardly smaller */
  COMPRESS_MOST = 1024 * 1024 /* above, it would hold up the loop's other connections: some 10 ms */
};

const char *message_path(const char *target) {
  static const char *const schemes[] = {"http://", "https://"};
  if (target[0] == '/' || strcmp(target, "*") == 0) return target;
  for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
    if (strncmp(target, schemes[i], strlen(schemes[i])) != 0) continue;
    const char *path = target + strlen(schemes[i]);
    path += strcspn(path, "/?");
    return *path == '/' ? path : "/";
  }
  return NULL;
}

/* Written once in a second. */
const char *message_date(struct http_server *server) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  if (now.tv_sec != server->date_second) {
    static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    struct tm utc;
    gmtime_r(&now.tv_sec, &utc);
    snprintf(server->date, sizeof server->date, "%.3s, %02d %.3s %04d %02d:%02d:%02d GMT", days + 3 * utc.tm_wday,
             utc.tm_mday, months + 3 * utc.tm_mon, (utc.tm_year + 1900) % 10000, utc.tm_hour, utc.tm_min, utc.tm_sec);
    server->date_second = now.tv_sec;
  }
  return server->date;
}

char *message_put_value(char *at, const char *value, size_t size) {
  for (size_t i = 0; i < size; i++) {
    unsigned char byte = (unsigned char)value[i];
    *at++ = (byte < 0x20 && byte != '\t') || byte == 0x7f ? ' ' : value[i];
  }
  return at;
}

size_t message_body_size(const struct iovec *body, size_t n) {
  size_t size = 0;
  for (size_t i = 0; i < n; i++) size += body[i].iov_len;
  return size;
}

enum content_coding message_compress(struct http_server *server, const char *accept_encoding, const struct reply *r,
                                     size_t size) {
  if (!r->compressible || size < COMPRESS_LEAST || size > COMPRESS_MOST) return CODING_IDENTITY;
  enum content_coding coding = content_coding_choose(accept_encoding);
  if (coding == CODING_IDENTITY) return coding;
  if (server->encoders[coding] == NULL) server->encoders[coding] = content_encoder_create(coding);
  buffer_clear(&server->encoded);
  if (server->encoders[coding] == NULL ||
      content_encoder_run(server->encoders[coding], r->body, r->n_body, &server->encoded) != MU_OK ||
      server->encoded.size >= size)
    return CODING_IDENTITY;
  return coding;
}

bool message_refuse_body(struct exchange *exchange, uint64_t limit, struct content_decoder **ret_decoder) {
  static const struct header accepted = {"Accept-Encoding", "gzip, deflate"};
  static const char json[] = "{\"error\":\"unknown Content-Encoding; gzip and deflate are understood\"}";
  const struct iovec body = {(void *)(uintptr_t)json, sizeof json - 1};
  enum content_coding coding;
  if (exchange->content_length != UINT64_MAX && exchange->content_length > limit) {
    exchange_reply_error(exchange, 413, "the body is larger than this server takes");
    return true;
  }
  if (content_coding_parse(exchange->headers[HEADER_CONTENT_ENCODING], &coding) != MU_OK) {
    exchange_reply(exchange, &(struct reply){.status = 415,
                                             .content_type = "application/json",
                                             .headers = &accepted,
                                             .n_headers = 1,
                                             .body = &body,
                                             .n_body = 1});
    return true;
  }
  if (coding == CODING_IDENTITY) return false;
  exchange->encoded = true;
  *ret_decoder = content_decoder_create(coding);
  if (*ret_decoder != NULL) return false;
  exchange_reply_error(exchange, 503, "out of memory");
  return true;
}
