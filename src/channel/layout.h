/*
 * The two shared files of an attachment as a file format: what stands where, byte by byte. docs/shared-memory.md draws
 * it. Numbers are little-endian, as both processes run on one machine; places are offsets, never pointers.
 *
 * The gateway's file holds, for each lane, the submission ring with its tail and the head of the completion ring, and
 * one sleep word for all completions. The worker's file holds, for each lane, the completion ring with its tail, the
 * head of the submission ring, and a sleep word. Both have the same shape and differ in the side, the number of sleep
 * words and the size of the rings. A file is written by its owner alone and mapped read-only by the other side.
 */
#ifndef CHANNEL_LAYOUT_H
#define CHANNEL_LAYOUT_H

#include <stdatomic.h>

#include "channel/channel.h"

#define LAYOUT_MAGIC UINT64_C(0x686372657473756d) /* "musterch" */

enum {
  LAYOUT_MAJOR = 1,   /* another one cannot be read */
  LAYOUT_MINOR = 0,   /* counts additions in what is reserved; any can be read */
  LAYOUT_LINE = 128,  /* words of different writers or readers stand so far apart: processors fetch lines in pairs */
  LAYOUT_PAGE = 4096, /* rings begin at such a multiple, so that an unused one costs nothing */
  LAYOUT_OUTSTANDING = 16, /* jobs a lane may hold without a completion; completion rings have room for all of them */
};

enum layout_side { LAYOUT_GATEWAY = 1, LAYOUT_WORKER = 2 };

/* At offset 0 of a file. Written once, before the other side hears of the file. */
struct layout_header {
  uint64_t magic;
  uint16_t major, minor;
  uint32_t side;
  uint64_t epoch;
  uint64_t size; /* of everything below; the file is rounded up to pages */
  uint32_t lanes;
  uint32_t max_spans;
  uint32_t sleepers;
  uint32_t pid; /* of the owner; for people with a hex dump */
  uint64_t sleepers_at, lanes_at, rings_at;
  uint64_t ring_size;
  uint8_t reserved[48]; /* zero */
};
_Static_assert(sizeof(struct layout_header) == LAYOUT_LINE, "file format");
_Static_assert(offsetof(struct layout_header, epoch) == 16, "file format");
_Static_assert(offsetof(struct layout_header, lanes) == 32, "file format");
_Static_assert(offsetof(struct layout_header, sleepers_at) == 48, "file format");
_Static_assert(offsetof(struct layout_header, ring_size) == 72, "file format");

/* A number that changes while both sides run, alone on its line. */
struct layout_word {
  _Atomic uint64_t value;
  uint8_t padding[LAYOUT_LINE - sizeof(uint64_t)];
};
_Static_assert(sizeof(struct layout_word) == LAYOUT_LINE, "file format");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "a lock would have to be written by the reader of a read-only mapping");

struct layout_lane {
  struct layout_word tail; /* of the ring in this file: bytes ever published */
  struct layout_word head; /* of the ring in the other file: bytes ever consumed */
};
_Static_assert(sizeof(struct layout_lane) == 2 * LAYOUT_LINE, "file format");

/* In front of each record of a ring. */
struct layout_record {
  uint32_t size; /* with this header; a multiple of 8 */
  uint32_t kind; /* enum layout_record_kind */
};
enum layout_record_kind {
  LAYOUT_RECORD = 1, /* a descriptor follows */
  LAYOUT_WRAP = 2,   /* nothing up to the end of the ring; the next record is at its beginning */
};
_Static_assert(sizeof(struct layout_record) == 8, "file format");

/* ---- descriptors: everything is made of 8-byte words ------------------------------------------------------------- */

/* A job: this, then n_inputs x (layout_tensor, dims), n_places x (layout_tensor, offset, capacity, dims), then
 * n_members x n_inputs x (offset, size). */
struct layout_job {
  uint32_t type; /* enum channel_job_type */
  uint32_t n_members;
  uint64_t epoch;
  uint64_t batch;
  uint32_t n_inputs, n_places;
};
_Static_assert(sizeof(struct layout_job) == 32, "file format");

/* A completion: this, then the message, filled up with zeros to a word, then n_outputs x (layout_tensor, offset, size,
 * dims). */
struct layout_completion {
  uint32_t result; /* enum channel_result */
  int32_t status;  /* mu_status; MU_OK unless result is CHANNEL_ERROR */
  uint64_t epoch;
  uint64_t batch;
  uint64_t started_ns, input_ns, infer_ns, ended_ns;
  uint32_t n_outputs;
  uint32_t message_size; /* without terminator */
};
_Static_assert(sizeof(struct layout_completion) == 64, "file format");
_Static_assert(offsetof(struct layout_completion, epoch) == offsetof(struct layout_job, epoch), "one epoch for both");

struct layout_tensor {
  uint32_t index;
  uint8_t dtype; /* mu_dtype */
  uint8_t rank;  /* so many dims follow, an int64_t each */
  uint8_t known; /* 1: a place whose dims are known; 0 otherwise */
  uint8_t reserved;
};
_Static_assert(sizeof(struct layout_tensor) == 8, "file format");

/* The epoch of a job or completion: the second word of both. Read once, for the record may change. */
static inline uint64_t layout_epoch(const void *record) {
  return __atomic_load_n((const uint64_t *)record + 1, __ATOMIC_RELAXED);
}

enum {
  LAYOUT_TENSOR_MAX = (3 + MU_MAX_RANK) * 8, /* with offset, size and dims */
  LAYOUT_COMPLETION_MAX = (int)sizeof(struct layout_completion) + (int)sizeof((struct channel_completion *)0)->message +
                          CHANNEL_TENSORS_MAX * LAYOUT_TENSOR_MAX,
};

/* ---- files ------------------------------------------------------------------------------------------------------- */

/* Where everything is; follows from the side, the number of lanes and max_spans alone. */
struct layout_plan {
  enum layout_side side;
  uint32_t lanes, max_spans, sleepers;
  uint64_t sleepers_at, lanes_at, rings_at, ring_size, size;
};

/* MU_INVALID when lanes or max_spans are out of range. */
MUST_CHECK mu_status layout_plan(enum layout_side side, uint32_t lanes, uint32_t max_spans,
                                 struct layout_plan *ret_plan);

/* Writes the header of a new file. */
void layout_write(const struct layout_plan *plan, uint64_t epoch, struct shared_memory *memory);

/* Reads the header of the other side's file and checks that it is what that side would have written. MU_INVALID,
 * MU_UNSUPPORTED (another major version). */
MUST_CHECK mu_status layout_read(const struct shared_memory *memory, enum layout_side side,
                                 struct layout_plan *ret_plan, uint64_t *ret_epoch, mu_error *err);

static inline struct layout_word *layout_sleeper(const struct layout_plan *plan, const struct shared_memory *memory,
                                                 uint32_t i) {
  return (struct layout_word *)(void *)(memory->data + plan->sleepers_at) + i;
}
static inline struct layout_lane *layout_lane(const struct layout_plan *plan, const struct shared_memory *memory,
                                              uint32_t i) {
  return (struct layout_lane *)(void *)(memory->data + plan->lanes_at) + i;
}
static inline uint8_t *layout_ring(const struct layout_plan *plan, const struct shared_memory *memory, uint32_t i) {
  return memory->data + plan->rings_at + i * plan->ring_size;
}

#endif
