/*
 * Models that the repository index lists though they are not served: those that nobody has asked for, those that were
 * unloaded, those that could not be loaded. The gateways know the same list.
 */
#include <stdlib.h>

#include "supervisor/state.h"

/* Clients may ask as often as they like; the folder is not read more often than this. */
static const uint64_t listing_ns = NS_PER_S;
/* Names that somebody invents, with files that he sends along, must not fill the memory. */
enum { NOTES_MAX = 1 << 16 };

static void tell(struct supervisor *s, struct gateway *gateway, const struct model_note *note, bool kept) {
  const struct control_model_note message = {note->name, note->version, kept, note->reason};
  if (gateway != NULL)
    gateway_tell(gateway, CONTROL_MODEL_NOTE, &message, NULL, 0);
  else
    gateways_tell(s, CONTROL_MODEL_NOTE, &message);
}

static void drop(struct supervisor *s, struct model_note *note) {
  tell(s, NULL, note, false);
  list_remove(&note->link);
  free(note->reason);
  free(note->name);
  free(note);
}

static int order(const struct model_note *note, const char *name, int64_t version) {
  int names = strcmp(note->name, name);
  return names != 0 ? names : (note->version > version) - (note->version < version);
}

/* The first one from `at` on that is not before (name, version). */
static struct list *skip_to(struct supervisor *s, struct list *at, const char *name, int64_t version) {
  while (at != &s->operations.notes && order(list_item(at, struct model_note, link), name, version) < 0) at = at->next;
  return at;
}

static bool is_at(const struct supervisor *s, struct list *at, const char *name, int64_t version) {
  return at != &s->operations.notes && order(list_item(at, struct model_note, link), name, version) == 0;
}

/* Before `at`. NULL without memory. */
static struct model_note *add(struct supervisor *s, struct list *at, const char *name, int64_t version,
                              const char *reason) {
  struct model_note *note = calloc(1, sizeof *note);
  if (note == NULL) return NULL;
  *note = (struct model_note){.name = strdup(name), .reason = strdup(reason), .version = version};
  if (note->name != NULL && note->reason != NULL) {
    list_insert_before(at, &note->link);
    tell(s, NULL, note, true);
    return note;
  }
  free(note->name);
  free(note->reason);
  free(note);
  return NULL;
}

void model_note(struct supervisor *s, const char *name, int64_t version, const char *reason) {
  struct list *at = skip_to(s, s->operations.notes.next, name, version);
  if (is_at(s, at, name, version)) {
    at = at->next;
    drop(s, list_item(at->prev, struct model_note, link));
  }
  size_t n = 0;
  list_each (link, &s->operations.notes) n++;
  if (n >= NOTES_MAX || add(s, at, name, version, reason) == NULL)
    LOG_ERROR("no room to list a model that is not served", LOG_STR("model", name));
}

void model_notes_forget(struct supervisor *s, const char *name) {
  list_each (link, &s->operations.notes) {
    struct model_note *note = list_item(link, struct model_note, link);
    if (strcmp(note->name, name) != 0) continue;
    if (note->version == 0 && note->reason[0] != '\0') add(s, link, name, 0, "");
    if (note->version != 0 || note->reason[0] != '\0') drop(s, note);
  }
}

/* Both are in ascending order. */
static void compare(struct supervisor *s, const struct repository *repository) {
  struct list *at = s->operations.notes.next;
  list_each (link, &s->operations.notes) list_item(link, struct model_note, link)->seen = false;
  for (size_t i = 0; i < repository->n_models; i++) {
    const char *name = repository->models[i].name;
    at = skip_to(s, at, name, 0);
    struct model_note *note = is_at(s, at, name, 0) ? list_item(at, struct model_note, link) : add(s, at, name, 0, "");
    if (note != NULL) note->seen = true;
  }
  list_each (old, &s->operations.notes) {
    struct model_note *note = list_item(old, struct model_note, link);
    if (note->version == 0 && !note->seen) drop(s, note);
  }
}

void model_notes_list(struct supervisor *s) {
  struct repository repository = {0};
  mu_error err;
  uint64_t now = clock_now_ns();
  if (model_choices(s) == NULL) return; /* all of the repository is served, or should be: it is listed as that */
  if (s->operations.listed_ns != 0 && now - s->operations.listed_ns < listing_ns) return;
  if (repository_names(s->options->models.items, s->options->models.n, &repository, &err) != MU_OK) {
    LOG_ERROR("the repository cannot be listed", LOG_STR("error", err.message));
    return;
  }
  s->operations.listed_ns = now;
  compare(s, &repository);
  repository_free(&repository);
}

void model_notes_tell(struct supervisor *s, struct gateway *gateway) {
  list_each (link, &s->operations.notes) tell(s, gateway, list_item(link, struct model_note, link), true);
}

void model_notes_free(struct supervisor *s) {
  list_each (link, &s->operations.notes) drop(s, list_item(link, struct model_note, link));
}
