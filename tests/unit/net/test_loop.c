#include "net/loop.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

enum { THREADS = 4, POSTS = 5000 };

struct counted {
  struct net_post post;
  struct counter *counter;
  int thread, number;
};

struct counter {
  struct net_loop *loop;
  int next[THREADS]; /* the loop's thread only */
  int total;
};

static void count(struct net_post *post) {
  struct counted *counted = list_item(post, struct counted, post);
  struct counter *counter = counted->counter;
  assert_int_equal(counter->next[counted->thread]++, counted->number); /* in the order of posting */
  if (++counter->total == THREADS * POSTS) net_loop_stop(counter->loop);
}

struct poster {
  struct counter *counter;
  struct counted *posts;
};

static void *post_all(void *argument) {
  struct poster *poster = argument;
  for (int i = 0; i < POSTS; i++) net_loop_post(poster->counter->loop, &poster->posts[i].post);
  return NULL;
}

static void posts_from_threads(void **state) {
  struct counter counter = {.loop = net_loop_create()};
  assert_non_null(counter.loop);
  struct poster posters[THREADS];
  pthread_t threads[THREADS];
  for (int t = 0; t < THREADS; t++) {
    posters[t] = (struct poster){.counter = &counter, .posts = calloc(POSTS, sizeof(struct counted))};
    assert_non_null(posters[t].posts);
    for (int i = 0; i < POSTS; i++)
      posters[t].posts[i] = (struct counted){.post.run = count, .counter = &counter, .thread = t, .number = i};
    assert_int_equal(pthread_create(&threads[t], NULL, post_all, &posters[t]), 0);
  }
  net_loop_run(counter.loop);
  for (int t = 0; t < THREADS; t++) {
    pthread_join(threads[t], NULL);
    free(posters[t].posts);
  }
  assert_int_equal(counter.total, THREADS * POSTS);
  net_loop_free(counter.loop);
}

struct again {
  struct net_post post;
  struct net_loop *loop;
  int left;
};

static void post_again(struct net_post *post) {
  struct again *again = list_item(post, struct again, post);
  if (--again->left == 0)
    net_loop_stop(again->loop);
  else
    net_loop_post(again->loop, post);
}

static void posts_itself_again(void **state) {
  struct again again = {.post.run = post_again, .loop = net_loop_create(), .left = 100};
  assert_non_null(again.loop);
  net_loop_post(again.loop, &again.post);
  net_loop_run(again.loop);
  assert_int_equal(again.left, 0);
  net_loop_free(again.loop);
}

static void *stop_from_outside(void *argument) {
  net_loop_post(((struct again *)argument)->loop, &((struct again *)argument)->post);
  return NULL;
}

static void stop_by_post(void **state) {
  struct again stop = {.post.run = post_again, .loop = net_loop_create(), .left = 1};
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, stop_from_outside, &stop), 0);
  net_loop_run(stop.loop);
  pthread_join(thread, NULL);
  net_loop_free(stop.loop);
}

static void never_run(struct net_post *post) { fail(); }
static void never_due(uv_timer_t *timer) { fail(); }

static void freed_with_posts_and_handles(void **state) {
  struct net_loop *loop = net_loop_create();
  assert_non_null(loop);
  struct net_post post = {.run = never_run};
  uv_timer_t timer;
  uv_timer_init(net_loop_uv(loop), &timer);
  assert_int_equal(uv_timer_start(&timer, never_due, 1000000, 0), 0);
  net_loop_stop(loop);
  net_loop_post(loop, &post);
  net_loop_free(loop);
  net_loop_free(NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(posts_from_threads),
      cmocka_unit_test(posts_itself_again),
      cmocka_unit_test(stop_by_post),
      cmocka_unit_test(freed_with_posts_and_handles),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
