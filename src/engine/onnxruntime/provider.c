#include "engine/onnxruntime/provider.h"

#include <dlfcn.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

#define CUDA_PROVIDER "CUDAExecutionProvider"
#define TENSORRT_PROVIDER "TensorrtExecutionProvider"
#define CUDA_PREFIX "muster.cuda."
#define TENSORRT_PARAMETER "muster.tensorrt"

enum { PROVIDER_OPTIONS_MAX = 64 };

/* Options of one provider; keys and values are borrowed. All go to the provider in one call: a second call would put
 * those that it does not name back to their defaults. */
struct provider_options {
  const char *keys[PROVIDER_OPTIONS_MAX], *values[PROVIDER_OPTIONS_MAX];
  size_t n;
};

static mu_status set_option(struct provider_options *options, const char *key, const char *value, mu_error *err) {
  size_t i = 0;
  while (i < options->n && strcmp(options->keys[i], key) != 0) i++;
  if (i == PROVIDER_OPTIONS_MAX) return mu_fail(err, MU_TOO_LARGE, "more than %d provider options", (int)i);
  options->keys[i] = key;
  options->values[i] = value;
  if (i == options->n) options->n++;
  return MU_OK;
}

/* ---- which GPU --------------------------------------------------------------------------------------------------- */

/* Place of the UUID in CUDA_VISIBLE_DEVICES, which is how CUDA numbers what the process sees. */
static mu_status find_uuid(const char *uuid, char *ordinal, size_t size, mu_error *err) {
  const char *visible = getenv("CUDA_VISIBLE_DEVICES");
  const char *at = visible != NULL ? visible : "";
  size_t length = strlen(uuid);
  for (int i = 0; *at != '\0'; i++) {
    size_t n = strcspn(at, ",");
    if (n == length && strncmp(at, uuid, n) == 0) {
      snprintf(ordinal, size, "%d", i);
      return MU_OK;
    }
    at += n + (at[n] == ',');
  }
  return mu_fail(err, MU_INVALID, "GPU %s is not visible to this process (CUDA_VISIBLE_DEVICES=%s)", uuid,
                 visible != NULL ? visible : "(unset)");
}

static mu_status find_gpu(const char *device, char *ordinal, size_t size, mu_error *err) {
  if (strncmp(device, "gpu:", 4) != 0 || device[4] == '\0') {
    return mu_fail(err, MU_INVALID, "there is no device \"%s\": it is cpu, gpu:INDEX or gpu:UUID", device);
  }
  const char *name = device + 4;
  size_t digits = strspn(name, "0123456789");
  if (name[digits] != '\0') return find_uuid(name, ordinal, size, err);
  if (digits >= size) return mu_fail(err, MU_INVALID, "there is no device \"%s\"", device);
  memcpy(ordinal, name, digits + 1);
  return MU_OK;
}

/* ---- is it there ------------------------------------------------------------------------------------------------- */

static mu_status require_provider(const struct ort_library *library, const char *device, const char *name,
                                  mu_error *err) {
  char **names = NULL;
  int n = 0;
  mu_status status =
      ort_result(library, library->api->GetAvailableProviders(&names, &n), "cannot list the providers", err);
  if (status != MU_OK) return status;
  bool found = false;
  for (int i = 0; i < n; i++) found = found || strcmp(names[i], name) == 0;
  status = ort_result(library, library->api->ReleaseAvailableProviders(names, n), "cannot list the providers", err);
  if (status != MU_OK || found) return status;
  return mu_fail(err, MU_UNSUPPORTED,
                 "device %s needs %s, which ONNX Runtime %s in %s has not: install the GPU build (`pip install "
                 "onnxruntime-gpu`) and give it with --onnxruntime-library, or choose --device cpu",
                 device, name, library->version, library->folder);
}

/*
 * CUDA's own libraries, where they came as Python packages: they lie in folders that the loader does not search. Opened
 * here, in the order of their dependencies, so that the provider finds them already there. Those that are missing may
 * be in the system's places; if they are not, the provider's own error names them.
 */
static void preload_cuda(const struct ort_library *library) {
  static const char *const folders[] = {"nvidia/*/lib", "tensorrt_libs"};
  static const char *const names[] = {"libcudart.so.*",  "libnvJitLink.so.*",   "libnvrtc.so.*", "libcublasLt.so.*",
                                      "libcublas.so.*",  "libcurand.so.*",      "libcufft.so.*", "libcudnn.so.*",
                                      "libnvinfer.so.*", "libnvonnxparser.so.*"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    for (size_t f = 0; f < sizeof folders / sizeof folders[0]; f++) {
      char pattern[PATH_MAX];
      int n = snprintf(pattern, sizeof pattern, "%s/../../%s/%s", library->folder, folders[f], names[i]);
      glob_t found = {0};
      if (n < (int)sizeof pattern && glob(pattern, 0, NULL, &found) == 0) {
        for (size_t k = 0; k < found.gl_pathc; k++) dlopen(found.gl_pathv[k], RTLD_LAZY | RTLD_LOCAL | RTLD_NODELETE);
      }
      globfree(&found);
    }
  }
}

/* ---- CUDA -------------------------------------------------------------------------------------------------------- */

/* Triton's parameters for CUDA, whose values are numbers there and words here. */
static const struct {
  const char *key;
  const char *words[4]; /* by number; empty: the value is passed on as it is */
} cuda_parameters[] = {
    {"gpu_mem_limit", {NULL}},
    {"do_copy_in_default_stream", {NULL}},
    {"arena_extend_strategy", {"kNextPowerOfTwo", "kSameAsRequested"}},
    {"cudnn_conv_algo_search", {"EXHAUSTIVE", "HEURISTIC", "DEFAULT"}},
};

static const char *as_word(const char *value, const char *const words[4]) {
  for (int i = 0; i < 4 && words[i] != NULL; i++) {
    if (value[0] == '0' + i && value[1] == '\0') return words[i];
  }
  return value;
}

static mu_status collect_cuda_options(const mu_model_spec *spec, const char *ordinal, struct provider_options *options,
                                      mu_error *err) {
  /* Shapes vary from batch to batch: an arena that doubles and an exhaustive search for each new shape cost more than
   * they give. */
  mu_status status = set_option(options, "arena_extend_strategy", "kSameAsRequested", err);
  if (status == MU_OK) status = set_option(options, "cudnn_conv_algo_search", "HEURISTIC", err);
  for (size_t i = 0; status == MU_OK && i < sizeof cuda_parameters / sizeof cuda_parameters[0]; i++) {
    const char *value = engine_parameter(spec, cuda_parameters[i].key);
    if (value == NULL) continue;
    status = set_option(options, cuda_parameters[i].key, as_word(value, cuda_parameters[i].words), err);
  }
  for (size_t i = 0; status == MU_OK && i < spec->n_parameters; i++) {
    const mu_parameter *p = &spec->parameters[i];
    if (strncmp(p->key, CUDA_PREFIX, sizeof CUDA_PREFIX - 1) != 0) continue;
    status = set_option(options, p->key + sizeof CUDA_PREFIX - 1, p->value, err);
  }
  /* Last: no parameter may choose another device than the one that was asked for. */
  return status == MU_OK ? set_option(options, "device_id", ordinal, err) : status;
}

static bool is_on(const struct provider_options *options, const char *key) {
  for (size_t i = 0; i < options->n; i++) {
    if (strcmp(options->keys[i], key) == 0) return strcmp(options->values[i], "0") != 0;
  }
  return false;
}

static mu_status append_cuda(const struct ort_library *library, const mu_model_spec *spec, const char *ordinal,
                             OrtSessionOptions *session, bool *ret_session_each, mu_error *err) {
  const OrtApi *api = library->api;
  struct provider_options options = {.n = 0};
  mu_status status = collect_cuda_options(spec, ordinal, &options, err);
  if (status != MU_OK) return status;
  char what[160];
  snprintf(what, sizeof what, "cannot use device %s with CUDA", spec->device);
  OrtCUDAProviderOptionsV2 *cuda = NULL;
  status = ort_result(library, api->CreateCUDAProviderOptions(&cuda), what, err);
  if (status != MU_OK) return status;
  OrtStatus *failed = api->UpdateCUDAProviderOptions(cuda, options.keys, options.values, options.n);
  if (failed == NULL) failed = api->SessionOptionsAppendExecutionProvider_CUDA_V2(session, cuda);
  api->ReleaseCUDAProviderOptions(cuda);
  status = ort_result(library, failed, what, err);
  if (status == MU_OK && is_on(&options, "enable_cuda_graph")) *ret_session_each = true;
  return status;
}

/* ---- TensorRT ---------------------------------------------------------------------------------------------------- */

/* Triton's spelling of TensorRT's options; others carry the same name on both sides. */
static const struct {
  const char *triton, *value; /* value NULL: any */
  const char *key, *as;       /* as NULL: the value itself; key NULL: nothing to set */
} tensorrt_spellings[] = {
    {"precision_mode", "FP32", NULL, NULL},
    {"precision_mode", "FP16", "trt_fp16_enable", "1"},
    {"precision_mode", "INT8", "trt_int8_enable", "1"},
    {"max_workspace_size_bytes", NULL, "trt_max_workspace_size", NULL},
    {"int8_calibration_table_name", NULL, "trt_int8_calibration_table_name", NULL},
    {"int8_use_native_calibration_table", NULL, "trt_int8_use_native_calibration_table", NULL},
};

static const char *as_number(const char *value) {
  if (strcmp(value, "true") == 0) return "1";
  return strcmp(value, "false") == 0 ? "0" : value;
}

static mu_status set_tensorrt_option(struct provider_options *options, const char *key, const char *value,
                                     mu_error *err) {
  bool known = strncmp(key, "trt_", 4) == 0;
  for (size_t i = 0; i < sizeof tensorrt_spellings / sizeof tensorrt_spellings[0]; i++) {
    if (strcmp(tensorrt_spellings[i].triton, key) != 0) continue;
    known = false;
    if (tensorrt_spellings[i].value != NULL && strcmp(tensorrt_spellings[i].value, value) != 0) continue;
    if (tensorrt_spellings[i].key == NULL) return MU_OK;
    const char *as = tensorrt_spellings[i].as;
    return set_option(options, tensorrt_spellings[i].key, as != NULL ? as : as_number(value), err);
  }
  if (!known) return mu_fail(err, MU_INVALID, "TensorRT has no option %s = \"%s\"", key, value);
  return set_option(options, key, as_number(value), err);
}

static mu_status append_tensorrt(const struct ort_library *library, const mu_model_spec *spec, const char *ordinal,
                                 OrtSessionOptions *session, mu_error *err) {
  const OrtApi *api = library->api;
  struct provider_options options = {.n = 0};
  const size_t prefix = sizeof TENSORRT_PARAMETER; /* with the dot in the place of the terminator */
  mu_status status = MU_OK;
  for (size_t i = 0; status == MU_OK && i < spec->n_parameters; i++) {
    const mu_parameter *p = &spec->parameters[i];
    if (strncmp(p->key, TENSORRT_PARAMETER ".", prefix) != 0) continue;
    status = set_tensorrt_option(&options, p->key + prefix, p->value, err);
  }
  if (status == MU_OK) status = set_option(&options, "device_id", ordinal, err);
  if (status != MU_OK) return status;
  char what[160];
  snprintf(what, sizeof what, "cannot use device %s with TensorRT", spec->device);
  OrtTensorRTProviderOptionsV2 *tensorrt = NULL;
  status = ort_result(library, api->CreateTensorRTProviderOptions(&tensorrt), what, err);
  if (status != MU_OK) return status;
  OrtStatus *failed = api->UpdateTensorRTProviderOptions(tensorrt, options.keys, options.values, options.n);
  if (failed == NULL) failed = api->SessionOptionsAppendExecutionProvider_TensorRT_V2(session, tensorrt);
  api->ReleaseTensorRTProviderOptions(tensorrt);
  return ort_result(library, failed, what, err);
}

mu_status ort_provider_append(const struct ort_library *library, const mu_model_spec *spec, OrtSessionOptions *options,
                              struct provider_choice *ret_choice, mu_error *err) {
  if (strcmp(spec->device, "cpu") == 0) {
    *ret_choice = (struct provider_choice){.name = "CPUExecutionProvider"};
    return MU_OK;
  }
  char ordinal[16];
  bool tensorrt = engine_parameter(spec, TENSORRT_PARAMETER) != NULL;
  struct provider_choice choice = {.name = tensorrt ? TENSORRT_PROVIDER : CUDA_PROVIDER, .session_each = tensorrt};
  mu_status status = find_gpu(spec->device, ordinal, sizeof ordinal, err);
  if (status == MU_OK) status = require_provider(library, spec->device, CUDA_PROVIDER, err);
  if (status == MU_OK && tensorrt) status = require_provider(library, spec->device, TENSORRT_PROVIDER, err);
  if (status != MU_OK) return status;
  preload_cuda(library);
  if (tensorrt) status = append_tensorrt(library, spec, ordinal, options, err);
  if (status == MU_OK) status = append_cuda(library, spec, ordinal, options, &choice.session_each, err);
  if (status == MU_OK) *ret_choice = choice;
  return status;
}
