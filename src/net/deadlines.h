/*
 * Things that time out after one and the same duration: whoever starts last is due last, so a list is in order by
 * itself and nothing is searched. Embedded in what waits; one thread.
 */
#ifndef NET_DEADLINES_H
#define NET_DEADLINES_H

#include "base/clock.h"
#include "base/list.h"

struct deadlines {
  struct list items;
  uint64_t duration_ns;
};

struct deadline {
  struct list link;
  uint64_t at_ns;
};

static inline void deadlines_init(struct deadlines *deadlines, uint64_t duration_ns) {
  list_init(&deadlines->items);
  deadlines->duration_ns = duration_ns;
}

static inline void deadline_clear(struct deadline *item) { list_remove(&item->link); }

/* Starts item anew, also when it waits already, be it elsewhere. */
static inline void deadline_start(struct deadlines *deadlines, struct deadline *item, uint64_t now_ns) {
  list_remove(&item->link);
  item->at_ns = time_add(now_ns, deadlines->duration_ns);
  list_push_back(&deadlines->items, &item->link);
}

/* When the first one is due; TIME_NEVER. */
static inline uint64_t deadlines_next(const struct deadlines *deadlines) {
  if (list_empty(&deadlines->items)) return TIME_NEVER;
  return list_item(deadlines->items.next, const struct deadline, link)->at_ns;
}

/* Takes out one that is due; NULL when none is. */
static inline struct deadline *deadlines_take(struct deadlines *deadlines, uint64_t now_ns) {
  if (deadlines_next(deadlines) > now_ns) return NULL;
  return list_item(list_pop_front(&deadlines->items), struct deadline, link);
}

#endif
