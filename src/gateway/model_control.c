#include "gateway/model_control.h"

#include "base/log.h"
#include "gateway/model_override.h"

#include <stdlib.h>
#include <string.h>

/*
 * The way of one: made on the loop that asked (`home`), posted to loop 0, which has the control link; there it waits in
 * core.controls until the supervisor answers, and is posted back home. Each step owns it alone but for `forgotten`,
 * which only home looks at and sets.
 */
struct model_control {
  struct list link; /* core.controls */
  struct net_post post;
  struct gateway_loop *home;
  bool forgotten;
  model_control_done_fn done;
  void *context;
  enum control_type type;
  uint64_t serial;
  char *name; /* NULL: the index */
  struct model_override override;
  mu_status status;
  mu_error error;
};

static void free_control(struct model_control *control) {
  model_override_free(&control->override);
  free(control->name);
  free(control);
}

static void come_home(struct net_post *post) {
  struct model_control *control = list_item(post, struct model_control, post);
  if (!control->forgotten) control->done(control->context, control->status, control->error.message);
  free_control(control);
}

static void go_home(struct model_control *control, mu_status status, const char *text) {
  list_remove(&control->link);
  control->status = status;
  snprintf(control->error.message, sizeof control->error.message, "%s", text);
  control->post.run = come_home;
  net_loop_post(control->home->net, &control->post);
}

static mu_status send_to_supervisor(const struct model_control *control) {
  struct control_link *link = control->home->core->control;
  const struct model_override *override = &control->override;
  const struct control_model_load load = {
      .serial = control->serial,
      .name = control->name,
      .config = {override->config, override->config_size},
      .versions = {(const char *) override->versions, override->n_files * sizeof override->versions[0]},
  };
  const struct control_model_unload unload = {control->serial, control->name};
  const struct control_model_index index = {control->serial};
  switch (control->type) {
    case CONTROL_MODEL_LOAD:
      return control_link_send(link, control->type, &load, override->files, override->n_files);
    case CONTROL_MODEL_UNLOAD:
      return control_link_send(link, control->type, &unload, NULL, 0);
    default:
      return control_link_send(link, control->type, &index, NULL, 0);
  }
}

/* Loop 0. */
static void ask(struct net_post *post) {
  struct model_control *control = list_item(post, struct model_control, post);
  struct core *core = control->home->core;
  control->serial = ++core->last_control;
  mu_status status = send_to_supervisor(control);
  model_override_free(&control->override); /* the supervisor has them, or nobody will */
  if (status == MU_OK)
    list_push_back(&core->controls, &control->link);
  else
    go_home(control, MU_UNAVAILABLE, "the supervisor cannot be asked for it now");
}

void model_control_done(struct core *core, const struct control_model_control_done *message) {
  list_each (link, &core->controls) {
    struct model_control *control = list_item(link, struct model_control, link);
    if (control->serial != message->serial) continue;
    go_home(control, message->status < 0 ? (mu_status)message->status : MU_OK, message->text);
    return;
  }
  LOG_WARNING("an answer that nobody has asked for", LOG_INT("serial", message->serial));
}

void model_control_forget(struct model_control *control) {
  if (control != NULL) control->forgotten = true;
}

/* override is taken over. */
static mu_status begin(struct gateway_loop *loop, enum control_type type, const char *name,
                       struct model_override *override, model_control_done_fn done, void *context,
                       struct model_control **ret_control, mu_error *err) {
  struct model_control *control = calloc(1, sizeof *control);
  char *copy = control != NULL && name != NULL ? strdup(name) : NULL;
  if (control == NULL || (name != NULL && copy == NULL)) {
    free(control);
    model_override_free(override);
    return mu_fail(err, MU_NO_MEMORY, "no memory for the request");
  }
  *control = (struct model_control){.home = loop,
                                    .done = done,
                                    .context = context,
                                    .type = type,
                                    .name = copy,
                                    .override = *override,
                                    .post.run = ask};
  list_init(&control->link);
  *ret_control = control;
  net_loop_post(loop->core->loops[0].net, &control->post);
  return MU_OK;
}

mu_status model_control_load(struct gateway_loop *loop, const char *name, const struct model_parameter *parameters,
                             size_t n_parameters, model_control_done_fn done, void *context,
                             struct model_control **ret_control, mu_error *err) {
  struct model_override override = {0};
  mu_status status = model_override_create(name, parameters, n_parameters, &override, err);
  if (status != MU_OK) return status;
  return begin(loop, CONTROL_MODEL_LOAD, name, &override, done, context, ret_control, err);
}

mu_status model_control_unload(struct gateway_loop *loop, const char *name, const struct model_parameter *parameters,
                               size_t n_parameters, model_control_done_fn done, void *context,
                               struct model_control **ret_control, mu_error *err) {
  static const char known[] = "unload_dependents";
  struct model_override none = {0};
  for (size_t i = 0; i < n_parameters; i++) {
    const struct model_parameter *parameter = &parameters[i];
    bool is_known = parameter->key_size == sizeof known - 1 && memcmp(parameter->key, known, sizeof known - 1) == 0;
    if (is_known && parameter->kind != MODEL_PARAMETER_BOOL)
      return mu_fail(err, MU_INVALID, "parameter 'unload_dependents' must be a bool");
    if (!is_known)
      return mu_fail(err, MU_INVALID, "unrecognized unload parameter '%.*s'",
                     (int)(parameter->key_size < 100 ? parameter->key_size : 100), parameter->key);
  }
  return begin(loop, CONTROL_MODEL_UNLOAD, name, &none, done, context, ret_control, err);
}

mu_status model_control_index(struct gateway_loop *loop, model_control_done_fn done, void *context,
                              struct model_control **ret_control, mu_error *err) {
  struct model_override none = {0};
  return begin(loop, CONTROL_MODEL_INDEX, NULL, &none, done, context, ret_control, err);
}

bool model_control_index_is_old(const struct core *core) {
  return core->options->model_control_mode == CONTROL_MODE_EXPLICIT;
}
