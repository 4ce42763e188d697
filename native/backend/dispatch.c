/* Submissions: copied once, checked, then acted on. One table says what each operation is. */
#include <errno.h>
#include <unistd.h>

#include "backend/identity.h"
#include "backend/internal.h"

/* Returns PENDING when the operation completes later; otherwise its result, 0 or -errno. */
#define PENDING PF_OP_PENDING
typedef int (*pf_handler)(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op);

static bool addr_valid(const struct pf_addr *addr) {
    return addr->family == PF_FAMILY_IPV4 || addr->family == PF_FAMILY_IPV6;
}

void pf_sock_set_priority(struct pf_bsock *sock, uint64_t wanted) {
    uint32_t best = sock->session->granted.best_priority;
    uint8_t priority = wanted < PF_PRIORITIES ? (uint8_t)wanted : PF_PRIORITY_LOW;
    bool ready = sock->ready;
    pf_ready_remove(sock); /* the rings are by priority */
    sock->priority = priority < best ? (uint8_t)best : priority;
    if (ready) {
        pf_ready_add(sock, 0);
    }
}

/* A connection from the stack or out of an accept; on failure the slot holds a broken socket, so
 * that operations already queued behind the open get its error. */
static int start(struct pf_bsock *sock, const struct pf_sqe *sqe, struct stk_conn *conn,
                 int error) {
    sock->conn = error ? NULL : conn;
    /* A client may act on an adopted socket at once: the first state it sees says connected, and
     * its names are there. */
    int started = pf_sock_start(sock, sqe->generation, 0,
                                sqe->opcode == PF_OP_ADOPT && !error ? PF_STATE_CONNECTED : 0);
    if (started != 0) {
        sock->conn = NULL;
        if (conn) {
            stk_tcp_abort(conn);
        }
        return started;
    }
    if (error) {
        pf_sock_uncount(sock);
        pf_sock_broken(sock, -error);
        return error;
    }
    return 0;
}

static int do_open(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    struct pf_session *session = sock->session;
    struct stk_conn *conn = NULL;
    int error = 0;
    (void)op;
    pf_sock_set_priority(sock, sqe->token);
    sock->family = sqe->flags;
    if (sqe->offset >= PF_KIND_DATAGRAM && sqe->offset <= PF_KIND_RAW) {
        return pf_dgram_open(sock, sqe);
    }
    if (sqe->offset != PF_KIND_STREAM) {
        error = -EPROTONOSUPPORT;
    } else if (sqe->flags != PF_FAMILY_IPV4 && sqe->flags != PF_FAMILY_IPV6) {
        error = -EAFNOSUPPORT;
    } else if (!stk_account_has_room(session->account)) {
        error = -ENOBUFS;
    } else {
        error = stk_tcp_open(sqe->flags, sock->priority, sock, &conn);
        if (error == 0) {
            stk_tcp_set_account(conn, session->account);
        }
    }
    int result = start(sock, sqe, conn, error);
    if (result == 0 && sqe->length) {
        uint32_t bytes = sqe->length;
        if (!pf_is_power_of_two(bytes) || bytes < PF_MIN_RX_BYTES || bytes > sock->rx_bytes) {
            stk_tcp_close(sock->conn);
            sock->conn = NULL;
            pf_sock_uncount(sock);
            pf_sock_broken(sock, EINVAL);
            return -EINVAL;
        }
        sock->rx_bytes = bytes;
        sock->b2c->rx_bytes = bytes;
    }
    return result;
}

static int adopt_by_ticket(struct pf_bsock *sock, const struct pf_sqe *sqe,
                           const struct pf_op *op) {
    int result = pf_sock_start(sock, sqe->generation, 0, 0);
    if (result != 0) {
        return result;
    }
    result = pf_identity_adopt(sock, sqe->token, op);
    if (result < 0) {
        pf_sock_uncount(sock);
        pf_sock_broken(sock, -result);
    }
    return result > 0 ? PENDING : result;
}

static int do_adopt(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    if (sqe->flags & PF_SQE_TICKET) {
        pf_sock_set_priority(sock, sqe->offset);
        return adopt_by_ticket(sock, sqe, op);
    }
    struct pf_session *session = sock->session;
    struct stk_conn *conn = pf_session_claim(session, sqe->token);
    pf_sock_set_priority(sock, sqe->offset);
    int result = start(sock, sqe, conn, conn ? 0 : -EINVAL);
    if (result != 0) {
        return result;
    }
    sock->phase = PF_SOCK_CONNECTED;
    sock->family = (uint8_t)sock->b2c->local.family;
    stk_tcp_set_owner(conn, sock);
    (void)stk_tcp_set_option(conn, PF_OPT_PRIORITY, sock->priority);
    pf_sock_size_credit(sock);
    pf_rx_flush(sock); /* what came before the adoption */
    if (stk_tcp_error(conn)) {
        /* Ended meanwhile: as with the kernel, its bytes are read first, then its error. */
        pf_sock_broken(sock, stk_tcp_error(conn));
    }
    return 0;
}

int pf_sock_reopen(struct pf_bsock *sock) {
    struct stk_conn *conn = NULL;
    struct pf_addr bound = sock->b2c->local;
    if (!sock->conn) {
        return -sock->error; /* it never was one: whoever may not have another gets none so */
    }
    int result = stk_tcp_open(sock->family, sock->priority, sock, &conn);
    if (result != 0) {
        return result;
    }
    stk_tcp_take_after(conn, sock->conn);
    stk_tcp_close(sock->conn);
    sock->conn = conn;
    sock->error = 0;
    sock->b2c->error = 0;
    sock->tx_finish = false;
    sock->tx_finished = false;
    sock->rx_shut = false;
    /* The new connection's stream and window have nothing to do with the old one's. */
    sock->tx_written = 0;
    sock->tx_acked = 0;
    sock->rx_credited = sock->rx_head;
    pf_sock_set_state(sock, 0, PF_STATE_ERROR | PF_STATE_EOF | PF_STATE_TX_CLOSED);
    sock->bound = sock->bound && sock->port_chosen;
    sock->phase = PF_SOCK_OPEN;
    if (sock->bound) {
        (void)stk_tcp_set_option(conn, PF_OPT_REUSEADDR, 1);
        result = stk_tcp_bind(conn, &bound);
        sock->bound = result == 0;
    }
    pf_sock_names(sock);
    return result;
}

static int do_bind(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    (void)op;
    int result = sock->phase == PF_SOCK_BROKEN ? pf_sock_reopen(sock) : 0;
    if (result != 0) {
        return result;
    }
    if (sock->phase != PF_SOCK_OPEN || sock->bound) {
        return -EINVAL;
    }
    if (!addr_valid(&sqe->addr) || sqe->addr.family != sock->family) {
        return -EAFNOSUPPORT;
    }
    result = stk_tcp_bind(sock->conn, &sqe->addr);
    if (result == 0) {
        sock->bound = true;
        sock->port_chosen = sqe->addr.port != 0;
        pf_sock_names(sock);
    }
    return result;
}

static int do_listen(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    (void)op;
    if (sock->phase == PF_SOCK_LISTENING) {
        return stk_tcp_listen(sock->conn, sqe->length);
    }
    int result = sock->phase == PF_SOCK_BROKEN ? pf_sock_reopen(sock) : 0;
    if (result != 0) {
        return result;
    }
    if (sock->phase != PF_SOCK_OPEN) {
        return -EINVAL;
    }
    if (!sock->bound) { /* as the kernel does: listen on an ephemeral port */
        struct pf_addr any = {.family = sock->family};
        result = stk_tcp_bind(sock->conn, &any);
        if (result != 0) {
            return result;
        }
        sock->bound = true;
    }
    result = stk_tcp_listen(sock->conn, sqe->length);
    if (result == 0) {
        sock->phase = PF_SOCK_LISTENING;
        pf_sock_names(sock);
        pf_sock_set_state(sock, PF_STATE_LISTENING, 0);
    }
    return result;
}

static int do_accept(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    if (sock->phase != PF_SOCK_LISTENING) {
        return -EINVAL;
    }
    if (sock->multishot && pf_op_first(sock, &sock->accepts)) {
        return -EALREADY; /* the multishot accept takes every connection */
    }
    if (sqe->flags & PF_SQE_MULTISHOT && pf_identity_is_shared(sock)) {
        return -ESTALE; /* the others would get none */
    }
    if (sqe->flags & PF_SQE_NOWAIT && !stk_tcp_acceptable(sock->conn)) {
        return -EAGAIN;
    }
    if (!pf_op_push(sock, &sock->accepts, op)) {
        return -ENOMEM;
    }
    if (sqe->flags & PF_SQE_MULTISHOT) {
        if (sock->accepts.tail - sock->accepts.head > 1) {
            sock->accepts.tail--;
            return -EALREADY;
        }
        sock->multishot = true;
    }
    uint32_t tail = sock->accepts.tail;
    pf_accept_report(sock);
    if (sqe->flags & PF_SQE_NOWAIT && sock->accepts.head != tail) {
        sock->accepts.tail--; /* others were first, or this client adopts too slowly */
        return -EAGAIN;
    }
    return PENDING;
}

static int do_connect(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    if (sock->phase == PF_SOCK_CONNECTED) {
        return -EISCONN;
    }
    if (sock->phase == PF_SOCK_CONNECTING) {
        return -EALREADY;
    }
    if (sock->phase == PF_SOCK_LISTENING) {
        return -EISCONN;
    }
    if (!addr_valid(&sqe->addr) || sqe->addr.family != sock->family) {
        return -EAFNOSUPPORT;
    }
    if (sock->phase == PF_SOCK_BROKEN) { /* a connect that failed may be tried again */
        int result = pf_sock_reopen(sock);
        if (result != 0) {
            return result;
        }
    }
    /* Before the call: over loopback nothing answers before it returns, but nothing may rely on it.
     */
    sock->phase = PF_SOCK_CONNECTING;
    sock->connect_op = *op;
    int result = stk_tcp_connect(sock->conn, &sqe->addr);
    if (result != 0) {
        sock->connect_op.op_id = 0;
        sock->phase = PF_SOCK_OPEN;
        return result;
    }
    pf_sock_names(sock);
    return PENDING;
}

static int do_write(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    uint64_t arena = sock->session->layout.arena_bytes;
    if (sqe->length == 0 || sqe->length > PF_MAX_WRITE_BYTES || sqe->length > arena ||
        sqe->offset > arena - sqe->length) {
        pf_session_violation(sock->session, "write outside of the send arena");
        return -EFAULT;
    }
    if (sock->phase == PF_SOCK_BROKEN) {
        return -sock->error;
    }
    if ((sock->phase != PF_SOCK_CONNECTED && sock->phase != PF_SOCK_CONNECTING) ||
        sock->tx_finish) {
        return -EPIPE;
    }
    struct pf_op write = *op;
    write.urgent = (sqe->flags & PF_SQE_URGENT) != 0;
    if (!pf_op_push(sock, &sock->writes, &write)) {
        return -ENOMEM;
    }
    pf_tx_pump(sock);
    return PENDING;
}

/* A write of nothing: it has its place among the others. */
static int do_drain(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    struct pf_op marker = *op;
    (void)sqe;
    if (sock->phase == PF_SOCK_BROKEN) {
        return -sock->error;
    }
    if (sock->phase != PF_SOCK_CONNECTED && sock->phase != PF_SOCK_CONNECTING) {
        return -ENOTCONN;
    }
    if (sock->writes.head == sock->writes.tail && !sock->drains_first) {
        return 0;
    }
    marker.length = 0;
    if (!pf_op_push(sock, &sock->writes, &marker)) {
        return -ENOMEM;
    }
    pf_tx_pump(sock);
    return PENDING;
}

static int do_recv(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    if (sqe->length == 0) {
        return -EINVAL;
    }
    if (sock->phase == PF_SOCK_BROKEN && sock->rx_head == sock->rx_assigned &&
        !(sock->state & PF_STATE_EOF)) {
        return -sock->error;
    }
    if (sock->phase != PF_SOCK_CONNECTED && sock->phase != PF_SOCK_BROKEN) {
        return -ENOTCONN;
    }
    int bad = pf_recv_push(sock, sqe, op);
    if (bad != 0) {
        return bad;
    }
    if (sock->conn) {
        pf_rx_flush(sock);
    }
    pf_rx_answer(sock);
    pf_sock_show_error(sock);
    return PENDING;
}

/* As on Linux: connections that wait are reset, and the socket may listen again. */
static int stop_listening(struct pf_bsock *sock) {
    if (pf_identity_is_shared(sock)) {
        return -EOPNOTSUPP; /* others accept from it, too */
    }
    int result = pf_sock_reopen(sock);
    if (sock->phase == PF_SOCK_LISTENING) {
        return result; /* no memory: it goes on listening */
    }
    pf_session_drop_accepts(sock);
    pf_ops_fail(sock, &sock->accepts, PF_OP_ACCEPT, -EINVAL);
    sock->multishot = false;
    pf_sock_set_state(sock, 0, PF_STATE_LISTENING | PF_STATE_WANTS_HINT);
    return 0;
}

static int do_shutdown(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    (void)op;
    if ((sqe->flags & ~(PF_SHUT_READ | PF_SHUT_WRITE)) != 0 || sqe->flags == 0) {
        return -EINVAL;
    }
    if (sock->phase == PF_SOCK_LISTENING) {
        return sqe->flags & PF_SHUT_READ ? stop_listening(sock) : 0;
    }
    if (sock->phase != PF_SOCK_CONNECTED || stk_tcp_gone(sock->conn)) {
        return -ENOTCONN;
    }
    if (sqe->flags & PF_SHUT_READ) {
        sock->rx_shut = true;
        pf_rx_flush(sock);
        pf_sock_set_state(sock, PF_STATE_EOF, 0);
        pf_rx_answer(sock);
    }
    if (sqe->flags & PF_SHUT_WRITE && !sock->tx_finish) {
        sock->tx_finish = true;
        pf_sock_set_state(sock, PF_STATE_TX_CLOSED, 0);
        pf_tx_pump(sock);
    }
    return 0;
}

static int do_close(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    sock->close_op = *op;
    sock->close_abort = (sqe->flags & PF_CLOSE_ABORT) != 0;
    /* Whatever the client says: with others who accept from it the listener is not its to end. */
    bool keep = (sqe->flags & PF_CLOSE_SHARED) != 0 || pf_identity_has_others(sock);
    if (!keep || !pf_identity_keep(sock, false)) {
        pf_sock_begin_close(sock, sock->close_abort);
    }
    return PENDING;
}

static int do_nop(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    (void)sock;
    (void)sqe;
    (void)op;
    return 0;
}

static int do_mirror(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    (void)op;
    if (sqe->token != 0) {
        uint64_t number;
        int fd = pf_session_take_mirror(sock->session, sqe->token, &number);
        if (fd < 0) {
            return -EBADF;
        }
        if (pf_identity_is_shared(sock) || pf_identity_attach(sock, number, fd) != 0) {
            (void)close(fd);
            sock->session->backend->mirrors--;
            return -EBADF;
        }
        sock->mirror_eof = false;
        sock->read_token = sock->b2c->read_token;
        sock->write_token = sock->b2c->write_token;
    }
    /* Before the completion: once that is there, the descriptor shows what holds. */
    if (sock->mirror_fd >= 0) {
        pf_mirror_update(sock);
    }
    return 0;
}

enum { NEEDS_NO_SOCKET = 1, NEEDS_SOCKET = 2 };

static const struct {
    pf_handler handler;
    pf_handler datagram; /* of datagram sockets; NULL: the same */
    uint8_t needs;
} operations[] = {
    [PF_OP_INVALID] = {NULL, NULL, 0},
    [PF_OP_OPEN] = {do_open, NULL, NEEDS_NO_SOCKET},
    [PF_OP_ADOPT] = {do_adopt, NULL, NEEDS_NO_SOCKET},
    [PF_OP_BIND] = {do_bind, pf_dgram_bind, NEEDS_SOCKET},
    [PF_OP_LISTEN] = {do_listen, pf_dgram_unsupported, NEEDS_SOCKET},
    [PF_OP_ACCEPT] = {do_accept, pf_dgram_unsupported, NEEDS_SOCKET},
    [PF_OP_CONNECT] = {do_connect, pf_dgram_connect, NEEDS_SOCKET},
    [PF_OP_WRITE] = {do_write, pf_dgram_unsupported, NEEDS_SOCKET},
    [PF_OP_RECV] = {do_recv, pf_dgram_recv, NEEDS_SOCKET},
    [PF_OP_SHUTDOWN] = {do_shutdown, pf_dgram_shutdown, NEEDS_SOCKET},
    [PF_OP_CLOSE] = {do_close, NULL, NEEDS_SOCKET},
    [PF_OP_NOP] = {do_nop, NULL, NEEDS_SOCKET},
    [PF_OP_CANCEL] = {pf_do_cancel, NULL, NEEDS_SOCKET},
    [PF_OP_SETOPT] = {pf_do_setopt, NULL, NEEDS_SOCKET},
    [PF_OP_MIRROR] = {do_mirror, NULL, NEEDS_SOCKET},
    [PF_OP_SENDTO] = {pf_dgram_unsupported, pf_dgram_sendto, NEEDS_SOCKET},
    [PF_OP_GROUP] = {pf_dgram_unsupported, pf_dgram_group, NEEDS_SOCKET},
    [PF_OP_QUERY] = {pf_do_query, NULL, NEEDS_SOCKET},
    [PF_OP_DRAIN] = {do_drain, do_nop, NEEDS_SOCKET},
};
_Static_assert(sizeof(operations) / sizeof(operations[0]) == PF_OP_COUNT,
               "every operation has a row");

/* Why this submission cannot come from a client that keeps the protocol, or NULL. */
static const char *check(struct pf_bsock *sock, const struct pf_sqe *sqe) {
    if (sqe->opcode >= PF_OP_COUNT || !operations[sqe->opcode].handler) {
        return "unknown opcode";
    }
    if (operations[sqe->opcode].needs == NEEDS_NO_SOCKET) {
        if (sock->phase != PF_SOCK_NONE || sqe->generation == sock->generation) {
            return "open of a slot in use";
        }
    } else if (sock->phase == PF_SOCK_NONE || sock->phase == PF_SOCK_CLOSING || sock->let_go ||
               sqe->generation != sock->generation) {
        return "operation on a socket that does not exist";
    }
    if (sqe->op_id == 0) {
        return "operation id 0";
    }
    if (pf_cq_room(sock) == 0) {
        return "no completion slot reserved";
    }
    return NULL;
}

/* What is asked of the operation beside what it does. Its result if it ends here, else 0. */
static int prepare(struct pf_bsock *sock, const struct pf_sqe *sqe, struct pf_op *op) {
    if (sqe->opcode == PF_OP_CLOSE || sqe->opcode == PF_OP_CANCEL || sock->phase == PF_SOCK_MOVED) {
        return 0;
    }
    if (sqe->general & PF_SQE_LINK) {
        op->linked = true;
        sock->chain |= PF_CHAIN_OPEN | PF_CHAIN_NEXT;
    }
    if (sqe->deadline_ns == 0) {
        return 0;
    }
    if (sqe->deadline_ns <= sock->session->backend->now_ns) {
        return -ETIMEDOUT;
    }
    op->deadline_ns = sqe->deadline_ns;
    return pf_deadline_arm(sock, sqe->deadline_ns) ? 0 : -ENOMEM;
}

void pf_op_start(struct pf_bsock *sock, const struct pf_sqe *sqe, uint64_t picked_ns) {
    struct pf_op op = {
        .op_id = sqe->op_id, .picked_ns = picked_ns, .offset = sqe->offset, .length = sqe->length};
    if (sqe->general || sqe->deadline_ns) {
        int early = prepare(sock, sqe, &op);
        if (early != 0) {
            pf_post_flagged(sock, &op, sqe->opcode, early,
                            early == -ETIMEDOUT ? PF_CQE_DEADLINE : 0);
            return;
        }
    }
    bool datagram = sock->dgram && operations[sqe->opcode].datagram;
    pf_handler handler =
        datagram ? operations[sqe->opcode].datagram : operations[sqe->opcode].handler;
    bool moved = sock->phase == PF_SOCK_MOVED && sqe->opcode != PF_OP_CLOSE;
    int result = moved ? -ESTALE : handler(sock, sqe, &op);
    if (result != PENDING) {
        pf_post(sock, &op, sqe->opcode, result);
    }
}

bool pf_dispatch_one(struct pf_bsock *sock) {
    struct pf_session *session = sock->session;
    const struct pf_sqe *ring = (const struct pf_sqe *)(session->c2b + session->layout.c2b_sq) +
                                (size_t)sock->slot * session->layout.sq_depth;
    struct pf_sqe sqe;
    int got = pf_sq_pop(ring, session->layout.sq_depth, &sock->sq_head, &sock->c2b->sq_tail,
                        &sock->b2c->sq_head, &sqe);
    if (got == 0) {
        return false;
    }
    const char *wrong = got < 0 ? "submission queue tail out of range" : check(sock, &sqe);
    if (wrong) {
        pf_session_violation(session, wrong);
        return false;
    }
    uint64_t *served = &session->backend->public_region->operations[sock->priority];
    pf_store64_relaxed(served, *served + 1);
    sock->inflight++;
    /* The socket can always be closed, and what is under way be taken back. */
    if (sock->chain && sqe.opcode != PF_OP_CLOSE && sqe.opcode != PF_OP_CANCEL) {
        pf_chain_hold(sock, &sqe);
    } else {
        pf_op_start(sock, &sqe, session->backend->now_ns);
    }
    return true;
}
