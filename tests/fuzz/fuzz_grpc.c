/*
 * Any bytes as the messages of a gRPC call: the gateway's own server, service and memory; only workers are missing, so
 * a good inference waits in the queue until its client leaves.
 *
 * The first byte: bits 0 to 4, the method; bit 5, the rest is messages without prefixes (flag, length of two bytes, so
 * many bytes) whose prefixes are made here; bits 6 and 7, grpc-encoding. The second one: bits 0 and 1, how the call
 * ends (END_STREAM, RST_STREAM, not at all); the rest, how the bytes are cut into frames. Checked: the connection stays
 * whole (what is wrong with a message is wrong with its call alone), it ends when its client leaves, and all memory is
 * given back.
 */
#include "fuzz_gateway.h"
#include "gateway/grpc.h"

#include "net/connection.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { STREAM_MOST = 1 << 16, PARTS_MOST = 64, FRAME_HEAD = 9 };
enum { DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, GOAWAY = 7, END_STREAM = 1, END_HEADERS = 4 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- the gateway, once ------------------------------------------------------------------------------------------- */

static void start_gateway(void) {
  struct options *options;
  mu_error err;
  require(options_create(&options) == MU_OK);
  options->memory_budget = options->input_arena = GATEWAY_MEMORY;
  options->body_limit = 2 * STREAM_MOST;
  options->admin = ADMIN_OFF; /* nobody is there who would load a model */
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
                                     .pipeline = 4,
                                     .streams = 64,
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

/* ---- the answer -------------------------------------------------------------------------------------------------- */

struct frames {
  uint8_t head[FRAME_HEAD];
  size_t n_head, left;
};

/* No GOAWAY, whatever the messages are. */
static void read_frames(struct frames *frames, int fd) {
  static uint8_t bytes[1 << 16];
  for (ssize_t n; (n = read(fd, bytes, sizeof bytes)) > 0;)
    for (ssize_t i = 0; i < n;) {
      if (frames->left > 0) {
        size_t part = frames->left < (size_t)(n - i) ? frames->left : (size_t)(n - i);
        frames->left -= part;
        i += (ssize_t)part;
        continue;
      }
      frames->head[frames->n_head++] = bytes[i++];
      if (frames->n_head < FRAME_HEAD) continue;
      frames->n_head = 0;
      frames->left = (size_t)frames->head[0] << 16 | (size_t)frames->head[1] << 8 | frames->head[2];
      require(frames->head[3] != GOAWAY);
    }
}

/* ---- one call ---------------------------------------------------------------------------------------------------- */

static uint8_t out[4 * STREAM_MOST];
static size_t n_out;

static void put(const void *data, size_t size) {
  require(n_out + size <= sizeof out);
  memcpy(out + n_out, data, size);
  n_out += size;
}

static void put_frame(uint8_t type, uint8_t flags, uint8_t stream, const void *payload, size_t size) {
  const uint8_t head[FRAME_HEAD] = {
      (uint8_t)(size >> 16), (uint8_t)(size >> 8), (uint8_t)size, type, flags, 0, 0, 0, stream};
  put(head, sizeof head);
  put(payload, size);
}

static void put_head(enum grpc_method method, unsigned encoding) {
  static const char beginning[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  static const char fields[] = "\101\1h\0\14content-type\20application/grpc";
  static const char *const encodings[] = {"", "gzip", "deflate", "br"};
  const char *path = grpc_methods[method].path;
  char block[256], *at = block;
  at += sprintf(at, "\203\206\4%c%s", (int)strlen(path), path);
  memcpy(at, fields, sizeof fields - 1);
  at += sizeof fields - 1;
  if (encoding > 0) {
    *at++ = '\0';
    at += sprintf(at, "\15grpc-encoding%c%s", (int)strlen(encodings[encoding]), encodings[encoding]);
  }
  put(beginning, sizeof beginning - 1);
  put_frame(SETTINGS, 0, 0, "", 0);
  put_frame(HEADERS, END_HEADERS, 1, block, (size_t)(at - block));
}

/* Puts the prefixes; returns how many bytes that is. */
static size_t put_messages(uint8_t *messages, const uint8_t *data, size_t size) {
  size_t n = 0;
  while (size >= 3) {
    size_t length = (size_t)data[1] | (size_t)data[2] << 8;
    if (length > size - 3) length = size - 3;
    grpc_prefix_write(messages + n, data[0] & 1, (uint32_t)length);
    memcpy(messages + n + GRPC_PREFIX_SIZE, data + 3, length);
    n += GRPC_PREFIX_SIZE + length;
    data += 3 + length;
    size -= 3 + length;
  }
  return n;
}

static void put_body(const uint8_t *data, size_t size, size_t piece, unsigned end) {
  if (piece < size / PARTS_MOST) piece = size / PARTS_MOST + 1;
  if (piece > 16384) piece = 16384;
  for (size_t at = 0; at < size; at += piece) {
    bool last = at + piece >= size;
    put_frame(DATA, last && end == 0 ? END_STREAM : 0, 1, data + at, last ? size - at : piece);
  }
  if (size == 0 && end == 0) put_frame(DATA, END_STREAM, 1, "", 0);
  if (end == 1) put_frame(RST_STREAM, 0, 1, "\0\0\0\10", 4);
}

static void converse(void) {
  int ends[2];
  struct frames frames = {.n_head = 0};
  require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
  server->connections_open++;
  require(connection_open(server, ends[0]) == MU_OK);
  for (size_t at = 0, tries = 0; at < n_out && tries < 1000; tries++) {
    size_t part = tries == 0 ? n_out : n_out - at;
    ssize_t n = send(ends[1], out + at, part, MSG_NOSIGNAL);
    require(n >= 0 || errno == EAGAIN);
    if (n > 0) at += (size_t)n;
    turn();
    read_frames(&frames, ends[1]);
  }
  turn();
  read_frames(&frames, ends[1]);
  close(ends[1]);
  turn();
  turn(); /* streams end between two turns */
  require(server->connections_open == 0);
  require(list_empty(&loop->streams) && list_empty(&loop->talks));
  require(core.staging_budget.used == 0);
  for (size_t i = 0; i < core.n_models; i++) slot_pool_trim(core.models[i]->slots);
  require(core.budget.used == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static uint8_t messages[3 * STREAM_MOST];
  if (server == NULL) start_gateway();
  if (size < 2 || size > STREAM_MOST) return -1;
  n_out = 0;
  put_head((enum grpc_method)((data[0] & 31) % GRPC_METHOD_COUNT), data[0] >> 6);
  size_t piece = 1 + (size_t)(data[1] >> 2) * (data[1] >> 2);
  if (data[0] & 32)
    put_body(messages, put_messages(messages, data + 2, size - 2), piece, data[1] & 3);
  else
    put_body(data + 2, size - 2, piece, data[1] & 3);
  converse();
  return 0;
}
