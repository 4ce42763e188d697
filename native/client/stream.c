/* Bytes: out of the receive ring, into the send arena. */
#include <errno.h>
#include <string.h>

#include "client/internal.h"

#define PF_REAP_SOME 512
#define PF_SHARE_LEAST 65536
/* Without a write of its own under way a socket is not woken when another's gives memory back. */
#define PF_MEMORY_LOOK_NS 1000000

/* What of the arena this socket may still take. One that does not get rid of its bytes is kept to
 * half of what is free, so it can never starve the others; the first block is always granted. */
static bool may_allocate(const struct pf_client *client, const struct pf_sock *sock,
                         uint32_t block) {
    if (sock->send_used == 0) {
        return true;
    }
    uint64_t after = (uint64_t)sock->send_used + block;
    uint64_t share = client->arena.free_bytes / 2;
    return after <= sock->send_limit && after <= (share > PF_SHARE_LEAST ? share : PF_SHARE_LEAST);
}

/* Looks for acknowledged writes of other sockets: nobody else may ever ask those. A part of the
 * slots at a time, so that the lock is not held for long. */
static void reap_others(struct pf_client *client) {
    for (int i = 0; i < PF_REAP_SOME; i++) {
        client->reap_next = client->reap_next + 1 < client->slots_made ? client->reap_next + 1 : 0;
        struct pf_sock *sock = &client->socks[client->reap_next];
        if (sock->phase == PF_SLOT_OPEN && sock->send_used > 0) {
            pf_reap(client, sock);
        }
    }
}

/* It is for want of memory, not for what the socket may take, that it cannot have the block. */
static bool is_scarce(const struct pf_client *client, const struct pf_sock *sock, uint32_t block) {
    return client->arena.free_bytes / 2 < (uint64_t)sock->send_used + block;
}

/* The least that must come back for may_allocate() to allow it. */
static uint32_t excess(const struct pf_client *client, const struct pf_sock *sock, uint32_t block) {
    if (may_allocate(client, sock, block)) {
        return 0;
    }
    int64_t after = (int64_t)sock->send_used + block;
    /* Of `x` that come back a half is added to the share. */
    int64_t by_share = (2 * after - (int64_t)client->arena.free_bytes + 2) / 3;
    by_share = by_share < after - PF_SHARE_LEAST ? by_share : after - PF_SHARE_LEAST;
    int64_t by_limit = after - sock->send_limit;
    int64_t least = by_share > by_limit ? by_share : by_limit;
    /* When all of it has come back the next block is the first. */
    return least < sock->send_used ? (uint32_t)least : sock->send_used;
}

static uint32_t shortage(const struct pf_client *client, const struct pf_sock *sock) {
    bool datagrams =
        sock->sends_datagrams ||
        (pf_sock_known(sock) && pf_load_acquire(&sock->b2c->state) & PF_STATE_DATAGRAM);
    uint32_t block = pf_arena_block_bytes(datagrams ? PF_MAX_DATAGRAM_BYTES : 1);
    uint32_t least = excess(client, sock, block);
    bool any = sock->pending_free_count > PF_KEPT_BY_SENDS && client->arena.free_bytes >= block;
    return least == 0 && !any ? 1 : least;
}

uint32_t pf_send_shortage(struct pf_client *client, struct pf_sock *sock) {
    if (shortage(client, sock) == 0) {
        return 0;
    }
    pf_reap(client, sock);
    return shortage(client, sock);
}

/* A block for `bytes`, charged to the socket, or PF_ARENA_NONE. Caller holds the lock; *ring as of
 * pf_sweep_closing. */
static uint32_t grab(struct pf_client *client, struct pf_sock *sock, uint32_t bytes, bool *ring) {
    uint32_t block = pf_arena_block_bytes(bytes);
    for (int attempt = 0; attempt < 2; attempt++) {
        if (may_allocate(client, sock, block)) {
            uint32_t offset = pf_arena_alloc(&client->arena, bytes);
            if (offset != PF_ARENA_NONE) {
                sock->send_used += block;
                return offset;
            }
        }
        if (attempt == 0) {
            pf_reap(client, sock);
            *ring |= pf_sweep_closing(client, PF_SWEEP_SOME);
            if (is_scarce(client, sock, block)) {
                reap_others(client);
            }
        }
    }
    return PF_ARENA_NONE;
}

int64_t pf_submit_block(struct pf_client *client, uint32_t slot, struct pf_sqe *sqe,
                        const void *data, uint32_t length, int delivery) {
    if (pf_client_ended(client)) {
        return -EPIPE;
    }
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    if (!sock || sock->phase != PF_SLOT_OPEN) {
        pf_unlock(client);
        return -EBADF;
    }
    uint32_t generation = sock->generation;
    bool ring = false;
    uint32_t block = length ? pf_arena_block_bytes(length) : 0;
    uint32_t offset = length ? grab(client, sock, length, &ring) : 0;
    pf_unlock(client);
    if (offset == PF_ARENA_NONE) {
        if (ring) {
            pf_ring(client);
        }
        return -ENOBUFS;
    }
    /* Outside the lock: a long copy of one thread must not hold up another's short one. */
    memcpy(client->c2b + client->layout.c2b_arena + offset, data, length);
    sqe->offset = offset;
    sqe->length = length;
    int64_t result = -EBADF;
    pf_lock(client);
    if (sock->phase == PF_SLOT_OPEN && sock->generation == generation) {
        result = pf_submit_locked(client, sock, sqe, delivery, block, &ring);
    }
    if (result < 0 && result != -ESTALE && length) { /* stale: its completion will free it */
        (void)pf_arena_free(&client->arena, offset);
        if (sock->generation == generation) {
            sock->send_used -= block;
        }
    }
    pf_unlock(client);
    if (ring) {
        pf_ring(client);
    }
    return result;
}

int64_t pf_write(struct pf_client *client, uint32_t slot, const void *data, uint32_t length,
                 int delivery) {
    if (length == 0 || length > PF_MAX_WRITE_BYTES) {
        return -EMSGSIZE;
    }
    struct pf_sqe sqe = {.opcode = PF_OP_WRITE};
    return pf_submit_block(client, slot, &sqe, data, length, delivery);
}

int pf_rx_spans(struct pf_client *client, uint32_t slot, uint32_t limit, struct pf_span *spans) {
    int count = 0;
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    if (!sock) {
        count = -EBADF;
    } else if (pf_sock_known(sock)) {
        uint32_t head = pf_load_acquire(&sock->b2c->rx_head);
        uint32_t ring = sock->b2c->rx_bytes;
        uint32_t used = head - sock->rx_tail;
        if (used > ring || ring > client->layout.rx_bytes) {
            used = 0;
        }
        uint32_t take = used < limit ? used : limit;
        /* The base only moves while the ring is empty, and is published before the head. */
        uint32_t start = (sock->rx_tail - sock->b2c->rx_base) & (ring - 1);
        uint32_t first = take < ring - start ? take : ring - start;
        if (first) {
            spans[count++] = (struct pf_span){sock->rx + start, first};
        }
        if (take > first) {
            spans[count++] = (struct pf_span){sock->rx, take - first};
        }
    }
    pf_unlock(client);
    return count;
}

/* Caller holds the lock. 0, or -ESTALE: the bytes went with the socket. */
static int consume(struct pf_client *client, struct pf_sock *sock, uint32_t bytes, bool *ring) {
    pf_store_relaxed(&sock->rx_tail, sock->rx_tail + bytes);
    pf_store_release(&sock->c2b->rx_tail, sock->rx_tail);
    /* The backend asks to be told as soon as the window has shrunk noticeably: the fence in pf_hint
     * orders our store before its look, and this look after our store. */
    pf_full_fence();
    uint32_t state = pf_load_relaxed(&sock->b2c->state);
    if ((state & (PF_STATE_MOVING | PF_STATE_MOVED)) && pf_moved(client, sock)) {
        return (int32_t)(sock->rx_tail - sock->b2c->moved_rx) > 0 ? -ESTALE : 0;
    }
    *ring = (state & PF_STATE_WANTS_HINT) && pf_hint(client, sock);
    return 0;
}

int pf_rx_consume(struct pf_client *client, uint32_t slot, uint32_t bytes) {
    bool ring = false;
    int result = 0;
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    if (!sock || !pf_sock_known(sock)) {
        result = -EBADF;
    } else if (bytes > pf_load_acquire(&sock->b2c->rx_head) - sock->rx_tail) {
        result = -EINVAL;
    } else {
        result = consume(client, sock, bytes, &ring);
    }
    pf_unlock(client);
    if (ring) {
        pf_ring(client);
    }
    return result;
}

/* Why there is nothing to read. Caller holds the lock. */
static int64_t rx_nothing(const struct pf_sock *sock, uint32_t state) {
    if (state & PF_STATE_MOVED) {
        return -ESTALE;
    }
    /* An end that came before the error stays the end: only writes are told of the error. */
    if (state & PF_STATE_EOF) {
        return 0;
    }
    if (state & PF_STATE_ERROR) {
        return -sock->b2c->error;
    }
    return state & (PF_STATE_CONNECTED) ? -EAGAIN : -ENOTCONN;
}

static int64_t rx_read_locked(struct pf_client *client, struct pf_sock *sock, uint8_t *buffer,
                              uint32_t limit, int peek, bool *ring) {
    if (sock->open_error) {
        return sock->open_error;
    }
    if (!pf_sock_known(sock)) {
        return sock->adopted ? -EAGAIN : -ENOTCONN;
    }
    /* State before head: once the end shows, every byte before it shows too. */
    uint32_t state = pf_load_acquire(&sock->b2c->state);
    uint32_t used = pf_load_acquire(&sock->b2c->rx_head) - sock->rx_tail;
    uint32_t bytes = sock->b2c->rx_bytes;
    if (used == 0 || (state & PF_STATE_MOVED)) {
        return rx_nothing(sock, state);
    }
    if (used > bytes || bytes > client->layout.rx_bytes) {
        return -EPROTO;
    }
    uint32_t take = used < limit ? used : limit;
    uint32_t start = (sock->rx_tail - sock->b2c->rx_base) & (bytes - 1);
    uint32_t first = take < bytes - start ? take : bytes - start;
    memcpy(buffer, sock->rx + start, first);
    memcpy(buffer + first, sock->rx, take - first);
    int gone = peek ? 0 : consume(client, sock, take, ring);
    return gone ? gone : (int64_t)take;
}

int64_t pf_rx_read(struct pf_client *client, uint32_t slot, void *buffer, uint32_t limit,
                   int peek) {
    bool ring = false;
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    int64_t result = sock ? rx_read_locked(client, sock, buffer,
                                           limit > INT32_MAX ? INT32_MAX : limit, peek, &ring)
                          : -EBADF;
    pf_unlock(client);
    if (ring) {
        pf_ring(client);
    }
    if ((result == -EAGAIN || result == -ENOTCONN) && pf_client_ended(client)) {
        return -EPIPE;
    }
    return result;
}

int64_t pf_recv(struct pf_client *client, uint32_t slot, void *buffer, uint32_t limit, int peek,
                int64_t timeout_ns) {
    if (!pf_slot_known(client, slot)) {
        return -EBADF;
    }
    struct pf_sock *sock = &client->socks[slot];
    struct pf_waiter waiter;
    bool started = false;
    uint32_t interrupts = pf_load_relaxed(&sock->interrupts);
    for (;;) {
        uint32_t seen = pf_load_acquire(&sock->b2c->event);
        int64_t result = pf_rx_read(client, slot, buffer, limit, peek);
        if (result != -EAGAIN || timeout_ns == 0) {
            return result;
        }
        if (!started) {
            pf_waiter_start(&waiter, client, timeout_ns);
            started = true;
            if (pf_waiter_spin(&waiter, &sock->b2c->event, seen)) {
                continue;
            }
        }
        int slept = pf_waiter_sleep(&waiter, &sock->b2c->event, seen, &sock->c2b->waiting);
        if (slept == -ETIMEDOUT) {
            return pf_rx_read(client, slot, buffer, limit, peek);
        }
        if (slept != 0) {
            return slept;
        }
        if (pf_load_relaxed(&sock->interrupts) != interrupts) {
            return -EINTR;
        }
    }
}

/* Why a write cannot be taken for ever, or 0. */
static int tx_refused(struct pf_client *client, uint32_t slot) {
    int result = 0;
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    if (!sock || sock->phase != PF_SLOT_OPEN) {
        result = -EBADF;
    } else if (sock->open_error) {
        result = sock->open_error;
    } else if (pf_sock_known(sock)) {
        uint32_t state = pf_load_acquire(&sock->b2c->state);
        if (state & PF_STATE_MOVED) {
            result = -ESTALE;
        } else if (state & PF_STATE_ERROR) {
            result = -sock->b2c->error;
        } else if (sock->tx_ended || state & PF_STATE_TX_CLOSED || !(state & PF_STATE_CONNECTED)) {
            result = -EPIPE; /* the kernel's answer on a socket that was never connected, too */
        }
    } else if (!sock->adopted) {
        result = -EPIPE;
    }
    pf_unlock(client);
    return result;
}

static int wait_for_room(struct pf_waiter *waiter, struct pf_client *client, struct pf_sock *sock,
                         uint32_t seen) {
    struct pf_waiter look;
    if (pf_socket_send_used(client, sock->slot) > 0) {
        return pf_waiter_sleep(waiter, &sock->b2c->event, seen, &sock->c2b->waiting);
    }
    pf_waiter_start(&look, client, PF_MEMORY_LOOK_NS);
    if (look.deadline_ns > waiter->deadline_ns) {
        look.deadline_ns = waiter->deadline_ns;
    }
    int slept = pf_waiter_sleep(&look, &sock->b2c->event, seen, &sock->c2b->waiting);
    return slept == -ETIMEDOUT && look.deadline_ns < waiter->deadline_ns ? 0 : slept;
}

static int64_t send_some(struct pf_client *client, uint32_t slot, const void *data, uint32_t length,
                         int64_t timeout_ns, uint8_t last_flags) {
    if (!pf_slot_known(client, slot)) {
        return -EBADF;
    }
    struct pf_sock *sock = &client->socks[slot];
    struct pf_waiter waiter;
    pf_waiter_start(&waiter, client, timeout_ns);
    uint32_t interrupts = pf_load_relaxed(&sock->interrupts);
    uint32_t sent = 0;
    uint32_t most = PF_SEND_CHUNK;
    for (;;) {
        uint32_t seen = pf_load_acquire(&sock->b2c->event);
        int refused = tx_refused(client, slot);
        if (refused) {
            return sent ? (int64_t)sent : refused;
        }
        while (sent < length) {
            /* A socket with a small limit gets small blocks: the first one is always granted. */
            uint32_t limit = pf_load_relaxed(&sock->send_limit);
            most = limit < most ? limit : most;
            uint32_t chunk = length - sent < most ? length - sent : most;
            struct pf_sqe sqe = {.opcode = PF_OP_WRITE,
                                 .flags = sent + chunk == length ? last_flags : 0};
            int64_t result = pf_submit_block(client, slot, &sqe, (const uint8_t *)data + sent,
                                             chunk, PF_DELIVER_NONE);
            if (result == -ENOBUFS && !sent && timeout_ns == 0 && chunk > PF_SEND_LEAST) {
                /* Poll says that there is room as soon as there is any: part of it fits. */
                most = chunk / 4 > PF_SEND_LEAST ? chunk / 4 : PF_SEND_LEAST;
                continue;
            }
            if (result == -ENOBUFS || result == -EAGAIN) {
                break;
            }
            if (result < 0) {
                return sent ? (int64_t)sent : result;
            }
            sent += chunk;
        }
        if (sent || length == 0) {
            return sent;
        }
        if (timeout_ns == 0) {
            return -EAGAIN;
        }
        int slept = wait_for_room(&waiter, client, sock, seen);
        if (slept != 0) {
            return slept == -ETIMEDOUT ? -EAGAIN : slept;
        }
        if (pf_load_relaxed(&sock->interrupts) != interrupts) {
            return -EINTR;
        }
    }
}

int64_t pf_send(struct pf_client *client, uint32_t slot, const void *data, uint32_t length,
                int64_t timeout_ns) {
    return send_some(client, slot, data, length, timeout_ns, 0);
}

int64_t pf_send_urgent(struct pf_client *client, uint32_t slot, const void *data, uint32_t length,
                       int64_t timeout_ns) {
    return send_some(client, slot, data, length, timeout_ns, PF_SQE_URGENT);
}
