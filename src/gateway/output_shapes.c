/*
 * What a batch will produce, before it runs. Dims that the model declares are known; those it does not are learned for
 * each shape key: an output that came out the same twice (apart from its rows) is expected so again and written in
 * place; one that was ever different from the expectation is copied, into room for the largest seen.
 */
#include "gateway/attachment.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_GUESS_BYTES = 64 * 1024, STEADY_AFTER = 2 };

struct learned_output {
  mu_dtype dtype;
  uint32_t rank;
  int64_t dims[MU_MAX_RANK]; /* dims[0] is -1 where it follows the batch */
  uint32_t seen;             /* times in a row that it came out so */
  bool varies;               /* it did not, once */
  uint64_t largest_row;      /* bytes for one row */
};

/* One for each output of the model; hangs on the shape key and goes with it (free). */
struct learned_shapes {
  uint32_t n;
  struct learned_output outputs[];
};

static struct learned_shapes *learned_of(const struct gateway_model *model, struct sched_key *key, bool create) {
  void **owner = sched_key_owner(key);
  if (*owner == NULL && create) {
    uint32_t n = model->model.metadata->n_outputs;
    struct learned_shapes *shapes = calloc(1, sizeof *shapes + n * sizeof shapes->outputs[0]);
    if (shapes == NULL) return NULL; /* nothing is learned then: outputs are copied, which is slower and right */
    shapes->n = n;
    *owner = shapes;
  }
  return *owner;
}

static bool all_known(const int64_t *dims, uint32_t rank) {
  for (uint32_t i = 0; i < rank; i++)
    if (dims[i] < 0) return false;
  return true;
}

static bool batched(const struct gateway_model *model) { return model->model.metadata->max_batch > 0; }

static void shape_from(mu_tensor *shape, mu_dtype dtype, const int64_t *dims, uint32_t rank) {
  shape->dtype = dtype;
  shape->rank = rank;
  memcpy(shape->dims, dims, rank * sizeof *dims);
}

bool output_shape_predict(struct gateway_model *model, struct sched_key *key, uint32_t index, uint32_t rows,
                          mu_tensor *ret_shape, uint64_t *ret_capacity) {
  const mu_tensor_info *info = &model->model.metadata->outputs[index].info;
  const struct learned_shapes *shapes = learned_of(model, key, false);
  const struct learned_output *learned = shapes != NULL ? &shapes->outputs[index] : NULL;
  shape_from(ret_shape, info->dtype, info->dims, info->rank);
  if (info->dtype != MU_BYTES) {
    if (learned != NULL && learned->seen >= STEADY_AFTER && !learned->varies)
      shape_from(ret_shape, learned->dtype, learned->dims, learned->rank);
    if (batched(model) && ret_shape->rank > 0 && ret_shape->dims[0] < 0) ret_shape->dims[0] = rows;
    if (all_known(ret_shape->dims, ret_shape->rank) &&
        shape_size(ret_shape->dtype, ret_shape->dims, ret_shape->rank, NULL, ret_capacity) == MU_OK)
      return true;
  }
  uint64_t row = learned != NULL ? learned->largest_row + learned->largest_row / 4 : 0;
  uint64_t bytes;
  if (__builtin_mul_overflow(row, (uint64_t)rows, &bytes)) bytes = 0;
  *ret_capacity = bytes > FIRST_GUESS_BYTES ? bytes : FIRST_GUESS_BYTES;
  return false;
}

void output_shape_learn(struct gateway_model *model, struct sched_key *key, uint32_t rows,
                        const struct channel_output *output) {
  const mu_tensor_info *info = &model->model.metadata->outputs[output->index].info;
  bool follows_batch = batched(model) && output->rank > 0 && output->dims[0] == (int64_t)rows;
  uint32_t skip = follows_batch && info->rank > 0 ? 1 : 0;
  bool declared = info->dtype != MU_BYTES && all_known(info->dims + skip, info->rank - skip);
  if (declared) return; /* nothing to learn: the common case costs nothing */
  struct learned_shapes *shapes = learned_of(model, key, true);
  if (shapes == NULL) return;
  struct learned_output *learned = &shapes->outputs[output->index];
  int64_t dims[MU_MAX_RANK];
  memcpy(dims, output->dims, output->rank * sizeof *dims);
  if (follows_batch) dims[0] = -1;
  bool same = learned->seen > 0 && learned->dtype == output->dtype && learned->rank == output->rank &&
              memcmp(learned->dims, dims, output->rank * sizeof *dims) == 0;
  if (!same) {
    learned->varies = learned->seen > 0;
    learned->dtype = output->dtype;
    learned->rank = output->rank;
    memcpy(learned->dims, dims, output->rank * sizeof *dims);
    learned->seen = 0;
  }
  if (learned->seen < STEADY_AFTER) learned->seen++;
  uint64_t row = output->size / (rows > 0 ? rows : 1) + 1;
  if (row > learned->largest_row) learned->largest_row = row;
}
