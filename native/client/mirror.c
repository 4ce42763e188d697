/* Mirror descriptors, the client's side. A mirror is one end of a UNIX stream pair: a byte in it
 * means "readable", a full send buffer means "not writable"; the backend puts the byte in and
 * drains. Each state is answered once per arming: the arm counters say which question a token
 * answers. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/internal.h"

/* Far more than a backend needs that lives; a program waits so long once per reset connection. */
#define PF_MIRROR_PATIENCE_MS 100

int pf_mirror_attach(struct pf_client *client, uint32_t slot, uint64_t mirror_id, int fd) {
    bool ring = false;
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    int64_t result = -EBADF;
    if (sock && sock->phase == PF_SLOT_OPEN) {
        struct pf_sqe sqe = {.opcode = PF_OP_MIRROR, .token = mirror_id};
        sock->mirror_fd = fd;
        sock->mirror_armed = false;
        sock->mirror_unsure = false;
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

/* Single bytes: the one that the backend leaves in it must not count for more. */
static bool stuff(int fd) {
    bool any = false;
    while (send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
        any = true;
    }
    return any;
}

/* Fills the descriptor's send buffer, and asks the backend to drain it when there is room again:
 * when `least` has come back, or what is short if that is more. Not only when the last question was
 * answered: the backend may have drained it, and be about to say so.
 *
 * The question says how far what comes back must have got, so its answer is about room and nothing
 * else: completions of other operations, and those that have been reaped, do not count. It is
 * always answered: what it asks for is no more than what is on its way to the backend, or there,
 * and each operation of that ends, whereupon the backend counts it and looks for questions.
 *
 * Caller holds the lock; true: ring. */
static bool fill(struct pf_client *client, struct pf_sock *sock, uint32_t least) {
    if (!sock->mirror_armed) {
        return false;
    }
    uint32_t wanted = pf_send_shortage(client, sock); /* this reaps: first */
    uint32_t flying = sock->blocks_out - sock->blocks_back;
    wanted = wanted > least ? wanted : least;
    uint32_t room = sock->blocks_back + (wanted < flying ? wanted : flying);
    bool filled = stuff(sock->mirror_fd);
    bool open = !filled && pf_load_acquire(&sock->b2c->write_token) != sock->c2b->write_arm;
    if (!filled && !open) {
        (void)stuff(sock->mirror_fd); /* drained between the two looks */
    }
    if (open && sock->c2b->write_room == room) {
        return false; /* still full, and asked for this */
    }
    pf_store_release(&sock->c2b->write_room, room);
    if (open) {
        /* Room came, and was used without having been told of it. The backend, which answers each
         * arming once, may have seen that room, and be about to tell. */
        sock->room_unsure = true;
    } else {
        pf_store_release(&sock->c2b->write_arm, sock->c2b->write_arm + 1);
    }
    pf_full_fence();
    /* The backend looks whether the reason has gone meanwhile. */
    return pf_hint(client, sock);
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

int pf_mirror_arm(struct pf_client *client, uint32_t slot) {
    bool ring = false;
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    int result = sock && sock->mirror_fd >= 0 ? 0 : -EBADF;
    if (result == 0 && !sock->mirror_armed) {
        sock->mirror_armed = true;
        pf_store_release(&sock->c2b->read_arm, sock->c2b->read_arm + 1);
        ring = pf_hint(client, sock);
        /* It may have been full before anybody asked. */
        ring |= pf_send_shortage(client, sock) > 0 && fill(client, sock, 0);
        result = gone(client, sock);
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

/* True: ring. */
static bool ask_again(struct pf_client *client, struct pf_sock *sock) {
    pf_store_fence(&sock->c2b->read_arm, sock->c2b->read_arm + 1);
    /* News that came before the backend could see the new arming: have it look again. */
    return pf_sock_readable(sock) && pf_hint(client, sock);
}

/* Takes the token out, if there is one, and asks anew. Caller holds the lock; true: ring. */
static bool take_token(struct pf_client *client, struct pf_sock *sock) {
    if (!sock->mirror_armed || pf_sock_readable(sock)) {
        return false;
    }
    char token[64];
    bool answered = pf_load_acquire(&sock->b2c->read_token) == sock->c2b->read_arm;
    ssize_t got = recv(sock->mirror_fd, token, sizeof(token), MSG_DONTWAIT);
    /* The byte may be there before the backend has said so: there is one per arming. */
    if (answered || got > 0) {
        sock->mirror_unsure = false;
        return ask_again(client, sock);
    }
    /* The backend may have seen what has been read by now, and be about to say so. */
    sock->mirror_unsure = true;
    return false;
}

int pf_mirror_rearm_read(struct pf_client *client, uint32_t slot) {
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    bool ring = sock && take_token(client, sock);
    int result = sock ? gone(client, sock) : -EBADF;
    pf_unlock(client);
    if (ring) {
        pf_ring(client);
    }
    return result;
}

int pf_mirror_is_unsure(struct pf_client *client, uint32_t slot) {
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    int result = sock && sock->mirror_armed &&
                 ((sock->mirror_unsure && !pf_sock_readable(sock)) || sock->room_unsure);
    pf_unlock(client);
    return result;
}

int pf_mirror_settle(struct pf_client *client, uint32_t slot) {
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    bool ring = sock && take_token(client, sock);
    if (sock) {
        sock->mirror_unsure = false;
        /* The answer to the former question is there, if any came: it may be undone. */
        ring |= sock->room_unsure && pf_send_shortage(client, sock) > 0 && fill(client, sock, 0);
        sock->room_unsure = false;
    }
    int result = sock ? gone(client, sock) : -EBADF;
    pf_unlock(client);
    if (ring) {
        pf_ring(client);
    }
    return result;
}

int pf_mirror_told(struct pf_client *client, uint32_t slot) {
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    /* A duplicate: meanwhile another thread may close the descriptor, and its number be reused. */
    int fd = sock && sock->mirror_fd >= 0 ? fcntl(sock->mirror_fd, F_DUPFD_CLOEXEC, 0) : -1;
    pf_unlock(client);
    if (fd < 0) {
        return -EBADF;
    }
    /* The error shows in memory first, and right after that here. */
    struct pollfd end = {.fd = fd};
    int shown = poll(&end, 1, PF_MIRROR_PATIENCE_MS);
    int error = 0;
    socklen_t size = sizeof(error);
    (void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    (void)close(fd);
    return shown > 0 ? 0 : -ETIMEDOUT;
}

int pf_mirror_rearm_write(struct pf_client *client, uint32_t slot) {
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    bool ring = sock && fill(client, sock, 1);
    int result = sock ? gone(client, sock) : -EBADF;
    pf_unlock(client);
    if (ring) {
        pf_ring(client);
    }
    return result;
}

int pf_mirror_sent(struct pf_client *client, uint32_t slot) {
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    bool ring = sock && pf_send_shortage(client, sock) > 0 && fill(client, sock, 0);
    int result = sock ? gone(client, sock) : -EBADF;
    pf_unlock(client);
    if (ring) {
        pf_ring(client);
    }
    return result;
}

int pf_is_unix(int fd) {
    int domain = 0;
    socklen_t size = sizeof domain;
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX;
}

int pf_epoll_add(int epoll_fd, int fd, uint32_t events, uint64_t data) {
    struct epoll_event event = {.events = events, .data.u64 = data};
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -errno;
}
