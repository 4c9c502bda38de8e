/*
 * libcurl's transfers on a loop: its sockets and its one timer become the loop's. A transfer is an easy handle that its
 * owner has set up; it is added once and ends by done or by being removed. One thread.
 */
#ifndef LAUNCH_CURL_LOOP_H
#define LAUNCH_CURL_LOOP_H

#include <curl/curl.h>

#include "net/loop.h"

struct curl_loop;

struct curl_transfer {
  CURL *easy;
  void (*done)(void *context, CURLcode code); /* the transfer has been removed by then; the handle is the owner's */
  void *context;
};

/* MU_NO_MEMORY. */
MUST_CHECK mu_status curl_loop_create(struct net_loop *loop, struct curl_loop **ret_curl, mu_error *err);
/* After the last transfer. The memory goes with the loop's next turn. Accepts NULL. */
void curl_loop_free(struct curl_loop *curl);

/* false without memory. transfer is borrowed until its end. */
bool curl_loop_add(struct curl_loop *curl, struct curl_transfer *transfer);
void curl_loop_remove(struct curl_loop *curl, struct curl_transfer *transfer);

#endif
