/* What a Packet Too Big message can do to the path MTU of a peer (native/lwip/patches/0024): it
 * goes down to the least that every link has, and not up again. */
#include <unistd.h>

#include "lwip_link.h"

#include "lwip/ip6.h"
#include "lwip/nd6.h"

enum { TOO_BIG = 2, ADVERTISEMENT = 136, MINIMUM = 1280, PACKET = 1400, PATIENCE = 20 };

static void icmp_header(struct frame *frame, unsigned length, unsigned type) {
    ethernet_header(frame, 0x86dd);
    append32(frame, 0x60000000U);
    append16(frame, length);
    append16(frame, 58 << 8 | 255);
    append(frame, PEER_IPV6, sizeof(PEER_IPV6));
    append(frame, OUR_IPV6, sizeof(OUR_IPV6));
    append32(frame, type << 24);
}

/* How many frames it takes. */
static unsigned send_packet(void) {
    const ip6_addr_t peer = ipv6_address(PEER_IPV6);
    struct pbuf *p = pbuf_alloc(PBUF_IP, PACKET, PBUF_RAM);
    REQUIRE(p != NULL);
    memset(p->payload, 0, PACKET);
    sent_count = 0;
    REQUIRE(ip6_output_if(p, netif_ip6_addr(&link_netif, 0), &peer, 64, 0, IP6_NEXTH_UDP,
                          &link_netif) == ERR_OK);
    pbuf_free(p);
    return sent_count;
}

static void learn_neighbour(void) {
    struct frame frame;
    (void)send_packet(); /* asks who it is */
    icmp_header(&frame, 32, ADVERTISEMENT);
    append32(&frame, 0x60000000U);
    append(&frame, PEER_IPV6, sizeof(PEER_IPV6));
    append16(&frame, 2 << 8 | 1);
    append(&frame, PEER_MAC, sizeof(PEER_MAC));
    receive(&frame);
}

static void too_big(uint32_t mtu) {
    struct frame frame;
    icmp_header(&frame, 48, TOO_BIG);
    append32(&frame, mtu);
    append32(&frame, 0x60000000U);
    append32(&frame, 17 << 8 | 64);
    append(&frame, OUR_IPV6, sizeof(OUR_IPV6));
    append(&frame, PEER_IPV6, sizeof(PEER_IPV6));
    receive(&frame);
}

int main(void) {
    const ip6_addr_t peer = ipv6_address(PEER_IPV6);
    (void)alarm(PATIENCE); /* without the patch, fragments without end */
    start_stack(true);
    learn_neighbour();
    REQUIRE(send_packet() == 1);
    for (uint32_t mtu = 0; mtu < MINIMUM; mtu++) {
        too_big(mtu);
        REQUIRE(nd6_get_destination_mtu(&peer, &link_netif) == link_netif.mtu);
        REQUIRE(send_packet() == 1);
    }
    too_big(UINT32_MAX);
    REQUIRE(nd6_get_destination_mtu(&peer, &link_netif) == link_netif.mtu);
    too_big(MINIMUM);
    REQUIRE(send_packet() == 2);
    too_big(1400);
    REQUIRE(nd6_get_destination_mtu(&peer, &link_netif) == MINIMUM);
    printf("ok   path_mtu\n");
    return 0;
}
