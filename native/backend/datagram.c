/* Datagram sockets: each operation is over at once but the receive; what arrives is a record in the
 * client's receive ring, or, if that is full, dropped. */
#include <errno.h>
#include <string.h>

#include "backend/internal.h"

/* ---- the receive ring ---- */

static uint32_t record_bytes(uint32_t length) {
    return (uint32_t)sizeof(struct pf_datagram) + ((length + 7U) & ~7U);
}

static uint8_t *ring_of(const struct pf_bsock *sock) {
    const struct pf_session *session = sock->session;
    return session->b2c + session->layout.b2c_rx + (size_t)sock->slot * session->layout.rx_bytes;
}

/* The pieces of `length` bytes from position `at` on: how long the first is. */
static uint32_t first_piece(const struct pf_bsock *sock, uint32_t at, uint32_t length,
                            uint32_t *start) {
    *start = (at - sock->rx_base) & (sock->rx_bytes - 1);
    uint32_t left = sock->rx_bytes - *start;
    return length < left ? length : left;
}

static void put_record(struct pf_bsock *sock, const struct stk_packet *packet) {
    uint8_t *ring = ring_of(sock);
    uint32_t start;
    uint32_t head = sizeof(packet->header);
    uint32_t first = first_piece(sock, sock->rx_head, head, &start);
    memcpy(ring + start, &packet->header, first);
    memcpy(ring, (const uint8_t *)&packet->header + first, head - first);
    uint32_t length = packet->header.length;
    first = first_piece(sock, sock->rx_head + head, length, &start);
    stk_packet_copy(packet, 0, ring + start, first);
    stk_packet_copy(packet, first, ring, length - first);
}

/* Answers receive operations with the datagrams that are there, one each. */
void pf_dgram_answer(struct pf_bsock *sock) {
    struct pf_op *op;
    while ((op = pf_op_first(sock, &sock->recvs))) {
        uint32_t tail = pf_rx_tail(sock);
        if ((int32_t)(tail - sock->rx_assigned) > 0) {
            sock->rx_assigned = tail; /* the client took datagrams without an operation */
        }
        uint32_t available = sock->rx_head - sock->rx_assigned;
        struct pf_datagram header;
        if (available == 0) {
            if (sock->state & PF_STATE_EOF) {
                sock->recvs.head++;
                pf_post(sock, op, PF_OP_RECV, 0);
                continue;
            }
            return;
        }
        uint32_t start;
        uint32_t first = first_piece(sock, sock->rx_assigned, sizeof(header), &start);
        memcpy(&header, ring_of(sock) + start, first);
        memcpy((uint8_t *)&header + first, ring_of(sock), sizeof(header) - first);
        /* Only we write here; but where a record begins is what the client says it has read. */
        if (available < sizeof(header) || header.length > UINT16_MAX ||
            record_bytes(header.length) > available) {
            pf_session_violation(sock->session, "receive ring tail inside a datagram");
            return;
        }
        if (op->multishot && !pf_cq_room_for_more(sock, PF_WORK_LOOK)) {
            return;
        }
        sock->rx_assigned += record_bytes(header.length);
        sock->recvs.head += !op->multishot;
        pf_post_from(sock, op, header.length < op->length ? header.length : op->length,
                     &header.source);
    }
}

/* ---- what an application keeps unread, over all its sockets ---- */

/* Of other sockets that are counted anew before one datagram is dropped. */
enum { RECOUNT_MOST = 16 };

static void set_kept(struct pf_bsock *sock, uint32_t bytes) {
    stk_account_datagrams(sock->session->account, (int64_t)bytes - (int64_t)sock->kept);
    sock->kept = bytes;
}

void pf_dgram_forget(struct pf_bsock *sock) { set_kept(sock, 0); }

/* A client that reads tells nobody: a socket's count is of when its last datagram came. */
static void recount(struct pf_session *session) {
    uint32_t slots = pf_session_slots(session);
    for (uint32_t i = 0; i < RECOUNT_MOST && i < slots; i++) {
        session->kept_slot = session->kept_slot + 1 < slots ? session->kept_slot + 1 : 0;
        struct pf_bsock *sock = pf_session_slot(session, session->kept_slot);
        if (sock->kept) {
            set_kept(sock, sock->rx_head - pf_rx_tail(sock));
        }
    }
}

/* It is the user who keeps too much, perhaps: one of its other applications in turn. */
static void recount_another(const struct pf_session *session) {
    struct pf_backend *backend = session->backend;
    uint32_t at = backend->recount_session++ % backend->session_count;
    struct pf_session *other = backend->sessions[at];
    if (other != session && other->granted.uid == session->granted.uid) {
        recount(other);
    }
}

/* The ring has no room, or the application keeps its share already, and this socket more than any
 * may. */
static bool is_full(struct pf_bsock *sock, uint32_t unread, uint32_t bytes) {
    const struct stk_account *account = sock->session->account;
    if (sock->rx_bytes - unread < bytes) {
        return true;
    }
    set_kept(sock, unread);
    if (unread < PF_LEAST_WINDOW || !stk_account_datagrams_full(account, bytes)) {
        return false;
    }
    recount(sock->session);
    recount_another(sock->session);
    return stk_account_datagrams_full(account, bytes);
}

void pf_dgram_arrived(void *owner, const struct stk_packet *packet) {
    struct pf_bsock *sock = owner;
    uint32_t tail = pf_rx_tail(sock);
    uint32_t bytes = record_bytes(packet->header.length);
    if (is_full(sock, sock->rx_head - tail, bytes)) {
        uint64_t *all = &sock->session->backend->public_region->datagrams_dropped;
        pf_store_relaxed(&sock->b2c->rx_dropped, sock->b2c->rx_dropped + 1);
        pf_store64_relaxed(all, *all + 1);
        return;
    }
    if (tail == sock->rx_head && sock->rx_base != sock->rx_head) {
        /* As for bytes: empty, so start again where the memory is warm. */
        sock->rx_base = sock->rx_head;
        pf_store_relaxed(&sock->b2c->rx_base, sock->rx_base);
    }
    put_record(sock, packet);
    sock->rx_head += bytes;
    set_kept(sock, sock->rx_head - tail);
    pf_store_release(&sock->b2c->rx_head, sock->rx_head);
    pf_wake(sock);
    pf_dgram_answer(sock);
}

/* Told once, to whoever comes first: a receive that waits, else the program's next call. */
void pf_dgram_failed(void *owner, int error) {
    struct pf_bsock *sock = owner;
    struct pf_op *op = pf_op_first(sock, &sock->recvs);
    if (op) {
        sock->recvs.head++;
        pf_post(sock, op, PF_OP_RECV, -error);
        return;
    }
    pf_store_relaxed((uint32_t *)&sock->b2c->error, (uint32_t)error);
    pf_store_release(&sock->b2c->accepts, sock->b2c->accepts + 1);
    pf_wake(sock);
}

/* ---- moving ---- */

static void copy_record(const struct pf_bsock *old, uint32_t from, struct pf_bsock *sock,
                        uint32_t bytes) {
    for (uint32_t done = 0; done < bytes;) {
        uint32_t source;
        uint32_t target;
        uint32_t piece = first_piece(old, from + done, bytes - done, &source);
        piece = first_piece(sock, sock->rx_head + done, piece, &target);
        memcpy(ring_of(sock) + target, ring_of(old) + source, piece);
        done += piece;
    }
    sock->rx_head += bytes;
}

/* Whoever lies about where it is loses the rest: a record must begin there. */
static void pass_records(const struct pf_bsock *old, struct pf_bsock *sock, uint32_t tail) {
    uint32_t room = sock->rx_bytes;
    while (old->rx_head - tail >= sizeof(struct pf_datagram)) {
        struct pf_datagram header;
        uint32_t start;
        uint32_t first = first_piece(old, tail, sizeof(header), &start);
        memcpy(&header, ring_of(old) + start, first);
        memcpy((uint8_t *)&header + first, ring_of(old), sizeof(header) - first);
        if (header.length > UINT16_MAX || record_bytes(header.length) > old->rx_head - tail ||
            record_bytes(header.length) > room) {
            break;
        }
        copy_record(old, tail, sock, record_bytes(header.length));
        room -= record_bytes(header.length);
        tail += record_bytes(header.length);
    }
    pf_store_release(&sock->b2c->rx_head, sock->rx_head);
    set_kept(sock, sock->rx_bytes - room);
}

void pf_dgram_pass(struct pf_bsock *old, struct pf_bsock *sock, uint32_t tail) {
    sock->dgram = old->dgram;
    old->dgram = NULL;
    stk_udp_set_owner(sock->dgram, sock);
    stk_udp_set_account(sock->dgram, sock->session->account);
    (void)stk_udp_set_option(sock->dgram, PF_OPT_PRIORITY, sock->priority);
    sock->groups = old->groups;
    sock->session->groups += old->groups;
    old->session->groups -= old->groups;
    old->groups = 0;
    if (old->b2c->accepts != pf_load_acquire(&old->c2b->accepts_taken)) {
        sock->b2c->error = old->b2c->error; /* nobody was told of it yet */
        pf_store_release(&sock->b2c->accepts, sock->b2c->accepts + 1);
    }
    pass_records(old, sock, tail);
    set_kept(old, 0);
    uint32_t kept = PF_STATE_CONNECTED | PF_STATE_TX_CLOSED | PF_STATE_EOF | PF_STATE_RAW;
    pf_sock_set_state(sock, (old->state & kept) | PF_STATE_DATAGRAM, 0);
}

/* ---- operations ---- */

static int make(struct pf_bsock *sock, const struct pf_sqe *sqe, struct stk_dgram **dgram) {
    uint32_t user = sock->session->granted.uid;
    switch (sqe->offset) {
    case PF_KIND_PING:
        return stk_ping_open(sqe->flags, sock->priority, user, sock, dgram);
    case PF_KIND_RAW:
        if (!sock->session->granted.raw) {
            return -EPERM;
        }
        if (!stk_account_may_have_raw(sock->session->account, sqe->flags)) {
            return -ENOBUFS;
        }
        return stk_raw_open(sqe->flags, sock->priority, user, sock, dgram);
    default:
        return stk_udp_open(sqe->flags, sock->priority, user, sock, dgram);
    }
}

int pf_dgram_open(struct pf_bsock *sock, const struct pf_sqe *sqe) {
    struct pf_session *session = sock->session;
    struct stk_dgram *dgram = NULL;
    uint32_t bytes = sqe->length;
    int error = 0;
    if (sqe->flags != PF_FAMILY_IPV4 && sqe->flags != PF_FAMILY_IPV6) {
        error = -EAFNOSUPPORT;
    } else if (bytes && (!pf_is_power_of_two(bytes) || bytes < PF_MIN_RX_BYTES ||
                         bytes > session->layout.rx_bytes)) {
        error = -EINVAL;
        bytes = 0;
    } else if (!stk_account_has_room(session->account)) {
        error = -ENOBUFS;
    } else {
        error = make(sock, sqe, &dgram);
    }
    if (dgram) {
        stk_udp_set_account(dgram, session->account);
    }
    int started = pf_sock_start(sock, sqe->generation, bytes, 0);
    if (started != 0) {
        if (dgram) {
            stk_udp_close(dgram);
        }
        return started;
    }
    if (error) { /* operations already queued behind the open get its error */
        pf_sock_uncount(sock);
        pf_sock_broken(sock, -error);
        return error;
    }
    sock->dgram = dgram;
    if (sqe->offset == PF_KIND_RAW) {
        pf_sock_names(sock); /* the protocol is its port, from the start */
        pf_sock_set_state(sock, PF_STATE_RAW, 0);
    }
    return 0;
}

int pf_dgram_bind(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    (void)op;
    if (sqe->addr.family != sock->family) {
        return -EAFNOSUPPORT;
    }
    int result = stk_udp_bind(sock->dgram, &sqe->addr);
    if (result == 0) {
        sock->bound = true;
        pf_sock_names(sock);
    }
    return result;
}

int pf_dgram_connect(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    (void)op;
    if (sqe->addr.family == PF_FAMILY_NONE) {
        sock->bound = stk_udp_disconnect(sock->dgram);
        pf_sock_names(sock);
        pf_sock_set_state(sock, 0, PF_STATE_CONNECTED);
        return 0;
    }
    if (sqe->addr.family != sock->family) {
        return -EAFNOSUPPORT;
    }
    int result = stk_udp_connect(sock->dgram, &sqe->addr);
    if (result == 0) {
        sock->bound = true;
        pf_sock_names(sock);
        pf_sock_set_state(sock, PF_STATE_CONNECTED, 0);
    }
    return result;
}

int pf_dgram_sendto(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    struct pf_session *session = sock->session;
    uint64_t arena = session->layout.arena_bytes;
    if (sqe->length > UINT16_MAX || sqe->length > arena || sqe->offset > arena - sqe->length) {
        pf_session_violation(session, "write outside of the send arena");
        return -EFAULT;
    }
    bool to_peer = sqe->addr.family == PF_FAMILY_NONE;
    if (!to_peer && sqe->addr.family != sock->family) {
        return -EAFNOSUPPORT;
    }
    if (sock->state & PF_STATE_TX_CLOSED) {
        return -EPIPE;
    }
    int result = stk_udp_send(sock->dgram, to_peer ? NULL : &sqe->addr,
                              session->c2b + session->layout.c2b_arena + sqe->offset, sqe->length,
                              sqe->token);
    if (!sock->bound && result == 0) {
        sock->bound = true;
        pf_sock_names(sock);
    }
    pf_post(sock, op, PF_OP_SENDTO, result < 0 ? result : (int64_t)sqe->length);
    return PF_OP_PENDING;
}

int pf_dgram_recv(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    if (sqe->length == 0) {
        return -EINVAL;
    }
    int bad = pf_recv_push(sock, sqe, op);
    if (bad != 0) {
        return bad;
    }
    pf_dgram_answer(sock);
    return PF_OP_PENDING;
}

/* As the kernel has it: of an unconnected socket it fails, and takes effect all the same. */
int pf_dgram_shutdown(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    (void)op;
    if ((sqe->flags & ~(PF_SHUT_READ | PF_SHUT_WRITE)) != 0 || sqe->flags == 0) {
        return -EINVAL;
    }
    int result = sock->state & PF_STATE_CONNECTED ? 0 : -ENOTCONN;
    if (sqe->flags & PF_SHUT_WRITE) {
        pf_sock_set_state(sock, PF_STATE_TX_CLOSED, 0);
    }
    if (sqe->flags & PF_SHUT_READ) {
        pf_sock_set_state(sock, PF_STATE_EOF, 0);
        pf_dgram_answer(sock);
    }
    return result;
}

int pf_dgram_group(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    struct pf_session *session = sock->session;
    bool join = sqe->flags == PF_GROUP_JOIN;
    (void)op;
    if (sqe->flags > PF_GROUP_JOIN || sqe->token > UINT32_MAX) {
        return -EINVAL;
    }
    if (join && session->groups == PF_MAX_GROUPS) {
        return -ENOBUFS;
    }
    int result = stk_udp_group(sock->dgram, join, &sqe->addr, (uint32_t)sqe->token,
                               (const uint8_t *)&sqe->offset);
    if (result == 0) {
        sock->groups = join ? sock->groups + 1 : sock->groups - 1;
        session->groups = join ? session->groups + 1 : session->groups - 1;
    }
    return result;
}

int pf_dgram_unsupported(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    (void)sock;
    (void)sqe;
    (void)op;
    return -EOPNOTSUPP;
}
