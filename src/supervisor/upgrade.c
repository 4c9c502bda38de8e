/*
 * Another version of muster takes this server over without dropping a request:
 *
 *   CHECKING   the new binary proves itself, as a child, with the server's options and state
 *   EXECUTING  the state goes into a memfd, and the supervisor becomes the new binary by execve: same process, same
 *              children, same descriptors
 *   GATEWAY    a gateway of the new binary takes over from the one that is there
 *   WORKERS    so do workers
 *
 * Up to the execve everything can be taken back. After it the new supervisor serves with what it has, whatever fails.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "supervisor/inherit.h"
#include "supervisor/query.h"
#include "supervisor/supervisor.h"
#include "supervisor/upgrade_check.h"

static const char state_variable[] = "MUSTER_ROLE_STATE";

/* Control messages that a child has not taken are waited for so long. */
static const uint64_t quiet_ns = 5 * NS_PER_S;
static const uint64_t retry_ms = 20;

/* ---- how it stands ----------------------------------------------------------------------------------------------- */

bool upgrade_is_going(const struct supervisor *s) {
  return s->upgrade.state >= UPGRADE_CHECKING && s->upgrade.state <= UPGRADE_WORKERS;
}

static double seconds(const struct upgrade *upgrade) {
  uint64_t end = upgrade->ended_ns > 0 ? upgrade->ended_ns : clock_now_ns();
  return upgrade->started_ns > 0 ? (double)(end - upgrade->started_ns) / (double)NS_PER_S : 0;
}

/* Workers that the new binary has started, of models that are served. */
static uint32_t count_new_workers(const struct supervisor *s) {
  uint32_t n = 0;
  list_each (link, &s->workers) {
    const struct worker *worker = list_item(link, struct worker, all);
    n += worker->model->role == SERVED && child_runs(&worker->child) && worker->number >= s->upgrade.first_worker;
  }
  return n;
}

json_t *upgrade_json(const struct supervisor *s) {
  static const char *const names[] = {
      [UPGRADE_NONE] = "none",       [UPGRADE_CHECKING] = "checking", [UPGRADE_EXECUTING] = "executing",
      [UPGRADE_GATEWAY] = "gateway", [UPGRADE_WORKERS] = "workers",   [UPGRADE_DONE] = "done",
      [UPGRADE_REFUSED] = "refused", [UPGRADE_FAILED] = "failed",
  };
  const struct upgrade *upgrade = &s->upgrade;
  return json_pack("{s:s, s:I, s:s, s:s, s:s, s:s, s:I, s:f}", "state", names[upgrade->state], "number",
                   (json_int_t)upgrade->number, "from", upgrade->from, "to", upgrade->to, "binary", upgrade->binary,
                   "error", upgrade->error, "workers",
                   (json_int_t)(upgrade->first_worker > 0 ? count_new_workers(s) : 0), "seconds", seconds(upgrade));
}

static void end(struct supervisor *s, enum upgrade_state state, const char *error) {
  struct upgrade *upgrade = &s->upgrade;
  upgrade->state = state;
  upgrade->ended_ns = clock_now_ns();
  snprintf(upgrade->error, sizeof upgrade->error, "%s", error);
  uv_timer_stop(&upgrade->timer);
  reload_resume(s);
  supervisor_tell(s);
}

/* Nothing has changed. */
static void refuse(struct supervisor *s, const char *error) {
  end(s, UPGRADE_REFUSED, error);
  LOG_ERROR("upgrade refused, everything is as it was", LOG_STR("binary", s->upgrade.binary), LOG_STR("error", error));
}

static void fail(struct supervisor *s, const char *error) {
  end(s, UPGRADE_FAILED, error);
  LOG_ERROR("upgrade failed in part", LOG_STR("from", s->upgrade.from), LOG_STR("to", s->upgrade.to),
            LOG_STR("error", error));
}

static void succeed(struct supervisor *s) {
  end(s, UPGRADE_DONE, "");
  LOG_INFO("upgraded", LOG_STR("from", s->upgrade.from), LOG_STR("to", s->upgrade.to),
           LOG_INT("workers", count_new_workers(s)), LOG_INT("ms", seconds(&s->upgrade) * 1000));
}

/* ---- execve ------------------------------------------------------------------------------------------------------ */

/* Signals that come from here on stay pending, across execve too; those that have come are handled by the loop before
 * the next try. */
static void block_signals(bool block) {
  sigset_t set;
  sigfillset(&set);
  sigprocmask(block ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
}

/* Whether all that was said to the children is on its way to them, and there is a gateway to take over from: the one
 * that was there when all this began may have died meanwhile. */
static bool is_quiet(const struct supervisor *s) {
  if (s->gateway->state != GATEWAY_READY) return false;
  for (size_t i = 0; i < GATEWAYS; i++)
    if (!child_flushed(&s->gateways[i].child)) return false;
  list_each (link, &s->workers)
    if (!child_flushed(&list_item(link, struct worker, all)->child)) return false;
  list_each (link, &s->mps)
    if (!child_flushed(&list_item(link, struct mps_gpu, link)->keeper)) return false;
  return true;
}

/* The environment with the number of the state's descriptor; one block. NULL without memory. */
static char **environment_with(int state) {
  enum { ENTRY_SIZE = sizeof state_variable + 16 };
  size_t n = 0;
  while (environ[n] != NULL) n++;
  char **environment = malloc((n + 2) * sizeof *environment + ENTRY_SIZE);
  if (environment == NULL) return NULL;
  memcpy(environment, environ, n * sizeof *environment);
  environment[n] = (char *)(environment + n + 2);
  snprintf(environment[n], ENTRY_SIZE, "%s=%d", state_variable, state);
  environment[n + 1] = NULL;
  return environment;
}

/* As this process was started. NULL without memory. */
static char **arguments_of(const struct supervisor *s) {
  char **arguments = calloc((size_t)s->argc + 3, sizeof *arguments);
  if (arguments == NULL) return NULL;
  arguments[0] = program_invocation_name;
  arguments[1] = (char *)"serve";
  memcpy(arguments + 2, s->argv, (size_t)s->argc * sizeof *arguments);
  return arguments;
}

/* Returns only when it has failed; then everything is as before. */
static void execute(struct supervisor *s, const struct handover *state, int fd, mu_error *err) {
  char **environment = environment_with(fd), **arguments = arguments_of(s);
  if (environment != NULL && arguments != NULL) {
    inherit_descriptors(state, false);
    fcntl(fd, F_SETFD, 0);
    LOG_INFO("becoming the new binary", LOG_STR("binary", s->upgrade.binary), LOG_STR("version", s->upgrade.to));
    execve(s->upgrade.binary, arguments, environment);
    mu_fail(err, MU_IO, "cannot execute %.512s: %s", s->upgrade.binary, strerror(errno));
    inherit_descriptors(state, true);
  } else {
    mu_fail(err, MU_NO_MEMORY, "no memory to execute the new binary");
  }
  free(environment);
  free(arguments);
}

static void try_execute(struct supervisor *s) {
  struct arena memory = {0};
  struct handover state;
  mu_error err = {{0}};
  int fd = -1;
  mu_status status = inherit_give(s, &memory, &state, &err);
  if (status == MU_OK) status = handover_write(&state, &fd, &err);
  /* What proved itself has read an earlier state. One that does not add up would be the end of the server. */
  if (status == MU_OK) status = upgrade_check_state(fd, &err);
  if (status == MU_OK) execute(s, &state, fd, &err);
  if (fd >= 0) close(fd);
  arena_free(&memory);
  block_signals(false);
  refuse(s, err.message);
}

static bool same_file(const struct upgrade *upgrade) {
  struct stat found;
  return stat(upgrade->binary, &found) == 0 && found.st_dev == upgrade->device && found.st_ino == upgrade->inode &&
         found.st_mtim.tv_sec == upgrade->changed.tv_sec && found.st_mtim.tv_nsec == upgrade->changed.tv_nsec;
}

static void on_timer(uv_timer_t *timer) {
  struct supervisor *s = timer->data;
  const char *error = s->phase >= PHASE_DRAINING               ? "the server is stopping"
                      : !same_file(&s->upgrade)                ? "the file has changed since it proved itself"
                      : is_quiet(s)                            ? NULL
                      : clock_now_ns() > s->upgrade.give_up_ns ? "a process of the server is not ready"
                                                               : "";
  if (error == NULL) {
    try_execute(s);
  } else if (error[0] != '\0') {
    block_signals(false);
    refuse(s, error);
  }
}

/* ---- the check --------------------------------------------------------------------------------------------------- */

static void on_checked(void *context, const char *version, const char *why) {
  struct supervisor *s = context;
  struct upgrade *upgrade = &s->upgrade;
  upgrade->check = NULL;
  if (version == NULL) {
    refuse(s, why);
    return;
  }
  snprintf(upgrade->to, sizeof upgrade->to, "%s", version);
  LOG_INFO("the new binary has proved itself", LOG_STR("binary", upgrade->binary), LOG_STR("version", version));
  upgrade->state = UPGRADE_EXECUTING;
  upgrade->give_up_ns = clock_now_ns() + quiet_ns;
  block_signals(true);
  uv_timer_start(&upgrade->timer, on_timer, retry_ms, retry_ms);
}

/* Settings that even a reload cannot change must be as they are. Whether the others can be read is for the new binary
 * to say: they may be meant for it. */
static mu_status check_settings(const struct supervisor *s, mu_error *err) {
  struct options *options;
  mu_error unread;
  if (options_load(s->argc, s->argv, environ, &options, &unread) != MU_OK) return MU_OK;
  mu_status status = options_check_reload(s->options, options, err);
  options_free(options);
  return status;
}

static mu_status start_check(struct supervisor *s, mu_error *err) {
  struct upgrade *upgrade = &s->upgrade;
  struct arena memory = {0};
  struct handover state;
  struct stat found;
  int fd = -1;
  if (stat(upgrade->binary, &found) != 0)
    return mu_fail(err, MU_NOT_FOUND, "%.512s: %s", upgrade->binary, strerror(errno));
  upgrade->device = found.st_dev;
  upgrade->inode = found.st_ino;
  upgrade->changed = found.st_mtim;
  mu_status status = check_settings(s, err);
  if (status == MU_OK) status = inherit_give(s, &memory, &state, err);
  if (status == MU_OK) status = handover_write(&state, &fd, err);
  if (status == MU_OK)
    status = upgrade_check_start(s->loop, upgrade->binary, s->argc, s->argv, fd, on_checked, s, &upgrade->check, err);
  if (fd >= 0) close(fd);
  arena_free(&memory);
  return status;
}

/* ---- POST /upgrade?binary=… -------------------------------------------------------------------------------------- */

/* Why not now; NULL: now. */
static const char *find_obstacle(struct supervisor *s) {
  if (s->phase >= PHASE_DRAINING) return "the server is stopping";
  if (upgrade_is_going(s)) return "an upgrade is going on";
  if (operations_is_busy(s)) return "a model is being loaded or unloaded";
  if (s->reload.going) return "a reload is going on";
  if (served_models_wait_for_gpus(s)) return "the machine's GPUs are not known yet";
  list_each (link, &s->models)
    if (list_item(link, struct served_model, link)->role != SERVED) return "a model is still leaving";
  if (s->gateway->state != GATEWAY_READY) return "the gateway is not ready";
  if (child_runs(&gateway_other(s)->child)) return "a gateway is still handing over";
  return NULL;
}

static void answer_begun(struct supervisor *s, struct exchange *exchange) {
  char text[64];
  int n = snprintf(text, sizeof text, "{\"number\":%u}", s->upgrade.number);
  exchange_reply_json(exchange, 202, text, (size_t)n);
}

void upgrade_request(struct supervisor *s, struct exchange *exchange) {
  struct upgrade *upgrade = &s->upgrade;
  char path[UPGRADE_PATH_MAX];
  mu_error err;
  const char *obstacle = find_obstacle(s);
  if (obstacle != NULL) {
    exchange_reply_error(exchange, 409, obstacle);
    return;
  }
  mu_status status = query_value(exchange->query, "binary", path, sizeof path, &err);
  if (status != MU_OK || (exchange->query[0] != '\0' && path[0] != '/')) {
    exchange_reply_error(exchange, 400, "binary has to be an absolute path");
    return;
  }
  upgrade->state = UPGRADE_CHECKING;
  upgrade->number++;
  upgrade->started_ns = clock_now_ns();
  upgrade->ended_ns = 0;
  upgrade->first_worker = 0;
  upgrade->error[0] = upgrade->to[0] = '\0';
  snprintf(upgrade->from, sizeof upgrade->from, "%s", MUSTER_VERSION);
  memcpy(upgrade->binary, path[0] != '\0' ? path : s->binary, UPGRADE_PATH_MAX);
  LOG_INFO("upgrading", LOG_STR("binary", upgrade->binary));
  answer_begun(s, exchange);
  supervisor_tell(s);
  if (start_check(s, &err) != MU_OK) refuse(s, err.message);
}

/* ---- in the new binary ------------------------------------------------------------------------------------------- */

void upgrade_resume(struct supervisor *s, const struct handover_server *before) {
  struct upgrade *upgrade = &s->upgrade;
  mu_error err;
  upgrade->state = UPGRADE_GATEWAY;
  upgrade->number = before->upgrades;
  upgrade->started_ns = before->upgrade_started_ns;
  upgrade->first_worker = s->last_worker + 1;
  snprintf(upgrade->from, sizeof upgrade->from, "%s", before->version);
  snprintf(upgrade->to, sizeof upgrade->to, "%s", MUSTER_VERSION);
  memcpy(upgrade->binary, s->binary, UPGRADE_PATH_MAX);
  LOG_INFO("the new binary goes on", LOG_STR("from", upgrade->from), LOG_STR("to", upgrade->to));
  block_signals(false);
  if (gateway_start_successor(s, &err) != MU_OK) fail(s, err.message);
}

void upgrade_gateway_left(struct supervisor *s) {
  if (s->upgrade.state != UPGRADE_GATEWAY) return;
  s->upgrade.state = UPGRADE_WORKERS;
  reload_for_upgrade(s);
}

/* The first model that still has workers of the binary before; NULL: none. */
static const struct served_model *find_left_behind(const struct supervisor *s) {
  list_each (link, &s->workers) {
    const struct worker *worker = list_item(link, struct worker, all);
    if (child_runs(&worker->child) && worker->number < s->upgrade.first_worker) return worker->model;
  }
  return NULL;
}

/* All that is to come has come; it is over when what it replaces has left. */
void upgrade_check_workers(struct supervisor *s) {
  if (s->upgrade.state != UPGRADE_WORKERS || s->reload.going) return;
  list_each (link, &s->models)
    if (list_item(link, struct served_model, link)->role != SERVED) return;
  const struct served_model *behind = find_left_behind(s);
  const char *why = json_string_value(json_object_get(s->reload.report, "error"));
  char text[UPGRADE_TEXT_MAX];
  if (behind == NULL && why == NULL) {
    succeed(s);
    return;
  }
  if (why == NULL) why = behind->note;
  if (behind != NULL)
    snprintf(text, sizeof text, "model %s keeps its workers of the version before: %.800s", behind->name, why);
  else
    snprintf(text, sizeof text, "the models were not read anew: %.800s", why);
  fail(s, text);
}

void upgrade_reloaded(struct supervisor *s) { upgrade_check_workers(s); }

void upgrade_gateway_failed(struct supervisor *s, const char *why) {
  char text[UPGRADE_TEXT_MAX];
  snprintf(text, sizeof text, "the new gateway did not come up, the one before goes on: %.900s", why);
  if (s->upgrade.state == UPGRADE_GATEWAY) fail(s, text);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

void upgrade_init(struct supervisor *s) {
  uv_timer_init(net_loop_uv(s->loop), &s->upgrade.timer);
  s->upgrade.timer.data = s;
  ssize_t n = readlink("/proc/self/exe", s->binary, sizeof s->binary - 1);
  s->binary[n > 0 ? n : 0] = '\0';
}

void upgrade_abort(struct supervisor *s) {
  upgrade_check_cancel(s->upgrade.check);
  s->upgrade.check = NULL;
  bool before = s->upgrade.state == UPGRADE_CHECKING || s->upgrade.state == UPGRADE_EXECUTING;
  if (s->upgrade.state == UPGRADE_EXECUTING) block_signals(false);
  if (before)
    refuse(s, "the server is stopping");
  else if (upgrade_is_going(s))
    fail(s, "the server is stopping");
}

/* ---- the door ---------------------------------------------------------------------------------------------------- */

int upgrade_take_state(void) {
  const char *text = getenv(state_variable);
  if (text == NULL) return -1;
  char *rest;
  long fd = strtol(text, &rest, 10);
  bool good = *text != '\0' && *rest == '\0' && fd > STDERR_FILENO && fd <= INT32_MAX;
  unsetenv(state_variable); /* no child of this process, and no setting */
  if (!good || fcntl((int)fd, F_SETFD, FD_CLOEXEC) != 0) return UPGRADE_NO_STATE;
  return (int)fd;
}

mu_status upgrade_former_options(int state, struct options **ret_options) {
  struct handover_file file;
  mu_error err;
  mu_status status = state >= 0 ? handover_open(state, &file, &err) : MU_INVALID;
  if (status != MU_OK) return status;
  const struct control_bytes *options = &file.state.server->options;
  status = options_decode(options->data, options->size, ret_options);
  handover_close(&file);
  return status;
}

mu_status upgrade_check_state(int fd, mu_error *err) {
  struct handover_file file;
  mu_status status = handover_open(fd, &file, err);
  if (status != MU_OK) return status;
  status = inherit_check(&file.state, err);
  handover_close(&file);
  return status;
}
