/* Prototypes of the functions that lwIP's hooks call (LWIP_HOOK_FILENAME). */
#ifndef PF_LWIP_HOOKS_H
#define PF_LWIP_HOOKS_H

#include "lwip/ip6_addr.h"
#include "lwip/netif.h"
#include "lwip/pbuf.h"
#include "lwip/tcp.h"

/* The configured IPv6 gateway of this netif, or NULL: lwIP only learns routers from advertisements.
 */
const ip6_addr_t *pf_nd6_gateway(struct netif *netif, const ip6_addr_t *destination);
#define LWIP_HOOK_ND6_GET_GW(netif, destination) pf_nd6_gateway(netif, destination)

/* Takes the datagram, which begins with its UDP header. */
int pf_udp_input(struct pbuf *p, struct netif *inp);
#define LWIP_HOOK_UDP_INPUT(p, inp) pf_udp_input(p, inp)

/* Whether a listener may get another connection now, or the segment is dropped. */
err_t pf_tcp_admit(struct tcp_pcb *listener);
#define LWIP_HOOK_TCP_INPACKET_PCB(pcb, hdr, optlen, opt1len, opt2, p)                             \
    ((pcb)->state == LISTEN && (TCPH_FLAGS(hdr) & TCP_SYN) ? pf_tcp_admit(pcb) : ERR_OK)

#endif
