/* What other drivers need of the loopback link: packets to the stack's own addresses. */
#ifndef PF_LWIP_NETIF_LOOPBACK_H
#define PF_LWIP_NETIF_LOOPBACK_H

#include <stdbool.h>

#include "lwip/ip4_addr.h"
#include "lwip/ip6_addr.h"
#include "lwip/netif.h"
#include "lwip/pbuf.h"

/* Is this address one of ours, on whichever netif? A link's output function asks before it would
 * resolve the address on the wire, where nobody would answer. */
bool pf_loopback_is_own4(const ip4_addr_t *destination);
bool pf_loopback_is_own6(const ip6_addr_t *destination);

/* Queues a copy of the IP packet, to be received as if it had come in by `origin`; ERR_OK also when
 * the bounded queue dropped it. ERR_IF: there is no loopback link. */
err_t pf_loopback_divert(struct netif *origin, struct pbuf *p);

/* What becomes of a packet to several (multicast, broadcast) at this host itself. Set around the
 * sending of a datagram: packets of lwIP's own are for the others. */
enum pf_loop {
    PF_LOOP_DEFAULT, /* the loopback link carries it, another link keeps no copy */
    PF_LOOP_COPY,    /* every link hands a copy to this host, too */
    PF_LOOP_ONLY,    /* and does not send it */
    PF_LOOP_NEVER,   /* not even the loopback link does */
};
extern enum pf_loop pf_loop_several;
/* The packet that lwIP is given now has come from this host itself. */
extern bool pf_from_ourselves;
/* For a link's output: makes the copy. True: that was all. */
bool pf_loopback_several(struct netif *origin, struct pbuf *p, bool several);

#endif
