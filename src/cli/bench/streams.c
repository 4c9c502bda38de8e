#include "cli/bench/streams.h"

#include "base/buffer.h"
#include "base/clock.h"
#include "proto/websocket/websocket_codec.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
  ON_THEIR_WAY_MAX = 32, /* frames of a stream */
  READ_BYTES = 256 * 1024,
  TEXT_MAX = 512, /* of an answer that is text, kept */
  EVENTS = 256,
  LINGER_MS = 1000, /* after the end, for answers that are on their way */
};

struct run;

struct live_stream {
  struct run *run;
  int fd;
  uint64_t due_ns[ON_THEIR_WAY_MAX]; /* of the frames without an answer: a ring */
  uint32_t first, n;
  size_t unsent; /* bytes of the last frame */
  struct websocket_codec codec;
  bool text;
  char answer[TEXT_MAX + 1];
  size_t answer_size;
};

struct run {
  const struct streams_options *options;
  struct streams_result *result;
  struct live_stream *streams;
  struct buffer frame;
  int epoll;
  uint64_t measured_ns; /* frames due before this warm up */
  uint64_t now_ns;
  char *bytes; /* READ_BYTES */
};

/* ---- answers ----------------------------------------------------------------------------------------------------- */

static bool on_begin(void *context, bool text, uint64_t size, bool whole) {
  struct live_stream *s = context;
  s->text = text;
  s->answer_size = 0;
  return true;
}

static bool on_data(void *context, const uint8_t *data, size_t size) {
  struct live_stream *s = context;
  size_t room = TEXT_MAX - s->answer_size, part = size < room ? size : room;
  if (!s->text) return true;
  memcpy(s->answer + s->answer_size, data, part);
  s->answer_size += part;
  return true;
}

static void count_text(struct live_stream *s) {
  struct streams_result *result = s->run->result;
  s->answer[s->answer_size] = '\0';
  if (strstr(s->answer, "\"dropped\":") != NULL) {
    result->dropped++;
    return;
  }
  if (result->failed++ == 0) snprintf(result->error, sizeof result->error, "%.255s", s->answer);
}

static bool on_end(void *context) {
  struct live_stream *s = context;
  struct run *run = s->run;
  if (s->n == 0) return true;
  uint64_t due = s->due_ns[s->first], took = run->now_ns - due;
  s->first = (s->first + 1) % ON_THEIR_WAY_MAX;
  s->n--;
  if (due < run->measured_ns) return true;
  if (s->text) {
    count_text(s);
    return true;
  }
  histogram_record(&run->result->latencies, took);
  if (took <= run->options->deadline_ns)
    run->result->in_time++;
  else
    run->result->late++;
  return true;
}

static bool on_control(void *context, const uint8_t *data, size_t size) { return true; }
static bool on_close(void *context, uint16_t code, const uint8_t *reason, size_t size) {
  struct live_stream *s = context;
  snprintf(s->answer, sizeof s->answer, "closed with %u: %.*s", code, (int)size, (const char *)reason);
  return true;
}

static const struct websocket_events events = {
    .begin = on_begin, .data = on_data, .end = on_end, .ping = on_control, .pong = on_control, .close = on_close};

static mu_status read_answers(struct live_stream *s, mu_error *err) {
  for (;;) {
    ssize_t n = recv(s->fd, s->run->bytes, READ_BYTES, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return MU_OK;
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return mu_fail(err, MU_UNAVAILABLE, "a stream ended: %s", n < 0 ? strerror(errno) : s->answer);
    size_t used;
    uint16_t code;
    mu_status status = websocket_feed(&s->codec, (const uint8_t *)s->run->bytes, (size_t)n, &used, &code, err);
    if (status != MU_OK || n < READ_BYTES) return status;
  }
}

/* ---- frames ------------------------------------------------------------------------------------------------------ */

static mu_status send_rest(struct live_stream *s, mu_error *err) {
  const struct buffer *frame = &s->run->frame;
  while (s->unsent > 0) {
    ssize_t n = send(s->fd, frame->data + frame->size - s->unsent, s->unsent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return MU_OK;
    if (n < 0 && errno != EINTR) return mu_fail(err, MU_IO, "a stream cannot be written: %s", strerror(errno));
    if (n > 0) s->unsent -= (size_t)n;
  }
  return MU_OK;
}

static mu_status send_frame(struct live_stream *s, uint64_t due_ns, mu_error *err) {
  struct run *run = s->run;
  bool counts = due_ns >= run->measured_ns;
  run->result->due += counts;
  if (s->unsent > 0 || s->n == ON_THEIR_WAY_MAX) {
    run->result->unsent += counts;
    return MU_OK;
  }
  s->due_ns[(s->first + s->n++) % ON_THEIR_WAY_MAX] = due_ns;
  s->unsent = run->frame.size;
  return send_rest(s, err);
}

/* A client's frames are masked; a mask of zeros leaves the bytes as they are, and costs the server the same. */
static mu_status make_frame(struct run *run, mu_error *err) {
  static const uint8_t mask[4];
  uint8_t head[WEBSOCKET_HEAD_MAX];
  const struct buffer *message = run->options->message;
  buffer_init(&run->frame, SIZE_MAX / 2);
  buffer_append(&run->frame, head, websocket_write_head(head, WEBSOCKET_BINARY, message->size, mask));
  buffer_append(&run->frame, message->data, message->size);
  return run->frame.failed ? mu_fail(err, MU_NO_MEMORY, "no memory for the frame") : MU_OK;
}

/* ---- connections ------------------------------------------------------------------------------------------------- */

static mu_status connect_to(const struct target *target, int *ret_fd, mu_error *err) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
  int failed = getaddrinfo(target->host, target->port, &hints, &found);
  if (failed != 0) return mu_fail(err, MU_INVALID, "%s: %s", target->host, gai_strerror(failed));
  int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool connected = fd >= 0 && connect(fd, found->ai_addr, found->ai_addrlen) == 0;
  int error = errno;
  freeaddrinfo(found);
  if (!connected) {
    if (fd >= 0) close(fd);
    return mu_fail(err, MU_UNAVAILABLE, "%s:%s: %s", target->host, target->port, strerror(error));
  }
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
  struct timeval patience = {.tv_sec = 10};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  *ret_fd = fd;
  return MU_OK;
}

/* Nothing is sent before the answer has come, so nothing comes behind its head. */
static mu_status shake_hands(const struct target *target, const struct streams_options *options, int fd,
                             mu_error *err) {
  char text[2048];
  char version[40] = "";
  if (target->version[0] != '\0') snprintf(version, sizeof version, "/versions/%s", target->version);
  int n = snprintf(text, sizeof text,
                   "GET /v2/models/%s%s/stream?order=request&drop=late&deadline_ms=%llu HTTP/1.1\r\nHost: %s:%s\r\n"
                   "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                   "Sec-WebSocket-Key: bXVzdGVyIGJlbmNoISEhIQ==\r\n\r\n",
                   target->model, version, (unsigned long long)(options->deadline_ns / NS_PER_MS), target->host,
                   target->port);
  if (send(fd, text, (size_t)n, MSG_NOSIGNAL) != n) return mu_fail(err, MU_IO, "the handshake cannot be sent");
  size_t size = 0;
  while (size + 1 < sizeof text) {
    ssize_t got = recv(fd, text + size, sizeof text - 1 - size, 0);
    if (got <= 0) break;
    size += (size_t)got;
    text[size] = '\0';
    if (strstr(text, "\r\n\r\n") != NULL) break;
  }
  text[size] = '\0';
  if (strncmp(text, "HTTP/1.1 101 ", 13) == 0) return MU_OK;
  const char *body = strstr(text, "\r\n\r\n");
  return mu_fail(err, MU_UNAVAILABLE, "no stream: %.200s", body != NULL && body[4] != '\0' ? body + 4 : text);
}

static mu_status open_stream(struct run *run, const struct target *target, struct live_stream *s, mu_error *err) {
  mu_status status = connect_to(target, &s->fd, err);
  if (status != MU_OK) return status;
  s->run = run;
  websocket_codec_init(&s->codec, true, UINT64_C(1) << 40, &events, s);
  status = shake_hands(target, run->options, s->fd, err);
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = s};
  if (status == MU_OK && epoll_ctl(run->epoll, EPOLL_CTL_ADD, s->fd, &event) != 0)
    return mu_fail(err, MU_IO, "epoll: %s", strerror(errno));
  return status;
}

/* ---- the run ----------------------------------------------------------------------------------------------------- */

static mu_status wait_for_events(struct run *run, int timeout_ms, mu_error *err) {
  struct epoll_event ready[EVENTS];
  int n = epoll_wait(run->epoll, ready, EVENTS, timeout_ms);
  if (n < 0 && errno != EINTR) return mu_fail(err, MU_IO, "epoll: %s", strerror(errno));
  mu_status status = MU_OK;
  run->now_ns = clock_now_ns();
  for (int i = 0; i < n && status == MU_OK; i++) {
    struct live_stream *s = ready[i].data.ptr;
    if (ready[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) status = read_answers(s, err);
    if (status == MU_OK) status = send_rest(s, err);
  }
  return status;
}

static bool all_answered(const struct run *run) {
  for (uint32_t i = 0; i < run->options->streams; i++)
    if (run->streams[i].n > 0) return false;
  return true;
}

/* Frame k of all streams together is due at start + k / (streams * fps): the streams' beats are spread evenly. */
static mu_status drive(struct run *run, mu_error *err) {
  const struct streams_options *options = run->options;
  double step_ns = (double)NS_PER_S / (options->fps * options->streams);
  uint64_t start_ns = clock_now_ns(), end_ns = start_ns + options->warmup_ns + options->duration_ns, due_ns = start_ns;
  run->measured_ns = start_ns + options->warmup_ns;
  mu_status status = MU_OK;
  for (uint64_t k = 0; status == MU_OK && due_ns < end_ns;) {
    run->now_ns = clock_now_ns();
    for (; status == MU_OK && due_ns <= run->now_ns && due_ns < end_ns;
         due_ns = start_ns + (uint64_t)((double)++k * step_ns))
      status = send_frame(&run->streams[k % options->streams], due_ns, err);
    uint64_t left = due_ns > run->now_ns ? due_ns - run->now_ns : 0;
    if (status == MU_OK) status = wait_for_events(run, (int)(left / NS_PER_MS), err);
  }
  uint64_t until_ns = end_ns + options->deadline_ns + LINGER_MS * NS_PER_MS;
  while (status == MU_OK && !all_answered(run) && clock_now_ns() < until_ns) status = wait_for_events(run, 10, err);
  for (uint32_t i = 0; i < options->streams; i++) {
    const struct live_stream *s = &run->streams[i];
    for (uint32_t at = 0; at < s->n; at++)
      run->result->open += s->due_ns[(s->first + at) % ON_THEIR_WAY_MAX] >= run->measured_ns;
  }
  return status;
}

mu_status streams_run(const struct target *target, const struct streams_options *options,
                      struct streams_result *ret_result, mu_error *err) {
  struct run run = {.options = options, .result = ret_result, .epoll = epoll_create1(EPOLL_CLOEXEC)};
  memset(ret_result, 0, sizeof *ret_result);
  run.streams = calloc(options->streams, sizeof *run.streams);
  run.bytes = malloc(READ_BYTES);
  mu_status status = run.streams != NULL && run.bytes != NULL ? MU_OK : mu_fail(err, MU_NO_MEMORY, "no memory");
  if (status == MU_OK && run.epoll < 0) status = mu_fail(err, MU_IO, "epoll: %s", strerror(errno));
  if (status == MU_OK) status = make_frame(&run, err);
  for (uint32_t i = 0; run.streams != NULL && i < options->streams; i++) run.streams[i].fd = -1;
  for (uint32_t i = 0; status == MU_OK && i < options->streams; i++)
    status = open_stream(&run, target, &run.streams[i], err);
  if (status == MU_OK) status = drive(&run, err);
  for (uint32_t i = 0; run.streams != NULL && i < options->streams; i++)
    if (run.streams[i].fd >= 0) close(run.streams[i].fd);
  if (run.epoll >= 0) close(run.epoll);
  buffer_free(&run.frame);
  free(run.streams);
  free(run.bytes);
  return status;
}
