#include "gpu/nvml.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/nvml_functions.h"

static const char default_library[] = "libnvidia-ml.so.1";

static const struct {
  const char *symbol, *older; /* older: its name in drivers before */
  bool required;
  size_t offset; /* in nvml.functions */
} rows[NVML_FUNCTION_COUNT] = {
#define X(member, symbol, older, required, parameters) \
  {symbol, older, required, offsetof(struct nvml, functions.member)},
    NVML_FUNCTIONS(X)
#undef X
};

/* ---- what is being called
 * -------------------------------------------------------------------------------------------- */

static _Thread_local _Atomic int32_t *call_slot;

void nvml_watch_calls(_Atomic int32_t *slot) {
  call_slot = slot;
  nvml_note_call(NVML_FUNCTION_COUNT);
}

void nvml_note_call(enum nvml_function function) {
  if (call_slot != NULL) *call_slot = function < NVML_FUNCTION_COUNT ? (int32_t)function : -1;
}

const char *nvml_call_name(int32_t number) {
  return number >= 0 && number < NVML_FUNCTION_COUNT ? rows[number].symbol : "";
}

/* ---- errors
 * ---------------------------------------------------------------------------------------------------------- */

const char *nvml_words(const struct nvml *nvml, nvml_return result) {
  const char *words = nvml->error_text != NULL ? nvml->error_text(result) : NULL;
  return words != NULL ? words : "unknown error";
}

mu_status nvml_fail(const struct nvml *nvml, enum nvml_function function, nvml_return result, mu_error *err) {
  static const struct {
    nvml_return result;
    const char *cure;
  } known[] = {
      {NVML_DRIVER_NOT_LOADED, ": NVIDIA's kernel driver is not loaded (is there a GPU? see nvidia-smi and dmesg)"},
      {NVML_LIB_RM_VERSION_MISMATCH,
       ": the driver was updated under a running kernel: reboot, or load its module anew"},
      {NVML_FUNCTION_NOT_FOUND, ": the driver is too old for this"},
  };
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (known[i].result == result)
      return mu_fail(err, MU_UNSUPPORTED, "%s: %s (NVML %d)%s", rows[function].symbol, nvml_words(nvml, result), result,
                     known[i].cure);
  return mu_fail(err, MU_IO, "%s: %s (NVML %d)", rows[function].symbol, nvml_words(nvml, result), result);
}

/* ---- opening
 * --------------------------------------------------------------------------------------------------------- */

static mu_status find_functions(struct nvml *nvml, const char *library, mu_error *err) {
  for (size_t i = 0; i < NVML_FUNCTION_COUNT; i++) {
    void *found = dlsym(nvml->library, rows[i].symbol);
    if (found == NULL && rows[i].older != NULL) found = dlsym(nvml->library, rows[i].older);
    if (found == NULL && rows[i].required)
      return mu_fail(err, MU_UNSUPPORTED, "%s lacks %s: it is no NVML, or one of a driver that is too old", library,
                     rows[i].symbol);
    memcpy((char *)nvml + rows[i].offset, &found, sizeof found);
  }
  void *words = dlsym(nvml->library, "nvmlErrorString");
  memcpy(&nvml->error_text, &words, sizeof words);
  return MU_OK;
}

mu_status nvml_open(const char *library, struct nvml **ret_nvml, mu_error *err) {
  const char *given = getenv("MUSTER_NVML_LIBRARY");
  if (library[0] == '\0') library = given != NULL && given[0] != '\0' ? given : default_library;
  struct nvml *nvml = calloc(1, sizeof *nvml);
  if (nvml == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for NVML");
  mu_status status = MU_OK;
  nvml->library = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (nvml->library == NULL) {
    const char *why = dlerror();
    status = mu_fail(err, MU_NOT_FOUND,
                     "cannot open NVML, which comes with NVIDIA's driver: %s: install the driver, or name the library "
                     "with --nvml-library or MUSTER_NVML_LIBRARY",
                     why != NULL ? why : library);
  }
  if (status == MU_OK) status = find_functions(nvml, library, err);
  if (status == MU_OK) {
    nvml_return result = NVML_CALL(nvml, init, NVML_INIT_NO_GPUS);
    nvml->initialized = result == NVML_SUCCESS;
    if (!nvml->initialized) status = nvml_fail(nvml, NVML_FN_init, result, err);
  }
  if (status != MU_OK) {
    nvml_close(nvml);
    return status;
  }
  *ret_nvml = nvml;
  return MU_OK;
}

void nvml_close(struct nvml *nvml) {
  if (nvml == NULL) return;
  if (nvml->events != NULL) (void)NVML_CALL(nvml, events_free, nvml->events);
  if (nvml->initialized) (void)NVML_CALL(nvml, shutdown);
  gpu_locality_free(nvml->locality);
  if (nvml->library != NULL) dlclose(nvml->library);
  free(nvml);
}
