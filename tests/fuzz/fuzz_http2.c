/*
 * Any bytes on a connection of HTTP/2: one server, a service that does what the path's first letters say, a socket
 * pair.
 *
 * The first byte: bit 0, the preface and an empty SETTINGS frame stand before the bytes; bit 1, the bytes are frames
 * whose lengths are made right here (type, flags, stream, length of one byte each, then as much of what follows); the
 * rest, how the stream is cut into writes. Checked: each exchange is answered or gone, lent memory comes back, memory
 * that is counted is given back, and the connection ends when its client leaves.
 */
#include "net/connection.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { STREAM_MOST = 1 << 15, PARTS_MOST = 32, LENT = 100 * 1024 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
  if (!holds) abort();
}

/* ---- the service ------------------------------------------------------------------------------------------------- */

static struct net_loop *loop;
static struct http_server *server;
static uint8_t lent[LENT];
static int n_open, n_lent, n_paused;
static uint64_t held;
static struct exchange *paused[256];

static void give_back(void *owner) { n_lent--; }

static void forget(struct exchange *exchange) {
  for (int i = 0; i < n_paused; i++)
    if (paused[i] == exchange) paused[i--] = paused[--n_paused];
}

static struct reply_part lend(const struct iovec *body) {
  n_lent++;
  return (struct reply_part){.body = body, .n_body = 1, .done = give_back};
}

static void answer(struct exchange *exchange) {
  static const struct header trailers[] = {{"grpc-status", "0"}};
  char what = exchange->path[1];
  struct iovec body = {lent, what == 'l' ? LENT : 10};
  struct reply reply = {.status = 200, .body = &body, .n_body = 1, .trailers = trailers, .n_trailers = what == 't'};
  forget(exchange);
  n_open--;
  if (what == 'p') {
    struct reply_part part = lend(&body);
    exchange_reply_part(exchange, &part);
    exchange_reply_end(exchange, trailers, 1);
    return;
  }
  reply.compressible = what == 'z';
  if (what == 'z') body.iov_len = 4000;
  n_lent++;
  reply.done = give_back;
  exchange_reply(exchange, &reply);
}

static void on_begin(void *context, struct exchange *exchange) {
  n_open++;
  if (exchange->path[0] == '*') return;
  if (exchange->path[1] == 'p') exchange_reply_begin(exchange, &(struct reply){.status = 200});
  if (exchange->path[1] == 'u') exchange_unbounded_body(exchange);
  if (exchange->path[1] == 'e')
    answer(exchange);
  else if (exchange->path[1] == 'w' && n_paused < 256)
    exchange_pause(paused[n_paused++] = exchange);
}
static void on_body(void *context, struct exchange *exchange, const uint8_t *data, size_t size) {
  if (exchange->path[1] != 'p') return;
  struct iovec body = {(void *)(uintptr_t)data, size};
  exchange_reply_part(exchange, &(struct reply_part){.body = &body, .n_body = 1});
}
static void on_end(void *context, struct exchange *exchange) { answer(exchange); }
static void on_gone(void *context, struct exchange *exchange) {
  forget(exchange);
  n_open--;
}
static bool on_hold(void *context, uint64_t bytes) {
  if (held + bytes > 1 << 20) return false;
  held += bytes;
  return true;
}
static void on_let_go(void *context, uint64_t bytes) {
  require(bytes <= held);
  held -= bytes;
}

static const struct service service = {
    .begin = on_begin, .body = on_body, .end = on_end, .gone = on_gone, .hold = on_hold, .let_go = on_let_go};

static void start_server(void) {
  const struct http_limits limits = {.body_bytes = 1 << 16,
                                     .head_bytes = 4096,
                                     .pipeline = 4,
                                     .streams = 64,
                                     .idle_timeout_ns = 60 * NS_PER_S,
                                     .head_timeout_ns = 60 * NS_PER_S,
                                     .body_grace_ns = 60 * NS_PER_S,
                                     .slow_reply_ns = 1,
                                     .copied_reply_bytes = 1 << 21,
                                     .connections = 4};
  loop = net_loop_create();
  require(loop != NULL);
  server = http_server_create(loop, &service, NULL, &limits);
  require(server != NULL);
}

/* ---- one connection ---------------------------------------------------------------------------------------------- */

static void turn(int fd) {
  static uint8_t bytes[1 << 16];
  uv_run(net_loop_uv(loop), UV_RUN_NOWAIT);
  for (int i = 0; i < 2 && read(fd, bytes, sizeof bytes) > 0; i++) continue;
}

static void converse(const uint8_t *data, size_t size, size_t part) {
  int ends[2];
  require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
  server->connections_open++;
  require(connection_open(server, ends[0]) == MU_OK);
  if (part < size / PARTS_MOST) part = size / PARTS_MOST + 1;
  for (size_t at = 0, tries = 0; at < size && tries < 1000; tries++) {
    ssize_t n = send(ends[1], data + at, size - at < part ? size - at : part, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) break;
    if (n > 0) at += (size_t)n;
    turn(ends[1]);
    if (n_paused > 0 && tries % 3 == 0) exchange_resume(paused[--n_paused]);
  }
  close(ends[1]);
  for (int i = 0; i < 3; i++) uv_run(net_loop_uv(loop), UV_RUN_NOWAIT);
  require(server->connections_open == 0);
  require(n_open == 0 && n_lent == 0 && n_paused == 0 && held == 0);
}

static size_t put_frames(uint8_t *out, const uint8_t *data, size_t size) {
  size_t n = 0;
  while (size >= 4 && n < STREAM_MOST) {
    size_t length = data[3] < size - 4 ? data[3] : size - 4;
    const uint8_t head[9] = {0, 0, (uint8_t)length, data[0] % 12, data[1], 0, 0, 0, data[2]};
    memcpy(out + n, head, sizeof head);
    memcpy(out + n + sizeof head, data + 4, length);
    n += sizeof head + length;
    data += 4 + length;
    size -= 4 + length;
  }
  return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char beginning[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0";
  static uint8_t stream[4 * STREAM_MOST];
  if (server == NULL) start_server();
  if (size < 2 || size > STREAM_MOST) return -1;
  size_t n = 0;
  if (data[0] & 1) {
    memcpy(stream, beginning, sizeof beginning); /* the terminator is the last byte of the frame's head */
    n = sizeof beginning;
  }
  if (data[0] & 2) {
    n += put_frames(stream + n, data + 1, size - 1);
  } else {
    memcpy(stream + n, data + 1, size - 1);
    n += size - 1;
  }
  converse(stream, n, 1 + (size_t)(data[0] >> 2) * 16);
  return 0;
}
