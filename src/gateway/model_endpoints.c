/* The model repository over HTTP: load, unload, index. */
#include "api/rest_documents.h"
#include "api/rest_repository.h"
#include "gateway/endpoints.h"
#include "gateway/model_control.h"

#include <stdlib.h>

static void on_done(void *context, mu_status status, const char *text) {
  struct call *call = context;
  mu_error err;
  call->control = NULL;
  snprintf(err.message, sizeof err.message, "%s", text);
  endpoint_answer_empty(call, status, &err);
  call_free(call);
}

typedef mu_status (*control_fn)(struct gateway_loop *loop, const char *name, const struct model_parameter *parameters,
                                size_t n_parameters, model_control_done_fn done, void *context,
                                struct model_control **ret_control, mu_error *err);

static void ask(struct call *call, control_fn control) {
  struct model_parameter parameters[MODEL_PARAMETERS_MAX];
  struct arena memory = {0};
  size_t n = 0;
  mu_error err;
  mu_status status = rest_repository_parse(call->text.data, call->text.size, &memory, parameters, &n, &err);
  if (status == MU_OK)
    status = control(call->loop, call->route.model, parameters, n, on_done, call, &call->control, &err);
  arena_free(&memory);
  /* A body that brought a model need not wait along. */
  buffer_free(&call->text);
  core_unstage(call->loop->core, call->text_staged);
  call->text_staged = 0;
  if (status != MU_OK) endpoint_answer_empty(call, status, &err);
}

void model_endpoint_load(struct call *call) { ask(call, model_control_load); }
void model_endpoint_unload(struct call *call) { ask(call, model_control_unload); }

/* ---- the index --------------------------------------------------------------------------------------------------- */

static void answer_index(struct call *call) {
  struct core *core = call->loop->core;
  mu_error err = {"no memory for the document"};
  mu_status status = MU_NO_MEMORY;
  size_t n;
  pthread_mutex_lock(&core->lock);
  const struct model **models = core_index_models(core, &n);
  if (models != NULL)
    status = document_repository_index(&call->reply, models, n, call->text.data, call->text.size, &err);
  pthread_mutex_unlock(&core->lock);
  free(models);
  endpoint_answer_document(call, status, &err);
}

/* Where the repository could not be looked at, what is known is still the answer. */
static void on_listed(void *context, mu_status status, const char *text) {
  struct call *call = context;
  call->control = NULL;
  answer_index(call);
  call_free(call);
}

void model_endpoint_index(struct call *call) {
  mu_error err;
  if (!model_control_index_is_old(call->loop->core) ||
      model_control_index(call->loop, on_listed, call, &call->control, &err) != MU_OK)
    answer_index(call);
}
