/* The whole: its state folder, its signals, its services together, its end. */
#include "launch/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/control_socket.h"
#include "gpu/mps.h"
#include "launch/state.h"

/* ---- turns ------------------------------------------------------------------------------------------------------- */

/* Has every service been ready once, or is given up? */
static bool is_settled(const struct launch *launch) {
  list_each (link, &launch->services) {
    enum service_state state = list_item(link, struct launched, link)->state;
    if (state != SERVICE_READY && state != SERVICE_FAILED && state != SERVICE_STOPPED) return false;
  }
  return true;
}

static void settle(struct launch *launch) {
  struct buffer text;
  bool all = true;
  launch->settled = true;
  list_each (link, &launch->services) all = all && list_item(link, struct launched, link)->state != SERVICE_FAILED;
  buffer_init(&text, 1 << 20);
  launch_summary(launch, &text);
  const char *summary = text.failed ? NULL : buffer_text(&text);
  launch->report.settled(launch->report.context, all, summary != NULL ? summary : "");
  buffer_free(&text);
}

/* No process runs, and none will. */
static bool is_over(const struct launch *launch) {
  list_each (link, &launch->services) {
    enum service_state state = list_item(link, struct launched, link)->state;
    if (state != SERVICE_FAILED && state != SERVICE_STOPPED) return false;
  }
  return true;
}

static void on_turn(uv_timer_t *timer) {
  struct launch *launch = timer->data;
  mu_error err;
  launch_mps_turn(launch);
  services_schedule(launch);
  operation_step(launch);
  if (!launch->settled && !launch->stopping && is_settled(launch)) settle(launch);
  if (launch_state_write(launch, &err) != MU_OK) LOG_ERROR("state.json", LOG_STR("error", err.message));
  if (launch->operation.kind != OPERATION_NONE || !is_over(launch)) return;
  list_each (link, &launch->services)
    launch->failed =
        launch->failed || (!launch->stopping && list_item(link, struct launched, link)->state == SERVICE_FAILED);
  if (!launch->stopping) LOG_INFO("no service runs any more");
  launch->stopping = true;
  if (!launch_mps_end(launch)) return;
  net_loop_stop(launch->loop);
}

void launch_changed(struct launch *launch) { uv_timer_start(&launch->turn, on_turn, 0, 0); }

/* ---- stop -------------------------------------------------------------------------------------------------------- */

void launch_stop(struct launch *launch, const char *why) {
  if (!launch->stopping) {
    LOG_INFO("stopping", LOG_STR("why", why));
    launch->stop_asked_ns = clock_now_ns();
  }
  launch->stopping = true;
  list_each (link, &launch->services) {
    struct launched *service = list_item(link, struct launched, link);
    bool ended = service->state == SERVICE_FAILED || service->state == SERVICE_STOPPED;
    if (!ended) service_stop_with_others(service, STOP_STAY);
  }
  members_signal_due(launch, SIGTERM);
  launch_changed(launch);
}

/* Ctrl-C in a terminal and the script around us that passes it on mean one stop though they send it twice: a second one
 * counts only after a moment. */
static void stop_at_once(struct launch *launch) {
  static const uint64_t same_wish_ns = 500 * NS_PER_MS;
  if (clock_now_ns() - launch->stop_asked_ns < same_wish_ns) return;
  LOG_WARNING("asked to stop once more: what still runs is killed");
  list_each (link, &launch->services) service_kill(list_item(link, struct launched, link));
}

static void on_signal(uv_signal_t *handle, int number) {
  struct launch *launch = handle->data;
  if (number == SIGCHLD)
    members_look_soon(launch);
  else if (launch->stop_asked_ns != 0)
    stop_at_once(launch);
  else
    launch_stop(launch, sigdescr_np(number));
}

static mu_status watch_signals(struct launch *launch, mu_error *err) {
  static const int numbers[LAUNCH_SIGNALS] = {SIGTERM, SIGINT, SIGHUP, SIGCHLD};
  signal(SIGPIPE, SIG_IGN);
  for (size_t i = 0; i < LAUNCH_SIGNALS; i++) {
    uv_signal_init(net_loop_uv(launch->loop), &launch->signals[i]);
    launch->signals[i].data = launch;
    int status = uv_signal_start(&launch->signals[i], on_signal, numbers[i]);
    if (status != 0) return mu_fail(err, MU_IO, "cannot watch signal %d: %s", numbers[i], uv_strerror(status));
  }
  return MU_OK;
}

/* ---- folders ----------------------------------------------------------------------------------------------------- */

/* With the folders above it, which get the usual mode. */
static mu_status make_folder(const char *path, mu_error *err) {
  char part[LAUNCH_PATH_MAX];
  int n = snprintf(part, sizeof part, "%s", path);
  if (n < 1 || (size_t)n >= sizeof part) return mu_fail(err, MU_INVALID, "'%.200s' is no folder", path);
  for (char *slash = strchr(part + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    if (mkdir(part, 0777) != 0 && errno != EEXIST)
      return mu_fail(err, MU_IO, "cannot make the folder %.300s: %s", part, strerror(errno));
    *slash = '/';
  }
  if (mkdir(part, 0700) != 0 && errno != EEXIST)
    return mu_fail(err, MU_IO, "cannot make the folder %.300s: %s", part, strerror(errno));
  return MU_OK;
}

/* Whoever can write there could answer in the launch's name. */
static mu_status check_folder(const char *path, mu_error *err) {
  struct stat found;
  if (stat(path, &found) != 0) return mu_fail(err, MU_IO, "%.300s: %s", path, strerror(errno));
  if (!S_ISDIR(found.st_mode) || found.st_uid != geteuid() || (found.st_mode & 022) != 0)
    return mu_fail(err, MU_INVALID, "%.300s has to be a folder of yours that nobody else can write to", path);
  return MU_OK;
}

static mu_status take_folder(struct launch *launch, const char *state_folder, mu_error *err) {
  const struct launch_settings *settings = launch->plan->settings;
  mu_status status = settings->state_dir[0] == '\0' ? control_folder_create(err) : MU_OK;
  if (status == MU_OK) status = make_folder(state_folder, err);
  if (status == MU_OK) status = check_folder(state_folder, err);
  if (status != MU_OK) return status;
  if (realpath(state_folder, launch->state_folder) == NULL)
    return mu_fail(err, MU_IO, "%.300s: %s", state_folder, strerror(errno));
  snprintf(launch->id, sizeof launch->id, "%d-%" PRIu64 ":%s", (int)getpid(), clock_now_ns(), launch->state_folder);
  return control_open(launch, err);
}

static mu_status make_log_folder(struct launch *launch, mu_error *err) {
  char path[LAUNCH_PATH_MAX];
  const char *given = launch->plan->settings->log_dir;
  int n = given[0] != '\0' ? snprintf(path, sizeof path, "%s", given)
                           : snprintf(path, sizeof path, "%s/logs", launch->state_folder);
  if (n < 0 || (size_t)n >= sizeof path) return mu_fail(err, MU_INVALID, "the log folder's path is too long");
  mu_status status = make_folder(path, err);
  if (status == MU_OK && realpath(path, launch->log_folder) == NULL)
    status = mu_fail(err, MU_IO, "%.300s: %s", path, strerror(errno));
  return status;
}

int launch_open_output(const struct launch *launch) {
  char path[LAUNCH_PATH_MAX + 32];
  if (!launch->plan->settings->detach) return 0;
  snprintf(path, sizeof path, "%s/launch.log", launch->state_folder);
  return open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
}

/* ---- the beginning ----------------------------------------------------------------------------------------------- */

static mu_status check_ports(const struct launch *launch, mu_error *err) {
  mu_status status = MU_OK;
  list_each (link, &launch->services) {
    const struct launched *service = list_item(link, struct launched, link);
    if (status == MU_OK && service->plan.port != 0) status = port_check_free(service->plan.port, err);
  }
  return status;
}

static mu_status add_services(struct launch *launch, mu_error *err) {
  mu_status status = MU_OK;
  for (size_t i = 0; i < launch->plan->n_groups; i++)
    for (uint32_t k = 0; status == MU_OK && k < launch->plan->groups[i].count; k++)
      status = service_add(launch, &launch->plan->groups[i], k, err);
  return status;
}

/* A pidfd for each service and a connection for each question; the limit that counts is the administrator's. */
static void raise_descriptor_limit(struct launch *launch) {
  if (getrlimit(RLIMIT_NOFILE, &launch->descriptors) != 0) {
    launch->descriptors = (struct rlimit){RLIM_INFINITY, RLIM_INFINITY};
    return;
  }
  struct rlimit most = launch->descriptors;
  most.rlim_cur = most.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &most) != 0) LOG_WARNING("the limit of open files cannot be raised");
}

static mu_status prepare(struct launch *launch, const char *state_folder, mu_error *err) {
  char of_folder[LAUNCH_PATH_MAX + 1];
  mu_status status = take_folder(launch, state_folder, err);
  if (status != MU_OK) return status;
  snprintf(of_folder, sizeof of_folder, ":%s", launch->state_folder);
  leftovers_end(of_folder, 10 * NS_PER_S);
  status = make_log_folder(launch, err);
  if (status == MU_OK) status = add_services(launch, err);
  if (status == MU_OK) status = check_ports(launch, err);
  if (status == MU_OK && prctl(PR_SET_CHILD_SUBREAPER, 1) != 0)
    status = mu_fail(err, MU_IO, "cannot become a child subreaper: %s", strerror(errno));
  if (status == MU_OK) status = guard_start(launch, err);
  if (status == MU_OK) status = watch_signals(launch, err);
  if (status == MU_OK) status = gpu_watch_create(launch, &launch->gpus, err);
  if (status == MU_OK) status = probe_pool_create(launch->loop, &launch->probes, err);
  if (status == MU_OK) status = control_serve(launch, err);
  return status;
}

mu_status launch_create(struct plan *plan, const char *state_folder, const struct launch_report *report,
                        struct launch **ret_launch, mu_error *err) {
  struct launch *launch = calloc(1, sizeof *launch);
  if (launch == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the launch");
  *launch = (struct launch){.plan = plan, .report = *report, .control_fd = -1};
  list_init(&launch->services);
  list_init(&launch->mps);
  launch->loop = net_loop_create();
  if (launch->loop == NULL) {
    free(launch);
    return mu_fail(err, MU_NO_MEMORY, "no memory for the launch");
  }
  oom_watch_open(&launch->oom);
  raise_descriptor_limit(launch);
  uv_timer_init(net_loop_uv(launch->loop), &launch->look);
  uv_timer_init(net_loop_uv(launch->loop), &launch->turn);
  launch->look.data = launch->turn.data = launch;
  mu_status status = prepare(launch, state_folder, err);
  if (status == MU_OK)
    *ret_launch = launch;
  else
    launch_free(launch);
  return status;
}

/* All that is left to do takes no time: one more Ctrl-C would only spoil the exit status. */
static void block_stop_signals(void) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  sigprocmask(SIG_BLOCK, &signals, NULL);
}

bool launch_run(struct launch *launch) {
  for (size_t i = 0; i < launch->plan->warnings.n; i++) LOG_WARNING(launch->plan->warnings.items[i]);
  if (mps_inherited() != NULL)
    LOG_INFO("MPS: the daemon of the environment is used as it is, and nothing is verified",
             LOG_STR("CUDA_MPS_PIPE_DIRECTORY", mps_inherited()));
  launch_changed(launch);
  net_loop_run(launch->loop);
  block_stop_signals();
  members_end_strays(launch);
  return !launch->failed;
}

void launch_free(struct launch *launch) {
  if (launch == NULL) return;
  if (launch->control_bound) { /* the folder is ours: what it says runs does not any more */
    char path[LAUNCH_PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/" LAUNCH_STATE_NAME, launch->state_folder);
    unlink(path);
  }
  control_close(launch);
  while (!list_empty(&launch->services)) service_free(list_item(launch->services.next, struct launched, link));
  probe_pool_free(launch->probes);
  gpu_watch_stop(launch->gpus);
  if (launch->guard != NULL) process_kill(launch->guard, SIGKILL);
  process_free(launch->guard);
  net_loop_free(launch->loop);
  launch_mps_free(launch);
  gpu_watch_free(launch->gpus);
  oom_watch_close(&launch->oom);
  free(launch);
}
