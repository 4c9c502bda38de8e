#include "supervisor/service_manager.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

/* Status lines change with every worker: this often is enough. */
static const uint64_t usual_ms = 1000;
/* What takes its time asks for so much more with every look. */
static const uint64_t extension_us = 30 * NS_PER_S / NS_PER_US;

/* ---- the socket -------------------------------------------------------------------------------------------------- */

/* "/path", or "@name" for an abstract socket. */
mu_status service_manager_address(const char *path, struct sockaddr_un *ret_address, size_t *ret_size) {
  size_t length = strlen(path);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if ((path[0] != '/' && path[0] != '@') || length < 2 || length >= sizeof address.sun_path) return MU_INVALID;
  memcpy(address.sun_path, path, length);
  if (path[0] == '@') address.sun_path[0] = '\0';
  *ret_address = address;
  /* the name of an abstract socket has no end but the address's */
  *ret_size = offsetof(struct sockaddr_un, sun_path) + length + (path[0] == '/');
  return MU_OK;
}

static void complain(struct service_manager *manager, const char *why) {
  if (!manager->failed)
    LOG_WARNING("cannot tell the service manager", LOG_STR("socket", manager->path), LOG_STR("error", why));
  manager->failed = true;
}

static bool send_lines(struct service_manager *manager, const char *text, size_t size) {
  struct sockaddr_un address;
  size_t address_size;
  if (service_manager_address(manager->path, &address, &address_size) != MU_OK) return false;
  ssize_t n = sendto(manager->fd, text, size, MSG_NOSIGNAL | MSG_DONTWAIT, (struct sockaddr *)&address,
                     (socklen_t)address_size);
  if (n >= 0) {
    manager->failed = false;
    return true;
  }
  if (errno != EAGAIN && errno != EINTR) complain(manager, strerror(errno));
  return false;
}

/* ---- the watchdog ------------------------------------------------------------------------------------------------ */

/* 0: nobody watches this process. */
static uint64_t watchdog_us(void) {
  const char *text = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
  char *end;
  if (text == NULL || (pid != NULL && strtoll(pid, NULL, 10) != getpid())) return 0;
  uint64_t us = strtoull(text, &end, 10);
  if (*text >= '0' && *text <= '9' && *end == '\0' && us > 0) return us;
  LOG_WARNING("WATCHDOG_USEC is no number of microseconds", LOG_STR("value", text));
  return 0;
}

bool service_manager_open(struct service_manager *manager) {
  struct sockaddr_un address;
  size_t size;
  manager->fd = -1;
  manager->path = getenv("NOTIFY_SOCKET");
  manager->told = (struct service_state){.started = false};
  if (manager->path == NULL || manager->path[0] == '\0') return false;
  if (service_manager_address(manager->path, &address, &size) != MU_OK) {
    complain(manager, "NOTIFY_SOCKET has to be a path or @ and a name");
    return false;
  }
  manager->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (manager->fd < 0) {
    complain(manager, strerror(errno));
    return false;
  }
  uint64_t watchdog_ms = watchdog_us() / 1000;
  manager->watched = watchdog_ms > 0;
  manager->interval_ms = watchdog_ms > 0 && watchdog_ms / 3 < usual_ms ? watchdog_ms / 3 + 1 : usual_ms;
  return true;
}

void service_manager_close(struct service_manager *manager) {
  if (manager->fd >= 0) close(manager->fd);
  manager->fd = -1;
}

/* ---- telling ----------------------------------------------------------------------------------------------------- */

void service_manager_tell(struct service_manager *manager, const struct service_state *state, bool tick) {
  char text[512] = "";
  size_t n = 0;
  const struct service_state *told = &manager->told;
  if (manager->fd < 0) return;
#define SAY(...) n += (size_t)snprintf(text + n, sizeof text - n, __VA_ARGS__)
  if (state->stopping && !told->stopping) SAY("STOPPING=1\n");
  if (state->reloading && !told->reloading)
    SAY("RELOADING=1\nMONOTONIC_USEC=%" PRIu64 "\n", clock_now_ns() / NS_PER_US);
  else if (!state->stopping && !state->reloading && state->started && (!told->started || told->reloading))
    SAY("READY=1\n");
  if (strcmp(state->status, told->status) != 0) SAY("STATUS=%s\n", state->status);
  if (tick && manager->watched) SAY("WATCHDOG=1\n");
  if (tick && (!state->started || state->reloading || state->stopping))
    SAY("EXTEND_TIMEOUT_USEC=%" PRIu64 "\n", extension_us);
#undef SAY
  if (n == 0 || send_lines(manager, text, n)) manager->told = *state;
}

void service_state_describe(struct service_state *state, const char *name, size_t ready, size_t models,
                            size_t workers_ready, size_t workers) {
  char of[32] = "";
  if (workers_ready != workers) snprintf(of, sizeof of, "%zu of ", workers_ready);
  snprintf(state->status, sizeof state->status, "%s: %zu of %zu %s ready, %s%zu %s", name, ready, models,
           models == 1 ? "model" : "models", of, workers, workers == 1 ? "worker" : "workers");
}
