/* Completions and wake-ups. Posting only writes; pf_post_flush, once per step of the loop,
 * publishes the news in order of priority and wakes whoever sleeps on it. */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "backend/identity.h"
#include "backend/internal.h"
#include "shm/arena.h"

void pf_wake(struct pf_bsock *sock) {
    struct pf_backend *backend = sock->session->backend;
    if (!sock->wake) {
        sock->wake = true;
        sock->wake_next = backend->wake_first;
        backend->wake_first = sock;
    }
}

static void put(struct pf_bsock *sock, const struct pf_cqe *cqe) {
    struct pf_session *session = sock->session;
    struct pf_cqe *ring = (struct pf_cqe *)(session->b2c + session->layout.b2c_cq) +
                          (size_t)sock->slot * session->layout.cq_depth;
    pf_cq_put(ring, session->layout.cq_depth, sock->cq_tail, cqe);
    sock->cq_tail++;
    sock->wake_hint = true;
    pf_wake(sock);
}

/* A completion: the last one of its operation, unless it has PF_CQE_MORE. */
static inline void post(struct pf_bsock *sock, const struct pf_op *op, const struct pf_cqe *cqe) {
    if (cqe->flags & PF_CQE_MORE) {
        put(sock, cqe);
        return;
    }
    sock->inflight--;
    sock->blocks_back += pf_send_block(cqe->opcode, op->length);
    put(sock, cqe);
    if (op->linked) {
        pf_chain_ended(sock, cqe->result);
    }
}

void pf_post_flagged(struct pf_bsock *sock, const struct pf_op *op, int opcode, int64_t result,
                     int flags) {
    struct pf_cqe cqe = {
        .op_id = op->op_id,
        .result = (int32_t)result,
        .opcode = (uint8_t)opcode,
        .flags = (uint8_t)flags,
        .token = pf_hints_taken(sock->priority, sock->session->hints[sock->priority].head),
        .completed_ns = sock->session->backend->now_ns,
        .picked_ns = op->picked_ns,
    };
    post(sock, op, &cqe);
}

void pf_post(struct pf_bsock *sock, const struct pf_op *op, int opcode, int64_t result) {
    pf_post_flagged(sock, op, opcode, result, 0);
}

void pf_post_written(struct pf_bsock *sock, const struct pf_op *op) {
    struct pf_cqe cqe = {
        .op_id = op->op_id,
        .result = (int32_t)op->length,
        .opcode = PF_OP_WRITE,
        .token = pf_hints_taken(sock->priority, sock->session->hints[sock->priority].head),
        .completed_ns = sock->session->backend->now_ns,
        .picked_ns = op->picked_ns,
    };
    memcpy(cqe.addr.ip, &op->handed_ns, sizeof(op->handed_ns));
    post(sock, op, &cqe);
}

void pf_post_page(struct pf_bsock *sock, const struct pf_op *op, const uint8_t page[32]) {
    struct pf_cqe cqe = {
        .op_id = op->op_id,
        .opcode = PF_OP_QUERY,
        .completed_ns = sock->session->backend->now_ns,
        .picked_ns = op->picked_ns,
    };
    memcpy(&cqe.addr, page, sizeof(cqe.addr));
    memcpy(&cqe.token, page + sizeof(cqe.addr), sizeof(cqe.token));
    post(sock, op, &cqe);
}

void pf_post_from(struct pf_bsock *sock, const struct pf_op *op, int64_t result,
                  const struct pf_addr *source) {
    struct pf_cqe cqe = {
        .op_id = op->op_id,
        .result = (int32_t)result,
        .opcode = PF_OP_RECV,
        .flags = op->multishot && result >= 0 ? PF_CQE_MORE : 0,
        .token = pf_hints_taken(sock->priority, sock->session->hints[sock->priority].head),
        .completed_ns = sock->session->backend->now_ns,
        .picked_ns = op->picked_ns,
        .addr = *source,
    };
    post(sock, op, &cqe);
}

/* Free entries of the CQ that no operation in flight has reserved. */
uint32_t pf_cq_room(struct pf_bsock *sock) {
    uint32_t used = sock->cq_tail - pf_load_acquire(&sock->c2b->cq_head);
    uint32_t depth = sock->session->layout.cq_depth;
    if (used > depth) {
        pf_session_violation(sock->session, "completion queue head out of range");
        return 0;
    }
    return used + sock->inflight < depth ? depth - used - sock->inflight : 0;
}

/* Completions that nobody reserved a slot for may take a quarter of the CQ: the client has no way
 * to know of them, and must be able to submit as many operations as its queue is deep. */
bool pf_cq_takes_more(struct pf_bsock *sock) {
    uint32_t used = sock->cq_tail - pf_load_acquire(&sock->c2b->cq_head);
    return pf_cq_room(sock) > 0 && used < sock->session->layout.cq_depth / 4;
}

bool pf_cq_room_for_more(struct pf_bsock *sock, uint32_t work) {
    if (pf_cq_takes_more(sock)) {
        return true;
    }
    if (!(sock->state & PF_STATE_WANTS_HINT)) {
        pf_sock_set_state(sock, PF_STATE_WANTS_HINT, 0);
        /* The client may have reaped everything just before it could see the flag. */
        pf_full_fence();
        pf_ready_add(sock, work);
    }
    return false;
}

bool pf_post_accept(struct pf_bsock *sock, const struct pf_op *op, uint64_t token,
                    const struct pf_addr *peer, bool more) {
    if (more && !pf_cq_takes_more(sock)) {
        return false;
    }
    struct pf_cqe cqe = {
        .op_id = op->op_id,
        .opcode = PF_OP_ACCEPT,
        .flags = more ? PF_CQE_MORE : 0,
        .token = token,
        .completed_ns = sock->session->backend->now_ns,
        .picked_ns = op->picked_ns,
        .addr = *peer,
    };
    /* Before the completion: whoever takes that must not have taken more than was reported. */
    if (!pf_identity_is_shared(sock)) {
        pf_store_release(&sock->b2c->accepts, sock->b2c->accepts + 1);
    }
    post(sock, op, &cqe);
    return true;
}

static void flush_sock(struct pf_bsock *sock) {
    struct pf_session *session = sock->session;
    struct pf_backend *backend = session->backend;
    sock->wake = false;
    (void)pf_event_ring(&sock->b2c->event, &sock->c2b->waiting);
    /* Ringing had the fence between the news and this. */
    if (sock->wake_hint || (sock->mirror_fd < 0 && pf_watch_answered(sock))) {
        sock->wake_hint = false;
        int pushed = pf_hint_push_fenced(&session->events[sock->priority],
                                         &sock->event_mark[sock->priority], sock->slot);
        if (pushed < 0) {
            pf_session_violation(session, "event ring head out of range");
        } else if (pushed > 0 && !session->wake_any) {
            session->wake_any = true;
            session->wake_next = backend->wake_sessions;
            backend->wake_sessions = session;
        }
    }
    if (sock->mirror_fd >= 0) {
        pf_mirror_update(sock);
    }
}

void pf_post_flush(struct pf_backend *backend) {
    for (int p = 0; p < PF_PRIORITIES && backend->wake_first; p++) {
        struct pf_bsock **link = &backend->wake_first;
        while (*link) {
            struct pf_bsock *sock = *link;
            if (sock->priority == p) {
                *link = sock->wake_next;
                flush_sock(sock);
            } else {
                link = &sock->wake_next;
            }
        }
    }
    while (backend->wake_sessions) {
        struct pf_session *session = backend->wake_sessions;
        backend->wake_sessions = session->wake_next;
        session->wake_any = false;
        (void)pf_event_ring(&session->b2c_control->event, &session->c2b_control->waiting);
        pf_bell_ring(session);
    }
}
