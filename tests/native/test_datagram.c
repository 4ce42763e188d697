/* Datagram sockets through client, backend and stack, over the loopback: records in the ring, drops
 * that are counted, limits, sharing of ports, errors from the network, and what each costs the
 * others (nothing). */
#include <errno.h>

#include "rig.h"

static struct rig rig;

static uint32_t open_socket(struct pf_client *client, int family, uint32_t rx_bytes) {
    int slot = pf_datagram_open(client, family, PF_PRIORITY_MEDIUM, rx_bytes);
    CHECK(slot >= 0);
    return (uint32_t)slot;
}

static struct pf_addr name_of(struct pf_client *client, uint32_t slot) {
    struct pf_socket_b2c state;
    CHECK_EQ(RIG_CALL(client, slot, PF_OP_NOP, 0), 0);
    CHECK_EQ(pf_socket_state(client, slot, &state), 0);
    return state.local;
}

static uint32_t bound(struct pf_client *client, struct pf_addr addr, uint32_t rx_bytes) {
    uint32_t slot = open_socket(client, addr.family, rx_bytes);
    CHECK_EQ(RIG_CALL(client, slot, PF_OP_BIND, .addr = &addr), 0);
    return slot;
}

static int32_t send_sized(struct pf_client *client, uint32_t slot, uint32_t length,
                          const struct pf_addr *to) {
    static uint8_t data[65535];
    rig_fill(data, 5, 0, length);
    return rig_await(client, slot, pf_sendto(client, slot, data, length, to, 0, PF_DELIVER_CALL),
                     NULL);
}

static int64_t take(struct pf_client *client, uint32_t slot, uint8_t *data, uint32_t limit,
                    struct pf_datagram *info) {
    return pf_recvfrom(client, slot, data, limit, PF_DATAGRAM_ERRORS, RIG_PATIENCE, info);
}

/* Every place of the ring's end: in the header, in the payload, and exactly on it. */
static void test_every_offset(void) {
    struct rig_client c = rig_attach(&rig);
    uint32_t near = bound(c.client, rig_addr(0), 0);
    uint32_t far = bound(c.client, rig_addr(0), 4096);
    struct pf_addr to = name_of(c.client, far);
    struct pf_addr from = name_of(c.client, near);
    uint8_t data[4096];
    struct pf_datagram info;
    CHECK_EQ(send_sized(c.client, near, 1, &to), 1); /* so that the ring is never empty */
    for (uint32_t i = 0; i < 2000; i++) {
        uint32_t length = i * 7 % 1200;
        CHECK_EQ(send_sized(c.client, near, length, &to), length);
        uint32_t before = i ? (i - 1) * 7 % 1200 : 1;
        CHECK_EQ(take(c.client, far, data, sizeof(data), &info), before);
        CHECK_EQ(info.length, before);
        CHECK(!rig_differs(data, 5, 0, before));
        CHECK_EQ(memcmp(&info.source, &from, sizeof(from)), 0);
        CHECK_EQ(memcmp(&info.destination, &to, sizeof(to)), 0);
        CHECK_EQ(info.ttl, 64);
    }
    rig_close(c.client, near, 0);
    rig_close(c.client, far, 0);
    rig_detach(&rig, &c, PF_ENDED_CLOSED);
}

static void test_full_ring_drops_and_counts(void) {
    struct rig_client c = rig_attach(&rig);
    uint32_t near = bound(c.client, rig_addr(0), 0);
    uint32_t far = bound(c.client, rig_addr6(0), 4096);
    uint32_t near6 = bound(c.client, rig_addr6(0), 0);
    struct pf_addr to = name_of(c.client, far);
    struct pf_socket_b2c state;
    uint64_t all = rig_count(&rig.public_region->datagrams_dropped);
    uint8_t data[4096];
    struct pf_datagram info;
    /* 1,096 bytes each with the header: three fit. One that never could is no different. */
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(send_sized(c.client, near6, i == 9 ? 60000 : 1024, &to), i == 9 ? 60000 : 1024);
    }
    (void)name_of(c.client, far);
    for (uint64_t end = pf_now_ns() + (uint64_t)RIG_PATIENCE;;) {
        CHECK_EQ(pf_socket_state(c.client, far, &state), 0);
        if (state.rx_dropped == 7) {
            break;
        }
        CHECK(pf_now_ns() < end);
    }
    CHECK_EQ(rig_count(&rig.public_region->datagrams_dropped), all + 7);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(take(c.client, far, data, 10, &info), 10);
        CHECK_EQ(info.length, 1024);
    }
    CHECK_EQ(pf_recvfrom(c.client, far, data, 10, 0, 0, &info), -EAGAIN);
    CHECK_EQ(send_sized(c.client, near6, 3, &to), 3);
    CHECK_EQ(take(c.client, far, data, 10, &info), 3);
    rig_close(c.client, near, 0);
    rig_close(c.client, near6, 0);
    rig_close(c.client, far, 0);
    rig_detach(&rig, &c, PF_ENDED_CLOSED);
}

/* Receives as operations: one datagram each, in order, with the sender; also mixed with reading. */
static void test_receive_operations(void) {
    struct rig_client c = rig_attach(&rig);
    uint32_t near = bound(c.client, rig_addr(0), 0);
    uint32_t far = bound(c.client, rig_addr(0), 0);
    struct pf_addr to = name_of(c.client, far);
    struct pf_addr from = name_of(c.client, near);
    struct pf_done done;
    struct pf_datagram info;
    uint8_t data[100];
    int64_t first = RIG_SUBMIT(c.client, far, PF_OP_RECV, .length = 100);
    int64_t second = RIG_SUBMIT(c.client, far, PF_OP_RECV, .length = 4);
    for (uint32_t i = 0; i < 4; i++) {
        CHECK_EQ(send_sized(c.client, near, 5 * i, &to), 5 * i);
    }
    CHECK_EQ(rig_await(c.client, far, first, &done), 0);
    CHECK_EQ(memcmp(&done.addr, &from, sizeof(from)), 0);
    CHECK_EQ(rig_await(c.client, far, second, &done), 4);
    for (uint32_t i = 0; i < 3; i++) { /* the third without an operation */
        CHECK_EQ(take(c.client, far, data, sizeof(data), &info), 5 * i);
    }
    CHECK_EQ(RIG_CALL(c.client, far, PF_OP_RECV, .length = 100), 15);
    int64_t never = RIG_SUBMIT(c.client, far, PF_OP_RECV, .length = 1);
    CHECK_EQ(take(c.client, far, data, sizeof(data), &info), 15);
    CHECK_EQ(RIG_CALL(c.client, far, PF_OP_CANCEL, .token = (uint64_t)never), 0);
    CHECK_EQ(rig_await(c.client, far, never, &done), -ECANCELED);
    rig_close(c.client, near, 0);
    rig_close(c.client, far, 0);
    rig_detach(&rig, &c, PF_ENDED_CLOSED);
}

static void test_limits(void) {
    struct rig_client c = rig_attach(&rig);
    uint32_t near = bound(c.client, rig_addr(0), 0);
    uint32_t near6 = bound(c.client, rig_addr6(0), 0);
    struct pf_addr to = name_of(c.client, near);
    struct pf_addr to6 = name_of(c.client, near6);
    struct pf_addr away = {.family = PF_FAMILY_IPV4, .port = 9, .ip = {10, 1, 2, 3}};
    CHECK_EQ(send_sized(c.client, near, PF_MAX_DATAGRAM_BYTES, &to), PF_MAX_DATAGRAM_BYTES);
    CHECK_EQ(send_sized(c.client, near, PF_MAX_DATAGRAM_BYTES + 1, &to), -EMSGSIZE);
    CHECK_EQ(send_sized(c.client, near6, 65487, &to6), 65487);
    CHECK_EQ(send_sized(c.client, near6, 65488, &to6), -EMSGSIZE);
    CHECK_EQ(send_sized(c.client, near, 1, NULL), -EDESTADDRREQ);
    CHECK_EQ(send_sized(c.client, near, 1, &to6), -EAFNOSUPPORT);
    uint32_t free_one = open_socket(c.client, PF_FAMILY_IPV4, 0);
    CHECK_EQ(send_sized(c.client, free_one, 1, &away), -ENETUNREACH);
    CHECK_EQ(RIG_CALL(c.client, free_one, PF_OP_CONNECT, .addr = &away), -ENETUNREACH);
    CHECK_EQ(name_of(c.client, free_one).port, 0);
    CHECK_EQ(RIG_CALL(c.client, free_one, PF_OP_BIND, .addr = &away), -EADDRNOTAVAIL);
    to.port = 0;
    CHECK_EQ(send_sized(c.client, near, 1, &to), -EINVAL);
    CHECK_EQ(RIG_CALL(c.client, near, PF_OP_LISTEN, .length = 1), -EOPNOTSUPP);
    CHECK_EQ(RIG_CALL(c.client, near, PF_OP_ACCEPT, 0), -EOPNOTSUPP);
    CHECK_EQ(RIG_CALL(c.client, near, PF_OP_RECV, .length = 0), -EINVAL);
    rig_close(c.client, near, 0);
    rig_close(c.client, near6, 0);
    rig_close(c.client, free_one, 0);
    rig_detach(&rig, &c, PF_ENDED_CLOSED);
}

static void test_connect_and_disconnect(void) {
    struct rig_client c = rig_attach(&rig);
    uint32_t near = open_socket(c.client, PF_FAMILY_IPV4, 0);
    uint32_t far = bound(c.client, rig_addr(4001), 0);
    struct pf_addr to = name_of(c.client, far);
    struct pf_addr none = {.family = PF_FAMILY_NONE};
    struct pf_socket_b2c state;
    CHECK_EQ(RIG_CALL(c.client, near, PF_OP_CONNECT, .addr = &to), 0);
    CHECK_EQ(pf_socket_state(c.client, near, &state), 0);
    CHECK(state.state & PF_STATE_CONNECTED);
    CHECK_EQ(memcmp(&state.peer, &to, sizeof(to)), 0);
    CHECK_EQ(state.local.ip[0], 127);
    CHECK(state.local.port >= 32768);
    CHECK_EQ(send_sized(c.client, near, 3, NULL), 3);
    CHECK_EQ(RIG_CALL(c.client, near, PF_OP_CONNECT, .addr = &none), 0);
    CHECK_EQ(pf_socket_state(c.client, near, &state), 0);
    CHECK(!(state.state & PF_STATE_CONNECTED));
    CHECK_EQ(state.local.port, 0); /* connecting had chosen it */
    CHECK_EQ(send_sized(c.client, near, 3, NULL), -EDESTADDRREQ);
    struct pf_addr chosen = name_of(c.client, far);
    CHECK_EQ(RIG_CALL(c.client, far, PF_OP_CONNECT, .addr = &to), 0);
    CHECK_EQ(RIG_CALL(c.client, far, PF_OP_CONNECT, .addr = &none), 0);
    struct pf_addr kept = name_of(c.client, far);
    CHECK_EQ(memcmp(&chosen, &kept, sizeof(kept)), 0);
    rig_close(c.client, near, 0);
    rig_close(c.client, far, 0);
    rig_detach(&rig, &c, PF_ENDED_CLOSED);
}

static void test_refused(int family) {
    struct rig_client c = rig_attach(&rig);
    struct pf_addr any = family == PF_FAMILY_IPV4 ? rig_addr(0) : rig_addr6(0);
    uint32_t near = open_socket(c.client, family, 0);
    uint32_t far = bound(c.client, any, 0);
    struct pf_addr to = name_of(c.client, far);
    struct pf_done done;
    struct pf_datagram info;
    uint8_t data[10];
    CHECK_EQ(RIG_CALL(c.client, near, PF_OP_CONNECT, .addr = &to), 0);
    rig_close(c.client, far, 0);
    CHECK_EQ(pf_datagram_error(c.client, near), 0);
    CHECK_EQ(send_sized(c.client, near, 3, NULL), 3);
    CHECK_EQ(take(c.client, near, data, sizeof(data), &info), -ECONNREFUSED);
    CHECK_EQ(pf_recvfrom(c.client, near, data, 10, PF_DATAGRAM_ERRORS, 0, &info), -EAGAIN);
    /* An operation that waits gets it instead of the next call. */
    int64_t waiting = RIG_SUBMIT(c.client, near, PF_OP_RECV, .length = 10);
    CHECK_EQ(send_sized(c.client, near, 3, NULL), 3);
    CHECK_EQ(rig_await(c.client, near, waiting, &done), -ECONNREFUSED);
    CHECK_EQ(pf_datagram_error(c.client, near), 0);
    rig_close(c.client, near, 0);
    rig_detach(&rig, &c, PF_ENDED_CLOSED);
}

/* One more endpoint on a port costs every datagram to it a look: there is a limit. */
static void test_sharing_a_port_is_limited(void) {
    struct pf_session_request request = rig_request();
    request.max_sockets = 80;
    struct rig_client c = rig_attach_with(&rig, &request);
    struct pf_addr addr = rig_addr(5353);
    int shared = 0;
    uint32_t slots[80];
    uint32_t count = 0;
    for (; count < 80; count++) {
        slots[count] = open_socket(c.client, PF_FAMILY_IPV4, 4096);
        CHECK_EQ(
            RIG_CALL(c.client, slots[count], PF_OP_SETOPT, .offset = PF_OPT_REUSEADDR, .token = 1),
            0);
        int32_t result = RIG_CALL(c.client, slots[count], PF_OP_BIND, .addr = &addr);
        CHECK(result == 0 || result == -EADDRINUSE);
        shared += result == 0;
    }
    CHECK_EQ(shared, 72);
    while (count > 0) {
        rig_close(c.client, slots[--count], 0);
    }
    /* Another user's socket shares only by SO_REUSEADDR. */
    uint32_t mine = open_socket(c.client, PF_FAMILY_IPV4, 0);
    CHECK_EQ(RIG_CALL(c.client, mine, PF_OP_SETOPT, .offset = PF_OPT_REUSEPORT, .token = 1), 0);
    CHECK_EQ(RIG_CALL(c.client, mine, PF_OP_BIND, .addr = &addr), 0);
    request.uid = 4711;
    struct rig_client other = rig_attach_with(&rig, &request);
    uint32_t theirs = open_socket(other.client, PF_FAMILY_IPV4, 0);
    CHECK_EQ(RIG_CALL(other.client, theirs, PF_OP_SETOPT, .offset = PF_OPT_REUSEPORT, .token = 1),
             0);
    CHECK_EQ(RIG_CALL(other.client, theirs, PF_OP_BIND, .addr = &addr), -EADDRINUSE);
    rig_detach(&rig, &other, PF_ENDED_CLOSED);
    rig_detach(&rig, &c, PF_ENDED_CLOSED);
}

/* Datagrams to somebody who never reads, as fast as they go, beside a connection. */
static void test_flood_beside_a_connection(void) {
    struct rig_client c = rig_attach(&rig);
    struct rig_client other = rig_attach(&rig);
    struct rig_pair p = rig_connect(other.client, other.client, rig_addr(7), 0);
    uint32_t near = bound(c.client, rig_addr(0), 0);
    uint32_t far = bound(c.client, rig_addr(0), 0);
    CHECK_EQ(
        RIG_CALL(c.client, far, PF_OP_SETOPT, .offset = PF_OPT_PRIORITY, .token = PF_PRIORITY_LOW),
        0);
    struct pf_addr to = name_of(c.client, far);
    static uint8_t data[60000];
    static uint8_t back[5000];
    for (int round = 0; round < 2000; round++) {
        int64_t op = pf_sendto_wait(c.client, near, data, sizeof(data), &to, 0, PF_DELIVER_NONE,
                                    RIG_PATIENCE);
        CHECK(op > 0);
        if (round % 20 == 0) {
            rig_fill(data, 1, 0, sizeof(back));
            rig_send_all(other.client, p.near, data, sizeof(back));
            rig_recv_all(other.client, p.far, back, sizeof(back));
            CHECK(!rig_differs(back, 1, 0, sizeof(back)));
        }
    }
    rig_close(other.client, p.near, 0);
    rig_close(other.client, p.far, 0);
    rig_detach(&rig, &other, PF_ENDED_CLOSED);
    rig_detach(&rig, &c, PF_ENDED_CLOSED); /* with datagrams on their way */
}

static void test_refused_ipv4(void) { test_refused(PF_FAMILY_IPV4); }
static void test_refused_ipv6(void) { test_refused(PF_FAMILY_IPV6); }

int main(void) {
    check_watchdog(120);
    rig_start(&rig);
    struct rig_counts start = rig_counts(&rig);
    RUN(test_every_offset);
    RUN(test_full_ring_drops_and_counts);
    RUN(test_receive_operations);
    RUN(test_limits);
    RUN(test_connect_and_disconnect);
    RUN(test_refused_ipv4);
    RUN(test_refused_ipv6);
    RUN(test_sharing_a_port_is_limited);
    RUN(test_flood_beside_a_connection);
    rig_settle(&rig, &start);
    rig_stop(&rig);
    return 0;
}
