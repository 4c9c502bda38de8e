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
