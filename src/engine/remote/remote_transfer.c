#include "engine/remote/remote_transfer.h"

#include <curl/curl.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/remote/remote_status.h"

enum {
  CONNECT_MS = 2000,           /* a machine that does not answer at all */
  HEAD_MAX = 64 << 10,         /* bytes of an answer's head */
  REFUSAL_MAX = 4 << 10,       /* of the body of a refusal that are kept */
  REFUSAL_READ_MAX = 64 << 10, /* and that are read at all */
  BUFFER_SIZE = 256 << 10,
};

struct remote_transfer {
  CURLM *multi;
  CURL *easy;
  int stop; /* eventfd: readable while stopped */

  /* of the call */
  const struct remote_call *call;
  struct remote_head head;
  long http_status;
  bool begun; /* call->begin has had it */
  size_t head_bytes;
  uint64_t refusal_bytes;
  struct buffer refusal;
  long grpc_status; /* -1: none has come */
  char grpc_message[512];
  bool too_large;   /* head or refusal */
  bool reuse_only;  /* no new connection may be made … */
  bool refused_new; /* … and one would have been needed */
  mu_status status; /* what begin, take or finish said */
  mu_error error;
};

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static bool forgets_http2; /* libcurl before 8.0 (Debian 12 has 7.88): see run_http2 */

static void init_curl(void) {
  enum { FIXED = 0x080000 };
  (void)curl_global_init(CURL_GLOBAL_DEFAULT);
  forgets_http2 = curl_version_info(CURLVERSION_NOW)->version_num < FIXED;
}

/* ---- what curl asks and says ------------------------------------------------------------------------------------- */

static size_t on_read(char *to, size_t size, size_t n, void *context) {
  struct remote_transfer *transfer = context;
  return remote_body_read(transfer->call->body, to, size * n);
}

/* The request goes out once more, over another connection. */
static int on_seek(void *context, curl_off_t offset, int origin) {
  struct remote_transfer *transfer = context;
  bool done = origin == SEEK_SET && offset >= 0 && remote_body_seek(transfer->call->body, (uint64_t)offset);
  return done ? CURL_SEEKFUNC_OK : CURL_SEEKFUNC_FAIL;
}

static void read_number(const char *value, size_t size, int64_t *ret_number) {
  int64_t number = 0;
  if (size == 0 || size > 12) return;
  for (size_t i = 0; i < size; i++) {
    if (value[i] < '0' || value[i] > '9') return;
    number = number * 10 + value[i] - '0';
  }
  *ret_number = number;
}

/* The value of a header line that has this name; NULL: it has another. */
static const char *header_value(const char *line, size_t size, const char *name, size_t *ret_size) {
  size_t length = strlen(name);
  if (size <= length || line[length] != ':' || strncasecmp(line, name, length) != 0) return NULL;
  const char *begin = line + length + 1, *end = line + size;
  while (begin < end && (*begin == ' ' || *begin == '\t')) begin++;
  while (begin < end && (end[-1] == '\n' || end[-1] == '\r' || end[-1] == ' ')) end--;
  *ret_size = (size_t)(end - begin);
  return begin;
}

static size_t on_header(char *line, size_t one, size_t size, void *context) {
  struct remote_transfer *transfer = context;
  const char *value;
  size_t length;
  int64_t number = -1;
  transfer->head_bytes += size;
  if (transfer->head_bytes > HEAD_MAX) {
    transfer->too_large = true;
    return 0;
  }
  if (size >= 5 && strncmp(line, "HTTP/", 5) == 0) { /* also behind an interim answer */
    transfer->head.json_size = -1;
  } else if ((value = header_value(line, size, "Inference-Header-Content-Length", &length)) != NULL) {
    read_number(value, length, &transfer->head.json_size);
  } else if ((value = header_value(line, size, "grpc-status", &length)) != NULL) {
    read_number(value, length, &number);
    transfer->grpc_status = (long)number;
  } else if ((value = header_value(line, size, "grpc-message", &length)) != NULL) {
    size_t kept = length < sizeof transfer->grpc_message ? length : sizeof transfer->grpc_message - 1;
    memcpy(transfer->grpc_message, value, kept);
    transfer->grpc_message[kept] = '\0';
  }
  return size;
}

static bool begin_answer(struct remote_transfer *transfer) {
  const struct remote_call *call = transfer->call;
  if (transfer->begun) return true;
  transfer->begun = true;
  transfer->status = call->begin(call->context, &transfer->head, &transfer->error);
  return transfer->status == MU_OK;
}

static size_t on_body(char *data, size_t one, size_t size, void *context) {
  struct remote_transfer *transfer = context;
  const struct remote_call *call = transfer->call;
  curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &transfer->http_status);
  if (transfer->http_status == 200) {
    if (!begin_answer(transfer)) return 0;
    transfer->status = call->take(call->context, data, size, &transfer->error);
    return transfer->status == MU_OK ? size : 0;
  }
  transfer->refusal_bytes += size;
  size_t room = REFUSAL_MAX - transfer->refusal.size;
  (void)buffer_append(&transfer->refusal, data, size < room ? size : room); /* without it the status has to do */
  transfer->too_large = transfer->refusal_bytes > REFUSAL_READ_MAX;
  return transfer->too_large ? 0 : size;
}

static curl_socket_t on_open(void *context, curlsocktype purpose, struct curl_sockaddr *address) {
  struct remote_transfer *transfer = context;
  transfer->refused_new = transfer->reuse_only;
  if (transfer->reuse_only) return CURL_SOCKET_BAD;
  return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/* ---- how it ended ------------------------------------------------------------------------------------------------ */

static void conclude(struct remote_outcome *outcome, enum remote_end end, mu_status status, const char *why) {
  outcome->end = end;
  outcome->status = mu_fail(&outcome->error, status, "%s", why);
}

/* What curl's codes mean; those that are not here speak of a broken connection. */
static const struct {
  CURLcode code;
  enum remote_end end;
  mu_status status;
} ends[] = {
    {CURLE_COULDNT_CONNECT, REMOTE_REFUSED, MU_UNAVAILABLE},
    {CURLE_OUT_OF_MEMORY, REMOTE_FAILED_HERE, MU_NO_MEMORY},
    {CURLE_FAILED_INIT, REMOTE_FAILED_HERE, MU_INTERNAL},
    {CURLE_UNSUPPORTED_PROTOCOL, REMOTE_MALFORMED, MU_INTERNAL},
    {CURLE_WEIRD_SERVER_REPLY, REMOTE_MALFORMED, MU_INTERNAL},
    {CURLE_BAD_CONTENT_ENCODING, REMOTE_MALFORMED, MU_INTERNAL},
    {CURLE_WRITE_ERROR, REMOTE_MALFORMED, MU_INTERNAL},
};

static void judge_failure(const struct remote_transfer *transfer, CURLcode code, struct remote_outcome *outcome) {
  char why[160];
  if (code == CURLE_OPERATION_TIMEDOUT) {
    bool late = clock_now_ns() >= transfer->call->deadline_ns;
    conclude(outcome, late ? REMOTE_LATE : REMOTE_REFUSED, late ? MU_TIMEOUT : MU_UNAVAILABLE,
             late ? "it did not answer in time (remote.timeout)" : "it cannot be reached");
    return;
  }
  snprintf(why, sizeof why, "%s", curl_easy_strerror(code));
  for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
    if (ends[i].code != code) continue;
    conclude(outcome, ends[i].end, ends[i].status, why);
    return;
  }
  conclude(outcome, REMOTE_BROKEN, MU_UNAVAILABLE, why);
}

/* What has come is no answer, or finds no memory here. */
static void judge_status(const struct remote_transfer *transfer, struct remote_outcome *outcome) {
  conclude(outcome, transfer->status == MU_NO_MEMORY ? REMOTE_FAILED_HERE : REMOTE_MALFORMED, transfer->status,
           transfer->error.message);
}

static void judge_answer(struct remote_transfer *transfer, struct remote_outcome *outcome) {
  const struct remote_call *call = transfer->call;
  if (transfer->http_status != 200) {
    remote_status_http(transfer->http_status, transfer->refusal.data, transfer->refusal.size, outcome);
    return;
  }
  if (call->protocol == REMOTE_GRPC && transfer->grpc_status != 0) {
    if (transfer->grpc_status < 0)
      conclude(outcome, REMOTE_BROKEN, MU_UNAVAILABLE, "its answer has no grpc-status");
    else
      remote_status_grpc(transfer->grpc_status, transfer->grpc_message, outcome);
    return;
  }
  if (begin_answer(transfer)) transfer->status = call->finish(call->context, &transfer->error);
  if (transfer->status != MU_OK) judge_status(transfer, outcome);
}

static void judge(struct remote_transfer *transfer, CURLcode code, struct remote_outcome *outcome) {
  curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &transfer->http_status);
  if (transfer->status != MU_OK)
    judge_status(transfer, outcome);
  else if (transfer->too_large)
    conclude(outcome, REMOTE_MALFORMED, MU_TOO_LARGE, "its answer's head, or what it says instead of one, has no end");
  else if (code != CURLE_OK)
    judge_failure(transfer, code, outcome);
  else
    judge_answer(transfer, outcome);
}

/* ---- a call ------------------------------------------------------------------------------------------------------ */

static bool add_header(struct curl_slist **list, const char *line) {
  struct curl_slist *longer = curl_slist_append(*list, line);
  if (longer != NULL) *list = longer;
  return longer != NULL;
}

static struct curl_slist *make_headers(const struct remote_call *call) {
  struct curl_slist *list = NULL;
  char length[64];
  bool whole = add_header(&list, call->address->host);
  if (call->body != NULL) whole = whole && add_header(&list, "Expect:");
  if (call->protocol == REMOTE_GRPC && call->body != NULL) {
    whole = whole && add_header(&list, "Content-Type: application/grpc") && add_header(&list, "TE: trailers");
  } else if (call->body != NULL && call->body->head_size > 0) {
    snprintf(length, sizeof length, "Inference-Header-Content-Length: %zu", call->body->head_size);
    whole = whole && add_header(&list, length) && add_header(&list, "Content-Type: application/octet-stream");
  }
  if (whole) return list;
  curl_slist_free_all(list);
  return NULL;
}

static long milliseconds_left(uint64_t deadline_ns) {
  uint64_t now = clock_now_ns();
  uint64_t left = deadline_ns > now ? (deadline_ns - now + NS_PER_MS - 1) / NS_PER_MS : 1;
  return left < INT32_MAX ? (long)left : INT32_MAX;
}

static bool set_call(struct remote_transfer *transfer, const struct remote_call *call, const char *url,
                     struct curl_slist *headers) {
  CURL *easy = transfer->easy;
  long version = call->protocol != REMOTE_GRPC ? CURL_HTTP_VERSION_1_1
                 : transfer->reuse_only        ? CURL_HTTP_VERSION_2_0
                                               : CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE;
  bool set = curl_easy_setopt(easy, CURLOPT_URL, url) == CURLE_OK;
  set = set && curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers) == CURLE_OK;
  curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, version);
  curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, milliseconds_left(call->deadline_ns));
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
  if (call->body == NULL) {
    curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
    return set;
  }
  (void)remote_body_seek(call->body, 0);
  curl_easy_setopt(easy, CURLOPT_POST, 1L);
  curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->body->size);
  return set;
}

/* false: stopped. */
static bool perform(struct remote_transfer *transfer, CURLcode *ret_code) {
  for (;;) {
    int running = 0, left = 0;
    CURLMcode done = curl_multi_perform(transfer->multi, &running);
    const CURLMsg *message = curl_multi_info_read(transfer->multi, &left);
    if (message != NULL && message->msg == CURLMSG_DONE) {
      *ret_code = message->data.result;
      return true;
    }
    struct curl_waitfd stop = {.fd = transfer->stop, .events = CURL_WAIT_POLLIN};
    if (done == CURLM_OK) done = curl_multi_poll(transfer->multi, &stop, 1, 1000, NULL);
    if (done != CURLM_OK || running == 0) {
      *ret_code = done == CURLM_OUT_OF_MEMORY ? CURLE_OUT_OF_MEMORY : CURLE_FAILED_INIT;
      return true;
    }
    if (stop.revents != 0) return false;
  }
}

static void clear(struct remote_transfer *transfer, const struct remote_call *call) {
  transfer->call = call;
  transfer->head = (struct remote_head){.json_size = -1};
  transfer->http_status = 0;
  transfer->begun = transfer->too_large = false;
  transfer->head_bytes = 0;
  transfer->refusal_bytes = 0;
  buffer_clear(&transfer->refusal);
  transfer->grpc_status = -1;
  transfer->grpc_message[0] = '\0';
  transfer->refused_new = false;
  transfer->status = MU_OK;
}

static void run(struct remote_transfer *transfer, const struct remote_call *call, struct remote_outcome *ret_outcome) {
  char url[1024];
  CURLcode code = CURLE_OUT_OF_MEMORY;
  *ret_outcome = (struct remote_outcome){.end = REMOTE_ANSWERED};
  clear(transfer, call);
  struct curl_slist *headers = make_headers(call);
  bool fits = snprintf(url, sizeof url, "%s%s", call->address->url, call->path) < (int)sizeof url;
  bool stopped = false;
  if (headers != NULL && fits && set_call(transfer, call, url, headers) &&
      curl_multi_add_handle(transfer->multi, transfer->easy) == CURLM_OK) {
    stopped = !perform(transfer, &code);
    if (!stopped) judge(transfer, code, ret_outcome);
    curl_multi_remove_handle(transfer->multi, transfer->easy); /* what is still going on, its connection goes with it */
  } else {
    conclude(ret_outcome, REMOTE_FAILED_HERE, MU_NO_MEMORY, "no memory for a request");
  }
  if (stopped) conclude(ret_outcome, REMOTE_STOPPED, MU_CANCELED, "the run was told to stop");
  curl_easy_setopt(transfer->easy, CURLOPT_HTTPHEADER, NULL);
  curl_slist_free_all(headers);
}

/*
 * Told that a server speaks HTTP/2, libcurl before 8.0 begins to speak it once more on a connection that does already,
 * and fails. Told only that HTTP/2 would be welcome it uses such a connection, but would begin a new one with
 * HTTP/1.1. So it is told the latter and may make no new connection; where it would need one, it is told the former.
 */
static void run_http2(struct remote_transfer *transfer, const struct remote_call *call,
                      struct remote_outcome *outcome) {
  transfer->reuse_only = true;
  run(transfer, call, outcome);
  transfer->reuse_only = false;
  if (outcome->end == REMOTE_ANSWERED || !transfer->refused_new) return;
  curl_easy_setopt(transfer->easy, CURLOPT_FRESH_CONNECT, 1L);
  run(transfer, call, outcome);
  curl_easy_setopt(transfer->easy, CURLOPT_FRESH_CONNECT, 0L);
}

void remote_transfer_run(struct remote_transfer *transfer, const struct remote_call *call,
                         struct remote_outcome *ret_outcome) {
  if (call->protocol == REMOTE_GRPC && forgets_http2)
    run_http2(transfer, call, ret_outcome);
  else
    run(transfer, call, ret_outcome);
}

/* ---- stopping ---------------------------------------------------------------------------------------------------- */

void remote_transfer_stop(struct remote_transfer *transfer) { (void)!eventfd_write(transfer->stop, 1); }

void remote_transfer_resume(struct remote_transfer *transfer) {
  eventfd_t ignored;
  (void)!eventfd_read(transfer->stop, &ignored);
}

bool remote_transfer_wait(struct remote_transfer *transfer, uint64_t ns) {
  struct pollfd fd = {.fd = transfer->stop, .events = POLLIN};
  const struct timespec time = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
  return ppoll(&fd, 1, &time, NULL) <= 0;
}

/* ---- its life ---------------------------------------------------------------------------------------------------- */

/* What holds for every call. No proxy of the environment's, no redirection, no other protocol: a backend decides
 * nothing here. */
static void set_easy(struct remote_transfer *transfer) {
  CURL *easy = transfer->easy;
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_PROXY, "");
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http");
  curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
  curl_easy_setopt(easy, CURLOPT_USERAGENT, "muster/" MUSTER_VERSION);
  curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, (long)BUFFER_SIZE);
  curl_easy_setopt(easy, CURLOPT_UPLOAD_BUFFERSIZE, (long)BUFFER_SIZE);
  curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_read);
  curl_easy_setopt(easy, CURLOPT_READDATA, transfer);
  curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, on_seek);
  curl_easy_setopt(easy, CURLOPT_SEEKDATA, transfer);
  curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, on_open);
  curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, transfer);
  curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
  curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
}

mu_status remote_transfer_create(size_t backends, struct remote_transfer **ret_transfer, mu_error *err) {
  pthread_once(&curl_once, init_curl);
  struct remote_transfer *transfer = calloc(1, sizeof *transfer);
  if (transfer == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  buffer_init(&transfer->refusal, REFUSAL_MAX);
  transfer->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  transfer->multi = curl_multi_init();
  transfer->easy = curl_easy_init();
  if (transfer->stop < 0 || transfer->multi == NULL || transfer->easy == NULL) {
    mu_status status = transfer->stop < 0 ? mu_fail(err, MU_IO, "eventfd: %s", strerror(errno))
                                          : mu_fail(err, MU_NO_MEMORY, "no memory for libcurl");
    remote_transfer_free(transfer);
    return status;
  }
  curl_multi_setopt(transfer->multi, CURLMOPT_MAXCONNECTS, (long)(backends < 64 ? backends : 64));
  set_easy(transfer);
  *ret_transfer = transfer;
  return MU_OK;
}

void remote_transfer_free(struct remote_transfer *transfer) {
  if (transfer == NULL) return;
  if (transfer->easy != NULL) curl_easy_cleanup(transfer->easy);
  if (transfer->multi != NULL) curl_multi_cleanup(transfer->multi);
  if (transfer->stop >= 0) close(transfer->stop);
  buffer_free(&transfer->refusal);
  free(transfer);
}
