/*
 * The model of a worker: loaded, held against its configuration, with all its instances. Main thread of the worker; the
 * instances belong to the lanes' threads while those run.
 */
#ifndef WORKER_WORKER_MODEL_H
#define WORKER_WORKER_MODEL_H

#include "control/message.h"
#include "model/model_metadata.h"

struct worker_model {
  const mu_engine *engine;
  mu_engine_model *model;
  mu_engine_instance **instances;
  uint32_t n_instances;
  const mu_model_info *info; /* of model */
  struct model_config *config;
  struct model_metadata *metadata;
};

/*
 * Loads what start describes, creates its instances, and decides on batching (DESIGN: an explicit max_batch_size is
 * obeyed; without one, rows are checked for independence). Why it is not batched, if nobody said so, is in
 * metadata->batch_note. Errors: those of the engine, of model_config_parse and of model_metadata_create.
 */
MUST_CHECK mu_status worker_model_load(const struct control_worker_start *start, struct worker_model *ret_model,
                                       mu_error *err);
void worker_model_free(struct worker_model *model); /* accepts a zeroed one */

#endif
