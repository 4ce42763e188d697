/* Operations that end before their time: cancelled, or too late. What the stack has begun with
 * cannot be taken back. */
#include <errno.h>

#include "backend/identity.h"
#include "backend/internal.h"

#define RETRY_NS UINT64_C(100000000)

bool pf_picked(struct pf_pick *pick, uint64_t op_id, uint64_t deadline_ns) {
    bool chosen;
    if (pick->due_ns) {
        chosen = deadline_ns && deadline_ns <= pick->due_ns;
        if (!chosen && deadline_ns && deadline_ns < pick->next_ns) {
            pick->next_ns = deadline_ns;
        }
    } else {
        chosen = pick->all || op_id == pick->op_id;
    }
    pick->count += chosen;
    return chosen;
}

static void take_from(struct pf_bsock *sock, struct pf_op_queue *queue, uint32_t from, int opcode,
                      struct pf_pick *pick) {
    uint32_t mask = sock->session->layout.cq_depth - 1;
    uint32_t end = queue->tail;
    uint32_t kept = from;
    for (uint32_t i = from; i != end; i++) {
        struct pf_op op = queue->ops[i & mask];
        if (pf_picked(pick, op.op_id, op.deadline_ns)) {
            pf_post_flagged(sock, &op, opcode, pick->result, pick->flags);
        } else {
            queue->ops[kept++ & mask] = op;
        }
    }
    queue->tail = kept;
}

/* Writes of which the stack has nothing yet. */
static void take_writes(struct pf_bsock *sock, struct pf_pick *pick) {
    uint32_t from = sock->writes_next + (sock->writes_done > 0);
    uint32_t before = pick->count;
    take_from(sock, &sock->writes, from, PF_OP_WRITE, pick);
    if (pick->count != before) {
        pf_ready_add(sock, PF_WORK_TX); /* what is behind them, perhaps the end of the stream */
    }
}

static void take_connect(struct pf_bsock *sock, struct pf_pick *pick) {
    struct pf_op op = sock->connect_op;
    if (sock->phase != PF_SOCK_CONNECTING) {
        return; /* a claim, that is: the listener is that of others, and the claim about to end */
    }
    if (!op.op_id || !pf_picked(pick, op.op_id, op.deadline_ns)) {
        return;
    }
    int reopened = pf_sock_reopen(sock);
    if (reopened != 0 && sock->phase == PF_SOCK_CONNECTING) {
        pick->count--; /* no memory: it goes on */
        pick->next_ns = sock->session->backend->now_ns + RETRY_NS;
        return;
    }
    sock->connect_op.op_id = 0;
    pf_drains_fail(sock, ECANCELED);
    pf_ops_fail(sock, &sock->writes, PF_OP_WRITE, -ECANCELED);
    sock->writes_next = sock->writes.tail;
    sock->writes_done = 0;
    pf_post_flagged(sock, &op, PF_OP_CONNECT, pick->result, pick->flags);
}

static void take_out(struct pf_bsock *sock, struct pf_pick *pick) {
    pf_chain_take_out(sock, pick); /* first: the others may let these start */
    take_from(sock, &sock->recvs, sock->recvs.head, PF_OP_RECV, pick);
    uint32_t accepts = sock->accepts.tail;
    take_from(sock, &sock->accepts, sock->accepts.head, PF_OP_ACCEPT, pick);
    sock->multishot = sock->multishot && accepts == sock->accepts.tail;
    take_writes(sock, pick);
    take_connect(sock, pick);
}

static int reject(struct pf_bsock *sock, uint64_t token, bool keep) {
    struct stk_conn *conn = pf_session_claim(sock->session, token);
    bool wanted = keep && sock->phase == PF_SOCK_LISTENING;
    if (conn && (wanted || pf_identity_is_shared(sock))) {
        stk_tcp_unaccept(sock->conn, conn); /* somebody, sometime, may have room for it */
        pf_ready_add(sock, PF_WORK_ACCEPT);
    } else if (conn) {
        stk_tcp_abort(conn);
    }
    return conn ? 0 : -ENOENT;
}

int pf_do_cancel(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    struct pf_pick pick = {
        .op_id = sqe->token, .all = (sqe->flags & PF_SQE_ALL) != 0, .result = -ECANCELED};
    (void)op;
    if (sqe->flags & PF_SQE_REJECT) {
        return reject(sock, sqe->token, (sqe->flags & PF_SQE_RETURN) != 0);
    }
    if (pick.all) {
        uint8_t open = sock->chain & PF_CHAIN_OPEN; /* perhaps it cannot be taken back */
        pick.count = pf_chain_drop(sock, -ECANCELED);
        sock->chain = open;
    }
    take_out(sock, &pick);
    if (pick.all) {
        return (int)pick.count;
    }
    return pick.count ? 0 : -ENOENT; /* done already, or one that cannot be taken back */
}

void pf_expire(struct pf_bsock *sock) {
    if (sock->phase == PF_SOCK_NONE || sock->phase == PF_SOCK_MOVED) {
        return;
    }
    struct pf_pick pick = {.due_ns = sock->session->backend->now_ns,
                           .result = -ETIMEDOUT,
                           .flags = PF_CQE_DEADLINE,
                           .next_ns = UINT64_MAX};
    take_out(sock, &pick);
    if (pick.next_ns != UINT64_MAX && !pf_deadline_arm(sock, pick.next_ns)) {
        pf_ready_add(sock, PF_WORK_EXPIRE); /* no memory: looked at again in its turn */
    }
}
