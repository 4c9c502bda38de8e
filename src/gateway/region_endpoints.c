/* Shared memory of clients over HTTP: status, register, unregister. */
#include "api/rest_documents.h"
#include "gateway/call.h"
#include "gateway/endpoints.h"
#include "gateway/region_change.h"

#include <stdlib.h>
#include <string.h>

/* ---- status ------------------------------------------------------------------------------------------------------ */

void endpoint_region_status(struct call *call) {
  struct region **regions = NULL;
  size_t n = 0;
  mu_error err = {"no memory for the document"};
  mu_status status = regions_hold_all(&call->loop->core->regions, call->route.region, &regions, &n, &err);
  if (status == MU_OK) {
    struct region_view *views = calloc(n + 1, sizeof *views);
    for (size_t i = 0; views != NULL && i < n; i++)
      views[i] = (struct region_view){regions[i]->name, regions[i]->key, regions[i]->offset, regions[i]->byte_size};
    status = views != NULL ? document_regions(&call->reply, views, n) : MU_NO_MEMORY;
    free(views);
    regions_release_all(regions, n);
  }
  endpoint_answer_document(call, status, &err);
}

void endpoint_cuda_region_status(struct call *call) {
  mu_error err = {"no memory for the document"};
  mu_status status =
      call->route.region[0] == '\0'
          ? document_regions(&call->reply, NULL, 0)
          : mu_fail(&err, MU_NOT_FOUND, "Unable to find cuda shared memory region: '%.255s'", call->route.region);
  endpoint_answer_document(call, status, &err);
}

/* ---- changes: the call waits for the supervisor ------------------------------------------------------------------ */

static void on_changed(struct region_change *change) {
  struct call *call = change->context;
  if (call != NULL) { /* the client is still there */
    endpoint_answer_empty(call, change->status, &change->error);
    call_free(call);
  }
  free(change);
}

static void on_gone(struct exchange *exchange) {
  struct call *call = exchange->user;
  call->region_change->context = NULL;
  call_free(call);
}

static mu_status fill(struct region_change *change, const struct call *call, mu_error *err) {
  change->registers = call->route.endpoint == ENDPOINT_REGION_REGISTER;
  memcpy(change->name, call->route.region, sizeof change->name);
  if (!change->registers) return MU_OK;
  const char *body = call->text.data != NULL ? call->text.data : "";
  return document_region_register(body, call->text.size, change->key, sizeof change->key, &change->offset,
                                  &change->byte_size, err);
}

void endpoint_region_change(struct call *call) {
  static const struct exchange_handler waiting = {.gone = on_gone};
  mu_error err = {"no memory for the request"};
  struct region_change *change = calloc(1, sizeof *change);
  mu_status status = change != NULL ? fill(change, call, &err) : MU_NO_MEMORY;
  if (status != MU_OK) {
    free(change);
    endpoint_answer_empty(call, status, &err);
    return;
  }
  change->done = on_changed;
  change->context = call;
  call->region_change = change;
  call->handler = &waiting;
  region_change_begin(change, call->loop);
}

void endpoint_cuda_region_register(struct call *call) {
  mu_error err;
  mu_fail(&err, MU_UNSUPPORTED,
          "failed to register CUDA shared memory region: '%.200s': muster does not open CUDA memory of clients; use "
          "system shared memory",
          call->route.region);
  endpoint_answer_empty(call, MU_UNSUPPORTED, &err);
}

/* There is none: nothing is left registered. */
void endpoint_cuda_region_unregister(struct call *call) { endpoint_answer_empty(call, MU_OK, NULL); }
