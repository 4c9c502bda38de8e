#include "api/infer_shared_memory.h"

#include <string.h>

enum { BYTES_PREFIX = 4 }; /* the length before each element of BYTES */

/* kind: "input", "output". */
static mu_status add_share(const char *kind, const char *tensor, const struct shared_memory_parameters *parameters,
                           struct request *request, struct request_share **ret_share, mu_error *err) {
  if (!parameters->has_region)
    return mu_fail(err, MU_INVALID, "%s '%.100s': parameter \"%s\" needs a \"shared_memory_region\"", kind, tensor,
                   parameters->has_byte_size ? "shared_memory_byte_size" : "shared_memory_offset");
  if (!parameters->has_byte_size)
    return mu_fail(err, MU_INVALID,
                   "%s '%.100s': parameter \"shared_memory_region\" needs a \"shared_memory_byte_size\"", kind, tensor);
  if (parameters->region_size == 0 || parameters->region_size > REQUEST_REGION_MAX ||
      memchr(parameters->region, '\0', parameters->region_size) != NULL)
    return mu_fail(
        err, MU_INVALID,
        "%s '%.100s': \"shared_memory_region\" cannot be the name of a region: 1 to %d bytes, none of them 0", kind,
        tensor, REQUEST_REGION_MAX);
  struct request_share *share = request_add_share(request);
  if (share == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the request");
  memcpy(share->name, parameters->region, parameters->region_size);
  share->offset = parameters->offset;
  share->byte_size = parameters->byte_size;
  *ret_share = share;
  return MU_OK;
}

mu_status infer_input_share(const struct model *model, const struct shared_memory_parameters *parameters,
                            struct request *request, struct request_input *input, mu_error *err) {
  const char *name = model->metadata->inputs[input->index].info.name;
  const uint64_t size = parameters->byte_size;
  struct request_share *share;
  const mu_status status = add_share("input", name, parameters, request, &share, err);
  if (status != MU_OK) return status;
  if (input->dtype == MU_BYTES) {
    if (size / BYTES_PREFIX < input->elements)
      return mu_fail(err, MU_INVALID, "input '%.100s': shared_memory_byte_size %llu is too small for %llu elements",
                     name, (unsigned long long)size, (unsigned long long)input->elements);
    input->size = size;
  }
  if (input->size != size)
    return mu_fail(err, MU_INVALID, "input '%.100s': shared_memory_byte_size %llu is not the %llu bytes of %llu x %s",
                   name, (unsigned long long)size, (unsigned long long)input->size, (unsigned long long)input->elements,
                   mu_dtype_name(input->dtype));
  input->source = INPUT_SHARED;
  input->share = request->n_shares;
  return MU_OK;
}

mu_status infer_output_share(const struct model *model, const struct shared_memory_parameters *parameters,
                             struct request *request, struct request_output *output, mu_error *err) {
  const char *name = model->metadata->outputs[output->index].info.name;
  struct request_share *share;
  if (output->classification > 0)
    return mu_fail(err, MU_INVALID, "output '%.100s': shared memory cannot be used together with a classification",
                   name);
  const mu_status status = add_share("output", name, parameters, request, &share, err);
  if (status != MU_OK) return status;
  share->output = true;
  output->share = request->n_shares;
  output->binary = false;
  return MU_OK;
}

mu_status infer_output_fits(const struct model *model, const struct request *request,
                            const struct request_output *output, uint64_t size, mu_error *err) {
  const uint64_t room = request->shares[output->share - 1].byte_size;
  if (size <= room) return MU_OK;
  return mu_fail(
      err, MU_INVALID,
      "shared memory size specified with the request for output '%.100s' (%llu bytes) should be at least %llu "
      "bytes to hold the results",
      model->metadata->outputs[output->index].info.name, (unsigned long long)room, (unsigned long long)size);
}
