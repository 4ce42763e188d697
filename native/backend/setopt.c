/* Socket options and questions: what of them is the backend's own business. */
#include <errno.h>
#include <string.h>

#include "backend/internal.h"

void pf_sock_size_credit(struct pf_bsock *sock) {
    uint32_t quarter = sock->conn ? stk_tcp_window(sock->conn) / 4 : PF_CREDIT_THRESHOLD;
    sock->credit_threshold = quarter < PF_CREDIT_THRESHOLD ? quarter : PF_CREDIT_THRESHOLD;
}

static int set_priority(struct pf_bsock *sock, uint64_t priority) {
    if (priority >= PF_PRIORITIES) {
        return -EINVAL;
    }
    if (priority < sock->session->granted.best_priority) {
        return -EPERM;
    }
    pf_sock_set_priority(sock, priority);
    sock->b2c->priority = sock->priority;
    return sock->dgram ? stk_udp_set_option(sock->dgram, PF_OPT_PRIORITY, priority)
                       : stk_tcp_set_option(sock->conn, PF_OPT_PRIORITY, priority);
}

int pf_do_setopt(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    uint64_t value = sqe->token;
    (void)op;
    if (sock->phase == PF_SOCK_BROKEN || (!sock->conn && !sock->dgram)) {
        return 0; /* options of a connection that is gone have no effect, as in the kernel */
    }
    switch (sqe->offset) {
    case PF_OPT_PRIORITY:
        return set_priority(sock, value);
    case PF_OPT_V6ONLY:
        if (sock->phase != PF_SOCK_OPEN || sock->bound) {
            return -EINVAL;
        }
        break;
    default:
        break;
    }
    if (sock->dgram) {
        return stk_udp_set_option(sock->dgram, sqe->offset, value);
    }
    switch (sqe->offset) {
    case PF_OPT_REUSEPORT:
        /* Who may share a port is a matter of users: as on Linux, only the same one. */
        value = value ? (uint64_t)sock->session->granted.uid + 1 : 0;
        break;
    case PF_OPT_CORK:
        sock->corked = value != 0;
        sock->cork_ns = 0;
        pf_tx_pump(sock);
        return 0;
    case PF_OPT_BINDTODEVICE:
        return stk_tcp_bind_device(sock->conn, (const char *)sqe->addr.ip);
    default:
        break;
    }
    int result = stk_tcp_set_option(sock->conn, sqe->offset, value);
    if (sqe->offset == PF_OPT_RCVBUF) {
        pf_sock_size_credit(sock);
    }
    return result;
}

int pf_do_query(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op) {
    if (sqe->offset == PF_QUERY_LISTENERS) {
        return (int)stk_tcp_listeners(&sqe->addr);
    }
    struct pf_tcp_info info = {0};
    if (sqe->offset != PF_QUERY_INFO || sqe->length >= sizeof(info) / PF_INFO_PAGE_BYTES) {
        return -EINVAL;
    }
    if (sock->conn) {
        stk_tcp_info(sock->conn, &info);
    } else {
        info.state = 7; /* TCP_CLOSE */
    }
    pf_post_page(sock, op, (const uint8_t *)&info + (size_t)sqe->length * PF_INFO_PAGE_BYTES);
    return PF_OP_PENDING;
}
