/*
 * The models that a gateway knows, from CONTROL_MODEL_SET until nothing is left of them. The table that requests look
 * names up in holds one generation of each version; another one may be loading beside it, and earlier ones, which
 * requests still have, may be leaving.
 */
#include "base/log.h"
#include "gateway/attachment.h"

#include <stdlib.h>
#include <string.h>

void core_free_model(struct gateway_model *model) {
  if (model == NULL) return;
  slot_pool_free(model->slots);
  arena_space_free(model->input_space);
  shared_memory_close(&model->input);
  model_config_free(model->model.config);
  model_metadata_free(model->model.metadata);
  model_stats_free(model->model.stats);
  free(model->model.name);
  free(model->model.reason);
  free(model);
}

/* ---- finding ----------------------------------------------------------------------------------------------------- */

/* Position of the first entry that is not before (name, version). */
static size_t lower_bound(const struct core *core, const char *name, int64_t version) {
  size_t low = 0, high = core->n_models;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    const struct model *model = &core->models[middle]->model;
    int order = strcmp(model->name, name);
    if (order < 0 || (order == 0 && model->version < version))
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

struct gateway_model *core_hold_model(struct core *core, const char *name, int64_t version) {
  struct gateway_model *found = NULL;
  pthread_mutex_lock(&core->lock);
  for (size_t i = lower_bound(core, name, version < 0 ? 0 : version); i < core->n_models; i++) {
    struct gateway_model *model = core->models[i];
    if (strcmp(model->model.name, name) != 0 || (version >= 0 && model->model.version != version)) break;
    if (found == NULL || core_model_ready(model) || !core_model_ready(found)) found = model;
  }
  if (found != NULL) atomic_fetch_add(&found->calls, 1);
  pthread_mutex_unlock(&core->lock);
  return found;
}

void core_release_model(struct gateway_model *model) { atomic_fetch_sub(&model->calls, 1); }

struct gateway_model *core_model_by_number(struct core *core, uint32_t number) {
  list_each (link, &core->known) {
    struct gateway_model *model = list_item(link, struct gateway_model, link);
    if (model->number == number) return model;
  }
  return NULL;
}

/* ---- coming ------------------------------------------------------------------------------------------------------ */

mu_status core_add_model(struct core *core, struct gateway_model *model) {
  /* Room in the table for all that are known: to list one cannot fail. */
  struct gateway_model **models = reallocarray(core->models, core->n_known + 1, sizeof(struct gateway_model *));
  if (models == NULL) return MU_NO_MEMORY;
  core->models = models;
  core->n_known++;
  list_push_back(&core->known, &model->link);
  return MU_OK;
}

void core_list_model(struct core *core, struct gateway_model *model) {
  size_t at = lower_bound(core, model->model.name, model->model.version);
  struct gateway_model *there = at < core->n_models ? core->models[at] : NULL;
  model->listed = true;
  if (there != NULL && strcmp(there->model.name, model->model.name) == 0 &&
      there->model.version == model->model.version) {
    there->listed = false;
    core->models[at] = model;
    return;
  }
  memmove(core->models + at + 1, core->models + at, (core->n_models - at) * sizeof *core->models);
  core->models[at] = model;
  core->n_models++;
}

/* ---- leaving ----------------------------------------------------------------------------------------------------- */

static void unlist(struct core *core, struct gateway_model *model) {
  if (!model->listed) return;
  size_t at = lower_bound(core, model->model.name, model->model.version);
  model->listed = false;
  core->n_models--;
  memmove(core->models + at, core->models + at + 1, (core->n_models - at) * sizeof *core->models);
}

static void say_removed(struct core *core, uint32_t number) {
  const struct control_model_number message = {number};
  if (control_link_send(core->control, CONTROL_MODEL_REMOVED, &message, NULL, 0) != MU_OK)
    LOG_ERROR("the supervisor cannot be told", LOG_INT("model", number),
              LOG_STR("what", control_type_name(CONTROL_MODEL_REMOVED)));
}

void core_remove_model(struct core *core, const struct control_model_number *message) {
  pthread_mutex_lock(&core->lock);
  struct gateway_model *model = core_model_by_number(core, message->model);
  if (model != NULL) {
    unlist(core, model);
    model->leaving = true;
  } else { /* it could not be made here */
    say_removed(core, message->model);
  }
  pthread_mutex_unlock(&core->lock);
}

void core_settle_models(struct core *core) {
  list_each (link, &core->known) {
    struct gateway_model *model = list_item(link, struct gateway_model, link);
    /* Calls are only looked at here, some time after the last one: who lets go of a model touches nothing of it. */
    if (!model->leaving || atomic_load(&model->calls) > 0) continue;
    if (!model->removed) say_removed(core, model->number);
    model->removed = true;
    if (model->attachments > 0) continue;
    if (model->sched != NULL) sched_remove_model(core->sched, model->sched, clock_now_ns());
    list_remove(link);
    core->n_known--;
    core_free_model(model);
  }
}

/* ---- those that are not served ----------------------------------------------------------------------------------- */

static void free_note(struct model *note) {
  free(note->name);
  free(note->reason);
  free(note);
}

static struct model *create_note(const struct control_model_note *message) {
  struct model *note = calloc(1, sizeof *note);
  if (note == NULL) return NULL;
  bool nameless = message->version == 0 && message->reason[0] == '\0';
  *note = (struct model){.name = strdup(message->name),
                         .reason = strdup(message->reason),
                         .version = message->version,
                         .state = nameless ? MODEL_UNKNOWN : MODEL_UNAVAILABLE};
  if (note->name != NULL && note->reason != NULL) return note;
  free_note(note);
  return NULL;
}

static int order_note(const struct model *note, const char *name, int64_t version) {
  int order = strcmp(note->name, name);
  return order != 0 ? order : (note->version > version) - (note->version < version);
}

static size_t note_place(const struct core *core, const char *name, int64_t version) {
  size_t low = 0, high = core->n_notes;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (order_note(core->notes[middle], name, version) < 0)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static void drop_note(struct core *core, size_t at) {
  free_note(core->notes[at]);
  core->n_notes--;
  memmove(core->notes + at, core->notes + at + 1, (core->n_notes - at) * sizeof *core->notes);
}

static bool insert_note(struct core *core, size_t at, const struct control_model_note *message) {
  if (core->n_notes == core->notes_capacity) {
    size_t capacity = core->notes_capacity == 0 ? 16 : 2 * core->notes_capacity;
    struct model **notes = reallocarray(core->notes, capacity, sizeof *notes);
    if (notes == NULL) return false;
    core->notes = notes;
    core->notes_capacity = capacity;
  }
  struct model *note = create_note(message);
  if (note == NULL) return false;
  memmove(core->notes + at + 1, core->notes + at, (core->n_notes++ - at) * sizeof *core->notes);
  core->notes[at] = note;
  return true;
}

void core_note_model(struct core *core, const struct control_model_note *message) {
  bool done = true;
  pthread_mutex_lock(&core->lock);
  size_t at = note_place(core, message->name, message->version);
  if (at < core->n_notes && order_note(core->notes[at], message->name, message->version) == 0) drop_note(core, at);
  if (message->kept) done = insert_note(core, at, message);
  pthread_mutex_unlock(&core->lock);
  if (!done) LOG_ERROR("no memory to list a model that is not served", LOG_STR("model", message->name));
}

/* A name says more than that it is there when a version of it is served, or was. */
static bool says_more(const struct core *core, size_t at) {
  const struct model *note = core->notes[at];
  size_t served = lower_bound(core, note->name, 0);
  if (served < core->n_models && strcmp(core->models[served]->model.name, note->name) == 0)
    return note->version == 0; /* and what became of another version is worth a line */
  bool more = at + 1 < core->n_notes && strcmp(core->notes[at + 1]->name, note->name) == 0;
  return note->version == 0 && more;
}

const struct model **core_index_models(const struct core *core, size_t *ret_n) {
  const struct model **models = calloc(core->n_models + core->n_notes + 1, sizeof *models);
  size_t n = 0;
  for (size_t i = 0; models != NULL && i < core->n_models; i++) models[n++] = &core->models[i]->model;
  for (size_t i = 0; models != NULL && i < core->n_notes; i++)
    if (!says_more(core, i)) models[n++] = core->notes[i];
  *ret_n = n;
  return models;
}

/* ---- what documents say ------------------------------------------------------------------------------------------ */

const struct model **core_models_of(const struct core *core, const char *name, int64_t version, size_t *ret_n) {
  const struct model **models = calloc(core->n_models + 1, sizeof *models);
  size_t n = 0;
  for (size_t i = 0; models != NULL && i < core->n_models; i++) {
    const struct model *model = &core->models[i]->model;
    if ((name[0] == '\0' || strcmp(model->name, name) == 0) && (version < 0 || model->version == version))
      models[n++] = model;
  }
  *ret_n = n;
  return models;
}

int64_t *core_versions_of(const struct core *core, const char *name, size_t *ret_n) {
  int64_t *versions = calloc(core->n_models + 1, sizeof *versions);
  size_t n = 0;
  for (size_t i = 0; versions != NULL && i < core->n_models; i++)
    if (strcmp(core->models[i]->model.name, name) == 0) versions[n++] = core->models[i]->model.version;
  *ret_n = n;
  return versions;
}

mu_status core_not_loaded(const struct model *model, mu_error *err) {
  return mu_fail(err, MU_UNAVAILABLE, "Request for unknown model: '%s' is not loaded%s%s", model->name,
                 model->reason[0] != '\0' ? ": " : "", model->reason);
}
