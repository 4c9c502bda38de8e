/*
 * A library with NVML's symbols for tests on machines without a GPU. The environment variable FAKE_NVML names its
 * scenario, a JSON file, which is read anew whenever it has changed (replace it by rename, so that nobody reads half of
 * it): the machine changes while a server runs. Without a file, or with a broken one, every call answers 999.
 *
 *   { "driver": "550.54.15", "cuda": 12040,
 *     "errors": {"nvmlInitWithFlags": 9},        calls and what they answer: for all devices
 *     "hang": ["nvmlDeviceGetTemperature"],      calls that never return, until the name is gone from the list
 *     "nvlink": [[0, 1], [2, 3]],                groups of GPUs that NVLink connects
 *     "topology": [[0, 10], [10, 0]],            NVML's levels; left out: 40 within a NUMA node, else 50
 *     "events": [{"gpu": 0, "xid": 79}, {"gpu": 1, "ecc": true}],   grows; each is handed out once per event set
 *     "gpus": [ {
 *       "uuid": "GPU-…", "name": "NVIDIA H200", "pci": "00000000:3B:00.0", "compute_capability": [9, 0],
 *       "memory": {"total": N, "used": N},       bytes, used with what is reserved
 *       "compute_mode": 0, "persistence": 1, "numa_node": 0, "utilization": [percent, percent of memory],
 *       "temperature": C, "power_mw": N, "power_limit_mw": N, "energy_mj": N, "sm_clock": MHZ, "sm_clock_max": MHZ,
 *       "memory_clock": MHZ, "throttle_reasons": BITS, "ecc": [corrected, uncorrected], "recovery_action": 0,
 *       "processes": [{"pid": N, "memory": N}],
 *       "mig": [ {"uuid": "MIG-…", "name": …, "memory": …, "processes": …}, null ],   there: MIG is on; null: a hole
 *       "events": false,                         it reports none
 *       "lost": true,                            every call about it answers 15, or the number that stands here
 *       "errors": {"nvmlDeviceGetPowerUsage": 999} } ] }
 *
 * What is left out of a GPU is not supported (NVML 3). Built a second time as libfake_nvml_old.so, which lacks all the
 * symbols that a driver of 2018 lacks.
 */
#include "scenario.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { GPUS = 64, MIGS = 8, HANG_POLL_US = 10000 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static json_t *root;
static struct stat last;
static struct nvml_device_data devices[GPUS][1 + MIGS];

__attribute__((constructor)) static void number_devices(void) {
  for (int gpu = 0; gpu < GPUS; gpu++)
    for (int mig = -1; mig < MIGS; mig++) devices[gpu][1 + mig] = (struct nvml_device_data){gpu, mig};
}

__attribute__((destructor)) static void forget_scenario(void) { json_decref(root); }

json_t *scenario_root(void) { return root; }

nvml_device scenario_device(int gpu, int mig) {
  return gpu >= 0 && gpu < GPUS && mig >= -1 && mig < MIGS ? &devices[gpu][1 + mig] : NULL;
}

json_t *scenario_gpu(nvml_device device) { return json_array_get(json_object_get(root, "gpus"), (size_t)device->gpu); }

static void read_file(void) {
  struct stat now;
  json_error_t error;
  const char *path = getenv("FAKE_NVML");
  if (path == NULL || stat(path, &now) != 0) {
    json_decref(root);
    root = NULL;
    return;
  }
  if (root != NULL && now.st_ino == last.st_ino && now.st_size == last.st_size &&
      now.st_mtim.tv_sec == last.st_mtim.tv_sec && now.st_mtim.tv_nsec == last.st_mtim.tv_nsec)
    return;
  json_decref(root);
  root = json_load_file(path, 0, &error);
  if (root == NULL) fprintf(stderr, "fake NVML: %s:%d: %s\n", path, error.line, error.text);
  last = now;
}

static bool hangs(const char *call) {
  size_t i;
  const json_t *name;
  json_array_foreach(json_object_get(root, "hang"), i, name) {
    if (strcmp(json_string_value(name), call) == 0) return true;
  }
  return false;
}

/* What the errors of an object say of a call. */
static nvml_return error_of(const json_t *object, const char *call) {
  return (nvml_return)json_integer_value(json_object_get(json_object_get(object, "errors"), call));
}

static nvml_return find_device(const char *call, nvml_device device, json_t **ret_device) {
  json_t *gpu = scenario_gpu(device);
  const json_t *lost = json_object_get(gpu, "lost");
  if (gpu == NULL) return NVML_INVALID_ARGUMENT;
  if (json_is_integer(lost)) return (nvml_return)json_integer_value(lost);
  if (json_is_true(lost)) return NVML_GPU_IS_LOST;
  if (device->mig >= 0) gpu = json_array_get(json_object_get(gpu, "mig"), (size_t)device->mig);
  if (!json_is_object(gpu)) return NVML_NOT_FOUND;
  *ret_device = gpu;
  return error_of(gpu, call);
}

nvml_return scenario_enter(const char *call, nvml_device device, json_t **ret_device) {
  json_t *found = NULL;
  pthread_mutex_lock(&lock);
  for (read_file(); hangs(call); read_file()) {
    pthread_mutex_unlock(&lock);
    usleep(HANG_POLL_US);
    pthread_mutex_lock(&lock);
  }
  nvml_return result = root == NULL ? NVML_UNKNOWN : error_of(root, call);
  if (result == NVML_SUCCESS && device != NULL) result = find_device(call, device, &found);
  if (result != NVML_SUCCESS) return scenario_leave(result);
  *ret_device = found;
  return NVML_SUCCESS;
}

nvml_return scenario_leave(nvml_return result) {
  pthread_mutex_unlock(&lock);
  return result;
}
