/* Bytes arrive in order and whole over a link that loses frames; and several losses in one window
 * are repaired by acknowledgements alone: no timer runs while that is tried. */
#include <string.h>

#include "check.h"

#include "backend/stack.h"

enum { TOTAL_BYTES = 8 * 1024 * 1024, PORT = 7000, IDLE_TURNS = 100000 };

static struct {
    struct stk_conn *listener;
    struct stk_conn *client;
    struct stk_conn *server;
    bool connected;
    uint64_t written;
    uint64_t acknowledged;
    uint64_t received;
    int failed;
} world;

static uint8_t pattern[TOTAL_BYTES];

static void on_connected(void *owner) {
    (void)owner;
    world.connected = true;
}
static void on_acceptable(void *owner) { (void)owner; }
static void on_readable(void *owner) { (void)owner; }
static void on_acknowledged(void *owner, uint32_t bytes) {
    if (owner == &world.client) {
        world.acknowledged += bytes;
    }
}
static void on_failed(void *owner, int error) {
    (void)owner;
    world.failed = error ? error : -1;
}

static const struct stk_events events = {.connected = on_connected,
                                         .acceptable = on_acceptable,
                                         .readable = on_readable,
                                         .acknowledged = on_acknowledged,
                                         .failed = on_failed};

static void take_received(void) {
    static uint8_t buffer[65536];
    uint32_t got;
    while (world.server && (got = stk_tcp_read(world.server, buffer, sizeof(buffer))) > 0) {
        CHECK(memcmp(buffer, pattern + world.received, got) == 0);
        world.received += got;
        stk_tcp_credit(world.server, got);
    }
}

static void put_bytes(void) {
    if (world.connected && world.written < TOTAL_BYTES && stk_tcp_unsent(world.client) < 65536) {
        uint64_t left = TOTAL_BYTES - world.written;
        uint32_t piece = left < 65536 ? (uint32_t)left : 65536;
        int64_t taken = stk_tcp_write(world.client, pattern + world.written, piece, piece < left);
        CHECK(taken >= 0);
        world.written += (uint64_t)taken;
        stk_tcp_push(world.client);
    }
}

static void turn(bool timers) {
    (void)stk_collect_frames(STK_FRAMES_AT_ONCE);
    for (int p = 0; p < PF_PRIORITIES; p++) {
        while (stk_frame_waiting(p)) {
            stk_process_frame(p);
        }
    }
    if (timers) {
        stk_timers();
    }
    if (!world.server) {
        world.server = stk_tcp_accept(world.listener);
        if (world.server) {
            stk_tcp_set_owner(world.server, &world.server);
        }
    }
    take_received();
    put_bytes();
    stk_flush();
    CHECK(world.failed == 0);
}

static void start_transfer(uint16_t port) {
    struct pf_addr any = {.family = PF_FAMILY_IPV4, .port = port};
    struct pf_addr there = {.family = PF_FAMILY_IPV4, .port = port, .ip = {127, 0, 0, 1}};
    memset(&world, 0, sizeof(world));
    CHECK(stk_tcp_open(PF_FAMILY_IPV4, 0, &world.listener, &world.listener) == 0);
    CHECK(stk_tcp_bind(world.listener, &any) == 0);
    CHECK(stk_tcp_listen(world.listener, 4) == 0);
    CHECK(stk_tcp_open(PF_FAMILY_IPV4, 0, &world.client, &world.client) == 0);
    CHECK(stk_tcp_connect(world.client, &there) == 0);
}

static void end_transfer(void) {
    stk_inject_loss(0, 0);
    stk_tcp_abort(world.client);
    stk_tcp_abort(world.server);
    stk_tcp_close(world.listener);
}

static uint64_t frames_lost(void) {
    struct stk_counts counts;
    stk_count(&counts);
    return counts.frames_dropped;
}

/* Every turn ends at once: were a time-out needed, the bytes would stand still for ever. */
static void test_burst_is_repaired_without_timers(uint64_t seed) {
    start_transfer((uint16_t)(PORT + seed));
    while (world.received < TOTAL_BYTES / 4) {
        turn(true);
    }
    uint64_t before = frames_lost();
    stk_inject_loss(250000, seed); /* several of one window */
    turn(false);
    turn(false);
    stk_inject_loss(0, 0);
    CHECK(frames_lost() - before >= 3);
    uint64_t last = 0;
    for (int idle = 0; world.acknowledged < TOTAL_BYTES; idle++) {
        turn(false);
        if (world.received != last) {
            last = world.received;
            idle = 0;
        }
        CHECK(idle < IDLE_TURNS);
    }
    end_transfer();
}

static void test_random_loss(void) {
    uint64_t before = frames_lost();
    start_transfer(PORT);
    stk_inject_loss(20000, 12345); /* 2 % of all frames, data and acknowledgements alike */
    while (world.received < TOTAL_BYTES || world.acknowledged < TOTAL_BYTES) {
        turn(true);
    }
    CHECK(frames_lost() - before >= 5);
    end_transfer();
}

int main(void) {
    char error[256];
    uint64_t random = 1;
    for (size_t i = 0; i < sizeof(pattern); i++) {
        pattern[i] = (uint8_t)check_random_next(&random);
    }
    CHECK(stk_init(&events) == 0);
    CHECK(stk_add_loopback(error, sizeof(error)) == 0);
    for (uint64_t seed = 2; seed <= 5; seed++) {
        test_burst_is_repaired_without_timers(seed);
    }
    test_random_loss();
    stk_shutdown();
    return 0;
}
