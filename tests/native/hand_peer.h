/* A connection, of which the peer's side is played by hand. */
#ifndef PF_TEST_HAND_PEER_H
#define PF_TEST_HAND_PEER_H

#include "lwip_link.h"

#include "lwip/priv/tcp_priv.h"
#include "lwip/tcp.h"

static struct tcp_pcb *accepted;
static uint32_t our_next; /* sequence number of the first byte that we send */

enum { PEER_ISN = 1000, PEER_WINDOW = 60000 };

static err_t on_accept(void *arg, struct tcp_pcb *pcb, err_t err) {
    (void)arg;
    REQUIRE(err == ERR_OK);
    accepted = pcb;
    return ERR_OK;
}

static void receive_ack(uint32_t ack, uint16_t window, const uint8_t *options, uint8_t length) {
    receive_segment(&(struct segment){.port = OUR_PORT,
                                      .flags = TCP_ACK,
                                      .seq = PEER_ISN + 1,
                                      .ack = ack,
                                      .window = window,
                                      .options = options,
                                      .options_length = length});
}

static void establish_with(const uint8_t mss[4], uint16_t window) {
    start_stack(false);
    learn_peer();
    struct tcp_pcb *pcb = tcp_new_ip_type(IPADDR_TYPE_V4);
    REQUIRE(pcb != NULL);
    REQUIRE(tcp_bind(pcb, IP4_ADDR_ANY, OUR_PORT) == ERR_OK);
    pcb = tcp_listen(pcb);
    REQUIRE(pcb != NULL);
    tcp_accept(pcb, on_accept);
    receive_segment(&(struct segment){.port = OUR_PORT,
                                      .flags = TCP_SYN,
                                      .seq = PEER_ISN,
                                      .window = window,
                                      .options = mss,
                                      .options_length = 4});
    our_next = get32(ETHERNET_HEADER + IPV4_HEADER + 4) + 1;
    receive_ack(our_next, window, NULL, 0);
    REQUIRE(accepted != NULL);
    REQUIRE(accepted->state == ESTABLISHED);
}

static inline void establish(void) {
    static const uint8_t mss_1460[4] = {2, 4, 1460 >> 8, 1460 & 0xff};
    establish_with(mss_1460, PEER_WINDOW);
}

static void write_bytes(u16_t length) {
    static const uint8_t zeros[2000];
    REQUIRE(tcp_write(accepted, zeros, length, TCP_WRITE_FLAG_COPY) == ERR_OK);
    REQUIRE(tcp_output(accepted) == ERR_OK);
}

static void let_it_time_out(void) {
    for (int tick = 0; tick < 20000 && accepted->nrtx == 0; tick++) {
        tcp_slowtmr();
    }
    REQUIRE(accepted->nrtx > 0);
}

#endif
