#include "engine/sim/sim_gpu.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/sim/gpu_model.h"

/* All processes under MPS; the others' contexts are their process numbers. */
enum { MPS_CONTEXT = GPU_PROCESSES_MAX };

/* How often who waits looks whether somebody that it shares the GPU with has died. */
static const uint64_t look_ns = 100 * NS_PER_MS;

static const uint32_t file_magic = 0x55504753; /* "SGPU" */

struct gpu_state {
  struct gpu_model model;
  struct {
    uint64_t memory;
    bool used;
  } processes[GPU_PROCESSES_MAX];
};

/* The memory itself. Only processes of one binary share it. */
struct gpu_file {
  uint32_t magic;
  _Atomic uint32_t changes; /* a futex: counts what may let a kernel end earlier than was foreseen */
  pthread_mutex_t lock;     /* of what follows */
  _Atomic uint32_t current; /* which of the states holds */
  struct gpu_state states[2];
  pthread_mutex_t alive[GPU_PROCESSES_MAX]; /* held by each process for as long as it lives */
};

struct sim_gpu {
  struct gpu_file *file;
  uint32_t process;
  struct sim_gpu_claim claim;
};

/* ---- robust locks ------------------------------------------------------------------------------------------------ */

static bool init_lock(pthread_mutex_t *lock) {
  pthread_mutexattr_t attributes;
  if (pthread_mutexattr_init(&attributes) != 0) return false;
  bool done = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) == 0 &&
              pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0 &&
              pthread_mutex_init(lock, &attributes) == 0;
  pthread_mutexattr_destroy(&attributes);
  return done;
}

/* The result of locking: is it ours now? Where the owner has died, too: what it guards is whole. */
static bool is_locked(pthread_mutex_t *lock, int result) {
  return result == 0 || (result == EOWNERDEAD && pthread_mutex_consistent(lock) == 0);
}

/* ---- the file ---------------------------------------------------------------------------------------------------- */

static mu_status map_file(int fd, struct gpu_file **ret_file, mu_error *err) {
  struct gpu_file *file = mmap(NULL, sizeof *file, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (file == MAP_FAILED) return mu_fail(err, MU_IO, "simulated GPU: mmap: %s", strerror(errno));
  *ret_file = file;
  return MU_OK;
}

static mu_status fill_file(int fd, mu_error *err) {
  struct gpu_file *file;
  if (ftruncate(fd, sizeof *file) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return mu_fail(err, MU_IO, "simulated GPU: %s", strerror(errno));
  mu_status status = map_file(fd, &file, err);
  if (status != MU_OK) return status;
  bool done = init_lock(&file->lock);
  for (size_t i = 0; done && i < GPU_PROCESSES_MAX; i++) done = init_lock(&file->alive[i]);
  file->magic = file_magic;
  munmap(file, sizeof *file);
  return done ? MU_OK : mu_fail(err, MU_NO_MEMORY, "simulated GPU: no lock");
}

mu_status sim_gpu_create(int *ret_fd, mu_error *err) {
  int fd = memfd_create("muster-sim-gpu", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return mu_fail(err, MU_IO, "simulated GPU: memfd_create: %s", strerror(errno));
  mu_status status = fill_file(fd, err);
  if (status == MU_OK)
    *ret_fd = fd;
  else
    close(fd);
  return status;
}

/* ---- looking and changing ---------------------------------------------------------------------------------------- */

/* Between begin and commit: the state that is to hold, while the one before does. */
static struct gpu_state *begin(struct gpu_file *file) {
  if (!is_locked(&file->lock, pthread_mutex_lock(&file->lock))) return NULL;
  uint32_t current = atomic_load(&file->current);
  struct gpu_state *next = &file->states[1 - current];
  memcpy(next, &file->states[current], sizeof *next);
  gpu_model_advance(&next->model, clock_now_ns());
  return next;
}

static void commit(struct gpu_file *file) {
  atomic_store(&file->current, 1 - atomic_load(&file->current));
  pthread_mutex_unlock(&file->lock);
}

static void wake(struct gpu_file *file) {
  atomic_fetch_add(&file->changes, 1);
  syscall(SYS_futex, &file->changes, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* Who has died has left the GPU. true: kernels went with it. Locked; own: the caller's number. */
static bool bury(struct gpu_file *file, struct gpu_state *state, uint32_t own) {
  bool earlier = false;
  for (uint32_t i = 0; i < GPU_PROCESSES_MAX; i++) {
    if (!state->processes[i].used || i == own) continue;
    if (!is_locked(&file->alive[i], pthread_mutex_trylock(&file->alive[i]))) continue;
    state->processes[i].used = false;
    earlier = gpu_model_remove_process(&state->model, i) || earlier;
    pthread_mutex_unlock(&file->alive[i]);
  }
  return earlier;
}

/* ---- a process on the GPU ---------------------------------------------------------------------------------------- */

static mu_status take_memory(const struct gpu_state *state, const struct sim_gpu_claim *claim, mu_error *err) {
  const double mib = 1 << 20;
  uint64_t taken = 0;
  uint32_t n = 0;
  for (uint32_t i = 0; i < GPU_PROCESSES_MAX; i++) {
    if (!state->processes[i].used) continue;
    taken += state->processes[i].memory;
    n++;
  }
  if (claim->memory <= claim->total && taken <= claim->total - claim->memory) return MU_OK;
  return mu_fail(err, MU_NO_MEMORY,
                 "sim: out of memory on %s: %.0f MiB wanted, %u other process%s hold%s %.0f of %.0f MiB", claim->device,
                 (double)claim->memory / mib, n, n == 1 ? "" : "es", n == 1 ? "s" : "", (double)taken / mib,
                 (double)claim->total / mib);
}

/* A number for this process, and the lock that says that it lives. */
static mu_status join(struct gpu_file *file, struct gpu_state *state, const struct sim_gpu_claim *claim,
                      uint32_t *ret_process, mu_error *err) {
  mu_status status = take_memory(state, claim, err);
  if (status != MU_OK) return status;
  for (uint32_t i = 0; i < GPU_PROCESSES_MAX; i++) {
    if (state->processes[i].used || !is_locked(&file->alive[i], pthread_mutex_trylock(&file->alive[i]))) continue;
    state->processes[i].used = true;
    state->processes[i].memory = claim->memory;
    *ret_process = i;
    return MU_OK;
  }
  return mu_fail(err, MU_UNAVAILABLE, "sim: more than %d processes on %s", GPU_PROCESSES_MAX, claim->device);
}

static mu_status check_file(int fd, mu_error *err) {
  struct stat file;
  if (fstat(fd, &file) != 0) return mu_fail(err, MU_IO, "simulated GPU: %s", strerror(errno));
  if (file.st_size == sizeof(struct gpu_file)) return MU_OK;
  return mu_fail(err, MU_INVALID, "simulated GPU: its file has %lld bytes instead of %zu", (long long)file.st_size,
                 sizeof(struct gpu_file));
}

mu_status sim_gpu_open(int fd, const struct sim_gpu_claim *claim, struct sim_gpu **ret_gpu, mu_error *err) {
  struct gpu_file *file;
  struct sim_gpu *gpu = malloc(sizeof *gpu);
  mu_status status = gpu != NULL ? check_file(fd, err) : mu_fail(err, MU_NO_MEMORY, "no memory");
  if (status == MU_OK) status = map_file(fd, &file, err);
  if (status != MU_OK) {
    free(gpu);
    return status;
  }
  *gpu = (struct sim_gpu){.file = file, .claim = *claim};
  struct gpu_state *state = file->magic == file_magic ? begin(file) : NULL;
  if (state == NULL) {
    status = mu_fail(err, MU_INVALID, "simulated GPU: that is none");
  } else {
    bool earlier = bury(file, state, GPU_PROCESSES_MAX);
    status = join(file, state, claim, &gpu->process, err);
    commit(file);
    if (earlier) wake(file);
  }
  if (status == MU_OK) {
    *ret_gpu = gpu;
    return MU_OK;
  }
  munmap(file, sizeof *file);
  free(gpu);
  return status;
}

void sim_gpu_close(struct sim_gpu *gpu) {
  if (gpu == NULL) return;
  struct gpu_state *state = begin(gpu->file);
  if (state != NULL) {
    state->processes[gpu->process].used = false;
    commit(gpu->file);
  }
  pthread_mutex_unlock(&gpu->file->alive[gpu->process]);
  munmap(gpu->file, sizeof *gpu->file);
  free(gpu);
}

/* ---- a kernel ---------------------------------------------------------------------------------------------------- */

static void wait_until(struct gpu_file *file, uint32_t seen, uint64_t until) {
  struct timespec at = {.tv_sec = (time_t)(until / NS_PER_S), .tv_nsec = (long)(until % NS_PER_S)};
  syscall(SYS_futex, &file->changes, FUTEX_WAIT_BITSET, seen, &at, NULL, FUTEX_BITSET_MATCH_ANY);
}

mu_status sim_gpu_run(struct sim_gpu *gpu, double share, double ns, const atomic_bool *stop, mu_error *err) {
  struct gpu_file *file = gpu->file;
  const struct gpu_kernel kernel = {.process = gpu->process,
                                    .context = gpu->claim.mps ? MPS_CONTEXT : gpu->process,
                                    .share = share,
                                    .cap = gpu->claim.cap,
                                    .left_ns = ns};
  uint64_t ticket = 0;
  for (;;) {
    uint32_t seen = atomic_load(&file->changes);
    struct gpu_state *state = begin(file);
    if (state == NULL) return mu_fail(err, MU_IO, "sim: the lock of the simulated GPU cannot be had");
    bool earlier = bury(file, state, gpu->process), stopped = atomic_load(stop);
    if (ticket == 0) ticket = gpu_model_add(&state->model, &kernel);
    if (stopped) earlier = gpu_model_remove(&state->model, ticket) || earlier;
    bool runs = gpu_model_has(&state->model, ticket);
    uint64_t now = state->model.now_ns, end = gpu_model_end(&state->model, ticket);
    commit(file);
    if (earlier) wake(file);
    if (ticket == 0) return mu_fail(err, MU_UNAVAILABLE, "sim: more than %d kernels on a GPU", GPU_KERNELS_MAX);
    if (stopped) return mu_fail(err, MU_CANCELED, "the run was told to stop");
    if (!runs) return MU_OK;
    wait_until(file, seen, end < now + look_ns ? end : now + look_ns);
  }
}

uint32_t sim_gpu_kernels(struct sim_gpu *gpu) {
  struct gpu_state *state = begin(gpu->file);
  if (state == NULL) return 0;
  bool earlier = bury(gpu->file, state, gpu->process);
  uint32_t n = state->model.n_kernels;
  commit(gpu->file);
  if (earlier) wake(gpu->file);
  return n;
}

void sim_gpu_wake(struct sim_gpu *gpu) { wake(gpu->file); }
