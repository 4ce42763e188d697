/* Lists of sockets, oldest first; a socket is on each at most once, and leaves without a walk. */
#ifndef PF_BACKEND_LIST_H
#define PF_BACKEND_LIST_H

#include <stdbool.h>
#include <stddef.h>

/* A place on a list, and the list itself; zeroed: on none, and empty. */
struct pf_link {
    struct pf_link *next;
    struct pf_link *prev;
};

/* Behind all others, unless it is there already. */
static inline void pf_list_add(struct pf_link *list, struct pf_link *link) {
    if (link->next) {
        return;
    }
    if (!list->next) {
        list->next = list;
        list->prev = list;
    }
    link->next = list;
    link->prev = list->prev;
    list->prev->next = link;
    list->prev = link;
}

static inline void pf_list_remove(struct pf_link *link) {
    if (link->next) {
        link->prev->next = link->next;
        link->next->prev = link->prev;
        link->next = NULL;
        link->prev = NULL;
    }
}

/* NULL: it is empty. */
static inline struct pf_link *pf_list_first(const struct pf_link *list) {
    return list->next && list->next != list ? list->next : NULL;
}

#define PF_LIST_SOCK(link, member)                                                                 \
    ((struct pf_bsock *)(void *)((char *)(link) - offsetof(struct pf_bsock, member)))

#endif
