#include "proxy/settings.h"

#include "base/clock.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- values ------------------------------------------------------------------------------------------------------ */

typedef mu_status read_value(struct proxy_settings *s, void *field, const char *text, mu_error *err);

static bool read_number(const char *text, int64_t most, int64_t *ret_number) {
  char *end;
  errno = 0;
  long long number = strtoll(text, &end, 10);
  if (errno != 0 || end == text || *end != '\0' || number < 0 || number > most) return false;
  *ret_number = number;
  return true;
}

static mu_status read_text(struct proxy_settings *s, void *field, const char *text, mu_error *err) {
  if (text[0] == '\0') return mu_fail(err, MU_INVALID, "needs a value");
  *(const char **)field = text;
  return MU_OK;
}

static mu_status read_backends(struct proxy_settings *s, void *field, const char *text, mu_error *err) {
  return backend_list_parse(field, text, err);
}

static mu_status read_port(struct proxy_settings *s, void *field, const char *text, mu_error *err) {
  if (strcmp(text, "off") == 0)
    *(int64_t *)field = PROXY_PORT_OFF;
  else if (!read_number(text, 65535, field))
    return mu_fail(err, MU_INVALID, "'%.40s' is not a port (0 to 65535, or off)", text);
  return MU_OK;
}

static mu_status read_count(struct proxy_settings *s, void *field, const char *text, mu_error *err) {
  if (read_number(text, INT_MAX, field)) return MU_OK;
  return mu_fail(err, MU_INVALID, "'%.40s' is not a number", text);
}

static mu_status read_bytes(struct proxy_settings *s, void *field, const char *text, mu_error *err) {
  if (read_number(text, INT64_C(1) << 40, field)) return MU_OK;
  return mu_fail(err, MU_INVALID, "'%.40s' is not a number of bytes", text);
}

static mu_status read_duration(struct proxy_settings *s, void *field, const char *text, mu_error *err) {
  char *unit;
  errno = 0;
  double value = strtod(text, &unit);
  double scale = strcmp(unit, "ms") == 0 ? 1e-3 : *unit == '\0' || strcmp(unit, "s") == 0 ? 1 : -1;
  if (errno != 0 || unit == text || scale < 0 || !(value * scale >= 0 && value * scale <= 86400))
    return mu_fail(err, MU_INVALID, "'%.40s' is not a time (5, 5s, 500ms)", text);
  *(int64_t *)field = (int64_t)(value * scale * 1e9);
  return MU_OK;
}

static mu_status read_switch(struct proxy_settings *s, void *field, const char *text, mu_error *err) {
  static const char *const on[] = {"true", "on", "1"}, *const off[] = {"false", "off", "0"};
  for (size_t i = 0; i < sizeof on / sizeof *on; i++) {
    if (strcmp(on[i], text) != 0 && strcmp(off[i], text) != 0) continue;
    *(bool *)field = strcmp(on[i], text) == 0;
    return MU_OK;
  }
  return mu_fail(err, MU_INVALID, "'%.40s' is neither on nor off", text);
}

static mu_status read_retry(struct proxy_settings *s, void *field, const char *text, mu_error *err) {
  static const char *const names[] = {
      [PROXY_RETRY_NEVER] = "never", [PROXY_RETRY_CONNECT] = "connect", [PROXY_RETRY_IDEMPOTENT] = "idempotent"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    if (strcmp(names[i], text) != 0) continue;
    *(enum proxy_retry *)field = (enum proxy_retry)i;
    return MU_OK;
  }
  return mu_fail(err, MU_INVALID, "'%.40s' is none of never, connect, idempotent", text);
}

static mu_status read_check(struct proxy_settings *s, void *field, const char *text, mu_error *err) {
  static const struct {
    const char *name;
    enum proxy_check check;
  } names[] = {{"auto", PROXY_CHECK_AUTO}, {"grpc", PROXY_CHECK_GRPC}, {"tcp", PROXY_CHECK_TCP}};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    if (strcmp(names[i].name, text) != 0) continue;
    s->check = names[i].check;
    return MU_OK;
  }
  if (strncmp(text, "http:/", 6) != 0 || strpbrk(text, " ?#") != NULL)
    return mu_fail(err, MU_INVALID, "'%.40s' is none of auto, grpc, tcp, http:/PATH", text);
  s->check = PROXY_CHECK_HTTP;
  s->check_path = text + strlen("http:");
  return MU_OK;
}

static mu_status read_method(struct proxy_settings *s, void *field, const char *text, mu_error *err) {
  const char *slash = text[0] == '/' ? strchr(text + 1, '/') : NULL;
  if (slash == NULL || slash == text + 1 || slash[1] == '\0' || strpbrk(text, " ?#") != NULL)
    return mu_fail(err, MU_INVALID, "'%.80s' is not a method (/package.Service/Method)", text);
  return read_text(s, field, text, err);
}

static mu_status read_origin(struct proxy_settings *s, void *field, const char *text, mu_error *err) {
  if (s->n_ws_origins == PROXY_ORIGINS_MAX)
    return mu_fail(err, MU_INVALID, "may be given %d times at most", PROXY_ORIGINS_MAX);
  return read_text(s, &s->ws_origins[s->n_ws_origins++], text, err);
}

/* ---- the flags --------------------------------------------------------------------------------------------------- */

#define FIELD(name) offsetof(struct proxy_settings, name)

static const struct {
  const char *name, *value, *help;
  size_t field;
  read_value *read; /* NULL: a switch */
} flags[] = {
    {"--backends", "LIST", "host:port or host:first-last, by commas; repeatable", FIELD(backends), read_backends},
    {"--grpc-addrs", "LIST", "the same as --backends", FIELD(backends), read_backends},
    {"--http-backends", "LIST", "for HTTP/1.1, where other ports serve it; default: --backends", FIELD(http_backends),
     read_backends},
    {"--start-port", "PORT", "with --num-servers: backends 127.0.0.1:PORT and the following", FIELD(start_port),
     read_text},
    {"--num-servers", "N", "how many of them", FIELD(num_servers), read_text},
    {"--address", "HOST", "where to listen (127.0.0.1)", FIELD(address), read_text},
    {"--grpc-port", "PORT", "gRPC (8001); off: none; 0: any that is free. Every port speaks everything",
     FIELD(grpc_port), read_port},
    {"--http-port", "PORT", "HTTP (8000)", FIELD(http_port), read_port},
    {"--ws-port", "PORT", "WebSocket (8086)", FIELD(ws_port), read_port},
    {"--health", "HOW", "auto (gRPC health, or that none is there), grpc, tcp, http:/PATH", FIELD(check), read_check},
    {"--health-interval", "TIME", "between checks of a healthy backend (2 s)", FIELD(check_interval_ns), read_duration},
    {"--health-timeout", "TIME", "of one check (2 s)", FIELD(check_timeout_ns), read_duration},
    {"--retry", "WHAT", "never, connect (what no backend has seen), idempotent (default: what has no answer yet, too)",
     FIELD(retry), read_retry},
    {"--retries", "N", "further attempts of one request (5)", FIELD(retries), read_count},
    {"--retry-buffer", "BYTES", "of requests kept for another attempt, all together (268435456)", FIELD(retry_buffer),
     read_bytes},
    {"--wait-timeout", "TIME", "how long a request waits while no backend is healthy (5 s)", FIELD(wait_timeout_ns),
     read_duration},
    {"--connect-timeout", "TIME", "for a connection to a backend (1 s)", FIELD(connect_timeout_ns), read_duration},
    {"--ws-method", "METHOD", "/package.Service/Method for sockets that name none", FIELD(ws_method), read_method},
    {"--ws-in-flight", "N", "messages of a socket without an answer (16)", FIELD(ws_in_flight), read_count},
    {"--ws-buffer", "BYTES", "of large messages and answers under way on sockets, all together (536870912)",
     FIELD(ws_buffer), read_bytes},
    {"--ws-deadline", "TIME", "of one message's call (30 s)", FIELD(ws_deadline_ns), read_duration},
    {"--ws-origin", "ORIGIN", "whose pages may open sockets, beside the proxy's own; *: all; repeatable", 0,
     read_origin},
    {"--max-connections", "N", "of clients at once, on each port (10000)", FIELD(max_connections), read_count},
    {"--drain-timeout", "TIME", "for requests in flight at SIGTERM (30 s)", FIELD(drain_timeout_ns), read_duration},
    {"--backends-file", "FILE", "more of them, one item a line; with --opaque read again at SIGHUP",
     FIELD(backends_file), read_text},
    {"--sandbox", "BOOL", "only the system calls that it needs, as with muster serve (on); not with --opaque",
     FIELD(sandbox), read_switch},
    {"--opaque", NULL, "pass bytes on by HAProxy instead: TCP, without looking at them (docs/proxy.md)", FIELD(opaque),
     NULL},
    {"--haproxy", "PROGRAM", "for --opaque (haproxy)", FIELD(haproxy), read_text},
};
enum { N_FLAGS = sizeof flags / sizeof *flags };

void proxy_settings_print_help(struct buffer *out) {
  buffer_puts(out, "Options:\n");
  for (size_t i = 0; i < N_FLAGS; i++) {
    char flag[48];
    snprintf(flag, sizeof flag, "%s %s", flags[i].name, flags[i].value != NULL ? flags[i].value : "");
    buffer_print(out, "  %-26s %s\n", flag, flags[i].help);
  }
}

/* "--flag value" and "--flag=value". */
static mu_status take_flag(struct proxy_settings *s, int argc, char **argv, int *at, mu_error *err) {
  const char *argument = argv[*at], *equals = strchr(argument, '=');
  size_t size = equals != NULL ? (size_t)(equals - argument) : strlen(argument);
  for (size_t i = 0; i < N_FLAGS; i++) {
    if (strlen(flags[i].name) != size || memcmp(flags[i].name, argument, size) != 0) continue;
    void *field = (char *)s + flags[i].field;
    if (flags[i].read == NULL) {
      if (equals != NULL) return mu_fail(err, MU_INVALID, "%s takes no value", flags[i].name);
      *(bool *)field = true;
      return MU_OK;
    }
    if (equals == NULL && ++*at >= argc) return mu_fail(err, MU_INVALID, "%s needs a value", flags[i].name);
    mu_error why;
    mu_status status = flags[i].read(s, field, equals != NULL ? equals + 1 : argv[*at], &why);
    if (status == MU_OK) return MU_OK;
    return mu_fail(err, status, "%s: %.400s", flags[i].name, why.message);
  }
  return mu_fail(err, MU_INVALID, "unknown option '%.60s': see muster proxy --help", argument);
}

/* --start-port 50051 --num-servers 48 */
static mu_status add_range(struct proxy_settings *s, mu_error *err) {
  int64_t first, n;
  char text[64];
  if (s->start_port == NULL && s->num_servers == NULL) return MU_OK;
  if (s->start_port == NULL || s->num_servers == NULL)
    return mu_fail(err, MU_INVALID, "--start-port and --num-servers belong together");
  if (!read_number(s->start_port, 65535, &first) || first == 0)
    return mu_fail(err, MU_INVALID, "--start-port: '%.40s' is not a port from 1 to 65535", s->start_port);
  if (!read_number(s->num_servers, 65536 - first, &n) || n == 0)
    return mu_fail(err, MU_INVALID, "--num-servers: '%.40s' is not a number from 1 to %lld", s->num_servers,
                   65536 - (long long)first);
  snprintf(text, sizeof text, "127.0.0.1:%lld-%lld", (long long)first, (long long)(first + n - 1));
  return backend_list_parse(&s->backends, text, err);
}

/* One item a line; what stands behind a # is for people. */
static mu_status add_file(struct proxy_settings *s, mu_error *err) {
  char line[1024];
  mu_error why;
  mu_status status = MU_OK;
  if (s->backends_file == NULL) return MU_OK;
  FILE *file = fopen(s->backends_file, "re");
  if (file == NULL) return mu_fail(err, MU_NOT_FOUND, "--backends-file %s: %s", s->backends_file, strerror(errno));
  for (int number = 1; status == MU_OK && fgets(line, sizeof line, file) != NULL; number++) {
    line[strcspn(line, "#\r\n")] = '\0';
    char *item = line + strspn(line, " \t");
    for (size_t size = strlen(item); size > 0 && strchr(" \t", item[size - 1]) != NULL; size--) item[size - 1] = '\0';
    if (item[0] == '\0') continue;
    status = backend_list_parse(&s->backends, item, &why);
    if (status != MU_OK) mu_fail(err, status, "%s, line %d: %.300s", s->backends_file, number, why.message);
  }
  if (status == MU_OK && ferror(file))
    status = mu_fail(err, MU_IO, "--backends-file %s: %s", s->backends_file, strerror(errno));
  fclose(file);
  return status;
}

static mu_status check_all(struct proxy_settings *s, mu_error *err) {
  mu_status status = add_range(s, err);
  if (status == MU_OK) status = add_file(s, err);
  if (status != MU_OK) return status;
  if (s->backends.n == 0 && s->http_backends.n == 0)
    return mu_fail(err, MU_INVALID, "no backends: --backends host:port,… or --start-port and --num-servers");
  if (s->opaque && s->http_backends.n > 0) return mu_fail(err, MU_INVALID, "--opaque knows only --backends");
  if (s->opaque && s->check == PROXY_CHECK_GRPC)
    return mu_fail(err, MU_INVALID, "--opaque cannot ask gRPC's health: --health tcp or http:/PATH");
  if (s->ws_in_flight < 1) return mu_fail(err, MU_INVALID, "--ws-in-flight: at least 1");
  if (s->max_connections < 1) return mu_fail(err, MU_INVALID, "--max-connections: at least 1");
  if (s->check_interval_ns < NS_PER_MS || s->check_timeout_ns < NS_PER_MS || s->connect_timeout_ns < NS_PER_MS)
    return mu_fail(err, MU_INVALID, "--health-interval, --health-timeout and --connect-timeout: at least 1 ms");
  if (s->grpc_port == PROXY_PORT_OFF && s->http_port == PROXY_PORT_OFF && s->ws_port == PROXY_PORT_OFF)
    return mu_fail(err, MU_INVALID, "all ports are off");
  status = backend_list_resolve(&s->backends, err);
  return status == MU_OK ? backend_list_resolve(&s->http_backends, err) : status;
}

mu_status proxy_settings_load(int argc, char **argv, struct proxy_settings *ret_settings, mu_error *err) {
  struct proxy_settings s = {.address = "127.0.0.1",
                             .grpc_port = 8001,
                             .http_port = 8000,
                             .ws_port = 8086,
                             .retry = PROXY_RETRY_IDEMPOTENT,
                             .retries = 5,
                             .wait_timeout_ns = 5 * NS_PER_S,
                             .connect_timeout_ns = NS_PER_S,
                             .check_timeout_ns = 2 * NS_PER_S,
                             .check_interval_ns = 2 * NS_PER_S,
                             .ws_deadline_ns = 30 * NS_PER_S,
                             .drain_timeout_ns = 30 * NS_PER_S,
                             .ws_in_flight = 16,
                             .ws_buffer = 512 << 20,
                             .max_connections = 10000,
                             .retry_buffer = 256 << 20,
                             .sandbox = true,
                             .haproxy = "haproxy"};
  mu_status status = MU_OK;
  for (int i = 0; status == MU_OK && i < argc; i++) status = take_flag(&s, argc, argv, &i, err);
  if (status == MU_OK) status = check_all(&s, err);
  if (status == MU_OK)
    *ret_settings = s;
  else
    proxy_settings_free(&s);
  return status;
}

void proxy_settings_free(struct proxy_settings *settings) {
  backend_list_free(&settings->backends);
  backend_list_free(&settings->http_backends);
}
