#include "launch/curl_loop.h"

#include <stdlib.h>

struct curl_loop {
  CURLM *multi;
  struct net_loop *loop;
  uv_timer_t timer;
};

/* One socket of libcurl's, for as long as it wants to hear of it. */
struct watch {
  uv_poll_t poll;
  struct curl_loop *curl;
  curl_socket_t socket;
};

/* Tells the owners of all transfers that have ended. */
static void collect(struct curl_loop *curl) {
  int left;
  for (CURLMsg *message; (message = curl_multi_info_read(curl->multi, &left)) != NULL;) {
    struct curl_transfer *transfer;
    if (message->msg != CURLMSG_DONE) continue;
    CURLcode code = message->data.result; /* the message goes with the handle */
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
    curl_multi_remove_handle(curl->multi, transfer->easy);
    transfer->done(transfer->context, code);
  }
}

static void on_socket(uv_poll_t *poll, int status, int events) {
  const struct watch *watch = poll->data;
  struct curl_loop *curl = watch->curl;
  int running, flags = (events & UV_READABLE ? CURL_CSELECT_IN : 0) | (events & UV_WRITABLE ? CURL_CSELECT_OUT : 0);
  if (status < 0) flags = CURL_CSELECT_ERR;
  curl_multi_socket_action(curl->multi, watch->socket, flags, &running); /* may end the watch */
  collect(curl);
}

static void on_timer(uv_timer_t *timer) {
  struct curl_loop *curl = timer->data;
  int running;
  curl_multi_socket_action(curl->multi, CURL_SOCKET_TIMEOUT, 0, &running);
  collect(curl);
}

static void on_watch_closed(uv_handle_t *handle) { free(handle->data); }

/* libcurl: what to watch a socket for. 0, or -1 to fail the transfer. */
static int set_watch(CURL *easy, curl_socket_t socket, int what, void *context, void *assigned) {
  struct curl_loop *curl = context;
  struct watch *watch = assigned;
  if (what == CURL_POLL_REMOVE) {
    if (watch != NULL) uv_close((uv_handle_t *)&watch->poll, on_watch_closed);
    curl_multi_assign(curl->multi, socket, NULL);
    return 0;
  }
  if (watch == NULL) {
    watch = calloc(1, sizeof *watch);
    if (watch == NULL) return -1;
    *watch = (struct watch){.curl = curl, .socket = socket};
    if (uv_poll_init(net_loop_uv(curl->loop), &watch->poll, socket) != 0) {
      free(watch);
      return -1;
    }
    watch->poll.data = watch;
    curl_multi_assign(curl->multi, socket, watch);
  }
  int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
  uv_poll_start(&watch->poll, events, on_socket);
  return 0;
}

static int set_timer(CURLM *multi, long timeout_ms, void *context) {
  struct curl_loop *curl = context;
  if (timeout_ms < 0)
    uv_timer_stop(&curl->timer);
  else
    uv_timer_start(&curl->timer, on_timer, (uint64_t)timeout_ms, 0);
  return 0;
}

mu_status curl_loop_create(struct net_loop *loop, struct curl_loop **ret_curl, mu_error *err) {
  struct curl_loop *curl = calloc(1, sizeof *curl);
  if (curl == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for connections");
  curl->loop = loop;
  curl->multi = curl_multi_init();
  if (curl->multi == NULL) {
    free(curl);
    return mu_fail(err, MU_NO_MEMORY, "no memory for connections");
  }
  uv_timer_init(net_loop_uv(loop), &curl->timer);
  curl->timer.data = curl;
  curl_multi_setopt(curl->multi, CURLMOPT_SOCKETFUNCTION, set_watch);
  curl_multi_setopt(curl->multi, CURLMOPT_SOCKETDATA, curl);
  curl_multi_setopt(curl->multi, CURLMOPT_TIMERFUNCTION, set_timer);
  curl_multi_setopt(curl->multi, CURLMOPT_TIMERDATA, curl);
  *ret_curl = curl;
  return MU_OK;
}

static void on_timer_closed(uv_handle_t *handle) { free(handle->data); }

void curl_loop_free(struct curl_loop *curl) {
  if (curl == NULL) return;
  curl_multi_cleanup(curl->multi); /* closes sockets, and so their watches */
  uv_close((uv_handle_t *)&curl->timer, on_timer_closed);
}

bool curl_loop_add(struct curl_loop *curl, struct curl_transfer *transfer) {
  curl_easy_setopt(transfer->easy, CURLOPT_PRIVATE, transfer);
  return curl_multi_add_handle(curl->multi, transfer->easy) == CURLM_OK;
}

void curl_loop_remove(struct curl_loop *curl, struct curl_transfer *transfer) {
  curl_multi_remove_handle(curl->multi, transfer->easy);
}
