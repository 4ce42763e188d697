/* Datagrams: one at a time out of the receive ring and into the send arena. */
#include <errno.h>
#include <string.h>

#include "client/internal.h"

/* ---- errors that the network reported ---- */

/* What nobody was told of yet: 0 or an errno. Caller holds the lock. */
static int take_error(struct pf_sock *sock) {
    int error = sock->send_error;
    if (error) {
        sock->send_error = 0;
        return error;
    }
    uint32_t reported = pf_load_acquire(&sock->b2c->accepts);
    if (!pf_sock_known(sock) || reported == sock->c2b->accepts_taken) {
        return 0;
    }
    /* Several in a row are one: the kernel, too, keeps the latest only. */
    error = sock->b2c->error;
    pf_store_release(&sock->c2b->accepts_taken, reported);
    return error;
}

int pf_datagram_error(struct pf_client *client, uint32_t slot) {
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    int result = sock ? take_error(sock) : -EBADF;
    pf_unlock(client);
    return result;
}

/* ---- receiving ---- */

static void copy_out(const struct pf_sock *sock, uint32_t at, void *to, uint32_t length) {
    uint32_t bytes = sock->b2c->rx_bytes;
    uint32_t start = (at - sock->b2c->rx_base) & (bytes - 1);
    uint32_t first = length < bytes - start ? length : bytes - start;
    memcpy(to, sock->rx + start, first);
    memcpy((uint8_t *)to + first, sock->rx, length - first);
}

/* Caller holds the lock. */
static int64_t take_datagram(struct pf_client *client, struct pf_sock *sock, void *buffer,
                             uint32_t limit, int flags, struct pf_datagram *info) {
    if (sock->open_error) {
        return sock->open_error;
    }
    int error = flags & PF_DATAGRAM_ERRORS ? take_error(sock) : 0;
    if (error) {
        return -error;
    }
    if (!pf_sock_known(sock)) {
        return -EAGAIN;
    }
    /* State before head: once the end shows, every datagram before it shows too. */
    uint32_t state = pf_load_acquire(&sock->b2c->state);
    uint32_t used = pf_load_acquire(&sock->b2c->rx_head) - sock->rx_tail;
    uint32_t bytes = sock->b2c->rx_bytes;
    if (state & PF_STATE_MOVED) {
        return -ESTALE;
    }
    if (used == 0) {
        return state & PF_STATE_EOF ? -ESHUTDOWN : -EAGAIN;
    }
    if (used < sizeof(*info) || used > bytes || bytes > client->layout.rx_bytes) {
        return -EPROTO;
    }
    copy_out(sock, sock->rx_tail, info, sizeof(*info));
    uint32_t record = (uint32_t)sizeof(*info) + ((info->length + 7U) & ~7U);
    if (info->length > used || record > used) {
        return -EPROTO;
    }
    uint32_t take = info->length < limit ? info->length : limit;
    copy_out(sock, sock->rx_tail + (uint32_t)sizeof(*info), buffer, take);
    if (!(flags & PF_DATAGRAM_PEEK)) {
        pf_store_relaxed(&sock->rx_tail, sock->rx_tail + record);
        pf_store_release(&sock->c2b->rx_tail, sock->rx_tail);
        if (sock->identified && pf_consumed_too_late(client, sock)) {
            return -ESTALE;
        }
    }
    return take;
}

static int64_t receive(struct pf_client *client, uint32_t slot, void *buffer, uint32_t limit,
                       int flags, struct pf_datagram *info) {
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    int64_t result =
        sock ? take_datagram(client, sock, buffer, limit, flags, info) : (int64_t)-EBADF;
    pf_unlock(client);
    return result == -EAGAIN && pf_client_ended(client) ? -EPIPE : result;
}

int64_t pf_recvfrom(struct pf_client *client, uint32_t slot, void *buffer, uint32_t limit,
                    int flags, int64_t timeout_ns, struct pf_datagram *info) {
    if (!pf_slot_known(client, slot)) {
        return -EBADF;
    }
    struct pf_sock *sock = &client->socks[slot];
    struct pf_waiter waiter;
    bool started = false;
    uint32_t interrupts = pf_load_relaxed(&sock->interrupts);
    for (;;) {
        uint32_t seen = pf_load_acquire(&sock->b2c->event);
        int64_t result = receive(client, slot, buffer, limit, flags, info);
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
            return receive(client, slot, buffer, limit, flags, info);
        }
        if (slept != 0) {
            return slept;
        }
        if (pf_load_relaxed(&sock->interrupts) != interrupts) {
            return -EINTR;
        }
    }
}

/* ---- sending ---- */

int64_t pf_sendto(struct pf_client *client, uint32_t slot, const void *data, uint32_t length,
                  const struct pf_addr *to, uint64_t how, int delivery) {
    struct pf_sqe sqe = {.opcode = PF_OP_SENDTO, .token = how};
    if (to) {
        sqe.addr = *to;
    }
    return pf_submit_block(client, slot, &sqe, data, length, delivery);
}

int64_t pf_sendto_wait(struct pf_client *client, uint32_t slot, const void *data, uint32_t length,
                       const struct pf_addr *to, uint64_t how, int delivery, int64_t timeout_ns) {
    if (!pf_slot_known(client, slot)) {
        return -EBADF;
    }
    struct pf_sock *sock = &client->socks[slot];
    struct pf_waiter waiter;
    pf_waiter_start(&waiter, client, timeout_ns);
    uint32_t interrupts = pf_load_relaxed(&sock->interrupts);
    for (;;) {
        uint32_t seen = pf_load_acquire(&sock->b2c->event);
        int64_t result = pf_sendto(client, slot, data, length, to, how, delivery);
        if (result != -ENOBUFS && result != -EAGAIN) {
            return result;
        }
        if (timeout_ns == 0) {
            return -EAGAIN;
        }
        /* Room may also come from another socket, which does not wake this one: the pulse does. */
        int slept = pf_waiter_sleep(&waiter, &sock->b2c->event, seen, &sock->c2b->waiting);
        if (slept != 0) {
            return slept == -ETIMEDOUT ? -EAGAIN : slept;
        }
        if (pf_load_relaxed(&sock->interrupts) != interrupts) {
            return -EINTR;
        }
    }
}
