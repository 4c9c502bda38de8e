/*
 * Loading and unloading models, and which there are, on behalf of a client of any protocol. The supervisor does it; its
 * answer comes as an event on the loop that asked, which goes on serving meanwhile.
 *
 * Who may ask is for gateway_admin_allowed (admin.h) to say, before.
 */
#ifndef GATEWAY_MODEL_CONTROL_H
#define GATEWAY_MODEL_CONTROL_H

#include "api/model_parameter.h"
#include "gateway/core.h"

struct model_control;

/* On the loop that asked, some time after the call returned. status MU_OK: it is done; else text says why not. The
 * control is gone after it. */
typedef void (*model_control_done_fn)(void *context, mu_status status, const char *text);

/*
 * Asks for a model to be loaded, or loaded again: answered when requests find it, or when it cannot be served (the
 * version before it then still serves). Parameters, all borrowed for the call: "config", a STRING, is JSON of a
 * ModelConfig; "file:VERSION/NAME", BYTES or BASE64, is the content of a model file, and needs a config. What is wrong
 * with them is known at once: MU_INVALID, MU_UNSUPPORTED (files other than the model file itself), MU_TOO_LARGE,
 * MU_NO_MEMORY, MU_IO; `done` is not called then.
 */
MUST_CHECK mu_status model_control_load(struct gateway_loop *loop, const char *name,
                                        const struct model_parameter *parameters, size_t n_parameters,
                                        model_control_done_fn done, void *context, struct model_control **ret_control,
                                        mu_error *err);

/* Asks for a model to be unloaded: answered when no new request finds it; those that have it end as usual. One that is
 * not loaded is no error. "unload_dependents", a BOOL, is taken: nothing depends on a model here. As above. */
MUST_CHECK mu_status model_control_unload(struct gateway_loop *loop, const char *name,
                                          const struct model_parameter *parameters, size_t n_parameters,
                                          model_control_done_fn done, void *context, struct model_control **ret_control,
                                          mu_error *err);

/* Before the repository index is read from the core (core_index_models): answered when what is in the repository is
 * known. Only needed where model_control_index_is_old. As above. */
MUST_CHECK mu_status model_control_index(struct gateway_loop *loop, model_control_done_fn done, void *context,
                                         struct model_control **ret_control, mu_error *err);
bool model_control_index_is_old(const struct core *core);

/* Nobody waits for it any more: `done` is not called; what was asked for is done all the same. On the loop that asked;
 * accepts NULL. */
void model_control_forget(struct model_control *control);

/* CONTROL_MODEL_CONTROL_DONE; loop 0. */
void model_control_done(struct core *core, const struct control_model_control_done *message);

#endif
