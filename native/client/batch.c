/* Batches: submissions that are kept back and then made all together, or not at all. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/internal.h"

int pf_batch_begin(struct pf_client *client) {
    int result = 0;
    pf_lock(client);
    if (client->batch_owner) {
        result = -EBUSY;
    } else if (!client->batch) {
        client->batch = calloc(PF_BATCH_MAX, sizeof(*client->batch));
        result = client->batch ? 0 : -ENOMEM;
    }
    if (result == 0) {
        client->batch_owner = pf_thread_id();
    }
    pf_unlock(client);
    return result;
}

bool pf_batch_add(struct pf_client *client, struct pf_sock *sock, const struct pf_sqe *sqe,
                  uint32_t block_bytes) {
    if (client->batch_count == PF_BATCH_MAX) {
        return false;
    }
    client->batch[client->batch_count++] = (struct pf_staged){
        .slot = sock->slot, .block_bytes = block_bytes, .priority = sock->priority, .sqe = *sqe};
    sock->staged = true;
    return true;
}

static struct pf_pending *pending_of(struct pf_sock *sock, const struct pf_staged *staged) {
    return &sock->pending[staged->sqe.op_id & 0xffff];
}

/* There is always room in the SQ: it has as many entries as operations can be under way, of which
 * this is one. Else the backend lies about what it has taken, and is not to be dealt with. */
static void put(struct pf_client *client, struct pf_sock *sock, const struct pf_staged *staged,
                uint64_t now) {
    pending_of(sock, staged)->submitted_ns = now;
    if (!pf_sq_put(client, sock, &staged->sqe)) {
        pf_client_abandon(client);
    }
}

void pf_batch_flush(struct pf_client *client, struct pf_sock *sock) {
    uint64_t now = pf_now_ns();
    uint32_t kept = 0;
    for (uint32_t i = 0; i < client->batch_count; i++) {
        if (client->batch[i].slot == sock->slot) {
            put(client, sock, &client->batch[i], now);
        } else {
            client->batch[kept++] = client->batch[i];
        }
    }
    client->batch_count = kept;
    sock->staged = false;
}

static bool submit_all(struct pf_client *client) {
    bool ring = false;
    uint64_t now = pf_now_ns();
    for (uint32_t i = 0; i < client->batch_count; i++) {
        put(client, &client->socks[client->batch[i].slot], &client->batch[i], now);
    }
    for (uint32_t i = 0; i < client->batch_count; i++) {
        struct pf_sock *sock = &client->socks[client->batch[i].slot];
        if (sock->staged) {
            sock->staged = false;
            ring |= pf_hint(client, sock);
        }
    }
    return ring;
}

/* Takes one submission back, as if it had not been made. */
static void take_back(struct pf_client *client, const struct pf_staged *staged) {
    struct pf_sock *sock = &client->socks[staged->slot];
    struct pf_pending *pending = pending_of(sock, staged);
    if (staged->block_bytes == PF_BLOCK_STAYS) {
        pf_block_landed(client, staged->sqe.offset);
    } else if (staged->block_bytes) {
        (void)pf_arena_free(&client->arena, staged->sqe.offset);
        sock->send_used -= staged->block_bytes;
    }
    if (staged->sqe.opcode == PF_OP_CLOSE) {
        sock->phase = PF_SLOT_OPEN;
    }
    if (staged->sqe.opcode == PF_OP_SETOPT && staged->sqe.offset == PF_OPT_PRIORITY) {
        sock->priority = staged->priority;
    }
    sock->linked = true; /* perhaps: the one before it may be a link */
    sock->user_ops -= pending->counted;
    pending->state = PF_PENDING_FREE;
    pending->offset = PF_ARENA_NONE;
    sock->pending_free[sock->pending_free_count++] = (uint32_t)(pending - sock->pending);
}

/* It relied on a close that was taken back. True: ring the doorbell. */
static bool close_released(struct pf_client *client, struct pf_sock *sock) {
    return sock->phase == PF_SLOT_OPEN && pf_close_locked(client, sock);
}

/* Wakes who waits for room, which there is now: by an operation, because the word that they sleep
 * on is the backend's. One under way is enough: whoever found no room did not find it ended, and
 * its end is still to change that word. True: ring the doorbell. */
static bool wake(struct pf_client *client, struct pf_sock *sock) {
    bool ring = false;
    /* Of nothing: no part of a chain, as a NOP would be. */
    struct pf_sqe sqe = {.opcode = PF_OP_CANCEL};
    const struct pf_pending *last = &sock->pending[sock->wake_op & 0xffff];
    bool flying = sock->wake_op && last->op_id == sock->wake_op && last->state != PF_PENDING_FREE;
    if (sock->phase == PF_SLOT_OPEN && !flying) {
        int64_t op_id = pf_submit_locked(client, sock, &sqe, PF_DELIVER_NONE, 0, &ring);
        sock->wake_op = op_id > 0 ? (uint64_t)op_id : 0;
    }
    return ring;
}

static bool take_all_back(struct pf_client *client, bool ended) {
    bool ring = false;
    for (uint32_t i = client->batch_count; i-- > 0;) {
        take_back(client, &client->batch[i]);
    }
    for (uint32_t i = 0; i < client->batch_count; i++) {
        struct pf_sock *sock = &client->socks[client->batch[i].slot];
        if (sock->staged) {
            sock->staged = false;
            if (ended) {
                continue; /* there is nobody to tell, nor may a forked child */
            }
            ring |= sock->released ? close_released(client, sock) : wake(client, sock);
        }
    }
    return ring;
}

/* How many of the operations under way are kept back, of one socket. */
static uint32_t kept_back(const struct pf_client *client, const struct pf_sock *sock) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < client->batch_count; i++) {
        count += client->batch[i].slot == sock->slot;
    }
    return count;
}

bool pf_batch_has_all(struct pf_client *client, const struct pf_sock *sock) {
    /* Nobody else makes it this thread. */
    if (pf_load_relaxed(&client->batch_owner) != pf_thread_id()) {
        return false;
    }
    pf_lock(client);
    uint32_t kept = sock ? kept_back(client, sock) : client->batch_count;
    uint64_t all = sock ? sock->user_ops : 0;
    for (uint32_t slot = 0; !sock && slot < client->slots_made; slot++) {
        const struct pf_sock *one = &client->socks[slot];
        bool lives = one->phase != PF_SLOT_FREE && !one->released;
        all += lives ? one->user_ops : 0;
    }
    pf_unlock(client);
    return kept > 0 && all == kept;
}

int pf_batch_end(struct pf_client *client, int submit) {
    pf_lock(client);
    int count = (int)client->batch_count;
    bool ended = pf_client_ended(client) != 0;
    bool ring = submit && !ended ? submit_all(client) : take_all_back(client, ended);
    client->batch_count = 0;
    client->batch_owner = 0;
    pf_unlock(client);
    if (ring) {
        pf_ring(client);
    }
    return submit && ended ? -EPIPE : count;
}
