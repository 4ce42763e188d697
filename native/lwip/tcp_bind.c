/* The names of TCP endpoints: who may have which local address. */
#include <errno.h>
#include <string.h>

#include "lwip/conn.h"
#include "lwip/errmap.h"
#include "lwip/priv/tcp_priv.h"

enum {
    EPHEMERAL_FIRST = 32768,
    EPHEMERAL_PORTS = 60999 - EPHEMERAL_FIRST + 1,
    /* A new connection may take the place of one that waits for so long already. */
    TIME_WAIT_REUSE_TICKS = 1000 / TCP_SLOW_INTERVAL,
};

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
    struct tcp_pcb *other = tcp_pcb_index_port(port);
    for (; other; other = other->port_next) {
        if (other == pcb || !overlap(ip, &other->local_ip)) {
            continue;
        }
        if (pf_queue_left(other)) { /* as good as reset */
            ip_set_option(other, SOF_REUSEADDR);
            continue;
        }
        bool reuse = ip_get_option(pcb, SOF_REUSEADDR) && ip_get_option(other, SOF_REUSEADDR);
        if (!reuse || other->state == LISTEN) {
            return true;
        }
    }
    return false;
}

/* When it is known that nobody else has the address; lwIP would still mind what is to be reset. */
static int bind_now(struct tcp_pcb *pcb, const ip_addr_t *ip, u16_t port) {
    bool reuse = ip_get_option(pcb, SOF_REUSEADDR);
    ip_set_option(pcb, SOF_REUSEADDR);
    err_t error = tcp_bind(pcb, ip, port);
    if (!reuse) {
        ip_reset_option(pcb, SOF_REUSEADDR);
    }
    return -pf_errno_of(error);
}

/* The ephemeral ports one after the other, from a random one on: call with 0, 1, 2 … */
static u16_t ephemeral_port(uint32_t start, uint32_t step) {
    return (u16_t)(EPHEMERAL_FIRST + (start + step) % EPHEMERAL_PORTS);
}

static int bind_ephemeral(struct tcp_pcb *pcb, const ip_addr_t *ip) {
    uint32_t start = pf_lwip_random() % EPHEMERAL_PORTS;
    for (uint32_t step = 0; step < EPHEMERAL_PORTS; step++) {
        u16_t port = ephemeral_port(start, step);
        if (!pf_tcp_in_use(pcb, ip, port)) {
            return bind_now(pcb, ip, port);
        }
    }
    return -EADDRINUSE;
}

/* Whether a connection that waits in TIME_WAIT may give its place to a new one (RFC 1122,
 * 4.2.2.13): nothing old that still arrives can be within the new one's sequence numbers. */
static bool may_replace(const struct tcp_pcb *old) {
    uint32_t isn = pf_tcp_isn(&old->local_ip, old->local_port, &old->remote_ip, old->remote_port);
    return old->state == TIME_WAIT && !old->callback_arg &&
           tcp_ticks - old->tmr >= TIME_WAIT_REUSE_TICKS && TCP_SEQ_GT(isn, old->snd_nxt);
}

/* Connections may share a port that none of them asked for, as long as they lead to different
 * peers: so there is no end of ports where there are many short connections. */
static bool shareable(u16_t port) {
    const struct tcp_pcb *pcb = tcp_pcb_index_port(port);
    if (tcp_pcb_index_listener(port)) { /* it may have many connections */
        return false;
    }
    while (pcb && pcb->state != CLOSED) {
        pcb = pcb->port_next;
    }
    return !pcb;
}

int pf_tcp_bind_for(struct tcp_pcb *pcb, struct netif *route, const ip_addr_t *peer,
                    uint16_t peer_port) {
    if (pcb->netif_idx != NETIF_NO_INDEX) {
        route = netif_get_by_index(pcb->netif_idx);
    }
    const ip_addr_t *local_ip = route ? ip_netif_get_local_ip(route, peer) : NULL;
    ip_addr_t zoned = *peer; /* as tcp_connect() will do */
    if (!local_ip) {
        return -ENETUNREACH;
    }
    if (IP_IS_V6_VAL(zoned) && ip6_addr_lacks_zone(ip_2_ip6(&zoned), IP6_UNICAST)) {
        ip6_addr_assign_zone(ip_2_ip6(&zoned), IP6_UNICAST, route);
    }
    uint32_t start = pf_lwip_random() % EPHEMERAL_PORTS;
    for (uint32_t step = 0; step < EPHEMERAL_PORTS; step++) {
        u16_t port = ephemeral_port(start, step);
        struct tcp_pcb *old = tcp_pcb_index_find(local_ip, port, &zoned, peer_port, NULL);
        if (!shareable(port) || (old && !may_replace(old))) {
            continue;
        }
        if (old) {
            tcp_abort(old);
        }
        ip_addr_copy(pcb->local_ip, *(IP_IS_V4(peer) ? IP4_ADDR_ANY : IP6_ADDR_ANY));
        pcb->local_port = port;
        TCP_REG(&tcp_bound_pcbs, pcb);
        return 0;
    }
    return -EADDRNOTAVAIL;
}

int pf_tcp_bind_pcb(struct tcp_pcb *pcb, const ip_addr_t *ip, uint16_t port) {
    if (!port) {
        return bind_ephemeral(pcb, ip);
    }
    return pf_tcp_in_use(pcb, ip, port) ? -EADDRINUSE : bind_now(pcb, ip, port);
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
