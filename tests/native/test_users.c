/* What many applications of one user take of what there is once for all, those of another one still
 * find; and an application that takes all it gets leaves some to the next one. The glue by itself:
 * no backend. */
#include <errno.h>

#include "check.h"
#include "lwip/account.h"
#include "lwip/conn.h"
#include "lwip/priv/tcp_priv.h"

enum {
    GREEDY = 44, /* applications of one user */
    FIRST_USER = 1000,
    OTHER_USER = 2000,
    PORT = 5000,
    SOCKETS = 1000, /* of all */
    EVERYTHING = 1000000,
    MESSAGE = 60000,
};

static void on_owner(void *owner) { (void)owner; }
static void on_number(void *owner, uint32_t number) {
    (void)owner;
    (void)number;
}
static void on_failed(void *owner, int error) {
    (void)owner;
    (void)error;
}
/* The owner of a datagram endpoint: how many came. */
static void on_datagram(void *owner, const struct stk_packet *packet) {
    (void)packet;
    ++*(uint32_t *)owner;
}

static const struct stk_events events = {.connected = on_owner,
                                         .acceptable = on_owner,
                                         .readable = on_owner,
                                         .acknowledged = on_number,
                                         .failed = on_failed,
                                         .datagram = on_datagram,
                                         .datagram_failed = on_failed};
static uint32_t nobody;
static struct stk_account *greedy[GREEDY];
static struct stk_account *other;
static struct stk_account *third; /* of a user of its own, too */

static struct pf_addr addr_of(uint16_t port) {
    return (struct pf_addr){.family = PF_FAMILY_IPV4, .port = port, .ip = {127, 0, 0, 1}};
}

static void begin(void) {
    for (int i = 0; i < GREEDY; i++) {
        greedy[i] = stk_account_new(FIRST_USER);
        CHECK(greedy[i]);
    }
    other = stk_account_new(OTHER_USER);
    third = stk_account_new(OTHER_USER + 1);
    CHECK(other && third && other->user != third->user && greedy[0]->user == greedy[1]->user);
}

/* Nothing is counted any more, of anything. */
static void end(void) {
    static const struct pf_tally none;
    for (int i = 0; i < GREEDY; i++) {
        CHECK(memcmp(&greedy[i]->has, &none, sizeof(none)) == 0);
        CHECK_EQ(greedy[i]->holders, 1);
    }
    CHECK(memcmp(&greedy[0]->user->has, &none, sizeof(none)) == 0);
    CHECK(memcmp(&other->user->has, &none, sizeof(none)) == 0);
    CHECK(memcmp(&third->user->has, &none, sizeof(none)) == 0);
    for (int i = 0; i < GREEDY; i++) {
        stk_account_free(greedy[i]);
    }
    stk_account_free(other);
    stk_account_free(third);
}

static void run(void) {
    for (bool any = true; any;) {
        any = false;
        while (stk_tcp_reset_some(STK_FRAMES_AT_ONCE)) {
        }
        (void)stk_collect_frames(STK_FRAMES_AT_ONCE);
        for (int p = 0; p < PF_PRIORITIES; p++) {
            for (; stk_frame_waiting(p); any = true) {
                stk_process_frame(p);
            }
        }
        any = any || stk_frames_pending();
    }
}

/* ---- sockets and listeners ---- */

static uint32_t take_sockets(struct stk_account *account) {
    uint32_t had = 0;
    for (; stk_account_has_room(account); had++) {
        CHECK(had < SOCKETS);
        stk_account_socket(account, true);
    }
    return had;
}

static void give_sockets(struct stk_account *account) {
    while (account->has.sockets > 0) {
        stk_account_socket(account, false);
    }
}

static void test_sockets(void) {
    begin();
    stk_limit(SOCKETS, UINT64_MAX, UINT64_MAX);
    CHECK_EQ(take_sockets(greedy[0]), SOCKETS * 3 / 4 + 1); /* alone, an application has most */
    CHECK(take_sockets(greedy[1]) >= SOCKETS / 8);
    CHECK(take_sockets(greedy[2]) >= SOCKETS / 64);
    for (int i = 3; i < GREEDY; i++) {
        (void)take_sockets(greedy[i]);
    }
    CHECK(greedy[0]->user->has.sockets >= SOCKETS * 9 / 10); /* and a user nearly all */
    CHECK(take_sockets(other) >= SOCKETS / 32);
    CHECK(take_sockets(third) > 0);
    for (int i = 0; i < GREEDY; i++) {
        give_sockets(greedy[i]);
    }
    give_sockets(other);
    give_sockets(third);
    stk_limit(1, UINT64_MAX, UINT64_MAX); /* of so few nothing can be kept for others */
    CHECK_EQ(take_sockets(greedy[0]), 1);
    give_sockets(greedy[0]);
    stk_limit(MEMP_NUM_TCP_PCB, UINT64_MAX, UINT64_MAX);
    end();
}

static struct stk_conn *open_conn(struct stk_account *account) {
    struct stk_conn *conn;
    CHECK_EQ(stk_tcp_open(PF_FAMILY_IPV4, PF_PRIORITY_LOW, &nobody, &conn), 0);
    if (account) {
        stk_tcp_set_account(conn, account);
    }
    return conn;
}

static struct stk_conn *listen_at(struct stk_account *account, uint16_t port, int *result) {
    struct pf_addr addr = addr_of(port);
    struct stk_conn *listener = open_conn(account);
    CHECK_EQ(stk_tcp_bind(listener, &addr), 0);
    *result = stk_tcp_listen(listener, 4096);
    return listener;
}

static void test_listeners(void) {
    static struct stk_conn *listeners[MEMP_NUM_TCP_PCB_LISTEN + 2 * GREEDY];
    uint32_t count = 0;
    int result;
    begin();
    for (int i = 0; i < GREEDY; i++) {
        do {
            listeners[count] = listen_at(greedy[i], (uint16_t)(PORT + count), &result);
            count++;
        } while (result == 0);
        CHECK_EQ(result, -ENOBUFS);
    }
    CHECK(count >= MEMP_NUM_TCP_PCB_LISTEN * 9 / 10);
    struct stk_conn *listener = listen_at(other, 80, &result);
    CHECK_EQ(result, 0);
    stk_tcp_close(listener);
    while (count > 0) {
        stk_tcp_close(listeners[--count]);
    }
    run();
    end();
}

/* ---- connections that come in ---- */

static struct stk_conn *clients[MEMP_NUM_TCP_PCB];
static uint32_t client_count;

static void connect_to(uint16_t port) {
    struct pf_addr addr = addr_of(port);
    struct stk_conn *conn = open_conn(NULL);
    clients[client_count++] = conn;
    CHECK_EQ(stk_tcp_connect(conn, &addr), 0);
}

static void abort_clients(void) {
    while (client_count > 0) {
        stk_tcp_abort(clients[--client_count]);
    }
    run();
}

/* Each application has a listener, and nobody accepts. */
static void test_waiting(void) {
    struct stk_conn *listeners[GREEDY];
    int result;
    begin();
    for (int i = 0; i < GREEDY; i++) {
        listeners[i] = listen_at(greedy[i], (uint16_t)(PORT + i), &result);
        CHECK_EQ(result, 0);
    }
    struct stk_conn *listener = listen_at(other, 80, &result);
    for (uint32_t i = 0; i < PF_UNACCEPTED_MAX / 2; i++) {
        connect_to(PORT);
        run();
    }
    for (uint32_t i = 0; i < GREEDY * PF_UNACCEPTED_SHARE; i++) {
        connect_to((uint16_t)(PORT + i % GREEDY));
        run();
    }
    CHECK(pf_tcp_unaccepted_count() >= PF_UNACCEPTED_MAX * 9 / 10);
    uint64_t refused = pf_account_refusals();
    connect_to(PORT);
    run();
    CHECK_EQ(pf_account_refusals(), refused + 1);
    connect_to(80);
    run();
    struct stk_conn *conn = stk_tcp_accept(listener);
    CHECK(conn);
    CHECK_EQ(pf_account_refusals(), refused + 1);
    stk_tcp_abort(conn);
    for (int i = 0; i < GREEDY; i++) {
        stk_tcp_close(listeners[i]);
    }
    stk_tcp_close(listener);
    abort_clients();
    end();
}

/* A SYN comes, and nothing more: whoever sent it is not heard of again. */
static void half_open(uint16_t port) {
    connect_to(port);
    (void)stk_collect_frames(STK_FRAMES_AT_ONCE);
    for (int p = 0; p < PF_PRIORITIES; p++) {
        while (stk_frame_waiting(p)) {
            stk_process_frame(p);
        }
    }
    stk_inject_loss(EVERYTHING, 1);
    stk_tcp_abort(clients[--client_count]);
    while (stk_frames_pending()) {
        (void)stk_collect_frames(STK_FRAMES_AT_ONCE);
    }
    stk_inject_loss(0, 1);
}

/* A listener more does not help, nor one of another application of the same user beyond reason. */
static void test_half_open(void) {
    enum { LISTENERS = 90 };
    struct stk_conn *listeners[LISTENERS];
    int result;
    begin();
    for (int i = 0; i < LISTENERS; i++) {
        listeners[i] = listen_at(greedy[0], (uint16_t)(PORT + i), &result);
        CHECK_EQ(result, 0);
    }
    struct stk_conn *listener = listen_at(greedy[1], 80, &result);
    for (uint32_t i = 0; i < PF_UNACCEPTED_MAX + LISTENERS; i++) {
        half_open((uint16_t)(PORT + i % LISTENERS));
    }
    CHECK_EQ(greedy[0]->has.half_open, pf_tcp_unaccepted_count());
    CHECK_EQ(pf_tcp_unaccepted_count(), PF_UNACCEPTED_MAX / 2);
    CHECK(greedy[0]->holders > PF_UNACCEPTED_MAX / 2);
    connect_to(80);
    run();
    struct stk_conn *conn = stk_tcp_accept(listener);
    CHECK(conn);
    CHECK_EQ(greedy[1]->has.half_open, 0);
    CHECK_EQ(greedy[1]->has.waiting, 1);
    stk_tcp_abort(conn);
    stk_tcp_close(listener);
    for (int i = 0; i < LISTENERS; i++) {
        stk_tcp_close(listeners[i]);
    }
    abort_clients();
    stk_inject_loss(EVERYTHING, 1);
    for (int i = 0; pf_tcp_unaccepted_count() > 0; i++) { /* they are given up */
        CHECK(i < 10000);
        tcp_ticks += 100;
        tcp_slowtmr();
        run();
    }
    stk_inject_loss(0, 1);
    end();
}

/* ---- bytes ---- */

/* A connection to the listener; its other end waits there. */
static struct stk_conn *connected(struct stk_account *account, uint16_t port) {
    struct pf_addr addr = addr_of(port);
    struct stk_conn *conn = open_conn(account);
    CHECK_EQ(stk_tcp_connect(conn, &addr), 0);
    run();
    return conn;
}

/* Single bytes, as many as are taken. */
static uint32_t queue_up(struct stk_conn *conn) {
    static const uint8_t byte;
    uint32_t count = 0;
    while (stk_tcp_write(conn, &byte, 1, true) == 1) {
        count++;
    }
    return count;
}

static void test_queues(void) {
    enum { MANY = 64, ENOUGH = 1000 };
    static struct stk_conn *conns[GREEDY + MANY];
    uint32_t count = 0;
    int result;
    begin();
    struct stk_conn *listener = listen_at(NULL, PORT, &result);
    struct stk_conn *bystander = connected(other, PORT);
    for (int i = 0; i < GREEDY; i++) {
        uint32_t took;
        do {
            CHECK(count < GREEDY + MANY);
            conns[count] = connected(greedy[i], PORT);
            took = queue_up(conns[count++]);
        } while (took > ENOUGH);
    }
    CHECK(greedy[0]->has.queued >= 18000); /* nearly half of all */
    CHECK(queue_up(bystander) >= ENOUGH);
    while (count > 0) {
        stk_tcp_abort(conns[--count]);
    }
    stk_tcp_abort(bystander);
    stk_tcp_close(listener);
    run();
    end();
}

/* What peers may send to all applications of a user. */
static void test_windows(void) {
    enum { APPLICATIONS = 4, CONNECTIONS = 64, LIMIT = 16 << 20 };
    struct stk_conn *conns[APPLICATIONS * CONNECTIONS];
    uint32_t count = 0;
    int result;
    begin();
    stk_limit(MEMP_NUM_TCP_PCB, LIMIT, 2 * LIMIT);
    struct stk_conn *listeners[APPLICATIONS];
    for (int i = 0; i < APPLICATIONS; i++) {
        listeners[i] = listen_at(greedy[i], (uint16_t)(PORT + i), &result);
        for (int k = 0; k < CONNECTIONS; k++) {
            connect_to((uint16_t)(PORT + i));
            run();
            conns[count] = stk_tcp_accept(listeners[i]);
            CHECK(conns[count]);
            stk_tcp_set_owner(conns[count++], &nobody);
        }
    }
    CHECK(greedy[0]->has.promised > LIMIT / 3);
    CHECK(greedy[0]->user->has.promised < LIMIT + count * PF_LEAST_WINDOW / 2);
    struct stk_conn *bystander = listen_at(other, 80, &result);
    connect_to(80);
    run();
    struct stk_conn *conn = stk_tcp_accept(bystander);
    stk_tcp_set_owner(conn, &nobody);
    CHECK_EQ(other->has.promised, TCP_WND);
    stk_tcp_abort(conn);
    stk_tcp_close(bystander);
    while (count > 0) {
        stk_tcp_abort(conns[--count]);
    }
    for (int i = 0; i < APPLICATIONS; i++) {
        stk_tcp_close(listeners[i]);
    }
    abort_clients();
    stk_limit(MEMP_NUM_TCP_PCB, UINT64_MAX, UINT64_MAX);
    end();
}

/* ---- datagrams ---- */

static struct stk_dgram *open_dgram(struct stk_account *account, uint16_t port, bool share,
                                    uint32_t *count, int *result) {
    struct pf_addr addr = addr_of(port);
    struct stk_dgram *dgram;
    CHECK_EQ(stk_udp_open(PF_FAMILY_IPV4, PF_PRIORITY_LOW, 0, count, &dgram), 0);
    stk_udp_set_account(dgram, account);
    CHECK_EQ(stk_udp_set_option(dgram, PF_OPT_REUSEADDR, share), 0);
    *result = stk_udp_bind(dgram, &addr);
    return dgram;
}

/* A port that any number may share by SO_REUSEADDR. */
static void test_places_at_a_port(void) {
    struct stk_dgram *dgrams[256];
    uint32_t count = 0;
    uint32_t had = 0;
    int result;
    begin();
    for (int i = 0; i < GREEDY; i++) {
        do {
            CHECK(count < 256);
            dgrams[count++] = open_dgram(greedy[i], PORT, true, &nobody, &result);
            had += result == 0;
        } while (result == 0);
        CHECK_EQ(result, -EADDRINUSE);
        CHECK(i > 0 || had >= 64);
    }
    dgrams[count++] = open_dgram(other, PORT, true, &nobody, &result);
    CHECK_EQ(result, 0);
    dgrams[count++] = open_dgram(third, PORT, true, &nobody, &result);
    CHECK_EQ(result, 0);
    while (count > 0) {
        stk_udp_close(dgrams[--count]);
    }
    end();
}

static uint32_t take_raw(struct stk_account *account, int family, struct stk_dgram **dgrams) {
    uint32_t count = 0;
    while (stk_account_may_have_raw(account, family)) {
        CHECK_EQ(stk_raw_open(family, PF_PRIORITY_LOW, 0, &nobody, &dgrams[count]), 0);
        stk_udp_set_account(dgrams[count++], account);
    }
    return count;
}

static void test_raw(void) {
    begin();
    for (int family = PF_FAMILY_IPV4; family <= PF_FAMILY_IPV6; family += 2) {
        struct stk_dgram *dgrams[256];
        uint32_t count = take_raw(greedy[0], family, dgrams);
        CHECK(count >= 64);
        for (int i = 1; i < GREEDY; i++) {
            count += take_raw(greedy[i], family, dgrams + count);
        }
        stk_udp_set_account(dgrams[0], greedy[1]); /* as one that moves to another process */
        CHECK_EQ(greedy[0]->user->has.raw[family == PF_FAMILY_IPV6], count);
        uint32_t more = take_raw(other, family, dgrams + count);
        CHECK(more > 0);
        count += more;
        while (count > 0) {
            stk_udp_close(dgrams[--count]);
        }
    }
    end();
}

static int join(struct stk_dgram *dgram, uint32_t number) {
    struct pf_addr group = {.family = PF_FAMILY_IPV4,
                            .ip = {239, 1, (uint8_t)(number >> 8), (uint8_t)number}};
    static const uint8_t loopback[4] = {127, 0, 0, 1};
    return stk_udp_group(dgram, true, &group, 0, loopback);
}

static void test_groups(void) {
    enum { GROUPS = 20 }; /* of one endpoint */
    static struct stk_dgram *dgrams[400];
    uint32_t count = 0;
    uint32_t number = 0;
    int refused = 0; /* applications, one after another */
    begin();
    while (refused < GREEDY) {
        int result = 0;
        CHECK(count < 390);
        CHECK_EQ(stk_udp_open(PF_FAMILY_IPV4, PF_PRIORITY_LOW, 0, &nobody, &dgrams[count]), 0);
        stk_udp_set_account(dgrams[count], greedy[refused]);
        for (int i = 0; i < GROUPS && result == 0; i++) {
            result = join(dgrams[count], number++);
        }
        CHECK(result == 0 || result == -ENOBUFS);
        refused += result != 0;
        count++;
    }
    CHECK(number > 4096); /* as many as 64 applications may have */
    CHECK_EQ(stk_udp_open(PF_FAMILY_IPV4, PF_PRIORITY_LOW, 0, &nobody, &dgrams[count]), 0);
    stk_udp_set_account(dgrams[count], greedy[0]);
    CHECK_EQ(join(dgrams[count++], 0), 0); /* one that is there already takes nothing */
    CHECK_EQ(stk_udp_open(PF_FAMILY_IPV4, PF_PRIORITY_LOW, 0, &nobody, &dgrams[count]), 0);
    stk_udp_set_account(dgrams[count], other);
    CHECK_EQ(join(dgrams[count++], number), 0);
    stk_udp_set_account(dgrams[0], greedy[1]);
    while (count > 0) {
        stk_udp_close(dgrams[--count]);
    }
    run(); /* reports of all these groups */
    end();
}

static uint32_t flood(struct stk_dgram *from, uint16_t port, int times) {
    static const uint8_t data[MESSAGE];
    struct pf_addr to = addr_of(port);
    uint64_t refused = pf_account_refusals();
    for (int i = 0; i < times; i++) {
        CHECK_EQ(stk_udp_send(from, &to, data, sizeof(data), 0), 0);
        (void)stk_collect_frames(STK_FRAMES_AT_ONCE);
    }
    return (uint32_t)(pf_account_refusals() - refused);
}

/* Datagrams come faster than their turn does: those of others of the same priority are kept. */
static void test_stage(void) {
    enum { TIMES = 400 };
    struct stk_dgram *dgrams[GREEDY + 3];
    uint32_t arrived[GREEDY + 3] = {0};
    int result;
    begin();
    for (int i = 0; i < GREEDY + 2; i++) {
        struct stk_account *account = i < GREEDY ? greedy[i] : i == GREEDY ? other : third;
        dgrams[i] = open_dgram(account, (uint16_t)(PORT + i), false, &arrived[i], &result);
        CHECK_EQ(result, 0);
    }
    dgrams[GREEDY + 2] =
        open_dgram(greedy[0], PORT + GREEDY + 2, false, &arrived[GREEDY + 2], &result);
    CHECK(flood(dgrams[0], PORT, TIMES) > 0);
    CHECK_EQ(flood(dgrams[0], PORT + GREEDY + 2, 3), 3); /* another port is no way round */
    for (int i = 1; i < GREEDY; i++) {
        CHECK(flood(dgrams[0], (uint16_t)(PORT + i), TIMES / 10) > 0 || i == 1);
    }
    CHECK_EQ(flood(dgrams[0], PORT + GREEDY, 3), 0);
    CHECK_EQ(flood(dgrams[0], PORT + GREEDY + 1, 1), 0);
    CHECK(greedy[0]->has.staged[PF_PRIORITY_LOW] > 11 << 20);
    stk_udp_close(dgrams[1]); /* with datagrams on their way */
    dgrams[1] = NULL;
    run();
    CHECK(arrived[0] > 190);
    CHECK_EQ(arrived[GREEDY + 2], 0);
    CHECK_EQ(arrived[GREEDY], 3);
    CHECK_EQ(arrived[GREEDY + 1], 1);
    for (int i = 0; i < GREEDY + 3; i++) {
        if (dgrams[i]) {
            stk_udp_close(dgrams[i]);
        }
    }
    end();
}

/* Echo requests wait as datagrams do: nobody takes all buffers of the driver by them. */
static void test_stage_of_echo_requests(void) {
    static uint8_t data[MESSAGE] = {8};
    struct pf_addr to = addr_of(0);
    struct stk_dgram *ping;
    uint32_t arrived = 0;
    begin();
    CHECK_EQ(stk_ping_open(PF_FAMILY_IPV4, PF_PRIORITY_HIGH, 0, &arrived, &ping), 0);
    stk_udp_set_account(ping, greedy[0]);
    uint64_t refused = pf_account_refusals();
    for (int i = 0; i < 400; i++) {
        CHECK_EQ(stk_udp_send(ping, &to, data, sizeof(data), 0), 0);
        (void)stk_collect_frames(STK_FRAMES_AT_ONCE);
    }
    CHECK(pf_account_refusals() > refused + 100);
    run();
    CHECK(arrived > 0);
    stk_udp_close(ping);
    end();
}

static void test_kept_datagrams(void) {
    begin();
    stk_limit(SOCKETS, 16 << 20, 32 << 20);
    for (int i = 0; i < 2; i++) {
        CHECK(!stk_account_datagrams_full(greedy[i], 8 << 20));
        stk_account_datagrams(greedy[i], 8 << 20);
        CHECK(stk_account_datagrams_full(greedy[i], 1));
    }
    CHECK(stk_account_datagrams_full(greedy[2], 1));
    CHECK(!stk_account_datagrams_full(other, 8 << 20));
    for (int i = 0; i < 2; i++) {
        stk_account_datagrams(greedy[i], -(8 << 20));
    }
    CHECK(!stk_account_datagrams_full(greedy[2], 8 << 20));
    stk_limit(MEMP_NUM_TCP_PCB, UINT64_MAX, UINT64_MAX);
    end();
}

int main(void) {
    char error[200];
    check_random_init();
    check_watchdog(120);
    CHECK_EQ(stk_init(&events), 0);
    CHECK_EQ(stk_add_loopback(error, sizeof(error)), 0);
    RUN(test_sockets);
    RUN(test_listeners);
    RUN(test_waiting);
    RUN(test_half_open);
    RUN(test_queues);
    RUN(test_windows);
    RUN(test_places_at_a_port);
    RUN(test_raw);
    RUN(test_groups);
    RUN(test_stage);
    RUN(test_stage_of_echo_requests);
    RUN(test_kept_datagrams);
    stk_shutdown();
    return 0;
}
