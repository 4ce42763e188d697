/* Tests of test_lwip_patches: established connections, of which the peer is played by hand. */
#ifndef PF_TEST_PATCHED_TCP_H
#define PF_TEST_PATCHED_TCP_H

#include "hand_peer.h"

enum { FLAGS_AT = ETHERNET_HEADER + IPV4_HEADER + 13, SECOND_TICKS = 1000 / TCP_SLOW_INTERVAL };

static void split_segment_with_fin(void) {
    const size_t flags = FLAGS_AT;
    establish();
    write_bytes(1);
    receive_ack(++our_next, 50, NULL, 0);
    write_bytes(100);
    REQUIRE(tcp_shutdown(accepted, 0, 1) == ERR_OK);
    for (int tick = 0; tick < 10; tick++) {
        tcp_slowtmr(); /* the persist timer splits it, and sends what fits */
    }
    REQUIRE(accepted->unacked != NULL && (sent_frame[flags] & TCP_FIN) == 0);
    receive_ack(our_next + 50, PEER_WINDOW, NULL, 0);
    REQUIRE(accepted->unsent == NULL && (sent_frame[flags] & TCP_FIN) != 0);
}

/* `bytes` of payload that begin `ahead` behind what was received in order. */
static void receive_bytes(uint32_t ahead, uint16_t bytes, uint32_t ack, uint16_t window) {
    receive_segment(&(struct segment){.port = OUR_PORT,
                                      .flags = TCP_ACK,
                                      .seq = accepted->rcv_nxt + ahead,
                                      .ack = ack,
                                      .window = window,
                                      .bytes = bytes});
}

/* A program that reads nothing: the window is what is left. */
static err_t keep(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t err) {
    (void)arg;
    (void)pcb;
    (void)err;
    if (p != NULL) {
        pbuf_free(p);
    }
    return ERR_OK;
}

static void window_of(tcpwnd_size_t bytes) {
    tcp_recv(accepted, keep);
    accepted->rcv_wnd = bytes;
    accepted->rcv_ann_wnd = bytes;
    accepted->rcv_ann_right_edge = accepted->rcv_nxt + bytes;
}

static void out_of_order_beyond_the_window(void) {
    establish();
    window_of(100);
    receive_bytes(1, 1000, our_next, PEER_WINDOW);
    receive_bytes(0, 1, our_next, PEER_WINDOW);
    REQUIRE(accepted->rcv_nxt == PEER_ISN + 1 + 100);
    REQUIRE(accepted->rcv_wnd == 0);
}

static void receive_fin(void) {
    receive_segment(&(struct segment){.port = OUR_PORT,
                                      .flags = TCP_ACK | TCP_FIN,
                                      .seq = accepted->rcv_nxt,
                                      .ack = our_next,
                                      .window = PEER_WINDOW});
}

static unsigned errors;
static void on_error(void *arg, err_t err) {
    (void)arg;
    (void)err;
    errors++;
}

static void pass_seconds(unsigned seconds) {
    for (unsigned tick = 0; tick < seconds * SECOND_TICKS && errors == 0; tick++) {
        tcp_slowtmr();
    }
}

static void data_in_last_ack(void) {
    establish();
    tcp_err(accepted, on_error);
    tcp_recv(accepted, keep);
    receive_fin();
    write_bytes(1000);
    REQUIRE(tcp_shutdown(accepted, 0, 1) == ERR_OK);
    REQUIRE(accepted->state == LAST_ACK);
    pass_seconds(100);
    REQUIRE(errors == 0);
    /* The bytes came; nobody waits long for the FIN. */
    receive_ack(our_next + 1000, PEER_WINDOW, NULL, 0);
    pass_seconds(61);
    REQUIRE(errors == 1);
}

static void keep_alive_after_our_end(void) {
    establish();
    tcp_err(accepted, on_error);
    ip_set_option(accepted, SOF_KEEPALIVE);
    accepted->keep_idle = 10000;
    accepted->keep_intvl = 1000;
    accepted->keep_cnt = 3;
    REQUIRE(tcp_shutdown(accepted, 0, 1) == ERR_OK);
    receive_ack(++our_next, PEER_WINDOW, NULL, 0);
    REQUIRE(accepted->state == FIN_WAIT_2);
    sent_count = 0;
    pass_seconds(11);
    REQUIRE(sent_count > 0);
    pass_seconds(10);
    REQUIRE(errors == 1);
}

/* The minute of a FIN is not over because the bytes before it took as long. */
static void last_fin_after_an_outage(void) {
    establish();
    tcp_err(accepted, on_error);
    tcp_recv(accepted, keep);
    receive_fin();
    write_bytes(1000);
    REQUIRE(tcp_close(accepted) == ERR_OK);
    REQUIRE(accepted->state == LAST_ACK);
    pass_seconds(100);
    receive_ack(our_next + 1000, PEER_WINDOW, NULL, 0);
    pass_seconds(30);
    REQUIRE(errors == 0);
    pass_seconds(40);
    REQUIRE(errors == 1);
}

static void fin_wait_2_after_idle_time(void) {
    establish();
    pass_seconds(30);
    REQUIRE(tcp_close(accepted) == ERR_OK);
    receive_ack(our_next + 1, PEER_WINDOW, NULL, 0);
    REQUIRE(accepted->state == FIN_WAIT_2);
    pass_seconds(10);
    REQUIRE(tcp_active_pcbs == accepted);
    pass_seconds(11);
    REQUIRE(tcp_active_pcbs == NULL);
}

static void retransmits_for_long(void) {
    establish();
    tcp_err(accepted, on_error);
    pass_seconds(1);               /* by a clock at 0 nothing is measured */
    for (int i = 0; i < 20; i++) { /* the time there and back is short */
        write_bytes(1);
        receive_ack(++our_next, PEER_WINDOW, NULL, 0);
    }
    write_bytes(1000);
    pass_seconds(600);
    REQUIRE(errors == 0);
    sent_count = 0;
    pass_seconds(130); /* however often before: at least every two minutes */
    REQUIRE(errors == 0 && sent_count > 0);
    pass_seconds(600);
    REQUIRE(errors == 1);
}

/* The end of the peer's window, as lwIP sees it. */
static uint32_t window_end(void) { return accepted->lastack + accepted->snd_wnd; }

static void window_of_a_retransmission(void) {
    establish();
    write_bytes(1000);
    receive_bytes(0, 100, our_next, 5000);
    receive_bytes(0, 100, our_next, 5000);
    uint32_t end = our_next + 5000;
    REQUIRE(window_end() == end);
    /* The first of them again; with it the peer acknowledges, and its window ends where it did. */
    receive_bytes((uint32_t)-200, 100, our_next + 500, 4500);
    REQUIRE(accepted->lastack == our_next + 500 && window_end() == end);
}

static void window_of_an_old_acknowledgement(void) {
    establish();
    write_bytes(1000);
    receive_ack(our_next + 1000, 4000, NULL, 0);
    uint32_t end = our_next + 5000;
    REQUIRE(window_end() == end);
    receive_bytes(100, 100, our_next, 5000); /* was sent before, came later */
    REQUIRE(window_end() == end);
}

static void acknowledgement_at_a_closed_window(void) {
    establish();
    window_of(0);
    sent_count = 0;
    receive_bytes(0, 0, our_next, 0);
    tcp_fasttmr();
    REQUIRE(sent_count == 0);
}

static void acknowledgements_outside_the_window(void) {
    establish();
    window_of(0);
    sent_count = 0;
    for (int i = 0; i < 100; i++) {
        receive_bytes(1, 0, our_next, 0);
    }
    REQUIRE(sent_count == 1);
    pass_seconds(1);
    receive_bytes(1, 0, our_next, 0);
    REQUIRE(sent_count == 2);
    /* Bytes are always answered: they are sent again as long as they are not. */
    receive_bytes(0, 1, our_next, 0);
    receive_bytes(0, 1, our_next, 0);
    REQUIRE(sent_count == 4);
}

#endif
