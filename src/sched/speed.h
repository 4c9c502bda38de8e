/*
 * How fast the devices of a model are beside one another, learned from its batches. A batch of n rows of a key is
 * expected to run for curve_ns(n) / speed: the curve holds the times of the fastest device, so that what it says of
 * batch sizes is not mixed up with where they ran. A model on one device has nothing to compare, and costs nothing
 * here.
 *
 * Speeds are followed slowly (a share of the way with each batch) and used in steps, so that noise is no reason to
 * prefer a device: what is nearly as fast as the fastest counts as that. A slow device that got nothing for long gets
 * one batch as if it were fast: it may have recovered.
 */
#ifndef SCHED_SPEED_H
#define SCHED_SPEED_H

#include "sched/state.h"

/* Of its device, in the steps in which it is used, and of itself (sched_add_instance). */
double speed_of(const struct sched_instance *instance);

/* What ran for ran_ns here would have run so long on the fastest; and the other way round. By what was measured. */
double speed_scaled_ns(const struct sched_instance *instance, double ran_ns);
double speed_expected_ns(const struct sched_instance *instance, double fastest_ns);

/* A batch of rows ran on the instance. Before its key's curve learns of it. */
void speed_learn(const struct sched_instance *instance, const struct sched_key *key, uint32_t rows, uint64_t ran_ns);

/* A batch starts on the share; one that had none for long may be due to be measured again. */
void speed_used(struct sched_share *share);

/* Speeds of all instances that could start or have a batch, added up, for one of this speed that starts one. */
double speed_at_work(const struct sched_model *model, double speed);

#endif
