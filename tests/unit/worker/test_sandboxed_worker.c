/*
 * Two processes that share memory as gateway and worker do, in their sandboxes; the one that has been taken over tries
 * what an intruder would, and the other must not notice. With root and without, since a server runs as either.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "../channel/channel_fixture.h"
#include "sandbox/sandbox.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

enum { PATTERN = 0x5a, NOBODY = 65534, TRIES_MAX = 128 };

/* Shared by the test and both processes, mapped before they are forked. */
struct scene {
  _Atomic int victim_ready, intruder_done;
  _Atomic pid_t victim;
  int victim_fd;        /* its descriptor of its own memory */
  uint8_t *victim_data; /* where it maps that writable, in its own address space */
  char failure[512];
  int outcome[TRIES_MAX]; /* -1: not tried, 0: it worked, else errno */
};

/* The memory that the intruder may only read: its own descriptor and mapping of it. */
struct intruder {
  const struct scene *scene;
  const struct shared_memory *prey;
};

/* ---- what it tries: 0 when it worked, else errno ----------------------------------------------------------------- */

static int result(long value) { return value < 0 ? errno : 0; }

static int close_result(int fd) {
  if (fd < 0) return errno;
  close(fd);
  return 0;
}

static int path_of(char *path, size_t size, pid_t pid, const char *what) {
  return snprintf(path, size, "/proc/%d/%s", (int)pid, what);
}

/* A descriptor through which the prey might be written. */
static int write_through(const struct intruder *self, int fd) {
  if (fd < 0) return errno;
  void *mapped = mmap(NULL, self->prey->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (mapped != MAP_FAILED) return 0;
  int error = errno;
  bool written = pwrite(fd, "x", 1, 0) == 1 || ftruncate(fd, 0) == 0 ||
                 fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0;
  close(fd);
  return written ? 0 : error;
}

static int try_own_descriptor(const struct intruder *self) { return write_through(self, dup(self->prey->fd)); }

static int try_reopened(const struct intruder *self) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", self->prey->fd);
  return write_through(self, open(path, O_RDWR | O_CLOEXEC));
}

static int try_descriptor_of_the_owner(const struct intruder *self) {
  char what[32], path[64];
  snprintf(what, sizeof what, "fd/%d", self->scene->victim_fd);
  path_of(path, sizeof path, self->scene->victim, what);
  return write_through(self, open(path, O_RDWR | O_CLOEXEC));
}

static int try_map_file_of_the_owner(const struct intruder *self) {
  char what[96], path[128];
  uintptr_t begin = (uintptr_t)self->scene->victim_data;
  snprintf(what, sizeof what, "map_files/%lx-%lx", (unsigned long)begin, (unsigned long)(begin + self->prey->size));
  path_of(path, sizeof path, self->scene->victim, what);
  return write_through(self, open(path, O_RDWR | O_CLOEXEC));
}

static int write_memory(pid_t pid, const void *at, int flags) {
  char path[64];
  path_of(path, sizeof path, pid, "mem");
  int fd = open(path, flags | O_CLOEXEC);
  if (fd < 0) return errno;
  int error = result(pwrite(fd, "x", 1, (off_t)(uintptr_t)at));
  close(fd);
  return error;
}

static int try_memory_of_the_owner(const struct intruder *self) {
  return write_memory(self->scene->victim, self->scene->victim_data, O_RDWR);
}

static int try_reading_memory_of_the_owner(const struct intruder *self) {
  char path[64];
  path_of(path, sizeof path, self->scene->victim, "mem");
  return close_result(open(path, O_RDONLY | O_CLOEXEC));
}

static int try_own_memory(const struct intruder *self) { return write_memory(getpid(), self->prey->data, O_RDWR); }
static int try_own_memory_unread(const struct intruder *self) {
  return write_memory(getpid(), self->prey->data, O_WRONLY);
}

static int try_protection(const struct intruder *self) {
  return result(mprotect(self->prey->data, self->prey->size, PROT_READ | PROT_WRITE));
}

static int try_hole(const struct intruder *self) {
  return result(madvise(self->prey->data, self->prey->size, MADV_REMOVE));
}

static int try_vm_write(const struct intruder *self) {
  struct iovec from = {.iov_base = "x", .iov_len = 1}, to = {.iov_base = self->scene->victim_data, .iov_len = 1};
  return result(process_vm_writev(self->scene->victim, &from, 1, &to, 1, 0));
}

static int try_vm_read(const struct intruder *self) {
  char byte;
  struct iovec to = {.iov_base = &byte, .iov_len = 1}, from = {.iov_base = self->scene->victim_data, .iov_len = 1};
  return result(process_vm_readv(self->scene->victim, &to, 1, &from, 1, 0));
}

static int try_attach(const struct intruder *self) {
  return result(ptrace(PTRACE_ATTACH, self->scene->victim, NULL, NULL));
}

static int try_seize(const struct intruder *self) {
  return result(ptrace(PTRACE_SEIZE, self->scene->victim, NULL, NULL));
}

static int try_pidfd_getfd(const struct intruder *self) {
  int pidfd = (int)syscall(SYS_pidfd_open, self->scene->victim, 0);
  /* A descriptor number that is certainly open, should the first call be refused: what counts is the second one. */
  return close_result((int)syscall(SYS_pidfd_getfd, pidfd < 0 ? STDERR_FILENO : pidfd, self->scene->victim_fd, 0));
}

static int try_kill(const struct intruder *self) { return result(kill(self->scene->victim, SIGKILL)); }
static int try_tgkill(const struct intruder *self) {
  return result(syscall(SYS_tgkill, self->scene->victim, self->scene->victim, SIGKILL));
}
static int try_tkill(const struct intruder *self) { return result(syscall(SYS_tkill, self->scene->victim, SIGKILL)); }
static int try_kill_everybody(const struct intruder *self) { return result(kill(-1, 0)); }
static int try_sigqueue(const struct intruder *self) {
  return result(sigqueue(self->scene->victim, SIGKILL, (union sigval){0}));
}

static int try_signal_of_descriptor(const struct intruder *self) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return errno;
  int error = result(fcntl(ends[0], F_SETOWN, self->scene->victim));
  close(ends[0]);
  close(ends[1]);
  return error;
}

static int try_limits(const struct intruder *self) {
  const struct rlimit none = {0, 0};
  return result(prlimit(self->scene->victim, RLIMIT_CPU, &none, NULL));
}

static int try_exec(const struct intruder *self) {
  char *const arguments[] = {"true", NULL};
  return result(execve("/bin/true", arguments, arguments + 1));
}

static int try_exec_at(const struct intruder *self) {
  char *const arguments[] = {"true", NULL};
  return result(syscall(SYS_execveat, AT_FDCWD, "/bin/true", arguments, arguments + 1, 0));
}

static int child_result(long pid) {
  if (pid == 0) _exit(0);
  return result(pid);
}
static int try_fork(const struct intruder *self) { return child_result(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)); }
static int try_thread_without_a_filter(const struct intruder *self) {
  uint64_t arguments[11] = {0};
  arguments[4] = SIGCHLD;
  return child_result(syscall(SYS_clone3, arguments, sizeof arguments));
}

static int try_socket(const struct intruder *self) { return close_result(socket(AF_INET, SOCK_STREAM, 0)); }
static int try_socket6(const struct intruder *self) { return close_result(socket(AF_INET6, SOCK_DGRAM, 0)); }
static int try_netlink(const struct intruder *self) { return close_result(socket(AF_NETLINK, SOCK_RAW, 0)); }
static int try_packet(const struct intruder *self) { return close_result(socket(AF_PACKET, SOCK_RAW, 0)); }
static int try_unix_socket(const struct intruder *self) { return close_result(socket(AF_UNIX, SOCK_STREAM, 0)); }

static int try_mount(const struct intruder *self) { return result(mount("none", "/proc/self", "tmpfs", 0, NULL)); }
static int try_umount(const struct intruder *self) { return result(umount2("/proc", MNT_DETACH)); }
static int try_chroot(const struct intruder *self) { return result(chroot("/proc")); }
static int try_unshare(const struct intruder *self) { return result(unshare(CLONE_NEWUSER)); }
static int try_setns(const struct intruder *self) { return result(setns(STDERR_FILENO, 0)); }
static int try_node(const struct intruder *self) {
  return result(mknod("/dev/shm/muster-node", S_IFCHR | 0600, 0x101));
}
static int try_io_uring(const struct intruder *self) {
  uint64_t parameters[15] = {0};
  return close_result((int)syscall(SYS_io_uring_setup, 1, parameters));
}
static int try_bpf(const struct intruder *self) {
  union bpf_attr attr = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
  return close_result((int)syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr));
}
static int try_perf(const struct intruder *self) {
  uint32_t attr[32] = {1 /* software */, sizeof attr};
  return close_result((int)syscall(SYS_perf_event_open, attr, 0, -1, -1, 0));
}
static int try_userfaultfd(const struct intruder *self) { return close_result((int)syscall(SYS_userfaultfd, 1)); }
static int try_keys(const struct intruder *self) { return result(syscall(SYS_keyctl, 0, -3, 0)); }
static int try_handle(const struct intruder *self) { return result(syscall(SYS_open_by_handle_at, 0, NULL, 0)); }
static int try_terminal(const struct intruder *self) { return result(ioctl(STDERR_FILENO, TIOCSTI, "x")); }

static int try_new_file(const struct intruder *self) {
  return close_result(open("/dev/shm/muster-intruder", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
}
static int try_truncating(const struct intruder *self) {
  return close_result(open("/dev/null", O_RDONLY | O_TRUNC | O_CLOEXEC));
}
static int try_unlink(const struct intruder *self) { return result(unlink("/dev/shm/muster-intruder")); }
static int try_privilege(const struct intruder *self) { return result(setuid(0)); }
static int try_dumpable(const struct intruder *self) { return result(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)); }

enum { CPU = 1 << SANDBOX_WORKER_CPU, GPU = 1 << SANDBOX_WORKER_GPU, GATEWAY = 1 << SANDBOX_GATEWAY };
enum { LISTED = CPU | GATEWAY, ALL = LISTED | GPU };

/* eperm: the answer is to be EPERM, so that it is the sandbox that refuses and not the absurdity of the arguments. */
static const struct attempt {
  const char *name;
  int (*run)(const struct intruder *self);
  int profiles;
  bool eperm, not_sanitized;
} attempts[] = {
    {"write by its own descriptor", try_own_descriptor, ALL, .eperm = false},
    {"write by /proc/self/fd", try_reopened, ALL, .eperm = false},
    {"write by /proc/OWNER/fd", try_descriptor_of_the_owner, ALL, .eperm = false},
    {"write by /proc/OWNER/map_files", try_map_file_of_the_owner, ALL, .eperm = false},
    {"write by /proc/OWNER/mem", try_memory_of_the_owner, ALL, .eperm = false},
    {"read by /proc/OWNER/mem", try_reading_memory_of_the_owner, ALL, .eperm = false},
    {"write by /proc/self/mem", try_own_memory, ALL, .eperm = false},
    {"write only by /proc/self/mem", try_own_memory_unread, ALL, .eperm = false},
    {"mprotect", try_protection, ALL, .eperm = false},
    {"MADV_REMOVE", try_hole, ALL, .eperm = false},
    {"process_vm_writev", try_vm_write, ALL, .eperm = true},
    {"process_vm_readv", try_vm_read, ALL, .eperm = true},
    {"PTRACE_ATTACH", try_attach, ALL, .eperm = true},
    {"PTRACE_SEIZE", try_seize, ALL, .eperm = true},
    {"pidfd_getfd", try_pidfd_getfd, ALL, .eperm = true},
    {"kill", try_kill, ALL, .eperm = true},
    {"tgkill", try_tgkill, ALL, .eperm = true},
    {"tkill", try_tkill, ALL, .eperm = true},
    {"kill everybody", try_kill_everybody, ALL, .eperm = true},
    {"sigqueue", try_sigqueue, ALL, .eperm = true},
    {"F_SETOWN", try_signal_of_descriptor, LISTED, .eperm = false},
    {"prlimit", try_limits, LISTED, .eperm = false},
    {"execve", try_exec, ALL, .eperm = true},
    {"execveat", try_exec_at, ALL, .eperm = true},
    {"fork", try_fork, ALL, .not_sanitized = true},
    {"clone3", try_thread_without_a_filter, ALL, .eperm = false},
    {"socket AF_INET", try_socket, ALL, .eperm = true},
    {"socket AF_INET6", try_socket6, ALL, .eperm = true},
    {"socket AF_NETLINK", try_netlink, ALL, .eperm = true},
    {"socket AF_PACKET", try_packet, ALL, .eperm = true},
    {"socket AF_UNIX", try_unix_socket, LISTED, .eperm = true},
    {"mount", try_mount, ALL, .eperm = true},
    {"umount", try_umount, ALL, .eperm = true},
    {"chroot", try_chroot, ALL, .eperm = true},
    {"unshare", try_unshare, ALL, .eperm = true},
    {"setns", try_setns, ALL, .eperm = true},
    {"mknod", try_node, ALL, .eperm = true},
    {"io_uring", try_io_uring, ALL, .eperm = true},
    {"bpf", try_bpf, ALL, .eperm = true},
    {"perf_event_open", try_perf, ALL, .eperm = true},
    {"userfaultfd", try_userfaultfd, ALL, .eperm = true},
    {"keyctl", try_keys, ALL, .eperm = true},
    {"open_by_handle_at", try_handle, ALL, .eperm = true},
    {"TIOCSTI", try_terminal, ALL, .eperm = false},
    {"a new file", try_new_file, LISTED, .eperm = true},
    {"truncating", try_truncating, LISTED, .eperm = true},
    {"unlink", try_unlink, LISTED, .eperm = false},
    {"setuid", try_privilege, LISTED, .eperm = false},
    {"dumpable again", try_dumpable, LISTED, .not_sanitized = true},
};
enum { N_ATTEMPTS = sizeof attempts / sizeof *attempts };
_Static_assert((int)N_ATTEMPTS <= (int)TRIES_MAX, "raise TRIES_MAX");

/* ---- what it must still be able to do ---------------------------------------------------------------------------- */

static void *thread_main(void *argument) {
  *(int *)argument = 7;
  return NULL;
}

static const char *do_the_ordinary(enum sandbox_profile profile) {
  struct shared_memory own;
  int seven = 0;
  pthread_t thread;
  if (pthread_create(&thread, NULL, thread_main, &seven) != 0 || pthread_join(thread, NULL) != 0 || seven != 7)
    return "no thread";
  if (shared_memory_create("test-own", 4096, &own, NULL) != MU_OK) return "no memory of its own";
  shared_memory_close(&own);
  if (close_result(open("/etc/passwd", O_RDONLY | O_CLOEXEC)) != 0) return "no file to read";
  if (close_result(eventfd(0, EFD_CLOEXEC)) != 0) return "no eventfd";
  if (prctl(PR_SET_NAME, "sandboxed") != 0) return "no name";
  void *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (code == MAP_FAILED || mprotect(code, 4096, PROT_READ | PROT_EXEC) != 0) return "no code";
  if (profile == SANDBOX_WORKER_GPU && close_result(open("/dev/null", O_RDWR | O_CLOEXEC)) != 0)
    return "no device to write";
  return NULL;
}

/* ---- the two processes ------------------------------------------------------------------------------------------- */

static void give_up(struct scene *scene, const char *what, const char *why) {
  snprintf(scene->failure, sizeof scene->failure, "%s: %.400s", what, why);
  _exit(1);
}

static void become_nobody(struct scene *scene, bool root) {
  if (!root && geteuid() == 0 && (setresgid(NOBODY, NOBODY, NOBODY) != 0 || setresuid(NOBODY, NOBODY, NOBODY) != 0))
    give_up(scene, "setresuid", strerror(errno));
}

static void wait_until(_Atomic int *flag) {
  while (atomic_load(flag) == 0) sched_yield();
}

static void settle(struct scene *scene, bool root, enum sandbox_profile profile) {
  mu_error err = {""};
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  become_nobody(scene, root);
  if (sandbox_enter(profile, &err) != MU_OK) give_up(scene, "sandbox_enter", err.message);
}

static bool is_pattern(const uint8_t *data, size_t size) {
  for (size_t i = 0; i < size; i++)
    if (data[i] != PATTERN) return false;
  return true;
}

/* Says where its memory is, and at the end whether that is as it was. */
static void be_victim(struct scene *scene, struct shared_memory *own) {
  memset(own->data, PATTERN, own->size);
  scene->victim_fd = own->fd;
  scene->victim_data = own->data;
  atomic_store(&scene->victim_ready, 1);
  wait_until(&scene->intruder_done);
  if (!is_pattern(own->data, own->size)) give_up(scene, "victim", "its memory has changed");
  _exit(0);
}

static void be_intruder(struct scene *scene, enum sandbox_profile profile, const struct shared_memory *prey) {
  wait_until(&scene->victim_ready);
  const struct intruder self = {scene, prey};
  const char *lacks = profile != SANDBOX_OFF ? do_the_ordinary(profile) : NULL;
  if (lacks != NULL) give_up(scene, "intruder", lacks);
  for (size_t i = 0; i < N_ATTEMPTS; i++) {
    if ((attempts[i].profiles & 1 << profile) == 0 || (SANITIZED && attempts[i].not_sanitized)) continue;
    scene->outcome[i] = attempts[i].run(&self);
  }
  if (!is_pattern(prey->data, prey->size)) give_up(scene, "intruder", "the memory has changed");
  _exit(0);
}

static void gateway_process(struct scene *scene, bool root, enum sandbox_profile profile, int socket, bool victim) {
  struct channel_params params = fixture_params(1, 1);
  struct shared_memory input;
  struct channel_gate *gate = NULL;
  mu_error err = {""};
  settle(scene, root, profile);
  if (shared_memory_create("test-input", FIXTURE_INPUT_ARENA, &input, &err) != MU_OK ||
      channel_gate_offer(&params, socket, &input, &gate, &err) != MU_OK)
    give_up(scene, "gateway", err.message);
  mu_status status;
  while ((status = channel_gate_finish(gate, &err)) == MU_UNAVAILABLE) sched_yield();
  if (status != MU_OK) give_up(scene, "gateway", err.message);
  if (victim)
    be_victim(scene, &input);
  else
    be_intruder(scene, profile, channel_gate_output(gate));
}

static void worker_process(struct scene *scene, bool root, enum sandbox_profile profile, int socket, bool victim) {
  struct channel_worker *worker;
  mu_error err = {""};
  settle(scene, root, profile);
  if (channel_worker_accept(socket, &worker, &err) != MU_OK) give_up(scene, "worker", err.message);
  if (victim)
    be_victim(scene, channel_worker_output(worker));
  else
    be_intruder(scene, profile, channel_worker_input(worker));
}

/* ---- the play ---------------------------------------------------------------------------------------------------- */

static struct scene *scene_create(void) {
  struct scene *scene = mmap(NULL, sizeof *scene, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  assert_ptr_not_equal(scene, MAP_FAILED);
  for (size_t i = 0; i < TRIES_MAX; i++) scene->outcome[i] = -1;
  return scene;
}

static void expect_exit(struct scene *scene, pid_t pid, const char *who) {
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fail_msg("%s: status %x: %s", who, status, scene->failure);
}

/* Plays it; the caller looks at the outcomes. worker: the profile of the worker; intruder: is it the worker? */
static struct scene *play(enum sandbox_profile worker, enum sandbox_profile gateway, bool worker_intrudes, bool root) {
  struct scene *scene = scene_create();
  int ends[2];
  fixture_sockets(ends);
  pid_t pids[2];
  pids[0] = fork();
  if (pids[0] == 0) {
    if (worker_intrudes) scene->victim = getpid();
    gateway_process(scene, root, gateway, ends[0], worker_intrudes);
  }
  pids[1] = fork();
  if (pids[1] == 0) {
    if (!worker_intrudes) scene->victim = getpid();
    worker_process(scene, root, worker, ends[1], !worker_intrudes);
  }
  close(ends[0]);
  close(ends[1]);
  expect_exit(scene, pids[worker_intrudes ? 1 : 0], "intruder");
  atomic_store(&scene->intruder_done, 1);
  expect_exit(scene, pids[worker_intrudes ? 0 : 1], "victim");
  return scene;
}

static void expect_all_refused(enum sandbox_profile intruder, bool worker_intrudes, bool root) {
  struct scene *scene =
      worker_intrudes ? play(intruder, SANDBOX_GATEWAY, true, root) : play(SANDBOX_WORKER_CPU, intruder, false, root);
  size_t tried = 0;
  for (size_t i = 0; i < N_ATTEMPTS; i++) {
    const struct attempt *attempt = &attempts[i];
    if ((attempt->profiles & 1 << intruder) == 0 || (SANITIZED && attempt->not_sanitized)) continue;
    if (scene->outcome[i] <= 0) fail_msg("%s: %s", attempt->name, scene->outcome[i] == 0 ? "it worked" : "not tried");
    if (attempt->eperm && scene->outcome[i] != EPERM) fail_msg("%s: %s", attempt->name, strerror(scene->outcome[i]));
    tried++;
  }
  assert_true(tried > N_ATTEMPTS / 2);
  munmap(scene, sizeof *scene);
}

static void worker_cannot_harm_gateway(void **state) {
  expect_all_refused(SANDBOX_WORKER_CPU, true, true);
  expect_all_refused(SANDBOX_WORKER_CPU, true, false);
}

static void gpu_worker_cannot_harm_gateway(void **state) {
  expect_all_refused(SANDBOX_WORKER_GPU, true, true);
  expect_all_refused(SANDBOX_WORKER_GPU, true, false);
}

static void gateway_cannot_harm_worker(void **state) {
  expect_all_refused(SANDBOX_GATEWAY, false, true);
  expect_all_refused(SANDBOX_GATEWAY, false, false);
}

/* ---- what the test above would see without a sandbox ------------------------------------------------------------- */

static int in_child(int (*run)(void)) {
  pid_t pid = fork();
  if (pid == 0) _exit(run());
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return status;
}

/* The victim in a sandbox of nobody's, the intruder in none: who may do everything else is kept out by nothing but the
 * seals, and they do not hold against /proc/OWNER/mem. */
static void the_seals_alone_would_not_do(void **state) {
  struct shared_memory own;
  assert_int_equal(shared_memory_create("test-input", 4096, &own, NULL), MU_OK);
  pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) pause();
  }
  int error = write_memory(pid, own.data, O_RDWR);
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
  if (error == 0)
    assert_int_equal(own.data[0], 'x');
  else
    assert_int_not_equal(geteuid(), 0); /* a system that forbids it to others than root */
  shared_memory_close(&own);
}

static int hidden_status(void) {
  if (sandbox_hide(NULL) != MU_OK) return 1;
  return prctl(PR_GET_DUMPABLE) == 0 ? 0 : 2;
}

static int off_status(void) {
  if (sandbox_enter(SANDBOX_OFF, NULL) != MU_OK || prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) return 1;
  return prctl(PR_GET_SECCOMP) == 0 && prctl(PR_GET_DUMPABLE) == 1 ? 0 : 2;
}

/* A filter that is already there and refuses seccomp(2) itself: what a container may look like. */
static int refused_status(void) {
  mu_error err = {""};
  const struct rlimit nothing = {0, 0};
  setrlimit(RLIMIT_CORE, &nothing);
  if (sandbox_enter(SANDBOX_GATEWAY, NULL) != MU_OK) return 1;
  mu_status status = sandbox_enter(SANDBOX_GATEWAY, &err);
  return status != MU_OK && strstr(err.message, "--sandbox=off") != NULL ? 0 : 2;
}

static int abort_status(void) {
  if (sandbox_enter(SANDBOX_WORKER_CPU, NULL) != MU_OK) return 1;
  abort();
}

/* A socket that listens on a port of its own. */
static uint16_t listen_somewhere(void) {
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof at;
  int listener = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
  assert_true(listener >= 0 && bind(listener, (struct sockaddr *)&at, size) == 0 && listen(listener, 8) == 0);
  assert_int_equal(getsockname(listener, (struct sockaddr *)&at, &size), 0);
  return ntohs(at.sin_port);
}

static int connect_to(uint16_t port) {
  const struct sockaddr_in to = {
      .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
  if (fd < 0) return errno;
  return connect(fd, (const struct sockaddr *)&to, sizeof to) == 0 || errno == EINPROGRESS ? 0 : errno;
}

/* It reaches its backends and nothing else. Returns which of the attempts ended otherwise. */
static int remote_status(void) {
  enum { ABI_WITH_TCP = 4, PROTOCOL_MPTCP = 262 };
  const uint16_t backend = listen_somewhere(), other = listen_somewhere();
  const struct sockaddr_in any = {.sin_family = AF_INET};
  if (sandbox_enter_remote(&backend, 1, NULL) != MU_OK) return 1;
  if (connect_to(backend) != 0) return 2;
  if (sandbox_landlock_version() >= ABI_WITH_TCP && connect_to(other) != EACCES) return 3;
  if (socket(AF_INET, SOCK_DGRAM, 0) >= 0 || socket(AF_UNIX, SOCK_STREAM, 0) >= 0) return 4;
  if (socket(AF_INET, SOCK_STREAM, PROTOCOL_MPTCP) >= 0) return 5;
  int fd = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
  if (bind(fd, (const struct sockaddr *)&any, sizeof any) == 0 || listen(fd, 1) == 0) return 6;
  if (sendto(fd, "x", 1, MSG_FASTOPEN, (const struct sockaddr *)&any, sizeof any) >= 0 || errno != EPERM) return 7;
  if (open("/tmp/muster-test-remote", O_CREAT | O_WRONLY, 0600) >= 0) return 8;
  return execl("/bin/true", "true", NULL) == -1 ? 0 : 9;
}

static void what_the_parts_do(void **state) {
  assert_int_equal(in_child(hidden_status), 0);
  assert_int_equal(in_child(off_status), 0);
  assert_int_equal(in_child(remote_status), 0);
  assert_int_equal(in_child(refused_status), 0);
  int status = in_child(abort_status);
  assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && !WCOREDUMP(status));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(worker_cannot_harm_gateway), cmocka_unit_test(gpu_worker_cannot_harm_gateway),
      cmocka_unit_test(gateway_cannot_harm_worker), cmocka_unit_test(the_seals_alone_would_not_do),
      cmocka_unit_test(what_the_parts_do),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
