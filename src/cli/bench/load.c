#include "cli/bench/load.h"

#include "base/clock.h"
#include "cli/bench/connection.h"

#include <errno.h>
#include <jansson.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

enum { EVENTS = 512, TICK_NS = 20 * NS_PER_MS, CONNECT_TIMEOUT_MS = 5000, SPARE_DESCRIPTORS = 64 };
enum { NOBODY = UINT32_MAX };

struct load {
  const struct target *target;
  const struct load_options *options;
  struct load_result *result;
  struct connection_wire wire;
  struct connection *connections;
  uint32_t idle; /* top of a stack: those used last are used first, so no more are opened than are needed */
  uint32_t busy;
  struct schedule schedule; /* open loop */
  uint64_t due_ns;          /* the arrival that is sent next; TIME_NEVER: no more come */
  uint64_t measure_ns, end_ns, now, tick_ns;
  enum { LOAD_WARMS_UP, LOAD_MEASURES, LOAD_DRAINS } phase;
  uint64_t reported_ns, reported_answers;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number) { interrupted = 1; }

/* From the first run on, so that no moment between two runs is without it; a second Ctrl-C kills. */
static void catch_interrupts(void) {
  static bool caught;
  struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
  if (!caught) sigaction(SIGINT, &action, NULL);
  caught = true;
}

static bool is_open_loop(const struct load *load) { return load->options->rate > 0; }
static uint64_t pending(const struct load_result *result) { return result->sent - result->answered - result->failed; }

/* ---- what became of a request ------------------------------------------------------------------------------------ */

static bool fail_reply(struct connection *connection, const char *why) {
  connection->failure = failure_make(FAILURE_WRONG_REPLY, 0, why, strlen(why));
  return false;
}

/* In the words of {"error": "…"}, or of the body itself. */
static bool fail_status(struct connection *connection) {
  const struct buffer *body = &connection->body;
  json_t *document = json_loadb(body->data != NULL ? body->data : "", body->size, 0, NULL);
  const json_t *said = json_object_get(document, "error");
  connection->failure = failure_make(FAILURE_STATUS, connection->reply.head.status,
                                     json_is_string(said) ? json_string_value(said) : body->data,
                                     json_is_string(said) ? json_string_length(said) : body->size);
  json_decref(document);
  return false;
}

static bool is_good(struct load *load, struct connection *connection) {
  const struct reply *reply = &connection->reply;
  struct buffer *reference = load->options->reference;
  if (!load->target->tcp) {
    if (reply->head.status < 200 || reply->head.status > 299) return fail_status(connection);
    if (reply->head.infer_length != UINT64_MAX && reply->head.infer_length > reply->body_bytes)
      return fail_reply(connection, "Inference-Header-Content-Length is past the end of the body");
    if (load->target->model[0] != '\0' && reply->body_bytes == 0)
      return fail_reply(connection, "a reply without a body");
  }
  if (reference == NULL) return true;
  if (reference->data == NULL) { /* the first one: its memory moves, so that it is known by not being NULL */
    if (buffer_append(reference, connection->body.data, connection->body.size) != MU_OK ||
        buffer_text(reference) == NULL)
      return fail_reply(connection, "no memory to keep the first reply");
    return true;
  }
  if (!load->options->check) return true;
  if (connection->body.size != reference->size ||
      (reference->size > 0 && memcmp(connection->body.data, reference->data, reference->size) != 0))
    return fail_reply(connection, "the reply differs from the first one (--check)");
  return true;
}

static void count(struct load *load, struct connection *connection, bool good) {
  struct load_result *result = load->result;
  if (load->phase == LOAD_MEASURES) result->finished++;
  if (!connection->measured) return;
  if (good) {
    result->answered++;
    histogram_record(&result->latencies, load->now - connection->intended_ns);
  } else {
    result->failed++;
    failures_add(&result->failures, &connection->failure);
  }
}

/* ---- sending ----------------------------------------------------------------------------------------------------- */

static void rest(struct load *load, struct connection *connection) {
  connection->next_idle = load->idle;
  load->idle = (uint32_t)(connection - load->connections);
}

static void finish(struct load *load, struct connection *connection, enum connection_outcome outcome);

static void begin(struct load *load, struct connection *connection, uint64_t intended_ns) {
  connection->intended_ns = intended_ns;
  connection->started_ns = load->now;
  connection->measured = load->phase == LOAD_MEASURES;
  load->busy++;
  if (connection->measured) {
    load->result->sent++;
    load->result->offered++;
    if (is_open_loop(load)) histogram_record(&load->result->delays, load->now - intended_ns);
  }
  enum connection_outcome outcome = connection_send(connection, &load->wire);
  if (outcome != CONNECTION_WAITS) finish(load, connection, outcome);
}

/* The arrival after the one that is due. */
static void advance(struct load *load) {
  const struct load_options *options = load->options;
  bool complete = load->phase == LOAD_MEASURES && options->requests > 0 && load->schedule.n == options->requests;
  load->due_ns = complete ? TIME_NEVER : schedule_next(&load->schedule);
  if (load->due_ns >= load->end_ns) load->due_ns = TIME_NEVER;
}

/* Is a request to be sent now, and from when does its latency count? */
static bool take_due(struct load *load, uint64_t *ret_intended_ns) {
  if (load->phase == LOAD_DRAINS) return false;
  if (is_open_loop(load)) {
    if (load->due_ns > load->now || load->due_ns == TIME_NEVER) return false;
    *ret_intended_ns = load->due_ns;
    advance(load);
    return true;
  }
  *ret_intended_ns = load->now;
  return load->options->requests == 0 || load->result->sent < load->options->requests;
}

static void finish(struct load *load, struct connection *connection, enum connection_outcome outcome) {
  if (outcome == CONNECTION_WAITS || outcome == CONNECTION_LOST) return;
  load->now = clock_now_ns();
  load->busy--;
  count(load, connection, outcome == CONNECTION_ANSWERED && is_good(load, connection));
  /* One that failed rests: in a closed loop until the next tick, so that a server that refuses is not hammered. */
  uint64_t intended_ns;
  if (outcome == CONNECTION_ANSWERED && take_due(load, &intended_ns))
    begin(load, connection, intended_ns);
  else
    rest(load, connection);
}

/* Open loop: what has fallen due, as far as there are connections for it. */
static void send_due(struct load *load) {
  uint64_t intended_ns;
  while (load->idle != NOBODY && take_due(load, &intended_ns)) {
    struct connection *connection = &load->connections[load->idle];
    load->idle = connection->next_idle;
    begin(load, connection, intended_ns);
  }
}

/* Closed loop: each connection that rests tries once. */
static void send_again(struct load *load) {
  uint64_t intended_ns;
  uint32_t next = load->idle;
  load->idle = NOBODY;
  while (next != NOBODY) {
    struct connection *connection = &load->connections[next];
    next = connection->next_idle;
    if (take_due(load, &intended_ns))
      begin(load, connection, intended_ns);
    else
      rest(load, connection);
  }
}

/* ---- time -------------------------------------------------------------------------------------------------------- */

/* The window has a schedule of its own: its requests are the same whatever the warm-up was, and what the warm-up could
 * not send is forgotten. */
static void start_window(struct load *load) {
  const struct load_options *options = load->options;
  load->phase = LOAD_MEASURES;
  if (is_open_loop(load)) {
    schedule_init(&load->schedule, options->arrivals, options->rate, options->seed, load->measure_ns);
    advance(load);
  }
  if (options->watch != NULL) cpu_watch_start(options->watch);
}

static void end_window(struct load *load) {
  bool measured = load->phase == LOAD_MEASURES;
  if (measured && load->options->watch != NULL) cpu_watch_stop(load->options->watch);
  uint64_t end_ns = load->now < load->end_ns ? load->now : load->end_ns;
  load->result->seconds = end_ns > load->measure_ns ? (double)(end_ns - load->measure_ns) / 1e9 : 0;
  while (measured && is_open_loop(load) && load->due_ns <= end_ns && load->due_ns != TIME_NEVER) {
    load->result->offered++;
    load->result->not_sent++;
    advance(load);
  }
  load->phase = LOAD_DRAINS;
}

static bool window_ends(const struct load *load) {
  if (interrupted || load->now >= load->end_ns) return true;
  return load->options->requests > 0 && load->result->sent == load->options->requests && pending(load->result) == 0;
}

static void report(struct load *load) {
  if (load->options->progress == NULL || load->phase != LOAD_MEASURES || load->now < load->reported_ns + NS_PER_S)
    return;
  uint64_t from_ns = load->reported_ns > 0 ? load->reported_ns : load->measure_ns;
  double rate = (double)(load->result->answered - load->reported_answers) * 1e9 / (double)(load->now - from_ns);
  load->options->progress(load->options->context, (double)(load->now - load->measure_ns) / 1e9, rate);
  load->reported_ns = load->now;
  load->reported_answers = load->result->answered;
}

static void tick(struct load *load) {
  load->tick_ns = load->now + TICK_NS;
  for (uint32_t i = 0; i < load->options->connections && load->busy > 0; i++) {
    struct connection *connection = &load->connections[i];
    bool waits = connection->state != CONNECTION_IDLE;
    if (waits && load->now > time_add(connection->started_ns, load->options->timeout_ns))
      finish(load, connection, connection_fail(connection, FAILURE_TIMEOUT, "no reply within --timeout"));
  }
  if (!is_open_loop(load)) send_again(load);
  report(load);
}

static uint64_t next_wake(const struct load *load) {
  uint64_t at = load->tick_ns;
  if (load->phase == LOAD_WARMS_UP && load->measure_ns < at) at = load->measure_ns;
  if (load->phase == LOAD_MEASURES && load->end_ns < at) at = load->end_ns;
  if (is_open_loop(load) && load->phase != LOAD_DRAINS && load->idle != NOBODY && load->due_ns < at) at = load->due_ns;
  return at;
}

static void run(struct load *load) {
  struct epoll_event events[EVENTS];
  load->now = clock_now_ns();
  load->measure_ns = load->now + load->options->warmup_ns;
  load->end_ns = load->options->requests > 0 ? TIME_NEVER : time_add(load->measure_ns, load->options->duration_ns);
  schedule_init(&load->schedule, load->options->arrivals, load->options->rate, ~load->options->seed, load->now);
  if (is_open_loop(load)) advance(load);
  load->idle = NOBODY;
  for (uint32_t i = load->options->connections; i-- > 0;) rest(load, &load->connections[i]);
  while (!interrupted) {
    if (load->phase == LOAD_WARMS_UP && load->now >= load->measure_ns) start_window(load);
    if (load->phase == LOAD_MEASURES && window_ends(load)) end_window(load);
    if (load->phase == LOAD_DRAINS && load->busy == 0) break;
    if (load->now >= load->tick_ns) tick(load);
    if (is_open_loop(load)) send_due(load);
    uint64_t at = next_wake(load), left = at > load->now ? at - load->now : 0;
    struct timespec timeout = {.tv_sec = (time_t)(left / NS_PER_S), .tv_nsec = (long)(left % NS_PER_S)};
    int n = epoll_pwait2(load->wire.epoll, events, EVENTS, &timeout, NULL);
    load->now = clock_now_ns();
    for (int i = 0; i < n; i++)
      finish(load, events[i].data.ptr, connection_event(events[i].data.ptr, &load->wire, events[i].events));
  }
  if (load->phase != LOAD_DRAINS) end_window(load);
  load->result->interrupted = interrupted;
  load->result->unfinished = pending(load->result);
}

/* ---- before and after -------------------------------------------------------------------------------------------- */

/* 0, or the error number. */
static int try_connect(const struct addrinfo *address) {
  int error = 0, fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
  socklen_t size = sizeof error;
  if (connect(fd, address->ai_addr, address->ai_addrlen) != 0) {
    if (errno != EINPROGRESS)
      error = errno;
    else if (poll(&poll_fd, 1, CONNECT_TIMEOUT_MS) <= 0)
      error = ETIMEDOUT;
    else
      getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
  }
  close(fd);
  return error;
}

/* The first address of the name where somebody listens. */
static mu_status resolve(struct load *load, mu_error *err) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
  const struct target *target = load->target;
  int failed = getaddrinfo(target->host, target->port, &hints, &found), error = 0;
  if (failed != 0) return mu_fail(err, MU_UNAVAILABLE, "%s: %s", target->host, gai_strerror(failed));
  const struct addrinfo *at = found;
  while (at != NULL && (error = try_connect(at)) != 0) at = at->ai_next;
  if (at != NULL) {
    memcpy(&load->wire.address, at->ai_addr, at->ai_addrlen);
    load->wire.address_size = at->ai_addrlen;
  }
  freeaddrinfo(found);
  return at != NULL ? MU_OK
                    : mu_fail(err, MU_UNAVAILABLE, "cannot connect to %s port %s: %s", target->host, target->port,
                              strerror(error));
}

static mu_status allow_descriptors(uint32_t connections, mu_error *err) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return mu_fail(err, MU_IO, "getrlimit: %s", strerror(errno));
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  return connections + SPARE_DESCRIPTORS <= limit.rlim_max
             ? MU_OK
             : mu_fail(err, MU_INVALID, "%u connections need more than the %llu file descriptors there may be",
                       connections, (unsigned long long)limit.rlim_max);
}

static mu_status prepare(struct load *load, mu_error *err) {
  mu_status status = allow_descriptors(load->options->connections, err);
  if (status == MU_OK) status = resolve(load, err);
  if (status != MU_OK) return status;
  load->connections = calloc(load->options->connections, sizeof *load->connections);
  for (uint32_t i = 0; load->connections != NULL && i < load->options->connections; i++)
    connection_init(&load->connections[i]);
  load->wire.chunk = malloc(CONNECTION_CHUNK);
  if (load->connections == NULL || load->wire.chunk == NULL)
    return mu_fail(err, MU_NO_MEMORY, "no memory for %u connections", load->options->connections);
  load->wire.epoll = epoll_create1(EPOLL_CLOEXEC);
  return load->wire.epoll >= 0 ? MU_OK : mu_fail(err, MU_IO, "epoll: %s", strerror(errno));
}

mu_status load_run(const struct target *target, const struct buffer *request, const struct load_options *options,
                   struct load_result *ret_result, mu_error *err) {
  uint64_t reply_bytes = options->reply_bytes > 0 ? options->reply_bytes : request->size;
  struct load load = {.target = target,
                      .options = options,
                      .result = ret_result,
                      .wire = {.epoll = -1,
                               .request = request->data,
                               .request_size = request->size,
                               .reply_bytes = target->tcp ? reply_bytes : 0,
                               .keep_bodies = options->reference != NULL}};
  memset(ret_result, 0, sizeof *ret_result);
  mu_status status = prepare(&load, err);
  if (status == MU_OK) {
    catch_interrupts();
    prctl(PR_SET_TIMERSLACK, 1UL); /* 50 us by default: an open loop would send that much late */
    run(&load);
  }
  for (uint32_t i = 0; load.connections != NULL && i < options->connections; i++) connection_free(&load.connections[i]);
  if (load.wire.epoll >= 0) close(load.wire.epoll);
  free(load.connections);
  free(load.wire.chunk);
  return status;
}

void load_result_add(struct load_result *into, const struct load_result *from) {
  histogram_merge(&into->latencies, &from->latencies);
  histogram_merge(&into->delays, &from->delays);
  into->offered += from->offered;
  into->not_sent += from->not_sent;
  into->sent += from->sent;
  into->answered += from->answered;
  into->failed += from->failed;
  into->unfinished += from->unfinished;
  into->finished += from->finished;
  into->seconds += from->seconds;
  into->interrupted |= from->interrupted;
  for (uint32_t i = 0; i < from->failures.n; i++) failures_add(&into->failures, &from->failures.rows[i]);
}
