/*
 * An event loop and its thread's shared things. Each loop belongs to one thread; only net_loop_post may be called from
 * another one.
 */
#ifndef NET_LOOP_H
#define NET_LOOP_H

#include "base/list.h"
#include "base/status.h"

#include <uv.h>

struct net_loop;

/* A piece of work for another loop: embedded in what it concerns, posted at most once at a time. */
struct net_post {
  struct list link;
  void (*run)(struct net_post *post); /* on the target loop's thread */
};

/* NULL without memory. */
struct net_loop *net_loop_create(void);
/* Closes what is left open, runs the closing callbacks, frees. Posts that have not run are forgotten: nobody may post
 * any more. Servers and whatever else has memory behind its handles are freed before. */
void net_loop_free(struct net_loop *loop); /* accepts NULL */
uv_loop_t *net_loop_uv(struct net_loop *loop);

/* Runs until net_loop_stop. */
void net_loop_run(struct net_loop *loop);
void net_loop_stop(struct net_loop *loop); /* own thread; from another one: post it */

/* Any thread: post->run is called on the loop's thread, in order of posting. One wake-up for a burst. */
void net_loop_post(struct net_loop *loop, struct net_post *post);

#endif
