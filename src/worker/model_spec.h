/*
 * What an engine is asked to load, put together from config.pbtxt and from what the supervisor says. Worker only.
 */
#ifndef WORKER_MODEL_SPEC_H
#define WORKER_MODEL_SPEC_H

#include "base/arena.h"
#include "config/options.h"
#include "control/message.h"
#include "model/model_config.h"

/*
 * addresses: of an engine's network; NULL: it has none. Everything in ret_spec is borrowed from the arguments, or
 * allocated from memory.
 * MU_INVALID: config.pbtxt sets a parameter that is muster's own (`muster.…`); MU_UNSUPPORTED: an execution accelerator
 * that muster does not know; MU_NO_MEMORY.
 */
MUST_CHECK mu_status model_spec_create(const struct control_worker_start *start, const struct model_config *config,
                                       const struct options *options, const char *addresses, struct arena *memory,
                                       mu_model_spec *ret_spec, mu_error *err);

#endif
