#include "fleet/fleet.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "config/options.h"
#include "control/message.h"
#include "gpu/inventory_json.h"
#include "gpu/nvml.h"

/* What a thread is doing in NVML, for the thread that watches. */
struct call {
  _Atomic uint64_t due_ns;  /* from here on it takes long: its begin, or when its own wait should have ended; 0: none */
  _Atomic int32_t function; /* nvml_watch_calls */
};

static struct fleet {
  int control;
  struct options *options;
  struct nvml *nvml;
  struct gpu_inventory inventory;
  _Atomic bool opened;
  struct call reading, waiting;
} fleet;

/* Threads may be stuck in NVML: nothing is tidied up, everything goes with the process. */
static _Noreturn void leave(int status) { _exit(status); }

static void pause_ns(uint64_t ns) {
  struct timespec left = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
  while (nanosleep(&left, &left) != 0 && errno == EINTR) continue;
}

/* ---- to the supervisor: packets are whole, whichever thread sends them ------------------------------------------- */

static void tell(enum control_type type, const void *message) {
  mu_error err = {{0}};
  mu_status status = control_send(fleet.control, type, message, NULL, 0, &err);
  if (status == MU_OK) return;
  if (status != MU_CANCELED)
    LOG_ERROR("cannot tell the supervisor", LOG_STR("message", control_type_name(type)), LOG_STR("error", err.message));
  leave(EXIT_FAILURE);
}

/* status: of NVML; not MU_OK: there is none, and nothing follows. */
static void tell_inventory(mu_status status) {
  json_t *json = gpu_inventory_to_json(&fleet.inventory);
  char *text = json != NULL ? json_dumps(json, JSON_COMPACT) : NULL;
  json_decref(json);
  if (text == NULL) {
    LOG_ERROR("no memory for what the GPUs are");
    leave(EXIT_FAILURE);
  }
  const struct control_fleet_inventory message = {status, {text, strlen(text)}};
  tell(CONTROL_FLEET_INVENTORY, &message);
  free(text);
}

static void tell_absence(mu_status status, const char *why) {
  memset(&fleet.inventory, 0, sizeof fleet.inventory);
  fleet.inventory.cuda = GPU_UNKNOWN;
  snprintf(fleet.inventory.error, sizeof fleet.inventory.error, "%.*s", (int)sizeof fleet.inventory.error - 1, why);
  tell_inventory(status);
}

/* ---- the thread that waits for events ---------------------------------------------------------------------------- */

static void *wait_for_events(void *nothing) {
  static const uint64_t wait_ns = NS_PER_S;
  bool told = false;
  nvml_watch_calls(&fleet.waiting.function);
  for (;;) {
    struct nvml_event event;
    mu_error err = {{0}};
    fleet.waiting.due_ns = clock_now_ns() + wait_ns;
    mu_status status = nvml_wait_event(fleet.nvml, wait_ns, &event, &err);
    fleet.waiting.due_ns = 0;
    if (status == MU_OK || status == MU_TIMEOUT) told = false;
    if (status == MU_OK) {
      const struct control_fleet_event message = {event.uuid, event.xid};
      tell(CONTROL_FLEET_EVENT, &message);
    } else if (status == MU_UNSUPPORTED) {
      LOG_INFO("no GPU here reports its faults", LOG_STR("because", err.message));
      return NULL;
    } else if (status != MU_TIMEOUT) {
      if (!told) LOG_WARNING("faults of GPUs are not heard of for now", LOG_STR("error", err.message));
      told = true;
      pause_ns(wait_ns); /* it would say the same again at once */
    }
  }
}

static void start_waiting(void) {
  pthread_t thread;
  int error = pthread_create(&thread, NULL, wait_for_events, NULL);
  if (error == 0) {
    pthread_detach(thread);
    return;
  }
  LOG_ERROR("cannot start the thread that waits for faults", LOG_STR("error", strerror(error)));
  leave(EXIT_FAILURE);
}

/* ---- the thread that reads --------------------------------------------------------------------------------------- */

static mu_status open_and_read(mu_error *err) {
  mu_status status = nvml_open(fleet.options->nvml_library, &fleet.nvml, err);
  return status == MU_OK ? nvml_read_inventory(fleet.nvml, &fleet.inventory, err) : status;
}

static void *read_all(void *nothing) {
  uint64_t interval = (uint64_t)fleet.options->metrics_interval_ms * NS_PER_MS;
  mu_error err = {{0}};
  nvml_watch_calls(&fleet.reading.function);
  fleet.reading.due_ns = clock_now_ns();
  mu_status status = open_and_read(&err);
  fleet.reading.due_ns = 0;
  fleet.opened = true;
  if (status != MU_OK) {
    tell_absence(status, err.message);
    leave(EXIT_SUCCESS);
  }
  if (fleet.inventory.left_out > 0)
    LOG_WARNING("more GPUs and MIG devices than can be used", LOG_INT("used", GPUS_MAX),
                LOG_INT("left_out", fleet.inventory.left_out));
  tell_inventory(MU_OK);
  if (fleet.inventory.n_gpus > 0) start_waiting();
  for (;;) {
    pause_ns(interval);
    fleet.reading.due_ns = clock_now_ns();
    status = nvml_read_readings(fleet.nvml, &fleet.inventory, &err);
    fleet.reading.due_ns = 0;
    if (status != MU_OK) break;
    tell_inventory(MU_OK);
  }
  /* The driver has gone, or another one has come: a process that opens it anew sees how things are. */
  tell_absence(status, err.message);
  leave(EXIT_FAILURE);
}

/* ---- the thread that watches ------------------------------------------------------------------------------------- */

static uint64_t overdue(const struct call *call, uint64_t now) {
  uint64_t due = call->due_ns;
  return due != 0 && now > due ? now - due : 0;
}

static void tell_alive(void) {
  uint64_t now = clock_now_ns(), reading = overdue(&fleet.reading, now), waiting = overdue(&fleet.waiting, now);
  const struct call *longest = reading >= waiting ? &fleet.reading : &fleet.waiting;
  const struct control_fleet_alive message = {.call_ns = reading >= waiting ? reading : waiting,
                                              .call = nvml_call_name(longest->function),
                                              .opening = !fleet.opened};
  tell(CONTROL_FLEET_ALIVE, &message);
}

static void obey(void) {
  struct control_packet packet = {.n_fds = 0};
  mu_error err = {{0}};
  mu_status status = control_receive(fleet.control, &packet, &err);
  if (status != MU_OK) leave(status == MU_CANCELED ? EXIT_SUCCESS : EXIT_FAILURE);
  if (packet.type == CONTROL_LOG_SETTINGS) {
    const struct log_settings settings = control_log_settings_take(&packet.log_settings);
    log_apply(&settings);
  } else if (packet.type == CONTROL_STOP) {
    leave(EXIT_SUCCESS);
  } else {
    LOG_ERROR("the supervisor sent a message that is not for the fleet",
              LOG_STR("message", control_type_name(packet.type)));
    leave(EXIT_FAILURE);
  }
  control_packet_free(&packet);
}

/* Often enough to see a call in a quarter of the time that it may take. */
static int heartbeat_ms(void) {
  uint64_t ms = (uint64_t)fleet.options->nvml_timeout_ns / 4 / NS_PER_MS;
  return ms < 10 ? 10 : ms > 1000 ? 1000 : (int)ms;
}

static mu_status receive_start(mu_error *err) {
  struct control_packet packet = {.n_fds = 0};
  mu_status status = control_receive(fleet.control, &packet, err);
  if (status != MU_OK) return status;
  if (packet.type != CONTROL_FLEET_START)
    status = mu_fail(err, MU_INVALID, "the first message is not the start");
  else if (options_decode(packet.fleet_start.options.data, packet.fleet_start.options.size, &fleet.options) != MU_OK)
    status = mu_fail(err, MU_INVALID, "the options from the supervisor cannot be read");
  control_packet_free(&packet);
  return status;
}

int fleet_main(int control) {
  static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
  for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++) signal(ignored[i], SIG_IGN);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_NAME, "muster-fleet");
  fleet.control = control;
  fleet.reading.function = fleet.waiting.function = -1;
  mu_error err = {{0}};
  pthread_t thread;
  mu_status status = receive_start(&err);
  if (status == MU_OK && pthread_create(&thread, NULL, read_all, NULL) != 0)
    status = mu_fail(&err, MU_IO, "cannot start a thread");
  if (status != MU_OK) {
    if (status != MU_CANCELED) LOG_ERROR("the fleet cannot start", LOG_STR("error", err.message));
    return EXIT_FAILURE;
  }
  for (int period = heartbeat_ms();;) {
    struct pollfd fd = {.fd = control, .events = POLLIN};
    int n = poll(&fd, 1, period);
    if (n > 0) obey();
    if (n == 0) tell_alive();
  }
}
