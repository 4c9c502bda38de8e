/*
 * The runs before a model is ready: those that config.pbtxt asks for (model_warmup), which must succeed, or one with
 * invented zeros, which may be refused. Main thread of the worker, before the lanes exist.
 */
#ifndef WORKER_WARMUP_H
#define WORKER_WARMUP_H

#include "worker/worker_model.h"

enum { WARMUP_NOTE_MAX = 512 };

/*
 * Every instance runs. folder: of the model, whose `warmup` holds the files. ret_note: "" or why the engine refused the
 * invented input, which is no failure. Errors: MU_NOT_FOUND, MU_IO: a warm-up file, or the device; MU_INVALID:
 * model_warmup does not fit the model; whatever the engine says of a configured run.
 */
MUST_CHECK mu_status warmup_run(const struct worker_model *model, const char *folder, char ret_note[WARMUP_NOTE_MAX],
                                mu_error *err);

#endif
