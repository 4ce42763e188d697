/* The whole stack below random packets: connections in every state, datagrams, a wire that brings
 * back what was sent, an Ethernet, and among all that packets that nobody sent, each nearly right.
 * No sanitizer and no assertion of lwIP's may object, no window and no memory may grow without end,
 * and when all is closed nothing is left.
 *
 * PF_TEST_SEED repeats a run, PF_FUZZ_FRAMES sets how many packets there are. */
#include "frame_apps.h"
#include "frame_make.h"

#include "lwip/etharp.h"
#include "lwip/ethip6.h"
#include "lwip/memp.h"
#include "lwip/stats.h"
#include "netif/ethernet.h"

#ifdef PIFUS_SANITIZE
enum { DEFAULT_FRAMES = 600000 };
#else
enum { DEFAULT_FRAMES = 1000000 };
#endif

enum { ROUND_FRAMES = 5000, KEPT = 64, ETHER_BYTES = 14 };
/* A FIN that nobody acknowledges is sent again for a quarter of an hour. */
#define AFTERWARDS_NS (3600 * SECOND)

static struct netif ether;
static const uint8_t ether_mac[6] = {2, 0, 0, 0, 0, 1};
/* What the stack has sent over the Ethernet. */
static struct {
    uint32_t length;
    uint8_t data[WIRE_MTU + ETHER_BYTES];
} kept[KEPT];
static uint64_t kept_count;
static uint64_t injected;

/* ---- the Ethernet ---- */

static err_t ether_output(struct netif *netif, struct pbuf *p) {
    (void)netif;
    uint64_t at = kept_count++ % KEPT;
    CHECK(p->tot_len <= sizeof(kept[at].data));
    kept[at].length = pbuf_copy_partial(p, kept[at].data, p->tot_len, 0);
    return ERR_OK;
}

static err_t ether_netif(struct netif *netif) {
    netif->name[0] = 'e';
    netif->name[1] = 't';
    netif->mtu = WIRE_MTU;
    netif->mtu6 = WIRE_MTU;
    netif->output = etharp_output;
    netif->output_ip6 = ethip6_output;
    netif->linkoutput = ether_output;
    netif->hwaddr_len = ETH_HWADDR_LEN;
    memcpy(netif->hwaddr, ether_mac, sizeof(ether_mac));
    netif->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET |
                   NETIF_FLAG_IGMP | NETIF_FLAG_MLD6;
    NETIF_SET_CHECKSUM_CTRL(netif, NETIF_CHECKSUM_ENABLE_ALL);
    return ERR_OK;
}

static void ether_open(void) {
    ip4_addr_t own;
    ip4_addr_t mask;
    ip4_addr_t gateway;
    ip6_addr_t own6;
    IP4_ADDR(&own, 10, 2, 0, 1);
    IP4_ADDR(&mask, 255, 255, 255, 0);
    IP4_ADDR(&gateway, 10, 2, 0, 2);
    CHECK(netif_add(&ether, &own, &mask, &gateway, NULL, ether_netif, ethernet_input) != NULL);
    netif_create_ip6_linklocal_address(&ether, 1);
    netif_ip6_addr_set_state(&ether, 0, IP6_ADDR_PREFERRED);
    IP6_ADDR(&own6, PP_HTONL(0xfd020000), 0, 0, PP_HTONL(1));
    netif_ip6_addr_set(&ether, 1, &own6);
    netif_ip6_addr_set_state(&ether, 1, IP6_ADDR_PREFERRED);
    ether.ip6_autoconfig_enabled = 1;
    netif_set_link_up(&ether);
    netif_set_up(&ether);
}

/* ---- into the stack ---- */

static void inject_frame(const uint8_t *frame, uint32_t length) {
    uint8_t *exact = malloc(length + !length);
    CHECK(exact != NULL);
    memcpy(exact, frame, length);
    (void)pf_flow_classify_frame(pf_flows, exact, length, PF_PRIORITY_MEDIUM);
    free(exact);
    wire_deliver(&ether, frame, (uint16_t)length);
}

static void inject_arp(void) {
    uint8_t frame[ETHER_BYTES + 64] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2, 8, 6};
    uint8_t *arp = frame + ETHER_BYTES;
    static const uint8_t head[] = {0, 1, 8, 0, 6, 4, 0};
    uint32_t length = ETHER_BYTES + 28;
    memcpy(arp, head, sizeof(head));
    arp[7] = (uint8_t)(1 + check_random(2));
    memcpy(arp + 8, frame + 6, 6);
    some_address(false, false, arp + 14);
    memcpy(arp + 18, ether_mac, sizeof(ether_mac));
    some_address(false, true, arp + 24);
    for (uint32_t i = check_random(3); i > 0 && check_random(2); i--) {
        frame[check_random(length)] = (uint8_t)edge();
    }
    if (check_random(8) == 0) {
        length = check_random(sizeof(frame) + 1);
    }
    inject_frame(frame, length);
}

static void inject(const struct packet *p) {
    injected++;
    uint8_t *exact = malloc(p->length);
    CHECK(exact != NULL);
    memcpy(exact, p->data, p->length);
    (void)pf_flow_classify_ip(pf_flows, exact, p->length, PF_PRIORITY_MEDIUM);
    free(exact);
    if (check_random(3)) {
        wire_deliver(&wire.netif, p->data, (uint16_t)p->length);
        return;
    }
    uint8_t frame[ETHER_BYTES + PACKET_MAX];
    memcpy(frame, ether_mac, sizeof(ether_mac));
    if (check_random(16) == 0) {
        memset(frame, 0xff, 6);
    }
    memcpy(frame + 6, ether_mac, sizeof(ether_mac));
    frame[11] = (uint8_t)(2 + check_random(3));
    put16(frame + 12, packet_six(p) ? 0x86dd : 0x0800);
    if (check_random(32) == 0) {
        put16(frame + 12, check_random(2) ? 0x8100 : edge());
    }
    memcpy(frame + ETHER_BYTES, p->data, p->length);
    inject_frame(frame, ETHER_BYTES + p->length);
}

/* In pieces, which may overlap, come twice, in any order or not at all. */
static void inject_fragments(const struct packet *whole) {
    bool six = packet_six(whole);
    uint32_t header = header_bytes(six);
    uint32_t number = check_random(4);
    uint32_t size = 8 * (1 + check_random(check_random(2) ? 4 : 100));
    uint32_t count = (whole->length - header + size - 1) / size;
    static struct packet p;
    for (uint32_t i = 0; i < count && i < 24; i++) {
        uint32_t which = check_random(4) ? i : check_random(count);
        uint32_t at = which * size + (check_random(24) ? 0 : 8 * check_random(4));
        if (header + at >= whole->length || check_random(24) == 0) {
            continue;
        }
        uint32_t bytes = whole->length - header - at;
        bool more = bytes > size;
        bytes = more ? size : bytes;
        memcpy(p.data, whole->data, header);
        p.length = header;
        if (six) {
            p.data[6] = 44;
            p.data[header] = whole->data[6];
            p.data[header + 1] = 0;
            put16(p.data + header + 2, at | more);
            put32(p.data + header + 4, number);
            p.length += 8;
        } else {
            put16(p.data + 4, number);
            put16(p.data + 6, (more ? 0x2000U : 0U) | at / 8);
        }
        memcpy(p.data + p.length, whole->data + header + at, bytes);
        p.length += bytes;
        set_length(&p);
        mutate(&p, check_random(8) ? 0 : 1);
        inject(&p);
    }
}

static bool take_recent(struct packet *p) {
    uint64_t have = wire.delivered < WIRE_RECENT ? wire.delivered : WIRE_RECENT;
    if (!have) {
        return false;
    }
    const struct wire_frame *frame = &wire.recent[check_random((uint32_t)have)];
    p->length = frame->length;
    memcpy(p->data, frame->data, frame->length);
    return true;
}

/* What the stack sent over the Ethernet comes back, from the one it was for. */
static bool take_kept(struct packet *p) {
    uint64_t have = kept_count < KEPT ? kept_count : KEPT;
    uint32_t at = have ? check_random((uint32_t)have) : 0;
    if (!have || kept[at].length < ETHER_BYTES + IP4_BYTES || kept[at].data[12] == 8) {
        if (!have || kept[at].data[13] != 0) {
            return false;
        }
    }
    p->length = kept[at].length - ETHER_BYTES;
    memcpy(p->data, kept[at].data + ETHER_BYTES, p->length);
    bool six = packet_six(p);
    if (p->length >= header_bytes(six)) {
        uint8_t other[16];
        uint32_t bytes = six ? 16 : 4;
        uint8_t *from = p->data + (six ? 8 : 12);
        memcpy(other, from, bytes);
        memcpy(from, from + bytes, bytes);
        memcpy(from + bytes, other, bytes);
    }
    return true;
}

static void make_some(struct packet *p) {
    static struct packet other;
    bool six = check_random(2);
    uint32_t kind = check_random(32);
    if (kind < 8 && take_recent(p)) {
        return;
    }
    if (kind == 8 && take_kept(p)) {
        return;
    }
    if (kind < 12 && take_recent(&other)) {
        make_error(p, &other);
    } else if (kind < 14) {
        make_echo(p, six);
    } else if (kind < 17) {
        make_udp(p, six, (uint16_t)(UDP_PORT + check_random(5)));
    } else if (kind < 20) {
        make_nd(p);
    } else if (kind == 20) {
        make_igmp(p);
    } else {
        make_tcp(p, six, (uint16_t)(PORT + six));
    }
}

static void attack(void) {
    static struct packet p;
    if (check_random(32) == 0) {
        injected++;
        inject_arp();
        return;
    }
    make_some(&p);
    if (check_random(12) == 0 && p.length > 64) {
        mutate(&p, check_random(2));
        inject_fragments(&p);
        return;
    }
    if (check_random(16) == 0) {
        add_extension(&p);
    }
    mutate(&p, check_random(3) ? check_random(3) : 1 + check_random(8));
    if (p.length) {
        inject(&p);
    }
}

/* ---- what must hold ---- */

/* Of one of the two queues: in order. Returns where the first one begins; `bytes`: of all. */
static uint32_t check_queue(const struct tcp_seg *seg, uint32_t empty, uint32_t *bytes) {
    uint32_t first = seg ? lwip_ntohl(seg->tcphdr->seqno) : empty;
    uint32_t end = first;
    for (; seg; seg = seg->next) {
        CHECK(TCP_SEQ_GEQ(lwip_ntohl(seg->tcphdr->seqno), end));
        end = lwip_ntohl(seg->tcphdr->seqno) + seg->len;
        *bytes += seg->len;
    }
    return first;
}

/* Every byte from the first that is not acknowledged to the last is in one of them, once. */
static void check_queues(const struct tcp_pcb *pcb) {
    uint32_t bytes = 0;
    uint32_t unacked = check_queue(pcb->unacked, pcb->snd_lbb, &bytes);
    uint32_t unsent = check_queue(pcb->unsent, pcb->snd_lbb, &bytes);
    uint32_t first = TCP_SEQ_LT(unacked, unsent) ? unacked : unsent;
    if (pcb->state == ESTABLISHED || pcb->state == CLOSE_WAIT) {
        CHECK_EQ(bytes, pcb->snd_lbb - first);
        CHECK(TCP_SEQ_LEQ(first, pcb->lastack));
    }
}

static void check_pcb(const struct tcp_pcb *pcb) {
    check_queues(pcb);
    CHECK(pcb->rcv_wnd <= TCP_WND_MAX(pcb));
    CHECK(pcb->rcv_ann_wnd <= pcb->rcv_wnd);
    CHECK(pcb->wnd_limit <= TCP_WND);
    CHECK(pcb->snd_buf <= TCP_SND_BUF);
    CHECK(pcb->snd_queuelen <= TCP_SND_QUEUELEN + 8);
    CHECK(pcb->mss > 0 && pcb->mss <= TCP_MSS);
    CHECK(pcb->cwnd > 0);
    CHECK(TCP_SEQ_LEQ(pcb->lastack, pcb->snd_nxt));
    CHECK(TCP_SEQ_LEQ(pcb->snd_nxt, pcb->snd_lbb + 1)); /* a FIN */
    uint32_t kept_bytes = 0;
    uint32_t end = pcb->rcv_nxt;
    for (const struct tcp_seg *seg = pcb->ooseq; seg; seg = seg->next) {
        uint32_t first = seg->tcphdr->seqno; /* in our order */
        CHECK(TCP_SEQ_GEQ(first, end));
        end = first + seg->len;
        kept_bytes += seg->len;
    }
    CHECK(kept_bytes <= TCP_OOSEQ_MAX_BYTES);
    CHECK(TCP_SEQ_LEQ(end, pcb->rcv_nxt + pcb->rcv_wnd));
}

static void check_all(void) {
    struct stk_counts counts;
    for (const struct tcp_pcb *pcb = tcp_active_pcbs; pcb; pcb = pcb->next) {
        check_pcb(pcb);
    }
    stk_count(&counts);
    CHECK(counts.pcbs < 500);
    CHECK(counts.segments < 20000);
    CHECK(counts.pbufs < 20000);
    CHECK(counts.held_bytes < 100 * TCP_WND);
    CHECK(counts.promised_bytes < 200 * TCP_WND);
    CHECK_EQ(counts.assertions, 0);
    CHECK(wire.count < WIRE_FRAMES / 2);
}

static bool all_over(void) {
    static const memp_t pools[] = {
        MEMP_TCP_PCB,   MEMP_TCP_PCB_LISTEN, MEMP_TCP_SEG,       MEMP_PBUF,      MEMP_PBUF_POOL,
        MEMP_REASSDATA, MEMP_FRAG_PBUF,      MEMP_IP6_REASSDATA, MEMP_ARP_QUEUE, MEMP_ND6_QUEUE};
    for (size_t i = 0; i < sizeof(pools) / sizeof(pools[0]); i++) {
        if (lwip_stats.memp[pools[i]]->used) {
            return false;
        }
    }
    return wire.count == 0;
}

/* ---- rounds ---- */

static void play(uint64_t frames) {
    open_all();
    for (uint64_t end = injected + frames; injected < end;) {
        for (uint32_t i = check_random(4); i > 0; i--) {
            use_something();
        }
        for (uint32_t i = check_random(4); i > 0; i--) {
            attack();
        }
        uint64_t most = check_random(16) ? 20 * MS : check_random(64) ? 2 * SECOND : 200 * SECOND;
        uint64_t until_ns = wire.now_ns + check_random((uint32_t)(most / MS)) * MS;
        for (uint32_t i = check_random(16); i > 0 && wire.now_ns < until_ns; i--) {
            wire_step(until_ns);
        }
        (void)stk_tcp_reset_some(1);
        check_all();
    }
    close_all();
    while (stk_tcp_reset_some(100)) {
    }
    for (uint64_t end_ns = wire.now_ns + AFTERWARDS_NS; !all_over() && wire.now_ns < end_ns;) {
        wire_step(end_ns);
    }
    CHECK(all_over());
    wire_check_empty();
    check_all();
}

int main(void) {
    const char *frames = getenv("PF_FUZZ_FRAMES");
    uint64_t count = frames ? strtoull(frames, NULL, 10) : DEFAULT_FRAMES;
    check_random_init();
    check_watchdog(250);
    wire_open(&events);
    ether_open();
    wire.faults = (struct wire_faults){.loss = 10000, .twice = 5000, .late = 20000};
    while (injected < count) {
        check_watchdog(60);
        play(ROUND_FRAMES);
    }
    printf("  %llu injected, %llu delivered, %llu sent over Ethernet, %llu s of virtual time\n",
           (unsigned long long)injected, (unsigned long long)wire.delivered,
           (unsigned long long)kept_count, (unsigned long long)(wire.now_ns / SECOND));
    printf("  %llu connected, %llu accepted, %llu failed, %llu bytes acknowledged, %llu received, "
           "%llu datagrams, %llu said to have failed\n",
           (unsigned long long)seen.connected, (unsigned long long)seen.accepted,
           (unsigned long long)seen.failed, (unsigned long long)seen.acknowledged,
           (unsigned long long)seen.received, (unsigned long long)seen.datagrams,
           (unsigned long long)seen.datagrams_failed);
    CHECK(seen.connected > 0 && seen.accepted > 0 && seen.acknowledged > 0 && seen.received > 0);
    CHECK(seen.failed > 0 && seen.ended > 0 && seen.datagrams > 0);
    CHECK_EQ(wire.overrun, 0);
    stk_shutdown();
    return 0;
}
