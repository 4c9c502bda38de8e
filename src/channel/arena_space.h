/*
 * Who has which bytes of an arena. Pure bookkeeping in private memory of the side that reserves (the gateway, for its
 * input arenas and for the output arenas of its workers): nothing here touches the shared bytes.
 *
 * Externally locked (the gateway's core lock).
 */
#ifndef CHANNEL_ARENA_SPACE_H
#define CHANNEL_ARENA_SPACE_H

#include "base/list.h"
#include "base/status.h"

enum { ARENA_ALIGNMENT = 64 };

/* Bytes in use over all arenas of a process against --memory-budget. */
struct memory_budget {
  uint64_t limit; /* bytes; 0: unbounded */
  uint64_t used;
  struct memory_budget *within; /* a larger one, of which all that is taken here is taken too; NULL: none */
};
/* false (and nothing taken) when it does not fit. */
bool memory_budget_take(struct memory_budget *budget, uint64_t bytes);
void memory_budget_give(struct memory_budget *budget, uint64_t bytes);

struct arena_space;

/* size in bytes; budget may be shared and is borrowed (NULL: none). NULL without memory. */
struct arena_space *arena_space_create(uint64_t size, struct memory_budget *budget);
void arena_space_free(struct arena_space *space); /* gives what is still taken back to the budget; accepts NULL */

/* size bytes, ARENA_ALIGNMENT-aligned, most recently freed first: those pages are there already, and warm. size 0 is
 * given a unique place too. MU_UNAVAILABLE: full now (arena or budget); MU_TOO_LARGE: can never fit; MU_NO_MEMORY. */
MUST_CHECK mu_status arena_space_take(struct arena_space *space, uint64_t size, uint64_t *ret_offset);
/* offset as arena_space_take returned it. Needs no memory, so it cannot fail. */
void arena_space_give(struct arena_space *space, uint64_t offset);

/* Bytes taken, each rounded up to ARENA_ALIGNMENT. */
uint64_t arena_space_used(const struct arena_space *space);

/* The most that one arena_space_take could ever give: the arena's size, or the limit of a budget where that is less. */
uint64_t arena_space_limit(const struct arena_space *space);

/*
 * Slots on top: rows of one request stand next to each other for every input, and requests of the same row sizes share
 * slabs, so that a batch of neighbouring slots needs no gather. Each input has its own run in the slab with the row's
 * exact size as stride. Inputs without a fixed row size (BYTES) are reserved apart.
 */
struct slot_pool;

struct slot_need {
  uint64_t size; /* bytes of one row; of the whole input when apart */
  bool apart;    /* BYTES, or an input without batch dimension */
};

enum { SLOT_INPUTS_MAX = 64 };

struct slot_reservation {
  void *slab;    /* private */
  uint32_t slot; /* first of `rows` */
  uint32_t rows;
  uint32_t n;
  uint64_t offsets[SLOT_INPUTS_MAX]; /* where each input of the request begins in the arena */
  uint64_t apart;                    /* private: bit i: input i was reserved apart */
};

/* typical_rows: slots a slab is made for (2 x max batch; 1 when the model does not batch). NULL without memory. */
struct slot_pool *slot_pool_create(struct arena_space *space, uint32_t typical_rows);
void slot_pool_free(struct slot_pool *pool); /* accepts NULL */

/* All inputs of a request or nothing. rows >= 1, n <= SLOT_INPUTS_MAX. MU_UNAVAILABLE: not now (empty slabs of other
 * sizes have been given back already); MU_TOO_LARGE: never; MU_NO_MEMORY. */
MUST_CHECK mu_status slot_pool_reserve(struct slot_pool *pool, const struct slot_need *needs, uint32_t n, uint32_t rows,
                                       struct slot_reservation *ret_reservation);
void slot_pool_release(struct slot_pool *pool, struct slot_reservation *reservation);

/* Gives empty slabs back to the arena (an idle model). */
void slot_pool_trim(struct slot_pool *pool);

#endif
