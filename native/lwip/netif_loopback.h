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

#endif
