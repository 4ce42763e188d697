/* What one application takes and another needs as well has bounds: sockets, listeners, and memory
 * for what came and it does not read. A stack of its own for each: its limits are for all. */
#include <sys/wait.h>

#include "lwip/conn.h"
#include "rig.h"

enum {
    PORT = 4000,
    SOCKETS = 100, /* of all, in tests of that */
    HELD = 16 << 20,
    PAIRS = 200,
    STREAM = 400000, /* bytes of each connection */
    RECEIVERS = 64,
    SENT = 160, /* datagrams to each */
    DATAGRAM = 1400,
};

static struct rig rig;

static void start(uint32_t max_pcbs) {
    struct pf_backend_config config = {.max_pcbs = max_pcbs, .cpu = -1, .max_held_bytes = HELD};
    rig_start_with(&rig, &config);
}

static struct rig_client attach_as(uint32_t user, uint32_t sockets) {
    struct pf_session_request request = rig_request();
    request.uid = user;
    request.max_sockets = sockets;
    request.arena_bytes = UINT64_C(64) << 20;
    return rig_attach_with(&rig, &request);
}

static struct rig_client attach(uint32_t sockets) { return attach_as(0, sockets); }

static uint64_t promised(void) { return rig_count(&rig.public_region->promised_bytes); }

/* Counts are published with each tick. */
static void await_count(const uint64_t *count, uint64_t low, uint64_t high) {
    uint64_t end = pf_now_ns() + (uint64_t)RIG_PATIENCE;
    while ((rig_count(count) < low || rig_count(count) > high) && pf_now_ns() < end) {
        rig_sleep_ms(10);
        rig_notices(&rig);
    }
    CHECK(rig_count(count) >= low);
    CHECK_EQ(rig_count(count) > high ? rig_count(count) : high, high);
}

static void await_promised(uint64_t low, uint64_t high) {
    await_count(&rig.public_region->promised_bytes, low, high);
}

/* The result of its first operation; a connect is no way round a refusal. */
static int32_t open_of(struct pf_client *client, bool datagram) {
    int slot = datagram ? pf_datagram_open(client, PF_FAMILY_IPV4, PF_PRIORITY_MEDIUM, 0)
                        : pf_socket_open(client, PF_FAMILY_IPV4, PF_PRIORITY_MEDIUM, 0);
    CHECK(slot >= 0);
    struct pf_addr any = rig_addr(0);
    struct pf_addr there = rig_addr(PORT + 1); /* nobody is there */
    int64_t bind = RIG_SUBMIT(client, (uint32_t)slot, PF_OP_BIND, .addr = &any);
    int64_t connect = RIG_SUBMIT(client, (uint32_t)slot, PF_OP_CONNECT, .addr = &there);
    /* Whoever finds the refusal first: the client core or the backend. */
    int32_t result = bind < 0 ? (int32_t)bind : rig_await(client, (uint32_t)slot, bind, NULL);
    if (connect > 0) {
        connect = rig_await(client, (uint32_t)slot, connect, NULL);
    }
    CHECK(result < 0 ? connect == result : connect == 0 || connect == -ECONNREFUSED);
    return result;
}

/* Whatever one has, the next one finds something, and after it another one. */
static void test_sockets(void) {
    start(SOCKETS);
    struct rig_client clients[3];
    uint32_t had[3] = {0};
    for (int i = 0; i < 3; i++) {
        int32_t result;
        clients[i] = attach(2 * SOCKETS);
        while ((result = open_of(clients[i].client, i == 1)) == 0) {
            had[i]++;
            CHECK(had[i] <= SOCKETS);
        }
        CHECK_EQ(result, -ENOBUFS);
    }
    CHECK(had[0] >= SOCKETS / 2);
    CHECK(had[1] >= SOCKETS / 8);
    CHECK(had[2] >= 2);
    for (int i = 0; i < 3; i++) {
        rig_detach(&rig, &clients[i], PF_ENDED_CLOSED);
    }
    rig_stop(&rig);
}

/* What was refused takes nothing: whoever goes on trying takes the rest from nobody. */
static void test_refused_sockets(void) {
    start(SOCKETS);
    struct rig_client greedy = attach(4 * SOCKETS);
    struct rig_client other = attach(SOCKETS);
    uint32_t refused = 0;
    for (int i = 0; i < 3 * SOCKETS; i++) {
        refused += open_of(greedy.client, i % 2) != 0;
    }
    CHECK(refused >= 2 * SOCKETS);
    for (int i = 0; i < SOCKETS / 8; i++) {
        CHECK_EQ(open_of(other.client, i % 2), 0);
    }
    rig_detach(&rig, &greedy, PF_ENDED_CLOSED);
    rig_detach(&rig, &other, PF_ENDED_CLOSED);
    rig_stop(&rig);
}

/* Connections that come in count like those that were made. */
static void test_connections_that_come_in(void) {
    enum { CONNECTS = 48 };
    start(SOCKETS);
    struct rig_client server = attach(2 * SOCKETS);
    struct rig_client client = attach_as(1, 2 * SOCKETS);
    struct rig_client third = attach(2 * SOCKETS);
    struct pf_addr addr = rig_addr(PORT);
    uint32_t listener = rig_listener(server.client, addr, SOCKETS);
    for (int i = 0; i < CONNECTS; i++) {
        uint32_t slot = rig_socket(client.client, PF_FAMILY_IPV4, 0);
        CHECK(RIG_SUBMIT(client.client, slot, PF_OP_CONNECT, .addr = &addr) > 0);
        CHECK_EQ(RIG_CALL(client.client, slot, PF_OP_NOP, 0), 0);
    }
    struct pf_done done = {0};
    for (int i = 0; done.result == 0; i++) { /* the first ones will come, the others may */
        int flags = i < CONNECTS / 2 ? 0 : PF_SQE_NOWAIT;
        int64_t accept = RIG_SUBMIT(server.client, listener, PF_OP_ACCEPT, .flags = flags);
        if (rig_await(server.client, listener, accept, &done) == 0) {
            CHECK(pf_socket_adopt(server.client, done.token, PF_PRIORITY_MEDIUM) >= 0);
        }
    }
    CHECK_EQ(done.result, -EAGAIN);
    CHECK_EQ(open_of(third.client, false), 0);
    CHECK_EQ(open_of(third.client, true), 0);
    rig_detach(&rig, &server, PF_ENDED_CLOSED);
    rig_detach(&rig, &client, PF_ENDED_CLOSED);
    rig_detach(&rig, &third, PF_ENDED_CLOSED);
    rig_stop(&rig);
}

static int32_t listen_at(struct pf_client *client, uint32_t port) {
    struct pf_addr addr = rig_addr((uint16_t)port);
    uint32_t slot = rig_socket(client, PF_FAMILY_IPV4, 0);
    CHECK_EQ(RIG_CALL(client, slot, PF_OP_BIND, .addr = &addr), 0);
    return RIG_CALL(client, slot, PF_OP_LISTEN, .length = 1);
}

static void test_listeners(void) {
    start(20000);
    struct rig_client greedy = attach(MEMP_NUM_TCP_PCB_LISTEN + 8);
    struct rig_client other = attach(32);
    uint32_t had = 0;
    int32_t result;
    while ((result = listen_at(greedy.client, PORT + had)) == 0) {
        had++;
        CHECK(had < MEMP_NUM_TCP_PCB_LISTEN);
    }
    CHECK_EQ(result, -ENOBUFS);
    CHECK(had >= MEMP_NUM_TCP_PCB_LISTEN / 2);
    CHECK_EQ(listen_at(other.client, 80), 0);
    rig_detach(&rig, &greedy, PF_ENDED_CLOSED);
    /* Its listeners are free again, for whoever is there. */
    await_count(&rig.public_region->sessions, 1, 1);
    struct rig_client next = attach(MEMP_NUM_TCP_PCB_LISTEN);
    for (uint32_t i = 0; i < had - 1; i++) {
        CHECK_EQ(listen_at(next.client, PORT + i), 0);
    }
    rig_detach(&rig, &next, PF_ENDED_CLOSED);
    rig_detach(&rig, &other, PF_ENDED_CLOSED);
    rig_stop(&rig);
}

struct stream {
    struct rig_pair pair;
    uint64_t sent;
    uint64_t got;
};

static struct stream streams[PAIRS];

static uint64_t send_some(struct pf_client *client, struct stream *stream, uint64_t seed) {
    static uint8_t data[32768];
    uint64_t before = stream->sent;
    while (stream->sent < STREAM) {
        uint64_t left = STREAM - stream->sent;
        uint32_t piece = left < sizeof(data) ? (uint32_t)left : (uint32_t)sizeof(data);
        rig_fill(data, seed, stream->sent, piece);
        int64_t sent = pf_send(client, stream->pair.near, data, piece, 0);
        CHECK(sent > 0 || sent == -EAGAIN);
        if (sent < 0) {
            break;
        }
        stream->sent += (uint64_t)sent;
    }
    return stream->sent - before;
}

static uint64_t read_some(struct pf_client *client, struct stream *stream, uint64_t seed) {
    static uint8_t data[65536];
    int64_t got = pf_recv(client, stream->pair.far, data, sizeof(data), 0, 0);
    CHECK(got > 0 || got == -EAGAIN);
    if (got < 0) {
        return 0;
    }
    CHECK(!rig_differs(data, seed, stream->got, (uint32_t)got));
    stream->got += (uint64_t)got;
    return (uint64_t)got;
}

static uint64_t unread(struct pf_client *client, uint32_t slot) {
    struct pf_socket_b2c state;
    CHECK_EQ(pf_socket_state(client, slot, &state), 0);
    return state.rx_head;
}

/* Many connections whose owner does not read: together they keep no more than its share and a
 * little for each; then every byte comes, none of them waits for another, and the windows are wide
 * again when there is room. */
static void test_windows(void) {
    const uint64_t most = HELD / 2 + (uint64_t)PAIRS * PF_LEAST_WINDOW;
    start(20000);
    struct rig_client near = attach(PAIRS + 8);
    struct rig_client far = attach(PAIRS + 8);
    for (int i = 0; i < PAIRS; i++) {
        streams[i] = (struct stream){
            rig_connect(near.client, far.client, rig_addr((uint16_t)(PORT + i)), 0), 0, 0};
    }
    await_promised((uint64_t)PAIRS * PF_LEAST_WINDOW, 2 * most);
    for (int idle = 0; idle < 10; rig_sleep_ms(10)) {
        uint64_t more = 0;
        for (int i = 0; i < PAIRS; i++) {
            more += send_some(near.client, &streams[i], (uint64_t)i);
        }
        idle = more ? 0 : idle + 1;
    }
    uint64_t kept = 0;
    for (int i = 0; i < PAIRS; i++) {
        kept += unread(far.client, streams[i].pair.far);
    }
    CHECK(kept <= most);
    CHECK(kept >= HELD / 4);
    CHECK(promised() <= 2 * most);
    uint64_t left = (uint64_t)PAIRS * STREAM;
    uint64_t end = pf_now_ns() + 3 * (uint64_t)RIG_PATIENCE;
    while (left > 0) {
        CHECK(pf_now_ns() < end);
        for (int i = 0; i < PAIRS; i++) {
            (void)send_some(near.client, &streams[i], (uint64_t)i);
            left -= read_some(far.client, &streams[i], (uint64_t)i);
        }
    }
    for (int i = 1; i < PAIRS; i++) {
        rig_close(near.client, streams[i].pair.near, 0);
        rig_close(far.client, streams[i].pair.far, 0);
    }
    /* Alone, and with all of it read, it has as much as it could have at first. */
    streams[0].sent = streams[0].got = 0;
    while (streams[0].got < STREAM) {
        (void)send_some(near.client, &streams[0], 0);
        (void)read_some(far.client, &streams[0], 0);
    }
    await_promised(HELD / 32, HELD / 32);
    rig_detach(&rig, &near, PF_ENDED_CLOSED);
    rig_detach(&rig, &far, PF_ENDED_CLOSED);
    await_promised(0, 0);
    rig_stop(&rig);
}

/* The same of datagrams: what is too much is dropped, and counted. */
static void test_datagrams(void) {
    static uint8_t data[DATAGRAM];
    static uint32_t slots[RECEIVERS];
    const uint64_t most = HELD / 2 + (uint64_t)RECEIVERS * (PF_LEAST_WINDOW + 2 * DATAGRAM);
    struct pf_addr addr[RECEIVERS];
    struct pf_datagram info;
    start(20000);
    struct rig_client near = attach(8);
    struct rig_client far = attach(RECEIVERS + 8);
    int sender = pf_datagram_open(near.client, PF_FAMILY_IPV4, PF_PRIORITY_LOW, 0);
    CHECK(sender >= 0);
    for (int i = 0; i < RECEIVERS; i++) {
        int slot = pf_datagram_open(far.client, PF_FAMILY_IPV4, PF_PRIORITY_LOW, 0);
        CHECK(slot >= 0);
        slots[i] = (uint32_t)slot;
        addr[i] = rig_addr((uint16_t)(PORT + i));
        CHECK_EQ(RIG_CALL(far.client, slots[i], PF_OP_BIND, .addr = &addr[i]), 0);
    }
    for (int turn = 0; turn < SENT; turn++) {
        for (int i = 0; i < RECEIVERS; i++) {
            CHECK(pf_sendto_wait(near.client, (uint32_t)sender, data, DATAGRAM, &addr[i], 0,
                                 PF_DELIVER_NONE, RIG_PATIENCE) > 0);
        }
    }
    await_promised(HELD / 4, most);
    uint64_t lost = 0;
    uint64_t got = 0;
    for (uint64_t end = pf_now_ns() + (uint64_t)RIG_PATIENCE; got + lost < RECEIVERS * SENT;) {
        CHECK(pf_now_ns() < end);
        for (int i = 0; i < RECEIVERS; i++) {
            got += pf_recvfrom(far.client, slots[i], data, DATAGRAM, 0, 0, &info) == DATAGRAM;
        }
        lost = rig_count(&rig.public_region->datagrams_dropped);
    }
    CHECK(lost > 0);
    /* Everything is read; only the stack does not know it of the sockets to which nothing came. One
     * of them may have more than its least again. */
    for (uint32_t i = 0; i < 12 * PF_LEAST_WINDOW / DATAGRAM; i++) {
        CHECK(pf_sendto_wait(near.client, (uint32_t)sender, data, DATAGRAM, &addr[0], 0,
                             PF_DELIVER_NONE, RIG_PATIENCE) > 0);
    }
    for (uint32_t i = 0; i < 12 * PF_LEAST_WINDOW / DATAGRAM; i++) {
        CHECK_EQ(pf_recvfrom(far.client, slots[0], data, DATAGRAM, 0, RIG_PATIENCE, &info),
                 DATAGRAM);
    }
    rig_detach(&rig, &near, PF_ENDED_CLOSED);
    rig_detach(&rig, &far, PF_ENDED_CLOSED);
    await_promised(0, 0);
    rig_stop(&rig);
}

/* In a process of its own, as lwIP's state is global. */
static void alone(void (*test)(void)) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        check_watchdog(100);
        test();
        exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void sockets(void) { alone(test_sockets); }
static void refused_sockets(void) { alone(test_refused_sockets); }
static void connections_that_come_in(void) { alone(test_connections_that_come_in); }
static void listeners(void) { alone(test_listeners); }
static void windows(void) { alone(test_windows); }
static void datagrams(void) { alone(test_datagrams); }

int main(void) {
    RUN(sockets);
    RUN(refused_sockets);
    RUN(connections_that_come_in);
    RUN(listeners);
    RUN(windows);
    RUN(datagrams);
    return 0;
}
