/* Raw sockets: who may have them, how many, what a full ring costs, filters, and messages that no
 * host would send. */
#include <errno.h>

#include "rig.h"

static struct rig rig;
static struct rig_counts start; /* when nobody was attached */

enum { MESSAGES = 20000, HEADER4 = 20, LARGEST = 1400 };

static struct rig_client attach(uint32_t sockets, uint32_t raw) {
    struct pf_session_request request = rig_request();
    request.max_sockets = sockets;
    request.rx_bytes = 65536;
    request.raw = raw;
    return rig_attach_with(&rig, &request);
}

static uint32_t open_raw(struct pf_client *client, int family, uint32_t rx_bytes) {
    int slot = pf_raw_open(client, family, PF_PRIORITY_MEDIUM, rx_bytes);
    CHECK(slot >= 0);
    return (uint32_t)slot;
}

/* 0, or why it could not be opened. */
static int opened(struct pf_client *client, uint32_t slot) {
    struct pf_socket_b2c state;
    (void)RIG_SUBMIT(client, slot, PF_OP_NOP, 0);
    for (uint64_t end = pf_now_ns() + (uint64_t)RIG_PATIENCE;;) {
        CHECK_EQ(pf_socket_state(client, slot, &state), 0);
        if (state.state & (PF_STATE_RAW | PF_STATE_ERROR)) {
            return state.error;
        }
        CHECK(pf_now_ns() < end);
    }
}

static int32_t send_to(struct pf_client *client, uint32_t slot, const void *data, uint32_t length,
                       struct pf_addr to, uint64_t how) {
    return rig_await(client, slot, pf_sendto(client, slot, data, length, &to, how, PF_DELIVER_CALL),
                     NULL);
}

static void test_who_may(void) {
    struct rig_client c = attach(8, 0);
    uint32_t slot = open_raw(c.client, PF_FAMILY_IPV4, 0);
    CHECK_EQ(opened(c.client, slot), EPERM);
    CHECK_EQ(pf_socket_release(c.client, slot, 0), 0);
    rig_detach(&rig, &c, PF_ENDED_CLOSED);
}

static void test_how_many(void) {
    struct rig_client c = attach(160, 1);
    for (int family = PF_FAMILY_IPV4; family <= PF_FAMILY_IPV6; family += 2) {
        for (int i = 0; i < 72; i++) { /* one application: three quarters */
            CHECK_EQ(opened(c.client, open_raw(c.client, family, 4096)), 0);
        }
        CHECK_EQ(opened(c.client, open_raw(c.client, family, 4096)), ENOBUFS);
    }
    rig_detach(&rig, &c, PF_ENDED_CLOSED);
    rig_settle(&rig, &start); /* the others need some */
}

static void test_full_ring_drops_and_counts(void) {
    struct rig_client c = attach(8, 1);
    uint32_t near = open_raw(c.client, PF_FAMILY_IPV4, 65536);
    uint32_t far = open_raw(c.client, PF_FAMILY_IPV4, 4096);
    uint64_t all = rig_count(&rig.public_region->datagrams_dropped);
    struct pf_datagram info;
    uint8_t data[1024] = {200};
    /* 1,120 bytes each with both headers: three fit. */
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(send_to(c.client, near, data, sizeof(data), rig_addr(0), 0), sizeof(data));
        CHECK_EQ(pf_recvfrom(c.client, near, data, 0, 0, RIG_PATIENCE, &info), 0);
    }
    struct pf_socket_b2c state;
    CHECK_EQ(pf_socket_state(c.client, far, &state), 0);
    CHECK_EQ(state.rx_dropped, 2);
    CHECK_EQ(rig_count(&rig.public_region->datagrams_dropped), all + 2);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(pf_recvfrom(c.client, far, data, 10, 0, RIG_PATIENCE, &info), 10);
        CHECK_EQ(info.length, HEADER4 + sizeof(data));
    }
    CHECK_EQ(pf_recvfrom(c.client, far, data, 10, 0, 0, &info), -EAGAIN);
    rig_detach(&rig, &c, PF_ENDED_CLOSED);
}

static int32_t filter(struct pf_client *client, uint32_t slot, uint32_t word, uint64_t types) {
    return RIG_CALL(client, slot, PF_OP_SETOPT, .offset = PF_OPT_ICMP_FILTER + word,
                    .token = types);
}

static void test_filters_and_families(void) {
    struct rig_client c = attach(8, 1);
    uint32_t four = open_raw(c.client, PF_FAMILY_IPV4, 0);
    uint32_t six = open_raw(c.client, PF_FAMILY_IPV6, 0);
    int udp = pf_datagram_open(c.client, PF_FAMILY_IPV4, PF_PRIORITY_MEDIUM, 0);
    struct pf_datagram info;
    uint8_t data[8] = {0};
    CHECK_EQ(RIG_CALL(c.client, six, PF_OP_SETOPT, .offset = PF_OPT_V6ONLY, .token = 0), 0);
    CHECK_EQ(filter(c.client, (uint32_t)udp, 0, 1), -ENOPROTOOPT);
    CHECK_EQ(filter(c.client, four, 1, 1), -ENOPROTOOPT);
    CHECK_EQ(filter(c.client, six, 4, 1), -ENOPROTOOPT);
    CHECK_EQ(filter(c.client, four, 0, UINT64_MAX), 0);
    CHECK_EQ(filter(c.client, six, 3, UINT64_C(1) << 63), 0); /* 255 */
    for (int type = 255; type >= 253; type -= 2) {
        data[0] = (uint8_t)type;
        CHECK_EQ(send_to(c.client, six, data, sizeof(data), rig_addr6(0), 0), sizeof(data));
    }
    CHECK_EQ(pf_recvfrom(c.client, six, data, 1, 0, RIG_PATIENCE, &info), 1);
    CHECK_EQ(data[0], 253);
    for (int type = 31; type <= 32; type++) { /* over IPv4 only the first 32 can be blocked */
        data[0] = (uint8_t)type;
        CHECK_EQ(send_to(c.client, four, data, sizeof(data), rig_addr(0), 0), sizeof(data));
    }
    uint8_t packet[HEADER4 + sizeof(data)];
    CHECK_EQ(pf_recvfrom(c.client, four, packet, sizeof(packet), 0, RIG_PATIENCE, &info),
             sizeof(packet));
    CHECK_EQ(packet[HEADER4], 32);
    /* There is one ICMP for each family: no address of the other one. */
    struct pf_addr mapped = {.family = PF_FAMILY_IPV6, .ip = {[10] = 255, [11] = 255, [12] = 127}};
    mapped.ip[15] = 1;
    CHECK_EQ(RIG_CALL(c.client, six, PF_OP_BIND, .addr = &mapped), -EADDRNOTAVAIL);
    CHECK_EQ(send_to(c.client, six, data, sizeof(data), mapped, 0), -ENETUNREACH);
    rig_detach(&rig, &c, PF_ENDED_CLOSED);
}

/* ---- messages that no host would send ---- */

static uint64_t seed;

static uint32_t any(uint32_t below) { return (uint32_t)(check_random_next(&seed) % below); }

static void seal4(uint8_t *data, uint32_t length) {
    uint32_t sum = 0;
    data[2] = data[3] = 0;
    for (uint32_t i = 0; i < length; i++) {
        sum += i % 2 ? data[i] : (uint32_t)data[i] << 8;
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = ~(sum + (sum >> 16));
    data[2] = (uint8_t)(sum >> 8);
    data[3] = (uint8_t)sum;
}

/* Types that stacks act on, mostly; neighbor discovery with options whose lengths are often right.
 */
static uint32_t odd_message(bool four, uint8_t *data) {
    static const uint8_t types6[] = {1,   2,   3,   4,   128, 129, 130, 131,
                                     132, 133, 134, 135, 136, 137, 143};
    uint32_t length = 4 + any(any(4) ? 120 : LARGEST - 4);
    for (uint32_t i = 0; i < length; i++) {
        data[i] = (uint8_t)(any(3) ? any(256) : 0);
    }
    data[0] = four ? (uint8_t)any(20) : types6[any(sizeof(types6))];
    data[1] = any(3) ? 0 : (uint8_t)any(16);
    static const uint8_t bodies[] = {8, 16, 24, 40};
    for (uint32_t at = bodies[any(4)]; any(4) && at + 8 <= length; at += 8) {
        data[at] = (uint8_t)(1 + any(5)); /* an option */
        data[at + 1] = (uint8_t)(1 + any(any(8) ? 2 : 255));
    }
    if (any(2) && length >= 24) { /* about our own address */
        memset(data + 8, 0, 15);
        data[23] = 1;
    }
    if (four && any(8)) {
        seal4(data, length);
    }
    return length;
}

static struct pf_addr odd_target(bool four) {
    struct pf_addr to = four ? rig_addr(0) : rig_addr6(0);
    if (any(4) == 0) { /* all hosts, all routers of the link */
        static const uint8_t group4[] = {224, 0, 0, 1};
        static const uint8_t group6[16] = {0xff, 2, [15] = 1};
        memcpy(to.ip, four ? group4 : group6, four ? sizeof(group4) : sizeof(group6));
        to.ip[four ? 3 : 15] = (uint8_t)(1 + any(2));
    }
    return to;
}

static void test_odd_messages(void) {
    struct rig_client c = attach(8, 1);
    struct rig_client other = attach(8, 0);
    struct rig_pair p = rig_connect(other.client, other.client, rig_addr6(7), 0);
    uint32_t slots[] = {open_raw(c.client, PF_FAMILY_IPV4, 4096),
                        open_raw(c.client, PF_FAMILY_IPV6, 4096)};
    static uint8_t data[LARGEST];
    uint8_t back[500];
    const char *given = getenv("PIFUS_FUZZ_SEED");
    seed = given ? strtoull(given, NULL, 10) : pf_now_ns();
    printf("    PIFUS_FUZZ_SEED=%llu\n", (unsigned long long)seed);
    for (int round = 0; round < MESSAGES; round++) {
        bool four = any(3) == 0;
        uint32_t length = odd_message(four, data);
        uint64_t how = any(3) ? UINT64_C(256) << PF_SEND_TTL : check_random_next(&seed);
        how &= ~(UINT64_C(0xff) << PF_SEND_INTERFACE);
        how |= (uint64_t)any(2) << PF_SEND_INTERFACE;
        (void)send_to(c.client, slots[!four], data, length, odd_target(four), how);
        if (round % 100 == 0) {
            rig_fill(data, 1, 0, sizeof(back));
            rig_send_all(other.client, p.near, data, sizeof(back));
            rig_recv_all(other.client, p.far, back, sizeof(back));
            CHECK(!rig_differs(back, 1, 0, sizeof(back)));
        }
    }
    /* New connections find their way, too. */
    struct rig_pair fresh = rig_connect(other.client, other.client, rig_addr6(8), 0);
    rig_close(other.client, fresh.near, 0);
    rig_close(other.client, fresh.far, 0);
    rig_close(other.client, p.near, 0);
    rig_close(other.client, p.far, 0);
    rig_detach(&rig, &other, PF_ENDED_CLOSED);
    rig_detach(&rig, &c, PF_ENDED_CLOSED);
}

int main(void) {
    check_watchdog(120);
    rig_start(&rig);
    start = rig_counts(&rig);
    RUN(test_who_may);
    RUN(test_how_many);
    RUN(test_full_ring_drops_and_counts);
    RUN(test_filters_and_families);
    RUN(test_odd_messages);
    rig_settle(&rig, &start);
    rig_stop(&rig);
    return 0;
}
