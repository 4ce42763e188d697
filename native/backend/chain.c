/* Linked operations. A chain is a run of submissions of one socket in which all but the last have
 * PF_SQE_LINK: each starts when the one before has succeeded, and a failure cancels the rest.
 *
 * While a linked operation is under way, what is submitted behind it is taken and held here, in
 * order, whether it belongs to the chain or not, so that bytes are written in the order of their
 * submission. CANCEL and CLOSE are not held. A held submission is started in a step of its own. */
#include <errno.h>
#include <stdlib.h>

#include "backend/internal.h"

static struct pf_held *held_at(const struct pf_bsock *sock, uint32_t place) {
    return &sock->held[place & (sock->session->layout.cq_depth - 1)];
}

static void note_held(struct pf_bsock *sock) {
    if (sock->held_head != sock->held_tail) {
        sock->chain |= PF_CHAIN_HELD;
    } else {
        sock->chain &= (uint8_t)~PF_CHAIN_HELD;
    }
}

static void end_unstarted(struct pf_bsock *sock, const struct pf_sqe *sqe, uint64_t picked_ns,
                          int result, int flags) {
    struct pf_op op = {.op_id = sqe->op_id, .picked_ns = picked_ns, .length = sqe->length};
    pf_post_flagged(sock, &op, sqe->opcode, result, flags);
}

/* Cancels what is left of the chain that the first one held belongs to; some may still be to come.
 */
static void cut(struct pf_bsock *sock) {
    bool linked = true;
    while (linked && sock->held_head != sock->held_tail) {
        const struct pf_held *held = held_at(sock, sock->held_head++);
        linked = (held->sqe.general & PF_SQE_LINK) != 0;
        end_unstarted(sock, &held->sqe, held->picked_ns, -ECANCELED, 0);
    }
    note_held(sock);
    if (linked) {
        sock->chain |= PF_CHAIN_CUT;
    }
}

void pf_chain_hold(struct pf_bsock *sock, const struct pf_sqe *sqe) {
    uint64_t now = sock->session->backend->now_ns;
    uint32_t depth = sock->session->layout.cq_depth;
    int result = 0;
    if (sock->chain & PF_CHAIN_CUT) {
        sock->chain &= (uint8_t)~PF_CHAIN_CUT;
        result = -ECANCELED;
    } else {
        if (!sock->held) {
            sock->held = calloc(depth, sizeof(*sock->held));
        }
        if (!sock->held || (sqe->deadline_ns && !pf_deadline_arm(sock, sqe->deadline_ns))) {
            result = -ENOMEM;
        }
    }
    if (result != 0) {
        end_unstarted(sock, sqe, now, result, 0);
        sock->chain |= sqe->general & PF_SQE_LINK ? PF_CHAIN_CUT : 0;
        return;
    }
    *held_at(sock, sock->held_tail++) = (struct pf_held){*sqe, now};
    note_held(sock);
}

void pf_chain_next(struct pf_bsock *sock) {
    if ((sock->chain & (PF_CHAIN_OPEN | PF_CHAIN_HELD)) != PF_CHAIN_HELD) {
        return;
    }
    struct pf_held next = *held_at(sock, sock->held_head++);
    note_held(sock);
    pf_op_start(sock, &next.sqe, next.picked_ns);
    if (!(sock->chain & PF_CHAIN_OPEN) && (sock->chain & PF_CHAIN_HELD)) {
        pf_ready_add(sock, PF_WORK_CHAIN);
    }
}

void pf_chain_ended(struct pf_bsock *sock, int64_t result) {
    bool failed = result < 0 && (sock->chain & PF_CHAIN_NEXT);
    if (!(sock->chain & PF_CHAIN_OPEN)) {
        return; /* the chain was dropped */
    }
    sock->chain &= (uint8_t)~(PF_CHAIN_OPEN | PF_CHAIN_NEXT);
    if (failed) {
        cut(sock);
    }
    if (sock->chain & PF_CHAIN_HELD) {
        pf_ready_add(sock, PF_WORK_CHAIN);
    }
}

uint32_t pf_chain_drop(struct pf_bsock *sock, int result) {
    uint32_t count = sock->held_tail - sock->held_head;
    if (sock->session->dying) { /* as in pf_ops_fail() */
        sock->inflight -= count;
        sock->held_head = sock->held_tail;
    }
    while (sock->held_head != sock->held_tail) {
        const struct pf_held *held = held_at(sock, sock->held_head++);
        end_unstarted(sock, &held->sqe, held->picked_ns, result, 0);
    }
    sock->chain = 0;
    return count;
}

/* In one pass, however many there are. */
void pf_chain_take_out(struct pf_bsock *sock, struct pf_pick *pick) {
    uint32_t kept = sock->held_head;
    bool cutting = false; /* the one before, in the same chain, is gone */
    for (uint32_t place = sock->held_head; place != sock->held_tail; place++) {
        struct pf_held held = *held_at(sock, place);
        if (cutting) {
            end_unstarted(sock, &held.sqe, held.picked_ns, -ECANCELED, 0);
        } else if (!pf_picked(pick, held.sqe.op_id, held.sqe.deadline_ns)) {
            *held_at(sock, kept++) = held;
            continue;
        } else {
            /* What was in front of it is the end of its chain now. */
            if (kept != sock->held_head) {
                held_at(sock, kept - 1)->sqe.general &= (uint16_t)~PF_SQE_LINK;
            } else {
                sock->chain &= (uint8_t)~PF_CHAIN_NEXT;
            }
            end_unstarted(sock, &held.sqe, held.picked_ns, pick->result, pick->flags);
        }
        cutting = (held.sqe.general & PF_SQE_LINK) != 0;
    }
    sock->held_tail = kept;
    note_held(sock);
    if (cutting) {
        sock->chain |= PF_CHAIN_CUT;
    }
}
