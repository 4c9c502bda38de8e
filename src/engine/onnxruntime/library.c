#include "engine/onnxruntime/library.h"

#include <dirent.h>
#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "engine/onnxruntime/onnxruntime.h"

/* ---- finding it -------------------------------------------------------------------------------------------------- */

/* What has been looked at so far, for the message when nothing is found. */
struct search {
  char tried[320];
  void *handle;
};

static void note_tried(struct search *search, const char *what) {
  size_t at = strlen(search->tried);
  snprintf(search->tried + at, sizeof search->tried - at, "%s%s", at > 0 ? "; " : "", what);
}

static void try_name(struct search *search, const char *name) {
  /* NODELETE: the library leaves threads and exit handlers behind that must not lose their code. */
  search->handle = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (search->handle == NULL) note_tried(search, dlerror());
}

#define LIBRARY_FILE "libonnxruntime.so"

static int is_library(const struct dirent *entry) {
  return strncmp(entry->d_name, LIBRARY_FILE, sizeof LIBRARY_FILE - 1) == 0;
}

/* The newest libonnxruntime.so* of a folder. */
static void try_folder(struct search *search, const char *folder) {
  char path[PATH_MAX];
  struct dirent **found = NULL;
  int n = scandir(folder, &found, is_library, versionsort); /* ascending */
  const char *newest = n > 0 ? found[n - 1]->d_name : LIBRARY_FILE "*";
  bool fits = snprintf(path, sizeof path, "%s/%s", folder, newest) < (int)sizeof path;
  (n > 0 && fits ? try_name : note_tried)(search, path);
  while (n > 0) free(found[--n]);
  free(found);
}

static bool folder_beside_program(const char *relative, char folder[PATH_MAX]) {
  ssize_t n = readlink("/proc/self/exe", folder, PATH_MAX - 1);
  if (n <= 0) return false;
  folder[n] = '\0';
  char *slash = strrchr(folder, '/');
  if (slash == NULL) return false;
  snprintf(slash, PATH_MAX - (size_t)(slash - folder), "%s", relative);
  return true;
}

static void try_beside_program(struct search *search, const char *relative) {
  char folder[PATH_MAX];
  if (folder_beside_program(relative, folder)) try_folder(search, folder);
}

static const struct {
  void (*try)(struct search *search, const char *argument);
  const char *argument;
} search_places[] = {
    {try_beside_program, "/../lib"},   {try_beside_program, ""},        {try_folder, MUSTER_DEPS "/onnxruntime/lib"},
    {try_name, "libonnxruntime.so.1"}, {try_name, "libonnxruntime.so"},
};

static mu_status find_library(const char *path, void **ret_handle, mu_error *err) {
  struct search search = {0};
  if (path != NULL && path[0] != '\0') {
    struct stat file;
    (stat(path, &file) == 0 && S_ISDIR(file.st_mode) ? try_folder : try_name)(&search, path);
  } else {
    for (size_t i = 0; search.handle == NULL && i < sizeof search_places / sizeof search_places[0]; i++) {
      search_places[i].try(&search, search_places[i].argument);
    }
  }
  if (search.handle == NULL) {
    return mu_fail(err, MU_NOT_FOUND,
                   "no ONNX Runtime library: run script/bootstrap, or `pip install onnxruntime` and give "
                   "--onnxruntime-library …/onnxruntime/capi. Tried: %s",
                   search.tried);
  }
  *ret_handle = search.handle;
  return MU_OK;
}

/* ---- its CUDA provider, by the files alone ----------------------------------------------------------------------- */

static bool has_file(const char *folder, const char *name) {
  char path[PATH_MAX];
  return snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path && access(path, R_OK) == 0;
}

static bool has_library(const char *folder) {
  struct dirent **found = NULL;
  int n = scandir(folder, &found, is_library, NULL);
  bool any = n > 0;
  while (n > 0) free(found[--n]);
  free(found);
  return any;
}

bool engine_onnxruntime_has_cuda(const char *library) {
  static const char cuda[] = "libonnxruntime_providers_cuda.so";
  char folder[PATH_MAX];
  struct stat file;
  if (library != NULL && library[0] != '\0') {
    snprintf(folder, sizeof folder, "%s", library);
    if (stat(library, &file) == 0 && S_ISDIR(file.st_mode)) return has_file(folder, cuda);
    char *slash = strrchr(folder, '/');
    if (slash != NULL) *slash = '\0';
    return slash != NULL && has_file(folder, cuda);
  }
  /* In the order of search_places: what the first library has beside it counts. */
  if (folder_beside_program("/../lib", folder) && has_library(folder)) return has_file(folder, cuda);
  if (folder_beside_program("", folder) && has_library(folder)) return has_file(folder, cuda);
  return has_file(MUSTER_DEPS "/onnxruntime/lib", cuda);
}

/* ---- its log ----------------------------------------------------------------------------------------------------- */

static const enum log_level log_levels[] = {
    [ORT_LOGGING_LEVEL_VERBOSE] = LOG_LEVEL_VERBOSE, [ORT_LOGGING_LEVEL_INFO] = LOG_LEVEL_VERBOSE,
    [ORT_LOGGING_LEVEL_WARNING] = LOG_LEVEL_WARNING, [ORT_LOGGING_LEVEL_ERROR] = LOG_LEVEL_ERROR,
    [ORT_LOGGING_LEVEL_FATAL] = LOG_LEVEL_ERROR,
};

/* The one place of an engine that logs: these messages have no caller to return to. */
static void ORT_API_CALL log_message(void *context, OrtLoggingLevel severity, const char *category, const char *id,
                                     const char *location, const char *message) {
  size_t row = (size_t)severity;
  enum log_level level = row < sizeof log_levels / sizeof log_levels[0] ? log_levels[row] : LOG_LEVEL_ERROR;
  LOG_AT(level, message, LOG_STR("from", "onnxruntime"), LOG_STR("where", location));
}

/* ---- its failures ------------------------------------------------------------------------------------------------ */

static const mu_status statuses[] = {
    [ORT_OK] = MU_OK,
    [ORT_FAIL] = MU_INTERNAL,
    [ORT_INVALID_ARGUMENT] = MU_INVALID,
    [ORT_NO_SUCHFILE] = MU_NOT_FOUND,
    [ORT_NO_MODEL] = MU_NOT_FOUND,
    [ORT_ENGINE_ERROR] = MU_INTERNAL,
    [ORT_RUNTIME_EXCEPTION] = MU_INTERNAL,
    [ORT_INVALID_PROTOBUF] = MU_INVALID,
    [ORT_MODEL_LOADED] = MU_INTERNAL,
    [ORT_NOT_IMPLEMENTED] = MU_UNSUPPORTED,
    [ORT_INVALID_GRAPH] = MU_INVALID,
    [ORT_EP_FAIL] = MU_IO,
    [12] = MU_CANCELED,    /* MODEL_LOAD_CANCELED; the names of 12 to 15 are newer than the header may be */
    [13] = MU_UNSUPPORTED, /* MODEL_REQUIRES_COMPILATION */
    [14] = MU_NOT_FOUND,   /* NOT_FOUND */
    [15] = MU_IO,          /* DEVICE_RESET */
};

/* A CUDA context that has failed stays failed, whatever code the failure came under. Out of memory (2) does not stick.
 */
static bool device_is_lost(const char *message) {
  static const char *const signs[] = {"CUDA failure ", "CUDNN failure ", "CUBLAS failure "};
  for (size_t i = 0; i < sizeof signs / sizeof signs[0]; i++) {
    if (strstr(message, signs[i]) != NULL && strstr(message, "CUDA failure 2:") == NULL) return true;
  }
  return false;
}

mu_status ort_result(const struct ort_library *library, OrtStatus *status, const char *what, mu_error *err) {
  if (status == NULL) return MU_OK;
  size_t code = (size_t)library->api->GetErrorCode(status);
  const char *message = library->api->GetErrorMessage(status);
  mu_status result = code < sizeof statuses / sizeof statuses[0] ? statuses[code] : MU_INTERNAL;
  if (result == MU_OK) result = MU_INTERNAL; /* a status with code 0 that is not NULL: still a failure */
  if (device_is_lost(message)) result = MU_IO;
  result = mu_fail(err, result, "%s: %s", what, message);
  library->api->ReleaseStatus(status);
  for (char *c = err != NULL ? err->message : ""; *c != '\0'; c++) {
    if (*c == '\n' || *c == '\r' || *c == '\t') *c = ' '; /* some messages span lines; an error here is one line */
  }
  return result;
}

/* ---- opening it -------------------------------------------------------------------------------------------------- */

static mu_status remember_folder(struct ort_library *library) {
  struct link_map *map = NULL;
  const char *path = dlinfo(library->handle, RTLD_DI_LINKMAP, &map) == 0 ? map->l_name : "";
  const char *slash = strrchr(path, '/');
  library->folder = slash != NULL ? strndup(path, (size_t)(slash - path)) : strdup(".");
  return library->folder != NULL ? MU_OK : MU_NO_MEMORY;
}

static mu_status find_api(struct ort_library *library, mu_error *err) {
  const OrtApiBase *(*get_base)(void);
  *(void **)(&get_base) = dlsym(library->handle, "OrtGetApiBase");
  if (get_base == NULL) return mu_fail(err, MU_UNSUPPORTED, "%s is no ONNX Runtime: %s", library->folder, dlerror());
  const OrtApiBase *base = get_base();
  library->version = strdup(base->GetVersionString());
  if (library->version == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  library->api = base->GetApi(ORT_LIBRARY_API);
  if (library->api == NULL) {
    return mu_fail(err, MU_UNSUPPORTED, "ONNX Runtime %s in %s is too old: muster needs 1.%d or newer",
                   library->version, library->folder, ORT_LIBRARY_API);
  }
  return MU_OK;
}

mu_status ort_library_open(struct ort_library *library, const char *path, mu_error *err) {
  struct ort_library opened = {0};
  /* From 1.29 on the official Linux builds report to their maker over the network. DisableTelemetryEvents comes too
   * late for what creating the environment sends; this variable, set before, makes them start nothing at all. */
  if (setenv("ORT_DISABLE_TELEMETRY", "1", true) != 0) return mu_fail(err, MU_NO_MEMORY, "no memory");
  mu_status status = find_library(path, &opened.handle, err);
  if (status != MU_OK) return status;
  status = remember_folder(&opened);
  if (status != MU_OK) {
    mu_fail(err, status, "no memory");
  } else {
    status = find_api(&opened, err);
  }
  if (status == MU_OK) {
    OrtStatus *created =
        opened.api->CreateEnvWithCustomLogger(log_message, NULL, ORT_LOGGING_LEVEL_WARNING, "muster", &opened.env);
    status = ort_result(&opened, created, "cannot start ONNX Runtime", err);
  }
  if (status != MU_OK) {
    ort_library_close(&opened);
    return status;
  }
  *library = opened;
  return MU_OK;
}

void ort_library_close(struct ort_library *library) {
  if (library->env != NULL) library->api->ReleaseEnv(library->env);
  if (library->handle != NULL) dlclose(library->handle);
  free(library->version);
  free(library->folder);
  *library = (struct ort_library){0};
}
