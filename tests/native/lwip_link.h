/* lwIP with one network interface, whose other end is the test: frames go in and come out by hand.
 */
#ifndef PF_TEST_LWIP_LINK_H
#define PF_TEST_LWIP_LINK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lwip/etharp.h"
#include "lwip/ethip6.h"
#include "lwip/init.h"
#include "lwip/netif.h"
#include "lwip/pbuf.h"
#include "lwip/sys.h"
#include "lwip/tcp.h"
#include "netif/ethernet.h"

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* ---- what the port gives to lwIP; weak, so that the real port may be linked instead ---- */

#define WEAK __attribute__((weak))

WEAK void pf_lwip_assert_failed(const char *message, const char *file, int line) {
    fprintf(stderr, "lwIP assertion: %s (%s:%d)\n", message, file, line);
    abort();
}

WEAK void pf_lwip_check_thread(void) {}

WEAK uint32_t pf_lwip_random(void) {
    static uint32_t state = 1;
    state = state * 1664525U + 1013904223U;
    return state;
}

WEAK uint32_t pf_tcp_isn(const void *local_ip, uint16_t local_port, const void *remote_ip,
                         uint16_t remote_port) {
    (void)local_ip;
    (void)remote_ip;
    return (uint32_t)local_port << 16 | remote_port;
}

WEAK u32_t sys_now(void) { return 0; }

WEAK const ip6_addr_t *pf_nd6_gateway(struct netif *netif, const ip6_addr_t *destination);
WEAK const ip6_addr_t *pf_nd6_gateway(struct netif *netif, const ip6_addr_t *destination) {
    (void)netif;
    (void)destination;
    return NULL;
}

WEAK err_t pf_tcp_admit(struct tcp_pcb *listener);
WEAK err_t pf_tcp_admit(struct tcp_pcb *listener) {
    (void)listener;
    return ERR_OK;
}
WEAK uint32_t pf_tcp_may_keep(uint32_t most) { return most; }
/* Of pcb_index.c, which lwIP calls. */
struct stk_account;
WEAK struct stk_account *pf_share_half_open(const struct tcp_pcb *pcb);
WEAK struct stk_account *pf_share_half_open(const struct tcp_pcb *pcb) {
    (void)pcb;
    return NULL;
}
WEAK void pf_share_half_open_over(struct stk_account *account);
WEAK void pf_share_half_open_over(struct stk_account *account) { (void)account; }

struct link_hooks {
    unsigned udp; /* datagrams handed to the hook */
};
extern struct link_hooks link_hooks;
WEAK struct link_hooks link_hooks;

WEAK int pf_udp_input(struct pbuf *p, struct netif *inp);
WEAK int pf_udp_input(struct pbuf *p, struct netif *inp) {
    (void)inp;
    link_hooks.udp++;
    pbuf_free(p);
    return 1;
}

/* ---- a network interface whose other end is this file ---- */

enum {
    MAX_FRAME = 2048,
    ETHERNET_HEADER = 14,
    IPV4_HEADER = 20,
    IPV6_HEADER = 40,
    OUR_PORT = 80,
    PEER_PORT = 5000,
    CLOSED_PORT = 81
};

static const uint8_t OUR_MAC[6] = {2, 0, 0, 0, 0, 1};
static const uint8_t PEER_MAC[6] = {2, 0, 0, 0, 0, 2};
static const uint8_t OUR_IPV4[4] = {10, 0, 0, 1};
static const uint8_t PEER_IPV4[4] = {10, 0, 0, 2};
static const uint8_t OUR_IPV6[16] = {0xfe, 0x80, [15] = 1};
static const uint8_t PEER_IPV6[16] = {0xfe, 0x80, [15] = 2};
static const uint8_t ROUTER_IPV6[16] = {0xfe, 0x80, [15] = 3};
static const uint8_t ALL_NODES[16] = {0xff, 0x02, [15] = 1};

static struct netif link_netif;
static uint8_t sent_frame[MAX_FRAME];
static size_t sent_length;
static unsigned sent_count;

struct frame {
    uint8_t bytes[MAX_FRAME];
    size_t length;
};

/* A received frame in a heap block of exactly its size: one byte too far is an error for ASan. */
struct exact_pbuf {
    struct pbuf_custom custom;
    uint8_t *bytes;
};

static void free_exact(struct pbuf *p) {
    struct exact_pbuf *exact = (struct exact_pbuf *)p;
    free(exact->bytes);
    free(exact);
}

static struct pbuf *exact_pbuf(const uint8_t *bytes, size_t length) {
    struct exact_pbuf *exact = calloc(1, sizeof(*exact));
    REQUIRE(exact != NULL);
    exact->bytes = malloc(length);
    REQUIRE(exact->bytes != NULL);
    memcpy(exact->bytes, bytes, length);
    exact->custom.custom_free_function = free_exact;
    return pbuf_alloced_custom(PBUF_RAW, (u16_t)length, PBUF_REF, &exact->custom, exact->bytes,
                               (u16_t)length);
}

static void receive(const struct frame *frame) {
    REQUIRE(link_netif.input(exact_pbuf(frame->bytes, frame->length), &link_netif) == ERR_OK);
}

static err_t link_output(struct netif *netif, struct pbuf *p) {
    (void)netif;
    sent_length = pbuf_copy_partial(p, sent_frame, MAX_FRAME, 0);
    sent_count++;
    return ERR_OK;
}

static err_t link_init(struct netif *netif) {
    netif->name[0] = 'p';
    netif->name[1] = 'f';
    netif->mtu = 1500;
    netif->hwaddr_len = sizeof(OUR_MAC);
    memcpy(netif->hwaddr, OUR_MAC, sizeof(OUR_MAC));
    netif->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET;
    netif->output = etharp_output;
    netif->output_ip6 = ethip6_output;
    netif->linkoutput = link_output;
    /* Frames here are written by hand, without checksums. */
    NETIF_SET_CHECKSUM_CTRL(netif, NETIF_CHECKSUM_DISABLE_ALL);
    return ERR_OK;
}

static ip6_addr_t ipv6_address(const uint8_t bytes[16]) {
    ip6_addr_t address;
    memset(&address, 0, sizeof(address));
    memcpy(address.addr, bytes, 16);
    ip6_addr_assign_zone(&address, IP6_UNICAST, &link_netif);
    return address;
}

static void start_stack(bool with_ipv6) {
    ip4_addr_t address;
    ip4_addr_t mask;
    ip4_addr_t gateway;
    lwip_init();
    IP4_ADDR(&address, 10, 0, 0, 1);
    IP4_ADDR(&mask, 255, 255, 255, 0);
    IP4_ADDR(&gateway, 10, 0, 0, 2);
    REQUIRE(netif_add(&link_netif, &address, &mask, &gateway, NULL, link_init, ethernet_input));
    netif_set_default(&link_netif);
    netif_set_link_up(&link_netif);
    netif_set_up(&link_netif);
    if (with_ipv6) {
        const ip6_addr_t ours = ipv6_address(OUR_IPV6);
        netif_ip6_addr_set(&link_netif, 0, &ours);
        netif_ip6_addr_set_state(&link_netif, 0, IP6_ADDR_PREFERRED);
    }
    /* What the interface announced of itself does not count. */
    sent_count = 0;
}

/* ---- frames ---- */

static void append(struct frame *frame, const void *bytes, size_t length) {
    REQUIRE(frame->length + length <= MAX_FRAME);
    if (length == 0) {
        return;
    }
    memcpy(frame->bytes + frame->length, bytes, length);
    frame->length += length;
}

static void append8(struct frame *frame, unsigned value) {
    const uint8_t byte = (uint8_t)value;
    append(frame, &byte, 1);
}

static void append16(struct frame *frame, unsigned value) {
    append8(frame, value >> 8);
    append8(frame, value & 0xff);
}

static void append32(struct frame *frame, uint32_t value) {
    append16(frame, value >> 16);
    append16(frame, value & 0xffff);
}

static inline uint32_t get16(size_t offset) {
    return (uint32_t)sent_frame[offset] << 8 | sent_frame[offset + 1];
}

static inline uint32_t get32(size_t offset) { return get16(offset) << 16 | get16(offset + 2); }

static void ethernet_header(struct frame *frame, unsigned type) {
    frame->length = 0;
    append(frame, OUR_MAC, sizeof(OUR_MAC));
    append(frame, PEER_MAC, sizeof(PEER_MAC));
    append16(frame, type);
}

static inline void arp_request(struct frame *frame) {
    ethernet_header(frame, 0x0806);
    append16(frame, 1);
    append16(frame, 0x0800);
    append8(frame, 6);
    append8(frame, 4);
    append16(frame, 1);
    append(frame, PEER_MAC, sizeof(PEER_MAC));
    append(frame, PEER_IPV4, sizeof(PEER_IPV4));
    append(frame, OUR_MAC, sizeof(OUR_MAC));
    append(frame, OUR_IPV4, sizeof(OUR_IPV4));
}

static inline void learn_peer(void) {
    struct frame frame;
    arp_request(&frame);
    receive(&frame);
}

struct segment {
    uint16_t port;
    uint8_t flags;
    uint32_t seq;
    uint32_t ack;
    uint16_t window;
    const uint8_t *options;
    uint8_t options_length; /* a multiple of 4 */
    uint16_t from;          /* 0: PEER_PORT */
    const uint8_t *to;      /* NULL: OUR_IPV4 */
    uint16_t bytes;         /* of payload, zeros */
};

static inline void receive_segment(const struct segment *segment) {
    static const uint8_t zeros[1500];
    struct frame frame;
    const unsigned header = 20U + segment->options_length;
    ethernet_header(&frame, 0x0800);
    append16(&frame, 0x4500);
    append16(&frame, IPV4_HEADER + header + segment->bytes);
    append32(&frame, 0); /* identification, fragment offset */
    append16(&frame, 64 << 8 | 6);
    append16(&frame, 0);
    append(&frame, PEER_IPV4, sizeof(PEER_IPV4));
    append(&frame, segment->to ? segment->to : OUR_IPV4, sizeof(OUR_IPV4));
    append16(&frame, segment->from ? segment->from : PEER_PORT);
    append16(&frame, segment->port);
    append32(&frame, segment->seq);
    append32(&frame, segment->ack);
    append16(&frame, (header / 4) << 12 | segment->flags);
    append16(&frame, segment->window);
    append32(&frame, 0); /* checksum, urgent pointer */
    append(&frame, segment->options, segment->options_length);
    append(&frame, zeros, segment->bytes);
    receive(&frame);
}

#endif
