/*
 * A server that needs no memory, for scenarios of failing_allocator.h whose other side must not fail: HTTP/1.1 and
 * HTTP/2 on plain sockets, with nothing but what is in struct plain_peer. It understands as much as those scenarios
 * say: a request of HTTP/1.1 ends behind its head, its Content-Length or its last chunk; of HTTP/2 it looks at frames
 * only, never into a head. Whoever embeds it calls plain_peer_turn between turns of a loop, or in a thread of its own.
 */
#ifndef TEST_PLAIN_PEER_H
#define TEST_PLAIN_PEER_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PEER_CONNECTIONS = 64, PEER_ROOM = 128 * 1024, PEER_FRAME_HEAD = 9, PEER_PREFACE = 24 };

struct plain_peer;

struct plain_connection {
  int fd; /* 0: free */
  bool prefaced;
  size_t size;
  uint8_t in[PEER_ROOM];
};

struct plain_peer {
  int listener;
  struct sockaddr_in address;
  /* Answers a request, with plain_answer_*. stream: of HTTP/2, 0 in HTTP/1.1. text: HTTP/1.1: all of the request;
   * HTTP/2: what its last frame of data holds. */
  void (*answer)(struct plain_connection *connection, uint32_t stream, const char *text, size_t size);
  struct plain_connection connections[PEER_CONNECTIONS];
};

/* false: no port. */
static bool plain_peer_start(struct plain_peer *peer) {
  socklen_t size = sizeof peer->address;
  peer->address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  peer->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  return bind(peer->listener, (struct sockaddr *)&peer->address, size) == 0 && listen(peer->listener, 64) == 0 &&
         getsockname(peer->listener, (struct sockaddr *)&peer->address, &size) == 0;
}

static void plain_drop(struct plain_connection *connection) {
  close(connection->fd);
  connection->fd = 0;
}

static void plain_peer_stop(struct plain_peer *peer) {
  for (size_t i = 0; i < PEER_CONNECTIONS; i++)
    if (peer->connections[i].fd != 0) plain_drop(&peer->connections[i]);
  close(peer->listener);
}

/* Whoever has left does not hear it. */
static void plain_say(struct plain_connection *connection, const void *bytes, size_t size) {
  (void)!send(connection->fd, bytes, size, MSG_NOSIGNAL);
}

static void plain_frame(struct plain_connection *connection, uint8_t type, uint8_t flags, uint32_t stream,
                        const void *data, size_t size) {
  uint8_t frame[PEER_FRAME_HEAD + 16 * 1024] = {
      (uint8_t)(size >> 16),   (uint8_t)(size >> 8),    (uint8_t)size,          type,           flags,
      (uint8_t)(stream >> 24), (uint8_t)(stream >> 16), (uint8_t)(stream >> 8), (uint8_t)stream};
  memcpy(frame + PEER_FRAME_HEAD, data, size);
  plain_say(connection, frame, PEER_FRAME_HEAD + size);
}

/* 200 with a body of gRPC and grpc-status 0. */
__attribute__((unused)) static void plain_answer_grpc(struct plain_connection *connection, uint32_t stream,
                                                      const void *body, size_t size) {
  enum { DATA = 0, HEADERS = 1, END_STREAM = 1, END_HEADERS = 4 };
  static const char head[] =
      "\x88\x0f\x10\x10"
      "application/grpc";
  static const char trailers[] =
      "\0\x0bgrpc-status\x01"
      "0";
  plain_frame(connection, HEADERS, END_HEADERS, stream, head, sizeof head - 1);
  plain_frame(connection, DATA, 0, stream, body, size);
  plain_frame(connection, HEADERS, END_HEADERS | END_STREAM, stream, trailers, sizeof trailers - 1);
}

/* ---- what comes -------------------------------------------------------------------------------------------------- */

/* The size of the first request that is all there; 0: none is. */
static size_t plain_request_size(const char *text, size_t size) {
  static const char length[] = "\nContent-Length: ", last[] = "\r\n0\r\n\r\n";
  const char *end = memmem(text, size, "\r\n\r\n", 4), *at;
  if (end == NULL) return 0;
  size_t head = (size_t)(end - text) + 4;
  if (memmem(text, head, "chunked", 7) != NULL) {
    at = memmem(text + head - 2, size - head + 2, last, sizeof last - 1);
    return at == NULL ? 0 : (size_t)(at - text) + sizeof last - 1;
  }
  at = memmem(text, head, length, sizeof length - 1);
  size_t whole = head + (at != NULL ? strtoul(at + sizeof length - 1, NULL, 10) : 0);
  return whole <= size ? whole : 0;
}

/* As plain_request_size: of a frame, which is looked at. */
static size_t plain_take_frame(struct plain_peer *peer, struct plain_connection *connection, const uint8_t *in,
                               size_t size) {
  enum { DATA = 0, HEADERS = 1, SETTINGS = 4, PING = 6, ACK = 1, END_STREAM = 1 };
  size_t whole = PEER_FRAME_HEAD;
  if (size >= whole) whole += (size_t)in[0] << 16 | (size_t)in[1] << 8 | in[2];
  if (size < whole) return 0;
  uint32_t stream = (uint32_t)in[5] << 24 | (uint32_t)in[6] << 16 | (uint32_t)in[7] << 8 | in[8];
  if ((in[3] == DATA || in[3] == HEADERS) && (in[4] & END_STREAM))
    peer->answer(connection, stream, (const char *)in + PEER_FRAME_HEAD, in[3] == DATA ? whole - PEER_FRAME_HEAD : 0);
  else if (in[3] == SETTINGS && !(in[4] & ACK))
    plain_frame(connection, SETTINGS, ACK, 0, "", 0);
  else if (in[3] == PING && !(in[4] & ACK))
    plain_frame(connection, PING, ACK, 0, in + PEER_FRAME_HEAD, 8);
  return whole;
}

static size_t plain_take(struct plain_peer *peer, struct plain_connection *connection, const uint8_t *in, size_t size) {
  static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  static const char windows[] = "\0\4\x40\0\0\0"; /* INITIAL_WINDOW_SIZE 1 GiB; its last 4 bytes are an update */
  enum { SETTINGS = 4, WINDOW_UPDATE = 8 };
  if (connection->prefaced) return plain_take_frame(peer, connection, in, size);
  size_t same = size < PEER_PREFACE ? size : PEER_PREFACE;
  if (memcmp(in, preface, same) == 0) {
    if (size < PEER_PREFACE) return 0;
    connection->prefaced = true;
    plain_frame(connection, SETTINGS, 0, 0, windows, 6);
    plain_frame(connection, WINDOW_UPDATE, 0, 0, windows + 2, 4);
    return PEER_PREFACE;
  }
  size_t whole = plain_request_size((const char *)in, size);
  if (whole > 0) peer->answer(connection, 0, (const char *)in, whole);
  return whole;
}

static void plain_read(struct plain_peer *peer, struct plain_connection *c) {
  for (;;) {
    ssize_t n = recv(c->fd, c->in + c->size, sizeof c->in - c->size, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
      plain_drop(c);
      return;
    }
    c->size += (size_t)n;
    size_t at = 0;
    for (size_t taken; at < c->size && (taken = plain_take(peer, c, c->in + at, c->size - at)) > 0;) at += taken;
    memmove(c->in, c->in + at, c->size - at);
    c->size -= at;
  }
}

/* Takes what has come, and answers it. Never blocks. */
static void plain_peer_turn(struct plain_peer *peer) {
  bool more = true; /* that have not been accepted */
  for (size_t i = 0; i < PEER_CONNECTIONS; i++) {
    struct plain_connection *c = &peer->connections[i];
    if (c->fd == 0 && more) {
      int fd = accept4(peer->listener, NULL, NULL, SOCK_CLOEXEC);
      more = fd >= 0;
      if (more) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
      c->fd = more ? fd : 0;
      c->size = 0;
      c->prefaced = false;
    }
    if (c->fd != 0) plain_read(peer, c);
  }
}

#endif
