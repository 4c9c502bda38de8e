/*
 * An instance of the model and what it needs to run jobs of the channel: gathering inputs that do not lie next to each
 * other, writing outputs to their places, keeping those that did not fit. A lane lives as long as the model; the
 * channel that feeds it changes with the gateway. lane_run, lane_begin: the lane's thread; lane_stop: any thread.
 */
#ifndef WORKER_LANE_H
#define WORKER_LANE_H

#include "channel/channel.h"

struct lane;

/* Engine, instance and info are borrowed. NULL without memory. */
struct lane *lane_create(const mu_engine *engine, mu_engine_instance *instance, const mu_model_info *info);
void lane_free(struct lane *lane); /* accepts NULL */

/* Before the first job from a gateway: forgets results kept for the one before. */
void lane_begin(struct lane *lane, const struct shared_memory *input, struct shared_memory *output);

/*
 * Runs the job (checked by channel_worker_wait) and describes the outcome in ret_completion, which is always complete.
 * MU_OK, also when the engine refused the input; MU_IO: the device is lost, no further job may be given.
 */
MUST_CHECK mu_status lane_run(struct lane *lane, const struct channel_job *job,
                              struct channel_completion *ret_completion);

/* The run of this batch, if it is the one in progress, should end soon. */
void lane_stop(struct lane *lane, uint64_t batch);
/* Whatever is in progress should end soon. */
void lane_stop_any(struct lane *lane);

#endif
