#include "engine/remote/remote_status.h"

#include <stdio.h>
#include <string.h>

#include "proto/json/json_reader.h"

/* One status code of a protocol. */
struct row {
  long code;
  mu_status status;
  bool elsewhere, unfit;
};

static const struct row http_rows[] = {
    {400, MU_INVALID, false, false},     {404, MU_UNAVAILABLE, true, true}, {408, MU_UNAVAILABLE, true, false},
    {413, MU_TOO_LARGE, false, false},   {422, MU_INVALID, false, false},   {429, MU_UNAVAILABLE, true, false},
    {501, MU_UNSUPPORTED, false, false}, {502, MU_UNAVAILABLE, true, true}, {503, MU_UNAVAILABLE, true, true},
    {504, MU_UNAVAILABLE, true, true},
};
/* INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, RESOURCE_EXHAUSTED, OUT_OF_RANGE, UNIMPLEMENTED, UNAVAILABLE */
static const struct row grpc_rows[] = {
    {3, MU_INVALID, false, false},    {4, MU_TIMEOUT, false, false},  {5, MU_UNAVAILABLE, true, true},
    {8, MU_UNAVAILABLE, true, false}, {11, MU_INVALID, false, false}, {12, MU_UNSUPPORTED, false, false},
    {14, MU_UNAVAILABLE, true, true},
};

static void decline(const struct row *rows, size_t n, long code, struct remote_outcome *outcome) {
  struct row found = {code, MU_INTERNAL, false, false};
  for (size_t i = 0; i < n; i++)
    if (rows[i].code == code) found = rows[i];
  outcome->end = REMOTE_DECLINED;
  outcome->status = found.status;
  outcome->elsewhere = found.elsewhere;
  outcome->unfit = found.unfit;
}

enum { SAID_MAX = 320 }; /* of what a backend says, in a message */

/* No control character of a stranger's gets into a log or a terminal. */
static void clean(char *text) {
  for (; *text != '\0'; text++)
    if ((unsigned char)*text < 0x20 || *text == 0x7f) *text = ' ';
}

/* {"error":"…"}, or its first words. */
static void read_error(const char *body, size_t size, char said[SAID_MAX]) {
  struct json_reader reader;
  struct json_text key, text;
  char decoded[4096];
  int n = (int)(size < SAID_MAX ? size : SAID_MAX - 1);
  snprintf(said, SAID_MAX, "%.*s", n, size > 0 ? body : "");
  json_reader_init(&reader, body, size);
  if (size == 0 || json_peek(&reader) != JSON_READ_OBJECT || !json_enter(&reader)) return;
  while (json_member(&reader, &key)) {
    bool error = json_text_equal(&key, "error") && json_peek(&reader) == JSON_READ_STRING;
    if (!error && !json_skip(&reader)) return;
    if (!error) continue;
    if (!json_read_string(&reader, &text) || json_text_size(&text) >= sizeof decoded) return;
    decoded[json_text_decode(&text, decoded)] = '\0';
    snprintf(said, SAID_MAX, "%.*s", SAID_MAX - 1, decoded);
    return;
  }
}

void remote_status_http(long http_status, const char *body, size_t size, struct remote_outcome *ret_outcome) {
  char said[SAID_MAX];
  decline(http_rows, sizeof http_rows / sizeof *http_rows, http_status, ret_outcome);
  read_error(body, size, said);
  clean(said);
  mu_fail(&ret_outcome->error, ret_outcome->status, "it answered %ld%s%s", http_status, said[0] != '\0' ? ": " : "",
          said);
}

static int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Percent-encoded bytes; what is none stays as it is. */
static void decode_message(const char *message, char said[SAID_MAX]) {
  size_t n = 0;
  for (const char *at = message; *at != '\0' && n < SAID_MAX - 1; at++) {
    int high = *at == '%' ? hex_value(at[1]) : -1, low = high >= 0 ? hex_value(at[2]) : -1;
    said[n++] = low >= 0 ? (char)(high << 4 | low) : *at;
    if (low >= 0) at += 2;
  }
  said[n] = '\0';
}

void remote_status_grpc(long code, const char *message, struct remote_outcome *ret_outcome) {
  char said[SAID_MAX];
  decline(grpc_rows, sizeof grpc_rows / sizeof *grpc_rows, code, ret_outcome);
  decode_message(message, said);
  clean(said);
  mu_fail(&ret_outcome->error, ret_outcome->status, "it answered grpc-status %ld%s%s", code,
          said[0] != '\0' ? ": " : "", said);
}
