/* list.h: intrusive doubly linked lists. A list is a link that is no member; a link that is on no
 * list points to itself, so that removing it twice is harmless. Takes no memory and no lock. */
#ifndef HF_LIST_H
#define HF_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct hf_link {
	struct hf_link *next, *prev;
};

/* The struct that a link is the member of. */
#define HF_OF(type, member, link) ((type *)(void *)((char *)(link)-offsetof(type, member)))

/* An empty list, or a link that is on none. */
static inline void hf_link_init(struct hf_link *link)
{
	link->next = link->prev = link;
}

/* Whether a list is empty, or a link on no list. */
static inline bool hf_link_alone(const struct hf_link *link)
{
	return link->next == link;
}

/* The first member, NULL when there is none. */
static inline struct hf_link *hf_link_first(const struct hf_link *list)
{
	return list->next == list ? NULL : list->next;
}

/* The member after link, NULL after the last. */
static inline struct hf_link *hf_link_after(const struct hf_link *list, const struct hf_link *link)
{
	return link->next == list ? NULL : link->next;
}

/* Takes a link off whatever list it is on. */
static inline void hf_link_remove(struct hf_link *link)
{
	link->prev->next = link->next;
	link->next->prev = link->prev;
	hf_link_init(link);
}

/* Puts a link that is on no list at the end of one. */
static inline void hf_link_append(struct hf_link *list, struct hf_link *link)
{
	link->prev = list->prev;
	link->next = list;
	list->prev->next = link;
	list->prev = link;
}

/* The same, at the beginning. */
static inline void hf_link_prepend(struct hf_link *list, struct hf_link *link)
{
	hf_link_append(list->next, link);
}

#endif
