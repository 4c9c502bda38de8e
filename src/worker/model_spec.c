#include "worker/model_spec.h"

#include <stdio.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/onnxruntime/onnxruntime.h"
#include "engine/sim/sim_gpu.h"

/* ---- parameters -------------------------------------------------------------------------------------------------- */

struct parameter_list {
  mu_parameter *items;
  size_t n;
};

static void add(struct parameter_list *list, const char *key, const char *value) {
  list->items[list->n++] = (mu_parameter){key, value};
}

/* "muster.tensorrt.trt_fp16_enable" */
static char *accelerator_key(struct arena *memory, const char *accelerator, const char *option) {
  char key[256];
  int n =
      snprintf(key, sizeof key, "muster.%s%s%s", accelerator, option != NULL ? "." : "", option != NULL ? option : "");
  return n < (int)sizeof key ? arena_copy(memory, key, (size_t)n) : NULL;
}

static mu_status add_accelerator(struct parameter_list *list, const struct model_accelerator *accelerator,
                                 struct arena *memory, mu_error *err) {
  static const char *const known[] = {"tensorrt", "cuda"};
  bool found = false;
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) found = found || !strcmp(known[i], accelerator->name);
  if (!found) {
    return mu_fail(err, MU_UNSUPPORTED, "there is no execution accelerator \"%s\" (there are: tensorrt, cuda)",
                   accelerator->name);
  }
  char *name = accelerator_key(memory, accelerator->name, NULL);
  if (name == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  add(list, name, "");
  for (uint32_t i = 0; i < accelerator->n_parameters; i++) {
    const mu_parameter *option = &accelerator->parameters[i];
    char *key = accelerator_key(memory, accelerator->name, option->key);
    if (key == NULL) return mu_fail(err, MU_INVALID, "accelerator option \"%.64s\" is too long", option->key);
    add(list, key, option->value);
  }
  return MU_OK;
}

static size_t count_parameters(const struct model_config *config) {
  size_t n = config->n_parameters + 3; /* the library, the addresses, the simulated GPU */
  for (uint32_t i = 0; i < config->n_gpu_accelerators; i++) n += 1 + config->gpu_accelerators[i].n_parameters;
  return n;
}

static mu_status collect_parameters(const struct model_config *config, const struct options *options,
                                    const char *addresses, bool gpu, struct arena *memory, struct parameter_list *list,
                                    mu_error *err) {
  list->items = arena_alloc(memory, count_parameters(config), sizeof *list->items);
  if (list->items == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  for (uint32_t i = 0; i < config->n_parameters; i++) {
    const mu_parameter *p = &config->parameters[i];
    if (strncmp(p->key, "muster.", 7) == 0) { /* a configuration may come over the network; these name files */
      return mu_fail(err, MU_INVALID, "parameter %s cannot be set in config.pbtxt", p->key);
    }
    add(list, p->key, p->value);
  }
  if (addresses != NULL) add(list, ENGINE_ADDRESSES_PARAMETER, addresses);
  if (options->onnxruntime_library[0] != '\0') {
    add(list, ONNXRUNTIME_LIBRARY_PARAMETER, options->onnxruntime_library);
  }
  if (!gpu && config->n_cpu_accelerators > 0) {
    return mu_fail(err, MU_UNSUPPORTED, "execution accelerator \"%s\" for the CPU", config->cpu_accelerators[0].name);
  }
  for (uint32_t i = 0; gpu && i < config->n_gpu_accelerators; i++) { /* on a CPU these do not apply, as in Triton */
    mu_status status = add_accelerator(list, &config->gpu_accelerators[i], memory, err);
    if (status != MU_OK) return status;
  }
  return MU_OK;
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

/* Tensors as config.pbtxt declares them, with the batch dimension, which it leaves out when the model batches. */
static mu_status declare_tensors(const struct model_config *config, const struct model_tensor_config *tensors,
                                 uint32_t n, struct arena *memory, const mu_tensor_info **ret_infos, size_t *ret_n,
                                 mu_error *err) {
  bool batched = config->has_max_batch_size && config->max_batch_size > 0;
  mu_tensor_info *infos = arena_alloc(memory, n > 0 ? n : 1, sizeof *infos);
  if (infos == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  size_t declared = 0;
  for (uint32_t i = 0; i < n; i++) {
    const struct model_tensor_config *tensor = &tensors[i];
    if (!tensor->has_dims) continue;
    const int64_t *dims = tensor->has_reshape ? tensor->reshape : tensor->dims;
    uint32_t rank = tensor->has_reshape ? tensor->reshape_rank : tensor->rank;
    if (rank + batched > MU_MAX_RANK) return mu_fail(err, MU_INVALID, "\"%s\" has too many dimensions", tensor->name);
    mu_tensor_info *info = &infos[declared++];
    info->name = arena_copy(memory, tensor->name, strlen(tensor->name));
    info->dtype = tensor->dtype;
    info->rank = rank + batched;
    info->optional = tensor->optional;
    if (rank > 0) memcpy(info->dims + batched, dims, rank * sizeof *dims);
    if (batched) {
      info->dims[0] = -1;
      info->symbols[0] = arena_copy(memory, "batch", 5);
    }
    if (info->name == NULL || (batched && info->symbols[0] == NULL)) return mu_fail(err, MU_NO_MEMORY, "no memory");
  }
  *ret_infos = infos;
  *ret_n = declared;
  return MU_OK;
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

/* Triton's words for the graph level: basic is -1, and 2 turns it off. */
static int graph_level(const struct model_config *config) {
  static const struct {
    int32_t triton;
    int ours;
  } levels[] = {{-1, 1}, {1, 2}, {2, 0}};
  for (size_t i = 0; config->has_graph_level && i < sizeof levels / sizeof levels[0]; i++) {
    if (levels[i].triton == config->graph_level) return levels[i].ours;
  }
  return -1;
}

mu_status model_spec_create(const struct control_worker_start *start, const struct model_config *config,
                            const struct options *options, const char *addresses, struct arena *memory,
                            mu_model_spec *ret_spec, mu_error *err) {
  mu_model_spec spec = {
      .name = start->name,
      .path = start->path[0] != '\0' ? start->path : NULL,
      .device = start->device,
      .threads = (int)start->threads,
      .instances = (int)start->instances,
      .graph_optimization = graph_level(config),
  };
  bool gpu = strncmp(start->device, "gpu", 3) == 0;
  struct parameter_list parameters = {0};
  mu_status status = collect_parameters(config, options, addresses, gpu, memory, &parameters, err);
  if (status == MU_OK && start->sim_gpu != NULL) add(&parameters, SIM_GPU_PARAMETER, start->sim_gpu);
  spec.parameters = parameters.items;
  spec.n_parameters = parameters.n;
  if (status == MU_OK) {
    status = declare_tensors(config, config->inputs, config->n_inputs, memory, &spec.inputs, &spec.n_inputs, err);
  }
  if (status == MU_OK) {
    status = declare_tensors(config, config->outputs, config->n_outputs, memory, &spec.outputs, &spec.n_outputs, err);
  }
  if (status == MU_OK) *ret_spec = spec;
  return status;
}
