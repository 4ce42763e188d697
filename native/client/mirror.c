/* Mirror descriptors, the client's side. A mirror is one end of a UNIX stream pair: a byte in it
 * means "readable", a full send buffer means "not writable"; the backend puts the byte in and
 * drains. Each state is answered once per arming: the arm counters say which question a token
 * answers. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "client/internal.h"

int pf_mirror_attach(struct pf_client *client, uint32_t slot, uint64_t mirror_id, int fd) {
    bool ring = false;
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    int64_t result = -EBADF;
    if (sock && sock->phase == PF_SLOT_OPEN) {
        struct pf_sqe sqe = {.opcode = PF_OP_MIRROR, .token = mirror_id};
        sock->mirror_fd = fd;
        sock->mirror_armed = false;
        sock->identified = true;
        /* A question that the slot's former socket left unanswered is none of this one. */
        pf_store_release(&sock->c2b->read_arm, pf_load_acquire(&sock->b2c->read_token));
        pf_store_release(&sock->c2b->write_arm, pf_load_acquire(&sock->b2c->write_token));
        result = pf_submit_locked(client, sock, &sqe, PF_DELIVER_NONE, 0, &ring);
    }
    pf_unlock(client);
    if (ring) {
        pf_ring(client);
    }
    return result < 0 ? (int)result : 0;
}

int pf_mirror_arm(struct pf_client *client, uint32_t slot) {
    bool ring = false;
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    int result = sock && sock->mirror_fd >= 0 ? 0 : -EBADF;
    if (result == 0 && !sock->mirror_armed) {
        sock->mirror_armed = true;
        pf_store_release(&sock->c2b->read_arm, sock->c2b->read_arm + 1);
        ring = pf_hint(client, sock);
    }
    pf_unlock(client);
    if (ring) {
        pf_ring(client);
    }
    return result;
}

int pf_mirror_move(struct pf_client *client, uint32_t slot, int fd) {
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    int result = sock && sock->mirror_fd >= 0 ? 0 : -EBADF;
    if (result == 0) {
        sock->mirror_fd = fd;
        sock->mirror_armed = sock->mirror_armed && fd >= 0;
    }
    pf_unlock(client);
    return result;
}

static bool readable(const struct pf_sock *sock) {
    if (!pf_sock_known(sock)) {
        return false;
    }
    uint32_t state = pf_load_acquire(&sock->b2c->state);
    if (state & PF_STATE_SHARED) {
        return pf_load_acquire(&sock->b2c->accepts) != 0;
    }
    return (pf_load_acquire(&sock->b2c->accepts) != sock->c2b->accepts_taken ||
            pf_load_acquire(&sock->b2c->rx_head) != sock->rx_tail ||
            (pf_load_acquire(&sock->b2c->state) & (PF_STATE_EOF | PF_STATE_ERROR)));
}

/* -ESTALE: the socket has moved, and what was done to its mirror has to be made good by a claim.
 */
static int gone(struct pf_client *client, const struct pf_sock *sock) {
    return pf_sock_known(sock) &&
                   (pf_load_acquire(&sock->b2c->state) & (PF_STATE_MOVING | PF_STATE_MOVED)) &&
                   pf_moved(client, sock)
               ? -ESTALE
               : 0;
}

/* True: ring. */
static bool ask_again(struct pf_client *client, struct pf_sock *sock) {
    pf_store_fence(&sock->c2b->read_arm, sock->c2b->read_arm + 1);
    /* News that came before the backend could see the new arming: have it look again. */
    return readable(sock) && pf_hint(client, sock);
}

int pf_mirror_rearm_read(struct pf_client *client, uint32_t slot) {
    bool ring = false;
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    int result = sock ? 0 : -EBADF;
    if (sock && sock->mirror_armed && !readable(sock)) {
        char token[64];
        bool answered = pf_load_acquire(&sock->b2c->read_token) == sock->c2b->read_arm;
        ssize_t got = recv(sock->mirror_fd, token, sizeof(token), MSG_DONTWAIT);
        /* The byte may be there before the backend has said so: there is one per arming. */
        if (answered || got > 0) {
            ring = ask_again(client, sock);
        }
    }
    result = result ? result : gone(client, sock);
    pf_unlock(client);
    if (ring) {
        pf_ring(client);
    }
    return result;
}

int pf_mirror_rearm_write(struct pf_client *client, uint32_t slot) {
    static const char filler[256];
    bool ring = false;
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    int result = sock ? 0 : -EBADF;
    if (sock && sock->mirror_armed &&
        pf_load_acquire(&sock->b2c->write_token) == sock->c2b->write_arm) {
        while (send(sock->mirror_fd, filler, sizeof(filler), MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
        }
        pf_store_fence(&sock->c2b->write_arm, sock->c2b->write_arm + 1);
        /* The backend looks whether the reason has gone meanwhile. */
        ring = pf_hint(client, sock);
    }
    result = result ? result : gone(client, sock);
    pf_unlock(client);
    if (ring) {
        pf_ring(client);
    }
    return result;
}
