#include "launch/probe.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "launch/curl_loop.h"
#include "process/process.h"
#include "proto/grpc/grpc_headers.h"

enum { FIRST_PAUSE_MS = 20, LONGEST_PAUSE_MS = 500, ATTEMPT_MS = 5000, COMMAND_MS = 30000, ANSWER_MAX = 4096 };

struct probe_pool {
  struct net_loop *loop;
  struct curl_loop *curl;
};

struct probe {
  struct curl_transfer transfer; /* while easy is not NULL */
  struct probe_pool *pool;
  const struct probe_spec *spec;
  void (*ready)(void *context);
  void *context;
  uv_timer_t timer; /* until the next attempt, or the end of a command's time */
  uint64_t pause_ms;
  struct process *command;
  struct curl_slist *headers;
  struct buffer answer;
  long grpc_status; /* -1: none came */
  bool late;        /* the command's time was over */
  char last[160];
};

static void attempt(struct probe *probe);

static void on_pause_over(uv_timer_t *timer) { attempt(timer->data); }

static void try_later(struct probe *probe) {
  uv_timer_start(&probe->timer, on_pause_over, probe->pause_ms, 0);
  probe->pause_ms = probe->pause_ms * 2 < LONGEST_PAUSE_MS ? probe->pause_ms * 2 : LONGEST_PAUSE_MS;
}

static void finish(struct probe *probe, bool ready) {
  if (!ready) {
    try_later(probe);
    return;
  }
  probe->ready(probe->context); /* may stop the probe */
}

/* ---- over the network -------------------------------------------------------------------------------------------- */

static size_t take_answer(char *data, size_t size, size_t n, void *context) {
  struct probe *probe = context;
  /* what is larger is cut: no answer that counts is */
  if (probe->answer.size + size * n <= ANSWER_MAX && buffer_append(&probe->answer, data, size * n) != MU_OK) return 0;
  return size * n;
}

/* Trailers come this way too. */
static size_t take_header(char *data, size_t size, size_t n, void *context) {
  static const char name[] = "grpc-status:";
  struct probe *probe = context;
  if (size * n > sizeof name && strncasecmp(data, name, sizeof name - 1) == 0) {
    char text[16];
    snprintf(text, sizeof text, "%.*s", (int)(size * n - sizeof name + 1), data + sizeof name - 1);
    probe->grpc_status = strtol(text, NULL, 10);
  }
  return size * n;
}

/* A HealthCheckResponse whose one field, status, is SERVING. */
static bool is_serving(const struct buffer *answer) {
  static const char serving[] = {0, 0, 0, 0, 2, 0x08, 0x01};
  return answer->size == sizeof serving && memcmp(answer->data, serving, sizeof serving) == 0;
}

static bool judge_grpc(struct probe *probe) {
  if (probe->grpc_status == GRPC_UNIMPLEMENTED)
    snprintf(probe->last, sizeof probe->last, "it has no grpc.health.v1: use --ready tcp");
  else if (probe->grpc_status != GRPC_OK)
    snprintf(probe->last, sizeof probe->last, "grpc-status %ld", probe->grpc_status);
  else if (!is_serving(&probe->answer))
    snprintf(probe->last, sizeof probe->last, "grpc.health.v1 does not say SERVING");
  else
    return true;
  return false;
}

static bool judge_http(struct probe *probe) {
  long code = 0;
  curl_easy_getinfo(probe->transfer.easy, CURLINFO_RESPONSE_CODE, &code);
  snprintf(probe->last, sizeof probe->last, "HTTP %ld", code);
  return code >= 200 && code <= 299;
}

/* A connection to a free port of the range that the kernel chooses its own ends from may meet itself: no service. */
static bool judge_tcp(struct probe *probe) {
  long local = 0;
  curl_easy_getinfo(probe->transfer.easy, CURLINFO_LOCAL_PORT, &local);
  snprintf(probe->last, sizeof probe->last, "nobody listens");
  return local != probe->spec->port;
}

static void on_transfer(void *context, CURLcode code) {
  static bool (*const judges[])(struct probe * probe) = {
      [READY_TCP] = judge_tcp, [READY_GRPC] = judge_grpc, [READY_HTTP] = judge_http};
  struct probe *probe = context;
  bool ready = false;
  if (code != CURLE_OK)
    snprintf(probe->last, sizeof probe->last, "%s", curl_easy_strerror(code));
  else
    ready = judges[probe->spec->kind](probe);
  curl_easy_cleanup(probe->transfer.easy);
  probe->transfer.easy = NULL;
  finish(probe, ready);
}

static void set_grpc(struct probe *probe, CURL *easy) {
  static const char request[] = {0, 0, 0, 0, 0}; /* an empty HealthCheckRequest: the whole server */
  curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE);
  curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request);
  curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, (long)sizeof request);
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, probe->headers);
}

static bool begin_transfer(struct probe *probe) {
  char url[READY_PATH_MAX + 64];
  CURL *easy = curl_easy_init();
  if (easy == NULL) return false;
  const char *path = probe->spec->kind == READY_GRPC   ? "/grpc.health.v1.Health/Check"
                     : probe->spec->kind == READY_HTTP ? probe->spec->argument
                                                       : "/";
  snprintf(url, sizeof url, "http://127.0.0.1:%u%s", probe->spec->port, path);
  buffer_clear(&probe->answer);
  probe->grpc_status = -1;
  curl_easy_setopt(easy, CURLOPT_URL, url);
  curl_easy_setopt(easy, CURLOPT_PROXY, ""); /* whatever http_proxy says */
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)ATTEMPT_MS);
  curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L);
  curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_answer);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, probe);
  curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, take_header);
  curl_easy_setopt(easy, CURLOPT_HEADERDATA, probe);
  if (probe->spec->kind == READY_GRPC) set_grpc(probe, easy);
  if (probe->spec->kind == READY_TCP) curl_easy_setopt(easy, CURLOPT_CONNECT_ONLY, 1L);
  probe->transfer = (struct curl_transfer){.easy = easy, .done = on_transfer, .context = probe};
  if (curl_loop_add(probe->pool->curl, &probe->transfer)) return true;
  curl_easy_cleanup(easy);
  probe->transfer.easy = NULL;
  return false;
}

/* ---- a command --------------------------------------------------------------------------------------------------- */

static void run_command(const void *context, pid_t parent) {
  const struct probe *probe = context;
  char *const arguments[] = {(char *)"sh", (char *)"-c", (char *)probe->spec->argument, NULL};
  sigset_t none;
  sigemptyset(&none);
  signal(SIGPIPE, SIG_DFL);
  sigprocmask(SIG_SETMASK, &none, NULL);
  setsid();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (getppid() == parent && nothing >= 0 && dup2(nothing, 0) == 0 && dup2(nothing, 1) == 1 && dup2(nothing, 2) == 2) {
    (void)close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
    execve("/bin/sh", arguments, probe->spec->environment);
  }
  _exit(127);
}

static void on_command_time_over(uv_timer_t *timer) {
  struct probe *probe = timer->data;
  probe->late = true;
  kill(-process_pid(probe->command), SIGKILL);
  process_kill(probe->command, SIGKILL);
}

static void on_command_ended(void *context, int code, int status) {
  struct probe *probe = context;
  bool ready = code == CLD_EXITED && status == 0;
  process_free(probe->command);
  probe->command = NULL;
  uv_timer_stop(&probe->timer);
  if (probe->late)
    snprintf(probe->last, sizeof probe->last, "the command took longer than %d s", COMMAND_MS / 1000);
  else
    snprintf(probe->last, sizeof probe->last, "the command %s %d",
             code == CLD_EXITED ? "exited with" : "ended by signal", status);
  finish(probe, ready);
}

static bool begin_command(struct probe *probe) {
  mu_error err;
  mu_status status =
      process_start(probe->pool->loop, run_command, probe, on_command_ended, probe, &probe->command, &err);
  if (status != MU_OK) {
    snprintf(probe->last, sizeof probe->last, "%.150s", err.message);
    return false;
  }
  probe->late = false;
  uv_timer_start(&probe->timer, on_command_time_over, COMMAND_MS, 0);
  return true;
}

/* ---- both -------------------------------------------------------------------------------------------------------- */

static void attempt(struct probe *probe) {
  bool begun = probe->spec->kind == READY_COMMAND ? begin_command(probe) : begin_transfer(probe);
  if (!begun) try_later(probe);
}

mu_status probe_start(struct probe_pool *pool, const struct probe_spec *spec, void (*ready)(void *context),
                      void *context, struct probe **ret_probe, mu_error *err) {
  struct probe *probe = calloc(1, sizeof *probe);
  if (probe == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory to ask whether a service is ready");
  *probe = (struct probe){.pool = pool, .spec = spec, .ready = ready, .context = context, .pause_ms = FIRST_PAUSE_MS};
  snprintf(probe->last, sizeof probe->last, "%s",
           spec->kind == READY_COMMAND ? "the command has not ended yet" : "it has not answered yet");
  buffer_init(&probe->answer, ANSWER_MAX);
  probe->headers = curl_slist_append(NULL, "content-type: application/grpc");
  struct curl_slist *more = probe->headers != NULL ? curl_slist_append(probe->headers, "te: trailers") : NULL;
  if (more == NULL) {
    curl_slist_free_all(probe->headers);
    free(probe);
    return mu_fail(err, MU_NO_MEMORY, "no memory to ask whether a service is ready");
  }
  uv_timer_init(net_loop_uv(pool->loop), &probe->timer);
  probe->timer.data = probe;
  uv_timer_start(&probe->timer, on_pause_over, 0, 0);
  *ret_probe = probe;
  return MU_OK;
}

static void on_closed(uv_handle_t *handle) {
  struct probe *probe = handle->data;
  curl_slist_free_all(probe->headers);
  buffer_free(&probe->answer);
  free(probe);
}

void probe_stop(struct probe *probe) {
  if (probe == NULL) return;
  if (probe->transfer.easy != NULL) {
    curl_loop_remove(probe->pool->curl, &probe->transfer);
    curl_easy_cleanup(probe->transfer.easy);
  }
  if (probe->command != NULL) {
    kill(-process_pid(probe->command), SIGKILL);
    process_kill(probe->command, SIGKILL);
    process_free(probe->command); /* whoever collects strays reaps it */
  }
  uv_close((uv_handle_t *)&probe->timer, on_closed);
}

const char *probe_last(const struct probe *probe) { return probe->last; }
pid_t probe_pid(const struct probe *probe) { return probe->command != NULL ? process_pid(probe->command) : 0; }

mu_status probe_pool_create(struct net_loop *loop, struct probe_pool **ret_pool, mu_error *err) {
  struct probe_pool *pool = calloc(1, sizeof *pool);
  if (pool == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the launch");
  pool->loop = loop;
  mu_status status = curl_loop_create(loop, &pool->curl, err);
  if (status == MU_OK)
    *ret_pool = pool;
  else
    free(pool);
  return status;
}

void probe_pool_free(struct probe_pool *pool) {
  if (pool == NULL) return;
  curl_loop_free(pool->curl);
  free(pool);
}
