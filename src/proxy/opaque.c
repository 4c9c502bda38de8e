/*
 * `muster proxy --opaque`: the bytes go through HAProxy, which muster configures, checks, starts and ends. The
 * listening sockets are muster's: a port in use is known before anything starts, and a reload loses no connection, as
 * the old haproxy and the new one have the same sockets.
 */
#include "base/clock.h"
#include "base/log.h"
#include "process/process.h"
#include "proxy/proxy.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CONFIG_FD = 9, CONFIG_MAX = 4 << 20, RUNNING_MAX = 4 /* one that serves, others that finish */ };
static const char config_path[] = "/proc/self/fd/9";

struct running {
  struct opaque *opaque;
  struct process *process; /* NULL: free */
};

struct opaque {
  const struct proxy_settings *settings;
  int argc;
  char **argv;
  struct net_loop *loop;
  int listeners[PROXY_PORTS];
  size_t n_listeners;
  struct running running[RUNNING_MAX];
  struct running *current;
  uv_signal_t signals[3];
  uv_timer_t timer;
  bool leaving;
  int exit_status;
};

/* ---- the configuration ------------------------------------------------------------------------------------------- */

void proxy_write_haproxy(struct buffer *out, const struct proxy_settings *s, size_t n_listeners) {
  long long check_ms = s->check_timeout_ns / NS_PER_MS, interval_ms = s->check_interval_ns / NS_PER_MS;
  buffer_print(out,
               "defaults\n  mode tcp\n  timeout connect %lldms\n  timeout check %lldms\n"
               "  timeout client 24h\n  timeout server 24h\n  retries %lld\n  option redispatch 1\n"
               "  option clitcpka\n  option srvtcpka\n\nfrontend clients\n  maxconn %lld\n",
               (long long)(s->connect_timeout_ns / NS_PER_MS), check_ms,
               s->retry == PROXY_RETRY_NEVER ? 0 : (long long)s->retries, (long long)s->max_connections);
  for (size_t i = 0; i < n_listeners; i++) buffer_print(out, "  bind fd@%zu\n", PROXY_LISTENER_FD + i);
  buffer_puts(out, "  default_backend servers\n\nbackend servers\n  balance leastconn\n");
  if (s->check == PROXY_CHECK_HTTP)
    buffer_print(out, "  option httpchk GET %s\n  http-check expect status 200-399\n", s->check_path);
  /* A refused connection counts at once, whoever notices it; coming back takes one good check. */
  buffer_print(out,
               "  default-server check inter %lldms fastinter 100ms downinter 1s fall 2 rise 1 observe layer4 "
               "error-limit 1 on-error mark-down on-marked-down shutdown-sessions\n",
               interval_ms);
  for (size_t i = 0; i < s->backends.n; i++) {
    const struct backend_address *backend = &s->backends.items[i];
    const char *colon = strchr(backend->host, ':');
    buffer_print(out, colon != NULL ? "  server s%zu [%s]:%u\n" : "  server s%zu %s:%u\n", i + 1, backend->host,
                 backend->port);
  }
}

static mu_status write_config(struct opaque *opaque, const struct proxy_settings *settings, int *ret_fd,
                              mu_error *err) {
  struct buffer text;
  buffer_init(&text, CONFIG_MAX);
  proxy_write_haproxy(&text, settings, opaque->n_listeners);
  int fd = memfd_create("haproxy.cfg", MFD_CLOEXEC);
  bool written = fd >= 0 && !text.failed && write(fd, text.data, text.size) == (ssize_t)text.size;
  buffer_free(&text);
  if (!written) {
    if (fd >= 0) close(fd);
    return mu_fail(err, MU_NO_MEMORY, "no memory for HAProxy's configuration");
  }
  *ret_fd = fd;
  return MU_OK;
}

/* ---- haproxy ----------------------------------------------------------------------------------------------------- */

struct start {
  const struct opaque *opaque;
  int config;
  bool check;        /* only looks at the configuration */
  char previous[16]; /* process that is to finish; "": none */
};

/* Ours may sit on the numbers that haproxy is to find: first they all move out of the way. */
static bool place_descriptors(const struct start *start) {
  enum { ASIDE = 100 };
  const struct opaque *opaque = start->opaque;
  int config = fcntl(start->config, F_DUPFD, ASIDE), moved[PROXY_PORTS];
  for (size_t i = 0; i < opaque->n_listeners; i++) moved[i] = fcntl(opaque->listeners[i], F_DUPFD, ASIDE);
  bool ok = dup2(config, CONFIG_FD) == CONFIG_FD;
  close(config);
  for (size_t i = 0; i < opaque->n_listeners; i++) {
    ok &= dup2(moved[i], PROXY_LISTENER_FD + (int)i) >= 0;
    close(moved[i]);
  }
  return ok;
}

static void run_haproxy(const void *context, pid_t parent) {
  const struct start *start = context;
  const char *program = start->opaque->settings->haproxy;
  sigset_t none;
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  signal(SIGPIPE, SIG_DFL);
  sigemptyset(&none);
  if (getppid() != parent || !place_descriptors(start)) _exit(126);
  sigprocmask(SIG_SETMASK, &none, NULL);
  if (start->check)
    execlp(program, program, "-c", "-q", "-f", config_path, (char *)NULL);
  else if (start->previous[0] == '\0')
    execlp(program, program, "-db", "-f", config_path, (char *)NULL);
  else
    execlp(program, program, "-db", "-f", config_path, "-sf", start->previous, (char *)NULL);
  _exit(127);
}

/* haproxy itself says what is wrong, on standard error. */
static mu_status check_config(const struct opaque *opaque, int config, mu_error *err) {
  const struct start start = {.opaque = opaque, .config = config, .check = true};
  pid_t parent = getpid(), pid = fork();
  int status = 0;
  if (pid == 0) run_haproxy(&start, parent);
  if (pid < 0 || waitpid(pid, &status, 0) != pid)
    return mu_fail(err, MU_IO, "haproxy cannot be run: %s", strerror(errno));
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
    return mu_fail(err, MU_NOT_FOUND, "--haproxy %s cannot be run: is the package haproxy installed?",
                   opaque->settings->haproxy);
  if (status != 0) return mu_fail(err, MU_INVALID, "haproxy refuses its configuration");
  return MU_OK;
}

static void on_ended(void *context, int code, int status) {
  struct running *running = context;
  struct opaque *opaque = running->opaque;
  bool serving = running == opaque->current;
  process_free(running->process);
  running->process = NULL;
  if (!serving && !opaque->leaving) return; /* one that finished after a reload */
  if (!opaque->leaving) {
    LOG_ERROR("haproxy has ended by itself", LOG_INT("status", status));
    opaque->exit_status = 1;
  }
  for (size_t i = 0; i < RUNNING_MAX; i++)
    if (opaque->leaving && opaque->running[i].process != NULL) return;
  net_loop_stop(opaque->loop);
}

/* Starts one with these settings; the present one finishes what it has. */
static mu_status start_haproxy(struct opaque *opaque, const struct proxy_settings *settings, mu_error *err) {
  struct start start = {.opaque = opaque, .config = -1};
  struct running *place = NULL;
  for (size_t i = 0; i < RUNNING_MAX; i++)
    if (opaque->running[i].process == NULL) place = &opaque->running[i];
  if (place == NULL) return mu_fail(err, MU_UNAVAILABLE, "earlier ones have not finished yet");
  if (opaque->current != NULL)
    snprintf(start.previous, sizeof start.previous, "%d", process_pid(opaque->current->process));
  mu_status status = write_config(opaque, settings, &start.config, err);
  if (status != MU_OK) return status;
  status = check_config(opaque, start.config, err);
  if (status == MU_OK) status = process_start(opaque->loop, run_haproxy, &start, on_ended, place, &place->process, err);
  close(start.config);
  if (status == MU_OK) opaque->current = place;
  return status;
}

/* ---- signals ----------------------------------------------------------------------------------------------------- */

static void reload(struct opaque *opaque) {
  struct proxy_settings settings;
  mu_error err;
  mu_status status = proxy_settings_load(opaque->argc, opaque->argv, &settings, &err);
  if (status == MU_OK) {
    status = start_haproxy(opaque, &settings, &err);
    if (status == MU_OK) LOG_INFO("reloaded", LOG_INT("backends", settings.backends.n));
    proxy_settings_free(&settings);
  }
  if (status != MU_OK) LOG_ERROR("not reloaded: everything stays as it was", LOG_STR("error", err.message));
}

static void kill_all(struct opaque *opaque, int number) {
  for (size_t i = 0; i < RUNNING_MAX; i++)
    if (opaque->running[i].process != NULL) process_kill(opaque->running[i].process, number);
}

static void on_drain_timeout(uv_timer_t *timer) {
  LOG_WARNING("connections are still open after --drain-timeout: they are dropped");
  kill_all(timer->data, SIGTERM);
}

static void on_signal(uv_signal_t *handle, int number) {
  struct opaque *opaque = handle->data;
  if (number == SIGHUP) {
    if (!opaque->leaving) reload(opaque);
    return;
  }
  if (opaque->leaving) {
    kill_all(opaque, SIGTERM);
    return;
  }
  opaque->leaving = true;
  for (size_t i = 0; i < opaque->n_listeners; i++) close(opaque->listeners[i]);
  opaque->n_listeners = 0;
  uv_timer_start(&opaque->timer, on_drain_timeout, (uint64_t)opaque->settings->drain_timeout_ns / NS_PER_MS, 0);
  kill_all(opaque, SIGUSR1); /* finishes what it has */
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static mu_status listen_all(struct opaque *opaque, mu_error *err) {
  static const char *const names[] = {[PROXY_GRPC] = "grpc", [PROXY_HTTP] = "http", [PROXY_WS] = "ws"};
  const struct proxy_settings *s = opaque->settings;
  const int64_t ports[] = {[PROXY_GRPC] = s->grpc_port, [PROXY_HTTP] = s->http_port, [PROXY_WS] = s->ws_port};
  for (size_t i = 0; i < PROXY_PORTS; i++) {
    uint16_t port;
    if (ports[i] == PROXY_PORT_OFF) continue;
    mu_status status =
        listen_tcp(s->address, (uint16_t)ports[i], 1, &opaque->listeners[opaque->n_listeners], &port, err);
    if (status != MU_OK) return status;
    opaque->n_listeners++;
    LOG_INFO("listening", LOG_STR("protocol", names[i]), LOG_INT("port", port));
  }
  return MU_OK;
}

static mu_status start_all(struct opaque *opaque, mu_error *err) {
  static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
  opaque->loop = net_loop_create();
  if (opaque->loop == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for an event loop");
  uv_timer_init(net_loop_uv(opaque->loop), &opaque->timer);
  opaque->timer.data = opaque;
  for (size_t i = 0; i < 3; i++) {
    uv_signal_init(net_loop_uv(opaque->loop), &opaque->signals[i]);
    opaque->signals[i].data = opaque;
    uv_signal_start(&opaque->signals[i], on_signal, numbers[i]);
  }
  mu_status status = listen_all(opaque, err);
  return status == MU_OK ? start_haproxy(opaque, opaque->settings, err) : status;
}

int proxy_run_opaque(const struct proxy_settings *settings, int argc, char **argv) {
  struct opaque opaque = {.settings = settings, .argc = argc, .argv = argv};
  mu_error err;
  for (size_t i = 0; i < RUNNING_MAX; i++) opaque.running[i].opaque = &opaque;
  mu_status status = start_all(&opaque, &err);
  if (status == MU_OK)
    net_loop_run(opaque.loop);
  else
    LOG_ERROR("the proxy cannot start", LOG_STR("error", err.message));
  kill_all(&opaque, SIGTERM);
  for (size_t i = 0; i < RUNNING_MAX; i++) process_free(opaque.running[i].process);
  for (size_t i = 0; i < opaque.n_listeners; i++) close(opaque.listeners[i]);
  net_loop_free(opaque.loop);
  return status == MU_OK ? opaque.exit_status : 1;
}
