/* A simulated GPU that several processes share, and that any of them may leave at any moment. */
#include "loaded_model.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/sim/gpu_model.h"
#include "engine/sim/sim_gpu.h"

static const uint64_t gib = UINT64_C(1) << 30;
static const double hour_ns = 3600e9;
static atomic_bool never;

static struct sim_gpu_claim claim_of(uint64_t memory, bool mps) {
  return (struct sim_gpu_claim){.device = "gpu:0", .memory = memory, .total = 80 * gib, .mps = mps, .cap = 1};
}

static int create(void) {
  int fd = -1;
  assert_int_equal(sim_gpu_create(&fd, NULL), MU_OK);
  return fd;
}

static struct sim_gpu *join(int fd, uint64_t memory, bool mps) {
  const struct sim_gpu_claim claim = claim_of(memory, mps);
  struct sim_gpu *gpu = NULL;
  mu_error err = {{0}};
  if (sim_gpu_open(fd, &claim, &gpu, &err) != MU_OK) fail_msg("%s", err.message);
  return gpu;
}

static mu_status try_join(int fd, uint64_t memory, mu_error *err) {
  const struct sim_gpu_claim claim = claim_of(memory, false);
  struct sim_gpu *gpu = NULL;
  mu_status status = sim_gpu_open(fd, &claim, &gpu, err);
  if (status == MU_OK) sim_gpu_close(gpu);
  return status;
}

/* A process that takes memory and then runs kernels of so many nanoseconds until it is killed. It dies with the test.
 */
static pid_t start_child(int fd, uint64_t memory, double ns) {
  int joined[2];
  assert_int_equal(pipe(joined), 0);
  pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const struct sim_gpu_claim claim = claim_of(memory, false);
    struct sim_gpu *gpu;
    if (sim_gpu_open(fd, &claim, &gpu, NULL) != MU_OK || write(joined[1], "", 1) != 1) _exit(1);
    while (sim_gpu_run(gpu, 1, ns, &never, NULL) == MU_OK) continue;
    _exit(1);
  }
  char byte;
  close(joined[1]);
  assert_int_equal(read(joined[0], &byte, 1), 1);
  close(joined[0]);
  return child;
}

static void kill_child(pid_t child) {
  int status;
  kill(child, SIGKILL);
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void wait_for_kernels(struct sim_gpu *gpu, uint32_t n) {
  while (sim_gpu_kernels(gpu) != n) sched_yield();
}

static void memory_of_the_dead_is_free(void **state) {
  int fd = create();
  struct sim_gpu *own = join(fd, 10 * gib, false);
  pid_t child = start_child(fd, 60 * gib, hour_ns);
  mu_error err = {{0}};
  assert_int_equal(try_join(fd, 30 * gib, &err), MU_NO_MEMORY);
  assert_string_equal(err.message,
                      "sim: out of memory on gpu:0: 30720 MiB wanted, 2 other processes hold 71680 of 81920 MiB");
  assert_int_equal(try_join(fd, 10 * gib, &err), MU_OK);
  kill_child(child);
  assert_int_equal(try_join(fd, 70 * gib, &err), MU_OK);
  assert_int_equal(try_join(fd, 71 * gib, &err), MU_NO_MEMORY);
  sim_gpu_close(own);
  assert_int_equal(try_join(fd, 80 * gib, &err), MU_OK);
  assert_int_equal(try_join(fd, 81 * gib, &err), MU_NO_MEMORY);
  close(fd);
}

struct run {
  struct sim_gpu *gpu;
  double share, ns;
  atomic_bool stop;
  mu_status status;
  pthread_t thread;
};

static void *run_kernel(void *argument) {
  struct run *run = argument;
  run->status = sim_gpu_run(run->gpu, run->share, run->ns, &run->stop, NULL);
  return NULL;
}

static void start_run(struct run *run) { assert_int_equal(pthread_create(&run->thread, NULL, run_kernel, run), 0); }

/* Ours waits for its turn behind a kernel of an hour: until its process is dead. */
static void kernels_of_the_dead_are_gone(void **state) {
  int fd = create();
  struct sim_gpu *gpu = join(fd, gib, false);
  pid_t child = start_child(fd, gib, hour_ns);
  wait_for_kernels(gpu, 1);
  struct run run = {.gpu = gpu, .share = 1, .ns = 1000};
  start_run(&run);
  wait_for_kernels(gpu, 2);
  kill_child(child);
  pthread_join(run.thread, NULL);
  assert_int_equal(run.status, MU_OK);
  assert_int_equal(sim_gpu_kernels(gpu), 0);
  sim_gpu_close(gpu);
  close(fd);
}

/* Whatever a process is doing when it is killed, the others go on: short kernels keep them at the lock. */
static void any_moment_to_die_is_fine(void **state) {
  enum { ROUNDS = 40, CHILDREN = 3 };
  int fd = create();
  struct sim_gpu *gpu = join(fd, gib, true);
  srand48(1);
  for (int round = 0; round < ROUNDS; round++) {
    pid_t children[CHILDREN];
    for (int i = 0; i < CHILDREN; i++) children[i] = start_child(fd, 25 * gib, 100);
    uint64_t until = clock_now_ns() + (uint64_t)(drand48() * 2 * NS_PER_MS);
    while (clock_now_ns() < until) assert_int_equal(sim_gpu_run(gpu, 0.5, 100, &never, NULL), MU_OK);
    for (int i = 0; i < CHILDREN; i++) kill_child(children[i]);
    mu_error err = {{0}};
    if (try_join(fd, 79 * gib, &err) != MU_OK) fail_msg("round %d: %s", round, err.message);
    assert_int_equal(sim_gpu_kernels(gpu), 0);
  }
  sim_gpu_close(gpu);
  close(fd);
}

static void a_kernel_can_be_stopped(void **state) {
  int fd = create();
  struct sim_gpu *gpu = join(fd, 0, false);
  struct run run = {.gpu = gpu, .share = 1, .ns = hour_ns};
  start_run(&run);
  wait_for_kernels(gpu, 1);
  atomic_store(&run.stop, true);
  sim_gpu_wake(gpu);
  pthread_join(run.thread, NULL);
  assert_int_equal(run.status, MU_CANCELED);
  assert_int_equal(sim_gpu_kernels(gpu), 0);
  sim_gpu_close(gpu);
  close(fd);
}

/* How long two kernels of 20 ms take, at the least. */
static uint64_t time_of_two(bool mps, double share) {
  int fd = create();
  struct run runs[2] = {{.share = share, .ns = 20e6}, {.share = share, .ns = 20e6}};
  for (int i = 0; i < 2; i++) runs[i].gpu = join(fd, gib, mps);
  uint64_t start = clock_now_ns();
  for (int i = 0; i < 2; i++) start_run(&runs[i]);
  for (int i = 0; i < 2; i++) pthread_join(runs[i].thread, NULL);
  uint64_t took = clock_now_ns() - start;
  for (int i = 0; i < 2; i++) {
    assert_int_equal(runs[i].status, MU_OK);
    sim_gpu_close(runs[i].gpu);
  }
  close(fd);
  return took;
}

static void a_gpu_is_not_faster_than_it_is(void **state) {
  assert_true(time_of_two(false, 0.25) >= 40 * NS_PER_MS);
  assert_true(time_of_two(true, 1) >= 40 * NS_PER_MS);
  assert_true(time_of_two(true, 0.75) >= 30 * NS_PER_MS);
  assert_true(time_of_two(true, 0.25) >= 20 * NS_PER_MS);
}

static void a_gpu_has_room_for_so_many(void **state) {
  int fd = create();
  struct sim_gpu *gpus[GPU_PROCESSES_MAX];
  mu_error err = {{0}};
  for (int i = 0; i < GPU_PROCESSES_MAX; i++) gpus[i] = join(fd, 1, false);
  assert_int_equal(try_join(fd, 1, &err), MU_UNAVAILABLE);
  sim_gpu_close(gpus[77]);
  assert_int_equal(try_join(fd, 1, &err), MU_OK);
  for (int i = 0; i < GPU_PROCESSES_MAX; i++)
    if (i != 77) sim_gpu_close(gpus[i]);
  close(fd);
}

static void what_is_no_gpu_is_refused(void **state) {
  mu_error err = {{0}};
  int fd = memfd_create("other", MFD_CLOEXEC), gpu = create(), null = open("/dev/null", O_RDWR | O_CLOEXEC);
  off_t size = lseek(gpu, 0, SEEK_END);
  assert_int_equal(try_join(fd, 0, &err), MU_INVALID);
  assert_int_equal(ftruncate(fd, size), 0);
  assert_int_equal(try_join(fd, 0, &err), MU_INVALID);
  assert_int_equal(try_join(null, 0, &err), MU_INVALID);
  assert_int_equal(try_join(-1, 0, &err), MU_IO);
  assert_int_equal(ftruncate(gpu, 0), -1); /* nobody can take it from under the others */
  close(null);
  close(gpu);
  close(fd);
}

/* ---- the engine there -------------------------------------------------------------------------------------------- */

static char name_in[] = "in", name_out[] = "out";
static const mu_tensor_info inputs[] = {{.name = name_in, .dtype = MU_INT32, .rank = 2, .dims = {-1, 1}}};
static const mu_tensor_info outputs[] = {{.name = name_out, .dtype = MU_INT32, .rank = 2, .dims = {-1, 1}}};

static void the_engine_runs_on_it(void **state) {
  int fd = create();
  char text[16];
  snprintf(text, sizeof text, "%d", fd);
  mu_parameter parameters[] = {{SIM_GPU_PARAMETER, text},
                               {"sim.gpu_ms", "1"},
                               {"sim.gpu_work_ms", "0"},
                               {"sim.gpu_speed", "1000"},
                               {"sim.gpu_memory_mib", "50000"}};
  mu_model_spec spec = model_spec(NULL);
  spec.device = "gpu:0";
  spec.inputs = inputs;
  spec.outputs = outputs;
  spec.n_inputs = spec.n_outputs = 1;
  spec.parameters = parameters;
  spec.n_parameters = sizeof parameters / sizeof parameters[0];
  struct loaded_model m = model_open("sim", &spec);
  int32_t number = 7;
  mu_input in = {0, {MU_INT32, 2, {1, 1}, &number, sizeof number}};
  mu_output out = {.index = 0};
  mu_error err = {{0}};
  assert_int_equal(m.engine->run(m.instance, &in, 1, &out, 1, &err), MU_OK);
  assert_int_equal(*(int32_t *)out.tensor.data, 7);
  assert_int_equal(load_status("sim", &spec, &err), MU_NO_MEMORY);
  assert_non_null(strstr(err.message, "out of memory on gpu:0"));
  model_close(&m);
  assert_int_equal(load_status("sim", &spec, &err), MU_OK);
  parameters[0].value = "x";
  assert_int_equal(load_status("sim", &spec, &err), MU_INVALID);
  parameters[0].key = "other";
  assert_int_equal(load_status("sim", &spec, &err), MU_INVALID);
  close(fd);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(memory_of_the_dead_is_free),     cmocka_unit_test(kernels_of_the_dead_are_gone),
      cmocka_unit_test(any_moment_to_die_is_fine),      cmocka_unit_test(a_kernel_can_be_stopped),
      cmocka_unit_test(a_gpu_is_not_faster_than_it_is), cmocka_unit_test(a_gpu_has_room_for_so_many),
      cmocka_unit_test(what_is_no_gpu_is_refused),      cmocka_unit_test(the_engine_runs_on_it),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
