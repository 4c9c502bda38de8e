#include "net/loop.h"

#include <pthread.h>
#include <stdlib.h>

struct net_loop {
  uv_loop_t uv;
  uv_async_t wake;
  pthread_mutex_t lock;
  struct list posts; /* guarded by lock */
};

/* Takes what is there as one list; what is posted while it runs wakes the loop again. */
static void on_wake(uv_async_t *wake) {
  struct net_loop *loop = wake->data;
  struct list taken;
  list_init(&taken);
  pthread_mutex_lock(&loop->lock);
  if (!list_empty(&loop->posts)) {
    list_insert_before(loop->posts.next, &taken);
    list_remove(&loop->posts);
  }
  pthread_mutex_unlock(&loop->lock);
  for (struct list *link; (link = list_pop_front(&taken)) != NULL;) {
    struct net_post *post = list_item(link, struct net_post, link);
    post->run(post);
  }
}

void net_loop_post(struct net_loop *loop, struct net_post *post) {
  pthread_mutex_lock(&loop->lock);
  bool first = list_empty(&loop->posts);
  list_push_back(&loop->posts, &post->link);
  /* Inside the lock: once the post is out of it, it may run and end the loop that is to be woken. */
  if (first) uv_async_send(&loop->wake);
  pthread_mutex_unlock(&loop->lock);
}

struct net_loop *net_loop_create(void) {
  struct net_loop *loop = calloc(1, sizeof *loop);
  if (loop == NULL) return NULL;
  list_init(&loop->posts);
  if (pthread_mutex_init(&loop->lock, NULL) != 0) goto fail_lock;
  if (uv_loop_init(&loop->uv) != 0) goto fail_loop;
  if (uv_async_init(&loop->uv, &loop->wake, on_wake) != 0) goto fail_wake;
  loop->wake.data = loop;
  return loop;

fail_wake:
  uv_loop_close(&loop->uv);
fail_loop:
  pthread_mutex_destroy(&loop->lock);
fail_lock:
  free(loop);
  return NULL;
}

static void close_handle(uv_handle_t *handle, void *unused) {
  if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

void net_loop_free(struct net_loop *loop) {
  if (loop == NULL) return;
  /* A stop that was asked for after the loop had ended would end the closing turns as well: so run until it is done. */
  do {
    uv_walk(&loop->uv, close_handle, NULL);
    uv_run(&loop->uv, UV_RUN_DEFAULT);
  } while (uv_loop_close(&loop->uv) == UV_EBUSY);
  pthread_mutex_destroy(&loop->lock);
  free(loop);
}

uv_loop_t *net_loop_uv(struct net_loop *loop) { return &loop->uv; }

void net_loop_run(struct net_loop *loop) { uv_run(&loop->uv, UV_RUN_DEFAULT); }

void net_loop_stop(struct net_loop *loop) { uv_stop(&loop->uv); }
