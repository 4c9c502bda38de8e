#include "gateway/admin.h"

bool gateway_admin_allowed(const struct call *call, mu_error *err) {
  switch ((enum admin)call->loop->core->options->admin) {
    case ADMIN_ALL:
      return true;
    case ADMIN_LOCAL:
      if (exchange_peer_is_local(call->exchange)) return true;
      mu_fail(err, MU_UNAVAILABLE,
              "only clients on the server's own machine may ask for this (--admin=local); --admin=all lets everybody");
      return false;
    case ADMIN_OFF:
      break;
  }
  mu_fail(err, MU_UNAVAILABLE, "nobody may ask for this over the network: the server was started with --admin=off");
  return false;
}
