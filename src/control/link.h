/*
 * A control socket on an event loop: sends never block (what the socket does not take waits in a bounded queue),
 * received messages come through a callback. Supervisor (one for each child) and gateway (one).
 */
#ifndef CONTROL_LINK_H
#define CONTROL_LINK_H

#include "control/message.h"
#include "net/loop.h"

struct control_link;

/* Both may call any function below, control_link_free too. */
struct control_link_events {
  /* The packet is freed after the call; take fds over by setting them to -1. */
  void (*message)(void *context, struct control_packet *packet);
  /* The peer is gone or broke the protocol (err). Called once; the link stays to be freed. */
  void (*lost)(void *context, const mu_error *err);
};

enum { CONTROL_LINK_QUEUE_MAX = 16 << 20 }; /* bytes waiting to be sent */

/* Takes socket over (on failure it stays the caller's) and makes it non-blocking. NULL without memory. */
struct control_link *control_link_create(struct net_loop *loop, int socket, const struct control_link_events *events,
                                         void *context);
/* Closes the socket at once; the memory goes with the loop's next turn. What was queued is not sent. */
void control_link_free(struct control_link *link); /* accepts NULL */

/* fds are duplicated; they stay the caller's. MU_OK also when it was queued; MU_CANCELED: lost; MU_TOO_LARGE: queue
 * full, or the message is larger than the socket takes;
 * MU_INVALID: as control_send; MU_NO_MEMORY, MU_IO. */
MUST_CHECK mu_status control_link_send(struct control_link *link, enum control_type type, const void *message,
                                       const int *fds, size_t n_fds);

/* Its socket, to be handed to another program in this process; only while nothing is queued for it. */
int control_link_socket(const struct control_link *link);
/* Whether nothing waits to be sent. */
bool control_link_flushed(const struct control_link *link);

/* Delivers what has arrived already, without waiting: the last words of a peer whose process has ended. */
void control_link_read(struct control_link *link);

#endif
