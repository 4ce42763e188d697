/* Prototypes of the functions that lwIP's hooks call (LWIP_HOOK_FILENAME). */
#ifndef PF_LWIP_HOOKS_H
#define PF_LWIP_HOOKS_H

#include "lwip/ip6_addr.h"
#include "lwip/netif.h"
#include "lwip/pbuf.h"

/* The configured IPv6 gateway of this netif, or NULL: lwIP only learns routers from advertisements.
 */
const ip6_addr_t *pf_nd6_gateway(struct netif *netif, const ip6_addr_t *destination);
#define LWIP_HOOK_ND6_GET_GW(netif, destination) pf_nd6_gateway(netif, destination)

/* Takes the datagram, which begins with its UDP header. */
int pf_udp_input(struct pbuf *p, struct netif *inp);
#define LWIP_HOOK_UDP_INPUT(p, inp) pf_udp_input(p, inp)

#endif
