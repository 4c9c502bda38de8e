/*
 * Models loaded and unloaded on request (--model-control-mode=explicit), and the watch over the repository (poll). A
 * request is an operation: one after the other, each by way of reload.c, so that what serves goes on until what comes
 * is ready. An operation whose gateway has died is done all the same.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "supervisor/state.h"

enum { OPERATIONS_MAX = 1024, DIGEST_MAX = 1 << 30 };

static void free_operation(struct model_operation *operation) {
  if (operation == NULL) return;
  list_remove(&operation->link);
  model_choice_free(operation->choice);
  free(operation);
}

static void answer(struct gateway *asker, uint64_t serial, mu_status status, const char *text) {
  const struct control_model_control_done message = {serial, status, text};
  if (asker != NULL) gateway_tell(asker, CONTROL_MODEL_CONTROL_DONE, &message, NULL, 0);
}

/* ---- one after the other ----------------------------------------------------------------------------------------- */

/* A load is about what serves: while that is still on its way for the first time nobody can say what became of it. */
static bool is_still_loading(const struct supervisor *s, const char *name) {
  list_each (link, &s->models) {
    const struct served_model *model = list_item(link, struct served_model, link);
    if (model->role == SERVED && model->state == MODEL_LOADING && !model->was_ready && strcmp(model->name, name) == 0)
      return true;
  }
  return false;
}

void operations_next(struct supervisor *s) {
  if (s->reload.going || s->reload.again || upgrade_is_going(s) || s->phase >= PHASE_DRAINING) return;
  if (served_models_wait_for_gpus(s)) return;
  if (list_empty(&s->operations.waiting)) return;
  struct model_operation *operation = list_item(s->operations.waiting.next, struct model_operation, link);
  if (operation->load && is_still_loading(s, operation->choice->name)) return;
  list_remove(&operation->link);
  LOG_INFO(operation->load ? "loading a model on request" : "unloading a model on request",
           LOG_STR("model", operation->choice->name), LOG_INT("files", operation->choice->n_files),
           LOG_INT("config_bytes", operation->choice->config_size));
  reload_operate(s, operation);
}

bool operations_is_busy(const struct supervisor *s) {
  return s->reload.operation != NULL || !list_empty(&s->operations.waiting);
}

/* ---- what is asked for ------------------------------------------------------------------------------------------- */

static mu_status check_mode(const struct supervisor *s, mu_error *err) {
  switch ((enum control_mode)s->options->model_control_mode) {
    case CONTROL_MODE_EXPLICIT:
      return MU_OK;
    case CONTROL_MODE_POLL:
      return mu_fail(err, MU_INVALID,
                     "explicit model load / unload is not allowed if polling is enabled (--model-control-mode=poll); "
                     "start the server with --model-control-mode=explicit for it");
    case CONTROL_MODE_NONE:
      break;
  }
  return mu_fail(err, MU_INVALID,
                 "explicit model load / unload is not allowed if model control mode is NONE; start the server with "
                 "--model-control-mode=explicit for it");
}

static mu_status check_now(const struct supervisor *s, mu_error *err) {
  size_t waiting = 0;
  list_each (link, &s->operations.waiting) waiting++;
  mu_status status = check_mode(s, err);
  if (status != MU_OK) return status;
  if (s->options->admin == ADMIN_OFF) return mu_fail(err, MU_INVALID, "--admin=off"); /* the gateway refuses it first */
  if (s->phase >= PHASE_DRAINING) return mu_fail(err, MU_UNAVAILABLE, "the server is stopping");
  if (upgrade_is_going(s)) return mu_fail(err, MU_UNAVAILABLE, "an upgrade of the server is going on: try again");
  if (waiting >= OPERATIONS_MAX)
    return mu_fail(err, MU_UNAVAILABLE, "%d requests to load or unload models wait already", OPERATIONS_MAX);
  return MU_OK;
}

/* A memfd that nobody can change any more: what a gateway that was taken over could pass off as one is refused. */
static bool is_sealed(int fd) {
  const int needed = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW;
  struct stat file;
  int seals = fcntl(fd, F_GET_SEALS);
  return seals >= 0 && (seals & needed) == needed && fstat(fd, &file) == 0 && S_ISREG(file.st_mode);
}

static mu_status check_files(const int64_t *versions, const struct control_packet *packet, mu_error *err) {
  if (packet->n_fds != packet->model_load.versions.size / sizeof *versions ||
      packet->model_load.versions.size % sizeof *versions != 0)
    return mu_fail(err, MU_UNAVAILABLE, "no free file descriptor for the model's files (ulimit -n)");
  if (packet->n_fds > 0 && packet->model_load.config.size == 0)
    return mu_fail(err, MU_INVALID, "files without a configuration");
  for (size_t i = 0; i < packet->n_fds; i++) {
    if (versions[i] <= 0 || !is_sealed(packet->fds[i])) return mu_fail(err, MU_INVALID, "a file that is none");
    for (size_t k = 0; k < i; k++)
      if (versions[k] == versions[i]) return mu_fail(err, MU_INVALID, "two files for one version");
  }
  return MU_OK;
}

static mu_status check_name(const char *name, mu_error *err) {
  if (model_name_valid(name, strlen(name))) return MU_OK;
  return mu_fail(err, MU_INVALID, "that cannot be the name of a model");
}

/* choice is taken over. */
static mu_status add_operation(struct gateway *gateway, uint64_t serial, bool load, struct model_choice *choice,
                               mu_error *err) {
  struct model_operation *operation = choice != NULL ? calloc(1, sizeof *operation) : NULL;
  if (operation == NULL) {
    model_choice_free(choice);
    return mu_fail(err, MU_NO_MEMORY, "no memory or no free file descriptor for the request");
  }
  *operation = (struct model_operation){.asker = gateway, .serial = serial, .load = load, .choice = choice};
  list_push_back(&gateway->supervisor->operations.waiting, &operation->link);
  operations_next(gateway->supervisor);
  return MU_OK;
}

void operations_load(struct gateway *gateway, const struct control_packet *packet) {
  const struct control_model_load *message = &packet->model_load;
  int64_t versions[CONTROL_FDS_MAX] = {0};
  mu_error err;
  if (message->versions.size <= sizeof versions && message->versions.size > 0)
    memcpy(versions, message->versions.data, message->versions.size);
  mu_status status = check_now(gateway->supervisor, &err);
  if (status == MU_OK) status = check_name(message->name, &err);
  if (status == MU_OK) status = check_files(versions, packet, &err);
  if (status == MU_OK)
    status =
        add_operation(gateway, message->serial, true,
                      model_choice_create(message->name, &message->config, versions, packet->fds, packet->n_fds), &err);
  if (status != MU_OK) answer(gateway, message->serial, status, err.message);
}

void operations_unload(struct gateway *gateway, const struct control_model_unload *message) {
  mu_error err;
  mu_status status = check_now(gateway->supervisor, &err);
  if (status == MU_OK) status = check_name(message->name, &err);
  if (status == MU_OK)
    status =
        add_operation(gateway, message->serial, false, model_choice_create(message->name, NULL, NULL, NULL, 0), &err);
  if (status != MU_OK) answer(gateway, message->serial, status, err.message);
}

void operations_index(struct gateway *gateway, const struct control_model_index *message) {
  model_notes_list(gateway->supervisor);
  answer(gateway, message->serial, MU_OK, "");
}

/* ---- what became of it ------------------------------------------------------------------------------------------- */

static bool is_served(const struct supervisor *s, const char *name) {
  list_each (link, &s->models) {
    const struct served_model *model = list_item(link, struct served_model, link);
    if (model->role == SERVED && strcmp(model->name, name) == 0) return true;
  }
  return false;
}

/* The versions that a report lists, for the index. */
static void note_versions(struct supervisor *s, const char *list, const char *reason) {
  size_t i;
  json_t *entry;
  json_array_foreach(json_object_get(s->reload.report, list), i, entry) {
    const char *why = reason != NULL ? reason : json_string_value(json_object_get(entry, "reason"));
    model_note(s, json_string_value(json_object_get(entry, "name")),
               json_integer_value(json_object_get(entry, "version")), why);
  }
}

static void finish_load(struct supervisor *s, struct model_operation *operation, bool took) {
  const char *name = operation->choice->name;
  model_notes_forget(s, name);
  if (!is_served(s, name)) note_versions(s, "failed", NULL);
  if (!took) return;
  model_choice_put(&s->choices, operation->choice);
  operation->choice = NULL;
}

static void finish_unload(struct supervisor *s, const struct model_operation *operation) {
  model_choice_free(model_choice_find(&s->choices, operation->choice->name));
  model_notes_forget(s, operation->choice->name);
  note_versions(s, "removed", "unloaded");
}

void operations_finished(struct supervisor *s, struct model_operation *operation, mu_status status, bool took,
                         const char *text) {
  char whole[640];
  const char *name = operation->choice->name;
  snprintf(whole, sizeof whole,
           status == MU_NOT_FOUND ? "failed to load '%s', failed to poll from model repository: %s" : "%.0s%s", name,
           text);
  if (status != MU_OK)
    LOG_ERROR(operation->load ? "model cannot be loaded" : "model cannot be unloaded", LOG_STR("model", name),
              LOG_STR("error", whole));
  else
    LOG_INFO(operation->load ? "model loaded on request" : "model unloaded on request", LOG_STR("model", name),
             LOG_INT("ms", (clock_now_ns() - s->reload.started_ns) / NS_PER_MS));
  if (operation->load)
    finish_load(s, operation, took);
  else if (status == MU_OK)
    finish_unload(s, operation);
  answer(operation->asker, operation->serial, status, whole);
  free_operation(operation);
}

void operations_reloaded(struct supervisor *s) {
  list_each (link, &s->choices) {
    struct model_choice *choice = list_item(link, struct model_choice, link);
    if (!is_served(s, choice->name)) model_choice_free(choice);
  }
}

void operations_forget(struct supervisor *s, const struct gateway *gateway) {
  list_each (link, &s->operations.waiting) {
    struct model_operation *operation = list_item(link, struct model_operation, link);
    if (operation->asker == gateway) operation->asker = NULL;
  }
  if (s->reload.operation != NULL && s->reload.operation->asker == gateway) s->reload.operation->asker = NULL;
}

void operations_abort(struct supervisor *s) {
  for (struct list *link; (link = list_pop_front(&s->operations.waiting)) != NULL;) {
    struct model_operation *operation = list_item(link, struct model_operation, link);
    answer(operation->asker, operation->serial, MU_UNAVAILABLE, "the server is stopping");
    free_operation(operation);
  }
  uv_timer_stop(&s->operations.poll_timer);
}

/* ---- poll -------------------------------------------------------------------------------------------------------- */

static void on_poll(uv_timer_t *timer) {
  struct supervisor *s = timer->data;
  /* The next look comes soon enough. */
  if (s->reload.going || s->reload.again || upgrade_is_going(s) || s->phase >= PHASE_DRAINING) return;
  reload_poll(s);
}

void operations_init(struct supervisor *s) {
  list_init(&s->choices);
  list_init(&s->operations.waiting);
  list_init(&s->operations.notes);
  buffer_init(&s->operations.digest, DIGEST_MAX);
}

void operations_start(struct supervisor *s) {
  uint64_t ms = (uint64_t)s->options->repository_poll_ns / NS_PER_MS;
  uv_timer_init(net_loop_uv(s->loop), &s->operations.poll_timer);
  s->operations.poll_timer.data = s;
  model_notes_list(s);
  if (s->options->model_control_mode == CONTROL_MODE_POLL && ms > 0)
    uv_timer_start(&s->operations.poll_timer, on_poll, ms, ms);
}

void operations_free(struct supervisor *s) {
  for (struct list *link; (link = list_pop_front(&s->operations.waiting)) != NULL;)
    free_operation(list_item(link, struct model_operation, link));
  model_choices_free(&s->choices);
  model_notes_free(s);
  buffer_free(&s->operations.digest);
}
