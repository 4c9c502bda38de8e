/*
 * Any bytes on a connection to the gateway: its own HTTP server, its service for requests, its memory; only workers are
 * missing, so a good inference waits in the queue until its client leaves.
 *
 * The first byte says how the rest is cut into writes, and what the rest is: a stream (even), or the body of an
 * inference (odd), whose head is written here around it: then the next two bytes are the length of its JSON part, and
 * bit 1 of the first one chooses the chunked coding. Checked: replies are well-formed, no more than the requests,
 * the connection ends when its client leaves, and all memory is given back.
 */
#include "fuzz_gateway.h"
#include "gateway/call.h"
#include "proto/http1/http1_codec.h"

#include "net/connection.h"
#include "proto/http1/http1_codec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { STREAM_MOST = 1 << 16, PIPELINE = 16, PARTS_MOST = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- the gateway, once ------------------------------------------------------------------------------------------- */

static void start_gateway(void) {
  struct options *options;
  mu_error err;
  require(options_create(&options) == MU_OK);
  options->memory_budget = options->input_arena = GATEWAY_MEMORY;
  options->body_limit = 2 * STREAM_MOST;
  require(core_init(&core, options, 1, &err) == MU_OK);
  loop = &core.loops[0];
  require(core_init_loop(&core, 0) == MU_OK);
  struct model_tensor three[] = {tensor("real", MU_FP32, 2, (int64_t[]){-1, 4}, false),
                                 tensor("text", MU_BYTES, 2, (int64_t[]){-1, -1}, true),
                                 tensor("flag", MU_BOOL, 1, (int64_t[]){-1}, true)};
  struct model_tensor one[] = {tensor("x", MU_INT64, 2, (int64_t[]){-1, -1}, false)};
  add_model(1, "three", three, 3);
  add_model(2, "one", one, 1);
  const struct http_limits limits = {.body_bytes = (uint64_t)options->body_limit,
                                     .head_bytes = 4096,
                                     .pipeline = PIPELINE,
                                     .idle_timeout_ns = 60 * NS_PER_S,
                                     .head_timeout_ns = 60 * NS_PER_S,
                                     .body_min_rate = 1,
                                     .body_grace_ns = 60 * NS_PER_S,
                                     .slow_reply_ns = 20 * NS_PER_MS,
                                     .copied_reply_bytes = GATEWAY_MEMORY,
                                     .connections = 16};
  server = http_server_create(loop->net, &gateway_service, loop, &limits);
  require(server != NULL);
}

static void turn(void) {
  for (int i = 0; i < 2; i++) uv_run(net_loop_uv(loop->net), UV_RUN_NOWAIT);
}

/* ---- the replies ------------------------------------------------------------------------------------------------- */

struct replies {
  struct http1_codec *codec;
  uint64_t heads, interim;
  bool checked; /* false: a reply to HEAD says a length that no body follows */
};

static bool on_head(void *context, const char *method, const char *target, int status, uint64_t content_length,
                    bool keep_alive, bool expect_continue) {
  struct replies *replies = context;
  require(status == 100 || (status >= 200 && status < 600 && status != 500));
  replies->heads += status != 100;
  return true;
}

static bool on_end(void *context) { return true; }
static bool on_body(void *context, const uint8_t *data, size_t size) { return true; }

static const struct http1_events events = {.head = on_head, .body = on_body, .end = on_end};

static void read_replies(struct replies *replies, int fd) {
  uint8_t bytes[4096];
  for (ssize_t n; (n = read(fd, bytes, sizeof bytes)) > 0;) {
    size_t used;
    int status;
    mu_error err;
    if (replies->checked) require(http1_codec_feed(replies->codec, bytes, (size_t)n, &used, &status, &err) == MU_OK);
  }
}

/* ---- one connection ---------------------------------------------------------------------------------------------- */

static void send_part(struct replies *replies, int fd, const uint8_t *data, size_t size) {
  for (int tries = 0; size > 0 && tries < 1000; tries++) {
    ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) return;
    if (n > 0) {
      data += n;
      size -= (size_t)n;
    }
    turn();
    read_replies(replies, fd);
  }
}

static void converse(const uint8_t *data, size_t size, size_t part) {
  int ends[2];
  uint64_t before = server->requests_total;
  require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
  struct replies replies = {.checked = memmem(data, size, "HEAD ", 5) == NULL};
  replies.codec = http1_codec_create(true, &events, &replies, 64 * 1024);
  require(replies.codec != NULL);
  server->connections_open++;
  require(connection_open(server, ends[0]) == MU_OK);
  if (part < size / PARTS_MOST) part = size / PARTS_MOST + 1;
  for (size_t at = 0; at < size; at += part)
    send_part(&replies, ends[1], data + at, size - at < part ? size - at : part);
  require(!replies.checked ||
          replies.heads <= server->requests_total - before + 1); /* a head that is none has one too */
  close(ends[1]);
  turn();
  http1_codec_free(replies.codec);
  require(server->connections_open == 0);
  require(core.staging_budget.used == 0);
  for (size_t i = 0; i < core.n_models; i++) slot_pool_trim(core.models[i]->slots);
  require(core.budget.used == 0);
}

/* The body of an inference with a right head around it. */
static void converse_body(const uint8_t *data, size_t size, size_t part, bool chunked) {
  static uint8_t stream[2 * STREAM_MOST];
  unsigned json = (unsigned)data[0] | (unsigned)data[1] << 8;
  data += 2;
  size -= 2;
  if (json > size) json = (unsigned)size;
  char *at = (char *)stream;
  at += sprintf(at, "POST /v2/models/%s/infer HTTP/1.1\r\nHost: a\r\n", json == 0 ? "one" : "three");
  if (json < size) at += sprintf(at, "Inference-Header-Content-Length: %u\r\n", json);
  at += chunked ? sprintf(at, "Transfer-Encoding: chunked\r\n\r\n%zx\r\n", size)
                : sprintf(at, "Content-Length: %zu\r\n\r\n", size);
  memcpy(at, data, size);
  at += size;
  if (chunked) at += sprintf(at, size > 0 ? "\r\n0\r\n\r\n" : "\r\n");
  converse(stream, (size_t)((uint8_t *)at - stream), part);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (server == NULL) start_gateway();
  if (size < 3 || size > STREAM_MOST) return -1;
  size_t part = 1 + (size_t)(data[0] >> 2) * 16;
  if (data[0] & 1)
    converse_body(data + 1, size - 1, part, data[0] & 2);
  else
    converse(data + 1, size - 1, part);
  return 0;
}
