/* The names of TCP endpoints: who may have which local address. */
#include <errno.h>
#include <string.h>

#include "lwip/conn.h"
#include "lwip/errmap.h"
#include "lwip/priv/tcp_priv.h"

enum { EPHEMERAL_FIRST = 32768, EPHEMERAL_LAST = 60999, EPHEMERAL_TRIES = 64 };

/* Two local addresses that one packet could be for. The wildcard of a dual-stack socket
 * (IPADDR_TYPE_ANY) is every address of both families. */
static bool overlap(const ip_addr_t *a, const ip_addr_t *b) {
    if (IP_IS_ANY_TYPE_VAL(*a) || IP_IS_ANY_TYPE_VAL(*b)) {
        return true;
    }
    if (IP_IS_V4_VAL(*a) != IP_IS_V4_VAL(*b)) {
        return false;
    }
    return ip_addr_isany(a) || ip_addr_isany(b) || ip_addr_eq(a, b);
}

/* lwIP's own check is a part of this one: it lets a listener and a bound socket that both reuse
 * addresses have the same one, and one that reuses take what lies in TIME_WAIT of one that does
 * not. */
bool pf_tcp_in_use(const struct tcp_pcb *pcb, const ip_addr_t *ip, u16_t port) {
    for (int list = 0; list < NUM_TCP_PCB_LISTS; list++) {
        for (const struct tcp_pcb *other = *tcp_pcb_lists[list]; other; other = other->next) {
            if (other == pcb || other->local_port != port || !overlap(ip, &other->local_ip)) {
                continue;
            }
            bool reuse = ip_get_option(pcb, SOF_REUSEADDR) && ip_get_option(other, SOF_REUSEADDR);
            if (!reuse || other->state == LISTEN) {
                return true;
            }
        }
    }
    return false;
}

static int bind_ephemeral(struct tcp_pcb *pcb, const ip_addr_t *ip) {
    for (int i = 0; i < EPHEMERAL_TRIES; i++) {
        uint32_t span = EPHEMERAL_LAST - EPHEMERAL_FIRST + 1;
        u16_t port = (u16_t)(EPHEMERAL_FIRST + pf_lwip_random() % span);
        if (pf_tcp_in_use(pcb, ip, port)) {
            continue;
        }
        err_t error = tcp_bind(pcb, ip, port);
        if (error != ERR_USE) {
            return -pf_errno_of(error);
        }
    }
    /* Crowded: let lwIP search one by one. */
    return -pf_errno_of(tcp_bind(pcb, ip, 0));
}

int pf_tcp_bind_pcb(struct tcp_pcb *pcb, const ip_addr_t *ip, uint16_t port) {
    if (!port) {
        return bind_ephemeral(pcb, ip);
    }
    return pf_tcp_in_use(pcb, ip, port) ? -EADDRINUSE : -pf_errno_of(tcp_bind(pcb, ip, port));
}

int stk_tcp_bind(struct stk_conn *conn, const struct pf_addr *addr) {
    ip_addr_t ip;
    if (!conn->pcb || conn->listening || conn->pcb->state != CLOSED || conn->pcb->local_port ||
        conn->group) {
        return -EINVAL;
    }
    if (!pf_addr_to_lwip(addr, !conn->v6only, &ip)) {
        return -EAFNOSUPPORT;
    }
    if (!pf_addr_is_local(&ip)) {
        return -EADDRNOTAVAIL;
    }
    if (conn->reuse_user) {
        return pf_reuse_bind(conn, &ip, addr->port);
    }
    return pf_tcp_bind_pcb(conn->pcb, &ip, addr->port);
}

void stk_tcp_names(const struct stk_conn *conn, struct pf_addr *local, struct pf_addr *peer) {
    const struct tcp_pcb *pcb = conn->pcb;
    memset(peer, 0, sizeof(*peer));
    if (!pcb) {
        /* Gone before it was taken up: what is known is what it was called. */
        memset(local, 0, sizeof(*local));
        local->family = conn->family;
        local->port = conn->flow.local_port;
        peer->family = conn->family;
        peer->port = conn->flow.remote_port;
        memcpy(peer->ip, conn->flow.remote, sizeof(peer->ip));
        return;
    }
    uint16_t port = pcb->local_port;
    const ip_addr_t *ip = conn->group ? pf_reuse_address(conn, &port) : &pcb->local_ip;
    pf_addr_from_lwip(ip, port, local);
    if (!conn->listening && pcb->remote_port) {
        pf_addr_from_lwip(&pcb->remote_ip, pcb->remote_port, peer);
    }
    if (conn->family == PF_FAMILY_IPV6 && ip_addr_isany(ip)) {
        local->family = PF_FAMILY_IPV6; /* the wildcard of a dual-stack socket */
        memset(local->ip, 0, sizeof(local->ip));
    }
}
