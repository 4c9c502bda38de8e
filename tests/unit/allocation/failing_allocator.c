#include "failing_allocator.h"

#include <errno.h>
#include <execinfo.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <uv.h>

#include <cmocka.h>

enum { STACK_MAX = 32, RUNS_MAX = 100000, SECONDS_MAX = 100 };

/* A sanitizer's allocator where there is one, else the C library's. */
extern void *__interceptor_malloc(size_t) __attribute__((weak));
extern void *__interceptor_calloc(size_t, size_t) __attribute__((weak));
extern void *__interceptor_realloc(void *, size_t) __attribute__((weak));
extern void *__interceptor_memalign(size_t, size_t) __attribute__((weak));
extern void __interceptor_free(void *) __attribute__((weak));
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);
extern void __sanitizer_symbolize_pc(void *, const char *, char *, size_t) __attribute__((weak));
extern void __lsan_disable(void) __attribute__((weak));
extern void __lsan_enable(void) __attribute__((weak));
extern void __sanitizer_set_death_callback(void (*)(void)) __attribute__((weak));

void *__real_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
int __real_memfd_create(const char *name, unsigned flags);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*main)(void *), void *context);
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
int __wrap_memfd_create(const char *name, unsigned flags);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*main)(void *), void *context);

/* Shared with the processes that a scenario forks. */
struct run {
  atomic_bool armed;
  atomic_uint_fast64_t reached; /* allocations met while armed */
  uint64_t failing;             /* the one that fails, counted from 1; 0: none */
  bool rest;                    /* and all after it */
  const char *name;             /* the scenario that runs; NULL: none */
  void *stack[STACK_MAX];
  int n_stack;
};
static struct run before_main, *run = &before_main;

static atomic_int_fast64_t live; /* blocks that exist in this process */
static atomic_bool spared;       /* nothing fails in this process */
static __thread bool ours;       /* this thread runs muster's or the test's code */
static pid_t parent;

/* ---- what fails ---------------------------------------------------------------------------------------------------
 */

static bool fails(void) {
  if (!ours || atomic_load_explicit(&spared, memory_order_relaxed)) return false;
  if (!atomic_load_explicit(&run->armed, memory_order_acquire)) return false;
  uint64_t at = atomic_fetch_add(&run->reached, 1) + 1;
  if (run->failing == 0 || at < run->failing || (at > run->failing && !run->rest)) return false;
  if (at == run->failing) run->n_stack = backtrace(run->stack, STACK_MAX);
  errno = ENOMEM;
  return true;
}

static void *counted(void *block) {
  if (block != NULL) atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
  return block;
}

static void *memory_aligned(size_t alignment, size_t size) {
  if (fails()) return NULL;
  return counted(__interceptor_memalign != NULL ? __interceptor_memalign(alignment, size)
                                                : __libc_memalign(alignment, size));
}

void *malloc(size_t size) {
  if (fails()) return NULL;
  return counted(__interceptor_malloc != NULL ? __interceptor_malloc(size) : __libc_malloc(size));
}

void *calloc(size_t n, size_t size) {
  if (fails()) return NULL;
  return counted(__interceptor_calloc != NULL ? __interceptor_calloc(n, size) : __libc_calloc(n, size));
}

void free(void *block) {
  if (block == NULL) return;
  atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
  if (__interceptor_free != NULL)
    __interceptor_free(block);
  else
    __libc_free(block);
}

void *realloc(void *block, size_t size) {
  if (block == NULL) return malloc(size);
  if (size == 0) {
    free(block);
    return NULL;
  }
  if (fails()) return NULL;
  return __interceptor_realloc != NULL ? __interceptor_realloc(block, size) : __libc_realloc(block, size);
}

void *reallocarray(void *block, size_t n, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(n, size, &bytes)) {
    errno = ENOMEM;
    return NULL;
  }
  return realloc(block, bytes);
}

void *aligned_alloc(size_t alignment, size_t size) { return memory_aligned(alignment, size); }

void *memalign(size_t alignment, size_t size);
void *memalign(size_t alignment, size_t size) { return memory_aligned(alignment, size); }

int posix_memalign(void **ret_block, size_t alignment, size_t size) {
  void *block = memory_aligned(alignment, size);
  if (block == NULL) return ENOMEM;
  *ret_block = block;
  return 0;
}

/* The sanitizers' own take their memory past malloc. */
char *strndup(const char *text, size_t len) {
  size_t n = strnlen(text, len);
  char *copy = malloc(n + 1);
  if (copy == NULL) return NULL;
  memcpy(copy, text, n);
  copy[n] = '\0';
  return copy;
}

char *strdup(const char *text) { return strndup(text, strlen(text)); }

void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
  return fails() ? MAP_FAILED : __real_mmap(at, size, protection, flags, fd, offset);
}

int __wrap_memfd_create(const char *name, unsigned flags) { return fails() ? -1 : __real_memfd_create(name, flags); }

/* A thread between its birth and its death: what a sanitizer or the C library does before and after is none of ours. */
struct birth {
  void *(*main)(void *);
  void *context;
};

static void *live_thread(void *context) {
  struct birth birth = *(struct birth *)context;
  free(context);
  ours = true;
  void *result = birth.main(birth.context);
  ours = false;
  return result;
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*main)(void *), void *context) {
  if (fails()) return EAGAIN;
  bool before = ours;
  ours = false;
  struct birth *birth = malloc(sizeof *birth);
  if (birth == NULL) abort();
  *birth = (struct birth){main, context};
  int error = __real_pthread_create(thread, attributes, live_thread, birth);
  if (error != 0) free(birth);
  ours = before;
  return error;
}

/* ---- libuv: counted for leaks, never failed ------------------------------------------------------------------------
 */

static void *uv_take(size_t size) {
  return counted(__interceptor_malloc != NULL ? __interceptor_malloc(size) : __libc_malloc(size));
}
static void *uv_take_zeroed(size_t n, size_t size) {
  return counted(__interceptor_calloc != NULL ? __interceptor_calloc(n, size) : __libc_calloc(n, size));
}
static void *uv_resize(void *block, size_t size) {
  if (block == NULL) return uv_take(size);
  return __interceptor_realloc != NULL ? __interceptor_realloc(block, size) : __libc_realloc(block, size);
}

/* ---- saying which one it was ----------------------------------------------------------------------------------------
 */

static void say_failed_allocation(bool ending) {
  atomic_store(&run->armed, false);
  if (run->name == NULL || (getpid() != parent && ending)) return;
  dprintf(2, "%s: with allocation %llu%s failing:\n", run->name, (unsigned long long)run->failing,
          run->rest ? " and all after it" : "");
  if (__sanitizer_symbolize_pc == NULL) {
    backtrace_symbols_fd(run->stack, run->n_stack, 2);
    return;
  }
  for (int i = 0; i < run->n_stack; i++) {
    char frame[512];
    __sanitizer_symbolize_pc(run->stack[i], "%f %S", frame, sizeof frame);
    dprintf(2, "  %s\n", frame);
  }
}

static void say_at_death(void) { say_failed_allocation(false); }

__attribute__((constructor)) static void prepare(void) {
  void *shared = __real_mmap(NULL, sizeof *run, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) abort();
  run = shared;
  parent = getpid();
  ours = true;
  void *warm[1];
  if (__lsan_disable != NULL) __lsan_disable();
  (void)backtrace(warm, 1); /* the first call loads a library, which is never unloaded */
  if (__lsan_enable != NULL) __lsan_enable();
  if (__sanitizer_set_death_callback != NULL) __sanitizer_set_death_callback(say_at_death);
  (void)uv_replace_allocator(uv_take, uv_resize, uv_take_zeroed, free);
  setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
}

/* A run that cmocka left by a failed assertion, or that ended the program. */
__attribute__((destructor)) static void say_unfinished(void) { say_failed_allocation(true); }

/* ---- the runs -------------------------------------------------------------------------------------------------------
 */

void allocations_fail(void) { atomic_store_explicit(&run->armed, true, memory_order_release); }
void allocations_work(void) { atomic_store_explicit(&run->armed, false, memory_order_release); }
void allocations_fail_here(bool here) { atomic_store(&spared, !here); }
bool allocation_has_failed(void) { return run->failing != 0 && atomic_load(&run->reached) >= run->failing; }

static mu_status run_once(allocation_scenario scenario, void *context, uint64_t failing, bool rest) {
  run->failing = failing;
  run->rest = rest;
  run->n_stack = 0;
  atomic_store(&run->reached, 0);
  int64_t live_before = atomic_load(&live);
  allocations_fail();
  mu_status status = scenario(context);
  allocations_work();
  int64_t left = atomic_load(&live) - live_before;
  /* less than before: another thread or process has tidied up what was there already */
  if (left > 0) fail_msg("%lld blocks left over (status %d)", (long long)left, status);
  if (status != MU_OK && status != MU_NO_MEMORY) fail_msg("status %d", status);
  if (status != MU_OK && !allocation_has_failed()) fail_msg("status %d although nothing failed", status);
  return status;
}

void fail_each_allocation(const char *name, allocation_scenario scenario, void *context) {
  say_failed_allocation(true); /* of an earlier scenario that failed */
  run->name = name;
  run->failing = 0;
  run->n_stack = 0;
  alarm(SECONDS_MAX);                  /* a hang is a failure too */
  mu_status first = scenario(context); /* what libraries and the C library keep for ever */
  allocations_work();
  assert_int_equal(first, MU_OK);
  uint64_t n[2], survived[2] = {0, 0};
  for (int rest = 0; rest < 2; rest++) {
    uint64_t k = 1;
    for (;; k++) {
      mu_status status = run_once(scenario, context, k, rest == 1);
      if (!allocation_has_failed()) break;
      if (status == MU_OK) survived[rest]++;
      assert_true(k < RUNS_MAX);
    }
    n[rest] = k - 1;
  }
  alarm(0);
  run->name = NULL;
  if (n[0] == 0) fail_msg("%s: no allocation", name);
  print_message("  %s: %llu allocations; one fails: %llu runs done all the same; all from one on: %llu\n", name,
                (unsigned long long)n[0], (unsigned long long)survived[0], (unsigned long long)survived[1]);
}
