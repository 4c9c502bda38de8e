#include "model/model_metadata.h"

#include "model/text.h"

#include <stdlib.h>
#include <string.h>

enum { SHAPE_TEXT_MAX = 128 }; /* of a shape in a message */

/* What model_metadata_create works on. */
struct merge {
  const struct model_config *config;
  const mu_model_info *info;
  struct model_metadata *metadata;
  mu_error *err;
};

/* One side of the model: its inputs or its outputs, by the words of the messages. */
struct side {
  const char *word;
  const struct model_tensor_config *configs;
  uint32_t n_configs;
  const mu_tensor_info *infos;
  uint32_t n_infos;
  struct model_tensor *tensors;
  bool all_needed; /* a tensor that config leaves out must be optional */
};

/* note, which may be a message that was cut. */
static mu_status keep_note(struct model_metadata *metadata, const char *note) {
  char *copy = arena_copy(&metadata->memory, note, strlen(note));
  if (copy == NULL) return MU_NO_MEMORY;
  text_mend_end(copy);
  metadata->batch_note = copy;
  return MU_OK;
}

static mu_status no_memory(mu_error *err) { return mu_fail(err, MU_NO_MEMORY, "no memory for the model's metadata"); }

/* ---- what the engine declares ------------------------------------------------------------------------------------ */

static mu_status copy_info(struct arena *memory, const mu_tensor_info *from, const char *word, mu_tensor_info *to,
                           mu_error *err) {
  size_t len = strlen(from->name);
  if (len == 0 || !text_valid(from->name, len))
    return mu_fail(err, MU_UNSUPPORTED, "the model has an %s whose name is %s", word,
                   len == 0 ? "empty" : "not valid UTF-8");
  if (from->rank > MU_MAX_RANK)
    return mu_fail(err, MU_UNSUPPORTED, "%s '%s' has %u dimensions, more than %d", word, from->name, from->rank,
                   MU_MAX_RANK);
  *to = *from;
  to->name = arena_copy(memory, from->name, len);
  if (to->name == NULL) return no_memory(err);
  for (uint32_t i = 0; i < from->rank; i++) {
    if (to->dims[i] < 0) to->dims[i] = -1;
    if (from->symbols[i] == NULL) continue;
    if (!text_valid(from->symbols[i], strlen(from->symbols[i])))
      return mu_fail(err, MU_UNSUPPORTED, "%s '%s' has a dimension whose name is not valid UTF-8", word, from->name);
    to->symbols[i] = arena_copy(memory, from->symbols[i], strlen(from->symbols[i]));
    if (to->symbols[i] == NULL) return no_memory(err);
  }
  return MU_OK;
}

static mu_status copy_tensors(struct merge *merge, const char *word, const mu_tensor_info *infos, size_t n,
                              struct model_tensor **ret_tensors, uint32_t *ret_n) {
  if (n > MODEL_TENSORS_MAX)
    return mu_fail(merge->err, MU_UNSUPPORTED, "the model has %zu %ss, more than %d", n, word, MODEL_TENSORS_MAX);
  struct arena *memory = &merge->metadata->memory;
  struct model_tensor *tensors = arena_alloc(memory, n, sizeof *tensors);
  if (tensors == NULL) return no_memory(merge->err);
  for (size_t i = 0; i < n; i++) {
    struct model_tensor *tensor = &tensors[i];
    mu_status status = copy_info(memory, &infos[i], word, &tensor->info, merge->err);
    if (status != MU_OK) return status;
    tensor->rank = tensor->info.rank;
    memcpy(tensor->dims, tensor->info.dims, sizeof tensor->dims);
    tensor->served = true;
  }
  *ret_tensors = tensors;
  *ret_n = (uint32_t)n;
  return MU_OK;
}

/* ---- batching ---------------------------------------------------------------------------------------------------- */

/* Names that an exporter makes up, a new one for each dimension it knows nothing of: they say as much as no name. */
static const char *const invented_symbols[] = {
    "unk__",            /* tf2onnx */
    "DynamicDimension", /* paddle2onnx */
    "dynamic_axes_",    /* torch.onnx without dynamic_axes names */
};

/* The name of the first dimension where it means something, else "". */
static const char *first_symbol(const mu_tensor_info *info) {
  const char *symbol = info->symbols[0] != NULL ? info->symbols[0] : "";
  for (size_t i = 0; i < sizeof invented_symbols / sizeof *invented_symbols; i++)
    if (strncmp(symbol, invented_symbols[i], strlen(invented_symbols[i])) == 0) return "";
  return symbol;
}

/* What the shape of one tensor says against batching; named: the first tensor so far whose first dimension has a name.
 */
static bool tensor_refutes_batching(const struct side *side, const mu_tensor_info *info, const mu_tensor_info *named,
                                    mu_error *note) {
  char shape[SHAPE_TEXT_MAX];
  if (info->rank == 0 || info->dims[0] >= 0) {
    mu_fail(note, MU_OK, "%s '%s' %s has no varying first dimension", side->word, info->name,
            shape_text(info->dims, info->rank, shape, sizeof shape));
    return true;
  }
  const char *symbol = first_symbol(info);
  if (*symbol == '\0') return false;
  if (named != NULL && strcmp(symbol, first_symbol(named)) != 0) {
    mu_fail(note, MU_OK, "the first dimension of '%s' is '%s', that of %s '%s' is '%s'", named->name,
            first_symbol(named), side->word, info->name, symbol);
    return true;
  }
  for (uint32_t d = 1; d < info->rank; d++)
    if (info->dims[d] < 0 && info->symbols[d] != NULL && strcmp(info->symbols[d], symbol) == 0) {
      mu_fail(note, MU_OK, "%s '%s' has the first dimension '%s' twice", side->word, info->name, symbol);
      return true;
    }
  return false;
}

/* Do the shapes rule out that the first dimension is a batch? note says what does. Where a name is missing nothing
 * contradicts; the worker's self-check decides in any case. */
static bool batching_refuted(const struct merge *merge, const struct side *sides, mu_error *note) {
  const mu_tensor_info *named = NULL;
  for (int s = 0; s < 2; s++)
    for (uint32_t i = 0; i < sides[s].n_infos; i++) {
      const mu_tensor_info *info = &sides[s].infos[i];
      if (tensor_refutes_batching(&sides[s], info, named, note)) return true;
      if (named == NULL && *first_symbol(info) != '\0') named = info;
    }
  if (merge->info->n_inputs == 0) mu_fail(note, MU_OK, "the model has no input");
  return merge->info->n_inputs == 0;
}

/* A shape in config.pbtxt that is as long as the model's has the first dimension in it, so no batch is meant. */
static bool written_unbatched(const struct side *sides, mu_error *note) {
  for (int s = 0; s < 2; s++)
    for (uint32_t i = 0; i < sides[s].n_configs; i++) {
      const struct model_tensor_config *config = &sides[s].configs[i];
      uint32_t rank = config->has_reshape ? config->reshape_rank : config->rank;
      for (uint32_t j = 0; config->has_dims && j < sides[s].n_infos; j++)
        if (strcmp(sides[s].infos[j].name, config->name) == 0 && sides[s].infos[j].rank == rank) {
          mu_fail(note, MU_OK, "the configuration gives all dimensions of %s '%s' and no max_batch_size", sides[s].word,
                  config->name);
          return true;
        }
    }
  return false;
}

static mu_status decide_batching(struct merge *merge, const struct side *sides, uint32_t default_max_batch) {
  struct model_metadata *metadata = merge->metadata;
  metadata->batch_note = "";
  if (merge->config->has_max_batch_size) {
    metadata->max_batch = (uint32_t)merge->config->max_batch_size;
    uint32_t most = merge->info->max_batch;
    if (most == 0 || metadata->max_batch <= most) return MU_OK;
    return mu_fail(merge->err, MU_INVALID, "%s: max_batch_size is %u, but the model takes no more than %u rows",
                   merge->config->source, metadata->max_batch, most);
  }
  if (merge->info->max_batch > 0 && default_max_batch > merge->info->max_batch)
    default_max_batch = merge->info->max_batch;
  mu_error note;
  if (default_max_batch == 0)
    mu_fail(&note, MU_OK, "batching is switched off");
  else if (!batching_refuted(merge, sides, &note) && !written_unbatched(sides, &note)) {
    metadata->max_batch = default_max_batch;
    return MU_OK;
  }
  return keep_note(metadata, note.message) == MU_OK ? MU_OK : no_memory(merge->err);
}

static mu_status check_batch_dimension(const struct merge *merge, const struct side *side,
                                       const struct model_tensor *tensor) {
  const mu_tensor_info *info = &tensor->info;
  if (merge->metadata->max_batch == 0 || (info->rank > 0 && info->dims[0] < 0)) return MU_OK;
  char shape[SHAPE_TEXT_MAX];
  return mu_fail(merge->err, MU_INVALID,
                 "%s: max_batch_size is %u, but %s '%s' %s of the model has no varying first dimension for the batch",
                 merge->config->source, merge->metadata->max_batch, side->word, info->name,
                 shape_text(info->dims, info->rank, shape, sizeof shape));
}

/* ---- config.pbtxt against the engine ----------------------------------------------------------------------------- */

static mu_status unfit_dims(const struct merge *merge, const struct side *side,
                            const struct model_tensor_config *config, const int64_t *dims, uint32_t rank,
                            const mu_tensor_info *info) {
  char written[SHAPE_TEXT_MAX], declared[SHAPE_TEXT_MAX];
  uint32_t lead = merge->metadata->max_batch > 0 && info->rank > 0 ? 1 : 0;
  return mu_fail(merge->err, MU_INVALID, "%s:%u: %s '%s': %s %s, but the model expects %s%s", merge->config->source,
                 config->line, side->word, config->name, config->has_reshape ? "reshape" : "dims",
                 shape_text(dims, rank, written, sizeof written),
                 shape_text(info->dims + lead, info->rank - lead, declared, sizeof declared),
                 lead > 0 ? " behind the batch dimension" : "");
}

static mu_status merge_dims(const struct merge *merge, const struct side *side,
                            const struct model_tensor_config *config, struct model_tensor *tensor) {
  mu_tensor_info *info = &tensor->info;
  uint32_t lead = merge->metadata->max_batch > 0 ? 1 : 0;
  const int64_t *dims = config->has_reshape ? config->reshape : config->dims;
  uint32_t rank = config->has_reshape ? config->reshape_rank : config->rank;
  bool fits = rank + lead == info->rank && config->rank + lead <= MU_MAX_RANK;
  for (uint32_t i = 0; fits && i < rank; i++) fits = info->dims[lead + i] < 0 || info->dims[lead + i] == dims[i];
  if (!fits) return unfit_dims(merge, side, config, dims, rank, info);

  tensor->rank = config->rank + lead;
  memcpy(tensor->dims + lead, config->dims, config->rank * sizeof *config->dims);
  if (config->has_reshape) {
    memcpy(info->dims + lead, dims, rank * sizeof *dims);
    tensor->reshaped = true;
  }
  return MU_OK;
}

static mu_status merge_tensor(const struct merge *merge, const struct side *side,
                              const struct model_tensor_config *config, struct model_tensor *tensor) {
  const mu_tensor_info *info = &tensor->info;
  mu_status status = check_batch_dimension(merge, side, tensor);
  if (status != MU_OK || config == NULL) return status;
  if (config->dtype != MU_DTYPE_INVALID && config->dtype != info->dtype)
    return mu_fail(merge->err, MU_INVALID, "%s:%u: %s '%s' is %s here, but %s in the model", merge->config->source,
                   config->line, side->word, config->name, model_config_dtype_name(config->dtype),
                   model_config_dtype_name(info->dtype));
  if (config->optional && !info->optional)
    return mu_fail(merge->err, MU_INVALID, "%s:%u: %s '%s' is optional here, but the model needs it",
                   merge->config->source, config->line, side->word, config->name);
  return config->has_dims ? merge_dims(merge, side, config, tensor) : MU_OK;
}

/* config names a tensor that the model has not: says which ones it has. */
static mu_status unknown_tensor(const struct merge *merge, const struct side *side,
                                const struct model_tensor_config *config) {
  struct buffer names;
  buffer_init(&names, sizeof merge->err->message);
  for (uint32_t i = 0; i < side->n_infos; i++)
    if (buffer_print(&names, "%s'%s'", i == 0 ? "" : ", ", side->infos[i].name) != MU_OK) break;
  const char *text = buffer_text(&names);
  mu_fail(merge->err, MU_INVALID, "%s:%u: the model has no %s '%s'; it has %s", merge->config->source, config->line,
          side->word, config->name, text != NULL && *text != '\0' ? text : "others");
  buffer_free(&names);
  return MU_INVALID;
}

static mu_status merge_side(const struct merge *merge, const struct side *side) {
  for (uint32_t i = 0; i < side->n_configs; i++) {
    uint32_t j = 0;
    while (j < side->n_infos && strcmp(side->infos[j].name, side->configs[i].name) != 0) j++;
    if (j == side->n_infos) return unknown_tensor(merge, side, &side->configs[i]);
  }
  for (uint32_t i = 0; i < side->n_infos; i++) {
    struct model_tensor *tensor = &side->tensors[i];
    const struct model_tensor_config *config = NULL;
    for (uint32_t j = 0; j < side->n_configs && config == NULL; j++)
      if (strcmp(side->configs[j].name, tensor->info.name) == 0) config = &side->configs[j];
    tensor->served = config != NULL || side->n_configs == 0;
    if (!tensor->served && side->all_needed && !tensor->info.optional)
      return mu_fail(merge->err, MU_INVALID, "%s: the model needs %s '%s', which is not described",
                     merge->config->source, side->word, tensor->info.name);
    mu_status status = tensor->served ? merge_tensor(merge, side, config, tensor) : MU_OK;
    if (status != MU_OK) return status;
  }
  return MU_OK;
}

/* ---- warm-up ----------------------------------------------------------------------------------------------------- */

static mu_status check_warmup_tensor(const struct merge *merge, const struct model_warmup *warmup,
                                     const struct warmup_input *input) {
  const char *source = merge->config->source;
  int index = model_metadata_find_input(merge->metadata, input->name, strlen(input->name));
  if (index < 0)
    return mu_fail(merge->err, MU_INVALID, "%s: model_warmup '%s': the model has no input '%s'", source, warmup->name,
                   input->name);
  const struct model_tensor *tensor = &merge->metadata->inputs[index];
  if (input->dtype != tensor->info.dtype)
    return mu_fail(merge->err, MU_INVALID, "%s: model_warmup '%s': input '%s' is %s here, but %s in the model", source,
                   warmup->name, input->name, model_config_dtype_name(input->dtype),
                   model_config_dtype_name(tensor->info.dtype));
  uint32_t lead = merge->metadata->max_batch > 0 ? 1 : 0;
  bool fits = input->rank + lead == tensor->rank;
  for (uint32_t i = 0; fits && i < input->rank; i++)
    fits = tensor->dims[lead + i] < 0 || tensor->dims[lead + i] == input->dims[i];
  char written[SHAPE_TEXT_MAX], expected[SHAPE_TEXT_MAX];
  return fits ? MU_OK
              : mu_fail(merge->err, MU_INVALID, "%s: model_warmup '%s': dims %s of input '%s' do not fit %s", source,
                        warmup->name, shape_text(input->dims, input->rank, written, sizeof written), input->name,
                        shape_text(tensor->dims + lead, tensor->rank - lead, expected, sizeof expected));
}

static mu_status check_warmup(const struct merge *merge, const struct model_warmup *warmup) {
  const struct model_metadata *metadata = merge->metadata;
  for (uint32_t i = 0; i < warmup->n_inputs; i++) {
    mu_status status = check_warmup_tensor(merge, warmup, &warmup->inputs[i]);
    if (status != MU_OK) return status;
  }
  for (uint32_t i = 0; i < metadata->n_inputs; i++) {
    const mu_tensor_info *info = &metadata->inputs[i].info;
    bool given = info->optional;
    for (uint32_t j = 0; j < warmup->n_inputs && !given; j++) given = strcmp(warmup->inputs[j].name, info->name) == 0;
    if (!given)
      return mu_fail(merge->err, MU_INVALID, "%s: model_warmup '%s' does not give input '%s'", merge->config->source,
                     warmup->name, info->name);
  }
  return MU_OK;
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static mu_status merge_all(struct merge *merge, const char *platform, uint32_t default_max_batch) {
  const struct model_config *config = merge->config;
  const mu_model_info *info = merge->info;
  struct model_metadata *metadata = merge->metadata;
  const char *runtime = info->runtime != NULL ? info->runtime : "";
  metadata->runtime = arena_copy(&metadata->memory, runtime, strlen(runtime));
  metadata->platform = arena_copy(&metadata->memory, platform, strlen(platform));
  if (metadata->runtime == NULL || metadata->platform == NULL) return no_memory(merge->err);

  mu_status status = copy_tensors(merge, "input", info->inputs, info->n_inputs, &metadata->inputs, &metadata->n_inputs);
  if (status == MU_OK)
    status = copy_tensors(merge, "output", info->outputs, info->n_outputs, &metadata->outputs, &metadata->n_outputs);
  if (status != MU_OK) return status;
  const struct side sides[2] = {
      {"input", config->inputs, config->n_inputs, info->inputs, metadata->n_inputs, metadata->inputs, true},
      {"output", config->outputs, config->n_outputs, info->outputs, metadata->n_outputs, metadata->outputs, false},
  };
  status = decide_batching(merge, sides, default_max_batch);
  if (status == MU_OK) status = merge_side(merge, &sides[0]);
  if (status == MU_OK) status = merge_side(merge, &sides[1]);
  for (uint32_t i = 0; i < config->n_warmups && status == MU_OK; i++) status = check_warmup(merge, &config->warmups[i]);
  return status;
}

mu_status model_metadata_create(const struct model_config *config, const mu_model_info *info, const char *platform,
                                uint32_t default_max_batch, struct model_metadata **ret_metadata, mu_error *err) {
  struct model_metadata *metadata = calloc(1, sizeof *metadata);
  if (metadata == NULL) return no_memory(err);
  struct merge merge = {.config = config, .info = info, .metadata = metadata, .err = err};
  mu_status status = merge_all(&merge, platform, default_max_batch);
  if (status != MU_OK) {
    model_metadata_free(metadata);
    return status;
  }
  *ret_metadata = metadata;
  return MU_OK;
}

void model_metadata_free(struct model_metadata *metadata) {
  if (metadata == NULL) return;
  arena_free(&metadata->memory);
  free(metadata);
}

mu_status model_metadata_disable_batching(struct model_metadata *metadata, const char *note) {
  mu_status status = keep_note(metadata, note);
  if (status == MU_OK) metadata->max_batch = 0;
  return status;
}

static int find_tensor(const struct model_tensor *tensors, uint32_t n, const char *name, size_t len) {
  for (uint32_t i = 0; i < n; i++)
    if (tensors[i].served && strlen(tensors[i].info.name) == len && memcmp(tensors[i].info.name, name, len) == 0)
      return (int)i;
  return -1;
}

int model_metadata_find_input(const struct model_metadata *metadata, const char *name, size_t len) {
  return find_tensor(metadata->inputs, metadata->n_inputs, name, len);
}

int model_metadata_find_output(const struct model_metadata *metadata, const char *name, size_t len) {
  return find_tensor(metadata->outputs, metadata->n_outputs, name, len);
}

/* ---- shapes from one view to the other --------------------------------------------------------------------------- */

static bool shape_fits(const int64_t *view, uint32_t view_rank, const int64_t *dims, uint32_t rank) {
  if (rank != view_rank) return false;
  for (uint32_t i = 0; i < rank; i++)
    if (dims[i] < 0 || (view[i] >= 0 && view[i] != dims[i])) return false;
  return true;
}

/* The n-th varying dimension of one view is the n-th of the other (config_check.c saw to it). */
static void map_shape(const int64_t *from, const int64_t *dims, const int64_t *to, uint32_t to_rank,
                      int64_t *ret_dims) {
  for (uint32_t i = 0, at = 0; i < to_rank; i++) {
    if (to[i] >= 0) {
      ret_dims[i] = to[i];
      continue;
    }
    while (from[at] >= 0) at++;
    ret_dims[i] = dims[at++];
  }
}

static bool copy_shape(const int64_t *dims, uint32_t rank, int64_t *ret_dims, uint32_t *ret_rank) {
  memcpy(ret_dims, dims, rank * sizeof *dims);
  *ret_rank = rank;
  return true;
}

bool model_tensor_to_engine(const struct model_tensor *tensor, const int64_t *dims, uint32_t rank, int64_t *ret_dims,
                            uint32_t *ret_rank) {
  if (!shape_fits(tensor->dims, tensor->rank, dims, rank)) return false;
  if (!tensor->reshaped) return copy_shape(dims, rank, ret_dims, ret_rank);
  map_shape(tensor->dims, dims, tensor->info.dims, tensor->info.rank, ret_dims);
  *ret_rank = tensor->info.rank;
  return true;
}

bool model_tensor_to_client(const struct model_tensor *tensor, const int64_t *dims, uint32_t rank, int64_t *ret_dims,
                            uint32_t *ret_rank) {
  if (!shape_fits(tensor->info.dims, tensor->info.rank, dims, rank)) return false;
  if (!tensor->reshaped) return copy_shape(dims, rank, ret_dims, ret_rank);
  map_shape(tensor->info.dims, dims, tensor->dims, tensor->rank, ret_dims);
  *ret_rank = tensor->rank;
  return true;
}
