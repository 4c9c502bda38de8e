/* The tensors of a call that are in shared memory of its client. They are copied on the loop of the call, inputs into
 * the input arena before the call is queued, outputs when it is answered: what the client does to its memory in between
 * changes nothing. */
#include "api/infer_shared_memory.h"
#include "gateway/admin.h"
#include "gateway/call.h"

/* Who may not register regions may not use those of others either: names can be guessed, and what is read and written
 * is not the client's own. */
static mu_status check_allowed(const struct call *call, mu_error *err) {
  mu_error why;
  if (gateway_admin_allowed(call, &why)) return MU_OK;
  return mu_fail(err, MU_INVALID, "shared memory cannot be used by this client: %.400s", why.message);
}

mu_status call_hold_regions(struct call *call, mu_error *err) {
  struct request *request = &call->request;
  mu_status status = request->n_shares > 0 ? check_allowed(call, err) : MU_OK;
  for (uint32_t i = 0; status == MU_OK && i < request->n_shares; i++) {
    struct request_share *share = &request->shares[i];
    status = regions_hold_part(&call->loop->core->regions, share->name, share->offset, share->byte_size, share->output,
                               &share->region, err);
  }
  return status;
}

void call_release_regions(struct call *call) {
  for (uint32_t i = 0; i < call->request.n_shares; i++) region_release(call->request.shares[i].region);
}

mu_status call_read_regions(struct call *call, mu_error *err) {
  const struct request *request = &call->request;
  mu_status status = MU_OK;
  if (request->n_shares == 0) return MU_OK;
  for (uint32_t i = 0; status == MU_OK && i < request->n_inputs; i++) {
    const struct request_input *input = &request->inputs[i];
    if (input->source != INPUT_SHARED) continue;
    const struct request_share *share = &request->shares[input->share - 1];
    status = region_read(share->region, share->offset, input->data, input->size, err);
  }
  return status;
}

/* NULL: it was not produced. */
static const mu_tensor *find_result(const struct call *call, uint32_t index) {
  for (uint32_t i = 0; i < call->n_results; i++)
    if (call->results[i].index == index) return &call->results[i].tensor;
  return NULL;
}

mu_status call_write_regions(struct call *call, mu_error *err) {
  const struct request *request = &call->request;
  const struct model *model = &call->model->model;
  mu_status status = MU_OK;
  if (request->n_shares == 0) return MU_OK;
  for (uint32_t i = 0; status == MU_OK && i < request->n_outputs; i++) {
    const struct request_output *output = &request->outputs[i];
    const mu_tensor *result = output->share > 0 ? find_result(call, output->index) : NULL;
    if (result == NULL) continue; /* the reply says which one is missing */
    const struct request_share *share = &request->shares[output->share - 1];
    status = infer_output_fits(model, request, output, result->size, err);
    if (status == MU_OK) status = region_write(share->region, share->offset, result->data, result->size, err);
  }
  return status;
}
