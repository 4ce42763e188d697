/* UDP endpoints, as the files that implement them share them.
 *
 * lwIP only sends, reassembles and answers pings: which endpoint a datagram belongs to is decided
 * here, by a table of ports instead of lwIP's list of all endpoints, and by the kernel's rules. */
#ifndef PF_LWIP_DATAGRAM_H
#define PF_LWIP_DATAGRAM_H

#include "lwip/internal.h"
#include "lwip/udp.h"

struct pf_membership;

/* Each has ports of its own. */
enum pf_dgram_kind {
    PF_DGRAM_UDP,
    PF_DGRAM_PING4,
    PF_DGRAM_PING6,
    PF_DGRAM_RAW4, /* the only port is the number of the protocol */
    PF_DGRAM_RAW6,
    PF_DGRAM_KINDS
};

struct stk_dgram {
    struct udp_pcb pcb; /* on no list of lwIP's: what udp_sendto_if_src wants to know */
    void *owner;
    struct stk_account *account; /* NULL: nobody's */
    uint32_t user;
    uint8_t family;
    uint8_t kind; /* enum pf_dgram_kind */
    uint8_t priority;
    bool v6only;
    bool reuse_addr;
    bool reuse_port;
    bool connected;
    bool port_chosen; /* by a bind: disconnecting keeps it */
    bool addr_chosen;
    bool no_loop;         /* multicast: do not give us our own */
    uint8_t multicast_if; /* index of the interface to send by; 0: by the route */
    uint8_t group_count;
    struct pf_membership *groups; /* NULL: in none yet */
    uint16_t port;                /* 0: not bound, on no chain; of pings: the identifier */
    uint16_t remote_port;
    ip_addr_t local; /* type any: the wildcard of both families */
    ip_addr_t remote;
    uint64_t blocked[4];    /* raw: bits of the ICMP types not to receive */
    struct stk_dgram *next; /* with the same port, the latest first */
};

/* The endpoints that share a port, which are few (PF_UDP_PER_PORT). */
struct stk_dgram *pf_dgram_chain(int kind, uint16_t port);
static inline bool pf_dgram_is_raw(const struct stk_dgram *dgram) {
    return dgram->kind == PF_DGRAM_RAW4 || dgram->kind == PF_DGRAM_RAW6;
}
/* Whose a received packet is, which begins with its IP header: of the latest endpoint at its port,
 * without a look at more of it. NULL: nobody's, or that is not to be seen, as of a fragment. */
struct stk_account *pf_dgram_account(const uint8_t *packet, size_t contiguous);
/* How many endpoints there are. */
uint32_t pf_dgram_count(void);
/* Whether the endpoint takes datagrams to `local` from that sender, and how closely it fits; below
 * 0: it does not. */
int pf_udp_score(const struct stk_dgram *dgram, const ip_addr_t *local, const ip_addr_t *remote,
                 uint16_t remote_port);

/* multicast.c */
enum { PF_GROUPS_PER_SOCKET = 20 }; /* as the kernel's igmp_max_memberships */
/* By its index, else by an IPv4 address of it (zeros: none), else the one that is the default. */
struct netif *pf_interface(uint32_t ifindex, const uint8_t *address4);
/* The interface that a datagram to the group leaves by; NULL: none. */
struct netif *pf_multicast_route(const struct stk_dgram *dgram, const ip_addr_t *to,
                                 uint32_t scope);
void pf_multicast_leave_all(struct stk_dgram *dgram);
/* What the endpoint is in counts for its account, or no longer does. */
void pf_multicast_count(const struct stk_dgram *dgram, bool yes);
int pf_multicast_option(struct stk_dgram *dgram, uint32_t option, uint64_t value);

/* ping.c. Sends the request in `p`, which begins with its ICMP header; 0 or -errno. */
int pf_ping_send(const struct stk_dgram *dgram, struct pbuf *p, const ip_addr_t *from,
                 const ip_addr_t *to, struct netif *netif);
/* The same for any message; over IPv6, its checksum is filled in. */
int pf_raw_send(const struct stk_dgram *dgram, struct pbuf *p, const ip_addr_t *from,
                const ip_addr_t *to, struct netif *netif);

/* datagram_input.c: has lwIP call us; once, after lwip_init(). 0 or -errno. */
int pf_udp_listen(void);

#endif
