/* One application: its regions, its limits, its end. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/internal.h"

static void wire(struct pf_session *session) {
    const struct pf_b2c_header *layout = &session->layout;
    session->c2b_control = (const struct pf_c2b_control *)session->c2b;
    session->b2c_control = (struct pf_b2c_control *)(session->b2c + layout->b2c_control);
    for (int p = 0; p < PF_PRIORITIES; p++) {
        size_t ring = (size_t)p * layout->hint_entries;
        session->hints[p] = (struct pf_hint_consumer){
            .entries = layout->hint_entries,
            .ring = (const uint32_t *)(session->c2b + layout->c2b_hints) + ring,
            .recent = &session->c2b_control->hint_recent[p * PF_HINT_RECENT],
            .shared_tail = &session->c2b_control->hint_tail[p],
            .shared_head = &session->b2c_control->hint_head[p],
        };
        session->events[p] = (struct pf_hint_producer){
            .entries = layout->hint_entries,
            .ring = (uint32_t *)(session->b2c + layout->b2c_hints) + ring,
            .recent = &session->b2c_control->event_recent[p * PF_HINT_RECENT],
            .shared_tail = &session->b2c_control->event_tail[p],
            .shared_head = &session->c2b_control->event_head[p],
        };
    }
}

struct pf_bsock *pf_session_slot(struct pf_session *session, uint32_t slot) {
    const struct pf_b2c_header *layout = &session->layout;
    struct pf_bsock *sock = &session->socks[slot];
    if (!sock->session) {
        sock->session = session;
        sock->slot = slot;
        sock->mirror_fd = -1;
        sock->priority = PF_PRIORITY_LOW;
        sock->c2b = (const struct pf_socket_c2b *)(session->c2b + layout->c2b_sockets) + slot;
        sock->b2c = (struct pf_socket_b2c *)(session->b2c + layout->b2c_sockets) + slot;
        session->slots_seen = slot < session->slots_seen ? session->slots_seen : slot + 1;
    }
    return sock;
}

uint32_t pf_session_slots(const struct pf_session *session) {
    uint32_t used = pf_load_acquire(&session->c2b_control->slots_used);
    uint32_t most = used > session->slots_seen ? used : session->slots_seen;
    return most < session->layout.max_sockets ? most : session->layout.max_sockets;
}

static uint64_t socks_bytes(const struct pf_session *session) {
    return session->layout.max_sockets * sizeof(*session->socks);
}

static int make_regions(struct pf_session *session, struct pf_session_fds *fds) {
    void *unused = NULL;
    void *mapping = NULL;
    fds->c2b = pf_region_create("pifus-c2b", session->layout.c2b_bytes, 0, &mapping);
    if (fds->c2b < 0) {
        return fds->c2b;
    }
    session->c2b = mapping;
    fds->b2c = pf_region_create("pifus-b2c", session->layout.b2c_bytes, 1, &unused);
    if (fds->b2c < 0) {
        return fds->b2c;
    }
    session->b2c = unused;
    session->doorbell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    fds->doorbell = fcntl(session->doorbell_fd, F_DUPFD_CLOEXEC, 0);
    fds->public_region = fcntl(session->backend->public_fd, F_DUPFD_CLOEXEC, 0);
    if (fds->doorbell < 0 || fds->public_region < 0) {
        return -errno;
    }
    memcpy(session->b2c, &session->layout, sizeof(session->layout));
    return 0;
}

static void close_fd(int32_t *fd) {
    if (*fd >= 0) {
        (void)close(*fd);
        *fd = -1;
    }
}

struct pf_session *pf_session_make(struct pf_backend *backend,
                                   const struct pf_session_request *request,
                                   struct pf_session_fds *fds, char *error, size_t error_bytes) {
    *fds = (struct pf_session_fds){-1, -1, -1, -1, 0, 0};
    struct pf_region_request wanted = {request->max_sockets, request->queue_depth,
                                       request->rx_bytes, request->arena_bytes};
    struct pf_session *session = calloc(1, sizeof(*session));
    if (!session) {
        (void)snprintf(error, error_bytes, "out of memory");
        errno = ENOMEM;
        return NULL;
    }
    session->backend = backend;
    session->granted = *request;
    session->doorbell_fd = -1;
    session->bell_fd = -1;
    int bad = pf_region_plan(&wanted, &session->layout, error, error_bytes);
    if (!bad && request->best_priority >= PF_PRIORITIES) { /* an index of arrays from here on */
        (void)snprintf(error, error_bytes, "best_priority is %u; allowed is 0 to %d",
                       request->best_priority, PF_PRIORITIES - 1);
        bad = -EINVAL;
    }
    if (!bad) {
        session->id = ++backend->next_session;
        session->layout.session_id = (uint32_t)session->id;
        session->layout.allowed_priority = request->best_priority;
        session->socks = pf_region_private(socks_bytes(session));
        bad = session->socks ? make_regions(session, fds) : -ENOMEM;
        if (bad) {
            (void)snprintf(error, error_bytes, "cannot make the shared memory of the client: %s",
                           strerror(-bad));
        }
    }
    if (bad) {
        close_fd(&fds->c2b);
        close_fd(&fds->b2c);
        close_fd(&fds->doorbell);
        close_fd(&fds->public_region);
        pf_session_destroy(session);
        errno = -bad;
        return NULL;
    }
    fds->c2b_bytes = session->layout.c2b_bytes;
    fds->b2c_bytes = session->layout.b2c_bytes;
    wire(session);
    return session;
}

void pf_session_destroy(struct pf_session *session) {
    pf_guard_remove(session);
    if (session->c2b) {
        pf_region_unmap((void *)(uintptr_t)session->c2b, session->layout.c2b_bytes);
    }
    if (session->b2c) {
        pf_region_unmap(session->b2c, session->layout.b2c_bytes);
    }
    for (uint32_t i = 0; i < session->mirror_count; i++) {
        (void)close(session->mirrors[i].fd);
    }
    if (session->doorbell_fd >= 0) {
        (void)close(session->doorbell_fd);
    }
    pf_bell_close(session);
    stk_account_free(session->account);
    free(session->mirrors);
    free(session->tickets);
    if (session->socks) {
        pf_region_unmap(session->socks, socks_bytes(session));
    }
    free(session);
}

struct pf_session *pf_session_find(struct pf_backend *backend, uint64_t id) {
    for (uint32_t i = 0; i < backend->session_count; i++) {
        if (backend->sessions[i]->id == id) {
            return backend->sessions[i];
        }
    }
    return NULL;
}

void pf_session_violation(struct pf_session *session, const char *what) {
    (void)what;
    if (!session->doomed) {
        session->doomed = PF_ENDED_VIOLATION;
        session->backend->any_doomed = true;
        uint64_t *count = &session->backend->public_region->violations;
        pf_store64_relaxed(count, *count + 1);
    }
}

void pf_session_reap(struct pf_session *session) {
    struct pf_backend *backend = session->backend;
    backend->session_count--;
    backend->sessions[session->index] = backend->sessions[backend->session_count];
    backend->sessions[session->index]->index = session->index;
    uint64_t *ended = &backend->public_region->sessions_ended;
    pf_store64_relaxed(ended, *ended + 1);
    pf_store64_relaxed(&backend->public_region->sessions, backend->session_count);
    backend->mirrors -= session->mirror_count;
    stk_account_free(session->account); /* here: connections may have it, too */
    session->account = NULL;
    pf_notice_send(backend, session->id, session->reason, session);
}

/* Sockets that were closed without ever showing a descriptor left their mirrors here: looks at a
 * few, and closes those whose other end is closed. */
static void drop_unused_mirrors(struct pf_session *session) {
    enum { LOOK_AT = 64 };
    for (uint32_t looked = 0; looked < LOOK_AT && session->mirror_count > 0; looked++) {
        uint32_t at = session->mirror_cursor++ % session->mirror_count;
        /* Not by reading: the byte that every mirror starts with hides the end behind it. */
        struct pollfd end = {.fd = session->mirrors[at].fd};
        if (poll(&end, 1, 0) > 0 && (end.revents & POLLHUP)) {
            (void)close(session->mirrors[at].fd);
            session->mirrors[at] = session->mirrors[--session->mirror_count];
            session->backend->mirrors--;
        }
    }
}

void pf_session_add_mirrors(struct pf_session *session, const struct pf_command *command) {
    uint32_t limit = session->layout.max_sockets + PF_MAX_MIRRORS_SLACK;
    if (session->mirror_count > PF_MAX_MIRRORS_SLACK / 2) {
        drop_unused_mirrors(session);
    }
    if (session->mirror_count + command->count > session->mirror_capacity) {
        uint32_t capacity = session->mirror_count + command->count + 64;
        struct pf_mirror *bigger = realloc(session->mirrors, capacity * sizeof(*bigger));
        if (bigger) {
            session->mirrors = bigger;
            session->mirror_capacity = capacity;
        }
    }
    for (uint32_t i = 0; i < command->count; i++) {
        if (session->mirror_count < session->mirror_capacity && session->mirror_count < limit &&
            !session->dying) {
            session->mirrors[session->mirror_count++] =
                (struct pf_mirror){command->first_mirror + i, command->numbers[i], command->fds[i]};
            session->backend->mirrors++;
        } else {
            (void)close(command->fds[i]);
        }
    }
}

static int find_mirror(struct pf_session *session, uint64_t id, uint64_t *number) {
    for (uint32_t i = session->mirror_count; i-- > 0;) {
        if (session->mirrors[i].id == id) {
            int fd = session->mirrors[i].fd;
            *number = session->mirrors[i].number;
            session->mirrors[i] = session->mirrors[--session->mirror_count];
            return fd; /* stays counted: it belongs to a socket now */
        }
    }
    return -1;
}

int pf_session_take_mirror(struct pf_session *session, uint64_t id, uint64_t *number) {
    int fd = find_mirror(session, id, number);
    if (fd < 0) {
        /* The client may use it before the stack thread has heard of it. */
        pf_commands_run(session->backend);
        fd = find_mirror(session, id, number);
    }
    return fd;
}

uint64_t pf_session_hold(struct pf_bsock *listener, struct stk_conn *conn) {
    struct pf_session *session = listener->session;
    struct pf_backend *backend = session->backend;
    /* xorshift64: tokens need not be secret, a client only ever reaches its own; they must not be
     * confused with an earlier one of the same entry. */
    backend->random_state ^= backend->random_state << 13;
    backend->random_state ^= backend->random_state >> 7;
    backend->random_state ^= backend->random_state << 17;
    uint32_t index = session->unadopted_count;
    for (uint32_t i = 0; i < PF_MAX_UNADOPTED; i++, index++) {
        struct pf_unadopted *entry = &session->unadopted[index % PF_MAX_UNADOPTED];
        if (!entry->conn) {
            entry->token = (backend->random_state & ~(uint64_t)(PF_MAX_UNADOPTED - 1)) |
                           (index % PF_MAX_UNADOPTED);
            entry->conn = conn;
            stk_tcp_set_account(conn, session->account);
            entry->order = ++backend->unadopted_order;
            entry->slot = listener->slot;
            entry->generation = listener->generation;
            entry->number = listener->b2c->accepts;
            session->unadopted_count++;
            return entry->token;
        }
    }
    stk_tcp_abort(conn); /* the caller has looked: there is room */
    return 0;
}

void pf_session_drop_accepts(const struct pf_bsock *listener) {
    struct pf_session *session = listener->session;
    /* Of what the program has taken, each may be adopted yet, or rejected. */
    uint32_t taken = pf_load_acquire(&listener->c2b->accepts_taken);
    if (listener->b2c->accepts == taken) {
        return;
    }
    for (uint32_t i = 0; i < PF_MAX_UNADOPTED; i++) {
        struct pf_unadopted *entry = &session->unadopted[i];
        if (entry->conn && entry->slot == listener->slot &&
            entry->generation == listener->generation && (int32_t)(entry->number - taken) >= 0) {
            stk_tcp_abort_later(pf_session_claim(session, entry->token));
        }
    }
}

struct stk_conn *pf_session_claim(struct pf_session *session, uint64_t token) {
    struct pf_unadopted *entry = &session->unadopted[token % PF_MAX_UNADOPTED];
    if (!entry->conn || entry->token != token) {
        return NULL;
    }
    struct stk_conn *conn = entry->conn;
    entry->conn = NULL;
    session->unadopted_count--;
    pf_session_pass_room(session);
    return conn;
}

void pf_session_pass_room(struct pf_session *session) {
    struct pf_link *link = pf_list_first(&session->crowded);
    if (link && session->unadopted_count < PF_MAX_UNADOPTED) {
        pf_list_remove(link);
        pf_ready_add(PF_LIST_SOCK(link, crowded), PF_WORK_ACCEPT);
    }
}

/* The youngest connection that was reported by the listener, or by any; NULL: none. */
static struct pf_unadopted *youngest(struct pf_session *session, const struct pf_bsock *listener) {
    struct pf_unadopted *found = NULL;
    for (uint32_t i = 0; i < PF_MAX_UNADOPTED; i++) {
        struct pf_unadopted *entry = &session->unadopted[i];
        bool wanted = !listener ||
                      (entry->slot == listener->slot && entry->generation == listener->generation);
        if (entry->conn && wanted && (!found || entry->order > found->order)) {
            found = entry;
        }
    }
    return found;
}

/* Youngest first, each in front of the queue: in the end the oldest stands there. */
static void give_back(struct pf_session *session, struct pf_unadopted *entry) {
    struct pf_bsock *from = &session->socks[entry->slot];
    struct stk_conn *conn = entry->conn;
    entry->conn = NULL;
    session->unadopted_count--;
    if (from->identity && from->phase == PF_SOCK_LISTENING &&
        from->generation == entry->generation) {
        stk_tcp_unaccept(from->conn, conn);
        pf_ready_add(from, PF_WORK_ACCEPT);
    } else {
        stk_tcp_abort_later(conn);
    }
    pf_session_pass_room(session);
}

void pf_session_give_back(struct pf_session *session, struct pf_bsock *listener, uint32_t most) {
    struct pf_unadopted *entry;
    while (most-- > 0 && session->unadopted_count > 0 && (entry = youngest(session, listener))) {
        give_back(session, entry);
    }
}

bool pf_session_give_back_shared(struct pf_session *session) {
    struct pf_unadopted *found = NULL;
    for (uint32_t i = 0; i < PF_MAX_UNADOPTED && session->unadopted_count > 0; i++) {
        struct pf_unadopted *entry = &session->unadopted[i];
        const struct pf_bsock *from = &session->socks[entry->slot];
        bool wanted = entry->conn && entry->generation == from->generation &&
                      entry->order <= from->shared_order;
        if (wanted && (!found || entry->order > found->order)) {
            found = entry;
        }
    }
    if (found) {
        give_back(session, found);
    }
    return found != NULL;
}

void pf_session_add_ticket(struct pf_session *session, uint64_t id, uint64_t number) {
    uint32_t limit = session->layout.max_sockets + PF_MAX_MIRRORS_SLACK;
    if (session->ticket_count == session->ticket_capacity && session->ticket_capacity < limit) {
        uint32_t capacity = 2 * session->ticket_capacity + 16;
        capacity = capacity < limit ? capacity : limit;
        struct pf_ticket *bigger = realloc(session->tickets, capacity * sizeof(*bigger));
        if (bigger) {
            session->tickets = bigger;
            session->ticket_capacity = capacity;
        }
    }
    if (session->ticket_count == session->ticket_capacity) {
        if (!session->ticket_count) {
            return; /* out of memory: the adoption will not find it */
        }
        /* The oldest goes: who still needs it shows the descriptor again. */
        session->ticket_count--;
        memmove(session->tickets, session->tickets + 1,
                session->ticket_count * sizeof(*session->tickets));
    }
    session->tickets[session->ticket_count++] = (struct pf_ticket){id, number};
}

static void refuse(struct pf_backend *backend, struct pf_session *session) {
    session->reason = PF_ENDED_ADMIN;
    pf_notice_send(backend, session->id, PF_ENDED_ADMIN, session);
}

void pf_session_admit(struct pf_backend *backend, struct pf_session *session) {
    session->account = stk_account_new(session->granted.uid);
    if (!session->account) {
        refuse(backend, session);
        return;
    }
    if (backend->session_count == backend->session_capacity) {
        uint32_t capacity = backend->session_capacity ? 2 * backend->session_capacity : 64;
        struct pf_session **bigger = realloc(backend->sessions, capacity * sizeof(*bigger));
        if (!bigger) {
            stk_account_free(session->account);
            session->account = NULL;
            refuse(backend, session);
            return;
        }
        backend->sessions = bigger;
        backend->session_capacity = capacity;
    }
    session->index = backend->session_count;
    backend->sessions[backend->session_count++] = session;
    pf_store64_relaxed(&backend->public_region->sessions, backend->session_count);
}
