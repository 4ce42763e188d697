/* The life of one socket slot: from the open to the last completion. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backend/identity.h"
#include "backend/internal.h"

bool pf_op_push(struct pf_bsock *sock, struct pf_op_queue *queue, const struct pf_op *op) {
    uint32_t depth = sock->session->layout.cq_depth;
    if (!queue->ops) {
        queue->ops = calloc(depth, sizeof(*queue->ops));
        if (!queue->ops) {
            return false;
        }
    }
    queue->ops[queue->tail & (depth - 1)] = *op;
    queue->tail++;
    return true;
}

struct pf_op *pf_op_first(const struct pf_bsock *sock, const struct pf_op_queue *queue) {
    if (queue->head == queue->tail) {
        return NULL;
    }
    return &queue->ops[queue->head & (sock->session->layout.cq_depth - 1)];
}

void pf_ops_fail(struct pf_bsock *sock, struct pf_op_queue *queue, int opcode, int result) {
    struct pf_op *op;
    if (sock->session->dying) { /* nobody reads completions any more, and there may be thousands */
        sock->inflight -= queue->tail - queue->head;
        queue->head = queue->tail;
        return;
    }
    while ((op = pf_op_first(sock, queue))) {
        queue->head++;
        pf_post(sock, op, opcode, result);
    }
}

void pf_sock_set_state(struct pf_bsock *sock, uint32_t set, uint32_t clear) {
    uint32_t state = (sock->state | set) & ~clear;
    if (state != sock->state) {
        sock->state = state;
        pf_store_release(&sock->b2c->state, state);
        pf_wake(sock);
    }
}

void pf_sock_names(struct pf_bsock *sock) {
    struct pf_addr local;
    struct pf_addr peer;
    if (sock->dgram) {
        stk_udp_names(sock->dgram, &local, &peer);
    } else {
        stk_tcp_names(sock->conn, &local, &peer);
    }
    sock->b2c->local = local;
    sock->b2c->peer = peer;
}

/* Everything that belongs to one generation back to its start; the indices of the rings run on. */
void pf_sock_reset_slot(struct pf_bsock *sock) {
    sock->conn = NULL;
    sock->dgram = NULL;
    sock->phase = PF_SOCK_NONE;
    sock->v6only = false;
    sock->bound = false;
    sock->port_chosen = false;
    sock->multishot = false;
    sock->chain = 0;
    sock->held_head = 0;
    sock->held_tail = 0;
    sock->tx_finish = false;
    sock->tx_finished = false;
    sock->rx_shut = false;
    sock->tx_stalled = false;
    sock->mirror_eof = false;
    sock->corked = false;
    sock->cork_ns = 0;
    sock->work = 0;
    sock->error = 0;
    sock->tx_written = 0;
    sock->tx_acked = 0;
    sock->writes_done = 0;
    sock->writes_next = sock->writes.tail;
    sock->connect_op.op_id = 0;
    sock->close_op.op_id = 0;
    sock->mirror_fd = -1;
    sock->let_go = false;
    sock->close_abort = false;
    sock->moved_identity = 0;
    sock->shared_order = 0;
    pf_list_remove(&sock->stalled);
    pf_list_remove(&sock->crowded);
    pf_list_remove(&sock->claimed);
    pf_list_remove(&sock->closing);
}

int pf_sock_start(struct pf_bsock *sock, uint32_t generation, uint32_t rx_bytes, uint32_t state) {
    uint32_t limit = sock->session->layout.rx_bytes;
    if (rx_bytes == 0) {
        rx_bytes = limit;
    }
    if (!pf_is_power_of_two(rx_bytes) || rx_bytes < PF_MIN_RX_BYTES || rx_bytes > limit) {
        return -EINVAL;
    }
    if (pf_load_acquire(&sock->c2b->rx_tail) != sock->rx_head) {
        pf_session_violation(sock->session, "receive ring of a new socket is not empty");
        return -EPROTO;
    }
    sock->generation = generation;
    sock->phase = PF_SOCK_OPEN;
    sock->rx_bytes = rx_bytes;
    sock->credit_threshold = PF_CREDIT_THRESHOLD;
    sock->rx_assigned = sock->rx_head;
    sock->rx_credited = sock->rx_head;
    sock->rx_base = sock->rx_head;
    sock->blocks_back = 0;
    struct pf_socket_b2c *b2c = sock->b2c;
    b2c->rx_base = sock->rx_base;
    b2c->rx_bytes = rx_bytes;
    b2c->error = 0;
    b2c->priority = sock->priority;
    if (state & PF_STATE_CONNECTED) {
        pf_sock_names(sock);
    } else {
        memset(&b2c->local, 0, sizeof(b2c->local));
        memset(&b2c->peer, 0, sizeof(b2c->peer));
    }
    sock->state = PF_STATE_OPEN | state;
    pf_store_relaxed(&b2c->state, sock->state);
    /* Last: a client that sees its generation believes the rest. */
    pf_store_release(&b2c->generation, generation);
    pf_wake(sock);
    sock->session->live_socks++;
    sock->session->backend->sockets++;
    stk_account_socket(sock->session->account, true);
    sock->counted = true;
    return 0;
}

void pf_sock_uncount(struct pf_bsock *sock) {
    if (sock->counted) {
        sock->counted = false;
        stk_account_socket(sock->session->account, false);
    }
}

/* A multishot receive waits for room in the CQ to tell of bytes that are there. */
static bool receive_stopped(const struct pf_bsock *sock) {
    const struct pf_op *op = pf_op_first(sock, &sock->recvs);
    return op && op->multishot && sock->rx_head != sock->rx_assigned;
}

void pf_sock_show_error(struct pf_bsock *sock) {
    if (sock->error == 0 ||
        (sock->conn && (stk_tcp_unread(sock->conn) > 0 || receive_stopped(sock)))) {
        return;
    }
    sock->b2c->error = sock->error;
    pf_sock_set_state(sock, PF_STATE_ERROR, PF_STATE_CONNECTED | PF_STATE_WANTS_HINT);
    pf_ops_fail(sock, &sock->recvs, PF_OP_RECV, -sock->error);
}

void pf_sock_broken(struct pf_bsock *sock, int error) {
    struct pf_op *op = &sock->connect_op;
    if (error == ECONNRESET && sock->conn && stk_tcp_at_end(sock->conn) && !sock->tx_finish) {
        error = EPIPE; /* the peer had said that it would send no more: its reset is about ours */
    }
    sock->error = error;
    if (sock->phase != PF_SOCK_CLOSING) {
        sock->phase = PF_SOCK_BROKEN;
    }
    if (op->op_id) {
        struct pf_op done = *op;
        op->op_id = 0;
        pf_post(sock, &done, PF_OP_CONNECT, -error);
    }
    pf_drains_fail(sock, error);
    pf_ops_fail(sock, &sock->writes, PF_OP_WRITE, -error);
    sock->writes_next = sock->writes.tail;
    sock->writes_done = 0;
    pf_sock_show_error(sock);
    if (!(sock->state & PF_STATE_ERROR)) {
        pf_sock_set_state(sock, PF_STATE_TX_CLOSED, 0); /* who only writes must find out, too */
    }
    if (sock->phase == PF_SOCK_CLOSING) {
        pf_ready_add(sock, PF_WORK_CLOSE);
    }
}

void pf_sock_begin_close(struct pf_bsock *sock, bool abort) {
    struct pf_op *op = &sock->connect_op;
    if (sock->phase == PF_SOCK_MOVED) {
        if (!sock->let_go) {
            sock->let_go = true;
            /* It may have emptied the mirror of what another one waits for. */
            pf_identity_refresh(sock->session->backend, sock->moved_identity);
        }
        pf_ready_add(sock, PF_WORK_CLOSE);
        return;
    }
    (void)pf_chain_drop(sock, -ECANCELED);
    if (op->op_id) {
        struct pf_op done = *op;
        op->op_id = 0;
        pf_post(sock, &done, PF_OP_CONNECT, -ECANCELED);
    }
    pf_ops_fail(sock, &sock->recvs, PF_OP_RECV, -ECANCELED);
    pf_ops_fail(sock, &sock->accepts, PF_OP_ACCEPT, -ECANCELED);
    enum pf_sock_phase phase = sock->phase;
    if (phase == PF_SOCK_LISTENING) {
        pf_session_drop_accepts(sock);
    }
    sock->phase = PF_SOCK_CLOSING;
    if (sock->dgram) { /* nothing in the stack refers to the client's memory */
        stk_udp_close(sock->dgram);
        sock->dgram = NULL;
        sock->session->groups -= sock->groups;
        sock->groups = 0;
    }
    sock->close_deadline_ns = sock->session->backend->now_ns + PF_ORPHAN_NS;
    if (sock->conn && phase == PF_SOCK_CONNECTED && !abort) {
        /* Linux resets a connection that is closed with unread bytes: the peer must not believe
         * that they were read. */
        bool unread =
            sock->rx_head != pf_load_acquire(&sock->c2b->rx_tail) || stk_tcp_unread(sock->conn) > 0;
        if (!unread) {
            sock->tx_finish = true;
            pf_list_add(&sock->session->backend->closing, &sock->closing);
            pf_ready_add(sock, PF_WORK_TX | PF_WORK_CLOSE);
            return;
        }
    }
    if (sock->conn) {
        struct stk_conn *conn = sock->conn;
        sock->conn = NULL;
        if (phase == PF_SOCK_CONNECTED) {
            stk_tcp_abort(conn);
        } else {
            stk_tcp_close(conn); /* a listener, or one that never was connected */
        }
    }
    pf_drains_fail(sock, ECONNRESET);
    pf_ops_fail(sock, &sock->writes, PF_OP_WRITE, -ECONNRESET);
    sock->writes_next = sock->writes.tail;
    pf_ready_add(sock, PF_WORK_CLOSE);
}

/* Ends the close when nothing of the connection refers to the client's memory any more. */
void pf_sock_check_close(struct pf_bsock *sock) {
    if (sock->phase == PF_SOCK_CONNECTED && sock->conn && sock->work & PF_WORK_ABORT) {
        struct stk_conn *conn = sock->conn;
        sock->conn = NULL;
        sock->work &= ~(uint32_t)PF_WORK_ABORT;
        stk_tcp_abort(conn);
        pf_sock_broken(sock, ECONNRESET);
        return;
    }
    if (sock->phase == PF_SOCK_MOVED && sock->let_go && !sock->draining) {
        pf_sock_free(sock);
        return;
    }
    if (sock->phase != PF_SOCK_CLOSING) {
        return;
    }
    if (sock->conn && sock->work & PF_WORK_ABORT) {
        struct stk_conn *conn = sock->conn;
        sock->conn = NULL;
        stk_tcp_abort(conn);
        pf_drains_fail(sock, ECONNRESET);
        pf_ops_fail(sock, &sock->writes, PF_OP_WRITE, -ECONNRESET);
        sock->writes_next = sock->writes.tail;
    }
    if (sock->conn) {
        if (!sock->error && (!sock->tx_finished || !stk_tcp_drained(sock->conn))) {
            return;
        }
        stk_tcp_close(sock->conn);
        sock->conn = NULL;
    }
    pf_sock_free(sock);
}

void pf_sock_free(struct pf_bsock *sock) {
    struct pf_backend *backend = sock->session->backend;
    (void)pf_chain_drop(sock, -ECANCELED);
    pf_deadline_disarm(sock);
    pf_ready_remove(sock);
    struct pf_op close_op = sock->close_op;
    pf_ops_fail(sock, &sock->writes, PF_OP_WRITE, -ECONNRESET);
    pf_ops_fail(sock, &sock->recvs, PF_OP_RECV, -ECANCELED);
    pf_ops_fail(sock, &sock->accepts, PF_OP_ACCEPT, -ECANCELED);
    pf_sock_set_state(sock, 0, UINT32_MAX);
    pf_identity_leave(sock);
    pf_drains_fail(sock, ECONNRESET);
    pf_sock_reset_slot(sock);
    free(sock->writes.ops);
    free(sock->recvs.ops);
    free(sock->accepts.ops);
    free(sock->held);
    sock->held = NULL;
    memset(&sock->writes, 0, sizeof(sock->writes));
    memset(&sock->recvs, 0, sizeof(sock->recvs));
    memset(&sock->accepts, 0, sizeof(sock->accepts));
    sock->writes_next = 0;
    sock->session->live_socks--;
    backend->sockets--;
    pf_dgram_forget(sock);
    pf_sock_uncount(sock);
    if (close_op.op_id) {
        pf_post(sock, &close_op, PF_OP_CLOSE, 0);
    }
    pf_wake(sock);
}
