/* Bytes and connections between the stack and the client's rings. */
#include <errno.h>
#include <string.h>

#include "backend/identity.h"
#include "backend/internal.h"

/* ---- sending ---- */

/* Counts acknowledged bytes as far as they are of this slot; returns the rest. */
static uint32_t complete_writes(struct pf_bsock *sock, uint32_t bytes) {
    /* The FIN counts one byte in the stack's bookkeeping. */
    uint64_t unacked = sock->tx_written - sock->tx_acked;
    uint32_t own = bytes < unacked ? bytes : (uint32_t)unacked;
    sock->tx_acked += own;
    struct pf_op *op;
    while (sock->writes.head != sock->writes_next && (op = pf_op_first(sock, &sock->writes)) &&
           op->end <= sock->tx_acked) {
        sock->writes.head++;
        pf_post_written(sock, op);
    }
    return bytes - own;
}

/* TCP_CORK: how many of the queued bytes fill whole segments, with what is unsent already; all of
 * them when the rest has waited for its time, or the end of the stream follows. */
static uint64_t uncorked_bytes(struct pf_bsock *sock, const struct stk_conn *conn) {
    uint32_t depth = sock->session->layout.cq_depth;
    uint64_t now = sock->session->backend->now_ns;
    uint64_t queued = 0;
    for (uint32_t i = sock->writes_next; i != sock->writes.tail; i++) {
        queued += sock->writes.ops[i & (depth - 1)].length;
    }
    queued -= sock->writes_done;
    uint64_t unsent = stk_tcp_unsent(conn);
    uint64_t part = (unsent + queued) % stk_tcp_segment(conn);
    if (part == 0 || part > queued || sock->tx_finish) {
        sock->cork_ns = 0;
        return UINT64_MAX;
    }
    if (sock->cork_ns == 0) {
        sock->cork_ns = now;
    } else if (now - sock->cork_ns >= PF_CORK_NS) {
        sock->cork_ns = 0;
        return UINT64_MAX;
    }
    return queued - part;
}

/* Hands writes of a slot to the stack, while little is unsent there. -ENOMEM: stalled. */
static int hand_over(struct pf_bsock *sock, struct stk_conn *conn) {
    struct pf_session *session = sock->session;
    const uint8_t *arena = session->c2b + session->layout.c2b_arena;
    uint32_t depth = session->layout.cq_depth;
    uint64_t allowed = sock->corked ? uncorked_bytes(sock, conn) : UINT64_MAX;
    while (sock->writes_next != sock->writes.tail && allowed > 0) {
        struct pf_op *op = &sock->writes.ops[sock->writes_next & (depth - 1)];
        if (op->length == 0) { /* PF_OP_DRAIN */
            op->end = sock->tx_written;
            sock->writes_next++;
            (void)complete_writes(sock, 0);
            continue;
        }
        uint32_t unsent = stk_tcp_unsent(conn);
        if (unsent >= PF_TX_QUANTUM) {
            break; /* the acknowledgement of what is unsent brings us back */
        }
        if (op->deadline_ns && op->deadline_ns <= session->backend->now_ns &&
            sock->writes_done == 0) {
            pf_ready_add(sock, PF_WORK_EXPIRE); /* too late: dropped whole, in a step of its own */
            break;
        }
        uint32_t left = op->length - sock->writes_done;
        uint32_t piece = left < PF_TX_QUANTUM - unsent ? left : PF_TX_QUANTUM - unsent;
        piece = piece < allowed ? piece : (uint32_t)allowed;
        bool more = sock->writes_next + 1 != sock->writes.tail || piece < left;
        int64_t taken = stk_tcp_write(conn, arena + op->offset + sock->writes_done, piece, more);
        if (taken <= 0) {
            /* No room: the next acknowledgement brings us back. No memory, perhaps with nothing in
             * flight that could be acknowledged: the tick does. */
            return taken == -ENOMEM ? -ENOMEM : 0;
        }
        allowed -= sock->corked ? (uint64_t)taken : 0;
        sock->tx_written += (uint64_t)taken;
        sock->writes_done += (uint32_t)taken;
        if (sock->writes_done == op->length) {
            op->end = sock->tx_written;
            op->handed_ns = session->backend->now_ns;
            if (op->urgent) {
                stk_tcp_urgent(conn);
            }
            sock->writes_done = 0;
            sock->writes_next++;
        }
        if ((uint32_t)taken < piece) {
            break;
        }
    }
    return 0;
}

/* First what the slots that the connection was in before have left. True: all of it is with the
 * stack. */
static bool hand_over_drains(struct pf_bsock *sock) {
    for (struct pf_bsock *old = sock->drains_first; old; old = old->drains_next) {
        sock->tx_stalled = hand_over(old, sock->conn) != 0;
        if (old->writes_next != old->writes.tail) {
            return false;
        }
    }
    return true;
}

/* Hands queued writes to the stack, then has it send. */
void pf_tx_pump(struct pf_bsock *sock) {
    if (!sock->conn || (sock->phase != PF_SOCK_CONNECTED && sock->phase != PF_SOCK_CLOSING)) {
        return;
    }
    sock->tx_stalled = false;
    bool first = hand_over_drains(sock);
    if (first) {
        sock->tx_stalled = hand_over(sock, sock->conn) != 0;
    }
    if (first && sock->tx_finish && !sock->tx_finished && sock->writes_next == sock->writes.tail &&
        !sock->tx_stalled) {
        sock->tx_finished = stk_tcp_finish(sock->conn) == 0;
        sock->tx_stalled = !sock->tx_finished;
    }
    if (sock->tx_stalled || sock->cork_ns != 0) {
        pf_list_add(&sock->session->backend->stalled, &sock->stalled);
    }
    stk_tcp_push(sock->conn);
}

static void on_acknowledged(void *owner, uint32_t bytes) {
    struct pf_bsock *sock = owner;
    struct pf_bsock *old;
    while ((old = sock->drains_first)) {
        bytes = complete_writes(old, bytes);
        if (old->writes.head != old->writes.tail) {
            break;
        }
        (void)pf_drains_pop(sock);
    }
    (void)complete_writes(sock, bytes);
    /* A close lasts as long as its last bytes make progress. */
    sock->close_deadline_ns = sock->session->backend->now_ns + PF_ORPHAN_NS;
    pf_ready_add(sock, PF_WORK_TX | (sock->phase == PF_SOCK_CLOSING ? PF_WORK_CLOSE : 0U));
}

/* ---- receiving ---- */

uint32_t pf_rx_tail(struct pf_bsock *sock) {
    uint32_t tail = pf_load_acquire(&sock->c2b->rx_tail);
    if (sock->rx_head - tail > sock->rx_bytes) {
        pf_session_violation(sock->session, "receive ring tail out of range");
        return sock->rx_head - sock->rx_bytes; /* full: nothing more is written */
    }
    return tail;
}

/* Opens the window by what the client has consumed. */
void pf_rx_credit(struct pf_bsock *sock) {
    uint32_t tail = pf_rx_tail(sock);
    uint32_t consumed = tail - sock->rx_credited;
    if (consumed == 0 || consumed > sock->rx_head - sock->rx_credited) {
        return;
    }
    sock->rx_credited = tail;
    if (sock->conn) {
        stk_tcp_credit(sock->conn, consumed);
        pf_sock_size_credit(sock);
    }
    if (sock->rx_head - tail < sock->credit_threshold &&
        (!sock->conn || stk_tcp_unread(sock->conn) == 0)) {
        pf_sock_set_state(sock, 0, PF_STATE_WANTS_HINT);
    }
}

int pf_recv_push(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    const struct pf_op *first = pf_op_first(sock, &sock->recvs);
    struct pf_op receive = *op;
    receive.multishot = (sqe->flags & PF_SQE_MULTISHOT) != 0;
    if (first && (first->multishot || receive.multishot)) {
        return -EALREADY; /* the multishot receive takes everything */
    }
    return pf_op_push(sock, &sock->recvs, &receive) ? 0 : -ENOMEM;
}

/* Answers receive operations with the bytes that are there. */
void pf_rx_answer(struct pf_bsock *sock) {
    struct pf_op *op;
    while ((op = pf_op_first(sock, &sock->recvs))) {
        uint32_t tail = pf_rx_tail(sock);
        if ((int32_t)(tail - sock->rx_assigned) > 0) {
            sock->rx_assigned = tail; /* the client took bytes without an operation */
        }
        uint32_t available = sock->rx_head - sock->rx_assigned;
        if (available > 0) {
            uint32_t count = op->length < available ? op->length : available;
            if (op->multishot && !pf_cq_room_for_more(sock, PF_WORK_LOOK)) {
                return;
            }
            sock->rx_assigned += count;
            sock->recvs.head += !op->multishot;
            pf_post_flagged(sock, op, PF_OP_RECV, count, op->multishot ? PF_CQE_MORE : 0);
        } else if (sock->state & PF_STATE_EOF) {
            sock->recvs.head++;
            pf_post(sock, op, PF_OP_RECV, 0);
        } else {
            return;
        }
    }
}

/* Moves received bytes into the client's ring, as far as there is room. */
void pf_rx_flush(struct pf_bsock *sock) {
    struct pf_session *session = sock->session;
    uint8_t *ring =
        session->b2c + session->layout.b2c_rx + (size_t)sock->slot * session->layout.rx_bytes;
    if (!sock->conn) {
        return;
    }
    uint32_t before = sock->rx_head;
    while (stk_tcp_unread(sock->conn) > 0) {
        uint32_t tail = pf_rx_tail(sock);
        if (tail == sock->rx_head && sock->rx_base != sock->rx_head) {
            /* Empty: start again at the beginning, where the memory is warm and already there. The
             * client reads the base only after it has seen a later head. */
            sock->rx_base = sock->rx_head;
            pf_store_relaxed(&sock->b2c->rx_base, sock->rx_base);
        }
        uint32_t room = sock->rx_bytes - (sock->rx_head - tail);
        uint32_t start = (sock->rx_head - sock->rx_base) & (sock->rx_bytes - 1);
        uint32_t piece = room < sock->rx_bytes - start ? room : sock->rx_bytes - start;
        if (piece == 0) {
            break;
        }
        sock->rx_head += stk_tcp_read(sock->conn, ring + start, piece);
        pf_store_release(&sock->b2c->rx_head, sock->rx_head);
    }
    if (sock->rx_head != before) {
        pf_wake(sock);
    }
    if (stk_tcp_at_end(sock->conn)) {
        pf_sock_set_state(sock, PF_STATE_EOF, 0);
    }
    pf_rx_credit(sock);
    if (sock->rx_head - sock->rx_credited >= sock->credit_threshold ||
        stk_tcp_unread(sock->conn) > 0) {
        if (!(sock->state & PF_STATE_WANTS_HINT)) {
            pf_sock_set_state(sock, PF_STATE_WANTS_HINT, 0);
            /* The client may have read everything just before it could see the flag. */
            pf_full_fence();
            pf_ready_add(sock, PF_WORK_LOOK);
        }
    }
    pf_rx_answer(sock);
    pf_sock_show_error(sock);
    if (sock->phase == PF_SOCK_CONNECTED && stk_tcp_gone(sock->conn)) {
        pf_sock_set_state(sock, 0, PF_STATE_CONNECTED);
    }
}

static void on_readable(void *owner) {
    struct pf_bsock *sock = owner;
    if (sock->phase == PF_SOCK_CLOSING) {
        if (stk_tcp_unread(sock->conn) > 0 && !sock->rx_shut) {
            pf_ready_add(sock, PF_WORK_ABORT | PF_WORK_CLOSE);
        } else {
            pf_ready_add(sock, PF_WORK_CLOSE);
        }
        return;
    }
    if (sock->rx_shut && sock->tx_finish && stk_tcp_unread(sock->conn) > 0) {
        /* As Linux does: both directions were shut, and the peer has to know that nobody reads. */
        pf_ready_add(sock, PF_WORK_ABORT | PF_WORK_CLOSE);
        return;
    }
    pf_rx_flush(sock);
}

/* ---- connections ---- */

static void on_connected(void *owner) {
    struct pf_bsock *sock = owner;
    if (sock->phase != PF_SOCK_CONNECTING) {
        return;
    }
    sock->phase = PF_SOCK_CONNECTED;
    pf_sock_size_credit(sock);
    pf_sock_names(sock);
    pf_sock_set_state(sock, PF_STATE_CONNECTED, 0);
    struct pf_op done = sock->connect_op;
    sock->connect_op.op_id = 0;
    if (done.op_id) {
        pf_post(sock, &done, PF_OP_CONNECT, 0);
    }
    pf_ready_add(sock, PF_WORK_TX);
}

static void on_acceptable(void *owner) {
    struct pf_bsock *sock = owner;
    if (pf_identity_is_shared(sock)) {
        sock->identity->arrived = true;
    }
    pf_ready_add(sock, PF_WORK_ACCEPT);
}

static void on_failed(void *owner, int error) {
    struct pf_bsock *sock = owner;
    if (error != 0) {
        pf_sock_broken(sock, error);
    } else if (sock->phase == PF_SOCK_CLOSING) {
        pf_ready_add(sock, PF_WORK_CLOSE);
    } else {
        pf_rx_flush(sock);
    }
}

/* Reports waiting connections to waiting accepts, as long as the CQ has room. */
static void report(struct pf_bsock *sock) {
    struct pf_op *op;
    while ((op = pf_op_first(sock, &sock->accepts)) && stk_tcp_acceptable(sock->conn)) {
        if ((sock->multishot && !pf_cq_takes_more(sock)) ||
            sock->session->unadopted_count == PF_MAX_UNADOPTED) {
            if (sock->session->unadopted_count == PF_MAX_UNADOPTED) {
                pf_list_add(&sock->session->crowded, &sock->crowded);
            }
            if (!(sock->state & PF_STATE_WANTS_HINT)) {
                pf_sock_set_state(sock, PF_STATE_WANTS_HINT, 0);
                /* The client may have reaped everything just before it could see the flag. */
                pf_full_fence();
                pf_ready_add(sock, PF_WORK_ACCEPT);
            }
            return;
        }
        struct pf_addr local;
        struct pf_addr peer;
        struct stk_conn *conn = stk_tcp_accept(sock->conn);
        stk_tcp_names(conn, &local, &peer);
        uint64_t token = pf_session_hold(sock, conn);
        if (!sock->multishot) {
            sock->accepts.head++;
        }
        (void)pf_post_accept(sock, op, token, &peer, sock->multishot);
    }
    pf_sock_set_state(sock, 0, PF_STATE_WANTS_HINT);
}

void pf_accept_report(struct pf_bsock *sock) {
    pf_list_remove(&sock->crowded);
    if (sock->phase == PF_SOCK_LISTENING && pf_identity_is_shared(sock)) {
        pf_identity_report(sock);
    } else if (sock->phase == PF_SOCK_LISTENING) {
        report(sock);
    }
    pf_session_pass_room(sock->session); /* what this one does not need */
}

const struct stk_events pf_stack_events = {
    .connected = on_connected,
    .acceptable = on_acceptable,
    .readable = on_readable,
    .acknowledged = on_acknowledged,
    .failed = on_failed,
    .datagram = pf_dgram_arrived,
    .datagram_failed = pf_dgram_failed,
};
