/*
 * What the engine wants shown of a loaded model (the backends of a remote one), told to the supervisor once a second
 * when it has changed. Main thread of the worker.
 */
#ifndef WORKER_ENGINE_REPORT_H
#define WORKER_ENGINE_REPORT_H

#include "base/buffer.h"
#include "worker/worker_model.h"

struct engine_report {
  struct buffer last, now; /* as sent; as made */
  uint64_t due_ns;
};

void engine_report_init(struct engine_report *report);
void engine_report_free(struct engine_report *report); /* accepts a zeroed one */

/* Tells it when it is time to; *ret_wait_ms: when to call next; -1: this engine has nothing to show. Errors as
 * control_send; a report that finds no memory is made the next time. */
MUST_CHECK mu_status engine_report_send(struct engine_report *report, const struct worker_model *model, int control,
                                        int *ret_wait_ms, mu_error *err);

#endif
