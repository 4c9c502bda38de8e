#include "gpu/locality.h"

#include <hwloc.h>
#include <hwloc/glibc-sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct gpu_locality {
  hwloc_topology_t topology;
  cpu_set_t allowed;
};

/* What asks the GPUs' own libraries, where Debian's package of such plugins is installed: not needed, and can hang. */
static const char *const unwanted[] = {"nvml", "cuda", "opencl", "rsmi", "levelzero", "gl"};

static mu_status load(struct gpu_locality *locality, mu_error *err) {
  if (hwloc_topology_init(&locality->topology) != 0) {
    locality->topology = NULL;
    return mu_fail(err, MU_NO_MEMORY, "no memory for the topology of the machine");
  }
  for (size_t i = 0; i < sizeof unwanted / sizeof *unwanted; i++)
    (void)hwloc_topology_set_components(locality->topology, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, unwanted[i]);
  if (hwloc_topology_set_type_filter(locality->topology, HWLOC_OBJ_PCI_DEVICE, HWLOC_TYPE_FILTER_KEEP_IMPORTANT) != 0 ||
      hwloc_topology_load(locality->topology) != 0)
    return mu_fail(err, MU_IO, "hwloc cannot read the topology of the machine: %s", strerror(errno));
  return MU_OK;
}

mu_status gpu_locality_create(const cpu_set_t *allowed, struct gpu_locality **ret_locality, mu_error *err) {
  struct gpu_locality *locality = calloc(1, sizeof *locality);
  if (locality == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the topology of the machine");
  mu_status status = MU_OK;
  if (allowed != NULL)
    locality->allowed = *allowed;
  else if (sched_getaffinity(0, sizeof locality->allowed, &locality->allowed) != 0)
    status = mu_fail(err, MU_IO, "sched_getaffinity: %s", strerror(errno));
  if (status == MU_OK) status = load(locality, err);
  if (status != MU_OK) {
    gpu_locality_free(locality);
    return status;
  }
  *ret_locality = locality;
  return MU_OK;
}

void gpu_locality_free(struct gpu_locality *locality) {
  if (locality == NULL) return;
  if (locality->topology != NULL) hwloc_topology_destroy(locality->topology);
  free(locality);
}

static hwloc_const_cpuset_t find_near(const struct gpu_locality *locality, const struct gpu *gpu) {
  hwloc_obj_t device = gpu->pci[0] != '\0' ? hwloc_get_pcidev_by_busidstring(locality->topology, gpu->pci) : NULL;
  hwloc_obj_t near = device != NULL ? hwloc_get_non_io_ancestor_obj(locality->topology, device) : NULL;
  if (near == NULL && gpu->numa_node != GPU_UNKNOWN)
    near = hwloc_get_numanode_obj_by_os_index(locality->topology, (unsigned)gpu->numa_node);
  return near != NULL ? near->cpuset : NULL;
}

void gpu_locality_cores(const struct gpu_locality *locality, const struct gpu *gpu, cpu_set_t *ret_cores) {
  hwloc_const_cpuset_t near = find_near(locality, gpu);
  cpu_set_t cores;
  CPU_ZERO(&cores);
  for (int i = 0; near != NULL && i < CPU_SETSIZE; i++)
    if (hwloc_bitmap_isset(near, (unsigned)i) && CPU_ISSET(i, &locality->allowed)) CPU_SET(i, &cores);
  *ret_cores = CPU_COUNT(&cores) > 0 ? cores : locality->allowed;
}

/* ---- as text
 * --------------------------------------------------------------------------------------------------------- */

bool gpu_cores_print(const cpu_set_t *cores, char *text, size_t size) {
  size_t at = 0;
  text[0] = '\0';
  for (int first = 0; first < CPU_SETSIZE; first++) {
    if (!CPU_ISSET(first, cores)) continue;
    int last = first, n;
    while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, cores)) last++;
    const char *comma = at > 0 ? "," : "";
    n = last > first ? snprintf(text + at, size - at, "%s%d-%d", comma, first, last)
                     : snprintf(text + at, size - at, "%s%d", comma, first);
    if (n < 0 || (size_t)n >= size - at) {
      text[0] = '\0';
      return false;
    }
    at += (size_t)n;
    first = last;
  }
  return true;
}

/* A number below CPU_SETSIZE at *text, which moves behind it; -1: there is none. */
static int take_core(const char **text) {
  int core = 0;
  if (**text < '0' || **text > '9') return -1;
  for (; **text >= '0' && **text <= '9'; (*text)++) {
    core = core * 10 + (**text - '0');
    if (core >= CPU_SETSIZE) return -1;
  }
  return core;
}

mu_status gpu_cores_parse(const char *text, cpu_set_t *ret_cores) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  for (;; text++) {
    int first = take_core(&text), last = first;
    if (*text == '-') {
      text++;
      last = take_core(&text);
    }
    if (first < 0 || last < first) return MU_INVALID;
    for (int i = first; i <= last; i++) CPU_SET(i, &cores);
    if (*text == '\0') break;
    if (*text != ',') return MU_INVALID;
  }
  *ret_cores = cores;
  return MU_OK;
}
