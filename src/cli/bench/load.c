#include "cli/bench/load.h"

#include "base/clock.h"
#include "proto/http1/http1_codec.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <uv.h>

enum { READ_BYTES = 256 * 1024, HEAD_BYTES = 64 * 1024, ERROR_TEXT_BYTES = 4096, TICK_MS = 50 };

struct load;

struct connection {
  struct load *load;
  uv_tcp_t tcp;
  uv_connect_t connect;
  uv_write_t write;
  enum { CONNECTION_CLOSED, CONNECTION_OPEN, CONNECTION_CLOSING } state;
  struct http1_codec *codec;
  uint64_t sent_ns; /* of the request in flight; 0: none */
  int status;       /* of the answer that is being read */
  bool keep_alive;
  struct buffer error; /* text of an answer that is none */
};

struct load {
  const struct target *target;
  const struct load_options *options;
  const struct buffer *request;
  struct load_result *result;
  struct sockaddr_storage address;
  uv_loop_t loop;
  uv_timer_t tick;
  uv_signal_t interrupt;
  struct connection *connections;
  char *chunk; /* READ_BYTES, shared: what is read is parsed at once */
  uint64_t start_ns, measure_ns, end_ns, reported_ns, reported_answers;
  bool stopping;
};

static void connection_open(struct connection *connection);
static void connection_close(struct connection *connection);

/* ---- what is counted --------------------------------------------------------------------------------------------- */

static bool measuring(const struct load *load, uint64_t now) { return now >= load->measure_ns && !load->stopping; }

static void count_error(struct load *load, const char *what) {
  struct load_result *result = load->result;
  if (!measuring(load, clock_now_ns())) return;
  result->failed++;
  uint32_t i = 0;
  while (i < result->n_errors && strncmp(result->errors[i].what, what, sizeof result->errors[i].what - 1) != 0) i++;
  if (i == LOAD_ERROR_KINDS) i--;
  if (i == result->n_errors) {
    bool last = ++result->n_errors == LOAD_ERROR_KINDS;
    snprintf(result->errors[i].what, sizeof result->errors[i].what, "%s", last ? "other errors" : what);
  }
  result->errors[i].count++;
}

static void stop(struct load *load) {
  if (load->stopping) return;
  load->end_ns = clock_now_ns();
  load->stopping = true;
  for (uint32_t i = 0; i < load->options->concurrency; i++) connection_close(&load->connections[i]);
  uv_close((uv_handle_t *)&load->tick, NULL);
  uv_close((uv_handle_t *)&load->interrupt, NULL);
}

/* ---- one connection ---------------------------------------------------------------------------------------------- */

static void send_request(struct connection *connection);

static void on_written(uv_write_t *write, int status) {
  struct connection *connection = write->data;
  if (status < 0 && status != UV_ECANCELED) connection_close(connection);
}

static void send_request(struct connection *connection) {
  const struct buffer *request = connection->load->request;
  uv_buf_t bytes = uv_buf_init(request->data, (unsigned)request->size);
  connection->sent_ns = clock_now_ns();
  int n = uv_try_write((uv_stream_t *)&connection->tcp, &bytes, 1);
  if (n == (int)request->size) return;
  if (n < 0 && n != UV_EAGAIN) {
    count_error(connection->load, uv_strerror(n));
    connection_close(connection);
    return;
  }
  size_t done = n > 0 ? (size_t)n : 0;
  bytes = uv_buf_init(request->data + done, (unsigned)(request->size - done));
  connection->write.data = connection;
  if (uv_write(&connection->write, (uv_stream_t *)&connection->tcp, &bytes, 1, on_written) < 0)
    connection_close(connection);
}

static bool on_head(void *context, const char *method, const char *target, int status, uint64_t content_length,
                    bool keep_alive, bool expect_continue) {
  struct connection *connection = context;
  connection->status = status;
  connection->keep_alive = keep_alive;
  buffer_clear(&connection->error);
  return true;
}

static bool on_body(void *context, const uint8_t *data, size_t size) {
  struct connection *connection = context;
  if (connection->status != 200) buffer_append(&connection->error, data, size);
  return true;
}

static void count_answer(struct connection *connection) {
  struct load *load = connection->load;
  uint64_t now = clock_now_ns();
  if (connection->status != 200) {
    char what[160];
    const char *text = buffer_text(&connection->error);
    snprintf(what, sizeof what, "%d %s", connection->status, text != NULL ? text : "");
    count_error(load, what);
  } else if (measuring(load, now)) {
    load->result->answered++;
    latencies_add(&load->result->latencies, now - connection->sent_ns);
  }
  connection->sent_ns = 0;
}

static bool on_end(void *context) {
  struct connection *connection = context;
  struct load *load = connection->load;
  count_answer(connection);
  if (load->options->requests > 0 && load->result->answered + load->result->failed >= load->options->requests)
    stop(load);
  else if (!connection->keep_alive)
    connection_close(connection);
  else
    send_request(connection);
  return !load->stopping && connection->state == CONNECTION_OPEN;
}

static const struct http1_events events = {.head = on_head, .body = on_body, .end = on_end};

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_bytes) {
  struct connection *connection = handle->data;
  *ret_bytes = uv_buf_init(connection->load->chunk, READ_BYTES);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *bytes) {
  struct connection *connection = stream->data;
  mu_error err;
  size_t used;
  int http_status;
  if (n == 0) return;
  if (n < 0) {
    if (connection->sent_ns != 0)
      count_error(connection->load, n == UV_EOF ? "the server closed" : uv_strerror((int)n));
    connection_close(connection);
    return;
  }
  if (http1_codec_feed(connection->codec, (const uint8_t *)bytes->base, (size_t)n, &used, &http_status, &err) !=
      MU_OK) {
    count_error(connection->load, err.message);
    connection_close(connection);
  }
}

static void on_connected(uv_connect_t *connect, int status) {
  struct connection *connection = connect->data;
  if (status == UV_ECANCELED) return;
  if (status < 0) {
    count_error(connection->load, uv_strerror(status));
    connection_close(connection);
    return;
  }
  uv_tcp_nodelay(&connection->tcp, 1);
  uv_read_start((uv_stream_t *)&connection->tcp, on_alloc, on_read);
  send_request(connection);
}

static void connection_open(struct connection *connection) {
  struct load *load = connection->load;
  http1_codec_free(connection->codec);
  connection->codec = http1_codec_create(true, &events, connection, HEAD_BYTES);
  connection->sent_ns = 0;
  uv_tcp_init(&load->loop, &connection->tcp);
  connection->tcp.data = connection->connect.data = connection;
  connection->state = CONNECTION_OPEN;
  int status = connection->codec == NULL ? UV_ENOMEM
                                         : uv_tcp_connect(&connection->connect, &connection->tcp,
                                                          (const struct sockaddr *)&load->address, on_connected);
  if (status == 0) return;
  count_error(load, uv_strerror(status));
  connection_close(connection);
}

/* A closed connection waits for the next tick before it is made anew: a server that refuses is not hammered. */
static void on_closed(uv_handle_t *handle) {
  struct connection *connection = handle->data;
  connection->state = CONNECTION_CLOSED;
}

static void connection_close(struct connection *connection) {
  if (connection->state != CONNECTION_OPEN) return;
  connection->state = CONNECTION_CLOSING;
  uv_close((uv_handle_t *)&connection->tcp, on_closed);
}

/* ---- time -------------------------------------------------------------------------------------------------------- */

static void revive(struct load *load, uint64_t now) {
  for (uint32_t i = 0; i < load->options->concurrency; i++) {
    struct connection *connection = &load->connections[i];
    bool late = connection->sent_ns != 0 && now > connection->sent_ns + load->options->timeout_ns;
    if (connection->state == CONNECTION_CLOSED) {
      connection_open(connection);
    } else if (connection->state == CONNECTION_OPEN && late) {
      count_error(load, "no answer within --timeout");
      connection_close(connection);
    }
  }
}

static void report(struct load *load, uint64_t now) {
  if (load->options->progress == NULL || now < load->measure_ns || now - load->reported_ns < NS_PER_S) return;
  double rate = (double)(load->result->answered - load->reported_answers) * 1e9 / (double)(now - load->reported_ns);
  load->options->progress(load->options->context, (double)(now - load->measure_ns) / 1e9, rate);
  load->reported_ns = now;
  load->reported_answers = load->result->answered;
}

static void on_tick(uv_timer_t *timer) {
  struct load *load = timer->data;
  uint64_t now = clock_now_ns();
  bool by_time = load->options->requests == 0 && now >= load->measure_ns + load->options->duration_ns;
  if (by_time) {
    stop(load);
    return;
  }
  revive(load, now);
  report(load, now);
}

static void on_interrupt(uv_signal_t *handle, int number) {
  struct load *load = handle->data;
  load->result->interrupted = true;
  stop(load);
}

static mu_status resolve(struct load *load, mu_error *err) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
  int error = getaddrinfo(load->target->host, load->target->port, &hints, &found);
  if (error != 0) return mu_fail(err, MU_UNAVAILABLE, "%s: %s", load->target->host, gai_strerror(error));
  memcpy(&load->address, found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
  return MU_OK;
}

static void run(struct load *load) {
  uv_loop_init(&load->loop);
  uv_timer_init(&load->loop, &load->tick);
  uv_signal_init(&load->loop, &load->interrupt);
  load->tick.data = load->interrupt.data = load;
  load->start_ns = clock_now_ns();
  load->measure_ns = load->reported_ns = load->start_ns + load->options->warmup_ns;
  for (uint32_t i = 0; i < load->options->concurrency; i++) {
    load->connections[i].load = load;
    buffer_init(&load->connections[i].error, ERROR_TEXT_BYTES);
    connection_open(&load->connections[i]);
  }
  uv_timer_start(&load->tick, on_tick, TICK_MS, TICK_MS);
  uv_signal_start(&load->interrupt, on_interrupt, SIGINT);
  uv_run(&load->loop, UV_RUN_DEFAULT);
  uv_loop_close(&load->loop);
  load->result->seconds = load->end_ns > load->measure_ns ? (double)(load->end_ns - load->measure_ns) / 1e9 : 0;
  for (uint32_t i = 0; i < load->options->concurrency; i++) {
    http1_codec_free(load->connections[i].codec);
    buffer_free(&load->connections[i].error);
  }
}

mu_status load_run(const struct target *target, const struct buffer *request, const struct load_options *options,
                   struct load_result *ret_result, mu_error *err) {
  struct load load = {.target = target, .options = options, .request = request, .result = ret_result};
  memset(ret_result, 0, sizeof *ret_result);
  mu_status status = resolve(&load, err);
  if (status != MU_OK) return status;
  load.connections = calloc(options->concurrency, sizeof *load.connections);
  load.chunk = malloc(READ_BYTES);
  if (load.connections != NULL && load.chunk != NULL)
    run(&load);
  else
    status = mu_fail(err, MU_NO_MEMORY, "no memory for %u connections", options->concurrency);
  free(load.connections);
  free(load.chunk);
  return status;
}
