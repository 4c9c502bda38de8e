/*
 * A doubly linked list whose links live inside the elements: no allocation, O(1) removal. A list head and an unlinked
 * element point at themselves. Not thread-safe: whoever owns the list locks it.
 */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
  struct list *next, *prev;
};

#define list_item(link, type, member) ((type *)(void *)((char *)(link)-offsetof(type, member)))

/* for (each element, safe against removal of the current one) */
#define list_each(link, head)                                                       \
  for (struct list *link = (head)->next, *link##_next = link->next; link != (head); \
       link = link##_next, link##_next = link->next)

static inline void list_init(struct list *l) { l->next = l->prev = l; }
static inline bool list_empty(const struct list *head) { return head->next == head; }

static inline void list_insert_before(struct list *at, struct list *item) {
  item->next = at;
  item->prev = at->prev;
  at->prev->next = item;
  at->prev = item;
}
static inline void list_push_back(struct list *head, struct list *item) { list_insert_before(head, item); }
static inline void list_push_front(struct list *head, struct list *item) { list_insert_before(head->next, item); }

/* Unlinks item; harmless on an unlinked one. */
static inline void list_remove(struct list *item) {
  item->prev->next = item->next;
  item->next->prev = item->prev;
  list_init(item);
}

/* First element, unlinked from the list; NULL when the list is empty. */
static inline struct list *list_pop_front(struct list *head) {
  if (list_empty(head)) return NULL;
  struct list *first = head->next;
  list_remove(first);
  return first;
}

#endif
