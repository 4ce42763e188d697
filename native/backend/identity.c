/* Which socket a mirror descriptor stands for, whoever holds it.
 *
 * The kernel counts the copies of the clients' end, in all processes; the backend's end hangs up
 * when the last one is closed. A socket is served by the slot of one session at a time, and moves
 * to the slot of whoever claims it. A listener does not move: all who claimed it take connections
 * from its queue. When a client lets go of a socket that others may hold, it stays in the slot, an
 * orphan, until it is claimed or nobody holds it. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "backend/identity.h"
#include "backend/internal.h"

#define ORPHANS_PER_LOOK 64

static struct pf_identity **bucket(struct pf_backend *backend, uint64_t number) {
    return &backend->identities[(number ^ (number >> 12)) % PF_IDENTITY_BUCKETS];
}

static struct pf_identity *find(struct pf_backend *backend, uint64_t number) {
    struct pf_identity *identity = *bucket(backend, number);
    while (identity && identity->number != number) {
        identity = identity->next;
    }
    return identity;
}

static void watch(struct pf_backend *backend, struct pf_identity *identity) {
    /* Hanging up is always reported; once is enough. */
    struct epoll_event event = {.events = EPOLLONESHOT, .data.u64 = identity->number};
    if (!identity->watched &&
        epoll_ctl(backend->orphan_epoll_fd, EPOLL_CTL_ADD, identity->fd, &event) == 0) {
        identity->watched = true;
        backend->orphans++;
        pf_store64_relaxed(&backend->public_region->orphans, backend->orphans);
    }
}

static void unwatch(struct pf_backend *backend, struct pf_identity *identity) {
    if (identity->watched) {
        (void)epoll_ctl(backend->orphan_epoll_fd, EPOLL_CTL_DEL, identity->fd, NULL);
        identity->watched = false;
        backend->orphans--;
        pf_store64_relaxed(&backend->public_region->orphans, backend->orphans);
    }
}

/* Every question that a holder of the descriptor may have asked of another slot counts as open. */
static void refresh(struct pf_bsock *sock) {
    sock->read_token = pf_load_acquire(&sock->c2b->read_arm) - 1;
    sock->write_token = pf_load_acquire(&sock->c2b->write_arm) - 1;
    pf_wake(sock);
}

void pf_identity_refresh(struct pf_backend *backend, uint64_t number) {
    struct pf_identity *identity = find(backend, number);
    if (identity && identity->first) {
        identity->arrived = true;
        refresh(identity->first);
    }
}

int pf_identity_attach(struct pf_bsock *sock, uint64_t number, int fd) {
    struct pf_backend *backend = sock->session->backend;
    struct pf_identity *identity = calloc(1, sizeof(*identity));
    if (!identity) {
        return -ENOMEM;
    }
    pf_identity_leave(sock);
    identity->number = number;
    identity->fd = fd;
    identity->first = sock;
    identity->next = *bucket(backend, number);
    *bucket(backend, number) = identity;
    sock->identity = identity;
    sock->mirror_fd = fd;
    sock->sharer_next = NULL;
    return 0;
}

static void close_end(struct pf_backend *backend, struct pf_identity *identity) {
    if (identity->fd >= 0) {
        unwatch(backend, identity);
        (void)close(identity->fd);
        identity->fd = -1;
        backend->mirrors--;
    }
}

void pf_identity_hang_up(struct pf_bsock *sock) {
    if (sock->identity) {
        close_end(sock->session->backend, sock->identity);
        sock->mirror_fd = -1;
    }
}

static void forget(struct pf_backend *backend, struct pf_identity *identity) {
    struct pf_identity **link = bucket(backend, identity->number);
    while (*link != identity) {
        link = &(*link)->next;
    }
    *link = identity->next;
    close_end(backend, identity);
    free(identity);
}

static void unlink_sharer(struct pf_identity *identity, struct pf_bsock *sock) {
    struct pf_bsock **link = &identity->first;
    while (*link && *link != sock) {
        link = &(*link)->sharer_next;
    }
    if (*link) {
        *link = sock->sharer_next;
    }
    sock->sharer_next = NULL;
}

void pf_identity_leave(struct pf_bsock *sock) {
    struct pf_identity *identity = sock->identity;
    if (!identity) {
        return;
    }
    unlink_sharer(identity, sock);
    sock->identity = NULL;
    sock->mirror_fd = -1;
    if (!identity->first) {
        forget(sock->session->backend, identity);
    }
}

bool pf_identity_is_shared(const struct pf_bsock *sock) {
    return sock->phase == PF_SOCK_LISTENING && sock->identity && (sock->state & PF_STATE_SHARED);
}

bool pf_identity_has_others(const struct pf_bsock *sock) {
    return sock->identity && sock->identity->first->sharer_next;
}

static void append_sharer(struct pf_identity *identity, struct pf_bsock *sock) {
    struct pf_bsock **link = &identity->first;
    while (*link) {
        link = &(*link)->sharer_next;
    }
    *link = sock;
    sock->sharer_next = NULL;
    sock->identity = identity;
    sock->mirror_fd = identity->fd;
}

/* ---- letting go ---- */

static bool hung_up(const struct pf_identity *identity) {
    if (identity->fd < 0) {
        return true; /* after an error, and so nobody can be seen to hold it */
    }
    struct pollfd watched = {.fd = identity->fd};
    return poll(&watched, 1, 0) > 0 && (watched.revents & (POLLHUP | POLLERR | POLLNVAL));
}

/* One of several who accept from a listener goes: the others keep it. */
static void leave_listener(struct pf_bsock *sock) {
    struct pf_identity *identity = sock->identity;
    struct stk_conn *conn = sock->conn;
    /* First: who has left the listener can give nothing back to its queue. */
    pf_session_give_back(sock->session, sock, PF_MAX_UNADOPTED);
    unlink_sharer(identity, sock);
    sock->identity = NULL;
    sock->mirror_fd = -1;
    sock->conn = NULL;
    stk_tcp_set_owner(conn, identity->first);
    stk_tcp_set_account(conn, identity->first->session->account);
    /* A token that it had taken out of the mirror, and has not acted upon, is put back. */
    identity->arrived = true;
    pf_wake(identity->first);
    pf_ready_add(identity->first, PF_WORK_ACCEPT);
}

bool pf_identity_keep(struct pf_bsock *sock, bool kill) {
    struct pf_backend *backend = sock->session->backend;
    struct pf_identity *identity = sock->identity;
    if (!identity || sock->phase == PF_SOCK_CLOSING || sock->phase == PF_SOCK_MOVED) {
        return false;
    }
    if (identity->first->sharer_next) {
        leave_listener(sock);
        return false;
    }
    /* What a client has let go of is not its own any more: what it does wrong harms nobody else. */
    if ((kill && !sock->let_go) || hung_up(identity)) {
        return false;
    }
    watch(backend, identity);
    if (!identity->watched) {
        return false; /* nobody would notice its end */
    }
    sock->let_go = true;
    (void)pf_chain_drop(sock, -ECANCELED);
    pf_ops_fail(sock, &sock->recvs, PF_OP_RECV, -ECANCELED);
    pf_ops_fail(sock, &sock->accepts, PF_OP_ACCEPT, -ECANCELED);
    sock->multishot = false;
    pf_session_give_back(sock->session, sock, PF_MAX_UNADOPTED);
    refresh(sock); /* who polls the mirror elsewhere is to see it, and claim */
    return true;
}

void pf_identity_look(struct pf_backend *backend) {
    struct epoll_event events[ORPHANS_PER_LOOK];
    int count = epoll_wait(backend->orphan_epoll_fd, events, ORPHANS_PER_LOOK, 0);
    for (int i = 0; i < count; i++) {
        struct pf_identity *identity = find(backend, events[i].data.u64);
        if (identity && identity->watched && identity->first->let_go) {
            struct pf_bsock *sock = identity->first;
            unwatch(backend, identity);
            pf_sock_begin_close(sock, sock->close_abort);
        }
    }
}

/* ---- listeners with several who accept ---- */

static void set_level(struct pf_identity *identity) {
    uint32_t level = stk_tcp_acceptable(identity->first->conn);
    for (struct pf_bsock *sock = identity->first; sock; sock = sock->sharer_next) {
        if (sock->b2c->accepts != level) {
            pf_store_release(&sock->b2c->accepts, level);
            pf_wake(sock);
        }
    }
}

/* The next one that waits for a connection, in turn. */
static struct pf_bsock *next_acceptor(struct pf_identity *identity) {
    for (struct pf_bsock *sock = identity->first; sock; sock = sock->sharer_next) {
        if (!pf_op_first(sock, &sock->accepts)) {
            continue;
        }
        if (sock->session->unadopted_count < PF_MAX_UNADOPTED) {
            return sock;
        }
        pf_list_add(&sock->session->crowded, &sock->crowded);
    }
    return NULL;
}

void pf_identity_report(struct pf_bsock *any) {
    struct pf_identity *identity = any->identity;
    struct pf_bsock *sock;
    struct stk_conn *listener = any->conn;
    while (stk_tcp_acceptable(listener) && (sock = next_acceptor(identity))) {
        struct pf_addr local;
        struct pf_addr peer;
        struct pf_op op = *pf_op_first(sock, &sock->accepts);
        struct stk_conn *conn = stk_tcp_accept(listener);
        sock->accepts.head++;
        stk_tcp_names(conn, &local, &peer);
        uint64_t token = pf_session_hold(sock, conn);
        set_level(identity); /* before its completion: the client then looks at the level */
        (void)pf_post_accept(sock, &op, token, &peer, false);
        unlink_sharer(identity, sock);
        append_sharer(identity, sock);
        stk_tcp_set_owner(listener, identity->first);
    }
    set_level(identity);
    if (identity->arrived) {
        pf_wake(identity->first);
    }
}

/* ---- moving ---- */

/* What the old client has not consumed goes back to the stack. Its last words are published: it
 * finds out whether what it did just now still counted. */
static int take_bytes(struct pf_bsock *old) {
    struct pf_session *session = old->session;
    const uint8_t *ring =
        session->b2c + session->layout.b2c_rx + (size_t)old->slot * session->layout.rx_bytes;
    uint32_t tail = pf_rx_tail(old);
    if (!old->dgram && tail - old->rx_credited > old->rx_head - old->rx_credited) {
        pf_session_violation(session, "receive ring tail behind what was consumed");
    }
    if (session->doomed == PF_ENDED_VIOLATION) {
        return -ECONNRESET;
    }
    uint32_t unread = old->rx_head - tail;
    uint32_t start = (tail - old->rx_base) & (old->rx_bytes - 1);
    uint32_t first = unread < old->rx_bytes - start ? unread : old->rx_bytes - start;
    if (old->conn && first == unread) {
        int bad = stk_tcp_unread_back(old->conn, ring + start, unread);
        if (bad) {
            return bad;
        }
    } else if (old->conn) {
        /* In one piece: half of them back in the stack would come twice if the claim then failed.
         */
        uint8_t *whole = malloc(unread);
        if (!whole) {
            return -ENOMEM;
        }
        memcpy(whole, ring + start, first);
        memcpy(whole + first, ring, unread - first);
        int bad = stk_tcp_unread_back(old->conn, whole, unread);
        free(whole);
        if (bad) {
            return bad;
        }
    }
    if (old->conn) {
        stk_tcp_credit(old->conn, tail - old->rx_credited);
    }
    old->rx_credited = tail;
    old->b2c->moved_rx = tail;
    old->b2c->moved_sq = old->sq_head;
    return 0;
}

static void pass_drains(struct pf_bsock *old, struct pf_bsock *sock) {
    sock->drains_first = old->drains_first;
    sock->drains_last = old->drains_last;
    old->drains_first = NULL;
    old->drains_last = NULL;
    if (old->writes.head == old->writes.tail) {
        return;
    }
    old->draining = true;
    old->drains_next = NULL;
    if (sock->drains_last) {
        sock->drains_last->drains_next = old;
    } else {
        sock->drains_first = old;
    }
    sock->drains_last = old;
}

static void pass_fields(struct pf_bsock *old, struct pf_bsock *sock) {
    sock->conn = old->conn;
    sock->phase = old->phase;
    sock->family = old->family;
    sock->v6only = old->v6only;
    sock->bound = old->bound;
    sock->tx_finish = old->tx_finish;
    sock->tx_finished = old->tx_finished;
    sock->rx_shut = old->rx_shut;
    sock->port_chosen = old->port_chosen;
    sock->mirror_eof = old->mirror_eof;
    sock->error = old->error;
    sock->b2c->local = old->b2c->local;
    sock->b2c->peer = old->b2c->peer;
    if (old->dgram) {
        pf_dgram_pass(old, sock, old->b2c->moved_rx);
    } else if (sock->conn) {
        stk_tcp_set_owner(sock->conn, sock);
        stk_tcp_set_account(sock->conn, sock->session->account);
        (void)stk_tcp_set_option(sock->conn, PF_OPT_PRIORITY, sock->priority);
        pf_sock_size_credit(sock);
    }
}

/* What the new slot shows, by what moved there. */
static void show(struct pf_bsock *sock) {
    uint32_t state = sock->tx_finish ? PF_STATE_TX_CLOSED : 0U;
    if (sock->phase == PF_SOCK_CONNECTED) {
        state |= PF_STATE_CONNECTED;
    } else if (sock->phase == PF_SOCK_LISTENING) {
        state |= PF_STATE_LISTENING | PF_STATE_SHARED;
    }
    if (sock->rx_shut) {
        state |= PF_STATE_EOF;
    }
    pf_sock_set_state(sock, state, 0);
    pf_rx_flush(sock);
    pf_sock_show_error(sock);
    refresh(sock);
    pf_ready_add(sock, PF_WORK_TX | PF_WORK_LOOK);
}

/* The old slot after the socket has left it. */
static void leave_behind(struct pf_bsock *old) {
    struct pf_op connecting = old->connect_op;
    old->conn = NULL;
    old->phase = PF_SOCK_MOVED;
    pf_sock_uncount(old);
    old->connect_op.op_id = 0;
    (void)pf_chain_drop(old, -ESTALE);
    pf_deadline_forget(old); /* what it has written is not its own any more */
    if (connecting.op_id) {
        pf_post(old, &connecting, PF_OP_CONNECT, -ESTALE);
    }
    pf_ops_fail(old, &old->recvs, PF_OP_RECV, -ESTALE);
    pf_ops_fail(old, &old->accepts, PF_OP_ACCEPT, -ESTALE);
    uint32_t left = PF_STATE_OPEN | PF_STATE_MOVED;
    pf_sock_set_state(old, left, ~left);
    if (old->let_go) {
        pf_ready_add(old, PF_WORK_CLOSE);
    }
}

static int move(struct pf_identity *identity, struct pf_bsock *sock, const struct pf_op *op) {
    struct pf_backend *backend = sock->session->backend;
    struct pf_bsock *old = identity->first;
    int bad = take_bytes(old);
    if (bad) {
        pf_sock_set_state(old, 0, PF_STATE_MOVING);
        return bad;
    }
    old->moved_identity = identity->number;
    unwatch(backend, identity);
    unlink_sharer(identity, old);
    old->identity = NULL;
    old->mirror_fd = -1;
    append_sharer(identity, sock);
    pass_fields(old, sock);
    pass_drains(old, sock);
    bool connecting = old->phase == PF_SOCK_CONNECTING;
    leave_behind(old);
    if (connecting) {
        sock->connect_op = *op;
    }
    show(sock);
    return connecting ? 1 : 0;
}

/* Another one accepts from the listener, beside those that do. */
static void join(struct pf_identity *identity, struct pf_bsock *sock) {
    struct pf_bsock *other = identity->first;
    append_sharer(identity, sock);
    pass_fields(other, sock);
    stk_tcp_set_owner(sock->conn, identity->first);
    show(sock);
    pf_ready_add(sock, PF_WORK_ACCEPT);
}

/* What it has submitted is more than one step may take: it has its turns first. */
static bool too_busy(struct pf_bsock *old) {
    uint32_t waiting = pf_load_acquire(&old->c2b->sq_tail) - old->sq_head;
    if (waiting <= PF_SETTLE_MOST || waiting > old->session->layout.sq_depth) {
        return false; /* more than there can be ends it at the first one */
    }
    pf_ready_add(old, PF_WORK_SQ);
    return true;
}

/* Everything that the client of the old slot has submitted comes before the move. */
static void settle(struct pf_bsock *old) {
    pf_sock_set_state(old, PF_STATE_MOVING, 0);
    pf_full_fence();
    uint32_t tail = pf_load_acquire(&old->c2b->sq_tail);
    uint32_t limit = old->session->layout.sq_depth;
    while (!old->session->dying && !old->session->doomed && limit-- > 0 &&
           (int32_t)(tail - old->sq_head) > 0 && pf_dispatch_one(old)) {
    }
}

static const struct pf_ticket *find_ticket(const struct pf_session *session, uint64_t id) {
    for (uint32_t i = session->ticket_count; i-- > 0;) {
        if (session->tickets[i].id == id) {
            return &session->tickets[i];
        }
    }
    return NULL;
}

static struct pf_identity *of_ticket(struct pf_session *session, uint64_t id) {
    const struct pf_ticket *ticket = find_ticket(session, id);
    if (!ticket) {
        /* The client may use it before the stack thread has heard of it. */
        pf_commands_run(session->backend);
        ticket = find_ticket(session, id);
    }
    return ticket ? find(session->backend, ticket->number) : NULL;
}

/* What stands in the way of moving, or 0. */
static int obstacle(const struct pf_identity *identity, const struct pf_bsock *sock) {
    if (!identity || !identity->first || identity->first->phase == PF_SOCK_CLOSING) {
        return -EBADF;
    }
    int doomed = identity->first->session->doomed;
    if (doomed) { /* about to end: what it does not take along can be had in a moment */
        bool stays = doomed == PF_ENDED_CLOSED || identity->first->let_go;
        return stays ? -EAGAIN : -ECONNRESET;
    }
    for (const struct pf_bsock *own = identity->first; own; own = own->sharer_next) {
        if (own->session == sock->session && !own->let_go) {
            return -EALREADY; /* it is here */
        }
    }
    return 0;
}

/* The ends of clients that hold it may be under way: what concerns this socket comes first. */
static struct pf_identity *see_to_ends(struct pf_backend *backend, struct pf_identity *identity) {
    struct pf_bsock *sock;
    while (identity && (sock = identity->first) && !sock->let_go &&
           sock->phase != PF_SOCK_CLOSING && sock->session->finishing && sock->session->dying) {
        uint64_t number = identity->number;
        pf_session_finish_sock(sock);
        identity = find(backend, number);
    }
    return identity;
}

int pf_identity_adopt(struct pf_bsock *sock, uint64_t ticket, const struct pf_op *op) {
    struct pf_backend *backend = sock->session->backend;
    struct pf_identity *identity = see_to_ends(backend, of_ticket(sock->session, ticket));
    int bad = obstacle(identity, sock);
    if (bad) {
        return bad;
    }
    if (backend->claiming) {
        return -EAGAIN; /* inside another claim, which first has this client's submissions done */
    }
    struct pf_bsock *old = identity->first;
    uint64_t number = identity->number;
    bool listening = old->phase == PF_SOCK_LISTENING;
    bool shared = pf_identity_is_shared(old);
    if (!listening) {
        if (too_busy(old)) {
            return -EAGAIN;
        }
        backend->claiming = true;
        settle(old);
        backend->claiming = false;
    }
    /* What was submitted may have closed it, or more. */
    identity = find(backend, number);
    bad = obstacle(identity, sock);
    if (!bad && (identity->first != old || listening != (old->phase == PF_SOCK_LISTENING))) {
        bad = -EAGAIN;
    }
    if (bad) {
        if (identity && identity->first == old && !listening) {
            pf_sock_set_state(old, 0, PF_STATE_MOVING);
        }
        return bad;
    }
    if (!listening || old->let_go) {
        return move(identity, sock, op);
    }
    if (!shared) {
        pf_sharing_begin(old);
    }
    join(identity, sock);
    for (const struct pf_bsock *other = identity->first; other; other = other->sharer_next) {
        if (other->session->share_left > 0) {
            pf_sharing_claimed(other->session, sock, op);
            return 1;
        }
    }
    return 0;
}

/* ---- writes that were left behind ---- */

struct pf_bsock *pf_drains_pop(struct pf_bsock *sock) {
    struct pf_bsock *old = sock->drains_first;
    if (old) {
        sock->drains_first = old->drains_next;
        sock->drains_last = sock->drains_first ? sock->drains_last : NULL;
        old->draining = false;
        pf_ready_add(old, PF_WORK_CLOSE);
    }
    return old;
}

void pf_drains_fail(struct pf_bsock *sock, int error) {
    struct pf_bsock *old;
    while ((old = pf_drains_pop(sock))) {
        pf_ops_fail(old, &old->writes, PF_OP_WRITE, -error);
        old->writes_next = old->writes.tail;
    }
}
