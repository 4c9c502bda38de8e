/*
 * Settings and repository read anew, while everything serves on. What concerns all (settings that do not parse or that
 * a reload cannot change, a repository that cannot be read) refuses the whole before anything has changed. Then every
 * model goes its own way: one that is new or changed loads beside the others and is found by requests when it is ready;
 * the one before it leaves only then; and stays when the new one cannot be served.
 */
#include <stdlib.h>
#include <unistd.h>

#include "control/answer.h"
#include "supervisor/gpu_room.h"

/* ---- what became of it ------------------------------------------------------------------------------------------- */

static void record(struct supervisor *s, const char *list, const struct served_model *model, const char *reason) {
  json_t *entry = json_pack("{s:s, s:I}", "name", model->name, "version", (json_int_t)model->version);
  if (reason != NULL) json_object_set_new(entry, "reason", json_string(reason));
  json_array_append_new(json_object_get(s->reload.report, list), entry);
}

static size_t recorded(const struct supervisor *s, const char *list) {
  return json_array_size(json_object_get(s->reload.report, list));
}

static void record_failure(struct supervisor *s, const struct served_model *model) {
  LOG_ERROR("model cannot be reloaded", LOG_STR("model", model->name), LOG_INT("version", model->version),
            LOG_STR("error", model->reason));
  record(s, "failed", model, model->reason);
}

static void answer(struct supervisor *s) {
  struct exchange *exchange = s->reload.waiting;
  s->reload.waiting = NULL;
  if (exchange == NULL) return;
  control_answer(exchange, 200, json_incref(s->reload.report));
}

static void log_end(const struct supervisor *s, const char *state, const char *error) {
  const struct reload *reload = &s->reload;
  if (reload->operation != NULL) return; /* whose end is said by operations_finished */
  if (error != NULL)
    LOG_ERROR("reload refused, everything is as it was", LOG_STR("error", error));
  else
    LOG_AT(recorded(s, "failed") > 0 ? LOG_LEVEL_ERROR : LOG_LEVEL_INFO, "reloaded", LOG_STR("state", state),
           LOG_INT("added", recorded(s, "added")), LOG_INT("changed", recorded(s, "changed")),
           LOG_INT("removed", recorded(s, "removed")), LOG_INT("unchanged", recorded(s, "unchanged")),
           LOG_INT("failed", recorded(s, "failed")), LOG_INT("ms", (clock_now_ns() - reload->started_ns) / NS_PER_MS));
}

/* Does a version serve that the operation wanted, or with an unload none? */
static bool has_taken(const struct supervisor *s) {
  return recorded(s, "added") + recorded(s, "changed") + recorded(s, "unchanged") > 0;
}

static void finish_operation(struct supervisor *s, mu_status status, const char *error) {
  struct model_operation *operation = s->reload.operation;
  const json_t *failed = json_array_get(json_object_get(s->reload.report, "failed"), 0);
  char text[600];
  s->reload.operation = NULL;
  if (failed != NULL) {
    status = MU_INVALID;
    snprintf(text, sizeof text, "load failed for model '%s': version %lld is at UNAVAILABLE state: %s",
             operation->choice->name, (long long)json_integer_value(json_object_get(failed, "version")),
             json_string_value(json_object_get(failed, "reason")));
    error = text;
  }
  operations_finished(s, operation, status, error == NULL || has_taken(s), error != NULL ? error : "");
}

/* status, error: of all of it; MU_OK, NULL: none. */
static void finish(struct supervisor *s, const char *state, mu_status status, const char *error) {
  struct reload *reload = &s->reload;
  reload->going = reload->marked = false;
  json_object_set_new(reload->report, "state", json_string(state));
  if (error != NULL) json_object_set_new(reload->report, "error", json_string(error));
  log_end(s, state, error);
  if (reload->operation != NULL)
    finish_operation(s, status, error);
  else if (error == NULL)
    operations_reloaded(s);
  answer(s);
  upgrade_reloaded(s);
  reload_resume(s);
  supervisor_tell(s);
}

/* With the loop's next turn: whatever has just ended may be on the way through the lists. */
static void resume(struct net_post *post) {
  struct supervisor *s = list_item(post, struct supervisor, resume_post);
  s->resume_posted = false;
  if (s->reload.again && !s->reload.going && !upgrade_is_going(s) && !served_models_wait_for_gpus(s))
    reload_request(s, NULL);
  operations_next(s);
}

void reload_resume(struct supervisor *s) {
  if ((!s->reload.again && list_empty(&s->operations.waiting)) || s->resume_posted) return;
  s->resume_posted = true;
  s->resume_post.run = resume;
  net_loop_post(s->loop, &s->resume_post);
}

/* ---- going on ---------------------------------------------------------------------------------------------------- */

/* One that is to come and was not started yet: one_by_one. */
static struct served_model *find_waiting(const struct supervisor *s) {
  list_each (link, &s->models) {
    struct served_model *model = list_item(link, struct served_model, link);
    if (model->role == COMING && model->workers[0].number == 0) return model;
  }
  return NULL;
}

static bool any_loads(const struct supervisor *s) {
  list_each (link, &s->models) {
    const struct served_model *model = list_item(link, struct served_model, link);
    if (model->role == COMING && model->workers[0].number != 0) return true;
  }
  return false;
}

static void start_next(struct supervisor *s) {
  struct served_model *next = any_loads(s) ? NULL : find_waiting(s);
  if (next != NULL) workers_start(next);
}

static bool any_coming(const struct supervisor *s) {
  list_each (link, &s->models)
    if (list_item(link, struct served_model, link)->role == COMING) return true;
  return false;
}

/* Over when nothing is to come any more and the gateway has done what it was told: who then asks is answered by the new
 * state. A gateway that is not there hears of that state first of all. */
static void advance(struct supervisor *s) {
  if (s->reload.going && s->reload.one_by_one) start_next(s);
  if (!s->reload.going || s->reload.looking || s->reload.marked || any_coming(s)) return;
  list_each (link, &s->models) list_item(link, struct served_model, link)->outgoing = false;
  const struct control_mark message = {s->reload.serial};
  s->reload.marked = true;
  gateway_tell(s->gateway, CONTROL_MARK, &message, NULL, 0);
}

void reload_marked(struct supervisor *s) {
  if (!s->reload.going || !s->reload.marked) return;
  finish(s, recorded(s, "failed") > 0 ? "partly applied" : "applied", MU_OK, NULL);
}

/* Is it the one whose place the other takes? A model that had no version at all has version 0. */
static bool is_place_of(const struct served_model *served, const struct served_model *other) {
  return served->role == SERVED && served != other && strcmp(served->name, other->name) == 0 &&
         (served->version == other->version || served->version == 0);
}

static const struct served_model *find_place(const struct supervisor *s, const struct served_model *wanted) {
  list_each (link, &s->models) {
    const struct served_model *served = list_item(link, struct served_model, link);
    if (is_place_of(served, wanted)) return served;
  }
  return NULL;
}

void reload_came(struct supervisor *s, struct served_model *model) {
  bool changed = false;
  list_each (link, &s->models) {
    struct served_model *before = list_item(link, struct served_model, link);
    bool replaced = is_place_of(before, model);
    bool outgoing = before->role == SERVED && before->outgoing && strcmp(before->name, model->name) == 0;
    changed = changed || replaced;
    if (outgoing && !replaced) record(s, "removed", before, NULL);
    if (outgoing || replaced) served_model_remove(s, before);
  }
  record(s, changed ? "changed" : "added", model, NULL);
  supervisor_check(s);
  advance(s);
}

static void keep_place(struct supervisor *s, const struct served_model *model) {
  list_each (link, &s->models) {
    struct served_model *before = list_item(link, struct served_model, link);
    bool same_name = before->role == SERVED && strcmp(before->name, model->name) == 0;
    if (is_place_of(before, model) || (same_name && model->version == 0)) served_model_keep(s, before, model->reason);
  }
}

/* With an upgrade the one before is the same, but for the binary, which its workers get when they are started. */
static bool rests_as_before(const struct supervisor *s, const struct served_model *model) {
  const struct served_model *before = find_place(s, model);
  return s->reload.one_by_one && before != NULL && served_model_rests(model) && served_model_rests(before);
}

void reload_failed(struct supervisor *s, struct served_model *model) {
  if (rests_as_before(s, model)) {
    record(s, "unchanged", model, NULL);
  } else {
    record_failure(s, model);
    keep_place(s, model);
  }
  served_model_remove(s, model);
  advance(s);
}

void reload_abort(struct supervisor *s) {
  s->reload.again = false;
  if (s->reload.going) finish(s, "aborted", MU_UNAVAILABLE, "the server is stopping");
}

void reload_forget(struct supervisor *s, const struct exchange *exchange) {
  if (s->reload.waiting == exchange) s->reload.waiting = NULL;
}

/* ---- what changes ------------------------------------------------------------------------------------------------ */

static struct served_model *find_wanted(const struct list *wanted, const char *name, int64_t version) {
  list_each (link, wanted) {
    struct served_model *model = list_item(link, struct served_model, link);
    if (strcmp(model->name, name) == 0 && model->version == version) return model;
  }
  return NULL;
}

/* One that has failed is tried again though nothing about it has changed. */
static bool is_unchanged(const struct served_model *served, const struct served_model *wanted) {
  return served != NULL && served->planned && served->version == wanted->version && fingerprint_same(served, wanted) &&
         (served->state != MODEL_UNAVAILABLE || served_model_rests(served));
}

/* Whether a version that is wanted no more goes: at once, when another one of its name has come, or not at all, because
 * nobody knows what is wanted of that name. */
enum farewell { GOES, GOES_LATER, STAYS };

static enum farewell farewell_of(const struct list *wanted, const struct served_model *served) {
  enum farewell farewell = GOES;
  if (find_wanted(wanted, served->name, served->version) != NULL) return STAYS;
  list_each (link, wanted) {
    const struct served_model *other = list_item(link, struct served_model, link);
    if (strcmp(other->name, served->name) != 0) continue;
    if (!other->planned) return STAYS;
    if (other->role == COMING) farewell = GOES_LATER;
  }
  return farewell;
}

/* only: the versions of that name; NULL: all that are served. */
static void remove_unwanted(struct supervisor *s, const struct list *wanted, const char *only) {
  list_each (link, &s->models) {
    struct served_model *served = list_item(link, struct served_model, link);
    if (served->role != SERVED || (only != NULL && strcmp(served->name, only) != 0)) continue;
    served_model_forgive(s, served);
    enum farewell farewell = farewell_of(wanted, served);
    served->outgoing = farewell == GOES_LATER;
    if (farewell != GOES) continue;
    record(s, "removed", served, NULL);
    served_model_remove(s, served);
  }
}

static void start_wanted(struct supervisor *s, struct list *wanted) {
  list_each (link, wanted) {
    struct served_model *model = list_item(link, struct served_model, link);
    if (model->role == COMING) {
      served_model_insert(s, model);
      served_model_tell(s, model);
      if (!s->reload.one_by_one) workers_start(model);
      continue;
    }
    if (model->planned) {
      record(s, "unchanged", model, NULL);
    } else {
      record_failure(s, model);
      keep_place(s, model);
    }
    served_model_free(model);
  }
}

static void use_options(struct supervisor *s, struct options *options, struct buffer *encoded) {
  const struct control_options message = {{encoded->data, encoded->size}};
  options_free(s->options);
  buffer_free(&s->encoded_options);
  s->options = options;
  s->encoded_options = *encoded;
  const struct log_settings log = options_log_settings(options);
  log_apply(&log);
  gateways_tell(s, CONTROL_OPTIONS, &message);
  workers_tell(s, CONTROL_OPTIONS, &message);
  const struct control_log_settings settings = control_log_settings_of(&log);
  fleet_tell(s, CONTROL_LOG_SETTINGS, &settings);
  mps_tell(s, CONTROL_LOG_SETTINGS, &settings);
}

/* ---- reading anew: everything that can fail, before anything changes --------------------------------------------- */

static mu_status read_options(struct supervisor *s, struct options **ret_options, struct buffer *encoded,
                              mu_error *err) {
  struct options *options;
  mu_status status = options_load(s->argc, s->argv, environ, &options, err);
  if (status != MU_OK) return status;
  status = options_check_reload(s->options, options, err);
  if (status == MU_OK && options_encode(options, encoded) != MU_OK)
    status = mu_fail(err, MU_NO_MEMORY, "no memory for the settings");
  if (status != MU_OK) {
    options_free(options);
    return status;
  }
  for (size_t i = 0; i < options->warnings.n; i++) LOG_WARNING(options->warnings.items[i]);
  *ret_options = options;
  return MU_OK;
}

/* Those of wanted that have to be loaded are made ready for it. */
static mu_status enroll_wanted(struct supervisor *s, struct list *wanted, const struct options *options,
                               mu_error *err) {
  mu_status status = MU_OK;
  list_each (link, wanted) {
    struct served_model *model = list_item(link, struct served_model, link);
    if (!model->planned || is_unchanged(find_place(s, model), model)) continue;
    model->role = COMING;
    status = served_model_enroll(s, model, options, err);
    if (status != MU_OK) return status;
  }
  return status;
}

/* Those that were made ready have timers, which close with the loop's next turn. */
static void drop_wanted(struct supervisor *s, struct list *wanted) {
  list_each (link, wanted) {
    struct served_model *model = list_item(link, struct served_model, link);
    if (model->role != COMING) {
      served_model_free(model);
      continue;
    }
    served_model_insert(s, model);
    model->supervisor = s;
    model->role = LEFT;
    served_model_check_gone(model);
  }
}

/* Everything that can fail has been done: from here on it is applied. */
static void apply(struct supervisor *s, struct list *wanted, const char *only) {
  wanted_models_warn(wanted);
  remove_unwanted(s, wanted, only);
  start_wanted(s, wanted);
}

static mu_status reload_all(struct supervisor *s, mu_error *err) {
  struct options *options = NULL;
  struct buffer encoded;
  struct list wanted;
  buffer_init(&encoded, CONTROL_PACKET_MAX);
  list_init(&wanted);
  const struct planning planning = supervisor_planning(s);
  mu_status status = read_options(s, &options, &encoded, err);
  if (status == MU_OK) status = wanted_models_find(options, &planning, model_choices(s), &wanted, err);
  bool poll = status == MU_OK && options->model_control_mode == CONTROL_MODE_POLL;
  if (poll && wanted_models_digest(&wanted, &s->operations.digest) != MU_OK)
    status = mu_fail(err, MU_NO_MEMORY, "no memory for the models");
  if (status == MU_OK) status = enroll_wanted(s, &wanted, options, err);
  if (status != MU_OK) {
    buffer_clear(&s->operations.digest);
    drop_wanted(s, &wanted);
    buffer_free(&encoded);
    options_free(options);
    return status;
  }
  use_options(s, options, &encoded);
  apply(s, &wanted, NULL);
  return MU_OK;
}

static mu_status operate(struct supervisor *s, mu_error *err) {
  const struct model_operation *operation = s->reload.operation;
  struct list wanted;
  list_init(&wanted);
  mu_status status = MU_OK;
  const struct planning planning = supervisor_planning(s);
  struct placement_room rooms[GPUS_MAX];
  if (operation->load) status = wanted_model_find(s->options, &planning, operation->choice, &wanted, err);
  if (status == MU_OK) gpu_room_check(&planning, &wanted, true, rooms);
  if (status == MU_OK) status = enroll_wanted(s, &wanted, s->options, err);
  if (status == MU_OK)
    apply(s, &wanted, operation->choice->name);
  else
    drop_wanted(s, &wanted);
  return status;
}

static void begin(struct supervisor *s, struct exchange *exchange, struct model_operation *operation) {
  struct reload *reload = &s->reload;
  json_decref(reload->report);
  *reload = (struct reload){.going = true,
                            .operation = operation,
                            .again = reload->again,
                            .serial = reload->serial + 1,
                            .started_ns = clock_now_ns(),
                            .waiting = exchange,
                            .shown = reload->shown,
                            .report = json_pack("{s:s, s:[], s:[], s:[], s:[], s:[]}", "state", "running", "added",
                                                "changed", "removed", "unchanged", "failed")};
  if (operation != NULL) return;
  json_decref(reload->shown);
  reload->shown = json_incref(reload->report);
  supervisor_tell(s);
}

static void run(struct supervisor *s, mu_status (*apply_it)(struct supervisor *s, mu_error *err)) {
  mu_error err;
  mu_status status = apply_it(s, &err);
  if (status == MU_OK)
    advance(s);
  else
    finish(s, "refused", status, err.message);
}

void reload_operate(struct supervisor *s, struct model_operation *operation) {
  begin(s, NULL, operation);
  run(s, operate);
}

/* Why there cannot be one now; NULL: there can. */
static const char *find_refusal(const struct supervisor *s) {
  if (s->phase >= PHASE_DRAINING) return "the server is stopping";
  if (s->reload.operation != NULL) return "a model is being loaded or unloaded: wait for its end, then try again";
  if (s->reload.going) return "a reload is going on: wait for its end, then try again";
  if (served_models_wait_for_gpus(s)) return "the machine's GPUs are not known yet: try again in a moment";
  return upgrade_is_going(s) ? "an upgrade is going on: wait for its end, then try again" : NULL;
}

/* look: for GPUs, where there were none. */
static void request(struct supervisor *s, struct exchange *exchange, const char *reason, bool look) {
  const char *refusal = find_refusal(s);
  if (refusal != NULL && exchange != NULL) {
    exchange_reply_error(exchange, 409, refusal);
  } else if (refusal != NULL) {
    s->reload.again = s->phase < PHASE_DRAINING;
  } else {
    begin(s, exchange, NULL);
    s->reload.again = false;
    LOG_INFO("reloading", LOG_STR("reason", reason));
    s->reload.looking = look && fleet_look_again(s);
    if (!s->reload.looking) run(s, reload_all);
  }
}

void reload_request(struct supervisor *s, struct exchange *exchange) {
  request(s, exchange, exchange != NULL ? "muster reload" : "SIGHUP", true);
}

void reload_for_gpus(struct supervisor *s) { request(s, NULL, "it is known now which GPUs there are", false); }

void reload_looked(struct supervisor *s, const char *error) {
  if (!s->reload.going || !s->reload.looking) return;
  s->reload.looking = false;
  int found = (int)s->gpus.inventory.n_gpus;
  if (found > 0 || error != NULL)
    json_object_set_new(s->reload.report, "gpus",
                        json_pack("{s:i, s:s}", "found", found, "error", error != NULL ? error : ""));
  run(s, reload_all);
}

void reload_for_upgrade(struct supervisor *s) {
  begin(s, NULL, NULL);
  s->reload.again = false;
  s->reload.one_by_one = true;
  LOG_INFO("reloading", LOG_STR("reason", "muster upgrade"));
  run(s, reload_all);
}

/* ---- a look at the repository ------------------------------------------------------------------------------------ */

/* Said once, not every time. */
static void say_unreadable(struct supervisor *s, const char *error) {
  if (strcmp(s->operations.poll_error, error) == 0) return;
  snprintf(s->operations.poll_error, sizeof s->operations.poll_error, "%s", error);
  if (error[0] != '\0') LOG_ERROR("the repository cannot be read, all is served as before", LOG_STR("error", error));
}

/* What was found there is another digest than the last time; it is remembered. */
static bool is_changed(struct supervisor *s, const struct list *wanted) {
  struct buffer digest, before = s->operations.digest;
  buffer_init(&digest, before.limit);
  if (wanted_models_digest(wanted, &digest) != MU_OK) {
    buffer_free(&digest);
    return false; /* without memory: the next look will see it */
  }
  bool same = digest.size == before.size && memcmp(digest.data, before.data, digest.size) == 0;
  s->operations.digest = digest;
  buffer_free(&before);
  return !same;
}

void reload_poll(struct supervisor *s) {
  struct list wanted;
  mu_error err = {""};
  const struct planning planning = supervisor_planning(s);
  if (served_models_wait_for_gpus(s)) return;
  list_init(&wanted);
  mu_status status = wanted_models_find(s->options, &planning, NULL, &wanted, &err);
  say_unreadable(s, status == MU_OK ? "" : err.message);
  if (status != MU_OK || !is_changed(s, &wanted)) {
    served_models_free(&wanted);
    return;
  }
  begin(s, NULL, NULL);
  LOG_INFO("reloading", LOG_STR("reason", "the repository has changed"));
  status = enroll_wanted(s, &wanted, s->options, &err);
  if (status == MU_OK) {
    apply(s, &wanted, NULL);
    advance(s);
    return;
  }
  buffer_clear(&s->operations.digest);
  drop_wanted(s, &wanted);
  finish(s, "refused", status, err.message);
}
