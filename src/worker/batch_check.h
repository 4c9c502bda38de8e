/*
 * Whether the rows of a batch leave each other alone: rows of different magnitude are run together and one by one, and
 * must come out the same. A model that fails this (dynamic quantisation, a normalisation over the batch, an output that
 * is not as long as the batch) gives wrong answers when requests of strangers share a batch.
 */
#ifndef WORKER_BATCH_CHECK_H
#define WORKER_BATCH_CHECK_H

#include "base/status.h"

enum { BATCH_NOTE_MAX = 256 };

/*
 * Runs it on an instance that nobody else uses. MU_OK with ret_note "": the rows are independent, as far as this can be
 * seen; with a sentence in ret_note: they are not, or no invented input was accepted. MU_IO: the device is lost;
 * MU_NO_MEMORY.
 */
MUST_CHECK mu_status batch_check(const mu_engine *engine, mu_engine_instance *instance, const mu_model_info *info,
                                 uint32_t max_batch, char ret_note[BATCH_NOTE_MAX], mu_error *err);

#endif
