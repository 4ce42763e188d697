/* One test per patch in native/lwip/patches: raw frames go into the patched stack, under ASan and
 * UBSan. Without its patch each test fails: native/build.py --sanitize address,undefined --pristine
 * --test test_lwip_patches shows it.
 *
 * Each test runs in a process of its own, because lwIP's state is global and a failure may end it.
 */
#include <sys/wait.h>
#include <unistd.h>

#include "hand_peer.h"
#include "patched_tcp.h"

#include "lwip/ip6_frag.h"
#include "lwip/nd6.h"
#include "lwip/stats.h"

/* ---- the tests ---- */

static void mss_option_without_syn(void) {
    static const uint8_t mss_20[4] = {2, 4, 0, 20};
    establish();
    write_bytes(200);
    our_next += 200;
    receive_ack(our_next, 50, NULL, 0);
    /* This does not fit into the window: a segment of 100 bytes waits. */
    write_bytes(100);
    REQUIRE(accepted->unsent != NULL);
    receive_ack(our_next, 50, mss_20, sizeof(mss_20));
    write_bytes(100);
    REQUIRE(accepted->mss == 1460);
}

/* A peer that wants segments of a byte, or has room for two, gets them of 48 all the same, as Linux
 * has it (CVE-2019-11479). */
static void smallest_segment(void) {
    static const uint8_t mss_1[4] = {2, 4, 0, 1};
    establish_with(mss_1, PEER_WINDOW);
    REQUIRE(accepted->mss == 48);
    REQUIRE(lwip_stats.tcp.opterr == 1);
    write_bytes(480);
    REQUIRE(accepted->snd_queuelen <= 2 * 10);
    REQUIRE(accepted->unacked->len == 48);
}

static void smallest_segment_by_window(void) {
    static const uint8_t mss_1460[4] = {2, 4, 1460 >> 8, 1460 & 0xff};
    establish_with(mss_1460, 2);
    write_bytes(480);
    REQUIRE(accepted->unsent->len == 48);
    REQUIRE(lwip_stats.tcp.opterr == 0);
    receive_ack(our_next, PEER_WINDOW, NULL, 0);
    REQUIRE(accepted->unacked->len == 48);
}

static void option_without_length(void) {
    static const uint8_t kinds[] = {2 /* MSS */, 3 /* window scale */, 4 /* SACK */,
                                    30 /* other */};
    establish();
    for (size_t i = 0; i < sizeof(kinds); i++) {
        const uint8_t options[4] = {1, 1, 1, kinds[i]};
        receive_ack(our_next, PEER_WINDOW, options, sizeof(options));
    }
    REQUIRE(accepted->state == ESTABLISHED);
}

static void persist_timer_with_empty_queue(void) {
    establish();
    tcp_nagle_disable(accepted);
    write_bytes(1000);
    write_bytes(1000);
    let_it_time_out();
    /* The first is sent again, the second has to wait for the congestion window. */
    REQUIRE(accepted->unacked != NULL);
    REQUIRE(accepted->unsent != NULL);
    receive_ack(our_next + 1000, 0, NULL, 0);
    REQUIRE(accepted->persist_backoff == 1);
    /* The peer had got the second one the first time. */
    receive_ack(our_next + 2000, 0, NULL, 0);
    REQUIRE(accepted->unsent == NULL);
    REQUIRE(accepted->unacked == NULL);
    for (int tick = 0; tick < 10; tick++) {
        tcp_slowtmr();
    }
    REQUIRE(accepted->persist_backoff == 0);
    /* And the timer still starts when it is needed. */
    write_bytes(10);
    REQUIRE(accepted->persist_backoff == 1);
}

static void round_trip_overflow(void) {
    establish();
    tcp_nagle_disable(accepted);
    for (int round = 0; round < 100 && accepted->rto > 0; round++) {
        write_bytes(1);
        const int patience = accepted->rto - 1;
        for (int tick = 0; tick < patience; tick++) {
            tcp_slowtmr();
        }
        our_next++;
        receive_ack(our_next, PEER_WINDOW, NULL, 0);
    }
    write_bytes(1);
    let_it_time_out();
    REQUIRE(accepted->rto > 0);
}

static void enter_time_wait(void) {
    establish();
    struct tcp_pcb *former = accepted;
    REQUIRE(tcp_close(former) == ERR_OK);
    receive_segment(&(struct segment){.port = OUR_PORT,
                                      .flags = TCP_ACK | TCP_FIN,
                                      .seq = PEER_ISN + 1,
                                      .ack = our_next + 1,
                                      .window = PEER_WINDOW});
    REQUIRE(former->state == TIME_WAIT);
}

static void reset_in_time_wait(void) {
    enter_time_wait();
    static const uint32_t off_by[] = {1, 3, 2}; /* PEER_ISN + 2 is what comes next */
    for (size_t i = 0; i < 3; i++) {
        receive_segment(
            &(struct segment){.port = OUR_PORT, .flags = TCP_RST, .seq = PEER_ISN + off_by[i]});
        REQUIRE((tcp_tw_pcbs == NULL) == (off_by[i] == 2));
    }
}

static void syn_in_time_wait(void) {
    enum { FLAGS = ETHERNET_HEADER + IPV4_HEADER + 13, NEW_ISN = PEER_ISN + 100000 };
    enter_time_wait();
    receive_segment(&(struct segment){
        .port = OUR_PORT, .flags = TCP_SYN, .seq = NEW_ISN, .window = PEER_WINDOW});
    REQUIRE((get16(FLAGS - 1) & 0x3f) == (TCP_SYN | TCP_ACK));
    REQUIRE(get32(ETHERNET_HEADER + IPV4_HEADER + 8) == NEW_ISN + 1);
    REQUIRE(tcp_tw_pcbs == NULL);
}

static void arp_runt(void) {
    start_stack(false);
    for (size_t length = 1; length < SIZEOF_ETHARP_HDR; length++) {
        struct frame frame;
        arp_request(&frame);
        frame.length = ETHERNET_HEADER + length;
        receive(&frame);
    }
    REQUIRE(sent_count == 0);
    learn_peer();
    REQUIRE(sent_count == 1);
}

static void ip_id_counter(void) {
    start_stack(false);
    learn_peer();
    for (uint32_t i = 0; i < 3; i++) {
        sent_count = 0;
        receive_segment(&(struct segment){
            .port = CLOSED_PORT, .flags = TCP_SYN, .seq = PEER_ISN + i, .window = PEER_WINDOW});
        REQUIRE(sent_count == 1);
        REQUIRE((sent_frame[ETHERNET_HEADER + IPV4_HEADER + 13] & TCP_RST) != 0);
        REQUIRE(get16(ETHERNET_HEADER + 4) == 0);
    }
}

static void ipv6_header(struct frame *frame, const uint8_t *destination, unsigned next_header,
                        unsigned length) {
    ethernet_header(frame, 0x86dd);
    append32(frame, 0x60000000U);
    append16(frame, length);
    append8(frame, next_header);
    append8(frame, 255);
    append(frame, PEER_IPV6, sizeof(PEER_IPV6));
    append(frame, destination, 16);
}

static void reassembly_without_fragment(void) {
    struct frame frame;
    const uint8_t part[8] = {0};
    start_stack(true);
    ipv6_header(&frame, OUR_IPV6, 44, 8 + 8 * (IP_REASS_MAX_PBUFS + 1));
    append8(&frame, 17);
    append8(&frame, 0);
    append16(&frame, 1); /* offset 0, more fragments */
    append32(&frame, 7); /* identification */
    append(&frame, part, sizeof(part));
    struct pbuf *chain = exact_pbuf(frame.bytes, frame.length);
    for (int i = 0; i < IP_REASS_MAX_PBUFS; i++) {
        pbuf_cat(chain, exact_pbuf(part, sizeof(part)));
    }
    REQUIRE(link_netif.input(chain, &link_netif) == ERR_OK);
    for (int second = 0; second < IPV6_REASS_MAXAGE + 2; second++) {
        ip6_reass_tmr();
    }
}

enum { SOLICITATION = 135, ADVERTISEMENT = 136, REDIRECT = 137 };
enum { SOURCE_ADDRESS = 1, TARGET_ADDRESS = 2, NONCE = 14 };

static void neighbour_message(struct frame *frame, const uint8_t *destination, unsigned type,
                              unsigned length, const uint8_t *target) {
    ipv6_header(frame, destination, 58, length);
    append8(frame, type);
    append8(frame, 0);
    append16(frame, 0);
    append32(frame, type == ADVERTISEMENT ? 0x60000000U : 0); /* solicited, override */
    append(frame, target, 16);
}

/* Makes us want to know the address of the peer, by sending something to it. */
static void ask_for_peer(void) {
    const ip6_addr_t peer = ipv6_address(PEER_IPV6);
    struct pbuf *p = pbuf_alloc(PBUF_IP, 8, PBUF_RAM);
    REQUIRE(p != NULL);
    memset(p->payload, 0, 8);
    ip6_output_if(p, netif_ip6_addr(&link_netif, 0), &peer, 64, 0, IP6_NEXTH_UDP, &link_netif);
    pbuf_free(p);
}

static void append_option(struct frame *frame, unsigned type, unsigned length) {
    append8(frame, type);
    append8(frame, length);
}

static void nd6_solicitation_empty_option(void) {
    struct frame frame;
    start_stack(true);
    neighbour_message(&frame, OUR_IPV6, SOLICITATION, 26, OUR_IPV6);
    append_option(&frame, SOURCE_ADDRESS, 0);
    receive(&frame);
    REQUIRE(sent_count == 0);
}

static void nd6_advertisement_empty_option(void) {
    struct frame frame;
    start_stack(true);
    ask_for_peer();
    neighbour_message(&frame, OUR_IPV6, ADVERTISEMENT, 26, PEER_IPV6);
    append_option(&frame, TARGET_ADDRESS, 0);
    sent_count = 0;
    receive(&frame);
    /* What waits for the address must not leave. */
    REQUIRE(sent_count == 0);
}

static void nd6_unsolicited_empty_option(void) {
    struct frame frame;
    start_stack(true);
    ask_for_peer();
    neighbour_message(&frame, ALL_NODES, ADVERTISEMENT, 26, PEER_IPV6);
    append_option(&frame, TARGET_ADDRESS, 0);
    receive(&frame);
}

static void nd6_redirect_empty_option(void) {
    struct frame frame;
    start_stack(true);
    ask_for_peer();
    neighbour_message(&frame, OUR_IPV6, REDIRECT, 42, ROUTER_IPV6);
    append(&frame, PEER_IPV6, 16);
    append_option(&frame, TARGET_ADDRESS, 0);
    receive(&frame);
}

static void nd6_foreign_option_first(void) {
    struct frame frame;
    const uint8_t nonce[6] = {9, 9, 9, 9, 9, 9};
    start_stack(true);
    neighbour_message(&frame, OUR_IPV6, SOLICITATION, 24 + 8 + 8, OUR_IPV6);
    append_option(&frame, NONCE, 1);
    append(&frame, nonce, sizeof(nonce));
    append_option(&frame, SOURCE_ADDRESS, 1);
    append(&frame, PEER_MAC, sizeof(PEER_MAC));
    receive(&frame);
    REQUIRE(sent_count > 0);
    REQUIRE(memcmp(sent_frame, PEER_MAC, sizeof(PEER_MAC)) == 0);
}

static void icmp6_without_address(void) {
    struct frame frame;
    /* Destination options, then hop-by-hop options where they may not be: a parameter problem. */
    const uint8_t options[8] = {0, 0, 1, 4};
    start_stack(false);
    ipv6_header(&frame, ALL_NODES, 60, sizeof(options) + 8);
    append(&frame, options, sizeof(options));
    append(&frame, (uint8_t[8]){59, 0, 1, 4}, 8);
    receive(&frame);
    REQUIRE(sent_count == 0);
}

/* Every length that is too short for a header, in a buffer of exactly that length. */
static void receive_cut(const struct frame *whole, size_t header) {
    for (size_t length = ETHERNET_HEADER + 1; length < ETHERNET_HEADER + header; length++) {
        struct frame cut = *whole;
        cut.length = length;
        receive(&cut);
    }
    REQUIRE(sent_count == 0);
}

static void ip4_runt(void) {
    struct frame frame;
    start_stack(false);
    ethernet_header(&frame, 0x0800);
    append16(&frame, 0x4500);
    append16(&frame, IPV4_HEADER);
    append32(&frame, 0);
    append32(&frame, 0);
    append(&frame, PEER_IPV4, sizeof(PEER_IPV4));
    append(&frame, OUR_IPV4, sizeof(OUR_IPV4));
    receive_cut(&frame, IPV4_HEADER);
}

static void ip6_runt(void) {
    struct frame frame;
    start_stack(true);
    ipv6_header(&frame, OUR_IPV6, 58, 0);
    receive_cut(&frame, IPV6_HEADER);
}

static void ip6_extension_runt(void) {
    static const uint8_t headers[] = {0 /* hop-by-hop */, 43 /* routing */, 60 /* destination */};
    start_stack(true);
    for (size_t i = 0; i < sizeof(headers); i++) {
        for (unsigned length = 0; length < 8; length++) {
            const uint8_t part[8] = {59};
            struct frame frame;
            ipv6_header(&frame, OUR_IPV6, headers[i], length);
            append(&frame, part, length);
            receive(&frame);
        }
    }
    REQUIRE(sent_count == 0);
}

static void ip6_option_without_length(void) {
    static const uint8_t headers[] = {0 /* hop-by-hop */, 60 /* destination */};
    start_stack(true);
    for (size_t i = 0; i < sizeof(headers); i++) {
        /* Five single bytes of padding, then a PadN of which only the type is there. */
        const uint8_t options[8] = {59, 0, 0, 0, 0, 0, 0, 1};
        struct frame frame;
        ipv6_header(&frame, OUR_IPV6, headers[i], sizeof(options));
        append(&frame, options, sizeof(options));
        receive(&frame);
    }
    REQUIRE(sent_count == 0);
}

static void backlog_beyond_a_byte(void) {
    start_stack(false);
    learn_peer();
    struct tcp_pcb *pcb = tcp_new_ip_type(IPADDR_TYPE_V4);
    REQUIRE(pcb != NULL);
    REQUIRE(tcp_bind(pcb, IP4_ADDR_ANY, OUR_PORT) == ERR_OK);
    u16_t backlog = 300;
    pcb = tcp_listen_with_backlog(pcb, backlog);
    REQUIRE(pcb != NULL);
    sent_count = 0;
    for (uint16_t i = 0; i <= backlog; i++) {
        receive_segment(&(struct segment){.port = OUR_PORT,
                                          .from = (uint16_t)(PEER_PORT + i),
                                          .flags = TCP_SYN,
                                          .seq = PEER_ISN,
                                          .window = PEER_WINDOW});
    }
    REQUIRE(sent_count == backlog); /* each a SYN-ACK; the last one was one too many */
}

static void the_loopback_network(void) {
    static const uint8_t elsewhere[4] = {127, 200, 3, 4};
    const struct segment syn = {
        .port = CLOSED_PORT, .flags = TCP_SYN, .seq = PEER_ISN, .to = elsewhere};
    ip4_addr_t address;
    start_stack(false);
    learn_peer();
    sent_count = 0;
    receive_segment(&syn);
    REQUIRE(sent_count == 0); /* not by an interface that has no such address */
    IP4_ADDR(&address, 127, 0, 0, 1);
    netif_set_ipaddr(&link_netif, &address);
    sent_count = 0;
    receive_segment(&syn);
    REQUIRE(sent_count == 1); /* refused, by whoever has the address */
}

static unsigned connected_count;

static err_t on_connected(void *arg, struct tcp_pcb *pcb, err_t err) {
    (void)arg;
    REQUIRE(err == ERR_OK);
    REQUIRE(pcb->state == ESTABLISHED);
    connected_count++;
    return ERR_OK;
}

static void simultaneous_open(void) {
    ip_addr_t peer = IPADDR4_INIT_BYTES(10, 0, 0, 2);
    start_stack(false);
    learn_peer();
    struct tcp_pcb *pcb = tcp_new_ip_type(IPADDR_TYPE_V4);
    REQUIRE(pcb != NULL);
    REQUIRE(tcp_bind(pcb, IP4_ADDR_ANY, OUR_PORT) == ERR_OK);
    REQUIRE(tcp_connect(pcb, &peer, PEER_PORT, on_connected) == ERR_OK);
    const size_t tcp = ETHERNET_HEADER + IPV4_HEADER;
    const uint32_t ours = get32(tcp + 4);
    REQUIRE((sent_frame[tcp + 13] & (TCP_SYN | TCP_ACK)) == TCP_SYN);
    struct segment crossing = {
        .port = OUR_PORT, .flags = TCP_SYN, .seq = PEER_ISN, .window = PEER_WINDOW};
    receive_segment(&crossing);
    REQUIRE((sent_frame[tcp + 13] & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK));
    REQUIRE(get32(tcp + 4) == ours);
    REQUIRE(get32(tcp + 8) == PEER_ISN + 1);
    crossing.flags = TCP_SYN | TCP_ACK;
    crossing.ack = ours + 1;
    receive_segment(&crossing);
    REQUIRE(connected_count == 1);
    REQUIRE(pcb->state == ESTABLISHED);
    REQUIRE(pcb->rcv_nxt == PEER_ISN + 1);
    REQUIRE(pcb->unacked == NULL);
    /* Bytes go both ways as ever. */
    accepted = pcb;
    write_bytes(100);
    receive_ack(ours + 101, PEER_WINDOW, NULL, 0);
    REQUIRE(pcb->unacked == NULL);
}

#ifdef TF_URGENT
static int urgent_pointer_sent(void) {
    const size_t tcp = ETHERNET_HEADER + IPV4_HEADER;
    return sent_frame[tcp + 13] & TCP_URG ? sent_frame[tcp + 18] << 8 | sent_frame[tcp + 19] : -1;
}
#endif

static void urgent_pointer(void) {
#ifdef TF_URGENT
    establish();
    tcp_set_flags(accepted, TF_NODELAY | TF_URGENT);
    accepted->snd_up = our_next + 110;
    write_bytes(10);
    REQUIRE(urgent_pointer_sent() == 110); /* the byte may be in a later segment */
    write_bytes(100);
    REQUIRE(urgent_pointer_sent() == 100);
    write_bytes(10);
    REQUIRE(urgent_pointer_sent() == -1); /* that is behind it */
    accepted->snd_up = our_next + 120;
    let_it_time_out();
    REQUIRE(urgent_pointer_sent() == 10); /* the same segment again, which it is in now */
    receive_ack(our_next + 120, PEER_WINDOW, NULL, 0);
    write_bytes(10);
    REQUIRE(urgent_pointer_sent() == -1 && !(accepted->flags & TF_URGENT));
    tcp_set_flags(accepted, TF_URGENT);
    accepted->snd_up = accepted->snd_lbb + 0x10000;
    write_bytes(1);
    REQUIRE(urgent_pointer_sent() == -1); /* too far away to be told */
    write_bytes(1);
    REQUIRE(urgent_pointer_sent() == 0xffff);
#else
    REQUIRE(!"lwIP has no urgent pointer");
#endif
}

static void send_to(const ip6_addr_t *neighbour) {
    struct pbuf *p = pbuf_alloc(PBUF_IP, 8, PBUF_RAM);
    REQUIRE(p != NULL);
    memset(p->payload, 0, 8);
    ip6_output_if(p, netif_ip6_addr(&link_netif, 0), neighbour, 64, 0, IP6_NEXTH_UDP, &link_netif);
    pbuf_free(p);
}

/* Packets without end to somebody who answers late: what is kept of them leaves room for others. */
static void nd6_queue_is_shared(void) {
    struct frame frame;
    const ip6_addr_t silent = ipv6_address(ROUTER_IPV6);
    const ip6_addr_t peer = ipv6_address(PEER_IPV6);
    start_stack(true);
    for (int i = 0; i < MEMP_NUM_ND6_QUEUE + 100; i++) {
        send_to(&silent);
    }
    neighbour_message(&frame, OUR_IPV6, ADVERTISEMENT, 32, ROUTER_IPV6);
    append_option(&frame, TARGET_ADDRESS, 1);
    append(&frame, PEER_MAC, sizeof(PEER_MAC));
    sent_count = 0;
    receive(&frame);
    REQUIRE(sent_count == MEMP_NUM_ND6_QUEUE / LWIP_ND6_NUM_NEIGHBORS);
    send_to(&peer);
    neighbour_message(&frame, OUR_IPV6, ADVERTISEMENT, 32, PEER_IPV6);
    append_option(&frame, TARGET_ADDRESS, 1);
    append(&frame, PEER_MAC, sizeof(PEER_MAC));
    sent_count = 0;
    receive(&frame);
    REQUIRE(sent_count == 1);
}

/* Also behind an extension header; and nobody is told that there is no such port. */
static void udp_input_hook(void) {
    struct frame frame;
    start_stack(true);
    learn_peer();
    sent_count = 0;
    ethernet_header(&frame, 0x0800);
    append16(&frame, 0x4500);
    append16(&frame, IPV4_HEADER + 8);
    append32(&frame, 0);
    append16(&frame, 64 << 8 | 17);
    append16(&frame, 0);
    append(&frame, PEER_IPV4, sizeof(PEER_IPV4));
    append(&frame, OUR_IPV4, sizeof(OUR_IPV4));
    append16(&frame, PEER_PORT);
    append16(&frame, CLOSED_PORT);
    append16(&frame, 8);
    append16(&frame, 0);
    receive(&frame);
    REQUIRE(link_hooks.udp == 1);
    ipv6_header(&frame, OUR_IPV6, 60, 16);
    append16(&frame, 17 << 8); /* destination options: padding only, then UDP */
    append16(&frame, 1 << 8 | 4);
    append32(&frame, 0);
    append16(&frame, PEER_PORT);
    append16(&frame, CLOSED_PORT);
    append16(&frame, 8);
    append16(&frame, 0);
    receive(&frame);
    REQUIRE(link_hooks.udp == 2);
    REQUIRE(sent_count == 0);
}

static const struct test {
    const char *name;
    void (*run)(void);
} TESTS[] = {
    {"mss_option_without_syn", mss_option_without_syn},
    {"option_without_length", option_without_length},
    {"persist_timer_with_empty_queue", persist_timer_with_empty_queue},
    {"round_trip_overflow", round_trip_overflow},
    {"syn_in_time_wait", syn_in_time_wait},
    {"reset_in_time_wait", reset_in_time_wait},
    {"arp_runt", arp_runt},
    {"ip_id_counter", ip_id_counter},
    {"reassembly_without_fragment", reassembly_without_fragment},
    {"nd6_solicitation_empty_option", nd6_solicitation_empty_option},
    {"nd6_advertisement_empty_option", nd6_advertisement_empty_option},
    {"nd6_unsolicited_empty_option", nd6_unsolicited_empty_option},
    {"nd6_redirect_empty_option", nd6_redirect_empty_option},
    {"nd6_foreign_option_first", nd6_foreign_option_first},
    {"icmp6_without_address", icmp6_without_address},
    {"ip4_runt", ip4_runt},
    {"ip6_runt", ip6_runt},
    {"ip6_extension_runt", ip6_extension_runt},
    {"ip6_option_without_length", ip6_option_without_length},
    {"backlog_beyond_a_byte", backlog_beyond_a_byte},
    {"the_loopback_network", the_loopback_network},
    {"simultaneous_open", simultaneous_open},
    {"split_segment_with_fin", split_segment_with_fin},
    {"urgent_pointer", urgent_pointer},
    {"smallest_segment", smallest_segment},
    {"smallest_segment_by_window", smallest_segment_by_window},
    {"udp_input_hook", udp_input_hook},
    {"nd6_queue_is_shared", nd6_queue_is_shared},
    {"out_of_order_beyond_the_window", out_of_order_beyond_the_window},
    {"data_in_last_ack", data_in_last_ack},
    {"keep_alive_after_our_end", keep_alive_after_our_end},
    {"last_fin_after_an_outage", last_fin_after_an_outage},
    {"retransmits_for_long", retransmits_for_long},
    {"fin_wait_2_after_idle_time", fin_wait_2_after_idle_time},
    {"window_of_a_retransmission", window_of_a_retransmission},
    {"window_of_an_old_acknowledgement", window_of_an_old_acknowledgement},
    {"acknowledgement_at_a_closed_window", acknowledgement_at_a_closed_window},
    {"acknowledgements_outside_the_window", acknowledgements_outside_the_window},
};

static bool passes(const struct test *test) {
    fflush(NULL);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        test->run();
        /* Not exit(): what lwIP still holds is no leak. */
        _exit(0);
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int main(int argc, char **argv) {
    int failures = 0;
    for (size_t i = 0; i < sizeof(TESTS) / sizeof(TESTS[0]); i++) {
        if (argc > 1 && strcmp(argv[1], TESTS[i].name) != 0) {
            continue;
        }
        const bool good = passes(&TESTS[i]);
        printf("%s %s\n", good ? "ok  " : "FAIL", TESTS[i].name);
        failures += good ? 0 : 1;
    }
    return failures == 0 ? 0 : 1;
}
