#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "supervisor/worker_gpus.h"

/* A worker that says that it leaves, or has closed its control socket, has this long to be gone. */
static const uint64_t leaving_ns = 5 * NS_PER_S;

static void stop(struct worker *worker);
static void on_timer(uv_timer_t *timer);

const char *worker_state_name(enum worker_state state) {
  static const char *const names[] = {
      [WORKER_STARTING] = "starting", [WORKER_LOADING] = "loading",   [WORKER_WARMING] = "warming",
      [WORKER_READY] = "ready",       [WORKER_STOPPING] = "stopping", [WORKER_BACKOFF] = "backoff",
      [WORKER_FAILED] = "failed",     [WORKER_RETIRING] = "retiring", [WORKER_FENCED] = "fenced",
      [WORKER_QUEUED] = "queued",
  };
  return names[state];
}

void worker_set_timer(struct worker *worker, uint64_t after_ns) {
  /* Fails only for a handle that is closing. */
  uv_timer_start(&worker->timer, on_timer, (after_ns + NS_PER_MS - 1) / NS_PER_MS, 0);
}

/* Killing a client of MPS that has work in flight is undefined for the others: its daemon ends that first. Where all
 * clients go, that makes no difference. */
static void end(struct worker *worker) {
  static const uint64_t patience_ns = 2 * NS_PER_S;
  bool all_go = worker->wish == DEATH_GPU || worker->supervisor->phase >= PHASE_STOPPING;
  if (!all_go && !worker->terminating && mps_terminate(worker)) {
    worker->terminating = true;
    worker_set_timer(worker, patience_ns);
  } else {
    child_kill(&worker->child);
  }
}

void worker_end_now(struct worker *worker) { child_kill(&worker->child); }

/* Kills a worker for a reason that its end is then judged by; the first reason counts. */
void worker_condemn(struct worker *worker, enum death_wish wish, const char *cause) {
  if (!child_runs(&worker->child)) return;
  if (worker->wish == DEATH_UNASKED) {
    worker->wish = wish;
    snprintf(worker->wish_cause, sizeof worker->wish_cause, "%s", cause);
  }
  end(worker);
}

void worker_set_reason(struct worker *worker, const char *reason) {
  snprintf(worker->reason, sizeof worker->reason, "%s", reason);
}

void worker_update_model(struct worker *worker) { served_model_update(worker->supervisor, worker->model); }

/* How long an attachment may take. A worker that still runs a batch for a gateway that has died ends it first: past
 * what a batch may take, it hangs. */
uint64_t worker_attach_ns(const struct worker *worker) {
  static const uint64_t usual_ns = 60 * NS_PER_S, least_ns = 5 * NS_PER_S;
  int64_t max_execution_ns = worker->model->options.max_execution_ns;
  uint64_t ns = max_execution_ns > 0 ? (uint64_t)max_execution_ns : usual_ns;
  return ns > least_ns ? ns : least_ns;
}

/* ---- attaching to the gateway ------------------------------------------------------------------------------------ */

/* Gives gateway and worker the two ends of a socket over which they then agree on shared memory. */
static void attach(struct worker *worker, struct gateway *gateway) {
  struct supervisor *s = worker->supervisor;
  struct attachment *attachment = &worker->attachments[gateway->slot];
  /* One that drains or hands over, too: what it has in hand may have lost its worker. */
  if (gateway->state == GATEWAY_GONE || gateway->child.link == NULL || worker->state != WORKER_READY) return;
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    worker_condemn(worker, DEATH_UNREACHABLE, strerror(errno));
    return;
  }
  *attachment = (struct attachment){.epoch = ++s->last_epoch};
  struct device_tokens tokens =
      worker_plan_tokens(&worker->model->plan, worker->group, s->cores, s->options->cpu_slots);
  if (worker->under_mps) tokens.device = PLAN_MPS_TOKENS;
  const char *gpu_uuid = worker_plan_gpu(worker->group->device);
  const struct control_worker_attach message = {
      .worker = worker->number,
      .model = worker->model->number,
      .device = worker->device,
      .device_tokens = tokens.device,
      .batch_tokens = tokens.batch,
      .lanes = worker->group->instances,
      .epoch = attachment->epoch,
      .device_name = worker->group->label,
      .gpu_uuid = gpu_uuid != NULL ? gpu_uuid : "",
      .pid = child_pid(&worker->child),
      .load_ns = worker->policy.ready_ns > worker->started_ns ? worker->policy.ready_ns - worker->started_ns : 0,
  };
  const struct control_worker_peer peer = {attachment->epoch};
  mu_status status = child_send(&worker->child, CONTROL_WORKER_PEER, &peer, &ends[1], 1);
  if (status == MU_OK)
    gateway_tell(gateway, CONTROL_WORKER_ATTACH, &message, &ends[0], 1);
  else if (status != MU_CANCELED) /* that one is ending by itself */
    worker_condemn(worker, DEATH_UNREACHABLE, status_name(status));
  close(ends[0]);
  close(ends[1]);
  /* A successor that does not get there in time goes, not the worker. */
  if (gateway == s->gateway) worker_set_timer(worker, worker_attach_ns(worker));
}

void workers_attach(struct supervisor *s, struct gateway *gateway) {
  list_each (link, &s->workers) attach(list_item(link, struct worker, all), gateway);
}

void workers_detach(struct supervisor *s, const struct gateway *gateway) {
  list_each (link, &s->workers) {
    struct worker *worker = list_item(link, struct worker, all);
    worker->attachments[gateway->slot] = (struct attachment){0};
    if (gateway != s->gateway) continue;
    if (worker->state == WORKER_READY) uv_timer_stop(&worker->timer);
    if (worker->state == WORKER_RETIRING) stop(worker);
  }
  list_each (link, &s->models) served_model_update(s, list_item(link, struct served_model, link));
}

bool workers_follow(const struct supervisor *s, const struct gateway *from, const struct gateway *to) {
  list_each (link, &s->workers) {
    const struct attachment *attachments = list_item(link, struct worker, all)->attachments;
    if (attachments[from->slot].attached && !attachments[to->slot].attached) return false;
  }
  return true;
}

bool workers_are_attached(const struct supervisor *s, const struct gateway *gateway) {
  list_each (link, &s->workers) {
    const struct worker *worker = list_item(link, struct worker, all);
    if (worker->state == WORKER_READY && !worker->attachments[gateway->slot].attached) return false;
  }
  return true;
}

void workers_await(struct supervisor *s) {
  list_each (link, &s->workers) {
    struct worker *worker = list_item(link, struct worker, all);
    const struct attachment *attachment = &worker->attachments[s->gateway->slot];
    if (worker->state == WORKER_READY && attachment->epoch != 0 && !attachment->attached)
      worker_set_timer(worker, worker_attach_ns(worker));
  }
}

/* The worker of an event, unless what the gateway says is about an earlier attachment. */
static struct worker *find(struct gateway *gateway, const struct control_worker_event *event) {
  struct supervisor *s = gateway->supervisor;
  list_each (link, &s->workers) {
    struct worker *worker = list_item(link, struct worker, all);
    if (child_runs(&worker->child) && worker->number == event->worker &&
        worker->attachments[gateway->slot].epoch == event->epoch)
      return worker;
  }
  return NULL;
}

void workers_attached(struct gateway *gateway, const struct control_worker_event *event) {
  struct worker *worker = find(gateway, event);
  if (worker == NULL || worker->state != WORKER_READY) return;
  worker->attachments[gateway->slot].attached = true;
  if (gateway == gateway->supervisor->gateway) uv_timer_stop(&worker->timer);
  worker_update_model(worker);
}

void workers_condemn(struct gateway *gateway, const struct control_worker_event *event, enum death_wish wish) {
  struct worker *worker = find(gateway, event);
  if (worker != NULL) worker_condemn(worker, wish, event->why);
}

void workers_retired(struct gateway *gateway, const struct control_worker_event *event) {
  struct worker *worker = find(gateway, event);
  if (worker != NULL && worker->state == WORKER_RETIRING) stop(worker);
}

/* ---- what a worker says ------------------------------------------------------------------------------------------ */

static void leave(struct worker *worker) {
  worker->state = WORKER_STOPPING;
  worker_set_timer(worker, leaving_ns);
}

static void on_failed(struct worker *worker, const struct control_packet *packet) {
  worker->failure = packet->failed.status < 0 ? (mu_status)packet->failed.status : MU_INTERNAL;
  worker_set_reason(worker, packet->failed.message);
  /* Said while it served: whose fault that is nobody can tell from here, and its requests may go on elsewhere. */
  bool lost = worker->failure == MU_IO && worker->policy.ready && worker->wish == DEATH_UNASKED;
  if (lost) worker->wish = DEATH_DEVICE_LOST;
  leave(worker);
  if (lost && worker->under_mps) gpus_mps_fault(worker->supervisor, worker->group->device);
}

static void on_loaded(struct worker *worker, const struct control_packet *packet) {
  mu_error err;
  if (worker->state != WORKER_LOADING) {
    worker_condemn(worker, DEATH_BROKEN, "it said LOADED when it was not loading");
    return;
  }
  mu_status status = served_model_loaded(worker->supervisor, worker->model, packet->loaded.metadata, &err);
  if (status == MU_OK) {
    worker->state = WORKER_WARMING;
    return;
  }
  worker->failure = status;
  worker_set_reason(worker, err.message);
  worker_condemn(worker, DEATH_BROKEN, err.message);
}

static void become_ready(struct worker *worker) {
  uint64_t now = clock_now_ns();
  worker->state = WORKER_READY;
  worker->reason[0] = '\0';
  uv_timer_stop(&worker->timer);
  restart_policy_ready(&worker->policy, now);
  LOG_INFO("worker ready", LOG_STR("model", worker->model->name), LOG_INT("version", worker->model->version),
           LOG_STR("device", worker->group->label), LOG_INT("worker", worker->number),
           LOG_INT("pid", child_pid(&worker->child)), LOG_INT("ms", (now - worker->started_ns) / NS_PER_MS));
  for (size_t i = 0; i < GATEWAYS; i++) attach(worker, &worker->supervisor->gateways[i]);
  load_queue_next(worker->supervisor, worker->device);
}

static void forget_backends(struct worker *worker) {
  json_decref(worker->backends);
  worker->backends = NULL;
}

/* Only shown: what is no array is not. Without memory what was said before stands. */
static void on_backends(struct worker *worker, const struct control_packet *packet) {
  json_t *backends = json_loadb(packet->worker_backends.json.data, packet->worker_backends.json.size, 0, NULL);
  if (!json_is_array(backends)) {
    json_decref(backends);
    return;
  }
  forget_backends(worker);
  worker->backends = backends;
}

static void on_ready(struct worker *worker, const struct control_packet *packet) {
  if (worker->state != WORKER_WARMING || worker->mps_asked != 0)
    worker_condemn(worker, DEATH_BROKEN, "it said READY when it was not warming up");
  else if (!mps_verify(worker))
    become_ready(worker);
}

void worker_is_client(struct worker *worker) {
  if (worker->state == WORKER_WARMING) become_ready(worker);
}

void worker_is_no_client(struct worker *worker, const char *why) {
  if (worker->state != WORKER_WARMING) return;
  worker->failure = MU_UNAVAILABLE;
  worker_set_reason(worker, why);
  worker_condemn(worker, DEATH_BROKEN, why);
}

static void on_message(void *context, struct control_packet *packet) {
  static void (*const handlers[CONTROL_TYPE_COUNT])(struct worker *, const struct control_packet *) = {
      [CONTROL_LOADED] = on_loaded,
      [CONTROL_READY] = on_ready,
      [CONTROL_FAILED] = on_failed,
      [CONTROL_WORKER_BACKENDS] = on_backends,
  };
  struct worker *worker = context;
  if (handlers[packet->type] != NULL)
    handlers[packet->type](worker, packet);
  else
    worker_condemn(worker, DEATH_BROKEN, "it sent a control message that is not a worker's");
}

/* Nearly always the first sign that it has ended. */
static void on_lost(void *context, const mu_error *err) {
  struct worker *worker = context;
  LOG_VERBOSE("no more control messages from a worker", LOG_INT("worker", worker->number),
              LOG_STR("reason", err->message));
  if (worker->supervisor->phase < PHASE_STOPPING) leave(worker);
}

/* ---- start, end, restart ----------------------------------------------------------------------------------------- */

static bool is_for_good(mu_status failure) {
  return failure == MU_INVALID || failure == MU_NOT_FOUND || failure == MU_UNSUPPORTED;
}

void worker_log_end(const struct worker *worker) {
  const struct served_model *model = worker->model;
  if (worker->wish == DEATH_STOPPED && worker->state == WORKER_BACKOFF) {
    LOG_INFO("worker has left as it was told, will be started again", LOG_STR("model", model->name),
             LOG_INT("version", model->version), LOG_STR("device", worker->group->device),
             LOG_INT("worker", worker->number));
    return;
  }
  if (worker->state == WORKER_FAILED)
    LOG_ERROR("worker failed", LOG_STR("model", model->name), LOG_INT("version", model->version),
              LOG_STR("device", worker->group->label), LOG_INT("worker", worker->number),
              LOG_STR("error", worker->reason));
  else
    LOG_ERROR("worker ended, will be started again", LOG_STR("model", model->name), LOG_INT("version", model->version),
              LOG_STR("device", worker->group->label), LOG_INT("worker", worker->number),
              LOG_STR("error", worker->reason), LOG_INT("delay_ms", worker->policy.delay_ns / NS_PER_MS));
}

/* There is no process any more: when is the next one started, if at all? own_doing: as death_judge says. why: of the
 * end, for humans. */
static void after_end(struct worker *worker, bool own_doing, const char *why) {
  uint64_t delay;
  const struct gpu_guard *obstacle = gpus_obstacle(&worker->supervisor->gpus, worker->group->device);
  if (obstacle != NULL) {
    worker_rest(worker, obstacle);
    return;
  }
  if (worker->wish == DEATH_GPU) {
    worker_after_gpu_fault(worker, why);
    return;
  }
  bool again = restart_policy_death(&worker->policy, clock_now_ns(), own_doing, &delay);
  if (worker->failure == MU_OK) worker_set_reason(worker, why); /* else what it said itself says more */
  if (!again) {
    size_t length = strlen(worker->reason);
    snprintf(worker->reason + length, sizeof worker->reason - length, " (%d times in a row before it was ready)",
             RESTART_EARLY_DEATHS_MAX);
  }
  again = again && !is_for_good(worker->failure);
  worker->state = again ? WORKER_BACKOFF : WORKER_FAILED;
  if (again) worker_set_timer(worker, delay);
  worker_log_end(worker);
  if (!again) mps_worker_rests(worker);
  worker_update_model(worker);
}

void worker_fail(struct worker *worker, const char *why) {
  uv_timer_stop(&worker->timer);
  worker->state = WORKER_FAILED;
  worker_set_reason(worker, why);
  worker_log_end(worker);
  mps_worker_rests(worker);
  worker_update_model(worker);
}

static struct death judge(struct worker *worker, int code, int status) {
  const struct death_facts facts = {
      .code = code,
      .status = status,
      .out_of_memory = oom_watch_poll(&worker->supervisor->oom),
      .wish = worker->wish,
      .wish_cause = worker->wish_cause,
  };
  return death_judge(&facts);
}

static void detach(struct worker *worker, const struct death *death) {
  struct supervisor *s = worker->supervisor;
  for (size_t i = 0; i < GATEWAYS; i++) {
    struct attachment *attachment = &worker->attachments[i];
    const struct control_worker_gone gone = {worker->number, attachment->epoch, death->blamed, death->why};
    if (attachment->epoch != 0) gateway_tell(&s->gateways[i], CONTROL_WORKER_GONE, &gone, NULL, 0);
    *attachment = (struct attachment){0};
  }
  gateways_check_listen(s);
}

static void on_ended(void *context, int code, int status) {
  struct worker *worker = context;
  struct supervisor *s = worker->supervisor;
  uint32_t device = worker->device;
  const struct death death = judge(worker, code, status);
  uv_timer_stop(&worker->timer);
  forget_backends(worker);
  worker->terminating = false;
  detach(worker, &death);
  mps_worker_ended(worker);
  if (s->phase >= PHASE_STOPPING)
    supervisor_check(s);
  else if (worker->model->role == LEFT)
    served_model_check_gone(worker->model);
  else
    after_end(worker, death.blamed || worker->wish == DEATH_DEVICE_LOST, death.why);
  load_queue_next(s, device);
}

/* The time for what it has in hand is over. On a GPU with a fault that may never end: it goes on elsewhere. */
static void end_retirement(struct worker *worker) {
  const struct gpu_guard *obstacle = gpus_obstacle(&worker->supervisor->gpus, worker->group->device);
  if (obstacle != NULL)
    worker_condemn(worker, DEATH_GPU, obstacle->reason);
  else
    stop(worker);
}

static void on_timer(uv_timer_t *timer) {
  struct worker *worker = timer->data;
  if (worker->terminating) {
    worker_end_now(worker);
    return;
  }
  switch (worker->state) {
    case WORKER_BACKOFF:
      worker->restarts++;
      worker_start(worker);
      break;
    case WORKER_QUEUED:
      worker_start(worker);
      break;
    case WORKER_RETIRING:
      end_retirement(worker);
      break;
    case WORKER_STOPPING:
      worker_condemn(worker, DEATH_BROKEN, "it did not leave");
      break;
    case WORKER_READY:
      worker_condemn(worker, DEATH_HUNG, "it did not attach to the gateway in time");
      break;
    default:
      worker_condemn(worker, DEATH_TIMEOUT, "see --load-timeout");
      break;
  }
}

static mu_status send_start(struct worker *worker, mu_error *err) {
  const struct served_model *model = worker->model;
  int fds[2], n_fds = 0;
  /* A model that was replaced on disk and not reloaded, or not yet, goes on as it was. */
  bool has_file = model->given || !fingerprint_has_file(model);
  if (has_file) fds[n_fds++] = model->file;
  mu_status status = worker_has_sim_gpu(worker) ? worker_sim_gpu(worker, &fds[n_fds++], err) : MU_OK;
  if (status != MU_OK) return status;
  const struct control_worker_start message = {
      .worker = worker->number,
      .model = model->number,
      .name = model->name,
      .version = model->version,
      .path = model->path,
      .folder = model->folder,
      .config = {model->text, model->text_size},
      .options = {model->settings.data, model->settings.size},
      .engine = model->plan.engine,
      .device = worker->group->device,
      .cores = worker_near_cores(worker),
      .threads = model->plan.threads,
      .instances = worker->group->instances,
      .max_batch = (uint32_t)model->options.max_batch_size,
      .has_file = has_file,
      .has_sim_gpu = worker_has_sim_gpu(worker),
  };
  if (has_file && !model->given)
    LOG_WARNING("the model's file is another one now: the one before is loaded again, until muster reload",
                LOG_STR("model", model->name), LOG_INT("version", model->version), LOG_STR("file", model->path));
  status = child_send(&worker->child, CONTROL_WORKER_START, &message, fds, (size_t)n_fds);
  return status == MU_OK ? MU_OK : mu_fail(err, status, "%s", status_name(status));
}

static const struct child_events child_events = {on_message, on_lost, on_ended};

static mu_status spawn(struct worker *worker, mu_error *err) {
  const struct supervisor *s = worker->supervisor;
  struct mps_environment mps;
  mps_prepare(worker, &mps);
  char title[512];
  snprintf(title, sizeof title, "muster: worker %s/%lld %s", worker->model->name, (long long)worker->model->version,
           worker->group->label);
  char visible[PLAN_DEVICE_NAME + 32];
  const char *environment[1 + sizeof mps.entries / sizeof *mps.entries] = {visible};
  memcpy(environment + 1, mps.entries, sizeof mps.entries);
  const char *gpu = worker_plan_gpu(worker->group->device);
  snprintf(visible, sizeof visible, "CUDA_VISIBLE_DEVICES=%s", gpu != NULL ? gpu : "");
  const struct child_spec spec = {.title = title,
                                  .role = "worker",
                                  .log = log_current(),
                                  .log_format = s->log_format,
                                  .environment = gpu != NULL ? environment : NULL};
  return child_start(&worker->child, s->loop, &spec, &child_events, worker, err);
}

void worker_start(struct worker *worker) {
  struct supervisor *s = worker->supervisor;
  mu_error err;
  worker->wish = DEATH_UNASKED;
  worker->failure = MU_OK;
  const struct gpu_guard *obstacle = gpus_obstacle(&s->gpus, worker->group->device);
  if (obstacle != NULL) {
    worker_rest(worker, obstacle);
    return;
  }
  if (!mps_admit(worker) || !load_queue_admit(worker)) return;
  worker->number = ++s->last_worker;
  worker->started_ns = clock_now_ns();
  worker->state = WORKER_STARTING;
  if (spawn(worker, &err) != MU_OK) {
    after_end(worker, true, err.message);
    return;
  }
  worker->state = WORKER_LOADING;
  worker_set_timer(worker, (uint64_t)s->options->load_timeout_ns);
  mu_status status = send_start(worker, &err);
  if (status != MU_OK) worker_condemn(worker, DEATH_UNREACHABLE, err.message);
  LOG_INFO("worker started", LOG_STR("model", worker->model->name), LOG_INT("version", worker->model->version),
           LOG_STR("device", worker->group->label), LOG_INT("worker", worker->number),
           LOG_INT("pid", child_pid(&worker->child)), LOG_INT("instances", worker->group->instances),
           LOG_INT("threads", worker->model->plan.threads));
}

void workers_start(struct served_model *model) {
  for (size_t i = 0; i < model->n_workers; i++) {
    if (model->supervisor->phase >= PHASE_STOPPING) return;
    worker_start(&model->workers[i]);
  }
}

void workers_tell(struct supervisor *s, enum control_type type, const void *message) {
  list_each (link, &s->workers) {
    struct worker *worker = list_item(link, struct worker, all);
    mu_status status = child_send(&worker->child, type, message, NULL, 0);
    if (status != MU_OK && status != MU_CANCELED) worker_condemn(worker, DEATH_UNREACHABLE, status_name(status));
  }
}

mu_status worker_adopt(struct worker *worker, const struct handover_worker *from, mu_error *err) {
  const struct supervisor *s = worker->supervisor;
  worker->number = from->number;
  worker->state = (enum worker_state)from->state;
  worker->attachments[0] = (struct attachment){from->epoch_0, from->attached_0};
  worker->attachments[1] = (struct attachment){from->epoch_1, from->attached_1};
  worker->wish = (enum death_wish)from->wish;
  snprintf(worker->wish_cause, sizeof worker->wish_cause, "%s", from->wish_cause);
  worker->failure = (mu_status)from->failure;
  worker->restarts = from->restarts;
  worker->started_ns = from->started_ns;
  worker->policy = (struct restart_policy){.early_deaths = from->early_deaths,
                                           .ready = from->was_ready,
                                           .restarted = from->restarted,
                                           .ready_ns = from->ready_ns,
                                           .delay_ns = from->delay_ns};
  worker_set_reason(worker, from->reason);
  worker->under_mps = from->under_mps;
  uint64_t now = clock_now_ns();
  if (worker->state == WORKER_QUEUED) worker_set_timer(worker, NS_PER_MS);
  if (from->due_ns > 0) worker_set_timer(worker, from->due_ns > now ? from->due_ns - now : 0);
  if (from->pid == 0) return MU_OK;
  mu_status status =
      child_adopt(&worker->child, s->loop, from->pid, from->pidfd, from->control, &child_events, worker, err);
  if (status != MU_OK) return status;
  if (from->mps_asked) (void)mps_verify(worker); /* the answer went to the supervisor before */
  return MU_OK;
}

/* ---- stop -------------------------------------------------------------------------------------------------------- */

static void stop(struct worker *worker) {
  bool listens = worker->state == WORKER_READY || worker->state == WORKER_RETIRING;
  uv_timer_stop(&worker->timer);
  worker->state = WORKER_STOPPING;
  if (!child_runs(&worker->child)) return;
  worker_set_timer(worker, leaving_ns);
  if (worker->wish == DEATH_UNASKED) worker->wish = DEATH_STOPPED;
  if (!listens || child_send(&worker->child, CONTROL_STOP, NULL, NULL, 0) != MU_OK) end(worker);
}

/* The gateway lets go of it first, within this time. */
void worker_retire(struct worker *worker, uint64_t within_ns) {
  const struct control_worker_retire message = {worker->number,
                                                worker->attachments[worker->supervisor->gateway->slot].epoch};
  worker->state = WORKER_RETIRING;
  worker_set_timer(worker, within_ns);
  gateway_tell(worker->supervisor->gateway, CONTROL_WORKER_RETIRE, &message, NULL, 0);
}

/* Has it requests, or gets some, that a gateway can tell of? */
bool worker_can_retire(const struct worker *worker) {
  const struct gateway *gateway = worker->supervisor->gateway;
  return worker->attachments[gateway->slot].attached && worker->state == WORKER_READY && gateway->child.link != NULL;
}

/* Why it cannot be drained; NULL: it can. */
static const char *find_obstacle(const struct supervisor *s, const struct worker *worker) {
  if (s->phase >= PHASE_DRAINING) return "the server is stopping";
  if (s->reload.going || upgrade_is_going(s)) return "a reload or an upgrade is going on";
  if (worker->model->role != SERVED) return "its model is coming or leaving";
  if (!worker_can_retire(worker)) return "it is not ready";
  for (size_t i = 0; i < worker->model->n_workers; i++)
    if (&worker->model->workers[i] != worker && worker_can_retire(&worker->model->workers[i])) return NULL;
  return "no other worker of its model is ready";
}

mu_status workers_drain(struct supervisor *s, uint32_t number, mu_error *err) {
  list_each (link, &s->workers) {
    struct worker *worker = list_item(link, struct worker, all);
    if (!child_runs(&worker->child) || worker->number != number) continue;
    const char *obstacle = find_obstacle(s, worker);
    if (obstacle != NULL) return mu_fail(err, MU_UNAVAILABLE, "worker %u cannot be drained: %s", number, obstacle);
    LOG_INFO("draining a worker", LOG_STR("model", worker->model->name), LOG_INT("worker", number),
             LOG_INT("pid", child_pid(&worker->child)));
    worker_retire(worker, worker_attach_ns(worker));
    return MU_OK;
  }
  return mu_fail(err, MU_NOT_FOUND, "there is no worker %u", number);
}

void workers_leave(struct supervisor *s, struct served_model *model) {
  for (size_t i = 0; i < model->n_workers; i++) {
    struct worker *worker = &model->workers[i];
    if (worker_can_retire(worker))
      worker_retire(worker, worker_attach_ns(worker));
    else
      stop(worker);
  }
}

/* ---- all --------------------------------------------------------------------------------------------------------- */

void workers_stop(struct supervisor *s) {
  list_each (link, &s->workers) stop(list_item(link, struct worker, all));
}

void workers_kill(struct supervisor *s) {
  list_each (link, &s->workers) worker_condemn(list_item(link, struct worker, all), DEATH_STOPPED, "");
}

bool workers_gone(const struct supervisor *s) {
  list_each (link, &s->workers)
    if (child_runs(&list_item(link, struct worker, all)->child)) return false;
  return true;
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

static mu_status device_number(struct supervisor *s, const char *device, uint32_t *ret_number, mu_error *err) {
  for (uint32_t i = 0; i < s->n_devices; i++) {
    if (strcmp(s->devices[i], device) != 0) continue;
    *ret_number = i;
    return MU_OK;
  }
  if (s->n_devices == PLAN_DEVICES_MAX) return mu_fail(err, MU_INVALID, "more than %d devices", PLAN_DEVICES_MAX);
  snprintf(s->devices[s->n_devices], PLAN_DEVICE_NAME, "%s", device);
  *ret_number = s->n_devices++;
  return MU_OK;
}

static mu_status add_group(struct supervisor *s, struct served_model *model, const struct worker_group *group,
                           mu_error *err) {
  uint32_t device = 0;
  mu_status status = device_number(s, group->device, &device, err);
  for (uint32_t i = 0; status == MU_OK && i < group->processes; i++) {
    struct worker *worker = &model->workers[model->n_workers++];
    *worker = (struct worker){.supervisor = s, .model = model, .group = group, .device = device};
    uv_timer_init(net_loop_uv(s->loop), &worker->timer);
    worker->timer.data = worker;
    list_push_back(&s->workers, &worker->all);
  }
  return status;
}

mu_status workers_create(struct supervisor *s, struct served_model *model, mu_error *err) {
  if (!model->planned) return MU_OK;
  size_t n = worker_plan_processes(&model->plan);
  model->workers = calloc(n, sizeof *model->workers);
  if (model->workers == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for %zu workers", n);
  mu_status status = MU_OK;
  for (uint32_t k = 0; status == MU_OK && k < model->plan.n_groups; k++)
    status = add_group(s, model, &model->plan.groups[k], err);
  return status;
}

void workers_free(struct served_model *model) {
  for (size_t i = 0; i < model->n_workers; i++) {
    list_remove(&model->workers[i].all);
    forget_backends(&model->workers[i]);
  }
  free(model->workers);
  model->workers = NULL;
  model->n_workers = 0;
}
