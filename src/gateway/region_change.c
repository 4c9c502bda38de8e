#include "gateway/region_change.h"

#include "base/log.h"

#include <stdio.h>

/* ---- asking ------------------------------------------------------------------------------------------------------ */

static void run_done(struct net_post *post) {
  struct region_change *change = list_item(post, struct region_change, post);
  change->done(change);
}

static void finish(struct region_change *change) {
  list_remove(&change->link);
  change->post.run = run_done;
  net_loop_post(change->loop->net, &change->post);
}

static mu_status tell_supervisor(struct core *core, const struct region_change *change) {
  const struct control_region_register with = {change->serial, change->name, change->key, change->offset,
                                               change->byte_size};
  const struct control_region_unregister without = {change->serial, change->name};
  return change->registers ? control_link_send(core->control, CONTROL_REGION_REGISTER, &with, NULL, 0)
                           : control_link_send(core->control, CONTROL_REGION_UNREGISTER, &without, NULL, 0);
}

/* On loop 0, which speaks to the supervisor. */
static void ask(struct net_post *post) {
  struct region_change *change = list_item(post, struct region_change, post);
  struct core *core = change->loop->core;
  change->serial = ++core->last_region_change;
  list_push_back(&core->region_changes, &change->link);
  if (tell_supervisor(core, change) == MU_OK) return;
  change->status = mu_fail(&change->error, MU_UNAVAILABLE, "the supervisor cannot be asked now");
  finish(change);
}

void region_change_begin(struct region_change *change, struct gateway_loop *loop) {
  change->loop = loop;
  change->post.run = ask;
  list_init(&change->link);
  net_loop_post(loop->core->loops[0].net, &change->post);
}

/* ---- what the supervisor says ------------------------------------------------------------------------------------ */

/* Nobody is to believe that it is there. */
static void undo(struct core *core, const char *name) {
  const struct control_region_unregister message = {0, name};
  if (control_link_send(core->control, CONTROL_REGION_UNREGISTER, &message, NULL, 0) != MU_OK)
    LOG_ERROR("a shared memory region stays registered that cannot be used", LOG_STR("region", name));
}

void region_change_set(struct core *core, const struct control_region_set *message, int fd) {
  if (fd < 0)
    LOG_WARNING("no free file descriptor for a shared memory region (ulimit -n)", LOG_STR("region", message->name));
  if (regions_set(&core->regions, message, fd) == MU_OK) return;
  LOG_ERROR("no memory for a shared memory region: it is unregistered", LOG_STR("region", message->name));
  undo(core, message->name);
}

void region_change_remove(struct core *core, const struct control_region_remove *message) {
  regions_remove(&core->regions, message->name);
}

/* A region that has found no memory or no descriptor here is of no use to who registered it. */
static void check_usable(struct core *core, struct region_change *change) {
  struct region *region = regions_hold(&core->regions, change->name);
  bool usable = region != NULL && region->fd >= 0;
  region_release(region);
  if (usable) return;
  change->status = mu_fail(&change->error, MU_UNAVAILABLE,
                           "failed to register shared memory region '%.200s': no memory or no free file descriptor for "
                           "it (ulimit -n)",
                           change->name);
  undo(core, change->name);
}

void region_change_finish(struct core *core, const struct control_region_changed *message) {
  list_each (link, &core->region_changes) {
    struct region_change *change = list_item(link, struct region_change, link);
    if (change->serial != message->serial) continue;
    change->status = (mu_status)message->status;
    if (change->status != MU_OK)
      snprintf(change->error.message, sizeof change->error.message, "%s", message->why);
    else if (change->registers)
      check_usable(core, change);
    finish(change);
    return;
  }
}
