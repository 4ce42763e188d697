/* Waiting: spin for a while where that pays, then sleep on a futex, and never for ever on a dead
 * backend. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>

#include "client/internal.h"

void pf_waiter_start(struct pf_waiter *waiter, struct pf_client *client, int64_t timeout_ns) {
    waiter->client = client;
    waiter->started_ns = pf_now_ns();
    waiter->deadline_ns = timeout_ns < 0 ? UINT64_MAX : waiter->started_ns + (uint64_t)timeout_ns;
    waiter->spun_ns = 0;
}

/* Looks at `sock`'s CQ, or at `word` where there is no socket. Inlined into one loop for each. */
static inline bool news(const struct pf_client *client, const struct pf_sock *sock,
                        const uint32_t *word, uint32_t seen) {
    return sock ? pf_cq_waiting(client, sock) : pf_load_acquire(word) != seen;
}

static inline __attribute__((always_inline)) bool
spin(struct pf_waiter *waiter, const struct pf_sock *sock, const uint32_t *word, uint32_t seen) {
    struct pf_client *client = waiter->client;
    int64_t budget = pf_spin_budget(client);
    if (budget == 0 || !pf_spin_worthwhile(&client->spin)) {
        return false;
    }
    uint64_t end = waiter->started_ns + (uint64_t)budget;
    if (end > waiter->deadline_ns) {
        end = waiter->deadline_ns;
    }
    for (;;) {
        for (int i = 0; i < PF_SPIN_LOOKS; i++) {
            if (news(client, sock, word, seen)) {
                pf_spin_result(&client->spin, true);
                return true;
            }
            pf_spin_relax(i);
        }
        uint64_t now = pf_now_ns();
        if (now >= end || !pf_spin_pause(now, now - waiter->started_ns + waiter->spun_ns)) {
            bool found = news(client, sock, word, seen);
            pf_spin_result(&client->spin, found);
            return found;
        }
    }
}

bool pf_waiter_spin(struct pf_waiter *waiter, const uint32_t *word, uint32_t seen) {
    return spin(waiter, NULL, word, seen);
}

bool pf_waiter_spin_cq(struct pf_waiter *waiter, const struct pf_sock *sock) {
    return spin(waiter, sock, NULL, 0);
}

static bool backend_gone(struct pf_client *client) {
    struct pollfd watched = {.fd = client->control_fd, .events = POLLRDHUP};
    if (poll(&watched, 1, 0) > 0 &&
        (watched.revents & (POLLHUP | POLLRDHUP | POLLERR | POLLNVAL))) {
        pf_client_abandon(client);
        return true;
    }
    return false;
}

int pf_client_look(struct pf_client *client) {
    if (!pf_client_ended(client)) {
        (void)backend_gone(client);
    }
    return pf_client_ended(client);
}

int pf_waiter_sleep(struct pf_waiter *waiter, const uint32_t *event, uint32_t seen,
                    uint32_t *waiting) {
    struct pf_client *client = waiter->client;
    if (pf_client_ended(client)) {
        return -EPIPE;
    }
    int64_t slice = PF_PULSE_NS;
    if (waiter->deadline_ns != UINT64_MAX) {
        uint64_t now = pf_now_ns();
        if (now >= waiter->deadline_ns) {
            return -ETIMEDOUT;
        }
        if (waiter->deadline_ns - now < (uint64_t)slice) {
            slice = (int64_t)(waiter->deadline_ns - now);
        }
    }
    int result = pf_event_sleep(event, seen, waiting, slice);
    if (result == -EINTR) {
        return -EINTR;
    }
    if (pf_client_ended(client) || (result == -ETIMEDOUT && backend_gone(client))) {
        return -EPIPE;
    }
    return 0;
}

/* The mirror of a listener is readable while connections wait that the program has not been given.
 */
static void note_accept(struct pf_sock *sock, const struct pf_done *done) {
    if (done->opcode == PF_OP_ACCEPT && done->result >= 0) {
        pf_store_release(&sock->c2b->accepts_taken, sock->c2b->accepts_taken + 1);
    }
}

/* Takes the first of the completions that wait, of which there is one. Caller holds the lock; true:
 * ring the doorbell after unlocking. */
static inline bool take_first(struct pf_client *client, struct pf_sock *sock, struct pf_done *out) {
    *out = sock->fifo[sock->fifo_head];
    out->reaped_ns = client->stamp_reaped ? pf_now_ns() : 0;
    sock->fifo_head = (sock->fifo_head + 1) & (sock->fifo_capacity - 1);
    note_accept(sock, out);
    pf_store_relaxed(&sock->fifo_count, sock->fifo_count - 1);
    return (pf_load_relaxed(&sock->b2c->state) & PF_STATE_WANTS_HINT) && pf_hint(client, sock);
}

/* Takes one completion of the socket, reaping if needed. Returns 1, 0 or -EBADF. */
static int take(struct pf_client *client, uint32_t slot, struct pf_done *out) {
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    if (!sock) {
        pf_unlock(client);
        return -EBADF;
    }
    if (sock->fifo_count == 0) {
        pf_reap(client, sock);
    }
    int got = sock->fifo_count > 0;
    bool ring = got && take_first(client, sock, out);
    pf_unlock(client);
    if (ring) {
        pf_ring(client);
    }
    return got;
}

int pf_poll(struct pf_client *client, uint32_t slot, struct pf_done *out) {
    int got = take(client, slot, out);
    return got == 0 && pf_client_ended(client) ? -EPIPE : got;
}

/* A glance without the lock: right after submitting there is nothing yet. */
static bool nothing_new(const struct pf_client *client, const struct pf_sock *sock) {
    return pf_load_relaxed(&sock->fifo_count) == 0 && !pf_cq_waiting(client, sock);
}

/* As many looks as fit before the first time that the processor is given away, without a look at
 * the clock. */
#define GLANCE_LOOKS (4 * PF_SPIN_LOOKS)

int pf_glance(struct pf_client *client, uint32_t slot, struct pf_done *out) {
    if (!pf_slot_known(client, slot)) {
        return -EBADF;
    }
    const struct pf_sock *sock = &client->socks[slot];
    if (!nothing_new(client, sock)) {
        return pf_poll(client, slot, out);
    }
    if (client->spin.skip > 0 || pf_spin_budget(client) == 0) {
        return 0;
    }
    for (int i = 0; i < GLANCE_LOOKS; i++) {
        if (pf_cq_waiting(client, sock)) {
            pf_spin_result(&client->spin, true);
            return pf_poll(client, slot, out);
        }
        pf_spin_relax(i);
    }
    return 0;
}

static int wait_for(struct pf_client *client, uint32_t slot, int64_t timeout_ns, uint64_t spun_ns,
                    struct pf_done *out) {
    if (!pf_slot_known(client, slot)) {
        return -EBADF;
    }
    struct pf_sock *sock = &client->socks[slot];
    struct pf_waiter waiter;
    bool started = false;
    uint32_t interrupts = pf_load_relaxed(&sock->interrupts);
    if (timeout_ns != 0 && nothing_new(client, sock)) {
        pf_waiter_start(&waiter, client, timeout_ns);
        waiter.spun_ns = spun_ns;
        started = true;
        if (pf_waiter_spin_cq(&waiter, sock)) {
            int got = take(client, slot, out);
            if (got != 0) {
                return got;
            }
        }
    }
    for (;;) {
        /* Taken before the look: a completion after it changes the word, and the sleep fails. */
        uint32_t seen = pf_load_acquire(&sock->b2c->event);
        int got = take(client, slot, out);
        if (got != 0) {
            return got;
        }
        if (!started) {
            pf_waiter_start(&waiter, client, timeout_ns);
            started = true;
        }
        if (pf_batch_has_all(client, sock)) {
            return -EDEADLK;
        }
        int slept = pf_waiter_sleep(&waiter, &sock->b2c->event, seen, &sock->c2b->waiting);
        if (slept == -ETIMEDOUT) {
            return take(client, slot, out);
        }
        if (slept != 0) {
            return slept;
        }
        if (pf_load_relaxed(&sock->interrupts) != interrupts) {
            return -EINTR;
        }
    }
}

int pf_wait(struct pf_client *client, uint32_t slot, int64_t timeout_ns, struct pf_done *out) {
    return wait_for(client, slot, timeout_ns, 0, out);
}

int pf_wait_on(struct pf_client *client, uint32_t slot, int64_t timeout_ns, struct pf_done *out) {
    return wait_for(client, slot, timeout_ns, PF_SPIN_PURE_NS, out);
}

/* Puts the sockets that the event rings name on the ready lists, in order of priority. */
static void drain_events(struct pf_client *client) {
    uint32_t slots[32];
    for (int p = 0; p < PF_PRIORITIES; p++) {
        int count;
        while ((count = pf_hint_pop(&client->events[p], slots, 32)) > 0) {
            for (int i = 0; i < count; i++) {
                struct pf_sock *sock = pf_sock_get(client, slots[i]);
                if (sock) {
                    pf_reap_news(client, sock);
                }
            }
        }
    }
}

/* Takes the next completion of those that are known of. Caller holds the lock; 1 or 0. */
static int take_any(struct pf_client *client, struct pf_done *out, bool *ring) {
    int got = 0;
    for (int p = 0; p < PF_PRIORITIES && !got; p++) {
        while (client->ready_first[p] != PF_NO_SLOT) {
            struct pf_sock *sock = &client->socks[client->ready_first[p]];
            if (sock->fifo_count > 0) {
                *ring |= take_first(client, sock, out);
                got = 1;
            }
            /* Round robin: one completion, then the next socket of the same priority. */
            client->ready_first[p] = sock->next_ready;
            sock->in_ready = false;
            if (sock->fifo_count > 0 || pf_cq_waiting(client, sock)) {
                sock->in_ready = true;
                sock->next_ready = PF_NO_SLOT;
                if (client->ready_first[p] == PF_NO_SLOT) {
                    client->ready_first[p] = sock->slot;
                } else {
                    client->socks[client->ready_last[p]].next_ready = sock->slot;
                }
                client->ready_last[p] = sock->slot;
                if (sock->fifo_count == 0) {
                    pf_reap(client, sock);
                }
            }
            if (got) {
                break;
            }
        }
    }
    return got;
}

int pf_poll_any(struct pf_client *client, struct pf_done *out) {
    bool ring = false;
    pf_lock(client);
    drain_events(client);
    int got = take_any(client, out, &ring);
    pf_unlock(client);
    if (ring) {
        pf_ring(client);
    }
    return got == 0 && pf_client_ended(client) ? -EPIPE : got;
}

/* Takes what there is of one socket. Caller holds the lock; their number, or -EBADF. */
static int take_many(struct pf_client *client, uint32_t slot, struct pf_done *out, uint32_t limit,
                     bool *ring) {
    struct pf_sock *sock = pf_sock_get(client, slot);
    if (!sock) {
        return -EBADF;
    }
    uint32_t got = 0;
    while (got < limit) {
        if (sock->fifo_count == 0) {
            pf_reap(client, sock);
        }
        if (sock->fifo_count == 0) {
            break;
        }
        *ring |= take_first(client, sock, &out[got++]);
    }
    return (int)got;
}

int pf_poll_many(struct pf_client *client, uint32_t slot, struct pf_done *out, uint32_t limit) {
    bool ring = false;
    int got = 0;
    pf_lock(client);
    if (slot == PF_ANY_SOCKET) {
        drain_events(client);
        while ((uint32_t)got < limit && take_any(client, &out[got], &ring)) {
            got++;
        }
    } else {
        got = take_many(client, slot, out, limit, &ring);
    }
    pf_unlock(client);
    if (ring) {
        pf_ring(client);
    }
    return got == 0 && pf_client_ended(client) ? -EPIPE : got;
}

int pf_wait_any(struct pf_client *client, int64_t timeout_ns, struct pf_done *out) {
    struct pf_waiter waiter;
    uint32_t wake = pf_load_acquire(&client->wake_any);
    bool started = false;
    for (;;) {
        uint32_t seen = pf_load_acquire(&client->b2c_control->event);
        int got = pf_poll_any(client, out);
        if (got != 0 || pf_load_acquire(&client->wake_any) != wake) {
            return got;
        }
        if (!started) {
            pf_waiter_start(&waiter, client, timeout_ns);
            started = true;
            if (timeout_ns != 0 && pf_waiter_spin(&waiter, &client->b2c_control->event, seen)) {
                continue;
            }
        }
        if (pf_batch_has_all(client, NULL)) {
            return -EDEADLK;
        }
        int slept = pf_waiter_sleep(&waiter, &client->b2c_control->event, seen,
                                    &client->c2b_control->waiting);
        if (slept == -ETIMEDOUT) {
            return pf_poll_any(client, out);
        }
        if (slept != 0) {
            return slept;
        }
    }
}

void pf_wake_any(struct pf_client *client) {
    (void)pf_add_fetch(&client->wake_any, 1);
    /* The futex word is the backend's, but waking needs no right to write it. A thread between its
     * look at wake_any and its sleep is caught by its next pulse. */
    (void)pf_futex_wake(&client->b2c_control->event, INT_MAX);
}

static int take_call(struct pf_client *client, uint32_t slot, uint64_t op_id, struct pf_done *out) {
    uint32_t index = (uint32_t)(op_id & 0xffff);
    int got = 0;
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    if (!sock || index >= client->layout.cq_depth || sock->pending[index].op_id != op_id ||
        sock->pending[index].state == PF_PENDING_FREE) {
        pf_unlock(client);
        return -EBADF;
    }
    pf_reap(client, sock);
    struct pf_pending *pending = &sock->pending[index];
    if (pending->state == PF_PENDING_DONE) {
        *out = pending->done;
        pending->state = PF_PENDING_FREE;
        sock->pending_free[sock->pending_free_count++] = index;
        got = 1;
    }
    pf_unlock(client);
    return got;
}

int pf_await(struct pf_client *client, uint32_t slot, uint64_t op_id, int64_t timeout_ns,
             struct pf_done *out) {
    if (!pf_slot_known(client, slot)) {
        return -EBADF;
    }
    struct pf_sock *sock = &client->socks[slot];
    struct pf_waiter waiter;
    bool started = false;
    uint32_t interrupts = pf_load_relaxed(&sock->interrupts);
    for (;;) {
        uint32_t seen = pf_load_acquire(&sock->b2c->event);
        int got = take_call(client, slot, op_id, out);
        if (got != 0) {
            return got;
        }
        if (!started) {
            pf_waiter_start(&waiter, client, timeout_ns);
            started = true;
            if (timeout_ns != 0 && pf_waiter_spin(&waiter, &sock->b2c->event, seen)) {
                continue;
            }
        }
        int slept = pf_waiter_sleep(&waiter, &sock->b2c->event, seen, &sock->c2b->waiting);
        if (slept == -ETIMEDOUT) {
            return take_call(client, slot, op_id, out);
        }
        if (slept != 0) {
            return slept;
        }
        if (pf_load_relaxed(&sock->interrupts) != interrupts) {
            return -EINTR;
        }
    }
}

static int has_room(struct pf_client *client, uint32_t slot) {
    int result = -EBADF;
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    if (sock) {
        pf_reap(client, sock);
        result = sock->pending_free_count > 1 && sock->user_ops < sock->user_limit;
    }
    pf_unlock(client);
    return result;
}

int pf_await_room(struct pf_client *client, uint32_t slot, int64_t timeout_ns) {
    if (!pf_slot_known(client, slot)) {
        return -EBADF;
    }
    struct pf_sock *sock = &client->socks[slot];
    struct pf_waiter waiter;
    pf_waiter_start(&waiter, client, timeout_ns);
    uint32_t interrupts = pf_load_relaxed(&sock->interrupts);
    for (;;) {
        uint32_t seen = pf_load_acquire(&sock->b2c->event);
        int room = has_room(client, slot);
        if (room != 0) {
            return room;
        }
        int slept = pf_waiter_sleep(&waiter, &sock->b2c->event, seen, &sock->c2b->waiting);
        if (slept != 0) {
            return slept == -ETIMEDOUT ? 0 : slept;
        }
        if (pf_load_relaxed(&sock->interrupts) != interrupts) {
            return -EINTR;
        }
    }
}

void pf_forget(struct pf_client *client, uint32_t slot, uint64_t op_id) {
    uint32_t index = (uint32_t)(op_id & 0xffff);
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    if (sock && index < client->layout.cq_depth && sock->pending[index].op_id == op_id) {
        struct pf_pending *pending = &sock->pending[index];
        if (pending->state == PF_PENDING_DONE) {
            pending->state = PF_PENDING_FREE;
            sock->pending_free[sock->pending_free_count++] = index;
        } else {
            pending->delivery = PF_DELIVER_NONE;
        }
    }
    pf_unlock(client);
}
