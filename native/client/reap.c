/* Completions: from the CQ to whoever is to get them; slots: back to the free list. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/internal.h"

void pf_publish_reaped(struct pf_sock *sock) {
    sock->cq_published = sock->cq_head;
    pf_store_release(&sock->c2b->cq_head, sock->cq_head);
}

static bool push_hint(struct pf_client *client, struct pf_sock *sock) {
    pf_publish_reaped(sock);
    return pf_hint_push(&client->hints[sock->priority], &sock->hint_mark[sock->priority],
                        sock->slot) > 0;
}

bool pf_hint(struct pf_client *client, struct pf_sock *sock) {
    bool pushed = push_hint(client, sock);
    bool due = pushed || sock->unrung;
    sock->unrung = false;
    /* Without a new hint there is nothing to ring for: the earlier one has not been consumed, so
     * the backend will look, or was rung for it. */
    return due && pf_doorbell_must_ring(&client->public_region->sleeping, sock->priority);
}

void pf_hint_quietly(struct pf_client *client, struct pf_sock *sock) {
    sock->unrung |= push_hint(client, sock);
}

void pf_ring(struct pf_client *client) {
    uint64_t one = 1;
    pf_store64_relaxed(&client->c2b_control->rang_ns, pf_now_ns());
    /* EAGAIN: the counter is full of rings nobody has answered; one is enough. */
    if (write(client->doorbell_fd, &one, sizeof(one)) < 0 && errno != EAGAIN) {
        pf_client_abandon(client);
    }
}

static uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }

static bool fifo_push(struct pf_sock *sock, const struct pf_done *done) {
    if (sock->fifo_count == sock->fifo_capacity) {
        uint32_t capacity = sock->fifo_capacity ? 2 * sock->fifo_capacity : 8;
        struct pf_done *bigger = malloc(capacity * sizeof(*bigger));
        if (!bigger) {
            return false;
        }
        for (uint32_t i = 0; i < sock->fifo_count; i++) {
            bigger[i] = sock->fifo[(sock->fifo_head + i) & (sock->fifo_capacity - 1)];
        }
        free(sock->fifo);
        sock->fifo = bigger;
        sock->fifo_capacity = capacity;
        sock->fifo_head = 0;
    }
    sock->fifo[(sock->fifo_head + sock->fifo_count) & (sock->fifo_capacity - 1)] = *done;
    pf_store_relaxed(&sock->fifo_count, sock->fifo_count + 1);
    return true;
}

static void mark_ready(struct pf_client *client, struct pf_sock *sock) {
    if (sock->in_ready) {
        return;
    }
    int p = sock->priority;
    sock->in_ready = true;
    sock->next_ready = PF_NO_SLOT;
    if (client->ready_first[p] == PF_NO_SLOT) {
        client->ready_first[p] = sock->slot;
    } else {
        client->socks[client->ready_last[p]].next_ready = sock->slot;
    }
    client->ready_last[p] = sock->slot;
}

static void finish(struct pf_client *client, struct pf_sock *sock, struct pf_pending *pending,
                   const struct pf_done *done) {
    if (pending->offset != PF_ARENA_NONE) {
        if (pending->block_bytes == PF_BLOCK_STAYS) {
            pf_block_landed(client, pending->offset);
        } else {
            (void)pf_arena_free(&client->arena, pending->offset);
            sock->send_used -= pending->block_bytes;
        }
        pending->offset = PF_ARENA_NONE;
    }
    sock->blocks_back += pending->comes_back;
    sock->user_ops -= pending->counted;
    pending->counted = false;
    if ((done->opcode == PF_OP_OPEN || done->opcode == PF_OP_ADOPT) && done->result < 0) {
        sock->open_error = done->result;
    }
    if (done->opcode == PF_OP_SENDTO && done->result < 0 && pending->delivery == PF_DELIVER_NONE) {
        sock->send_error = -done->result;
    }
    if (done->opcode == PF_OP_CLOSE) {
        sock->phase = PF_SLOT_CLOSED;
    }
    if (pending->delivery == PF_DELIVER_CALL) {
        pending->done = *done;
        pending->state = PF_PENDING_DONE;
        return;
    }
    pending->state = PF_PENDING_FREE;
    sock->pending_free[sock->pending_free_count++] = (uint32_t)(pending - sock->pending);
}

void pf_reap_news(struct pf_client *client, struct pf_sock *sock) {
    pf_reap(client, sock);
    if (sock->watched && (sock->open_error || pf_sock_readable(sock))) {
        struct pf_done done = {
            .opcode = PF_OP_RECV, .slot = sock->slot, .generation = sock->generation};
        if (fifo_push(sock, &done)) {
            sock->watched = false;
            mark_ready(client, sock);
        }
    }
}

void pf_reap(struct pf_client *client, struct pf_sock *sock) {
    uint32_t entries = client->layout.cq_depth;
    uint32_t head = sock->cq_head;
    for (; pf_cq_ready(sock->cq, entries, head); head++) {
        const struct pf_cqe *cqe = &sock->cq[head & (entries - 1)];
        uint32_t index = (uint32_t)(cqe->op_id & 0xffff);
        struct pf_pending *pending = index < entries ? &sock->pending[index] : NULL;
        if (!pending || pending->op_id != cqe->op_id || pending->state != PF_PENDING_FLYING) {
            continue;
        }
        /* Of these the token is something else. */
        if (cqe->opcode != PF_OP_ACCEPT && cqe->opcode != PF_OP_QUERY) {
            pf_hint_learn(&client->hints[(cqe->token & 3) % PF_PRIORITIES], cqe->token >> 2);
        }
        struct pf_done done = {
            .op_id = cqe->op_id,
            .result = cqe->result,
            .opcode = pending->opcode,
            .flags = cqe->flags,
            .slot = sock->slot,
            .generation = sock->generation,
            .token = cqe->token,
            .submitted_ns = min_u64(pending->submitted_ns, cqe->picked_ns),
            .picked_ns = cqe->picked_ns,
            .completed_ns = cqe->completed_ns,
            .addr = cqe->addr,
        };
        if (pending->delivery == PF_DELIVER_QUEUE) {
            if (!fifo_push(sock, &done)) {
                break; /* out of memory: it stays in the CQ */
            }
            mark_ready(client, sock);
        }
        if (!(cqe->flags & PF_CQE_MORE)) {
            finish(client, sock, pending, &done);
        }
    }
    if (head == sock->cq_head) {
        return;
    }
    pf_store_relaxed(&sock->cq_head, head);
    /* The next submission is likely to come soon, and will write these. */
    pf_prefetch_write(&sock->sq[sock->sq_tail & (client->layout.sq_depth - 1)]);
    pf_prefetch_write(&sock->c2b->sq_tail);
    /* Mostly left to the next submission, which writes the same line: here it would cost a trip to
     * the backend's core. But the backend must never stop for want of room (at a quarter of the CQ)
     * when there is nothing left to reap, because nobody would then tell it. */
    if (head - sock->cq_published >= entries / 8) {
        pf_publish_reaped(sock);
    }
    /* A released slot whose close completed stays on the closing list until it is swept: the free
     * list uses the same link. */
}

void pf_slot_recycle(struct pf_client *client, struct pf_sock *sock) {
    /* Unread bytes are gone with the connection: the next socket of this slot starts level. */
    uint32_t head = pf_load_acquire(&sock->b2c->rx_head);
    pf_store_relaxed(&sock->rx_tail, head);
    pf_store_release(&sock->c2b->rx_tail, head);
    sock->phase = PF_SLOT_FREE;
    sock->released = false;
    pf_store_relaxed(&sock->fifo_count, 0);
    sock->mirror_fd = -1;
    sock->mirror_armed = false;
    sock->watched = false;
    sock->identified = false;
    if (sock->fifo_capacity > client->layout.cq_depth) {
        free(sock->fifo);
        sock->fifo = NULL;
        sock->fifo_capacity = 0;
    }
    sock->next = client->free_slots;
    client->free_slots = sock->slot;
}

void pf_closing_add(struct pf_client *client, struct pf_sock *sock) {
    sock->next = PF_NO_SLOT;
    if (client->closing_first == PF_NO_SLOT) {
        client->closing_first = sock->slot;
    } else {
        client->socks[client->closing_last].next = sock->slot;
    }
    client->closing_last = sock->slot;
}

bool pf_sweep_closing(struct pf_client *client, uint32_t limit) {
    bool ring = false;
    uint32_t last = client->closing_last; /* once round at most: what is not done goes to the end */
    while (limit-- > 0 && client->closing_first != PF_NO_SLOT) {
        limit = client->closing_first == last ? 0 : limit;
        struct pf_sock *sock = &client->socks[client->closing_first];
        client->closing_first = sock->next;
        if (sock->phase == PF_SLOT_OPEN) {
            ring |= pf_close_locked(client, sock); /* there was no room for the close before */
        }
        pf_reap(client, sock);
        if (sock->phase == PF_SLOT_CLOSED) {
            pf_slot_recycle(client, sock);
        } else {
            pf_closing_add(client, sock);
        }
    }
    return ring;
}
