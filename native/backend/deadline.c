/* Deadlines of operations: a heap of sockets by the earliest deadline that one of their operations
 * may have. An operation that ends in time leaves its deadline there: when that comes, the socket
 * is looked at for nothing, once, which is cheaper than to find it with every completion. */
#include <stdlib.h>

#include "backend/internal.h"

#define DUE_AT_ONCE 8

static void put(struct pf_backend *backend, uint32_t place, struct pf_bsock *sock) {
    backend->timers[place] = sock;
    sock->timer_place = place;
}

static void rise(struct pf_backend *backend, uint32_t place, struct pf_bsock *sock) {
    while (place > 1 && backend->timers[place / 2]->timer_ns > sock->timer_ns) {
        put(backend, place, backend->timers[place / 2]);
        place /= 2;
    }
    put(backend, place, sock);
}

static void sink(struct pf_backend *backend, uint32_t place, struct pf_bsock *sock) {
    for (;;) {
        uint32_t child = 2 * place;
        if (child > backend->timer_count) {
            break;
        }
        if (child < backend->timer_count &&
            backend->timers[child + 1]->timer_ns < backend->timers[child]->timer_ns) {
            child++;
        }
        if (backend->timers[child]->timer_ns >= sock->timer_ns) {
            break;
        }
        put(backend, place, backend->timers[child]);
        place = child;
    }
    put(backend, place, sock);
}

static void note_next(struct pf_backend *backend) {
    backend->next_deadline_ns = backend->timer_count ? backend->timers[1]->timer_ns : UINT64_MAX;
}

bool pf_deadline_arm(struct pf_bsock *sock, uint64_t deadline_ns) {
    struct pf_backend *backend = sock->session->backend;
    if (sock->timer_place && sock->timer_ns <= deadline_ns) {
        return true;
    }
    uint32_t place = sock->timer_place;
    if (!place) {
        place = backend->timer_count + 1;
        if (place >= backend->timer_capacity) {
            uint32_t capacity = 2 * backend->timer_capacity + 64;
            struct pf_bsock **bigger =
                realloc(backend->timers, capacity * sizeof(struct pf_bsock *));
            if (!bigger) {
                return false;
            }
            backend->timers = bigger;
            backend->timer_capacity = capacity;
        }
        backend->timer_count = place;
    }
    sock->timer_ns = deadline_ns;
    rise(backend, place, sock);
    note_next(backend);
    return true;
}

void pf_deadline_disarm(struct pf_bsock *sock) {
    struct pf_backend *backend = sock->session->backend;
    uint32_t place = sock->timer_place;
    if (!place) {
        return;
    }
    struct pf_bsock *last = backend->timers[backend->timer_count--];
    sock->timer_place = 0;
    if (last != sock) {
        if (last->timer_ns < sock->timer_ns) {
            rise(backend, place, last);
        } else {
            sink(backend, place, last);
        }
    }
    note_next(backend);
}

void pf_deadline_forget(struct pf_bsock *sock) {
    uint32_t mask = sock->session->layout.cq_depth - 1;
    pf_deadline_disarm(sock);
    for (uint32_t i = sock->writes_next; i != sock->writes.tail; i++) {
        sock->writes.ops[i & mask].deadline_ns = 0;
    }
}

void pf_deadlines_due(struct pf_backend *backend) {
    for (int i = 0; i < DUE_AT_ONCE && backend->next_deadline_ns <= backend->now_ns; i++) {
        struct pf_bsock *sock = backend->timers[1];
        pf_deadline_disarm(sock);
        pf_ready_add(sock, PF_WORK_EXPIRE);
    }
}
