/*
 * The model of a worker: loaded, held against its configuration, with all its instances. Main thread of the worker; the
 * instances belong to the lanes' threads while those run.
 */
#ifndef WORKER_WORKER_MODEL_H
#define WORKER_WORKER_MODEL_H

#include "control/message.h"
#include "engine/engine.h"
#include "model/model_metadata.h"

struct worker_model {
  const struct engine_entry *entry;
  const mu_engine *engine; /* of entry */
  mu_engine_model *model;
  mu_engine_instance **instances;
  uint32_t n_instances;
  const mu_model_info *info; /* of model */
  struct model_config *config;
  struct model_metadata *metadata;
};

/* The configuration that start brings. MU_INVALID, MU_UNSUPPORTED, MU_NO_MEMORY. */
MUST_CHECK mu_status worker_model_config(const struct control_worker_start *start, struct model_config **ret_config,
                                         mu_error *err);

/*
 * addresses: what the engine has found in the network; NULL where it needs none. Loads what start describes, creates
 * its instances, and decides on batching (DESIGN: an explicit max_batch_size is obeyed; without one, rows are checked
 * for independence). Why it is not batched, if nobody said so, is in metadata->batch_note. Errors: those of the engine,
 * of model_config_parse and of model_metadata_create.
 */
MUST_CHECK mu_status worker_model_load(const struct control_worker_start *start, const char *addresses,
                                       struct worker_model *ret_model, mu_error *err);
void worker_model_free(struct worker_model *model); /* accepts a zeroed one */

#endif
