/* What mirror descriptors show, the backend's side: one end of a UNIX stream pair, of which the
 * client's end is what select, poll and epoll look at. All that the client's end can show is done
 * from here or by the client itself:
 *
 *   readable           a byte in it, which the client takes out
 *   not writable       the client has filled its send buffer; draining makes it writable again
 *   RDHUP and readable shutdown(SHUT_WR) here
 *   HUP and ERR        closed here with a byte unread, until the client takes SO_ERROR
 */
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "backend/identity.h"
#include "backend/internal.h"

static bool readable(const struct pf_bsock *sock) {
    if (pf_identity_is_shared(sock)) {
        return stk_tcp_acceptable(sock->conn);
    }
    /* Not the CQ: other operations complete there too, and the client reaps it at any time. */
    bool reported = sock->b2c->accepts != pf_load_acquire(&sock->c2b->accepts_taken);
    if (sock->phase == PF_SOCK_LISTENING || (sock->dgram && reported)) {
        return reported;
    }
    return sock->rx_head != pf_load_acquire(&sock->c2b->rx_tail) ||
           (sock->state & (PF_STATE_EOF | PF_STATE_ERROR));
}

bool pf_watch_answered(struct pf_bsock *sock) {
    uint32_t arm = pf_load_acquire(&sock->c2b->read_arm);
    if (arm == sock->read_token || !readable(sock)) {
        return false;
    }
    sock->read_token = arm;
    return true;
}

/* Writes will not block: they fail, or what the client waits for has come back: the blocks of so
 * many bytes as it found to be short, when it had reaped all that it could see (`fill` in
 * native/client/mirror.c). The completions that make up for them are in the CQ by now, so a send
 * that follows reaps them and finds the room. */
static bool writable(const struct pf_bsock *sock) {
    if (sock->state & (PF_STATE_ERROR | PF_STATE_TX_CLOSED)) {
        return true;
    }
    if (sock->phase != PF_SOCK_CONNECTED && !sock->dgram) {
        return false;
    }
    uint32_t room = pf_load_acquire(&sock->c2b->write_room);
    return (int32_t)(sock->blocks_back - room) >= 0;
}

/* Takes all but one byte out. The one that stays (the first was there from the beginning) makes
 * the close after an error an error for the client's end, too. At one stroke: as soon as the
 * descriptor is writable the client may find itself out of room again, and fill it. */
static void drain(int fd) {
    char bytes[256];
    int unread = 0;
    if (ioctl(fd, FIONREAD, &unread) == 0 && unread > 1) {
        size_t count = (size_t)unread - 1;
        (void)recv(fd, bytes, count < sizeof(bytes) ? count : sizeof(bytes), MSG_DONTWAIT);
    }
}

void pf_mirror_update(struct pf_bsock *sock) {
    /* After what was published: the client asks, fences, and looks for that once more. Either it
     * sees our news, or we its question. */
    pf_full_fence();
    /* First, and instead of a byte: it makes the client's end readable as well, so whoever polls
     * sees both at one stroke, as of a socket of the kernel's. */
    if (!sock->mirror_eof && (sock->state & PF_STATE_EOF)) {
        sock->mirror_eof = true;
        (void)shutdown(sock->mirror_fd, SHUT_WR);
    }
    uint32_t arm = pf_load_acquire(&sock->c2b->read_arm);
    /* With one client each question is answered once: a token beyond that could come after the
     * client has looked, taken the others out and asked again, and would be for nothing. */
    bool news = arm != sock->read_token || (pf_identity_is_shared(sock) && sock->identity->arrived);
    if (news && readable(sock)) {
        if (!sock->mirror_eof) {
            (void)send(sock->mirror_fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        }
        sock->read_token = arm;
        pf_store_release(&sock->b2c->read_token, arm);
    }
    if (sock->identity) {
        sock->identity->arrived = false;
    }
    arm = pf_load_acquire(&sock->c2b->write_arm);
    if (arm != sock->write_token && writable(sock)) {
        drain(sock->mirror_fd);
        sock->write_token = arm;
        pf_store_release(&sock->b2c->write_token, arm);
    }
    if (sock->state & PF_STATE_ERROR) {
        if (sock->let_go) {
            (void)shutdown(sock->mirror_fd, SHUT_RDWR); /* an orphan: its watch sees that, too */
        } else {
            pf_identity_hang_up(sock); /* nothing changes any more */
        }
    }
}
