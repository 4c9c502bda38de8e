#include "gateway/attachment.h"

#include "base/log.h"
#include "gateway/call.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* All are alike until the scheduler has measured them. */
#define INSTANCE_SPEED 1.0

/* ---- lifetime ---------------------------------------------------------------------------------------------------- */

static void attachment_free(struct attachment *attachment) {
  attachment->model->attachments--;
  arena_space_free(attachment->output_space);
  channel_gate_free(attachment->gate);
  free(attachment);
}

void attachment_release(struct attachment *attachment) {
  if (--attachment->users == 0) attachment_free(attachment);
}

static void release_unpolled(struct attachment *attachment) {
  struct core *core = attachment->core;
  pthread_mutex_lock(&core->lock);
  attachment_release(attachment);
  pthread_mutex_unlock(&core->lock);
}

static void handle_closed(uv_handle_t *handle) {
  struct attachment *attachment = handle->data;
  if (--attachment->open_handles == 0) release_unpolled(attachment);
}

static void close_handles(struct net_post *post) {
  struct attachment *attachment = list_item(post, struct attachment, close_post);
  uv_handle_t *handles[] = {(uv_handle_t *)&attachment->doorbell, (uv_handle_t *)&attachment->socket};
  uint32_t n = attachment->open_handles;
  if (n == 0) release_unpolled(attachment);
  for (uint32_t i = 0; i < n; i++) uv_close(handles[i], handle_closed);
}

/* ---- telling the supervisor: any thread finds out, loop 0 owns the link ------------------------------------------ */

/* On loop 0. */
static void send_event(struct core *core, enum control_type type, const struct control_worker_event *event) {
  if (control_link_send(core->control, type, event, NULL, 0) != MU_OK)
    LOG_ERROR("the supervisor cannot be told", LOG_INT("worker", event->worker),
              LOG_STR("what", control_type_name(type)));
}

static void tell(struct core *core, struct attachment *attachment) {
  struct control_worker_event event = {attachment->worker, attachment->epoch, ""};
  if (attachment->attached_untold) send_event(core, CONTROL_WORKER_ATTACHED, &event);
  attachment->attached_untold = false;
  if (!attachment->report_untold) return;
  attachment->report_untold = false;
  event.why = attachment->report_why;
  LOG_ERROR("worker has to go", LOG_INT("worker", attachment->worker), LOG_STR("model", attachment->model->model.name),
            LOG_STR("why", attachment->report_why));
  send_event(core, attachment->report_type, &event);
}

static void tell_all(struct net_post *post) {
  struct core *core = list_item(post, struct core, report_post);
  pthread_mutex_lock(&core->lock);
  core->report_posted = false;
  for (struct list *link; (link = list_pop_front(&core->telling)) != NULL;) {
    struct attachment *attachment = list_item(link, struct attachment, telling_link);
    tell(core, attachment);
    attachment_release(attachment);
  }
  pthread_mutex_unlock(&core->lock);
}

/* Locked: loop 0 is to tell what is untold. */
static void tell_later(struct attachment *attachment) {
  struct core *core = attachment->core;
  if (!list_empty(&attachment->telling_link)) return;
  attachment->users++;
  list_push_back(&core->telling, &attachment->telling_link);
  if (core->report_posted) return;
  core->report_posted = true;
  core->report_post.run = tell_all;
  net_loop_post(core->loops[0].net, &core->report_post);
}

void attachment_report(struct attachment *attachment, enum control_type type, const char *why) {
  if (attachment->reported || attachment->gone) return;
  attachment->reported = attachment->report_untold = true;
  attachment->report_type = type;
  attachment->report_why = why;
  tell_later(attachment);
}

/* ---- the handshake and the doorbell, on the home loop ------------------------------------------------------------ */

/* Batches on an instance at a time. Behind one that runs the scheduler puts only one that is full, so that an engine
 * under load never waits for the gateway; what may still grow is formed when the instance is idle. Not where a batch is
 * one request or some requests go before others: there the last moment is the best one to choose. */
static uint32_t instance_depth(const struct gateway_model *model) {
  return model->params.max_batch > 1 && model->params.priority_levels <= 1 ? 2 : 1;
}

/* The scheduler gets the instances, all or none; queued requests may start at once. Locked. */
static mu_status add_instances(struct attachment *attachment) {
  struct core *core = attachment->core;
  for (uint32_t i = 0; i < attachment->n_lanes; i++) {
    struct lane *lane = &attachment->lanes[i];
    *lane = (struct lane){.attachment = attachment, .index = i};
    lane->instance = i > 0
                         ? sched_add_sibling(core->sched, attachment->lanes[0].instance, lane, clock_now_ns())
                         : sched_add_instance(core->sched, attachment->model->sched, attachment->device,
                                              instance_depth(attachment->model), INSTANCE_SPEED, lane, clock_now_ns());
    if (lane->instance != NULL) continue;
    while (i-- > 0) {
      sched_instance_lost(core->sched, attachment->lanes[i].instance, false, clock_now_ns());
      attachment->lanes[i].instance = NULL;
    }
    return MU_NO_MEMORY;
  }
  return MU_OK;
}

/* It ends, and its death, which the supervisor sees, says whose fault that is; one that lives on without its socket is
 * not attached in time. */
static void note_left(uint32_t worker, const mu_error *err) {
  LOG_VERBOSE("worker left before it was attached", LOG_INT("worker", worker), LOG_STR("error", err->message));
}

/* Locked. Is it over, well or not? */
static bool finish_handshake(struct attachment *attachment) {
  struct core *core = attachment->core;
  mu_error err;
  mu_status status = channel_gate_finish(attachment->gate, &err);
  if (status == MU_UNAVAILABLE) return false;
  if (status == MU_CANCELED) {
    note_left(attachment->worker, &err);
    return true;
  }
  if (status == MU_OK) {
    attachment->output_space = arena_space_create(channel_gate_output(attachment->gate)->size, &core->output_budget);
    status = attachment->output_space == NULL ? MU_NO_MEMORY : attachment->retiring ? MU_OK : add_instances(attachment);
  } else {
    LOG_ERROR("handshake with worker failed", LOG_INT("worker", attachment->worker), LOG_STR("error", err.message));
  }
  if (status != MU_OK) {
    attachment_report(attachment, CONTROL_WORKER_BROKEN, "the handshake failed");
    return true;
  }
  channel_gate_sleep(attachment->gate); /* from here on the loop's poll is where the gateway waits: ring for it */
  attachment->attached = attachment->attached_untold = true;
  attachment->model->attached += !attachment->retiring;
  tell_later(attachment);
  return true;
}

static void on_socket(uv_poll_t *poll, int status, int events) {
  struct attachment *attachment = poll->data;
  struct core *core = attachment->core;
  struct list outbox;
  list_init(&outbox);
  pthread_mutex_lock(&core->lock);
  bool over = attachment->gone || attachment->attached || attachment->reported || finish_handshake(attachment);
  /* From here on the socket brings only the worker's end of file; its death is the supervisor's to confirm. */
  if (over) uv_poll_stop(poll);
  core_run(core, &outbox);
  pthread_mutex_unlock(&core->lock);
  core_deliver(&outbox, attachment->home);
}

static void on_doorbell(uv_poll_t *poll, int status, int events) {
  struct attachment *attachment = poll->data;
  struct core *core = attachment->core;
  struct list outbox;
  list_init(&outbox);
  pthread_mutex_lock(&core->lock);
  if (!attachment->gone && attachment->attached) {
    channel_gate_wake(attachment->gate);
    do attachment_drain_completions(attachment, &outbox);
    while (!channel_gate_sleep(attachment->gate) && !attachment->reported);
    core_run(core, &outbox);
  }
  pthread_mutex_unlock(&core->lock);
  core_deliver(&outbox, attachment->home);
}

/* On the home loop: the handles are its own. */
static void start_polling(struct net_post *post) {
  struct attachment *attachment = list_item(post, struct attachment, start_post);
  struct core *core = attachment->core;
  struct {
    uv_poll_t *handle;
    int fd;
    uv_poll_cb ready;
  } polls[] = {{&attachment->doorbell, channel_gate_doorbell(attachment->gate), on_doorbell},
               {&attachment->socket, channel_gate_socket(attachment->gate), on_socket}};
  bool polled = true;
  for (size_t i = 0; polled && i < sizeof polls / sizeof *polls; i++) {
    polled = uv_poll_init(net_loop_uv(attachment->home->net), polls[i].handle, polls[i].fd) == 0;
    if (!polled) break;
    polls[i].handle->data = attachment;
    attachment->open_handles++;
    polled = uv_poll_start(polls[i].handle, UV_READABLE, polls[i].ready) == 0;
  }
  if (polled) return;
  pthread_mutex_lock(&core->lock);
  attachment_report(attachment, CONTROL_WORKER_BROKEN, "its channel cannot be polled");
  pthread_mutex_unlock(&core->lock);
}

/* ---- control messages -------------------------------------------------------------------------------------------- */

/* The scheduler's device for the supervisor's number. Locked; NULL without memory. */
static struct sched_device *find_device(struct core *core, const struct control_worker_attach *message) {
  for (size_t i = 0; i < core->n_devices; i++)
    if (core->devices[i].number == message->device) return core->devices[i].sched;
  struct gateway_device *devices = reallocarray(core->devices, core->n_devices + 1, sizeof *devices);
  if (devices == NULL) return NULL;
  core->devices = devices;
  struct sched_device *sched = sched_add_device(core->sched, message->device_tokens);
  if (sched != NULL) devices[core->n_devices++] = (struct gateway_device){message->device, sched};
  return sched;
}

/* Locked. */
static mu_status attach(struct core *core, const struct control_worker_attach *message, int socket, mu_error *err) {
  struct gateway_model *model = core_model_by_number(core, message->model);
  mu_status status = MU_INTERNAL;
  struct attachment *attachment = NULL;
  if (model == NULL || model->model.metadata == NULL || model->slots == NULL) {
    mu_fail(err, status, "its model is not known here");
    goto fail;
  }
  if (model->sched == NULL && (status = core_schedule_model(core, model, message->batch_tokens, err)) != MU_OK)
    goto fail;
  status = MU_INTERNAL;
  if (model->model.stats->load_ns == 0) model->model.stats->load_ns = message->load_ns;
  if (message->lanes == 0 || message->lanes > CHANNEL_LANES_MAX) {
    status = mu_fail(err, MU_INVALID, "%u instances in one worker: at most %d", message->lanes, CHANNEL_LANES_MAX);
    goto fail;
  }
  attachment = calloc(1, sizeof *attachment);
  if (attachment == NULL) {
    status = mu_fail(err, MU_NO_MEMORY, "no memory");
    goto fail;
  }
  *attachment = (struct attachment){.core = core,
                                    .model = model,
                                    .home = &core->loops[message->worker % core->n_loops],
                                    .worker = message->worker,
                                    .device = find_device(core, message),
                                    .pid = message->pid,
                                    .epoch = message->epoch,
                                    .n_lanes = message->lanes,
                                    .users = 2, /* the living worker, and the poll handles */
                                    .start_post = {.run = start_polling},
                                    .close_post = {.run = close_handles}};
  snprintf(attachment->device_name, sizeof attachment->device_name, "%s", message->device_name);
  snprintf(attachment->gpu_uuid, sizeof attachment->gpu_uuid, "%s", message->gpu_uuid);
  list_init(&attachment->flights);
  list_init(&attachment->telling_link);
  uint32_t n_inputs = model->model.metadata->n_inputs;
  struct channel_params params = {.epoch = message->epoch,
                                  .lanes = message->lanes,
                                  .max_spans = core_max_members(model) * (n_inputs == 0 ? 1 : n_inputs),
                                  .output_arena = (uint64_t)core->options->output_arena};
  status = attachment->device == NULL ? mu_fail(err, MU_NO_MEMORY, "no memory")
                                      : channel_gate_offer(&params, socket, &model->input, &attachment->gate, err);
  if (status != MU_OK) goto fail;
  model->attachments++;
  list_push_back(&core->attachments, &attachment->link);
  net_loop_post(attachment->home->net, &attachment->start_post);
  return MU_OK;

fail:
  free(attachment);
  close(socket);
  return status;
}

void core_attach_worker(struct core *core, const struct control_worker_attach *message, int socket) {
  mu_error err;
  mu_status status = MU_OK;
  if (socket < 0) status = mu_fail(&err, MU_IO, "its socket found no free file descriptor (ulimit -n)");
  pthread_mutex_lock(&core->lock);
  if (status == MU_OK) status = attach(core, message, socket, &err);
  pthread_mutex_unlock(&core->lock);
  if (status == MU_OK) return;
  if (status == MU_CANCELED) {
    note_left(message->worker, &err);
    return;
  }
  LOG_ERROR("worker cannot be attached", LOG_INT("worker", message->worker), LOG_STR("error", err.message));
  struct control_worker_event event = {message->worker, message->epoch, err.message};
  send_event(core, CONTROL_WORKER_BROKEN, &event);
}

/* ---- retirement -------------------------------------------------------------------------------------------------- */

void core_retire_worker(struct core *core, const struct control_worker_retire *message) {
  pthread_mutex_lock(&core->lock);
  list_each (link, &core->attachments) {
    struct attachment *attachment = list_item(link, struct attachment, link);
    if (attachment->worker != message->worker || attachment->epoch != message->epoch || attachment->retiring) continue;
    if (attachment->attached) attachment->model->attached--;
    attachment->retiring = true;
    for (uint32_t i = 0; i < attachment->n_lanes; i++) {
      struct lane *lane = &attachment->lanes[i];
      /* one that is busy goes with its batch: whether it is still there is seen by that */
      if (lane->instance != NULL && sched_instance_retire(core->sched, lane->instance, clock_now_ns()))
        lane->instance = NULL;
    }
  }
  pthread_mutex_unlock(&core->lock);
}

static bool holds_batches(const struct core *core, const struct attachment *attachment) {
  if (!list_empty(&attachment->flights)) return true;
  list_each (link, &core->stalled)
    if (list_item(link, struct flight, link)->attachment == attachment) return true;
  return false;
}

void core_settle_workers(struct core *core) {
  list_each (link, &core->attachments) {
    struct attachment *attachment = list_item(link, struct attachment, link);
    if (!attachment->retiring || attachment->retired || holds_batches(core, attachment)) continue;
    const struct control_worker_event event = {attachment->worker, attachment->epoch, ""};
    attachment->retired = true;
    send_event(core, CONTROL_WORKER_RETIRED, &event);
  }
}

/* ---- death ------------------------------------------------------------------------------------------------------- */

/* Its batches: the scheduler takes the requests back, the flights go. Locked. */
static void lose_flights(struct core *core, struct attachment *attachment, bool blamed) {
  uint64_t retried = 0;
  bool flying[CHANNEL_LANES_MAX] = {false};
  struct list *const lists[] = {&attachment->flights, &core->stalled};
  for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
    list_each (link, lists[i]) {
      struct flight *flight = list_item(link, struct flight, link);
      if (flight->attachment != attachment) continue;
      flying[flight->lane] = true;
      if (!blamed || !flight->batch->jobs[0]->suspect)
        retried += flight->batch->live; /* alone, it is not tried again */
      flight_free(core, flight);
    }
  attachment->model->model.stats->retries += retried;
  for (uint32_t i = 0; i < attachment->n_lanes; i++) {
    bool there = attachment->lanes[i].instance != NULL && (!attachment->retiring || flying[i]);
    if (!there) continue;
    sched_instance_lost(core->sched, attachment->lanes[i].instance, blamed, clock_now_ns());
    break; /* with it go its siblings */
  }
}

void core_worker_gone(struct core *core, const struct control_worker_gone *message) {
  struct list outbox;
  list_init(&outbox);
  pthread_mutex_lock(&core->lock);
  list_each (link, &core->attachments) {
    struct attachment *attachment = list_item(link, struct attachment, link);
    if (attachment->worker != message->worker || attachment->epoch != message->epoch) continue;
    if (attachment->attached) {
      attachment_drain_completions(attachment, &outbox); /* what it finished before it died counts */
      attachment->model->attached -= !attachment->retiring;
    }
    attachment->gone = true;
    attachment->unrung = false;
    lose_flights(core, attachment, message->blamed);
    list_remove(link);
    core->worker_deaths += !attachment->retired; /* that one was to leave */
    net_loop_post(attachment->home->net, &attachment->close_post);
    attachment_release(attachment);
    core_run(core, &outbox);
    break;
  }
  pthread_mutex_unlock(&core->lock);
  core_deliver(&outbox, &core->loops[0]);
}
