/*
 * Which system calls a profile may make. A fence of this kind is only as good as it is read: one row a call, one reason
 * a group.
 *
 * Rows without a condition cost nothing on a kernel of 5.11 or newer, which remembers that the answer is always yes; so
 * what a request or a batch needs has none.
 */
#include "sandbox/call_table.h"

#include <fcntl.h>
#include <linux/prctl.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define GATEWAY (1U << SANDBOX_GATEWAY)
#define CPU (1U << SANDBOX_WORKER_CPU)
#define GPU (1U << SANDBOX_WORKER_GPU)
#define REMOTE (1U << SANDBOX_WORKER_REMOTE)
#define PROXY (1U << SANDBOX_PROXY)
#define LOCAL (GATEWAY | CPU)
#define SERVES (GATEWAY | PROXY)
#define CONNECTS (REMOTE | PROXY)
#define LISTED (LOCAL | CONNECTS)
#define ALL (LISTED | GPU)

#define N_CONDITIONS(...) (sizeof((struct scmp_arg_cmp[]){__VA_ARGS__}) / sizeof(struct scmp_arg_cmp))
#define ROW(set, call, answer)                   \
  {                                              \
    SCMP_SYS(call), (answer), (set), 0, false, { \
      { 0 }                                      \
    }                                            \
  }
#define ROW_IF(set, call, answer, ...)                                                 \
  {                                                                                    \
    SCMP_SYS(call), (answer), (set), N_CONDITIONS(__VA_ARGS__), false, { __VA_ARGS__ } \
  }
#define ROW_SELF(set, call, answer, compare)    \
  {                                             \
    SCMP_SYS(call), (answer), (set), 1, true, { \
      { 0, (compare), 0, 0 }                    \
    }                                           \
  }
#define ALLOW(profiles, call) ROW(profiles, call, CALL_ALLOWED)
#define ALLOW_IF(profiles, call, ...) ROW_IF(profiles, call, CALL_ALLOWED, __VA_ARGS__)
#define ALLOW_OWN(profiles, call) ROW_SELF(profiles, call, CALL_ALLOWED, SCMP_CMP_EQ)
#define REFUSE(profiles, call) ROW(profiles, call, CALL_REFUSED)
#define ABSENT(profiles, call) ROW(profiles, call, CALL_ABSENT)
#define REFUSE_IF(profiles, call, ...) ROW_IF(profiles, call, CALL_REFUSED, __VA_ARGS__)
#define REFUSE_OTHERS(profiles, call) ROW_SELF(profiles, call, CALL_REFUSED, SCMP_CMP_NE)

/* Conditions. The kernel looks at 32 bits of these arguments, a filter at 64: IS demands that the upper ones are zero,
 * BITS looks only at those in the mask. */
#define IS(argument, value) \
  { (argument), SCMP_CMP_EQ, (value), 0 }
#define IS_NOT(argument, value) \
  { (argument), SCMP_CMP_NE, (value), 0 }
#define BITS(argument, mask, value) \
  { (argument), SCMP_CMP_MASKED_EQ, (mask), (value) }

/* Two ways to name a file and say for what; opening it for reading is fine, all else is refused. */
#define OPEN_ONLY_TO_READ(profiles, call, flags)                                  \
  ALLOW_IF(profiles, call, BITS(flags, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY)), \
      REFUSE_IF(profiles, call, BITS(flags, O_ACCMODE, O_WRONLY)),                \
      REFUSE_IF(profiles, call, BITS(flags, O_ACCMODE, O_RDWR)),                  \
      REFUSE_IF(profiles, call, BITS(flags, O_ACCMODE, O_ACCMODE)),               \
      REFUSE_IF(profiles, call, BITS(flags, O_CREAT, O_CREAT)),                   \
      REFUSE_IF(profiles, call, BITS(flags, O_TRUNC, O_TRUNC))

/* A thread of this process, not a process, and no namespace of its own. */
#define CLONE_KINDS                                                                                            \
  (CLONE_THREAD | CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | \
   CLONE_NEWNET)

#if defined(__has_feature)
#define BUILT_WITH(sanitizer) __has_feature(sanitizer)
#else
#define BUILT_WITH(sanitizer) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || BUILT_WITH(address_sanitizer) || \
    BUILT_WITH(thread_sanitizer)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* Rows stand side by side, in groups. */
/* clang-format off */
static const struct call_row rows[] = {
    /* every request, every batch */
    ALLOW(LISTED, read), ALLOW(LISTED, write), ALLOW(LISTED, readv), ALLOW(LISTED, writev), ALLOW(LISTED, recvmsg),
    ALLOW(LOCAL, sendmsg), ALLOW(LISTED, futex), ALLOW(LISTED, poll), ALLOW(LISTED, ppoll), ALLOW(LISTED, epoll_wait),
    ALLOW(LISTED, epoll_pwait), ALLOW(LISTED, epoll_pwait2), ALLOW(LISTED, epoll_ctl), ALLOW(LISTED, timerfd_settime),
    ALLOW(LISTED, sched_yield), ALLOW(LISTED, clock_gettime), ALLOW(LISTED, clock_nanosleep), ALLOW(LISTED, pause),

    /* memory; executable too, for a worker opens the engine's library when the fence stands already */
    ALLOW(LISTED, brk), ALLOW(LISTED, mmap), ALLOW(LISTED, munmap), ALLOW(LISTED, mremap), ALLOW(LISTED, mprotect),
    ALLOW(LISTED, madvise), ALLOW(LISTED, memfd_create), ALLOW(LISTED, ftruncate), ALLOW(LISTED, membarrier),

    /* threads of its own, and their end */
    ALLOW_IF(LISTED, clone, BITS(0, CLONE_KINDS, CLONE_THREAD)), ALLOW(LISTED, set_robust_list), ALLOW(LISTED, rseq),
    ALLOW(LISTED, set_tid_address), ALLOW(LISTED, gettid), ALLOW(LISTED, getpid), ALLOW(LISTED, getppid),
    ALLOW(LISTED, sched_getaffinity), ALLOW(LISTED, getcpu), ALLOW(LISTED, nanosleep), ALLOW(LISTED, clock_getres),
    ALLOW(LISTED, gettimeofday), ALLOW(LISTED, time), ALLOW(LISTED, restart_syscall), ALLOW(LISTED, exit),
    ALLOW(LISTED, exit_group), ALLOW_IF(LISTED, prctl, IS(0, PR_SET_NAME)), ALLOW_IF(LISTED, prctl, IS(0, PR_GET_NAME)),
    /* session.intra_op_thread_affinities; no filter can tell its own threads from others, but one on another core is
     * a nuisance and no more */
    ALLOW(CPU, sched_setaffinity),

    /* signals: to itself (abort), to nobody else */
    ALLOW(LISTED, rt_sigaction), ALLOW(LISTED, rt_sigprocmask), ALLOW(LISTED, rt_sigreturn), ALLOW(LISTED, sigaltstack),
    ALLOW_OWN(LISTED, kill), ALLOW_OWN(LISTED, tgkill), REFUSE_OTHERS(ALL, kill), REFUSE_OTHERS(ALL, tgkill),
    REFUSE(ALL, tkill), REFUSE(ALL, rt_sigqueueinfo), REFUSE(ALL, rt_tgsigqueueinfo), REFUSE(ALL, pidfd_send_signal),

    /* descriptors. fcntl with F_SETOWN would be another way to send signals. */
    ALLOW(LISTED, close), ALLOW(LISTED, dup), ALLOW(LISTED, dup3), ALLOW(LISTED, lseek), ALLOW(LISTED, pread64),
    ALLOW(GATEWAY, pwrite64), /* results into shared memory of clients, which the supervisor has opened */
    ALLOW(LISTED, eventfd2), ALLOW(LISTED, pipe2), ALLOW(LISTED, fstat), ALLOW(LISTED, fstatfs),
    ALLOW_IF(LISTED, fcntl, IS(1, F_GETFD)), ALLOW_IF(LISTED, fcntl, IS(1, F_SETFD)),
    ALLOW_IF(LISTED, fcntl, IS(1, F_GETFL)), ALLOW_IF(LISTED, fcntl, IS(1, F_SETFL)),
    ALLOW_IF(LISTED, fcntl, IS(1, F_DUPFD_CLOEXEC)), ALLOW_IF(LISTED, fcntl, IS(1, F_ADD_SEALS)),
    ALLOW_IF(LISTED, fcntl, IS(1, F_GET_SEALS)), ALLOW_IF(LISTED, ioctl, IS(1, FIONBIO)),
    ALLOW_IF(LISTED, ioctl, IS(1, FIONREAD)), ALLOW_IF(LISTED, ioctl, IS(1, TCGETS)),

    /* files: to look and to read. A worker reads libraries, the machine's processors, its model. */
    OPEN_ONLY_TO_READ(LISTED, open, 1), OPEN_ONLY_TO_READ(LISTED, openat, 2), ALLOW(LISTED, newfstatat),
    ALLOW(LISTED, stat), ALLOW(LISTED, lstat), ALLOW(LISTED, statx), ALLOW(LISTED, statfs), ALLOW(LISTED, access),
    ALLOW(LISTED, faccessat), ALLOW(LISTED, faccessat2), ALLOW(LISTED, readlink), ALLOW(LISTED, readlinkat),
    ALLOW(LISTED, getdents64), ALLOW(LISTED, getcwd),

    /* what libraries ask about machine and process */
    ALLOW(LISTED, getrandom), ALLOW(LISTED, uname), ALLOW(LISTED, sysinfo), ALLOW(LISTED, getrusage),
    ALLOW(LISTED, getuid), ALLOW(LISTED, geteuid), ALLOW(LISTED, getgid), ALLOW(LISTED, getegid),
    ALLOW_IF(LISTED, prlimit64, IS(2, 0)), ALLOW(LISTED, getrlimit),

    /* gateway and proxy: connections come in by sockets that were opened before; out of a gateway none goes */
    ALLOW(LISTED, recvfrom), ALLOW(LOCAL, sendto), ALLOW(LISTED, shutdown), ALLOW(LISTED, getsockopt),
    ALLOW(SERVES, accept), ALLOW(SERVES, accept4), ALLOW(SERVES, setsockopt), ALLOW(SERVES, getsockname),
    ALLOW(SERVES, getpeername), ALLOW(SERVES, listen), ALLOW(SERVES, epoll_create1), ALLOW(SERVES, timerfd_create),

    /* remote worker, proxy: TCP and nothing else goes out, to the ports that Landlock leaves (which does not see MPTCP,
     * nor what connects while it sends) */
    ALLOW_IF(CONNECTS, socket, IS(0, AF_INET), BITS(1, 0xf, SOCK_STREAM), IS(2, IPPROTO_TCP)),
    ALLOW_IF(CONNECTS, socket, IS(0, AF_INET6), BITS(1, 0xf, SOCK_STREAM), IS(2, IPPROTO_TCP)),
    ALLOW_IF(PROXY, socket, IS(0, AF_INET), BITS(1, 0xf, SOCK_STREAM), IS(2, 0)), /* libuv's, which is TCP too */
    ALLOW_IF(PROXY, socket, IS(0, AF_INET6), BITS(1, 0xf, SOCK_STREAM), IS(2, 0)),
    ALLOW(CONNECTS, connect), ALLOW(REMOTE, setsockopt), ALLOW(REMOTE, getsockname), ALLOW(REMOTE, getpeername),
    ALLOW_IF(CONNECTS, sendto, BITS(3, MSG_FASTOPEN, 0)), ALLOW_IF(CONNECTS, sendmsg, BITS(2, MSG_FASTOPEN, 0)),
    REFUSE_IF(CONNECTS, sendto, BITS(3, MSG_FASTOPEN, MSG_FASTOPEN)),
    REFUSE_IF(CONNECTS, sendmsg, BITS(2, MSG_FASTOPEN, MSG_FASTOPEN)),

    /* other programs, and processes of its own, which could outlive it (clone: at the end) */
    REFUSE(ALL, execve), REFUSE(ALL, execveat), REFUSE(ALL, fork), REFUSE(ALL, vfork),
    ABSENT(GPU, clone3),
    /* other processes (ptrace: at the end) */
    REFUSE(ALL, process_vm_readv), REFUSE(ALL, process_vm_writev), REFUSE(ALL, pidfd_getfd), REFUSE(ALL, kcmp),
    REFUSE(ALL, process_madvise), REFUSE(LISTED, pidfd_open),
    /* network: the GPU's driver meets its daemon (MPS) at Unix sockets */
    REFUSE(LOCAL, socket), REFUSE_IF(GPU, socket, IS_NOT(0, AF_UNIX)), REFUSE(LISTED, socketpair),
    REFUSE(LOCAL, connect), REFUSE(LISTED, bind),
    /* mounts and namespaces */
    REFUSE(ALL, mount), REFUSE(ALL, umount2), REFUSE(ALL, pivot_root), REFUSE(ALL, chroot), REFUSE(ALL, move_mount),
    REFUSE(ALL, open_tree), REFUSE(ALL, fsopen), REFUSE(ALL, fsconfig), REFUSE(ALL, fsmount), REFUSE(ALL, fspick),
    REFUSE(ALL, mount_setattr), REFUSE(ALL, unshare), REFUSE(ALL, setns),
    /* files past their permissions; device nodes */
    REFUSE(ALL, open_by_handle_at), REFUSE(ALL, name_to_handle_at), REFUSE(ALL, mknod), REFUSE(ALL, mknodat),
    /* doors of the kernel that a computation does not need, and that filters cannot see through (io_uring) */
    REFUSE(ALL, bpf), REFUSE(ALL, perf_event_open), REFUSE(ALL, userfaultfd), REFUSE(ALL, io_uring_setup),
    REFUSE(ALL, io_uring_enter), REFUSE(ALL, io_uring_register), REFUSE(ALL, keyctl), REFUSE(ALL, add_key),
    REFUSE(ALL, request_key), REFUSE(ALL, init_module), REFUSE(ALL, finit_module), REFUSE(ALL, delete_module),
    REFUSE(ALL, kexec_load), REFUSE(ALL, kexec_file_load), REFUSE(ALL, reboot), REFUSE(ALL, swapon),
    REFUSE(ALL, swapoff), REFUSE(ALL, syslog), REFUSE(ALL, acct), REFUSE(ALL, quotactl), REFUSE(ALL, iopl),
    REFUSE(ALL, ioperm), REFUSE(ALL, settimeofday), REFUSE(ALL, clock_settime), REFUSE(ALL, clock_adjtime),
    REFUSE(ALL, adjtimex), REFUSE(ALL, sethostname), REFUSE(ALL, setdomainname), REFUSE(ALL, fanotify_init),
    /* the GPU's driver lives by ioctl; typing into the terminal that the server was started from is no part of that */
    REFUSE_IF(GPU, ioctl, BITS(1, 0xffffffff, TIOCSTI)), REFUSE_IF(GPU, ioctl, BITS(1, 0xffffffff, TIOCLINUX)),

#if SANITIZED
    /* The leak check copies the process and traces the original; reports look at pages through pipes. */
    ALLOW(LISTED, clone), ALLOW(LISTED, ptrace), ALLOW(LISTED, wait4), ALLOW(LISTED, prctl), ALLOW(LISTED, pipe),
    ALLOW(LISTED, personality), ALLOW(LISTED, setrlimit), ALLOW(LISTED, getdents),
#else
    REFUSE(ALL, ptrace), REFUSE_IF(GPU, clone, BITS(0, CLONE_THREAD, 0)),
#endif
};
/* clang-format on */

const struct call_row *call_rows(size_t *ret_n) {
  *ret_n = sizeof rows / sizeof *rows;
  return rows;
}
