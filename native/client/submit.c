/* Sockets and submissions. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/internal.h"

static bool make_tables(struct pf_client *client, struct pf_sock *sock) {
    uint32_t entries = client->layout.cq_depth;
    if (!sock->pending) {
        sock->pending = calloc(entries, sizeof(*sock->pending));
        sock->pending_free = malloc(entries * sizeof(*sock->pending_free));
        if (!sock->pending || !sock->pending_free) {
            free(sock->pending);
            free(sock->pending_free);
            sock->pending = NULL;
            sock->pending_free = NULL;
            return false;
        }
    }
    sock->pending_free_count = 0;
    for (uint32_t i = entries; i-- > 0;) {
        sock->pending[i].state = PF_PENDING_FREE;
        sock->pending[i].offset = PF_ARENA_NONE;
        sock->pending_free[sock->pending_free_count++] = i;
    }
    return true;
}

/* Whether the socket had moved away before the submission that was just made could count. */
static bool moved_before(struct pf_client *client, const struct pf_sock *sock) {
    pf_full_fence(); /* see move.c */
    return pf_sock_known(sock) &&
           (pf_load_relaxed(&sock->b2c->state) & (PF_STATE_MOVING | PF_STATE_MOVED)) &&
           pf_moved(client, sock) && (int32_t)(sock->sq_tail - sock->b2c->moved_sq) > 0;
}

/* What this thread submits is kept back. */
static inline bool is_batched(const struct pf_client *client, int delivery) {
    return client->batch_owner && delivery == PF_DELIVER_QUEUE &&
           client->batch_owner == pf_thread_id();
}

/* The backend can do nothing with it but keep it, as long as nothing comes: a plain receive. A
 * deadline would have to be watched, beside a multishot receive it is refused at once, and behind a
 * link that has failed it is cancelled at once. */
static bool can_wait(const struct pf_sock *sock, const struct pf_sqe *sqe) {
    const struct pf_pending *all = &sock->pending[sock->multishot_op & 0xffff];
    bool taken =
        sock->multishot_op && all->op_id == sock->multishot_op && all->state == PF_PENDING_FLYING;
    return sqe->opcode == PF_OP_RECV && sqe->length && !sqe->general && !sqe->deadline_ns &&
           !(sqe->flags & PF_SQE_MULTISHOT) && !taken && !sock->linked && !sock->sends_datagrams &&
           !sock->identified;
}

/* A connection of which the backend has published nothing that a receive could end with. */
static bool nothing_came(const struct pf_sock *sock) {
    const uint32_t harmless = PF_STATE_OPEN | PF_STATE_TX_CLOSED;
    pf_full_fence(); /* see tell() */
    return pf_sock_known(sock) &&
           (pf_load_acquire(&sock->b2c->state) & ~harmless) == PF_STATE_CONNECTED &&
           pf_load_acquire(&sock->b2c->rx_head) == sock->rx_tail;
}

/* The SHUTDOWN of a connection, behind which no write has an effect. */
static bool ends_writing(const struct pf_sock *sock, const struct pf_sqe *sqe) {
    const uint32_t not_ours = PF_STATE_MOVED | PF_STATE_MOVING;
    return sqe->opcode == PF_OP_SHUTDOWN && sqe->flags & PF_SHUT_WRITE && !sock->linked &&
           !sqe->general && !sock->sends_datagrams && pf_sock_known(sock) &&
           (pf_load_acquire(&sock->b2c->state) & (PF_STATE_CONNECTED | not_ours)) ==
               PF_STATE_CONNECTED;
}

/* Tells the backend of a submission. True: ring the doorbell.
 *
 * Nobody waits for the open of a stream, and nothing comes to it before it is told where to: the
 * backend hears of it with the next submission, and is woken once.
 *
 * A receive with nothing to receive gets its hint, but no ring: who wakes the backend for it does
 * so for nothing. None is lost. Our hint, fence, look for what came; the backend: what came, fence
 * ("I sleep"), look for hints. If we do not see what came the backend takes the hint before it
 * sleeps; and if it has gone to sleep before our hint, then nothing more comes before it is awake,
 * which begins with the hints. Whatever else is submitted rings for both (pf_sock.unrung). */
static bool tell(struct pf_client *client, struct pf_sock *sock, const struct pf_sqe *sqe) {
    if (sqe->opcode == PF_OP_OPEN && sqe->offset == PF_KIND_STREAM) {
        return false;
    }
    if (can_wait(sock, sqe)) {
        pf_hint_quietly(client, sock);
        if (nothing_came(sock)) {
            return false;
        }
    }
    return pf_hint(client, sock);
}

/* Makes the submission known to the backend. False: there was no room. Caller holds the lock. */
static bool publish(struct pf_client *client, struct pf_sock *sock, const struct pf_sqe *sqe,
                    struct pf_pending *pending, bool *ring) {
    if (sqe->opcode == PF_OP_CLOSE && sock->staged) {
        pf_batch_flush(client, sock);
    }
    if (!pf_sq_put(client, sock, sqe)) {
        return false;
    }
    *ring = tell(client, sock, sqe);
    /* After the backend can have seen it: the clock takes as long as half the way there. */
    pending->submitted_ns = pf_now_ns();
    return true;
}

int64_t pf_submit_locked(struct pf_client *client, struct pf_sock *sock, struct pf_sqe *sqe,
                         int delivery, uint32_t block_bytes, bool *ring) {
    if (sock->open_error) {
        return sock->open_error;
    }
    if (sock->tx_ended && sqe->opcode == PF_OP_WRITE && delivery == PF_DELIVER_NONE) {
        return -EPIPE; /* nobody would hear that it came too late, and its bytes be lost */
    }
    /* One entry is kept for the close: a socket can always be let go. Behind writes of which nobody
     * takes the completions there is one more: they can be ended, however many wait. */
    uint32_t kept = sqe->opcode == PF_OP_CLOSE ? 0 : 1;
    bool sends = sqe->opcode == PF_OP_WRITE || sqe->opcode == PF_OP_SENDTO;
    if (sends && delivery == PF_DELIVER_NONE) {
        kept = PF_KEPT_BY_SENDS;
    }
    if (sock->pending_free_count <= kept) {
        pf_reap(client, sock);
        if (sock->pending_free_count <= kept) {
            return -EAGAIN;
        }
    }
    bool counted = delivery != PF_DELIVER_NONE;
    if (counted && sqe->opcode != PF_OP_CLOSE && sock->user_ops >= sock->user_limit) {
        pf_reap(client, sock);
        if (sock->user_ops >= sock->user_limit) {
            return -EAGAIN;
        }
    }
    uint32_t index = sock->pending_free[sock->pending_free_count - 1];
    uint64_t op_id = ((sock->op_counter + 1) << 16) | index;
    sqe->op_id = op_id;
    sqe->generation = sock->generation;
    struct pf_pending *pending = &sock->pending[index];
    /* Not all of it: `done` is filled in at the end. */
    pending->op_id = op_id;
    pending->offset = block_bytes ? sqe->offset : PF_ARENA_NONE;
    pending->block_bytes = block_bytes;
    pending->comes_back = pf_send_block(sqe->opcode, sqe->length);
    pending->opcode = sqe->opcode;
    pending->delivery = (uint8_t)delivery;
    pending->state = PF_PENDING_FLYING;
    bool batched = is_batched(client, delivery);
    if (batched ? !pf_batch_add(client, sock, sqe, block_bytes)
                : !publish(client, sock, sqe, pending, ring)) {
        pending->state = PF_PENDING_FREE;
        pending->offset = PF_ARENA_NONE;
        return batched ? -ENOSPC : -EAGAIN;
    }
    if (sqe->opcode == PF_OP_RECV && sqe->flags & PF_SQE_MULTISHOT) {
        sock->multishot_op = op_id;
    }
    if (sqe->opcode != PF_OP_CANCEL) { /* which is no part of a chain */
        sock->linked = (sqe->general & PF_SQE_LINK) != 0;
    }
    sock->op_counter++;
    sock->pending_free_count--;
    sock->user_ops += counted;
    /* Another connection: */
    sock->tx_ended = (sock->tx_ended && sqe->opcode != PF_OP_CONNECT) || ends_writing(sock, sqe);
    pending->counted = counted;
    if (sock->identified && sqe->opcode != PF_OP_CLOSE && moved_before(client, sock)) {
        return -ESTALE; /* it will be answered so, and has no effect */
    }
    return (int64_t)op_id;
}

int pf_open_slot(struct pf_client *client, struct pf_sqe *sqe, int priority, int delivery,
                 uint64_t *op) {
    bool ring = false;
    if (pf_client_ended(client)) {
        return -EPIPE;
    }
    pf_lock(client);
    bool all_made = client->slots_made == client->layout.max_sockets;
    bool urgent = all_made && client->free_slots == PF_NO_SLOT;
    bool swept = pf_sweep_closing(client, urgent ? UINT32_MAX : PF_SWEEP_SOME);
    struct pf_sock *sock = client->free_slots != PF_NO_SLOT || pf_slot_make(client)
                               ? &client->socks[client->free_slots]
                               : NULL;
    if (!sock || !make_tables(client, sock)) {
        pf_unlock(client);
        if (swept) {
            pf_ring(client);
        }
        return sock ? -ENOMEM : -EMFILE;
    }
    client->free_slots = sock->next;
    if (client->quiet_closes && client->slots_made + PF_QUIET_CLOSES > client->layout.max_sockets) {
        client->quiet_closes = 0; /* their slots may soon be needed */
        swept = true;
    }
    sock->generation++;
    sock->phase = PF_SLOT_OPEN;
    sock->adopted = sqe->opcode == PF_OP_ADOPT;
    sock->identified = false;
    sock->released = false;
    sock->open_error = 0;
    sock->send_error = 0;
    sock->user_ops = 0;
    sock->user_limit = pf_client_queue_depth(client);
    sock->multishot_op = 0;
    sock->linked = false;
    sock->priority = priority;
    sock->tx_ended = false;
    sock->sends_datagrams = sqe->opcode == PF_OP_OPEN && sqe->offset != PF_KIND_STREAM;
    sock->room_unsure = false;
    sock->send_used = 0;
    sock->blocks_out = 0;
    sock->blocks_back = 0;
    pf_store_release(&sock->c2b->write_room, 0);
    pf_store_relaxed(&sock->send_limit, PF_DEFAULT_SEND_LIMIT);
    pf_store_relaxed(&sock->fifo_count, 0);
    pf_store_release(&sock->c2b->accepts_taken, pf_load_acquire(&sock->b2c->accepts));
    int64_t result = pf_submit_locked(client, sock, sqe, delivery, 0, &ring);
    pf_unlock(client);
    if (op && result > 0) {
        *op = (uint64_t)result;
    }
    if (ring || swept) {
        pf_ring(client);
    }
    return result < 0 ? (int)result : (int)sock->slot;
}

static int open_kind(struct pf_client *client, int family, int kind, int priority,
                     uint32_t rx_bytes) {
    if ((family != PF_FAMILY_IPV4 && family != PF_FAMILY_IPV6) || priority < 0 ||
        priority >= PF_PRIORITIES) {
        return -EINVAL;
    }
    if (priority < (int)client->layout.allowed_priority) {
        priority = (int)client->layout.allowed_priority;
    }
    struct pf_sqe sqe = {.opcode = PF_OP_OPEN,
                         .flags = (uint8_t)family,
                         .token = (uint64_t)priority,
                         .offset = (uint32_t)kind,
                         .length = rx_bytes};
    return pf_open_slot(client, &sqe, priority, PF_DELIVER_NONE, NULL);
}

int pf_socket_open(struct pf_client *client, int family, int priority, uint32_t rx_bytes) {
    return open_kind(client, family, PF_KIND_STREAM, priority, rx_bytes);
}

int pf_datagram_open(struct pf_client *client, int family, int priority, uint32_t rx_bytes) {
    return open_kind(client, family, PF_KIND_DATAGRAM, priority, rx_bytes);
}

int pf_ping_open(struct pf_client *client, int family, int priority, uint32_t rx_bytes) {
    return open_kind(client, family, PF_KIND_PING, priority, rx_bytes);
}

int pf_raw_open(struct pf_client *client, int family, int priority, uint32_t rx_bytes) {
    return open_kind(client, family, PF_KIND_RAW, priority, rx_bytes);
}

int pf_socket_adopt(struct pf_client *client, uint64_t token, int priority) {
    if (priority < 0 || priority >= PF_PRIORITIES) {
        return -EINVAL;
    }
    if (priority < (int)client->layout.allowed_priority) {
        priority = (int)client->layout.allowed_priority;
    }
    struct pf_sqe sqe = {.opcode = PF_OP_ADOPT, .token = token, .offset = (uint32_t)priority};
    return pf_open_slot(client, &sqe, priority, PF_DELIVER_NONE, NULL);
}

/* Nothing of this stream is left to be told to the peer, nor to be thrown away: both directions
 * have ended, and all was read. Caller holds the lock. */
static bool has_ended(const struct pf_sock *sock) {
    if (sock->identified || sock->phase != PF_SLOT_OPEN || !pf_sock_known(sock)) {
        return false;
    }
    uint32_t both = PF_STATE_EOF | PF_STATE_TX_CLOSED;
    uint32_t state = pf_load_acquire(&sock->b2c->state);
    return (state & both) == both && !(state & (PF_STATE_MOVING | PF_STATE_WANTS_HINT)) &&
           pf_load_acquire(&sock->b2c->rx_head) == sock->rx_tail;
}

/* A close that nobody waits for is left to the backend's next wake-up, which is at most a second
 * away, as it never sleeps longer. Its hint is published all the same, so the ring of any other
 * brings it, and no later hint of this slot can rely on a ring that this one should have made: the
 * slot is used again only when the close has completed. */
static bool may_be_quiet(struct pf_client *client) {
    client->quiet_closes = (client->quiet_closes + 1) % PF_QUIET_CLOSES;
    return client->quiet_closes != 0;
}

static int release(struct pf_client *client, uint32_t slot, int flags, bool ended) {
    bool ring = false;
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    if (!sock || sock->released) {
        pf_unlock(client);
        return -EBADF;
    }
    pf_reap(client, sock);
    sock->released = true;
    sock->close_flags = (uint8_t)flags;
    sock->mirror_armed = false;
    ended = ended && has_ended(sock);
    if (sock->phase == PF_SLOT_OPEN) {
        ring = pf_close_locked(client, sock);
    }
    ring = ring && !(ended && may_be_quiet(client));
    if (sock->phase == PF_SLOT_CLOSED) {
        pf_slot_recycle(client, sock);
    } else {
        pf_closing_add(client, sock);
    }
    pf_unlock(client);
    if (ring) {
        pf_ring(client);
    }
    return 0;
}

int pf_socket_release(struct pf_client *client, uint32_t slot, int flags) {
    return release(client, slot, flags, false);
}

int pf_socket_release_ended(struct pf_client *client, uint32_t slot, int flags) {
    return release(client, slot, flags, true);
}

bool pf_close_locked(struct pf_client *client, struct pf_sock *sock) {
    bool ring = false;
    struct pf_sqe sqe = {.opcode = PF_OP_CLOSE, .flags = sock->close_flags};
    sock->open_error = 0; /* a socket that failed to open is still closed */
    if (pf_submit_locked(client, sock, &sqe, PF_DELIVER_NONE, 0, &ring) > 0) {
        sock->phase = PF_SLOT_CLOSING;
    }
    return ring;
}

uint32_t pf_socket_generation(struct pf_client *client, uint32_t slot) {
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    uint32_t generation = sock ? sock->generation : 0;
    pf_unlock(client);
    return generation;
}

int pf_socket_state(struct pf_client *client, uint32_t slot, struct pf_socket_b2c *out) {
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    int result = sock ? sock->open_error : -EBADF;
    if (sock && pf_sock_known(sock)) {
        /* First: what the backend published before it shows in the rest. */
        uint32_t state = pf_load_acquire(&sock->b2c->state);
        *out = *sock->b2c;
        out->state = state;
    } else if (sock) {
        memset(out, 0, sizeof(*out)); /* the backend has not seen the socket yet */
        out->generation = sock->generation;
    }
    pf_unlock(client);
    return result;
}

int pf_socket_flags(struct pf_client *client, uint32_t slot) {
    pf_lock(client);
    const struct pf_sock *sock = pf_sock_get(client, slot);
    int result = sock ? sock->open_error : -EBADF;
    if (result == 0 && pf_sock_known(sock)) {
        result = (int)pf_load_acquire(&sock->b2c->state);
    }
    pf_unlock(client);
    return result;
}

int pf_end_writing(struct pf_client *client, uint32_t slot) {
    bool ring = false;
    int done = 0;
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    /* Connected and nothing else: what the backend would answer is known. */
    if (sock && sock->phase == PF_SLOT_OPEN && !sock->identified && !sock->open_error &&
        pf_sock_known(sock) &&
        pf_load_acquire(&sock->b2c->state) == (PF_STATE_OPEN | PF_STATE_CONNECTED)) {
        struct pf_sqe sqe = {.opcode = PF_OP_SHUTDOWN, .flags = PF_SHUT_WRITE};
        done = pf_submit_locked(client, sock, &sqe, PF_DELIVER_NONE, 0, &ring) > 0;
        sock->tx_ended = done;
    }
    pf_unlock(client);
    if (ring) {
        pf_ring(client);
    }
    return done;
}

int pf_socket_set_send_limit(struct pf_client *client, uint32_t slot, uint32_t bytes) {
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    if (sock) {
        pf_store_relaxed(&sock->send_limit, bytes ? bytes : PF_DEFAULT_SEND_LIMIT);
    }
    pf_unlock(client);
    return sock ? 0 : -EBADF;
}

int pf_socket_set_queue_depth(struct pf_client *client, uint32_t slot, uint32_t depth) {
    if (depth == 0 || depth > pf_client_queue_depth(client)) {
        return -EINVAL;
    }
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    if (sock) {
        sock->user_limit = depth;
    }
    pf_unlock(client);
    return sock ? 0 : -EBADF;
}

uint32_t pf_socket_send_used(struct pf_client *client, uint32_t slot) {
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    uint32_t used = sock ? sock->send_used : 0;
    pf_unlock(client);
    return used;
}

int64_t pf_submit_sqe(struct pf_client *client, uint32_t slot, struct pf_sqe *sqe, int delivery) {
    if (sqe->opcode <= PF_OP_INVALID || sqe->opcode >= PF_OP_COUNT || sqe->opcode == PF_OP_OPEN ||
        sqe->opcode == PF_OP_ADOPT || sqe->opcode == PF_OP_WRITE || sqe->opcode == PF_OP_SENDTO) {
        return -EINVAL;
    }
    if (pf_client_ended(client)) {
        return -EPIPE;
    }
    bool ring = false;
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    int64_t result = -EBADF;
    if (sock && sock->phase == PF_SLOT_OPEN) {
        result = pf_submit_locked(client, sock, sqe, delivery, 0, &ring);
        if (result > 0 && sqe->opcode == PF_OP_CLOSE) {
            sock->phase = PF_SLOT_CLOSING;
        }
        if (result > 0 && sqe->opcode == PF_OP_SETOPT && sqe->offset == PF_OPT_PRIORITY &&
            sqe->token < PF_PRIORITIES && sqe->token >= client->layout.allowed_priority) {
            sock->priority = (int)sqe->token;
        }
    }
    pf_unlock(client);
    if (ring) {
        pf_ring(client);
    }
    return result;
}

int64_t pf_submit(struct pf_client *client, uint32_t slot, int opcode, int flags, uint64_t token,
                  uint32_t offset, uint32_t length, const struct pf_addr *addr, int delivery) {
    struct pf_sqe sqe = {.opcode = (uint8_t)(opcode > 0 && opcode < PF_OP_COUNT ? opcode : 0),
                         .flags = (uint8_t)flags,
                         .token = token,
                         .offset = offset,
                         .length = length};
    if (addr) {
        sqe.addr = *addr;
    }
    return pf_submit_sqe(client, slot, &sqe, delivery);
}

static int end_accept(struct pf_client *client, uint32_t listener, uint64_t token, int flags) {
    if (!pf_slot_known(client, listener)) {
        return -EBADF;
    }
    struct pf_sock *sock = &client->socks[listener];
    struct pf_waiter waiter;
    pf_waiter_start(&waiter, client, -1);
    for (;;) {
        uint32_t seen = pf_load_acquire(&sock->b2c->event);
        int64_t result = pf_submit(client, listener, PF_OP_CANCEL, PF_SQE_REJECT | flags, token, 0,
                                   0, NULL, PF_DELIVER_NONE);
        if (result != -EAGAIN) {
            return result < 0 ? (int)result : 0;
        }
        /* Nobody else would ever do it. It takes others of its kind to fill the queue, which are
         * done at once, so this is short. */
        int slept = pf_waiter_sleep(&waiter, &sock->b2c->event, seen, &sock->c2b->waiting);
        if (slept != 0 && slept != -EINTR) {
            return slept;
        }
    }
}

int pf_accept_reject(struct pf_client *client, uint32_t listener, uint64_t token) {
    return end_accept(client, listener, token, 0);
}

int pf_accept_return(struct pf_client *client, uint32_t listener, uint64_t token) {
    return end_accept(client, listener, token, PF_SQE_RETURN);
}

int64_t pf_nop(struct pf_client *client, uint32_t slot) {
    return pf_submit(client, slot, PF_OP_NOP, 0, 0, 0, 0, NULL, PF_DELIVER_QUEUE);
}
