/*
 * MPS for services: one control daemon for each GPU that several of them share, kept by a process in the role `mps` (as
 * the supervisor's are), so that the daemon's end is the keeper's end. Services of that GPU start when it answers. What
 * is decided for a GPU holds as long as a service runs there. All of it belongs to the launch, on its loop's thread.
 */
#ifndef LAUNCH_MPS_H
#define LAUNCH_MPS_H

#include <jansson.h>
#include <sys/types.h>

#include "launch/plan.h"

struct launch;
struct launched;
struct mps_daemon;

/* ---- mps_plan.c: pure but for the search for the control program --------------------------------------------------
 */

/* Services of groups that may have MPS on that GPU. */
uint32_t launch_mps_plan_count(const struct plan *plan, const struct plan_gpu *gpu);
/* Does a group with --mps=on have that GPU? */
bool launch_mps_plan_wanted(const struct plan *plan, const struct plan_gpu *gpu);
/* Why that GPU cannot have MPS, into text; "": it can. */
void launch_mps_plan_obstacle(const struct plan *plan, const struct plan_gpu *gpu, char *text, size_t size);
/* MU_INVALID: a group wants what cannot be. */
MUST_CHECK mu_status launch_mps_plan_check(const struct plan *plan, mu_error *err);

/* ---- mps.c ------------------------------------------------------------------------------------------------------- */

enum { MPS_VARIABLES_MAX = 3, MPS_VARIABLE_SIZE = 160 };
struct mps_variables {
  char text[MPS_VARIABLES_MAX][MPS_VARIABLE_SIZE];
  size_t n;
};

/* May the service start? false: it waits (its reason says for what), or has failed. May start a daemon. */
bool launch_mps_admit(struct launched *service);
/* What it is started with, "NAME=VALUE"; none where it runs without MPS. It counts as a client from now on. */
void launch_mps_prepare(struct launched *service, struct mps_variables *ret_variables);
/* Its daemon is asked whether it is a client. */
void launch_mps_service_ready(struct launched *service);
/* Before it is killed: its processes that are clients are ended by the daemon, since killing one that has work in
 * flight is undefined for the others of its GPU. true: service_kill comes when that is done, or it comes to nothing. */
bool launch_mps_terminate(struct launched *service);
/* A person starts it anew: what has failed is tried again. */
void launch_mps_service_restart(struct launched *service);

/* A fault has ended the clients of that GPU: nobody starts there before the last one has left. */
void launch_mps_settle(struct launch *launch, int32_t index);

/* In every turn of the loop: daemons that waited for their clients to leave. */
void launch_mps_turn(struct launch *launch);
/* Ends all daemons. true: none is left; else launch_changed says when to ask again. */
bool launch_mps_end(struct launch *launch);
/* How long that may take. */
uint64_t launch_mps_end_ns(const struct launch *launch);
/* When the loop is gone. */
void launch_mps_free(struct launch *launch);

/* Is it a keeper? */
bool launch_mps_keeps(const struct launch *launch, pid_t pid);

/* Of all GPUs where it was decided; NULL without memory. */
json_t *launch_mps_json(const struct launch *launch);
/* true, false: a client or not; null: without MPS, or not known yet. */
json_t *launch_mps_service_json(const struct launched *service);

#endif
