/*
 * An instance of the model and what it needs to run jobs of the channel: gathering inputs that do not lie next to each
 * other, writing outputs to their places, keeping those that did not fit. A lane lives as long as the model; the
 * gateways that use it come and go, and each has a seat at it while it is attached. Seats of several gateways run their
 * jobs one after the other, in the order in which they came. lane_run: the seat's thread; lane_stop: any thread.
 */
#ifndef WORKER_LANE_H
#define WORKER_LANE_H

#include "channel/channel.h"

struct lane;
struct lane_seat;

/* Engine, instance and info are borrowed. NULL without memory. */
struct lane *lane_create(const mu_engine *engine, mu_engine_instance *instance, const mu_model_info *info);
/* Accepts NULL; after all of its seats. */
void lane_free(struct lane *lane);

/* A place at the lane for a gateway with this memory, which is borrowed. NULL without memory. */
struct lane_seat *lane_seat_create(struct lane *lane, const struct shared_memory *input, struct shared_memory *output);
/* Accepts NULL; when none of its jobs runs. */
void lane_seat_free(struct lane_seat *seat);

/*
 * Runs the job (checked by channel_worker_wait) when it is the seat's turn, and describes the outcome in
 * ret_completion, which is always complete. MU_OK, also when the engine refused the input; MU_IO: the device is lost,
 * no further job may be given.
 */
MUST_CHECK mu_status lane_run(struct lane_seat *seat, const struct channel_job *job,
                              struct channel_completion *ret_completion);

/* The run of this batch of the seat's, if it is the one in progress, should end soon. */
void lane_stop(struct lane_seat *seat, uint64_t batch);
/* Whatever is in progress for the seat should end soon. */
void lane_stop_any(struct lane_seat *seat);

#endif
