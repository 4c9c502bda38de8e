#include "control/link.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* Messages taken in one turn of the loop, so that a busy peer does not keep the others waiting. */
enum { READ_BURST = 64 };

/* Messages up to here are sent out of memory that the link has from its beginning: what a child has to report
 * (attached, hung, drained) must get through when there is no memory. */
enum { SMALL_MESSAGE = 4096 };

struct control_link {
  uv_poll_t poll;
  int socket;
  struct control_link_events events;
  void *context;
  struct list queue; /* struct queued, oldest first */
  size_t queued_bytes;
  struct buffer small; /* a message being sent */
  bool mute;           /* the peer is gone; what it said before can still be read */
  bool lost;           /* `lost` was called */
  bool closed;         /* control_link_free was called; the memory waits for the loop */
};

/* A message that the socket did not take yet. */
struct queued {
  struct list link;
  struct buffer encoded;
  int fds[CONTROL_FDS_MAX];
  size_t n_fds;
};

static void queued_free(struct queued *queued) {
  for (size_t i = 0; i < queued->n_fds; i++) close(queued->fds[i]);
  buffer_free(&queued->encoded);
  free(queued);
}

static void drop_queue(struct control_link *link) {
  for (struct list *item; (item = list_pop_front(&link->queue)) != NULL;)
    queued_free(list_item(item, struct queued, link));
  link->queued_bytes = 0;
}

static void on_poll(uv_poll_t *poll, int status, int events);

static void watch(struct control_link *link) {
  if (link->lost || link->closed) return;
  /* Fails only for a handle that is closing. */
  uv_poll_start(&link->poll, UV_READABLE | (list_empty(&link->queue) ? 0 : UV_WRITABLE), on_poll);
}

static void report_lost(struct control_link *link, const mu_error *err) {
  if (link->lost || link->closed) return;
  link->lost = true;
  uv_poll_stop(&link->poll);
  drop_queue(link);
  link->events.lost(link->context, err);
}

/* ---- receiving --------------------------------------------------------------------------------------------------- */

/* At most `most` messages. */
static void read_messages(struct control_link *link, size_t most) {
  for (size_t i = 0; i < most && !link->lost && !link->closed; i++) {
    struct control_packet packet;
    mu_error err = {{0}};
    mu_status status = control_receive(link->socket, &packet, &err);
    if (status == MU_UNAVAILABLE || status == MU_NO_MEMORY) return; /* it stays in the socket: the loop comes back */
    if (status != MU_OK) {
      report_lost(link, &err);
      return;
    }
    link->events.message(link->context, &packet);
    control_packet_free(&packet);
  }
}

void control_link_read(struct control_link *link) { read_messages(link, SIZE_MAX); }

/* ---- sending ----------------------------------------------------------------------------------------------------- */

static void flush(struct control_link *link) {
  while (!list_empty(&link->queue)) {
    struct queued *first = list_item(link->queue.next, struct queued, link);
    mu_error err;
    mu_status status = control_send_encoded(link->socket, &first->encoded, first->fds, first->n_fds, &err);
    if (status == MU_UNAVAILABLE || status == MU_NO_MEMORY) return;
    if (status == MU_CANCELED) {
      link->mute = true;
      drop_queue(link);
      return;
    }
    if (status != MU_OK) {
      report_lost(link, &err);
      return;
    }
    list_remove(&first->link);
    link->queued_bytes -= first->encoded.size;
    queued_free(first);
  }
}

static mu_status enqueue(struct control_link *link, const struct buffer *encoded, const int *fds, size_t n_fds) {
  if (encoded->size > CONTROL_LINK_QUEUE_MAX - link->queued_bytes) return MU_TOO_LARGE;
  struct queued *queued = calloc(1, sizeof *queued);
  if (queued == NULL) return MU_NO_MEMORY;
  for (; queued->n_fds < n_fds; queued->n_fds++) {
    int copy = fcntl(fds[queued->n_fds], F_DUPFD_CLOEXEC, 0);
    if (copy < 0) {
      queued_free(queued);
      return MU_IO;
    }
    queued->fds[queued->n_fds] = copy;
  }
  buffer_init(&queued->encoded, CONTROL_PACKET_MAX);
  if (buffer_append(&queued->encoded, encoded->data, encoded->size) != MU_OK) {
    queued_free(queued);
    return MU_NO_MEMORY;
  }
  link->queued_bytes += queued->encoded.size;
  list_push_back(&link->queue, &queued->link);
  watch(link);
  return MU_OK;
}

static mu_status send_or_enqueue(struct control_link *link, const struct buffer *encoded, const int *fds,
                                 size_t n_fds) {
  if (list_empty(&link->queue)) {
    mu_status status = control_send_encoded(link->socket, encoded, fds, n_fds, NULL);
    if (status == MU_CANCELED) link->mute = true;
    if (status != MU_UNAVAILABLE) return status;
  }
  return enqueue(link, encoded, fds, n_fds);
}

mu_status control_link_send(struct control_link *link, enum control_type type, const void *message, const int *fds,
                            size_t n_fds) {
  if (link->lost || link->closed || link->mute) return MU_CANCELED;
  if (!control_type_takes(type, n_fds)) return MU_INVALID;
  struct buffer large, *encoded = &link->small;
  buffer_init(&large, CONTROL_PACKET_MAX);
  buffer_clear(encoded);
  mu_status status = control_encode(type, message, encoded);
  if (status == MU_TOO_LARGE) status = control_encode(type, message, encoded = &large);
  if (status == MU_OK) status = send_or_enqueue(link, encoded, fds, n_fds);
  buffer_free(&large);
  return status;
}

int control_link_socket(const struct control_link *link) { return link->socket; }
bool control_link_flushed(const struct control_link *link) { return list_empty(&link->queue); }

/* ---- life -------------------------------------------------------------------------------------------------------- */

static void on_poll(uv_poll_t *poll, int status, int events) {
  struct control_link *link = poll->data;
  if (status < 0) {
    /* Also when the peer left without reading everything: its last messages are there all the same. */
    control_link_read(link);
    mu_error err;
    mu_fail(&err, MU_IO, "the control socket failed: %s", uv_strerror(status));
    report_lost(link, &err);
    return;
  }
  if ((events & UV_WRITABLE) != 0) flush(link);
  if ((events & UV_READABLE) != 0) read_messages(link, READ_BURST);
  watch(link);
}

struct control_link *control_link_create(struct net_loop *loop, int socket, const struct control_link_events *events,
                                         void *context) {
  struct control_link *link = calloc(1, sizeof *link);
  if (link == NULL) return NULL;
  *link = (struct control_link){.socket = socket, .events = *events, .context = context};
  list_init(&link->queue);
  buffer_init(&link->small, SMALL_MESSAGE);
  if (buffer_reserve(&link->small, SMALL_MESSAGE) != MU_OK) goto fail;
  /* Makes the socket non-blocking, too. */
  if (uv_poll_init(net_loop_uv(loop), &link->poll, socket) != 0) goto fail;
  link->poll.data = link;
  watch(link);
  return link;

fail:
  buffer_free(&link->small);
  free(link);
  return NULL;
}

static void on_closed(uv_handle_t *handle) { free(handle->data); }

void control_link_free(struct control_link *link) {
  if (link == NULL || link->closed) return;
  link->closed = true;
  drop_queue(link);
  buffer_free(&link->small);
  uv_close((uv_handle_t *)&link->poll, on_closed);
  close(link->socket); /* the peer sees the end of file now */
}
