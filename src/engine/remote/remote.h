/*
 * The engine `remote`: a model that other servers run, which speak the Open Inference Protocol over HTTP or gRPC. A run
 * is one inference of the healthy backend with the least work; docs/engine-remote.md. Worker only.
 */
#ifndef ENGINE_REMOTE_REMOTE_H
#define ENGINE_REMOTE_REMOTE_H

#include "base/buffer.h"

/* Cannot be loaded without ENGINE_ADDRESSES_PARAMETER. */
extern const mu_engine engine_remote;

/* JSON of what the backends are up to, appended to out. Any thread. */
MUST_CHECK mu_status remote_report(const mu_engine_model *model, struct buffer *out);

#endif
