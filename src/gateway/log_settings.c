#include "gateway/log_settings.h"

/* On loop 0, which has the control socket. What changed meanwhile goes along. */
static void tell_supervisor(struct net_post *post) {
  struct core *core = list_item(post, struct core, log_post);
  pthread_mutex_lock(&core->lock);
  core->log_posted = false;
  const struct log_settings settings = log_current();
  pthread_mutex_unlock(&core->lock);
  const struct control_log_settings message = control_log_settings_of(&settings);
  if (control_link_send(core->control, CONTROL_LOG_SETTINGS, &message, NULL, 0) != MU_OK)
    LOG_ERROR("the supervisor cannot be told", LOG_STR("what", control_type_name(CONTROL_LOG_SETTINGS)));
}

void gateway_change_log(struct core *core, const struct log_change *change, struct log_settings *ret_settings) {
  pthread_mutex_lock(&core->lock); /* of two clients at the same time none undoes the other's */
  struct log_settings settings = log_current();
  log_change_apply(change, &settings);
  log_apply(&settings);
  bool post = change->fields != 0 && !core->log_posted;
  if (post) core->log_posted = true;
  pthread_mutex_unlock(&core->lock);
  if (post) {
    core->log_post.run = tell_supervisor;
    net_loop_post(core->loops[0].net, &core->log_post);
  }
  *ret_settings = settings;
}
