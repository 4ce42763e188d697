/* native/lwip/udp.c and datagram_input.c by themselves, one step at a time: what arrives while
 * something else does not. */
#include "backend/stack.h"

#include <errno.h>

#include "check.h"

struct end {
    struct stk_dgram *dgram;
    uint32_t arrived;
    uint32_t length;
    int error;
};

static void on_datagram(void *owner, const struct stk_packet *packet) {
    struct end *end = owner;
    end->arrived++;
    end->length = packet->header.length;
}

static void on_error(void *owner, int error) { ((struct end *)owner)->error = error; }

static const struct stk_events events = {.datagram = on_datagram, .datagram_failed = on_error};

static struct pf_addr addr_of(uint16_t port) {
    return (struct pf_addr){.family = PF_FAMILY_IPV4, .port = port, .ip = {127, 0, 0, 1}};
}

static void open_end(struct end *end, uint16_t port, int priority) {
    struct pf_addr addr = addr_of(port);
    memset(end, 0, sizeof(*end));
    CHECK_EQ(stk_udp_open(PF_FAMILY_IPV4, priority, 0, end, &end->dgram), 0);
    CHECK_EQ(stk_udp_bind(end->dgram, &addr), 0);
}

static void run(int priority) {
    do {
        (void)stk_collect_frames(STK_FRAMES_AT_ONCE);
        while (stk_frame_waiting(priority)) {
            stk_process_frame(priority);
        }
    } while (stk_frames_pending());
}

/* Somebody sends, at high priority and without end, to a socket of low priority, whose turn never
 * comes. Others still get their datagrams, and the low one what was kept for it. */
static void test_flood_takes_no_more_than_its_share(void) {
    static const uint8_t data[60000];
    struct end low;
    struct end medium;
    struct end high;
    struct pf_addr to_low = addr_of(5001);
    struct pf_addr to_medium = addr_of(5002);
    open_end(&low, 5001, PF_PRIORITY_LOW);
    open_end(&medium, 5002, PF_PRIORITY_MEDIUM);
    open_end(&high, 5003, PF_PRIORITY_HIGH);
    for (int i = 0; i < 6000; i++) { /* 360 MB; the pool has 256 */
        CHECK_EQ(stk_udp_send(high.dgram, &to_low, data, sizeof(data), 0), 0);
        (void)stk_collect_frames(STK_FRAMES_AT_ONCE);
        if (i % 100 == 0) {
            CHECK_EQ(stk_udp_send(high.dgram, &to_medium, data, 1 + (uint32_t)i, 0), 0);
            run(PF_PRIORITY_MEDIUM);
            CHECK_EQ(medium.length, 1 + i);
        }
    }
    CHECK_EQ(medium.arrived, 60);
    CHECK_EQ(low.arrived, 0);
    run(PF_PRIORITY_LOW);
    CHECK(low.arrived > 200 && low.arrived < 300); /* 16 MiB */
    CHECK_EQ(stk_udp_send(high.dgram, &to_low, data, 7, 0), 0);
    run(PF_PRIORITY_LOW);
    CHECK_EQ(low.length, 7);
    stk_udp_close(low.dgram);
    stk_udp_close(medium.dgram);
    stk_udp_close(high.dgram);
}

/* The most urgent endpoint of a port decides, while it lives. */
static void test_priority_of_a_shared_port(void) {
    struct end one;
    struct end two;
    struct pf_addr addr = addr_of(5004);
    memset(&two, 0, sizeof(two));
    CHECK_EQ(stk_udp_open(PF_FAMILY_IPV4, PF_PRIORITY_HIGH, 0, &two, &two.dgram), 0);
    CHECK_EQ(stk_udp_set_option(two.dgram, PF_OPT_REUSEADDR, 1), 0);
    memset(&one, 0, sizeof(one));
    CHECK_EQ(stk_udp_open(PF_FAMILY_IPV4, PF_PRIORITY_LOW, 0, &one, &one.dgram), 0);
    CHECK_EQ(stk_udp_set_option(one.dgram, PF_OPT_REUSEADDR, 1), 0);
    CHECK_EQ(stk_udp_bind(one.dgram, &addr), 0);
    CHECK_EQ(stk_udp_bind(two.dgram, &addr), 0);
    const int expected[] = {PF_PRIORITY_HIGH, PF_PRIORITY_MEDIUM, PF_PRIORITY_LOW};
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(stk_udp_send(one.dgram, &addr, NULL, 0, 0), 0);
        (void)stk_collect_frames(STK_FRAMES_AT_ONCE);
        for (int p = 0; p < PF_PRIORITIES; p++) {
            CHECK_EQ(stk_frame_waiting(p), p == expected[i]);
        }
        run(expected[i]);
        if (i == 0) {
            CHECK_EQ(stk_udp_set_option(two.dgram, PF_OPT_PRIORITY, PF_PRIORITY_MEDIUM), 0);
        } else if (i == 1) {
            stk_udp_close(two.dgram);
        }
    }
    CHECK_EQ(two.arrived, 2); /* the latest on the port */
    CHECK_EQ(one.arrived, 1);
    stk_udp_close(one.dgram);
}

/* What ICMP reports is for the socket that is connected to just that peer. */
static void test_errors_find_their_socket(void) {
    struct end sender;
    struct end other;
    struct pf_addr nobody = addr_of(5007);
    struct pf_addr somebody = addr_of(5006);
    open_end(&sender, 5005, PF_PRIORITY_MEDIUM);
    open_end(&other, 5006, PF_PRIORITY_MEDIUM);
    CHECK_EQ(stk_udp_send(sender.dgram, &nobody, NULL, 0, 0), 0);
    run(PF_PRIORITY_MEDIUM);
    CHECK_EQ(sender.error, 0); /* not connected */
    CHECK_EQ(stk_udp_connect(sender.dgram, &somebody), 0);
    CHECK_EQ(stk_udp_send(sender.dgram, &nobody, NULL, 0, 0), 0);
    run(PF_PRIORITY_MEDIUM);
    CHECK_EQ(sender.error, 0); /* not to its peer */
    CHECK_EQ(stk_udp_send(sender.dgram, NULL, NULL, 0, 0), 0);
    run(PF_PRIORITY_MEDIUM);
    CHECK_EQ(other.arrived, 1);
    stk_udp_close(other.dgram);
    CHECK_EQ(stk_udp_send(sender.dgram, NULL, NULL, 0, 0), 0);
    run(PF_PRIORITY_MEDIUM);
    CHECK_EQ(sender.error, ECONNREFUSED);
    stk_udp_close(sender.dgram);
}

int main(void) {
    char error[200];
    check_watchdog(120);
    CHECK_EQ(stk_init(&events), 0);
    CHECK_EQ(stk_add_loopback(error, sizeof(error)), 0);
    RUN(test_flood_takes_no_more_than_its_share);
    RUN(test_priority_of_a_shared_port);
    RUN(test_errors_find_their_socket);
    stk_shutdown();
    return 0;
}
