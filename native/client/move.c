/* Sockets that move between sessions: claims, and what a client finds out too late.
 *
 * The backend cannot stop a client from reading a ring or submitting at the very moment at which
 * the socket moves away. So it says when it begins (MOVING), fences, takes note of how far the
 * client was, and publishes that with MOVED. The client, after each step that counts, fences and
 * looks at the state: either the backend has seen the step, or the client sees MOVING, and learns
 * from the notes which of the two it was. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/internal.h"

#define LOOKS_PER_PULSE 4096U

static bool hung_up(const struct pf_client *client) {
    struct pollfd watched = {.fd = client->control_fd, .events = POLLRDHUP};
    return poll(&watched, 1, 0) > 0 &&
           (watched.revents & (POLLHUP | POLLRDHUP | POLLERR | POLLNVAL));
}

bool pf_moved(struct pf_client *client, const struct pf_sock *sock) {
    for (uint32_t looks = 1;; looks++) {
        uint32_t state = pf_load_acquire(&sock->b2c->state);
        if (!(state & PF_STATE_MOVING)) {
            return (state & PF_STATE_MOVED) != 0;
        }
        if (pf_client_ended(client) || (looks % LOOKS_PER_PULSE == 0 && hung_up(client))) {
            return true;
        }
        (void)sched_yield(); /* one step of the backend */
    }
}

bool pf_consumed_too_late(struct pf_client *client, const struct pf_sock *sock) {
    pf_full_fence();
    return (pf_load_relaxed(&sock->b2c->state) & (PF_STATE_MOVING | PF_STATE_MOVED)) &&
           pf_moved(client, sock) && (int32_t)(sock->rx_tail - sock->b2c->moved_rx) > 0;
}

int pf_accept_adopt(struct pf_client *client, uint32_t listener, uint64_t token, int priority) {
    int slot = pf_socket_adopt(client, token, priority);
    if (slot < 0 || !pf_slot_known(client, listener)) {
        return slot;
    }
    /* Either the backend, before it shares the listener, sees the adoption, or we see that. */
    pf_full_fence();
    if (!(pf_load_acquire(&client->socks[listener].b2c->state) & PF_STATE_SHARED)) {
        return slot;
    }
    struct pf_done done;
    int64_t op = pf_submit(client, (uint32_t)slot, PF_OP_NOP, 0, 0, 0, 0, NULL, PF_DELIVER_CALL);
    int got = op > 0 ? 0 : (int)op;
    while (got == 0 || got == -EINTR) {
        got = pf_await(client, (uint32_t)slot, (uint64_t)op, PF_PULSE_NS, &done);
    }
    pf_lock(client);
    int failed = client->socks[slot].open_error;
    pf_unlock(client);
    if (got == 1 && !failed) {
        return slot;
    }
    (void)pf_socket_release(client, (uint32_t)slot, 0);
    return failed || got == 1 ? -ESTALE : got;
}

int pf_socket_claim(struct pf_client *client, uint64_t ticket, int priority, int fd, uint64_t *op) {
    if (priority < 0 || priority >= PF_PRIORITIES) {
        return -EINVAL;
    }
    if (priority < (int)client->layout.allowed_priority) {
        priority = (int)client->layout.allowed_priority;
    }
    struct pf_sqe sqe = {.opcode = PF_OP_ADOPT,
                         .flags = PF_SQE_TICKET,
                         .token = ticket,
                         .offset = (uint32_t)priority};
    int slot = pf_open_slot(client, &sqe, priority, PF_DELIVER_CALL, op);
    if (slot >= 0) {
        pf_lock(client);
        struct pf_sock *sock = &client->socks[slot];
        /* The backend takes it that all questions are open. */
        sock->mirror_fd = fd;
        sock->mirror_armed = fd >= 0;
        sock->identified = true;
        pf_unlock(client);
    }
    return slot;
}

int pf_socket_interrupt(struct pf_client *client, uint32_t slot) {
    if (!pf_slot_known(client, slot)) {
        return -EBADF;
    }
    struct pf_sock *sock = &client->socks[slot];
    (void)pf_add_fetch(&sock->interrupts, 1);
    /* The word is the backend's, but waking needs no right to write it. A thread that is about to
     * sleep on it is caught by its next pulse. */
    (void)pf_futex_wake(&sock->b2c->event, INT32_MAX);
    return 0;
}

static void put_nothing(const void *where, uint64_t bytes) {
    if (where) {
        void *got = mmap((void *)(uintptr_t)where, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        if (got != MAP_FAILED && got != where) {
            (void)munmap(got, bytes); /* a kernel that takes the address as a hint */
        }
    }
}

void pf_client_forked(struct pf_client *client) {
    put_nothing(client->c2b, client->layout.c2b_bytes);
    put_nothing(client->b2c, client->layout.b2c_bytes);
    put_nothing(client->public_region, sizeof(struct pf_public));
    /* Whoever held it is a thread of the parent. */
    memset(&client->lock, 0, sizeof(client->lock));
    pf_store_release(&client->abandoned, PF_ENDED_CLOSED);
    if (client->doorbell_fd >= 0) {
        (void)close(client->doorbell_fd); /* ours is a copy */
        client->doorbell_fd = -1;
    }
}
