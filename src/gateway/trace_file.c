/*
 * Traces on their way into files. Who collects one (any loop) adds it to what is collected; once that is 64 KiB, a
 * second old, or as many traces as log_frequency wants, it becomes a chunk. Loop 0 writes chunks one after the other in
 * a thread of libuv's pool; a chunk needs the file, or one with the next number, which the supervisor opens.
 */
#include "base/log.h"
#include "gateway/core.h"
#include "gateway/trace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
  CHUNK_BYTES = 64 * 1024,
  HELD_BYTES_MAX = 16 << 20, /* what does not fit is dropped */
  TICKS = 10,                /* of 100 ms: how long traces wait for more of them */
};

struct trace_chunk {
  struct list link;
  bool numbered; /* for a file of its own */
  struct buffer text;
  uint32_t n; /* traces */
  int fd, error;
};

/* ---- chunks: under the tracer's lock ----------------------------------------------------------------------------- */

static void pump(struct core *core);

static void run_pump(struct net_post *post) {
  struct core *core = list_item(post, struct core, tracer.pump_post);
  pthread_mutex_lock(&core->tracer.lock);
  core->tracer.pump_posted = false;
  pthread_mutex_unlock(&core->tracer.lock);
  pump(core);
}

/* Without memory for it, what would have been a chunk is lost. */
static void make_chunk(struct core *core, struct buffer *from, uint32_t *n, bool numbered) {
  struct tracer *tracer = &core->tracer;
  if (*n == 0) return;
  struct trace_chunk *chunk = calloc(1, sizeof *chunk);
  if (chunk == NULL) {
    tracer->dropped += *n;
    tracer->held -= from->size;
    buffer_free(from);
    *n = 0;
    return;
  }
  *chunk = (struct trace_chunk){.numbered = numbered, .text = *from, .n = *n};
  buffer_init(from, SIZE_MAX / 2);
  *n = 0;
  list_push_back(&tracer->queue, &chunk->link);
  if (tracer->pump_posted) return;
  tracer->pump_posted = true;
  tracer->pump_post.run = run_pump;
  net_loop_post(core->loops[0].net, &tracer->pump_post);
}

void trace_flush(struct core *core, struct trace_setting *setting) {
  make_chunk(core, &setting->collected, &setting->n_collected, true);
}

void trace_collect(struct core *core, struct trace_setting *setting, const struct buffer *text) {
  struct tracer *tracer = &core->tracer;
  bool numbered = setting->now.log_frequency > 0;
  struct buffer *to = numbered ? &setting->collected : &tracer->filling;
  uint32_t *n = numbered ? &setting->n_collected : &tracer->n_filling;
  if (text->failed || tracer->held + text->size > HELD_BYTES_MAX ||
      buffer_append(to, text->data, text->size) != MU_OK) {
    tracer->dropped++;
    return;
  }
  tracer->held += text->size;
  ++*n;
  if (numbered ? *n >= setting->now.log_frequency : to->size >= CHUNK_BYTES) make_chunk(core, to, n, numbered);
}

/* ---- writing: loop 0, and the pool ------------------------------------------------------------------------------- */

/* 0, or errno. */
static int write_all(int fd, const char *data, size_t size) {
  while (size > 0) {
    ssize_t n = write(fd, data, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    data += n;
    size -= (size_t)n;
  }
  return 0;
}

/* In the pool. A file of its own is an array of its own; the common one gets its brackets from the supervisor. */
static void write_chunk(uv_work_t *work) {
  struct core *core = work->data;
  struct trace_chunk *chunk = core->tracer.writing;
  size_t size = chunk->text.size;
  if (chunk->numbered) chunk->error = write_all(chunk->fd, "[\n", 2);
  if (chunk->numbered) size -= 2; /* the last ",\n" */
  if (chunk->error == 0) chunk->error = write_all(chunk->fd, chunk->text.data, size);
  if (chunk->numbered && chunk->error == 0) chunk->error = write_all(chunk->fd, "\n]\n", 3);
}

static void say_failed(struct tracer *tracer, const char *why) {
  if (!tracer->said_failed)
    LOG_ERROR("traces cannot be written and are dropped", LOG_STR("file", tracer->file), LOG_STR("error", why));
  tracer->said_failed = true;
}

static void chunk_done(struct tracer *tracer, struct trace_chunk *chunk, bool written) {
  pthread_mutex_lock(&tracer->lock);
  tracer->held -= chunk->text.size;
  if (written)
    tracer->written += chunk->n;
  else
    tracer->dropped += chunk->n;
  pthread_mutex_unlock(&tracer->lock);
  buffer_free(&chunk->text);
  free(chunk);
}

static void after_write(uv_work_t *work, int status) {
  struct core *core = work->data;
  struct tracer *tracer = &core->tracer;
  struct trace_chunk *chunk = tracer->writing;
  tracer->writing = NULL;
  if (chunk->numbered) close(chunk->fd);
  bool written = status == 0 && chunk->error == 0;
  if (!written) say_failed(tracer, status != 0 ? uv_strerror(status) : strerror(chunk->error));
  if (written) tracer->said_failed = false;
  chunk_done(tracer, chunk, written);
  pump(core);
}

static void ask_for_file(struct core *core, bool numbered) {
  const struct control_trace_open message = {numbered};
  if (core->tracer.asked) return;
  if (control_link_send(core->control, CONTROL_TRACE_OPEN, &message, NULL, 0) == MU_OK) core->tracer.asked = true;
}

static void start_writing(struct core *core, struct trace_chunk *chunk) {
  struct tracer *tracer = &core->tracer;
  chunk->fd = chunk->numbered ? tracer->numbered_fd : tracer->file_fd;
  if (chunk->numbered) tracer->numbered_fd = -1; /* the chunk's now */
  tracer->writing = chunk;
  tracer->work.data = core;
  int error = uv_queue_work(net_loop_uv(core->loops[0].net), &tracer->work, write_chunk, after_write);
  if (error != 0) after_write(&tracer->work, error);
}

/* The next chunk, where one waits and none is being written. */
static void pump(struct core *core) {
  struct tracer *tracer = &core->tracer;
  if (tracer->writing != NULL) return;
  pthread_mutex_lock(&tracer->lock);
  struct trace_chunk *chunk =
      list_empty(&tracer->queue) ? NULL : list_item(tracer->queue.next, struct trace_chunk, link);
  bool ready = chunk != NULL && (chunk->numbered ? tracer->numbered_fd : tracer->file_fd) >= 0;
  if (ready) list_remove(&chunk->link);
  pthread_mutex_unlock(&tracer->lock);
  if (ready) {
    start_writing(core, chunk);
  } else if (chunk != NULL) {
    ask_for_file(core, chunk->numbered);
  } else if (tracer->closed != NULL) {
    void (*closed)(struct core *) = tracer->closed;
    tracer->closed = NULL;
    closed(core);
  }
}

void trace_file_take(struct core *core, struct control_packet *packet) {
  struct tracer *tracer = &core->tracer;
  bool numbered = packet->trace_file.numbered;
  int *fd = numbered ? &tracer->numbered_fd : &tracer->file_fd;
  tracer->asked = false;
  if (packet->n_fds > 0 && *fd < 0) {
    *fd = packet->fds[0];
    packet->fds[0] = -1;
  }
  if (*fd < 0) { /* the chunk that waits for it is lost: the next one asks again */
    say_failed(tracer, packet->trace_file.error[0] != '\0' ? packet->trace_file.error : "no free file descriptor");
    pthread_mutex_lock(&tracer->lock);
    struct list *link = list_pop_front(&tracer->queue);
    pthread_mutex_unlock(&tracer->lock);
    if (link != NULL) chunk_done(tracer, list_item(link, struct trace_chunk, link), false);
  }
  pump(core);
}

void trace_tick(struct core *core) {
  struct tracer *tracer = &core->tracer;
  if (++tracer->ticks < TICKS) return;
  tracer->ticks = 0;
  pthread_mutex_lock(&tracer->lock);
  make_chunk(core, &tracer->filling, &tracer->n_filling, false);
  pthread_mutex_unlock(&tracer->lock);
}

void trace_close(struct core *core, void (*closed)(struct core *core)) {
  struct tracer *tracer = &core->tracer;
  pthread_mutex_lock(&tracer->lock);
  make_chunk(core, &tracer->filling, &tracer->n_filling, false);
  trace_flush_all(core);
  pthread_mutex_unlock(&tracer->lock);
  tracer->closed = closed;
  pump(core);
}
