/* What one application leaves unread harms no other: of connections that nobody has taken only a
 * little is received, and that takes none of the buffers that all share. Nor does what it sends and
 * nobody acknowledges. */
#include "lwip/conn.h"
#include "lwip/frame_pool.h"
#include "lwip/stats.h"
#include "rig.h"

enum {
    PORT = 4000,
    GREEDY = 1200, /* connections whose windows together are more than a driver's buffers */
    WINDOW = 262144,
    MESSAGE = 16384, /* of the bystander */
    MESSAGES = 400,
};

static struct rig rig;

static struct rig_client attach(uint32_t sockets) {
    struct pf_session_request request = rig_request();
    request.max_sockets = sockets;
    request.arena_bytes = UINT64_C(16) << 20;
    return rig_attach_with(&rig, &request);
}

static uint64_t dropped(void) {
    rig_sleep_ms(150); /* it is published with each tick */
    return rig_count(&rig.public_region->frames_dropped);
}

/* Writes what is taken now, of a window's worth. */
static uint64_t fill(struct pf_client *client, uint32_t slot, uint64_t seed, uint64_t at) {
    static uint8_t data[32768];
    uint64_t from = at;
    while (at < WINDOW) {
        rig_fill(data, seed, at, sizeof(data));
        int64_t sent = pf_send(client, slot, data, sizeof(data), 0);
        CHECK(sent > 0 || sent == -EAGAIN);
        if (sent < 0) {
            break;
        }
        at += (uint64_t)sent;
    }
    return at - from;
}

struct greedy {
    struct rig_client client;
    uint32_t listener;
    uint32_t near[GREEDY];
    uint64_t sent[GREEDY];
};

static struct greedy greedy;

/* Connections that nobody accepts, and a peer who writes to them whatever is taken. */
static void start_greedy(void) {
    greedy.client = attach(2 * GREEDY + 8);
    greedy.listener = rig_listener(greedy.client.client, rig_addr(PORT), 4096);
    struct pf_addr there = rig_addr(PORT);
    for (int i = 0; i < GREEDY; i++) {
        greedy.near[i] = rig_socket(greedy.client.client, PF_FAMILY_IPV4, 4096);
        CHECK_EQ(RIG_CALL(greedy.client.client, greedy.near[i], PF_OP_CONNECT, .addr = &there), 0);
    }
    for (int idle = 0; idle < 5; rig_sleep_ms(20)) {
        uint64_t more = 0;
        for (int i = 0; i < GREEDY; i++) {
            uint64_t sent = fill(greedy.client.client, greedy.near[i], (uint64_t)i, greedy.sent[i]);
            greedy.sent[i] += sent;
            more += sent;
        }
        idle = more > 0 ? 0 : idle + 1;
    }
}

/* Another application, both ends: each byte comes, and no frame was lost. */
static void check_bystander(uint16_t port) {
    static uint8_t out[MESSAGE];
    static uint8_t in[MESSAGE];
    struct rig_client near = attach(8);
    struct rig_client far = attach(8);
    uint64_t lost = dropped();
    struct rig_pair pair = rig_connect(near.client, far.client, rig_addr(port), 0);
    for (uint64_t i = 0; i < MESSAGES; i++) {
        rig_fill(out, 7, i * MESSAGE, MESSAGE);
        rig_send_all(near.client, pair.near, out, MESSAGE);
        rig_recv_all(far.client, pair.far, in, MESSAGE);
        CHECK(!rig_differs(in, 7, i * MESSAGE, MESSAGE));
    }
    CHECK_EQ(dropped(), lost);
    rig_detach(&rig, &near, PF_ENDED_CLOSED);
    rig_detach(&rig, &far, PF_ENDED_CLOSED);
}

/* None of the bytes that were acknowledged is missing, and what the closed windows kept back comes
 * as soon as somebody reads. */
static void check_greedy_bytes(void) {
    static uint8_t in[65536];
    struct pf_client *client = greedy.client.client;
    for (int i = 0; i < GREEDY; i++) {
        struct pf_done done;
        CHECK_EQ(rig_await(client, greedy.listener,
                           RIG_SUBMIT(client, greedy.listener, PF_OP_ACCEPT, 0), &done),
                 0);
        int slot = pf_socket_adopt(client, done.token, PF_PRIORITY_MEDIUM);
        CHECK(slot >= 0);
        for (uint64_t at = 0; at < greedy.sent[i];) {
            uint64_t left = greedy.sent[i] - at;
            uint32_t piece = left < sizeof(in) ? (uint32_t)left : (uint32_t)sizeof(in);
            rig_recv_all(client, (uint32_t)slot, in, piece);
            CHECK(!rig_differs(in, (uint64_t)i, at, piece));
            at += piece;
        }
        rig_close(client, (uint32_t)slot, PF_CLOSE_ABORT);
    }
}

static void test_unaccepted(void) {
    start_greedy();
    check_bystander(PORT + 1);
    CHECK(rig_count(&rig.public_region->held_bytes) > 0);
    CHECK(rig_count(&rig.public_region->held_bytes) <= (uint64_t)GREEDY * PF_WAITING_WINDOW);
    check_greedy_bytes();
    rig_detach(&rig, &greedy.client, PF_ENDED_CLOSED);
}

/* Writes of a byte each to peers that do not read: each is a buffer of the stack's until it is
 * acknowledged, and there are fewer of those than the writes. */
static void test_small_writes(void) {
    enum { SOCKETS = 48, LEAST = 70000 };
    struct pf_session_request request = rig_request();
    request.max_sockets = 2 * SOCKETS + 8;
    request.queue_depth = 4096;
    request.arena_bytes = UINT64_C(64) << 20;
    struct rig_client rude = rig_attach_with(&rig, &request);
    uint32_t listener = rig_listener(rude.client, rig_addr(PORT + 2), SOCKETS);
    struct pf_addr there = rig_addr(PORT + 2);
    static uint8_t window[PF_WAITING_WINDOW];
    uint32_t near[SOCKETS];
    uint32_t writes = 0;
    for (int i = 0; i < SOCKETS; i++) {
        near[i] = rig_socket(rude.client, PF_FAMILY_IPV4, 4096);
        CHECK_EQ(RIG_CALL(rude.client, near[i], PF_OP_CONNECT, .addr = &there), 0);
        rig_send_all(rude.client, near[i], window, sizeof(window));
        while (pf_write(rude.client, near[i], "x", 1, PF_DELIVER_NONE) >= 0) {
            writes++;
        }
    }
    CHECK(writes >= LEAST);
    int low = pf_socket_open(rude.client, PF_FAMILY_IPV4, PF_PRIORITY_LOW, 4096);
    CHECK(low >= 0);
    CHECK_EQ(RIG_CALL(rude.client, (uint32_t)low, PF_OP_NOP, 0), 0); /* all of them were tried */
    check_bystander(PORT + 3);
    for (int i = 0; i < SOCKETS; i++) {
        rig_close(rude.client, near[i], PF_CLOSE_ABORT);
    }
    rig_close(rude.client, listener, PF_CLOSE_ABORT);
    rig_detach(&rig, &rude, PF_ENDED_CLOSED);
}

/* With the stack thread gone: its pools have counted. */
static void test_pools(void) {
    CHECK(lwip_stats.memp[MEMP_PBUF]->max < MEMP_NUM_PBUF);
    CHECK(lwip_stats.memp[MEMP_TCP_SEG]->max < MEMP_NUM_TCP_SEG);
}

/* What came out of order has to make room for what all of it waits for. */
static void test_out_of_order(void) {
    struct pf_frame_pool *pool = pf_frame_pool_open(PF_FRAME_POOL_BYTES, 0);
    struct pf_frame *taken[PF_FRAME_POOL_BYTES / PF_FRAME_MAX_BYTES];
    const size_t frames = sizeof(taken) / sizeof(*taken);
    for (size_t i = 0; i < frames; i++) {
        uint32_t may = pf_tcp_may_keep(8000);
        CHECK_EQ(may, i <= frames / 4 ? 8000 : i <= frames / 2 ? 1000 : 0);
        taken[i] = pf_frame_take(pool, PF_FRAME_MAX_BYTES);
        CHECK(taken[i]);
    }
    for (size_t i = 0; i < frames; i++) {
        pf_frame_give(taken[i]);
    }
    CHECK_EQ(pf_tcp_may_keep(8000), 8000);
    pf_frame_pool_close(pool);
    mem_size_t *segments = &lwip_stats.memp[MEMP_TCP_SEG]->used;
    *segments = 10000;
    CHECK_EQ(pf_tcp_may_keep(8000), 1000);
    *segments = 20000;
    CHECK_EQ(pf_tcp_may_keep(8000), 0);
}

int main(void) {
    check_random_init();
    check_watchdog(120);
    rig_start(&rig);
    struct rig_counts start = rig_counts(&rig);
    RUN(test_unaccepted);
    RUN(test_small_writes);
    rig_settle(&rig, &start);
    rig_stop(&rig);
    RUN(test_pools);
    RUN(test_out_of_order);
    return 0;
}
