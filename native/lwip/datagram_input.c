/* Received UDP datagrams, and what ICMP says about sent ones: to the endpoints concerned. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "lwip/datagram.h"
#include "lwip/icmp.h"
#include "lwip/icmp6.h"
#include "lwip/inet_chksum.h"
#include "lwip/netif_loopback.h"
#include "lwip/prot/icmp.h"
#include "lwip/prot/icmp6.h"
#include "lwip/prot/ip.h"
#include "lwip/prot/udp.h"
#include "lwip/raw.h"
#include "lwip_hooks.h"

enum { PORT_BYTES = 4 };

/* ---- whose is it ---- */

int pf_udp_score(const struct stk_dgram *dgram, const ip_addr_t *local, const ip_addr_t *remote,
                 uint16_t remote_port) {
    bool four = IP_IS_V4(local);
    int score = (dgram->family == PF_FAMILY_IPV4) == four;
    if (four ? dgram->v6only : dgram->family == PF_FAMILY_IPV4) {
        return -1;
    }
    if (!ip_addr_isany(&dgram->local)) {
        if (!ip_addr_eq(&dgram->local, local)) {
            return -1;
        }
        score += 2;
    }
    if (dgram->connected) {
        if (dgram->remote_port != remote_port || !ip_addr_eq(&dgram->remote, remote)) {
            return -1;
        }
        score += 4;
    }
    return score;
}

/* Which of the endpoints that share the port by SO_REUSEPORT: always the same one for one sender.
 */
static uint32_t spread(const ip_addr_t *remote, uint16_t remote_port) {
    uint64_t hash = remote_port;
    const uint32_t *words = ip_2_ip6(remote)->addr;
    for (int i = 0; i < (IP_IS_V4(remote) ? 1 : 4); i++) {
        hash = (hash ^ words[i]) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 32;
    }
    return (uint32_t)hash;
}

/* The kernel's choice: the closest fit, of equal ones the latest, or, where all share the port by
 * SO_REUSEPORT, one by the sender. */
static struct stk_dgram *choose(uint16_t port, const ip_addr_t *local, const ip_addr_t *remote,
                                uint16_t remote_port) {
    struct stk_dgram *best = NULL;
    int best_score = -1;
    uint32_t equals = 0;
    for (struct stk_dgram *d = pf_dgram_chain(PF_DGRAM_UDP, port); d; d = d->next) {
        int score = pf_udp_score(d, local, remote, remote_port);
        if (score > best_score) {
            best = d;
            best_score = score;
            equals = 0;
        }
        equals += score >= 0 && score == best_score && d->reuse_port;
    }
    if (!best || !best->reuse_port || best->connected || equals < 2) {
        return best;
    }
    uint32_t skip = spread(remote, remote_port) % equals;
    for (struct stk_dgram *d = best; d; d = d->next) {
        if (d->reuse_port && pf_udp_score(d, local, remote, remote_port) == best_score &&
            skip-- == 0) {
            return d;
        }
    }
    return best;
}

struct stk_account *pf_dgram_account(const uint8_t *packet, size_t contiguous) {
    size_t header = IP6_HLEN;
    bool udp = false;
    if (packet[0] >> 4 == 4) {
        bool fragment = (packet[6] & 0x3f) != 0 || packet[7] != 0;
        header = (size_t)(packet[0] & 0xf) * 4;
        udp = packet[9] == IP_PROTO_UDP && !fragment;
    } else {
        udp = packet[6] == IP6_NEXTH_UDP;
    }
    if (!udp || contiguous < header + PORT_BYTES) {
        return NULL;
    }
    uint16_t port = (uint16_t)(packet[header + 2] << 8 | packet[header + 3]);
    const struct stk_dgram *latest = pf_dgram_chain(PF_DGRAM_UDP, port);
    return latest ? latest->account : NULL;
}

/* ---- receiving ---- */

void stk_packet_copy(const struct stk_packet *packet, uint32_t offset, uint8_t *to,
                     uint32_t length) {
    if (length > 0) {
        (void)pbuf_copy_partial(packet->buffer, to, (u16_t)length, (u16_t)(offset + packet->skip));
    }
}

static bool checksum_holds(struct pbuf *p, const struct netif *inp, const struct udp_hdr *header) {
    (void)inp; /* without per-interface control */
    IF__NETIF_CHECKSUM_ENABLED(inp, NETIF_CHECKSUM_CHECK_UDP) {
        if (header->chksum == 0) {
            return !ip_current_is_v6(); /* IPv4 may do without; IPv6 may not */
        }
        return ip_chksum_pseudo(p, IP_PROTO_UDP, p->tot_len, ip_current_src_addr(),
                                ip_current_dest_addr()) == 0;
    }
    return true;
}

static void describe(struct stk_packet *packet, const struct pbuf *p, uint16_t skip, uint16_t from,
                     uint16_t to) {
    struct pf_datagram *header = &packet->header;
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    memset(packet, 0, sizeof(*packet)); /* what the client sees holds nothing of ours */
    packet->buffer = p;
    packet->skip = skip;
    header->length = (uint32_t)p->tot_len - skip;
    header->ifindex = pf_ifindex_of(ip_current_input_netif());
    header->received_ns = (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
    pf_addr_from_lwip(ip_current_src_addr(), from, &header->source);
    pf_addr_from_lwip(ip_current_dest_addr(), to, &header->destination);
    if (ip_current_is_v6()) {
        header->ttl = IP6H_HOPLIM(ip6_current_header());
        header->tos = (uint8_t)IP6H_TC(ip6_current_header());
    } else {
        header->ttl = IPH_TTL(ip4_current_header());
        header->tos = IPH_TOS(ip4_current_header());
    }
}

static void deliver(struct pbuf *p, uint16_t from, uint16_t to, bool several) {
    const ip_addr_t *local = ip_current_dest_addr();
    const ip_addr_t *remote = ip_current_src_addr();
    struct stk_dgram *one = several ? NULL : choose(to, local, remote, from);
    struct stk_packet packet;
    if (!several && !one) {
        (void)pbuf_header_force(p, (s16_t)ip_current_header_tot_len());
        icmp_port_unreach(ip_current_is_v6(), p);
        return;
    }
    describe(&packet, p, UDP_HLEN, from, to);
    if (one) {
        pf_events->datagram(one->owner, &packet);
        return;
    }
    for (struct stk_dgram *d = pf_dgram_chain(PF_DGRAM_UDP, to); d; d = d->next) {
        if (pf_udp_score(d, local, remote, from) >= 0) {
            pf_events->datagram(d->owner, &packet);
        }
    }
}

/* lwIP's hook at the start of udp_input(): every datagram is dealt with here. */
int pf_udp_input(struct pbuf *p, struct netif *inp) {
    const struct udp_hdr *header = p->payload;
    if (p->len >= UDP_HLEN) {
        uint16_t length = lwip_ntohs(header->len);
        if (length >= UDP_HLEN && length <= p->tot_len) {
            pbuf_realloc(p, length); /* what follows it is padding */
            bool several = ip_addr_ismulticast(ip_current_dest_addr()) ||
                           ip_addr_isbroadcast(ip_current_dest_addr(), ip_current_netif());
            if (checksum_holds(p, inp, header)) {
                deliver(p, lwip_ntohs(header->src), lwip_ntohs(header->dest), several);
            }
        }
    }
    pbuf_free(p);
    return 1;
}

/* ---- what did not arrive ---- */

/* The errors of RFC 1122 that are about this destination for good; the others may pass. */
static int errno_of_icmp4(uint8_t code) {
    switch (code) {
    case 2:
        return ENOPROTOOPT;
    case 3:
        return ECONNREFUSED;
    case 6:
    case 9:
        return ENETUNREACH;
    case 7:
        return EHOSTDOWN;
    case 8:
        return ENONET;
    case 10:
    case 13:
        return EHOSTUNREACH;
    default:
        return 0;
    }
}

static int errno_of_icmp6(uint8_t code) {
    return code == ICMP6_DUR_PORT ? ECONNREFUSED : code == ICMP6_DUR_PROHIBITED ? EACCES : 0;
}

static void tell(const ip_addr_t *local, const ip_addr_t *remote, const uint8_t *ports, int error) {
    uint16_t ours = (uint16_t)(ports[0] << 8 | ports[1]);
    uint16_t theirs = (uint16_t)(ports[2] << 8 | ports[3]);
    struct stk_dgram *dgram = choose(ours, local, remote, theirs);
    if (dgram && dgram->connected && error) {
        pf_events->datagram_failed(dgram->owner, error);
    }
}

/* ---- ICMP ---- */

static bool icmp_holds(struct pbuf *p, u16_t outer) {
    bool good = true;
    u16_t check = ip_current_is_v6() ? NETIF_CHECKSUM_CHECK_ICMP6 : NETIF_CHECKSUM_CHECK_ICMP;
    IF__NETIF_CHECKSUM_ENABLED(ip_current_input_netif(), check) {
        (void)pbuf_remove_header(p, outer);
        good = ip_current_is_v6()
                   ? ip6_chksum_pseudo(p, IP6_NEXTH_ICMP6, p->tot_len, ip6_current_src_addr(),
                                       ip6_current_dest_addr()) == 0
                   : inet_chksum_pbuf(p) == 0;
        (void)pbuf_add_header_force(p, outer);
    }
    return good;
}

/* The reply to a request of one of our endpoints. */
static void on_reply(int kind, struct pbuf *p, u16_t outer, const uint8_t *icmp) {
    uint16_t identifier = (uint16_t)(icmp[4] << 8 | icmp[5]);
    struct stk_packet packet;
    for (struct stk_dgram *d = pf_dgram_chain(kind, identifier); d; d = d->next) {
        if (ip_addr_isany(&d->local) || ip_addr_eq(&d->local, ip_current_dest_addr())) {
            describe(&packet, p, outer, 0, 0);
            pf_events->datagram(d->owner, &packet);
            return;
        }
    }
}

/* A copy to each raw endpoint that wants it; the stack's own answer is none of their business. */
static void to_raw(int kind, uint16_t protocol, const struct pbuf *p, u16_t skip, uint8_t type) {
    struct stk_packet packet;
    packet.buffer = NULL;
    for (struct stk_dgram *d = pf_dgram_chain(kind, protocol); d; d = d->next) {
        const ip_addr_t *local = ip_current_dest_addr();
        bool blocked = (d->blocked[type / 64] >> (type % 64) & 1) != 0;
        if (blocked || pf_udp_score(d, local, ip_current_src_addr(), d->remote_port) < 0) {
            continue;
        }
        if (!packet.buffer) {
            describe(&packet, p, skip, 0, 0);
        }
        pf_events->datagram(d->owner, &packet);
    }
}

/* The loopback does without the checksum of the header; who is shown the header expects one. */
static void complete_header(struct ip_hdr *header) {
    if (IPH_CHKSUM(header) == 0) {
        IPH_CHKSUM_SET(header, inet_chksum(header, IPH_HL_BYTES(header)));
    }
}

enum { ICMP_BYTES = 8, ICMP_UNKNOWN_TYPE = 255, ICMP6_CHECKED_BYTES = 4 };

/* Of a datagram that could not be delivered: local address, remote address and ports out of the
 * copy of its header in the message. Only what we may have sent: no options, and ports are in the
 * first fragment only. */
static bool parse_sent4(const uint8_t *ip, ip_addr_t *local, ip_addr_t *remote) {
    memset(local, 0, sizeof(*local));
    memset(remote, 0, sizeof(*remote));
    memcpy(&ip_2_ip4(local)->addr, ip + 12, 4);
    memcpy(&ip_2_ip4(remote)->addr, ip + 16, 4);
    IP_SET_TYPE_VAL(*local, IPADDR_TYPE_V4);
    IP_SET_TYPE_VAL(*remote, IPADDR_TYPE_V4);
    return ip[0] == 0x45 && ip[9] == IP_PROTO_UDP && (ip[6] & 0x1f) == 0 && ip[7] == 0;
}

static bool parse_sent6(const uint8_t *ip, ip_addr_t *local, ip_addr_t *remote) {
    memset(local, 0, sizeof(*local));
    memset(remote, 0, sizeof(*remote));
    memcpy(ip_2_ip6(local)->addr, ip + 8, 16);
    memcpy(ip_2_ip6(remote)->addr, ip + 24, 16);
    IP_SET_TYPE_VAL(*local, IPADDR_TYPE_V6);
    IP_SET_TYPE_VAL(*remote, IPADDR_TYPE_V6);
    ip6_addr_assign_zone(ip_2_ip6(local), IP6_UNICAST, ip_current_input_netif());
    ip6_addr_assign_zone(ip_2_ip6(remote), IP6_UNICAST, ip_current_input_netif());
    return ip[6] == IP6_NEXTH_UDP;
}

/* Both get the whole packet, from the IP header on, and leave it to lwIP. */
static u8_t on_icmp4(void *arg, struct raw_pcb *pcb, struct pbuf *p, const ip_addr_t *from) {
    uint8_t bytes[ICMP_BYTES + IP_HLEN + PORT_BYTES];
    u16_t outer = ip_current_header_tot_len();
    u16_t got = pbuf_copy_partial(p, bytes, sizeof(bytes), outer);
    ip_addr_t local;
    ip_addr_t remote;
    (void)arg;
    (void)pcb;
    (void)from;
    if (pf_dgram_chain(PF_DGRAM_RAW4, IP_PROTO_ICMP)) {
        complete_header(p->payload);
    }
    /* With the header, and whatever the checksum of the message is: as the kernel's do. */
    to_raw(PF_DGRAM_RAW4, IP_PROTO_ICMP, p, 0, got > 0 ? bytes[0] : ICMP_UNKNOWN_TYPE);
    if (got >= ICMP_BYTES && bytes[0] == ICMP_ER && icmp_holds(p, outer)) {
        on_reply(PF_DGRAM_PING4, p, outer, bytes);
    } else if (got == sizeof(bytes) && bytes[0] == ICMP_DUR &&
               parse_sent4(bytes + ICMP_BYTES, &local, &remote) && icmp_holds(p, outer)) {
        tell(&local, &remote, bytes + ICMP_BYTES + IP_HLEN, errno_of_icmp4(bytes[1]));
    }
    return 0;
}

/* What routers and neighbors say of links and addresses. There are none on the loopback: it can
 * only be of a raw socket, and would take our own address or path from all clients. */
static bool is_about_links(uint8_t type) {
    return type == ICMP6_TYPE_PTB || (type >= ICMP6_TYPE_RS && type <= ICMP6_TYPE_RD);
}

static u8_t on_icmp6(void *arg, struct raw_pcb *pcb, struct pbuf *p, const ip_addr_t *from) {
    uint8_t bytes[ICMP_BYTES + IP6_HLEN + PORT_BYTES];
    u16_t outer = ip_current_header_tot_len();
    u16_t got = pbuf_copy_partial(p, bytes, sizeof(bytes), outer);
    ip_addr_t local;
    ip_addr_t remote;
    (void)arg;
    (void)pcb;
    (void)from;
    if (pf_dgram_chain(PF_DGRAM_RAW6, IP6_NEXTH_ICMP6) && got >= ICMP6_CHECKED_BYTES &&
        icmp_holds(p, outer)) {
        to_raw(PF_DGRAM_RAW6, IP6_NEXTH_ICMP6, p, outer, bytes[0]);
    }
    if (pf_from_ourselves && got > 0 && is_about_links(bytes[0])) {
        pbuf_free(p);
        return 1;
    }
    if (got >= ICMP_BYTES && bytes[0] == ICMP6_TYPE_EREP && icmp_holds(p, outer)) {
        on_reply(PF_DGRAM_PING6, p, outer, bytes);
    } else if (got == sizeof(bytes) && bytes[0] == ICMP6_TYPE_DUR &&
               parse_sent6(bytes + ICMP_BYTES, &local, &remote) && icmp_holds(p, outer)) {
        tell(&local, &remote, bytes + ICMP_BYTES + IP6_HLEN, errno_of_icmp6(bytes[1]));
    }
    return 0;
}

int pf_udp_listen(void) {
    struct raw_pcb *four = raw_new_ip_type(IPADDR_TYPE_V4, IP_PROTO_ICMP);
    struct raw_pcb *six = raw_new_ip_type(IPADDR_TYPE_V6, IP6_NEXTH_ICMP6);
    if (!four || !six) {
        return -ENOMEM;
    }
    raw_recv(four, on_icmp4, NULL);
    raw_recv(six, on_icmp6, NULL);
    return 0;
}
