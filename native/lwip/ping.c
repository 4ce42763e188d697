/* Ping endpoints: the program sends ICMP echo requests and gets their replies, and nothing else, so
 * that no privilege is needed. What tells the endpoints apart is the identifier. */
#include <errno.h>
#include <string.h>

#include "lwip/datagram.h"
#include "lwip/errmap.h"
#include "lwip/inet_chksum.h"
#include "lwip/ip.h"
#include "lwip/prot/icmp.h"
#include "lwip/prot/icmp6.h"

int pf_ping_send(const struct stk_dgram *dgram, struct pbuf *p, const ip_addr_t *from,
                 const ip_addr_t *to, struct netif *netif) {
    bool four = dgram->kind == PF_DGRAM_PING4;
    struct icmp_echo_hdr *echo = p->payload; /* that of ICMPv6 has the same shape */
    if (p->len < sizeof(*echo) || echo->code != 0 ||
        echo->type != (four ? ICMP_ECHO : ICMP6_TYPE_EREQ)) {
        return -EINVAL;
    }
    echo->id = lwip_htons(dgram->port);
    echo->chksum = 0;
    echo->chksum =
        four ? inet_chksum_pbuf(p)
             : ip6_chksum_pseudo(p, IP6_NEXTH_ICMP6, p->tot_len, ip_2_ip6(from), ip_2_ip6(to));
    u8_t ttl = ip_addr_ismulticast(to) ? dgram->pcb.mcast_ttl : dgram->pcb.ttl;
    err_t error = ip_output_if_src(p, from, to, ttl, dgram->pcb.tos,
                                   four ? IP_PROTO_ICMP : IP6_NEXTH_ICMP6, netif);
    return error == ERR_MEM ? -ENOBUFS : -pf_errno_of(error);
}
