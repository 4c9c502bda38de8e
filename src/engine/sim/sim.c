#include "engine/sim/sim.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/buffer.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "engine/sim/sim_element.h"
#include "engine/sim/sim_gpu.h"
#include "engine/sim/sim_settings.h"

enum { SIM_OUTPUT_MAX = INT32_MAX }; /* bytes of one produced output */

struct mu_engine_model {
  struct sim_settings settings;
  struct sim_gpu *gpu; /* NULL: on a CPU */
  mu_model_info info;
  struct arena memory;
  uint32_t instances; /* created so far: each draws other random numbers */
};

struct mu_engine_instance {
  mu_engine_model *model;
  uint64_t random;
  struct buffer *outputs; /* by position: what the last run produced and the caller gave no memory for */
  pthread_mutex_t lock;
  pthread_cond_t stop_asked;
  bool running;
  atomic_bool stopped;
};

/* ---- the model --------------------------------------------------------------------------------------------------- */

static void sleep_ms(double ms) {
  uint64_t ns = (uint64_t)(ms * NS_PER_MS);
  struct timespec left = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
  while (nanosleep(&left, &left) != 0) continue; /* interrupted: the rest */
}

static mu_status copy_infos(struct arena *memory, const mu_tensor_info *from, size_t n, const mu_tensor_info **ret_to,
                            mu_error *err) {
  mu_tensor_info *to = arena_alloc(memory, n, sizeof *to);
  bool complete = to != NULL;
  for (size_t i = 0; complete && i < n; i++) {
    if (from[i].dtype == MU_DTYPE_INVALID) {
      return mu_fail(err, MU_INVALID, "the sim engine needs the data_type of \"%s\" in config.pbtxt", from[i].name);
    }
    to[i] = from[i];
    to[i].name = arena_copy(memory, from[i].name, strlen(from[i].name));
    complete = to[i].name != NULL;
    for (uint32_t d = 0; complete && d < from[i].rank; d++) {
      if (from[i].symbols[d] == NULL) continue;
      to[i].symbols[d] = arena_copy(memory, from[i].symbols[d], strlen(from[i].symbols[d]));
      complete = to[i].symbols[d] != NULL;
    }
  }
  if (!complete) return mu_fail(err, MU_NO_MEMORY, "no memory");
  *ret_to = to;
  return MU_OK;
}

static void model_free(mu_engine_model *model) {
  if (model == NULL) return;
  sim_gpu_close(model->gpu);
  arena_free(&model->memory);
  free(model);
}

/* The texts of the settings have to outlive the call. */
static mu_status keep_texts(mu_engine_model *model, mu_error *err) {
  struct sim_settings *settings = &model->settings;
  const char **const texts[] = {&settings->fail_on,   &settings->crash_on, &settings->hang_on,
                                &settings->memory_on, &settings->crash_by, &settings->device_lost_on,
                                &settings->profile,   &settings->sharing};
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    if (*texts[i] == NULL) continue;
    *texts[i] = arena_copy(&model->memory, *texts[i], strlen(*texts[i]));
    if (*texts[i] == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  }
  return MU_OK;
}

/* Ends the process as a broken engine would; a handler of the process's own (a sanitizer's) has no say in it. */
static void crash(const struct sim_settings *settings) {
  enum { EXIT_STATUS = 3 };
  if (settings->crash_signal == 0) _exit(EXIT_STATUS);
  signal(settings->crash_signal, SIG_DFL);
  raise(settings->crash_signal);
}

/* Its context and weights, on the GPU that spec's descriptor is. */
static mu_status join_gpu(const mu_model_spec *spec, mu_engine_model *model, mu_error *err) {
  const struct sim_settings *settings = &model->settings;
  if (!settings->on_gpu) return MU_OK;
  const char *text = engine_parameter(spec, SIM_GPU_PARAMETER);
  char *end = NULL;
  errno = 0;
  long fd = text != NULL ? strtol(text, &end, 10) : -1;
  if (text == NULL || end == text || *end != '\0' || errno != 0 || fd < 0 || fd > INT_MAX)
    return mu_fail(err, MU_INVALID, "the sim engine got no simulated GPU for %s", spec->device);
  const double mib = 1 << 20;
  const struct sim_gpu_claim claim = {.device = spec->device,
                                      .memory = (uint64_t)(settings->gpu_memory_mib * mib),
                                      .total = (uint64_t)(settings->gpu_total_mib * mib),
                                      .mps = settings->mps,
                                      .cap = settings->sm_share};
  return sim_gpu_open((int)fd, &claim, &model->gpu, err);
}

static mu_status model_load(const mu_model_spec *spec, mu_engine_model **ret_model, mu_error *err) {
  if (spec->n_inputs == 0 || spec->n_outputs == 0) {
    return mu_fail(err, MU_INVALID,
                   "the sim engine needs `input` and `output` in config.pbtxt: it has no model to ask");
  }
  mu_engine_model *model = calloc(1, sizeof *model);
  if (model == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  mu_status status = sim_settings_read(spec, &model->settings, err);
  if (status == MU_OK) status = keep_texts(model, err);
  if (status == MU_OK) status = copy_infos(&model->memory, spec->inputs, spec->n_inputs, &model->info.inputs, err);
  if (status == MU_OK) status = copy_infos(&model->memory, spec->outputs, spec->n_outputs, &model->info.outputs, err);
  if (status == MU_OK) sleep_ms(model->settings.load_ms);
  if (status == MU_OK) status = join_gpu(spec, model, err);
  if (status == MU_OK && model->settings.load_fail != 0) {
    status = mu_fail(err, MU_INTERNAL, "sim: told to fail at load (sim.load_fail)");
  }
  if (status != MU_OK) {
    model_free(model);
    return status;
  }
  if (model->settings.load_crash != 0) crash(&model->settings);
  model->info.n_inputs = spec->n_inputs;
  model->info.n_outputs = spec->n_outputs;
  model->info.runtime = "sim";
  model->info.rows_independent = true;
  *ret_model = model;
  return MU_OK;
}

static const mu_model_info *model_info(const mu_engine_model *model) { return &model->info; }

/* ---- an instance ------------------------------------------------------------------------------------------------- */

/* Condition variables wait on the wall clock unless they are told otherwise. */
static bool init_condition(pthread_cond_t *condition) {
  pthread_condattr_t attributes;
  if (pthread_condattr_init(&attributes) != 0) return false;
  bool done =
      pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0 && pthread_cond_init(condition, &attributes) == 0;
  pthread_condattr_destroy(&attributes);
  return done;
}

static mu_status sim_instance_create(mu_engine_model *model, mu_engine_instance **ret_instance, mu_error *err) {
  mu_engine_instance *instance = calloc(1, sizeof *instance);
  struct buffer *outputs = calloc(model->info.n_outputs, sizeof *outputs);
  if (instance == NULL || outputs == NULL || !init_condition(&instance->stop_asked)) {
    free(outputs);
    free(instance);
    return mu_fail(err, MU_NO_MEMORY, "no memory");
  }
  pthread_mutex_init(&instance->lock, NULL);
  for (size_t i = 0; i < model->info.n_outputs; i++) buffer_init(&outputs[i], SIM_OUTPUT_MAX);
  instance->model = model;
  instance->outputs = outputs;
  instance->random = (uint64_t)model->settings.seed + UINT64_C(1000003) * model->instances++;
  *ret_instance = instance;
  return MU_OK;
}

static void sim_instance_free(mu_engine_instance *instance) {
  if (instance == NULL) return;
  for (size_t i = 0; i < instance->model->info.n_outputs; i++) buffer_free(&instance->outputs[i]);
  free(instance->outputs);
  pthread_cond_destroy(&instance->stop_asked);
  pthread_mutex_destroy(&instance->lock);
  free(instance);
}

/* Uniform in [0, 1): splitmix64 (Steele, Lea, Flood 2014). */
static double draw(mu_engine_instance *instance) {
  uint64_t z = instance->random += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static void begin_run(mu_engine_instance *instance) {
  pthread_mutex_lock(&instance->lock);
  instance->running = true;
  atomic_store(&instance->stopped, false);
  pthread_mutex_unlock(&instance->lock);
}

static void end_run(mu_engine_instance *instance) {
  pthread_mutex_lock(&instance->lock);
  instance->running = false;
  pthread_mutex_unlock(&instance->lock);
}

static mu_status wait_ms(mu_engine_instance *instance, double ms, mu_error *err) {
  uint64_t until = time_add(clock_now_ns(), (uint64_t)(ms * NS_PER_MS));
  struct timespec at = {.tv_sec = (time_t)(until / NS_PER_S), .tv_nsec = (long)(until % NS_PER_S)};
  pthread_mutex_lock(&instance->lock);
  int waited = 0;
  while (!instance->stopped && waited == 0 && ms > 0) {
    waited = pthread_cond_timedwait(&instance->stop_asked, &instance->lock, &at);
  }
  bool finished = !instance->stopped;
  pthread_mutex_unlock(&instance->lock);
  return finished ? MU_OK : mu_fail(err, MU_CANCELED, "the run was told to stop");
}

/* As long as the longest chain of its kernels takes, or as all SMs together need for its work: what is longer. */
static mu_status run_on_gpu(mu_engine_instance *instance, int64_t rows, mu_error *err) {
  const struct sim_settings *settings = &instance->model->settings;
  double work = settings->gpu_work_ms + settings->gpu_work_per_item_ms * (double)rows;
  double alone = fmax(settings->gpu_ms + settings->gpu_per_item_ms * (double)rows, work);
  if (instance->model->gpu == NULL || alone <= 0) return MU_OK;
  /* A kernel without work would have no share to advance with: it uses next to nothing. */
  double share = fmax(work / alone, 1e-6);
  return sim_gpu_run(instance->model->gpu, share, alone / settings->gpu_speed * NS_PER_MS, &instance->stopped, err);
}

/* What a run takes: its part on the host, then that on the GPU. MU_CANCELED: stop was called. */
static mu_status take_time(mu_engine_instance *instance, int64_t rows, mu_error *err) {
  const struct sim_settings *settings = &instance->model->settings;
  double ms = settings->base_ms + settings->per_item_ms * (double)rows + settings->jitter_ms * draw(instance);
  begin_run(instance);
  mu_status status = wait_ms(instance, ms, err);
  if (status == MU_OK) status = run_on_gpu(instance, rows, err);
  end_run(instance);
  return status;
}

static void sim_stop(mu_engine_instance *instance) {
  pthread_mutex_lock(&instance->lock);
  instance->stopped = instance->running;
  pthread_cond_signal(&instance->stop_asked);
  pthread_mutex_unlock(&instance->lock);
  if (instance->model->gpu != NULL) sim_gpu_wake(instance->model->gpu);
}

static void hang(void) {
  for (;;) pause();
}

/* ---- outputs ----------------------------------------------------------------------------------------------------- */

static const mu_tensor *find_input(const mu_input *inputs, size_t n, uint32_t index) {
  for (size_t i = 0; i < n; i++) {
    if (inputs[i].index == index) return &inputs[i].tensor;
  }
  return NULL;
}

static bool can_echo(const mu_tensor_info *output, const mu_tensor *input) {
  if (input == NULL || input->dtype != output->dtype || input->rank != output->rank) return false;
  for (uint32_t d = 0; d < output->rank; d++) {
    if (output->dims[d] >= 0 && output->dims[d] != input->dims[d]) return false;
  }
  return true;
}

/* Shape and bytes of an output that echoes nothing. */
static mu_status shape_output(const mu_engine_instance *instance, const mu_tensor_info *info, int64_t rows,
                              mu_tensor *ret_tensor, mu_error *err) {
  mu_tensor tensor = {.dtype = info->dtype, .rank = info->rank};
  for (uint32_t d = 0; d < info->rank; d++) {
    int64_t varying = d == 0 ? rows : (int64_t)instance->model->settings.output_size;
    tensor.dims[d] = info->dims[d] >= 0 ? info->dims[d] : varying;
  }
  uint64_t elements = 0, bytes = 0;
  if (shape_size(tensor.dtype, tensor.dims, tensor.rank, &elements, &bytes) != MU_OK || elements > SIM_OUTPUT_MAX / 8) {
    return mu_fail(err, MU_TOO_LARGE, "sim: output \"%s\" would be too large", info->name);
  }
  /* An empty string is four zero bytes in wire form: a cleared output is valid for every type. */
  tensor.size = info->dtype == MU_BYTES ? elements * sizeof(uint32_t) : bytes;
  *ret_tensor = tensor;
  return MU_OK;
}

static bool same_shape(const mu_tensor *a, const mu_tensor *b) {
  return a->dtype == b->dtype && a->rank == b->rank && memcmp(a->dims, b->dims, a->rank * sizeof a->dims[0]) == 0;
}

static mu_status produce(mu_engine_instance *instance, size_t position, const mu_tensor *input, int64_t rows,
                         mu_output *output, mu_error *err) {
  const mu_tensor_info *info = &instance->model->info.outputs[output->index];
  mu_tensor tensor = {.dtype = MU_DTYPE_INVALID};
  bool echo = can_echo(info, input);
  if (echo) {
    tensor = *input;
  } else {
    mu_status status = shape_output(instance, info, rows, &tensor, err);
    if (status != MU_OK) return status;
  }
  tensor.data = output->tensor.data;
  if (tensor.data != NULL && (!same_shape(&tensor, &output->tensor) || tensor.size > output->tensor.size)) {
    return mu_fail(err, MU_INVALID, "output \"%s\" has another shape than it was given memory for", info->name);
  }
  if (tensor.data == NULL) {
    struct buffer *own = &instance->outputs[position];
    buffer_clear(own);
    mu_status status = buffer_reserve(own, tensor.size);
    if (status != MU_OK) return mu_fail(err, status, "no memory for output \"%s\"", info->name);
    tensor.data = own->data;
  }
  if (echo && tensor.size > 0) memcpy(tensor.data, input->data, tensor.size);
  if (!echo && tensor.size > 0) memset(tensor.data, 0, tensor.size);
  output->tensor = tensor;
  return MU_OK;
}

/* ---- a run ------------------------------------------------------------------------------------------------------- */

/* Takes memory, all of its pages, and gives it back. Mapped, as large blocks always are. */
static mu_status use_memory(double mib, mu_error *err) {
  size_t size = (size_t)(mib * (1 << 20));
  void *memory = size > 0 ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : MAP_FAILED;
  if (memory == MAP_FAILED) return mu_fail(err, MU_NO_MEMORY, "sim: no memory for %.0f MiB (sim.memory_mib)", mib);
  memset(memory, 1, size);
  munmap(memory, size);
  return MU_OK;
}

static mu_status misbehave(mu_engine_instance *instance, const mu_tensor *first, mu_error *err) {
  const struct sim_settings *settings = &instance->model->settings;
  if (first != NULL && sim_any_row_begins(first, settings->crash_on)) crash(settings);
  if (first != NULL && sim_any_row_begins(first, settings->hang_on)) hang();
  if (first != NULL && sim_any_row_begins(first, settings->device_lost_on)) {
    return mu_fail(err, MU_IO, "sim: told to lose its device on %s (sim.device_lost_on)", settings->device_lost_on);
  }
  if (first != NULL && sim_any_row_begins(first, settings->fail_on)) {
    return mu_fail(err, MU_INVALID, "sim: told to fail on %s (sim.fail_on)", settings->fail_on);
  }
  if (settings->crash_rate > 0 && draw(instance) < settings->crash_rate) crash(settings);
  if (first != NULL && sim_any_row_begins(first, settings->memory_on)) {
    return use_memory(settings->memory_mib, err);
  }
  if (settings->fail_rate > 0 && draw(instance) < settings->fail_rate) {
    return mu_fail(err, MU_INTERNAL, "sim: told to fail now and then (sim.fail_rate)");
  }
  return MU_OK;
}

static mu_status sim_run(mu_engine_instance *instance, const mu_input *inputs, size_t n_inputs, mu_output *outputs,
                         size_t n_outputs, mu_error *err) {
  const mu_engine_model *model = instance->model;
  const mu_tensor *first = find_input(inputs, n_inputs, 0);
  int64_t rows = first != NULL && first->rank > 0 ? first->dims[0] : 1;
  if (n_outputs > model->info.n_outputs) {
    return mu_fail(err, MU_INVALID, "%zu outputs of a model that has %zu", n_outputs, model->info.n_outputs);
  }
  mu_status status = take_time(instance, rows, err);
  if (status == MU_OK) status = misbehave(instance, first, err);
  for (size_t i = 0; status == MU_OK && i < n_outputs; i++) {
    if (outputs[i].index >= model->info.n_outputs) {
      return mu_fail(err, MU_INVALID, "there is no output %u", outputs[i].index);
    }
    const mu_tensor *input = find_input(inputs, n_inputs, outputs[i].index);
    status = produce(instance, i, input, rows, &outputs[i], err);
  }
  return status;
}

const mu_engine engine_sim = {
    .api_version = MU_ENGINE_API_VERSION,
    .name = "sim",
    .model_load = model_load,
    .model_free = model_free,
    .model_info = model_info,
    .instance_create = sim_instance_create,
    .instance_free = sim_instance_free,
    .run = sim_run,
    .stop = sim_stop,
};
