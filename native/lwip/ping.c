/* Endpoints that send ICMP messages. Of ping: echo requests only, so that no privilege is needed;
 * what tells these endpoints apart is the identifier. Raw: any message. */
#include <errno.h>
#include <string.h>

#include "lwip/datagram.h"
#include "lwip/errmap.h"
#include "lwip/inet_chksum.h"
#include "lwip/ip.h"
#include "lwip/prot/icmp.h"
#include "lwip/prot/icmp6.h"

static int emit(const struct stk_dgram *dgram, struct pbuf *p, const ip_addr_t *from,
                const ip_addr_t *to, struct netif *netif) {
    u8_t protocol = dgram->family == PF_FAMILY_IPV4 ? IP_PROTO_ICMP : IP6_NEXTH_ICMP6;
    u8_t ttl = ip_addr_ismulticast(to) ? dgram->pcb.mcast_ttl : dgram->pcb.ttl;
    err_t error = ip_output_if_src(p, from, to, ttl, dgram->pcb.tos, protocol, netif);
    return error == ERR_MEM ? -ENOBUFS : -pf_errno_of(error);
}

static u16_t checksum6(struct pbuf *p, const ip_addr_t *from, const ip_addr_t *to) {
    return ip6_chksum_pseudo(p, IP6_NEXTH_ICMP6, p->tot_len, ip_2_ip6(from), ip_2_ip6(to));
}

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
    echo->chksum = four ? inet_chksum_pbuf(p) : checksum6(p, from, to);
    return emit(dgram, p, from, to, netif);
}

int pf_raw_send(const struct stk_dgram *dgram, struct pbuf *p, const ip_addr_t *from,
                const ip_addr_t *to, struct netif *netif) {
    uint8_t *message = p->payload;
    enum { TYPE_AND_CODE = 2, WITH_CHECKSUM = 4 };
    if (p->len < TYPE_AND_CODE) {
        return -EFAULT; /* where the kernel looks for them, there is nothing */
    }
    if (dgram->kind == PF_DGRAM_RAW6) {
        if (p->len < WITH_CHECKSUM) {
            return -EINVAL;
        }
        memset(message + TYPE_AND_CODE, 0, sizeof(u16_t));
        u16_t sum = checksum6(p, from, to);
        memcpy(message + TYPE_AND_CODE, &sum, sizeof(sum));
    }
    return emit(dgram, p, from, to, netif);
}
