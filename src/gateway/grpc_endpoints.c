/* gRPC's unary methods that are no inference: the twins of endpoints.c, model_endpoints.c and region_endpoints.c. */
#include "api/grpc_documents.h"
#include "gateway/admin.h"
#include "gateway/grpc.h"
#include "gateway/log_settings.h"
#include "gateway/model_control.h"
#include "gateway/region_change.h"

#include <stdlib.h>
#include <string.h>

/* ---- answers ----------------------------------------------------------------------------------------------------- */

/* call.reply, or the error. The call is gone then. */
static void answer(struct call *call, mu_status status, const char *message) {
  if (status == MU_OK)
    grpc_reply_message(call);
  else
    grpc_reply_error(call, grpc_code_for(call, status), message);
  call_free(call);
}

static void answer_empty(struct call *call, mu_status status, const char *message) {
  mu_error err;
  if (status == MU_OK) {
    status = grpc_reply_empty(&call->reply, &err);
    message = err.message;
  }
  answer(call, status, message);
}

/* What an endpoint returns where the answer comes later. */
enum { LATER = MU_STATUS_COUNT };

static void on_gone(struct exchange *exchange) {
  struct call *call = exchange->user;
  call->exchange = NULL;
  call_free(call);
}

/* The call waits for an answer from elsewhere; nothing more comes from its client. */
static void wait(struct call *call) {
  static const struct exchange_handler handler = {.gone = on_gone};
  call->handler = &handler;
}

/* ---- health and metadata ----------------------------------------------------------------------------------------- */

static mu_status hold_model(struct call *call, const struct grpc_request *request, mu_error *err) {
  memcpy(call->route.model, request->name, strlen(request->name) + 1);
  call->route.version = request->version;
  return inference_hold_model(call, err);
}

static mu_status server_live(struct call *call, struct grpc_request *request, mu_error *err) {
  return grpc_reply_flag(&call->reply, true, err);
}

static mu_status server_ready(struct call *call, struct grpc_request *request, mu_error *err) {
  return grpc_reply_flag(&call->reply, core_ready(call->loop->core), err);
}
